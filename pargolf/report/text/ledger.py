"""Rows of the ledger on a terminal, and as comma-separated values."""

import csv
import io
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

SHOWN = ("run", "recipe", "seed", "bpb", "legal", "total", "steps", "seconds", "ended")
"""The default columns."""
_DECIMALS = {"bpb": 4, "loss": 4, "seconds": 1, "eval_seconds": 1}


def ledger_table(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> Table:
    """A table with numbers aligned right; long paths and hashes wrap."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        number = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_words(name, row[name]) for name in names))
    return table


def ledger_csv(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> str:
    """A line of names, then a line for each row; a missing value is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([row[name] for name in names] for row in rows)
    return text.getvalue()


def _words(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{_DECIMALS.get(name, 4)}f}"
    if isinstance(value, int) and name not in ("seed", "run"):
        return f"{value:,}"
    return str(value)
