"""Rewrite syntax newer than Python 3.11 into older syntax, line for line.

PEP 701 (3.12) lets the expressions of an f-string contain any quote, a backslash or a newline; PEP 695 (3.12) writes
type parameters in brackets. `f"{d["a"]} b"` becomes `"{} b".format((d["a"]),)`, which means the same, and `def f[T](x)`
becomes `def f(x)`. Every token stays on its line. One scanner goes through the source once. Comments and plain strings
pass through; an f-string is taken apart with its nesting. Everything else passes through unchanged, so a program that
is wrong in every Python stays wrong.
"""

import ast
import re

_STRING = re.compile(r"(?<![\w])((?i:rf|fr|rb|br|rt|tr|f|r|b|u|t)?)('''|\"\"\"|'|\")")
_SPACE = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\n]|\\\n|#[^\n]*\n)*")
_GENERIC = re.compile(r"^(\s*(?:async\s+def|def|class)\s+\w+)\[[^\]\n]*(?:\[[^\]\n]*\][^\]\n]*)*\](?=\s*[(:])", re.M)
_ALIAS = re.compile(r"^(\s*)type\s+(\w+)\s*(?:\[[^=\n]*\])?\s*=", re.M)


class Unreadable(ValueError):
    """An f-string that no Python accepts."""


def rewrite(source: str) -> str:
    """The source in older syntax. Raises `Unreadable` on an f-string that does not end."""
    out, _ = _code(_ALIAS.sub(r"\1\2 =", _GENERIC.sub(r"\1", source)), 0, until="")
    return out


def _code(text: str, offset: int, *, until: str) -> tuple[str, int]:
    """Copy code from `offset` to the end, or to one of `until` outside all brackets, with f-strings rewritten."""
    out: list[str] = []
    depth = 0
    while offset < len(text):
        c = text[offset]
        if until and depth == 0 and c in until and not (c == "!" and text[offset + 1 : offset + 2] == "="):
            return "".join(out), offset
        if c == "#":
            end = text.find("\n", offset)
            end = len(text) if end < 0 else end
            out.append(text[offset:end])
            offset = end
        elif c in "'\"" or c.isalpha() or c == "_":
            piece, offset = _word_or_string(text, offset, inside=depth > 0 or bool(until))
            out.append(piece)
        else:
            depth += (c in "([{") - (c in ")]}")
            out.append(c)
            offset += 1
    if until:
        raise Unreadable("an f-string does not close")
    return "".join(out), offset


def _word_or_string(text: str, offset: int, *, inside: bool) -> tuple[str, int]:
    start = _STRING.match(text, offset)
    if start is None:
        word = re.compile(r"\w+").match(text, offset)
        end = word.end() if word else offset + 1
        return text[offset:end], end
    if "f" not in start[1].lower() and "t" not in start[1].lower():
        end = _plain_end(text, start)
        return text[offset:end], end
    return _formatted(text, start, inside=inside)


def _plain_end(text: str, start: "re.Match[str]") -> int:
    quote, offset = start[2], start.end()
    while offset < len(text):
        if text[offset] == "\\":
            offset += 2
        elif text.startswith(quote, offset):
            return offset + len(quote)
        elif text[offset] == "\n" and len(quote) == 1:
            return offset
        else:
            offset += 1
    return len(text)


def _formatted(text: str, start: "re.Match[str]", *, inside: bool) -> tuple[str, int]:
    """One f-string, and any strings right after it, as one call. `inside` brackets, a newline joins them, too."""
    template, fields, offset = _fields(text, start.end(), quote=start[2], raw="r" in start[1].lower())
    while True:
        gap = (_GAP if inside else _SPACE).match(text, offset)
        assert gap is not None
        after = gap.end()
        follow = _STRING.match(text, after)
        if follow is None:
            return f'"{template}".format({fields})', offset
        fields += "\n" * gap[0].count("\n")
        if "f" in follow[1].lower():
            written, more, offset = _fields(text, follow.end(), quote=follow[2], raw="r" in follow[1].lower())
            template, fields = template + written, fields + more
        else:
            end = _plain_end(text, follow)
            template, fields = template + "{}", fields + text[follow.start() : end] + ","
            offset = end


