"""An artifact of a trellis, scalar grids and whole numbers, changed at random or cut.

Each time a typed error must name the section. A sixth have their checksums made true again: those may read as other
weights, and must not crash.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from hashlib import blake2b

import numpy as np
import small
import torch

from batteries.trial import Trial
from pargolf.packing.artifact import Artifact, ArtifactError, Section, from_bytes
from pargolf.packing.tensors import CodesTensor, RawTensor
from pargolf.quant.calibrate import calibrate
from pargolf.quant.clip import StdDev
from pargolf.quant.gptq import GPTQ
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import Quantize
from pargolf.quant.trellis import Trellis
from pargolf.run.pack import pack


@cache
def artifact() -> bytes:
    """An artifact with every kind of section."""
    model = small.model(dim=32, vocab=64).build(seed=1)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.2, generator=torch.Generator().manual_seed(p.numel()))
    ids_BT = torch.from_numpy(np.random.default_rng(0).integers(1, 64, (16, 32)))
    hessians = calibrate(model, [(ids_BT, ids_BT)])
    trellis = Trellis(Int(5, clip=StdDev(8.0)))
    table = (("mlp.*", trellis), ("attn.[qkv]", trellis), ("embed.*", Int(6)), ("*", Keep()))
    plan = replace(small.RECIPE, model=small.model(dim=32, vocab=64), quant=Quantize(table, solver=GPTQ()))
    return pack(plan, dict(model.named_parameters()), tokenizer="t", hessians=hessians)


def trials(chance: random.Random) -> Iterator[Trial]:
    """Changed artifacts, endlessly."""
    whole = from_bytes(artifact())
    while True:
        kind, data = changed(chance, whole)
        yield Trial(kind, lambda kind=kind, data=data: read(data, whole, forged=kind == "forged"), seconds=10)


def changed(chance: random.Random, whole: Artifact) -> tuple[str, bytes]:
    """What was done, and the bytes it made."""
    bad = bytearray(artifact())
    at, more = chance.randrange(len(bad)), chance.randrange(1, 64)
    kind = chance.choice(("flipped", "overwritten", "cut off", "cut out", "put in", "forged"))
    if kind == "flipped":
        bad[at] ^= 1 << chance.randrange(8)
    elif kind == "overwritten":
        bad[at : at + more] = chance.randbytes(len(bad[at : at + more]))
    elif kind == "cut off":
        del bad[at:]
    elif kind == "cut out":
        del bad[at : at + more]
    elif kind == "put in":
        bad[at:at] = chance.randbytes(more)
    else:
        bad = forged(bad, chance.choice(whole.sections), chance)
    return kind, bytes(bad)


def read(data: bytes, whole: Artifact, *, forged: bool) -> str:
    """Read it; what is read without an error must be what was written, unless its checksums were forged."""
    try:
        tensors = from_bytes(data).tensors
    except ArtifactError as error:
        assert error.section and "\n" not in str(error)
        return "refused"
    same = tensors.keys() == whole.tensors.keys()
    same = same and all(np.array_equal(_numbers(a), _numbers(whole.tensors[n])) for n, a in tensors.items())
    assert same or forged, "a changed artifact was read as other weights"
    return "the same weights" if same else "other weights"


def forged(data: bytearray, section: Section, chance: random.Random) -> bytearray:
    """A bit of a section's payload changed, and every checksum made true again."""
    end = section.offset + section.size
    data[chance.randrange(section.offset, end)] ^= 1 << chance.randrange(8)
    if section.name == "the header":
        check = zlib.crc32(data[9:17] + data[section.offset : end])
        data[17:21] = check.to_bytes(4, "little")
    else:
        data[end : end + 4] = zlib.crc32(data[section.offset : end]).to_bytes(4, "little")
    data[-16:] = blake2b(data[:-16], digest_size=16).digest()
    return data


def _numbers(tensor: CodesTensor | RawTensor) -> np.ndarray:
    return tensor.codes if isinstance(tensor, CodesTensor) else tensor.data
