"""What a script's `main` needs besides its model: one process that looks like a node with one GPU.

Every number is computed in single precision on the CPU: bfloat16 is single precision here, automatic casts do nothing,
collectives are those of a world of one, and the clock does not depend on the machine's. Programs that scripts call to
describe their machine print nothing. Imported by the child only, after `sandbox.stand_ins`.
"""

import contextlib
import subprocess
import sys
import time
import types
import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from pargolf.audit.sandbox.stand_ins import Blank

_MINIFIER = "pyminify"
_ASKED = ("nvidia-smi", "git", "nvcc", "pip", "hostname", "lscpu", "free", "uname")


def pretend() -> None:
    """Install everything, for good."""
    _clock()
    _compiler()
    _cuda()
    _precision()
    _collectives()
    _programs()
    _compressor()


def _clock() -> None:
    """A clock that advances by a millisecond whenever it is read, so schedules by time are equal in every run."""
    now = [time.time_ns() // 10**15 * 10**15]

    def read() -> int:
        now[0] += 10**6
        return now[0]

    def sleep(seconds: float) -> None:
        now[0] += int(seconds * 1e9)

    for name in ("time", "perf_counter", "monotonic"):
        setattr(time, name, lambda: read() / 1e9)
        setattr(time, f"{name}_ns", read)
    time.sleep = sleep  # type: ignore[assignment]


def _compiler() -> None:
    """A compiler that compiles nothing: the real one takes seconds to import, and optimizers need the module."""
    for name in ("torch._dynamo", "torch._dynamo.config", "torch._inductor", "torch._inductor.config"):
        module = Blank(name)
        sys.modules[name] = module
        setattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2], module)
    sys.modules["torch._dynamo"].disable = _as_it_is  # type: ignore[attr-defined]


def _as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
    return function if function is not None else _as_it_is


def _cuda() -> None:
    torch.cuda.is_available = lambda: True
    torch.cuda.is_current_stream_capturing = lambda: False
    torch.cuda.Event = _Event  # type: ignore[assignment, misc]
    torch.cuda.mem_get_info = lambda *_: (80 << 30, 80 << 30)
    properties = {"name": "NVIDIA H100 80GB HBM3", "total_memory": 80 << 30, "major": 9, "minor": 0}
    of_device = types.SimpleNamespace(**properties, multi_processor_count=132)
    torch.cuda.get_device_properties = lambda *_: of_device  # type: ignore[assignment]
    for kind in ("flash", "mem_efficient", "math", "cudnn"):  # the CPU may use any of them
        setattr(torch.backends.cuda, f"enable_{kind}_sdp", lambda *_: None)
    torch.Generator = _Generator  # type: ignore[misc]


_REAL_GENERATOR = torch.Generator


class _IsGenerator(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _REAL_GENERATOR)


class _Generator(metaclass=_IsGenerator):
    """A generator of random numbers on the CPU, for any device."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """A real generator of torch."""
        return _REAL_GENERATOR()


class _Event:
    """A CUDA event with a time."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.seconds = 0.0

    def record(self, *_: Any) -> None:
        """Note the time."""
        self.seconds = time.perf_counter()

    def elapsed_time(self, other: "_Event") -> float:
        """Milliseconds until another event."""
        return 1000 * (other.seconds - self.seconds)

    def synchronize(self, *_: Any) -> None:
        """Nothing to wait for."""

    wait = query = synchronize


