"""Words on a terminal, nothing else: every command is one call of `pargolf.api`.

Bad input ends in one line on standard error and exit code 2; nothing imports torch before it must, so `--help` and
`recipes` answer at once.
"""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pargolf.core.errors import UserError
from pargolf.recipes import catalog

app = typer.Typer(
    name="pargolf",
    help="The workbench for byte-budget language models: train, pack, prove, score.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(no_args_is_help=True, help="Prepare, fetch and check training and validation data.")
app.add_typer(data_app, name="data")
bench_app = typer.Typer(no_args_is_help=True, help="Measure what a technique costs and gains.")
app.add_typer(bench_app, name="bench")

# A pipe has no width of its own; 80 columns would fold the long paths of a recipe.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)

RecipeArg = Annotated[str, typer.Argument(help="A shipped recipe's name, or a .py file that defines RECIPE.")]
DataOpt = Annotated[Path, typer.Option("--data", help="A folder of shards and a tokenizer.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ForceOpt = Annotated[bool, typer.Option("--force", help="Replace what the output folder holds.")]
ThreadsOpt = Annotated[int, typer.Option("--threads", help="CPU threads; 0: what is fastest now.", min=0)]
ScaleOpt = Annotated[
    str | None, typer.Option("--scale", help="mini: the same system at a size a CPU trains in minutes.")
]
JobsOpt = Annotated[int, typer.Option("--jobs", help="How many runs side by side; they share the threads.", min=1)]
DeviceOpt = Annotated[str | None, typer.Option("--device", help="cpu or cuda; the best there is when left out.")]
SeedOpt = Annotated[int, typer.Option("--seed", help="Seed of the initial weights and the data's order.")]


def main() -> None:
    """Run the command line. Mendable errors become one line and exit code 2."""
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}. Nothing that was there is lost; free the disk or mend the path.")
    except KeyboardInterrupt:
        _fail("Interrupted before there was anything to keep. Run the command again.")


def _fail(line: str) -> None:
    """Say one line on standard error and leave with code 2."""
    print(f"pargolf: {' '.join(line.split())}", file=sys.stderr)
    raise SystemExit(2)


def _threads(count: int) -> None:
    """Set thread counts before torch is imported, where they still count; 0 takes what proves fastest just now.

    Threads sleep while they wait: those that spin take a shared core from the very thread they are waiting for.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if count:
        os.environ["OMP_NUM_THREADS"] = str(count)
    if "OMP_NUM_THREADS" in os.environ:
        return
    os.environ["OMP_NUM_THREADS"] = str(os.cpu_count() or 1)
    from pargolf.core.world import settle_threads

    settle_threads()


def _whole_numbers(text: str, option: str) -> list[int]:
    """Read `42,314,999`."""
    if not all(word.strip().isdigit() for word in text.split(",")):
        raise UserError(f"{option} takes whole numbers, as 42,314,999; not '{text}'.")
    return [int(word) for word in text.split(",")]


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(help="Training budget, packing included.", min=1)] = 180.0,
    out: Annotated[Path, typer.Option(help="Where the run goes.")] = Path("runs/demo"),
    seed: SeedOpt = 1337,
    force: ForceOpt = False,
    threads: ThreadsOpt = 0,
) -> None:
    """Do the main job on the embedded corpus: train, pack, unpack, score, report."""
    _threads(threads)
    from pargolf import api

    _finish(api.demo_events(seconds=seconds, out=out, seed=seed, force=force), out)


@app.command()
def train(
    recipe: RecipeArg,
    changes: Annotated[list[str] | None, typer.Argument(help="Rows to change, path=value.")] = None,
    data: DataOpt = Path("data"),
    out: Annotated[Path, typer.Option(help="Where the run goes.")] = Path("runs/run"),
    scale: ScaleOpt = None,
    seed: SeedOpt = 1337,
    force: ForceOpt = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    checkpoint_every: Annotated[
        float, typer.Option(help="Seconds between checkpoints; 0: after every step.", min=0)
    ] = 60.0,
    threads: ThreadsOpt = 0,
    device: DeviceOpt = None,
    allow_overlap: Annotated[bool, typer.Option(help="Train although validation text is in training.")] = False,
    trackers: Annotated[
        list[str] | None, typer.Option("--track", help="tensorboard, trackio or wandb; may be repeated.")
    ] = None,
) -> None:
    """Train a recipe, pack it under its cap, and score what was unpacked."""
    _threads(threads)
    from pargolf import api
    from pargolf.core.spec import overrides

    events = api.train_events(
        recipe,
        data=data,
        out=out,
        scale=scale,
        changes=overrides(changes or []),
        seed=seed,
        force=force,
        resume=resume,
        checkpoint_every=checkpoint_every,
        device=device,
        allow_overlap=allow_overlap,
        trackers=trackers or (),
    )
    _finish(events, out)


@app.command()
def pack(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    cap: Annotated[int | None, typer.Option(help="Byte cap, code included; the recipe's own when left out.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Pack a run's weights again, under another cap."""
    _threads(0)
    from pargolf import api

    packed = api.pack(run, cap=cap)
    if as_json:
        print(json.dumps(packed))
        return
    total, cap_bytes = packed["total"], packed["cap"]
    console.print(
        f"{packed['model']:,} model + {packed['code']:,} code = {total:,} bytes of {cap_bytes:,} "
        f"({total / cap_bytes:.1%}) -> {run / 'model.pargolf'}"
    )


@app.command()
def seeds(
    recipe: RecipeArg,
    changes: Annotated[list[str] | None, typer.Argument(help="Rows to change, path=value.")] = None,
    seeds: Annotated[str, typer.Option(help="Which seeds, with commas between.")] = "42,314,999",
    data: DataOpt = Path("data"),
    out: Annotated[Path, typer.Option(help="Where the runs go, a folder per seed.")] = Path("runs/seeds"),
    scale: ScaleOpt = None,
    jobs: JobsOpt = 1,
    as_json: JsonOpt = False,
    threads: ThreadsOpt = 0,
    device: DeviceOpt = None,
) -> None:
    """Run a recipe with several seeds, going on where it was left; say the mean and how sure it is."""
    _threads(threads)
    from dataclasses import asdict

    from pargolf import api
    from pargolf.core.spec import overrides
    from pargolf.report.stats_tables import seeds_table

    events = api.seeds_events(
        recipe,
        seeds=_whole_numbers(seeds, "--seeds"),
        data=data,
        out=out,
        scale=scale,
        changes=overrides(changes or []),
        jobs=jobs,
        device=device,
    )
    rows, found = _watch(events, quiet=as_json)
    if as_json:
        print(json.dumps({"runs": rows, "bpb": asdict(found)}))
    else:
        console.print(seeds_table(rows, found))


@app.command()
def ablate(
    recipe: RecipeArg,
    changes: Annotated[list[str] | None, typer.Argument(help="Rows for all, as train.steps=200.")] = None,
    base: Annotated[str | None, typer.Option(help="Take parts back to this recipe, field by field.")] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="An edit to try, 'LABEL: PATH=VALUE'; may be repeated.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Labels to run, as '+ *'; may be repeated.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Score over plain windows alone, without adapting.")] = False,
    seeds: Annotated[str, typer.Option(help="Which seeds, with commas between.")] = "42,314,999",
    data: DataOpt = Path("data"),
    out: Annotated[Path, typer.Option(help="Where the runs go, a folder per part.")] = Path("runs/ablation"),
    scale: ScaleOpt = None,
    jobs: JobsOpt = 1,
    as_json: JsonOpt = False,
    threads: ThreadsOpt = 0,
    device: DeviceOpt = None,
) -> None:
    """Take each part of a recipe away in turn, and say with intervals what it is worth.

    Parts are the recipe's own ABLATIONS, or each --without, or the fields that --base has otherwise. Side by side,
    every run has one thread; add budget.counts=cpu so that seconds are the processor's. Going on costs nothing.
    """
    _threads(threads or (jobs if jobs > 1 else 0))
    from pargolf import api
    from pargolf.core.spec import overrides
    from pargolf.report.worth import worth_table
    from pargolf.run.ablate import parse_edits

    events = api.ablate_events(
        recipe,
        base=base,
        edits=parse_edits(without) if without else None,
        only=only or (),
        plain=plain,
        seeds=_whole_numbers(seeds, "--seeds"),
        data=data,
        out=out,
        scale=scale,
        changes=overrides(changes or []),
        jobs=jobs,
        device=device,
    )
    rows = _watch(events, quiet=as_json)
    if as_json:
        print(json.dumps(rows))
    else:
        console.print(worth_table(rows))
        console.print(f"-> {out / 'ablation.svg'}   next: pargolf report {out}", soft_wrap=True)


