"""Artifacts of the shipped form: they hold this program's own recipe, so the model is built from that.

An artifact of another model is refused. With a codec named in the recipe, every section is in it, and the range coder
is not needed. Checksums are compared as one: the digest over all.
"""

import json
from collections.abc import Sequence
from typing import Any

import brotli
import numpy as np
import torch
from numpy.typing import NDArray

from pargolf.core import spec
from pargolf.model.transformer import Transformer
from pargolf.packing.artifact import (
    _CRC,
    _DIGEST,
    _PREFIX,
    DTYPES,
    Orders,
    _decode,
    _digest,
    _join,
    _layout,
    _Part,
    _rebuild,
)
from pargolf.packing.codecs import Codec, stored_as
from pargolf.quant.lqer import corrected
from pargolf.run.pack import _decode as decoded
from pargolf.submit.script import read_recipe


def unpack_own(data: bytes) -> tuple[Transformer, str]:
    """The model that an artifact holds, and the digest of the tokenizer that it reads with."""
    recipe = read_recipe()
    start = _PREFIX.size + _PREFIX.unpack_from(data)[2]
    header: Any = json.loads(brotli.decompress(data[_PREFIX.size : start]))
    if _digest(data[:-_DIGEST]) != data[-_DIGEST:] or header["meta"]["model"] != spec.dump(recipe.model):
        raise SystemExit("train_gpt: The artifact is damaged, or another model's.")
    arrays: dict[tuple[str, str], NDArray[Any]] = {}
    for parts, (method, size) in zip(_layout(header["tensors"]).values(), header["sections"]):
        pieces = _decode(method, data[start : start + size], parts, arrays)
        arrays |= {(part.tensor, part.field): piece for part, piece in zip(parts, pieces)}
        start += size + _CRC
    values = {tensor.name: decoded(tensor) for tensor in _rebuild(header["tensors"], header["grids"], arrays)}
    if recipe.quant.correct is not None:
        values = corrected(values)
    model = Transformer(recipe.model)
    params = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            params[name].copy_(value)
    return model.eval(), header["meta"]["tokenizer"]


def compressed(data: bytes) -> bytes:
    """Brotli at its best."""
    return bytes(brotli.compress(data, quality=11, lgwin=24))


def encode_by_codec(
    codec: Codec, parts: Sequence[_Part], pieces: Sequence[NDArray[Any]], orders: Orders
) -> tuple[str, bytes]:
    """A section in the recipe's codec."""
    return stored_as(codec), codec.encode(_join(pieces))


def decode_by_codec(method: str, payload: bytes, parts: Sequence[_Part], orders: Orders) -> list[NDArray[Any]]:
    """The arrays of such a section."""
    codec = read_recipe().codec
    assert codec is not None
    data = codec.decode(payload, size=sum(part.bytes for part in parts))
    out: list[NDArray[Any]] = []
    at = 0
    for part in parts:
        out.append(np.frombuffer(data[at : at + part.bytes], DTYPES[part.dtype]).reshape(part.shape).copy())
        at += part.bytes
    return out
