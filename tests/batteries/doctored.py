"""Run folders that somebody edited: `submit` refuses each kind in one line, and `audit` lets none pass."""

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import small

import pargolf
from batteries.trial import Trial
from pargolf.core.errors import UserError
from pargolf.core.events import Packed, Scored, Started, Step, Stopped, to_json
from pargolf.core.result import read_result, result_of
from pargolf.core.spec import edit
from pargolf.watch.runlog import RunLog, read_events


def two_runs(data: Path, out: Path) -> Path:
    """Two seeds of one recipe."""
    recipe = edit(small.RECIPE, {"train.steps": 3, "budget.bytes": 400_000})
    for seed in (1, 2):
        pargolf.train(recipe, data=data, out=out / f"seed-{seed}", seed=seed).result()
    return out


def result_json(folder, change):
    """Edit result.json; `legal` follows the other fields, as a careful forger would have it."""
    path = folder / "result.json"
    kept = json.loads(path.read_text())
    change(kept)
    try:
        kept["legal"] = result_of({**kept, "legal": True}, where="").legal
    except UserError:
        kept["legal"] = False
    path.write_text(json.dumps(kept))


def events_jsonl(folder, change, *, log=True):
    """Put `change(event)` in each event's place, none where it is None; the log follows."""
    events = [new for event in read_events(folder / "events.jsonl") if (new := change(event)) is not None]
    (folder / "events.jsonl").write_text("".join(to_json(event) + "\n" for event in events))
    if log:
        writer = RunLog()
        lines = [line for event in events for line in writer.lines(event)]
        (folder / "train.log").write_text("\n".join([*lines, read_result(folder / "result.json").sentence]) + "\n")


def lower(folder, *names, factor=0.99):
    """Lower scores everywhere they stand."""

    def result(kept):
        for name in names:
            kept["scores"][name]["bpb"] *= factor
            kept["scores"][name]["loss"] *= factor
        last = list(kept["scores"].values())[-1]
        kept |= {"val_bpb": last["bpb"], "val_loss": last["loss"]}

    result_json(folder, result)
    scores = read_result(folder / "result.json").scores
    events_jsonl(
        folder,
        lambda e: (
            replace(e, bpb=scores[e.name].bpb, loss=scores[e.name].loss)
            if isinstance(e, Scored) and e.name in scores
            else e
        ),
    )


def other_artifact(folder, *, known):
    """The other seed's artifact, with hash and size in the result and the events."""
    shutil.copyfile(folder.parent / "other" / "model.pargolf", folder / "model.pargolf")
    if known:
        theirs = read_result(folder.parent / "other" / "result.json")
        size = theirs.bytes.model
        facts = {"artifact_sha256": theirs.artifact_sha256}
        result_json(
            folder, lambda r: r.update(facts, bytes=r["bytes"] | {"model": size, "total": size + r["bytes"]["code"]})
        )
        events_jsonl(folder, lambda e: replace(e, model_bytes=size) if isinstance(e, Packed) else e)


def fewer_bytes(folder):
    """More bytes of text under the same nats, everywhere."""

    def more(kept):
        kept["val_bytes"] *= 2
        kept["val_bpb"] /= 2
        for row in kept["scores"].values():
            row["bpb"] /= 2

    result_json(folder, more)
    events_jsonl(folder, lambda e: replace(e, bytes=2 * e.bytes, bpb=e.bpb / 2) if isinstance(e, Scored) else e)


def hidden_interrupt(folder):
    """A run that was stopped after two of its steps, and says otherwise everywhere."""
    steps = [e for e in read_events(folder / "events.jsonl") if isinstance(e, Step)]
    result_json(folder, lambda r: r.update(steps=2, train_tokens=steps[1].tokens))
    events_jsonl(
        folder,
        lambda e: None if isinstance(e, Step) and e.step > 2 else replace(e, step=2) if isinstance(e, Stopped) else e,
    )


def edit_text(folder, name, old, new):
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def flipped(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)


