"""Everything else that is read, changed at random: tokenizers, shards, weights, texts, submissions, records of studies.

Each is refused in a line that names the file or its folder, or read.
"""

import csv
import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import made_up

import pargolf
from batteries.run_files import mutated
from batteries.trial import Trial
from pargolf.core.errors import UserError
from pargolf.data.check import check
from pargolf.data.folder import open_data, open_tokenizer
from pargolf.data.prepare import prepare
from pargolf.run.folder import RunFolder
from pargolf.submit.bundle import SCRIPT


@dataclass(frozen=True)
class Input:
    """A file of a folder, by a glob, and what reads it. `plain`: whether it is changed byte by byte, not as JSON."""

    folder: Path
    glob: str
    read: Callable[[Path], object]
    plain: bool = True


def inputs(data: Path, run: Path, place: Path) -> list[Input]:
    """All kinds; what they need is made in `place`. `data` has a learned tokenizer."""
    texts, study, submission = place / "texts", place / "study", place / "track" / "a"
    texts.mkdir(parents=True)
    rows = [{"id": str(i), "text": f"Text {i} says {i * 7919} and no more."} for i in range(20)]
    (texts / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (texts / "rows.json").write_text(json.dumps(rows))
    (texts / "rows.txt").write_text("\n".join(row["text"] for row in rows))
    with (texts / "rows.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["id", "text"])
        table.writeheader()
        table.writerows(rows)
    study.mkdir()
    (study / "ablation.json").write_text(json.dumps(asdict(made_up.ablation())))
    shutil.copytree(run, study / "everything" / "seed-1")
    pargolf.write_submission([run], out=submission, data=data).result()
    return [
        Input(data, "tokenizer.model", lambda folder: open_tokenizer(folder / "tokenizer.model").encode("a text")),
        Input(data, "tokenizer.model", check),
        Input(data, "*_val_*.bin", lambda folder: open_data(folder).prove("val")),
        Input(data, "*_train_*.bin", check),
        Input(run, "weights.safetensors", lambda folder: RunFolder.open(folder).read_packable()),
        Input(run, "model.pargolf", lambda folder: pargolf.inspect(folder / "model.pargolf")),
        *(Input(texts, name, partial(_prepared, name), plain="json" not in name) for name in _names(texts)),
        Input(study, "ablation.json", lambda folder: pargolf.write_report([folder]).result(), plain=False),
        Input(submission, "submission.json", _judged, plain=False),
        Input(submission, "README.md", _judged),
        Input(submission, SCRIPT, _judged),
        Input(submission, "*.log", _judged),
    ]


def trials(data: Path, run: Path, folder: Path, chance: random.Random) -> Iterator[Trial]:
    """One of them changed, endlessly."""
    kinds = inputs(data, run, folder / "whole")
    for number in itertools.count():
        one = kinds[number % len(kinds)]
        copy = folder / f"bad-{number}"
        shutil.copytree(one.folder, copy)
        path = next(copy.glob(one.glob))
        raw = path.read_bytes()
        lines = path.suffix == ".jsonl"
        path.write_bytes(changed(raw, chance) if one.plain else mutated(raw, lines=lines, chance=chance))
        yield Trial(f"{path.name}, {number}", partial(read, one.read, path))
        shutil.rmtree(copy)


def read(reader: Callable[[Path], object], path: Path) -> str:
    """Let a reader try the folder of a file; an error must name one of them."""
    try:
        reader(path.parent)
    except UserError as error:
        assert path.name in str(error) or path.parent.name in str(error), str(error)
        raise
    return "read"


def changed(raw: bytes, chance: random.Random) -> bytes:
    """A few bytes flipped, overwritten, cut out, put in, or all behind a place cut off; often near the beginning."""
    data = bytearray(raw)
    at = chance.randrange(min(len(data), chance.choice((64, 2048, len(data)))))
    more = chance.randrange(1, 64)
    kind = chance.randrange(5)
    if kind == 0:
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        data[at : at + more] = chance.randbytes(len(data[at : at + more]))
    elif kind == 2:
        del data[at : at + more]
    elif kind == 3:
        data[at:at] = chance.randbytes(more)
    else:
        del data[at:]
    return bytes(data)


def _judged(folder: Path) -> object:
    return pargolf.judge(folder).result()


def _prepared(name: str, folder: Path) -> None:
    for _ in prepare([folder / name], folder / "out", vocab=257):
        pass


def _names(texts: Path) -> list[str]:
    return sorted(path.name for path in texts.iterdir())
