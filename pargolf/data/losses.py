"""Lossy tokenizers: describe what a tokenizer changes in a text, and compute the text that it keeps.

Byte-level tokenizers, and SentencePiece models with identity normalization and byte fallback, keep everything; a dummy
prefix loses nothing, because decoding removes it. Other tokenizers are probed: each character between two letters, two
spaces in a row, a space at either end. `kept_text` finds the text that encodes to itself, which `--normalize` counts:
characters without a piece are left out, and the rest is normalized by the tokenizer.
"""

from collections.abc import Iterator

import numpy as np

from pargolf.core.errors import UserError
from pargolf.data.shards import Tokens
from pargolf.data.tokens import Tokenizer

_ROUNDS = 4
_SHOWN = 3


def kept_text(tokenizer: Tokenizer, text: str) -> tuple[str, Tokens]:
    """The part of `text` that the tokenizer keeps (possibly empty), and its tokens, which decode to it.

    Raises `UserError` when the text keeps changing each time it is decoded and encoded again.
    """
    silent_V = tokenizer.byte_table().boundary_V
    for _ in range(_ROUNDS):
        ids = tokenizer.encode(text)
        with_text = ids[~silent_V[ids]]
        again = tokenizer.decode(with_text)
        if again == text and len(with_text) == len(ids):
            return text, ids
        text = again
    raise UserError(
        f"{text[:40]!r} changes each time that the tokenizer decodes and encodes it: nothing can be counted."
    )


def lost_bytes(raw: bytes, encoded: bytes) -> int:
    """How many bytes of `raw` have no counterpart in `encoded`, ignoring their order."""
    counts = [np.bincount(np.frombuffer(part, dtype=np.uint8), minlength=256) for part in (raw, encoded)]
    return int(np.maximum(counts[0] - counts[1], 0).sum())


def losses(tokenizer: Tokenizer, text: str) -> str:
    """Describe how the tokenizer changes this text, for a message: `turns '\\n' into ' '; has no piece for '☃'`."""
    silent_V = tokenizer.byte_table().boundary_V
    turned: list[str] = []
    missing: list[str] = []
    for character in sorted(set(text) - {" "}):
        probe = f"a{character}a"
        ids = tokenizer.encode(probe)
        if silent_V[ids].any():
            missing.append(repr(character))
        elif (again := tokenizer.decode(ids)) != probe:
            inner = again[1:-1] if again[:1] == again[-1:] == "a" and len(again) > 1 else again
            turned.append(f"{character!r} into {inner!r}")
    out = []
    if missing:
        out.append(f"has no piece for {_listed(missing)} and no byte fallback")
    if turned:
        out.append(f"normalizes: turns {_listed(turned)}")
    out += [words for words, probe in _spaces(text) if tokenizer.decode(tokenizer.encode(probe)) != probe]
    return "; ".join(out) or f"normalizes: {_first_change(tokenizer, text)}"


def _spaces(text: str) -> Iterator[tuple[str, str]]:
    """Rules about spaces that may apply to this text, each with a probe that shows whether they do."""
    if "  " in text:
        yield "makes one space of several", "a  a"
    if text.startswith(" "):
        yield "drops a space at the start", " a"
    if text.endswith(" "):
        yield "drops a space at the end", "a "


def _first_change(tokenizer: Tokenizer, text: str) -> str:
    again = tokenizer.decode(tokenizer.encode(text))
    index = next((i for i, (a, b) in enumerate(zip(text, again)) if a != b), min(len(text), len(again)))
    return f"turns {text[index : index + 12]!r} into {again[index : index + 12]!r}"


def _listed(words: list[str]) -> str:
    return ", ".join(words[:_SHOWN]) + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")
