"""What a quantizer and a codec cost, side by side: every published pair against the solver, on one model's weights.

    bytes     of all matrices' codes and scales under the system's own codec, and of the rest as 16-bit numbers
    error     sum over tensors of tr(E H E^T), in nats per token (`quant/gptq.py`); plain squares without Hessians
    tax       bits per byte after unpacking minus before, on the same tokens, where the caller can grade

A published system is its export grids (`quant/published.py`) for attention, MLP and embedding matrices with its codec:
grids act on whatever magnitudes the model has, so their scale floors count here as they counted there. `sdclip` is the
last published frontier (pull requests 1394 to 2135): int6 at 12.85 deviations, int7 tables at 14, GPTQ, brotli-11.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pargolf.core.roles import role
from pargolf.model.transformer import Transformer
from pargolf.packing import coder
from pargolf.packing.codecs import Brotli, Codec, Lzma, Zlib, Zstd
from pargolf.quant.allocate import Allocator, land
from pargolf.quant.clip import StdDev
from pargolf.quant.gptq import GPTQ, Hessians, weighted_error
from pargolf.quant.grid import Grid, Int, Keep
from pargolf.quant.plan import Quantize
from pargolf.quant.published import INT5_861, INT8, INT8_SEARCHED_543, amax_295, lite_549, lite_1009
from pargolf.quant.trellis import Trellis
from pargolf.run.pack import pack, unpack
from pargolf.run.recipe import Recipe

_SMALL = 2048
Grade = Callable[[Transformer], float]
_CODECS: tuple[tuple[str, Codec], ...] = (
    ("zlib-9", Zlib()),
    ("zstd-22", Zstd()),
    ("xz-9e", Lzma()),
    ("brotli-11", Brotli()),
)


@dataclass(frozen=True)
class Pair:
    """A quantizer and a codec: grids for attention, MLP and embedding matrices."""

    name: str
    attn: Grid
    mlp: Grid
    embed: Grid
    codec: Codec | None
    solver: GPTQ | None = None

    def plan(self, weights: dict[str, Tensor]) -> Quantize:
        """The pair's table for a model, a row for each role of its matrices; small ones stay whole."""
        rows: dict[str, Grid] = {}
        for name, w in weights.items():
            if w.ndim == 2 and w.numel() >= _SMALL:
                kind = role(name)
                rows[kind] = self.embed if kind.startswith("embed.") else self.mlp if "mlp" in kind else self.attn
        return Quantize((*rows.items(), ("*", Keep())), solver=self.solver)


def published() -> list[Pair]:
    """Quantizer and codec of the seven published systems, and of the frontier after them."""
    sdclip, table = Int(6, clip=StdDev(12.85)), Int(7, clip=StdDev(14.0))
    return [
        Pair("baseline", INT8, INT8, INT8, Zlib()),
        Pair("pr549", lite_549(6), lite_549(6), INT8, Lzma(6, extreme=False)),
        Pair("pr910", lite_549(6), lite_549(4), INT8, Lzma(6, extreme=False)),
        Pair("pr1009", lite_1009(6), lite_1009(5), Keep(), Zstd()),
        Pair("pr543", INT8_SEARCHED_543, INT8_SEARCHED_543, Keep(), Zstd()),
        Pair("pr295", amax_295(6), amax_295(5), Keep(), Zstd()),
        Pair("pr861", INT5_861, INT5_861, INT5_861, Zstd()),
        Pair("sdclip", sdclip, sdclip, table, Brotli(), GPTQ()),
    ]


def ours(*, states: int | None = 8) -> Pair:
    """The solver's starting point: a trellis of `states`, or the scalar grid, under GPTQ and the range coder."""
    base = Int(6, clip=StdDev(12.85))
    grid: Grid = base if states is None else Trellis(base, states)
    return Pair("ours" if states else "ours, scalar", grid, grid, grid, None, GPTQ())


def quantizer_rows(
    recipe: Recipe,
    weights: dict[str, Tensor],
    hessians: Hessians | None,
    pairs: Sequence[Pair],
    *,
    rooms: Sequence[int] = (),
    grade: Grade | None = None,
) -> Iterator[dict[str, Any]]:
    """One row per pair: name, bytes, squared error, Hessian-weighted error, and BPB where `grade` is given.

    With `rooms`, each pair is solved for each of these sizes instead of taken as it is.
    """
    for pair in pairs:
        plan = replace(recipe, quant=pair.plan(weights), codec=pair.codec)

        def packed(quant: Quantize, plan: Recipe = plan) -> bytes:
            return pack(replace(plan, quant=quant), weights, tokenizer="bytes", hessians=hessians)

        if not rooms:
            yield _measured(pair.name, packed(plan.quant), weights, hessians, grade)
            continue
        allocator = Allocator(plan.quant, weights, hessians)
        for room in rooms:
            _, data = land(allocator, room, packed)
            yield _measured(pair.name, data, weights, hessians, grade)


def codec_rows(codes: dict[str, list[NDArray[Any]]]) -> Iterator[dict[str, Any]]:
    """Bytes of each role's codes under every codec: `order0` is Shannon's bound for one table per matrix."""
    for name, matrices in codes.items():
        flat = b"".join(np.ascontiguousarray(matrix).tobytes() for matrix in matrices)
        row: dict[str, Any] = {"role": name, "codes": sum(matrix.size for matrix in matrices)}
        row |= {codec_name: len(codec.encode(flat)) for codec_name, codec in _CODECS}
        row["ours"] = len(coder.encode(matrices))
        row["order0"] = round(sum(coder.order0_bytes(matrix) for matrix in matrices))
        yield row


def scalar_codes(weights: dict[str, Tensor], plan: Quantize | None = None) -> dict[str, list[NDArray[Any]]]:
    """Integer codes of matrices by role: on a recipe's grids, a trellis on its base; else int6 at 12.85 deviations."""
    matrices = {name: w.float() for name, w in weights.items() if w.ndim == 2}
    grids: dict[str, Grid] = (
        dict.fromkeys(matrices, Int(6, clip=StdDev(12.85))) if plan is None else plan.grids(weights)
    )
    out: dict[str, list[NDArray[Any]]] = {}
    for name, w in matrices.items():
        grid = grids.get(name)
        base = grid.base if isinstance(grid, Trellis) else grid
        if isinstance(base, Int):
            out.setdefault(role(name), []).append(base.encode(w).codes.numpy())
    return out


def at_equal(rows: Sequence[dict[str, Any]], *, given: str, value: float, wanted: str) -> float | None:
    """Read `wanted` off a curve of rows where `given` is `value`, both as logarithms; None outside the curve."""
    points = sorted((row[given], row[wanted]) for row in rows if row[given] > 0 and row[wanted] > 0)
    x, y = np.log([p[0] for p in points]), np.log([p[1] for p in points])
    inside = len(points) > 1 and value > 0 and x[0] <= np.log(value) <= x[-1]
    return float(np.exp(np.interp(np.log(value), x, y))) if inside else None


def _measured(
    name: str, data: bytes, weights: dict[str, Tensor], hessians: Hessians | None, grade: Grade | None
) -> dict[str, Any]:
    unpacked = unpack(data)
    errors = {n: p.detach() - weights[n].float() for n, p in unpacked.model.named_parameters() if n in weights}
    row = {
        "name": name,
        "bytes": len(data),
        "squared_error": sum(weighted_error(e, None) for e in errors.values()),
        "weighted_error": sum(weighted_error(errors[n], h) for n, h in (hessians or {}).items() if n in errors),
    }
    return row | ({"bpb": grade(unpacked.model)} if grade else {})