@app.command()
def sweep(
    recipe: RecipeArg,
    words: Annotated[
        list[str], typer.Argument(help="Ranges, PATH=log:0.01,0.1 (float: int: choice:), and rows for all, PATH=VALUE.")
    ],
    data: DataOpt = Path("data"),
    out: Annotated[Path, typer.Option(help="Where the study goes, and a folder per trial.")] = Path("runs/sweep"),
    trials: Annotated[int, typer.Option(help="How many trials the study shall have.", min=1)] = 20,
    storage: Annotated[str | None, typer.Option(help="A database's URL, for many machines on one study.")] = None,
    scale: ScaleOpt = None,
    seed: SeedOpt = 1337,
    prune: Annotated[bool, typer.Option(help="End trials early that are behind the others' median.")] = True,
    as_json: JsonOpt = False,
    threads: ThreadsOpt = 0,
    device: DeviceOpt = None,
) -> None:
    """Try values of some rows of a recipe, and say which gave the fewest bits per byte; goes on where it stopped."""
    _threads(threads)
    from dataclasses import asdict

    from pargolf import api
    from pargolf.core.spec import overrides
    from pargolf.report.sweep_table import override_words, sweep_table
    from pargolf.run.sweep import read_span

    spans = [word for word in words if read_span(word) is not None]
    events = api.sweep_events(
        recipe,
        spans,
        data=data,
        out=out,
        trials=trials,
        storage=storage,
        scale=scale,
        changes=overrides(word for word in words if word not in spans),
        seed=seed,
        prune=prune,
        device=device,
    )
    swept = _watch(events, quiet=as_json)
    if as_json:
        print(json.dumps(asdict(swept)))
        return
    console.print(sweep_table(asdict(swept)["trials"]))
    if swept.best is None:
        _fail("No trial ran to its end. Widen the ranges, or see the notes of those that failed.")
    changes = " ".join(override_words(swept.best.values))
    console.print(f"best: {swept.best.bpb:.4f} bits per byte with {changes}", soft_wrap=True)
    console.print(f"-> {swept.best.run}", soft_wrap=True)


