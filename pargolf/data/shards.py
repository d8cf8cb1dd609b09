"""Token shards in the published format, and a split read as one long ring of tokens.

    shard = 256 x int32 (magic 20240520, version 1, token count N, rest ignored) + N x uint16, all little-endian
    split = all `*_train_*.bin` or `*_val_*.bin` of a folder, in order of name

so the official `fineweb_train_%06d.bin` are read unchanged. Format: openai/parameter-golf, `train_gpt.py`. Every token
that is read is checked against the vocabulary. Files stay open and are read in spans, and every read checks that the
file has not changed. A memory map could not do this: a truncated file would kill the process, and a changed one would
go unnoticed.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pargolf.core.errors import UserError
from pargolf.core.files import replacing

Tokens = npt.NDArray[np.uint16]

MAGIC, VERSION = 20240520, 1
HEADER_BYTES = 1024
BLOCK = 1 << 20


class Part(Protocol):
    """A part of a split: an array, or a file that is read in spans."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> Tokens: ...


class TokenSource(Protocol):
    """What a stream needs: a length, and `n` consecutive tokens from any position of the ring."""

    def __len__(self) -> int: ...

    def take(self, start: int, n: int) -> Tokens:
        """Return tokens `start` to `start + n`, wrapping around."""
        ...


def write_shard(path: str | Path, tokens: npt.NDArray[np.integer] | Sequence[npt.NDArray[np.integer]]) -> None:
    """Write one shard atomically; `tokens` is one array or a list of arrays that follow each other."""
    parts = [tokens] if isinstance(tokens, np.ndarray) else list(tokens)
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = MAGIC, VERSION, sum(len(part) for part in parts)
    with replacing(path) as file:
        file.write(header.tobytes())
        for part in parts:
            assert len(part) == 0 or (part.min() >= 0 and part.max() < 1 << 16), "a token does not fit uint16"
            file.write(part.astype("<u2").tobytes())


