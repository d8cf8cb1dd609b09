"""Read what the published scripts leave behind: `final_model.pt` and the compressed `.int8.ptz` / `.int6.ptz`.

    file -> zlib, zstd or xz by its first bytes -> torch.save's zip -> tensors only -> codes * scales -> state dict

There are two containers. One is `{__quant_format__, quantized, scales, dtypes, passthrough, ...}` (baseline, 543, 861),
the other `{"w": {name.q, name.scale or name}, "m": {name: kind}}` (549, 910, 1009, 295). Both mean
`float32(codes) * float32(scale of the row)`, then the tensor's own dtype: bfloat16 for embedding tables, as those
scripts train and score them. Decompression is bounded, and the pickle inside is read by torch's `weights_only`
unpickler, which knows tensors and no functions: a file that asks for more is refused with what it asked for.
"""

import io
import lzma
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.core.files import reading
from pargolf.packing.codecs import zstd_reader

LIMIT = 1 << 31
"""Bytes that a file may hold, and that its decompression may come to."""
_TABLE = re.compile(r"(^tok_emb|\bembed)\.weight$")
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a file, under its script's names, dequantized; on the CPU, in the dtypes the script holds.

    Raises `UserError` on a missing, damaged or oversized file, on one that is no state dict, and on a pickle that
    needs more than tensors.
    """
    path = Path(path)
    with reading(path):
        return _read(path)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.stat().st_size > LIMIT:
            raise UserError(f"{path} is larger than any checkpoint of these systems. Is it the right file?")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"There is no file {path}. Name a final_model.pt or a .ptz.") from None
    held = _unpickle(_decompress(data, str(path)), str(path))
    try:
        if isinstance(held, dict) and "quantized" in held and "scales" in held:
            return _from_sections(held)
        if isinstance(held, dict) and set(held) == {"w", "m"}:
            return _from_flat(held["w"], held["m"])
        return _tensors(held, "the file")
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError, IndexError, OverflowError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no artifact of a published script ({why}). Was it written in full?") from error


def _decompress(data: bytes, name: str) -> bytes:
    """At most `LIMIT` bytes of what the compressed stream holds; a plain `torch.save` file passes through."""
    if data[:4] == b"PK\x03\x04":
        return data
    try:
        reader: Any
        if data[:4] == b"\x28\xb5\x2f\xfd":
            reader = zstd_reader()
        elif data[:6] == b"\xfd7zXZ\x00":
            reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 28)
        elif data[:1] == b"\x78" and len(data) > 1 and (data[0] << 8 | data[1]) % 31 == 0:
            reader = zlib.decompressobj()
        else:
            raise UserError(f"{name} is neither a torch.save file nor zlib, zstd or xz. Is it one of these scripts'?")
        out: bytes = reader.decompress(data, LIMIT)
    except UserError:
        raise
    except Exception as error:  # zstd's error type is its library's, which may be one of two
        raise UserError(f"{name} does not decompress ({error}). Fetch it again.") from error
    if not reader.eof:
        raise UserError(f"{name} is cut off, or holds over {LIMIT:,} bytes. Fetch it again.")
    return out


def _unpickle(data: bytes, name: str) -> Any:
    """What a `torch.save` file holds, read by the unpickler that runs nothing."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LIMIT:
                raise UserError(f"{name} claims more than {LIMIT:,} bytes.")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except UserError:
        raise
    except zipfile.BadZipFile as error:
        raise UserError(f"{name} is no torch.save file ({error}). Fetch it again, or save it again.") from error
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        asks = f"asks to run {wanted[1]}" if wanted else "holds more than tensors and plain values"
        raise UserError(
            f"{name} {asks}, and nothing in a checkpoint is run here. Save the state dict alone: "
            "torch.save(model.state_dict(), path)."
        ) from error
    except Exception as error:  # whatever a strange file makes of the unpickler
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{name} is damaged ({why}). Fetch it again.") from error


def _from_sections(held: Mapping[str, Any]) -> dict[str, Tensor]:
    """Baseline, 543, 861: codes, scales and what was passed through, each in a dictionary of its own."""
    scales, dtypes = dict(held["scales"]), dict(held.get("dtypes", {}))
    out = {}
    for name, codes in _tensors(held["quantized"], "quantized").items():
        out[name] = _dequantized(codes, _only_tensor(scales[name], name)).to(_DTYPES[dtypes.get(name, "float32")])
    originals = held.get("passthrough_orig_dtypes", {})
    for name, tensor in _tensors(held.get("passthrough", {}), "passthrough").items():
        dtype = str(originals.get(name, tensor.dtype)).removeprefix("torch.")
        out[name] = tensor.to(_DTYPES[dtype]) if dtype in _DTYPES else tensor
    return out


def _from_flat(held: Any, kinds: Mapping[str, Any]) -> dict[str, Tensor]:
    """549, 910, 1009, 295: one flat dictionary; `kinds` says of each tensor whether it was quantized."""
    tensors = _tensors(held, "w")
    out = {}
    for name, kind in kinds.items():
        quantized = isinstance(kind, Mapping)
        values = _dequantized(tensors[f"{name}.q"], tensors[f"{name}.scale"]) if quantized else tensors[name]
        out[name] = values.to(torch.bfloat16 if _TABLE.search(name) else torch.float32)
    return out


def _dequantized(codes: Tensor, scales: Tensor) -> Tensor:
    """Codes times the scale of their row, or the one scale there is, in float32."""
    if scales.numel() == 1:
        return codes.float() * scales.float().reshape(())
    if scales.dim() != 1 or not codes.dim() or len(scales) != len(codes):
        raise UserError(f"{tuple(scales.shape)} scales do not fit codes of {tuple(codes.shape)}. Is the file whole?")
    return codes.float() * scales.float().reshape(-1, *(1,) * (codes.dim() - 1))


def _tensors(held: Any, what: str) -> dict[str, Tensor]:
    """A dictionary of dense tensors whose numbers are all there."""
    if not isinstance(held, Mapping) or not held or not all(isinstance(name, str) for name in held):
        kind = type(held).__name__
        raise UserError(f"{what} holds {'nothing' if held == {} else kind}, where a state dict was expected.")
    return {name: _only_tensor(tensor, name) for name, tensor in held.items()}


def _only_tensor(tensor: Any, name: str) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise UserError(f"'{name}' is {type(tensor).__name__}, not a tensor. A state dict alone was expected.")
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.is_quantized or tensor.is_complex():
        raise UserError(
            f"'{name}' is not a plain dense tensor. Save the state dict with dense tensors of real numbers."
        )
    # A few stored numbers can be spread over any shape by strides of zero; what follows would copy them out.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(f"'{name}' claims more numbers than the file holds. Is the file whole?")
    return tensor.detach()
