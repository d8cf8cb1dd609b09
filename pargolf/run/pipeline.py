"""The pipeline on one page: train, pack, unpack, score, write it all down. Every function yields events as it goes.

weights = train(recipe)                      inside the track's seconds, packing included
data    = pack(weights), under the cap       then the weights are thrown away
model   = unpack(data)                       everything after this uses only these bytes
result  = score(model), every token once     with its bytes proved against the documents
"""

import hashlib
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any

from torch.distributed import DistError

from pargolf.core.budget import Clock
from pargolf.core.commit import source_version
from pargolf.core.devices import find_world, from_first
from pargolf.core.errors import UserError, out_of_memory
from pargolf.core.events import Event, Packed, Progress, Proved, Started
from pargolf.core.files import claimed, write_bytes
from pargolf.core.ranges import check_seed
from pargolf.core.result import Bytes, DocumentScore, Grids, Rests, Result, ScoreRow, TextOverlap
from pargolf.core.spec import checked
from pargolf.core.work import Events, Work
from pargolf.core.world import World
from pargolf.data.content import refuse_repeats
from pargolf.data.folder import DataFolder
from pargolf.data.overlap import check_overlap
from pargolf.data.proof import finish
from pargolf.evaluate.adapted import Adapted, score_adapted
from pargolf.evaluate.adapters.adapter import Adapter
from pargolf.evaluate.lookahead import LookAhead
from pargolf.evaluate.score import Score
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import Windows
from pargolf.kernels.compiled import compiled_kernels
from pargolf.recipes.recipe import Recipe, fit_to_data
from pargolf.recipes.trial import limits
from pargolf.run.folder import RunFolder
from pargolf.run.loading import Start
from pargolf.run.pack import UnpackedModel, fit, unpack
from pargolf.run.resume import Checkpointer, earlier_events, open_run
from pargolf.run.score import (
    document_rows,
    open_text,
    proved,
    proving_text,
    score_together,
    scored,
    tokenizer_digest,
    watched,
)
from pargolf.run.signals import Interrupted, Signals, Stop
from pargolf.run.stage import Packing, packed_bytes
from pargolf.run.training import TrainedModel, machine, train_weights
from pargolf.ship.size import begin_count, count_code
from pargolf.watch.runlog import EventFile, LogFile

_FEW_STEPS = 100
"""A run of at most this many steps would wait for its script at the end, so the script is written first."""
_SMALL_CAP = 1_000_000
"""With a smaller cap the script is a large share of it, so it is written before packing is rehearsed."""
CHECKED_TOKENS = 50_000_000
"""Training text up to this size is compared with validation before each run; `data check` compares any size."""


@dataclass(frozen=True)
class TrainingFacts:
    """The facts of a training that are needed after its weights are dropped; `seconds` until the end of packing."""

    steps: int
    tokens: int
    parameters: int
    interrupted: bool
    seconds: float
    grids: Grids


def _claim_folder(out: str | Path, *, resume: bool) -> AbstractContextManager[None]:
    """Lock the output folder against other runs; without one to lock, opening it raises the error that says so."""
    path = Path(out)
    exists = path.is_dir() if resume or path.exists() else True
    return claimed(path, patience=0, name=".running") if exists else nullcontext()


@dataclass(frozen=True)
class RunContext:
    """How the run was started, for the result."""

    overlap: TextOverlap
    command: str
    start: Start | None = None


