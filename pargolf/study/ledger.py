"""A table of every run under some folders: one row for each run, with all that is needed to repeat it.

A row is flat: the fields of `result.json` under short names, the folder, its state, and when it ended. `state` is
`finished`, `interrupted`, `unfinished` (no result yet) or `damaged` (with the reason under `note`); a damaged folder
does not hide others. Rows are cached per folder in the user's cache, each with the size, time and inode of its
`result.json`; if one of these changes, the file is read again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.extras import extra
from pargolf.core.files import cache_folder, write_text
from pargolf.core.result import Result, read_result
from pargolf.core.version import VERSION
from pargolf.core.work import Events
from pargolf.study.filters import check_column, read_filter

COLUMNS: dict[str, Callable[[Result], Any]] = {
    "recipe": lambda r: r.recipe,
    "seed": lambda r: r.seed,
    "bpb": lambda r: r.val_bpb,
    "loss": lambda r: r.val_loss,
    "legal": lambda r: r.legal,
    "why_not": lambda r: "; ".join(r.why_not),
    "total": lambda r: r.bytes.total,
    "model": lambda r: r.bytes.model,
    "code": lambda r: r.bytes.code,
    "cap": lambda r: r.bytes.cap,
    "grids": lambda r: r.grids.value,
    "steps": lambda r: r.steps,
    "seconds": lambda r: r.train_seconds,
    "eval_seconds": lambda r: r.eval_seconds,
    "parameters": lambda r: r.parameters,
    "train_tokens": lambda r: r.train_tokens,
    "val_tokens": lambda r: r.val_tokens,
    "val_bytes": lambda r: r.val_bytes,
    "adaptation": lambda r: r.adaptation,
    "rests": lambda r: None if r.proof is None else r.proof.rests.value,
    "digest": lambda r: r.digest,
    "artifact": lambda r: r.artifact_sha256,
    "shards": lambda r: None if r.proof is None else " ".join(sorted(r.proof.shards_sha256.values())),
    "tokenizer": lambda r: None if r.proof is None else r.proof.tokenizer_sha256,
    "data": lambda r: r.data,
    "processor": lambda r: r.machine.processor,
    "threads": lambda r: r.machine.threads,
    "processes": lambda r: r.machine.world_size,
    "torch": lambda r: r.machine.torch,
    "python": lambda r: r.machine.python,
    "system": lambda r: r.machine.system,
    "version": lambda r: r.version,
    "command": lambda r: r.command,
}
"""The columns from a result, in the order of the full table."""
ALL = ("run", "state", "ended", *COLUMNS, "note")
"""Every column: the run's folder, its state, when it ended (UTC), the columns of the result, and what is wrong."""
_SKIPPED = {"checkpoints", "own", "data", "__pycache__"}
_DEEPEST = 12

Row = dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """Rows of runs with all columns of `ALL`, or the chosen ones."""

    rows: list[Row]

    def frame(self) -> Any:
        """The rows as a `pandas.DataFrame`. Raises `UserError` if pandas is not installed."""
        return extra("pandas", "frame").DataFrame(self.rows, columns=list(self.rows[0]) if self.rows else list(ALL))

    def results(self) -> list[Result]:
        """The full results of the runs that have one, in the order of the rows. Raises `UserError` on damage."""
        return [
            read_result(Path(row["run"]) / "result.json")
            for row in self.rows
            if row["state"] in ("finished", "interrupted")
        ]

    def where(self, text: str) -> "Ledger":
        """The rows that match a filter (`study/filters.py`). Raises `UserError` if it is not a valid filter."""
        keeps = read_filter(text, ALL)
        return Ledger([row for row in self.rows if keeps(row)])

    def sorted(self, column: str) -> "Ledger":
        """The rows sorted by a column, descending with a `-` before its name; rows without a value come last."""
        name = check_column(column.removeprefix("-"), ALL)
        valued = [row for row in self.rows if row[name] is not None]
        valued.sort(key=lambda row: row[name], reverse=column.startswith("-"))
        return Ledger(valued + [row for row in self.rows if row[name] is None])

    def choose(self, columns: Sequence[str]) -> "Ledger":
        """The rows with some of their columns. Raises `UserError` on an unknown column."""
        names = [check_column(name, ALL) for name in columns]
        return Ledger([{name: row[name] for name in names} for row in self.rows])