def recipe_json(folder, old, new):
    edit_text(folder, "recipe.json", old, new)


FIELDS = {
    "val_bpb": lambda r: r.update(val_bpb=r["val_bpb"] * 0.9),
    "val_loss": lambda r: r.update(val_loss=r["val_loss"] * 0.9),
    "seed": lambda r: r.update(seed=7),
    "steps": lambda r: r.update(steps=4),
    "no steps": lambda r: r.update(steps=0),
    "train_tokens": lambda r: r.update(train_tokens=1),
    "parameters": lambda r: r.update(parameters=1),
    "digest": lambda r: r.update(digest="0" * 16),
    "recipe": lambda r: r.update(recipe="smaller"),
    "train_seconds": lambda r: r.update(train_seconds=0.1),
    "interrupted": lambda r: r.update(interrupted=True),
    "fewer tokens": lambda r: r.update(val_tokens=r["val_tokens"] - 1, complete=False),
    "other tokens": lambda r: r.update(val_tokens=9, val_split_tokens=9),
    "val_bytes": lambda r: r.update(val_bytes=r["val_bytes"] + 1),
    "grades": lambda r: r.update(grades_per_position=[1, 2]),
    "in_turn": lambda r: r.update(in_turn=False),
    "model bytes": lambda r: r["bytes"].update(model=1, total=1 + r["bytes"]["code"]),
    "code bytes": lambda r: r["bytes"].update(code=1, total=1 + r["bytes"]["model"]),
    "cap": lambda r: r["bytes"].update(cap=10**9),
    "budget": lambda r: r["budget"].update(bytes=10**9),
    "artifact_sha256": lambda r: r.update(artifact_sha256="0" * 64),
    "machine": lambda r: r["machine"].update(processor="8x H100"),
    "a score": lambda r: r["scores"]["pre_quant"].update(bpb=0.5),
    "one more score": lambda r: r.update(scores=r["scores"] | {"adapted": r["scores"]["post_quant"]}),
    "windows": lambda r: r["scores"]["post_quant"].update(windows="plain:8"),
    "table": lambda r: r["proof"].update(rests="table"),
    "published": lambda r: r["proof"].update(rests="published"),
    "tokenizer hash": lambda r: r["proof"].update(tokenizer_sha256="0" * 64),
    "copied documents": lambda r: r["overlap"].update(copied_documents=3),
    "text": lambda r: r.update(seed="1"),
    "a missing field": lambda r: r.pop("steps"),
}
KINDS = {f"result.json: {name}": lambda folder, act=act: result_json(folder, act) for name, act in FIELDS.items()} | {
    "legal by hand": lambda folder: edit_text(folder, "result.json", '"probed": true', '"probed": false'),
    "all scores, everywhere": lambda folder: lower(folder, "pre_quant", "post_quant", "post_quant_sliding"),
    "the final score, everywhere": lambda folder: lower(folder, "post_quant_sliding"),
    "a little of the final score": lambda folder: lower(folder, "post_quant_sliding", factor=0.9998),
    "an inner score, everywhere": lambda folder: lower(folder, "post_quant"),
    "more bytes of text, everywhere": fewer_bytes,
    "interrupt hidden, everywhere": hidden_interrupt,
    "interrupted by the events": lambda folder: events_jsonl(
        folder, lambda e: replace(e, reason="interrupted") if isinstance(e, Stopped) else e
    ),
    "stopped early": lambda folder: events_jsonl(
        folder, lambda e: replace(e, reason="seconds", seconds=0.0) if isinstance(e, Stopped) else e
    ),
    "seed by the events": lambda folder: events_jsonl(
        folder, lambda e: replace(e, seed=9) if isinstance(e, Started) else e
    ),
    "no packing": lambda folder: events_jsonl(folder, lambda e: None if isinstance(e, Packed) else e),
    "no final score": lambda folder: events_jsonl(
        folder, lambda e: None if isinstance(e, Scored) and "sliding" in e.name else e
    ),
    "a step twice": lambda folder: events_jsonl(
        folder, lambda e: replace(e, step=2) if isinstance(e, Step) and e.step == 3 else e
    ),
    "a loss without its log": lambda folder: events_jsonl(
        folder, lambda e: replace(e, loss=0.1) if isinstance(e, Step) else e, log=False
    ),
    "another recipe": lambda folder: recipe_json(folder, '"batch_tokens": 64', '"batch_tokens": 128'),
    "another recipe's name": lambda folder: recipe_json(folder, '"name": "small"', '"name": "smallest"'),
    "another artifact": lambda folder: other_artifact(folder, known=False),
    "another artifact, everywhere": lambda folder: other_artifact(folder, known=True),
    "a bit of the artifact": lambda folder: flipped(folder, "model.pargolf"),
    "a bit of the tokenizer": lambda folder: flipped(folder, "tokenizer.model"),
    "no tokenizer": lambda folder: (folder / "tokenizer.model").unlink(),
    "a document": lambda folder: edit_text(folder, "documents.json", '"bpb": ', '"bpb": 1'),
    "no documents": lambda folder: (folder / "documents.json").write_text("[]"),
    "the log's score": lambda folder: edit_text(folder, "train.log", "val_bpb:", "val_bpb:0"),
    "the log's sentence": lambda folder: edit_text(folder, "train.log", "Every one of", "Each of"),
    "no log": lambda folder: (folder / "train.log").unlink(),
    "no events": lambda folder: (folder / "events.jsonl").unlink(),
    "a damaged event": lambda folder: edit_text(folder, "events.jsonl", '"event": "Stopped"', '"event": 3'),
    "a damaged recipe": lambda folder: (folder / "recipe.json").write_text("[]"),
    "an empty result": lambda folder: (folder / "result.json").write_text(""),
}