def run_recipe(
    recipe: Recipe,
    data: DataFolder,
    out: str | Path,
    *,
    seed: int = 1337,
    force: bool = False,
    resume: bool = False,
    device: str | None = None,
    allow_overlap: bool = False,
    command: str = "",
    checkpoint_every: float = 60.0,
    start: Start | None = None,
) -> Iterator[Event]:
    """Train, pack, unpack and score a recipe into the folder `out`. `result.json` is written last.

    start: another run's weights to start from
    resume: continue from the folder's newest checkpoint; training writes one every `checkpoint_every` seconds
    allow_overlap: accept validation documents that are copied in training; the result records it

    Under torchrun every process calls this; the first one writes the files and yields the events, the others yield
    none. Raises `UserError` on everything that the caller can fix: data, folder, recipe, cap, sizes that do not fit.
    """
    check_seed(seed)
    world = find_world(device)
    recipe = checked(fit_to_data(recipe, data))
    limits(recipe)
    if start is not None:
        start.fits(recipe, data)
    text = yield from _proved_text(data, world, recipe.plain, recipe.windows)
    overlap = check_leak(data, allowed=allow_overlap)
    with Signals() as signals, ExitStack() as claims:
        from_first(world, lambda: claims.enter_context(_claim_folder(out, resume=resume)))
        opened = open_run(
            recipe,
            data,
            out,
            seed=seed,
            force=force,
            resume=resume,
            world=world,
            every=checkpoint_every,
            start=start.origin.sha256 if start else "",
        )
        checkpointer = replace(opened, signals=signals)
        context = RunContext(overlap, command, start)
        try:
            yield from _run_and_log(recipe, data, text, checkpointer, context, seed=seed, world=world)
            world.broadcast(b"ended")  # wait until the first process has written the result
        except Stop:
            raise Interrupted(f"Ended before the run was over. Its state is kept in {out}: add --resume.") from None
        except (MemoryError, RuntimeError) as error:
            line = _machine_error(error, recipe, out, world)
            if line is None:
                raise
            raise (Interrupted if world.size > 1 else UserError)(line) from error


def _machine_error(error: Exception, recipe: Recipe, out: str | Path, world: World) -> str | None:
    """The message for an error of the machine (no memory, or another process is gone); None for other errors."""
    cause = " ".join(str(error).split())[:200] or type(error).__name__
    if out_of_memory(error):
        return (
            f"Memory ran out ({cause}), and passes go down to one sequence: a model {recipe.model.dim} wide on "
            f"{recipe.train.seq_len} tokens with a vocabulary of {recipe.model.vocab}. Lower model.dim, train.seq_len "
            f"or the vocabulary, or free some; what was kept in {out} goes on with --resume."
        )
    if world.size > 1 and ("gloo" in str(error) or isinstance(error, DistError)):
        return f"Another process of this job is gone ({cause}). Go on with --resume."
    return None


def _run_and_log(
    recipe: Recipe,
    data: DataFolder,
    text: Text,
    checkpointer: Checkpointer,
    context: RunContext,
    *,
    seed: int,
    world: World,
) -> Iterator[Event]:
    """Run the stages, log their events, and write the result files at the end; only the first process writes."""
    folder, signals = checkpointer.folder, checkpointer.signals
    earlier: list[Event] = []
    from_first(world, lambda: earlier.extend(earlier_events(checkpointer)))
    if not world.main:
        stages = _stages(recipe, data, text, checkpointer, context.start, seed=seed, world=world)
        with suppress(StopIteration):
            while True:
                signals.advance(stages)
        return
    with (
        EventFile(folder["events.jsonl"], earlier=earlier) as events,
        LogFile(folder["train.log"], earlier=earlier) as log,
    ):

        def ready() -> None:
            events.drain()
            log.drain()

        stages = _stages(recipe, data, text, replace(checkpointer, ready=ready), context.start, seed=seed, world=world)
        while True:
            try:
                event = signals.advance(stages)
            except StopIteration as end:
                result, documents = end.value
                break
            if not isinstance(event, Progress) and not (isinstance(event, Started) and earlier):
                events.write(event)
                log.write(event)
            yield event
        origin = context.start.origin if context.start else None
        result = replace(result, overlap=context.overlap, command=context.command, origin=origin)
        log.line(result.sentence, sync=True)
    with signals.shielded():
        folder.write_documents(documents)
        folder.write_result(result)
        if not result.interrupted:  # an interrupted run can be resumed
            folder.drop_checkpoints()


def _proved_text(data: DataFolder, world: World, *all_windows: Windows) -> Generator[Event, None, Text]:
    """The validation text with its bytes proved, on every process; the first process yields the progress."""
    open_text(data).holds(*all_windows)
    proving = proving_text(data)
    return (yield from proving) if world.main else finish(proving)


