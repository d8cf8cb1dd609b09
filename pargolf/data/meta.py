"""The record of a prepared data folder, `meta.json`: what it holds, and the hash of every file.

`format` counts up when the layout changes, so an old program says that it cannot read a new folder instead of
misreading it. Official folders carry no record, and an empty one stands for that.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pargolf.core.errors import UserError

FORMAT = 1
REQUIRED = frozenset({"format", "tokenizer", "vocab", "bos", "splits", "sha256"})
SIZE_LIMIT = 64 << 20


def read_meta(path: Path) -> dict[str, Any]:
    """Read `meta.json`; `{}` where there is none. Raises `UserError` when it is damaged or of another format."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise ValueError("too large")
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged; prepare the data again.") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT or not meta.keys() >= REQUIRED:
        raise UserError(f"{path} is of a format this program does not read; prepare the data again.")
    return meta


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
