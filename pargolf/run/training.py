"""Train as a run does it: within the seconds, with looks at validation, and with every ending saved.

The seconds for the end are reserved (`reserve.py`), and the state is stored on the way (`resume.py`). Calibration uses
training batches that come after the last step. Looks at validation and checkpoints that would not fit into the time are
left out.

Ctrl-C ends training after the current step, and the trained weights are packed and scored; SIGTERM (a scheduler that
wants its machine back) ends the run, for `--resume`. Both leave a checkpoint, and so do a second signal, which ends the
run at once (`run/signals.py`), and a loss that is not finite.
"""

import json
import math
import os
import platform
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pargolf.core.budget import Clock
from pargolf.core.devices import from_first, release_memory
from pargolf.core.errors import UserError, out_of_memory
from pargolf.core.events import Event, Narrowed, Resumed, Started, Step, Stopped, Validated, Weighed
from pargolf.core.garbage import settled_objects
from pargolf.core.result import Machine
from pargolf.core.world import World
from pargolf.data.meta import file_sha256
from pargolf.data.shards import Shards
from pargolf.evaluate.text import Text
from pargolf.kernels.compiled import compiled_kernels
from pargolf.model.transformer import Transformer
from pargolf.quant.calibrate import calibrate, own_text
from pargolf.quant.gptq import GPTQ, Hessians
from pargolf.recipes.recipe import Recipe
from pargolf.run.forecast import weigh
from pargolf.run.pack import on_cpu
from pargolf.run.reserve import Reserve, rehearse
from pargolf.run.resume import Checkpointer, Saver
from pargolf.run.score import score_sample
from pargolf.run.signals import Interrupted, Stop
from pargolf.run.stage import Stage
from pargolf.ship.size import count_code, is_counted
from pargolf.training.loop import NotFinite, Training

SAMPLE_TOKENS = 8192
"""The number of tokens graded by each look at the validation split during training."""
LOOKING = 0.02
"""The share of a run's seconds that looks may take; one in the middle is taken in any case."""


