"""The process group: this process's rank, the number of processes, its device, and sums and gathers between them.

`join_world` reads what torchrun put into the environment. Without torchrun the world has one process, and every
operation (`mean`, `sum`, `broadcast`, ...) returns its input. `DeviceKind` says what each kind of device can do.
"""

import contextlib
import ctypes
import os
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

# torch 2.13 renamed both functions.
_REDUCE_SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others; packing on process 0 is the longest wait."""


@dataclass(frozen=True)
class DeviceKind:
    """What a kind of device can do beyond eager float32.

    half: bfloat16 products under autocast
    compiles: torch.compile is worth it by default
    pins: copies from pinned memory overlap with computation
    flex: compiled FlexAttention
    group: the torch.distributed backend
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
"""The known kinds of device. Only `cpu` and `cuda` have been tested."""
HALF_SINCE, COMPILES_SINCE = (8, 0), (7, 0)
"""The lowest CUDA compute capabilities for bfloat16 products and for torch.compile."""


def abilities(device: torch.device) -> DeviceKind:
    """What a device can do: the row of its kind, minus what an old GPU lacks; only float32 for an unknown kind."""
    kind = KINDS.get(device.type, DeviceKind())
    if device.type == "cuda" and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability(device)
        new = capability >= HALF_SINCE
        kind = replace(kind, half=new, flex=new, compiles=capability >= COMPILES_SINCE)
    return kind


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its queued work; returns at once on a CPU."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


@dataclass(frozen=True)
class World:
    """Rank and size of the process group, and the device of this process."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's slice of `count` items."""
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
        """For each of `values`, the maximum over all processes."""
        if self.size == 1:
            return values
        x = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
        return tuple(x.tolist())

    def reduce_scatter(self, x_N: Tensor) -> "Pending":
        """Start averaging `x` over all processes; each gets its own equal share of the first dimension."""
        if self.size == 1:
            return Pending(x_N)
        mine = x_N.new_empty((len(x_N) // self.size, *x_N.shape[1:]))
        return Pending(mine, _REDUCE_SCATTER(mine, x_N, async_op=True), self.size)

    def all_gather(self, mine: Tensor) -> "Pending":
        """Start concatenating the shares of all processes along the first dimension."""
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
    """The result of an unfinished collective operation: `wait` returns it, divided by `divisor`."""

    out: Tensor
    work: Any = None
    divisor: int = 1

    def wait(self) -> Tensor:
        """Block until the result has arrived, and return it."""
        if self.work is not None:
            self.work.wait()
        return self.out if self.divisor == 1 else self.out.div_(self.divisor)


def join_world(device: str | None = None) -> World:
    """The world that torchrun describes in the environment, or a world of one.

    `device` is one of `KINDS`, or None for CUDA when available. When a process dies, the others end too: with gloo
    their connection breaks, and torchrun ends those that wait.
    """
    steady_heap()
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    size = int(os.environ.get("WORLD_SIZE") or "1")
    if size == 1:
        return World(device=torch.device(kind))
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if not dist.is_initialized():
        # torchrun has one store for all its attempts: a process could find the address of one that was killed. Agents
        # on several machines count attempts on their own.
        alone = os.environ.get("LOCAL_WORLD_SIZE") == str(size)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "") if alone else ""
        store = PrefixStore(attempt, next(rendezvous("env://", timeout=PATIENCE))[0])
        dist.init_process_group(KINDS[kind].group, None, PATIENCE, size, rank, store)
    own = torch.device(kind) if KINDS[kind].group == "gloo" else torch.device(kind, local)
    if own.index is not None:
        torch.get_device_module(own).set_device(own)
    return World(rank, size, own)


def steady_heap() -> None:
    """Make glibc's heap keep freed tensor memory, up to 1 GiB; other C libraries are left alone.

    By default glibc returns large blocks to the system and requests them again at every step, and the system clears
    each page again on first use. `benchmarks/train_step.py` prints the cost, and the ratio of peak memory.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def settle_threads() -> int:
    """Switch to one CPU thread when other programs keep the cores busy; returns the number of threads in use.

    On a free machine two threads are 1.5 times as fast as one; on a shared one they are several times slower, because
    each waits for the other at every product. A short timing of products decides; only a clear loss counts.
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
    """Time matrix products of a small model's sizes, without the first few."""
    a, b = torch.ones(2048, 128), torch.ones(128, 512)
    began = 0.0
    for i in range(30):
        if i == 5:
            began = time.perf_counter()
        (a @ b).relu_().sum()
    return time.perf_counter() - began
