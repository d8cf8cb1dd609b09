"""How fast this machine trains: measure the real step at three shapes, and estimate any other shape from them.

    seconds of a step = a + b arithmetic + c traffic        arithmetic: 1e9 multiply-adds; traffic: 1e6 numbers moved

What a machine is good at is measured and not read from its flags: the middle shape's step is taken with bfloat16
factors and with float32 ones in turn, and the faster way is the plan's. The three numbers are the least squares of
relative errors that are not negative; so are those of scoring (`scoring.py`), at the same shapes. They are kept in the
user's cache by processor, device, threads, C kernels and version of torch. They are believed only after a few steps of
the middle shape: a machine that was busy then, or is busy now, is measured again. The seconds that this takes count in
the budget.
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
"""Seconds by some clock."""
SMALL = Shape(vocab=512, dim=64, blocks=2, hidden=128)
MIDDLE = Shape(vocab=4096, dim=128, blocks=4, hidden=256)
WIDE = Shape(vocab=1024, dim=256, blocks=3, hidden=768)
STEPS = 3
"""Steps that are timed of each shape, the first left out."""
_SCORED, _ADAPTED = 1.4, 3.0
"""Seconds of a position in plain and sliding windows, and adapting, over a training token's: of `house` on a CPU."""
SAME_PACE = 1.25
"""How many times faster or slower than it was a machine may be before it is measured again."""


@dataclass(frozen=True)
class Throughput:
    """Three numbers of a machine, whether bfloat16 factors are faster on it, and seconds that measuring took.

    `middle` is what a step of the middle shape took, `scoring` what positions take; None: not measured. `fresh` is
    false where the numbers come from the cache; `seconds` are then those of checking them.
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
    """Measure this machine, unless what was measured before still holds and it is not asked for `again`.

    `now` is the clock that the budget goes by: of the wall, or of the processor. Raises `UserError` for a device that
    is not there.
    """
    world = find_world(device)
    words = [processor_words(), str(world.device), f"{torch.get_num_threads()} threads", str(torch.__version__)]
    words += [now.__name__, sources_hash()]
    name = hashlib.sha256("\n".join(words).encode()).hexdigest()[:24]
    path = cache_folder() / f"throughput-{name}.json"
    clock = Clock(now)
    known = None if again else _known(path)
    if known is not None and known.middle and known.scoring:
        yield Progress("measuring this machine", 0, 5, "is it as fast as it was?")
        steps = _steps(replace(MIDDLE, half=known.half), device, now)
        ratio = statistics.median(itertools.islice(steps, count)) / known.middle
        if 1 / SAME_PACE <= ratio <= SAME_PACE:
            return replace(known, fresh=False, seconds=clock.seconds)
    throughput = yield from _measure(device, f"{world.device}, {torch.get_num_threads()} threads", count, now)
    throughput = replace(throughput, seconds=clock.seconds)
    write_json(path, asdict(throughput))
    return throughput


def _known(path: Path) -> Throughput | None:
    """What was measured before; None where nothing was, or by another version."""
    try:
        return build(Throughput, read_json(path), where=str(path)) if path.is_file() else None
    except UserError:
        return None


def _measure(device: str | None, machine: str, count: int, now: Now) -> Events[Throughput]:
    """Time the shapes, the middle one in both ways."""
    yield Progress("measuring this machine", 0, 5, "bfloat16 or float32")
    times = {half: _steps(replace(MIDDLE, half=half), device, now) for half in (True, False)}
    turns = [(next(times[True]), next(times[False])) for _ in range(count)]
    halved, whole = (statistics.median(column) for column in zip(*turns))
    half, rows = halved < whole, [(MIDDLE, min(halved, whole))]
    for number, shape in enumerate((SMALL, WIDE)):
        yield Progress("measuring this machine", 2 + number, 5, str(shape))
        steps = itertools.islice(_steps(replace(shape, half=half), device, now), count)
        rows.append((shape, statistics.median(steps)))
    yield Progress("measuring this machine", 4, 5, "scoring")
    scoring = _scoring((SMALL, MIDDLE, WIDE), find_world(device), Clock(now))
    return replace(fitted(rows, half=half, machine=machine), middle=min(halved, whole), scoring=scoring)


def _scoring(shapes: Sequence[Shape], world: World, clock: Clock) -> ScoringCost:
    """Time the scoring of the shapes."""
    sliding, adapting = zip(*(time_scoring(shape, world, clock) for shape in shapes))
    costs = [scoring_features(shape) for shape in shapes]
    return ScoringCost(Cost(*_least_squares(costs, sliding)), Cost(*_least_squares(costs, adapting)))


def fitted(rows: Sequence[tuple[Shape, float]], *, half: bool, machine: str) -> Throughput:
    """The three numbers, from shapes and the seconds of their steps."""
    numbers = _least_squares([features(shape) for shape, _ in rows], [seconds for _, seconds in rows])
    return Throughput(*numbers, half, machine)


def _least_squares(rows: Sequence[tuple[float, float, float]], seconds: Sequence[float]) -> tuple[float, float, float]:
    """The three numbers of least relative error, none of them negative."""
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
    """Seconds of one real training step after another, on tokens drawn at random; the first is not told."""
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
