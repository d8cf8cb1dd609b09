"""How fast this machine trains: measure the real step at three shapes, and estimate any other shape from them.

    seconds of a step = a + b arithmetic + c traffic        arithmetic: 1e9 multiply-adds; traffic: 1e6 numbers moved

The faster number format is measured, not read from the processor's flags: the middle shape alternates steps with
bfloat16 and with float32 factors, and the plan takes the faster. The three numbers minimize the squared relative error,
and none is negative. Scoring is measured at the same shapes (`scoring.py`). The numbers are cached by processor,
device, threads, C kernels and version of torch. Before they are used again, a few steps of the middle shape check them:
if the machine was busy then, or is busy now, it is measured again. These seconds count in the budget.
"""

import hashlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pargolf.core.budget import Clock
from pargolf.core.devices import find_world
from pargolf.core.errors import UserError
from pargolf.core.events import Progress, Step
from pargolf.core.files import cache_folder, read_json, write_json
from pargolf.core.ranges import Rate, Seconds
from pargolf.core.spec import build, edit
from pargolf.core.work import Events
from pargolf.core.world import World, synchronize
from pargolf.data.shards import Shards
from pargolf.kernels.compiled import compiled_kernels, processor_words, sources_hash
from pargolf.recipes.family import Shape, member
from pargolf.study.planning.scoring import Cost, ScoringCost, scoring_features, time_scoring
from pargolf.training.loop import Training

Now = Callable[[], float]
"""A clock: returns seconds."""
SMALL = Shape(vocab=512, dim=64, blocks=2, hidden=128)
MIDDLE = Shape(vocab=4096, dim=128, blocks=4, hidden=256)
WIDE = Shape(vocab=1024, dim=256, blocks=3, hidden=768)
STEPS = 3
"""Steps that decide between bfloat16 and float32. Then twice as many are timed for each shape."""
_SCORED, _ADAPTED = 1.4, 3.0
"""Seconds per position in plain and sliding windows, and with adaptation, over a training token's seconds (CPU)."""
SAME_PACE = 1.25
"""The machine is measured again if it is faster or slower than before by more than this factor."""


@dataclass(frozen=True)
class Throughput:
    """Three numbers that describe a machine's speed, the faster number format, and the seconds that measuring took.

    `half` is whether bfloat16 factors are faster. `middle` is the time of the middle shape's step, `scoring` the cost
    of positions; None means not measured. `fresh` is false if the numbers come from the cache; then `seconds` is the
    time of checking them.
    """

    fixed: Rate
    arithmetic: Rate
    traffic: Rate
    half: bool
    machine: str
    seconds: Seconds = 0.0
    fresh: bool = True
    middle: Seconds | None = None
    scoring: ScoringCost | None = None

    def step(self, shape: Shape) -> float:
        """Seconds of one training step."""
        return float(np.dot(features(shape), (self.fixed, self.arithmetic, self.traffic)))

    def score(self, shape: Shape, positions: float) -> float:
        """Seconds of all scorings of an artifact."""
        if self.scoring is not None:
            return self.scoring.run(shape, positions)
        return positions * (_SCORED + (_ADAPTED if shape.adapt else 0.0)) * self.step(shape) / shape.batch_tokens


def features(shape: Shape) -> tuple[float, float, float]:
    """What a step costs: 1, 1e9 multiply-adds of products and of Muon, 1e6 numbers read and written between them."""
    products = 3.0 * shape.batch_tokens * shape.weights
    keys = shape.batch_tokens * shape.seq_len * shape.dim * shape.blocks * 3.0
    muon = 15.0 * shape.blocks * shape.matrices * shape.dim
    moved = shape.batch_tokens * (shape.vocab + shape.blocks * (20 * shape.dim + 4 * shape.hidden))
    return 1.0, (products + keys + muon) / 1e9, (moved + 4.0 * shape.weights) / 1e6


def measured(
    *, device: str | None = None, again: bool = False, count: int = STEPS, now: Now = time.perf_counter
) -> Events[Throughput]:
    """Measure this machine, or return an earlier measurement that is still right. `again` always measures.

    `now` is the clock of the budget: wall time, or processor time. Raises `UserError` if the device does not exist.
    """
    world = find_world(device)
    words = [processor_words(), str(world.device), f"{torch.get_num_threads()} threads", str(torch.__version__)]
    words += [now.__name__, sources_hash()]
    name = hashlib.sha256("\n".join(words).encode()).hexdigest()[:24]
    path = cache_folder() / f"throughput-{name}.json"
    clock = Clock(now)
    known = None if again else _known(path)
    if known is not None and known.middle and known.scoring:
        yield Progress("measuring this machine", 0, 4, "is it as fast as it was?")
        steps = _steps(replace(MIDDLE, half=known.half), device, now)
        ratio = statistics.median(itertools.islice(steps, count)) / known.middle
        if 1 / SAME_PACE <= ratio <= SAME_PACE:
            return replace(known, fresh=False, seconds=clock.seconds)
    throughput = yield from _measure(device, f"{world.device}, {torch.get_num_threads()} threads", count, now)
    throughput = replace(throughput, seconds=clock.seconds)
    write_json(path, asdict(throughput))
    return throughput


