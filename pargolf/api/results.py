"""Results compared, shown, judged, and made a submission."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pargolf.api.recipes import Own
from pargolf.audit.batch import Range, audit_all
from pargolf.audit.judge import audit, record_of
from pargolf.audit.own_runs.recompute import recompute
from pargolf.audit.own_runs.recorded import run_folders
from pargolf.core.ablation import read_ablation
from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.files import write_text
from pargolf.core.own import use
from pargolf.core.stats import Comparison
from pargolf.core.work import Events, Work, working
from pargolf.report.pages.board import board_page
from pargolf.report.pages.entry import Entry
from pargolf.report.pages.gather import entry_of, gather
from pargolf.report.pages.html import PROOF
from pargolf.report.pages.run import page_of
from pargolf.run.folder import RunFolder
from pargolf.study.compare import compare_runs
from pargolf.submit.bundle import Author, Bundle, bundle


def compare(new: Sequence[str | Path], *, against: Sequence[str | Path]) -> tuple[Comparison, dict[str, Any]]:
    """Test runs against others, or one published number, by the record rule; the test, and all of it as JSON."""
    return compare_runs(new, against)


@working
def write_report(
    paths: Sequence[str | Path], *, out: str | Path | None = None, force: bool = False, own: Own = ()
) -> Events[Path]:
    """Write the page of one run, or a board of all that the folders hold; where it is.

    `out` None: `report.html` in the run's folder, `board.html` in the one folder named, or in the working folder.
    Runs and submissions are audited, which executes nothing. `own`: files of techniques that a run uses, which are run;
    without them the page leaves the recipe's rows out. Raises `UserError` where `out` holds something else.
    """
    use(own)
    found = gather(paths)
    alone = len(found.runs) == 1 and not found.ablations and not found.submissions
    if alone:
        folder = RunFolder(found.runs[0])
        target = Path(out) if out else folder["report.html"]
        text = page_of(folder, folder.read_result())
    else:
        target = Path(out) if out else (Path(paths[0]) if len(paths) == 1 else Path()) / "board.html"
        entries, damaged, total = list[Entry](), list[str](), len(found.runs) + len(found.submissions)
        for place, path in enumerate(found.runs):
            try:
                entries.append(replace(entry_of(path, beside=target.parent), audit=audit(path).to_json()))
            except UserError as error:  # one damaged run is no reason to hide the others
                damaged.append(str(error))
            yield Progress("reading", place + 1, total, str(path))
        audits = []
        for path in found.submissions:
            audits.append(audit(path).to_json())
            yield Progress("reading", len(found.runs) + len(audits), total, str(path))
        ablations = []
        for path in found.ablations:
            try:
                ablations.append(read_ablation(path / "ablation.json"))
            except UserError as error:
                damaged.append(str(error))
        if damaged and not (entries or audits or ablations):
            raise UserError(damaged[0])
        text = board_page(entries, title=_board_title(paths), ablations=ablations, audits=audits, damaged=damaged)
    if target.is_file() and PROOF not in target.read_text(encoding="utf-8", errors="replace") and not force:
        raise UserError(f"{target} is no page of this package. Choose another --out, or say --force to replace it.")
    write_text(target, text)
    return target


@working
def write_submission(
    runs: Sequence[str | Path],
    *,
    out: str | Path,
    squeeze: bool = False,
    artifacts: bool = False,
    author: str = "",
    github_id: str = "",
    blurb: str = "",
    data: str | Path | None = None,
    device: str | None = None,
    own: Own = (),
) -> Events[Bundle]:
    """Write a submission's folder of some seeds of one recipe: script, README, submission.json and logs.

    Each artifact is first scored again, on `data` or where the run found its own. Raises
    `UserError` on whatever a run says that does not come out again. `own`: files of techniques that the runs use,
    which are run and are part of the script.
    """
    use(own)
    who = Author(author, github_id, blurb)
    return (yield from bundle(runs, out, squeeze=squeeze, artifacts=artifacts, author=who, data=data, device=device))


def judge(target: str | Path, *, record: str | None = None, data: str | Path | None = None) -> dict[str, Any]:
    """Audit a submission's folder, script, run or `git:REPO@REF` without executing it; the report as plain JSON.

    `record` names what a new record has to beat: its scores, `"1.1147,1.1150"`, or the submission that holds it. With
    `data` the artifacts of runs are scored again.
    """
    again = {folder: Work(recompute(folder, data=data)).result() for folder in run_folders(target)}
    beaten = None if record is None else record_of(record)
    return audit(target, record=beaten, recomputed=again).to_json()


@working
def judge_all(
    repo: str | Path,
    *,
    out: str | Path,
    prs: str | None = None,
    jobs: int | None = None,
    record: str | None = None,
) -> Events[int]:
    """Judge every pull request head of `repo`, a report a line in `out`; how many were judged now.

    `prs` names a range, as `"1-2200"`. What `out` holds already is not judged again.
    """
    wanted = None if prs is None else Range.parse(prs)
    beaten = None if record is None else record_of(record)
    return (yield from audit_all(repo, out=out, prs=wanted, jobs=jobs, record=beaten))


def _board_title(paths: Sequence[str | Path]) -> str:
    return Path(paths[0]).resolve().name if len(paths) == 1 else "Board"
