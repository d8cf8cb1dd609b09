"""How every plot is drawn: SVG text inside a page, the same bytes every time, readable in dark and light.

matplotlib draws without pyplot (no global state). Its random ids are salted, dates and metadata are dropped, so equal
input gives equal bytes. Ink is drawn in a marker colour and becomes `currentColor`, so text and axes follow the page;
the series colours become `var(--series-1)` and so on; the first two are blue and vermillion, a pair that colour-blind
readers tell apart (Okabe and Ito, 2008). `width` is in inches at 72 pixels: draw one for a desk and one
for a phone rather than shrink the letters. `standalone` makes such a text a file of its own.
"""

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

WIDE = 10.0
NARROW = 4.9

INK = "#010203"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#7b4ab5", "#a57600", "#0f8b9d", "#c2387a", "#6b7480")
"""One colour for each recipe in the order of scores; all later ones share the last."""
FIRST, SECOND = SERIES[:2]
_COLOURS = {INK: "currentColor"} | {hue: f"var(--series-{i}, {hue})" for i, hue in enumerate(SERIES, start=1)}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pargolf",
    "text.parse_math": False,
    "font.size": 11.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-9, 12),
    "figure.constrained_layout.use": True,
}


def new_figure(width: float, height: float, *, rows: list[int]) -> tuple[Figure, list[Axes]]:
    """A figure of stacked panels, `rows` their heights in proportion; `width` and `height` in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    grid = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=rows)
    panels: list[Axes] = list(grid[:, 0])
    return figure, panels


def svg_text(
    figure: Figure, name: str, label: str, titles: Mapping[str, str], runs: Mapping[str, Sequence[int]] | None = None
) -> str:
    """Draw, then make the SVG part of a page: no header, own ids only, the page's ink and font, tooltips.

    `titles` are tooltips by the `gid` of their element; `runs` are the numbers of the runs that an element shows, for
    the page's script, which hides and highlights them.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>\s*", "", text, flags=re.DOTALL)  # would style the whole page
    text = re.sub(r'\bd="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+|\s+", r"\1 ", path[0]), text)
    text = text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    for marker, colour in _COLOURS.items():
        text = text.replace(marker, colour)
    for key in dict.fromkeys([*titles, *(runs or {})]):
        numbers = " ".join(map(str, (runs or {}).get(key, ())))
        about_run = f' data-runs="{numbers}"' if numbers else ""
        title = f"<title>{escape(titles[key])}</title>" if key in titles else ""
        text = text.replace(f'<g id="{key}">', f"<g{about_run}>{title}", 1)
    name = f"{name}-{10 * figure.get_figwidth():.0f}"  # one page may contain both widths
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    about = f'role="img" aria-label="{escape(label)}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {view[0]} {about} fill="currentColor" stroke-linejoin="round">'
    return re.sub(r"\n+", "\n", opening + text[text.index(">") + 1 :]).strip()


def si(value: float) -> str:
    """Three digits and a letter: `12.3 k`."""
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= power:
            return f"{value / power:.3g} {letter}"
    return f"{value:g} "


def cut(text: str, most: int) -> str:
    """Shorten a text to `most` letters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def standalone(svg: str) -> str:
    """Make the SVG part of a page a complete file, with a background that is dark or light as the reader's system."""
    own = (
        "<style>svg{font-family:system-ui,sans-serif;color:#14171c;background:#fff}"
        "@media(prefers-color-scheme:dark){svg{color:#e8ebef;background:#0f1216}}</style>"
    )
    end = svg.index(">") + 1
    return svg[:end] + own + svg[end:] + "\n"
