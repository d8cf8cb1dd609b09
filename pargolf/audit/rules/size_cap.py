"""The cap on bytes: code plus compressed model, declared, logged and recomputed.

Each number is compared with the cap by itself, so each may give FAIL. Logs of other experiments in the folder give only
a HOLD; they are recognized by a final score that the submission does not declare.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from pargolf.audit.read.facts import Facts
from pargolf.audit.read.logs import Line, Log, LoggedNumber
from pargolf.audit.report import FAIL, HOLD, PASS, UNVERIFIABLE, RuleFinding
from pargolf.audit.rules.rule import Missing, Surroundings, null_fields, quoted
from pargolf.audit.rules.script.uncounted import uncounted_bytes
from pargolf.core.units import CAP

MIB = 16 * 2**20
_NOT_SUBMITTED = re.compile(
    r"over (?:the )?(?:cap|limit|budget|16)|(?:not|never|isn.t) (?:be |been )?submi|too (?:large|big)|exceed|ablation"
    r"|doesn.t fit|does not fit|not a submission|variant|for (?:reference|comparison)|no, over",
    re.I,
)
_ALONE = "declared for the model alone"


def size_cap(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Code plus compressed model: declared, in the README's table, logged, and recomputed with the committed code."""
    yield from uncounted_bytes(facts)
    sizes = _declared_sizes(facts)
    declared_over = [s for s in sizes if s[0] > CAP]
    logged = _logged(facts.own_logs)
    logged_over = [(log, size) for log, size in logged if size.value > CAP]
    if declared_over:
        yield _over(facts, declared_over)
    elif logged_over:
        yield _logged_over(facts, logged_over, logged)
    else:
        stray = [size for log, size in _logged(facts.logs) if log not in facts.own_logs and size.value > CAP]
        stray = [size for size in stray if not _disclosed(facts, size)]
        if stray and (sizes or logged):
            yield _others_over(stray)
        yield _under(facts, sizes, logged)


def _logged(logs: list[Log]) -> list[tuple[Log, LoggedNumber]]:
    """Logs that print the bytes of the whole artifact, with that number."""
    return [(log, size) for log in logs if (size := log.total_bytes) is not None]


def _declared_sizes(facts: Facts) -> list[tuple[float, Line, str]]:
    """Declared bytes of the whole, of the model alone and of each seed."""
    sizes: list[tuple[float, Line, str]] = [(x.number or 0.0, x.line, "declared") for x in facts.totals]
    sizes += [((leaf.number or 0.0), leaf.line, _ALONE) for leaf in facts.models]
    for run in facts.runs.values():
        if run.total is not None and all(run.total.line != line for _, line, _ in sizes):
            sizes.append((run.total.value, run.total.line, f"declared for seed {run.seed}"))
    return sizes


def _logged_over(
    facts: Facts, over: list[tuple[Log, LoggedNumber]], logged: list[tuple[Log, LoggedNumber]]
) -> RuleFinding:
    """The finding on logs over the cap, recomputed with the committed script, unless they are of other runs."""
    code = facts.main.size if facts.main is not None else 0
    recomputed = [log.model.value + code for log, _ in over if log.model is not None and code]
    lines = quoted(size.line for _, size in over[:3])
    if len(recomputed) == len(over) and max(recomputed) <= CAP:
        text = (
            f"The log prints {max(size.value for _, size in over):,.0f} bytes with the script it ran; with the "
            f"committed script the artifact is {max(recomputed):,.0f} bytes, under the cap."
        )
        return RuleFinding("size_cap", PASS, text, lines, {"cap": CAP, "recomputed": max(recomputed)})
    under = [(log, size) for log, size in logged if size.value <= CAP]
    if under and _are_others(facts, [log for log, _ in over], under):
        return _others_over([size for _, size in over])
    return _over(facts, [(size.value, size.line, "logged") for _, size in over])


def _are_others(facts: Facts, over: list[Log], under: list[tuple[Log, LoggedNumber]]) -> bool:
    """Whether logs over the cap are of other runs than the submission's.

    They are if nothing says which run is submitted. Outside the record track, they also are if the declared score and
    size are those of a log under the cap, and no score over it is declared.
    """
    claims = [c for c in (facts.bpb.number if facts.bpb else None, *(r.score for r in facts.runs.values())) if c]
    if not claims:
        return True
    totals = {int(x.number or 0) for x in facts.totals}
    submitted = any(int(size.value) in totals and _scores(log, claims) for log, size in under)
    return not facts.record_track and submitted and not any(_scores(log, claims) for log in over)


