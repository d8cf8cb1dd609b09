"""Collect what a board shows: finished runs, ablations and submissions below some folders.

A run is a folder with `result.json`. An ablation (a folder of `pargolf ablate`) is shown as one item: of its runs only
those of the whole recipe are shown as runs, and only if there are no other runs. Unfinished runs are only counted.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pargolf.core.errors import UserError
from pargolf.core.events import Event
from pargolf.report.entry import Entry
from pargolf.run.folder import RunFolder
from pargolf.study.ablate import WHOLE
from pargolf.watch.runlog import read_events

_MOST = 50_000


@dataclass(frozen=True)
class Gathered:
    """The folders found, by kind; `unfinished` is the number of runs that have not ended."""

    runs: tuple[Path, ...]
    ablations: tuple[Path, ...]
    submissions: tuple[Path, ...]
    unfinished: int


def gather(paths: Sequence[str | Path]) -> Gathered:
    """Search the folders. Raises `UserError` on a path that is not a folder, and if nothing is found."""
    names_read = ("result.json", "ablation.json", "submission.json", "recipe.json")
    folders: dict[str, dict[Path, None]] = {name: {} for name in names_read}  # each folder once, in order
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"{path} is not a folder. Name run folders, or folders of them.")
        for folder, names in _walk(path):
            for name in set(names) & set(folders):
                folders[name][folder] = None
    ablations = tuple(folders["ablation.json"])
    alone = [run for run in folders["result.json"] if folders["ablation.json"].keys().isdisjoint(run.parents)]
    runs = tuple(alone or [run for run in folders["result.json"] if run.parent.name == WHOLE])
    unfinished = len(set(folders["recipe.json"]) - set(folders["result.json"]))
    if not (runs or ablations or folders["submission.json"]):
        note = f" {unfinished} there have not ended." if unfinished else " Make some with `pargolf train`."
        raise UserError(f"No finished run lies in {', '.join(map(str, paths))}.{note}")
    return Gathered(runs, ablations, tuple(folders["submission.json"]), unfinished)


def entry_of(path: Path, *, page_folder: Path) -> Entry:
    """Read a run for the board, with a link from a page in `page_folder` to its own page, if it has one.

    Raises `UserError` on a file that is damaged, or of another version.
    """
    folder = RunFolder(path)
    page = folder["report.html"]
    link = os.path.relpath(page, page_folder).replace(os.sep, "/") if page.is_file() else ""
    return Entry(str(path), folder.read_result(), _events(folder), folder.read_documents(), link)


def _events(folder: RunFolder) -> list[Event]:
    """The run's events; empty if the file is missing. Raises `UserError` on damage."""
    path = folder["events.jsonl"]
    return read_events(path) if path.is_file() else []


def _walk(path: Path) -> Iterator[tuple[Path, Iterable[str]]]:
    """All folders in order, without hidden folders and the insides of runs."""
    for seen, (folder, inner, names) in enumerate(os.walk(path)):
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in ("checkpoints", "data"))
        if seen == _MOST:
            raise UserError(f"{path} contains more than {_MOST:,} folders. Name the ones to show.")
        yield Path(folder), names