def _known(path: Path) -> Throughput | None:
    """The earlier measurement; None if there is none, or if another version wrote it."""
    try:
        return build(Throughput, read_json(path), where=str(path)) if path.is_file() else None
    except UserError:
        return None


def _measure(device: str | None, machine: str, count: int, now: Now) -> Events[Throughput]:
    """Time the middle shape in both ways, then all three; steps take turns, so that all of them meet the same load."""
    yield Progress("measuring this machine", 0, 4, "bfloat16 or float32")
    halved, whole = _in_turn([replace(MIDDLE, half=half) for half in (True, False)], device, count, now)
    half = halved < whole
    yield Progress("measuring this machine", 1, 4, "training")
    shapes = (MIDDLE, SMALL, WIDE)
    seconds = _in_turn([replace(shape, half=half) for shape in shapes], device, 2 * count, now)
    yield Progress("measuring this machine", 3, 4, "scoring")
    scoring = _scoring((SMALL, MIDDLE, WIDE), find_world(device), Clock(now))
    throughput = fitted(list(zip(shapes, seconds)), half=half, machine=machine)
    return replace(throughput, middle=seconds[0], scoring=scoring)


def _in_turn(shapes: Sequence[Shape], device: str | None, count: int, now: Now) -> list[float]:
    """Median seconds of a step of each shape, one step of each after the other."""
    turns = zip(*(_steps(shape, device, now) for shape in shapes))
    return [statistics.median(column) for column in zip(*itertools.islice(turns, count))]


def _scoring(shapes: Sequence[Shape], world: World, clock: Clock) -> ScoringCost:
    """Time the scoring of the shapes."""
    sliding, adapting = zip(*(time_scoring(shape, world, clock) for shape in shapes))
    costs = [scoring_features(shape) for shape in shapes]
    return ScoringCost(Cost(*_least_squares(costs, sliding)), Cost(*_least_squares(costs, adapting)))


def fitted(rows: Sequence[tuple[Shape, float]], *, half: bool, machine: str) -> Throughput:
    """The three numbers, fitted to shapes and the seconds of their steps."""
    numbers = _least_squares([features(shape) for shape, _ in rows], [seconds for _, seconds in rows])
    return Throughput(*numbers, half, machine)


def _least_squares(rows: Sequence[tuple[float, float, float]], seconds: Sequence[float]) -> tuple[float, float, float]:
    """The three non-negative numbers with the least relative error."""
    scaled = np.array(rows) / np.array(seconds)[:, None]
    best: tuple[float, list[float]] = (np.inf, [0.0, 0.0, 0.0])
    for chosen in (columns for size in (1, 2, 3) for columns in itertools.combinations(range(3), size)):
        x, *_ = np.linalg.lstsq(scaled[:, chosen], np.ones(len(rows)), rcond=None)
        error = float(np.square(scaled[:, chosen] @ x - 1).sum())
        if (x >= 0).all() and error < best[0] - 1e-12:
            values = [0.0, 0.0, 0.0]
            for column, value in zip(chosen, x):
                values[column] = float(value)
            best = error, values
    fixed, arithmetic, traffic = best[1]
    return fixed, arithmetic, traffic


def _steps(shape: Shape, device: str | None, now: Now) -> Iterator[float]:
    """Seconds of one real training step after another, on random tokens, after a first step that is not timed."""
    world = find_world(device)
    # Compiling for a GPU would take longer than all else here.
    recipe = edit(member(shape), {"train.steps": 1 << 20, "train.seconds": None, "train.compile": False})
    tokens = np.random.default_rng(0).integers(2, shape.vocab, 8 * shape.batch_tokens).astype(np.uint16)
    clock = Clock(now)
    training = Training(
        recipe.train,
        recipe.model.build(0).to(world.device),
        Shards([tokens]),
        seed=0,
        clock=clock,
        seconds=float("inf"),
        world=world,
        kernels=compiled_kernels,
    )
    training.warm_up()
    events = (event for event in training.run() if isinstance(event, Step))
    next(events)
    while True:
        began = clock.seconds
        next(events)
        synchronize(world.device)
        yield clock.seconds - began
