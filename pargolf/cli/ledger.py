"""Commands on all the runs of a folder: list them, ask them, run one again."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pargolf.cli.terminal import DeviceOpt, ForceOpt, JsonOpt, OwnOpt, ThreadsOpt, console, fail, set_threads, watch


def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="DIR...", help="Folders of runs; runs/ if none.")
    ] = None,
    where: Annotated[str, typer.Option(help='Only these: "bpb < 1.3 and recipe = house".')] = "",
    sort: Annotated[str, typer.Option(help="Order by a column; -bpb for downwards.")] = "",
    columns: Annotated[str, typer.Option(help="Columns to show, with commas; all for every one.")] = "",
    limit: Annotated[int | None, typer.Option(help="At most so many rows.", min=1)] = None,
    sql: Annotated[str, typer.Option(help="Ask the table runs in SQL instead; needs DuckDB.")] = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """List every run under some folders, one row each, with filters, order and SQL."""
    from pargolf import api
    from pargolf.study.ledger import ALL, SHOWN

    chosen: list[Path] = folders or [Path("runs")]
    names = [*ALL] if columns == "all" or (not columns and (as_json or as_csv)) else list(SHOWN)
    names = names if columns in ("", "all") else [name.strip() for name in columns.split(",")]
    if sql and (sort or columns):
        fail("--sql orders and chooses by itself. Leave out --sort and --columns.")
    if sql:
        rows = watch(api.query_runs(sql, chosen, where=where), quiet=True)
        names = list(rows[0]) if rows else []
    else:
        ledger = watch(api.list_runs(chosen, where=where, sort=sort), quiet=as_json or as_csv)
        rows = ledger.choose(names).rows
    _print_rows(rows[:limit], names, len(rows), as_json=as_json, as_csv=as_csv)


def _print_rows(rows: list[dict[str, Any]], names: list[str], total: int, *, as_json: bool, as_csv: bool) -> None:
    from pargolf.report.text.ledger import ledger_csv, ledger_table

    if as_json:
        print(json.dumps(rows, default=str))
    elif as_csv:
        print(ledger_csv(rows, names), end="")
    else:
        console.print(ledger_table(rows, names))
        console.print(f"{total:,} runs" + (f", {len(rows):,} shown" if len(rows) < total else ""))


def rerun(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    out: Annotated[Path, typer.Option(help="The folder of the new run.")],
    data: Annotated[Path | None, typer.Option("--data", help="Its data, where that is not where it was.")] = None,
    device: DeviceOpt = None,
    threads: ThreadsOpt = 0,
    force: ForceOpt = False,
    as_json: JsonOpt = False,
    own: OwnOpt = None,
) -> None:
    """Run a finished run again from its folder: recipe, seed, data; and say whether the same bytes came."""
    set_threads(threads)
    from pargolf import api

    again = watch(api.rerun(run, out=out, data=data, device=device, force=force, own=own or ()), quiet=as_json)
    if as_json:
        first, second = again.first, again.second
        numbers = {"first": first.val_bpb, "second": second.val_bpb, "same_bytes": again.same_bytes}
        print(json.dumps(numbers | {"apart": again.apart}))
        return
    words = "the same bytes" if again.same_bytes else "other bytes"
    console.print(f"{again.first.val_bpb:.6f} then, {again.second.val_bpb:.6f} now: {words}")
    for line in again.apart:
        console.print(f"  {line}")
    console.print(f"-> {out}", soft_wrap=True)
