"""Read code without running it: bytes to a syntax tree, self-extracting scripts to what they hold.

Source is parsed as bytes, so that a byte-order mark or a coding line means what Python would make of it. Syntax newer
than the running Python (PEP 701 f-strings, PEP 695 type parameters) is rewritten line for line into what `ast` can
hold. A self-extracting script is one whose long literal, decoded from base85, base64 or hex and
decompressed from lzma, xz, raw LZMA2, zlib, bz2 or brotli, is again Python; every stage is bounded, so a bomb ends as
"too large". The packed file is what counts as bytes of code, the unpacked text is what the rules read.
"""

import ast
import base64
import binascii
import bz2
import io
import lzma
import re
import tokenize
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import brotli

from pargolf.audit.older import Unreadable, rewrite
from pargolf.audit.tree import Index

MOST_CODE = 4_000_000
MOST_UNPACKED = 6_000_000
MOST_DEPTH = 3
_LEAST_LITERAL = 400
_LZMA2 = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 24}]


@dataclass(frozen=True)
class Code:
    """One script as the rules see it.

    `text` is what is inside, `tree` its syntax or None with `error` and `error_line`; `proven` says that the error
    holds in every Python; `packed` how many times it was unpacked; `note` what could not be done.
    """

    path: str
    text: str
    tree: ast.Module | None
    size: int
    packed: int = 0
    error: str = ""
    error_line: int = 0
    proven: bool = False
    note: str = ""

    def line(self, number: int) -> str:
        """The text of one line, counted from 1."""
        lines = self.lines
        return lines[number - 1].strip()[:240] if 0 < number <= len(lines) else ""

    @cached_property
    def lines(self) -> list[str]:
        """All lines."""
        return self.text.splitlines()

    @cached_property
    def index(self) -> Index:
        """The syntax tree, indexed once for every reading. Raises `RecursionError` on what nests too deeply."""
        assert self.tree is not None
        return Index(self.tree)

    @cached_property
    def strings(self) -> str:
        """Every string of the script, a line each."""
        nodes = self.index.order if self.tree is not None else ()
        return "\n".join(n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))


def read_code(path: str, data: bytes) -> Code:
    """Parse a script's bytes, and unpack it as long as it is only a wrapper around another script."""
    if len(data) > MOST_CODE:
        return Code(path, "", None, len(data), error=f"{len(data):,} bytes is more code than is read ({MOST_CODE:,})")
    code = _parse(path, data, len(data), 0)
    for depth in range(1, MOST_DEPTH + 1):
        if code.tree is None:
            return code
        inner, note = _inside(code)
        if inner is None:
            return replace(code, note=note) if note else code
        code = _parse(path, inner, len(data), depth)
    return code


