"""Calls that make runs: train, pack, seeds, ablate, sweep, and import a published checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pargolf.api.parameters import ByteSize, Changes, Edits, Own, PathLike, RecipeLike, command_line
from pargolf.api.recipes import recipe as find_recipe
from pargolf.core.ablation import AblationRow
from pargolf.core.errors import UserError
from pargolf.core.own import use
from pargolf.core.ranges import Count, Index, Seconds, Seed
from pargolf.core.result import Result
from pargolf.core.stats import Spread
from pargolf.core.units import parse_bytes
from pargolf.core.work import Events, working

if TYPE_CHECKING:
    from pargolf.recipes.recipe import Recipe
    from pargolf.run.loading import Start
    from pargolf.study.seeds import SeedRow
    from pargolf.study.sweep import Span, SweepResult


class SeedRuns(NamedTuple):
    """A row for each seed's run, and the spread of their bits per byte."""

    runs: "list[SeedRow]"
    bpb: Spread


@working
def train(
    recipe: RecipeLike,
    *,
    changes: Changes | None = None,
    data: PathLike = "data",
    out: PathLike = "runs/run",
    scale: str | None = None,
    seed: Seed = 1337,
    force: bool = False,
    resume: bool = False,
    checkpoint_every: Seconds = 60.0,
    device: str | None = None,
    allow_overlap: bool = False,
    trackers: Sequence[str] = (),
    start: PathLike | None = None,
    more_seconds: Seconds | None = None,
) -> Events[Result]:
    """Train a recipe, pack it under its cap, and score what was unpacked.

    Args:
        recipe: A shipped recipe's name, a .py file that defines RECIPE, or a run to train further.
        changes: Rows to change, path=value.
        data: A data folder: shards and a tokenizer.
        out: The run's folder.
        scale: mini: the same system at a size a CPU trains in minutes.
        seed: Seed of the initial weights and the data's order.
        force: Replace the content of the output folder.
        resume: Continue from the newest checkpoint in --out; a run that torchrun or Slurm restarts does so anyway.
        checkpoint_every: Seconds between checkpoints; 0: after every step.
        device: cpu, cuda, cuda:1, mps or xpu; CUDA if there is one when left out.
        allow_overlap: Train even if validation text occurs in the training text.
        trackers: tensorboard, trackio or wandb; may be repeated.
        start: Start from the weights of this run folder or model.pargolf; their training seconds count too.
        more_seconds: Train the starting weights for this many more seconds, and raise the budget by as many.

    Returns:
        The run's result. Under torchrun only the first process yields events; the others read `result.json`.
    """
    from pargolf.core.devices import begun_again
    from pargolf.data.folder import open_data
    from pargolf.report.pages.write import with_page
    from pargolf.run.pipeline import run_recipe
    from pargolf.watch.trackers import check_trackers, track

    command = command_line(train, locals())
    check_trackers(trackers)
    resume = resume or (begun_again() and (Path(out) / "recipe.json").is_file())
    system, origin = _recipe_and_start(recipe, start, more_seconds, scale=scale, changes=changes)
    events = run_recipe(
        system,
        open_data(data),
        out,
        seed=seed,
        force=force,
        resume=resume,
        device=device,
        allow_overlap=allow_overlap,
        command=command,
        checkpoint_every=checkpoint_every,
        start=origin,
    )
    return (yield from with_page(track(events, trackers, folder=out), out, device=device))


def _recipe_and_start(
    recipe: RecipeLike, start: PathLike | None, more: float | None, *, scale: str | None, changes: Changes | None
) -> "tuple[Recipe, Start | None]":
    """The recipe of a run, and the weights to start from. A run's folder means its recipe and its weights."""
    from pargolf.core.spec import checked, edit
    from pargolf.run.folder import RunFolder
    from pargolf.run.loading import read_start

    if isinstance(recipe, str | Path) and (Path(recipe) / "recipe.json").is_file():
        start = recipe if start is None else start
        recipe = RunFolder.open(recipe).read_recipe()
    system = find_recipe(recipe, scale=scale, changes=changes)
    origin = None if start is None else read_start(start)
    if more is None:
        return system, origin
    if origin is None:
        raise UserError("--more-seconds continues earlier training: name the run or its artifact with --from.")
    if origin.origin.train_seconds is None:
        raise UserError(f"It is not known how long {origin.origin.path} was trained. Set train.seconds instead.")
    budget = max(system.budget.train_seconds, origin.origin.train_seconds + more)
    rows = {"train.seconds": more, "train.steps": None, "budget.train_seconds": budget}
    return checked(edit(system, rows)), origin


