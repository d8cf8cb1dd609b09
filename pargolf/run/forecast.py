"""How many bytes a recipe's artifact will take: before training from the recipe, during training from the weights.

    bytes = sum over tensors of numel * H(codes) / 8 * overhead(codec, H) + scales + what is stored whole + header

H is the order-0 entropy of the codes that the tensor's own grid gives to a sample of its rows. Before training, the
rows are drawn from a Gaussian; trained matrices are close to that (a report under pull request 1787 measured 3.427 bits
on real weights and 3.425 on Gaussian ones); heavier tails and unequal columns saved at most .8 % here. Our coder needs
H; other codecs need more, the more the fewer bits there are: lzma 2 % at seven bits and 15 % at two. Embedding rows of
pieces that occur in no text stay alike, and cost about a third of other rows under lzma, zstd and brotli: `unused` is
their number. Unquantized numbers are estimated by compressing a sample.

If a grid's scales have a floor, the codes depend on the magnitude of the weights, so that is forecast first, from
steps, rates and decay (`growth.py`). The limit of this: an error of a fifth in the magnitude is a quarter of a bit, 5 %
of such a model. docs/quant.md has measured runs, small and published. `weigh` has no such limit, because it sees the
weights.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pargolf.core.roles import matches, resolve, role
from pargolf.data.folder import DataFolder
from pargolf.model.transformer import Model, shapes
from pargolf.packing.codecs import Brotli, Codec
from pargolf.quant.grid import Grid
from pargolf.quant.plan import Quantize
from pargolf.recipes.recipe import Recipe
from pargolf.run.growth import deviation, expected_steps

_ROWS = 48  # Gaussian rows that represent a tensor
_SAMPLE = 1 << 17  # trained weights that represent a role
_BITS = 0.5, 1.0, 1.5, 2.1, 3.1, 4.4, 5.6, 7.0
_OVERHEAD = {  # bytes over the entropy, for 160,000 Gaussian codes with the bits of `_BITS`
    "zlib": (1.39, 1.31, 1.25, 1.21, 1.18, 1.13, 1.03, 1.01),
    "xz": (1.28, 1.22, 1.18, 1.15, 1.06, 1.034, 1.023, 1.018),
    "zstd": (1.28, 1.23, 1.12, 1.06, 1.022, 1.011, 1.009, 1.012),
    "brotli": (1.27, 1.23, 1.11, 1.05, 1.018, 1.008, 1.004, 1.006),
}
_RAW = 0.85  # compressed size of unquantized vectors over their bytes
_SCALE = 0.64  # the same for the scales of rows
_HEADER = 1100
_ALIKE = 0.37  # cost of a row that is like many others, over that of an ordinary row
_SPREAD = 0.25  # standard deviation of the logarithm of trained rows' magnitudes


@dataclass(frozen=True)
class Forecast:
    """Bytes of the model by role, and a row `(header)`; scales belong to their role. Code is not included."""

    by_role: dict[str, int]

    @property
    def model(self) -> int:
        """The bytes of the artifact."""
        return sum(self.by_role.values())


def forecast(recipe: Recipe, *, unused: int = 0, steps: int | None = None) -> Forecast:
    """Forecast the artifact's bytes on the recipe's own grids, before training.

    unused: the number of vocabulary pieces that occur in no text
    steps: training steps, if the recipe or its source does not say (`growth.expected_steps`)
    """
    steps = steps or expected_steps(recipe)
    generator, sizes = torch.Generator().manual_seed(0), shapes(recipe.model)
    rates = resolve(recipe.train.optimizer, sizes, what="optimizer table")

    def rows(name: str, shape: torch.Size) -> Tensor:
        std = deviation(recipe, name, shape, rates[name], steps=steps)
        w_NC = std * torch.randn(min(_ROWS, shape[0]), shape[-1], generator=generator)
        return w_NC * torch.exp(_SPREAD * torch.randn(len(w_NC), 1, generator=generator))

    bytes_by_role = _forecast(recipe, sizes, rows)
    repeats = recipe.codec is not None and recipe.codec.name not in ("raw", "zlib")  # large windows
    if unused and repeats and "embed.tokens" in bytes_by_role.by_role:
        alike = unused / recipe.model.vocab * (1 - _ALIKE)
        bytes_by_role.by_role["embed.tokens"] -= round(bytes_by_role.by_role["embed.tokens"] * alike)
    return bytes_by_role


def weigh(recipe: Recipe, weights: Mapping[str, Tensor]) -> Forecast:
    """Forecast the artifact's bytes from the current weights, by the codes of a sample of rows; fast."""
    sizes = {name: w.shape for name, w in weights.items()}
    total = Counter[str]()
    for name, shape in sizes.items():
        total[role(name)] += shape.numel()

    def rows(name: str, shape: torch.Size) -> Tensor:
        w_NC = weights[name].detach().reshape(-1, shape[-1] if shape else 1)
        every = min(len(w_NC), max(1, total[role(name)] // _SAMPLE))
        return w_NC[every // 2 :: every].float().cpu()

    return _forecast(recipe, sizes, rows)


def unused_pieces(data: DataFolder) -> int:
    """The number of vocabulary pieces that do not occur in the first ten million training tokens."""
    count = min(len(data.train), 10_000_000)
    counts = np.bincount(data.train.take(0, count).astype(np.int64), minlength=data.vocab)
    return int((counts == 0).sum())


def lands(recipe: Recipe, model: int, *, code: int) -> int:
    """The final size of the submission with code: grids that fill the cap, or exceed it, are solved to fit it."""
    cap = recipe.budget.bytes
    finest = code + sum(2 * shape.numel() for shape in shapes(recipe.model).values())
    return min(cap, finest) if recipe.quant.fill or model + code > cap else model + code


def entropy(codes: Tensor) -> float:
    """Order-0 entropy of integer codes, in bits per code."""
    counts = torch.unique(codes, return_counts=True)[1].double()
    share = counts / counts.sum()
    return float(-(share * share.log2()).sum())


def _forecast(recipe: Recipe, sizes: Mapping[str, torch.Size], rows: Callable[[str, torch.Size], Tensor]) -> Forecast:
    """Bytes by role, from the codes of some rows of each tensor."""
    grids = recipe.quant.grids({name: torch.empty(0) for name in sizes})
    by_role: dict[str, int] = {}
    for name, grid in grids.items():
        shape, group = sizes[name], role(name)
        stored: Grid = grid.stand_in if hasattr(grid, "stand_in") else grid
        one = stored.encode(torch.zeros(1, shape[-1] if shape else 1))
        if one.whole:
            sample = rows(name, shape) if len(shape) > 1 else None
            needed = shape.numel() * _unquantized(recipe.codec, stored, one.codes.element_size(), sample)
        else:
            needed = _coded(recipe, name, stored, shape, rows(name, shape))
        by_role[group] = by_role.get(group, 0) + round(needed)
    return Forecast(by_role | {"(header)": _HEADER})


def _unquantized(codec: Codec | None, grid: Grid, size: int, w_NC: Tensor | None) -> float:
    """Bytes per unquantized number of `size` bytes, from some rows of its tensor; for vectors a measured constant."""
    if w_NC is None or w_NC.numel() < 1 << 12:
        return size * (_RAW if w_NC is None else 1.0)
    numbers = grid.encode(w_NC).codes.contiguous().view(torch.uint8).numpy()
    if codec is not None:
        return min(len(codec.encode(numbers.tobytes())) / w_NC.numel(), float(size))
    planes_NB = numbers.reshape(w_NC.numel(), -1)
    return sum(entropy(torch.from_numpy(planes_NB[:, i].copy())) for i in range(planes_NB.shape[1])) / 8


def _coded(recipe: Recipe, name: str, grid: Grid, shape: torch.Size, w_NC: Tensor) -> float:
    """Bytes of one tensor's codes and scales, from some of its rows."""
    codes = grid.encode(_pruned(recipe.quant, name, shape, w_NC))
    array = codes.codes.numpy()
    bits = entropy(codes.codes)
    each = bits / 8 * _overhead(recipe.codec, bits, array)
    if name.startswith("embed.") or name.endswith("table.weight"):  # tables, whose rows may repeat
        each = min(each, len((recipe.codec or Brotli(9)).encode(array.tobytes())) / array.size)
    return shape.numel() * each + codes.scales.numel() * _of_scale(codes.scales) * shape.numel() / w_NC.numel()


def _of_scale(scales: Tensor) -> float:
    """Bytes per scale: a measured constant if most scales differ, else their entropy byte by byte."""
    size = scales.element_size()
    if len(torch.unique(scales)) > scales.numel() / 2:
        return _SCALE * size
    bytes_NB = np.ascontiguousarray(scales.numpy()).view(np.uint8).reshape(-1, size)
    return sum(entropy(torch.from_numpy(bytes_NB[:, i].copy())) for i in range(size)) / 8


def _pruned(quant: Quantize, name: str, shape: torch.Size, w_NC: Tensor) -> Tensor:
    """The sample, pruned if the whole tensor would be."""
    pruned = quant.pruned
    if pruned and shape.numel() > pruned.prune.larger_than and any(matches(name, glob) for glob in pruned.roles):
        return replace(pruned.prune, larger_than=0).apply(w_NC)
    return w_NC


def _overhead(codec: Codec | None, bits: float, codes: NDArray[Any]) -> float:
    """A codec's bytes over the order-0 entropy: from the table, or measured on these codes for other codecs."""
    if codec is None or codec.name == "raw":
        return 1.0
    if codec.name in _OVERHEAD:
        return float(np.interp(bits, _BITS, _OVERHEAD[codec.name]))
    return len(codec.encode(codes.tobytes())) * 8 / max(bits * codes.size, 1.0)


def extrapolate(rows: Iterable[Mapping[str, Any]], *, small: Model, full: Model) -> Forecast:
    """Forecast the full-size artifact from the bytes by role of a small one (`Artifact.by_role`).

    Each role keeps its bits per weight, scales grow with the rows, header and container stay the same. Unlike Gaussian
    samples, trained weights show heavier tails and the real effect of floors; but the maxima of short rows are smaller.
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
