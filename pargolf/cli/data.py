"""Commands on training and validation data."""

from rich.text import Text

from pargolf import api
from pargolf.cli.options import Given, command
from pargolf.cli.terminal import console, fail


@command(api.prepare_data, as_json=False)
def prepare(given: Given) -> None:
    """Print what each split holds."""
    meta = given.result(api.prepare_data).meta
    for note in meta["notes"]:
        console.print(Text(note))
    for name in ("train", "val"):
        row = meta["splits"][name]
        console.print(f"{name:5} {row['documents']:,} documents, {row['tokens']:,} tokens, {row['bytes']:,} bytes")
    console.print(f"-> {given['out']}   next: pargolf data check {given['out']}")


@command(api.fetch_data)
def fetch(given: Given) -> None:
    """Print what was fetched."""
    made = given.result(api.fetch_data)
    if given.prints_json(made):
        return
    console.print(f"{made.train_shards} training shards, {made.val_shards} of validation, at {made.revision[:12]}")
    console.print(
        f"{made.tokens:,} validation tokens are {made.bytes:,} bytes; nats per token / bits per byte = "
        f"{made.constant:.7f}"
    )
    console.print(f"-> {made.folder}   next: pargolf data check {made.folder}")


@command(api.check_data)
def check(given: Given) -> None:
    """Print each finding as it comes; an error where one is bad."""
    findings = []
    for finding in given.call(api.check_data):
        findings.append(finding)
        if not given.as_json:
            mark = Text("ok  ", style="green") if finding.ok else Text("FAIL", style="bold red")
            console.print(mark, Text(f"{finding.name}: {finding.summary}"))
    given.prints_json(findings)
    if not all(finding.ok for finding in findings):
        fail(f"{given['folder']} is not sound: see the lines marked FAIL.")
