"""CaseOps: write capital letters as separate symbols, so that `The`, `the` and `THE` share a piece; lossless.

    TITLE    the next letter is a capital              "The cat" -> TITLE "the cat"
    CAPS     all letters of the next word are capitals  " USA" -> CAPS " usa"
    NEXT     a capital inside a word of mixed case      "McKay" -> TITLE "mc" NEXT "kay"
    ESCAPE   ESCAPE "a" to "d" stand for the four symbols themselves, if a text contains them

A symbol is put before the space in front of its word, if there is one, so that the word keeps the piece that begins
with a space. A letter counts as a capital when its lower case is one character, maps back to it, and has as many bytes
in UTF-8; all other letters stay unchanged. Then `plain(spelled(text)) == text`. The bytes of a text are those of its
spelled form without the symbols: ESCAPE counts three bytes (its letter is the fourth), the other symbols count none.
So the bytes are a fixed number per token, and no byte counts have to be stored beside the tokens.

Source: pull request 1729 (four private symbols; ruled lossless in 1578, 1604). The position of the symbols is ours.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

TITLE, CAPS, NEXT, ESCAPE = "\U0010ffa0", "\U0010ffa1", "\U0010ffa2", "\U0010ffa3"
SYMBOLS = TITLE + CAPS + NEXT + ESCAPE
SYMBOL_BYTES = {TITLE: 0, CAPS: 0, NEXT: 0, ESCAPE: 3}
_NAMES = "abcd"


def spelled(text: str) -> str:
    """Rewrite a text in lower-case letters and symbols."""
    return _spelling().sub(_spell, text)


def plain(text: str) -> str:
    """The inverse of `spelled`; symbols in places where `spelled` puts none are dropped."""
    return _reading().sub(_read, text)


def _spell(match: re.Match[str]) -> str:
    """Spell one match: a symbol that the text itself contains, or a word with the space before it, if any."""
    symbol, space, word = match.groups()
    if symbol:
        return ESCAPE + _NAMES[SYMBOLS.index(symbol)]
    small = "".join(_small().get(c, c) for c in word)
    changed = [a != b for a, b in zip(word, small)]
    if len(word) > 1 and all(changed):
        return CAPS + space + small
    inside = "".join(NEXT + b if c else b for b, c in zip(small[1:], changed[1:]))
    return (TITLE if changed[0] else "") + space + small[0] + inside


def _read(match: re.Match[str]) -> str:
    """Read one symbol and what follows it: a name after ESCAPE, else a space and letters."""
    name, *others = match.groups(default="")
    if name:
        return SYMBOLS[_NAMES.index(name)]
    return "".join(_capital().get(c, c) for part in others for c in part)


@cache
def _small() -> dict[str, str]:
    """Map every capital to its lower-case letter."""
    pairs = ((chr(code), chr(code).lower()) for code in range(0x20000))
    return {
        capital: small
        for capital, small in pairs
        if small != capital and small.upper() == capital and len(small) == 1
        if len(small.encode()) == len(capital.encode())
    }


@cache
def _capital() -> dict[str, str]:
    """Map every lower-case letter to its capital."""
    return {small: capital for capital, small in _small().items()}


@cache
def _spelling() -> re.Pattern[str]:
    letters = re.escape("".join(_small()) + "".join(_capital()))
    return re.compile(f"([{SYMBOLS}])|( ?)([{letters}]+)")


@cache
def _reading() -> re.Pattern[str]:
    small = f"[{re.escape(''.join(_capital()))}]"
    return re.compile(f"{ESCAPE}([{_NAMES}])|{CAPS}( ?)({small}+)|[{TITLE}{NEXT}]( ?)({small})|[{SYMBOLS}]")


@dataclass(frozen=True)
class Spelling:
    """A way to write capitals as symbols and to read them back; `bytes` maps a symbol to the bytes it counts."""

    spell: Callable[[str], str]
    read: Callable[[str], str]
    bytes: Mapping[str, int]


OURS = Spelling(spelled, plain, SYMBOL_BYTES)
