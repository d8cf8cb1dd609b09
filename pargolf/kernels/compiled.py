"""C kernels for training and packing on a CPU: one pass over memory where torch's operations make many.

    with compiled_kernels(): ...      training or packing on this machine; kernels are used only inside

A kernel is a few dozen lines of C (`c/NAME.c`) with a reference in torch (`NAME.py`). It is compiled at first use with
the machine's `cc` for its own processor, in about a second, and cached in the user's cache folder under a hash of
source, compiler and processor. Without a compiler, torch's operations are used, and only speed differs.

Sums over rows are made in a fixed number of parts, so a result does not depend on the number of threads. Kernels take
only float32 tensors on a CPU that are part of a backward pass or are quantized; scoring never uses them.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from pargolf.core.files import cache_folder


def c_source(name: str) -> str:
    """The C code in `c/NAME.c` without its first comment. A shipped script contains the text itself."""
    text = (Path(__file__).parent / "c" / f"{name}.c").read_text(encoding="utf-8")
    return text[text.index("*/") + 2 :]


def tiled_source(name: str) -> str:
    """The C of a kernel that multiplies by tiles: `c/tiles.c`, then its own."""
    return c_source("tiles") + c_source(name)


TILED = 32
"""Sizes of what is multiplied by tiles are multiples of this."""
PARTS = 16
"""The number of parts in which sums over rows are made."""
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math")
_PRELUDE = c_source("prelude")
_ACTIVE: ContextVar["Compiled | None"] = ContextVar("compiled", default=None)


class Compiled:
    """Compiles C sources and calls their functions; `half`: products of layers may use bfloat16 factors.

    Raises `OSError` if there is no working compiler.
    """

    def __init__(self, *, half: bool = False) -> None:
        self.compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
        if self.compiler is None:
            raise OSError("no C compiler")
        self.half = half
        self.folder = cache_folder()
        self._libraries: dict[str, ctypes.CDLL] = {}
        self._started: dict[str, bool] = {}
        self.load("int works(void) { return 1; }")

    def load(self, source: str) -> ctypes.CDLL:
        """The compiled library of `source`, which may use the prelude."""
        if source not in self._libraries:
            self._libraries[source] = ctypes.CDLL(str(self._built(_PRELUDE + source)))
        return self._libraries[source]

    def starts(self, source: str) -> bool:
        """Whether `source`, for instructions that few processors have, compiles and its `int start(void)` gives 1."""
        if source not in self._started:
            try:
                self._started[source] = bool(self.load(source).start())
            except (OSError, subprocess.CalledProcessError):
                self._started[source] = False
        return self._started[source]

    def call(self, source: str, function: str, *args: Tensor | int | float | None) -> None:
        """Call `void function(...)`: tensors as pointers (None: null), int as long, float as float."""
        getattr(self.load(source), function)(*map(_argument, args))

    def _built(self, text: str) -> Path:
        """The compiled file of the source, from the cache if it exists."""
        assert self.compiler is not None
        name = hashlib.sha256("\n".join([text, *_FLAGS, self.compiler, processor_words()]).encode()).hexdigest()[:24]
        path = self.folder / f"{name}.so"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                (Path(folder) / "kernel.c").write_text(text)
                command = [self.compiler, *_FLAGS, "-shared", "-fPIC", "kernel.c", "-o", "kernel.so", "-lm"]
                # Without OpenMP, use one thread.
                if subprocess.run([*command, "-fopenmp"], cwd=folder, capture_output=True).returncode:
                    subprocess.run(command, cwd=folder, capture_output=True, check=True)
                (Path(folder) / "kernel.so").replace(path)
        return path


@contextmanager
def compiled_kernels(half: bool = False) -> Iterator[bool]:
    """Use C kernels inside the block, with `half` also products of bfloat16; yields whether kernels are available."""
    kernels = _find(half)
    token = _ACTIVE.set(kernels)
    try:
        yield kernels is not None
    finally:
        _ACTIVE.reset(token)


def at_hand(*tensors: Tensor) -> Compiled | None:
    """The compiled kernels if they are in use and can take these tensors, else None."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return None
    active = _ACTIVE.get()
    if active is None:
        return None
    fits = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)
    return active if fits and any(x.requires_grad for x in tensors) else None


def at_hand_to_pack(w: Tensor) -> Compiled | None:
    """The compiled kernels if they are in use and can take these weights (no gradient needed), else None."""
    active = _ACTIVE.get()
    return active if w.dtype == torch.float32 and w.device.type == "cpu" else None


@cache
def _find(half: bool) -> Compiled | None:
    """The compiler, or None if it is missing or fails."""
    try:
        return Compiled(half=half)
    except (OSError, subprocess.CalledProcessError):
        return None


def processor_words() -> str:
    """A description of the processor, for the cache's key, because other machines may share the home folder."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    kinds = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return "\n".join([platform.machine(), platform.processor(), *kinds])


def sources_hash() -> str:
    """A hash of all C sources; if it changes, measured speeds of this machine are outdated."""
    sources = sorted((Path(__file__).parent / "c").glob("*.c"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _argument(value: Tensor | int | float | None) -> object:
    """Convert a value for ctypes."""
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p(None)
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_long(value)
