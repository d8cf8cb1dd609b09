"""Atomic writes and safe reads of files.

Writing: a temporary file beside the target, fsync, rename. A full disk or a kill leaves the previous file whole. Every
file that the package writes goes through here.

Reading: a file that a user names goes through `reading`, which refuses pipes and devices (they may never end), and
recognizes a Git LFS pointer or an HTML page that was saved in place of the file.
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
"""The largest JSON file that is read, in bytes."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_HTML = re.compile(rb"\s*(<!--.{0,400}?-->\s*)?<(!doctype\s+html|html|head)\b", re.IGNORECASE | re.DOTALL)
_HEAD = 1024


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file that replaces `path` only when the block ends without an error."""
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
    """Lock a folder for this process while the block runs; it is created for that, and removed when it stays empty.

    The operating system releases the lock when the process ends, however it ends. Raises `UserError` when another
    process still has it after `patience` seconds. If files cannot be locked (Windows, some network disks), nothing is
    locked.
    """
    path = Path(folder) / name
    created = not path.parent.exists()
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
        if created:
            with suppress(OSError):  # it holds something
                path.parent.rmdir()


def _lock(handle: int) -> bool:
    """Try to lock an open file; False when another process has the lock, True also when files cannot be locked."""
    try:
        fcntl = importlib.import_module("fcntl")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True


def _is(path: Path, handle: int) -> bool:
    """Whether the file at `path` is still the open one: its last owner may have removed it after we opened it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def reading(*paths: str | Path) -> Iterator[None]:
    """Guard a block that reads these files. The block itself reports a missing file.

    Raises `UserError` for a pipe, a device, a folder or a Git LFS pointer before the block runs. A `UserError` of the
    block is replaced when a file turns out to be an HTML page, and gets the file's name in front when it names none.
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
    """What the path is instead of a file, and what to do; empty for a regular file and a missing one."""
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
    """Parse a JSON file. Raises `UserError` when it is missing, unreadable, too large or not JSON."""
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
    """A private folder for files that can be made again, so it may be deleted at any time."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pargolf"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):
        return Path(tempfile.mkdtemp(prefix="pargolf-"))


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, on systems that let a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
