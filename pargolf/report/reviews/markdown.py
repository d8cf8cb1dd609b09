"""A review to paste into a pull request: headline, the script's model, each rule with its reason, evidence.

Text from the submission is escaped and shown literally: it cannot make a link, a picture, a mention of a person, HTML
or a table cell.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pargolf.audit.report import MEANINGS, ORDER, PASS, Report, RuleFinding
from pargolf.audit.rules.table import BY_NAME
from pargolf.audit.standing import Standing, headline, standings
from pargolf.core.version import VERSION

_TEMPLATES = Path(__file__).parent
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|<>~$@:&-])")
_MOST_EVIDENCE = 6
_LONGEST = 400


@dataclass(frozen=True)
class _Row:
    name: str
    verdict: str
    how: str
    note: str


@dataclass(frozen=True)
class _Finding:
    name: str
    verdict: str
    summary: str
    words: str
    source: str
    evidence: list[str]
    mend: str


def to_markdown(report: Report, *, command: str = "") -> str:
    """The review as Markdown; `command` is the command that repeats it."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=False, undefined=StrictUndefined, keep_trailing_newline=True
    )
    rows = standings(report)
    weak = sorted((f for f in report.findings if f.status != PASS), key=lambda f: -ORDER.index(f.status))
    return environment.get_template("review.md").render(
        headline=plain(headline(report)),
        target=code(report.target),
        head=plain(report.head[:12]) if report.head else "",
        track=plain(report.track) if report.track else "",
        meaning=MEANINGS[report.verdict][:1].upper() + MEANINGS[report.verdict][1:],
        builds=[plain(f.summary) for f in report.findings if f.rule == "run"],
        rows=[_row(row) for row in rows],
        findings=[_finding(finding) for finding in weak],
        coverage=plain(_read(report)),
        limits=[plain(text) for text in report.unchecked],
        command=code(command or f"pargolf audit {report.target}"),
        version=VERSION,
    )


def plain(text: str) -> str:
    """Text on one line, escaped for Markdown, with mentions disabled."""
    line = " ".join(text.split())
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
    # A backslash does not stop `@name` and `#1` from becoming a mention or a link; a word joiner does.
    return _SPECIAL.sub(r"\\\1", line).replace(r"\@", "@\u2060").replace(r"\#", "#\u2060")


def code(text: str) -> str:
    """Text as a code span, fenced so that no backtick in it can end it."""
    line = " ".join(text.split())[:_LONGEST]
    longest = max(map(len, re.findall(r"`+", line)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{line or ' '}{space}{fence}"


def _row(row: Standing) -> _Row:
    verdict = f"**{row.status}**" if row.status not in ("", PASS) else row.status or "none"
    return _Row(f"`{row.rule.name}`", verdict, row.how.value, plain(row.note))


def _finding(finding: RuleFinding) -> _Finding:
    lines = []
    for evidence in finding.evidence[:_MOST_EVIDENCE]:
        location = f"{evidence.file}:{evidence.line}" if evidence.line else evidence.file
        lines.append(code(location) + (f" {code(evidence.text)}" if evidence.text else ""))
    return _Finding(
        f"`{finding.rule}`",
        finding.status,
        plain(finding.summary),
        plain(finding.words),
        plain(finding.source),
        lines,
        BY_NAME[finding.rule].mend,
    )


def _read(report: Report) -> str:
    if not report.coverage:
        return "No code was read."
    return "Code: " + "; ".join(f"{coverage.path}: {coverage.words}" for coverage in report.coverage) + "."