@app.command(context_settings={"allow_interspersed_args": False})
def compare(
    words: Annotated[list[str], typer.Argument(metavar="A... --against B...", help="Runs, or folders of runs.")],
    as_json: JsonOpt = False,
) -> None:
    """Test whether runs A beat runs B (or one published number) by the record rule: .005 nats at p < .01."""
    from pargolf import api
    from pargolf.report.stats_tables import comparison_table

    as_json = as_json or "--json" in words
    words = [word for word in words if word != "--json"]
    if words.count("--against") != 1:
        raise UserError("Say against what: pargolf compare runs/new --against runs/old, or --against 1.1194.")
    middle = words.index("--against")
    test, rows = api.compare(words[:middle], against=words[middle + 1 :])
    if as_json:
        print(json.dumps(rows))
    else:
        console.print(comparison_table(test, rows))


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run folders, or folders of them.")],
    out: Annotated[Path | None, typer.Option(help="The page; in the folder when left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no page of ours.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Write the page of one run, or a board over many with their ablations and submissions."""
    from pargolf import api

    page = _watch(api.report_events(paths, out=out, force=force), quiet=as_json)
    if as_json:
        print(json.dumps({"page": str(page)}))
    else:
        console.print(f"-> {page}", soft_wrap=True)


@app.command()
def submit(
    runs: Annotated[list[Path], typer.Argument(help="Runs of one recipe, one per seed; or a folder of them.")],
    out: Annotated[Path, typer.Option(help="The folder to make: records/TRACK/DATE_NAME.")],
    squeeze: Annotated[bool, typer.Option("--squeeze", help="Ship the script minified and compressed.")] = False,
    artifacts: Annotated[bool, typer.Option("--artifacts", help="Put the artifacts in as well.")] = False,
    author: Annotated[str, typer.Option(help="Your name.")] = "",
    github_id: Annotated[str, typer.Option(help="Your name on GitHub.")] = "",
    blurb: Annotated[str, typer.Option(help="A sentence or two on what is new.")] = "",
    as_json: JsonOpt = False,
) -> None:
    """Write a submission: one script that needs none of this package, README, submission.json, logs."""
    from dataclasses import asdict

    from pargolf import api
    from pargolf.report.stats_tables import spread_line

    made = api.write_submission(
        runs, out=out, squeeze=squeeze, artifacts=artifacts, author=author, github_id=github_id, blurb=blurb
    )
    if as_json:
        print(json.dumps({**asdict(made), "path": str(made.path)}))
        return
    over = "" if made.total <= made.cap else "  OVER THE CAP"
    console.print(f"script  {made.readable:,} bytes to read, {made.squeezed:,} squeezed; {made.code:,} shipped")
    console.print(f"total   {made.total:,} bytes with the largest artifact, of {made.cap:,}{over}")
    console.print(f"score   {spread_line(made.bpb)}")
    console.print(f"-> {made.path}   next: pargolf audit {made.path}", soft_wrap=True)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A final_model.pt, or an .int8.ptz or .int6.ptz artifact.")],
    system: Annotated[str, typer.Option(help="Whose it is: baseline, pr549, pr910, pr1009, pr543, pr295 or pr861.")],
    out: Annotated[Path, typer.Option(help="Where the run goes.")],
    data: Annotated[Path | None, typer.Option("--data", help="Data with its tokenizer, to score on.")] = None,
    xsa: Annotated[int | None, typer.Option(help="How many last layers have XSA, where not as the recipe.")] = None,
    rope_dims: Annotated[int | None, typer.Option(help="Rotated channels per head; 0: all.")] = None,
    ve_layers: Annotated[str | None, typer.Option(help="Layers that add the value embedding, as 9,10.")] = None,
    force: ForceOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Make a run folder of a checkpoint that a published script left behind."""
    _threads(0)
    from pargolf import api

    layers = None if ve_layers is None else _whole_numbers(ve_layers, "--ve-layers")
    made = api.import_checkpoint(
        path, system=system, out=out, data=data, force=force, xsa=xsa, rope_dims=rope_dims, ve_layers=layers
    )
    if as_json:
        print(json.dumps(made))
        return
    total, cap_bytes = made["total"], made["cap"]
    console.print(
        f"{made['parameters']:,} parameters in {made['layers']} layers; "
        f"{made['model']:,} model + {made['code']:,} code = {total:,} bytes of {cap_bytes:,}"
    )
    step = (
        f"pargolf score {out / 'model.pargolf'} --data {data}" if data else f"pargolf inspect {out / 'model.pargolf'}"
    )
    console.print(f"-> {out}   next: {step}", soft_wrap=True)


@app.command()
def score(
    artifact: Annotated[Path, typer.Argument(help="A model.pargolf file.")],
    data: DataOpt = Path("data"),
    windows: Annotated[str | None, typer.Option(help="plain:256, sliding:256,64 or document:256,64.")] = None,
    adapt: Annotated[bool, typer.Option("--adapt", help="Learn, score first, as the artifact's recipe says.")] = False,
    seconds: Annotated[float | None, typer.Option(help="Stop before so many are over, and say so.", min=0.0)] = None,
    as_json: JsonOpt = False,
    threads: ThreadsOpt = 0,
    device: DeviceOpt = None,
) -> None:
    """Unpack an artifact and grade every validation token once."""
    _threads(threads)
    from pargolf import api

    events = api.score_events(artifact, data=data, windows=windows, adapt=adapt, seconds=seconds, device=device)
    result = _watch(events, quiet=as_json)
    if result is None:  # another process of torchrun's speaks
        return
    if as_json:
        print(json.dumps(result))
        return
    console.print(
        f"[bold cyan]{result['bpb']:.6f}[/] bits per byte   {result['loss']:.6f} nats per token   {result['windows']}\n"
        f"{result['tokens']:,} of {result['positions']:,} tokens graded, each once, over {result['bytes']:,} bytes "
        f"in {result['seconds']:.1f} s"
    )
    if not result["complete"]:
        console.print("[bold yellow]incomplete[/]: stopped in time; this is the score of what was graded")
    if "verdict" in result:
        console.print(result["verdict"])


@app.command()
def probe(
    target: Annotated[str, typer.Argument(help="A recipe, a model.pargolf file, or anybody's train_gpt.py.")],
    scale: ScaleOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Prove that a model's grades are fair: causal, normalized, once, and by document where promised.

    A script that defines no RECIPE is a foreign one: it is imported in a sandbox, and its own model is probed there.
    """
    _threads(1)
    from pargolf import api

    verdicts = api.probe(target, scale=scale)
    if as_json:
        print(json.dumps(verdicts))
    for row in () if as_json else verdicts:
        mark = Text("ok  ", style="green") if row["holds"] else Text("FAIL", style="bold red")
        console.print(mark, Text(f"{row['law']}: {row['evidence']}"))
    if not all(row["holds"] for row in verdicts):
        _fail(f"{target} does not grade fairly: see the laws marked FAIL.")


@app.command()
def inspect(artifact: Annotated[Path, typer.Argument(help="A model.pargolf file.")], as_json: JsonOpt = False) -> None:
    """Show where every byte of an artifact goes."""
    from pargolf import api

    found = api.inspect(artifact)
    if as_json:
        print(json.dumps(found))
        return
    from pargolf.report.tables import roles_table

    console.print(f"{found['recipe']}  digest {found['digest']}  {' '.join(found['codecs'])}  {found['bytes']:,} bytes")
    console.print(roles_table(found["by_role"]))


@app.command()
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
) -> None:
    """Let a model go on from a prompt, or show what each token of a text costs it."""
    _threads(threads)
    from pargolf import api

    if score is not None:
        priced = api.price_text(artifact, score, tokenizer=tokenizer)
        for piece, bits in priced:
            console.print(Text(piece, style=_heat(bits)), end="", soft_wrap=True)
        total, size = sum(bits for _, bits in priced), len(score.encode())
        console.print(f"\n{total:.1f} bits over {size} bytes: {total / max(size, 1):.3f} bits per byte", style="dim")
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
    )
    for piece in written:
        console.print(Text(piece), end="", soft_wrap=True)
    console.print()


