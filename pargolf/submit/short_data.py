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
from pargolf.data.folder import find_tokenizer
from pargolf.data.huggingface import _OPENING
from pargolf.data.shards import ShardFile, Shards, Tokens, open_split
from pargolf.data.tokens import SPACE_MARK


class ShortData:
    """A data folder: its splits, and of its tokenizer the size, the opening id, the digest and the bytes."""

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
                self._hugging_face(json.loads(proto))
            else:
                self._sentencepiece(proto)

    def _hugging_face(self, facts: Any) -> None:
        """Byte-level BPE has a letter for each byte."""
        pieces = facts["model"]["vocab"]
        special = {token["content"]: token["id"] for token in facts["added_tokens"]}
        self.vocab = 1 + max((pieces | special).values())
        self.bos = next(special[name] for name in _OPENING if name in special)
        self.bytes_V = np.zeros(self.vocab, np.int32)
        for piece, i in pieces.items():
            self.bytes_V[i] = 0 if i in special.values() else len(piece)
        self.leading_V, self.boundary_V = self.bytes_V < 0, self.bytes_V == 0

    def _sentencepiece(self, proto: bytes) -> None:
        """The published table, and the symbols of `caseops` where the model has them."""
        model: Any = SentencePieceProcessor(model_proto=proto)
        self.vocab, self.bos = model.vocab_size(), model.bos_id()
        self.boundary_V = np.array(
            [model.is_control(i) or model.is_unknown(i) or model.is_unused(i) for i in range(self.vocab)]
        )
        pieces = ["" if silent else model.id_to_piece(i) for i, silent in enumerate(self.boundary_V)]
        self.leading_V = np.array([piece[:1] == SPACE_MARK for piece in pieces])
        self.bytes_V = np.array(
            [
                model.is_byte(i) or len(piece.removeprefix(SPACE_MARK).replace(SPACE_MARK, " ").encode())
                for i, piece in enumerate(pieces)
            ],
            np.int32,
        )
        if all(symbol in pieces for symbol in SYMBOL_BYTES):
            for symbol, count in SYMBOL_BYTES.items():
                self.bytes_V[pieces.index(symbol)] = count

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
