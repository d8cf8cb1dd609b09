"""A report for people: what, where, why, what to do; the weakest finding first."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from pargolf.audit.report import FAIL, HOLD, MEANINGS, ORDER, PASS, SUSPECT, UNVERIFIABLE, Report, RuleFinding
from pargolf.audit.standing import headline

_COLOURS = {PASS: "green", HOLD: "cyan", UNVERIFIABLE: "yellow", SUSPECT: "magenta", FAIL: "bold red"}


def report_text(report: Report) -> RenderableType:
    """The report as rich text; every text of the submission is shown literally."""
    words = headline(report).removeprefix(report.verdict)
    head = Text.assemble((report.verdict, _COLOURS[report.verdict]), f"{words}\n{MEANINGS[report.verdict]}  ")
    head.append(report.target, "bold")
    if report.head:
        head.append(f" ({report.head[:10]})")
    if report.track:
        head.append(f"  track {report.track}")
    parts: list[RenderableType] = [head]
    passed: dict[str, int] = {}
    for finding in report.findings:
        if finding.status == PASS:
            passed[finding.rule] = passed.get(finding.rule, 0) + 1
    for finding in sorted(report.findings, key=lambda f: -ORDER.index(f.status)):
        if finding.status != PASS:
            parts.append(_finding(finding))
        elif times := passed.pop(finding.rule, 0):
            parts.append(_finding(finding, f" (and in {times - 1} other folders)" if times > 1 else ""))
    for coverage in report.coverage:
        parts.append(Text(f"\nCode of {coverage.path}: {coverage.words}."))
    if report.unchecked:
        parts.append(Text("\nNot checked, and so not passed:", "bold"))
        parts += [Text(f"  {item}") for item in report.unchecked]
    return Group(*parts)


def counts_line(reports: Sequence[Mapping[str, Any]]) -> str:
    """The number of reports with each verdict, the worst first, and the processor's seconds that they took."""
    counts = [(word, sum(report["verdict"] == word for report in reports)) for word in reversed(ORDER)]
    seconds = sum(report.get("seconds", 0.0) for report in reports)
    spent = f", in {seconds:,.1f} s of the processor" if seconds else ""
    return f"{len(reports):,} judged: " + ", ".join(f"{count:,} {word}" for word, count in counts) + spent


def _finding(finding: RuleFinding, more: str = "") -> RenderableType:
    line = Text.assemble((f"{finding.status:12}", _COLOURS[finding.status]), (f" {finding.rule}: ", "bold"))
    line.append(finding.summary + more)
    rows: list[RenderableType] = [line]
    if finding.status != PASS:
        for e in finding.evidence[:5]:
            location = f"{e.file}:{e.line}" if e.line else e.file
            rows.append(Padding(Text(f"{location}  {e.text[:140]}", "dim"), (0, 0, 0, 13)))
        if finding.words:
            rows.append(Padding(Text(f"rule: {finding.words} [{finding.source}]", "italic dim"), (0, 0, 0, 13)))
    return Group(*rows)
