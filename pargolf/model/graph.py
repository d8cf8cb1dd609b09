"""The residual graph as data: an order of blocks and a list of edges, run by one short loop.

An edge joins the output of one step into the input of another. A wire is a rule that lists its edges for a given order
of blocks. Step -1 is the embedding (x0), step `len(order)` is the head.

    UNet()      step E+i gets the output of step E-1-i; with an odd count the last step gets none  published baseline
    X0Mix()     every block starts from m0 x + m1 x0 per channel, (1, 0) at init                  published baseline
    Backout()   before the head, x - lambda x_mid, x_mid the output of the middle step             pull request 295

The join of an edge says how stream x and source s are combined:

    Added       x + w s                                    w (D,) starts at 1
    Gated       g x + (1 - g) w s, g = sigmoid(gate)        w starts at 1, gate at 0               pull request 861
    Mixed       keep x + add s                              both (D,), learned
    Subtracted  x - lambda s                                one scalar

Depth recurrence is an order that names blocks more than once: `looped(11, 3, 5, 3)` runs blocks 3 to 5 three times, 17
steps of 11 blocks (pull requests 1204, 1394, 1493). The parameters of an edge have their own number, so that the plain
order and the recurrent one share them: X0Mix numbers by block, UNet by skip. A run may start with each block once and
recur later (`Phase(recur=True)`; in 1204 this was 1 mBPB better than recurrence from the start).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pargolf.core.errors import UserError
from pargolf.kernels.blend import blend
from pargolf.model.slots import ByLayer, Place, at_layer

Order = tuple[int, ...]
"""The block that runs at each step."""


class Join(Protocol):
    """How a source is combined with the stream; `key` names its parameters."""

    @property
    def key(self) -> str:
        """The role of its parameters is `graph.<key>`."""
        ...

    def build(self, place: Place) -> nn.Module:
        """Make the module `x, source -> x`; `place.layer` is the edge's number."""
        ...


@dataclass(frozen=True)
class Edge:
    """An edge from the output of step `source` (-1: the embedding) into the input of step `target`.

    number: names its parameters, `graph.<key>.<number>` (None: the target)
    reads: change only what the block reads, not the stream that goes on; this matters only in blocks with two lanes
        (`residual.py`)
    """

    source: int
    target: int
    join: Join
    number: int | None = None
    reads: bool = False

    @property
    def name(self) -> str:
        """The last part of the name of its parameters."""
        return str(self.target if self.number is None else self.number)


class Wire(Protocol):
    """A rule that lists edges for any order of blocks."""

    def edges(self, order: Order) -> Iterable[Edge]:
        """The edges of a graph that runs these blocks."""
        ...


@dataclass(frozen=True)
class Added:
    """`x + w s`."""

    weight: float = 1.0
    key = "skip"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return AddedModule(place.dim, self.weight)


class AddedModule(nn.Module):
    """`x, s (B, T, D) -> (B, T, D)`."""

    def __init__(self, dim: int, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), weight))

    def forward(self, x_BTD: Tensor, s_BTD: Tensor) -> Tensor:
        """Add."""
        return blend(x_BTD, s_BTD, None, self.weight)


@dataclass(frozen=True)
class Gated:
    """`g x + (1 - g) w s`; `gate` is the initial logit of g."""

    weight: float = 1.0
    gate: float = 0.0
    key = "skip"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return GatedModule(place.dim, self)


class GatedModule(nn.Module):
    """`x, s (B, T, D) -> (B, T, D)`."""

    def __init__(self, dim: int, spec: Gated) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), spec.weight))
        self.gate = nn.Parameter(torch.full((dim,), spec.gate))

    def forward(self, x_BTD: Tensor, s_BTD: Tensor) -> Tensor:
        """Interpolate."""
        g = torch.sigmoid(self.gate.to(x_BTD.dtype))
        return g * x_BTD + (1 - g) * (self.weight.to(x_BTD.dtype) * s_BTD)


@dataclass(frozen=True)
class Mixed:
    """`keep x + add s`, both per channel; the initial values may depend on depth; neutral at init as (1, 0)."""

    keep: float | ByLayer = 1.0
    add: float | ByLayer = 0.0
    key = "mix"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return MixedModule(place.dim, at_layer(self.keep, place), at_layer(self.add, place))


class MixedModule(nn.Module):
    """`x, s (B, T, D) -> (B, T, D)`."""

    def __init__(self, dim: int, keep: float, add: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[keep], [add]]).expand(2, dim).clone())

    def forward(self, x_BTD: Tensor, s_BTD: Tensor) -> Tensor:
        """Mix."""
        return blend(x_BTD, s_BTD, self.weight[0], self.weight[1])


@dataclass(frozen=True)
class Subtracted:
    """`x - weight * s` with one learned number."""

    weight: float = 0.2
    key = "backout"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return SubtractedModule(self.weight)