def read_ledger(folders: Sequence[str | Path]) -> Events[Ledger]:
    """Every run at or below the folders, by path. Raises `UserError` if a folder does not exist."""
    rows: list[Row] = []
    for folder in dict.fromkeys(Path(path) for path in folders):
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}. Name one that holds runs: pargolf runs DIR...")
        rows += yield from _read_below(folder)
    unique = {os.path.realpath(row["run"]): row for row in rows}
    return Ledger(list(unique.values()))


def _read_below(folder: Path) -> Events[list[Row]]:
    """The rows below one folder, from the cache if current; then the cache is rewritten with exactly these rows."""
    cache = _Cache(folder)
    known, current, rows = cache.read(), dict[str, _CachedRun](), list[Row]()
    runs = sorted(_run_folders(str(folder)))
    for index, run in enumerate(runs):
        mark = _mark(f"{run}/result.json")
        entry = known.get(run)
        if mark is not None and entry is not None and entry["mark"] == mark:
            row = entry["row"]
        else:
            row = _read_row(run, has_result=mark is not None)
            if index % 50 == 0:
                yield Progress("reading runs", index, len(runs), run)
        if mark is not None:
            current[run] = {"mark": mark, "row": row}
        rows.append({name: row.get(name) for name in ALL} | {"run": run})
    if current != known:
        cache.write(current)
    return rows


def _run_folders(folder: str, depth: int = 0) -> Iterator[str]:
    """The run folders at or below a folder; links are not followed, and runs are not searched inside."""
    with os.scandir(folder) as entries:
        inner = list(entries)
    if any(entry.name == "recipe.json" for entry in inner):
        yield folder
        return
    for entry in inner:
        hidden = entry.name.startswith(".") or entry.name in _SKIPPED
        if not hidden and depth < _DEEPEST and entry.is_dir(follow_symlinks=False):
            yield from _run_folders(entry.path, depth + 1)


def _mark(path: str) -> list[int] | None:
    """Size, time and inode of a file, which show whether it changed; None if there is no file."""
    try:
        about = Path(path).stat()
    except OSError:
        return None
    return [about.st_size, about.st_mtime_ns, about.st_ino]


def _read_row(run: str, *, has_result: bool) -> Row:
    if not has_result:
        return {"state": "unfinished"} | _read_started(run)
    path = Path(run) / "result.json"
    try:
        result = read_result(path)
        ended = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (UserError, OSError) as error:
        return {"state": "damaged", "note": str(error)}
    state = "interrupted" if result.interrupted else "finished"
    return {"state": state, "ended": ended} | {name: value(result) for name, value in COLUMNS.items()}


def _read_started(run: str) -> Row:
    """The row of a run without a result, from the first line of its events."""
    try:
        with (Path(run) / "events.jsonl").open("rb") as file:
            line = json.loads(file.readline(65_536))
        values = {name: line[name] for name in ("recipe", "digest", "seed", "parameters")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    kinds = {"recipe": str, "digest": str, "seed": int, "parameters": int}
    return {name: value for name, value in values.items() if type(value) is kinds[name]}


class _CachedRun(TypedDict):
    """The row of a run, and the mark of the `result.json` that it was read from."""

    mark: list[int]
    row: Row


class _Cache:
    """A file with the rows of one folder; if it cannot be read or written, it counts as empty."""

    def __init__(self, folder: Path) -> None:
        self._key = f"{VERSION} {','.join(ALL)} {folder}"
        self._folder = os.path.realpath(folder)

    def read(self) -> dict[str, _CachedRun]:
        """Read the rows, each with the mark of its file."""
        try:
            cached = json.loads(self._path().read_text(encoding="utf-8"))
            rows = cached["runs"] if cached["key"] == self._key else {}
            whole = all(type(entry["mark"]) is list and type(entry["row"]) is dict for entry in rows.values())
            return rows if whole else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError):
            return {}

    def write(self, rows: dict[str, _CachedRun]) -> None:
        """Write the rows."""
        try:
            path = self._path()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps({"key": self._key, "runs": rows}))
        except (OSError, UserError):
            pass

    def _path(self) -> Path:
        name = hashlib.sha256(f"{self._key}\n{self._folder}".encode()).hexdigest()
        return cache_folder() / "ledger" / f"{name}.json"
