"""What each part of a recipe is worth: run the recipe without each part in turn, or with one more, and compare.

    worth = bits per byte without it - bits per byte with everything    of a part
    worth = bits per byte of the recipe - bits per byte with it         of an addition: a label that begins "+ "

so a positive worth means that the part helps. The parts are variants of the recipe (`recipes/variants.py`): the edits
in `ABLATIONS` of its module, or those of `--without`, or else its differences from a base recipe. All variants run the
same steps or seconds, or, with `--paced`, as many steps as the same seconds would allow at a constant machine speed
(`study/pace.py`). They use the same seeds, so the test is paired by seed. All variants run with one seed before the
next seed begins, so an ablation that is interrupted has complete rows with fewer seeds.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

from pargolf.core.ablation import ADDED, Ablation, AblationRow
from pargolf.core.errors import UserError
from pargolf.core.events import Event, Progress, Step, Weighed
from pargolf.core.files import read_json, write_json
from pargolf.core.ranges import Positive
from pargolf.core.spec import build, edit
from pargolf.core.stats import Comparison, compare_scores
from pargolf.core.work import Events
from pargolf.data.folder import DataFolder
from pargolf.recipes.recipe import Recipe
from pargolf.run.signals import Interrupted
from pargolf.study.compare import Finished
from pargolf.study.jobs import JobDone, check_options, run_jobs
from pargolf.study.pace import pace_together
from pargolf.study.seeds import check_seeds, seed_folder
from pargolf.study.together import DEFAULT_OPTIONS, Job, StudyOptions, make_job, on_main_process
from pargolf.watch.runlog import read_events

WHOLE = "everything"
"""The folder of the whole recipe's runs."""


@dataclass(frozen=True)
class AblationRun:
    """The result of one run of a variant: bits per byte at the end and before packing, bytes, steps, seconds per step.

    `weighs`: the model's bytes on the recipe's own grids late in training, if packing fills the cap.
    """

    bpb: float
    pre_quant: float
    bytes: int
    weighs: int | None
    steps: int
    step_seconds: float


@dataclass(frozen=True)
class Worth:
    """One part, or everything (`part` empty): its runs by seed and the test that it helps, or why it could not run.

    `pace` is its time per step divided by the whole recipe's, if measured.
    """

    part: str
    runs: Mapping[int, AblationRun] = field(default_factory=dict)
    test: Comparison | None = None
    failed: str = ""
    pace: float | None = None


@dataclass(frozen=True)
class WorthsSoFar(Event):
    """The worth of the whole recipe and its parts, from the runs that have ended."""

    worths: tuple[Worth, ...]


@on_main_process
def run_ablations(
    recipe: Recipe,
    variants: Mapping[str, Recipe],
    data: DataFolder,
    out: str | Path,
    *,
    seeds: Sequence[int],
    others: Sequence[DataFolder] = (),
    paced: bool = False,
    options: StudyOptions = DEFAULT_OPTIONS,
) -> Events[list[Worth]]:
    """Run the recipe and each variant into `out/LABEL/seed-N`, or resume; returns the worth of each.

    others: the same text with other vocabularies, for variants that need them
    paced: give each variant as many steps as it makes in the recipe's seconds; paces are stored in `out/paces.json`

    `out/ablation.json` always holds the results so far. A part that cannot run is listed with the reason, and the
    others continue; if the whole recipe cannot run, everything stops.
    """
    check_options(options)
    check_seeds(seeds)
    out, recipes = Path(out), {"": recipe, **variants}
    folders = _folders(out, recipes)
    texts, failed = _texts(recipes, data, others)
    out.mkdir(parents=True, exist_ok=True)
    paces: dict[str, float] = {}
    if paced:
        paces, slow = yield from _paces(recipes, texts, out / "paces.json", options.device)
        failed |= slow
        texts = {label: text for label, text in texts.items() if label not in slow}
        recipes = _with_steps(recipes, paces)
    labels, jobs = dict[Path, str](), list[Job]()
    for seed in seeds:
        for label, text in texts.items():
            folder, name = seed_folder(folders[label], seed), f"{label or WHOLE}, seed {seed}"
            labels[folder] = label
            jobs.append(make_job(name, recipes[label], seed, folder, options, text))
    results = _Results({label: {} for label in recipes}, failed, paces)
    for event in run_jobs(jobs, data, options):
        yield event
        if isinstance(event, JobDone):
            results.add(labels[event.job.folder], event)
            if not event.resumed:
                worths = results.worths()
                write_json(out / "ablation.json", asdict(ablation_of(recipe, worths, paced=paced)))
                yield WorthsSoFar(tuple(worths))
    worths = results.worths()
    write_json(out / "ablation.json", asdict(ablation_of(recipe, worths, paced=paced)))
    return worths


