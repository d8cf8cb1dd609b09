"""Data files changed while a run goes on: it ends with a line, or with the number of the data that it began with."""

import itertools
import os
import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from batteries.kills import RECIPE
from batteries.trial import Trial
from pargolf.core.errors import UserError
from pargolf.data import content
from pargolf.data.folder import DataFolder, open_data
from pargolf.run.folder import RunFolder
from pargolf.run.pipeline import run_recipe

FILES = ("text_val_000000.bin", "text_train_000000.bin", "tokenizer.model", "documents.jsonl", "meta.json")
WAYS = ("in place", "cut", "replaced", "removed")


def change(path: Path, way: str) -> None:
    """Do to a file what others may do while it is read."""
    raw = path.read_bytes()
    turned = raw[:1024] + np.frombuffer(raw[1024:], "<u2")[::-1].tobytes() if path.suffix == ".bin" else raw[::-1]
    os.utime(path, ns=(0, 0))  # a second at least from what follows, however coarse the clock is
    if way == "in place":
        path.write_bytes(turned)
    elif way == "cut":
        os.truncate(path, min(1024 + 64, len(raw) // 2))
    elif way == "replaced":
        path.with_suffix(".new").write_bytes(turned)
        path.with_suffix(".new").replace(path)
    else:
        path.unlink()


def trials(data: DataFolder, whole: RunFolder, folder: Path, chance: random.Random) -> Iterator[Trial]:
    """One file, one way, at one moment of a run; with the split in memory and not."""
    files = [name for name in FILES if (data.path / name).is_file()]
    for number in itertools.count():
        name, way, moment = chance.choice(files), chance.choice(WAYS), chance.randrange(0, 40)
        resident = chance.random() < 0.5
        act = partial(_run, name, way, moment, resident, data, whole, folder / f"{number}")
        yield Trial(f"{name} {way} at event {moment}{'' if resident else ', read span by span'}", act)


def _run(name: str, way: str, moment: int, resident: bool, data: DataFolder, whole: RunFolder, place: Path) -> str:
    shutil.copytree(data.path, place / "data")
    path, before = place / "data" / name, content.RESIDENT_BYTES
    content.RESIDENT_BYTES = before if resident else 0
    try:
        for _ in itertools.islice(events := run_recipe(RECIPE, open_data(place / "data"), place / "run"), moment):
            pass
        change(path, way)
        list(events)
    except UserError as error:
        assert name in str(error) or str(path.parent) in str(error), str(error)
        end = "refused"
    else:
        found, true = RunFolder.open(place / "run"), whole.read_result()
        result = found.read_result()
        assert found["model.pargolf"].read_bytes() == whole["model.pargolf"].read_bytes(), "another artifact"
        assert (result.val_bpb, result.val_bytes) == (true.val_bpb, true.val_bytes), "another score"
        assert result.proof == true.proof, "another proof"
        end = "the data that it began with"
    finally:
        content.RESIDENT_BYTES = before
    shutil.rmtree(place)
    return end