def _scores(log: Log, claims: list[float]) -> bool:
    return log.final is not None and any(abs(log.final.bpb - c) < 6e-5 for c in claims)


def _disclosed(facts: Facts, size: LoggedNumber) -> bool:
    """Whether the README, or a log's path, says that this log's run is over the cap or not submitted."""
    path = PurePosixPath(size.line.file)
    if _NOT_SUBMITTED.search(str(path).replace("_", " ")):
        return True
    names = [path.name, path.stem, *(f"{folder}/" for folder in path.parts[:-1]), f"{size.value:,.0f}"]
    return any(
        _NOT_SUBMITTED.search(line.text) and any(name in line.text for name in names if len(name) > 4)
        for line in facts.readme
    )


def _others_over(sizes: list[LoggedNumber]) -> RuleFinding:
    return RuleFinding(
        "size_cap",
        HOLD,
        f"{len(sizes)} log(s) of other runs in the folder are over the cap; nothing says that they are the submission.",
        quoted(s.line for s in sizes[:3]),
        {"cap": CAP, "largest": max(s.value for s in sizes)},
    )


def _under(facts: Facts, sizes: list[tuple[float, Line, str]], logged: list[tuple[Log, LoggedNumber]]) -> RuleFinding:
    """The finding if no size is over the cap: whether there is a size at all, and a log that confirms it."""
    totals = [s for s in sizes if s[2] != _ALONE]
    if not totals and not logged:
        totals = _model_and_code(facts)
    if not totals and not logged:
        text = "No size of the artifact is declared and no log prints one. Add bytes_total and the training log."
        return RuleFinding("size_cap", UNVERIFIABLE, text, null_fields(facts, r"bytes|size"))
    largest = max([s[0] for s in totals] + [s.value for _, s in logged])
    numbers = {"cap": CAP, "bytes": largest}
    if largest > CAP:
        return _over(facts, [s for s in totals if s[0] > CAP])
    if not facts.logs:
        text = f"{largest:,.0f} bytes are declared and no log confirms them. Add the log."
        return RuleFinding("size_cap", UNVERIFIABLE, text, quoted(line for _, line, _ in totals[:3]), numbers)
    shown = max(totals, key=lambda s: s[0])[1] if totals else logged[0][1].line
    lines = quoted([shown, *(s.line for _, s in logged[:3])])
    return RuleFinding("size_cap", PASS, f"{largest:,.0f} bytes of {CAP:,}.", lines, numbers)


def _model_and_code(facts: Facts) -> list[tuple[float, Line, str]]:
    """Declared bytes of the model plus those of the main script, if there is one."""
    code = facts.main.size if facts.main is not None else 0
    return [((leaf.number or 0) + code, leaf.line, "model and code") for leaf in facts.models if code]


def _over(facts: Facts, over: list[tuple[float, Line, str]]) -> RuleFinding:
    code = facts.main.size if facts.main is not None else 0
    values = sorted({int(v) for v, _, _ in over})
    sizes = " / ".join(f"{v:,}" for v in values[:6])
    worst = values[-1]
    blob = _model_alone(facts, worst)
    extra = f" That is the model alone: with {code:,} bytes of code it is {worst + code:,}." if blob and code else ""
    if CAP < worst <= MIB:
        extra += f" {worst / 2**20:.2f} MiB fits 16 MiB, but the cap is 16,000,000 bytes, decimal."
    return RuleFinding(
        "size_cap",
        FAIL,
        f"{sizes} bytes {over[0][2]}, over the cap of {CAP:,} by {worst - CAP:,}.{extra}",
        quoted(line for _, line, _ in over[:6]),
        {"cap": CAP, "bytes": values, "over_by": worst - CAP, **({"with_code": worst + code} if blob else {})},
    )


def _model_alone(facts: Facts, value: int) -> bool:
    """Whether a log prints exactly this size for the model, before the code is added."""
    return any(log.model is not None and int(log.model.value) == value for log in facts.logs) or any(
        int(x.number or 0) == value for x in facts.models
    )