def ablation_of(recipe: Recipe, worths: Sequence[Worth], *, paced: bool = False) -> Ablation:
    """The content of `ablation.json`: the recipe, the limit of every run, and the rows."""
    train, budget = recipe.train, recipe.budget
    return Ablation(
        recipe=recipe.name,
        digest=recipe.digest,
        steps=train.steps,
        paced=paced,
        seconds=train.seconds if train.seconds or train.steps else budget.train_seconds,
        counts=budget.counts,
        cap=budget.bytes,
        windows=str(recipe.windows),
        adapted=recipe.adapt is not None,
        rows=tuple(worth_row(worth) for worth in worths),
    )


def worth_row(worth: Worth) -> AblationRow:
    """Means over seeds, the part's worth with its interval, and the one-sided p that it helps."""
    test, runs = worth.test, list(worth.runs.values())
    return AblationRow(
        part=worth.part,
        bpb=_mean([run.bpb for run in runs]),
        before=_mean([run.pre_quant for run in runs]),
        worth=None if test is None else test.gain_bpb,
        low=None if test is None else test.low,
        high=None if test is None else test.high,
        p=None if test is None else test.p,
        bytes=_mean([run.bytes for run in runs]),
        weighs=_mean([run.weighs for run in runs if run.weighs is not None]),
        steps=_mean([run.steps for run in runs]),
        pace=worth.pace,
        step_ms=_mean([1000 * run.step_seconds for run in runs]),
        scores={str(seed): run.bpb for seed, run in sorted(worth.runs.items())},
        failed=worth.failed,
    )


def read_run(run: Finished) -> AblationRun:
    """Read what an ablation needs from a run; seconds per step are the median over its steps."""
    events = read_events(run.path / "events.jsonl")
    ends = [event.seconds for event in events if isinstance(event, Step)]
    times = [after - previous for previous, after in pairwise(ends)]
    weighed = [event.model_bytes for event in events if isinstance(event, Weighed)]
    result = run.result
    steps = result.steps
    pace = median(times) if times else result.train_seconds / max(steps, 1)
    pre_quant = result.scores["pre_quant"].bpb
    return AblationRun(run.bpb, pre_quant, result.bytes.model, weighed[-1] if weighed else None, steps, pace)


def _folders(out: Path, labels: Iterable[str]) -> dict[str, Path]:
    """The folder of each label's runs. Raises `UserError` if two labels would share one."""
    folders = {label: out / (_slug(label) or WHOLE) for label in labels}
    if len(set(folders.values())) < len(folders):
        raise UserError("Two labels of the ablation differ only in punctuation, and would share a folder. Rename one.")
    return folders


def _texts(
    recipes: Mapping[str, Recipe], data: DataFolder, others: Sequence[DataFolder]
) -> tuple[dict[str, DataFolder], dict[str, str]]:
    """The data folder of each variant, and for variants without one the reason."""
    texts: dict[str, DataFolder] = {}
    failed: dict[str, str] = {}
    for label, variant in recipes.items():
        try:
            texts[label] = _text_of(variant, recipes[""], data, others)
        except UserError as error:
            failed[label] = str(error)
    return texts, failed


