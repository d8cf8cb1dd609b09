"""From trained weights to an artifact and back: only what `unpack` rebuilds from the bytes is scored.

    weights -> grids -> codes and scales -> bytes under the cap (`fit`)   -> `unpack`: the model, from these bytes alone

The artifact contains the model's spec and, for each tensor, codes and scales on a grid; the float weights are left out.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pargolf.core import own, spec
from pargolf.core.errors import NotRead, UserError, out_of_memory
from pargolf.core.files import reading
from pargolf.core.roles import role
from pargolf.evaluate.adapters.adapter import Adapter
from pargolf.evaluate.windows import Windows
from pargolf.model.transformer import Model, Transformer, shapes
from pargolf.packing.artifact import MAGIC, Artifact, from_bytes, to_bytes
from pargolf.packing.tensors import CodesTensor, RawTensor, Stored
from pargolf.quant.allocate import Allocator, land
from pargolf.quant.gptq import Hessians
from pargolf.quant.grid import Codes, Grid
from pargolf.quant.lqer import corrected
from pargolf.quant.plan import Quantize
from pargolf.recipes.recipe import Recipe
from pargolf.ship.size import count_code

PARTS = ("pargolf.model.", "pargolf.quant.", "pargolf.evaluate.")
"""The packages whose dataclasses and functions an artifact may name."""


@dataclass(frozen=True)
class Meta:
    """What an artifact's header contains besides its tensors: the model, its windows and adapter, and its recipe."""

    recipe: str
    digest: str
    model: Model
    plain: Windows
    windows: Windows
    adapt: Adapter | None
    tokenizer: str


@dataclass(frozen=True)
class UnpackedModel:
    """An unpacked artifact: the model with its weights, the windows it is scored with, and its recipe."""

    model: Transformer
    windows: Windows
    plain: Windows
    adapt: Adapter | None
    artifact: Artifact
    recipe: str
    digest: str
    tokenizer: str


def pack(
    recipe: Recipe,
    weights: dict[str, Tensor],
    *,
    tokenizer: str,
    hessians: Hessians | None = None,
    quant: Quantize | None = None,
) -> bytes:
    """Quantize and serialize.

    tokenizer: the SHA-256 of the model's tokenizer
    hessians: for the recipe's solver; without them weights are rounded
    quant: grids solved for a cap, instead of the recipe's own; the artifact still names the recipe
    """
    meta = {
        "recipe": recipe.name,
        "digest": recipe.digest,
        "model": spec.dump(recipe.model),
        "plain": spec.dump(recipe.plain),
        "windows": spec.dump(recipe.windows),
        "adapt": spec.dump(recipe.adapt),
        "tokenizer": tokenizer,
    }
    return to_bytes(meta, stored_tensors((quant or recipe.quant).encode(weights, hessians)), codec=recipe.codec)


def stored_tensors(coded: Mapping[str, tuple[Grid, Codes]]) -> list[Stored]:
    """Convert tensors on their grids to the container's form."""
    tensors: list[Stored] = []
    for name, (grid, codes) in coded.items():
        if codes.whole:
            tensors.append(RawTensor(name, role(name), _raw(codes.codes), str(codes.codes.dtype).partition(".")[2]))
        else:
            array, scales = codes.codes.numpy(), _raw(codes.scales)
            order = None if codes.order is None else codes.order.numpy()
            tensors.append(CodesTensor(name, role(name), array, scales, spec.dump(grid), codes.states, order))
    return tensors


def unpack(data: bytes) -> UnpackedModel:
    """Rebuild the model from bytes alone. Raises `ArtifactError` on damage, `UserError` on parts of another version."""
    artifact = from_bytes(data)
    meta = spec.build(Meta, artifact.meta, where="The artifact's header", within=PARTS)
    with _of_a_file("tensors do not lie on their grids"):
        values = corrected({name: values_of(tensor) for name, tensor in artifact.tensors.items()})
    with _of_a_file("model does not run"):
        model = _checked(meta.model, values)
    return UnpackedModel(
        model, meta.windows, meta.plain, meta.adapt, artifact, meta.recipe, meta.digest, meta.tokenizer
    )


def _checked(system: Model, values: Mapping[str, Tensor]) -> Transformer:
    """The model with these weights, after a test run. Shapes are checked before any memory is allocated."""
    sizes = shapes(system)
    for name in sizes:
        if name not in values and not name.startswith("head.ahead."):
            raise UserError(f"The artifact holds no '{name}'. Was it made by another version?")
    for name, value in values.items():
        if sizes.get(name) != value.shape:
            raise UserError(f"The artifact's '{name}' does not fit its model. Was it made by another version?")
    model = filled(system, values)
    with torch.no_grad():
        model(torch.arange(min(system.vocab, 4))[None])
    return model


def filled(system: Model, values: Mapping[str, Tensor]) -> Transformer:
    """The model with these weights, ready to score; parameters without a value keep their initial one."""
    model = Transformer(system).eval()
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            weights[name].copy_(value)
    return model


