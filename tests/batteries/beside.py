"""Seeds side by side, whose processes get a signal: all end, and the same command goes on."""

import itertools
import os
import random
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import small
from forks import alive, children, ended, forked, wait_until

import pargolf
from batteries.trial import Trial
from pargolf.core.events import Resumed
from pargolf.core.spec import edit
from pargolf.training.checkpoint import Checkpoints

SEEDS = (5, 7)
RECIPE = edit(small.RECIPE, {"train.steps": 100_000})  # none ends by itself
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)


def trials(data: Path, folder: Path, chance: random.Random) -> Iterator[Trial]:
    """A signal to the first process, Ctrl-C to all of them as a terminal sends it, SIGKILL to one of the others."""
    for number in itertools.count():
        out = folder / f"{number}"
        for one in SIGNALS:
            yield Trial(f"{one.name} to the first", partial(interrupted, one, data, out), seconds=240)
        yield Trial("SIGINT to all", partial(interrupted, signal.SIGINT, data, out, to="all"), seconds=240)
        yield Trial("SIGKILL to another", partial(replaced, data, out), seconds=240)


def interrupted(number: signal.Signals, data: Path, out: Path, *, to: str = "first") -> str:
    """Begin two runs, send the signal when both have taken steps, and go on with the first of them."""
    begun, others, events = both(data, out)
    for process in {"first": [begun], "all": [begun, *others]}[to]:
        os.kill(process, number)
    code = ended(begun)
    killed = to == "first" and number == signal.SIGKILL
    assert code == (-number if killed else 2), f"the first process ended with {code}"
    wait_until(lambda: not any(map(alive, others)))
    kept = [Checkpoints(path.parent / "checkpoints").newest() for path in events]
    steps = [checkpoint.facts["step"] for checkpoint in kept if checkpoint is not None]
    assert min(steps, default=0) > 0 and len(steps) == len(SEEDS), "a run's state was not kept"
    work = pargolf.seeds(RECIPE, seeds=SEEDS, data=data, out=out)
    if kept[0] is not None:
        assert next(event.step for event in work if isinstance(event, Resumed)) == kept[0].facts["step"]
    work.close()
    shutil.rmtree(out)
    return "it went on"


def replaced(data: Path, out: Path) -> str:
    """Kill one of two processes: another one takes its place and goes on with its run, and nothing is lost."""
    begun, others, events = both(data, out, every=0.0)
    wait_until(lambda: all([*path.parent.glob("checkpoints/step-*")] for path in events))
    os.kill(others[-1], signal.SIGKILL)
    wait_until(lambda: len([process for process in children(begun) if process not in others]) == 1)
    wait_until(lambda: any('"Resumed"' in path.read_text() for path in events))
    os.kill(begun, signal.SIGTERM)
    assert ended(begun) == 2
    shutil.rmtree(out)
    return "it was replaced"


def both(data: Path, out: Path, *, every: float = 60.0) -> tuple[int, list[int], list[Path]]:
    """Two runs that have taken steps: the first process, the others, and the events of both runs."""
    seeds = partial(pargolf.seeds, RECIPE, seeds=SEEDS, data=data, out=out, jobs=len(SEEDS), checkpoint_every=every)
    begun = forked(lambda: seeds().result())
    events = [out / f"seed-{seed}" / "events.jsonl" for seed in SEEDS]
    wait_until(lambda: all(path.is_file() and '"Step"' in path.read_text() for path in events))
    others = children(begun)
    assert len(others) >= len(SEEDS)
    return begun, others, events