class _NoCast(contextlib.ContextDecorator):
    """Automatic casts that do nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def _inference(mode: Any = True) -> Any:
    """No gradients, but without inference mode: tables stored while scoring may be used in training later."""
    if callable(mode):
        return torch.no_grad()(mode)
    return torch.no_grad() if mode else contextlib.nullcontext()


def _precision() -> None:
    torch.storage._storage_type_to_dtype_map()  # torch caches this map now, while the two types still differ
    torch.bfloat16 = torch.float32
    Tensor.bfloat16 = Tensor.float  # type: ignore[method-assign]
    nn.Module.bfloat16 = nn.Module.float  # type: ignore[method-assign]
    torch.inference_mode = _inference  # type: ignore[assignment, misc]
    torch.autocast = torch.amp.autocast = torch.cuda.amp.autocast = _NoCast  # type: ignore[assignment, misc]


class _Done:
    """A collective operation that has ended."""

    def wait(self, *_: Any) -> bool:
        """Nothing to wait for."""
        return True

    def get_future(self) -> "_Done":
        """Itself."""
        return self

    is_completed = wait


class _Alone(nn.Module):
    """A model wrapped for several processes, in a world of one."""

    def __init__(self, module: nn.Module, *_: Any, **__: Any) -> None:
        super().__init__()
        self.module = module
        self.require_backward_grad_sync = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output."""
        return self.module(*args, **kwargs)

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Nothing to delay."""
        return contextlib.nullcontext()


def _collectives() -> None:
    running = [False]

    def start(*_: Any, **__: Any) -> None:
        running[0] = True

    def stay(*_: Any, **__: Any) -> _Done:
        return _Done()

    def copy(out: Any, source: Any, *_: Any, **__: Any) -> _Done:
        with torch.no_grad():
            for o, g in zip(*((x if isinstance(x, (list, tuple)) else [x]) for x in (out, source))):
                o.copy_(g.reshape(o.shape))
        return _Done()

    def objects(out: list[Any], source: Any, *_: Any, **__: Any) -> None:
        out[0] = source

    replaced: dict[str, Callable[..., Any]] = {
        **dict.fromkeys(("all_reduce", "broadcast", "reduce", "barrier", "broadcast_object_list"), stay),
        **dict.fromkeys(("all_gather", "all_gather_into_tensor", "reduce_scatter_tensor", "reduce_scatter"), copy),
        **dict.fromkeys(("all_to_all_single", "all_to_all"), copy),
        "all_gather_object": objects,
        "init_process_group": start,
        "destroy_process_group": lambda *_: None,
        "is_available": lambda: True,
        "is_initialized": lambda: running[0],
        "get_rank": lambda *_: 0,
        "get_world_size": lambda *_: 1,
        "get_backend": lambda *_: "nccl",
        "new_group": lambda *_, **__: None,
    }
    for name, value in replaced.items():
        setattr(distributed, name, value)
    nn.parallel.DistributedDataParallel = _Alone  # type: ignore[assignment, misc]


def _programs() -> None:
    """Programs that describe the machine print nothing; every other program is missing."""

    def run(command: Any, *_: Any, **options: Any) -> subprocess.CompletedProcess[Any]:
        first = str(command[0] if isinstance(command, (list, tuple)) and command else command)
        name = first.rsplit("/", 1)[-1].split(" ")[0]
        if name == _MINIFIER and options.get("input") is not None:  # the size of minified code is not judged here
            return subprocess.CompletedProcess(command, 0, options["input"], "")
        if name not in _ASKED:
            raise FileNotFoundError(2, "the sandbox starts no programs", first)
        text = options.get("text") or options.get("universal_newlines") or options.get("encoding")
        return subprocess.CompletedProcess(command, 0, "" if text else b"", "" if text else b"")

    subprocess.run = run  # type: ignore[assignment]
    subprocess.check_output = lambda *a, **k: run(*a, **k).stdout
    subprocess.check_call = subprocess.call = lambda *a, **k: run(*a, **k).returncode  # type: ignore[assignment]


def _compressor() -> None:
    """`zstandard` if it is not installed. Sizes are not judged here; what was packed must only be unpacked again."""
    with contextlib.suppress(ImportError):
        __import__("zstandard")
        return
    module = types.ModuleType("zstandard")

    class Packer:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def compress(self, data: bytes) -> bytes:
            return zlib.compress(data, 1)

        def decompress(self, data: bytes, *_: Any, **__: Any) -> bytes:
            return zlib.decompress(data)

    module.ZstdCompressor = module.ZstdDecompressor = Packer  # type: ignore[attr-defined]
    module.compress = lambda data, *_, **__: Packer().compress(data)  # type: ignore[attr-defined]
    module.decompress = lambda data, *_, **__: Packer().decompress(data)  # type: ignore[attr-defined]
    module.ZstdError = zlib.error  # type: ignore[attr-defined]
    sys.modules["zstandard"] = module
