"""The training loop: a generator of events, limited by seconds or steps; at its end the averaged weights are in place.

Each step: begin phases that are due, take a batch (a pure function of seed and step), compute loss and gradients in
micro-batches (so that the global batch depends on the recipe, not on the machine), clip, make one optimizer step,
update the average. The caller reads the events and does everything else: validation, logs, plots, checkpoints. It can
stop the run by setting `training.stop`.

Between events the state is consistent: `state` returns it as named tensors and plain facts, `restore` loads it. A run
on a CPU with a fixed number of steps then continues bit for bit as without the interruption.
"""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pargolf.core.budget import Clock
from pargolf.core.constants import compile_whole
from pargolf.core.errors import UserError
from pargolf.core.events import PhaseBegan, Step, Stopped
from pargolf.core.ranges import Count, Index, Length, Positive, Rate
from pargolf.core.roles import Table
from pargolf.core.world import World, abilities, synchronize
from pargolf.data.hashing import mix_words
from pargolf.data.stream import Sequential, TrainStream, WindowOrder
from pargolf.kernels.product import multiplies_half
from pargolf.model.slots import following
from pargolf.model.transformer import Transformer
from pargolf.training.average import AverageSpec
from pargolf.training.optimizer import Optimizer
from pargolf.training.phases import Phase, WeightChange, WeightPhase
from pargolf.training.rows import OptimizerRow
from pargolf.training.schedule import Moment, Schedule, Warmdown

Batch = tuple[Tensor, Tensor]
Kernels = Callable[[bool], AbstractContextManager[Any]]
"""Enables the fast kernels of a machine; called with whether products may use bfloat16."""
Loss = Callable[[Tensor, Tensor], Tensor]
_STOPS = ("", "interrupted", "terminated")


class NotFinite(UserError):
    """The loss or its gradient is not finite; the state is still that before the step."""


@dataclass(frozen=True)
class Train:
    """How a recipe trains.

    seconds: time limit; None means the track's training budget
    steps: limit in steps; None means no such limit
    batch_tokens: tokens of the global batch; micro_tokens: the most that one process puts into a forward pass
    compile: None means only on devices where it is worth it
    half: use bfloat16 for matrix products; None means on devices that support it well, True also on CPUs with
        instructions for it (`core/world.py` has a row for each kind of device)
    """

    optimizer: Table[OptimizerRow]
    batch_tokens: Count = 524_288
    seq_len: Length = 1024
    schedule: Schedule = Warmdown(0.5)
    average: AverageSpec | None = None
    phases: tuple[Phase, ...] = ()
    grad_clip: Positive | None = None
    order: WindowOrder = Sequential()
    seconds: Positive | None = None
    steps: Index | None = None
    micro_tokens: Count = 32_768
    validate_every: Rate = 0.1
    compile: bool | None = None
    half: bool | None = None


class Objective(nn.Module):
    """The loss as a module's forward, so that weights can be swapped for one call."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean nats per token."""
        return self.model.loss(ids_BT, targets_BT)


