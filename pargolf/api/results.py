"""Calls on finished runs: compare, report, submit; and judge any submission."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pargolf.api.parameters import Own, PathLike, Target
from pargolf.core.errors import UserError
from pargolf.core.own import use
from pargolf.core.ranges import Count
from pargolf.core.work import Events, working

if TYPE_CHECKING:
    from pargolf.audit.report import Report
    from pargolf.core.stats import Comparison
    from pargolf.submit.bundle import Bundle


def compare(new: Sequence[PathLike], *, against: Sequence[PathLike]) -> "tuple[Comparison, dict[str, Any]]":
    """Test whether runs A beat runs B (or one published number) by the record rule: better by .005 nats at p < .01.

    Args:
        new: Runs, or folders of runs.
        against: Runs, folders of runs, or one published number.

    Returns:
        The test, and everything as plain JSON.
    """
    from pargolf.study.compare import compare_runs

    return compare_runs(new, against)


@working
def write_report(
    paths: Sequence[PathLike], *, out: PathLike | None = None, force: bool = False, own: Own = ()
) -> Events[Path]:
    """Write the page of one run, or a board over many with their ablations and submissions.

    Args:
        paths: Run folders, or folders of run folders.
        out: The page to write; in the folder itself when left out.
        force: Replace a file that is not a page of pargolf.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.

    Returns:
        The page's path: `report.html` in the run's folder; for a board, `board.html` in the folder if only one is
        named, else in the working folder. Runs and submissions are audited, which executes none of their code. If a
        run uses files that are not named, its page leaves the recipe's rows out.
    """
    from pargolf.report.pages.write import write_page

    use(own)
    return (yield from write_page(paths, out=out, force=force))


@working
def write_submission(
    runs: Sequence[PathLike],
    *,
    out: PathLike,
    squeeze: bool = False,
    artifacts: bool = False,
    author: str = "",
    github_id: str = "",
    blurb: str = "",
    data: PathLike | None = None,
    device: str | None = None,
    own: Own = (),
) -> "Events[Bundle]":
    """Write a submission: one script that needs none of this package, README, submission.json, logs.

    It scores each artifact again first, and refuses a run whose files contradict the artifact.

    Args:
        runs: Runs of one recipe, one for each seed; or a folder of them.
        out: The folder to make: records/TRACK/DATE_NAME.
        squeeze: Ship the script minified and compressed; without this, only if the readable one does not fit.
        artifacts: Also put the artifacts into the folder.
        author: Your name.
        github_id: Your name on GitHub.
        blurb: A sentence or two on what is new.
        data: Data to score the artifacts on; the runs' own when left out.
        device: cpu, cuda, cuda:1, mps or xpu; CUDA if there is one when left out.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.

    Returns:
        The submission, with its bytes and its score.
    """
    from pargolf.submit.bundle import Author, bundle

    use(own)
    submitter = Author(author, github_id, blurb)
    events = bundle(runs, out, squeeze=squeeze, artifacts=artifacts, author=submitter, data=data, device=device)
    return (yield from events)


@working
def judge(
    target: Target,
    *,
    run: bool = False,
    unsafe: bool = False,
    record: str | None = None,
    data: PathLike | None = None,
) -> "Events[Report]":
    """Judge a submission by the rules, with evidence; runs its code only with --run, in a sandbox.

    Args:
        target: A records folder, a script, a run, or git:REPO@REF.
        run: Also run the script in a sandbox: its model at small size, and its own main.
        unsafe: Run it even if this system has no sandbox. Only for a script that you trust.
        record: The record to beat: its scores, 1.1147,1.1150, or the submission that holds it.
        data: Also score again the artifact of a run made by pargolf, on this data.

    Returns:
        The verdict, and every finding with its evidence; `to_json()` is what `--json` prints.
    """
    from pargolf.audit.judge import audit, record_of
    from pargolf.audit.own_runs.recorded import run_folders

    beaten = None if record is None else record_of(record)
    recomputed = {}
    if folders := run_folders(target):
        from pargolf.audit.own_runs.recompute import recompute

        for folder in folders:
            recomputed[folder] = yield from recompute(folder, data=data)
    elif data is not None:
        raise UserError(f"{target} is not a run of pargolf, so it cannot be scored again. Leave out --data.")
    runner = None
    if run:
        from pargolf.audit.running import runner as running

        runner = running(unsafe=unsafe)
    return audit(target, runner=runner, record=beaten, recomputed=recomputed)


@working
def judge_all(
    target: Target,
    *,
    out: PathLike = "audit.jsonl",
    prs: str | None = None,
    jobs: Count | None = None,
    on: str = "local",
    record: str | None = None,
    html: PathLike | None = None,
    derived: bool = False,
) -> Events[list[dict[str, Any]]]:
    """Judge every pull request head of a repository, except those that have a report in `out`.

    Args:
        target: git:REPO.
        out: The file for the reports, one line each; heads in it are not judged again.
        prs: Only these pull requests, for example 1-2200.
        jobs: Processes; one for each core when left out.
        on: Where to run: local, ray (the cluster of RAY_ADDRESS, or one of this machine), or ray://HOST:10001.
        record: The record to beat: its scores, 1.1147,1.1150, or the submission that holds it.
        html: Also write pages to browse into this folder.
        derived: Also find which earlier head each script is derived from; written beside `out` as .derived.json.

    Returns:
        All reports in `out` as JSON.
    """
    from pargolf.audit.batch import Range, audit_all, read_reports
    from pargolf.audit.judge import record_of
    from pargolf.engines.choose import LOCAL, choose
    from pargolf.report.pages.audits import write_site

    numbers = None if prs is None else Range.parse(prs)
    beaten = None if record is None else record_of(record)
    jobs = jobs or os.cpu_count() if on == LOCAL else jobs
    yield from audit_all(target, out=out, prs=numbers, engine=choose(on, jobs=jobs), record=beaten)
    reports = read_reports(out)
    sources = {}
    if derived:
        from pargolf.audit.derived import derive_all

        derivations = yield from derive_all(target, out=Path(out).with_suffix(".derived.json"))
        sources = {f"#{number}": one.words for number, one in derivations.items()}
    if html is not None:
        write_site(reports, html, sources=sources)
    return reports
