"""The only way to make a page: Jinja2 templates that escape all text, with CSS and JavaScript put inside.

Templates are in `templates/`, style sheets and scripts in `assets/`. The colours are one blue and one vermillion, which
colour-blind readers can distinguish, and on a board one colour for each recipe. Dark or light mode follows the reader's
system; a phone gets one column and its own plots. A page loads nothing, and a content security policy in its head
forbids it, so it looks the same years later and without a network.
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
"""Text that identifies a page of this package, so that no other file is overwritten."""
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Plot:
    """A plot as SVG text in two widths; the browser shows the one that fits. Both are empty if there is no plot."""

    wide: Markup
    narrow: Markup

    @classmethod
    def of(cls, wide: str, narrow: str) -> "Plot":
        """Mark two SVG texts from `plots/` as safe: they are already escaped."""
        return cls(Markup(wide), Markup(narrow))


@dataclass(frozen=True)
class Strip:
    """Dots over a bar in a cell, in percent of its width: positions with their titles, and both ends of the bar."""

    place: int
    dots: Sequence[tuple[float, str]]
    bar: tuple[float, float] | None


@dataclass(frozen=True)
class Cell:
    """A cell: text, CSS classes, sort key, index of a recipe for its colour, and the target of a link."""

    text: str = ""
    kind: str = ""
    value: float | str | None = None
    place: int | None = None
    link: str = ""
    front: bool = False
    strip: Strip | None = None


def number(shown: str, value: float | None = None) -> Cell:
    """A cell with a number; a hyphen becomes a real minus sign."""
    return Cell(shown.replace("-", "−"), value=value)


def words(shown: str, kind: str = "") -> Cell:
    """A cell with text."""
    return Cell(shown, f"text {kind}".strip())


@dataclass(frozen=True)
class Row:
    """Cells, the row's class, and the values of its `data-` attributes."""

    cells: Sequence[Cell]
    kind: str = ""
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table; a heading that begins with `*` is over text, the others are over numbers."""

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
    environment = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"asset": _asset, "count": _count, "counted": counted, "parts": _parts, "shown": _shown}
    return environment


def _asset(name: str) -> Markup:
    """A style sheet or script of this package, marked as safe."""
    return Markup((_HERE / "assets" / name).read_text(encoding="utf-8"))


def _count(number: int) -> str:
    return f"{number:,}"


def counted(things: Sized | int, word: str) -> str:
    """`1 run`, `3 runs`."""
    number = things if isinstance(things, int) else len(things)
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _parts(text: str) -> list[str]:
    """Split a text at backticks: plain text and `code` alternate, plain text first."""
    return re.split(r"`([^`]+)`", text)


def _shown(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A finding's numbers with their names, formatted for people."""
    return [(name.replace("_", " "), _number(value)) for name, value in numbers.items() if value is not None]


def _number(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " / ".join(_number(v) for v in value)
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"
