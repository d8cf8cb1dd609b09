"""The grid table of a recipe: which grid quantizes which tensor.

    Quantize((("embed.tokens", Int(8)), ("attn.*", Int(6)), ("head.ahead", Drop()), ("*", Keep())))

The first row that matches a parameter's role wins; `Drop` leaves a tensor out (a head that is only used in training).
Pruning, if any, comes before the grids. With a `solver`, tensors that have a Hessian get their codes from it, the
others are rounded. `QAT` is the same kind of table for training: a phase whose forward pass uses `grid.fake(w)`; a row
of None leaves its tensors unchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pargolf.core.roles import Table, matches, resolve
from pargolf.core.smaller import Smaller, shrunk
from pargolf.quant.gptq import GPTQ, Hessians
from pargolf.quant.grid import Codes, Grid
from pargolf.quant.prune import Prune


@dataclass(frozen=True)
class Drop:
    """Leave the tensor out of the artifact."""


@dataclass(frozen=True)
class Pruned:
    """Prune the tensors that `roles` (a tuple of globs) match."""

    roles: tuple[str, ...]
    prune: Prune

    def at_scale(self, to: Smaller) -> "Pruned":
        """Globs for the layers that remain."""
        roles = (to.glob(glob) for glob in self.roles)
        return Pruned(tuple(glob for glob in roles if glob is not None), shrunk(self.prune, to))


class Protection(Protocol):
    """Chooses other grids than the table's for some tensors, by their Hessians (`quant/awq.py`)."""

    def choose(
        self, weights: Mapping[str, Tensor], grids: Mapping[str, Grid], hessians: Mapping[str, Tensor] | None
    ) -> dict[str, Grid]:
        """The changed grids, by name."""
        ...


class Correction(Protocol):
    """Extra tensors, stored beside the codes, that correct their error (`quant/lqer.py`)."""

    def factors(
        self, weights: Mapping[str, Tensor], coded: Mapping[str, tuple[Grid, Codes]], hessians: Hessians | None
    ) -> dict[str, tuple[Grid, Codes]]:
        """The extra tensors on their grids, by name."""
        ...


@dataclass(frozen=True)
class Quantize:
    """How a recipe quantizes.

    table: the grid of each role
    pruned: pruning before the grids
    solver: chooses the codes (None: the nearest ones)
    fill: let the packer choose finer or coarser steps than the table's, to fill the cap (`quant/allocate.py`);
        without it, steps change only when the artifact does not fit
    correct: adds tensors that correct the error, such as `LQER()`
    protect: gives some columns finer steps, such as `AWQ()`
    """

    table: Table[Grid | Drop]
    pruned: Pruned | None = None
    solver: GPTQ | None = None
    fill: bool = False
    correct: Correction | None = None
    protect: Protection | None = None

    def grids(self, weights: dict[str, Tensor]) -> dict[str, Grid]:
        """The grid of every stored tensor. Raises `UserError` when the table does not fit the names."""
        rows = resolve(self.table, weights, what="grid table")
        return {name: row for name, row in rows.items() if not isinstance(row, Drop)}

    def encode(self, weights: dict[str, Tensor], hessians: Hessians | None = None) -> dict[str, tuple[Grid, Codes]]:
        """Prune and put every stored tensor on its grid."""
        coded, grids = {}, self.grids(weights)
        pruned = {name: self.prune(name, weights[name]) for name in grids}
        if self.protect is not None:
            grids |= self.protect.choose(pruned, grids, hessians)
        for name, grid in grids.items():
            w = pruned[name]
            if self.solver is not None and hessians is not None and name in hessians:
                coded[name] = (grid, self.solver.encode(w, grid, hessians[name]))
            else:
                coded[name] = (grid, grid.encode(w))
        if self.correct is not None:
            coded |= self.correct.factors(pruned, coded, hessians)
        return coded

    def prune(self, name: str, w: Tensor) -> Tensor:
        """The tensor in float32, pruned if its role is listed."""
        w = w.detach().float()
        if self.pruned and any(matches(name, glob) for glob in self.pruned.roles):
            w = self.pruned.prune.apply(w)
        return w


@dataclass(frozen=True)
class QAT:
    """Quantization-aware training: the forward pass sees `grid.fake(w)`. Implements `training.phases.WeightPhase`."""

    table: Table[Grid | None]

    def resolve(self, weights: dict[str, Tensor]) -> "FakeWeights":
        """Bind each parameter to its grid."""
        rows = resolve(self.table, weights, what="QAT table")
        return FakeWeights({name: grid for name, grid in rows.items() if grid is not None})

    def at_scale(self, to: Smaller) -> "QAT":
        """The rows of the layers that remain."""
        return QAT(to.rows(self.table))


class FakeWeights:
    """Replaces the bound weights by their fake-quantized values; gradients pass straight through."""

    def __init__(self, grids: dict[str, Grid]) -> None:
        self.grids = grids

    def __call__(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fake values of the bound names."""
        return {name: grid.fake(weights[name]) for name, grid in self.grids.items()}
