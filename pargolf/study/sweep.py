"""Search values for a few rows of a recipe: Optuna proposes, each trial is a run folder, and poor trials end early.

    train.optimizer[mlp.*].lr=log:0.005,0.05      uniform in the logarithm; also float:0,1   int:2,8   int:128,512,64
    model.blocks[:].mlp.act=choice:a,b            one of several values, each written like an override
    train.steps=200                               an override for all trials

Trials are stored in an Optuna study: a journal file in OUT, or a database that many machines share; each machine takes
the next trial and has its own folders. A trial's value is the run's final BPB, from the unpacked bytes. In training,
its BPB at each look at the validation text is compared with the median of the other trials' at the same look
(`optuna.pruners.MedianPruner`). A sweep that was stopped continues with its unfinished trials; it is refused if the
study is of another recipe, other ranges or other data. Side by side, trials are proposed and reported in rounds of as
many as run at a time, so the proposals depend on that number and not on which trial ends first.
"""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pargolf.core.devices import find_world
from pargolf.core.errors import UserError
from pargolf.core.events import Event, JobEnded, Progress, Resumed, Started, Validated
from pargolf.core.ranges import check_seed
from pargolf.core.spec import edit, parse_value, show
from pargolf.core.work import Events
from pargolf.data.folder import DataFolder
from pargolf.engines.task import RESUME_HINT, Happened, TaskEnded
from pargolf.recipes.recipe import Recipe, fit_to_data
from pargolf.run.score import tokenizer_digest
from pargolf.run.signals import Interrupted
from pargolf.study.compare import read_finished
from pargolf.study.jobs import check_options, job_event, start_jobs
from pargolf.study.together import DEFAULT_OPTIONS, Job, StudyOptions, make_job, on_main_process
from pargolf.watch.runlog import read_events

KINDS = ("log", "float", "int", "choice")
JOURNAL = "sweep.journal"
_UNPRUNED_TRIALS = 5  # this many trials run to the end before any is pruned


@dataclass(frozen=True)
class Span:
    """The range of one path: numbers from `low` to `high`, in steps of `step` if given, or one of `choices`."""

    path: str
    kind: str
    low: float = 0
    high: float = 0
    step: float | None = None
    choices: tuple[Any, ...] = ()

    def propose(self, trial: Any) -> Any:
        """The value that Optuna proposes for a trial."""
        if self.kind == "choice":
            # By index, because a study stores plain values only and a choice may be a list.
            return self.choices[trial.suggest_categorical(self.path, list(range(len(self.choices))))]
        if self.kind == "int":
            return trial.suggest_int(self.path, int(self.low), int(self.high), step=int(self.step or 1))
        return trial.suggest_float(self.path, self.low, self.high, log=self.kind == "log", step=self.step)

    def ends(self) -> tuple[Any, ...]:
        """The extreme values; if these are valid, all between them are."""
        complete = (int(self.low), int(self.high)) if self.kind == "int" else (self.low, self.high)
        return self.choices or complete

    def __str__(self) -> str:
        """The text that it was read from."""
        values = self.choices or tuple(x for x in (self.low, self.high, self.step) if x is not None)
        return f"{self.path}={self.kind}:{','.join(map(show, values))}"


@dataclass(frozen=True)
class TrialDone(Event):
    """A trial has ended: `state` is complete, pruned or failed; `bpb` is the final one, or that of the last look."""

    number: int
    state: str
    bpb: float | None
    values: dict[str, Any]
    run: str
    note: str = ""


@dataclass(frozen=True)
class SweepResult:
    """All trials of the study so far, and the best of the complete ones."""

    trials: tuple[TrialDone, ...]
    best: TrialDone | None


def read_span(word: str) -> Span | None:
    """Read `path=log:0.01,0.1`; None if the word is a plain override. Raises `UserError`."""
    path, _, range_text = word.partition("=")
    kind, colon, numbers = range_text.partition(":")
    if not colon or kind not in KINDS:
        return None
    values = [parse_value(text.strip()) for text in numbers.split(",")] if numbers else []
    if kind == "choice":
        if len(values) < 2:
            raise UserError(f"'{word}' has fewer than two choices. Write {path}=choice:A,B.")
        return Span(path, kind, choices=tuple(values))
    plain = all(isinstance(v, int if kind == "int" else int | float) and not isinstance(v, bool) for v in values)
    if not plain or len(values) not in ((2,) if kind == "log" else (2, 3)) or not values[0] < values[1]:
        raise UserError(f"'{word}' is not a range. Write {path}={kind}:LOW,HIGH{'' if kind == 'log' else '[,STEP]'}.")
    if kind == "log" and values[0] <= 0:
        raise UserError(f"'{word}' has a logarithm of {values[0]}. Begin above 0, or write {path}=float:LOW,HIGH.")
    if len(values) == 3 and values[2] <= 0:
        raise UserError(f"'{word}' has steps of {values[2]}. Write a step above 0.")
    return Span(path, kind, values[0], values[1], values[2] if len(values) == 3 else None)


