"""Seeds and comparisons as terminal tables: a row for each run, the mean, its spread, and the rule in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pargolf.core.stats import Comparison, Spread

_SHOWN = {
    "seed": "{}",
    "bpb": "{:.6f}",
    "loss": "{:.6f}",
    "steps": "{:,}",
    "bytes": "{:,}",
    "train_seconds": "{:.1f}",
    "eval_seconds": "{:.1f}",
}


def seeds_table(rows: Sequence[Mapping[str, object]], spread: Spread) -> RenderableType:
    """Return the runs of a recipe, and the mean with its standard deviation and interval below."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in _SHOWN:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(shown.format(row[name]) for name, shown in _SHOWN.items()))
    return Group(table, Text(spread_line(spread), style="bold"))


def spread_line(spread: Spread) -> str:
    """Return a mean and, if known, its spread in one line."""
    if spread.sd is None:
        return f"{spread.mean:.6f} bits per byte from one run, so the spread is unknown. Run more seeds."
    return (
        f"mean {spread.mean:.6f} bits per byte, sd {spread.sd:.6f}, 95% interval {spread.low:.6f} to {spread.high:.6f} "
        f"({spread.n} runs)"
    )


def comparison_table(test: Comparison, rows: Mapping[str, Any]) -> RenderableType:
    """Return both sides, the gain with its interval, the tests and the verdict; `rows` is the comparison's JSON."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("")
    table.add_column("run", overflow="fold")
    table.add_column("seed", justify="right")
    table.add_column("bpb", justify="right")
    for side in ("new", "old"):
        for row in rows[side]:
            run, seed = row.get("run", "published"), row.get("seed", "")
            table.add_row(side, Text(str(run)), str(seed), f"{row['bpb']:.6f}")
    lines = [f"gain {test.gain_nats:+.6f} nats per token, {test.gain_bpb:+.6f} bits per byte"]
    if test.low is not None and test.high is not None:
        lines.append(f"95% interval of the gain {test.low:+.6f} to {test.high:+.6f} bits per byte")
    for name, done in (("paired by seed", test.paired), ("Welch", test.welch)):
        if done is not None:
            lines.append(f"{name}: t {done.t:.3f}, {done.freedom:.2f} degrees of freedom, one-sided p {done.p:.3g}")
    return Group(table, *map(Text, lines), Text(test.words, style="bold green" if test.met else "bold yellow"))
