"""What each part of a recipe is worth: take its difference to a base apart, and run the recipe without each in turn.

    worth = bits per byte without the part - bits per byte with everything

The parts are the fields of model and training in which the two recipes differ, and quantization, codec, windows and so
on as wholes; "without" means as the base has it. Rows of tables about parameters that are then gone go with them. All
run the same steps or seconds and the same seeds, so the test is paired by seed where the seeds are those.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from pargolf.core.errors import UserError
from pargolf.core.events import Event
from pargolf.core.roles import Table, matches
from pargolf.data.folder import DataFolder
from pargolf.quant.plan import QAT
from pargolf.report.stats import Comparison, compare_scores
from pargolf.run.forecast import shapes
from pargolf.run.recipe import Recipe
from pargolf.run.seeds import SeedDone, run_seeds

T = TypeVar("T")
_NO_PARTS = ("name", "source", "reported", "budget")
_EQUAL = ("train.steps", "train.seconds", "train.validate_every")


@dataclass(frozen=True)
class Worth:
    """One part, or everything (`part` empty): bits per byte by seed, and the test that the part gains; or why not."""

    part: str
    scores: dict[int, float]
    test: Comparison | None = None
    failed: str = ""


def ablations(recipe: Recipe, base: Recipe) -> dict[str, Recipe]:
    """The recipe without each of its parts, by the part's path. Raises `UserError` where it is the base itself."""
    out = {}
    for path in _parts(recipe, base):
        outer, _, inner = path.partition(".")
        theirs = getattr(base, outer)
        value = replace(getattr(recipe, outer), **{inner: getattr(theirs, inner)}) if inner else theirs
        changed: dict[str, Any] = {outer: value}
        out[path] = _fitting(replace(recipe, name=f"{recipe.name} without {path}", **changed))
    if not out:
        raise UserError(f"{recipe.name} has no part that {base.name} does not have. Name another --base.")
    return out


def run_ablations(
    recipe: Recipe,
    base: Recipe,
    data: DataFolder,
    out: str | Path,
    *,
    seeds: Sequence[int],
    jobs: int = 1,
    device: str | None = None,
) -> Iterator[Event | Worth]:
    """Run the whole recipe and each ablation into `out/PART/seed-N`, resuming; the events, and a `Worth` for each.

    A part that cannot be taken away alone is reported with the reason and stops nothing.
    """
    variants = {"": recipe, **ablations(recipe, base)}
    whole: dict[int, float] = {}
    for part, variant in variants.items():
        scores: dict[int, float] = {}
        try:
            for event in run_seeds(
                variant, data, Path(out) / (part or "everything"), seeds=seeds, jobs=jobs, device=device
            ):
                if isinstance(event, SeedDone):
                    scores[event.run.seed] = event.run.bpb
                else:
                    yield event
        except UserError as error:
            if not part:
                raise
            yield Worth(part, {}, failed=str(error))
            continue
        if not part:
            whole = scores
            yield Worth("", scores)
        else:
            yield Worth(part, scores, compare_scores(whole, scores, bar=0.0, nats=1.0))


def worth_row(worth: Worth) -> dict[str, Any]:
    """Plain JSON of a row: the mean, what the part is worth with its interval, and one-sided p that it gains."""
    mean = sum(worth.scores.values()) / len(worth.scores) if worth.scores else None
    test = worth.test
    return {
        "part": worth.part,
        "bpb": mean,
        "worth": None if test is None else test.gain_bpb,
        "low": None if test is None else test.low,
        "high": None if test is None else test.high,
        "p": None if test is None else test.p,
        "scores": {str(seed): bpb for seed, bpb in worth.scores.items()},
        "failed": worth.failed,
    }


def _parts(recipe: Recipe, base: Recipe) -> list[str]:
    """Paths in which the recipes differ: `model.embed`, `train.average`, `quant`."""
    found = []
    for outer in (f.name for f in fields(recipe) if f.name not in _NO_PARTS):
        ours, theirs = getattr(recipe, outer), getattr(base, outer)
        if outer in ("model", "train"):
            differ = [f.name for f in fields(ours) if getattr(ours, f.name) != getattr(theirs, f.name)]
            found += [f"{outer}.{inner}" for inner in differ if f"{outer}.{inner}" not in _EQUAL]
        elif ours != theirs:
            found.append(outer)
    return found


def _fitting(recipe: Recipe) -> Recipe:
    """Without the rows of tables whose parameters are gone."""
    names = list(shapes(recipe.model))
    quant, train = recipe.quant, recipe.train
    if quant.pruned is not None:
        roles = tuple(glob for glob in quant.pruned.roles if any(matches(name, glob) for name in names))
        quant = replace(quant, pruned=replace(quant.pruned, roles=roles))
    phases = tuple(
        replace(phase, weights=QAT(_rows(phase.weights.table, names))) if isinstance(phase.weights, QAT) else phase
        for phase in train.phases
    )
    return replace(
        recipe,
        model=replace(recipe.model, init=_rows(recipe.model.init, names)),
        quant=replace(quant, table=_rows(quant.table, names)),
        train=replace(train, optimizer=_rows(train.optimizer, names), phases=phases),
    )


def _rows(table: Table[T], names: Sequence[str]) -> tuple[tuple[str, T], ...]:
    return tuple((glob, value) for glob, value in table if any(matches(name, glob) for name in names))
