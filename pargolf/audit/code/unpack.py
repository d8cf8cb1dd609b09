"""Unpack a self-extracting script without running it.

Such a script contains a long literal, encoded as base85, base64 or hex and compressed with lzma, xz, raw LZMA2, zlib,
bz2 or brotli, whose content is Python again. Every step is bounded, so a bomb ends as "too large".
"""

import ast
import base64
import binascii
import bz2
import lzma
import re
import zlib
from collections.abc import Callable, Iterator

import brotli

from pargolf.audit.code.tree import walk

MOST_UNPACKED = 6_000_000
_LEAST_LITERAL = 400
_LZMA2 = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 24}]


def inner_script(text: str, tree: ast.Module) -> tuple[bytes | None, str]:
    """The script inside the longest literals of a script; if they look packed but give none, the reason."""
    lines = text.count("\n")
    if len(text) > 200_000 and lines > 2000:
        return None, ""
    if re.search(r"(?<![.\w])(?:exec|eval)\s*\(", text) is None or not _executes(tree):
        return None, ""
    literals = _literals(tree)
    opened = [inner for literal in literals for raw in _decoded(literal) for inner in _opened(raw)]
    scripts = [inner for inner in opened if inner is not None and _is_python(inner)]
    note = f"a packed literal unpacks to more than {MOST_UNPACKED:,} bytes and was left alone" if None in opened else ""
    if not scripts:
        silent = not note and max(map(len, literals), default=0) > 4000
        return None, "a long literal is executed but could not be unpacked" if silent else note
    best = max(scripts, key=len)
    return (None if len(text) - len(best) > 60_000 and lines > 400 else best), note


def _executes(tree: ast.Module) -> bool:
    """Whether a script calls `exec` or `eval` by that name."""
    return any(isinstance(n, ast.Call) and getattr(n.func, "id", "") in ("exec", "eval") for n in walk(tree))


def _literals(tree: ast.Module) -> list[bytes | str]:
    literals: list[bytes | str] = []
    for node in walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)) and len(node.value) > _LEAST_LITERAL:
            literals.append(node.value)
    return sorted(literals, key=len, reverse=True)[:4]


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
    """Everything that `raw` decompresses to; None for results that would be too large."""
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
