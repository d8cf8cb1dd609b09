"""Hugging Face tokenizers: byte-level BPE from a `tokenizer.json`, counted in bytes like any other.

Byte-level BPE (GPT-2) writes each byte of a text as one visible character, so every piece is a string of bytes and its
count is its length; nothing is free and no space is special. The 188 bytes that Latin-1 shows stand for themselves, the
other 68, in order, for U+0100 and on. Special tokens stand for no text and count nothing, and one of them opens a
document. What cannot be counted so (WordPiece, Unigram, normalizers that change the text) is refused.

Needs the `tokenizers` package, `pip install pargolf[hf]`.
"""

import hashlib
import importlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pargolf.core.errors import UserError
from pargolf.data.shards import Tokens
from pargolf.data.tokens import ByteTable

_OPENING = ("<|bos|>", "<|begin_of_text|>", "<s>", "<bos>", "[BOS]", "<|startoftext|>", "<|endoftext|>", "</s>")


class HuggingFaceTokenizer:
    """A byte-level BPE from the bytes of its `tokenizer.json`. Raises `UserError` for any other kind.

    `bos` is the first of the usual names among its special tokens, and `opening` that name; a text that holds such a
    name is encoded as text.
    """

    def __init__(self, proto: bytes) -> None:
        self.proto = proto
        self.digest = hashlib.sha256(proto).hexdigest()
        facts = _read(proto)
        self._model: Any = _library().Tokenizer.from_str(proto.decode())
        self._model.encode_special_tokens = True
        self._model.no_truncation()
        self._model.no_padding()
        self.vocab = 1 + max(self._model.get_vocab(with_added_tokens=True).values())
        if self.vocab > 1 << 16:
            raise UserError(f"A vocabulary of {self.vocab} does not fit the shards' 16 bits; use 65536 or fewer.")
        special = {token["content"]: int(token["id"]) for token in facts["added_tokens"] if token["special"]}
        if any(not token["special"] for token in facts["added_tokens"]):
            raise UserError("This tokenizer.json adds tokens that are ordinary text; only special ones can be counted.")
        self.opening = next((name for name in _OPENING if name in special), "")
        self.bos = special.get(self.opening, -1)
        if self.bos < 0:
            raise UserError(f"This tokenizer.json has no special token that opens a document; add {_OPENING[0]}.")
        byte_of = _bytes_of_characters()
        self._pieces = [b""] * self.vocab
        for piece, i in self._model.get_vocab(with_added_tokens=False).items():
            if i in special.values():
                continue
            if not set(piece) <= byte_of.keys():
                raise UserError(f"The piece {piece!r} of this tokenizer.json is not made of bytes.")
            self._pieces[i] = bytes(byte_of[c] for c in piece)

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
        """`encode` of each text, by all cores."""
        found = self._model.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype=np.uint16) for one in found]

    def decode(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The library's own decoding, special tokens left out."""
        return str(self._model.decode([int(token) for token in tokens], skip_special_tokens=True))

    def raw(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> bytes:
        """The pieces' bytes, joined; special ones are empty."""
        return b"".join([self._pieces[token] for token in np.asarray(tokens, dtype=np.int64).tolist()])

    def bytes_of(self, token: int) -> bytes:
        """The bytes that one token stands for; empty for a special token."""
        return self.raw([token])

    def byte_table(self, size: int = 0) -> ByteTable:
        """Each piece's length; special pieces, and ids past the vocabulary, count 0 and are boundaries."""
        size = max(size, self.vocab)
        bytes_V = np.zeros(size, dtype=np.int32)
        bytes_V[: self.vocab] = [len(piece) for piece in self._pieces]
        return ByteTable(bytes_V, np.zeros(size, dtype=np.bool_), bytes_V == 0)


def _library() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise UserError("A tokenizer.json needs the tokenizers package: pip install 'pargolf[hf]'.") from error


def _read(proto: bytes) -> dict[str, Any]:
    """The file's own facts. Raises `UserError` unless they say byte-level BPE that changes no text."""
    try:
        facts: dict[str, Any] = json.loads(proto)
        splits = facts["pre_tokenizer"] or {}
        stages = splits.get("pretokenizers", [splits])
        byte_level = [stage for stage in stages if stage["type"] == "ByteLevel"]
        fits = facts["model"]["type"] == "BPE" and len(byte_level) == 1 and facts["decoder"]["type"] == "ByteLevel"
        exact = not facts["normalizer"] and not byte_level[0]["add_prefix_space"] if fits else False
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError("This is no tokenizer.json of the tokenizers package.") from error
    if not fits or not exact:
        raise UserError(
            "Only byte-level BPE without a normalizer and without a space put in front is read from a tokenizer.json: "
            "the bytes of others cannot be counted token by token."
        )
    return facts


def _bytes_of_characters() -> dict[str, int]:
    """The character that byte-level BPE writes for each byte, turned round."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + n): byte for n, byte in enumerate(hidden)}