def text_of(data: bytes) -> str:
    """Text of bytes in whatever encoding: by a byte-order mark, as UTF-16 if every second is 0, else as UTF-8."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    if data.startswith(b"\xef\xbb\xbf"):
        return data.decode("utf-8-sig", "replace")
    if data[1:400:2].count(0) > len(data[1:400:2]) // 2:
        return data.decode("utf-16-le", "replace")
    return data.decode("utf-8", "replace")


def _parse(path: str, data: bytes, size: int, packed: int) -> Code:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        return Code(path, text_of(data), None, size, packed, error=f"not Python source: {error}", proven=True)
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        return Code(path, text, None, size, packed, error="source holds null bytes", proven=True)
    first = _tree(text)
    if isinstance(first, ast.Module):
        return Code(path, text, first, size, packed)
    error_text, line = first
    try:
        second = _tree(rewrite(text))
    except (Unreadable, RecursionError):
        second = first
    if isinstance(second, ast.Module):
        return Code(path, text, second, size, packed, note="uses syntax of Python 3.12 or later")
    proven = not error_text.startswith("could not be parsed")
    return Code(path, text, None, size, packed, error=error_text, error_line=line, proven=proven)


def _tree(text: str) -> ast.Module | tuple[str, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except SyntaxError as error:
            return error.msg, error.lineno or 0
        except (RecursionError, ValueError, MemoryError) as error:
            return f"could not be parsed ({type(error).__name__})", 0


def _inside(code: Code) -> tuple[bytes | None, str]:
    """The script that the longest literals of `code` hold, and why not when they look packed but do not yield."""
    assert code.tree is not None
    if len(code.text) > 200_000 and code.text.count("\n") > 2000:
        return None, ""
    if re.search(r"(?<![.\w])(?:exec|eval)\s*\(", code.text) is None or not _executes(code.tree):
        return None, ""
    best: bytes | None = None
    note = ""
    for literal in _literals(code.tree):
        for raw in _decoded(literal):
            for opened in _opened(raw):
                if opened is None:
                    note = f"a packed literal unpacks to more than {MOST_UNPACKED:,} bytes and was left alone"
                elif (best is None or len(opened) > len(best)) and _is_python(opened):
                    best = opened
    if best is not None and len(code.text) - len(best) > 60_000 and code.text.count("\n") > 400:
        return None, note
    if best is None and not note and max((len(x) for x in _literals(code.tree)), default=0) > 4000:
        note = "a long literal is executed but could not be unpacked"
    return best, note


def _executes(tree: ast.Module) -> bool:
    """Whether a script calls `exec` or `eval` by that name."""
    return any(isinstance(n, ast.Call) and getattr(n.func, "id", "") in ("exec", "eval") for n in ast.walk(tree))


def _literals(tree: ast.Module) -> list[bytes | str]:
    found: list[bytes | str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)) and len(node.value) > _LEAST_LITERAL:
            found.append(node.value)
    return sorted(found, key=len, reverse=True)[:4]


def _decoded(literal: bytes | str) -> Iterator[bytes]:
    if isinstance(literal, bytes):
        yield literal
        squeezed = re.sub(rb"\s+", b"", literal)
    else:
        with_spaces = literal.encode("utf-8", "replace")
        if max(map(ord, literal)) < 256:
            yield literal.encode("latin-1")
        squeezed = re.sub(rb"\s+", b"", with_spaces)
    readers: tuple[Callable[[bytes], bytes], ...] = (
        base64.b85decode,
        lambda b: base64.b64decode(b, validate=True),
        base64.a85decode,
        lambda b: base64.a85decode(b, adobe=True),
        base64.b32decode,
        binascii.unhexlify,
    )
    for reader in readers:
        try:
            yield reader(squeezed)
        except (ValueError, binascii.Error):
            continue


def _opened(raw: bytes) -> Iterator[bytes | None]:
    """Everything that `raw` decompresses to; None for what would be too large."""
    makers: tuple[Callable[[], Callable[[bytes, int], bytes]], ...] = (
        lambda: lzma.LZMADecompressor().decompress,
        lambda: lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA2).decompress,
        lambda: zlib.decompressobj().decompress,
        lambda: zlib.decompressobj(-15).decompress,
        lambda: zlib.decompressobj(31).decompress,
        lambda: bz2.BZ2Decompressor().decompress,
    )
    for make in makers:
        try:
            opened = make()(raw, MOST_UNPACKED + 1)
        except (lzma.LZMAError, zlib.error, OSError, EOFError, ValueError, MemoryError):
            continue
        if opened:
            yield opened if len(opened) <= MOST_UNPACKED else None
    yield from _brotli(raw)


def _brotli(raw: bytes) -> Iterator[bytes | None]:
    decoder = brotli.Decompressor()
    out = bytearray()
    try:
        for start in range(0, len(raw), 1 << 12):
            out += decoder.process(raw[start : start + (1 << 12)])
            if len(out) > MOST_UNPACKED:
                yield None
                return
    except brotli.error:
        return
    if out:
        yield bytes(out)


def _is_python(data: bytes) -> bool:
    head = data[:200_000]
    return b"import" in head and (b"def " in head or b"exec(" in head) and head.count(b"\0") == 0
