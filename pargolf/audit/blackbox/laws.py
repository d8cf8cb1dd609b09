"""The laws of a fair score, asked of what a script's own runs printed and sent. All of it is decided out here.

Three runs see three texts that are equal up to some position. So the printed numbers must imply three known numbers of
bytes per token, and no loss of the common part may differ unless the tokens that differ were scored before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pargolf.audit.blackbox.passes import Pass, Reading, Score
from pargolf.audit.blackbox.texts import TARGETS
from pargolf.audit.blackbox.wire import Stepped

MOVED = 2e-5
_RATIO = 1e-3


@dataclass(frozen=True)
class Ruling:
    """What a law says: kept, broken, or None where it could not be asked; why; with its numbers."""

    law: str
    holds: bool | None
    evidence: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Reported:
    """A run's reported score: the last one it printed, and the losses that were seen before it.

    `explained` when the printed loss is their mean; else the script computes what it prints from them by other means.
    """

    reading: Reading
    score: Score
    losses: Pass | None
    explained: bool


def reported(reading: Reading) -> Reported | None:
    """The last printed score of a run; None when there is none."""
    if not reading.scores:
        return None
    score = reading.scores[-1]
    losses = reading.explain(score)
    seen = [losses] if losses is not None else reading.seen(score)
    return Reported(reading, score, seen[0] if seen else None, losses is not None)


def denominator(runs: Sequence[Reported]) -> Ruling:
    """Do the printed numbers imply the bytes that each text has?"""
    rows, wrong = [], 0
    for run in runs:
        text, score = run.reading.trace.text, run.score
        truth = run.reading.true_ratio(score, run.losses if run.explained else None)
        off = score.ratio / truth - 1
        wrong += abs(off) > _RATIO + score.rounding
        rows.append({"text": text.name, "printed": round(score.ratio, 5), "true": round(truth, 5)})
    said = ", ".join(f"{r['printed']:.4f} where {r['text']} has {r['true']:.4f}" for r in rows)
    if not wrong:
        return Ruling("denominator", True, f"bytes per token in what it printed: {said}", {"texts": rows})
    seen = all(run.explained for run in runs)
    return Ruling("denominator", False if seen else None, f"it divides by other bytes: {said}", {"texts": rows})


def once(run: Reported) -> Ruling:
    """Is the printed loss the mean of one loss for each position, the first that was computed?"""
    found, printed = run.losses, run.score.loss
    if found is None or not run.explained:
        return Ruling("once", None, f"the printed loss {printed:.4f} is not the mean of losses that were seen")
    count, again = int(found.covered.sum()), len(found.again)
    numbers = {"positions": count, "again": again, "which": found.which, "mean": run.reading.mean(found)}
    what = f"the printed loss {printed:.4f} is the mean of the {found.which} loss of each of {count:,} positions"
    what += f", the last of them counted again {again:,} times where its windows run out" if again else ""
    return Ruling("once", found.which != "least", what, numbers)


def order(base: Reported, other: Reported) -> Ruling:
    """May a loss before the first token that differs have changed, without that token having been scored before?"""
    if base.losses is None or other.losses is None:
        return Ruling("order", None, "its losses were not seen where they were computed")
    flip = other.reading.trace.text.flip - 1
    a, b = base.losses, other.losses
    both = (a.covered & b.covered)[:flip]
    if not both.any() or not b.covered[flip:].any():
        return Ruling("order", None, "too few positions were scored")
    moved = both & (np.abs(np.nan_to_num(a.losses - b.losses))[:flip] > MOVED)
    first = int(b.frames[flip:][b.covered[flip:]].min())
    early = moved & (b.frames[:flip] <= first)
    numbers: dict[str, Any] = {"flipped_from": flip, "compared": int(both.sum()), "moved": int(early.sum())}
    what = f"every token from position {flip:,} on was replaced"
    if not early.any():
        return Ruling("order", True, f"{what}: none of {int(both.sum()):,} losses before it changed", numbers)
    change = float(np.abs(a.losses - b.losses)[:flip][early].max())
    numbers |= {"worst": change, "why": _why(other, first, flip)}
    which = f"{int(early.sum()):,} of {int(both.sum()):,} losses of earlier positions changed"
    return Ruling("order", False, f"{what}: {which}, by up to {change:.2g} nats", numbers)


def _why(run: Reported, first: int, flip: int) -> str:
    """What lay between: gradients from the replaced tokens, steps of tensors that are no parameters, or nothing."""
    reading = run.reading
    assert run.losses is not None
    learned = reading.trained & (reading.frames < first) & (reading.places >= flip)
    since = run.losses.since
    steps = [f for i, f in enumerate(reading.trace.frames) if isinstance(f, Stepped) and since <= i < first]
    if steps and not any(step.model for step in steps):
        return "slot"
    if learned.any():
        return "trained"
    return "lookahead"


def held_out(run: Reported) -> Ruling:
    """Did gradients come from validation tokens before the reported pass had begun, or before they were scored?"""
    reading, found = run.reading, run.losses
    if found is None:
        return Ruling("held out", None, "its losses were not seen where they were computed")
    scored = np.where(found.covered, found.frames, len(reading.trace.frames))
    places, frames = reading.places, reading.frames
    inside = reading.trained & (places >= 0)
    early = inside & (frames < scored[places.clip(0)])
    count = len(np.unique(places[early]))
    numbers = {"positions": count}
    if count * 50 < TARGETS:
        return Ruling("held out", True, "no gradient came from a validation token before its reported score", numbers)
    return Ruling(
        "held out", False, f"gradients came from {count:,} validation tokens before they were scored", numbers
    )


def laws(runs: Sequence[Reported]) -> Iterator[Ruling]:
    """Every law, asked of runs of which the first saw the text that the others depart from."""
    yield denominator(runs)
    yield once(runs[0])
    verdicts = [order(runs[0], run) for run in runs[1:]]
    broken = [v for v in verdicts if v.holds is False]
    unasked = [v for v in verdicts if v.holds is None]
    yield (broken or unasked or verdicts)[0]
    yield held_out(runs[0])
