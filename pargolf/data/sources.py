"""Reading people's own text: files and folders become documents, one at a time.

A source is a `.txt` file (one document), a `.jsonl` file (one JSON object a line, with "text" and perhaps "id"), either
of them under `.xz`, `.gz` or `.zst`, a folder of these (searched through, in order of name, hidden files left out), or
the word `embedded`. Ids never hold a machine's paths: a name below the given folder, a file's own name, or
`name:line`; an id seen before gets `#2`, `#3`, ... A text is kept as it is, down to its newlines; only a UTF-8
byte-order mark at the start of a file is dropped, since it marks the file and is no part of the text.
"""

import gzip
import io
import json
import lzma
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pargolf.core.errors import UserError
from pargolf.core.files import reading
from pargolf.data.corpus import embedded
from pargolf.data.documents import Document

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

EMBEDDED = "embedded"
KINDS = (".txt", ".jsonl")
PACKINGS = ("", ".xz", ".gz", ".zst")
TEXT_LIMIT = 1 << 30


@dataclass(frozen=True)
class SourceFile:
    """A file to read; `path` None is the embedded corpus. `name` is what its documents' ids begin with."""

    path: Path | None
    name: str


def find_files(sources: Sequence[str | Path]) -> list[SourceFile]:
    """List what will be read, in order. Raises `UserError` for a source that is missing or of no known kind."""
    files: list[SourceFile] = []
    for source in sources:
        path = Path(source)
        if str(source) == EMBEDDED:
            files.append(SourceFile(None, EMBEDDED))
        elif path.is_dir():
            found = sorted(inner for inner in path.rglob("*") if inner.is_file() and _kind(inner))
            names = [inner.relative_to(path) for inner in found]
            shown = [(i, n) for i, n in zip(found, names) if not any(part.startswith(".") for part in n.parts)]
            if not shown:
                raise UserError(f"{path} holds no .txt or .jsonl file (.xz, .gz and .zst of them count too).")
            files += [SourceFile(inner, name.as_posix()) for inner, name in shown]
        elif not path.exists():
            raise UserError(f"There is no {path}; name text files, folders, or the word `embedded`.")
        elif not _kind(path):
            raise UserError(
                f"{path} is neither .txt nor .jsonl (.xz, .gz and .zst of them count too); rename it if it is."
            )
        else:
            files.append(SourceFile(path, path.name))
    if not files:
        raise UserError("No documents were named; give text files, folders, or the word `embedded`.")
    return files


def read_documents(files: Sequence[SourceFile]) -> Iterator[Document]:
    """Yield every document with a unique id. Raises `UserError` naming the file (and line) that cannot be read."""
    used: set[str] = set()
    copies: Counter[str] = Counter()
    for file in files:
        for document in embedded() if file.path is None else _read_file(file.path, file.name):
            name = unique = document.id.encode(errors="backslashreplace").decode()
            while unique in used:
                copies[name] += 1
                unique = f"{name}#{copies[name] + 1}"
            used.add(unique)
            yield Document(unique, document.text)


def _kind(path: Path) -> str:
    """The suffix that says what a file holds, `.txt` or `.jsonl`; empty for anything else."""
    name = path.name.lower()
    ends = [kind for kind in KINDS for packing in PACKINGS if name.endswith(kind + packing)]
    return ends[0] if ends else ""


def _read_file(path: Path, name: str) -> Iterator[Document]:
    with reading(path):
        try:
            with _open(path) as file:
                if _kind(path) == ".jsonl":
                    yield from _read_lines(file, path, name)
                else:
                    yield Document(name, _text(file.read(TEXT_LIMIT + 1), str(path)))
        except (lzma.LZMAError, zlib.error, zstd.ZstdError, gzip.BadGzipFile, EOFError) as error:
            raise UserError(f"{path} does not unpack ({error}); it is damaged or cut. Fetch it again.") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _open(path: Path) -> IO[bytes]:
    suffix = path.suffix.lower()
    if suffix == ".xz":
        return lzma.open(path)
    if suffix == ".gz":
        return io.BufferedReader(gzip.open(path))
    if suffix == ".zst":
        return io.BufferedReader(zstd.ZstdFile(path))
    return path.open("rb")


def _read_lines(file: IO[bytes], path: Path, name: str) -> Iterator[Document]:
    number = 0
    while line := file.readline(TEXT_LIMIT + 1):
        number += 1
        text = _text(line, f"{path}:{number}")
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}:{number} is not JSON ({error}); a .jsonl file has one JSON object a line."
            ) from error
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise UserError(f'{path}:{number} has no "text" string; each line must be like {{"text": "..."}}.')
        named = record.get("id")
        yield Document(f"{name}:{number}" if named is None else str(named), record["text"])


def _text(raw: bytes, where: str) -> str:
    if len(raw) > TEXT_LIMIT:
        raise UserError(f"{where} is one document of over {TEXT_LIMIT} bytes; split it.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 (byte {error.start}); convert it, for instance with iconv.") from error