class SubtractedModule(nn.Module):
    """`x, s (B, T, D) -> (B, T, D)`."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))

    def forward(self, x_BTD: Tensor, s_BTD: Tensor) -> Tensor:
        """Subtract."""
        return x_BTD - self.weight.to(x_BTD.dtype) * s_BTD


def ramp(layer: int, layers: int) -> float:
    """Sigmoid ramp of pull request 295: `sigmoid(3 (l/(L-1) - 1/2))`, from .18 to .82 over the depth."""
    return 1.0 / (1.0 + math.exp(-3.0 * (layer / max(layers - 1, 1) - 0.5)))


def ramp_down(layer: int, layers: int) -> float:
    """`1 - ramp`."""
    return 1.0 - ramp(layer, layers)


def looped(blocks: int, first: int, last: int, times: int) -> Order:
    """The order of `blocks` blocks in which blocks `first` to `last` run `times` times."""
    return (*range(first), *tuple(range(first, last + 1)) * times, *range(last + 1, blocks))


@dataclass(frozen=True)
class UNet:
    """Skips from the first half of the steps, last in first out, into the second half."""

    join: Join = Added()

    def edges(self, order: Order) -> Iterable[Edge]:
        """One edge per step of the first half, numbered by its target block in the order without loops."""
        half, middle = len(order) // 2, _blocks(order) // 2
        return [Edge(half - 1 - i, half + i, self.join, middle + i) for i in range(half)]


@dataclass(frozen=True)
class X0Mix:
    """Mix the embedding into the input of every block; neutral at init with (1, 0)."""

    keep: float | ByLayer = 1.0
    add: float | ByLayer = 0.0

    def edges(self, order: Order) -> Iterable[Edge]:
        """One edge per step, with the parameters of its block."""
        return [Edge(-1, step, Mixed(self.keep, self.add), block, reads=True) for step, block in enumerate(order)]


@dataclass(frozen=True)
class Backout:
    """Subtract the output of the middle step before the head."""

    weight: float = 0.2

    def edges(self, order: Order) -> Iterable[Edge]:
        """One edge, from the middle step to the head."""
        return [Edge(len(order) // 2, len(order), Subtracted(self.weight), _blocks(order))]


def _blocks(order: Order) -> int:
    """The number of blocks."""
    return max(order) + 1


class Route:
    """The edges of one order, grouped by target, and the steps whose outputs must be stored (`kept`)."""

    def __init__(self, wires: tuple[Wire, ...], order: Order) -> None:
        self.order = order
        self.edges: list[Edge] = []
        for wire in wires:
            edges = list(wire.edges(order))
            taken = {(e.join.key, e.name) for e in self.edges} & {(e.join.key, e.name) for e in edges}
            assert not taken, f"two wires with edges {taken}"
            self.edges += edges
        self.entering = [[e for e in self.edges if e.target == t] for t in range(len(order) + 1)]
        self.kept = {e.source for e in self.edges}


class Graph(nn.Module):
    """The order of blocks and the joins of all edges; `enter` applies the edges of a step in the order of the wires."""

    def __init__(self, wires: tuple[Wire, ...], place: Place, order: Order) -> None:
        super().__init__()
        self.routes = {True: Route(wires, order), False: Route(wires, tuple(range(place.layers)))}
        self.route = self.routes[True]
        for edge in self.route.edges:
            group = self._group(edge.join.key)
            if edge.name not in group:
                own = Place(place.vocab, place.dim, place.layers, layer=int(edge.name))
                group.add_module(edge.name, edge.join.build(own))

    def follow_phases(self, begun: Sequence[Any], coming: Sequence[Any]) -> None:
        """Recur, unless a coming phase starts the recurrence and none of the begun phases has."""
        self.recur(any(phase.recur for phase in begun) or not any(phase.recur for phase in coming))

    def recur(self, on: bool) -> None:
        """Run the model's own order, or each block once. Raises `UserError` when that needs edges it does not have."""
        for edge in self.routes[on].edges:
            if edge.name not in self._group(edge.join.key):
                raise UserError(
                    f"Each block once needs graph.{edge.join.key}.{edge.name}, which the order "
                    f"{self.routes[True].order} does not have. Let model.order run every block."
                )
        self.route = self.routes[on]

    def _group(self, key: str) -> nn.ModuleDict:
        """The joins of one key, by number; their role is `graph.<key>`."""
        if key not in self._modules:
            self.add_module(key, nn.ModuleDict())
        group = self._modules[key]
        assert isinstance(group, nn.ModuleDict)
        return group

    def enter(self, target: int, x_BTD: Tensor, outputs: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
        """Apply every edge into step `target`; returns the stream that goes on, and what the step reads."""
        read_BTD = x_BTD
        for edge in self.route.entering[target]:
            join, source_BTD = self._group(edge.join.key)[edge.name], outputs[edge.source]
            changed_BTD = join(read_BTD, source_BTD)
            if not edge.reads:
                x_BTD = changed_BTD if x_BTD is read_BTD else join(x_BTD, source_BTD)
            read_BTD = changed_BTD
        return x_BTD, read_BTD
