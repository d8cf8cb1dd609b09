"""Run and data folders with one thing changed, through everything that reads them: refused in one line, or read.

`mutate_results` is the battery: fast in the tests with a small count, larger in `benchmarks/reliability.py`.
"""

import json
import random
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pargolf
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


def mutate_results(run: Path, data: Path, count: int, seed: int) -> Counter[str]:
    """Change `count` things, one at a time, in copies of a finished run and of its data; what became of each.

    Keys are `refused` (one line that names the file), `read`, and for bugs `unnamed: ...` (a line without the file, or
    several lines) and `crash: ...`.
    """
    chance, found = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            place = Path(folder) / f"{number}"
            name = chance.choice((*OF_RUN, *OF_DATA))
            source = run if name in OF_RUN else data
            shutil.copytree(source, place / "bad", ignore=shutil.ignore_patterns("weights.*", "report.html"))
            path = place / "bad" / name
            path.write_bytes(mutated(path.read_bytes(), lines=path.suffix == ".jsonl", chance=chance))
            readers = readers_of_run(run, place) if name in OF_RUN else readers_of_data(place)
            for reader in readers:
                found[outcome(reader, path)] += 1
            shutil.rmtree(place)
    return found


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


def outcome(reader: Callable[[], object], path: Path) -> str:
    """What a reader made of it, in a few words."""
    try:
        reader()
    except UserError as error:
        line = str(error)
        sound = "\n" not in line and len(line) < 1000 and path.parent.name in line
        return "refused" if sound else f"unnamed: {line[:80]!r}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"crash: {type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
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
