"""The parts of a submission: folders of files, each with its size and a way to read it.

Nothing is executed and nothing is checked out. Reading is bounded: a file above `MOST_BYTES` has a size but no content.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

MOST_BYTES = 24_000_000
MOST_FILES = 5_000
MOST_FOLDERS = 8


@dataclass(frozen=True)
class File:
    """One file: its path in the folder, its size in bytes, and how to read it (None if it cannot be read)."""

    path: str
    size: int
    fetch: Callable[[], bytes | None] = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """Lower-case extension with its dot."""
        return PurePosixPath(self.path).suffix.lower()

    @property
    def readable(self) -> bool:
        """Whether it is small enough to read."""
        return self.size <= MOST_BYTES

    def read(self) -> bytes | None:
        """Its bytes, or None if it is too large or missing in the snapshot."""
        return self.fetch() if self.readable else None


@dataclass(frozen=True)
class Folder:
    """One submission: the folder's path as shown to people, its track (None if unknown) and its files.

    `elsewhere` are scripts and logs that the same head has outside every folder, used only for what a folder lacks, and
    tokenizers beside a script. `place` is the folder's path on this machine; None for one from git.
    """

    path: str
    track: str | None
    files: tuple[File, ...]
    script_only: bool = False
    elsewhere: tuple[File, ...] = ()
    place: Path | None = None


@dataclass(frozen=True)
class Submission:
    """A target's content: the head's hash for a git ref, the folders to judge, and the files outside any folder."""

    target: str
    head: str | None
    folders: tuple[Folder, ...]
    outside: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()


def track_of(path: str) -> str | None:
    """The track that a path names: `10min_16mb`, `non_record_16mb`, another `track_*`, or None."""
    return next((p.removeprefix("track_") for p in PurePosixPath(path).parts if p.startswith("track_")), None)


def is_text(file: File) -> bool:
    """Whether a rule may read it: code, logs, notes, settings."""
    names = {".py", ".json", ".jsonl", ".md", ".log", ".txt", ".out", ".err", ".sh", ".yaml", ".yml", ".toml", ".cfg"}
    return file.readable and (file.suffix in names or file.suffix == "")


def logs_among(files: Iterable[File]) -> list[File]:
    """Files that may be logs: .log, .out, .err, .jsonl, .json named like a log, .txt except lists of requirements."""
    kinds = {".log", ".out", ".err", ".txt", ".jsonl"}
    other_names = ("requirement", "readme", "license")
    return [
        file
        for file in files
        if (file.suffix in kinds or (file.suffix == ".json" and "log" in file.name.lower()))
        and not file.name.lower().startswith(other_names)
    ]
