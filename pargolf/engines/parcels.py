"""Data folders on other machines: the same folder on shared storage, proved by hashes, or a copy that is sent once.

    parcel = parcel_of(data)         its path here, and the SHA-256 of its splits and tokenizer
    data = find_parcel(parcel)       on the other machine: None if that path has no data, or other data
    pieces = cut(parcel)             files by name, in pieces that fit into memory
    data = unpack(parcel, pieces)    written once per machine, into the user's cache, and checked

Large shards are hashed by samples, as in `DataFolder.facts`.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pargolf.core.errors import UserError
from pargolf.core.files import cache_folder, claimed
from pargolf.data.folder import DataFolder, open_data
from pargolf.data.shards import split_paths
from pargolf.data.sidecar import sidecar_paths
from pargolf.run.score import tokenizer_digest, tokenizer_file

PIECE = 64 << 20
"""The size of the pieces in which files are sent, in bytes."""


@dataclass(frozen=True)
class Parcel:
    """A reference to a data folder that can be sent to another process."""

    path: Path
    tokenizer: Path | None
    sha256: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """One hash of everything."""
        return hashlib.sha256(json.dumps(self.sha256).encode()).hexdigest()[:16]


def parcel_of(data: DataFolder) -> Parcel:
    """The parcel of a data folder."""
    facts = {**data.facts, "tokenizer_sha256": tokenizer_digest(data)}
    return Parcel(data.path.absolute(), tokenizer_file(data), tuple(sorted(facts.items())))


def open_parcel(parcel: Parcel) -> DataFolder:
    """Open the data folder on its own machine."""
    return open_data(parcel.path, tokenizer=parcel.tokenizer)


def find_parcel(parcel: Parcel) -> DataFolder | None:
    """The data folder, if this machine has the same one at the same path or in its cache; else None."""
    for folder, tokenizer in ((parcel.path, parcel.tokenizer), _copy(parcel)):
        if not folder.is_dir():
            continue
        try:
            data = open_data(folder, tokenizer=tokenizer)
            if parcel_of(data).sha256 == parcel.sha256:
                return replace(data, copy_of=None if folder == parcel.path else parcel.path)
        except (UserError, OSError):
            continue
    return None


def cut(parcel: Parcel) -> Iterator[tuple[str, bytes]]:
    """Yield every file that a run reads as (name, piece), in order."""
    folder = parcel.path
    paths = [*split_paths(folder, "train"), *split_paths(folder, "val"), *sidecar_paths(folder)]
    paths += [path for name in ("meta.json", "documents.jsonl") if (path := folder / name).is_file()]
    paths += [] if parcel.tokenizer is None else [parcel.tokenizer]
    for path in paths:
        with path.open("rb") as file:
            first = True
            while (piece := file.read(PIECE)) or first:
                yield path.name, piece
                first = False


def unpack(parcel: Parcel, files: Mapping[str, Iterable[bytes]]) -> DataFolder:
    """Write a parcel's files into this machine's cache, if needed. Raises `UserError` when their hashes differ."""
    folder, _ = _copy(parcel)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with claimed(folder.parent):
        if (data := find_parcel(parcel)) is not None:
            return data
        partial = folder.with_name(f".{folder.name}.part")
        for stale in (partial, folder):
            shutil.rmtree(stale, ignore_errors=True)
        partial.mkdir()
        for name, pieces in files.items():
            with (partial / Path(name).name).open("wb") as file:
                file.writelines(pieces)
        partial.rename(folder)
    if (data := find_parcel(parcel)) is None:
        raise UserError(f"{parcel.path} was changed while it was sent. Run the same command again.")
    return data


def _copy(parcel: Parcel) -> tuple[Path, Path | None]:
    """The paths of a copy and of its tokenizer. The folder keeps its name, which may contain the vocabulary size."""
    folder = cache_folder() / "parcels" / parcel.digest / parcel.path.name
    return folder, parcel.tokenizer and folder / parcel.tokenizer.name
