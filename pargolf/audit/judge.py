"""Judge a target: open it, read its facts, check every rule, and return the report.

Each folder of the target is judged. An exception in a rule is a bug of ours and must not look like a verdict, so the
rule goes to `unchecked` with the error. Nothing that was not checked counts as passed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pargolf.audit.judge_code import judge_code
from pargolf.audit.own_runs.checks import Recomputed, judge_run
from pargolf.audit.own_runs.recorded import is_run
from pargolf.audit.read.facts import Facts, read_facts
from pargolf.audit.read.submission import Folder, Submission
from pargolf.audit.read.target import open_target
from pargolf.audit.report import BLACK_BOX, PASS, UNVERIFIABLE, Evidence, Report, RuleFinding
from pargolf.audit.rules.byte_denominator import ratio_of
from pargolf.audit.rules.evidence import scores_of
from pargolf.audit.rules.rule import Missing, Record, Rule, Runner, Surroundings
from pargolf.audit.rules.table import BY_NAME, RULES
from pargolf.core.errors import UserError
from pargolf.core.garbage import rare_collections


def audit(
    target: str | Path,
    *,
    record: Record | None = None,
    runner: Runner | None = None,
    recomputed: Mapping[Path, Recomputed] | None = None,
) -> Report:
    """Judge a folder, a script or `git:REPO@REF`. Nothing of it is executed unless there is a `runner`.

    Args:
        target: what to judge.
        record: the result that a new record has to beat; without it, significance stays unchecked.
        runner: runs each script in the sandbox, `audit.running.runner()`.
        recomputed: the result of `own_runs.recompute` for each run folder of the target.

    Raises:
        UserError: there is no such target, or the system cannot confine a script that is to be run.
    """
    return judge(open_target(target), record=record, runner=runner, recomputed=recomputed)


def record_of(text: str) -> Record:
    """The record to beat: from its scores, `1.1147,1.1150`, or from a target that contains it.

    Scores are in bits per byte of the sp1024 tokenizer; a submission gives its own nats per bit. Raises `UserError` if
    there is no such target or it gives no scores.
    """
    try:
        scores = tuple(float(word) for word in text.split(","))
    except ValueError:
        facts = [read_facts(folder) for folder in open_target(text).folders]
        scored = [(entry, scores_of(entry)) for entry in facts]
        record = next(((entry, scores) for entry, scores in scored if scores), None)
        if record is None:
            raise UserError(f"{text} gives no scores. Write the record's own: --record 1.1147,1.1150,1.1144.") from None
        return Record(record[0].folder.path.rpartition("/")[2], tuple(record[1]), ratio_of(record[0]))
    if not all(0 < score < 20 for score in scores):
        raise UserError(f"'{text}' is no list of bits per byte. Write --record 1.1147,1.1150,1.1144.")
    return Record("the record", scores)


@rare_collections()
def judge(
    submission: Submission,
    *,
    record: Record | None = None,
    runner: Runner | None = None,
    recomputed: Mapping[Path, Recomputed] | None = None,
) -> Report:
    """Judge a submission from `open_target` or from a repository."""
    missing = Missing()
    findings: list[RuleFinding] = []
    names = tuple(f.path for f in submission.folders)
    context = Surroundings(record, submission.outside, names, submission.head is not None)
    for folder in submission.folders:
        if is_run(folder):
            recomputed_run = (
                recomputed.get(folder.place) if recomputed is not None and folder.place is not None else None
            )
            folder_findings = judge_run(folder, missing, recomputed_run)
        else:
            folder_findings = _judge_folder(folder, context, missing, runner)
        if folder is not submission.folders[0]:
            folder_findings = [f for f in folder_findings if f.rule != "outside_folder"]
        findings += [_placed(f, folder.path) for f in folder_findings] if len(names) > 1 else folder_findings
    if not any(not f.script_only or submission.head is None for f in submission.folders):
        paths = tuple(Evidence(path, 0, "") for path in submission.outside[:8])
        findings.append(
            RuleFinding(
                "package", UNVERIFIABLE, "No folder below records/ is added: there is no submission to judge.", paths
            )
        )
    for name in submission.unjudged:
        missing.add(f"{name} was not judged: the head touches too many folders")
    track = submission.folders[0].track if submission.folders else None
    worded_findings = tuple(_with_words(finding) for finding in findings)
    coverage = tuple(missing.coverage)
    return Report(submission.target, submission.head, track, worded_findings, tuple(missing.unchecked), coverage)


def _judge_folder(folder: Folder, context: Surroundings, missing: Missing, runner: Runner | None) -> list[RuleFinding]:
    facts = read_facts(folder)
    for note in facts.notes:
        missing.add(note)
    findings: list[RuleFinding] = []
    for rule in RULES:
        if rule.facts is not None:
            findings += _ask(rule, facts, context, missing)
    findings += _judge_code(facts, missing)
    if runner is not None:
        findings += runner(facts, missing)
    findings += _not_checked(folder, findings, missing)
    findings = _unless_proved(findings)
    # A violation proved by a log outweighs code in which nothing was found.
    decided = {f.rule for f in findings if f.status != PASS}
    return _joined([f for f in findings if f.status != PASS or f.rule not in decided])


def _joined(findings: list[RuleFinding]) -> list[RuleFinding]:
    """The same findings, but a rule that passes by a run and by reading has one finding for both."""
    joined: list[RuleFinding] = []
    for finding in findings:
        first = next((f for f in joined if f.rule == finding.rule and f.status == PASS), None)
        if first is None or finding.numbers.get("by") != BLACK_BOX or finding.status != PASS:
            joined.append(finding)
        else:
            all_numbers = {**first.numbers, **finding.numbers}
            text = f"{first.summary} {finding.summary}"
            joined[joined.index(first)] = replace(first, summary=text, numbers=all_numbers)
    return joined


def _unless_proved(findings: list[RuleFinding]) -> list[RuleFinding]:
    """Findings without "Not checked" for code, if arithmetic over the logs settles the same rule."""
    proved = {f.rule for f in findings if f.status == PASS and f.numbers and BY_NAME[f.rule].arithmetic}
    return [f for f in findings if not (f.rule in proved and f.summary.startswith("Not checked"))]


def _not_checked(folder: Folder, findings: list[RuleFinding], missing: Missing) -> Iterator[RuleFinding]:
    """Findings for rules that could not be checked. What only the caller can give is listed elsewhere."""
    decided = {finding.rule for finding in findings}
    for rule in RULES:
        if rule.name not in decided and not rule.needs and (rule.reads_code or not folder.script_only):
            reasons = [text.partition(": ")[2] for text in missing.unchecked if text.startswith(f"{rule.name}:")]
            if reasons:
                yield RuleFinding(rule.name, UNVERIFIABLE, f"Not checked: {'; '.join(reasons)}.")


def _ask(rule: Rule, facts: Facts, context: Surroundings, missing: Missing) -> list[RuleFinding]:
    """The findings of one rule about what the folder says."""
    assert rule.facts is not None
    if facts.folder.script_only and not rule.script_alone:
        missing.add(f"{rule.name}: a script alone has no logs or declared numbers")
        return []
    try:
        return list(rule.facts(facts, context, missing))
    except Exception as error:  # a bug of ours must not end the audit, nor look like a verdict
        missing.add(f"{rule.name}: the check failed ({type(error).__name__}: {error})")
        return []


def _judge_code(facts: Facts, missing: Missing) -> list[RuleFinding]:
    """The findings of the rules on code. If they fail, none of these rules counts as checked."""
    try:
        return judge_code(facts, missing)
    except RecursionError:
        reason = "the script is nested too deeply to follow"
    except Exception as error:
        reason = f"the check failed ({type(error).__name__}: {error})"
    for rule in RULES:
        if rule.reads_code:
            missing.add(f"{rule.name}: {reason}")
    return []


def _with_words(finding: RuleFinding) -> RuleFinding:
    """The finding with its rule's words and source."""
    rule = BY_NAME[finding.rule]
    return replace(finding, words=rule.words, source=rule.source)


def _placed(finding: RuleFinding, folder: str) -> RuleFinding:
    """The finding, with its files named from the repository's root."""
    if finding.rule == "outside_folder":
        return finding
    evidence = tuple(replace(e, file=e.path_from(folder)) for e in finding.evidence)
    return replace(finding, evidence=evidence)
