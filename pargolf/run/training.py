"""Training as a run does it: inside the seconds, with looks at the validation split, and nothing lost by its end.

Packing is rehearsed on the first weights, calibration with it, and writing them. That measures the seconds to keep for
all at the end, and says before anything is spent whether the model can meet the cap at all. Calibration reads training
batches that come after the last step. Looks and checkpoints that would not fit are
left out. Ctrl-C ends training after the step at hand, and what was trained is packed and scored; SIGTERM (a scheduler
that wants its machine back) ends the run, for `--resume`. Either leaves a checkpoint, and so does a loss that is
no number.
"""

import math
import os
import platform
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed import DistError

from pargolf.core.budget import Clock
from pargolf.core.errors import UserError
from pargolf.core.events import Event, Resumed, Started, Step, Stopped, Validated, Weighed
from pargolf.core.world import World
from pargolf.kernels.compiled import compiled_kernels
from pargolf.model.transformer import Transformer
from pargolf.quant.calibrate import calibrate, own_text
from pargolf.quant.gptq import GPTQ, Hessians, OwnText
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder
from pargolf.run.forecast import weigh
from pargolf.run.pack import fit
from pargolf.run.reserve import Reserve
from pargolf.run.score import Validation
from pargolf.ship.size import count_code
from pargolf.training.checkpoint import Checkpoint, Checkpoints
from pargolf.training.loop import NotFinite, Training

SAMPLE_TOKENS = 8192
"""Tokens graded by each look at the validation split while training."""


@dataclass(frozen=True)
class Trained:
    """What training came to: the model, how many steps and tokens it took, why it ended, Hessians where asked for."""

    model: Transformer
    steps: int
    tokens: int
    reason: str
    hessians: Hessians | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights by name, on the CPU."""
        return on_cpu(self.model)


@dataclass(frozen=True)
class Keeping:
    """Where a run's state goes: a folder for weights, one for checkpoints; and the checkpoint that it goes on from."""

    folder: RunFolder
    checkpoints: Checkpoints
    resumed: Checkpoint | None = None


def train_weights(
    recipe: Recipe, validation: Validation, *, seed: int, world: World, clock: Clock, keep: Keeping | None = None
) -> Generator[Event, None, Trained]:
    """Train inside the budget of seconds, or to the recipe's steps; a call of all processes.

    Raises `UserError` when the seconds are too few, when the loss is no number, and on SIGTERM.
    """
    torch.manual_seed(seed)
    model = recipe.model.build(seed).to(world.device)
    with uncounted(recipe, clock):
        packing, writing = _rehearse(recipe, model, world, keep, Clock(clock.now))
    reserve = Reserve(_limit(recipe), packing + writing)
    limit = reserve.limit
    training = Training(
        recipe.train,
        model,
        validation.data.train,
        seed=seed,
        clock=clock,
        seconds=limit,
        world=world,
        kernels=compiled_kernels,
    )
    if keep is not None and keep.resumed is not None:
        training.restore(keep.resumed.tensors, keep.resumed.facts)
    if training.compiled or math.isfinite(limit):
        with uncounted(recipe, clock):
            training.warm_up()
    if training.step == 0 and clock.seconds + training.first > limit:
        raise UserError(
            f"{reserve.total:.1f} s are too few: {clock.seconds:.1f} are gone before the first step, which takes "
            f"{training.first:.1f}, and packing needs {reserve.kept:.1f}. "
            f"Set train.seconds={clock.seconds + reserve.kept + 10 * training.first + 5:.0f}."
        )
    yield _started(recipe, training, validation)
    if keep is not None and keep.resumed is not None:
        yield Resumed(training.step, keep.resumed.path.name, list(keep.resumed.refused), clock.seconds)
    saver = Saver(training, keep.checkpoints if keep else None, cost=writing)
    reason = yield from _watched(recipe, training, validation, saver, reserve)
    if reason == "terminated":
        raise UserError(f"Terminated after step {training.step}. {saver.left()} Go on with --resume.")
    hessians = None if recipe.quant.solver is None else _hessians(recipe.quant.solver, training)
    return Trained(model, training.step, training.tokens, reason, hessians)


