"""A sweep as a table: each trial's values and score, the best first."""

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from pargolf.core.spec import override, show

if TYPE_CHECKING:
    from pargolf.study.sweep import TrialDone


def sweep_table(trials: "Sequence[TrialDone]", *, rows: int = 30) -> Table:
    """The `rows` best of the trials that ran to their end, then the others."""
    table = Table(box=None, pad_edge=False)
    paths = list(dict.fromkeys(path for trial in trials for path in trial.values))
    for name, right in (("trial", True), *((path, True) for path in paths), ("bits/byte", True), ("", False)):
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    order = {"complete": 0, "pruned": 1, "failed": 2}
    ranked = sorted(trials, key=lambda t: (order[t.state], t.bpb is None, t.bpb or 0.0, t.number))
    for number, trial in enumerate(ranked[:rows]):
        bpb = "" if trial.bpb is None else f"{trial.bpb:.4f}"
        note = trial.note or ("" if trial.state == "complete" else trial.state)
        values = [_shown(trial.values[path]) if path in trial.values else "" for path in paths]
        best = number == 0 and trial.state == "complete"
        cells = (str(trial.number), *values, bpb, note)
        table.add_row(*(Text(cell) for cell in cells), style="bold" if best else None)
    if len(ranked) > rows:
        table.add_row(Text(f"... {len(ranked) - rows} more"))
    return table


def override_words(values: Mapping[str, object]) -> list[str]:
    """Values as the command line takes them."""
    return [shlex.quote(override(path, value)) for path, value in values.items()]


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else show(value)