def pack(run: PathLike, *, cap: ByteSize | None = None, own: Own = ()) -> dict[str, int]:
    """Pack a run's weights again under another cap.

    Args:
        run: A run folder.
        cap: Byte cap for model and code, for example 250kB or 1MB; the recipe's own when left out.
        own: A .py file or a folder of them, with the techniques that this uses. Its code is run.

    Returns:
        Bytes of the model, of the code and of both (`total`), and the cap.
    """
    from pargolf.run.folder import RunFolder
    from pargolf.run.pipeline import repack

    use(own)
    packed = repack(RunFolder.open(run), cap=None if cap is None else parse_bytes(cap))
    total = packed.model_bytes + packed.code_bytes
    return {"model": packed.model_bytes, "code": packed.code_bytes, "total": total, "cap": packed.cap}


@working
def seeds(
    recipe: RecipeLike,
    *,
    changes: Changes | None = None,
    seeds: Sequence[int] = (42, 314, 999),
    data: PathLike = "data",
    out: PathLike = "runs/seeds",
    scale: str | None = None,
    jobs: Count | None = None,
    on: str = "local",
    needs: str = "",
    checkpoint_every: Seconds = 60.0,
    device: str | None = None,
) -> Events[SeedRuns]:
    """Run a recipe with several seeds; print the mean and its confidence interval. Resumes where it stopped.

    Args:
        recipe: A shipped recipe's name, or a .py file that defines RECIPE.
        changes: Rows to change, path=value.
        seeds: Seeds, separated by commas.
        data: A data folder: shards and a tokenizer.
        out: The folder for the runs, one folder for each seed.
        scale: mini: the same system at a size a CPU trains in minutes.
        jobs: Runs at the same time. When left out: one here, and as many as fit on a cluster.
        on: Where to run: local, ray (the cluster of RAY_ADDRESS, or one of this machine), or ray://HOST:10001.
        needs: What each run needs, for example cores=4,gpus=0.5,memory=8GB.
        checkpoint_every: Seconds between checkpoints; 0: after every step.
        device: cpu, cuda, cuda:1, mps or xpu; CUDA if there is one when left out.
    """
    from pargolf.core.stats import spread
    from pargolf.data.folder import open_data
    from pargolf.engines.choose import choose
    from pargolf.report.pages.write import with_pages
    from pargolf.study.seeds import run_seeds, seed_rows
    from pargolf.study.together import StudyOptions

    command = command_line(_seeds, locals())
    system = find_recipe(recipe, scale=scale, changes=changes)
    events = run_seeds(
        system,
        open_data(data),
        out,
        seeds=seeds,
        options=StudyOptions(choose(on, jobs=jobs, needs=needs, device=device), device, checkpoint_every, command),
    )
    runs = yield from with_pages(events)
    # Other processes of torchrun have no runs; the first one reports.
    return SeedRuns(seed_rows(runs or []), spread([run.bpb for run in runs or []] or [float("nan")]))


_seeds = seeds
"""The function `seeds`, for functions with a parameter of the same name."""


