"""Rules of evidence: how many runs support a number, whether they beat the record, and what the folder must contain.

A number without runs is only a claim. A record needs enough runs for p < 0.01, each with its log. The folder needs a
README, submission.json, a log, and a script that parses. Source: README, submission process; #1031 #1120 #1143.
"""

import re
from collections.abc import Iterator

from pargolf.audit.read.facts import Facts
from pargolf.audit.read.fields import Leaf
from pargolf.audit.report import FAIL, HOLD, PASS, UNVERIFIABLE, Evidence, RuleFinding
from pargolf.audit.rules.byte_denominator import ratio_of
from pargolf.audit.rules.rule import Missing, Surroundings, null_fields, quoted
from pargolf.audit.rules.trails import copied_logs
from pargolf.core.sources import bound
from pargolf.core.stats import BAR_NATS, LEVEL, compare_scores

_NUMBERS = (("val_bpb",), ("val_loss",), ("bytes_total",))


def seeds(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """How many independent runs support the number; a record needs enough for p < 0.01."""
    copies = copied_logs(facts)
    if copies is not None:
        yield copies
    if not facts.record_track:
        return
    logged = len({round(log.final.bpb, 6) for log in facts.own_logs if log.final is not None})
    declared = len(facts.runs)
    count = max(declared, logged)
    numbers = {"declared": declared, "logged": logged}
    lines = quoted(run.bpb.line for run in list(facts.runs.values())[:4] if run.bpb is not None)
    claim = next((x for x in facts.leaves if x.key == "three_seeds" and x.value is True), None)
    if claim is not None and count < 3:
        numbers["three_seeds"] = 1
        lines = (*lines, *quoted([claim.line]))
    status, text = _runs_behind(declared, logged, bool(facts.bpb))
    if not lines and status == UNVERIFIABLE:
        lines = null_fields(facts, "bpb") if count == 0 else ()
    elif not lines and count == 1:
        lines = quoted(log.final.line for log in facts.own_logs[:1] if log.final)
    yield RuleFinding("seeds", status, text, lines, numbers)


def _runs_behind(declared: int, logged: int, scored: bool) -> tuple[str, str]:
    """Status and words for a number of declared and logged runs; `scored` is whether a score is declared."""
    count = max(declared, logged)
    if count == 0:
        text = "There is one number, and no separate runs behind it." if scored else "No result of any run is given."
        return UNVERIFIABLE, text + " Give three seeds with their logs."
    if count == 1:
        text = "One run only: no p-value can be computed. A record needs p < 0.01, usually three seeds with their logs."
        return FAIL, text
    if count == 2:
        return HOLD, "Two runs; three are usual for p < 0.01."
    if logged < min(declared, 3):
        text = f"{declared} seeds are declared and {logged} of them have a log with a final score. Add the other logs."
        return UNVERIFIABLE, text
    return PASS, f"{declared} seeds declared, {logged} logged."


def significance(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """A one-sided test that the runs beat the record by 0.005 nats. The tokenizer converts this to bits."""
    if not facts.record_track:
        return
    if context.record is None:
        missing.add("significance: no record to compare with was given (0.005 nats, p < 0.01)")
        return
    ratio, values = ratio_of(facts), scores_of(facts)
    record = context.record
    new, old = [v * ratio for v in values], [v * record.ratio for v in record.bpb]  # nats per token
    p = compare_scores(new, old, bar=BAR_NATS, nats=1.0).p if len(new) > 1 else None
    if p is None:
        yield RuleFinding(
            "significance", UNVERIFIABLE, "A test needs two runs with different scores.", (), {"runs": len(values)}
        )
        return
    mean = sum(values) / len(values)
    numbers = {
        "p": p,
        "mean_bpb": mean,
        "bar_bpb": BAR_NATS / ratio,
        "record_bpb": sum(record.bpb) / len(record.bpb),
    }
    better = p < LEVEL
    yield RuleFinding(
        "significance",
        PASS if better else FAIL,
        f"p = {p:.2g} that the gain over {record.name} exceeds {BAR_NATS} nats ({BAR_NATS / ratio:.5f} bits per byte) "
        f"by chance; {'below' if better else 'not below'} {LEVEL}.",
        (),
        numbers,
    )


def scores_of(facts: Facts) -> list[float]:
    """Bits per byte of each run: as declared, otherwise as logged."""
    declared = [run.score for run in facts.runs.values() if run.score]
    return declared or [log.final.bpb for log in facts.own_logs if log.final is not None]


def package(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """README, submission.json, log and script are there, and the score is a number."""
    idle = _nothing_to_judge(facts)
    if idle:
        yield RuleFinding("package", UNVERIFIABLE, idle, tuple(Evidence(c.path, 0, "") for c in facts.codes[:6]))
    if facts.folder.script_only:
        missing.add("package: a script alone has no logs or declared numbers")
        return
    parts = {"submission.json": facts.json_file, "README.md": facts.readme_file, "a script": facts.codes}
    lacking = [name for name, part in parts.items() if not part]
    evidence = Evidence(facts.folder.path, 0, ", ".join(f.path for f in facts.folder.files[:12]))
    if lacking:
        yield RuleFinding(
            "package", FAIL, f"The folder lacks {' and '.join(lacking)}. Add what is missing.", (evidence,)
        )
    yield from _declared_score(facts)
    if not any(log.final for log in facts.logs):
        reason = "No log in the folder prints a score" if facts.logs else "There is no training log"
        yield RuleFinding(
            "package", UNVERIFIABLE, reason + ": nothing behind the number can be checked. Add the log.", (evidence,)
        )
    elif not lacking and not facts.json_error and not idle:
        text = "README, submission.json, log and script are there."
        yield RuleFinding("package", PASS, text, (Evidence(facts.folder.path, 0, ""),))


def _declared_score(facts: Facts) -> Iterator[RuleFinding]:
    """A submission.json that cannot be read, or that has no score."""
    if facts.json_file is None:
        return
    evidence = (Evidence(facts.json_file.path, 0, ""),)
    if facts.json_error:
        yield RuleFinding("package", FAIL, facts.json_error + ". Mend the file.", evidence)
    odd = [leaf for leaf in facts.leaves if leaf.path in _NUMBERS and _is_odd(leaf)]
    for leaf in odd:
        shown = str(leaf.value) if isinstance(leaf.value, (str, bool, float)) else "a number"
        text = f"{facts.json_file.path}: {leaf.key} is {shown[:40]!r}, and no number that it could be. Mend the field."
        yield RuleFinding("package", UNVERIFIABLE, text, quoted([leaf.line]))
    if not facts.json_error and not odd and facts.bpb is None and not facts.runs:
        text = "submission.json gives no score: val_bpb is absent or not a number. Fill it in from the log."
        yield RuleFinding("package", UNVERIFIABLE, text, null_fields(facts, "bpb") or evidence)


def _is_odd(leaf: Leaf) -> bool:
    """Whether a field cannot be a number. `15.9 MB` can, but its unit is not read."""
    if leaf.value is None or leaf.number is not None:
        return False
    return not isinstance(leaf.value, str) or leaf.key == "val_bpb" or not re.search(r"\d", leaf.value)


def _nothing_to_judge(facts: Facts) -> str:
    """Why no script of a folder can be judged by what it does, or nothing. Syntax errors are left to `syntax`."""
    codes = facts.codes or facts.borrowed
    if not codes:
        names = ", ".join(f.path for f in facts.folder.files[:3])
        return f"There is nothing to judge: {names} is no script." if facts.folder.script_only else ""
    if any(code.tree is None or code.note.startswith(("a long", "a packed")) or code.works for code in codes):
        return ""
    code = facts.main or codes[0]
    if not code.text.strip():
        return f"There is nothing to judge: {code.path} is empty."
    if code.tree is not None and any("RECIPE" in bound(statement) for statement in code.tree.body):
        return f"There is nothing to judge: {code.path} is a recipe. Train it, then audit its run."
    return f"There is nothing to judge: {code.path} neither trains nor scores anything."


def outside_folder(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Whether a pull request touches one new folder and nothing else."""
    if not context.from_git:
        return
    other_folders = [f for f in context.folders if f != facts.folder.path]
    if not context.outside and not other_folders:
        yield RuleFinding("outside_folder", PASS, "Only this folder is touched.")
        return
    extras = []
    if context.outside:
        extras.append(f"{len(context.outside)} file(s) outside a submission's folder")
    if other_folders:
        extras.append(f"{len(other_folders)} other folder(s)")
    paths = [*context.outside[:6], *other_folders[:3]]
    yield RuleFinding(
        "outside_folder",
        HOLD,
        f"The pull request also touches {' and '.join(extras)}. Move what belongs to the submission into its folder.",
        tuple(Evidence(path, 0, "") for path in paths),
        {"outside": len(context.outside), "folders": len(other_folders) + 1},
    )


def syntax(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Whether every script is Python. A byte-order mark and the newest syntax are accepted."""
    bad = False
    for code in facts.codes:
        if code.tree is not None:
            if code.note.startswith(("a long", "a packed")):
                bad = True
                yield RuleFinding("syntax", UNVERIFIABLE, f"{code.path}: {code.note}.", (Evidence(code.path, 0, ""),))
            continue
        bad = True
        evidence = (Evidence(code.path, code.error_line, code.line(code.error_line)),)
        if code.proven:
            yield RuleFinding("syntax", FAIL, f"{code.path} is not valid Python: {code.error}.", evidence)
        else:
            yield RuleFinding("syntax", UNVERIFIABLE, f"{code.path} could not be read as code: {code.error}.", evidence)
    if facts.codes and not bad:
        packed = facts.main is not None and facts.main.packed
        yield RuleFinding("syntax", PASS, "Every script parses" + ("; the packed one was unpacked." if packed else "."))
