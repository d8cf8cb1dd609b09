"""Processes for tests: forks of this one, alone or as torchrun would start them."""

import os
import runpy
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

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


def script_alone(path, *words, within=100.0):
    """Run a Python file as `__main__` in its folder, in a fork without pargolf; its exit code and what it wrote.

    A fork has torch already; starting Python and loading it would take seconds each time.
    """
    written = [path.parent / f".{path.stem}.{stream}" for stream in ("out", "err")]

    def work():
        for descriptor, file in enumerate(written, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
        for name in [name for name in sys.modules if name.split(".")[0] == "pargolf"]:
            del sys.modules[name]
        sys.modules["pargolf"] = None
        os.chdir(path.parent)
        sys.argv = [path.name, *map(str, words)]
        code = 0
        try:
            runpy.run_path(path.name, run_name="__main__")
        except SystemExit as error:
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
            code = 1 if isinstance(error.code, str) else error.code or 0
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    code = ended(forked(work), within=within)
    out, err = (file.read_text() for file in written)
    for file in written:
        file.unlink()
    return SimpleNamespace(returncode=code, stdout=out, stderr=err)


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