def _text_of(variant: Recipe, recipe: Recipe, data: DataFolder, others: Sequence[DataFolder]) -> DataFolder:
    """The data folder for a variant. Raises `UserError` if no folder has the variant's vocabulary."""
    pieces = variant.model.vocab
    if pieces == recipe.model.vocab:
        return data
    for other in (other for other in others if other.vocab == pieces):
        documents, other_documents = ([row.sha256 for row in folder.rows("val") or ()] for folder in (data, other))
        if documents != other_documents:
            raise UserError(f"{other.path} holds other validation documents than {data.path}.")
        return other
    raise UserError(f"It needs the text in {pieces:,} pieces. Prepare it with --vocab {pieces}, and add its --data.")


def _paces(
    recipes: Mapping[str, Recipe], texts: Mapping[str, DataFolder], path: Path, device: str | None
) -> Events[tuple[dict[str, float], dict[str, str]]]:
    """The paces of all variants, measured once and stored, and the errors of those that cannot train."""
    recipe, data = recipes[""], texts[""]
    if recipe.train.steps is None:
        raise UserError("--paced needs the steps of the whole recipe, for example train.steps=240.")
    paces = build(dict[str, Positive], read_json(path), where=str(path)) if path.is_file() else {}
    failed: dict[str, str] = {}
    missing = [label for label in texts if label not in paces]
    for number, label in enumerate(missing):
        yield Progress("pace", number, len(missing), label)
        variant = recipes[label]
        trains_alike = (variant.model, variant.train) == (recipe.model, recipe.train)
        try:
            paces[label] = 1.0 if trains_alike else pace_together(recipe, variant, data, texts[label], device=device)
        except Interrupted:
            raise
        except UserError as error:
            failed[label] = str(error)
        write_json(path, paces)
    return {label: paces[label] for label in texts if label in paces}, failed


def _with_steps(recipes: Mapping[str, Recipe], paces: Mapping[str, float]) -> dict[str, Recipe]:
    """The variants, each with as many steps as it makes in the time of the whole recipe's steps."""
    steps = recipes[""].train.steps
    assert steps is not None
    return {
        label: edit(variant, {"train.steps": max(round(steps / paces[label]), 1)}) if label in paces else variant
        for label, variant in recipes.items()
    }


@dataclass
class _Results:
    """The runs so far by label and seed, the reasons of labels that cannot run, and the measured paces."""

    runs: dict[str, dict[int, AblationRun]]
    failed: dict[str, str]
    paces: Mapping[str, float]

    def add(self, label: str, done: JobDone) -> None:
        """Add the outcome of a job. Raises the job's error if the whole recipe (an empty label) cannot run."""
        if done.run is not None:
            self.runs[label][done.job.seed] = read_run(done.run)
        elif label:
            kind = "" if isinstance(done.error, UserError) else f"{type(done.error).__name__}: "
            self.failed[label] = f"{kind}{done.error}"
        elif done.error is not None:
            raise done.error

    def worths(self) -> list[Worth]:
        """The whole recipe first, then every part that ran or failed, in order; compared on the seeds of both."""
        whole = {seed: run.bpb for seed, run in self.runs[""].items()}
        rows = [Worth("", self.runs[""], pace=self.paces.get(""))]
        for label, runs in self.runs.items():
            scores = {seed: run.bpb for seed, run in runs.items() if seed in whole}
            if label and (scores or label in self.failed):
                same = {seed: whole[seed] for seed in scores}
                sides = (scores, same) if label.startswith(ADDED) else (same, scores)
                test = compare_scores(*sides, bar=0.0, nats=1.0) if scores else None
                paired = {seed: runs[seed] for seed in scores}
                rows.append(Worth(label, paired, test, self.failed.get(label, ""), self.paces.get(label)))
        return rows


def _slug(label: str) -> str:
    """A folder's name."""
    return re.sub(r"[^\w.+=-]+", "-", label).strip("-")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
