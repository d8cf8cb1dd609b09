"""Read text sources as documents, one at a time, each with a unique id.

A source is a file of a kind in `READERS` (also compressed: `.xz`, `.gz`, `.zst`, `.bz2`), a folder of these, a glob,
`-` for standard input, or the word `embedded`. A folder is searched in order of name, without hidden files; if it holds
tables, its `.md`, `.rst` and `.json` files describe them and are left out, too. The kind of standard input is detected
from its first bytes. Ids never contain the machine's paths: they are a path below the given folder, a file's own name,
or `name:row`; a repeated id gets `#2`, `#3`, ... A text stays unchanged, newlines included; only a UTF-8 byte-order
mark at the start of a file is dropped, because it is not part of the text.
"""

import glob
import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from pargolf.core.errors import UserError
from pargolf.core.files import reading
from pargolf.data.corpus import embedded
from pargolf.data.documents import Document
from pargolf.data.read.arrays import read_arrays
from pargolf.data.read.columns import Choose, TextRow, choose_column
from pargolf.data.read.foreign import HEAD, refuse_foreign
from pargolf.data.read.lines import read_lines
from pargolf.data.read.packed import PACKINGS, opened, packing_of
from pargolf.data.read.parquet import read_parquet
from pargolf.data.read.plain import read_plain
from pargolf.data.read.tables import read_tables

EMBEDDED, STANDARD_INPUT = "embedded", "-"
READERS: dict[str, Callable[[IO[bytes], str, Choose], Iterator[TextRow]]] = {
    ".txt": read_plain,
    ".md": read_plain,
    ".rst": read_plain,
    ".jsonl": read_lines,
    ".json": read_arrays,
    ".csv": read_tables,
    ".tsv": read_tables,
    ".parquet": read_parquet,
}
TABLES = frozenset({".jsonl", ".csv", ".tsv", ".parquet"})
ABOUT = frozenset({".json", ".md", ".rst"})
"""Kinds of file that are left out of a folder with tables."""
_KINDS = f"{', '.join(READERS)}, and these under {', '.join(PACKINGS[1:])}"
_HEAD = 1 << 16


@dataclass(frozen=True)
class SourceFile:
    """A file to read; a `path` of None is the embedded corpus. The ids of its documents begin with `name`."""

    path: Path | None
    name: str
    kind: str = ""
    packing: str = ""


@dataclass
class Sources:
    """Files in order, the text column of each table, and the files that are not read.

    `left_out` are files about tables; `unread` are files of other kinds, and links to folders.
    """

    files: list[SourceFile] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """Notes for readers of the data, a line each."""
        out = []
        for column, count in Counter(self.columns.values()).most_common():
            out.append(f'The text is column "{column}" of {count:,} file{"s" if count > 1 else ""}.')
        if self.left_out:
            shown = ", ".join(self.left_out[:3]) + (" ..." if len(self.left_out) > 3 else "")
            out.append(f"Left out beside tables: {shown}. Name such files to read them.")
        if self.unread:
            shown = ", ".join(self.unread[:3]) + (" ..." if len(self.unread) > 3 else "")
            out.append(f"Left out: {shown} ({len(self.unread):,} of no kind that is read, or links to folders).")
        return out


def find_files(sources: Sequence[str | Path], *, spool: Path | None = None) -> Sources:
    """List the files to read, in order; standard input is first copied to the folder `spool`.

    Raises `UserError` for a source that is missing or of an unknown kind.
    """
    out = Sources()
    for source in sources:
        path = Path(source)
        if str(source) == EMBEDDED:
            out.files.append(SourceFile(None, EMBEDDED))
        elif str(source) == STANDARD_INPUT:
            out.files.append(_standard_input(spool))
        elif path.is_dir():
            _search(path, out)
        elif path.exists():
            out.files.append(source_file(path, path.name))
        elif glob.has_magic(str(source)):
            _expand(str(source), out)
        else:
            raise UserError(f"There is no {path}; name text files, folders, `-`, or the word `embedded`.")
    if not out.files:
        raise UserError("No documents were named; give text files, folders, `-`, or the word `embedded`.")
    return out


def source_file(path: Path, name: str) -> SourceFile:
    """The `SourceFile` of a path. Raises `UserError` for an unknown kind."""
    kind, packing = _kind(path)
    if not kind:
        raise UserError(f"{path} is of no kind that is read: {_KINDS}. Rename it if it is one of these.")
    return SourceFile(path, name, kind, packing)