@dataclass(frozen=True)
class TrainedModel:
    """The result of training: the model, steps and tokens, why it ended, and Hessians if the recipe has a solver.

    `stage` is the stage file in the run's folder, if the run has a folder.
    """

    model: Transformer
    steps: int
    tokens: int
    reason: str
    hessians: Hessians | None = None
    stage: Stage | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights by name, on the CPU."""
        return on_cpu(self.model)


class RunTraining(Training):
    """Training that knows when it is `whole` (between two steps), and uses smaller passes when memory runs out."""

    whole = True
    recipe_micro_tokens = 0

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Use these weights instead of the initial ones; parameters that are not among them stay initial."""
        with torch.no_grad():
            for name, p in self.params.items():
                if name in weights:
                    p.copy_(weights[name])
        self.averaging = self.spec.average.begin(self._weights()) if self.spec.average else None

    def restore_finished(self, stage: Stage, weights: dict[str, Tensor]) -> None:
        """Restore a finished training, to calibrate on the batches after its last one."""
        with torch.no_grad():
            for name, p in self.params.items():
                p.copy_(weights[name])
        for i in stage.begun:
            self._begin(i)
        self.follow(range(len(self.spec.phases)))
        self.step, self.tokens = stage.step, stage.tokens

    def _begin(self, i: int) -> None:
        self.whole = False
        super()._begin(i)

    def _gradients(self, step: int) -> float:
        """Compute gradients; they change no state, so a run may end here, and a pass may be repeated."""
        self.whole = True
        loss = None
        while loss is None:
            try:
                loss = super()._gradients(step)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or not self._fewer_rows():
                    raise
        self.whole = False
        return loss

    def _fewer_rows(self) -> bool:
        """Halve the rows of a pass; returns False if it had only one."""
        rows = min(self.spec.micro_tokens, self.stream.batch_tokens // self.world.size) // self.stream.seq_len
        self.spec = replace(self.spec, micro_tokens=max(rows // 2, 1) * self.stream.seq_len)
        release_memory(self.world.device)
        return rows > 1

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state, and the current size of a pass."""
        tensors, facts = super().state()
        return tensors, facts | {"micro_tokens": self.spec.micro_tokens}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Load a `state`; passes stay as small as they were."""
        super().restore(tensors, facts)
        stored = facts.get("micro_tokens")
        if isinstance(stored, int) and 0 < stored < self.spec.micro_tokens:
            self.spec = replace(self.spec, micro_tokens=stored)


def train_weights(
    recipe: Recipe,
    shards: Shards,
    text: Text,
    *,
    seed: int,
    world: World,
    clock: Clock,
    checkpointer: Checkpointer | None = None,
    start: dict[str, Tensor] | None = None,
) -> Generator[Event, None, TrainedModel]:
    """Train on `shards` within the budget of seconds, or for the recipe's steps. All processes must call it.

    Samples of the validation `text` are scored during training, for observers. `start` are weights by name to start
    from; the optimizer starts fresh.
    Raises `UserError` when the seconds are too few, when the loss is not finite, and on SIGTERM.
    """
    torch.manual_seed(seed)
    model = recipe.model.build(seed).to(world.device)
    if checkpointer is not None and checkpointer.stage is not None:
        return (yield from _finished_training(recipe, model, shards, checkpointer, seed=seed, world=world, clock=clock))
    with uncounted(recipe, clock):
        packing, writing = rehearse(recipe, model, world, checkpointer, Clock(clock.now))
    reserve = Reserve(_limit(recipe), packing + writing)
    limit = reserve.limit
    training = _new_training(recipe, model, shards, seed=seed, world=world, clock=clock, seconds=limit)
    if start is not None:
        training.start_from(start)
    if checkpointer is not None and checkpointer.resumed is not None:
        training.restore(checkpointer.resumed.tensors, checkpointer.resumed.facts)
    if training.compiled or math.isfinite(limit):
        with uncounted(recipe, clock):
            training.warm_up()
    (elapsed,) = world.max(clock.seconds)
    if training.step == 0 and elapsed + training.first > limit:
        raise UserError(
            f"{reserve.total:.1f} s are too few: {elapsed:.1f} are used before the first step, which takes "
            f"{training.first:.1f}, and packing needs {reserve.seconds:.1f}. "
            f"Set train.seconds={elapsed + reserve.seconds + 10 * training.first + 5:.0f}."
        )
    yield _started(recipe, training, text)
    if checkpointer is not None and checkpointer.resumed is not None:
        yield Resumed(training.step, checkpointer.resumed.path.name, list(checkpointer.resumed.refused), clock.seconds)
    saver = Saver(training, checkpointer, cost=writing)
    reason = yield from _train_or_save(recipe, training, text, saver, reserve)
    if reason == "terminated":
        raise Interrupted(f"Terminated after step {training.step}. {saver.resume_hint()} Go on with --resume.")
    with saver.signals.shielded():
        stage = None if checkpointer is None else _store_weights(training, reason, checkpointer)
    hessians = None if recipe.quant.solver is None else collect_hessians(recipe.quant.solver, training)
    return TrainedModel(model, training.step, training.tokens, reason, hessians, stage)


def _new_training(
    recipe: Recipe, model: Transformer, shards: Shards, *, seed: int, world: World, clock: Clock, seconds: float
) -> RunTraining:
    training = RunTraining(
        recipe.train,
        model,
        shards,
        seed=seed,
        clock=clock,
        seconds=seconds,
        world=world,
        kernels=compiled_kernels,
    )
    training.recipe_micro_tokens = recipe.train.micro_tokens
    return training


def _finished_training(
    recipe: Recipe,
    model: Transformer,
    shards: Shards,
    checkpointer: Checkpointer,
    *,
    seed: int,
    world: World,
    clock: Clock,
) -> Generator[Event, None, TrainedModel]:
    """A finished training, restored from its stored weights."""
    stage = checkpointer.stage
    assert stage is not None
    training = _new_training(recipe, model, shards, seed=seed, world=world, clock=clock, seconds=math.inf)
    training.restore_finished(stage, checkpointer.folder.read_weights())
    yield Resumed(stage.step, checkpointer.folder["weights.safetensors"].name, [], stage.seconds)
    hessians = None if recipe.quant.solver is None else collect_hessians(recipe.quant.solver, training)
    return TrainedModel(model, stage.step, stage.tokens, stage.reason, hessians, stage)


def _store_weights(training: Training, reason: str, checkpointer: Checkpointer) -> Stage | None:
    """Write the weights, and the stage file beside them unless the run was interrupted."""
    stages: list[Stage] = []

    def write() -> None:
        checkpointer.folder.write_weights(on_cpu(training.model))
        if reason != "interrupted":
            checkpointer.ready()
            digest = file_sha256(checkpointer.folder["weights.safetensors"])
            facts, seconds = json.dumps(checkpointer.facts, sort_keys=True), training.clock.seconds
            begun_phases = tuple(training.begun)
            stages.append(Stage(training.step, training.tokens, seconds, begun_phases, reason, digest, facts))
            stages[0].write(checkpointer.folder)

    from_first(training.world, write)
    return stages[0] if stages else None


def collect_hessians(solver: GPTQ, training: Training) -> Hessians:
    """Hessians from the next training batches, or from the model's own text. All processes must call it."""
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

    with training.kernels(training.half):
        hessians = calibrate(model, batches())
    return {name: training.world.mean(h.to(device)).cpu() for name, h in hessians.items()}


def _train_or_save(
    recipe: Recipe, training: RunTraining, text: Text, saver: Saver, reserve: Reserve
) -> Generator[Event, None, str]:
    """Train; returns why training ended. An error or a signal stores the state first, and its message says where."""
    looks = _plan_looks(recipe, training, text)
    training.whole = True
    with saver.signals.ending(training), settled_objects():
        try:
            return (yield from _train_and_validate(recipe, training, text, saver, reserve, looks))
        except NotFinite as error:
            yield from saver.save()
            raise UserError(f"{error} {saver.resume_hint()}") from None
        except UserError as error:  # the data was changed: the training before that is valid
            if training.whole and training.world.size == 1:
                yield from saver.save()
            raise UserError(f"{error} {saver.resume_hint()}") from None
        except Stop:
            if training.whole and training.world.size == 1:  # with several processes, all would have to save together
                yield from saver.save()
            line = f"Ended at once, after step {training.step}. {saver.resume_hint()} Go on with --resume."
            raise Interrupted(line) from None


class _Looks(NamedTuple):
    """The looks at validation: the share of training done at the `first`, the share between two, the seconds of one."""

    first: float
    every: float
    cost: float


def _plan_looks(recipe: Recipe, training: RunTraining, text: Text) -> _Looks:
    """The recipe's looks, fewer if they would take too many counted seconds; a discarded look is timed for this."""
    every, cost = recipe.train.validate_every, 0.0
    first = every * (math.floor(training.progress.fraction / every) + 1)
    clock = training.clock
    began, counted = clock.now(), clock.seconds
    if math.isfinite(training.seconds):
        _look(recipe, training, text)
        with uncounted(recipe, clock):
            weigh(recipe, dict(training.model.named_parameters()))
        cost, counted = training.world.max(clock.now() - began, clock.seconds - counted)
        every = max(every, min(counted / (LOOKING * training.seconds), 0.5))
    return _Looks(max(first, every), every, cost)


def _train_and_validate(
    recipe: Recipe, training: RunTraining, text: Text, saver: Saver, reserve: Reserve, looks: _Looks
) -> Generator[Event, None, str]:
    """Train with looks and checkpoints, and reserve the time for the end; returns why training ended."""
    reason, look = "", looks.first
    world, clock, micro_tokens = training.world, training.clock, training.recipe_micro_tokens
    (last_seconds,) = world.max(clock.seconds)
    for event in training.run():
        training.whole = True
        if training.spec.micro_tokens < micro_tokens:
            micro_tokens = training.spec.micro_tokens
            yield Narrowed("train.micro_tokens", micro_tokens, clock.seconds)
        if isinstance(event, Stopped):
            reason = event.reason
            if reason in ("interrupted", "terminated"):
                yield from saver.save()
        yield event
        if isinstance(event, Stopped):
            training.whole = False  # the average takes the place of the weights
        if not isinstance(event, Step):
            continue
        (now,) = world.max(clock.seconds)
        slower = sum(training.slower[i] for i in training.begun)
        training.seconds = reserve.note_step(now - last_seconds, slower=slower)
        last_seconds = now
        yield from saver.save_if_due(now)
        if training.progress.fraction >= look and now + looks.cost <= training.seconds:
            look += looks.every
            yield _look(recipe, training, text)
            if world.main and is_counted(recipe):
                yield _weighed(recipe, training)
    return reason


def _limit(recipe: Recipe) -> float:
    """The seconds for training and packing together; infinite when only steps limit the run."""
    if recipe.train.seconds is not None:
        return recipe.train.seconds
    return recipe.budget.train_seconds if recipe.train.steps is None else math.inf


def _started(recipe: Recipe, training: Training, text: Text) -> Started:
    return Started(
        recipe=recipe.name,
        digest=recipe.digest,
        seed=training.seed,
        parameters=sum(p.numel() for p in training.model.parameters()),
        train_tokens=len(training.shards),
        val_tokens=text.positions,
        steps_limit=recipe.train.steps,
        seconds_limit=training.seconds,
        machine=asdict(machine(training.world)),
    )


def _look(recipe: Recipe, training: Training, text: Text) -> Validated:
    """Score a sample of the validation split with the current weights."""
    model = training.model
    with uncounted(recipe, training.clock):
        model.eval()
        count = max(1, SAMPLE_TOKENS // recipe.plain.length)
        sampled = score_sample(model, text, recipe.plain, count=count, device=training.world.device)
        model.train()
    return Validated(training.step, sampled.loss, sampled.bpb, sampled.tokens, training.clock.seconds)


def _weighed(recipe: Recipe, training: Training) -> Weighed:
    """Forecast the artifact's bytes from the current weights."""
    with uncounted(recipe, training.clock):
        model = weigh(recipe, dict(training.model.named_parameters())).model
        code = count_code(recipe)
    cap = recipe.budget.bytes
    return Weighed(training.step, model, code, cap, recipe.quant.fill or model + code > cap, training.clock.seconds)


@contextmanager
def uncounted(recipe: Recipe, clock: Clock) -> Iterator[None]:
    """Pause the clock for warm-up and validation, if the track counts as the published scripts do."""
    if recipe.budget.counts != "published":
        yield
        return
    clock.pause()
    try:
        yield
    finally:
        clock.resume()


def machine(world: World) -> Machine:
    """The machine that the numbers were measured on."""
    module: Any = torch.get_device_module(world.device)
    gpu = module.get_device_name(world.device) if hasattr(module, "get_device_name") else ""
    return Machine(
        processor=gpu or platform.processor() or platform.machine(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        python=platform.python_version(),
        system=platform.system(),
        world_size=world.size,
    )
