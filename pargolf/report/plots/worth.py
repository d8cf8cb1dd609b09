"""What each part of a recipe is worth, drawn and tabled: a dot and its 95 % interval on one scale, best on top.

Right of zero helps. Parts that were taken away stand above, additions (labels that begin with "+ ") below. A dot is
blue where the whole interval is above zero, vermillion where it is below, and hollow where the seeds cannot tell. The
figures at the right are the gain in bits per byte, and what the part costs: milliseconds a step, and bytes.
"""

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table
from rich.text import Text

from pargolf.core.ablation import AblationRow
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


def worth_table(rows: Sequence[AblationRow]) -> Table:
    """Return what each part is worth, drawn with its 95 % interval on one scale; rows of `worth_row`, whole first."""
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
    """A number as a cell shows it, empty where there is none."""
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


def _drawn(rows: Sequence[AblationRow], shown: Sequence[AblationRow], width: float) -> tuple[Figure, dict[str, str]]:
    """The figure and its tooltips."""
    whole = next(row for row in rows if not row.part)
    gap = bool(shown) and shown[-1].is_addition and not shown[0].is_addition
    count = len(shown) + gap
    figure, (axes,) = new_figure(width, 0.75 + 0.3 * max(count, 1), rows=[1])
    titles, names = {}, []
    axes.axvline(0.0, color=INK, linewidth=0.8, alpha=0.7)
    for place, row in enumerate(shown):
        y = count - 1 - place - (gap and row.is_addition)
        names.append((y, row))
        _whiskers(axes, row, y, f"tip-{place}")
        _figures(axes, row, whole, y, phone=width < 6)
        titles[f"tip-{place}"] = _title(row)
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
    """The gain, and on a desk what it costs, in columns right of the axes."""
    time, size = costs(row, whole)
    texts = [f"{row.gain:+.4f}"]
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


def _title(row: AblationRow) -> str:
    interval = "" if row.interval is None else ", 95 % from {:+.4f} to {:+.4f}".format(*row.interval)
    count = len(row.scores)
    return f"{row.part}: {row.gain:+.4f} bits per byte{interval}, {count} seed{'s' * (count != 1)}"
