"""Commands on an artifact: score, probe, inspect, generate, forecast, compare codecs."""

import math
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pargolf import api
from pargolf.cli.options import ASKED, Arguments, command
from pargolf.cli.terminal import console, fail
from pargolf.core.result import scored_sentence
from pargolf.report.text.results import roles_table


@command(api.score, threads=ASKED)
def score(arguments: Arguments) -> None:
    """Print the score; exit with an error if it does not count."""
    row = arguments.result(api.score)
    if not arguments.prints_json(row):
        _print_score(row)
    for part in (row, row.get("without", row)):
        if part["probed"] is False:
            fail(f"The score is not legal. {part['look']} Find out where: pargolf probe.")
    if not row["complete"]:
        fail("Time ran out before every token was scored. Raise --seconds.")


def _print_score(row: dict[str, Any]) -> None:
    """Print the score in words; if it does not count, the first line says why."""
    sentence = scored_sentence(row["tokens"], row["positions"], once=row["in_turn"])
    number = f"[bold cyan]{row['bpb']:.6f}[/] bits per byte   {row['loss']:.6f} nats per token   {row['windows']}"
    console.print(*([number, sentence] if row["complete"] else [f"[bold red]{sentence}[/]", number]), sep="\n")
    console.print(f"{row['bytes']:,} bytes of text, in {row['seconds']:.1f} s")
    console.print(Text(row["look"], style="" if row["probed"] else "bold yellow"))
    if "verdict" in row:
        console.print(row["verdict"])


@command(api.probe, threads=1)
def probe(arguments: Arguments) -> None:
    """Print a line for each law; exit with an error if one fails."""
    rows = arguments.call(api.probe)
    if not arguments.prints_json(rows):
        for row in rows:
            mark = Text("ok  ", style="green") if row["holds"] else Text("FAIL", style="bold red")
            console.print(mark, Text(f"{row['law']}: {row['evidence']}"))
        if "sandbox" in rows[0]:
            console.print(rows[0]["sandbox"], style="dim")
        console.print(
            "Tried on a short random stream. What the weights have seen in training does not show here.", style="dim"
        )
    if not all(row["holds"] for row in rows):
        fail(f"{arguments['target']} does not score fairly: see the laws marked FAIL.")


@command(api.inspect)
def inspect(arguments: Arguments) -> None:
    """Print a table of the bytes."""
    facts = arguments.call(api.inspect)
    if arguments.prints_json(facts):
        return
    console.print(f"{facts['recipe']}  digest {facts['digest']}  {' '.join(facts['codecs'])}  {facts['bytes']:,} bytes")
    console.print(roles_table(facts["by_role"]))


@command(api.generate, threads=ASKED)
def generate(
    arguments: Arguments,
    score: Annotated[
        str | None, typer.Option("--score", help="Show instead what each token of this text costs, in bits.")
    ] = None,
) -> None:
    """Print the text as it is generated, or a given text, coloured by the bits of each token."""
    if score is not None:
        losses = api.token_losses(arguments["artifact"], score, tokenizer=arguments["tokenizer"], own=arguments["own"])
        if arguments.prints_json(losses):
            return
        bits = losses.nats / math.log(2)
        for piece, cost in zip(losses.pieces, bits):
            console.print(Text(piece, style=_heat(float(cost))), end="", soft_wrap=True)
        size = int(losses.bytes.sum())
        console.print(f"\n{bits.sum():.1f} bits over {size} bytes: {losses.bpb:.3f} bits per byte", style="dim")
        return
    if arguments.as_json:
        arguments.prints_json({"prompt": arguments["prompt"], "text": "".join(arguments.call(api.generate))})
        return
    console.print(Text(arguments["prompt"], style="bold"), end="")
    for piece in arguments.call(api.generate):
        console.print(Text(piece), end="", soft_wrap=True)
    console.print()


def _heat(bits: float) -> str:
    """The colour of a token by its bits: green if it was expected, red if it was a surprise."""
    return next(
        style for limit, style in ((2, "green"), (5, "default"), (9, "yellow"), (1e9, "bold red")) if bits < limit
    )


@command(api.forecast)
def forecast(arguments: Arguments) -> None:
    """Print the bytes."""
    size = arguments.call(api.forecast)
    if arguments.prints_json(size):
        return
    table = Table("role", "bytes", box=None, header_style="bold")
    for name, count in size["by_role"].items():
        table.add_row(Text(name), f"{count:,}")
    console.print(table)
    total, cap = size["total"], size["cap"]
    console.print(
        f"{size['model']:,} model + {size['code']:,} code = {total:,} bytes of {cap:,} ({total / cap:.1%}) "
        + ("on the table's grids; packing solves for others and fills the cap" if size["fills"] else "")
        + (f"; packing solves for coarser grids, under {cap:,}" if total > cap and not size["fills"] else "")
        + f"; after {size['steps']:,} steps"
    )


@command(api.bench_codec, threads=1)
def codec(arguments: Arguments) -> None:
    """Print a table for codecs, and one for quantizers."""
    tables = arguments.result(api.bench_codec)
    if arguments.prints_json(tables):
        return
    for rows in tables.values():
        table = Table(*(column.replace("_", " ") for column in rows[0]), box=None, header_style="bold")
        for row in rows:
            cells = (
                f"{v:,}" if isinstance(v, int) else f"{v:.6g}" if isinstance(v, float) else v for v in row.values()
            )
            table.add_row(*map(Text, cells))
        console.print(table)
