"""Rewrite syntax newer than Python 3.11 into what its grammar holds, line for line.

PEP 701 (3.12) lets the expressions of an f-string hold any quote, a backslash or a newline; PEP 695 (3.12) writes type
parameters in brackets. Neither changes what a program reads or calls, so `f"{d["a"]} b"` becomes `"".format((d["a"]),)`
and `def f[T](x)` becomes `def f(x)`, every token on its own line. One scanner walks the source once: comments and plain
strings pass through, an f-string is taken apart with its nesting. What is no f-string passes through unchanged, so a
program that is wrong in every Python stays wrong.
"""

import re

_STRING = re.compile(r"(?<![\w])((?i:rf|fr|rb|br|rt|tr|f|r|b|u|t)?)('''|\"\"\"|'|\")")
_SPACE = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\n]|\\\n|#[^\n]*\n)*")
_GENERIC = re.compile(r"^(\s*(?:async\s+def|def|class)\s+\w+)\[[^\]\n]*(?:\[[^\]\n]*\][^\]\n]*)*\](?=\s*[(:])", re.M)
_ALIAS = re.compile(r"^(\s*)type\s+(\w+)\s*(?:\[[^=\n]*\])?\s*=", re.M)


class Unreadable(ValueError):
    """An f-string that no Python accepts."""


def rewrite(source: str) -> str:
    """The source in older syntax. Raises `Unreadable` on an f-string that does not close."""
    out, _ = _code(_ALIAS.sub(r"\1\2 =", _GENERIC.sub(r"\1", source)), 0, until="")
    return out


def _code(text: str, at: int, *, until: str) -> tuple[str, int]:
    """Copy code from `at`, f-strings rewritten, to the end, or to one of `until` outside all brackets."""
    out: list[str] = []
    depth = 0
    while at < len(text):
        c = text[at]
        if until and depth == 0 and c in until and not (c == "!" and text[at + 1 : at + 2] == "="):
            return "".join(out), at
        if c == "#":
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
            out.append(text[at:end])
            at = end
        elif c in "'\"" or c.isalpha() or c == "_":
            piece, at = _word_or_string(text, at, inside=depth > 0 or bool(until))
            out.append(piece)
        else:
            depth += (c in "([{") - (c in ")]}")
            out.append(c)
            at += 1
    if until:
        raise Unreadable("an f-string does not close")
    return "".join(out), at


def _word_or_string(text: str, at: int, *, inside: bool) -> tuple[str, int]:
    start = _STRING.match(text, at)
    if start is None:
        word = re.compile(r"\w+").match(text, at)
        end = word.end() if word else at + 1
        return text[at:end], end
    if "f" not in start[1].lower() and "t" not in start[1].lower():
        end = _plain_end(text, start)
        return text[at:end], end
    return _formatted(text, start, inside=inside)


def _plain_end(text: str, start: "re.Match[str]") -> int:
    quote, at = start[2], start.end()
    while at < len(text):
        if text[at] == "\\":
            at += 2
        elif text.startswith(quote, at):
            return at + len(quote)
        elif text[at] == "\n" and len(quote) == 1:
            return at
        else:
            at += 1
    return len(text)


def _formatted(text: str, start: "re.Match[str]", *, inside: bool) -> tuple[str, int]:
    """One f-string, and any strings written right after it, as one call; `inside` brackets a newline joins too."""
    fields, at = _fields(text, start.end(), quote=start[2], raw="r" in start[1].lower())
    while True:
        gap = (_GAP if inside else _SPACE).match(text, at)
        assert gap is not None
        after = gap.end()
        follow = _STRING.match(text, after)
        if follow is None:
            return f'"".format({fields})', at
        fields += "\n" * gap[0].count("\n")
        if "f" in follow[1].lower():
            more, at = _fields(text, follow.end(), quote=follow[2], raw="r" in follow[1].lower())
            fields += more
        else:
            end = _plain_end(text, follow)
            fields += text[follow.start() : end] + ","
            at = end


def _fields(text: str, at: int, *, quote: str, raw: bool) -> tuple[str, int]:
    """The expressions of an f-string's body as call arguments; newlines of its literal part are kept."""
    out = ""
    while at < len(text):
        if text.startswith(quote, at):
            return out, at + len(quote)
        c = text[at]
        if c == "\n":
            if len(quote) == 1:
                raise Unreadable("an f-string does not close on its line")
            out += "\n"
            at += 1
        elif c == "\\" and (size := _escape(text, at, raw=raw)):
            out += "\n" if text[at + 1 : at + 2] == "\n" else ""
            at += size
        elif text.startswith(("{{", "}}"), at):
            at += 2
        elif c == "{":
            field, at = _field(text, at + 1)
            out += field
        elif c == "}":
            raise Unreadable("a single '}' in an f-string")
        else:
            at += 1
    raise Unreadable("an f-string does not close")


def _escape(text: str, at: int, *, raw: bool) -> int:
    """How many characters an escape takes; 0 for the backslash of a raw string before a brace."""
    after = text[at + 1 : at + 2]
    if raw:
        return 0 if after in "{}" else 2
    end = text.find("}", at) if text[at + 1 : at + 3] == "N{" else at + 1
    return (end + 1 if end >= 0 else len(text)) - at


def _field(text: str, at: int) -> tuple[str, int]:
    expression, at = _code(text, at, until="!:}")
    if not expression.strip():
        raise Unreadable("an empty expression in an f-string")
    if expression.rstrip().endswith("=") and not re.search(r"[=!<>]=\s*$", expression):
        expression = expression.rstrip()[:-1]
    out = f"({expression}),"
    if text[at] == "!":
        at += 1
        while at < len(text) and text[at] not in ":}":
            at += 1
    if at < len(text) and text[at] == ":":
        at += 1
        while at < len(text) and text[at] != "}":
            if text[at] == "{":
                inner, at = _field(text, at + 1)
                out += inner
            else:
                out += "\n" if text[at] == "\n" else ""
                at += 1
    if at >= len(text):
        raise Unreadable("an f-string does not close")
    return out, at + 1
