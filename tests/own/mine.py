"""One technique of somebody's own of every kind, a recipe that uses them, and nothing of it in the package.

Copied to a temporary folder by `test_own.py`.
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import parts
import torch
from torch import Tensor, nn

from pargolf.core.budget import Budget
from pargolf.core.world import World
from pargolf.data.stream import MicroBatch
from pargolf.evaluate.adapters.adapter import LedgerView, StepKind, choose, mean_nats
from pargolf.evaluate.score import batches
from pargolf.evaluate.windows import IntArray, Plain, Window, Windows
from pargolf.model.attention import Attention
from pargolf.model.graph import UNet, X0Mix
from pargolf.model.init import FanIn, Normal
from pargolf.model.mlp import MLP
from pargolf.model.slots import Context, Place
from pargolf.model.transformer import Block, Model
from pargolf.packing.codecs import Damage
from pargolf.quant.clip import SquaredError
from pargolf.quant.gptq import GPTQ
from pargolf.quant.grid import Codes, Int, Keep, straight_through
from pargolf.quant.plan import Quantize
from pargolf.recipes.recipe import Recipe
from pargolf.training.adam import Adam
from pargolf.training.loop import Train
from pargolf.training.muon import Muon
from pargolf.training.phases import Phase
from pargolf.training.rows import Each, Group
from pargolf.training.schedule import Moment


def kinked2(z: Tensor) -> Tensor:
    """An activation."""
    return parts.kink(z).square()


def calmer(layer: int, layers: int) -> float:
    """A scale of norms by depth."""
    return 1.0 - 0.1 * layer / layers


@dataclass(frozen=True)
class Parity:
    """An embedding of whether a position is odd."""

    size: float = 0.1
    key = "parity"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return ParityModule(place.dim, self.size)


class ParityModule(nn.Module):
    """`ctx -> (T, D)`."""

    def __init__(self, dim: int, size: float) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.full((2, dim), size))

    def forward(self, ctx: Context) -> Tensor:
        """Look the parity up."""
        return self.rows[ctx.here(torch.arange(ctx.window, device=ctx.ids_BT.device)) % 2]


@dataclass(frozen=True)
class Crossed:
    """A join: the source comes in by one learned number."""

    weight: float = 0.5
    key = "crossed"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return CrossedModule(self.weight)


class CrossedModule(nn.Module):
    """`x, s (B, T, D) -> (B, T, D)`."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))

    def forward(self, x_BTD: Tensor, s_BTD: Tensor) -> Tensor:
        """Add."""
        return x_BTD + self.weight * s_BTD


@dataclass(frozen=True)
class SignDescent:
    """An optimizer row: the sign of a running mean of gradients."""

    lr: float = 0.01
    keep: float = 0.9

    def begin(self, params: Mapping[str, nn.Parameter], *, world: World, half: bool) -> Sequence[Group]:
        """One by one."""
        return [Each(self, params)]

    def update(self, p: nn.Parameter, state: dict[str, Tensor], lr: float, *, step: int, fraction: float) -> None:
        """Move by the sign."""
        assert p.grad is not None
        mean = state.setdefault("mean", torch.zeros_like(p))
        mean.lerp_(p.grad, 1 - self.keep)
        p.add_(mean.sign(), alpha=-lr)


@dataclass(frozen=True)
class Backwards:
    """A data order: the text from its end."""

    def starts(self, batch: MicroBatch) -> np.ndarray:
        """Each sequence begins where the one before began, less its length."""
        return (-1 - (batch.first + 1 + np.arange(batch.count, dtype=np.int64)) * batch.seq_len) % batch.tokens


@dataclass(frozen=True)
class Cosine:
    """A schedule."""

    floor: float = 0.1

    def __call__(self, moment: Moment) -> float:
        """Half a wave."""
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * moment.fraction))


@dataclass(frozen=True)
class AfterHalf:
    """A phase's trigger."""

    def __call__(self, moment: Moment, lr: float) -> bool:
        """By elapsed share."""
        return moment.fraction >= 0.5


@dataclass(frozen=True)
class LastTwo:
    """An average: the mean of the last two steps."""

    def begin(self, weights: dict[str, Tensor]) -> "RunningLastTwo":
        """From the weights as they are."""
        return RunningLastTwo(weights)


class RunningLastTwo:
    """Its two copies."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.before = self.now = {name: w.clone() for name, w in weights.items()}

    def update(self, weights: dict[str, Tensor], *, step: int, lr: float) -> None:
        """Shift."""
        self.before, self.now = self.now, {name: w.clone() for name, w in weights.items()}

    def weights(self) -> dict[str, Tensor] | None:
        """The mean."""
        return {name: (w + self.now[name]) / 2 for name, w in self.before.items()}

    def state(self) -> dict[str, Tensor]:
        """Both."""
        both = {"before": self.before, "now": self.now}
        return {f"{when}.{name}": w for when, weights in both.items() for name, w in weights.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take both back."""
        self.before = {name: state[f"before.{name}"].clone() for name in self.before}
        self.now = {name: state[f"now.{name}"].clone() for name in self.now}


