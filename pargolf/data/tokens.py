"""Tokenizers: text to token ids and back, for SentencePiece models and plain bytes.

`Tokenizer` is the interface that the package uses. SentencePiece models may use symbols for capitals (`caseops.py`);
`huggingface.py` reads a `tokenizer.json`. `byte_table.py` decides how many bytes each token counts.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import sentencepiece

from pargolf.core.errors import UserError
from pargolf.data.byte_table import (
    BYTES_BOS,
    BYTES_VOCAB,
    EXPORT_BOS,
    EXPORT_OFFSET,
    EXPORT_VOCAB,
    SPACE_MARK,
    ByteTable,
    is_silent,
    plain_table,
    sentencepiece_table,
)
from pargolf.data.caseops import OURS, Spelling
from pargolf.data.caseops_published import PUBLISHED
from pargolf.data.shards import Tokens

MODEL_LIMIT = 64 << 20
_PROBES = ("a", " a", "a  a ")


class Tokenizer(Protocol):
    """The interface of a tokenizer. `digest` is the SHA-256 of everything that defines it."""

    vocab: int
    bos: int
    digest: str

    def encode(self, text: str) -> Tokens:
        """Token ids of one document, without BOS: uint16 (N,)."""
        ...

    def encode_many(self, texts: Sequence[str]) -> list[Tokens]:
        """`encode` each text, on all cores if the tokenizer's library supports it."""
        ...

    def decode(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD."""
        ...

    def raw(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> bytes:
        """The bytes of the pieces, joined; also for a continuation that follows other text."""
        ...

    def bytes_of(self, token: int) -> bytes:
        """The bytes that one token stands for; empty for a control piece."""
        ...

    def byte_table(self, size: int = 0) -> ByteTable:
        """The byte look-up arrays for max(vocab, size) ids."""
        ...


class LearnedTokenizer(Tokenizer, Protocol):
    """A tokenizer that comes from a file; `proto` are the bytes of the file."""

    proto: bytes


class SentencePieceTokenizer:
    """A SentencePiece model, BPE or unigram, from the bytes of its `.model` file.

    SentencePiece encodes U+2581 and a space alike. If the model has byte pieces and neither adds nor drops spaces,
    `encode` writes that character in byte pieces, so every text round-trips. Otherwise it equals the library.
    """

    def __init__(self, proto: bytes) -> None:
        self.proto = proto
        self.digest = hashlib.sha256(proto).hexdigest()
        try:
            if not proto:
                raise RuntimeError("empty")
            self._model: Any = sentencepiece.SentencePieceProcessor(model_proto=proto)
        except (RuntimeError, OSError) as error:
            raise UserError(
                "This is not a SentencePiece model; give the .model file the shards were made with."
            ) from error
        self.vocab = int(self._model.vocab_size())
        self.bos = int(self._model.bos_id())
        if self.bos < 0:
            raise UserError("This SentencePiece model has no BOS piece; train it with bos_id=1.")
        if self.vocab > 1 << 16:
            raise UserError(f"A vocabulary of {self.vocab} does not fit the shards' 16 bits; use 65536 or fewer.")
        try:
            self._pieces = [self._piece_bytes(i) for i in range(self.vocab)]
        except ValueError as error:  # a piece that is not UTF-8, or a byte piece that is not a number
            raise UserError(
                f"This SentencePiece model is damaged: a piece is no text ({error}). Fetch it again."
            ) from error
        mark = [int(self._model.piece_to_id(f"<0x{byte:02X}>")) for byte in SPACE_MARK.encode()]
        in_bytes = all(self._model.is_byte(i) for i in mark)
        pieces = (b"".join(self._pieces[i] for i in self._model.encode(probe)) for probe in _PROBES)
        exact = all(piece == probe.encode() for piece, probe in zip(pieces, _PROBES))
        self._mark_ids = mark if in_bytes and exact else None

    def encode(self, text: str) -> Tokens:
        """Token ids of one document, without BOS: uint16 (N,). Raises `UserError` for text that UTF-8 cannot hold."""
        try:
            if self._mark_ids is None or SPACE_MARK not in text:
                return np.array(self._model.encode(text), dtype=np.uint16)
            ids: list[int] = []
            for number, part in enumerate(text.split(SPACE_MARK)):
                ids += (self._mark_ids if number else []) + self._model.encode(part)
            return np.array(ids, dtype=np.uint16)
        except (UnicodeEncodeError, RuntimeError) as error:  # versions of the library raise one or the other
            index = next((i for i, letter in enumerate(text) if "\ud800" <= letter <= "\udfff"), None)
            if index is None:
                raise
            what = f"a lone surrogate at character {index}"
            raise UserError(f"The text holds {what}; it is not Unicode text.") from error

    def encode_many(self, texts: Sequence[str]) -> list[Tokens]:
        """`encode` each text, on all cores."""
        if any(SPACE_MARK in text for text in texts):
            return [SentencePieceTokenizer.encode(self, text) for text in texts]
        encoded = self._model.encode(list(texts), num_threads=os.cpu_count() or 1)
        return [np.array(ids, dtype=np.uint16) for ids in encoded]

    def decode(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Decode with the library, which drops the space that a dummy prefix adds."""
        return str(self._model.decode([int(token) for token in tokens]))

    def raw(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> bytes:
        """The bytes of the pieces, joined, with U+2581 as a space; control pieces give none."""
        return b"".join([self._pieces[token] for token in np.asarray(tokens, dtype=np.int64).tolist()])

    def bytes_of(self, token: int) -> bytes:
        """The bytes that one token stands for; empty for a control piece."""
        return self.raw([token])

    def byte_table(self, size: int = 0) -> ByteTable:
        """The published table, except for U+2581 inside a piece. Ids past the model's count 0 and are boundaries."""
        return sentencepiece_table(self._model, size, symbols={})

    def piece(self, token: int) -> str:
        """A token as the model writes it: `▁the` or `<0x41>`."""
        return str(self._model.id_to_piece(int(token)))

    def piece_id(self, piece: str) -> int:
        """The id of a piece; the id of the unknown piece if the model does not have it."""
        return int(self._model.piece_to_id(piece))

    def _piece_bytes(self, i: int) -> bytes:
        if is_silent(self._model, i):
            return b""
        piece = str(self._model.id_to_piece(i))
        if self._model.is_byte(i):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE_MARK, " ").encode()


class CaseTokenizer(SentencePieceTokenizer):
    """A SentencePiece model with symbols for capitals: text is spelled with them before it is encoded."""

    def __init__(self, proto: bytes, spelling: Spelling) -> None:
        super().__init__(proto)
        self.spelling = spelling

    def encode(self, text: str) -> Tokens:
        """Token ids of the spelled form of one document, without BOS: uint16 (N,)."""
        return super().encode(self.spelling.spell(text))

    def encode_many(self, texts: Sequence[str]) -> list[Tokens]:
        """`encode` each text, on all cores."""
        return super().encode_many([self.spelling.spell(text) for text in texts])

    def decode(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text with its capitals."""
        return self.spelling.read(super().decode(tokens))

    def raw(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> bytes:
        """The bytes of the text with its capitals; bytes that are not UTF-8 stay unchanged."""
        spelled = super().raw(tokens).decode(errors="surrogateescape")
        return self.spelling.read(spelled).encode(errors="surrogateescape")

    def byte_table(self, size: int = 0) -> ByteTable:
        """The byte table, with the bytes that the symbols count."""
        return sentencepiece_table(self._model, size, symbols=self.spelling.bytes)


class ByteTokenizer:
    """Plain bytes: ids 0 to 255 are the bytes of UTF-8, 256 is BOS. Every space is counted."""

    vocab = BYTES_VOCAB
    bos = BYTES_BOS
    offset = 0
    digest = hashlib.sha256(b"pargolf bytes 257").hexdigest()

    def encode(self, text: str) -> Tokens:
        """The UTF-8 bytes as ids. Raises `UserError` for text that UTF-8 cannot hold."""
        try:
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16) + np.uint16(self.offset)
        except UnicodeEncodeError as error:
            raise UserError(
                f"The text holds a lone surrogate at character {error.start}; it is not Unicode text."
            ) from error

    def encode_many(self, texts: Sequence[str]) -> list[Tokens]:
        """`encode` each text."""
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of byte ids; BOS is skipped."""
        return self.raw(tokens).decode(errors="replace")

    def raw(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> bytes:
        """The bytes themselves, without BOS."""
        values = np.asarray(tokens, dtype=np.int64) - self.offset
        return values[(values >= 0) & (values < 256)].astype(np.uint8).tobytes()

    def bytes_of(self, token: int) -> bytes:
        """The bytes that one token stands for; empty for BOS."""
        return self.raw([token])

    def piece(self, token: int) -> str:
        """A token in writing: `<0x41>` for a byte, `<s>` for BOS."""
        return "<s>" if token == self.bos else f"<0x{token - self.offset:02X}>"

    def piece_id(self, piece: str) -> int:
        """The id of a token that `piece` wrote."""
        return self.bos if piece == "<s>" else self.offset + int(piece[3:5], 16)

    def byte_table(self, size: int = 0) -> ByteTable:
        """One byte each; BOS and other ids without a byte count 0 and are boundaries."""
        return plain_table(max(size, self.vocab), offset=self.offset)


class ByteExport(ByteTokenizer):
    """The official export of pure bytes (`fineweb_pure_byte_260.json`): PAD, BOS, EOS, UNK, then the bytes from 4.

    Source: openai/parameter-golf, `data/download_hf_docs_and_tokenize.py`, `PureByteTokenizer`.
    """

    vocab, bos, offset = EXPORT_VOCAB, EXPORT_BOS, EXPORT_OFFSET

    def __init__(self, proto: bytes, facts: Mapping[str, Any]) -> None:
        config = facts.get("config")
        numbers = ("bos_id", "byte_offset", "byte_count")
        if not isinstance(config, dict) or [config.get(name) for name in numbers] != [self.bos, self.offset, 256]:
            raise UserError("This export of pure bytes has other ids than the official one (BOS 1, bytes from 4).")
        self.proto = proto
        self.digest = hashlib.sha256(proto).hexdigest()


def load_tokenizer(path: str | Path) -> SentencePieceTokenizer:
    """Read a SentencePiece model file of any suffix. Raises `UserError` when it is missing or not such a model."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no tokenizer {path}; put the .model file beside the shards.")
    if path.stat().st_size > MODEL_LIMIT:
        raise UserError(f"{path} is over {MODEL_LIMIT} bytes; that is no tokenizer this program reads.")
    return sentencepiece_tokenizer(path.read_bytes())


def sentencepiece_tokenizer(proto: bytes) -> SentencePieceTokenizer:
    """The tokenizer of a model's bytes; with case symbols (ours or the published ones) if the model has them."""
    tokenizer = SentencePieceTokenizer(proto)
    for spelling in (OURS, PUBLISHED):
        if all(tokenizer.raw([tokenizer.piece_id(symbol)]) == symbol.encode() for symbol in spelling.bytes):
            return CaseTokenizer(proto, spelling)
    return tokenizer
