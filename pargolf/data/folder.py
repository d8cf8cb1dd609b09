"""A data folder opened: tokenizer, byte table and splits, each read when first asked for.

Two kinds are read alike: folders that `prepare` made (they carry `meta.json` and `documents.jsonl`), and official ones
of bare shards, whose tokenizer is the one `.model` file in the folder, its parent, or a `tokenizers` folder beside
either (`data/datasets/fineweb10B_sp1024` and `data/tokenizers/fineweb_1024_bpe.model`); among several, the one whose
name holds the size in the folder's name (`sp1024`). Scoring touches no training shard.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pargolf.core.errors import UserError
from pargolf.data.documents import Row, read_rows
from pargolf.data.huggingface import HuggingFaceTokenizer
from pargolf.data.meta import read_meta
from pargolf.data.shards import Shards, open_split
from pargolf.data.sidecar import Sidecar, open_sidecar, prove_sidecar
from pargolf.data.tokens import (
    MODEL_LIMIT,
    ByteCounts,
    ByteTable,
    ByteTokenizer,
    LearnedTokenizer,
    SplitBytes,
    Tokenizer,
    load_tokenizer,
    prove,
)


@dataclass(frozen=True)
class DataFolder:
    """A folder of shards. `meta` is what `prepare` recorded, empty for official data. Reads on first use."""

    path: Path
    meta: dict[str, Any] = field(default_factory=dict)
    tokenizer_path: Path | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the shards. Raises `UserError` when there is none, or not the recorded one."""
        if self.meta.get("tokenizer") == "bytes":
            return ByteTokenizer()
        tokenizer = open_tokenizer(self.tokenizer_path or find_tokenizer(self.path))
        if self.meta and tokenizer.vocab != self.meta["vocab"]:
            raise UserError(
                f"The tokenizer of {self.path} has {tokenizer.vocab} pieces and its meta.json says "
                f"{self.meta['vocab']}; prepare the data again."
            )
        return tokenizer

    @cached_property
    def byte_table(self) -> ByteTable:
        """The byte look-up arrays of the tokenizer."""
        return self.tokenizer.byte_table()

    @cached_property
    def train(self) -> Shards:
        """The training split."""
        return open_split(self.path, "train", vocab=self.vocab)

    @cached_property
    def val(self) -> Shards:
        """The validation split."""
        return open_split(self.path, "val", vocab=self.vocab)

    @cached_property
    def val_bytes(self) -> Sidecar | ByteCounts:
        """Bytes of each predicted position of validation: of the sidecar where there is one, or by the byte table."""
        return open_sidecar(self.path, self.val) or ByteCounts(self.byte_table, self.val)

    @property
    def bos(self) -> int:
        """The id that stands before every document."""
        return self.tokenizer.bos

    @property
    def vocab(self) -> int:
        """The number of token ids."""
        return self.tokenizer.vocab

    def rows(self, split: str) -> list[Row] | None:
        """The documents of a split in stream order; None where the folder keeps no record (official data)."""
        path = self.path / "documents.jsonl"
        return [row for row in read_rows(path) if row.split == split] if path.is_file() else None

    def prove(self, split: str = "val") -> SplitBytes:
        """Prove that a split's graded bytes are its documents' own (`tokens.prove`, `sidecar.prove_sidecar`)."""
        if split == "val" and isinstance(self.val_bytes, Sidecar):
            return prove_sidecar(self.tokenizer, self.val, self.val_bytes, rows=self.rows(split))
        return prove(self.tokenizer, self.val if split == "val" else self.train, rows=self.rows(split))


def open_data(folder: str | Path, *, tokenizer: str | Path | None = None) -> DataFolder:
    """Open a data folder; `tokenizer` names the `.model` file where it cannot be found. Raises `UserError`."""
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"There is no data folder {path}; make one with `pargolf data prepare ... --out {path}`.")
    return DataFolder(path, read_meta(path / "meta.json"), Path(tokenizer) if tokenizer else None)


def open_tokenizer(path: str | Path) -> LearnedTokenizer:
    """Read a SentencePiece `.model` or a Hugging Face `tokenizer.json`, whatever its name. Raises `UserError`."""
    path = Path(path)
    if path.is_file() and path.stat().st_size <= MODEL_LIMIT and path.read_bytes()[:1] == b"{":
        return HuggingFaceTokenizer(path.read_bytes())
    return load_tokenizer(path)


def find_tokenizer(folder: Path) -> Path:
    """Find the one `.model` or `tokenizer.json` of a folder of shards. Raises `UserError` for none, or several."""
    folder = folder.resolve()
    places = [folder, folder.parent, folder.parent / "tokenizers", folder.parent.parent / "tokenizers"]
    for place in places:
        models = sorted(place.glob("*.model"))
        size = re.search(r"sp(\d+)", folder.name)
        if len(models) > 1 and size:
            models = [model for model in models if re.search(rf"(?<!\d){size[1]}(?!\d)", model.name)] or models
        if len(models) == 1:
            return models[0]
        if not models and (place / "tokenizer.json").is_file():
            return place / "tokenizer.json"
        if models:
            raise UserError(f"{place} holds {len(models)} .model files; put the one of these shards into {folder}.")
    raise UserError(f"No tokenizer was found for {folder}; put its .model file or tokenizer.json into that folder.")
