"""A rule, and what its check works with: the folder's surroundings, what could not be checked, and lines as evidence.

A rule has up to two checks. One reads what the folder says (`facts`) and yields findings. The other reads what the
script does (`code`) and yields places in it. What a check could not read goes to `Missing`, which the report lists and
which never passes.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pargolf.audit.code.program import Program
from pargolf.audit.read.facts import Facts
from pargolf.audit.read.logs import Line
from pargolf.audit.read.validation_sets import GOOD
from pargolf.audit.report import Coverage, Evidence, RuleFinding

FLIP = "Probe: flip one target and see whether any score at or before it changes."
SUM = "Probe: sum p over the whole vocabulary at random positions; it must be 1."


@dataclass(frozen=True)
class Record:
    """The result that a new record has to beat: its name, its bits per byte per seed, and its nats per bit per byte."""

    name: str
    bpb: tuple[float, ...]
    ratio: float = GOOD[0].ratio


@dataclass(frozen=True)
class Surroundings:
    """Facts from outside a folder: the record, files outside it, other folders of the head."""

    record: Record | None = None
    outside: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    from_git: bool = False


@dataclass
class Missing:
    """Collects what a rule could not check, and how much of the code was read."""

    unchecked: list[str] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Note one check that did not run, once."""
        if text not in self.unchecked:
            self.unchecked.append(text)


Runner = Callable[[Facts, Missing], list[RuleFinding]]
"""Runs a folder's script in the sandbox; returns findings, and adds what could not be checked."""


@dataclass(frozen=True)
class Hit:
    """One place in the code that a rule objects to."""

    rule: str
    status: str
    node: ast.AST
    summary: str
    probe: str

    @property
    def key(self) -> tuple[str, int]:
        """Hits with equal keys are the same."""
        return self.rule, getattr(self.node, "lineno", 0)


FactsCheck = Callable[[Facts, Surroundings, Missing], Iterator[RuleFinding]]
CodeCheck = Callable[[Program], Iterator[Hit]]


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        name: the rule's name in reports.
        asks: the question that it answers.
        words: the rule in our own words, shown with each finding.
        source: where the rule is written, or the rulings behind it.
        passes: the text of a PASS, if the check gives no numbers of its own.
        facts: the check of what the folder says; None if there is none.
        code: the check of what the script does; None if there is none.
        script_alone: whether `facts` also applies to a script without a folder.
        reads_code: whether a script that cannot be read leaves the rule unchecked, and one without hits passes it.
        law: the law of `pargolf probe` that decides the rule when the script is run.
        arithmetic: whether a PASS of `facts` is computed from the submission's own files and logs, and so proved.
        needs: what the caller must give so that the rule can be checked; without it the headline ignores the rule.
        mend: what the author should do if the rule is broken.
    """

    name: str
    asks: str
    words: str
    source: str
    passes: str
    facts: FactsCheck | None = None
    code: CodeCheck | None = None
    script_alone: bool = False
    reads_code: bool = False
    law: str = ""
    arithmetic: bool = False
    needs: str = ""
    mend: str = ""


def quoted(lines: Iterable[Line]) -> tuple[Evidence, ...]:
    """Lines as evidence, each once."""
    places: dict[tuple[str, int], Evidence] = {}
    for line in lines:
        places.setdefault((line.file, line.number), Evidence(line.file, line.number, line.text.strip()[:240]))
    return tuple(places.values())


def null_fields(facts: Facts, pattern: str) -> tuple[Evidence, ...]:
    """Fields of submission.json that are null and whose name matches a pattern."""
    return quoted(x.line for x in facts.leaves if x.value is None and re.search(pattern, x.key))
