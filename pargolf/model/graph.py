"""The residual graph as data: an order of blocks and a list of edges, run by one short loop.

A wire is a rule that, told the number of steps, names its edges; an edge joins the output of one step into the entrance
of another. Step -1 is the embedding (x0), step `len(order)` the head.

    UNet()      block E+i receives the output of block E-1-i; L odd leaves the last one without   published baseline
    X0Mix()     every block starts from m0 x + m1 x0 per channel, (1, 0) at init                  published baseline
    Backout()   before the head, x - lambda x_mid, x_mid the output of block L//2                  pull request 295

An edge's join says how the two are combined:

    Added       x + w s                                    w (D,) starts at 1
    Gated       g x + (1 - g) w s, g = sigmoid(gate)        w starts at 1, gate at 0               pull request 861
    Mixed       keep x + add s                              both (D,), learned
    Subtracted  x - lambda s                                one scalar
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from pargolf.model.slots import ByLayer, Place, at_layer


class Join(Protocol):
    """How a source enters the stream: a spec with the key of its parameters."""

    @property
    def key(self) -> str:
        """Its parameters' role is `graph.<key>`."""
        ...

    def build(self, place: Place) -> nn.Module:
        """Make the module `x, source -> x`; `place.layer` is the step that it enters."""
        ...


@dataclass(frozen=True)
class Edge:
    """From the output of step `source` (-1: the embedding) into the entrance of step `target`."""

    source: int
    target: int
    join: Join


class Wire(Protocol):
    """A rule that names edges for any depth."""

    def edges(self, steps: int) -> Iterable[Edge]:
        """The edges of a graph with so many steps."""
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
        return x_BTD + self.weight.to(x_BTD.dtype) * s_BTD


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
        mix_2D = self.weight.to(x_BTD.dtype)
        return mix_2D[0] * x_BTD + mix_2D[1] * s_BTD


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


@dataclass(frozen=True)
class UNet:
    """Skips from the first half, last in first out, into the second half."""

    join: Added | Gated = Added()

    def edges(self, steps: int) -> Iterable[Edge]:
        """One edge per block of the first half."""
        half = steps // 2
        return [Edge(half - 1 - i, half + i, self.join) for i in range(half)]


@dataclass(frozen=True)
class X0Mix:
    """The embedding comes back at the entrance of every block; neutral at init as (1, 0)."""

    keep: float | ByLayer = 1.0
    add: float | ByLayer = 0.0

    def edges(self, steps: int) -> Iterable[Edge]:
        """One edge per block."""
        return [Edge(-1, i, Mixed(self.keep, self.add)) for i in range(steps)]


@dataclass(frozen=True)
class Backout:
    """Take the middle of the network back out before the head."""

    weight: float = 0.2

    def edges(self, steps: int) -> Iterable[Edge]:
        """One edge, from block L//2 to the head."""
        return [Edge(steps // 2, steps, Subtracted(self.weight))]


class Graph(nn.Module):
    """Runs blocks in order and applies each edge at its target's entrance, in the order the wires name them."""

    def __init__(self, wires: tuple[Wire, ...], place: Place, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order
        self.edges = [edge for wire in wires for edge in wire.edges(len(order))]
        self.entering = [[i for i, e in enumerate(self.edges) if e.target == t] for t in range(len(order) + 1)]
        self.kept = {e.source for e in self.edges}
        for edge in self.edges:
            at = Place(place.vocab, place.dim, len(order), layer=edge.target)
            group, name = self._group(edge.join.key), str(edge.target)
            assert name not in group, f"two edges with the key {edge.join.key} enter step {name}"
            group.add_module(name, edge.join.build(at))

    def _group(self, key: str) -> nn.ModuleDict:
        """The joins of one key, by target; so their role is `graph.<key>`."""
        if key not in self._modules:
            self.add_module(key, nn.ModuleDict())
        group = self._modules[key]
        assert isinstance(group, nn.ModuleDict)
        return group

    def enter(self, target: int, x_BTD: Tensor, outputs: dict[int, Tensor]) -> Tensor:
        """Apply every edge into step `target`."""
        for i in self.entering[target]:
            edge = self.edges[i]
            x_BTD = self._group(edge.join.key)[str(target)](x_BTD, outputs[edge.source])
        return x_BTD