def read_documents(sources: Sources, *, text_field: str | None = None) -> Iterator[Document]:
    """Yield every document with a unique id. Raises `UserError` that names the file (and row) that cannot be read."""
    used: set[int] = set()
    copies: Counter[str] = Counter()
    for file in sources.files:
        for document in embedded() if file.path is None else _read_file(file.path, file, sources, text_field):
            name = unique = document.id.encode(errors="backslashreplace").decode()
            while _short_hash(unique) in used:
                copies[name] += 1
                unique = f"{name}#{copies[name] + 1}"
            used.add(_short_hash(unique))
            yield Document(unique, document.text)


def _read_file(path: Path, file: SourceFile, sources: Sources, text_field: str | None) -> Iterator[Document]:
    shown = str(path) if file.name != STANDARD_INPUT else "standard input"
    choose = partial(_choose, sources=sources, name=file.name, asked=text_field, where=shown)
    named = reading(path) if file.name != STANDARD_INPUT else nullcontext()
    with named, opened(path, file.packing) as unpacked:
        if file.kind != ".parquet":
            refuse_foreign(unpacked.peek(HEAD)[:HEAD], shown)  # type: ignore[attr-defined]
        for row in READERS[file.kind](unpacked, shown, choose):
            label = f"{file.name}:{row.label}" if row.label else file.name
            name = label if row.id is None else row.id
            try:
                row.text.encode()
            except UnicodeEncodeError as error:
                what = f"holds a lone surrogate at character {error.start}; it is not Unicode text"
                raise UserError(f"{shown}: document {name!r} {what}.") from error
            yield Document(name, row.text)


def _choose(
    strings: Sequence[str], names: Sequence[str], *, sources: Sources, name: str, asked: str | None, where: str
) -> str:
    sources.columns[name] = choose_column(strings, names, asked=asked, where=where)
    return sources.columns[name]


def _short_hash(name: str) -> int:
    """64 bits of a name, so that millions of names fit in memory."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _kind(path: Path) -> tuple[str, str]:
    """The suffixes of kind and compression; empty for anything else."""
    name = path.name.lower()
    ends = [(kind, packing) for kind in READERS for packing in PACKINGS if name.endswith(kind + packing)]
    return ends[0] if ends else ("", "")


def _search(folder: Path, out: Sources) -> None:
    """Add the files of a folder. Raises `UserError` when it has none."""
    every = [(inner, inner.relative_to(folder)) for inner in sorted(folder.rglob("*"))]
    named = [(inner, name) for inner, name in every if not any(part.startswith(".") for part in name.parts)]
    shown = [source_file(inner, name.as_posix()) for inner, name in named if inner.is_file() and _kind(inner)[0]]
    wanted = {file.path for file in shown}
    out.unread += [
        name.as_posix() for inner, name in named if inner not in wanted and (inner.is_symlink() or not inner.is_dir())
    ]
    if any(file.kind in TABLES for file in shown):
        out.left_out += [file.name for file in shown if file.kind in ABOUT]
        shown = [file for file in shown if file.kind not in ABOUT]
    if not shown:
        raise UserError(f"{folder} holds no file of a kind that is read: {_KINDS}.")
    out.files += shown


def _expand(pattern: str, out: Sources) -> None:
    """Add the files that match a glob. Raises `UserError` when there are none."""
    fixed = Path(*_fixed_parts(pattern))
    paths = sorted(path for path in fixed.glob(str(Path(pattern).relative_to(fixed))) if path.is_file())
    if not paths:
        raise UserError(f"No file is named by {pattern}.")
    out.files += [source_file(path, path.relative_to(fixed).as_posix()) for path in paths]


def _fixed_parts(pattern: str) -> Iterator[str]:
    """The folders of a pattern before its first wildcard."""
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _standard_input(spool: Path | None) -> SourceFile:
    """Copy standard input to a file, because it is read more than once. Raises `UserError` when there is none."""
    assert spool is not None, "standard input needs a folder"
    path = spool / "standard-input"
    if path.exists():
        raise UserError("Standard input, `-`, is named twice, but it can be read only once.")
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("`-` reads standard input, and nothing is sent there: cat texts.jsonl | pargolf data ... -")
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    with path.open("rb") as file:
        packing = packing_of(file.read(8))
    with opened(path, packing) as file:
        return SourceFile(path, STANDARD_INPUT, _kind_of_bytes(file.read(_HEAD)), packing)


def _kind_of_bytes(head: bytes) -> str:
    """The kind of a text without a file name: Parquet, JSON lines, a JSON array, or else plain text."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PAR1"):
        return ".parquet"
    if start.startswith(b"[") and start[1:].lstrip()[:1] in (b"{", b'"'):
        return ".json"
    try:
        first = start.split(b"\n", 1)[0]
        whole = len(first) < len(start) or len(head) < _HEAD
        return ".jsonl" if start.startswith(b"{") and (not whole or isinstance(json.loads(first), dict)) else ".txt"
    except (ValueError, RecursionError):
        return ".txt"
