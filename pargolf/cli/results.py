"""Commands on finished runs: compare, report, submit; and audit, for any submission."""

from typing import Annotated

import typer

from pargolf import api
from pargolf.cli.options import ASKED, Arguments, command
from pargolf.cli.terminal import console, fail, print_next
from pargolf.core.errors import UserError
from pargolf.report.reviews import FORMS, written
from pargolf.report.text.audits import counts_line, report_text
from pargolf.report.text.statistics import comparison_table, spread_line

_AUDIT = """Judge a submission by the rules, with evidence; runs its code only with --run. Exit code 2 unless it passes.

--prs, --out, --jobs, --on, --html and --derived need --all. --run, --unsafe, --data and --format need a single target.
"""


@command(api.compare, hidden=["new", "against"])
def compare(
    arguments: Arguments,
    words: Annotated[list[str], typer.Argument(metavar="A... --against B...", help="Runs, or folders of runs.")],
) -> None:
    """Read both sides, separated by `--against`, and print the test."""
    as_json = arguments.as_json or "--json" in words
    words = [word for word in words if word != "--json"]
    if words.count("--against") != 1:
        raise UserError("Name what to compare with: pargolf compare runs/new --against runs/old, or --against 1.1194.")
    middle = words.index("--against")
    test, rows = api.compare(words[:middle], against=words[middle + 1 :])
    if not Arguments({}, as_json=as_json).prints_json(rows):
        console.print(comparison_table(test, rows))


@command(api.write_report)
def report(arguments: Arguments) -> None:
    """Print the page's path."""
    page = arguments.result(api.write_report)
    if not arguments.prints_json({"page": page}):
        console.print(f"-> {page}", soft_wrap=True)


@command(api.write_submission, threads=ASKED)
def submit(arguments: Arguments) -> None:
    """Print the bytes, the score, and the folder's path."""
    submission = arguments.result(api.write_submission)
    if arguments.prints_json(submission):
        return
    note = " because the readable one does not fit" if submission.squeezed_to_fit and not arguments["squeeze"] else ""
    form = "squeezed" if submission.code == submission.squeezed else "readable"
    console.print(
        f"script  {submission.readable:,} bytes to read, {submission.squeezed:,} squeezed; the {form} one ships{note}"
    )
    console.print(f"total   {submission.total:,} bytes with the largest artifact, of {submission.cap:,}")
    console.print(f"score   {spread_line(submission.bpb)}")
    console.print("        the same when scored again from the artifacts")
    print_next(submission.path, "audit", submission.path)


@command(api.judge, api.judge_all, text=_AUDIT)
def audit(
    arguments: Arguments,
    every: Annotated[bool, typer.Option("--all", help="Judge every pull request head of a repository.")] = False,
    form: Annotated[str, typer.Option("--format", help="Print text, markdown, json, sarif or github.")] = "text",
) -> None:
    """Print the report, or with --all the counts; exit code 2 unless it passed."""
    if form not in ("text", *FORMS):
        fail(f"--format is text, {', '.join(FORMS)}; not {form}.")
    if every:
        if form != "text":
            fail("--format is for one target at a time. Leave out --all.")
        if arguments["run"] or arguments["data"] is not None:
            fail("--run and --data are for one target at a time. Leave out --all.")
        reports = arguments.result(api.judge_all)
        console.print(f"{counts_line(reports)}  -> {arguments['out']}")
        if arguments["derived"]:
            console.print(f"-> {arguments['out'].with_suffix('.derived.json')}")
        if arguments["html"] is not None:
            console.print(f"-> {arguments['html'] / 'index.html'}")
        return
    report = arguments.result(api.judge)
    if form != "text" and not arguments.as_json:
        print(written(report, form), end="")
    elif not arguments.prints_json(report.to_json()):
        console.print(report_text(report))
    raise typer.Exit(0 if report.passed else 2)
