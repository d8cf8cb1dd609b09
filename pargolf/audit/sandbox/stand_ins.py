"""Stand-ins that let a script written for eight GPUs be imported and its model run on a CPU.

Modules that are not installed become objects that accept anything. The attention kernels among them compute the real
result. `torch.compile` returns what it is given, CUDA's bookkeeping does nothing, and every device named "cuda" is the
CPU. The report names the replaced modules. A model that computes with one of the others cannot run.
"""

import contextlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_KERNELS = ("flash_attn_func", "flash_attn_varlen_func", "flash_attn_qkvpacked_func")


class Anything:
    """Accepts every call, attribute, index and use as a base class. As a decorator it returns the function."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Anything(f"{self._name}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return a decorated function, refuse tensors, and accept everything else."""
        if len(args) == 1 and not kwargs and isinstance(args[0], (types.FunctionType, type)):
            return args[0]
        if any(isinstance(a, Tensor) for a in (*args, *kwargs.values())):
            raise RuntimeError(f"the model computes with {self._name}, which this machine lacks")
        return Anything(f"{self._name}()")

    def __getitem__(self, _: object) -> "Anything":
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __enter__(self) -> "Anything":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __mro_entries__(self, _: object) -> tuple[type, ...]:
        return (nn.Module,)

    def __or__(self, _: object) -> Any:
        return Any

    __ror__ = __or__

    def __repr__(self) -> str:
        return f"<stand-in for {self._name}>"


class Blank(types.ModuleType):
    """A module that has every name, and every module below it."""

    __version__ = "0.0.0"
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in _KERNELS:
            return KERNELS[name]
        if name == "get_kernel":
            return lambda *_, **__: Blank("kernels")
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(f"{self.__name__}.{name}")


class StandIns(importlib.machinery.PathFinder):
    """A finder of last resort: replaces modules that no other finder knows, and lists them in `replaced`."""

    def __init__(self) -> None:
        self.replaced: list[str] = []

    def find_spec(  # type: ignore[override]
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for any module of a package that is not installed, never for a part of one that is."""
        top = name.partition(".")[0]
        if not _imported_by_a_script():
            return None
        if top in sys.stdlib_module_names or top in ("torch", "numpy", "scipy", "pargolf"):
            return None
        if "." in name and not isinstance(sys.modules.get(top), Blank):
            return None
        if top not in self.replaced:
            self.replaced.append(top)
        return importlib.util.spec_from_loader(name, self)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """An empty module that has every name."""
        return Blank(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def _imported_by_a_script() -> bool:
    """Whether an import is in a file of the scratch folder. Libraries must find that optional modules are missing."""
    frame = sys._getframe(2)
    while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    return frame.f_code.co_filename.startswith(str(Path.cwd()))


class OnCpu(TorchFunctionMode):
    """While active, a device called "cuda" is the CPU in every call of torch."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call with devices replaced."""
        named = {k: _cpu(v) for k, v in (kwargs or {}).items()}
        return func(*(_cpu(a) for a in args), **named)


def _cpu(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return "cpu" if isinstance(value, str) and value.startswith("cuda") else value


def _unpinned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that makes tensors, in memory that is not pinned for a GPU. Threads see no `OnCpu`, but see this."""

    def made(*args: Any, pin_memory: bool = False, **named: Any) -> Tensor:
        return make(*args, **named)

    return made


def stand_in() -> StandIns:
    """Install the stand-ins for good; returns the finder, which lists what it replaced."""
    finder = StandIns()
    sys.meta_path.append(finder)

    def compile_(model: Any = None, **_: Any) -> Any:
        return model if model is not None else lambda function: function

    torch.compile = compile_
    nothing: dict[str, Any] = {
        **dict.fromkeys(("synchronize", "empty_cache", "set_device", "manual_seed", "manual_seed_all"), _no),
        **dict.fromkeys(("reset_peak_memory_stats", "init", "ipc_collect"), _no),
        **dict.fromkeys(("max_memory_allocated", "max_memory_reserved", "memory_allocated", "current_device"), _zero),
        "device_count": lambda: 1,
        "get_device_name": lambda *_: "none",
        "get_device_capability": lambda *_: (9, 0),
        "is_bf16_supported": lambda *_, **__: True,
        **{name: Anything(f"torch.cuda.{name}") for name in ("current_stream", "Stream", "Event", "stream")},
        "get_device_properties": Anything("torch.cuda.get_device_properties"),
    }
    for name, value in nothing.items():
        setattr(torch.cuda, name, value)
    for name in ("empty", "zeros", "ones", "full", "tensor", "empty_like", "zeros_like"):
        setattr(torch, name, _unpinned(getattr(torch, name)))
    Tensor.cuda = Tensor.pin_memory = _self  # type: ignore[assignment, method-assign]
    nn.Module.cuda = _self  # type: ignore[assignment, method-assign]
    torch.nn.attention.sdpa_kernel = lambda *_, **__: contextlib.nullcontext()  # type: ignore[assignment]
    nn.init.orthogonal_ = _quick_orthogonal
    OnCpu().__enter__()  # type: ignore[no-untyped-call]
    return finder


def _no(*_: Any, **__: Any) -> None:
    return None


def _zero(*_: Any, **__: Any) -> int:
    return 0


def _self(value: Any, *_: Any, **__: Any) -> Any:
    return value


def _quick_orthogonal(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal numbers in place of an orthogonal matrix: a QR takes seconds, and first weights are changed anyway."""
    with torch.no_grad():
        return tensor.normal_(0, gain / max(tensor.shape[-1], 1) ** 0.5)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Sequence[int] = (-1, -1),
    **_: Any,
) -> Tensor:
    """The result of FlashAttention: q (B, T, H, D), k and v (B, S, K, D) with K dividing H; keys aligned at the end."""
    q_BHTD, k_BHSD, v_BHSD = (x.transpose(1, 2) for x in (q, k, v))
    t, s = q.shape[1], k.shape[1]
    after = torch.arange(s)[None, :] - (torch.arange(t)[:, None] + s - t)
    allowed = torch.ones(t, s, dtype=torch.bool)
    if causal:
        allowed &= after <= 0
    if window_size[0] >= 0:
        allowed &= after >= -window_size[0]
    if window_size[1] >= 0:
        allowed &= after <= window_size[1]
    y = functional.scaled_dot_product_attention(
        q_BHTD, k_BHSD, v_BHSD, attn_mask=allowed, scale=softmax_scale, enable_gqa=True
    )
    return y.transpose(1, 2)


def _varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None = None, *_: Any, **options: Any
) -> Tensor:
    """The same for sequences in a row: q (N, H, D), cut at the cumulative lengths."""
    cuts_k = (cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k).tolist()
    cuts = cu_seqlens_q.tolist()
    wanted = {n: options[n] for n in ("softmax_scale", "causal", "window_size") if n in options}
    parts = [
        _attention(q[None, a:b], k[None, c:d], v[None, c:d], **wanted)[0]
        for a, b, c, d in zip(cuts, cuts[1:], cuts_k, cuts_k[1:])
        if b > a
    ]
    out = torch.cat(parts) if parts else q[:0]
    rest = q[len(out) :]
    return torch.cat((out, torch.zeros_like(rest))) if len(rest) else out


def _packed(qkv: Tensor, *args: Any, **options: Any) -> Tensor:
    q, k, v = qkv.unbind(2)
    return _attention(q, k, v, *args, **options)


KERNELS: dict[str, Callable[..., Tensor]] = {
    "flash_attn_func": _attention,
    "flash_attn_varlen_func": _varlen,
    "flash_attn_qkvpacked_func": _packed,
}
