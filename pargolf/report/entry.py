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
    """One finished run: where it lies, what it came to, its events, its documents, a link to its page.

    `audit` is the auditor's report on it as JSON, None where it was not asked.
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
        """Of training, packing included."""
        return self.result.train_seconds

    @property
    def saved(self) -> float | None:
        """What adaptation saved, in bits per byte; None where the run did not adapt, or not to the end."""
        scores = self.result.scores
        same = [score for name, score in scores.items() if name.startswith("post_quant")]
        if "adapted" not in scores or not same or not self.result.complete:
            return None
        return same[-1].bpb - scores["adapted"].bpb

    @property
    def gap(self) -> float | None:
        """What packing cost, in bits per byte over the plain windows; None where only one of the two was scored."""
        scores = self.result.scores
        if "pre_quant" not in scores or "post_quant" not in scores:
            return None
        return scores["post_quant"].bpb - scores["pre_quant"].bpb


@dataclass(frozen=True)
class Group:
    """All runs of one recipe. `name` tells it from others, `runs` are their places on the board, best first."""

    name: str
    entries: Sequence[Entry]
    runs: Sequence[int]

    @property
    def mean(self) -> float:
        """Mean bits per byte."""
        return sum(entry.bpb for entry in self.entries) / len(self.entries)

    @property
    def by_seed(self) -> dict[int, float] | list[float]:
        """Bits per byte by seed where each seed ran once."""
        seeds = {entry.result.seed: entry.bpb for entry in self.entries}
        return seeds if len(seeds) == len(self.entries) else [entry.bpb for entry in self.entries]


def grouped(entries: Sequence[Entry]) -> list[Group]:
    """Groups by digest and by what was graded, best mean first; two of one name are told apart by their digests."""
    indices: dict[tuple[str, int], list[int]] = {}
    for index, entry in enumerate(entries):
        indices.setdefault((entry.result.digest, entry.result.val_bytes), []).append(index)
    names = [entries[places[0]].recipe for places in indices.values()]
    groups = []
    for (digest, _), places in indices.items():
        name = entries[places[0]].recipe
        ranked = sorted(places, key=lambda index: entries[index].bpb)
        shown = name if names.count(name) == 1 else f"{name} {digest[:6]}"
        groups.append(Group(shown, [entries[index] for index in ranked], ranked))
    return sorted(groups, key=lambda group: (group.mean, group.name))


def front(entries: Sequence[Entry]) -> set[int]:
    """Places of the runs that no other run beats in bits per byte, bytes and seconds at once."""
    goals = [tuple(float(getattr(entry, goal)) for goal in GOALS) for entry in entries]
    best: dict[tuple[float, ...], list[int]] = {}
    # Whatever beats a run comes before it in this order, and is on the front or beaten by one that is.
    for index in sorted(range(len(goals)), key=goals.__getitem__):
        ours = goals[index]
        if ours in best:
            best[ours].append(index)
        elif not any(all(a <= b for a, b in zip(theirs, ours, strict=True)) for theirs in best):
            best[ours] = [index]
    return {index for indices in best.values() for index in indices}