def check_leak(data: DataFolder, *, allowed: bool) -> TextOverlap:
    """Compare training and validation text, unless there is too much of it to do so before every run.

    Returns what the result records. Raises `UserError` on a copied document, unless `allowed`.
    """
    if len(data.train) > CHECKED_TOKENS:
        if not allowed:
            refuse_repeats(data.train, data.val)
        return TextOverlap(checked=False)
    overlap = check_overlap(data)
    if overlap.found and not allowed:
        raise UserError(
            f"{len(overlap.copied)} validation documents are copied in training, first {overlap.copied[0].id}: a score "
            "would mean nothing. Remove them and prepare the data again, or add --allow-overlap, which the result "
            "will carry."
        )
    return TextOverlap(checked=True, copied_documents=len(overlap.copied), shared_13grams=overlap.share)


def _stages(
    recipe: Recipe,
    data: DataFolder,
    text: Text,
    checkpointer: Checkpointer,
    start: Start | None,
    *,
    seed: int,
    world: World,
) -> Generator[Event, None, tuple[Result, list[DocumentScore]]]:
    """Train, pack, unpack, score; returns the result, and the final score by document.

    All processes must call it; only the first one packs and writes, and the others receive its bytes.
    """
    if world.main:
        few = recipe.train.steps is not None and recipe.train.steps <= _FEW_STEPS
        (count_code if few or recipe.budget.bytes < _SMALL_CAP else begin_count)(recipe)
    clock = recipe.budget.clock(already=checkpointer.seconds)
    weights = start.weights if start else None
    trained = yield from train_weights(
        recipe, data.train, text, seed=seed, world=world, clock=clock, checkpointer=checkpointer, start=weights
    )
    weights = trained.weights
    packings: list[Packing] = []
    artifact = from_first(world, partial(_packed, recipe, data, trained, checkpointer, clock, packings))
    packing = packings[0] if packings else Packing("", 0.0, False)  # only the first process needs it
    yield packed_event(recipe, artifact, packing.seconds, fitted=packing.solved)
    if recipe.quant.solver is not None:
        from_first(world, partial(checkpointer.folder.write_hessians, trained.hessians or {}))
    yield proved(text)
    grading = score_together(trained.model, text, recipe.plain, world=world)
    pre_quant = yield from watched(grading, Score)
    yield scored("pre_quant", pre_quant)
    facts = TrainingFacts(
        trained.steps,
        trained.tokens,
        sum(w.numel() for w in weights.values()),
        trained.reason == "interrupted",
        packing.seconds,
        Grids.SOLVED if packing.solved else Grids.RECIPE,
    )
    del trained, weights
    scoring = Clock()
    unpacked = unpack(artifact)
    unpacked.model.to(world.device)
    seconds = recipe.budget.eval_seconds
    scores, adapted = yield from score_unpacked(recipe, text, unpacked, seconds=seconds, world=world, clock=scoring)
    scores, took = {"pre_quant": pre_quant, **scores}, scoring.seconds
    result = _result(recipe, data, text, artifact, facts, scores, adapted, seed=seed, eval_seconds=took, world=world)
    final, without = list(scores.values())[-1], None if adapted is None else adapted.without
    return result, document_rows(text, final, without=without)


def score_unpacked(
    recipe: Recipe,
    text: Text,
    unpacked: UnpackedModel,
    *,
    seconds: float,
    world: World,
    clock: Clock | None = None,
) -> Events[tuple[dict[str, Score], Adapted | None]]:
    """All scorings of the unpacked model by name, the final one last; all within `seconds` by the clock."""
    scores: dict[str, Score] = {}
    clock = clock or Clock()
    for name, windows in _scorings(recipe):
        seconds_left, keep = seconds - clock.seconds, windows == recipe.windows
        parts = score_together(unpacked.model, text, windows, seconds=seconds_left, world=world, keep=keep)
        scores[name] = yield from watched(parts, Score)
        yield scored(name, scores[name])
    if recipe.adapt is None:
        return scores, None
    without, seconds_left = list(scores.values())[-1], seconds - clock.seconds
    learning = _adapting(
        unpacked, text, recipe.windows, recipe.adapt, without=without, seconds=seconds_left, world=world
    )
    adapted = yield from watched(learning, Adapted)
    yield scored("adapted", adapted.score)
    return {**scores, "adapted": adapted.score}, adapted


