"""Read what scripts leave behind: state dicts and quantized artifacts, plain, wrapped or compressed.

    file -> uncompressed (unpacking.py) -> torch.save, safetensors, MLX's .npz, a pickle of arrays (pickles.py)
         -> the state dict out of `model`, `state_dict`, ... -> codes * scales -> names without `_orig_mod.`, `module.`

A safetensors file in parts is named by its index.

There are three containers of codes. `{__quant_format__, quantized, scales, dtypes, passthrough, ...}` (baseline, 543,
861, and the official MLX script); `{"w": {name.q, name.scale or name}, "m": {name: kind}}` with kinds that are dicts
(549, 910, 1009, 295); and the same with kinds as strings (GPTQ, 1218 to 2135), where the product of two thin factors
may be added to a matrix (LQER), and gates are 8-bit codes. All mean `float32(codes) * float32(scale of the row)`, then
the tensor's own dtype: bfloat16 for embedding tables, as those scripts train and score them. The decompressed size is
limited, and no code in a file is executed: a file that needs more than tensors is refused.
"""

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.core.files import reading
from pargolf.core.strict import parse_json
from pargolf.upstream.pickles import LEGACY, load_arrays, load_torch
from pargolf.upstream.unpacking import LIMIT, is_safetensors, unpack

_TABLE = re.compile(r"(^tok_emb|\bembed)\.weight$")
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_WRAPPERS = ("model_state_dict", "state_dict", "model", "ema", "ema_state_dict", "module", "params")
_PREFIXES = ("module.", "model.")
_INNER = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and checkpointed blocks put before the names of what they wrap, at any depth."""
_WRAPPED = re.compile(r"^(?:(?:module|model|_orig_mod|_fsdp_wrapped_module)\.)+")
_PART = re.compile(r"(.+)-\d+-of-(\d+)\.safetensors")
_COUNTER = "n_averaged"  # of torch's AveragedModel


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a file with its script's names, dequantized, on the CPU, in the script's dtypes.

    Raises `UserError` on a missing, damaged or oversized file, on a file without a state dict, and on a pickle that
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
    if path.name.endswith(".index.json"):
        return _plain_names(_from_parts(data, path))
    part = _PART.fullmatch(path.name)
    if part and int(part[2]) > 1:
        raise UserError(f"{path} is one of {int(part[2])} parts. Name their list, {part[1]}.safetensors.index.json.")
    values = _unwrapped(_values(unpack(data, str(path)), str(path)))
    try:
        if isinstance(values, dict) and "quantized" in values and "scales" in values:
            state = _from_sections(values)
        elif isinstance(values, dict) and set(values) == {"w", "m"}:
            state = _from_flat(values["w"], values["m"])
        else:
            state = _tensors(values, "the file")
        return _plain_names(state)
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError, IndexError, OverflowError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not an artifact of a published script ({why}). Is it complete?") from error


def _values(data: bytes, name: str) -> Any:
    """The content of a container, whose kind is recognized by its first bytes."""
    if is_safetensors(data):
        return _from_safetensors(data, name)
    if data[:4] != b"PK\x03\x04":
        return load_torch(data, name) if data.startswith(LEGACY) else load_arrays(data, name)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > LIMIT:
                raise UserError(f"{name} claims more than {LIMIT:,} bytes.")
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, OSError, OverflowError) as error:
        raise UserError(f"{name} is not a torch.save file ({error}). Fetch it again, or save it again.") from error
    if entries and all(entry.filename.endswith(".npy") for entry in entries):
        return _from_npz(data, name)
    if any("/code/" in entry.filename for entry in entries):
        raise UserError(
            f"{name} is a TorchScript program, and nothing in a checkpoint is run here. Save the state dict alone: "
            "torch.save(model.state_dict(), path)."
        )
    return load_torch(data, name)


def _from_safetensors(data: bytes, name: str) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except Exception as error:  # the library's own error, or json's
        raise UserError(f"{name} is not a complete safetensors file ({error}). Fetch it again.") from error
    return tensors


def _from_parts(data: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index of safetensors lists, which lie beside it."""
    facts = parse_json(data, str(path))
    places = facts.get("weight_map") if isinstance(facts, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(n, str) for n in places.values()):
        raise UserError(f"{path} is no index of safetensors: it has no weight_map of names. Is it the right file?")
    out: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        part = path.parent / name
        if Path(name).name != name or not part.is_file():
            raise UserError(f"{path} lists {name!a}, which does not lie beside it. Fetch all parts.")
        with reading(part):
            if sum(t.nbytes for t in out.values()) + part.stat().st_size > LIMIT:
                raise UserError(f"{path} lists more than any checkpoint of these systems. Is it the right file?")
            out |= _from_safetensors(part.read_bytes(), str(part))
    if out.keys() != places.keys():
        raise UserError(f"{path} and its parts differ: {min(out.keys() ^ places.keys())!a} is in one of them alone.")
    return out


def _from_npz(data: bytes, name: str) -> dict[str, Tensor]:
    """Arrays of numbers by name; two bytes without a numeric type are MLX's bfloat16."""
    out = {}
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            for key in arrays.files:
                array = arrays[key]
                halves = array.dtype.kind == "V" and array.dtype.itemsize == 2
                tensor = torch.from_numpy(np.ascontiguousarray(array.view(np.int16) if halves else array))
                out[key] = tensor.view(torch.bfloat16) if halves else tensor
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{name} holds something other than arrays of numbers ({error}). Fetch it again.") from error
    return out


