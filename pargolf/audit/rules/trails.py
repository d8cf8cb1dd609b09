"""Loss curves of runs: final scores that no curve ends at, several logs that are one, and scores that no model has.

A run prints losses and seconds at hundreds of steps. Packing costs a little. So without a method that lowers the score
(a sliding window, averaged weights, adaptation), the final score is just above that of the last row. Two runs never
have the same seconds. Their losses at the same step differ by chance: on published logs by .0013 nats and more, in
standard deviation. No honest system so far came near .95 bits per byte within 16 MB (the best: 1.056, #2135).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import PurePosixPath

from pargolf.audit.code.program import Program
from pargolf.audit.read.facts import Facts
from pargolf.audit.read.logs import Line, Log, LoggedRow
from pargolf.audit.report import FAIL, HOLD, SUSPECT, RuleFinding
from pargolf.audit.rules.rule import quoted

LEAST_BPB = 0.95
_GAIN = 0.004
_MOST_GAIN = 0.2
_BELOW_TRAINING = 0.25  # training losses may contain other terms
_DROP = 0.07
_ALIKE_NATS = 0.0007
_ALIKE_MS = 3.0
_MOST_BLENDED = 6
_LOWERS = re.compile(
    r"strid|slid|score_first|online|tune|ttt|\bema|_ema|swa|lawa|averag|avg|gram|cache|mix|ppm|lora|adapt|slot|bias|context|ctx|overlap|polyak"
    r"|soup|ensembl|tilt|hedge|memory|window",
    re.I,
)
_ROW = re.compile(
    r"^(?:step[: ]+)?(\d+)/\d+[ :|]+(?:train_)?loss\s*[:=]\s*([\d.]+)(?:.*?train_time[:=]\s*([\d.]+)ms)?", re.I
)


@dataclass(frozen=True)
class _Trail:
    """Training losses, and milliseconds if they are printed, by step."""

    losses: dict[int, float]
    clock: dict[int, float]


def unexplained_gains(facts: Facts, program: Program) -> Iterator[RuleFinding]:
    """A final score below the last validation row, if no code that ran lowers it; one finding for all logs."""
    off: list[tuple[float, Line, Line]] = []
    for log in facts.own_logs:
        final, rows = log.final, [row for row in log.rows if row.bpb > 0 and row.step > 0]
        if final is None or not final.bpb or not rows or "positions:" in rows[-1].line.text:
            continue
        gain = min(row.bpb for row in rows) - final.bpb
        if gain > _GAIN:
            off.append((gain, rows[-1].line, final.line))
    if not off:
        return
    largest, row, line = max(off, key=lambda gain: gain[0])
    if largest > _MOST_GAIN:
        reason = "more than any honest method after training has given"
    elif not _lowering(program):
        reason = "and no code that ran lowers it: no window, no averaged weights, no adaptation"
    else:
        return
    yield RuleFinding(
        "consistency",
        SUSPECT,
        f"The final score is {largest:.4f} bits per byte below the last validation row, {reason}; packing alone "
        "makes it worse. Probe: run the committed script from its checkpoint.",
        quoted([row, line]),
        {"gain": round(largest, 5), "logs": len(off)},
    )


def _lowering(program: Program) -> bool:
    """Whether code that can run names something that lowers a score: a function's name, or a name that it assigns."""
    for function in program.functions:
        if function.live and (
            _LOWERS.search(function.name)
            or _LOWERS.search(function.owner or "")
            or any(_LOWERS.search(name) for name in function.assigned if "." not in name)
        ):
            return True
    return False


def odd_trails(log: Log) -> Iterator[RuleFinding]:
    """A last validation loss far below the training losses around it."""
    rows = [row for row in log.rows if row.loss > 0 and row.step > 100]
    if not rows:
        return
    last = rows[-1]
    near = [loss for step, loss in _trail(log).losses.items() if 0.85 * last.step < step <= last.step]
    if len(near) < 3:
        return
    training = sum(near[-6:]) / len(near[-6:])
    other_terms = _other_terms(log)
    if training - last.loss > _BELOW_TRAINING + max(other_terms or 0.0, 0.0):
        yield RuleFinding(
            "consistency",
            HOLD if other_terms is None else SUSPECT,
            f"The last validation loss, {last.loss:.4f}, is {training - last.loss:.3f} nats below the training losses "
            f"around it ({training:.4f}): text that a model has not seen is no easier than what it learns from.",
            quoted([last.line]),
            {"validation": last.loss, "training": round(training, 4)},
        )
        return
    yield from _drop(rows, _trail(log))


