"""A small run killed, signalled, or left without room on the disk, that must go on to the bytes of an undisturbed one.

Each run is a fork of this process, disturbed at a known place: before a pass, in an update, with a checkpoint half on
the disk, while it packs, scores or writes what came of it; and at random moments.
"""

import itertools
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import small
from forks import die, ended, forked

from batteries.trial import Trial
from pargolf.core.budget import Budget
from pargolf.core.events import Packed, PhaseBegan, Resumed, Scored, Started, Step, Stopped
from pargolf.data.folder import DataFolder, open_data
from pargolf.data.prepare import prepare
from pargolf.data.stream import Shuffled
from pargolf.evaluate.windows import Plain, Sliding
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import QAT, Quantize
from pargolf.recipes.recipe import Recipe
from pargolf.run import pipeline as run_pipeline
from pargolf.run import reserve
from pargolf.run import training as run_training
from pargolf.run.folder import RunFolder
from pargolf.run.pipeline import run_recipe
from pargolf.training.average import EMA
from pargolf.training.optimizer import Optimizer
from pargolf.training.phases import AtStep, Phase
from pargolf.training.schedule import Warmdown
from pargolf.watch.runlog import read_events

QUANT = Quantize((("embed.*", Int(8)), ("attn.*", Int(6)), ("mlp.*", Int(5)), ("*", Keep())))
RECIPE = Recipe(
    name="small",
    source="tests",
    model=small.model(bos=1, vocab=260),
    train=small.train(
        steps=8,
        order=Shuffled(),
        average=EMA(0.8),
        grad_clip=1.0,
        schedule=Warmdown(0.5),
        phases=(Phase("qat", AtStep(5), weights=QAT((("mlp.*", Int(5)), ("*", None)))),),
    ),
    quant=replace(QUANT, table=(("embed.*", Int(8)), ("mlp.*", Int(5)), ("*", Keep()))),
    plain=Plain(16),
    windows=Sliding(16, 8),
    budget=Budget(bytes=200_000, train_seconds=60),
)


def prepared(folder: Path) -> DataFolder:
    """Twenty short texts in 257 pieces."""
    texts, out = folder / "texts", folder / "prepared"
    texts.mkdir()
    for i in range(20):
        (texts / f"{i:02}.txt").write_text(f"Text {i * i * 7919} says {hash((i, 1)) % 10**9} and {i} more. " * 3)
    for _ in prepare([texts], out, vocab=257):
        pass
    return open_data(out)


def undisturbed(data: DataFolder, out: Path) -> RunFolder:
    """The run that all others must end as."""
    for _ in run_recipe(RECIPE, data, out):
        pass
    return RunFolder.open(out)


def killed_at(step, data, out):
    def work():
        for event in run_recipe(RECIPE, data, out, checkpoint_every=0):
            if isinstance(event, Step) and event.step == step:
                die()

    return ended(forked(work))


