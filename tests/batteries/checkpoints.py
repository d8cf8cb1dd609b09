"""Checkpoints changed, cut or forged: refused by name, or gone on from to the same bytes."""

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from forks import die

from batteries.kills import disturbed, goes_on, killed_at
from batteries.run_files import with_change
from batteries.trial import Trial
from pargolf.core.errors import UserError
from pargolf.data.folder import DataFolder
from pargolf.run import pipeline
from pargolf.run.folder import RunFolder


def trials(data: DataFolder, whole: RunFolder, folder: Path, chance: random.Random) -> Iterator[Trial]:
    """A run cut off in training, and one cut off in scoring, with a file that they go on from changed."""
    training, scoring = folder / "training", folder / "scoring"
    killed_at(5, data, training)
    disturbed(pipeline, "score_together", die, data, scoring, checkpoint_every=0)
    for number in itertools.count():
        out = folder / f"{number}"
        shutil.copytree(chance.choice((training, scoring)), out)
        files = sorted(path for path in (out / "checkpoints").iterdir() if path.is_file())
        path = chance.choice([*files, out / "events.jsonl", out / "weights.safetensors"])
        if not path.is_file():
            path = files[-1]
        kind = changed(path, chance)
        yield Trial(f"{path.parent.name}/{path.name} {kind}", partial(read, out, data, whole))
        shutil.rmtree(out)


def changed(path: Path, chance: random.Random) -> str:
    """Change a file in place; returns what was done."""
    raw = bytearray(path.read_bytes())
    at, more = chance.randrange(len(raw)), chance.randrange(1, 64)
    kind = chance.choice(("flipped", "overwritten", "cut off", "cut out", "in its header"))
    if kind == "flipped":
        raw[at] ^= 1 << chance.randrange(8)
    elif kind == "overwritten":
        raw[at : at + more] = chance.randbytes(len(raw[at : at + more]))
    elif kind == "cut off":
        del raw[at:]
    elif path.suffix == ".safetensors" and kind == "in its header":
        size = int.from_bytes(raw[:8], "little")
        header = json.dumps(with_change(json.loads(raw[8 : 8 + size]), chance)).encode()
        raw[: 8 + size] = len(header).to_bytes(8, "little") + header
    else:
        del raw[at : at + more]
    path.write_bytes(raw)
    return kind


def read(out: Path, data: DataFolder, whole: RunFolder) -> str:
    """Go on: to the bytes of the run that nothing disturbed, or to a line that names what is damaged."""
    try:
        goes_on(out, data, whole)
    except UserError as error:
        assert str(out) in str(error), str(error)
        raise
    return "the same bytes"