def _other_terms(log: Log) -> float | None:
    """Other terms in the training loss: how far above the first validation row it begins."""
    first = next((row for row in log.rows if row.step == 0 and row.loss > 0), None)
    begins = [loss for step, loss in _trail(log).losses.items() if step <= 2]
    return max(begins) - first.loss if first is not None and begins else None


def _drop(rows: Sequence[LoggedRow], trail: _Trail) -> Iterator[RuleFinding]:
    """A last validation row that falls by more than the training losses before it."""
    if len(rows) < 3:
        return
    before, last = rows[-2:]
    half = (last.step - before.step) / 2
    near = [[loss for s, loss in trail.losses.items() if row.step - half < s <= row.step] for row in (before, last)]
    if half <= 0 or min(map(len, near)) < 2:
        return
    fell = sum(near[0]) / len(near[0]) - sum(near[1]) / len(near[1])
    if before.loss - last.loss - max(fell, 0.0) > _DROP:
        yield RuleFinding(
            "consistency",
            SUSPECT,
            f"The last validation loss falls by {before.loss - last.loss:.3f} nats from the row before it, the "
            f"training losses by {fell:.3f} on the same way.",
            quoted([before.line, last.line]),
            {"validation": round(before.loss - last.loss, 4), "training": round(fell, 4)},
        )


def impossible_scores(facts: Facts) -> Iterator[RuleFinding]:
    """A declared or final score that no model of this size can have."""
    claims = [(x.number, x.line) for x in [facts.bpb] if x is not None and x.number]
    claims += [(log.final.bpb, log.final.line) for log in facts.own_logs if log.final is not None and log.final.bpb > 0]
    low = [(value, line) for value, line in claims if value < LEAST_BPB]
    if low:
        value, line = min(low, key=lambda claim: claim[0])
        yield RuleFinding(
            "consistency",
            SUSPECT,
            f"{value:g} bits per byte: the best honest score of 16 MB is 1.056 (#2135), and language models of a "
            "hundred thousand times the bytes reach about .6 on such text. Probe: sum p over the vocabulary, and "
            "decode all validation tokens.",
            quoted([line]),
            {"bpb": value, "least": LEAST_BPB},
        )


# ---- several logs that are one


def copied_logs(facts: Facts) -> RuleFinding | None:
    """Logs that stand for several runs but are one: the same curve, or one that follows another too closely."""
    logs = _once_each([log for log in facts.own_logs or facts.logs if log.final is not None])
    claimed = min(max(len(facts.runs), 2), 3)
    if len(logs) < 2:
        return None
    groups, exact = _groups(logs)
    blend = _blend([group[0] for group in groups]) if len(groups) <= _MOST_BLENDED else []
    if blend:
        groups, exact = [group for group in groups if group[0] is not blend[0]], False
        claimed = len(groups) + 1
    if len(groups) >= claimed or len(groups) == len(logs):
        return None
    first_log = blend or max(groups, key=len)
    names = ", ".join(log.path for log in first_log[:4])
    text = (
        f"{names} are one run: their losses and seconds are the same at every step."
        if exact
        else f"{names} follow each other too well to be runs of their own: at the same rows their training losses "
        f"differ by less than {_ALIKE_NATS} nats from a line or a blend, or their seconds by a constant."
    )
    lines = quoted(log.final.line for log in first_log[:4] if log.final is not None)
    numbers = {"logs": len(logs), "runs": len(groups)}
    return RuleFinding("seeds", FAIL if exact else SUSPECT, f"{text} Add the logs of the other seeds.", lines, numbers)


