"""Commands on training and validation data."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from pargolf.cli.terminal import ForceOpt, JsonOpt, console, fail, watch


def prepare(
    sources: Annotated[
        list[str],
        typer.Argument(help="Files, folders, globs, hf://datasets/OWNER/NAME, `-` for standard input, or `embedded`."),
    ],
    out: Annotated[Path, typer.Option(help="The data folder to make.")],
    vocab: Annotated[int, typer.Option(help="Pieces of the tokenizer; 257 for plain bytes.")] = 1024,
    val_fraction: Annotated[float, typer.Option(help="Share of documents held out.")] = 0.1,
    train_fraction: Annotated[float, typer.Option(help="Share of the others to train on; the rest is left out.")] = 1.0,
    max_bytes: Annotated[int | None, typer.Option(help="Take a share of the documents, of so many bytes.")] = None,
    text_field: Annotated[str | None, typer.Option(help="The column of tables that is the text.")] = None,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Drop near-copies of other documents.")] = False,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Count the text that the tokenizer keeps, where it changes it.")
    ] = False,
    caseops: Annotated[bool, typer.Option("--caseops", help="Spell capitals as symbols of their own.")] = False,
    tokenizer: Annotated[Path | None, typer.Option(help="Use this .model or tokenizer.json; learn none.")] = None,
    force: ForceOpt = False,
) -> None:
    """Turn text into a tokenizer and shards, split by document."""
    from pargolf import api

    work = api.prepare_data(
        sources,
        out=out,
        vocab=vocab,
        val_fraction=val_fraction,
        train_fraction=train_fraction,
        max_bytes=max_bytes,
        text_field=text_field,
        dedupe=dedupe,
        normalize=normalize,
        caseops=caseops,
        tokenizer=tokenizer,
        force=force,
    )
    meta = watch(work).meta
    for note in meta["notes"]:
        console.print(Text(note))
    for name in ("train", "val"):
        row = meta["splits"][name]
        console.print(f"{name:5} {row['documents']:,} documents, {row['tokens']:,} tokens, {row['bytes']:,} bytes")
    console.print(f"-> {out}   next: pargolf data check {out}")


def fetch(
    name: Annotated[str, typer.Argument(help="sp1024, or another variant that is published.")] = "sp1024",
    out: Annotated[Path, typer.Option(help="Where the published folders go.")] = Path("data"),
    shards: Annotated[int, typer.Option(help="Training shards, of 100 million tokens each.", min=0)] = 80,
    repo: Annotated[str | None, typer.Option(help="Another data set of the hub, laid out as the official one.")] = None,
    root: Annotated[str | None, typer.Option(help="The folder of its manifest.json.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are not the published ones.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Fetch the published shards and tokenizer from the Hugging Face hub; goes on where it stopped."""
    from dataclasses import asdict

    from pargolf import api

    other = {key: value for key, value in (("repo", repo), ("root", root)) if value is not None}
    found = watch(api.fetch_data(name, out=out, shards=shards, force=force, **other), quiet=as_json)
    if as_json:
        print(json.dumps(asdict(found), default=str))
        return
    console.print(f"{found.train_shards} training shards, {found.val_shards} of validation, at {found.revision[:12]}")
    console.print(
        f"{found.tokens:,} validation tokens are {found.bytes:,} bytes; nats per token / bits per byte = "
        f"{found.constant:.7f}"
    )
    console.print(f"-> {found.folder}   next: pargolf data check {found.folder}")


def check(folder: Annotated[Path, typer.Argument(help="A data folder.")], as_json: JsonOpt = False) -> None:
    """Check shards, byte tables, the exact round trip, and the overlap of training and validation."""
    from dataclasses import asdict

    from pargolf import api

    rows = []
    for finding in api.check_data(folder):
        rows.append(asdict(finding))
        if not as_json:
            mark = Text("ok  ", style="green") if finding.ok else Text("FAIL", style="bold red")
            console.print(mark, Text(f"{finding.name}: {finding.summary}"))
    if as_json:
        print(json.dumps(rows))
    if not all(row["ok"] for row in rows):
        fail(f"{folder} is not sound: see the lines marked FAIL.")
