"""CaseOps as it was published: capitals of ASCII words as four symbols of the private use area, U+E001 to U+E004.

    TITLE    the next letter is a capital             "The cat" -> TITLE "the cat"
    ALLCAPS  so are all letters of the word           "USA" -> ALLCAPS "usa"
    CAPNEXT  a capital inside a word of both cases    "McKay" -> TITLE "mc" CAPNEXT "kay"
    ESCAPE   the next symbol is the text's own

A word is a run of ASCII letters, and its symbol stands right before it, after the space: that is what differs from
`caseops.py`. Bytes are again a number per token: a symbol of the text itself weighs 3 bytes, which are counted at its
ESCAPE. The published byte counts (`fineweb_val_bytes_*.bin`) agree but for such symbols. A text with an ESCAPE of its
own comes back, but its bytes are no number per token: it is refused when it is prepared.

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