@contextmanager
def _of_a_file(what: str) -> Iterator[None]:
    """Turn any error inside into a `UserError` that the artifact is inconsistent, except out-of-memory errors."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:120]
        raise UserError(f"The artifact's {what} ({reason}). Was it made by another version?") from error


def read_container(path: str | Path) -> Artifact:
    """Read the container of a file without building the model. Raises `UserError` when it is missing or damaged."""
    with reading(path):
        return from_bytes(_bytes_of(path))


def read_artifact(path: str | Path) -> UnpackedModel:
    """`unpack` a file.

    Raises `UserError` with its name when it is missing or damaged, or when it needs a user's file that was not given.
    """
    with reading(path):
        try:
            return unpack(_bytes_of(path))
        except NotRead as error:
            raise own.kept(error, Path(path).parent) from None


def _bytes_of(path: str | Path) -> bytes:
    """The bytes of an artifact. Raises `UserError` when it is missing, or is not a pargolf file."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"There is no artifact {path}. A run's artifact is RUN/model.pargolf.") from None
    if data and not data.startswith(MAGIC[: len(data)]):
        raise UserError(
            f"{path} is no artifact of pargolf. If a published script wrote it, make a run of it first: "
            f"pargolf import {path} --system NAME --out RUN."
        )
    return data


def fit(
    recipe: Recipe,
    weights: dict[str, Tensor],
    *,
    tokenizer: str,
    cap: int,
    hessians: Hessians | None = None,
    fill: bool | None = None,
    code: int | None = None,
) -> tuple[Recipe, bytes]:
    """Pack model and code into `cap` bytes; returns the recipe with the grids that were used, and the artifact.

    The recipe's own grids are used if they fit and the cap need not be filled. Otherwise the steps of all roles are
    solved (`quant/allocate.py`) to fill at least 99.8 % of the cap.

    fill: whether to fill the cap; None: as the recipe says
    code: assume this many bytes of code instead of counting them, for a rehearsal

    Raises `UserError` with the smallest size and the largest role when even the coarsest steps do not fit.
    """
    fill = recipe.quant.fill if fill is None else fill
    counted = code is None
    code = count_code(recipe, fitted=fill) if code is None else code

    def packed(quant: Quantize) -> bytes:
        return pack(recipe, weights, tokenizer=tokenizer, hessians=hessians, quant=quant)

    if not fill:
        data = packed(recipe.quant)
        if len(data) + code <= cap:
            return recipe, data
        code = count_code(recipe, fitted=True) if counted else code
    allocator = Allocator(recipe.quant, weights, hessians)
    quant, data = land(allocator, cap - code, packed)
    if len(data) + code > cap:
        raise UserError(_too_large(data, code, cap))
    return replace(recipe, quant=quant), data


def _too_large(data: bytes, code: int, cap: int) -> str:
    """The message for a model that does not fit."""
    largest = max(from_bytes(data).by_role(), key=lambda row: int(row["bytes"]))
    return (
        f"The model packs to {len(data) + code:,} bytes at the least, {code:,} of them code, and the cap is {cap:,}. "
        f"Raise the cap, or train a smaller model: {largest['role']} takes {largest['bytes']:,} even so."
    )


def _raw(x: Tensor) -> "np.ndarray[Any, Any]":
    """A tensor as a numpy array; bfloat16 as its 16 bits."""
    out: np.ndarray[Any, Any] = (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).cpu().numpy()
    return out


def values_of(tensor: CodesTensor | RawTensor) -> Tensor:
    """The float32 values of a stored tensor, decoded by its grid."""
    if isinstance(tensor, RawTensor):
        whole = torch.from_numpy(tensor.data.copy())
        return (whole.view(torch.bfloat16) if tensor.dtype == "bfloat16" else whole).float()
    grid: Grid = spec.load(tensor.grid, Grid, within=PARTS, at=f"The artifact's grid of '{tensor.name}'")
    if getattr(grid, "states", 0) != tensor.states:
        raise UserError(f"The artifact's '{tensor.name}' walks another trellis than its grid's. Pack the run again.")
    if getattr(getattr(grid, "base", grid), "scale", tensor.scale_dtype) != tensor.scale_dtype:
        raise UserError(f"The artifact's '{tensor.name}' has other scales than its grid's. Pack the run again.")
    scales = torch.from_numpy(tensor.scales.copy())
    if tensor.scale_dtype == "bfloat16":
        scales = scales.view(torch.bfloat16)
    order = None if tensor.order is None else torch.from_numpy(tensor.order.copy())
    return grid.decode(Codes(torch.from_numpy(tensor.codes.copy()), scales, order))


def on_cpu(model: Transformer) -> dict[str, Tensor]:
    """A model's weights by name, on the CPU, for the packer."""
    return {name: p.detach().cpu() for name, p in model.named_parameters()}
