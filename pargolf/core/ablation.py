"""The result of an ablation: the typed content of `ablation.json`, which plots, boards and `describe` read."""

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
"""How the label of an addition begins."""


@dataclass(frozen=True)
class AblationRow:
    """One part, or the whole recipe (`part` empty): means over seeds, and what the part is worth in bits per byte.

    `low` to `high` is the 95 % interval of `worth`, `p` the one-sided test that the part gains. `bpb` is of the run
    without the part, or with it where it is an addition; `before` is before packing. `bytes` are the model's, `weighs`
    what it would weigh on the recipe's own grids, `pace` a step's time over one of the whole recipe, `scores` bits per
    byte by seed. Where nothing ran, `failed` says why.
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
        """Raise `UserError` on numbers without the others that belong to them."""
        if (self.low is None) != (self.high is None) or (self.low is not None and self.worth is None):
            raise UserError("worth, low and high belong together.")
        if self.bpb is None and self.worth is not None:
            raise UserError("worth is a number, and bpb is null.")

    @property
    def gain(self) -> float:
        """What the part is worth; 0 where nobody knows."""
        return self.worth or 0.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of `worth`; None where the seeds are too few for one."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def is_addition(self) -> bool:
        """Whether the row is of something more than the recipe has."""
        return self.part.startswith(ADDED)


@dataclass(frozen=True)
class Ablation:
    """The recipe, what bounded every run, and the rows, the whole recipe first.

    `of` says what the numbers are of, where that is the recipe as it once was.
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
        """Raise `UserError` where the whole recipe is not the first row, or nothing bounds the runs."""
        if not self.rows or self.rows[0].part or any(not row.part for row in self.rows[1:]):
            raise UserError("rows does not begin with the whole recipe.")
        if self.steps is None and self.seconds is None:
            raise UserError("steps and seconds are both null.")


def read_ablation(path: str | Path) -> Ablation:
    """What an `ablation.json` holds. Raises `UserError` with file and field."""
    return build(Ablation, read_json(path), where=str(path))


def ranked(rows: Sequence[AblationRow]) -> list[AblationRow]:
    """Parts by what they are worth, then additions likewise; without the whole recipe and what failed."""
    parts = [row for row in rows if row.part and row.worth is not None]
    return sorted(parts, key=lambda row: (row.is_addition, -row.gain))


def costs(row: AblationRow, whole: AblationRow) -> tuple[float | None, float | None]:
    """What the part costs: milliseconds a step and bytes, against what is left without it; None where unknown.

    Bytes are those on the recipe's own grids where runs fill the cap and say so, else the artifact's. Time is what the
    runs took, or, where the machine wavers and steps were timed in turns, the whole recipe's by the row's pace.
    """
    own_grids = row.weighs is not None and whole.weighs is not None
    sizes = (row.weighs, whole.weighs) if own_grids else (row.bytes, whole.bytes)
    paced = row.pace is not None and whole.step_ms is not None
    times = ((row.pace or 0.0) * (whole.step_ms or 0.0) if paced else row.step_ms, whole.step_ms)
    sign = 1 if row.is_addition else -1
    return _change(times, sign), _change(sizes, sign)


def _change(pair: tuple[float | None, float | None], sign: int) -> float | None:
    """What the first has more than the second, by sign; None where one is unknown."""
    ours, theirs = pair
    return None if ours is None or theirs is None else sign * (ours - theirs)