def _groups(logs: Sequence[Log]) -> tuple[list[list[Log]], bool]:
    """Logs in groups that follow one curve each, and whether some curve is there twice, exactly equal."""
    groups: list[list[Log]] = []
    exact = False
    for log in logs:
        for group in groups:
            likeness = _likeness(_trail(group[0]), _trail(log))
            if likeness:
                exact = exact or likeness == "equal"
                group.append(log)
                break
        else:
            groups.append([log])
    return groups, exact


def _once_each(logs: list[Log]) -> list[Log]:
    """The logs without one that repeats another under a plain name: `train.log` beside `train_seed1337.log` (#287)."""
    named = [log for log in logs if any(seed in PurePosixPath(log.path).name for seed in log.seeds)]

    def repeats(log: Log) -> bool:
        return any(log.seeds == other.seeds and _likeness(_trail(log), _trail(other)) == "equal" for other in named)

    return [log for log in logs if re.search(r"\d", PurePosixPath(log.path).name) or not repeats(log)]


def _trail(log: Log) -> _Trail:
    losses: dict[int, float] = {}
    clock: dict[int, float] = {}
    for line in log.lines:
        if row := _ROW.match(line.text):
            losses[int(row[1])] = float(row[2].rstrip(".") or 0)
            if row[3]:
                clock[int(row[1])] = float(row[3].rstrip(".") or 0)
    return _Trail(losses, clock)


def _likeness(first: _Trail, second: _Trail) -> str:
    """`equal` for the same curve twice, `near` for one made from the other, empty for two runs."""
    steps = [step for step in first.losses if step in second.losses and step > 10]
    timed = [step for step in steps if step in first.clock and step in second.clock]
    if len(steps) < 5:
        return ""
    equal = sum(first.losses[s] == second.losses[s] for s in steps) / len(steps)
    same_clock = sum(first.clock[s] == second.clock[s] for s in timed) / len(timed) if len(timed) >= 5 else equal
    if equal > 0.95 and same_clock > 0.95:
        return "equal"
    copied = [s for s in timed if first.losses[s] == second.losses[s] and first.clock[s] == second.clock[s]]
    if equal > 0.6 or len(copied) > max(4, 0.2 * len(steps)) or (len(timed) >= 5 and same_clock > 0.6):
        return "near"
    if len(timed) >= 8 and _residual([first.clock[s] for s in timed], [second.clock[s] for s in timed]) < _ALIKE_MS:
        return "near"
    x, y = [first.losses[s] for s in steps], [second.losses[s] for s in steps]
    lags = ((x, y), (x[1:], y[:-1]), (x[:-1], y[1:]), (x[2:], y[:-2]), (x[:-2], y[2:]))
    return "near" if len(steps) >= 12 and any(_residual(a, b) < _ALIKE_NATS for a, b in lags) else ""


def _blend(logs: Sequence[Log]) -> list[Log]:
    """A log whose losses are a weighted sum of two others, with these; empty if there is none."""
    trails = [_trail(log).losses for log in logs]
    for i, log in enumerate(logs):
        for j, k in combinations([n for n in range(len(logs)) if n != i], 2):
            steps = [s for s in trails[i] if s > 10 and s in trails[j] and s in trails[k]]
            first, second, mixture = ([trails[n][s] for s in steps] for n in (j, k, i))
            if len(steps) >= 12 and _deviation(_rest(_rest(first, second), _rest(first, mixture))) < _ALIKE_NATS:
                return [log, logs[j], logs[k]]
    return []


def _residual(x: Sequence[float], y: Sequence[float]) -> float:
    """Standard deviation of `y` about its best line over `x`."""
    return _deviation(_rest(x, y))


def _deviation(values: Sequence[float]) -> float:
    return float((sum(value**2 for value in values) / len(values)) ** 0.5) if values else float("inf")


def _rest(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """The residual of `y` about its best line over `x`; empty if `x` is constant."""
    count = len(x)
    mean_x, mean_y = sum(x) / count, sum(y) / count
    spread = sum((a - mean_x) ** 2 for a in x)
    if not spread:
        return []
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / spread
    return [b - mean_y - slope * (a - mean_x) for a, b in zip(x, y)]
