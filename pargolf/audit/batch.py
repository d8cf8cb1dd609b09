"""Audit every pull request of a repository: all cores, one JSON line per head, resumable, with progress.

The output file is the memory of the work: a head whose line (with the same hash) is already there is not judged again,
and a line cut short by a kill is dropped. Workers are processes that each keep one `git cat-file`; a head that takes
longer than a minute, or that trips over a bug of ours, gets a report that says so instead of a verdict.
"""

import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pargolf.audit.judge import judge
from pargolf.audit.read.repository import Repository
from pargolf.audit.report import UNVERIFIABLE, Evidence, Report, RuleFinding
from pargolf.audit.rules.rule import Record
from pargolf.core.errors import UserError
from pargolf.core.events import Event, Progress
from pargolf.core.files import replacing
from pargolf.core.work import Events

MOST_SECONDS = 60
_repository: Repository | None = None


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
    """One head was judged."""

    report: Report


def audit_all(
    repo: str | Path,
    *,
    out: str | Path,
    prs: Range | None = None,
    jobs: int | None = None,
    record: Record | None = None,
) -> Events[int]:
    """Judge every pull request head of `repo` and append each report to `out` as one line of JSON.

    Yields a `Judged` after each head; returns how many were judged now. Raises `UserError` when there are no heads.
    """
    repo = str(repo).removeprefix("git:")
    with Repository(repo) as opened:
        heads = opened.pulls()
    wanted = {n: sha for n, sha in sorted(heads.items()) if prs is None or prs.first <= n <= prs.last}
    if not wanted:
        raise UserError(f"{repo} has no pull request heads in that range; it has {min(heads)} to {max(heads)}.")
    out = Path(out)
    done = {(line["target"], line["head"]) for line in read_reports(out)}
    left = [n for n, sha in wanted.items() if (_target(repo, n), sha) not in done]
    total = len(wanted)
    yield Progress(
        "audit", total - len(left), total, f"{total - len(left)} already judged" if len(left) < total else ""
    )
    with out.open("a", encoding="utf-8") as file:
        for finished, report in enumerate(_work(repo, left, jobs, record), total - len(left) + 1):
            file.write(json.dumps(report.to_json(), ensure_ascii=False) + "\n")
            file.flush()
            yield Judged(report)
            yield Progress("audit", finished, total, f"{report.target.rpartition('@')[2]} {report.verdict}")
    return len(left)


def read_reports(path: str | Path) -> list[dict[str, Any]]:
    """The reports of an earlier run; a last line cut short is removed from the file."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    reports = []
    good = []
    for line in lines:
        with contextlib.suppress(ValueError):
            held = json.loads(line)
            if isinstance(held, dict) and {"target", "head", "verdict", "findings"} <= held.keys():
                reports.append(held)
                good.append(line)
    if len(good) < len([line for line in lines if line]):
        if not good and any(lines):
            raise UserError(f"{path} is not a file of reports. Choose another --out.")
        with replacing(path) as file:
            file.write(b"".join(line + b"\n" for line in good))
    return reports


class _Late(BaseException):
    """The time for one head is up. No `Exception`, so that no rule takes it for an error of its own."""


def _target(repo: str, number: int) -> str:
    return f"git:{repo}@pull/{number}/head"


def _work(repo: str, numbers: list[int], jobs: int | None, record: Record | None) -> Iterator[Report]:
    jobs = jobs or os.cpu_count() or 1
    if jobs == 1 or len(numbers) < 8:
        _start(repo)
        for number in numbers:
            yield _one(repo, number, record)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(repo,)) as pool:
        waiting = [pool.submit(_one, repo, number, record) for number in numbers]
        try:
            for future in as_completed(waiting):
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()


def _start(repo: str) -> None:
    """Open the repository; a worker also ends with its parent, however that ended."""
    global _repository
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
    _repository = Repository(repo)


def _one(repo: str, number: int, record: Record | None) -> Report:
    assert _repository is not None
    target = _target(repo, number)
    ref = f"refs/pull/{number}/head"
    try:
        with _deadline(MOST_SECONDS):
            return judge(_repository.submission(ref, target=target), record=record)
    except _Late:
        why = f"the audit took longer than {MOST_SECONDS} s and was stopped"
    except Exception as error:
        why = f"the audit failed ({type(error).__name__}: {error})"
    finding = RuleFinding("package", UNVERIFIABLE, f"Nothing was checked: {why}.", (Evidence(ref, 0, ""),))
    head = _repository.pulls().get(number)
    return Report(target, head, None, (finding,), (why,))


@contextlib.contextmanager
def _deadline(seconds: int) -> Iterator[None]:
    """Raise `_Late` after so many seconds of the processor's time, so that a busy machine gives the same verdicts.

    Does nothing where the system has no such timer, or outside the main thread.
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
