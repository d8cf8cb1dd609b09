"""The result of an ablation: the typed value of `ablation.json`, which plots, boards and `describe` read.

An ablation trains a recipe whole and then without each of its parts (or with something added), over the same seeds.
The first row is the whole recipe; each further row compares one part with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pargolf.core.errors import UserError
from pargolf.core.files import read_json
from pargolf.core.ranges import Amount, Loss, Rate, Share, Within
from pargolf.core.spec import build

Gain = Annotated[float, Within(-1e6, 1e6)]
ADDED = "+ "
"""The label of an addition begins with this."""


@dataclass(frozen=True)
class AblationRow:
    """One part, or the whole recipe (`part` empty): means over seeds, and the gain of the part in bits per byte.

    part: the removed (or added) part
    bpb, before: bits per byte of the run without the part (with it, for an addition), after and before packing
    worth, low, high: the gain of the part and its 95 % interval; p: the one-sided test that it gains
    bytes: size of the model; weighs: its size on the recipe's own grids; pace: step time relative to the whole recipe
    scores: bits per byte by seed; failed: why nothing ran, else empty
    """

    part: str
    bpb: Loss | None
    before: Loss | None
    worth: Gain | None
    low: Gain | None
    high: Gain | None
    p: Share | None
    bytes: Rate | None
    weighs: Rate | None
    steps: Rate | None
    step_ms: Rate | None
    scores: dict[str, Loss]
    failed: str
    pace: Rate | None = None

    def check_fields(self) -> None:
        """Raise `UserError` when `worth`, `low`, `high` or `bpb` is present without the numbers it needs."""
        if (self.low is None) != (self.high is None) or (self.low is not None and self.worth is None):
            raise UserError("worth, low and high belong together.")
        if self.bpb is None and self.worth is not None:
            raise UserError("worth is a number, and bpb is null.")

    @property
    def gain(self) -> float:
        """The gain of the part in bits per byte; 0 when unknown."""
        return self.worth or 0.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of `worth`; None when there are too few seeds."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def is_addition(self) -> bool:
        """Whether the row adds something to the recipe."""
        return self.part.startswith(ADDED)


@dataclass(frozen=True)
class Ablation:
    """The recipe, the limits of every run, and the rows; the whole recipe comes first.

    `of` describes the recipe that was measured, when it is an older version.
    """

    recipe: str
    digest: str
    steps: Amount | None
    seconds: Rate | None
    counts: str
    cap: Amount
    windows: str
    adapted: bool
    rows: tuple[AblationRow, ...]
    paced: bool = False
    of: str = ""

    def check_fields(self) -> None:
        """Raise `UserError` when the first row is not the whole recipe, or when neither steps nor seconds are set."""
        if not self.rows or self.rows[0].part or any(not row.part for row in self.rows[1:]):
            raise UserError("rows does not begin with the whole recipe.")
        if self.steps is None and self.seconds is None:
            raise UserError("steps and seconds are both null.")


def read_ablation(path: str | Path) -> Ablation:
    """Read an `ablation.json`. Raises `UserError` that names the file and the field."""
    return build(Ablation, read_json(path), where=str(path))


def ranked(rows: Sequence[AblationRow]) -> list[AblationRow]:
    """Parts sorted by gain, then additions sorted by gain; the whole recipe and failed rows are left out."""
    parts = [row for row in rows if row.part and row.worth is not None]
    return sorted(parts, key=lambda row: (row.is_addition, -row.gain))


def costs(row: AblationRow, whole: AblationRow) -> tuple[float | None, float | None]:
    """The cost of a part: milliseconds per step and bytes, compared with the recipe without it; None when unknown.

    Bytes are measured on the recipe's own grids when both rows have that number (`weighs`), else on the artifact. Time
    is `pace` times the whole recipe's step when steps were timed in turns (on an unsteady machine), else the run's own.
    """
    own_grids = row.weighs is not None and whole.weighs is not None
    sizes = (row.weighs, whole.weighs) if own_grids else (row.bytes, whole.bytes)
    paced = row.pace is not None and whole.step_ms is not None
    times = ((row.pace or 0.0) * (whole.step_ms or 0.0) if paced else row.step_ms, whole.step_ms)
    sign = 1 if row.is_addition else -1
    return _change(times, sign), _change(sizes, sign)


def _change(pair: tuple[float | None, float | None], sign: int) -> float | None:
    """`sign` times the difference of a pair; None when either is unknown."""
    ours, theirs = pair
    return None if ours is None or theirs is None else sign * (ours - theirs)
