"""Words on a terminal, nothing else: every command is one call of `pargolf.api`.

Bad input ends in one line on standard error and exit code 2. torch is imported only when needed, so `--help` and
`recipes` are fast. The commands are grouped in files by what they work on, and listed here in the order of `--help`.
"""

import json
import sys
from typing import Annotated

import typer

from pargolf.cli import artifacts, data, exporting, ledger, planning, recipes, results, runs
from pargolf.cli.group import FullNames, listed
from pargolf.cli.streams import output_error, settle_streams
from pargolf.cli.terminal import fail, one_line, waits_for_first
from pargolf.core.version import VERSION


def _print_version(requested: bool) -> None:
    if requested:
        print(f"pargolf {VERSION}")
        raise typer.Exit


def _begin(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
    ),
) -> None:
    """The workbench for byte-budget language models: train, pack, prove, score."""


app = typer.Typer(
    name="pargolf",
    cls=FullNames,
    callback=_begin,
    no_args_is_help=True,
    context_settings={"max_content_width": 120},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(
    cls=FullNames, no_args_is_help=True, help="Prepare, fetch and check training and validation data."
)
app.add_typer(data_app, name="data")
bench_app = typer.Typer(cls=FullNames, no_args_is_help=True, help="Measure what a technique costs and gains.")
app.add_typer(bench_app, name="bench")

app.command()(planning.golf)
app.command()(planning.plan)
app.command()(runs.train)
app.command()(runs.pack)
app.command()(runs.seeds)
app.command()(runs.ablate)
app.command()(runs.sweep)
app.command(context_settings={"allow_interspersed_args": False})(results.compare)
app.command()(results.report)
app.command()(ledger.runs)
app.command()(ledger.rerun)
app.command()(results.submit)
app.command("import")(runs.import_)
app.command()(artifacts.score)
app.command()(artifacts.probe)
app.command()(artifacts.inspect)
app.command()(artifacts.generate)
app.command()(exporting.export)
app.command("eval")(exporting.evaluate)
app.command()(exporting.serve)
app.command()(recipes.recipes)
app.command()(recipes.describe)
app.command()(recipes.diff)
app.command()(results.audit)
app.command()(artifacts.forecast)
bench_app.command("codec")(artifacts.codec)
bench_app.command("device")(exporting.device)
data_app.command("prepare")(data.prepare)
data_app.command("fetch")(data.fetch)
data_app.command("check")(data.check)


@app.command("help")
def help_(
    as_json: Annotated[bool, typer.Option("--json", help="Print every command with all its options, as JSON.")] = False,
) -> None:
    """List every command; with --json, all their options too."""
    if as_json:
        print(json.dumps(listed(typer.main.get_command(app)), ensure_ascii=False))
    else:
        app(["--help"], prog_name="pargolf")


def main() -> None:
    """Run the command line. An error that the user can fix becomes one line and exit code 2."""
    settle_streams()
    if waits_for_first(sys.argv[1:]):
        return
    system_exit: SystemExit | None = None
    try:
        app(prog_name="pargolf")
    except SystemExit as error:
        system_exit = error
    except (Exception, KeyboardInterrupt) as error:
        line = one_line(error)
        if line is None:
            raise
        fail(line)
    reason = output_error()
    if reason:
        fail(f"Standard output could not be written: {reason}.")
    if system_exit is not None:
        raise system_exit
