"""The processes of a run: this one's rank among `size`, its device, and sums between them."""

import contextlib
import ctypes
import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# torch 2.13 renamed both.
_REDUCE_SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others; packing on process 0 is the longest wait there is."""


@dataclass(frozen=True)
class DeviceKind:
    """What a kind of device can do beside float32, one operation after another.

    `half`: products of bfloat16 under autocast. `compiles`: torch.compile pays by itself. `pins`: copies from pinned
    memory run beside computation. `flex`: FlexAttention, compiled. `group`: how several processes talk.
    """

    half: bool = False
    compiles: bool = False
    pins: bool = False
    flex: bool = False
    group: str = "gloo"


KINDS = {
    "cpu": DeviceKind(),
    "cuda": DeviceKind(half=True, compiles=True, pins=True, flex=True, group="nccl"),
    "mps": DeviceKind(),
    "xpu": DeviceKind(half=True, compiles=True, pins=True, flex=True, group="xccl"),
}
"""The kinds of device that are known. Only `cpu` and `cuda` were run by those who wrote this."""
HALF_SINCE, COMPILES_SINCE = (8, 0), (7, 0)
"""Compute capabilities of CUDA from which a card multiplies bfloat16, and from which it can compile."""


def abilities(device: torch.device) -> DeviceKind:
    """What a device can do: its kind's row, less what an old card lacks; float32 alone for a kind that is not known."""
    kind = KINDS.get(device.type, DeviceKind())
    if device.type == "cuda" and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability(device)
        new = capability >= HALF_SINCE
        kind = replace(kind, half=new, flex=new, compiles=capability >= COMPILES_SINCE)
    return kind


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given; a CPU has."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


@dataclass(frozen=True)
class World:
    """Rank and size of the process group, and the device this process computes on."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` things in a row."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def mean(self, x: Tensor) -> Tensor:
        """Average `x` over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(x)
            x /= self.size
        return x

    def sum(self, x: Tensor) -> Tensor:
        """Sum `x` over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def max(self, *values: float) -> tuple[float, ...]:
        """The largest of all processes, for each of `values`."""
        if self.size == 1:
            return values
        x = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
        return tuple(x.tolist())

    def reduce_scatter(self, x_N: Tensor) -> "Pending":
        """Begin to average `x` over all processes; each is left with its own equal share of the first dimension."""
        if self.size == 1:
            return Pending(x_N)
        mine = x_N.new_empty((len(x_N) // self.size, *x_N.shape[1:]))
        return Pending(mine, _REDUCE_SCATTER(mine, x_N, async_op=True), self.size)

    def all_gather(self, mine: Tensor) -> "Pending":
        """Begin to put the shares of all processes one after another along the first dimension."""
        if self.size == 1:
            return Pending(mine)
        whole = mine.new_empty((len(mine) * self.size, *mine.shape[1:]))
        return Pending(whole, _ALL_GATHER(whole, mine.contiguous(), async_op=True))

    def broadcast(self, data: bytes) -> bytes:
        """The `data` of process 0, on every process."""
        if self.size == 1:
            return data
        size = torch.tensor([len(data)], device=self.device)
        dist.broadcast(size, src=0)
        content = torch.frombuffer(bytearray(data.ljust(int(size))[: int(size)]), dtype=torch.uint8).to(self.device)
        dist.broadcast(content, src=0)
        return content.cpu().numpy().tobytes()


@dataclass
class Pending:
    """A result on its way: `wait` returns it, over `divisor`."""

    out: Tensor
    work: Any = None
    divisor: int = 1

    def wait(self) -> Tensor:
        """Block until it is here."""
        if self.work is not None:
            self.work.wait()
        return self.out if self.divisor == 1 else self.out.div_(self.divisor)


def join_world(device: str | None = None) -> World:
    """The world that torchrun describes in the environment, or a world of one.

    `device` is one of `KINDS` or None for CUDA where there is one. A process that dies takes the others with it: gloo's
    break with the connection, and torchrun ends those that wait.
    """
    steady_heap()
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    size = int(os.environ.get("WORLD_SIZE") or "1")
    if size == 1:
        return World(device=torch.device(kind))
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if not dist.is_initialized():
        dist.init_process_group(KINDS[kind].group, timeout=PATIENCE)
    place = torch.device(kind) if KINDS[kind].group == "gloo" else torch.device(kind, local)
    if place.index is not None:
        torch.get_device_module(place).set_device(place)
    return World(rank, size, place)


def steady_heap() -> None:
    """Have the heap keep what tensors free, up to a GiB, where the C library is glibc.

    By itself it gives large ones back to the system and asks anew at every step, and the system then clears each page
    again when it is touched. `benchmarks/train_step.py` prints what that costs, and the peak of memory as a ratio.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


@contextlib.contextmanager
def settled_objects() -> Iterator[None]:
    """Keep the garbage collector away from all objects that exist now, for as long as the block runs.

    Otherwise it walks over all of torch again and again while a run makes its graphs, for some hundredths of a step.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def settle_threads() -> int:
    """Drop to one CPU thread where the others are busy elsewhere; returns how many are used.

    Two threads beat one by half on a free machine and lose by several times on a shared one, where each waits for the
    other at every product. A moment of products decides, and only a clear loss counts.
    """
    several = torch.get_num_threads()
    if several == 1:
        return 1
    together = _seconds_of_products()
    torch.set_num_threads(1)
    if _seconds_of_products() * 1.3 > together:
        torch.set_num_threads(several)
    return torch.get_num_threads()


def _seconds_of_products() -> float:
    """The time of matrix products and additions of a small model's sizes, the first few left out."""
    a, b = torch.ones(2048, 128), torch.ones(128, 512)
    began = 0.0
    for i in range(30):
        if i == 5:
            began = time.perf_counter()
        (a @ b).relu_().sum()
    return time.perf_counter() - began
