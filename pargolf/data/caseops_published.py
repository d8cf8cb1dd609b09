"""The published CaseOps: capitals of ASCII words as four symbols of the private use area, U+E001 to U+E004.

    TITLE    the next letter is a capital             "The cat" -> TITLE "the cat"
    ALLCAPS  all letters of the word are capitals     "USA" -> ALLCAPS "usa"
    CAPNEXT  a capital inside a word of mixed case    "McKay" -> TITLE "mc" CAPNEXT "kay"
    ESCAPE   the next symbol belongs to the text itself

Differences from `caseops.py`: a word is a run of ASCII letters, and its symbol stands directly before it, after the
space. Bytes are again a fixed number per token: a symbol that belongs to the text has 3 bytes, which are counted at its
ESCAPE. The published byte counts (`fineweb_val_bytes_*.bin`) agree, except for such symbols. A text that contains an
ESCAPE of its own is restored correctly, but its bytes are not a fixed number per token; preparing it is refused.

Source: pull request 1729 and the records after it (1855, 2135), `lossless_caps_caseops_v1`.
"""

import re

from pargolf.data.caseops import Spelling

TITLE, ALLCAPS, CAPNEXT, ESCAPE = "\ue001", "\ue002", "\ue003", "\ue004"
PUBLISHED_BYTES = {TITLE: 0, ALLCAPS: 0, CAPNEXT: 0, ESCAPE: 3}
_SYMBOLS = TITLE + ALLCAPS + CAPNEXT + ESCAPE
_SPELL = re.compile(f"([{_SYMBOLS}])|([A-Za-z]+)")
_READ = re.compile(f"{ESCAPE}([{_SYMBOLS}])|{ALLCAPS}([a-z]+)|[{TITLE}{CAPNEXT}]([a-z])|[{_SYMBOLS}]")


def _spelled(text: str) -> str:
    return _SPELL.sub(_spell, text)


def _spell(match: re.Match[str]) -> str:
    symbol, word = match.groups()
    if symbol:
        return ESCAPE + str(symbol)
    if word.islower():
        return str(word)
    if len(word) > 1 and word.isupper():
        return ALLCAPS + str(word.lower())
    first = TITLE + word[0].lower() if word[0].isupper() else word[0]
    return str(first) + "".join(CAPNEXT + c.lower() if c.isupper() else c for c in word[1:])


def _plain(text: str) -> str:
    return _READ.sub(lambda match: (match[1] or "") + (match[2] or match[3] or "").upper(), text)


PUBLISHED = Spelling(_spelled, _plain, PUBLISHED_BYTES)
