"""The laws of a fair score, checked from outside on what a script's own runs printed and sent.

Three runs see three texts that are equal up to some position. So the printed numbers must imply three known numbers of
bytes per token. And no loss of the common part may differ, unless the tokens that differ were scored before it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pargolf.audit.blackbox.contents import holds, read
from pargolf.audit.blackbox.passes import Pass, Reading, Score
from pargolf.audit.blackbox.small import WINDOW
from pargolf.audit.blackbox.texts import TARGETS
from pargolf.audit.blackbox.wire import Stepped, Touched

MOVED = 2e-5
_RATIO = 1e-3
_NEAR = 2 * WINDOW
_PLAIN = ("torch", "collections", "numpy", "_codecs encode", "builtins set", "builtins dict", "builtins bytearray")


@dataclass(frozen=True)
class Ruling:
    """The result of a law: kept, broken, or None if it could not be checked; with the reason and its numbers."""

    law: str
    holds: bool | None
    evidence: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Reported:
    """A run's reported score: the last one it printed, and the losses observed before it.

    `explained` if the printed loss is their mean; otherwise the script computes its score from them in another way.
    """

    reading: Reading
    score: Score
    losses: Pass | None
    explained: bool


def reported(reading: Reading) -> Reported | None:
    """The last printed score of a run; None if there is none."""
    if not reading.scores:
        return None
    score = reading.scores[-1]
    losses = reading.explain(score)
    passes = [losses] if losses is not None else reading.seen(score)
    return Reported(reading, score, passes[0] if passes else None, losses is not None)


def denominator(runs: Sequence[Reported]) -> Ruling:
    """Do the printed numbers imply the true bytes of each text?"""
    rows, wrong = [], 0
    for run in runs:
        text, score = run.reading.trace.text, run.score
        truth = run.reading.true_ratio(score)
        off = score.ratio / truth - 1
        wrong += abs(off) > _RATIO + score.rounding
        rows.append({"text": text.name, "printed": round(score.ratio, 5), "true": round(truth, 5)})
    figures = ", ".join(f"{r['printed']:.4f} where {r['text']} has {r['true']:.4f}" for r in rows)
    if not wrong:
        return Ruling("denominator", True, f"bytes per token in what it printed: {figures}", {"texts": rows})
    explained = all(run.explained for run in runs)
    return Ruling("denominator", False if explained else None, f"it divides by other bytes: {figures}", {"texts": rows})


def once(runs: Sequence[Reported]) -> Ruling:
    """Is the printed loss the mean of one loss for each position, the first that was computed?"""
    run, printed = runs[0], runs[0].score.loss
    choices = {other_run.losses.which for other_run in runs if other_run.losses is not None and other_run.explained}
    if run.losses is None or len(choices) != 1 or not all(other_run.explained for other_run in runs):
        return Ruling("once", None, f"the printed loss {printed:.4f} is not the mean of losses that were seen")
    count, repeated, choice = int(run.losses.covered.sum()), len(run.losses.again), run.losses.which
    numbers = {"positions": count, "again": repeated, "which": choice, "mean": run.reading.mean(run.losses)}
    statement = f"the printed loss {printed:.4f} is the mean of the {choice} loss of each of {count:,} positions"
    statement += f", the last of them counted again {repeated:,} times where its windows run out" if repeated else ""
    return Ruling("once", choice != "least", statement, numbers)


def order(base: Reported, other: Reported) -> Ruling:
    """Did a loss before the first differing token change, although that token was not scored before it?"""
    if base.losses is None or other.losses is None:
        return Ruling("order", None, "its losses were not seen where they were computed")
    flip = other.reading.trace.text.flip - 1
    a, b = base.losses, other.losses
    compared = (a.covered & b.covered)[:flip]
    if not compared.any() or not b.covered[flip:].any():
        return Ruling("order", None, "too few positions were scored")
    changed = compared & (np.abs(np.nan_to_num(a.losses - b.losses))[:flip] > MOVED)
    first = int(b.frames[flip:][b.covered[flip:]].min())
    early = changed & (b.frames[:flip] <= first)
    numbers: dict[str, Any] = {"flipped_from": flip, "compared": int(compared.sum()), "moved": int(early.sum())}
    statement = f"every token from position {flip:,} on was replaced"
    if not early.any():
        return Ruling("order", True, f"{statement}: none of {int(compared.sum()):,} losses before it changed", numbers)
    change = float(np.abs(a.losses - b.losses)[:flip][early].max())
    near = int(np.flatnonzero(early)[0]) >= flip - _NEAR
    numbers |= {"worst": change, "why": _why(other, first, flip, near=near)}
    changes = f"{int(early.sum()):,} of {int(compared.sum()):,} losses of earlier positions changed"
    return Ruling("order", False, f"{statement}: {changes}, by up to {change:.2g} nats", numbers)


def _why(run: Reported, first: int, flip: int, *, near: bool) -> str:
    """How later text affected earlier losses.

    slot: the scorer took steps on tensors that are no parameters. trained: gradients came from replaced tokens.
    lookahead: neither, and only losses near the flip changed. chosen: neither, and all changed.
    """
    reading = run.reading
    assert run.losses is not None
    learned = reading.trained & (reading.frames < first) & (reading.places >= flip)
    since = run.losses.since
    steps = [f for i, f in enumerate(reading.trace.frames) if isinstance(f, Stepped) and since <= i < first]
    if steps and not any(step.model for step in steps):
        return "slot"
    if learned.any():
        return "trained"
    return "lookahead" if near else "chosen"


def held_out(run: Reported) -> Ruling:
    """Did gradients come from validation tokens before they were scored, or was another file with them read?"""
    reading, losses = run.reading, run.losses
    copies = _copies(run)
    if copies:
        names = ", ".join(copies[:3])
        return Ruling("held out", False, f"it read the validation text under another name: {names}", {"files": copies})
    if losses is None:
        return Ruling("held out", None, "its losses were not seen where they were computed")
    scored = np.where(losses.covered, losses.frames, len(reading.trace.frames))
    places, frames = reading.places, reading.frames
    plain = ~reading.trained & (places >= 0)
    np.minimum.at(scored, places[plain], frames[plain])
    inside = reading.trained & (places >= 0)
    early = inside & (frames < scored[places.clip(0)])
    count = len(np.unique(places[early]))
    numbers = {"positions": count}
    if count * 50 < TARGETS:
        return Ruling("held out", True, "no gradient came from a validation token before its reported score", numbers)
    return Ruling(
        "held out", False, f"gradients came from {count:,} validation tokens before they were scored", numbers
    )


def _copies(run: Reported) -> list[str]:
    """Files read before the score that contain the validation text under a name that does not say so."""
    text, copies = run.reading.trace.text, []
    for frame in run.reading.trace.frames[: run.score.frame]:
        if isinstance(frame, Touched) and frame.kind == "content":
            word, _, path = frame.name.partition(" ")
            name = path.rpartition("/")[2]
            with contextlib.suppress(ValueError):
                if "val" not in name and name not in copies and holds(read(word), text.tokens):
                    copies.append(name)
    return copies


def artifact(run: Reported) -> Ruling:
    """Did scoring read only what was packed before: no training data, no network, no code in pickles?"""
    trace = run.reading.trace
    begins = int(run.losses.frames[run.losses.covered].min()) if run.losses is not None else 0
    written: set[str] = set()
    wrong: list[str] = []
    for i, frame in enumerate(trace.frames[: run.score.frame]):
        if not isinstance(frame, Touched):
            continue
        if frame.kind == "write":
            written.add(frame.name)
        elif frame.kind == "read" and i >= begins and frame.name not in written and not _is_validation(frame.name):
            wrong.append(f"it read {frame.name.rpartition('/')[2]} while scoring")
        elif frame.kind == "pickle" and not frame.name.startswith(_PLAIN):
            wrong.append(f"it unpickled {frame.name}")
        elif frame.kind in ("socket", "program"):
            wrong.append(f"it tried a {frame.kind}: {frame.name[:80]}")
    if wrong:
        return Ruling("artifact", False, "; ".join(dict.fromkeys(wrong[:4])), {"times": len(wrong)})
    files = sum(isinstance(frame, Touched) and frame.kind == "read" for frame in trace.frames)
    return Ruling("artifact", True, f"it read nothing that it had not written, of {files} files, and tried no network")


def _is_validation(name: str) -> bool:
    """The text that is scored, its tokenizer, or the script itself."""
    return "fineweb_val_" in name or "/data/tokenizers/" in name or name.endswith(".py")


def laws(runs: Sequence[Reported]) -> Iterator[Ruling]:
    """Check every law on the runs. The first run saw the text that the other texts begin with."""
    yield denominator(runs)
    yield once(runs)
    verdicts = [order(runs[0], run) for run in runs[1:]]
    broken = [v for v in verdicts if v.holds is False]
    unasked = [v for v in verdicts if v.holds is None]
    yield (broken or unasked or verdicts)[0]
    yield held_out(runs[0])
    yield artifact(runs[0])
