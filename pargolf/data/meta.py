"""Read `meta.json`, the record of a prepared data folder: its vocabulary, its sizes, and the hash of every file.

`format` is increased when the layout changes, so that an old program refuses a new folder and does not misread it.
Official folders have no record; for them it is an empty mapping.
"""

import hashlib
from pathlib import Path
from typing import Any

from pargolf.core.errors import UserError
from pargolf.core.files import read_json
from pargolf.core.ranges import Amount, Count, Index
from pargolf.core.spec import build

FORMAT = 1
_KINDS: dict[str, Any] = {
    "format": int,
    "tokenizer": str,
    "vocab": Count,
    "bos": Index,
    "splits": dict[str, dict[str, Amount]],
    "sha256": dict[str, str],
}
_LATER: dict[str, Any] = {"lossless": bool, "notes": list[str]}
"""Fields that folders made by older versions do not have."""


def read_meta(path: Path) -> dict[str, Any]:
    """Read `meta.json`; `{}` when there is none. Raises `UserError` when it is damaged or of another format."""
    if not path.is_file():
        return {}
    meta = read_json(path)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT or not meta.keys() >= _KINDS.keys():
        raise UserError(f"{path} is of a format this program does not read; prepare the data again.")
    for name, kind in (_KINDS | {name: kind for name, kind in _LATER.items() if name in meta}).items():
        build(kind, meta[name], where=f"{path}: {name}")
    return meta


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
