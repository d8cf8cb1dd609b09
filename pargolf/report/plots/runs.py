"""The plots of one run: its curves, its bytes by role, its documents. See `drawing.py` for how they are drawn."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from pargolf.core.events import Event, PhaseBegan, Scored, Step, Stopped, Validated
from pargolf.core.result import DocumentScore
from pargolf.packing.artifact import RoleRow
from pargolf.report.plots.drawing import FIRST, INK, SECOND, STYLE, WIDE, cut, new_figure, si, svg_text

Values = np.ndarray[Any, Any]
_MOST_POINTS = 600
_MOST_DOCUMENTS = 400


def curves(events: Sequence[Event], *, width: float = WIDE) -> str:
    """Return loss and BPB over seconds, with the learning rate below.

    The left axis is bits per byte, the right one nats per token; their ratio is a constant of the tokenizer and the
    validation text, taken from the last scoring. Training loss (thin: each step, thick: smoothed) is exact on the
    right axis. Without any scoring there is only nats per token.
    """
    steps = [event for event in events if isinstance(event, Step)]
    if not steps:
        return ""
    seconds = np.array([step.seconds for step in steps])
    loss = np.array([step.loss for step in steps], dtype=float)
    ratio = bpb_per_loss(events)
    unit = ratio or 1.0
    with matplotlib.rc_context(STYLE):
        figure, (upper, lower) = new_figure(width, 4.6, rows=[5, 1])
        keep = thin(len(steps))
        smooth = smoothed(loss)
        upper.plot(seconds[keep], unit * loss[keep], color=FIRST, linewidth=0.7, alpha=0.35)
        upper.plot(seconds[keep], unit * smooth[keep], color=FIRST, linewidth=1.8, label="training, smoothed")
        _validation(upper, events)
        shown = [unit * smooth]
        packed = _packed(events)
        if packed is not None and ratio:
            upper.axhline(packed.bpb, color=SECOND, linewidth=1.2, dashes=(5, 3), label=f"packed {packed.bpb:.4f}")
            shown.append(np.array([packed.bpb]))
        _limits(upper, seconds, shown)
        _phases(upper, events, label=True)
        upper.set_ylabel("bits per byte" if ratio else "nats per token")
        if ratio:
            right = upper.secondary_yaxis("right", functions=(_times(1 / unit), _times(unit)))
            right.set_ylabel("nats per token")
            right.spines["right"].set_visible(False)
            right.tick_params(length=0)
        upper.legend(loc="upper right", frameon=False, handlelength=1.6)
        upper.tick_params(labelbottom=False)
        rates = np.array([step.lr for step in steps])
        lower.fill_between(seconds[keep], rates[keep], color=FIRST, alpha=0.18, linewidth=0)
        lower.plot(seconds[keep], rates[keep], color=FIRST, linewidth=1.2)
        peak = max(float(rates.max()), 1e-9)
        lower.set_ylim(0, 1.12 * peak)
        lower.set_yticks([0, peak], ["0", f"{peak:.3g}"])
        lower.set_ylabel("LR")
        _phases(lower, events, label=False)
        end = max([float(seconds[-1]), *(event.seconds for event in events if isinstance(event, Stopped))])
        lower.set_xlim(0, max(end, 1e-3) * 1.01)
        lower.set_xlabel("seconds")
        return svg_text(figure, "curves", "Training loss and bits per byte over time, learning rate below", {})


def roles(by_role: Sequence[RoleRow], *, width: float = WIDE) -> str:
    """Return horizontal bars of bytes by role, largest on top, labelled with bytes and bits per weight."""
    rows = sorted(by_role, key=lambda row: row["bytes"])
    if not rows:
        return ""
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(width, 0.5 + 0.3 * len(rows), rows=[1])
        sizes = [row["bytes"] for row in rows]
        titles = {}
        for index, row in enumerate(rows):
            (bar,) = axes.barh(index, row["bytes"], height=0.66, color=FIRST)
            bar.set_gid(f"tip-{index}")
            titles[f"tip-{index}"] = (
                f"{row['role']}: {row['bytes']:,} bytes, {row['weights']:,} weights, {row['tensors']:,} tensors"
            )
            bits = row["bits_per_weight"]
            text = f"{si(row['bytes'])}B" + ("" if bits is None else f" · {bits:.2f} bits")
            axes.annotate(text, (row["bytes"], index), (6, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(rows)), [cut(str(row["role"]), 24 if width > 6 else 14) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, max(sizes) * (1.2 if width > 6 else 1.55))
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        return svg_text(figure, "roles", "Bytes in the artifact by role, with bits per weight", titles)


def documents(rows: Sequence[DocumentScore], *, width: float = WIDE) -> str:
    """Return BPB per document, easiest to hardest, around the mean over all bytes; a tooltip names each document."""
    ranked = sorted((row for row in rows if row.bytes), key=lambda row: (row.bpb, row.id))
    if not ranked:
        return ""
    bpb = np.array([row.bpb for row in ranked])
    size = np.array([row.bytes for row in ranked], dtype=float)
    mean = float(np.average(bpb, weights=size))
    titles = {}
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(width, 3.0, rows=[1])
        for index, row in enumerate(ranked):
            titles[f"tip-{index}"] = f"{row.id}: {row.bpb:.4f} bits per byte over {row.bytes:,} bytes"
        _stems(axes, bpb, size, base=mean, width=width, over=SECOND, under=FIRST)
        axes.set_xlabel(f"{len(ranked):,} documents, easiest to hardest")
        label_position = (0.0, mean) if float(bpb[0]) < mean else (0.0, float(bpb.max()))
        axes.annotate(f"mean over all bytes {mean:.4f}", label_position, (0, 6), textcoords="offset points", alpha=0.8)
        return svg_text(figure, "documents", "Bits per byte of each validation document", titles)


def gains(rows: Sequence[DocumentScore], *, width: float = WIDE, name: str = "gains") -> str:
    """Return the gain by adaptation for each document, largest first; empty if no row has a score without it."""
    both = [(row, row.without) for row in rows if row.bytes and row.without is not None]
    both.sort(key=lambda pair: (pair[0].bpb - pair[1], pair[0].id))
    if not both:
        return ""
    saved = np.array([without - row.bpb for row, without in both])
    size = np.array([row.bytes for row, _ in both], dtype=float)
    mean = float(np.average(saved, weights=size))
    titles = {}
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(width, 2.6, rows=[1])
        for index, (row, without) in enumerate(both):
            caption = f"{row.bpb:.4f} adapted, {without:.4f} without"
            titles[f"tip-{index}"] = f"{row.id}: {saved[index]:+.4f} bits per byte saved ({caption})"
        _stems(axes, saved, size, base=0.0, width=width, over=FIRST, under=SECOND)
        axes.axhline(mean, color=INK, linewidth=0.6, alpha=0.6, dashes=(5, 3))
        axes.set_ylabel("bits per byte saved")
        axes.set_xlabel(f"{len(both):,} documents, most to least")
        shown = f"{mean:.4f} over all bytes"
        axes.annotate(
            shown, (1.0, mean), (0, 5), xycoords=axes.get_yaxis_transform(), textcoords="offset points", ha="right"
        )
        return svg_text(figure, name, "Bits per byte that adaptation saved in each document", titles)


def _stems(axes: Axes, values: Values, size: Values, *, base: float, width: float, over: str, under: str) -> None:
    """A stem from `base` to each value, its dot as large as the document; thousands become two areas."""
    count = len(values)
    axes.axhline(base, color=INK, linewidth=0.6, alpha=0.6)
    if count <= _MOST_DOCUMENTS:
        for index in range(count):
            axes.plot(
                [index, index],
                [base, values[index]],
                color=over if values[index] > base else under,
                linewidth=1.0,
                marker="o",
                markersize=3 + 6 * float(np.sqrt(size[index] / size.max())) * min(1.0, 12 * width / count),
                markeredgewidth=0,
                markevery=[1],
                gid=f"tip-{index}",
            )
        axes.set_xlim(-0.7, count - 0.3)
    else:
        keep = thin(count)
        positions, shown = np.arange(count)[keep], values[keep]
        axes.fill_between(positions, base, shown, where=shown >= base, color=over, alpha=0.5)
        axes.fill_between(positions, base, shown, where=shown <= base, color=under, alpha=0.5)
        axes.set_xlim(0, count - 1)
    spread = max(float(values.max() - values.min()), 1e-3)
    axes.set_ylim(min(base, float(values.min())) - 0.16 * spread, max(base, float(values.max())) + 0.16 * spread)
    axes.set_ylabel("bits per byte")
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _validation(axes: Axes, events: Sequence[Event]) -> None:
    points = [event for event in events if isinstance(event, Validated)]
    if points:
        axes.plot(
            [point.seconds for point in points],
            [point.bpb for point in points],
            color=SECOND,
            linestyle="none",
            marker="o",
            markersize=5,
            markeredgewidth=0,
            label="validation",
        )


def _phases(axes: Axes, events: Sequence[Event], *, label: bool) -> None:
    end = max((event.seconds for event in events if isinstance(event, Step)), default=0.0)
    for event in events:
        if isinstance(event, PhaseBegan):
            axes.axvline(event.seconds, color=INK, linewidth=0.6, alpha=0.5, dashes=(1, 2))
            if label:
                late = event.seconds > 0.7 * end
                axes.annotate(
                    cut(event.phase, 24),
                    (event.seconds, 0.02),
                    (-4 if late else 4, 0),
                    xycoords=axes.get_xaxis_transform(),
                    textcoords="offset points",
                    ha="right" if late else "left",
                )


def _limits(axes: Axes, seconds: Values, shown: list[Values]) -> None:
    """Set limits that cut off the first fast drop, which would flatten the rest of the curve."""
    smooth = shown[0]
    settled = smooth[seconds >= 0.12 * seconds[-1]]
    finite = [part[np.isfinite(part)] for part in (settled, *shown[1:])]
    values = np.concatenate(finite) if finite else np.array([])
    if values.size:
        low, high = float(values.min()), float(values.max())
        pad = max(0.08 * (high - low), 0.01)
        axes.set_ylim(low - 2 * pad, high + 2 * pad)


def _times(factor: float) -> Any:
    return lambda values: factor * np.asarray(values)


def bpb_per_loss(events: Sequence[Event]) -> float | None:
    """Bits per byte for one nat per token, a constant of tokenizer and text; None before any scoring."""
    for event in reversed(events):
        if isinstance(event, Scored | Validated) and event.loss > 0 and np.isfinite(event.bpb / event.loss):
            return event.bpb / event.loss
    return None


def _packed(events: Sequence[Event]) -> Scored | None:
    scored = [event for event in events if isinstance(event, Scored) and event.name != "pre_quant"]
    return scored[-1] if scored else None


def smoothed(values: Values) -> Values:
    """Return a mean over the last 2 % of the steps (5 at least), narrower at the start."""
    span = max(5, len(values) // 50)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - span, 0)
    means: Values = (sums[ends] - sums[begins]) / (ends - begins)
    return means


def thin(count: int) -> Values:
    """Return indices of at most `_MOST_POINTS` of `count` points, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).round().astype(int))