class ShardFile:
    """One shard on disk, read in spans: `len()` is its number of tokens, a slice is uint16 (n,).

    The file must not change after it was opened: every read checks its size, its times, and that no other file has
    taken its name. Raises `UserError` when it is missing, truncated, not a shard, or changed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = self.path.open("rb", buffering=0)
            self._state = _state(os.fstat(self._file.fileno()))
            raw = self._file.read(HEADER_BYTES)
        except FileNotFoundError as error:
            raise UserError(f"There is no shard {path}; prepare or fetch the data again.") from error
        except OSError as error:
            raise UserError(f"The shard {path} cannot be read: {error.strerror}.") from error
        self._count = _count(path, raw, size=self._state[2])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, span: slice) -> Tokens:
        start, stop, _ = span.indices(self._count)
        out = np.empty(max(stop - start, 0), dtype="<u2")
        if len(out):
            self.read(HEADER_BYTES + 2 * start, out.data.cast("B"))
        return out

    def read(self, offset: int, out: memoryview) -> None:
        """Fill `out` with the file's bytes from `offset` on. Raises `UserError` when the file has changed."""
        try:
            while len(out) and (done := self._read_some(offset, out)):
                offset, out = offset + done, out[done:]
            as_it_was = not len(out) and self.unchanged()
        except OSError as error:
            raise UserError(f"The shard {self.path} cannot be read: {error.strerror}.") from error
        if not as_it_was:
            raise UserError(f"{self.path} was changed while it was in use; put the same file back, or begin again.")

    def _read_some(self, offset: int, out: memoryview) -> int:
        """Read at an explicit offset, because after a fork two processes share the file position."""
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [out], offset)
        self._file.seek(offset)
        return self._file.readinto(out) or 0

    def unchanged(self) -> bool:
        """Whether the file of this name is still the unchanged file that was opened."""
        try:
            return self._state == _state(self.path.stat())
        except FileNotFoundError:
            return False

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def _state(status: os.stat_result) -> tuple[int, ...]:
    """Device, inode, size and time of change: they differ when a file was replaced or written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _count(path: str | Path, raw: bytes, *, size: int) -> int:
    """The number of tokens in a header. Raises `UserError` when the file is not a complete shard."""
    if len(raw) < HEADER_BYTES:
        raise UserError(f"{path} is truncated: {size} bytes, and the header alone has 1024. Make it again.")
    magic, version, count = (int(value) for value in np.frombuffer(raw, dtype="<i4")[:3])
    if magic != MAGIC:
        raise UserError(f"{path} is not a token shard: its magic number is {magic}, not {MAGIC}.")
    if version != VERSION:
        raise UserError(f"{path} has shard version {version}; this program reads version {VERSION}.")
    if count < 0 or size != HEADER_BYTES + 2 * count:
        what = "is truncated" if size < HEADER_BYTES + 2 * count else "does not fit its header"
        raise UserError(
            f"{path} {what}: {size} bytes where {count} tokens need {HEADER_BYTES + 2 * count}. Make it again."
        )
    return count


class Shards:
    """Arrays or files of tokens, one after the other, read as one ring. `len()` is the number of tokens.

    `names` are only used in messages. With `vocab`, reading a token id past it raises `UserError`.
    """

    def __init__(self, parts: Sequence[Part], *, names: Sequence[str] = (), vocab: int | None = None) -> None:
        assert not names or len(names) == len(parts)
        self.parts = tuple(parts)
        self.names = tuple(names) or tuple(f"array {i}" for i in range(len(parts)))
        self.vocab = vocab
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        if len(self) == 0:
            raise UserError(f"There are no tokens in {', '.join(self.names) or 'these shards'}; prepare them again.")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(self, start: int, n: int) -> Tokens:
        """Copy tokens `start` to `start + n` of the endless repetition of the split: uint16 (n,)."""
        out = np.empty(n, dtype=np.uint16)
        position, done = start % len(self), 0
        index = int(np.searchsorted(self._ends, position, side="right"))
        while done < n:
            part = self.parts[index]
            offset = position - (int(self._ends[index]) - len(part))
            piece = part[offset : offset + n - done]
            self._check(piece, index)
            out[done : done + len(piece)] = piece
            done += len(piece)
            index = (index + 1) % len(self.parts)
            position = int(self._ends[index]) - len(self.parts[index])
        return out

    def __getitem__(self, span: slice) -> Tokens:
        """A copy of the tokens of a slice, as of an array; steps are ignored."""
        start, stop, _ = span.indices(len(self))
        return self.take(start, max(stop - start, 0))

    def blocks(self, size: int = BLOCK) -> Iterator[Tokens]:
        """Yield the split once from its start, `size` tokens at a time."""
        for start in range(0, len(self), size):
            yield self.take(start, min(size, len(self) - start))

    def documents(self, bos: int) -> Iterator[Tokens]:
        """Yield each document with the BOS before it (the first without one, if the split starts inside it)."""
        return split_documents(self.blocks(), bos)

    def _check(self, piece: Tokens, index: int) -> None:
        if self.vocab is not None and len(piece) and int(piece.max()) >= self.vocab:
            raise UserError(
                f"{self.names[index]} holds token id {int(piece.max())}, past the vocabulary of {self.vocab}; "
                "it was made with another tokenizer. Use that tokenizer, or prepare the data again."
            )


def split_documents(blocks: Iterable[Tokens], bos: int) -> Iterator[Tokens]:
    """Cut a stream of token blocks before every BOS; only the current document is in memory."""
    pieces: list[Tokens] = []
    for block in blocks:
        cuts = np.flatnonzero(block == bos)
        start = 0
        for cut in cuts:
            pieces.append(block[start:cut])
            if any(len(part) for part in pieces):
                yield np.concatenate(pieces)
            pieces, start = [], int(cut)
        pieces.append(block[start:])
    if any(len(part) for part in pieces):
        yield np.concatenate(pieces)


def split_paths(folder: str | Path, split: str) -> list[Path]:
    """The shard files of `train` or `val` in stream order, without the byte counts beside them."""
    return sorted(path for path in Path(folder).glob(f"*_{split}_*.bin") if f"_{split}_bytes_" not in path.name)


def open_split(
    folder: str | Path, split: str, *, vocab: int | None = None, kind: Callable[[Path], ShardFile] = ShardFile
) -> Shards:
    """Open all shards of `train` or `val`. Raises `UserError` for a missing folder, no shards, or a damaged shard."""
    if not Path(folder).is_dir():
        raise UserError(f"There is no data folder {folder}; make one with `pargolf data prepare ... --out {folder}`.")
    paths = split_paths(folder, split)
    if not paths:
        raise UserError(f"{folder} holds no *_{split}_*.bin shard; prepare or fetch the {split} split first.")
    return Shards([kind(path) for path in paths], names=[str(path) for path in paths], vocab=vocab)
