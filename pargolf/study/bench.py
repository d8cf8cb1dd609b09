"""Compare quantizers and codecs: every published pair against our solver, on one model's weights.

    bytes     of all matrices' codes and scales under the system's own codec, and of the rest as 16-bit numbers
    error     sum over tensors of tr(E H E^T), in nats per token (`quant/gptq.py`); plain squares without Hessians
    tax       bits per byte after unpacking minus before, on the same tokens, if a `grade` function is given

A published system is its export grids (`quant/published.py`) for attention, MLP and embedding matrices with its codec:
grids act on whatever magnitudes the model has, so their scale floors count here as they counted there. `sdclip` is the
last published frontier (pull requests 1394 to 2135): int6 at 12.85 deviations, int7 tables at 14, GPTQ, brotli-11.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.roles import role
from pargolf.core.spec import dump
from pargolf.core.work import Events
from pargolf.data.folder import DataFolder, open_data
from pargolf.data.stream import TrainStream
from pargolf.kernels.compiled import compiled_kernels
from pargolf.model.transformer import Transformer
from pargolf.packing import coder
from pargolf.packing.artifact import Artifact, from_bytes, to_bytes
from pargolf.packing.codecs import Brotli, Codec, Lzma, Zlib, Zstd
from pargolf.packing.tensors import CodesTensor
from pargolf.quant.allocate import Allocator, land
from pargolf.quant.calibrate import calibrate
from pargolf.quant.clip import StdDev
from pargolf.quant.gptq import GPTQ, Hessians, weighted_error
from pargolf.quant.grid import Grid, Int, Keep
from pargolf.quant.plan import Quantize
from pargolf.quant.published import INT5_861, INT8, INT8_SEARCHED_543, amax_295, lite_549, lite_1009
from pargolf.quant.trellis import Trellis
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder, load_tensors
from pargolf.run.pack import pack, read_artifact, unpack
from pargolf.run.score import open_text, score_sample

_SMALL = 2048
_LATER = 10_000  # a later step than short runs reach, so that these batches are new to the model
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
        """The pair's table for a model, a row for each role of its matrices; small matrices are not quantized."""
        rows: dict[str, Grid] = {}
        for name, w in weights.items():
            if w.ndim == 2 and w.numel() >= _SMALL:
                kind = role(name)
                rows[kind] = self.embed if kind.startswith("embed.") else self.mlp if "mlp" in kind else self.attn
        return Quantize((*rows.items(), ("*", Keep())), solver=self.solver)


def published() -> list[Pair]:
    """The quantizers and codecs of the seven published systems, and of the last published frontier."""
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


def own_codec(*, states: int | None = 8) -> Pair:
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

    With `rooms`, the steps of each pair are solved for each of these sizes in bytes.
    """
    for pair in pairs:
        plan = replace(recipe, quant=pair.plan(weights), codec=pair.codec)

        def packed(quant: Quantize, plan: Recipe = plan) -> bytes:
            with compiled_kernels():
                return pack(replace(plan, quant=quant), weights, tokenizer="bytes", hessians=hessians)

        if not rooms:
            yield _measured(pair.name, packed(plan.quant), weights, hessians, grade)
            continue
        allocator = Allocator(plan.quant, weights, hessians)
        for room in rooms:
            _, data = land(allocator, room, packed)
            yield _measured(pair.name, data, weights, hessians, grade)


def run_quantizer_rows(
    recipe: Recipe, weights: dict[str, Tensor], hessians: Hessians | None, *, grade: Grade | None = None
) -> Iterator[dict[str, Any]]:
    """Rows for the weights as trained (`none`), every published pair, and ours solved for the last pair's bytes."""
    whole = replace(recipe, quant=Quantize((("*", Keep("float32")),)), codec=None)
    yield _measured("none", pack(whole, weights, tokenizer="bytes"), weights, hessians, grade)
    row: dict[str, Any] = {}
    for row in quantizer_rows(recipe, weights, hessians, published(), grade=grade):
        yield row
    yield from quantizer_rows(recipe, weights, hessians, [own_codec()], rooms=[row["bytes"]], grade=grade)


