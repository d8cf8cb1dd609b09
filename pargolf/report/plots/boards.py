"""The plots of a board: bits per byte against cost, every run's curve, and forecast against real bytes.

Each recipe has one colour on the whole page, and its name is written at its best run instead of in a legend. Each mark
of a run carries the run's number, so that the page's filter can hide it and its table can highlight it.
"""

from collections.abc import Callable, Iterator, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from pargolf.core.events import Step, Weighed
from pargolf.core.result import Grids
from pargolf.report.entry import Entry, Group, front
from pargolf.report.plots.drawing import INK, SERIES, STYLE, WIDE, cut, new_figure, svg_text
from pargolf.report.plots.runs import Values, bpb_per_loss, smoothed, thin

Value = Callable[[Entry], float]


def colour_of(index: int) -> str:
    """The colour of the group with this index in the order of scores."""
    return SERIES[min(index, len(SERIES) - 1)]


def frontier(entries: Sequence[Entry], groups: Sequence[Group], *, of: str, label: str, width: float = WIDE / 2) -> str:
    """Plot bits per byte over `of` (`bytes` or `seconds`): one dot per run, filled on the front, and its line."""
    best = front(entries)
    xs = np.array([float(getattr(entry, of)) for entry in entries])
    ys = np.array([entry.bpb for entry in entries])
    titles, runs, ends = {}, {}, []
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(width, 3.6, rows=[1])
        _scale(axes, xs, ys)
        edge = _edge(xs, ys)
        axes.plot(*zip(*edge, strict=True), color=INK, linewidth=0.8, alpha=0.45, drawstyle="steps-post")
        for index, group in enumerate(groups):
            colour = colour_of(index)
            for run in reversed(group.runs):
                filled = colour if run in best else "none"
                name = f"run-{run}"
                axes.plot(
                    [xs[run]], [ys[run]], "o", color=colour, markersize=7, markerfacecolor=filled, gid=name, zorder=3
                )
                titles[name], runs[name] = _title(entries[run]), [run]
            ends.append((xs[group.runs[0]], ys[group.runs[0]], group, colour))
        runs |= _names(axes, ends, width=width)
        axes.set_xlabel(label)
        axes.set_ylabel("bits per byte")
        return svg_text(figure, f"front-{of}", f"Bits per byte over {label}, with the Pareto front", titles, runs)


def _loss_curves(entries: Sequence[Entry], groups: Sequence[Group]) -> Iterator[tuple[int, int, Values, Values]]:
    """For each run with a curve: its group, its index, and the seconds and smoothed bits per byte of some steps."""
    for index, group in enumerate(groups):
        for run in group.runs:
            steps = [event for event in entries[run].events if isinstance(event, Step)]
            ratio = bpb_per_loss(entries[run].events)
            if len(steps) > 1 and ratio:
                loss = ratio * smoothed(np.array([step.loss for step in steps], dtype=float))
                some = thin(len(steps))
                yield index, run, np.array([step.seconds for step in steps])[some], loss[some]


def all_curves(entries: Sequence[Entry], groups: Sequence[Group], *, width: float = WIDE) -> str:
    """Plot every run's smoothed training loss over seconds, converted to bits per byte of the validation text."""
    lines = list(_loss_curves(entries, groups))
    if not lines:
        return ""
    titles, runs, ends = {}, {}, []
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(width, 3.8, rows=[1])
        settled = [loss[seconds >= 0.15 * seconds[-1]] for _, _, seconds, loss in lines]
        low, high = (float(f(np.concatenate(settled))) for f in (np.nanmin, np.nanmax))
        latest = max(float(seconds[-1]) for _, _, seconds, _ in lines)
        axes.set_xlim(0, latest * (1.36 if width < 6 else 1.2))
        axes.set_ylim(low - 0.06 * (high - low), high + 0.04 * (high - low) + 1e-3)
        for index, run, seconds, loss in lines:
            name = f"curve-{run}"
            axes.plot(seconds, loss, color=colour_of(index), linewidth=1.4, alpha=0.85, gid=name)
            titles[name], runs[name] = _title(entries[run]), [run]
            if run == groups[index].runs[0]:
                ends.append((float(seconds[-1]), float(loss[-1]), groups[index], colour_of(index)))
        runs |= _names(axes, ends, width=width, outside=True)
        axes.set_xlabel("seconds of training")
        axes.set_ylabel("bits per byte")
        return svg_text(figure, "all-curves", "Training loss of every run over time", titles, runs)


