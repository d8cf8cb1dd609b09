"""Commands on what runs came to: tests, pages, submissions, and the judge of anybody's."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pargolf.cli.terminal import DeviceOpt, JsonOpt, OwnOpt, ThreadsOpt, console, fail, set_threads, watch
from pargolf.core.errors import UserError


def compare(
    words: Annotated[list[str], typer.Argument(metavar="A... --against B...", help="Runs, or folders of runs.")],
    as_json: JsonOpt = False,
) -> None:
    """Test whether runs A beat runs B (or one published number) by the record rule: .005 nats at p < .01."""
    from pargolf import api
    from pargolf.report.text.statistics import comparison_table

    as_json = as_json or "--json" in words
    words = [word for word in words if word != "--json"]
    if words.count("--against") != 1:
        raise UserError("Say against what: pargolf compare runs/new --against runs/old, or --against 1.1194.")
    middle = words.index("--against")
    test, rows = api.compare(words[:middle], against=words[middle + 1 :])
    if as_json:
        print(json.dumps(rows))
    else:
        console.print(comparison_table(test, rows))


def report(
    paths: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run folders, or folders of them.")],
    out: Annotated[Path | None, typer.Option(help="The page; in the folder when left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no page of ours.")] = False,
    as_json: JsonOpt = False,
    own: OwnOpt = None,
) -> None:
    """Write the page of one run, or a board over many with their ablations and submissions."""
    from pargolf import api

    page = watch(api.write_report(paths, out=out, force=force, own=own or ()), quiet=as_json)
    if as_json:
        print(json.dumps({"page": str(page)}))
    else:
        console.print(f"-> {page}", soft_wrap=True)


def submit(
    runs: Annotated[list[Path], typer.Argument(help="Runs of one recipe, one per seed; or a folder of them.")],
    out: Annotated[Path, typer.Option(help="The folder to make: records/TRACK/DATE_NAME.")],
    squeeze: Annotated[
        bool, typer.Option("--squeeze", help="Ship the script minified and compressed; by itself where it must be.")
    ] = False,
    artifacts: Annotated[bool, typer.Option("--artifacts", help="Put the artifacts in as well.")] = False,
    author: Annotated[str, typer.Option(help="Your name.")] = "",
    github_id: Annotated[str, typer.Option(help="Your name on GitHub.")] = "",
    blurb: Annotated[str, typer.Option(help="A sentence or two on what is new.")] = "",
    data: Annotated[
        Path | None, typer.Option("--data", help="The data to score the artifacts on again; the runs' own if left out.")
    ] = None,
    threads: ThreadsOpt = 0,
    device: DeviceOpt = None,
    as_json: JsonOpt = False,
    own: OwnOpt = None,
) -> None:
    """Write a submission: one script that needs none of this package, README, submission.json, logs.

    Each artifact is scored again first, and a run whose files do not agree with it is refused.
    """
    set_threads(threads)
    from dataclasses import asdict

    from pargolf import api
    from pargolf.report.text.statistics import spread_line

    events = api.write_submission(
        runs,
        out=out,
        squeeze=squeeze,
        artifacts=artifacts,
        author=author,
        github_id=github_id,
        blurb=blurb,
        data=data,
        device=device,
        own=own or (),
    )
    made = watch(events, quiet=as_json)
    if as_json:
        print(json.dumps({**asdict(made), "path": str(made.path)}))
        return
    why = " because the readable one does not fit" if made.squeezed_to_fit and not squeeze else ""
    form = "squeezed" if made.code == made.squeezed else "readable"
    console.print(
        f"script  {made.readable:,} bytes to read, {made.squeezed:,} squeezed; the {form} one is shipped{why}"
    )
    console.print(f"total   {made.total:,} bytes with the largest artifact, of {made.cap:,}")
    console.print(f"score   {spread_line(made.bpb)}, and the same when scored again from the artifacts")
    console.print(f"-> {made.path}   next: pargolf audit {made.path}", soft_wrap=True)


def audit(
    target: Annotated[
        str, typer.Argument(help="A records folder, a script, a run, git:REPO@REF; with --all git:REPO.")
    ],
    every: Annotated[bool, typer.Option("--all", help="Judge every pull request head of a repository.")] = False,
    prs: Annotated[str | None, typer.Option(help="With --all: only these, for example 1-2200.")] = None,
    out: Annotated[
        Path, typer.Option(help="With --all: where the reports go, a line each; resumed when there.")
    ] = Path("audit.jsonl"),
    html: Annotated[Path | None, typer.Option(help="With --all: a folder of pages to browse.")] = None,
    jobs: Annotated[int | None, typer.Option(help="With --all: processes; one per core when left out.")] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Also import the script in a sandbox and probe its model.")
    ] = False,
    record: Annotated[
        str | None, typer.Option(help="The record to beat: its scores, 1.1147,1.1150, or the submission that holds it.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Also score the artifact of a run of ours again, on this data.")
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Judge a submission by the rules, with evidence; executes none of it without --run. Exits 2 unless it passes."""
    from pargolf.audit import judge
    from pargolf.audit.report import ORDER, PASS
    from pargolf.audit.terminal import render

    beaten = None if record is None else judge.record_of(record)
    if not every:
        report = judge.audit(target, run=run, record=beaten, recomputed=_recomputed(target, data, quiet=as_json))
        if as_json:
            print(json.dumps(report.to_json(), ensure_ascii=False))
        else:
            console.print(render(report))
        raise typer.Exit(0 if report.verdict == PASS else 2)
    if run or data is not None:
        fail("--run and --data look at one target at a time. Leave out --all.")
    from pargolf import api
    from pargolf.audit.batch import read_reports

    watch(api.judge_all(target, out=out, prs=prs, jobs=jobs, record=record))
    reports = read_reports(out)
    counts = {word: sum(line["verdict"] == word for line in reports) for word in reversed(ORDER)}
    console.print(
        f"{len(reports):,} judged: " + ", ".join(f"{n:,} {word}" for word, n in counts.items()) + f"  -> {out}"
    )
    if html is not None:
        from pargolf.audit.site import write_site
        from pargolf.report.pages.html import page

        console.print(f"-> {write_site(reports, html, shell=page)}")


def _recomputed(target: str, data: Path | None, *, quiet: bool) -> dict[Path, Any]:
    """What the run folders of a target give again; nothing is loaded for where there are none."""
    from pargolf.audit.own_runs.recorded import run_folders

    folders = run_folders(target)
    if not folders:
        if data is not None:
            raise UserError(f"{target} is no run of ours, whose artifact could be scored again. Leave out --data.")
        return {}
    from pargolf.audit.own_runs.recompute import recompute
    from pargolf.core.work import Work

    return {folder: watch(Work(recompute(folder, data=data)), quiet=quiet) for folder in folders}
