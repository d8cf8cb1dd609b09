"""Hugging Face tokenizers from a `tokenizer.json`, counted in bytes like any other. Two kinds of pieces are supported:

    byte-level    GPT-2's: each byte is one visible character, so a piece has as many bytes as characters. The 188
                  printable bytes of Latin-1 stand for themselves, the other 68 are U+0100 and following, in order
    marked        Llama's: a space is U+2581, single bytes are `<0x0A>` if the model has them; counted as SentencePiece

Special tokens stand for no text and count nothing; one of them opens a document. The file does not tell whether the
tokenizer is lossless, so each document is decoded and compared when it is prepared (`encoding.py`). Tokenizers whose
pieces are not made of bytes (WordPiece) are refused.

Needs the `tokenizers` package, `pip install pargolf[hf]`.
"""

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pargolf.core.errors import UserError
from pargolf.data.byte_table import (
    BYTE,
    OPENINGS,
    SPACE_MARK,
    ByteTable,
    are_bytes,
    byte_level_table,
    json_pieces,
    marked_table,
    opening_of,
    special_ids,
)
from pargolf.data.shards import Tokens

_SHOWN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _SHOWN]
BYTE_CHARACTERS: dict[int, str] = {byte: chr(byte) for byte in _SHOWN} | {
    b: chr(256 + n) for n, b in enumerate(_HIDDEN)
}
"""The character that byte-level BPE writes for each byte."""


class HuggingFaceTokenizer:
    """A byte-level tokenizer from the bytes of its `tokenizer.json` (`proto`) and their parsed form (`facts`).

    `opening` is the first of the usual names (`OPENINGS`) among its special tokens, and `bos` its id. Such a name
    inside a text is encoded as text. Raises `UserError` when no token opens a document, or a piece is not made of
    bytes.
    """

    def __init__(self, proto: bytes, facts: Mapping[str, Any]) -> None:
        self.proto = proto
        self.digest = hashlib.sha256(proto).hexdigest()
        self._model = _model(proto)
        self.vocab = 1 + max(self._model.get_vocab(with_added_tokens=True).values())
        if self.vocab > 1 << 16:
            raise UserError(f"A vocabulary of {self.vocab} does not fit the shards' 16 bits; use 65536 or fewer.")
        special = special_ids(facts)
        self.opening = opening_of(special)
        self.bos = special.get(self.opening, -1)
        if self.bos < 0:
            raise UserError(f"This tokenizer.json has no special token that opens a document; add {OPENINGS[0]}.")
        self._texts, self._added = json_pieces(facts)
        self._pieces = [
            b"" if text is None else text.encode() if text in self._added else self._bytes_of(text)
            for text in self._texts
        ]

    def encode(self, text: str) -> Tokens:
        """Token ids of one document, without BOS: uint16 (N,). Raises `UserError` for text that UTF-8 cannot hold."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"The text holds a lone surrogate at character {error.start}; it is not Unicode text."
            ) from error
        return np.array(self._model.encode(text, add_special_tokens=False).ids, dtype=np.uint16)

    def encode_many(self, texts: Sequence[str]) -> list[Tokens]:
        """`encode` each text, on all cores."""
        encodings = self._model.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint16) for encoding in encodings]

    def decode(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Decode with the library, without special tokens."""
        return str(self._model.decode([int(token) for token in tokens], skip_special_tokens=True))

    def raw(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> bytes:
        """The bytes of the pieces, joined; special tokens give none."""
        return b"".join([self._pieces[token] for token in np.asarray(tokens, dtype=np.int64).tolist()])

    def bytes_of(self, token: int) -> bytes:
        """The bytes that one token stands for; empty for a special token."""
        return self.raw([token])

    def byte_table(self, size: int = 0) -> ByteTable:
        """The length of each piece; special tokens and ids past the vocabulary count 0 and are boundaries."""
        return byte_level_table(self._texts, self._added, size)

    def _bytes_of(self, piece: str) -> bytes:
        byte_of = _byte_of_character()
        if not set(piece) <= byte_of.keys():
            raise UserError(f"The piece {piece!r} of this tokenizer.json is not made of bytes.")
        return bytes(byte_of[c] for c in piece)


class MarkedTokenizer(HuggingFaceTokenizer):
    """A `tokenizer.json` whose pieces write a space as U+2581, as in Llama 2 and Mistral."""

    def byte_table(self, size: int = 0) -> ByteTable:
        """Counted as in SentencePiece: the space at the start of a document's first piece is not counted."""
        return marked_table(self._texts, are_bytes(self._texts), size)

    def _bytes_of(self, piece: str) -> bytes:
        byte = BYTE.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace(SPACE_MARK, " ").encode()


def hugging_face_tokenizer(proto: bytes) -> HuggingFaceTokenizer:
    """Read a `tokenizer.json`. Raises `UserError` when it is not one, or cannot be counted in bytes."""
    try:
        facts: dict[str, Any] = json.loads(proto)
        kind, decoder = facts["model"]["type"], json.dumps(facts["decoder"] or {}, ensure_ascii=False)
        before = json.dumps([facts["pre_tokenizer"], facts["normalizer"]], ensure_ascii=False)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError("This is not a tokenizer.json of the tokenizers package.") from error
    if '"ByteLevel"' in decoder and '"ByteLevel"' in before:
        return HuggingFaceTokenizer(proto, facts)
    if SPACE_MARK in decoder or '"Metaspace"' in decoder:
        return MarkedTokenizer(proto, facts)
    raise UserError(
        f"The pieces of this tokenizer.json ({kind}) do not say which bytes they stand for, so its tokens cannot be "
        "counted in bytes. Byte-level tokenizers are read, and those that write a space as U+2581."
    )


def _model(proto: bytes) -> Any:
    """The library's tokenizer, without truncation and padding. Raises `UserError` when the library cannot read it."""
    try:
        library: Any = importlib.import_module("tokenizers")
    except ImportError as error:
        raise UserError("A tokenizer.json needs the tokenizers package: pip install 'pargolf[hf]'.") from error
    try:
        model: Any = library.Tokenizer.from_str(proto.decode())
    except Exception as error:  # the library raises no narrower kind
        why = " ".join(str(error).split())[:150]
        raise UserError(f"The tokenizers package does not read this tokenizer.json ({why}).") from error
    model.encode_special_tokens = True
    model.no_truncation()
    model.no_padding()
    return model


@cache
def _byte_of_character() -> dict[str, int]:
    return {character: byte for byte, character in BYTE_CHARACTERS.items()}
