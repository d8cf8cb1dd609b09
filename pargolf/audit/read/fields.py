"""Read `submission.json` as leaves: every scalar with its dotted path, its value and its line.

The file has no schema that people follow. So a leaf is identified by the meaning of its key and by its position: below
a seed, or in a comparison with another result. Numbers may be written as text, and seconds as milliseconds.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from pargolf.audit.code.script import text_of
from pargolf.audit.read.logs import MOST, Line
from pargolf.audit.read.submission import File

_MOST_BYTES = 4_000_000
_FOREIGN = re.compile(
    r"baseline|comparison|previous|prior|sota|parent|delta|margin|headroom|limit|\bcap\b|_cap|max_allowed|budget|target"
    r"|uncompressed|raw|fp16_bytes|fp32|unpruned|before|improvement|std|merged|base_|record|leader|\bref|ablation"
    r"|remaining|not_submit|unsubmit|over_(?:the_)?(?:cap|limit|budget|size)|too_(?:large|big)|rejected|discarded"
)
SEED_GROUP = re.compile(
    r"^(seed_results?|seeds|per_seed|per_seed_results|results|runs|seed_runs|val_bpb_seeds|val_bpb_per_seed|val_bpb_by_seed)$"
)


@dataclass(frozen=True)
class Leaf:
    """One scalar of submission.json: its dotted path, value and line."""

    path: tuple[str, ...]
    value: Any
    line: Line

    @property
    def key(self) -> str:
        """The last part of the path that is a name."""
        return next((p for p in reversed(self.path) if not _is_index(p)), "")

    @property
    def number(self) -> float | None:
        """Its value as a number, also if it is written as text (`"16,009,531"`); None if it is absurdly large."""
        value = self.value
        if isinstance(value, str):
            text = value.replace(",", "").replace("_", "").strip()
            value = float(text) if re.fullmatch(r"[0-9]{1,40}(\.[0-9]{1,40})?", text) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return float(value) if -MOST < value < MOST else None

    @property
    def seconds(self) -> float | None:
        """Its value in seconds; the key or the size of the value gives the unit."""
        value = self.number
        if value is None:
            return None
        return value / 1000 if self.key.endswith("_ms") or value > 100_000 else value


def read_leaves(file: File) -> tuple[list[Leaf], str]:
    """The leaves of a file; if it cannot be read or parsed, none, and the reason in words."""
    data = file.read() if file.size < _MOST_BYTES else None
    if data is None:
        return [], f"{file.path} ({file.size:,} bytes) could not be read"
    text = text_of(data)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return [], f"{file.path} does not parse: {error}"
    if not isinstance(value, dict):
        return [], f"{file.path} holds no object"
    leaves: list[Leaf] = []
    _flatten(value, (), leaves, _Finder(file.path, text.splitlines()), 0)
    return leaves, ""


class _Finder:
    """Line numbers of leaves, found by walking forward through the text in the order of the JSON."""

    def __init__(self, path: str, lines: list[str]) -> None:
        self.path, self.lines, self.at = path, lines, 0

    def line(self, key: str) -> Line:
        """The next line that contains the key."""
        quoted = json.dumps(key)
        for i in range(self.at, len(self.lines)):
            if quoted in self.lines[i]:
                self.at = i
                break
        text = self.lines[self.at] if self.lines else ""
        return Line(self.path, self.at + 1, text.strip()[:240])


def _flatten(value: Any, path: tuple[str, ...], out: list[Leaf], find: _Finder, depth: int) -> None:
    if len(out) > 5000 or depth > 12:
        return
    if isinstance(value, dict):
        for key, part in value.items():
            line = find.line(str(key))
            if isinstance(part, (dict, list)):
                _flatten(part, (*path, str(key)), out, find, depth + 1)
            else:
                out.append(Leaf((*path, str(key)), part, line))
    elif isinstance(value, list):
        for i, part in enumerate(value[:200]):
            if isinstance(part, (dict, list)):
                name = str(part.get("seed", i)) if isinstance(part, dict) else str(i)
                _flatten(part, (*path, name), out, find, depth + 1)
            else:
                out.append(Leaf((*path, str(i)), part, find.line(path[-1] if path else "")))


def _is_index(part: str) -> bool:
    return part.isdecimal() or re.fullmatch(r"(seed|run|s)[_-]?\d+", part) is not None


def seed_of(leaf: Leaf) -> str | None:
    """The seed of the run that a leaf describes: an index below a group of seeds, or `seed_42` anywhere."""
    for before, part in zip(("", *leaf.path), leaf.path):
        if re.fullmatch(r"seed[_-]?\d+", part) or (_is_index(part) and SEED_GROUP.match(before)):
            number = leaf.number
            if leaf.path[0] == "seeds" and len(leaf.path) == 2 and number is not None and number == int(number):
                return None
            return re.sub(r"\D", "", part)
    return None


def is_foreign_leaf(leaf: Leaf) -> bool:
    """Whether a leaf describes another system's result, a limit, or a size that is not shipped."""
    return _FOREIGN.search(".".join(leaf.path).lower()) is not None
