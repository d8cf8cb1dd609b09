"""How many bytes a recipe will take before anything is trained: the entropy of its grids on Gaussian rows.

    bytes = sum over tensors of numel * H(codes) / 8 * overhead(codec) + scales + what is stored whole

H is the order-0 entropy of the codes that the tensor's own grid gives to Gaussian rows of its length; trained matrices
are close to that (a report under pull request 1787 measured 3.427 bits on real weights and 3.425 on Gaussian ones).
Codecs cost so much over it: zlib 14 %, lzma 4.5 %, zstd and brotli 1.2 %, our coder nothing. Numbers stored whole are
counted in full. For pull requests 1009 and 295, whose grids have no floor that matters, it says 16.12 and 16.15 MB of
model; they published 16.41 and 15.94 MB with their code. So take it for 2 % either way.

A scale floor makes the answer depend on the weights' magnitude, `std`; a forecast of such a grid is a guess.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pargolf.core.roles import matches, role
from pargolf.model.transformer import Model, Transformer
from pargolf.packing.codecs import Brotli, Lzma, Zlib, Zstd
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import Pruned
from pargolf.quant.trellis import Trellis
from pargolf.run.recipe import Recipe

ROWS = 48
_OVERHEAD = {Zlib: 1.14, Lzma: 1.045, Zstd: 1.012, Brotli: 1.012}
_WHOLE = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Forecast:
    """Bytes of the model by role; the code comes on top."""

    by_role: dict[str, int]

    @property
    def model(self) -> int:
        """Bytes of the artifact."""
        return sum(self.by_role.values())


def shapes(model: Model) -> dict[str, torch.Size]:
    """Shape of every parameter, without allocating any."""
    with torch.device("meta"):
        return {name: p.shape for name, p in Transformer(model).named_parameters()}


def parameters(model: Model) -> int:
    """How many numbers the model learns or keeps."""
    return sum(shape.numel() for shape in shapes(model).values())


def forecast(recipe: Recipe, *, std: float = 0.1) -> Forecast:
    """Forecast the artifact's bytes at this recipe's size."""
    sizes = shapes(recipe.model)
    grids = recipe.quant.grids({name: torch.empty(0) for name in sizes})
    overhead = _OVERHEAD.get(type(recipe.codec), 1.0)
    by_role: dict[str, int] = {}
    for name, grid in grids.items():
        shape = sizes[name]
        if isinstance(grid, Keep):
            needed: float = shape.numel() * _WHOLE[grid.dtype]
        else:
            assert isinstance(grid, Int | Trellis), f"no forecast for {grid}"
            # A trellis lowers the error and leaves the bytes of its base.
            base = grid.base if isinstance(grid, Trellis) else grid
            bits, per_row = _bits(name, base, shape, recipe.quant.pruned, std)
            needed = shape.numel() * bits / 8 * overhead + shape[0] * per_row
        by_role[role(name)] = by_role.get(role(name), 0) + round(needed)
    return Forecast(by_role)


def _bits(name: str, grid: Int, shape: torch.Size, pruned: Pruned | None, std: float) -> tuple[float, float]:
    """Entropy per code, and bytes of scales per row, over a few Gaussian rows."""
    w_NC = std * torch.randn(min(ROWS, shape[0]), shape[-1], generator=torch.Generator().manual_seed(0))
    if pruned and shape.numel() > pruned.prune.larger_than and any(matches(name, glob) for glob in pruned.roles):
        w_NC = replace(pruned.prune, larger_than=0).apply(w_NC)
    codes = grid.encode(w_NC)
    return entropy(codes.codes), codes.scales.numel() * codes.scales.element_size() / len(w_NC)


def entropy(codes: Tensor) -> float:
    """Order-0 entropy of integer codes, in bits per code."""
    counts = torch.unique(codes, return_counts=True)[1].double()
    share = counts / counts.sum()
    return float(-(share * share.log2()).sum())


def extrapolate(rows: Iterable[Mapping[str, Any]], *, small: Model, full: Model) -> Forecast:
    """What the full-size artifact will take, from where the bytes of a small one went (`Artifact.by_role`).

    Each role keeps its bits per weight, scales go by rows, header and container stay as they are. Trained weights have
    heavier tails than Gaussian ones, and floors act on their real magnitudes; but short rows have nearer maxima.
    """
    counts, rows_per = {}, {}
    for key, model in (("small", small), ("full", full)):
        sizes = shapes(model)
        counts[key] = Counter[str]()
        for name, shape in sizes.items():
            counts[key][role(name)] += shape.numel()
        rows_per[key] = sum(shape[0] for shape in sizes.values() if len(shape) == 2)
    by_role: dict[str, int] = {}
    for row in rows:
        name = str(row["role"])
        ratio = counts["full"][name] / counts["small"][name] if counts["small"][name] else 1.0
        by_role[name] = round(row["bytes"] * (rows_per["full"] / rows_per["small"] if name == "(scales)" else ratio))
    return Forecast(by_role)
