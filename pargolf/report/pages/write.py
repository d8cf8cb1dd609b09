"""Write pages: one in the folder of each run that ends, and a board of all runs below some folders.

    yield from with_page(events, out)       pass on the events of one run, and write its `report.html` at the end
    yield from with_pages(events)           pass on the events of many runs, and write each page when its run ends

If a page cannot be written, no run is lost: `result.json` exists by then, and `pargolf report RUN` writes the page.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pargolf.audit.judge import audit
from pargolf.core.ablation import read_ablation
from pargolf.core.devices import find_world
from pargolf.core.errors import UserError
from pargolf.core.events import Event, Progress
from pargolf.core.files import write_text
from pargolf.core.result import Result
from pargolf.core.work import Events, Work
from pargolf.report.pages.board import board_page
from pargolf.report.pages.gather import Gathered, entry_of, gather
from pargolf.report.pages.run import page_of
from pargolf.report.pages.template import PROOF
from pargolf.run.folder import RunFolder
from pargolf.run.signals import Signals
from pargolf.study.jobs import JobDone
from pargolf.study.sweep import TrialDone

T = TypeVar("T")
PAGE = "report.html"


def with_page(events: Iterable[Event], out: str | Path, *, device: str | None = None) -> Events[Result]:
    """Pass on the events of the run in `out`, then write its page (first process only); returns the result."""
    yield from events
    if find_world(device).main:
        write_run_page(out)
    return RunFolder(Path(out)).read_result()


def with_pages(events: Events[T]) -> Events[T]:
    """Pass on the events of many runs, and write the page of each one that ends; returns their value."""
    with Work(events) as work:
        for event in work:
            yield event
            if isinstance(event, JobDone) and event.run is not None:
                if not (event.resumed and (event.run.path / PAGE).is_file()):
                    write_run_page(event.run.path)
            elif isinstance(event, TrialDone) and event.state == "complete":
                write_run_page(event.run)
        return work.result()


def write_run_page(path: str | Path) -> Path:
    """Write the page of a finished run and return its path. Signals are delayed until it is written."""
    folder = RunFolder(Path(path))
    with Signals() as signals, signals.shielded():
        write_text(folder[PAGE], page_of(folder, folder.read_result()))
    return folder[PAGE]


def write_page(paths: Sequence[str | Path], *, out: str | Path | None = None, force: bool = False) -> Events[Path]:
    """Write the page of the only run in the folders, or a board of everything in them; returns the page's path.

    `out` None: `report.html` in the run's folder; for a board, `board.html` in the folder if one is named, else in the
    working folder. Raises `UserError` if `out` is another kind of file, and if everything is damaged.
    """
    gathered = gather(paths)
    if len(gathered.runs) == 1 and not gathered.ablations and not gathered.submissions:
        folder = RunFolder(gathered.runs[0])
        target = Path(out) if out else folder[PAGE]
        text = page_of(folder, folder.read_result())
    else:
        target = Path(out) if out else (Path(paths[0]) if len(paths) == 1 else Path()) / "board.html"
        title = Path(paths[0]).resolve().name if len(paths) == 1 else "Board"
        text = yield from _board(gathered, title, page_folder=target.parent)
    if target.is_file() and PROOF not in target.read_text(encoding="utf-8", errors="replace") and not force:
        raise UserError(f"{target} is not a page of pargolf. Choose another --out, or add --force to replace it.")
    write_text(target, text)
    return target


def _board(gathered: Gathered, title: str, *, page_folder: Path) -> Events[str]:
    """The board of everything gathered, with audits; damaged runs are listed there."""
    entries, ablations, audits, damaged = [], [], [], []
    total = len(gathered.runs) + len(gathered.submissions)
    for number, path in enumerate(gathered.runs, start=1):
        try:
            entries.append(replace(entry_of(path, page_folder=page_folder), audit=audit(path).to_json()))
        except UserError as error:
            damaged.append(str(error))
        yield Progress("reading", number, total, str(path))
    for number, path in enumerate(gathered.submissions, start=len(gathered.runs) + 1):
        audits.append(audit(path).to_json())
        yield Progress("reading", number, total, str(path))
    for path in gathered.ablations:
        try:
            ablations.append(read_ablation(path / "ablation.json"))
        except UserError as error:
            damaged.append(str(error))
    if damaged and not (entries or audits or ablations):
        raise UserError(damaged[0])
    return board_page(entries, title=title, ablations=ablations, audits=audits, damaged=damaged)