def forecasts(entries: Sequence[Entry], groups: Sequence[Group], *, width: float = WIDE) -> str:
    """Plot the error of each forecast of the model's bytes, over the share of training done.

    Runs whose packing chose other grids (to fill the cap or to meet it) are left out: their forecasts were for others.
    """
    titles, runs, ends = {}, {}, []
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(width, 2.8, rows=[1])
        axes.axhline(0.0, color=INK, linewidth=0.8, alpha=0.6)
        for index, group in enumerate(groups):
            for run in group.runs:
                entry = entries[run]
                weighed = [event for event in entry.events if isinstance(event, Weighed)]
                if not weighed or entry.result.grids is not Grids.RECIPE:
                    continue
                steps, final = max(entry.result.steps, 1), max(entry.result.bytes.model, 1)
                share = [100 * event.step / steps for event in weighed]
                error = [100 * (event.model_bytes / final - 1) for event in weighed]
                name = f"forecast-{run}"
                axes.plot(share, error, color=colour_of(index), linewidth=1.2, marker="o", markersize=3.5, gid=name)
                titles[name] = f"{_title(entry)}; last forecast {error[-1]:+.2f} % of {final:,} bytes"
                runs[name] = [run]
                if run == group.runs[0]:
                    ends.append((share[-1], error[-1], group, colour_of(index)))
        if not runs:
            return ""
        axes.set_xlim(0, 136 if width < 6 else 120)
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.margins(y=0.15)
        axes.autoscale_view(scalex=False)
        runs |= _names(axes, ends, width=width, outside=True)
        axes.set_xlabel("% of the steps")
        axes.set_ylabel("forecast, % off")
        return svg_text(figure, "forecasts", "Forecast bytes against the artifact's", titles, runs)


def _scale(axes: Axes, xs: Values, ys: Values) -> None:
    """Set limits with a margin, and a logarithmic axis if the costs span more than a factor of eight."""
    low, high = float(xs.min()), float(xs.max())
    if low > 0 and high / low > 8:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
        # Within a decade or two matplotlib would also label the minor ticks, in a mathematical notation of its own.
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        room = 0.08 * (high - low) or 0.05 * max(high, 1.0)
        axes.set_xlim(low - room, high + room)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    room = 0.1 * float(ys.max() - ys.min()) or 0.05
    axes.set_ylim(float(ys.min()) - room, float(ys.max()) + room)


def _edge(xs: Values, ys: Values) -> list[tuple[float, float]]:
    """Corners of the front: each point that is better than all cheaper ones, cheapest first."""
    corners: list[tuple[float, float]] = []
    for run in np.lexsort((ys, xs)):
        if not corners or ys[run] < corners[-1][1]:
            corners.append((float(xs[run]), float(ys[run])))
    corners.append((float(xs.max()), corners[-1][1]))
    return corners


def _names(
    axes: Axes, ends: Sequence[tuple[float, float, Group, str]], *, width: float, outside: bool = False
) -> dict[str, list[int]]:
    """Write each group's name beside its point, moved down if two would touch; `outside`: always right of it."""
    runs: dict[str, list[int]] = {}
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # sizes are known only then
    scale, labels, lift = figure.dpi / 72, list[tuple[float, str]](), 0 if outside else 10
    middle = float(axes.bbox.x0 + 0.55 * axes.bbox.width)
    for index, (x, y, group, colour) in enumerate(sorted(ends, key=lambda end: -end[1])):
        px, py = (float(v) for v in axes.transData.transform((x, y)))
        side = "left" if outside or px < middle else "right"
        height = py / scale + lift  # above the edge that runs through the point
        while any(abs(height - other) < 12.5 and side == other_side for other, other_side in labels):
            height -= 1.0
        labels.append((height, side))
        name = f"name-{index}"
        axes.annotate(
            cut(group.name, 26 if width > 6 else 21),
            (x, y),
            (8 if side == "left" else -8, height - py / scale),
            textcoords="offset points",
            ha=side,
            va="center",
            color=colour,
            gid=name,
            annotation_clip=False,
        )
        runs[name] = list(group.runs)
    return runs


def _title(entry: Entry) -> str:
    seconds = f"{entry.seconds:,.0f} s"
    return f"{entry.recipe}, seed {entry.result.seed}: {entry.bpb:.4f} bits per byte, {entry.bytes:,} bytes, {seconds}"


def _short(value: float) -> str:
    for power, letter in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= power:
            return f"{value / power:.4g}{letter}"
    return f"{value:g}"
