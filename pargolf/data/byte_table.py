"""Byte tables: how many bytes of text each token stands for, as three look-up arrays for each kind of tokenizer.

Bits per byte divides by the bytes of the scored text, so every predicted token t after a previous token p counts

    bytes[t] + (leading[t] and not boundary[p])

For a SentencePiece piece that starts with U+2581 (its mark for a space), `leading` is true and `bytes` is the UTF-8
length of the rest. A byte piece counts 1. Control, unknown and unused pieces count 0 and are a `boundary`; so only the
first space of a document is not counted. Source: openai/parameter-golf, `build_sentencepiece_luts` and `eval_val`.
U+2581 inside a piece is also one space and counts 1; the published table counts its three bytes. Byte-level pieces
(Hugging Face) have one character per byte and no special space.

A table is proved, not trusted: `proof.py` compares the count with the decoded documents, one by one. The tokenizers of
`tokens.py` and `huggingface.py` take their tables from here; a submission's script needs no other part of a tokenizer.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from sentencepiece import SentencePieceProcessor

from pargolf.data.caseops import SYMBOL_BYTES
from pargolf.data.caseops_published import PUBLISHED_BYTES

SPACE_MARK = "▁"
OPENINGS = ("<|bos|>", "<|begin_of_text|>", "<s>", "<bos>", "[BOS]", "<|startoftext|>", "<|endoftext|>", "</s>")
"""Names of the special token that opens a document in a Hugging Face tokenizer, most likely first."""
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""The spelling of a byte piece in vocabularies that write a space as U+2581."""
BYTES_VOCAB, BYTES_BOS = 257, 256
EXPORT_VOCAB, EXPORT_BOS, EXPORT_OFFSET = 260, 1, 4
"""The official export of pure bytes (`fineweb_pure_byte_260.json`): PAD, BOS, EOS, UNK, then the bytes."""


@dataclass(frozen=True, eq=False)
class ByteTable:
    """Three look-up arrays over token ids, each of shape (V,)."""

    bytes_V: npt.NDArray[np.int32]
    leading_space_V: npt.NDArray[np.bool_]
    boundary_V: npt.NDArray[np.bool_]


class TokenSpans(Protocol):
    """Tokens that are read by slices: an array, or shards."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> npt.NDArray[np.integer]: ...


@dataclass(frozen=True)
class ByteCounts:
    """Bytes of each predicted position of a token stream, computed when a slice is read."""

    table: ByteTable
    tokens: TokenSpans

    def __len__(self) -> int:
        return len(self.tokens) - 1

    def __getitem__(self, span: slice) -> npt.NDArray[np.int64]:
        start, stop, _ = span.indices(len(self))
        tokens = self.tokens[start : stop + 1]
        return count_bytes(self.table, tokens[:-1], tokens[1:])


def count_bytes(
    table: ByteTable, inputs: npt.NDArray[np.integer], targets: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """Bytes of each predicted position: `inputs` are the previous tokens, `targets` the predicted ones, same shape."""
    spaces = table.leading_space_V[targets] & ~table.boundary_V[inputs]
    counted: npt.NDArray[np.int64] = table.bytes_V[targets].astype(np.int64) + spaces
    return counted


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What scoring needs of a tokenizer: the number of ids, the BOS id, and the byte table.

    `tokenizer` is the SHA-256 of the tokenizer's file, or "bytes" when there is none.
    """

    size: int
    bos: int
    table: ByteTable
    tokenizer: str


def read_vocabulary(proto: bytes | None) -> Vocabulary:
    """The vocabulary of a tokenizer file; of plain bytes for None. Does not repeat the checks of `open_tokenizer`."""
    if proto is None:
        return Vocabulary(BYTES_VOCAB, BYTES_BOS, plain_table(BYTES_VOCAB), "bytes")
    tokenizer = hashlib.sha256(proto).hexdigest()
    if proto[:1] != b"{":
        model: Any = SentencePieceProcessor(model_proto=proto)
        return Vocabulary(model.vocab_size(), model.bos_id(), sentencepiece_table(model), tokenizer)
    facts = json.loads(proto)
    if "config" in facts:
        return Vocabulary(EXPORT_VOCAB, EXPORT_BOS, plain_table(EXPORT_VOCAB, offset=EXPORT_OFFSET), tokenizer)
    special, (pieces, added) = special_ids(facts), json_pieces(facts)
    byte_level = "ByteLevel" in str(facts["decoder"])
    table = byte_level_table(pieces, added) if byte_level else marked_table(pieces, are_bytes(pieces))
    return Vocabulary(len(pieces), special[opening_of(special)], table, tokenizer)


