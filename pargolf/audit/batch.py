"""Audit every pull request of a repository: in parallel, resumable, with progress, one JSON line for each head.

The output file is also the state of the work: a head whose line (with the same hash) is there is not judged again, and
a line cut short by a kill is dropped. After the last head the lines are sorted by head. Each process (of an engine,
`engines/`) keeps one `git cat-file` open. Some heads get a report that says why there is no verdict: those that take
longer than a minute, meet a bug of ours, or end their process again and again.
"""

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pargolf.audit.judge import judge
from pargolf.audit.read.repository import Repository
from pargolf.audit.report import UNVERIFIABLE, Evidence, Report, RuleFinding
from pargolf.audit.rules.rule import Record
from pargolf.core.errors import UserError
from pargolf.core.events import Event, Progress
from pargolf.core.files import replacing, write_bytes
from pargolf.core.work import Events
from pargolf.engines.task import Engine, GivenUp, Happened, Place, Task, TaskEnded

MOST_SECONDS = 60
_FEW = 8  # so few heads take less time than starting processes


@dataclass(frozen=True)
class Range:
    """Pull requests from `first` to `last`, both included."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> "Range":
        """Read `1-2200` or `861`. Raises `UserError` on anything else."""
        first, _, last = text.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise UserError(f"'{text}' is no range of pull requests. Write 1-2200 or 861.")
        return cls(int(first), int(last or first))


@dataclass(frozen=True)
class Judged(Event):
    """One head was judged, with the processor seconds it took."""

    report: Report
    seconds: float


def audit_all(
    repo: str | Path,
    *,
    out: str | Path,
    prs: Range | None = None,
    engine: Engine | None = None,
    record: Record | None = None,
) -> Events[int]:
    """Judge every pull request head of `repo` and append each report to `out` as one line of JSON with its `seconds`.

    Without an `engine`, or if they are few, heads are judged in turn in this process. Yields a `Judged` after each head
    and returns how many were judged now. Raises `UserError` if there are no heads.
    """
    repo = str(repo).removeprefix("git:")
    with Repository(repo) as opened:
        heads = opened.pulls()
    wanted = {n: sha for n, sha in sorted(heads.items()) if prs is None or prs.first <= n <= prs.last}
    if not wanted:
        raise UserError(f"{repo} has no pull request heads in that range; it has {min(heads)} to {max(heads)}.")
    out = Path(out)
    done = {(line["target"], line["head"]) for line in read_reports(out)}
    unjudged = [n for n, sha in wanted.items() if (_target(repo, n), sha) not in done]
    total = len(wanted)
    yield Progress(
        "audit",
        total - len(unjudged),
        total,
        f"{total - len(unjudged)} already judged" if len(unjudged) < total else "",
    )
    with out.open("a", encoding="utf-8") as file:
        seconds = 0.0
        for finished, judged in enumerate(_work(repo, unjudged, wanted, engine, record), total - len(unjudged) + 1):
            report = judged.report
            seconds += judged.seconds
            line = {**report.to_json(), "seconds": round(judged.seconds, 2)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            yield judged
            what = f"{report.target.rpartition('@')[2]} {report.verdict}"
            yield Progress("audit", finished, total, f"{what}; {seconds:,.1f} s of the processor so far")
    _put_in_order(out, {(_target(repo, n), sha): n for n, sha in heads.items()})
    return len(unjudged)


def _put_in_order(out: Path, numbers: dict[tuple[str, str], int]) -> None:
    """Sort the file's lines by head. Lines of other heads stay first, in their order."""
    lines = [line for line in out.read_bytes().splitlines(keepends=True) if line.strip()]
    keys = [json.loads(line) for line in lines]
    order = sorted(range(len(lines)), key=lambda i: numbers.get((keys[i]["target"], keys[i]["head"]), -1))
    if order != list(range(len(lines))):
        write_bytes(out, b"".join(lines[i] for i in order))


def read_reports(path: str | Path) -> list[dict[str, Any]]:
    """The reports of an earlier run. A last line that was cut short is removed from the file."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    reports = []
    good = []
    for line in lines:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and {"target", "head", "verdict", "findings"} <= row.keys():
                reports.append(row)
                good.append(line)
    if len(good) < len([line for line in lines if line]):
        if not good and any(lines):
            raise UserError(f"{path} is not a file of reports. Choose another --out.")
        with replacing(path) as file:
            file.write(b"".join(line + b"\n" for line in good))
    return reports


class _Late(BaseException):
    """The time for one head is up. It is no `Exception`, so that no rule mistakes it for its own error."""


def _target(repo: str, number: int) -> str:
    return f"git:{repo}@pull/{number}/head"


def _work(
    repo: str, numbers: list[int], heads: dict[int, str], engine: Engine | None, record: Record | None
) -> Iterator[Judged]:
    """Judge each head; yields the reports as they come."""
    if engine is None or len(numbers) < _FEW:
        with Repository(repo) as opened:
            for number in numbers:
                yield _timed(opened, number, record, named=repo)
        return
    path = str(Path(repo).resolve())
    tasks = [Task(f"pull {number}", _judge, (path, repo, number, record)) for number in numbers]
    for event in engine.run(tasks):
        if isinstance(event, Happened) and isinstance(event.event, Judged):
            yield event.event
        elif isinstance(event, TaskEnded) and event.error is not None:
            if not isinstance(event.error, GivenUp):
                raise event.error
            number = numbers[event.number]
            yield Judged(_unjudged(repo, number, heads[number], f"the audit failed ({event.error})"), 0.0)


def _judge(place: Place, path: str, repo: str, number: int, record: Record | None) -> Iterator[Event]:
    """Judge one head of the repository at `path`, which the caller named `repo`, in a process."""
    yield _timed(_opened(path), number, record, named=repo)


@cache
def _opened(path: str) -> Repository:
    """The repository, which this process keeps open."""
    if not Path(path).exists():
        raise UserError(
            f"{socket.gethostname()} does not see {path}. Put the repository on storage that all nodes see."
        )
    return Repository(path)


def _timed(repository: Repository, number: int, record: Record | None, *, named: str) -> Judged:
    began = time.process_time()
    report = _one(repository, number, record, named=named)
    return Judged(report, time.process_time() - began)


def _one(repository: Repository, number: int, record: Record | None, *, named: str) -> Report:
    ref = f"refs/pull/{number}/head"
    try:
        with _deadline(MOST_SECONDS):
            return judge(repository.submission(ref, target=_target(named, number)), record=record)
    except _Late:
        why = f"the audit took longer than {MOST_SECONDS} s and was stopped"
    except Exception as error:
        why = f"the audit failed ({type(error).__name__}: {error})"
    return _unjudged(named, number, repository.pulls().get(number), why)


def _unjudged(repo: str, number: int, head: str | None, reason: str) -> Report:
    """The report of a head that could not be judged."""
    finding = RuleFinding(
        "package", UNVERIFIABLE, f"Nothing was checked: {reason}.", (Evidence(f"refs/pull/{number}/head", 0, ""),)
    )
    return Report(_target(repo, number), head, None, (finding,), (reason,))


@contextlib.contextmanager
def _deadline(seconds: int) -> Iterator[None]:
    """Raise `_Late` after this many processor seconds, so that a busy machine gives the same verdicts.

    Does nothing if the system has no such timer, or outside the main thread.
    """
    if not hasattr(signal, "SIGPROF"):
        yield
        return

    def stop(*_: object) -> None:
        raise _Late

    try:
        before = signal.signal(signal.SIGPROF, stop)
    except ValueError:
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
