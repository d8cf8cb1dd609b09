"""An open data folder: tokenizer, byte table and splits, each read on first use.

There are two kinds. Folders that `prepare` made have a `meta.json` and a `documents.jsonl`. Official folders hold bare
shards; their tokenizer is the one `.model` file in the folder, its parent, or a `tokenizers` folder beside either
(`data/datasets/fineweb10B_sp1024` and `data/tokenizers/fineweb_1024_bpe.model`). Among several tokenizers, the one with
the size in the folder's name (`sp1024`) is used. Scoring reads no training shard.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pargolf.core.errors import UserError
from pargolf.core.files import reading
from pargolf.data.byte_table import ByteCounts, ByteTable
from pargolf.data.content import refuse_repeats, sampled_sha256, shard_hashes, shard_kind
from pargolf.data.documents import Row, read_rows
from pargolf.data.listing import refuse_strays
from pargolf.data.meta import file_sha256, read_meta
from pargolf.data.official import doubt_of_length, known_split
from pargolf.data.proof import Proving, SplitProof, finish, proved_by_name, proving, remembered
from pargolf.data.shards import Shards, open_split, split_paths
from pargolf.data.sidecar import Sidecar, open_sidecar, proving_sidecar, sidecar_paths
from pargolf.data.tokenizer_files import find_tokenizer, open_tokenizer
from pargolf.data.tokens import ByteTokenizer, Tokenizer


@dataclass(frozen=True)
class DataFolder:
    """A folder of shards; its parts are read on first use.

    meta: what `prepare` recorded, empty for official data
    copy_of: the path of the original on another machine, when this folder is a copy
    """

    path: Path
    meta: dict[str, Any] = field(default_factory=dict)
    tokenizer_path: Path | None = None
    copy_of: Path | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the shards. Raises `UserError` when there is none, or when it is not the recorded one."""
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
        """The training split, read from disk. Raises `UserError` when the shards are not one complete set."""
        paths = split_paths(self.path, "train")
        with reading(*paths):
            refuse_strays(paths, "train")
            return open_split(self.path, "train", vocab=self.vocab)

    @cached_property
    def val(self) -> Shards:
        """The validation split; read once if it fits in memory, so that the proved tokens are the scored ones."""
        paths = split_paths(self.path, "val")
        with reading(*paths):
            refuse_strays(paths, "val")
            return open_split(self.path, "val", vocab=self.vocab, kind=shard_kind(paths))

    @cached_property
    def val_bytes(self) -> Sidecar | ByteCounts:
        """Bytes of each predicted position of validation: from the sidecar when there is one, else the byte table."""
        paths = sidecar_paths(self.path)
        if not paths:
            return ByteCounts(self.byte_table, self.val)
        return open_sidecar(paths, self.val, kind=shard_kind(paths))

    @property
    def bos(self) -> int:
        """The token id that opens every document."""
        return self.tokenizer.bos

    @property
    def vocab(self) -> int:
        """The number of token ids."""
        return self.tokenizer.vocab

    def rows(self, split: str) -> list[Row] | None:
        """The documents of a split in stream order; None when the folder has no record (official data)."""
        path = self.path / "documents.jsonl"
        return [row for row in read_rows(path) if row.split == split] if path.exists() else None

    def prove(self, split: str = "val") -> SplitProof:
        """Run `proving` and return its proof."""
        return finish(self.proving(split))

    def proving(self, split: str = "val") -> Proving[SplitProof]:
        """Prove the bytes of a split (see `proof.py`), with progress. A slow proof is cached for the next time.

        Raises `UserError` when the bytes contradict the shards, and when validation does not start with a document.
        """
        shards, rows = self.val if split == "val" else self.train, self.rows(split)
        if split == "val":
            self._check_whole()
        hashes = self.val_hashes if split == "val" else shard_hashes(shards)
        known = known_split(hashes, self.tokenizer.digest) if split == "val" else None
        if known is not None:
            return proved_by_name(known, self.val_bytes, shards, self.bos)
        sidecar = self.val_bytes if split == "val" else None
        work = (
            proving_sidecar(self.tokenizer, shards, sidecar, rows=rows)
            if isinstance(sidecar, Sidecar)
            else proving(self.tokenizer, shards, rows=rows)
        )
        record = "" if rows is None else file_sha256(self.path / "documents.jsonl")
        proof = yield from remembered([self.tokenizer.digest, record, *hashes.values()], work)
        if split == "val":
            self._check_recorded(hashes)
            doubt = doubt_of_length(self.path.name, self.vocab, proof.tokens + 1)
            proof = replace(proof, note="; ".join(filter(None, (proof.note, doubt))))
        return proof

    @cached_property
    def val_hashes(self) -> dict[str, str]:
        """SHA-256 of the validation files by name, including the byte counts beside them."""
        counts = shard_hashes(self.val_bytes.counts) if isinstance(self.val_bytes, Sidecar) else {}
        return shard_hashes(self.val) | counts

    @cached_property
    def facts(self) -> dict[str, str]:
        """One hash of each split (sampled for large shards), which must be the same when a run is resumed.

        Raises `UserError` when two training shards are equal.
        """
        refuse_repeats(self.train)
        return {"train_sha256": sampled_sha256(self.train), "val_sha256": sampled_sha256(self.val)}

    def _check_whole(self) -> None:
        """Raise `UserError` when validation does not begin with a document, or has nothing to score."""
        refuse_repeats(self.val)
        if len(self.val) < 2:
            raise UserError(f"Validation of {self.path} has {len(self.val)} token and nothing to score. Add text.")
        first = int(self.val.take(0, 1)[0])
        if first != self.bos:
            raise UserError(
                f"Validation of {self.path} begins with token {first}, not with BOS ({self.bos}): where its documents "
                "begin is not known. Is this its tokenizer? If it is, write BOS before each document."
            )

    def _check_recorded(self, hashes: Mapping[str, str]) -> None:
        """Raise `UserError` when validation differs from what `prepare` recorded."""
        recorded = self.meta.get("sha256", {})
        for name in hashes:
            if recorded and hashes[name] != recorded.get(name):
                raise UserError(f"{self.path / name} is not as recorded in meta.json; prepare the data again.")


def open_data(folder: str | Path, *, tokenizer: str | Path | None = None) -> DataFolder:
    """Open a data folder; `tokenizer` names the `.model` file if it cannot be found. Raises `UserError`."""
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"There is no data folder {path}; make one with `pargolf data prepare ... --out {path}`.")
    return DataFolder(path, read_meta(path / "meta.json"), Path(tokenizer) if tokenizer else None)