def _heat(bits: float) -> str:
    """Colour of a token by its price: green where it was foreseen, red where it was a surprise."""
    return next(
        style for limit, style in ((2, "green"), (5, "default"), (9, "yellow"), (1e9, "bold red")) if bits < limit
    )


@app.command()
def recipes(as_json: JsonOpt = False) -> None:
    """List the shipped recipes."""
    rows = catalog.summaries()
    if as_json:
        print(json.dumps(rows))
        return
    table = Table(box=None, header_style="bold")
    table.add_column("recipe")
    table.add_column("what it is")
    for row in rows:
        table.add_row(Text(row["name"], style="cyan"), Text(row["title"]))
    console.print(table)


@app.command()
def describe(recipe: RecipeArg, scale: ScaleOpt = None, as_json: JsonOpt = False) -> None:
    """Print a whole system, row by row."""
    from pargolf import api
    from pargolf.core.spec import dump

    found = api.recipe(recipe, scale=scale)
    print(json.dumps(dump(found)) if as_json else catalog.describe(found))


@app.command()
def diff(a: RecipeArg, b: RecipeArg, as_json: JsonOpt = False) -> None:
    """Print the rows in which two recipes differ."""
    rows = catalog.diff(catalog.find(a), catalog.find(b))
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("row", a, b, box=None, header_style="bold")
    for path, (left, right) in rows.items():
        table.add_row(Text(path), Text(left or "-", style="red"), Text(right or "-", style="green"))
    console.print(table if rows else "no difference")


