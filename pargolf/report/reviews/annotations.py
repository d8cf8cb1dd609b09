"""A report as GitHub workflow commands: each finding is shown beside the line that it is about."""

from pargolf.audit.report import FAIL, HOLD, PASS, SUSPECT, UNVERIFIABLE, Report
from pargolf.audit.standing import headline

_LEVELS = {FAIL: "error", SUSPECT: "warning", UNVERIFIABLE: "notice", HOLD: "notice"}
_MOST = 40


def to_github(report: Report, *, base: str = "") -> str:
    """One command for each finding, at its first evidence, and one for the verdict; `base` as in `to_sarif`."""
    lines = [f"::{_LEVELS.get(report.verdict, 'notice')} title=pargolf audit::{_text(headline(report))}"]
    for finding in [finding for finding in report.findings if finding.status != PASS][:_MOST]:
        location = ""
        if finding.evidence:
            first = finding.evidence[0]
            location = f"file={_value(first.path_from(base))}," + (f"line={first.line}," if first.line else "")
        title = _value(f"{finding.status} {finding.rule}")
        lines.append(f"::{_LEVELS[finding.status]} {location}title={title}::{_text(finding.summary)}")
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """Escape a message, so that it stays one command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _value(text: str) -> str:
    """Escape a property's value, including commas and colons."""
    return _text(text).replace(":", "%3A").replace(",", "%2C")