def _result(
    recipe: Recipe,
    data: DataFolder,
    text: Text,
    artifact: bytes,
    facts: TrainingFacts,
    scores: dict[str, Score],
    adapted: Adapted | None,
    *,
    seed: int,
    eval_seconds: float,
    world: World,
) -> Result:
    """The result of the run from its last score; the caller adds overlap, command and origin."""
    final = list(scores.values())[-1]
    look = reduce(LookAhead.joined, (score.look for score in scores.values()))
    code = count_code(recipe, fitted=facts.grids is Grids.SOLVED)
    return Result(
        recipe=recipe.name,
        digest=recipe.digest,
        seed=seed,
        val_loss=final.loss,
        val_bpb=final.bpb,
        val_tokens=final.tokens,
        val_bytes=final.bytes,
        val_split_tokens=final.positions,
        complete=final.complete,
        in_turn=final.in_turn,
        probed=look.probed,
        grades_per_position=(final.grades_min, final.grades_max),
        proof=text.proof,
        scores={name: ScoreRow(s.loss, s.bpb, s.windows, s.seconds) for name, s in scores.items()},
        adaptation=None if adapted is None else adapted.verdict,
        bytes=Bytes(len(artifact), code, len(artifact) + code, recipe.budget.bytes),
        grids=facts.grids,
        artifact_sha256=hashlib.sha256(artifact).hexdigest(),
        train_seconds=facts.seconds,
        eval_seconds=eval_seconds,
        steps=facts.steps,
        train_tokens=facts.tokens,
        parameters=facts.parameters,
        interrupted=facts.interrupted,
        overlap=TextOverlap(checked=False),
        budget=recipe.budget,
        machine=machine(world),
        data=str((data.copy_of or data.path).resolve()),
        command="",
        look=str(look) if look.ahead else None,
        version=source_version(),
    )


def _packed(
    recipe: Recipe,
    data: DataFolder,
    trained: TrainedModel,
    checkpointer: Checkpointer,
    clock: Clock,
    packings: list[Packing],
) -> bytes:
    """The artifact, packed now or before the run was ended, and stored in the folder. Appends to `packings`."""
    folder = checkpointer.folder
    artifact_before = packed_bytes(folder, trained.stage) if trained.stage else None
    if artifact_before is not None and trained.stage and trained.stage.packing:
        packings.append(trained.stage.packing)
        return artifact_before
    with compiled_kernels():
        fitted, artifact = fit(
            recipe,
            trained.weights,
            tokenizer=tokenizer_digest(data),
            cap=recipe.budget.bytes,
            hessians=trained.hessians,
        )
    write_bytes(folder["model.pargolf"], artifact)
    packing = Packing(hashlib.sha256(artifact).hexdigest(), clock.seconds, fitted.quant != recipe.quant)
    packings.append(packing)
    if trained.stage is not None:
        replace(trained.stage, packing=packing).write(folder)
    return artifact


def _scorings(recipe: Recipe) -> list[tuple[str, Windows]]:
    """The plain scoring, and the scoring over the final windows when they differ."""
    plain: tuple[str, Windows] = ("post_quant", recipe.plain)
    final: tuple[str, Windows] = (f"post_quant_{type(recipe.windows).__name__.lower()}", recipe.windows)
    return [plain] if recipe.windows == recipe.plain else [plain, final]


def packed_event(recipe: Recipe, data: bytes, seconds: float, *, fitted: bool = False) -> Packed:
    """The event of a finished packing; `fitted` when grids were solved for the cap."""
    by_role = {str(row["role"]): int(row["bytes"]) for row in unpack(data).artifact.by_role()}
    return Packed(len(data), count_code(recipe, fitted=fitted), recipe.budget.bytes, by_role, seconds)