def trials(runs: Path, data: Path, folder: Path, chance: random.Random) -> Iterator[Trial]:
    """Each kind through `submit` and through `audit`, and then two kinds at once."""
    numbers = itertools.count()
    for kind in KINDS:
        yield Trial(f"submit, {kind}", partial(refused, kind, runs, folder / f"{next(numbers)}"))
        yield Trial(f"audit, {kind}", partial(not_passed, kind, runs, data, folder / f"{next(numbers)}"))
    while True:
        kinds = chance.sample(list(KINDS), 2)
        yield Trial(f"submit, {' and '.join(kinds)}", partial(refused, kinds, runs, folder / f"{next(numbers)}"))


def edited(kinds: str | list[str], runs: Path, place: Path) -> Path:
    """A copy of a run, edited."""
    folder = place / "mine"
    shutil.copytree(runs / "seed-1", folder)
    shutil.copytree(runs / "seed-2", place / "other")
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        try:
            KINDS[kind](folder)
        except (UserError, AssertionError, OSError, ValueError, KeyError, TypeError):
            if isinstance(kinds, str):
                raise  # the second edit may not find what the first one took away
    return folder


def refused(kinds: str | list[str], runs: Path, place: Path) -> str:
    """`submit` must name the run in one line, and write nothing."""
    folder, out = edited(kinds, runs, place), place / "track_non_record_16mb" / "a"
    try:
        pargolf.write_submission([folder], out=out).result()
    except UserError as error:
        line = str(error)
        assert "\n" not in line and str(folder) in line and len(line) < 500, line
    else:
        raise AssertionError("submit took it")
    assert not out.exists()
    shutil.rmtree(place, ignore_errors=True)
    return "refused"


def not_passed(kind: str, runs: Path, data: Path, place: Path) -> str:
    """`audit` must not say PASS of it, with the data at hand."""
    verdict = pargolf.judge(edited(kind, runs, place), data=data).result().verdict
    assert verdict != "PASS", "audit says PASS"
    shutil.rmtree(place, ignore_errors=True)
    return str(verdict)