def _unwrapped(values: Any) -> Any:
    """The state dict in a checkpoint that also holds a step, an optimizer's state and so on.

    Raises `UserError` if there are two, for example of a model and of its average.
    """
    for _ in range(3):
        if not isinstance(values, Mapping) or any(isinstance(value, Tensor) for value in values.values()):
            return values
        keys = [key for key in _WRAPPERS if _holds_tensors(values.get(key))]
        if len(keys) > 1:
            raise UserError(
                f"The file holds several state dicts, {' and '.join(keys)}, and they may differ. Save the one to read "
                f"alone: torch.save(torch.load(path)[{keys[0]!r}], new_path)."
            )
        if not keys:
            return values
        values = values[keys[0]]
    return values


def _holds_tensors(value: Any, depth: int = 3) -> bool:
    """Whether a dictionary holds tensors, by itself or in others."""
    if not isinstance(value, Mapping) or not depth:
        return False
    return any(isinstance(one, Tensor) or _holds_tensors(one, depth - 1) for one in value.values())


def _plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefixes of torch.compile, data parallelism and wrappers. Raises `UserError` for a clash."""
    named = [(_INNER.sub("", name), tensor) for name, tensor in state.items() if name != _COUNTER]
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if named and all(name.startswith(prefix) for name, _ in named):
                named, changed = [(name.removeprefix(prefix), tensor) for name, tensor in named], True
    out = dict(named)
    if len(out) < len(named):
        twice = next(name for name in out if sum(name == other for other, _ in named) > 1)
        raise UserError(f"'{twice}' is there twice, under two prefixes. Save one model's state dict alone.")
    return out


def _from_sections(sections: Mapping[str, Any]) -> dict[str, Tensor]:
    """Baseline, 543, 861: codes, scales and unquantized tensors, each in its own dictionary."""
    scales, dtypes = dict(sections["scales"]), dict(sections.get("dtypes", {}))
    out = {}
    untouched = sections.get("passthrough", {})
    for name, codes in (
        _tensors(sections["quantized"], "quantized") if sections["quantized"] or not untouched else {}
    ).items():
        out[name] = _dequantized(codes, _only_tensor(scales[name], name)).to(_DTYPES[dtypes.get(name, "float32")])
    originals = sections.get("passthrough_orig_dtypes", {})
    for name, tensor in (_tensors(untouched, "passthrough") if untouched else {}).items():
        dtype = str(originals.get(name, tensor.dtype)).removeprefix("torch.")
        out[name] = tensor.to(_DTYPES[dtype]) if dtype in _DTYPES else tensor
    return out


def _from_flat(held: Any, kinds: Mapping[str, Any]) -> dict[str, Tensor]:
    """One flat dictionary; `kinds` says how each tensor is stored, as a dict (549 ...) or a string (GPTQ)."""
    tensors = _tensors(held, "w")
    out = {}
    for name, kind in kinds.items():
        if kind == "gate_int8_row":
            values = _dequantized(tensors[f"{name}.gq"], tensors[f"{name}.gs"])
        elif isinstance(kind, Mapping) or ("int" in str(kind) and not str(kind).startswith("passthrough")):
            values = _dequantized(tensors[f"{name}.q"], tensors[f"{name}.scale"])
            if "lqer" in str(kind):
                values = values + _factors(tensors, name, values)
        else:
            values = tensors[name]
        out[name] = values.to(torch.bfloat16 if _TABLE.search(_WRAPPED.sub("", name)) else torch.float32)
    return out


def _factors(tensors: Mapping[str, Tensor], name: str, values: Tensor) -> Tensor:
    """The product of the two thin matrices of LQER, scaled by one scale and by groups, or each by rows."""
    if f"{name}.lqA_a" in tensors:
        left = tensors[f"{name}.lqA_a"].float() * tensors[f"{name}.lqAs_a"].float().reshape(())
        codes, scales = tensors[f"{name}.lqB_a"], tensors[f"{name}.lqBs_a"]
        right = (codes.float().reshape(scales.numel(), -1) * scales.float().reshape(-1, 1)).reshape(codes.shape)
    else:
        left = _dequantized(tensors[f"{name}.lqA"], tensors[f"{name}.lqAs"])
        right = _dequantized(tensors[f"{name}.lqB"], tensors[f"{name}.lqBs"])
    if left.dim() != 2 or right.dim() != 2 or (len(left), right.shape[1]) != tuple(values.shape):
        raise UserError(f"The correction of '{name}' does not fit it. Is the file complete?")
    return left @ right


def _dequantized(codes: Tensor, scales: Tensor) -> Tensor:
    """Codes times the scale of their row, or times a single scale, in float32."""
    if scales.numel() == 1:
        return codes.float() * scales.float().reshape(())
    if scales.dim() != 1 or not codes.dim() or len(scales) != len(codes):
        raise UserError(f"{tuple(scales.shape)} scales do not fit codes of {tuple(codes.shape)}. Is the file complete?")
    return codes.float() * scales.float().reshape(-1, *(1,) * (codes.dim() - 1))


def _tensors(values: Any, what: str) -> dict[str, Tensor]:
    """Check that `values` is a dictionary of dense tensors with complete storage."""
    if not isinstance(values, Mapping) or not values or not all(isinstance(name, str) for name in values):
        kind = type(values).__name__
        raise UserError(f"{what} holds {'nothing' if values == {} else kind}, where a state dict was expected.")
    return {name: _only_tensor(tensor, name) for name, tensor in values.items()}


def _only_tensor(tensor: Any, name: str) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise UserError(f"'{name}' is {type(tensor).__name__}, not a tensor. A state dict alone was expected.")
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    if not plain or tensor.is_quantized or tensor.is_complex():
        raise UserError(
            f"'{name}' is not a plain dense tensor. Save the state dict with dense tensors of real numbers."
        )
    # With strides of zero, a few stored numbers can claim any shape, and later code would allocate all of it.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(f"'{name}' claims more numbers than the file holds. Is the file complete?")
    return tensor.detach()