def killed_while_writing(call, data, out):
    """Die in the `call`-th sync of a checkpoint's file, with its bytes half on the disk."""

    def work():
        sync, calls = os.fsync, []

        def fatal(handle):
            path = Path(f"/proc/self/fd/{handle}").readlink()
            calls.extend(["call"] if path.suffix == ".part" and path.parent.name == "checkpoints" else [])
            if len(calls) == call:
                os.ftruncate(handle, max(os.fstat(handle).st_size // 2, 1))
                die()
            sync(handle)

        os.fsync = fatal
        for _ in run_recipe(RECIPE, data, out, checkpoint_every=0):
            pass

    return ended(forked(work))


def sent(number, to, twice_after=0.02):
    """Send a signal to this process, and another 20 ms later."""
    os.kill(os.getpid(), number)
    time.sleep(twice_after)
    os.kill(os.getpid(), to)
    time.sleep(twice_after)


def steps_of(folder):
    return [(e.step, e.loss, e.tokens) for e in read_events(folder["events.jsonl"]) if isinstance(e, Step)]


def logged_steps(folder):
    words = (folder["train.log"]).read_text().split()
    return [int(word[5:].split("/")[0]) for word, after in itertools.pairwise(words) if after.startswith("train_loss")]


def goes_on(out, data, whole, *, from_step=None):
    """`--resume` ends as the run that nothing disturbed, and goes on after `from_step` where that is known."""
    events = list(run_recipe(RECIPE, data, out, resume=True))
    again = RunFolder.open(out)
    for name in ("weights.safetensors", "model.pargolf"):
        assert again[name].read_bytes() == whole[name].read_bytes()
    assert steps_of(again) == steps_of(whole) and logged_steps(again) == logged_steps(whole) == list(range(1, 9))
    kinds = [[type(e) for e in read_events(f["events.jsonl"])] for f in (again, whole)]
    for kind in (Started, PhaseBegan, Stopped, Packed, Scored):
        assert kinds[0].count(kind) == kinds[1].count(kind), kind
    resumed = [e.step for e in events if isinstance(e, Resumed)]
    from_step = sum(resumed) if from_step is None else from_step
    assert resumed == ([from_step] if from_step else [])
    assert [e.step for e in events if isinstance(e, Step)] == list(range(from_step + 1, 9))
    results = [f.read_result() for f in (again, whole)]
    assert results[0].val_bpb == results[1].val_bpb and not results[0].interrupted
    assert results[0].steps == 8 and not again.checkpoints.exists()
    return events


def disturbed(owner, name, disturb, data, out, *, at=1, **options):
    """A run in a fork in which the `at`-th call of a function is preceded by `disturb()`; its exit code."""

    def work():
        real, calls = getattr(owner, name), []

        def wrapped(*args, **kwargs):
            calls.append(name)
            if len(calls) == at:
                disturb()
            return real(*args, **kwargs)

        setattr(owner, name, wrapped)
        for _ in run_recipe(RECIPE, data, out, **options):
            pass

    return ended(forked(work))


def limited(size):
    """No file may grow past `size` bytes, as on a disk that is full; half a line is still written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


SIGNALS = [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT), (signal.SIGHUP, signal.SIGTERM)]


Place = tuple[Any, str, int]
"""A function, by its owner and name, and which of its calls: the run is disturbed right before it."""
STEPS: list[Place] = [
    *((run_training.Training, "_gradients", n) for n in range(1, 9)),
    *((Optimizer, "step", n) for n in range(1, 9)),
]
AFTER_TRAINING: list[Place] = [
    (run_pipeline, "fit", 1),
    (run_pipeline, "write_bytes", 1),
    (run_pipeline, "packed_event", 1),
    (run_pipeline, "unpack", 1),
    *((run_pipeline, "score_together", n) for n in range(1, 4)),
    (run_pipeline, "document_rows", 1),
    (RunFolder, "write_documents", 1),
    (RunFolder, "write_result", 1),
    (RunFolder, "drop_checkpoints", 2),
]
BEFORE_TRAINING: list[Place] = [(reserve, "fit", 1), (RunFolder, "write_weights", 1)]
PLACES = [*BEFORE_TRAINING, *STEPS, *AFTER_TRAINING]


def kills(data: DataFolder, whole: RunFolder, folder: Path, chance: random.Random) -> Iterator[Trial]:
    """SIGKILL at each place, in each checkpoint, and then at random moments, up to three in one run."""
    numbers = itertools.count()
    for owner, name, at in PLACES:
        kill = partial(disturbed, owner, name, die, data, at=at, checkpoint_every=0)
        yield Trial(f"{name}, call {at}", partial(_killed, kill, data, whole, folder / f"kill-{next(numbers)}"))
    for at in range(1, 9):
        kill = partial(killed_while_writing, at, data)
        yield Trial(f"checkpoint {at}", partial(_killed, kill, data, whole, folder / f"kill-{next(numbers)}"))
    while True:
        moments = [chance.uniform(0, 1.5) for _ in range(chance.randint(1, 3))]
        out = folder / f"kill-{next(numbers)}"
        yield Trial(f"after {moments} s", partial(_killed_later, moments, data, whole, out))


def signals(data: DataFolder, whole: RunFolder, folder: Path, chance: random.Random) -> Iterator[Trial]:
    """Ctrl-C, SIGTERM and SIGHUP, once or twice 20 ms apart, at any place."""
    for number in itertools.count():
        once = [(signal.SIGINT, None), (signal.SIGTERM, None), (signal.SIGHUP, None)]
        pair = chance.choice([*once, *SIGNALS])
        owner, name, at = chance.choice(PLACES)
        act = partial(_signalled, pair, (owner, name, at), data, whole, folder / f"signal-{number}")
        yield Trial(f"{[s and s.name for s in pair]} at {name}, call {at}", act)


def full_disks(data: DataFolder, whole: RunFolder, folder: Path, chance: random.Random) -> Iterator[Trial]:
    """No room for more than some bytes, from the start or from some step on, for a while or to the end."""
    for number in itertools.count():
        since = chance.choice((0, 1, 2, 3, 5, 8))
        until = chance.choice((*range(since + 1, 9), 99))
        room = chance.choice((0, 1, 40, 400, 4_000, 20_000))
        act = partial(_starved, since, until, room, data, whole, folder / f"disk-{number}")
        yield Trial(f"{room} bytes from step {since} to {until}", act)


def _killed(kill: Callable[..., int], data: DataFolder, whole: RunFolder, out: Path) -> None:
    code = kill(out=out)
    assert code == -signal.SIGKILL, f"the place was not reached, or the run failed: {code}"
    _ends_as(whole, data, out)


def _killed_later(moments: list[float], data: DataFolder, whole: RunFolder, out: Path) -> str:
    for moment in moments:
        resume = (out / "recipe.json").is_file()
        if (out / "result.json").is_file():
            break
        child = forked(lambda resume=resume: list(run_recipe(RECIPE, data, out, resume=resume, checkpoint_every=0)))
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        code = ended(child)
        assert code in (0, -signal.SIGKILL), f"the run failed with {code}"
    return _ends_as(whole, data, out)


def _signalled(
    pair: tuple[signal.Signals, signal.Signals | None], place: Place, data: DataFolder, whole: RunFolder, out: Path
) -> str:
    owner, name, at = place
    one, two = pair
    send = partial(sent, one, two) if two is not None else lambda: os.kill(os.getpid(), one)
    code = disturbed(owner, name, send, data, out, at=at)
    # 0: the first Ctrl-C ends training, and what was trained is scored; or nothing was left to end.
    assert code in (0, 2), f"the run failed with {code}"
    return _ends_as(whole, data, out)


def _starved(since: int, until: int, room: int, data: DataFolder, whole: RunFolder, out: Path) -> str:
    def work() -> None:
        if since == 0:
            limited(room)
        for event in run_recipe(RECIPE, data, out, checkpoint_every=0):
            if isinstance(event, Step) and event.step == until:
                limited(resource.RLIM_INFINITY)
            elif isinstance(event, Step) and event.step == since:
                limited((out / "events.jsonl").stat().st_size + room)

    code = ended(forked(work))
    assert code in (0, 2, 4), f"the run failed with {code}"
    return _ends_as(whole, data, out)


def _ends_as(whole: RunFolder, data: DataFolder, out: Path) -> str:
    """Go on where there is anything to go on from, and compare."""
    if not (out / "recipe.json").is_file():
        shutil.rmtree(out, ignore_errors=True)
        return "nothing was begun"
    folder = RunFolder.open(out)
    if folder.has_ended and not folder.read_result().interrupted:
        _is_as(whole, folder)
        end = "it had ended"
    else:
        goes_on(out, data, whole)
        end = "it went on"
    shutil.rmtree(out)
    return end


def _is_as(whole: RunFolder, run: RunFolder) -> None:
    """The same weights, artifact, steps and score."""
    for name in ("weights.safetensors", "model.pargolf"):
        assert run[name].read_bytes() == whole[name].read_bytes(), f"other {name}"
    assert steps_of(run) == steps_of(whole), "other steps"
    assert run.read_result().val_bpb == whole.read_result().val_bpb, "another score"