@working
def sweep(
    recipe: RecipeLike,
    spans: Sequence["str | Span"],
    *,
    changes: Changes | None = None,
    data: PathLike = "data",
    out: PathLike = "runs/sweep",
    trials: Count = 20,
    storage: str | None = None,
    scale: str | None = None,
    seed: Seed = 1337,
    prune: bool = True,
    jobs: Count | None = None,
    on: str = "local",
    needs: str = "",
    checkpoint_every: Seconds = 60.0,
    device: str | None = None,
) -> "Events[SweepResult]":
    """Try values of some rows of a recipe and print which scored best. Resumes where it stopped.

    Args:
        recipe: A shipped recipe's name, or a .py file that defines RECIPE.
        spans: Ranges to try, PATH=log:0.01,0.1 (or float:, int:, choice:), and changes for all trials, PATH=VALUE.
        changes: Changes for all trials.
        data: A data folder: shards and a tokenizer.
        out: The folder for the study, with one folder for each trial.
        trials: How many trials in all.
        storage: URL of a database, so that many machines share one study.
        scale: mini: the same system at a size a CPU trains in minutes.
        seed: Seed of the initial weights and the data's order.
        prune: Stop trials early that are worse than the median of the others.
        jobs: Trials at the same time. When left out: one here, and as many as fit on a cluster.
        on: Where to run: local, ray (the cluster of RAY_ADDRESS, or one of this machine), or ray://HOST:10001.
        needs: What each trial needs, for example cores=4,gpus=0.5,memory=8GB.
        checkpoint_every: Seconds between checkpoints; 0: after every step.
        device: cpu, cuda, cuda:1, mps or xpu; CUDA if there is one when left out.

    Returns:
        All trials, and the best of the complete ones.
    """
    from pargolf.core.spec import overrides
    from pargolf.data.folder import open_data
    from pargolf.engines.choose import choose
    from pargolf.report.pages.write import with_pages
    from pargolf.study.sweep import Span, read_span, run_sweep
    from pargolf.study.together import StudyOptions

    command = command_line(sweep, locals())
    words = [(span, read_span(span) if isinstance(span, str) else span) for span in spans]
    rows = overrides(str(word) for word, span in words if span is None)
    system = find_recipe(recipe, scale=scale, changes={**(changes or {}), **rows})
    ranges = [span for _, span in words if isinstance(span, Span)]
    events = run_sweep(
        system,
        ranges,
        open_data(data),
        out,
        trials=trials,
        storage=storage,
        seed=seed,
        prune=prune,
        options=StudyOptions(choose(on, jobs=jobs, needs=needs, device=device), device, checkpoint_every, command),
    )
    return (yield from with_pages(events))


@working
def ablate(
    recipe: RecipeLike,
    *,
    changes: Changes | None = None,
    base: RecipeLike | None = None,
    edits: Edits | None = None,
    only: Sequence[str] = (),
    plain: bool = False,
    paced: bool = False,
    seeds: Sequence[int] = (42, 314, 999),
    data: PathLike | Sequence[PathLike] = "data",
    out: PathLike = "runs/ablation",
    scale: str | None = None,
    jobs: Count | None = None,
    on: str = "local",
    needs: str = "",
    checkpoint_every: Seconds = 60.0,
    device: str | None = None,
) -> Events[list[AblationRow]]:
    """Remove each part of a recipe in turn and print what it is worth, with intervals.

    The parts are the recipe's own ABLATIONS, or each --without, or the fields in which --base differs. With --jobs,
    runs share the threads, so add budget.counts=cpu to count processor seconds. The same command resumes.

    Args:
        recipe: A shipped recipe's name, or a .py file that defines RECIPE.
        changes: Changes for all runs, for example train.steps=200.
        base: Replace each part, in turn, by that of this recipe.
        edits: An edit to try, 'LABEL: PATH=VALUE'; may be repeated.
        only: Run only edits whose label matches, for example '+ *'; may be repeated.
        plain: Score over plain windows only, without adaptation.
        paced: Give each part as many steps as fit into equal seconds, timed in turns.
        seeds: Seeds, separated by commas.
        data: A prepared folder; repeat it for the same text with another vocabulary.
        out: The folder for the runs, one folder for each part.
        scale: mini: the same system at a size a CPU trains in minutes.
        jobs: Runs at the same time. When left out: one here, and as many as fit on a cluster.
        on: Where to run: local, ray (the cluster of RAY_ADDRESS, or one of this machine), or ray://HOST:10001.
        needs: What each run needs, for example cores=4,gpus=0.5,memory=8GB.
        checkpoint_every: Seconds between checkpoints; 0: after every step.
        device: cpu, cuda, cuda:1, mps or xpu; CUDA if there is one when left out.

    Returns:
        A row for the whole recipe, then one for each part with its worth, as in `ablation.json` and the plots in `out`.
    """
    from pargolf.data.folder import open_data
    from pargolf.engines.choose import choose
    from pargolf.recipes.variants import chosen, in_plain_windows
    from pargolf.report.pages.write import with_pages
    from pargolf.report.plots.worth import write_plots
    from pargolf.study.ablate import run_ablations, worth_row
    from pargolf.study.together import StudyOptions

    command = command_line(ablate, locals())
    whole = find_recipe(recipe, scale=scale, changes=changes)
    variants = chosen(_parts(whole, recipe, base, edits, scale=scale, changes=changes), only)
    if plain:
        whole = in_plain_windows(whole)
        variants = {label: in_plain_windows(variant) for label, variant in variants.items()}
    first, *others = map(open_data, [data] if isinstance(data, str | Path) else data)
    events = run_ablations(
        whole,
        variants,
        first,
        out,
        seeds=seeds,
        others=others,
        paced=paced,
        options=StudyOptions(choose(on, jobs=jobs, needs=needs, device=device), device, checkpoint_every, command),
    )
    worths = yield from with_pages(events)
    rows = [worth_row(worth) for worth in worths or []]
    if rows:  # other processes of torchrun have none
        write_plots(rows, Path(out))
    return rows


