"""Read what a run folder of this package recorded: its result, typed and checked, its log, and their lines.

Reading needs no torch. If only `legal` contradicts the rest of a result, the result is still read and the contradiction
is noted, so that a judge can also name other faults.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pargolf.audit.code.script import text_of
from pargolf.audit.read.logs import Log, read_log
from pargolf.audit.read.submission import File, Folder
from pargolf.audit.read.target import open_target
from pargolf.audit.report import Evidence
from pargolf.core.errors import UserError
from pargolf.core.result import Result, result_of
from pargolf.core.strict import parse_json

RESULT, LOG, ARTIFACT = "result.json", "train.log", "model.pargolf"


def is_run(folder: Folder) -> bool:
    """Whether a folder is one of our runs: it has a recipe and no submission."""
    names = {f.path for f in folder.files}
    return "recipe.json" in names and bool(names & {RESULT, "events.jsonl"}) and "submission.json" not in names


def run_folders(target: str | Path) -> list[Path]:
    """The run folders of a target; none if it is a submission or in git."""
    if str(target).startswith("git:"):
        return []
    return [folder.place for folder in open_target(target).folders if folder.place is not None and is_run(folder)]


@dataclass
class Recorded:
    """A run folder, read. `result` is None if there is an `error`; `forged` is the contradiction in `legal` alone."""

    files: dict[str, File]
    result: Result | None = None
    error: str = ""
    forged: str = ""
    log: Log | None = None
    lines: list[str] = field(default_factory=list)

    def at(self, *keys: str) -> tuple[Evidence, ...]:
        """The lines of result.json with these keys."""
        evidence = []
        for key in keys:
            for i, line in enumerate(self.lines, 1):
                if f'"{key}"' in line:
                    evidence.append(Evidence(RESULT, i, line.strip()[:240]))
                    break
        return tuple(evidence)


def read_run(folder: Folder) -> Recorded:
    """Read a run folder. Never raises: `error` names what cannot be read."""
    run = Recorded({f.path: f for f in folder.files})
    file = run.files.get(RESULT)
    data = file.read() if file is not None else None
    if file is None:
        run.error = "There is no result.json: the run did not end"
    elif data is None:
        run.error = f"{RESULT} ({file.size:,} bytes) could not be read"
    else:
        text = text_of(data)
        run.lines = text.splitlines()
        _read_result(run, text)
    log = run.files[LOG].read() if LOG in run.files else None
    run.log = read_log(LOG, text_of(log)) if log is not None else None
    return run


def _read_result(run: Recorded, text: str) -> None:
    try:
        value: Any = parse_json(text, RESULT)
        try:
            run.result = result_of(value, where=RESULT)
        except UserError as error:
            if not isinstance(value, dict) or not isinstance(value.get("legal"), bool):
                raise
            run.forged = str(error)
            run.result = result_of({**value, "legal": not value["legal"]}, where=RESULT)
    except UserError as error:
        run.forged, run.error = "", run.forged or str(error)
