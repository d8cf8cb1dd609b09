"""Processes for tests: forks of this one, alone or as torchrun would start them."""

import os
import signal
import socket
import time
import traceback
from pathlib import Path

import pytest

from pargolf.core.errors import UserError


def forked(work):
    """Run `work` in a fork; returns its process id. It ends with code 3 and a text on an error that is not mendable."""
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        work()
    except UserError as error:
        print(f"pargolf: {error}", flush=True)
        code = 2
    except OSError as error:
        print(f"pargolf: {error.strerror}", flush=True)
        code = 4
    except BaseException:
        traceback.print_exc()
        code = 3
    finally:
        os._exit(code)


def ended(child, *, within=60.0):
    """The exit code of a child, negative for a signal."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail(f"the process was not over within {within} s")


def wait_until(holds, *, within=60.0):
    """Return once `holds()` is true."""
    until = time.monotonic() + within
    while not holds():
        if time.monotonic() > until:
            pytest.fail(f"nothing came of it within {within} s")
        time.sleep(0.02)


def children(process):
    """Process ids of the children of a process."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def alive(process):
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def shared(size, work, *, out):
    """Run `work(rank)` in a world of `size` forks, as torchrun would start them; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def member(rank):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": size, "RANK": rank, "LOCAL_RANK": rank}
        os.environ.update({key: str(value) for key, value in place.items()})
        work(rank)

    children = [forked(lambda rank=rank: member(rank)) for rank in range(size)]
    return [ended(child) for child in children]