@on_main_process
def run_sweep(
    recipe: Recipe,
    spans: Sequence[Span],
    data: DataFolder,
    out: str | Path,
    *,
    trials: int,
    storage: str | None = None,
    seed: int = 1337,
    prune: bool = True,
    pruner: Any = None,
    options: StudyOptions = DEFAULT_OPTIONS,
) -> Events[SweepResult]:
    """Run trials until `trials` of the study have ended; yields runs' events and a `TrialDone` each; returns all.

    `seed` is used for every run. Raises `UserError` on paths that do not exist or do not accept such values, on a study
    of another recipe, other ranges or other data, and after an interruption; the same call then continues.
    """
    check_options(options)
    check_seed(seed)
    _check_spans(spans, recipe, data)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    library = _library()
    study = _open_study(library, recipe, spans, data, out, storage, seed)
    prune = prune and find_world(options.device).size == 1  # else a run must stop on all processes
    study.pruner = pruner or (library.pruners.MedianPruner(_UNPRUNED_TRIALS) if prune else library.pruners.NopPruner())
    while (ended := len(_ended_trials(study))) < trials:
        yield Progress("trials", ended, trials)
        count = 1 if options.engine is None else max(1, min(options.engine.room(), trials - ended))
        batch = _next_trials(library, study, spans, out, count)
        jobs = [_job(trial, recipe, spans, seed, options) for trial in batch]
        yield from _round(library, study, spans, batch, jobs, data, options)
    done = tuple(_row(trial, spans) for trial in _ended_trials(study))
    complete = [row for row in done if row.state == "complete" and row.bpb is not None]
    yield Progress("trials", len(done), max(trials, len(done)))
    return SweepResult(done, min(complete, key=lambda row: row.bpb or 0.0, default=None))


def _check_spans(spans: Sequence[Span], recipe: Recipe, data: DataFolder) -> None:
    """Raise `UserError` on no ranges, on two of one path, and on an extreme value that the recipe does not accept."""
    if not spans:
        raise UserError("Name at least one range, for example 'train.optimizer[mlp.*].lr=log:0.005,0.05'.")
    if len({span.path for span in spans}) < len(spans):
        raise UserError("Two ranges have the same path. Name each path once.")
    for span in spans:
        for value in span.ends():
            fit_to_data(edit(recipe, {span.path: value}), data)


def _next_trials(library: Any, study: Any, spans: Sequence[Span], out: Path, count: int) -> list[Any]:
    """The next trials: first those in this folder that an earlier call did not finish, then new ones."""
    unfinished = [
        row
        for row in study.get_trials(deepcopy=False, states=(library.trial.TrialState.RUNNING,))
        if Path(row.user_attrs.get("run", "")).parent == out and {span.path for span in spans} <= row.params.keys()
    ]
    trials = [library.trial.Trial(study, row._trial_id) for row in unfinished[:count]]
    while len(trials) < count:
        trial = study.ask()
        for span in spans:
            span.propose(trial)
        folder = out / f"trial-{trial.number:04d}"
        if folder.exists():
            trial.set_user_attr("cut off", True)
            study.tell(trial, state=library.trial.TrialState.FAIL)
            raise UserError(f"{folder} belongs to another sweep. Choose another --out, or move it away.")
        trial.set_user_attr("run", str(folder))
        trials.append(trial)
    return trials


def _job(trial: Any, recipe: Recipe, spans: Sequence[Span], seed: int, options: StudyOptions) -> Job:
    """The run of a trial."""
    values = {span.path: span.propose(trial) for span in spans}  # a trial returns the same values each time
    system = edit(recipe, values | {"name": f"{recipe.name}, trial {trial.number}"})
    folder = Path(trial.user_attrs["run"])
    return make_job(f"trial {trial.number}", system, seed, folder, options)


