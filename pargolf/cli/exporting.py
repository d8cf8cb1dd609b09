"""Commands for other tools: export a model, run lm-evaluation-harness tasks on it, serve it, measure it on a device."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from pargolf import api
from pargolf.cli.options import ASKED, Arguments, command
from pargolf.cli.terminal import console


@command(api.export, threads=1)
def export(arguments: Arguments) -> None:
    """Print what was written."""
    exported = arguments.call(api.export)
    if not arguments.prints_json({"path": exported}):
        console.print(f"wrote {exported}", soft_wrap=True)


@command(api.evaluate_tasks, threads=ASKED, hidden=["tasks"])
def evaluate(
    arguments: Arguments,
    tasks: Annotated[str, typer.Option("--tasks", help="Names of tasks, for example lambada_openai,blimp.")],
) -> None:
    """Print a row for each metric."""
    arguments.values["tasks"] = [name.strip() for name in tasks.split(",") if name.strip()]
    rows = arguments.call(api.evaluate_tasks)
    if arguments.prints_json(rows):
        return
    table = Table("task", "metric", "value", "standard error", "samples", box=None, header_style="bold")
    for row in rows:
        error = "" if row.stderr is None else f"{row.stderr:.4f}"
        table.add_row(*map(Text, (row.task, row.metric, f"{row.value:.6f}", error, f"{row.samples:,}")))
    console.print(table)


@command(api.bench_device)
def device(arguments: Arguments) -> None:
    """Print a row for each engine."""
    rows = arguments.result(api.bench_device)
    if arguments.prints_json(rows):
        return
    names = ("engine", "file", "libraries", "reading", "first token", "cold start", "tokens/s", "scored/s", "memory")
    table = Table(*names, box=None, header_style="bold")
    for row in rows:
        start = (row.libraries, row.reading, row.first_token, row.cold_start)
        cells = (row.engine, f"{row.file_bytes:,}", *(f"{seconds:.2f} s" for seconds in start))
        table.add_row(*map(Text, (*cells, f"{row.written:,.0f}", f"{row.scored:,.0f}", f"{row.megabytes:,.0f} MB")))
    console.print(table)


@command(api.serve, as_json=False, threads=ASKED, hidden=["ready"])
def serve(arguments: Arguments) -> None:
    """Print the address when the port is open."""

    def ready(address: str) -> None:
        print(f"{address}  the page; {address}/v1/completions  the API. Ctrl-C stops it.", flush=True)

    arguments.values["ready"] = ready
    arguments.call(api.serve)
