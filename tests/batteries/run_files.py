"""Run and data folders with one thing changed, through everything that reads them: refused in one line, or read."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pargolf
from batteries.trial import Trial
from pargolf.audit.judge import audit
from pargolf.core.errors import UserError
from pargolf.data.check import check
from pargolf.data.folder import open_data

OF_RUN = ("result.json", "events.jsonl", "documents.json", "recipe.json")
OF_DATA = ("meta.json", "documents.jsonl")
DEEP = "\0deep"
VALUES: tuple[Any, ...] = (
    "text",
    "",
    "7",
    "\ud800",
    "</script>" * 9,
    0,
    -1,
    1,
    2.5,
    -0.5,
    10**9,
    10**18,
    10**400,
    1e300,
    float("nan"),
    float("inf"),
    True,
    None,
    [],
    [1],
    {},
    {"a": 1},
    DEEP,
)


def trials(run: Path, data: Path, folder: Path, chance: random.Random) -> Iterator[Trial]:
    """Change things, one at a time, in copies of a finished run and of its data, and let every reader try them."""
    number = 0
    while True:
        number += 1
        place = folder / f"{number}"
        name = chance.choice((*OF_RUN, *OF_DATA))
        source = run if name in OF_RUN else data
        shutil.copytree(source, place / "bad", ignore=shutil.ignore_patterns("weights.*", "report.html"))
        path = place / "bad" / name
        path.write_bytes(mutated(path.read_bytes(), lines=path.suffix == ".jsonl", chance=chance))
        for reader in readers_of_run(run, place) if name in OF_RUN else readers_of_data(place):
            yield Trial(f"{name}, {number}", partial(read, reader, path))
        shutil.rmtree(place)


def readers_of_run(run: Path, place: Path) -> Iterator[Callable[[], object]]:
    """Compare, the auditor, and the page or the board beside a sound run."""
    bad = place / "bad"
    yield lambda: pargolf.compare([bad], against=[run])
    yield lambda: audit(bad)
    beside = [run] if int(place.name) % 2 else []
    yield lambda: pargolf.write_report([bad, *beside], out=place / "page.html").result()


def readers_of_data(place: Path) -> Iterator[Callable[[], object]]:
    """Opening, and the check before a run."""
    yield lambda: open_data(place / "bad").rows("val")
    yield lambda: check(place / "bad")


def read(reader: Callable[[], object], path: Path) -> str:
    """Let a reader try the file at `path`; an error must name its folder."""
    try:
        reader()
    except UserError as error:
        assert path.parent.name in str(error), str(error)
        raise
    return "read"


def mutated(data: bytes, *, lines: bool, chance: random.Random) -> bytes:
    """The file with one value of its JSON changed, taken out or put in; or with one byte of it changed."""
    if chance.random() < 0.15:
        changed = bytearray(data)
        changed[chance.randrange(len(changed))] = chance.randrange(256)
        return bytes(changed)
    if not lines:
        return written(with_change(json.loads(data), chance))
    rows = data.decode().splitlines()
    at = chance.randrange(len(rows))
    rows[at] = written(with_change(json.loads(rows[at]), chance)).decode()
    return ("\n".join(rows) + "\n").encode()


def with_change(value: Any, chance: random.Random) -> Any:
    """`value` with one of its inner values changed, or the whole of it."""
    whole: list[Any] = [value]
    holder: Any = whole
    key: Any = 0
    while isinstance(holder[key], dict | list) and holder[key] and chance.random() < 0.85:
        holder = holder[key]
        key = chance.choice(list(holder)) if isinstance(holder, dict) else chance.randrange(len(holder))
    kind = chance.random()
    if kind < 0.12 and isinstance(holder, dict):
        del holder[key]
    elif kind < 0.2 and isinstance(holder, dict):
        holder["colour"] = chance.choice(VALUES)
    else:
        holder[key] = chance.choice(VALUES)
    return whole[0]


def written(value: Any) -> bytes:
    """JSON, with what stands for deep nesting spelled out."""
    return json.dumps(value).replace(json.dumps(DEEP), "[" * 20_000 + "]" * 20_000).encode()
