"""What each part of a recipe is worth, as a terminal table: a mean with its 95 % interval, on one scale."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from pargolf.core.ablation import AblationRow, costs, ranked


def worth_table(rows: Sequence[AblationRow]) -> Table:
    """Return a table of each part's worth, drawn with its 95 % interval; rows of `worth_row`, the whole first."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("without, or with +", "bpb", "worth", "95% interval", "p", "ms/step", "bytes"):
        table.add_column(name, justify="left" if name.startswith("without") else "right", overflow="fold")
    table.add_column("")
    shown = ranked(rows)
    ends = [abs(end) for row in shown for end in (row.gain, *(row.interval or ()))]
    reach = max(ends, default=0.0) or 1.0
    for whole in (row for row in rows if not row.part and row.bpb is not None):
        weight = whole.bytes if whole.weighs is None else whole.weighs
        pace, weighs = (_shown(value, spec) for value, spec in ((whole.step_ms, ".1f"), (weight, ",.0f")))
        table.add_row("nothing", _shown(whole.bpb, ".4f"), "", "", "", pace, weighs, "")
        for row in shown:
            time, size = costs(row, whole)
            table.add_row(
                Text(row.part),
                _shown(row.bpb, ".4f"),
                f"{row.gain:+.4f}",
                "" if row.interval is None else "{:+.4f} to {:+.4f}".format(*row.interval),
                _shown(row.p, ".2g"),
                _shown(time, "+.1f"),
                _shown(size, "+,.0f"),
                Text(_whisker(row, reach), style="cyan"),
            )
    for row in (row for row in rows if row.failed):
        table.add_row(Text(row.part), "", "", "", "", "", "", Text(f"cannot run: {row.failed}", style="red"))
    return table


def _shown(value: float | None, spec: str) -> str:
    """A number formatted for a cell; empty for None."""
    return "" if value is None else format(value, spec)


def _whisker(row: AblationRow, reach: float, *, half: int = 12) -> str:
    """A mean `o` and its interval `---` around zero `|`, in a line of 2 * half + 1 letters."""
    cells = [" "] * (2 * half + 1)
    if row.interval is not None:
        left, right = (half + round(half * end / reach) for end in row.interval)
        cells[left : right + 1] = "-" * (right - left + 1)
    cells[half] = "|"
    cells[half + round(half * row.gain / reach)] = "o"
    return "".join(cells)
