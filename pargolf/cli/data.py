"""Commands on training and validation data."""

from rich.text import Text

from pargolf import api
from pargolf.cli.options import Arguments, command
from pargolf.cli.terminal import console, fail, print_next


@command(api.prepare_data)
def prepare(arguments: Arguments) -> None:
    """Print the content of each split."""
    meta = arguments.result(api.prepare_data).meta
    if arguments.prints_json(meta):
        return
    for note in meta["notes"]:
        console.print(Text(note))
    for name in ("train", "val"):
        row = meta["splits"][name]
        console.print(f"{name:5} {row['documents']:,} documents, {row['tokens']:,} tokens, {row['bytes']:,} bytes")
    print_next(arguments["out"], "data", "check", arguments["out"])


@command(api.fetch_data)
def fetch(arguments: Arguments) -> None:
    """Print what was fetched."""
    fetched = arguments.result(api.fetch_data)
    if arguments.prints_json(fetched):
        return
    console.print(
        f"{fetched.train_shards} training shards, {fetched.val_shards} of validation, at {fetched.revision[:12]}"
    )
    console.print(
        f"{fetched.tokens:,} validation tokens are {fetched.bytes:,} bytes; nats per token / bits per byte = "
        f"{fetched.constant:.7f}"
    )
    print_next(fetched.folder, "data", "check", fetched.folder)


@command(api.check_data)
def check(arguments: Arguments) -> None:
    """Print each finding as it comes; exit with an error if one is bad."""
    findings = []
    for finding in arguments.call(api.check_data):
        findings.append(finding)
        if not arguments.as_json:
            mark = Text("ok  ", style="green") if finding.ok else Text("FAIL", style="bold red")
            console.print(mark, Text(f"{finding.name}: {finding.summary}"))
    arguments.prints_json(findings)
    if not all(finding.ok for finding in findings):
        fail(f"{arguments['folder']} has faults: see the lines marked FAIL.")