@dataclass(frozen=True)
class Shy:
    """A clip rule: a little under the largest weight."""

    share: float = 0.9

    def limit(self, w_NC: Tensor, squared_error: SquaredError) -> Tensor:
        """Of each row."""
        return self.share * w_NC.abs().amax(dim=1, keepdim=True)


@dataclass(frozen=True)
class Cubic:
    """A grid whose values are the cubes of `-n..n`; it rounds a column, so it takes error feedback."""

    n: int = 7

    def encode(self, w: Tensor) -> Codes:
        """The nearest codes."""
        w_NC = w.detach().float().reshape(len(w), -1)
        scales = self.scales(w_NC)
        return Codes(self.round(w_NC, scales=scales[:, None]).to(torch.int8).reshape(w.shape), scales)

    def decode(self, codes: Codes) -> Tensor:
        """Their values."""
        rows = codes.codes.float().reshape(len(codes.scales), -1)
        return self.values(rows, scales=codes.scales[:, None]).reshape(codes.codes.shape)

    def fake(self, w: Tensor) -> Tensor:
        """For training."""
        return straight_through(w, self.decode(self.encode(w)).to(w.dtype))

    def scales(self, w: Tensor, hessian: Tensor | None = None) -> Tensor:
        """One per row."""
        return (w.reshape(len(w), -1).abs().amax(1) / self.n**3).clamp(min=1e-6).half()

    def round(self, w: Tensor, *, scales: Tensor) -> Tensor:
        """By the cube root."""
        x = w / scales.float()
        return (x.sign() * x.abs().pow(1 / 3)).round().clamp(-self.n, self.n)

    def values(self, codes: Tensor, *, scales: Tensor) -> Tensor:
        """Cubes."""
        return codes**3 * scales.float()


@dataclass(frozen=True)
class Reversed:
    """A codec: deflate from the end."""

    level: int = 6
    name = "reversed"

    def encode(self, data: bytes) -> bytes:
        """Compress."""
        return zlib.compress(data[::-1], self.level)

    def decode(self, data: bytes, *, size: int) -> bytes:
        """Decompress. Raises `Damage`."""
        reader = zlib.decompressobj()
        try:
            out = reader.decompress(data, size + 1)
        except zlib.error as error:
            raise Damage(f"reversed: {error}") from error
        if len(out) != size:
            raise Damage("reversed: another size than was declared")
        return out[::-1]


@dataclass(frozen=True)
class Overlapping:
    """A window plan: each window sees `length` positions, and the second half of them is graded."""

    length: int = 16
    in_turn: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"overlapping:{self.length}"

    def over(self, positions: int, *, starts: Sequence[int] | IntArray = ()) -> Iterator[Window]:
        """Half a window at a time, after a first whole one."""
        half = self.length // 2
        yield Window(0, min(self.length, positions), 0)
        for first in range(self.length, positions, half):
            end = min(first + half, positions)
            yield Window(end - self.length, end, first)


@dataclass(frozen=True)
class Nudge:
    """An adapter: after each batch of windows, a step on what was graded in it."""

    lr: float = 0.01
    by_document: ClassVar[bool] = False

    def run(
        self,
        model: nn.Module,
        ledger: LedgerView,
        windows: Windows,
        *,
        starts: IntArray,
        batch_windows: int,
        device: torch.device | str,
    ) -> Iterator[StepKind]:
        """Grade, then learn."""
        weights = choose(model, ("*scale",))
        for batch in batches(windows.over(ledger.positions, starts=starts), batch_windows):
            yield "grade"
            ledger.grade(model, batch, device=device)
            yield "train"
            tokens = torch.from_numpy(np.array(ledger.graded(batch[0].start, batch[0].end + 1), dtype=np.int64))[None]
            gradients = torch.autograd.grad(mean_nats(model, tokens[:, :-1], tokens[:, 1:]), weights)
            for p, g in zip(weights, gradients):
                p.data.add_(g, alpha=-self.lr)


RECIPE = Recipe(
    name="mine",
    source="tests",
    model=Model(
        vocab=32,
        dim=16,
        blocks=(Block(Attention(heads=2, kv_heads=1), MLP(32, kinked2), norm_scale=calmer),) * 2,
        init=(("embed.tokens", Normal(0.005)), ("embed.parity.rows", Normal(0.1)), ("*", FanIn())),
        embed=(Parity(),),
        graph=(UNet(Crossed()), X0Mix()),
        bos=1,
    ),
    train=Train(
        (
            ("embed.*", SignDescent()),
            *((glob, Adam(0.02)) for glob in ("graph.*", "*_scale", "*.q_gain")),
            ("*", Muon(0.02)),
        ),
        batch_tokens=64,
        seq_len=16,
        steps=4,
        schedule=Cosine(),
        average=LastTwo(),
        phases=(Phase("calm", AfterHalf(), lr=0.5),),
        order=Backwards(),
    ),
    quant=Quantize(
        (("embed.*", Int(8)), ("attn.*", Int(6, Shy())), ("mlp.*", Cubic()), ("*", Keep())),
        solver=GPTQ(batches=1),
    ),
    codec=Reversed(),
    plain=Plain(16),
    windows=Overlapping(),
    adapt=Nudge(),
    budget=Budget(bytes=400_000, train_seconds=60),
)

ABLATIONS = {"parity": {"model.embed": ()}}
