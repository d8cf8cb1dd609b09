"""The only way to make a page: Jinja2 templates that escape all text, with CSS and JavaScript put inside.

Templates stand in `templates/`, style sheets and scripts in `assets/`. Quiet ink on plain ground, one blue and one
vermillion (told apart by colour-blind readers), on a board one colour a recipe; dark and light follow the reader's
system; a phone gets one column and its own plots. A page fetches nothing, and a policy in its head forbids it to: one
opened years later, off the network, looks the same.
"""

import re
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

PROOF = "Written by pargolf"
"""By what a page of this package is known, so that no other file is replaced by one."""
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Plot:
    """A plot as SVG text in two widths, of which the reader's screen shows one; empty texts where nothing is drawn."""

    wide: Markup
    narrow: Markup

    @classmethod
    def of(cls, wide: str, narrow: str) -> "Plot":
        """The two texts, which `plots/` has drawn and escaped."""
        return cls(Markup(wide), Markup(narrow))


@dataclass(frozen=True)
class Strip:
    """A line of dots over a bar, in percent of a cell's width: places with their titles, and both ends of the bar."""

    place: int
    dots: Sequence[tuple[float, str]]
    bar: tuple[float, float] | None


@dataclass(frozen=True)
class Cell:
    """A cell: its text, its classes, what it is sorted by, a recipe's place for its colour, where a link leads."""

    text: str = ""
    kind: str = ""
    value: float | str | None = None
    place: int | None = None
    link: str = ""
    front: bool = False
    strip: Strip | None = None


def number(shown: str, value: float | None = None) -> Cell:
    """A cell of a number; minus signs are set as such."""
    return Cell(shown.replace("-", "−"), value=value)


def words(shown: str, kind: str = "") -> Cell:
    """A cell of words."""
    return Cell(shown, f"text {kind}".strip())


@dataclass(frozen=True)
class Row:
    """Cells, the row's class, and what its `data-` attributes say."""

    cells: Sequence[Cell]
    kind: str = ""
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table; a head that begins with `*` stands over words, the others over numbers."""

    heads: Sequence[str]
    rows: Sequence[Row]
    foot: Sequence[Cell] = ()
    sortable: bool = False
    sorted_by: str = ""
    up: bool = False
    tall: bool = False
    name: str = ""


def render(template: str, **values: Any) -> str:
    """A whole page, ready to be written."""
    return _environment().get_template(template).render(proof=PROOF, **values)


@cache
def _environment() -> Environment:
    made = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined)
    made.filters |= {"asset": _asset, "count": _count, "counted": counted, "parts": _parts, "shown": _shown}
    return made


def _asset(name: str) -> Markup:
    """A file of style or script, which is ours."""
    return Markup((_HERE / "assets" / name).read_text(encoding="utf-8"))


def _count(number: int) -> str:
    return f"{number:,}"


def counted(things: Sized | int, word: str) -> str:
    """`1 run`, `3 runs`."""
    number = things if isinstance(things, int) else len(things)
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _parts(text: str) -> list[str]:
    """A text and its `code` in turns, the text first."""
    return re.split(r"`([^`]+)`", text)


def _shown(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A finding's numbers with their names, as people read them."""
    return [(name.replace("_", " "), _number(value)) for name, value in numbers.items() if value is not None]


def _number(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " / ".join(_number(v) for v in value)
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"
