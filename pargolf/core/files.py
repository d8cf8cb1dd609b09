"""Write files that are never half written (temporary file, fsync, rename), and read other people's files safely.

A full disk or a kill leaves the previous file whole. Every file the package writes goes through here. What somebody
names to be read goes through `reading`: a pipe or a device never ends, and a Git LFS pointer or a page of HTML is so
often saved in a file's place that it is named.
"""

import importlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pargolf.core.errors import UserError
from pargolf.core.strict import parse_json

LARGEST = 64 << 20
"""Bytes of the largest JSON file that a run or a data folder has."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_HTML = re.compile(rb"\s*(<!--.{0,400}?-->\s*)?<(!doctype\s+html|html|head)\b", re.IGNORECASE | re.DOTALL)
_HEAD = 1024


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file that takes `path`'s place only when the block ends without an error."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def claimed(folder: str | Path, *, patience: float = 60.0, name: str = ".claim") -> Iterator[None]:
    """The block is the only one of all processes that has this folder, which is made where it is not there.

    The system gives the claim back when a process ends, however it ends. Raises `UserError` where another one does not
    give it back within `patience` seconds. Where files cannot be locked (Windows, some network disks), all may enter.
    """
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        free = _lock(handle)
        if free and _is(path, handle):
            break
        os.close(handle)
        if not free:
            if time.monotonic() > until:
                raise UserError(f"Another process works in {folder}. Let it end, or end it, and run this again.")
            time.sleep(0.1)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file for this process alone; False where another one has it, True also where none can."""
    try:
        fcntl = importlib.import_module("fcntl")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True


def _is(path: Path, handle: int) -> bool:
    """Whether the file at a path is the open one: whoever had it before removes it, perhaps after it was opened."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def reading(*paths: str | Path) -> Iterator[None]:
    """The block reads these files. A path that is missing is the block's own to report.

    Raises `UserError` before anything is read of a pipe, a device, a folder or a Git LFS pointer; and in the place of
    an error of the block, where a file is a page of HTML. A `UserError` of the block that names no file is given the
    name of the one that is read.
    """
    for path in map(Path, paths):
        kind = _kind_of(path)
        if kind:
            raise UserError(f"{path} is {kind}.")
    try:
        yield
    except UserError as error:
        for path in map(Path, paths):
            if _HTML.match(_head(path)):
                raise UserError(
                    f"{path} is a page of HTML, not the file it is named after. Download the raw file instead."
                ) from error
        names = [name for path in map(Path, paths) for name in (str(path), path.name)]
        if len(paths) == 1 and not any(name in str(error) for name in names):
            error.args = (f"{paths[0]}: {error}", *error.args[1:])
        raise


def _kind_of(path: Path) -> str:
    """What there is in the place of a file, and what to do; empty for a file, and for nothing."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return ""
    if stat.S_ISDIR(mode):
        return "a folder. Name the file in it"
    if not stat.S_ISREG(mode):
        return "a pipe or a device, and only files are read. Save it to a file first"
    if _head(path).startswith(_POINTER):
        return "a Git LFS pointer, not the file it points to. Fetch the file with `git lfs pull`"
    return ""


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except (OSError, ValueError):
        return b""


def read_json(path: str | Path) -> Any:
    """Parse a JSON file. Raises `UserError` when it is missing, unreadable, too large or no JSON."""
    path = Path(path)
    with reading(path):
        try:
            if path.stat().st_size > LARGEST:
                raise UserError(f"{path} is larger than any file of a run. Is it the right one?")
            return parse_json(path.read_bytes(), str(path))
        except FileNotFoundError:
            raise UserError(f"There is no {path}.") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def cache_folder() -> Path:
    """A folder that only this user writes to, for what can be made again: anybody may delete it at any time."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pargolf"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):
        return Path(tempfile.mkdtemp(prefix="pargolf-"))


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
