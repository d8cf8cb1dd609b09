"""Commands that make runs: one, many, or many told apart."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pargolf.cli.terminal import (
    DataOpt,
    DeviceOpt,
    ForceOpt,
    JobsOpt,
    JsonOpt,
    OwnOpt,
    RecipeArg,
    ScaleOpt,
    SeedOpt,
    ThreadsOpt,
    console,
    fail,
    finish_run,
    is_first,
    set_threads,
    watch,
    whole_numbers,
)


def demo(
    seconds: Annotated[float, typer.Option(help="Training budget, packing included.", min=1)] = 180.0,
    out: Annotated[Path, typer.Option(help="Where the run goes.")] = Path("runs/demo"),
    seed: SeedOpt = 1337,
    force: ForceOpt = False,
    threads: ThreadsOpt = 0,
) -> None:
    """Do the main job on the embedded corpus: train, pack, unpack, score, report."""
    set_threads(threads)
    from pargolf import api

    finish_run(api.demo(seconds=seconds, out=out, seed=seed, force=force), out)


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
    set_threads(threads)
    from pargolf import api
    from pargolf.core.spec import overrides

    events = api.train(
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
    finish_run(events, out)


def pack(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    cap: Annotated[int | None, typer.Option(help="Byte cap, code included; the recipe's own when left out.")] = None,
    as_json: JsonOpt = False,
    own: OwnOpt = None,
) -> None:
    """Pack a run's weights again, under another cap."""
    set_threads(0)
    from pargolf import api

    packed = api.pack(run, cap=cap, own=own or ())
    if as_json:
        print(json.dumps(packed))
        return
    total, cap_bytes = packed["total"], packed["cap"]
    console.print(
        f"{packed['model']:,} model + {packed['code']:,} code = {total:,} bytes of {cap_bytes:,} "
        f"({total / cap_bytes:.1%}) -> {run / 'model.pargolf'}"
    )


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
    set_threads(threads)
    from dataclasses import asdict

    from pargolf import api
    from pargolf.core.spec import overrides
    from pargolf.report.text.statistics import seeds_table

    events = api.seeds(
        recipe,
        seeds=whole_numbers(seeds, "--seeds"),
        data=data,
        out=out,
        scale=scale,
        changes=overrides(changes or []),
        jobs=jobs,
        device=device,
    )
    rows, found = watch(events, quiet=as_json)
    if not is_first():
        return
    if as_json:
        print(json.dumps({"runs": rows, "bpb": asdict(found)}))
    else:
        console.print(seeds_table(rows, found))


def ablate(
    recipe: RecipeArg,
    changes: Annotated[list[str] | None, typer.Argument(help="Rows for all, as train.steps=200.")] = None,
    base: Annotated[str | None, typer.Option(help="Take parts back to this recipe, field by field.")] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="An edit to try, 'LABEL: PATH=VALUE'; may be repeated.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Labels to run, as '+ *'; may be repeated.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Score over plain windows alone, without adapting.")] = False,
    paced: Annotated[
        bool, typer.Option("--paced", help="Give each part the steps that equal seconds buy, timed in turns.")
    ] = False,
    seeds: Annotated[str, typer.Option(help="Which seeds, with commas between.")] = "42,314,999",
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="Prepared text; again for the same text in other pieces.")
    ] = None,
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
    set_threads(threads or (jobs if jobs > 1 else 0))
    from dataclasses import asdict

    from pargolf import api
    from pargolf.core.spec import overrides
    from pargolf.recipes.variants import parse_edits
    from pargolf.report.plots.worth import worth_table

    events = api.ablate(
        recipe,
        base=base,
        edits=parse_edits(without) if without else None,
        only=only or (),
        plain=plain,
        paced=paced,
        seeds=whole_numbers(seeds, "--seeds"),
        data=data or [Path("data")],
        out=out,
        scale=scale,
        changes=overrides(changes or []),
        jobs=jobs,
        device=device,
    )
    rows = watch(events, quiet=as_json)
    if not is_first():
        return
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        console.print(worth_table(rows))
        console.print(f"-> {out / 'ablation.svg'}   next: pargolf report {out}", soft_wrap=True)


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
    set_threads(threads)
    from dataclasses import asdict

    from pargolf import api
    from pargolf.core.spec import overrides
    from pargolf.report.text.sweeps import override_words, sweep_table
    from pargolf.study.sweep import read_span

    spans = [word for word in words if read_span(word) is not None]
    events = api.sweep(
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
    swept = watch(events, quiet=as_json)
    if not is_first():
        return
    if as_json:
        print(json.dumps(asdict(swept)))
        return
    console.print(sweep_table(asdict(swept)["trials"]))
    if swept.best is None:
        fail("No trial ran to its end. Widen the ranges, or see the notes of those that failed.")
    changes = " ".join(override_words(swept.best.values))
    console.print(f"best: {swept.best.bpb:.4f} bits per byte with {changes}", soft_wrap=True)
    console.print(f"-> {swept.best.run}", soft_wrap=True)


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
    set_threads(0)
    from pargolf import api

    layers = None if ve_layers is None else whole_numbers(ve_layers, "--ve-layers")
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
