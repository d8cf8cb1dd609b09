"""Read values out of pickles without running them: torch's own unpickler for tensors, one of ours for numpy arrays.

The official MLX script writes a plain pickle of numpy arrays. A pickle is a program that calls functions by name. The
unpickler here knows only the few names that such arrays need, and replaces them by small classes of our own, which
store the arguments; arrays are made from these afterwards. A pickle with any other name is refused.
"""

import io
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pargolf.core.errors import UserError

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of files by torch.save before 1.6."""
_NUMBERS = re.compile(r"[<>|=]?([fiu][1248]|b1|f2)")
_DEEPEST = 8


def load_torch(data: bytes, name: str) -> Any:
    """Load a file of torch.save, old or new. Raises `UserError` for anything that needs more than tensors."""
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise _asks(name, wanted[1] if wanted else "") from error
    except Exception as error:  # a damaged file can cause any error in the unpickler
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{name} is damaged ({why}). Fetch it again.") from error


def load_arrays(data: bytes, name: str) -> Any:
    """Load a pickle of numpy arrays and plain values, arrays as tensors. Raises `UserError` for anything else."""
    try:
        return _tensors(_Unpickler(io.BytesIO(data), name).load(), name)
    except UserError:
        raise
    except Exception as error:  # a damaged file can cause any error in the unpickler
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{name} is damaged ({why}). Fetch it again.") from error


def _asks(name: str, wanted: str) -> UserError:
    asks = f"asks to run {wanted}" if wanted else "holds more than tensors and plain values"
    return UserError(
        f"{name} {asks}, and nothing in a checkpoint is run here. Save the state dict alone: "
        "torch.save(model.state_dict(), path)."
    )


class _Kind:
    """A dtype as in a pickle: a code such as `f4`, and then its byte order."""

    def __init__(self, code: str = "", *flags: object) -> None:
        self.code, self.order = str(code), "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])

    def dtype(self) -> "np.dtype[Any]":
        if not _NUMBERS.fullmatch(self.code) or self.order not in "<>|=":
            raise UserError(f"The file holds an array of {self.code!r}, which is not a type of numbers.")
        return np.dtype(self.order + self.code.lstrip("<>|="))


class _Array:
    """An array as in a pickle: shape, dtype, order and bytes."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def tensor(self) -> torch.Tensor:
        _, shape, kind, fortran, raw = self.state
        return _tensor(raw, kind, shape, "F" if fortran else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(raw: object, kind: object, shape: object, order: object = "C") -> torch.Tensor:
    return _tensor(raw, kind, shape, order)


def _latin(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise UserError("The file encodes bytes in another way than numpy's pickles. Is it a checkpoint?")
    return text.encode("latin1")


def _tensor(raw: Any, kind: Any, shape: Any, order: Any) -> torch.Tensor:
    array = np.frombuffer(raw, dtype=kind.dtype()).reshape(shape, order="F" if order == "F" else "C")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=True))


_KNOWN: dict[str, Any] = {"_reconstruct": _reconstruct, "_frombuffer": _from_buffer, "ndarray": _Array, "dtype": _Kind}
_HOMES = re.compile(r"numpy(\._?core\.(multiarray|numeric))?")


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, name: str) -> None:
        super().__init__(file)
        self.name = name

    def find_class(self, module: str, name: str) -> Any:
        """Our own class for a known name; an error for any other."""
        if _HOMES.fullmatch(module) and name in _KNOWN:
            return _KNOWN[name]
        if (module, name) == ("_codecs", "encode"):
            return _latin
        raise _asks(self.name, f"{module}.{name}")


def _tensors(held: Any, name: str, depth: int = 0) -> Any:
    """The same values, with arrays converted to tensors."""
    if depth > _DEEPEST:
        raise UserError(f"{name} is nested deeper than any checkpoint. Is it the right file?")
    if isinstance(held, _Array):
        return held.tensor()
    if isinstance(held, Mapping):
        return {key: _tensors(value, name, depth + 1) for key, value in held.items()}
    return held
