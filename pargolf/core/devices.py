"""Check devices and processes before anything is computed, and report each fault in one line.

`torchrun` describes its processes in the environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT). Stale variables of
a shell or a container would make this process wait minutes for processes that nobody started; the checks here catch
that first.
"""

import os
import re
from collections.abc import Callable

import torch
import torch.distributed as dist

from pargolf.core.errors import UserError, out_of_memory
from pargolf.core.world import KINDS, World, join_world

_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


def check_device(device: str | None) -> None:
    """Raise `UserError` that lists the devices there are, unless `device` is None or exists on this machine."""
    if device is None or device == "cpu":
        return
    word = re.fullmatch(r"(\w+)(?::(\d{1,4}))?", device)
    counts = {kind: count for kind in KINDS if kind != "cpu" and (count := count_devices(kind))}
    if word and int(word[2] or 0) < counts.get(word[1], 0):
        return
    shown = "".join(f" and {kind}" + (f":0 to {kind}:{n - 1}" if n > 1 else "") for kind, n in counts.items())
    raise UserError(
        f"There is no device '{device}' here: this machine has cpu{shown or ' only'}. Choose another --device."
    )


def count_devices(kind: str = "cuda") -> int:
    """How many devices of a kind (by default CUDA GPUs) this torch can use; 0 for a kind it was not built with."""
    module = getattr(torch, kind, None)
    there = getattr(module, "is_available", lambda: True)
    return int(module.device_count()) if module is not None and there() else 0


def deal_device(device: str | None, number: int) -> str | None:
    """The device of one of several processes, by its number: GPUs are dealt out in turn, any other device is shared."""
    gpus = count_devices("cuda")
    return f"cuda:{number % gpus}" if gpus > 1 and device in (None, "cuda") else device


def release_memory(device: torch.device) -> None:
    """Return the device memory that torch caches."""
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


def halving(size: int, work: Callable[[int], None], device: torch.device) -> int:
    """Call `work(size)`; halve the size and start again while memory runs out. Returns the size that fitted.

    With a size of 1 the error of `work` is raised as it is.
    """
    while True:
        try:
            work(size)
            return size
        except (MemoryError, RuntimeError) as error:
            if size < 2 or not out_of_memory(error):
                raise
        size //= 2
        release_memory(device)


def check_processes() -> None:
    """Raise `UserError` when the environment describes several processes but not how to reach them."""
    words = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")}
    if words["WORLD_SIZE"] in ("", "1"):
        return
    settings = " ".join(f"{name}={word}" for name, word in words.items() if word)
    mend = "Start the processes with torchrun, or unset RANK and WORLD_SIZE."
    if not all(word.isdecimal() and len(word) < 9 for word in words.values()):
        raise UserError(f"{settings} is not a valid rank and group size. {mend}")
    if not int(words["RANK"]) < int(words["WORLD_SIZE"]):
        raise UserError(f"{settings}: there is no such process in a group of that size. {mend}")
    missing = [name for name in _ADDRESS if not os.environ.get(name)]
    if missing:
        raise UserError(f"{settings} without {' and '.join(missing)}: the other processes cannot be found. {mend}")


def find_world(device: str | None = None) -> World:
    """Check device and processes, then `join_world`. A single process may also choose one of several GPUs (`cuda:3`).

    Raises `UserError` when a check fails or the other processes do not answer.
    """
    check_device(device)
    check_processes()
    size = int(os.environ.get("WORLD_SIZE") or "1")
    if size > 1 and device is not None and ":" in device:
        raise UserError(f"Each of {size} processes takes the GPU of its own rank. Use --device cuda, without a number.")
    if size > 1 and device != "cpu" and torch.cuda.is_available() and _local_rank() >= torch.cuda.device_count():
        raise UserError(
            f"This machine has {torch.cuda.device_count()} GPUs, and process {_local_rank()} has none. "
            "Start as many processes as there are GPUs, or use --device cpu."
        )
    try:
        world = join_world(device)
    except (dist.DistError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"The other processes do not answer ({why}). Start all of them with torchrun.") from error
    if world.device.index is not None:
        torch.get_device_module(world.device).set_device(world.device)
    return world


def begun_again() -> bool:
    """Whether torchrun (`--max-restarts`) or Slurm (`--requeue`) has restarted this command."""
    counts = (os.environ.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(count.isdecimal() and int(count) > 0 for count in counts)


def from_first(world: World, work: Callable[[], bytes | None]) -> bytes:
    """Call `work` on the first process only, and return its bytes on all processes.

    A `UserError` or `OSError` of `work` is raised on all processes (on the others as `UserError`), so that none waits
    for one that has given up.
    """
    if world.size == 1:
        return work() or b""
    failed: UserError | OSError | None = None
    data = b""
    if world.main:
        try:
            data = b"+" + (work() or b"")
        except (UserError, OSError) as error:
            failed, data = error, b"-" + str(error).encode(errors="replace")
    data = world.broadcast(data)
    if failed is not None:
        raise failed
    if data[:1] == b"-":
        raise UserError(data[1:].decode())
    return data[1:]


def _local_rank() -> int:
    word = os.environ.get("LOCAL_RANK", "0")
    return int(word) if word.isdecimal() else 0
