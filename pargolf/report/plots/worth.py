"""A plot of what each part of a recipe is worth: a dot and its 95 % interval for each part, the best on top.

Parts to the right of zero help. Removed parts are above, additions (labels that begin with "+ ") below. A dot is blue
if the whole interval is above zero, vermillion if it is below, and hollow if it contains zero. The figures at the right
are the gain in bits per byte, and the part's cost: milliseconds a step, and bytes.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pargolf.core.ablation import AblationRow, costs, ranked
from pargolf.core.files import write_bytes, write_text
from pargolf.report.plots.drawing import FIRST, INK, SECOND, STYLE, WIDE, cut, new_figure, standalone, svg_text


def worth_svg(rows: Sequence[AblationRow], *, width: float = WIDE, page: bool = True) -> str:
    """Return the plot of `ablation.json`'s rows as SVG, part of a page or a file of its own; empty without any part."""
    shown = ranked(rows)
    if not shown:
        return ""
    with matplotlib.rc_context(STYLE):
        figure, titles = _drawn(rows, shown, width)
        text = svg_text(figure, "worth", "What each part is worth in bits per byte, with its 95 % interval", titles)
    return text if page else standalone(text)


def worth_png(rows: Sequence[AblationRow], *, width: float = WIDE) -> bytes:
    """Return the plot as a PNG on white."""
    shown = ranked(rows)
    with matplotlib.rc_context(STYLE):
        figure, _ = _drawn(rows, shown, width)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def write_plots(rows: Sequence[AblationRow], folder: Path) -> None:
    """Write the plot as `ablation.svg` (dark or light as the reader's system) and as `ablation.png`."""
    write_text(folder / "ablation.svg", worth_svg(rows, page=False))
    write_bytes(folder / "ablation.png", worth_png(rows))


def _drawn(rows: Sequence[AblationRow], shown: Sequence[AblationRow], width: float) -> tuple[Figure, dict[str, str]]:
    """The figure and its tooltips."""
    whole = next(row for row in rows if not row.part)
    gap = bool(shown) and shown[-1].is_addition and not shown[0].is_addition
    count = len(shown) + gap
    figure, (axes,) = new_figure(width, 0.75 + 0.3 * max(count, 1), rows=[1])
    titles, names = {}, []
    axes.axvline(0.0, color=INK, linewidth=0.8, alpha=0.7)
    for index, row in enumerate(shown):
        y = count - 1 - index - (gap and row.is_addition)
        names.append((y, row))
        _whiskers(axes, row, y, f"tip-{index}")
        _figures(axes, row, whole, y, phone=width < 6)
        titles[f"tip-{index}"] = _title(row)
    longest = 34 if width > 6 else 20
    axes.set_yticks([y for y, _ in names], [cut(row.part, longest) for _, row in names])
    axes.set_ylim(-0.7, max(count, 1) - 0.3)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("bits per byte gained by the part" + (" (right of zero helps)" if width > 6 else ""))
    axes.xaxis.set_major_locator(MaxNLocator(5 if width > 6 else 3))
    axes.margins(x=0.04)
    return figure, titles


def _whiskers(axes: Axes, row: AblationRow, y: float, name: str) -> None:
    """The interval and the mean of one row, under one tooltip."""
    low, high = row.interval or (row.gain, row.gain)
    sure = row.interval is not None and (low > 0 or high < 0)
    colour = INK if not sure else FIRST if low > 0 else SECOND
    axes.plot(
        [low, row.gain, high],
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


def _figures(axes: Axes, row: AblationRow, whole: AblationRow, y: float, *, phone: bool) -> None:
    """The gain, and on wide screens the cost, in columns right of the axes."""
    time, size = costs(row, whole)
    texts = [f"{row.gain:+.4f}"]
    if not phone:
        texts += ["" if time is None else f"{time:+.1f} ms", "" if size is None else f"{size / 1000:+,.1f} kB"]
    for index, text in enumerate(texts):
        axes.annotate(
            text.replace("-", "\N{MINUS SIGN}"),
            (1.0, y),
            (58 + 66 * index, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            va="center",
            alpha=1.0 if index == 0 else 0.65,
        )


def _title(row: AblationRow) -> str:
    interval = "" if row.interval is None else ", 95 % from {:+.4f} to {:+.4f}".format(*row.interval)
    count = len(row.scores)
    return f"{row.part}: {row.gain:+.4f} bits per byte{interval}, {count} seed{'s' * (count != 1)}"
