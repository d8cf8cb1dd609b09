"""Capital letters as symbols of their own, so that `The`, `the` and `THE` share a piece; exact for every text.

    TITLE    the next letter is a capital           "The cat" -> TITLE "the cat"
    CAPS     so are all letters of the next word     " USA" -> CAPS " usa"
    NEXT     a capital inside a word of both cases   "McKay" -> TITLE "mc" NEXT "kay"
    ESCAPE   ESCAPE "a" to "d" stand for the four symbols themselves, should a text hold them

A symbol before a word stands before the one space in front of it, if there is one, so that the word keeps the piece
that begins with a space. A letter counts as a capital when its small form is one character, leads back to it, and has
as many bytes in UTF-8; all others are left as they are. Then `plain(spelled(text)) == text`, and the bytes of a text
are those of what is spelled, less the symbols: ESCAPE stands for three bytes (its letter is the fourth) and the others
for none. That is a number per token, so no byte count has to be kept beside the tokens.

Source: pull request 1729 (four private symbols; ruled lossless in 1578, 1604). Where it puts them is ours.
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
    """The text without capitals, in small letters and symbols."""
    return _spelling().sub(_spell, text)


def plain(text: str) -> str:
    """The text that `spelled` made this of; symbols that stand where it puts none are dropped."""
    return _reading().sub(_read, text)


def _spell(match: re.Match[str]) -> str:
    """A symbol of the text itself, or one word with the space before it, if there is one."""
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
    """One symbol with what it speaks of: a name after ESCAPE, else a space and letters."""
    name, *others = match.groups(default="")
    if name:
        return SYMBOLS[_NAMES.index(name)]
    return "".join(_capital().get(c, c) for part in others for c in part)


@cache
def _small() -> dict[str, str]:
    """Every capital and its small letter."""
    pairs = ((chr(code), chr(code).lower()) for code in range(0x20000))
    return {
        capital: small
        for capital, small in pairs
        if small != capital and small.upper() == capital and len(small) == 1
        if len(small.encode()) == len(capital.encode())
    }


@cache
def _capital() -> dict[str, str]:
    """Every small letter and its capital."""
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
    """A way to write capitals as symbols, and back; `bytes` of the text that each symbol stands for."""

    spell: Callable[[str], str]
    read: Callable[[str], str]
    bytes: Mapping[str, int]


OURS = Spelling(spelled, plain, SYMBOL_BYTES)
