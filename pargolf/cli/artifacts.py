"""Commands on an artifact: score it, prove it, look into it, let it write, weigh it."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pargolf.cli.terminal import (
    DataOpt,
    DeviceOpt,
    JsonOpt,
    OwnOpt,
    RecipeArg,
    ScaleOpt,
    SeedOpt,
    ThreadsOpt,
    console,
    fail,
    is_first,
    set_threads,
    watch,
)


def score(
    artifact: Annotated[Path, typer.Argument(help="A model.pargolf file.")],
    data: DataOpt = Path("data"),
    windows: Annotated[str | None, typer.Option(help="plain:256, sliding:256,64 or document:256,64.")] = None,
    adapt: Annotated[bool, typer.Option("--adapt", help="Learn, score first, as the artifact's recipe says.")] = False,
    seconds: Annotated[float | None, typer.Option(help="Stop before so many are over, and say so.", min=0.0)] = None,
    as_json: JsonOpt = False,
    threads: ThreadsOpt = 0,
    device: DeviceOpt = None,
    own: OwnOpt = None,
) -> None:
    """Unpack an artifact and grade every validation token once."""
    set_threads(threads)
    from pargolf import api

    events = api.score(artifact, data=data, windows=windows, adapt=adapt, seconds=seconds, device=device, own=own or ())
    result = watch(events, quiet=as_json)
    if not is_first():
        return
    if as_json:
        print(json.dumps(result))
    else:
        _print_score(result)
    if False in (result["probed"], result.get("without", result)["probed"]):
        fail("The predictor looked ahead, so its score is not legal. Find out where with: pargolf probe.")
    if not result["complete"]:
        fail("The seconds ran out before every token was scored. Raise --seconds.")


def _print_score(result: dict[str, Any]) -> None:
    """The score in words; what speaks against it stands on the first line."""
    from pargolf.core.result import scored_sentence

    sentence = scored_sentence(result["tokens"], result["positions"], once=result["in_turn"])
    number = (
        f"[bold cyan]{result['bpb']:.6f}[/] bits per byte   {result['loss']:.6f} nats per token   {result['windows']}"
    )
    console.print(*([number, sentence] if result["complete"] else [f"[bold red]{sentence}[/]", number]), sep="\n")
    console.print(f"{result['bytes']:,} bytes of text, in {result['seconds']:.1f} s")
    console.print(Text(result["look"], style="" if result["probed"] else "bold yellow"))
    if "verdict" in result:
        console.print(result["verdict"])


def probe(
    target: Annotated[str, typer.Argument(help="A recipe, a model.pargolf file, or anybody's train_gpt.py.")],
    scale: ScaleOpt = None,
    as_json: JsonOpt = False,
    own: OwnOpt = None,
) -> None:
    """Prove that a model's grades are fair: causal, normalized, once, and by document where promised.

    A script that defines no RECIPE is a foreign one: it is imported in a sandbox, and its own model is probed there.
    """
    set_threads(1)
    from pargolf import api

    verdicts = api.probe(target, scale=scale, own=own or ())
    if as_json:
        print(json.dumps(verdicts))
    for row in () if as_json else verdicts:
        mark = Text("ok  ", style="green") if row["holds"] else Text("FAIL", style="bold red")
        console.print(mark, Text(f"{row['law']}: {row['evidence']}"))
    if not as_json:
        console.print(
            "Tried on a short random stream. What the weights have seen in training does not show here.", style="dim"
        )
    if not all(row["holds"] for row in verdicts):
        fail(f"{target} does not grade fairly: see the laws marked FAIL.")


def inspect(
    artifact: Annotated[Path, typer.Argument(help="A model.pargolf file.")],
    as_json: JsonOpt = False,
    own: OwnOpt = None,
) -> None:
    """Show where every byte of an artifact goes."""
    from pargolf import api

    found = api.inspect(artifact, own=own or ())
    if as_json:
        print(json.dumps(found))
        return
    from pargolf.report.text.results import roles_table

    console.print(f"{found['recipe']}  digest {found['digest']}  {' '.join(found['codecs'])}  {found['bytes']:,} bytes")
    console.print(roles_table(found["by_role"]))


def generate(
    artifact: Annotated[Path, typer.Argument(help="A model.pargolf file.")],
    prompt: Annotated[str, typer.Option(help="The text to go on from.")] = "",
    score: Annotated[str | None, typer.Option("--score", help="Price this text instead, in bits per token.")] = None,
    tokens: Annotated[int, typer.Option(help="How many tokens at the most.", min=1)] = 200,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.8,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.95,
    documents: Annotated[int, typer.Option(help="How many documents, each begun anew.", min=1)] = 1,
    seed: SeedOpt = 1337,
    tokenizer: Annotated[Path | None, typer.Option(help="The .model file; beside the artifact when left out.")] = None,
    threads: ThreadsOpt = 0,
    own: OwnOpt = None,
) -> None:
    """Let a model go on from a prompt, or show what each token of a text costs it."""
    set_threads(threads)
    from pargolf import api

    if score is not None:
        losses = api.token_losses(artifact, score, tokenizer=tokenizer, own=own or ())
        bits = losses.nats / math.log(2)
        for piece, cost in zip(losses.pieces, bits):
            console.print(Text(piece, style=_heat(float(cost))), end="", soft_wrap=True)
        size = int(losses.bytes.sum())
        console.print(f"\n{bits.sum():.1f} bits over {size} bytes: {losses.bpb:.3f} bits per byte", style="dim")
        return
    console.print(Text(prompt, style="bold"), end="")
    written = api.generate(
        artifact,
        prompt=prompt,
        tokens=tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        documents=documents,
        tokenizer=tokenizer,
        own=own or (),
    )
    for piece in written:
        console.print(Text(piece), end="", soft_wrap=True)
    console.print()


def _heat(bits: float) -> str:
    """Colour of a token by its price: green where it was foreseen, red where it was a surprise."""
    return next(
        style for limit, style in ((2, "green"), (5, "default"), (9, "yellow"), (1e9, "bold red")) if bits < limit
    )


def forecast(
    recipe: RecipeArg,
    changes: Annotated[list[str] | None, typer.Argument(help="Rows to change, path=value.")] = None,
    scale: ScaleOpt = None,
    data: Annotated[Path | None, typer.Option(help="Data to be trained on; says which pieces no text has.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of training; guessed when left out.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Say what a recipe's artifact will weigh, before any training."""
    from pargolf import api
    from pargolf.core.spec import overrides

    found = api.forecast(recipe, scale=scale, changes=overrides(changes or []), data=data, steps=steps)
    if as_json:
        print(json.dumps(found))
        return
    table = Table("role", "bytes", box=None, header_style="bold")
    for name, size in found["by_role"].items():
        table.add_row(Text(name), f"{size:,}")
    console.print(table)
    total, cap = found["total"], found["cap"]
    console.print(
        f"{found['model']:,} model + {found['code']:,} code = {total:,} bytes of {cap:,} ({total / cap:.1%}) "
        + ("on the table's grids; packing solves for others and fills the cap" if found["fills"] else "")
        + (f"; packing solves for coarser grids, under {cap:,}" if total > cap and not found["fills"] else "")
        + f"; after {found['steps']:,} steps"
    )


def codec(
    target: Annotated[Path, typer.Argument(help="A run folder, a model.pargolf, or any .safetensors file.")],
    data: Annotated[Path | None, typer.Option(help="Data for bits per byte; the run's own when left out.")] = None,
    as_json: JsonOpt = False,
    own: OwnOpt = None,
) -> None:
    """Compare codecs on a run's codes, and every published quantizer with ours on its weights."""
    set_threads(1)
    from pargolf import api

    found = watch(api.bench_codec(target, data=data, own=own or ()), quiet=as_json)
    if as_json:
        print(json.dumps(found))
        return
    for rows in found.values():
        table = Table(*(column.replace("_", " ") for column in rows[0]), box=None, header_style="bold")
        for row in rows:
            cells = (
                f"{v:,}" if isinstance(v, int) else f"{v:.6g}" if isinstance(v, float) else v for v in row.values()
            )
            table.add_row(*map(Text, cells))
        console.print(table)
