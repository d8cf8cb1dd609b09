"""What a board knows of a run, and how runs form groups: one recipe digest is a group, its runs are seeds.

A run is on the Pareto front when no other is at least as good in bits per byte, bytes and training seconds, and better
in one of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pargolf.core.events import Event
from pargolf.core.result import DocumentScore, Result

GOALS = ("bpb", "bytes", "seconds")


@dataclass(frozen=True)
class Entry:
    """One finished run: its folder, result, events and documents, and a link to its page.

    `audit` is the auditor's report on it as JSON, or None if there is none.
    """

    path: str
    result: Result
    events: Sequence[Event] = ()
    documents: Sequence[DocumentScore] = ()
    link: str = ""
    audit: Mapping[str, Any] | None = None

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return self.result.recipe

    @property
    def bpb(self) -> float:
        """The final bits per byte."""
        return self.result.val_bpb

    @property
    def bytes(self) -> int:
        """Model and code."""
        return self.result.bytes.total

    @property
    def seconds(self) -> float:
        """Seconds of training, including packing."""
        return self.result.train_seconds

    @property
    def saved(self) -> float | None:
        """The gain by adaptation in bits per byte; None if the run did not adapt, or not to the end."""
        scores = self.result.scores
        same = [score for name, score in scores.items() if name.startswith("post_quant")]
        if "adapted" not in scores or not same or not self.result.complete:
            return None
        return same[-1].bpb - scores["adapted"].bpb

    @property
    def gap(self) -> float | None:
        """The loss by packing in bits per byte, on plain windows; None unless both sides were scored."""
        scores = self.result.scores
        if "pre_quant" not in scores or "post_quant" not in scores:
            return None
        return scores["post_quant"].bpb - scores["pre_quant"].bpb


@dataclass(frozen=True)
class Group:
    """All runs of one recipe: a unique `name`, and in `runs` their indices on the board, best first."""

    name: str
    entries: Sequence[Entry]
    runs: Sequence[int]

    @property
    def mean(self) -> float:
        """Mean bits per byte."""
        return sum(entry.bpb for entry in self.entries) / len(self.entries)

    @property
    def by_seed(self) -> dict[int, float] | list[float]:
        """Bits per byte by seed if each seed ran once, else a list."""
        seeds = {entry.result.seed: entry.bpb for entry in self.entries}
        return seeds if len(seeds) == len(self.entries) else [entry.bpb for entry in self.entries]


def grouped(entries: Sequence[Entry]) -> list[Group]:
    """Groups by digest and by scored text, best mean first; groups of equal name get their digest added."""
    indices: dict[tuple[str, int], list[int]] = {}
    for index, entry in enumerate(entries):
        indices.setdefault((entry.result.digest, entry.result.val_bytes), []).append(index)
    names = [entries[members[0]].recipe for members in indices.values()]
    groups = []
    for (digest, _), members in indices.items():
        name = entries[members[0]].recipe
        ranked = sorted(members, key=lambda index: entries[index].bpb)
        shown = name if names.count(name) == 1 else f"{name} {digest[:6]}"
        groups.append(Group(shown, [entries[index] for index in ranked], ranked))
    return sorted(groups, key=lambda group: (group.mean, group.name))


def front(entries: Sequence[Entry]) -> set[int]:
    """Indices of the runs on the Pareto front of bits per byte, bytes and seconds."""
    goals = [tuple(float(getattr(entry, goal)) for goal in GOALS) for entry in entries]
    best: dict[tuple[float, ...], list[int]] = {}
    # A run can only be beaten by an earlier one in this order, so comparing with the front so far is enough.
    for index in sorted(range(len(goals)), key=goals.__getitem__):
        goal = goals[index]
        if goal in best:
            best[goal].append(index)
        elif not any(all(a <= b for a, b in zip(other, goal, strict=True)) for other in best):
            best[goal] = [index]
    return {index for indices in best.values() for index in indices}