def score_artifact(
    unpacked: UnpackedModel,
    data: DataFolder,
    *,
    windows: Windows | None = None,
    adapt: bool = False,
    seconds: float | None = None,
    device: str | None = None,
) -> Events[Score | Adapted]:
    """Score an unpacked artifact on a data folder's validation split; returns the `Score`, or `Adapted`.

    `seconds` limits each of the scorings with and without adaptation. Under torchrun the processes share the work, and
    the first one yields the events. Raises `UserError` when the data's tokenizer is not that of the artifact, and when
    it should adapt but its recipe names no adapter.
    """
    world = find_world(device)
    if tokenizer_digest(data) != unpacked.tokenizer:
        raise UserError(
            f"{data.path} has another tokenizer than the artifact was trained with. Score on the data it was trained "
            "on, or on data prepared with the same tokenizer."
        )
    if adapt and unpacked.adapt is None:
        raise UserError("This artifact's recipe names no adapter. Score it without --adapt.")
    windows = windows or unpacked.windows
    text = replace((yield from _proved_text(data, world, windows)), vocab=unpacked.model.spec.vocab)
    if world.main:
        yield proved(text)
    unpacked.model.to(world.device)
    adapter = unpacked.adapt if adapt else None
    scoring = Work(_scored(text, unpacked, windows, adapter, seconds=seconds, world=world))
    for event in scoring:
        if world.main:
            yield event
    return scoring.result()


def score_row(
    unpacked: UnpackedModel,
    data: DataFolder,
    *,
    windows: Windows | None = None,
    adapt: bool = False,
    seconds: float | None = None,
    device: str | None = None,
) -> Events[dict[str, Any]]:
    """Score as `score_artifact` does; returns the score's row, with the proof of its bytes and whether it is legal.

    A score is legal if it covers the whole text, in turn, without a look ahead, over proved bytes.
    """
    proof: Proved | None = None
    with Work(score_artifact(unpacked, data, windows=windows, adapt=adapt, seconds=seconds, device=device)) as scoring:
        for event in scoring:
            proof = event if isinstance(event, Proved) else proof
            yield event
        row = scoring.result().row()
    if proof is None:  # not the first process, so it yields no events
        return row
    names = ("rests", "note", "lossless", "shards_sha256", "tokenizer_sha256")
    legal = row["complete"] and row["in_turn"] and row["probed"] is not False and Rests(proof.rests).proved
    return {**row, "legal": legal, "proof": {name: getattr(proof, name) for name in names}}


def _scored(
    text: Text,
    unpacked: UnpackedModel,
    windows: Windows,
    adapter: Adapter | None,
    *,
    seconds: float | None,
    world: World,
) -> Events[Score | Adapted]:
    """The score, or the adapted score with it; all processes must call it."""
    keep = adapter is not None
    grading = score_together(unpacked.model, text, windows, seconds=seconds, world=world, keep=keep)
    without = yield from watched(grading, Score)
    if adapter is None:
        return without
    learning = _adapting(unpacked, text, windows, adapter, without=without, seconds=seconds, world=world)
    return (yield from watched(learning, Adapted))


def _adapting(
    unpacked: UnpackedModel,
    text: Text,
    windows: Windows,
    adapter: Adapter,
    *,
    without: Score,
    seconds: float | None,
    world: World,
) -> Iterator[Event | Adapted]:
    """The score of a model that adapts, on each process."""
    device = world.device
    yield from score_adapted(
        unpacked.model, text, windows, adapter, without=without, seconds=seconds, world=world, device=device
    )


def repack(folder: RunFolder, *, cap: int | None = None) -> Packed:
    """Pack a run's weights again, into `cap` bytes or under the recipe's own cap; replaces its artifact."""
    recipe, weights, hessians = folder.read_packable()
    if cap is not None:
        recipe = replace(recipe, budget=replace(recipe.budget, bytes=cap))
    tokenizer = folder.tokenizer_digest()
    clock = Clock()
    with compiled_kernels():
        fitted, data = fit(
            recipe,
            weights,
            tokenizer=tokenizer,
            cap=recipe.budget.bytes,
            hessians=hessians,
            fill=None if cap is None else True,
        )
    write_bytes(folder["model.pargolf"], data)
    return packed_event(recipe, data, clock.seconds, fitted=fitted.quant != recipe.quant)