class Training:
    """The state of a run; `run` advances it and yields events. Setting `stop` to a reason ends it after the step."""

    def __init__(
        self,
        spec: Train,
        model: Transformer,
        shards: Any,
        *,
        seed: int,
        clock: Clock,
        seconds: float,
        world: World | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        self.spec, self.model, self.shards, self.seed = spec, model, shards, seed
        self.clock, self.seconds, self.world = clock, seconds, world or World()
        self.can = abilities(self.world.device)
        cpu = self.world.device.type == "cpu"
        self.half = self.can.half if spec.half is None else spec.half and (self.can.half or (cpu and multiplies_half()))
        self.kernels = kernels or (lambda half: nullcontext())
        for module in following(model, "start_from"):
            module.start_from(shards)
        self.by_phase, self.by_step = following(model, "follow_phases"), following(model, "follow_step")
        self.passes = math.inf  # how often the run is expected to cover the text; unknown before its first step
        self.follow(())
        self.objective = Objective(model)
        self.params = dict(model.named_parameters())
        self.optimizer = Optimizer(spec.optimizer, self.params, world=self.world, half=self.half)
        self.averaging = spec.average.begin(self._weights()) if spec.average else None
        self.begun: list[int] = []
        self.compiled = self.can.compiles if spec.compile is None else spec.compile
        self.first = 0.0
        self.slower = [0.0] * len(spec.phases)
        self.changes: dict[WeightPhase | None, tuple[WeightChange | None, Loss]] = {}
        self.lr = 1.0
        self.step = 0
        self.tokens = 0
        self.stop = ""
        self.now = clock.seconds
        self._ahead: tuple[TrainStream, int, Batch] | None = None
        self.stream = self._stream(spec.seq_len, spec.batch_tokens)
        self.change, self.loss = self._under(None)

    def run(self) -> Iterator[Step | PhaseBegan | Stopped]:
        """Train until the seconds or steps are used up or `stop` is set; then replace the weights by their average.

        Raises `NotFinite`, with the state as it was before the step.
        """
        longest, last, first = self.first, self.first, self.step
        while True:
            # All processes use one clock, so that they begin phases and stop at the same step.
            self.now, last, stop = self.world.max(self.clock.seconds, last, _STOPS.index(self.stop))
            self.stop = _STOPS[int(stop)]
            # The first steps include allocations that no later step repeats.
            longest = max(longest, last) if self.step > first + 2 else last
            moment = self.progress
            due = self._due(moment, self.lr * self.spec.schedule(moment))
            reason = self._over(self.now + longest + sum(self.slower[i] for i in due))
            if reason:
                break
            for i in due:
                self._begin(i)
                yield PhaseBegan(self.step, self.spec.phases[i].name, moment.seconds)
            lr = self.lr * self.spec.schedule(moment)
            loss = self._one_step(lr, moment.fraction)
            self.step += 1
            now = self.clock.seconds
            last = now - self.now
            yield Step(self.step, loss, lr, self.tokens, now)
        yield Stopped(self.step, reason, self.clock.seconds)
        self.follow(range(len(self.spec.phases)))  # as the artifact will run it
        if self.averaging is not None and (mean := self.averaging.weights()) is not None:
            with torch.no_grad():
                for name, p in self.params.items():
                    p.copy_(mean[name])

    @property
    def progress(self) -> Moment:
        """Where the run was when its last step began, by the clock that all processes share."""
        return Moment(self.step, self.now, self.seconds, self.spec.steps)

    def warm_up(self) -> None:
        """Compute and discard the gradients of one batch, as it is now and under each coming phase.

        So nothing compiles during training, and `first` and `slower` hold the time of a step, and what each phase adds
        to it, before the first step.
        """
        stream, change = self.stream, (self.change, self.loss)
        times = [self._visit()]
        for i, phase in enumerate(self.spec.phases):
            self.change, self.loss = self._under(phase.weights) if phase.weights else (self.change, self.loss)
            self.stream = self._reshaped(phase)
            self.follow({*self.begun, *range(i + 1)})
            times.append(self._visit())
        self.stream, (self.change, self.loss) = stream, change
        self.follow(self.begun)
        if self.spec.phases or self.compiled:  # else the first visit compiled nothing
            times[0] = self._visit()
        if self.compiled and (late := max((module.last_change for module in self.by_step), default=0.0)):
            self._visit(math.ceil(late * len(self.shards) / self.stream.batch_tokens))
        self.first = times[0]
        self.slower = [max(after - times[0], 0.0) for after in times[1:]]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the rest of the run depends on: named tensors, and JSON facts. Call it on all processes."""
        parts = {
            "weights": self._weights(),
            "optimizer": self.optimizer.state(),
            "average": self.averaging.state() if self.averaging else {},
        }
        facts = {"step": self.step, "tokens": self.tokens, "seconds": self.clock.seconds, "begun": [*self.begun]}
        return {f"{part}.{name}": x for part, tensors in parts.items() for name, x in tensors.items()}, facts

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Load a `state`, except its seconds, which belong to the clock. Raises `KeyError` on another model's state."""
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}, "average": {}}
        for key, x in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = x.to(self.world.device)
        with torch.no_grad():
            for name, p in self.params.items():
                p.copy_(parts["weights"][name])
        for i in facts["begun"]:
            self._begin(i)
        self.optimizer.restore(parts["optimizer"])
        if self.averaging is not None:
            self.averaging.restore(parts["average"])
        self.step, self.tokens = facts["step"], facts["tokens"]

    def follow(self, begun: Collection[int]) -> None:
        """Tell the model which phases (by number) have begun, and which have not."""
        sides: tuple[list[Phase], list[Phase]] = ([], [])
        for i, phase in enumerate(self.spec.phases):
            sides[i not in begun].append(phase)
        for module in self.by_phase:
            module.follow_phases(*sides)

    def _over(self, next_end: float) -> str:
        """Why no further step may begin; empty if one may."""
        if self.stop:
            return self.stop
        if self.spec.steps is not None and self.step >= self.spec.steps:
            return "steps"
        return "seconds" if next_end > self.seconds else ""

    def _due(self, moment: Moment, lr: float) -> list[int]:
        """Numbers of the phases that have not begun and whose trigger holds."""
        return [i for i, phase in enumerate(self.spec.phases) if i not in self.begun and phase.at(moment, lr)]

    def _begin(self, i: int) -> None:
        """Put phase number `i` into effect."""
        phase = self.spec.phases[i]
        self.begun.append(i)
        if phase.weights is not None:
            self.change, self.loss = self._under(phase.weights)
        if phase.reset_average and self.spec.average is not None:
            self.averaging = self.spec.average.begin(self._weights())
        self.follow(self.begun)
        self.lr *= phase.lr
        self.stream = self._reshaped(phase)

    def _reshaped(self, phase: Phase) -> TrainStream:
        """The current stream, or a new one when the phase changes the batch."""
        if phase.seq_len is None and phase.batch_tokens is None:
            return self.stream
        return self._stream(phase.seq_len or self.stream.seq_len, phase.batch_tokens or self.stream.batch_tokens)

    def _stream(self, seq_len: int, batch_tokens: int) -> TrainStream:
        """This process's share of batches of this shape."""
        share = batch_tokens // self.world.size
        if share * self.world.size != batch_tokens or share % seq_len:
            raise UserError(
                f"{self.world.size} processes cannot share a batch of {batch_tokens} tokens in sequences of {seq_len}. "
                f"Set train.batch_tokens to a multiple of {seq_len * self.world.size}."
            )
        if len(self.shards) <= batch_tokens:
            raise UserError(
                f"The training split has {len(self.shards)} tokens, fewer than one batch of {batch_tokens} and the "
                "token after it. Add text, or lower train.batch_tokens."
            )
        return TrainStream(
            self.shards,
            order=self.spec.order,
            batch_tokens=batch_tokens,
            seq_len=seq_len,
            seed=self.seed,
            rank=self.world.rank,
            world=self.world.size,
        )

    def _one_step(self, lr: float, fraction: float) -> float:
        """Compute the gradients of the global batch and update; returns the mean loss over all processes."""
        if fraction:
            self.passes = self.stream.epoch(self.step) / fraction
        loss = self._gradients(self.step)
        norm = self.optimizer.reduce()
        if not math.isfinite(loss + norm):
            what = f"loss became {loss}" if not math.isfinite(loss) else f"gradient's norm became {norm} (loss {loss})"
            raise NotFinite(
                f"The {what} at step {self.step}, on batch {self.step} of {self.stream.batch_tokens} tokens, "
                f"{self.stream.epoch(self.step):.2f} times through the training split. The learning rate is the usual "
                "cause: halve the rates of the optimizer table, or set train.grad_clip=0.3."
            )
        clip = self.spec.grad_clip
        self.optimizer.step(
            lr, step=self.step, fraction=fraction, clip=1.0 if clip is None else min(1.0, clip / (norm + 1e-6))
        )
        if self.averaging is not None:
            self.averaging.update(self._weights(), step=self.step + 1, lr=lr)
        self.tokens += self.stream.batch_tokens
        return loss

    def _gradients(self, step: int) -> float:
        """Compute the gradients of this process's share of batch `step`; returns the mean loss over all processes."""
        x_BT, y_BT = self._batch(step)
        for module in self.by_step:
            module.follow_step(self.stream.epoch(step), self.passes)
        # Dropout masks depend on seed, step and rank only, as the batch does.
        torch.manual_seed(mix_words(self.seed, step, self.world.rank))
        rows = max(self.spec.micro_tokens // x_BT.shape[1], 1)
        self.optimizer.zero_grad()
        total = torch.zeros((), device=x_BT.device)
        device = self.world.device.type
        for x_bT, y_bT in zip(torch.split(x_BT, rows), torch.split(y_BT, rows), strict=True):
            with (
                self.kernels(self.half),
                torch.autocast(device, torch.bfloat16, enabled=self.half and self.can.half),
            ):
                loss = self.loss(x_bT, y_bT) * (len(x_bT) / len(x_BT))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            if self.can.pins and self._ahead is None:  # while the device is busy
                self._ahead = (self.stream, step + 1, self._load(step + 1))
        return float(self.world.mean(total))

    def _batch(self, step: int) -> Batch:
        """Inputs and targets; with pinned memory they were sent during the previous step."""
        batch, self._ahead = self._ahead, None
        return batch[2] if batch is not None and batch[0] is self.stream and batch[1] == step else self._load(step)

    def _load(self, step: int) -> Batch:
        """Send a batch to the device; from pinned memory the copy overlaps with computation."""
        x_BT, y_BT = self.stream.batch(step)
        if not self.can.pins:
            return x_BT.to(self.world.device), y_BT.to(self.world.device)
        x_BT, y_BT = (t.pin_memory().to(self.world.device, non_blocking=True) for t in (x_BT, y_BT))
        return x_BT, y_BT

    def _under(self, weights: WeightPhase | None) -> tuple[WeightChange | None, Loss]:
        """The weight change of a phase and the loss under it; a function per phase, so that each has its own graph."""
        if weights not in self.changes:
            change = None if weights is None else weights.resolve(self._weights())

            def loss(x_BT: Tensor, y_BT: Tensor) -> Tensor:
                if change is None:
                    plain: Tensor = self.objective(x_BT, y_BT)
                    return plain
                changed = {f"model.{name}": w for name, w in change(dict(self.params)).items()}
                swapped: Tensor = functional_call(self.objective, changed, (x_BT, y_BT))
                return swapped

            graph = compile_whole(loss) if self.compiled else loss
            self.changes[weights] = (change, graph)
        return self.changes[weights]

    def _visit(self, step: int = 0) -> float:
        """Time the gradients of one batch, in seconds."""
        (began,) = self.world.max(self.clock.now())
        self._gradients(step)
        self.optimizer.zero_grad()
        synchronize(self.world.device)
        (ended,) = self.world.max(self.clock.now())
        return ended - began

    def _weights(self) -> dict[str, Tensor]:
        """The parameters, detached."""
        return {name: p.detach() for name, p in self.params.items()}
