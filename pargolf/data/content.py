"""Hashes of shard contents: to name the data of a result, to check a resumed run's data, to find duplicate shards.

`shard_hashes` is exact and reads every byte. `sampled_sha256` reads 16 samples of each large shard and takes seconds.
A split of up to 1 GiB is read into memory once, so that the hashed tokens are the scored ones.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pargolf.core.errors import UserError
from pargolf.data.shards import HEADER_BYTES, ShardFile, Shards, Tokens

RESIDENT_BYTES = 1 << 30
"""A split up to this size is read into memory once; a larger one is read by spans from files that are checked."""
SAMPLE_BYTES, SAMPLES = 1 << 20, 16
_READ = 8 << 20


class LoadedShard(ShardFile):
    """A shard that is read into memory once, so later changes of the file do not matter.

    `sha256` is the hash of the bytes that were read, header included.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        raw = bytearray(HEADER_BYTES + 2 * len(self))
        self.read(0, memoryview(raw))
        self.sha256 = hashlib.sha256(raw).hexdigest()
        self._tokens: Tokens = np.frombuffer(raw, dtype="<u2", offset=HEADER_BYTES)

    def __getitem__(self, span: slice) -> Tokens:
        return self._tokens[span]


def shard_kind(paths: Iterable[Path]) -> type[ShardFile]:
    """The class to open shards with: in memory when they fit `RESIDENT_BYTES` together, else read by spans."""
    size = sum(path.stat().st_size for path in paths if path.is_file())
    return LoadedShard if size <= RESIDENT_BYTES else ShardFile


def shard_hashes(shards: Shards) -> dict[str, str]:
    """The SHA-256 of each shard file by name, computed from the bytes that are read as tokens."""
    return {part.path.name: _whole_sha256(part) for part in _files(shards)}


def sampled_sha256(shards: Shards) -> str:
    """One hash of a split over each shard's length and tokens: all of them up to 16 MiB, else 16 even samples of 1 MiB.

    It takes seconds; a full hash of 80 published shards takes minutes. Any two exports differ in it, but it can miss a
    change of a few tokens in a large shard.
    """
    whole = hashlib.sha256()
    for part in _files(shards):
        whole.update(_sampled(part))
    return whole.hexdigest()


def refuse_repeats(*splits: Shards) -> None:
    """Raise `UserError` when two shards hold the same tokens, because the copy would be read twice."""
    seen: dict[bytes, Path] = {}
    for part in (part for shards in splits for part in _files(shards) if len(part)):
        content = _sampled(part)
        if content in seen:
            raise UserError(f"{part.path} holds the same tokens as {seen[content].name}; remove the copy.")
        seen[content] = part.path


def refuse_changed(shards: Shards) -> None:
    """Raise `UserError` when a shard file has changed since it was opened."""
    for part in _files(shards):
        if not part.unchanged():
            raise UserError(f"{part.path} was changed while it was in use; put the same file back, or begin again.")


def _files(shards: Shards) -> list[ShardFile]:
    return [part for part in shards.parts if isinstance(part, ShardFile)]


def _whole_sha256(part: ShardFile) -> str:
    if isinstance(part, LoadedShard):
        return part.sha256
    whole, size = hashlib.sha256(), HEADER_BYTES + 2 * len(part)
    for offset in range(0, size, _READ):
        raw = bytearray(min(_READ, size - offset))
        part.read(offset, memoryview(raw))
        whole.update(raw)
    return whole.hexdigest()


def _sampled(part: ShardFile) -> bytes:
    """SHA-256 of a shard's length and tokens, or of evenly spaced samples of them, both ends included."""
    size = 2 * len(part)
    sample = hashlib.sha256(size.to_bytes(8, "little"))
    for number in range(SAMPLES):
        whole = size <= SAMPLES * SAMPLE_BYTES
        start = number * SAMPLE_BYTES if whole else number * (size - SAMPLE_BYTES) // (SAMPLES - 1) // 2 * 2
        raw = bytearray(max(0, min(SAMPLE_BYTES, size - start)))
        part.read(HEADER_BYTES + start, memoryview(raw))
        sample.update(raw)
    return sample.digest()