def plain_table(size: int, *, offset: int = 0) -> ByteTable:
    """Plain bytes: the 256 ids from `offset` on are one byte each; others count 0 and are boundaries."""
    value_V = np.arange(size) - offset
    is_byte_V = (value_V >= 0) & (value_V < 256)
    return ByteTable(is_byte_V.astype(np.int32), np.zeros_like(is_byte_V), ~is_byte_V)


def marked_table(pieces: Sequence[str | None], is_byte: Sequence[bool], size: int = 0) -> ByteTable:
    """The byte table of pieces that write a space as U+2581; a piece of None stands for no text."""
    size = max(size, len(pieces))
    table = ByteTable(np.zeros(size, np.int32), np.zeros(size, np.bool_), np.ones(size, np.bool_))
    for i, piece in enumerate(pieces):
        if piece is not None:
            table.boundary_V[i] = False
            table.leading_space_V[i] = piece.startswith(SPACE_MARK)
            text = piece.removeprefix(SPACE_MARK).replace(SPACE_MARK, " ")
            table.bytes_V[i] = 1 if is_byte[i] else len(text.encode())
    return table


def are_bytes(pieces: Sequence[str | None]) -> list[bool]:
    """Which pieces are byte pieces such as `<0x0A>`."""
    return [piece is not None and bool(BYTE.fullmatch(piece)) for piece in pieces]


def model_pieces(model: Any) -> list[str | None]:
    """The pieces of a SentencePiece model by id; None for control, unknown and unused ones."""
    return [None if is_silent(model, i) else str(model.id_to_piece(i)) for i in range(model.vocab_size())]


def is_silent(model: Any, i: int) -> bool:
    """Whether a SentencePiece id stands for no text."""
    return bool(model.is_control(i) or model.is_unknown(i) or model.is_unused(i))


def sentencepiece_table(model: Any, size: int = 0, *, symbols: Mapping[str, int] | None = None) -> ByteTable:
    """The table of a SentencePiece model; `symbols` gives the bytes of its symbols for capitals.

    With None, the symbols of `caseops.py` or the published ones are used when the model has them all.
    """
    pieces = model_pieces(model)
    table = marked_table(pieces, [bool(model.is_byte(i)) for i in range(len(pieces))], size)
    if symbols is None:
        symbols = next((own for own in (SYMBOL_BYTES, PUBLISHED_BYTES) if all(s in pieces for s in own)), {})
    for symbol in symbols:
        table.bytes_V[pieces.index(symbol)] = symbols[symbol]
    return table


def special_ids(facts: Any) -> dict[str, int]:
    """The special tokens of a `tokenizer.json`, which stand for no text."""
    return {token["content"]: int(token["id"]) for token in facts.get("added_tokens") or () if token["special"]}


def opening_of(special: Mapping[str, int]) -> str:
    """The special token that opens a document; empty when there is none."""
    return next((name for name in OPENINGS if name in special), "")


def json_pieces(facts: Any) -> tuple[list[str | None], dict[str, int]]:
    """The pieces of a `tokenizer.json` by id (None for pieces without text), and the ids of its added tokens."""
    vocab, silent = facts["model"]["vocab"], special_ids(facts).values()
    learned = vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
    added = {token["content"]: int(token["id"]) for token in facts.get("added_tokens") or ()}
    pieces: list[str | None] = [None] * (1 + max((learned | added).values()))
    for piece, i in (learned | added).items():
        pieces[i] = None if i in silent or piece == facts["model"].get("unk_token") else piece
    return pieces, added


def byte_level_table(pieces: Sequence[str | None], added: Collection[str], size: int = 0) -> ByteTable:
    """The table of byte-level pieces: one byte per character, except added tokens, which are plain text.

    Pieces without text count 0 and are boundaries.
    """
    bytes_V = np.zeros(max(size, len(pieces)), dtype=np.int32)
    for i, piece in enumerate(pieces):
        bytes_V[i] = len(piece.encode() if piece in added else piece) if piece else 0
    return ByteTable(bytes_V, np.zeros_like(bytes_V, dtype=np.bool_), bytes_V == 0)
