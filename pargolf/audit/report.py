"""The result of an audit: findings with evidence, and one verdict that is never better than the weakest finding.

A check that could not run is listed in `unchecked` and never counts as passed.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

PASS, HOLD, UNVERIFIABLE, SUSPECT, FAIL = "PASS", "HOLD", "UNVERIFIABLE", "SUSPECT", "FAIL"
BLACK_BOX = "black box"  # a finding's `by`, if the submission's own run was judged from outside
ORDER = (PASS, HOLD, UNVERIFIABLE, SUSPECT, FAIL)
MEANINGS = {
    PASS: "every check that ran found nothing wrong",
    HOLD: "no ruling exists, or a person has to decide",
    UNVERIFIABLE: "something is missing; the finding names it",
    SUSPECT: "code or log looks like a violation; the finding names the probe that would prove it",
    FAIL: "proven, by arithmetic, by the submission's own files or by a run of its script",
}


@dataclass(frozen=True)
class Evidence:
    """A line of a file, counted from 1; line 0 means the whole file."""

    file: str
    line: int
    text: str

    def path_from(self, base: str) -> str:
        """The path from the repository's root. `base` is the submission's folder there; empty means no change."""
        return self.file if not base or self.file.startswith("records/") else f"{base.rstrip('/')}/{self.file}"


@dataclass(frozen=True)
class RuleFinding:
    """One finding of a rule: where, why, and the numbers behind it, with the rule's own words and source."""

    rule: str
    status: str
    summary: str
    evidence: tuple[Evidence, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)
    words: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        assert self.status in ORDER, self.status
        assert self.summary, self.rule

    def to_json(self) -> dict[str, Any]:
        """The finding as plain JSON, in the documented order."""
        return {
            "rule": self.rule,
            "status": self.status,
            "summary": self.summary,
            "evidence": [{"file": e.file, "line": e.line, "text": e.text} for e in self.evidence],
            "numbers": self.numbers,
            "words": self.words,
            "source": self.source,
        }


@dataclass(frozen=True)
class Coverage:
    """How much of a script was read: the functions that can run, all functions, and what could not be followed."""

    path: str
    reached: int
    functions: int
    unread: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The same in a few words: `31 of 43 functions`."""
        more = f"; not followed: {'; '.join(self.unread)}" if self.unread else ""
        return f"{self.reached} of {self.functions} functions can run, and were read{more}"


@dataclass(frozen=True)
class Report:
    """The whole audit of one target."""

    target: str
    head: str | None
    track: str | None
    findings: tuple[RuleFinding, ...]
    unchecked: tuple[str, ...] = ()
    coverage: tuple[Coverage, ...] = ()

    @property
    def verdict(self) -> str:
        """The weakest status of all findings; UNVERIFIABLE if nothing ran."""
        return weakest(finding.status for finding in self.findings) if self.findings else UNVERIFIABLE

    @property
    def passed(self) -> bool:
        """Whether every check that ran found nothing wrong."""
        return self.verdict == PASS

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON, in the documented order."""
        return {
            "target": self.target,
            "head": self.head,
            "track": self.track,
            "verdict": self.verdict,
            "findings": [finding.to_json() for finding in self.findings],
            "unchecked": list(self.unchecked),
            "coverage": [asdict(coverage) for coverage in self.coverage],
        }


def weakest(statuses: Iterable[str]) -> str:
    """The worst of some statuses."""
    return max(statuses, key=ORDER.index)
