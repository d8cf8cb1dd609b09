"""What each part of a recipe is worth, drawn and tabled: a dot and its 95 % interval on one scale, best on top.

Right of zero helps. Parts that were taken away stand above, additions (labels that begin with "+ ") below. A dot is
blue where the whole interval is above zero, vermillion where it is below, and hollow where the seeds cannot tell. The
figures at the right are the gain in bits per byte, and what the part costs: milliseconds a step, and bytes.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table
from rich.text import Text

from pargolf.report.plots.drawing import FIRST, INK, SECOND, STYLE, WIDE, cut, new_figure, standalone, svg_text

Row = Mapping[str, Any]


def worth_svg(rows: Sequence[Row], *, width: float = WIDE, page: bool = True) -> str:
    """Return the plot of `ablation.json`'s rows as SVG, part of a page or a file of its own; empty without any part."""
    shown = ranked(rows)
    if not shown:
        return ""
    with matplotlib.rc_context(STYLE):
        figure, titles = _drawn(rows, shown, width)
        text = svg_text(figure, "worth", "What each part is worth in bits per byte, with its 95 % interval", titles)
    return text if page else standalone(text)


def worth_png(rows: Sequence[Row], *, width: float = WIDE) -> bytes:
    """Return the plot as a PNG on white."""
    shown = ranked(rows)
    with matplotlib.rc_context(STYLE):
        figure, _ = _drawn(rows, shown, width)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Parts by what they are worth, then additions likewise; without the whole recipe and what failed."""
    parts = [row for row in rows if row["part"] and row["worth"] is not None]
    return sorted(parts, key=lambda row: (is_addition(row), -row["worth"]))


def is_addition(row: Row) -> bool:
    """Whether the row is of something more than the recipe has."""
    return str(row["part"]).startswith("+ ")


def costs(row: Row, whole: Row) -> tuple[float | None, float | None]:
    """What the part costs: milliseconds a step and bytes, against what is left without it; None where unknown.

    Bytes are those on the recipe's own grids where runs fill the cap and say so, else the artifact's. Time is what the
    runs took, or, where the machine wavers and steps were timed in turns, the whole recipe's by the row's pace.
    """
    sign = -1 if not is_addition(row) else 1
    size = "weighs" if row["weighs"] is not None and whole["weighs"] is not None else "bytes"
    pairs = [(row[key], whole[key]) for key in ("step_ms", size)]
    if row.get("pace") is not None and whole["step_ms"] is not None:
        pairs[0] = (whole["step_ms"] * row["pace"], whole["step_ms"])
    time, size_change = (None if None in pair else sign * (pair[0] - pair[1]) for pair in pairs)
    return time, size_change


def worth_table(rows: Sequence[Row]) -> Table:
    """Return what each part is worth, drawn with its 95 % interval on one scale; rows of `worth_row`, whole first."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("without, or with +", "bpb", "worth", "95% interval", "p", "ms/step", "bytes"):
        table.add_column(name, justify="left" if name.startswith("without") else "right", overflow="fold")
    table.add_column("")
    shown = ranked(rows)
    ends = [abs(row[key]) for row in shown for key in ("worth", "low", "high") if row[key] is not None]
    reach = max(ends, default=0.0) or 1.0
    for whole in (row for row in rows if not row["part"] and row["bpb"] is not None):
        size = whole["bytes"] if whole["weighs"] is None else whole["weighs"]
        table.add_row("nothing", f"{whole['bpb']:.4f}", "", "", "", f"{whole['step_ms']:.1f}", f"{size:,.0f}", "")
        for row in shown:
            time, size = costs(row, whole)
            table.add_row(
                Text(row["part"]),
                f"{row['bpb']:.4f}",
                f"{row['worth']:+.4f}",
                "" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}",
                "" if row["p"] is None else f"{row['p']:.2g}",
                "" if time is None else f"{time:+.1f}",
                "" if size is None else f"{size:+,.0f}",
                Text(_whisker(row, reach), style="cyan"),
            )
    for row in (row for row in rows if row["failed"]):
        table.add_row(Text(row["part"]), "", "", "", "", "", "", Text(f"cannot run: {row['failed']}", style="red"))
    return table


def _whisker(row: Row, reach: float, *, half: int = 12) -> str:
    """A mean `o` and its interval `---` around zero `|`, in a line of 2 * half + 1 letters."""
    cells = [" "] * (2 * half + 1)
    if row["low"] is not None:
        left, right = (half + round(half * row[key] / reach) for key in ("low", "high"))
        cells[left : right + 1] = "-" * (right - left + 1)
    cells[half] = "|"
    cells[half + round(half * row["worth"] / reach)] = "o"
    return "".join(cells)


def _drawn(rows: Sequence[Row], shown: Sequence[Row], width: float) -> tuple[Figure, dict[str, str]]:
    """The figure and its tooltips."""
    whole = next(row for row in rows if not row["part"])
    gap = bool(shown) and is_addition(shown[-1]) and not is_addition(shown[0])
    count = len(shown) + gap
    figure, (axes,) = new_figure(width, 0.75 + 0.3 * max(count, 1), rows=[1])
    titles, names = {}, []
    axes.axvline(0.0, color=INK, linewidth=0.8, alpha=0.7)
    for place, row in enumerate(shown):
        y = count - 1 - place - (gap and is_addition(row))
        names.append((y, row))
        _whiskers(axes, row, y, f"tip-{place}")
        _figures(axes, row, whole, y, phone=width < 6)
        titles[f"tip-{place}"] = _title(row)
    longest = 34 if width > 6 else 20
    axes.set_yticks([y for y, _ in names], [cut(str(row["part"]), longest) for _, row in names])
    axes.set_ylim(-0.7, max(count, 1) - 0.3)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("bits per byte gained by the part" + (" (right of zero helps)" if width > 6 else ""))
    axes.xaxis.set_major_locator(MaxNLocator(5 if width > 6 else 3))
    axes.margins(x=0.04)
    return figure, titles


def _whiskers(axes: Axes, row: Row, y: float, name: str) -> None:
    """The interval and the mean of one row, under one tooltip."""
    low, high = row["low"], row["high"]
    sure = low is not None and (low > 0 or high < 0)
    colour = INK if not sure else FIRST if low > 0 else SECOND
    ends = [row["worth"]] * 2 if low is None else [low, high]
    axes.plot(
        [ends[0], row["worth"], ends[1]],
        [y, y, y],
        color=colour,
        linewidth=1.6,
        marker="o",
        markevery=[1],
        markersize=6.5,
        markerfacecolor=colour if sure else "none",
        markeredgewidth=1.3,
        solid_capstyle="butt",
        gid=name,
    )


def _figures(axes: Axes, row: Row, whole: Row, y: float, *, phone: bool) -> None:
    """The gain, and on a desk what it costs, in columns right of the axes."""
    time, size = costs(row, whole)
    texts = [f"{row['worth']:+.4f}"]
    if not phone:
        texts += ["" if time is None else f"{time:+.1f} ms", "" if size is None else f"{size / 1000:+,.1f} kB"]
    for place, text in enumerate(texts):
        axes.annotate(
            text.replace("-", "\N{MINUS SIGN}"),
            (1.0, y),
            (58 + 66 * place, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            va="center",
            alpha=1.0 if place == 0 else 0.65,
        )


def _title(row: Row) -> str:
    interval = "" if row["low"] is None else f", 95 % from {row['low']:+.4f} to {row['high']:+.4f}"
    count = len(row["scores"])
    return f"{row['part']}: {row['worth']:+.4f} bits per byte{interval}, {count} seed{'s' * (count != 1)}"
