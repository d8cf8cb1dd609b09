"""Check a finished run: compare its files with each other, and score its artifact again.

`contradictions` compares the files with each other: result, recipe, artifact, tokenizer, events and log. `rescore`
needs the data: it scores the artifact as the run did, and compares every number, document by document. Neither can
check what only another training would show: seconds, the steps in between, the score before packing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from pargolf.core.devices import find_world
from pargolf.core.errors import UserError
from pargolf.core.events import Event, Packed, Scored, Started, Step, Stopped
from pargolf.core.result import DocumentScore, Grids, Proof, Result, ScoreRow
from pargolf.core.work import Events
from pargolf.data.folder import DataFolder
from pargolf.data.meta import file_sha256
from pargolf.evaluate.score import Score
from pargolf.model.transformer import parameters
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder
from pargolf.run.pack import UnpackedModel, read_artifact
from pargolf.run.pipeline import check_leak, score_unpacked
from pargolf.run.score import document_rows, open_text, proving_text, tokenizer_digest
from pargolf.watch.runlog import RunLog, read_events

SAME = 1e-5
"""The relative difference allowed for a score computed with other threads or on another machine."""
Claims = Iterator[tuple[str, bool]]


@dataclass(frozen=True)
class SecondScore:
    """The result of scoring again: the score, and a sentence for every difference from the run."""

    bpb: float
    loss: float
    differences: tuple[str, ...]


def contradictions(folder: RunFolder) -> list[str]:
    """The contradictions between the files of a finished run, a sentence each.

    Raises `UserError` on a file that is missing or damaged.
    """
    result, recipe = folder.read_result(), folder.read_recipe()
    unpacked, events = read_artifact(folder["model.pargolf"]), read_events(folder["events.jsonl"])
    claims = [
        *_artifact_claims(folder, result, recipe, unpacked),
        *_training_claims(result, recipe, events),
        *_score_claims(result, events),
        *_log_claims(folder, result, events),
    ]
    return [words for words, holds in claims if not holds]


def _artifact_claims(folder: RunFolder, result: Result, recipe: Recipe, unpacked: UnpackedModel) -> Claims:
    """Claims that result, recipe, artifact and tokenizer belong together."""
    path, tokenizer = folder["model.pargolf"], folder["tokenizer.model"]
    yield (
        "recipe.json is another recipe than result.json names.",
        (recipe.name, recipe.digest) == (result.recipe, result.digest),
    )
    yield "The budget in result.json is not the recipe's.", recipe.budget == result.budget
    yield "The cap in result.json is not the recipe's.", recipe.budget.bytes == result.bytes.cap
    # Older artifacts on solved grids name a recipe with these grids; newer ones name the recipe of the training.
    own = result.grids is Grids.SOLVED or unpacked.digest == recipe.digest
    yield "The artifact is of another recipe.", own and unpacked.recipe == recipe.name
    yield "The artifact's model is not the recipe's.", unpacked.model.spec == recipe.model
    scored_by = (unpacked.plain, unpacked.windows, unpacked.adapt)
    yield (
        "The artifact is scored by other windows than the recipe's.",
        scored_by == (recipe.plain, recipe.windows, recipe.adapt),
    )
    yield "The parameters in result.json are not the recipe's.", parameters(recipe.model) == result.parameters
    yield "model.pargolf is not what was scored: its SHA-256 differs.", file_sha256(path) == result.artifact_sha256
    yield "model.pargolf is of another size than result.json says.", path.stat().st_size == result.bytes.model
    known = result.proof is None or result.proof.tokenizer_sha256 == unpacked.tokenizer
    yield "The artifact was trained with another tokenizer than was scored with.", known
    if unpacked.tokenizer not in ("bytes", "unknown"):
        tokenizer_matches = tokenizer.is_file() and file_sha256(tokenizer) == unpacked.tokenizer
        yield "tokenizer.model is missing, or not the artifact's.", tokenizer_matches


def _training_claims(result: Result, recipe: Recipe, events: Sequence[Event]) -> Claims:
    """Claims that result and events describe the same training."""
    started = [event for event in events if isinstance(event, Started)]
    steps = [event for event in events if isinstance(event, Step)]
    stopped = [event for event in events if isinstance(event, Stopped)]
    packed = [event for event in events if isinstance(event, Packed)]
    yield "events.jsonl does not tell of one training to its end.", len(started) == len(stopped) == len(packed) == 1
    for event in started:
        known = event.recipe, event.digest, event.seed, event.parameters, event.val_tokens
        recorded_counts = result.recipe, result.digest, result.seed, result.parameters, result.val_split_tokens
        yield "events.jsonl began another run than result.json is of.", known == recorded_counts
        yield "events.jsonl names another machine than result.json.", event.machine == asdict(result.machine)
    last = steps[-1].step if steps else 0
    tokens = steps[-1].tokens if steps else 0
    yield "events.jsonl has other steps than result.json.", (last, tokens) == (result.steps, result.train_tokens)
    yield "events.jsonl has its steps out of order.", all(a.step < b.step for a, b in pairwise(steps))
    for stop in stopped:
        cut = stop.reason not in ("steps", "seconds")
        yield "events.jsonl and result.json differ on whether training was interrupted.", cut == result.interrupted
        yield "events.jsonl stopped at another step than result.json.", stop.step == result.steps
        whole = stop.reason != "steps" or recipe.train.steps == stop.step
        yield "events.jsonl stopped before the recipe's steps were done.", whole
        limit = started[0].seconds_limit if started else 0.0
        yield (
            "events.jsonl stopped long before the seconds were over.",
            stop.reason != "seconds" or 2 * stop.seconds > limit,
        )
    for pack in packed:
        sizes = (pack.model_bytes, pack.code_bytes, pack.cap)
        yield (
            "events.jsonl packed other bytes than result.json.",
            sizes == (result.bytes.model, result.bytes.code, result.bytes.cap),
        )
        yield "events.jsonl and result.json differ on the seconds of training.", pack.seconds == result.train_seconds


def _score_claims(result: Result, events: Sequence[Event]) -> Claims:
    """Claims that result and events describe the same scorings."""
    scored = [event for event in events if isinstance(event, Scored)]
    rows = {event.name: ScoreRow(event.loss, event.bpb, event.windows, event.seconds) for event in scored}
    yield "events.jsonl has other scores than result.json.", rows == result.scores
    final = list(result.scores.values())[-1]
    yield (
        "The number in result.json is not that of its last scoring.",
        (final.loss, final.bpb) == (result.val_loss, result.val_bpb),
    )
    for event in scored[-1:]:
        sizes = (event.tokens, event.bytes)
        yield "events.jsonl scored other text than result.json.", sizes == (result.val_tokens, result.val_bytes)


def _log_claims(folder: RunFolder, result: Result, events: Sequence[Event]) -> Claims:
    """Claims that the log agrees with the events, line by line."""
    log, path = RunLog(), folder["train.log"]
    lines = [line for event in events for line in log.lines(event)]
    logged = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    yield "train.log is missing: nobody can check a run without one.", path.is_file()
    # Runs of the older layout have no last line with the result's sentence.
    yield "train.log is not the log of events.jsonl.", logged in ([*lines, result.sentence], lines)


def rescore(folder: RunFolder, data: DataFolder, *, device: str | None = None) -> Events[SecondScore]:
    """Score a finished run's artifact again, as the run did, but without its time limit.

    Raises `UserError` when the data has another tokenizer, is too short for the windows, or contradicts its proof.
    """
    result, recipe, unpacked = folder.read_result(), folder.read_recipe(), read_artifact(folder["model.pargolf"])
    if tokenizer_digest(data) != unpacked.tokenizer:
        raise UserError(f"{data.path} has another tokenizer than {folder.path} was trained with. Name its own --data.")
    world = find_world(device)
    open_text(data).holds(recipe.plain, recipe.windows)
    text = yield from proving_text(data)
    assert text.proof is not None
    unpacked.model.to(world.device)
    scores, adapted = yield from score_unpacked(recipe, text, unpacked, seconds=math.inf, world=world)
    final, without = list(scores.values())[-1], None if adapted is None else adapted.without
    documents = document_rows(text, final, without=without)
    claims = [
        *_score_differences(result, scores),
        *_text_differences(result, text.proof, final),
        ("documents.json has other scores than scoring again gives.", _same_rows(folder.read_documents(), documents)),
        ("The overlap with the training text is not what was found again.", _same_overlap(result, data)),
    ]
    return SecondScore(final.bpb, final.loss, tuple(words for words, holds in claims if not holds))


def _score_differences(result: Result, scores: dict[str, Score]) -> Claims:
    for name, score in scores.items():
        row = result.scores.get(name)
        yield f"result.json has no score '{name}'.", row is not None
        if row is not None:
            same = _near(row.loss, score.loss) and _near(row.bpb, score.bpb) and row.windows == score.windows
            yield f"Scoring again gives {score.bpb:.6f} bits per byte for '{name}', and not {row.bpb:.6f}.", same
    yield "result.json has scores that the recipe does not.", result.scores.keys() <= {"pre_quant", *scores}


def _text_differences(result: Result, proof: Proof, final: Score) -> Claims:
    counts = (final.tokens, final.bytes, final.positions)
    recorded_counts = (result.val_tokens, result.val_bytes, result.val_split_tokens or final.positions)
    yield "The data hold other validation text than the run scored.", counts == recorded_counts
    grades = (final.in_turn, final.complete, (final.grades_min, final.grades_max))
    yield (
        "The order of scoring is not what result.json says.",
        grades == (result.in_turn, result.complete, result.grades_per_position),
    )
    yield "Its bytes are unproved.", proof.rests.proved
    if result.proof is not None:
        yield (
            "What the bytes rest on, or a hash of the data, is not what result.json says.",
            proof == result.proof,
        )


def _same_rows(recorded: Sequence[DocumentScore], rescored: Sequence[DocumentScore]) -> bool:
    same_size = len(recorded) == len(rescored)
    return same_size and all(
        (a.id, a.bytes, a.tokens, a.without is None) == (b.id, b.bytes, b.tokens, b.without is None)
        and _near(a.loss, b.loss, 1e-3)
        and _near(a.bpb, b.bpb, 1e-3)
        and _near(a.without or 0.0, b.without or 0.0, 1e-3)
        for a, b in zip(recorded, rescored, strict=True)
    )


def _same_overlap(result: Result, data: DataFolder) -> bool:
    """Whether the count of copied documents is that of the run, if both checked."""
    overlap = check_leak(data, allowed=True)
    unknown = not (result.overlap.checked and overlap.checked)
    return unknown or overlap.copied_documents == result.overlap.copied_documents


def _near(a: float, b: float, within: float = SAME) -> bool:
    return math.isclose(a, b, rel_tol=within, abs_tol=1e-9)
