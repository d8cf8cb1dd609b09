"""What was written once is read the next time: scripts by what decides them and by the source that they come from.

    ~/.cache/pargolf/scripts/<hash of the key, of every file of this package and of the libraries' versions>.json

A file that is damaged, or that cannot be written, is as one that is not there.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch

from pargolf.core.files import cache_folder, write_text

ROOT = Path(__file__).resolve().parents[1]
KEPT = 64
"""Scripts that are kept; older ones go when another comes."""

Written = tuple[str, dict[str, str]]


def remembered(key: str, write: Callable[[], Written]) -> Written:
    """The text and names that were written under this key by this very source, or what `write` gives."""
    place = cache_folder() / "scripts"
    path = place / (hashlib.sha256(f"{key}\n{_source()}".encode()).hexdigest() + ".json")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        text, names = held["text"], held["names"]
        if held["sha256"] == _hash(text, names):
            return text, names
    except (OSError, ValueError, KeyError, TypeError):
        pass
    text, names = write()
    try:
        place.mkdir(exist_ok=True)
        write_text(path, json.dumps({"sha256": _hash(text, names), "text": text, "names": names}))
        old = sorted(place.glob("*.json"), key=lambda file: file.stat().st_mtime)
        for file in old[:-KEPT]:
            file.unlink(missing_ok=True)
    except OSError:
        pass
    return text, names


def _hash(text: str, names: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps([text, names], sort_keys=True).encode()).hexdigest()


@cache
def _source() -> str:
    """Names the source of this package, and what else decides how it is written down."""
    whole = hashlib.sha256(f"{sys.version} {torch.__version__} {np.__version__}".encode())
    for path in sorted(ROOT.rglob("*.py")):
        whole.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return whole.hexdigest()