def _fields(text: str, offset: int, *, quote: str, raw: bool) -> tuple[str, str, int]:
    """An f-string's body as a template between double quotes, and its expressions as arguments.

    Newlines of its literal part are kept among the arguments, so that line numbers stay.
    """
    template = out = ""
    while offset < len(text):
        if text.startswith(quote, offset):
            return template, out, offset + len(quote)
        c = text[offset]
        if c == "\n":
            if len(quote) == 1:
                raise Unreadable("an f-string does not close on its line")
            template, out, offset = template + "\\n", out + "\n", offset + 1
        elif c == "\\" and (size := _escape(text, offset, raw=raw)):
            ends_line = text[offset + 1 : offset + 2] == "\n"
            out += "\n" if ends_line else ""
            if raw:
                template += "\\\\" + ("\\n" if ends_line else text[offset + 1 : offset + size].replace('"', '\\"'))
            elif not ends_line:
                template += _literal(text[offset : offset + size])
            offset += size
        elif text.startswith(("{{", "}}"), offset):
            template, offset = template + text[offset : offset + 2], offset + 2
        elif c == "{":
            written, field, offset = _field(text, offset + 1)
            template, out = template + written, out + field
        elif c == "}":
            raise Unreadable("a single '}' in an f-string")
        else:
            template += {'"': '\\"', "\\": "\\\\"}.get(c, c)
            offset += 1
    raise Unreadable("an f-string does not close")


def _literal(escape: str) -> str:
    """An escape in a template. An escape that names a character in braces becomes the character itself."""
    return str(ast.literal_eval(f'"{escape}"')) if escape.startswith("\\N{") else escape


def _escape(text: str, offset: int, *, raw: bool) -> int:
    """The length of an escape; 0 for the backslash of a raw string before a brace."""
    after = text[offset + 1 : offset + 2]
    if raw:
        return 0 if after in "{}" else 2
    end = text.find("}", offset) if text[offset + 1 : offset + 3] == "N{" else offset + 1
    return (end + 1 if end >= 0 else len(text)) - offset


def _field(text: str, offset: int) -> tuple[str, str, int]:
    """One replacement field after its brace: its form in the template, and its arguments."""
    expression, offset = _code(text, offset, until="!:}")
    if not expression.strip():
        raise Unreadable("an empty expression in an f-string")
    prefix = conversion = spec = ""
    if expression.rstrip().endswith("=") and not re.search(r"[=!<>]=\s*$", expression):
        prefix = (
            expression.replace("\\", "\\\\")
            .replace('"', '\\"')
            .replace("{", "{{")
            .replace("}", "}}")
            .replace("\n", "\\n")
        )
        expression = expression.rstrip()[:-1]
    out = f"({expression}),"
    if text[offset] == "!":
        end = re.compile(r"[^:}]*").match(text, offset)
        assert end is not None
        conversion, offset = end[0].strip(), end.end()
    if offset < len(text) and text[offset] == ":":
        spec, more, offset = _spec(text, offset)
        out += more
    if offset >= len(text):
        raise Unreadable("an f-string does not close")
    if prefix and not conversion and not spec:
        conversion = "!r"
    return f"{prefix}{{{conversion}{spec}}}", out, offset + 1


def _spec(text: str, offset: int) -> tuple[str, str, int]:
    """A format from its colon to the closing brace of the field, and the arguments of the fields inside it."""
    spec, out, offset = ":", "", offset + 1
    while offset < len(text) and text[offset] != "}":
        if text[offset] == "{":
            template, inner, offset = _field(text, offset + 1)
            spec, out = spec + template, out + inner
        else:
            out += "\n" if text[offset] == "\n" else ""
            spec += {"\n": "", '"': '\\"'}.get(text[offset], text[offset])
            offset += 1
    return spec, out, offset
