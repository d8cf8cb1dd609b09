"""A cache of scripts, keyed by the recipe and by a hash of the source that they are made from.

    ~/.cache/pargolf/scripts/<hash of the key, of every source file that matters and of the libraries' versions>.json

Folders from which no script takes code are left out of the hash (a test checks that). A damaged file counts as missing,
and failing to write one does no harm. `begin` fills the cache in a separate process, at low priority, while the caller
continues.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch

from pargolf.core.files import cache_folder, write_text

ROOT = Path(__file__).resolve().parents[1]
KEPT = 64
"""The number of scripts that are kept; the oldest are deleted."""
PATIENCE = 120.0
"""Seconds to wait for another process to write a script, before writing it here."""
_APART = ("cli", "api", "audit", "engines", "study", "report", "upstream", "exporting")
"""Folders from which no script takes code."""
BEGUN: dict[str, "subprocess.Popen[bytes]"] = {}
"""Child processes that write scripts for this one, by key."""

Written = tuple[str, dict[str, str]]
"""A script's text, and the names of its parts in it."""


def remembered(key: str, write: Callable[[], Written]) -> Written:
    """The cached text and names for this key and this version of the source, else those that `write` returns."""
    written = _read(key)
    if written is None and not ready(key):
        finish(key)
        written = _read(key)
    if written is None:
        written = write()
        _keep(key, written)
    return written


def known(key: str) -> bool:
    """Whether a script is in the cache."""
    return _read(key) is not None


def begin(key: str, code: str, job: object) -> None:
    """Run Python `code` in a new process, which reads `job` as JSON and fills the cache under `key`."""
    if key in BEGUN:
        return
    path = os.pathsep.join(filter(None, (str(ROOT.parent), os.environ.get("PYTHONPATH"))))
    quiet = subprocess.DEVNULL
    try:
        BEGUN[key] = child = subprocess.Popen(
            [sys.executable, "-c", f"import os; os.nice(5); {code}"],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True,
        )  # fmt: skip
        assert child.stdin is not None
        with child.stdin:
            child.stdin.write(json.dumps(job).encode())
    except OSError:
        pass


def ready(key: str) -> bool:
    """Whether there is nothing to wait for: no process was started for this script, or it has ended."""
    return key not in BEGUN or BEGUN[key].poll() is not None


def finish(key: str) -> None:
    """Wait for the process that writes a script."""
    child = BEGUN.pop(key)
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _path(key: str) -> Path:
    return cache_folder() / "scripts" / (hashlib.sha256(f"{key}\n{_source()}".encode()).hexdigest() + ".json")


def _read(key: str) -> Written | None:
    try:
        cached = json.loads(_path(key).read_text(encoding="utf-8"))
        text, names = cached["text"], cached["names"]
        return (text, names) if cached["sha256"] == _hash(text, names) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(key: str, written: Written) -> None:
    text, names = written
    path = _path(key)
    try:
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps({"sha256": _hash(text, names), "text": text, "names": names}))
        old = sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
        for file in old[:-KEPT]:
            file.unlink(missing_ok=True)
    except OSError:
        pass


def _hash(text: str, names: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps([text, names], sort_keys=True).encode()).hexdigest()


@cache
def _source() -> str:
    """A hash of the source that scripts are made from, and of the versions that influence their text."""
    whole = hashlib.sha256(f"{sys.version} {torch.__version__} {np.__version__}".encode())
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT)
        if name.parts[0] not in _APART:
            whole.update(f"{name}\n".encode() + path.read_bytes())
    return whole.hexdigest()
