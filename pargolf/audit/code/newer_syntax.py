"""Rewrite syntax newer than Python 3.11 into what its grammar holds, line for line.

PEP 701 (3.12) lets the expressions of an f-string hold any quote, a backslash or a newline; PEP 695 (3.12) writes type
parameters in brackets. `f"{d["a"]} b"` becomes `"{} b".format((d["a"]),)`, which says the same, and `def f[T](x)`
becomes `def f(x)`, every token on its own line. One scanner walks the source once: comments and plain
strings pass through, an f-string is taken apart with its nesting. What is no f-string passes through unchanged, so a
program that is wrong in every Python stays wrong.
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
    template, fields, at = _fields(text, start.end(), quote=start[2], raw="r" in start[1].lower())
    while True:
        gap = (_GAP if inside else _SPACE).match(text, at)
        assert gap is not None
        after = gap.end()
        follow = _STRING.match(text, after)
        if follow is None:
            return f'"{template}".format({fields})', at
        fields += "\n" * gap[0].count("\n")
        if "f" in follow[1].lower():
            written, more, at = _fields(text, follow.end(), quote=follow[2], raw="r" in follow[1].lower())
            template, fields = template + written, fields + more
        else:
            end = _plain_end(text, follow)
            template, fields = template + "{}", fields + text[follow.start() : end] + ","
            at = end


def _fields(text: str, at: int, *, quote: str, raw: bool) -> tuple[str, str, int]:
    """An f-string's body as a template between double quotes, and its expressions as arguments.

    Newlines of its literal part are kept among the arguments, so that lines keep their numbers.
    """
    template = out = ""
    while at < len(text):
        if text.startswith(quote, at):
            return template, out, at + len(quote)
        c = text[at]
        if c == "\n":
            if len(quote) == 1:
                raise Unreadable("an f-string does not close on its line")
            template, out, at = template + "\\n", out + "\n", at + 1
        elif c == "\\" and (size := _escape(text, at, raw=raw)):
            ends_line = text[at + 1 : at + 2] == "\n"
            out += "\n" if ends_line else ""
            if raw:
                template += "\\\\" + ("\\n" if ends_line else text[at + 1 : at + size].replace('"', '\\"'))
            elif not ends_line:
                template += _literal(text[at : at + size])
            at += size
        elif text.startswith(("{{", "}}"), at):
            template, at = template + text[at : at + 2], at + 2
        elif c == "{":
            written, field, at = _field(text, at + 1)
            template, out = template + written, out + field
        elif c == "}":
            raise Unreadable("a single '}' in an f-string")
        else:
            template += {'"': '\\"', "\\": "\\\\"}.get(c, c)
            at += 1
    raise Unreadable("an f-string does not close")


def _literal(escape: str) -> str:
    """An escape as a template holds it: one that names a character by braces stands for the character itself."""
    return str(ast.literal_eval(f'"{escape}"')) if escape.startswith("\\N{") else escape


def _escape(text: str, at: int, *, raw: bool) -> int:
    """How many characters an escape takes; 0 for the backslash of a raw string before a brace."""
    after = text[at + 1 : at + 2]
    if raw:
        return 0 if after in "{}" else 2
    end = text.find("}", at) if text[at + 1 : at + 3] == "N{" else at + 1
    return (end + 1 if end >= 0 else len(text)) - at


def _field(text: str, at: int) -> tuple[str, str, int]:
    """One replacement field after its brace: what stands for it in the template, and its arguments."""
    expression, at = _code(text, at, until="!:}")
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
    if text[at] == "!":
        end = re.compile(r"[^:}]*").match(text, at)
        assert end is not None
        conversion, at = end[0].strip(), end.end()
    if at < len(text) and text[at] == ":":
        spec, more, at = _spec(text, at)
        out += more
    if at >= len(text):
        raise Unreadable("an f-string does not close")
    if prefix and not conversion and not spec:
        conversion = "!r"
    return f"{prefix}{{{conversion}{spec}}}", out, at + 1


def _spec(text: str, at: int) -> tuple[str, str, int]:
    """A format from its colon to the brace that closes the field, and the arguments of the fields inside it."""
    spec, out, at = ":", "", at + 1
    while at < len(text) and text[at] != "}":
        if text[at] == "{":
            written, inner, at = _field(text, at + 1)
            spec, out = spec + written, out + inner
        else:
            out += "\n" if text[at] == "\n" else ""
            spec += {"\n": "", '"': '\\"'}.get(text[at], text[at])
            at += 1
    return spec, out, at
