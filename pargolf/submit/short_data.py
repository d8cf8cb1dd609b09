"""Data of the shipped form: shards, and of the tokenizer only what each id weighs in bytes.

Three kinds of tokenizer are told apart as `data/folder.py` does it; none is asked to read or write text, since a run
has proved that its bytes are the documents' own. Tests hold the counts against those of the whole readers.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from sentencepiece import SentencePieceProcessor

from pargolf.data.caseops import SYMBOL_BYTES
from pargolf.data.caseops_published import PUBLISHED_BYTES
from pargolf.data.huggingface import _OPENING
from pargolf.data.shards import ShardFile, Shards, Tokens, open_split
from pargolf.data.tokenizer_files import find_tokenizer
from pargolf.data.tokens import marked_table


class ShortData:
    """A data folder: its splits, and of its tokenizer the size, the opening id, the digest and the bytes."""

    bytes_V: Any
    leading_V: Any
    boundary_V: Any

    def __init__(self, folder: str, tokenizer: str | None) -> None:
        self.path = Path(folder)
        meta = self.path / "meta.json"
        if meta.is_file() and json.loads(meta.read_text()).get("tokenizer") == "bytes":
            self.vocab, self.bos, self.tokenizer = 257, 256, "bytes"
            self.bytes_V = np.arange(257) < 256
            self.leading_V, self.boundary_V = self.bytes_V & False, ~self.bytes_V
        else:
            proto = Path(tokenizer or find_tokenizer(self.path)).read_bytes()
            self.tokenizer = hashlib.sha256(proto).hexdigest()
            if proto[:1] == b"{":
                self._json(json.loads(proto))
            else:
                self._sentencepiece(proto)

    def _json(self, facts: Any) -> None:
        """The official bytes, or pieces with a letter for each byte, or with a mark for each space."""
        if "config" in facts:
            self._count(["" if i > 3 else None for i in range(260)], [True] * 260, 1)
            return
        pieces = facts["model"]["vocab"]
        pieces = pieces if isinstance(pieces, dict) else {piece: i for i, (piece, _) in enumerate(pieces)}
        added = {token["content"]: token["id"] for token in facts["added_tokens"]}
        special = {token["content"]: token["id"] for token in facts["added_tokens"] if token["special"]}
        texts: list[str | None] = [None] * (1 + max((pieces | added).values()))
        for piece, i in (pieces | added).items():
            texts[i] = None if i in special.values() or piece == facts["model"].get("unk_token") else piece
        self._count(texts, [text is not None and text[:3] == "<0x" for text in texts], special[next(
            name for name in _OPENING if name in special
        )])  # fmt: skip
        if "ByteLevel" in str(facts["decoder"]):
            self.leading_V &= False
            for i, text in enumerate(texts):
                self.bytes_V[i] = len(text.encode() if text in added else text) if text else 0

    def _sentencepiece(self, proto: bytes) -> None:
        """The published table, and the symbols for case where the model has them."""
        model: Any = SentencePieceProcessor(model_proto=proto)
        every = range(model.vocab_size())
        silent = [model.is_control(i) or model.is_unknown(i) or model.is_unused(i) for i in every]
        pieces = [None if silent[i] else model.id_to_piece(i) for i in every]
        self._count(pieces, [model.is_byte(i) for i in every], model.bos_id())
        for symbols in (PUBLISHED_BYTES, SYMBOL_BYTES):
            if all(symbol in pieces for symbol in symbols):
                for symbol, count in symbols.items():
                    self.bytes_V[pieces.index(symbol)] = count

    def _count(self, pieces: list[str | None], is_byte: list[bool], bos: int) -> None:
        """Bytes of pieces that write a space as a mark; None stands for no text."""
        self.vocab, self.bos = len(pieces), bos
        table = marked_table(pieces, is_byte)
        self.bytes_V, self.leading_V, self.boundary_V = table.bytes_V, table.leading_space_V, table.boundary_V

    @property
    def train(self) -> Shards:
        """The training split."""
        return open_split(self.path, "train")

    def validation(self) -> tuple[Tokens, Any]:
        """The validation stream of N + 1 tokens, and the bytes of its N targets."""
        shards = open_split(self.path, "val")
        tokens = shards.take(0, len(shards))
        before, after = tokens[:-1], tokens[1:]
        beside = sorted(self.path.glob("*_val_bytes_*.bin"))
        if beside:
            return tokens, Shards([*map(ShardFile, beside)]).take(1, len(before))
        return tokens, self.bytes_V[after].astype(np.int64) + (self.leading_V[after] & ~self.boundary_V[before])