def hessians_of(recipe: Recipe, weights: dict[str, Tensor], data: DataFolder, *, batches: int) -> Hessians:
    """Hessians of a trained model from `batches` training batches, in an order that it was not trained in."""
    model, spec = recipe.model.build(0), recipe.train
    model.load_state_dict(weights, strict=False)
    stream = TrainStream(data.train, batch_tokens=spec.batch_tokens, seq_len=spec.seq_len, seed=1, order=spec.order)
    rows = max(spec.micro_tokens // spec.seq_len, 1)
    parts = (zip(*(torch.split(t, rows) for t in stream.batch(_LATER + i))) for i in range(batches))
    return calibrate(model, chain.from_iterable(parts))


def codec_rows(codes: dict[str, list[CodesTensor]]) -> Iterator[dict[str, Any]]:
    """Bytes of each role's codes under every codec.

    The general codecs get one byte per code, as published systems store them. `ours` is the section of an artifact,
    including the parities of a trellis. `order0` is Shannon's bound for one table per tensor.
    """
    for name, tensors in codes.items():
        flat = b"".join(np.ascontiguousarray(tensor.codes).tobytes() for tensor in tensors)
        row: dict[str, Any] = {"role": name, "codes": sum(tensor.codes.size for tensor in tensors)}
        row |= {codec_name: len(codec.encode(flat)) for codec_name, codec in _CODECS}
        sections = from_bytes(to_bytes(None, tensors)).sections
        row["ours"] = sum(section.size for section in sections if section.name.startswith("codes"))
        row["order0"] = round(sum(coder.order0_bytes(tensor.codes) for tensor in tensors))
        yield row


def sum_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sum over all roles, as a row."""
    return {"role": "all"} | {key: sum(row[key] for row in rows) for key in rows[0] if key != "role"}


def stored_codes(artifact: Artifact) -> dict[str, list[CodesTensor]]:
    """The codes in an artifact, by role. Raises `UserError` if there are none."""
    out: dict[str, list[CodesTensor]] = {}
    for tensor in artifact.tensors.values():
        if isinstance(tensor, CodesTensor):
            out.setdefault(tensor.role, []).append(tensor)
    if not out:
        raise UserError("The artifact holds no codes: none of its tensors is quantized. Pack it on a grid.")
    return out


def int6_codes(weights: dict[str, Tensor]) -> dict[str, list[CodesTensor]]:
    """Codes of all matrices on the last published grid, int6 at 12.85 deviations, by role; banks row by row.

    Raises `UserError` if there are no matrices.
    """
    grid, out = Int(6, clip=StdDev(12.85)), dict[str, list[CodesTensor]]()
    for name, w in weights.items():
        if w.ndim >= 2 and w.numel():
            codes = grid.encode(w.float().reshape(-1, w.shape[-1]))
            tensor = CodesTensor(name, role(name), codes.codes.numpy(), codes.scales.numpy(), dump(grid))
            out.setdefault(tensor.role, []).append(tensor)
    if not out:
        raise UserError("The file holds no matrices. Point at a model's weights.")
    return out


def interpolate(rows: Sequence[dict[str, Any]], *, known: str, value: float, target: str) -> float | None:
    """Interpolate `target` at `known` = `value` between rows, linear in both logarithms; None outside the rows."""
    points = sorted((row[known], row[target]) for row in rows if row[known] > 0 and row[target] > 0)
    x, y = np.log([p[0] for p in points]), np.log([p[1] for p in points])
    inside = len(points) > 1 and value > 0 and x[0] <= np.log(value) <= x[-1]
    return float(np.exp(np.interp(np.log(value), x, y))) if inside else None


def bench(target: str | Path, *, data: str | Path | None = None) -> Events[dict[str, list[dict[str, Any]]]]:
    """Measure codecs on a run, an artifact or a `.safetensors` file, and for a run quantizers too.

    Returns the rows under `codecs` and `quantizers`. Quantizers are scored in bits per byte on a sample, if there is
    data: in `data`, or in the folder that the run used.
    """
    path = Path(target)
    run = None if path.suffix in (".safetensors", ".pargolf") else RunFolder.open(path)
    if path.suffix == ".safetensors":
        codes = int6_codes(load_tensors(path))
    else:
        codes = stored_codes(read_artifact(path if run is None else run["model.pargolf"]).artifact)
    rows: list[dict[str, Any]] = []
    for row in codec_rows(codes):
        rows.append(row)
        yield Progress("codecs", len(rows), len(codes), row["role"])
    rows.append(sum_row(rows))
    if run is None:
        return {"codecs": rows}
    recipe, weights, hessians = run.read_packable()
    folder = Path(data) if data else path / "data"
    text = open_data(folder) if data or folder.is_dir() else None
    if hessians is None and text is not None:
        hessians = hessians_of(recipe, weights, text, batches=4)
    grade = None if text is None else _sample_bpb(recipe, text)
    pairs: list[dict[str, Any]] = []
    for row in run_quantizer_rows(recipe, weights, hessians, grade=grade):
        pairs.append(row)
        yield Progress("quantizers", len(pairs), len(published()) + 2, row["name"])
    return {"codecs": rows, "quantizers": pairs}


def _sample_bpb(recipe: Recipe, data: DataFolder) -> Grade:
    """A function that scores a model on a sample of the validation text."""
    text = open_text(data)
    return lambda model: score_sample(model.eval(), text, recipe.plain, count=64).bpb


def _measured(
    name: str, data: bytes, weights: dict[str, Tensor], hessians: Hessians | None, grade: Grade | None
) -> dict[str, Any]:
    unpacked = unpack(data)
    errors = {n: p.detach() - weights[n].float() for n, p in unpacked.model.named_parameters() if n in weights}
    row = {
        "name": name,
        "bytes": len(data),
        "squared_error": sum(weighted_error(e, None) for e in errors.values()),
    }
    if hessians:
        row["weighted_error"] = sum(weighted_error(errors[n], h) for n, h in hessians.items() if n in errors)
    return row | ({"bpb": grade(unpacked.model)} if grade else {})
