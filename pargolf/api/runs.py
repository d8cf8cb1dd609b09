"""Runs: one, or many of them to compare; and a run made of a published checkpoint."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pargolf.api.recipes import Found, Own, recipe
from pargolf.core.ablation import AblationRow
from pargolf.core.devices import find_world, from_first
from pargolf.core.errors import UserError
from pargolf.core.own import use
from pargolf.core.result import Result
from pargolf.core.stats import Spread, spread
from pargolf.core.work import Events, working
from pargolf.data.folder import open_data
from pargolf.data.prepare import prepare
from pargolf.recipes import catalog
from pargolf.recipes.recipe import Recipe
from pargolf.recipes.variants import Edits, base_parts, chosen, edited_parts, in_plain_windows
from pargolf.run.folder import RunFolder
from pargolf.run.pipeline import repack, run_recipe
from pargolf.study.ablate import run_ablations, worth_row
from pargolf.study.seeds import run_seeds, seed_rows
from pargolf.study.sweep import Span, Swept, read_span, run_sweep
from pargolf.upstream import importing
from pargolf.watch.trackers import check_trackers, track


@working
def train(
    found: Found,
    *,
    data: str | Path,
    out: str | Path,
    scale: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 1337,
    force: bool = False,
    resume: bool = False,
    device: str | None = None,
    allow_overlap: bool = False,
    checkpoint_every: float = 60.0,
    trackers: Sequence[str] = (),
    command: str = "",
) -> Events[Result]:
    """Train, pack, unpack and score a recipe into the folder `out`; the `Result`, as `result.json` holds it.

    `resume` goes on from the checkpoint in `out`. Under torchrun only the first process yields events, and the result
    of the others is read from its folder. `trackers`:
    `tensorboard`, `trackio` or `wandb`, each an extra. `command` is what runs it again, where that is another one.
    """
    check_trackers(trackers)
    system = recipe(found, scale=scale, changes=changes)
    rows = " ".join(f"{path}={value}" for path, value in (changes or {}).items())
    named = found.name if isinstance(found, Recipe) else found
    size = f"--scale {scale}" if scale else ""
    command = command or f"pargolf train {named} {rows} {size} --data {data} --out {out} --seed {seed}"
    events = run_recipe(
        system,
        open_data(data),
        out,
        seed=seed,
        force=force,
        resume=resume,
        device=device,
        allow_overlap=allow_overlap,
        command=" ".join(command.split()),
        checkpoint_every=checkpoint_every,
    )
    yield from track(events, trackers, folder=out)
    return RunFolder(Path(out)).read_result()


@working
def demo(
    *, seconds: float = 180.0, out: str | Path = "runs/demo", seed: int = 1337, force: bool = False
) -> Events[Result]:
    """The main job on the embedded corpus: the `house` recipe, in its own vocabulary; its data goes to `out/data`."""
    world, data = find_world(), Path(out) / "data"
    if world.main:
        RunFolder.create(out, force=force)
        yield from prepare(["embedded"], data, vocab=recipe("house").model.vocab, force=True)
    from_first(world, lambda: None)  # the others wait for the data
    return (
        yield from train(
            "house",
            data=data,
            out=out,
            changes={"train.seconds": seconds},
            seed=seed,
            force=True,
            command=f"pargolf demo --seconds {seconds:g} --out {out} --seed {seed}",
        )
    )


def pack(run: str | Path, *, cap: int | None = None, own: Own = ()) -> dict[str, int]:
    """Pack a run's weights again under `cap` bytes; returns model, code and total bytes, and the cap.

    `own`: files of techniques that the run uses, which are run.
    """
    use(own)
    packed = repack(RunFolder.open(run), cap=cap)
    total = packed.model_bytes + packed.code_bytes
    return {"model": packed.model_bytes, "code": packed.code_bytes, "total": total, "cap": packed.cap}


@working
def seeds(
    found: Found,
    *,
    seeds: Sequence[int],
    data: str | Path,
    out: str | Path,
    scale: str | None = None,
    changes: Mapping[str, Any] | None = None,
    jobs: int = 1,
    device: str | None = None,
) -> Events[tuple[list[dict[str, Any]], Spread]]:
    """Run a recipe's missing seeds into `out/seed-N`; a row per seed, and the spread of their bits per byte."""
    system = recipe(found, scale=scale, changes=changes)
    named = found.name if isinstance(found, Recipe) else found
    rows = " ".join(f"{path}={value}" for path, value in (changes or {}).items())
    listed = ",".join(map(str, seeds))
    words = f"pargolf seeds {named} {rows} {f'--scale {scale}' if scale else ''} --seeds {listed}"
    command = " ".join(f"{words} --data {data} --out {out}".split())
    ended = yield from run_seeds(system, open_data(data), out, seeds=seeds, jobs=jobs, device=device, command=command)
    # Another process of torchrun's has none: there the first one speaks.
    return seed_rows(ended or []), spread([run.bpb for run in ended or []] or [math.nan])


