"""The state of each rule after an audit: broken, proved, read, or not checked, and the reason.

*Proved* is arithmetic over the submission's own files and logs, or a law that its model kept when it was run. *Read*
means that nothing was found in the code; the report says how much of it was read. Everything else is *not checked*,
with the reason, and never counts as passed.
"""

from dataclasses import dataclass
from enum import StrEnum

from pargolf.audit.report import BLACK_BOX, ORDER, PASS, Report, RuleFinding
from pargolf.audit.rules.rule import Rule
from pargolf.audit.rules.table import RULES


class How(StrEnum):
    """What a rule's PASS rests on, or that it was not checked."""

    PROVED = "proved"
    READ = "read"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Standing:
    """One rule: its verdict, what the verdict rests on, and the reason in words."""

    rule: Rule
    status: str
    how: How
    note: str


def standings(report: Report) -> list[Standing]:
    """Every rule of the table, in its order. The weakest finding decides for a rule."""
    return [_standing(rule, report) for rule in RULES]


def headline(report: Report) -> str:
    """The verdict and what it rests on: `PASS: 11 rules proved, 7 rules read, 3 not checked (...)`."""
    rows = standings(report)
    counts = {how: [row for row in rows if row.how is how and row.status == PASS] for how in (How.PROVED, How.READ)}
    broken = [row.rule.name for row in rows if row.status not in (PASS, "")]
    open_rules = [row.rule.name for row in rows if row.status == ""]
    parts = [f"{len(rules)} rules {how.value}" for how, rules in counts.items()]
    parts += [f"{len(open_rules)} not checked ({', '.join(open_rules)})"] if open_rules else []
    return f"{report.verdict}{' by ' + ', '.join(broken) if broken else ''}: {', '.join(parts)}"


def _standing(rule: Rule, report: Report) -> Standing:
    findings = [finding for finding in report.findings if finding.rule == rule.name]
    if not findings:
        reasons = [text.partition(": ")[2] for text in report.unchecked if text.startswith(f"{rule.name}:")]
        reason = "; ".join(reasons) or (f"it needs {rule.needs}" if rule.needs else "it does not apply here")
        return Standing(rule, "", How.NOT_CHECKED, reason)
    worst = max(findings, key=lambda finding: (ORDER.index(finding.status), _how(rule, finding) is How.PROVED))
    return Standing(rule, worst.status, _how(rule, worst), worst.summary)


def _how(rule: Rule, finding: RuleFinding) -> How:
    if finding.summary.startswith("Not checked"):
        return How.NOT_CHECKED
    if finding.numbers.get("by") == BLACK_BOX or (rule.law and "worst" in finding.numbers) or rule.name == "run":
        return How.PROVED
    return How.PROVED if rule.arithmetic else How.READ