def _parts(
    whole: "Recipe",
    name: RecipeLike,
    base: RecipeLike | None,
    edits: Edits | None,
    *,
    scale: str | None,
    changes: Changes | None,
) -> "dict[str, Recipe]":
    """The recipe without each part: by `edits`, else its module's ABLATIONS, else its differences from a base."""
    from pargolf.recipes import catalog
    from pargolf.recipes.variants import base_parts, edited_parts, parse_edits

    shipped = isinstance(name, str | Path)
    if edits is None and base is None and shipped:
        edits = catalog.ablations(str(name))
    if edits:
        return edited_parts(whole, edits if isinstance(edits, Mapping) else parse_edits(edits))
    if base is None:
        repairs = shipped and str(name).endswith("_repaired")
        base = str(name).removesuffix("_repaired") if repairs else "baseline"
    return base_parts(whole, find_recipe(base, scale=scale, changes=changes))


def import_checkpoint(
    path: PathLike,
    *,
    system: str,
    out: PathLike,
    data: PathLike | None = None,
    heads: Count | None = None,
    kv_heads: Count | None = None,
    rope_dims: Index | None = None,
    xsa: Index | None = None,
    ve_layers: Sequence[int] | None = None,
    train_seq_len: Count | None = None,
    force: bool = False,
) -> dict[str, int]:
    """Make a run folder from a checkpoint of a published script.

    What the file does not show comes from these options, or else from the system's own recipe.

    Args:
        path: A final_model.pt, or an .int8.ptz or .int6.ptz artifact.
        system: The script: baseline, pr295, pr543, pr549, pr861, pr910, pr1009, pr1855 or pr2135.
        out: The run's folder.
        data: Data with its tokenizer, to score on.
        heads: Attention heads.
        kv_heads: Key and value heads.
        rope_dims: Rotated channels of each head; 0: all.
        xsa: The number of last layers with XSA.
        ve_layers: Layers that add the value embedding, for example 9,10.
        train_seq_len: The sequence length of its training.
        force: Replace the content of the output folder.

    Returns:
        Its parameters and layers, bytes of the model, of the code and of both (`total`), and the cap.
    """
    from pargolf.data.folder import open_data
    from pargolf.recipes import catalog
    from pargolf.upstream import importing

    imported = importing.import_checkpoint(
        path,
        catalog.find(system),
        out,
        system=system,
        data=None if data is None else open_data(data),
        force=force,
        unseen=importing.Unseen(
            heads=heads,
            kv_heads=kv_heads,
            rope_dims=rope_dims,
            xsa=xsa,
            ve_layers=None if ve_layers is None else tuple(ve_layers),
            train_seq_len=train_seq_len,
        ),
    )
    return {
        "parameters": imported.parameters,
        "layers": len(imported.recipe.model.blocks),
        "model": imported.model_bytes,
        "code": imported.code_bytes,
        "total": imported.model_bytes + imported.code_bytes,
        "cap": imported.recipe.budget.bytes,
    }