def _round(
    library: Any,
    study: Any,
    spans: Sequence[Span],
    trials: Sequence[Any],
    jobs: Sequence[Job],
    data: DataFolder,
    options: StudyOptions,
) -> Iterator[Event]:
    """Run trials, prune poor ones, and report the outcomes to the study in order."""
    looks = [0] * len(trials)
    ends: dict[int, TaskEnded] = {}
    interrupted = False
    running = start_jobs(jobs, data, options)
    try:
        for event in running:
            number, inner = (event.number, event.event) if isinstance(event, Happened) else (0, event)
            if isinstance(event, TaskEnded):
                ends[event.number] = event
                yield JobEnded(jobs[event.number].label, str(event.error or ""))
                continue
            yield job_event(event, jobs, Progress("runs", len(ends), len(jobs)))
            looks[number] = _count_looks(inner, jobs[number], looks[number])
            if isinstance(inner, Validated):
                trials[number].report(inner.bpb, looks[number])
                if trials[number].should_prune():
                    running.stop(number)
    except (KeyboardInterrupt, Interrupted):  # the next call continues the trials that have not ended
        interrupted = True
    for number, end in sorted(ends.items()):
        yield _report(library, study, spans, trials[number], jobs[number], end)
    if interrupted:
        raise UserError(RESUME_HINT)


def _count_looks(event: Event, job: Job, looks: int) -> int:
    """The number of a run's looks at validation so far; those before its checkpoint are counted from its folder."""
    if isinstance(event, Resumed):
        earlier = read_events(job.folder / "events.jsonl")
        return sum(isinstance(each, Validated) and each.step <= event.step for each in earlier)
    return 0 if isinstance(event, Started) else looks + isinstance(event, Validated)


def _report(library: Any, study: Any, spans: Sequence[Span], trial: Any, job: Job, end: TaskEnded) -> TrialDone:
    """Report a trial's outcome to the study."""
    state = library.trial.TrialState
    error = end.error
    if end.stopped:
        study.tell(trial, state=state.PRUNED)
    elif error is None:
        run = read_finished(job.folder)
        if run.result.interrupted:
            raise UserError(RESUME_HINT)
        study.tell(trial, run.bpb)
    elif isinstance(error, UserError):  # values that the recipe cannot train with are a valid outcome
        trial.set_user_attr("error", " ".join(str(error).split()))
        study.tell(trial, state=state.FAIL)
    else:
        raise error
    return next(_row(row, spans) for row in study.get_trials(deepcopy=False) if row.number == trial.number)


def _open_study(
    library: Any, recipe: Recipe, spans: Sequence[Span], data: DataFolder, out: Path, storage: str | None, seed: int
) -> Any:
    """Create or open the study of this sweep. Raises `UserError` if it is another sweep's, or cannot be opened."""
    backend: Any = storage
    if storage is None:
        journal = library.storages.journal
        backend = library.storages.JournalStorage(journal.JournalFileBackend(str(out / JOURNAL)))
    facts = {
        "recipe": fit_to_data(recipe, data).digest,
        "ranges": sorted(str(span) for span in spans),
        "data": [tokenizer_digest(data), len(data.val)],
        "validation shards": sorted(data.val_hashes.values()),
    }
    try:
        name = f"pargolf sweep of {recipe.name}" if storage else "pargolf sweep"
        study = library.create_study(storage=backend, study_name=name, direction="minimize", load_if_exists=True)
        attributes = study.user_attrs
        for name, value in facts.items():
            if name not in attributes:
                study.set_user_attr(name, value)
    except Exception as error:
        if isinstance(error, TypeError | AttributeError):
            raise
        reason = str(error).strip().split("\n")[0][:160]
        raise UserError(f"The study cannot be opened at {storage or out / JOURNAL}: {reason}") from error
    other = [name for name, value in facts.items() if attributes.get(name, value) != value]
    if other:
        location = storage or out / JOURNAL
        raise UserError(
            f"{location} holds a sweep of {' and '.join(f'other {name}' for name in other)}. Choose another."
        )
    # The seed depends on the number of trials: with the same seed, each call would propose the same values again.
    study.sampler = library.samplers.TPESampler(seed=seed + len(study.get_trials(deepcopy=False)), multivariate=False)
    return study


def _ended_trials(study: Any) -> list[Any]:
    """The trials that count; interrupted ones do not."""
    rows = study.get_trials(deepcopy=False)
    return [row for row in rows if row.state.is_finished() and not row.user_attrs.get("cut off")]


def _row(trial: Any, spans: Sequence[Span]) -> TrialDone:
    """The event for a trial of the study."""
    values = {
        span.path: span.choices[trial.params[span.path]] if span.choices else trial.params[span.path]
        for span in spans
        if span.path in trial.params
    }
    last = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "failed")
    bpb = trial.value if state == "complete" else last
    attrs = trial.user_attrs
    return TrialDone(trial.number, state, bpb, values, str(attrs.get("run", "")), str(attrs.get("error", "")))


def _library() -> Any:
    try:
        library = importlib.import_module("optuna")
    except ImportError as error:
        raise UserError("Sweeps need the optuna package: pip install 'pargolf[sweep]'.") from error
    library.logging.set_verbosity(library.logging.WARNING)
    return library
