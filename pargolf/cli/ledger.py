"""Commands on all the runs of a folder: list them, query them, repeat one."""

from typing import Annotated

import typer

from pargolf import api
from pargolf.cli.options import ASKED, Arguments, command
from pargolf.cli.terminal import console, fail
from pargolf.report.text.ledger import SHOWN, ledger_csv, ledger_table


@command(api.list_runs, hidden=["columns"])
def runs(
    arguments: Arguments,
    columns: Annotated[str, typer.Option(help="Columns to show, separated by commas; all shows every column.")] = "",
    limit: Annotated[int | None, typer.Option(help="Show at most this many rows.", min=1)] = None,
    sql: Annotated[str, typer.Option(help="Query the table `runs` in SQL instead; needs DuckDB.")] = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
) -> None:
    """Print a row for each run, as a table, JSON or comma-separated values."""
    if sql and (arguments["sort"] or columns):
        fail("--sql has its own order and columns. Leave out --sort and --columns.")
    every = columns == "all" or (not columns and (arguments.as_json or as_csv))
    names = [] if every else [name.strip() for name in columns.split(",")] if columns else list(SHOWN)
    quiet = Arguments(
        {**arguments.values, "columns": names, "sql": sql}, as_json=arguments.as_json or as_csv or bool(sql)
    )
    rows = quiet.result(api.query_runs) if sql else quiet.result(api.list_runs).rows
    names = list(rows[0]) if rows else names
    shown = rows[:limit]
    if arguments.prints_json(shown):
        return
    if as_csv:
        print(ledger_csv(shown, names), end="")
        return
    console.print(ledger_table(shown, names))
    console.print(f"{len(rows):,} runs" + (f", {len(shown):,} shown" if len(shown) < len(rows) else ""))


@command(api.rerun, threads=ASKED)
def rerun(arguments: Arguments) -> None:
    """Print both scores, and the differences."""
    repeated = arguments.result(api.rerun)
    numbers = {"first": repeated.first.val_bpb, "second": repeated.second.val_bpb, "same_bytes": repeated.same_bytes}
    if arguments.prints_json(numbers | {"apart": repeated.apart}):
        return
    words = "the same bytes" if repeated.same_bytes else "other bytes"
    console.print(f"{repeated.first.val_bpb:.6f} then, {repeated.second.val_bpb:.6f} now: {words}")
    for line in repeated.apart:
        console.print(f"  {line}")
    console.print(f"-> {arguments['out']}", soft_wrap=True)
