"""Read code without running it: from bytes to text and a syntax tree, also the content of self-extracting scripts.

Source is parsed as bytes, so that a byte-order mark or a coding line has the meaning that Python gives it. Syntax newer
than the running Python (PEP 701 f-strings, PEP 695 type parameters) is rewritten line for line. The packed file counts
as bytes of code; the rules read the unpacked text.
"""

import ast
import io
import re
import tokenize
import warnings
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from pargolf.audit.code.flow_words import LOSSES, named_split
from pargolf.audit.code.newer_syntax import Unreadable, rewrite
from pargolf.audit.code.tree import Index, index_of, last_name, walk
from pargolf.audit.code.unpack import inner_script

# Limits for one script: bytes of its file, bytes outside strings and comments, nodes of its syntax tree without
# operators, load and store marks.
MOST_CODE = 4_000_000
MOST_BARE = 500_000
MOST_NODES = 120_000
_SMALL = MOST_NODES // 2  # a file this small cannot have that many nodes
MOST_DEPTH = 3
# Strings, also ones that never end, so that a match is never tried again from its next quote.
_LONG = r"'{3}(?:[^\\]|\\.)*?(?:'{3}|\Z)|\"{3}(?:[^\\]|\\.)*?(?:\"{3}|\Z)"
_SHORT = r"'(?:[^'\\\n]|\\.)*'?|\"(?:[^\"\\\n]|\\.)*\"?"
_NO_CODE = re.compile(rf"{_LONG}|{_SHORT}|#[^\n]*|\s+", re.S)


@dataclass(frozen=True)
class Code:
    """One script as the rules see it.

    `text` is the unpacked text, `tree` its syntax, or None with `error` and `error_line`. `proven` says that the error
    is one in every Python. `packed` is how many times it was unpacked; `note` says what could not be done. If modules
    were joined to it (`code/modules.py`), `parts` are their first lines and paths, and `unread` what could not be
    followed.
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
    parts: tuple[tuple[int, str], ...] = ()
    unread: tuple[str, ...] = ()

    def place(self, number: int) -> tuple[str, int, str]:
        """The file, the line number in it and the text of a line of the program."""
        first, path = next((part for part in reversed(self.parts) if part[0] <= number), (1, self.path))
        return path, number - first + 1 if number else 0, self.line(number)

    def line(self, number: int) -> str:
        """The text of one line, counted from 1."""
        lines = self.lines
        return lines[number - 1].strip()[:240] if 0 < number <= len(lines) else ""

    @cached_property
    def lines(self) -> list[str]:
        """All lines."""
        return self.text.splitlines()

    @property
    def index(self) -> Index:
        """The syntax tree, indexed once for every reading. Raises `RecursionError` if it is nested too deeply."""
        assert self.tree is not None
        return index_of(self.tree)

    @cached_property
    def works(self) -> bool:
        """Whether the script trains or scores: it computes a loss or gradients, or names one of the splits."""
        for node in self.index.order if self.tree is not None else ():
            if isinstance(node, ast.Call):
                name = last_name(node).lower()
                if name in LOSSES or name in ("backward", "grad", "value_and_grad") or "entropy" in name:
                    return True
            elif isinstance(node, ast.Constant) and named_split(node.value):
                return True
        return False

    @cached_property
    def strings(self) -> str:
        """Every string of the script, one per line."""
        nodes = self.index.order if self.tree is not None else ()
        return "\n".join(n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))


@lru_cache(maxsize=16)  # many heads commit the same script
def read_code(path: str, data: bytes) -> Code:
    """Parse a script's bytes, and unpack it while it is only a wrapper around another script."""
    if len(data) > MOST_CODE:
        return Code(path, "", None, len(data), error=f"{len(data):,} bytes is more code than is read ({MOST_CODE:,})")
    code = _parse(path, data, len(data), 0)
    for depth in range(1, MOST_DEPTH + 1):
        if code.tree is None:
            return code
        inner, note = inner_script(code.text, code.tree)
        if inner is None:
            return replace(code, note=note) if note else code
        code = _parse(path, inner, len(data), depth)
    return code


def text_of(data: bytes) -> str:
    """Text from bytes in any encoding: by a byte-order mark, as UTF-16 if every second byte is 0, or else as UTF-8."""
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
    bare = len(_NO_CODE.sub("", text)) if len(text) > _SMALL else 0
    if bare > MOST_BARE:
        bound = f"{bare:,} bytes of code outside strings and comments are more than is read ({MOST_BARE:,})"
        return Code(path, text, None, size, packed, error=bound)
    first = _tree(text)
    if isinstance(first, ast.Module):
        return _bounded(Code(path, text, first, size, packed))
    error_text, line = first
    try:
        second = _tree(rewrite(text))
    except (Unreadable, RecursionError):
        second = first
    if isinstance(second, ast.Module):
        return _bounded(Code(path, text, second, size, packed, note="uses syntax of Python 3.12 or later"))
    proven = not error_text.startswith("could not be parsed")
    return Code(path, text, None, size, packed, error=error_text, error_line=line, proven=proven)


def _bounded(code: Code) -> Code:
    """The code, without its tree if that is too large to be followed."""
    assert code.tree is not None
    if len(code.text) <= _SMALL:
        return code
    nodes = sum(1 for _ in walk(code.tree))
    if nodes <= MOST_NODES:
        return code
    return replace(code, tree=None, error=f"{nodes:,} nodes of syntax are more than is read ({MOST_NODES:,})")


def _tree(text: str) -> ast.Module | tuple[str, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except SyntaxError as error:
            return error.msg, error.lineno or 0
        except (RecursionError, ValueError, MemoryError) as error:
            return f"could not be parsed ({type(error).__name__})", 0
