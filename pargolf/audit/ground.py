"""What every arithmetic rule works with: the track's numbers, what a folder cannot know about itself, quoted lines.

The cap is decimal and counts code; 601 s allow for the last step's granularity; a record has to be better by 0.005 nats
per token. A rule is a generator of findings from facts; what it could not check it adds to `Missing`, which is listed
in the report and never passes.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pargolf.audit.facts import Facts
from pargolf.audit.known import GOOD
from pargolf.audit.logs import Line
from pargolf.audit.verdict import Evidence, RuleFinding

CAP = 16_000_000
MIB = 16 * 2**20
SECONDS = 601.0
NATS = 0.005
CALIBRATION_SLACK = 10.0
_PROSE = re.compile(
    r"(?:train(?:ed|ing)?|(?<!eval )(?<!evaluation )wall[_ ]?clock)"
    r"[\s:=~(*|`\"']{0,6}(?:in|for|time)?[\s:=~(*|`\"']{0,4}"
    r"(\d{3,5}(?:\.\d+)?)\s?s\b",
    re.I,
)


@dataclass(frozen=True)
class Record:
    """The result that a new record has to beat: its name, per-seed bits per byte, nats per bit per byte."""

    name: str
    bpb: tuple[float, ...]
    ratio: float = GOOD[0].ratio


@dataclass(frozen=True)
class Surroundings:
    """What a folder cannot know about itself."""

    record: Record | None = None
    outside: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    from_git: bool = False


@dataclass
class Missing:
    """Collects what a rule could not check."""

    unchecked: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Note one check that did not run, once."""
        if text not in self.unchecked:
            self.unchecked.append(text)


Check = Callable[[Facts, Surroundings, Missing], Iterator[RuleFinding]]


@dataclass(frozen=True)
class Rule:
    """A rule's name, its words, where they are written, and the function that checks it."""

    name: str
    quote: str
    source: str
    check: Check


def told_training_seconds(text: str) -> float | None:
    """What prose says about the training time, such as `Trained 600s on 8xH100`."""
    found = _PROSE.search(text)
    return float(found[1]) if found else None


def quoted(lines: Iterable[Line]) -> tuple[Evidence, ...]:
    """Lines as evidence, each once."""
    seen: dict[tuple[str, int], Evidence] = {}
    for line in lines:
        seen.setdefault((line.file, line.number), Evidence(line.file, line.number, line.text.strip()[:240]))
    return tuple(seen.values())


def null_leaves(facts: Facts, pattern: str) -> tuple[Evidence, ...]:
    """Fields of submission.json that hold null where a name fits a pattern."""
    return quoted(x.line for x in facts.leaves if x.value is None and re.search(pattern, x.key))