@app.command()
def audit(
    target: Annotated[
        str, typer.Argument(help="A records folder, a script, a run, git:REPO@REF; with --all git:REPO.")
    ],
    every: Annotated[bool, typer.Option("--all", help="Judge every pull request head of a repository.")] = False,
    prs: Annotated[str | None, typer.Option(help="With --all: only these, for example 1-2200.")] = None,
    out: Annotated[
        Path, typer.Option(help="With --all: where the reports go, a line each; resumed when there.")
    ] = Path("audit.jsonl"),
    html: Annotated[Path | None, typer.Option(help="With --all: a folder of pages to browse.")] = None,
    jobs: Annotated[int | None, typer.Option(help="With --all: processes; one per core when left out.")] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Also import the script in a sandbox and probe its model.")
    ] = False,
    record: Annotated[
        str | None, typer.Option(help="The record to beat: its scores, 1.1147,1.1150, or the submission that holds it.")
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Judge a submission by the rules, with evidence; executes none of it without --run. Exits 2 unless it passes."""
    from pargolf.audit import batch, judge, verdict
    from pargolf.audit.show import render

    beaten = None if record is None else judge.record_of(record)
    if not every:
        report = judge.audit(target, run=run, record=beaten)
        if as_json:
            print(json.dumps(report.to_json(), ensure_ascii=False))
        else:
            console.print(render(report))
        raise typer.Exit(0 if report.verdict == verdict.PASS else 2)
    if run:
        _fail("--run executes one target's script at a time. Leave out --all.")
    wanted = None if prs is None else batch.Range.parse(prs)
    _watch(batch.audit_all(target, out=out, prs=wanted, jobs=jobs, record=beaten))
    reports = batch.read_reports(out)
    counts = {word: sum(line["verdict"] == word for line in reports) for word in reversed(verdict.ORDER)}
    console.print(
        f"{len(reports):,} judged: " + ", ".join(f"{n:,} {word}" for word, n in counts.items()) + f"  -> {out}"
    )
    if html is not None:
        from pargolf.audit.site import write_site
        from pargolf.report.html import page

        console.print(f"-> {write_site(reports, html, shell=page)}")


@app.command()
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


@bench_app.command("codec")
def bench_codec(
    target: Annotated[Path, typer.Argument(help="A run folder, a model.pargolf, or any .safetensors file.")],
    data: Annotated[Path | None, typer.Option(help="Data for bits per byte; the run's own when left out.")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Compare codecs on a run's codes, and every published quantizer with ours on its weights."""
    _threads(1)
    from pargolf import api

    found = _watch(api.bench_codec_events(target, data=data), quiet=as_json)
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


@data_app.command("prepare")
def data_prepare(
    sources: Annotated[list[str], typer.Argument(help="Texts, .jsonl, folders; or the word `embedded`.")],
    out: Annotated[Path, typer.Option(help="The data folder to make.")],
    vocab: Annotated[int, typer.Option(help="Pieces of the tokenizer; 257 for plain bytes.")] = 1024,
    val_fraction: Annotated[float, typer.Option(help="Share of documents held out.")] = 0.1,
    caseops: Annotated[bool, typer.Option("--caseops", help="Spell capitals as symbols of their own.")] = False,
    tokenizer: Annotated[Path | None, typer.Option(help="Use this .model or tokenizer.json; learn none.")] = None,
    force: ForceOpt = False,
) -> None:
    """Turn text into a tokenizer and shards, split by document."""
    from pargolf.data.folder import open_data
    from pargolf.data.prepare import prepare

    events = prepare(
        sources, out, vocab=vocab, val_fraction=val_fraction, caseops=caseops, tokenizer=tokenizer, force=force
    )
    _watch(events)
    splits = open_data(out).meta["splits"]
    for name in ("train", "val"):
        row = splits[name]
        console.print(f"{name:5} {row['documents']:,} documents, {row['tokens']:,} tokens, {row['bytes']:,} bytes")
    console.print(f"-> {out}   next: pargolf data check {out}")


@data_app.command("fetch")
def data_fetch(
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

    from pargolf.data.fetch import fetch

    other = {key: value for key, value in (("repo", repo), ("root", root)) if value is not None}
    found = _watch(fetch(name, out, shards=shards, force=force, **other), quiet=as_json)
    if as_json:
        print(json.dumps(asdict(found), default=str))
        return
    console.print(f"{found.train_shards} training shards, {found.val_shards} of validation, at {found.revision[:12]}")
    console.print(
        f"{found.tokens:,} validation tokens are {found.bytes:,} bytes; nats per token / bits per byte = "
        f"{found.constant:.7f}"
    )
    console.print(f"-> {found.folder}   next: pargolf data check {found.folder}")


@data_app.command("check")
def data_check(folder: Annotated[Path, typer.Argument(help="A data folder.")], as_json: JsonOpt = False) -> None:
    """Check shards, byte tables, the exact round trip, and the overlap of training and validation."""
    from dataclasses import asdict

    from pargolf.data.check import checks

    rows = []
    for finding in checks(folder):
        rows.append(asdict(finding))
        if not as_json:
            mark = Text("ok  ", style="green") if finding.ok else Text("FAIL", style="bold red")
            console.print(mark, Text(f"{finding.name}: {finding.summary}"))
    if as_json:
        print(json.dumps(rows))
    if not all(row["ok"] for row in rows):
        _fail(f"{folder} is not sound: see the lines marked FAIL.")


def _watch(events: Iterable[Any], *, quiet: bool = False) -> Any:
    """Draw progress while `events` run; returns the last thing that is no event."""
    from pargolf.core import events as kinds
    from pargolf.report.live import draw

    last: Any = None

    def only_events() -> Iterable[Any]:
        nonlocal last
        for event in events:
            if isinstance(event, kinds.Event):
                yield event
            else:
                last = event

    passed = only_events() if quiet else draw(only_events(), Console(stderr=True))
    for _ in passed:
        pass
    return last


def _finish(events: Iterable[Any], out: Path) -> None:
    """Watch a run to its end and print its table."""
    from pargolf.report.tables import result_table

    result = _watch(events)
    if result is None:  # one process of several; the first one speaks
        return
    console.print(result_table(result))
    console.print(f"report  {(out / 'report.html').resolve()}")
    if result["interrupted"]:
        _fail("Interrupted: what was trained so far is packed and scored. Add --force to run it again in full.")