@working
def sweep(
    found: Found,
    spans: Sequence[str | Span],
    *,
    data: str | Path,
    out: str | Path,
    trials: int = 20,
    storage: str | None = None,
    scale: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 1337,
    prune: bool = True,
    device: str | None = None,
) -> Events[Swept]:
    """Try values of some rows (`"train.optimizer[mlp.*].lr=log:0.01,0.1"`); all trials, and the best.

    The study is a journal in `out`, or the database at `storage`, which many machines may share.
    """
    read = [span if isinstance(span, Span) else read_span(span) for span in spans]
    named = [span for span in read if span is not None]
    if len(named) < len(spans):
        plain = next(span for span, one in zip(spans, read) if one is None)
        raise UserError(f"'{plain}' is no range. Write path=log:LOW,HIGH, or float:, int:, choice:.")
    system = recipe(found, scale=scale, changes=changes)
    return (
        yield from run_sweep(
            system,
            named,
            open_data(data),
            out,
            trials=trials,
            storage=storage,
            seed=seed,
            prune=prune,
            device=device,
            command=f"pargolf sweep {found.name if isinstance(found, Recipe) else found} --data {data} --out {out}",
        )
    )


@working
def ablate(
    found: Found,
    *,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    base: Found | None = None,
    edits: Edits | None = None,
    only: Sequence[str] = (),
    plain: bool = False,
    paced: bool = False,
    seeds: Sequence[int] = (42, 314, 999),
    scale: str | None = None,
    changes: Mapping[str, Any] | None = None,
    jobs: int = 1,
    device: str | None = None,
) -> Events[list[AblationRow]]:
    """Run a recipe, and with each of `edits` alone; what each is worth, the whole recipe first.

    Without `edits`: those that the recipe's module names as ABLATIONS; without those, or where a `base` is named, the
    parts that `base` does not have (None: the recipe that a repaired one repairs, else the baseline). `only`: globs of
    labels. `plain` scores over the plain windows alone, without adaptation. `changes` (as `train.steps`) go to all.
    `paced` gives each part, of the recipe's steps, as many as the same seconds buy, timed in turns.
    `data`: a folder, or several of the same text, of which a part with another vocabulary takes the one in its own.
    """
    whole = recipe(found, scale=scale, changes=changes)
    if edits is None and base is None and not isinstance(found, Recipe):
        edits = catalog.ablations(str(found))
    if edits:
        variants = edited_parts(whole, edits)
    else:
        if base is None:
            base = str(found).removesuffix("_repaired") if str(found).endswith("_repaired") else "baseline"
        variants = base_parts(whole, recipe(base, scale=scale, changes=changes))
    if plain:
        whole = in_plain_windows(whole)
        variants = {label: in_plain_windows(variant) for label, variant in variants.items()}
    variants = chosen(variants, only)
    named = found.name if isinstance(found, Recipe) else found
    first, *others = map(open_data, [data] if isinstance(data, str | Path) else data)
    worths = yield from run_ablations(
        whole,
        variants,
        first,
        out,
        seeds=seeds,
        others=others,
        paced=paced,
        jobs=jobs,
        device=device,
        command=f"pargolf ablate {named}",
    )
    return [worth_row(worth) for worth in worths or []]


def import_checkpoint(
    path: str | Path,
    *,
    system: str,
    out: str | Path,
    data: str | Path | None = None,
    force: bool = False,
    heads: int | None = None,
    kv_heads: int | None = None,
    rope_dims: int | None = None,
    xsa: int | None = None,
    ve_layers: Sequence[int] | None = None,
    train_seq_len: int | None = None,
) -> dict[str, int]:
    """Make a run folder of a published script's checkpoint; returns its parameters, layers, bytes and the cap.

    What the file does not show is as in `upstream.load`, where the system's own recipe does not have it: `heads`,
    `kv_heads`, rotated channels per head, how many last layers have XSA, the layers that add the value embedding, and
    the length that was trained at.
    """
    opened = None if data is None else open_data(data)
    made = importing.import_checkpoint(
        path,
        catalog.find(system),
        out,
        system=system,
        data=opened,
        force=force,
        heads=heads,
        kv_heads=kv_heads,
        rope_dims=rope_dims,
        xsa=xsa,
        ve_layers=ve_layers,
        train_seq_len=train_seq_len,
    )
    return {
        "parameters": made.parameters,
        "layers": len(made.recipe.model.blocks),
        "model": made.model_bytes,
        "code": made.code_bytes,
        "total": made.model_bytes + made.code_bytes,
        "cap": made.recipe.budget.bytes,
    }