def _hessians(solver: GPTQ, training: Training) -> Hessians:
    """What passes through every matrix on the next training batches, or on the model's own text; of all processes."""
    stream, model, device = training.stream, training.model, training.world.device
    rows = max(training.spec.micro_tokens // stream.seq_len, 1)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(training.step, training.step + solver.batches):
            x_BT, y_BT = (t.to(device) for t in stream.batch(step))
            if solver.calibration is not None:
                seed = training.seed + step * training.world.size + training.world.rank
                ids_BT = own_text(model, x_BT.shape, solver.calibration, seed=seed)
                x_BT, y_BT = ids_BT[:, :-1], ids_BT[:, 1:]
            yield from zip(torch.split(x_BT, rows), torch.split(y_BT, rows), strict=True)

    found = calibrate(model, batches())
    return {name: training.world.mean(h.to(device)).cpu() for name, h in found.items()}


def _watched(
    recipe: Recipe, training: Training, validation: Validation, saver: "Saver", reserve: Reserve
) -> Generator[Event, None, str]:
    """Train, look and save, and keep what the end needs; returns why it ended."""
    reason, every = "", recipe.train.validate_every
    look = every * (math.floor(training.progress.fraction / every) + 1)
    world, clock = training.world, training.clock
    began, cost = clock.now(), 0.0
    if math.isfinite(training.seconds):  # a look nobody sees, to know what one takes
        _look(recipe, training, validation)
        _weighed(recipe, training)
        (cost,) = world.max(clock.now() - began)
    (before,) = world.max(clock.seconds)
    with ended_by_signals(training):
        try:
            for event in training.run():
                if isinstance(event, Stopped):
                    reason = event.reason
                    if reason in ("interrupted", "terminated"):
                        saver.save()
                yield event
                if not isinstance(event, Step):
                    continue
                (now,) = world.max(clock.seconds)
                training.seconds = reserve.saw(now - before, slower=sum(training.slower[i] for i in training.begun))
                before = now
                saver.maybe(now)
                if training.progress.fraction >= look and now + cost <= training.seconds:
                    look += every
                    yield _look(recipe, training, validation)
                    yield _weighed(recipe, training)
        except NotFinite as error:
            saver.save()
            raise UserError(f"{error} {saver.left()}") from None
        except RuntimeError as error:
            if world.size > 1 and ("gloo" in str(error) or isinstance(error, DistError)):
                why = " ".join(str(error).split())[:200]
                raise UserError(f"Another process of this job is gone ({why}). Go on with --resume.") from error
            raise
    return reason


class Saver:
    """Writes a run's checkpoints on the first process, when it is time and the time allows."""

    def __init__(self, training: Training, checkpoints: Checkpoints | None, *, cost: float) -> None:
        self.training, self.checkpoints = training, checkpoints
        self.path = ""
        if checkpoints is not None:
            checkpoints.last, checkpoints.cost = training.clock.seconds, cost

    def maybe(self, now: float) -> None:
        """Save when one is due and fits, `now` by the clock of all processes."""
        kept = self.checkpoints
        if kept is not None and kept.due(now) and now + kept.cost <= self.training.seconds:
            self.save()

    def save(self) -> None:
        """Write the state as it is; a call of all processes."""
        if self.checkpoints is None:
            return
        training = self.training
        tensors, facts = training.state()
        if training.world.main:
            facts |= {"seed": training.seed, "train_tokens": len(training.shards)}
            self.path = str(self.checkpoints.write(tensors, facts))
        cost, now = training.world.max(training.clock.seconds - facts["seconds"], training.clock.seconds)
        self.checkpoints.cost, self.checkpoints.last = cost, now

    def left(self) -> str:
        """One sentence about what can be gone on from."""
        return f"Its state is kept in {self.path}." if self.path else "Nothing is kept of it."


def _limit(recipe: Recipe) -> float:
    """Seconds for all of training and packing, unlimited where only steps bound it."""
    if recipe.train.seconds is not None:
        return recipe.train.seconds
    return recipe.budget.train_seconds if recipe.train.steps is None else math.inf


def _rehearse(
    recipe: Recipe, model: Transformer, world: World, keep: Keeping | None, clock: Clock
) -> tuple[float, float]:
    """Seconds that calibration and packing take, and writing the weights; on the first process, and known to all."""
    packing = writing = 0.0
    if world.main:
        start = clock.seconds
        weights, hessians, solver = on_cpu(model), None, recipe.quant.solver
        if solver is not None:
            share = (recipe.train.batch_tokens // world.size // recipe.train.seq_len, recipe.train.seq_len)
            ids_BT = torch.randint(recipe.model.vocab, share).to(world.device)
            rows = max(recipe.train.micro_tokens // recipe.train.seq_len, 1)
            hessians = calibrate(model, ((x_bT, x_bT) for x_bT in torch.split(ids_BT, rows)))
            packing = (solver.batches - 1) * (clock.seconds - start)
            if solver.calibration is not None:
                packing += solver.batches * _sampling(model, ids_BT, clock)
        # Zeros pack faster than what they will have become.
        busy = {name: w if bool(w.any()) else torch.randn_like(w) * 0.02 for name, w in weights.items()}
        began = clock.seconds
        with compiled_kernels():
            fit(recipe, busy, tokenizer="rehearsal", cap=recipe.budget.bytes, hessians=hessians, fill=False)
        # Filling a cap takes two packings, at times three.
        packing += began - start + (clock.seconds - began) * (2.5 if recipe.quant.fill else 1.0)
        began = clock.seconds
        if keep is not None:
            keep.folder.write_weights(weights)
            keep.folder["weights.safetensors"].unlink()
        writing = clock.seconds - began
    packing, writing = world.max(packing, writing)
    return packing, writing


def _sampling(model: Transformer, ids_BT: Tensor, clock: Clock) -> float:
    """Seconds in which the model writes a batch for itself, from its first tokens; later ones look back further."""
    began, few = clock.seconds, min(8, ids_BT.shape[1])
    own_text(model, (len(ids_BT), few), OwnText(), seed=0)
    return 2 * (clock.seconds - began) * ids_BT.shape[1] / few


def _started(recipe: Recipe, training: Training, validation: Validation) -> Started:
    return Started(
        recipe=recipe.name,
        digest=recipe.digest,
        seed=training.seed,
        parameters=sum(p.numel() for p in training.model.parameters()),
        train_tokens=len(validation.data.train),
        val_tokens=len(validation.tokens) - 1,
        steps_limit=recipe.train.steps,
        seconds_limit=training.seconds,
        machine=machine(training.world),
    )


def _look(recipe: Recipe, training: Training, validation: Validation) -> Validated:
    """Grade a sample of the validation split with the weights of the moment."""
    model = training.model
    with uncounted(recipe, training.clock):
        model.eval()
        count = max(1, SAMPLE_TOKENS // recipe.plain.length)
        vocab, device = recipe.model.vocab, training.world.device
        found = validation.sample(model, recipe.plain, vocab=vocab, count=count, device=device)
        model.train()
    return Validated(training.step, found.loss, found.bpb, found.tokens, training.clock.seconds)


def _weighed(recipe: Recipe, training: Training) -> Weighed:
    """Forecast the artifact's bytes with the weights of the moment."""
    with uncounted(recipe, training.clock):
        model = weigh(recipe, dict(training.model.named_parameters())).model
        code = count_code(recipe)
    cap = recipe.budget.bytes
    return Weighed(training.step, model, code, cap, recipe.quant.fill or model + code > cap, training.clock.seconds)


@contextmanager
def uncounted(recipe: Recipe, clock: Clock) -> Iterator[None]:
    """Leave warm-up and validation out where the track counts as the published scripts do."""
    if recipe.budget.counts != "published":
        yield
        return
    clock.pause()
    try:
        yield
    finally:
        clock.resume()


@contextmanager
def ended_by_signals(training: Training) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends training after the step at hand; a second one acts as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reasons = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
    previous = {number: signal.getsignal(number) for number in reasons}

    def stop(number: int, frame: Any) -> None:
        training.stop = reasons[signal.Signals(number)]
        signal.signal(number, previous[signal.Signals(number)])

    for number in reasons:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def on_cpu(model: Transformer) -> dict[str, Tensor]:
    """A model's weights by name, as the packer wants them."""
    return {name: p.detach().cpu() for name, p in model.named_parameters()}


def machine(world: World) -> dict[str, Any]:
    """What the numbers were measured on."""
    gpu = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else ""
    return {
        "processor": gpu or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "world_size": world.size,
    }
