"""Which grid each tensor gets: the strict table of a recipe, from weights to codes and back.

    Quantize((("embed.tokens", Int(8)), ("attn.*", Int(6)), ("head.ahead", Drop()), ("*", Keep())))

The first row that matches a parameter's role wins; `Drop` leaves out a tensor (a head that only trained).
Pruning, when there is any, comes before the grids. With a `solver`, tensors that have a Hessian get their codes from
it, the others by plain rounding. `QAT` is the same table seen from training: a phase whose forward
pass runs on `grid.fake(w)`; a row of None leaves its tensors as they are.
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
    """Not part of the artifact."""


@dataclass(frozen=True)
class Pruned:
    """Prune the tensors that `roles` (a tuple of globs) names."""

    roles: tuple[str, ...]
    prune: Prune

    def at_scale(self, to: Smaller) -> "Pruned":
        """The layers that stay."""
        roles = (to.glob(glob) for glob in self.roles)
        return Pruned(tuple(glob for glob in roles if glob is not None), shrunk(self.prune, to))


class Protection(Protocol):
    """Which tensors get another grid than the table's, by what was seen of them (`quant/awq.py`)."""

    def choose(
        self, weights: Mapping[str, Tensor], grids: Mapping[str, Grid], hessians: Mapping[str, Tensor] | None
    ) -> dict[str, Grid]:
        """The other grids, by name."""
        ...


class Correction(Protocol):
    """What is stored beside the codes to make up for their error (`quant/lqer.py`)."""

    def factors(
        self, weights: Mapping[str, Tensor], coded: Mapping[str, tuple[Grid, Codes]], hessians: Hessians | None
    ) -> dict[str, tuple[Grid, Codes]]:
        """Further tensors on their grids, by name."""
        ...


@dataclass(frozen=True)
class Quantize:
    """The grid table of a recipe, pruning before it, and what chooses among the codes (None: the nearest).

    `fill`: the packer may choose finer or coarser steps than the table's, and fills the cap (`quant/allocate.py`);
    otherwise it touches them only where they do not fit. `protect` gives some columns finer steps, as `AWQ()`, and
    `correct` adds what makes up for the error, as `LQER()`.
    """

    table: Table[Grid | Drop]
    pruned: Pruned | None = None
    solver: GPTQ | None = None
    fill: bool = False
    correct: Correction | None = None
    protect: Protection | None = None

    def grids(self, weights: dict[str, Tensor]) -> dict[str, Grid]:
        """The grid of every tensor that is stored. Raises `UserError` on a table that does not fit the names."""
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
        """What the grids see of a tensor: float32, pruned where its role is."""
        w = w.detach().float()
        if self.pruned and any(matches(name, glob) for glob in self.pruned.roles):
            w = self.pruned.prune.apply(w)
        return w


@dataclass(frozen=True)
class QAT:
    """Quantization-aware training: the forward pass sees `grid.fake(w)`. Implements the train floor's `WeightPhase`."""

    table: Table[Grid | None]

    def resolve(self, weights: dict[str, Tensor]) -> "FakeWeights":
        """Bind each parameter to its grid."""
        rows = resolve(self.table, weights, what="QAT table")
        return FakeWeights({name: grid for name, grid in rows.items() if grid is not None})

    def at_scale(self, to: Smaller) -> "QAT":
        """The rows of the layers that stay."""
        return QAT(to.rows(self.table))


class FakeWeights:
    """Replaces the bound weights by their fake-quantized values; gradients pass straight through."""

    def __init__(self, grids: dict[str, Grid]) -> None:
        self.grids = grids

    def __call__(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fake values of the bound names."""
        return {name: grid.fake(weights[name]) for name, grid in self.grids.items()}
