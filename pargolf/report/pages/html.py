"""One run as one page: `report.html` holds its own style, script and plots and asks the network for nothing.

The page answers in this order: how good is it (one number), what does the number stand on (every token once, from the
unpacked bytes), what did it cost (bytes, seconds, steps), how did it get there (curves), where are the bytes, which
documents are hard, what exactly ran, and how to run it again. Every text from outside is escaped; a content policy in
the head forbids the page to load anything. Plots are drawn twice, for a desk and for a phone.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from pargolf.core.events import Event, Weighed
from pargolf.core.result import Bytes, DocumentScore, Result
from pargolf.report.pages.style import CSS, POLICY, SORT_SCRIPT
from pargolf.report.plots import runs
from pargolf.report.plots.drawing import NARROW
from pargolf.report.text.results import bits_text, is_headline, machine_rows, proof_rows, score_label

PROOF = "Written by pargolf"
"""By what a page of this package is known, so that no other file is replaced by one."""
_MOST_DOCUMENTS = 1000


def run_page(
    result: Result,
    events: Sequence[Event],
    *,
    by_role: Sequence[Mapping[str, Any]],
    documents: Sequence[DocumentScore],
    describe: str,
    title: str,
) -> str:
    """Return the whole page of one run as HTML text.

    Args:
        result: what the run came to; its `command`, if it has one, is shown as the way to run it again.
        events: the run's records in order.
        by_role: rows of role, tensors, weights, bytes, bits_per_weight.
        documents: the score of each document; may be empty.
        describe: the recipe as text, one `path = value` a line.
        title: the heading and the name of the browser's tab.
    """
    parts = [
        _header(result, title),
        _hero(result),
        _meter(result.bytes),
        _cards(result),
        _curves(events),
        _forecasts(result, events),
        _scores(result),
        _roles(by_role),
        _documents(documents),
        _recipe(describe),
        _machine(result),
        _proof(result),
        _again(result),
    ]
    return page("\n".join(part for part in parts if part), title=title)


def page(body: str, *, title: str, script: str = "", style: str = "") -> str:
    """Return a whole document around `body`, which is HTML already; `script` and `style` add to the common ones."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">
<title>{escape(title)}</title>
<style>{CSS}{style}</style>
</head>
<body>
<main>
{body}
<footer>{PROOF}. This file needs no network and holds everything it shows.</footer>
</main>
<script>{SORT_SCRIPT}{script}</script>
</body>
</html>
"""


def _header(result: Result, title: str) -> str:
    facts = [f"recipe {result.recipe}", f"digest {result.digest[:16]}", f"seed {result.seed}"]
    return f"<header><h1>{escape(title)}</h1><p>{escape(' · '.join(facts))}</p></header>"


def _hero(result: Result) -> str:
    number = f"""<div><p class="number">{result.val_bpb:.4f}</p>
<p class="unit">bits per byte <span>· {result.val_loss:.4f} nats per token</span></p></div>"""
    sentence = escape(result.sentence)
    if result.legal:
        return f'<div class="hero">{number}\n<p class="said">{sentence}</p></div>'
    return f'<p class="alarm">{sentence}</p>\n<div class="hero">{number}</div>'


def _meter(size: Bytes) -> str:
    whole = max(size.cap, size.total, 1)
    free = max(size.cap - size.total, 0)
    model, code = (f"{100 * part / whole:.3f}" for part in (size.model, size.code))
    return f"""<div class="meter">
<div class="track" role="img" aria-label="{size.total:,} bytes of a cap of {size.cap:,}">
<div class="model" style="width:{model}%"></div><div class="code" style="width:{code}%"></div></div>
<ul><li class="model"><b>{size.model:,}</b> model</li><li class="code"><b>{size.code:,}</b> code</li>
<li class="free"><b>{free:,}</b> free of {size.cap:,} bytes</li></ul></div>"""


def _cards(result: Result) -> str:
    size, train = result.bytes, result.train_seconds
    speed = result.train_tokens / max(train, 1e-9)
    cards = [
        ("Total size", f"{size.total:,}", f"bytes, {size.total / max(size.cap, 1):.1%} of the cap"),
        ("Training", _seconds(train), f"{result.steps:,} steps"),
        ("Tokens seen", _short(result.train_tokens), f"{speed:,.0f} per second"),
        (
            "Parameters",
            _short(result.parameters),
            f"{8 * size.model / max(result.parameters, 1):.2f} bits each, packed",
        ),
        ("Scoring", _seconds(result.eval_seconds), f"{result.val_tokens:,} tokens"),
    ]
    return "\n".join(
        [
            '<dl class="cards">',
            *(f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>" for name, value, note in cards),
            "</dl>",
        ]
    )


def _curves(events: Sequence[Event]) -> str:
    return section(
        "Training",
        "Training loss of each step (thin) and smoothed (thick), on the validation text's scale of bits per byte; "
        "dots are validation before packing, the dashed line is what the unpacked artifact scores.",
        figure_pair(runs.curves(events), runs.curves(events, width=NARROW)),
    )


def _forecasts(result: Result, events: Sequence[Event]) -> str:
    """What training said the model would weigh, beside what it came to."""
    weighed = [event for event in events if isinstance(event, Weighed)]
    if not weighed:
        return ""
    rows = []
    for event in weighed:
        total = event.model_bytes + event.code_bytes
        cells = [f"{event.step:,}", f"{event.model_bytes:,}", f"{total:,}", f"{total / max(event.cap, 1):.1%}"]
        rows.append(f"<tr>{''.join(_cell(value) for value in cells)}</tr>")
    size = result.bytes
    packed = ["packed", f"{size.model:,}", f"{size.total:,}", f"{size.total / max(size.cap, 1):.1%}"]
    foot = f"<tr>{''.join(_cell(value) for value in packed)}</tr>"
    note = "What the model would have weighed on the table's own grids, by its weights at that step."
    if weighed[-1].fills:
        note += " Packing then solved for other steps, to fill the cap or to meet it."
    table = table_of(["step", "model", "with code", "of the cap"], rows, foot=foot, tall=len(rows) > 14)
    return section("Size forecast while training", note, table)


def _scores(result: Result) -> str:
    rows = []
    for name, score in result.scores.items():
        chosen = ' class="chosen"' if is_headline(result, score) else ""
        change = score.bpb - result.val_bpb
        cells = [
            _cell(score_label(name), text=True),
            _cell(score.windows, text=True, mono=True),
            _cell(f"{score.loss:.4f}"),
            _cell(f"{score.bpb:.4f}"),
            _cell(f"{change:+.4f}".replace("-", "−") if change else "0"),
            _cell(f"{score.seconds:,.1f}"),
        ]
        rows.append(f"<tr{chosen}>{''.join(cells)}</tr>")
    heads = ["*weights", "*windows", "nats/token", "bits/byte", "vs graded", "seconds"]
    return section("Scores", "", table_of(heads, rows)) if rows else ""


def _roles(by_role: Sequence[Mapping[str, Any]]) -> str:
    rows = sorted(by_role, key=lambda row: -row["bytes"])
    if not rows:
        return ""
    total = sum(row["bytes"] for row in rows)
    weights, tensors = sum(row["weights"] for row in rows), sum(row["tensors"] for row in rows)
    body = []
    for row in rows:
        cells = [
            _cell(str(row["role"]), text=True, mono=True),
            _cell(f"{row['tensors']:,}", value=row["tensors"]),
            _cell(f"{row['weights']:,}", value=row["weights"]),
            _cell(f"{row['bytes']:,}", value=row["bytes"]),
            _cell(bits_text(row), value=row["bits_per_weight"] or 0.0),
            _cell(f"{row['bytes'] / max(total, 1):.1%}", value=row["bytes"]),
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    sums = ["all", f"{tensors:,}", f"{weights:,}", f"{total:,}", f"{8 * total / max(weights, 1):.3f}", "100%"]
    cells = [_cell(value, text=not place) for place, value in enumerate(sums)]
    heads = ["*role", "tensors", "weights", "bytes", "bits/weight", "share"]
    table = table_of(heads, body, foot=f"<tr>{''.join(cells)}</tr>", sortable=True, sorted_by="bytes")
    figure = figure_pair(runs.roles(by_role), runs.roles(by_role, width=NARROW))
    return section("Where the bytes are", "", figure + table)


def _documents(rows: Sequence[DocumentScore]) -> str:
    if not rows:
        return ""
    ranked = sorted(rows, key=lambda row: -row.bpb)
    adapted = any(row.without is not None for row in rows)
    body = []
    for row in ranked[:_MOST_DOCUMENTS]:
        cells = [
            _cell(row.id, text=True),
            _cell(f"{row.bytes:,}", value=row.bytes),
            _cell(f"{row.tokens:,}", value=row.tokens),
            _cell(f"{row.loss:.4f}", value=row.loss),
            _cell(f"{row.bpb:.4f}", value=row.bpb),
        ]
        if adapted:
            saved = 0.0 if row.without is None else row.without - row.bpb
            cells.append(_cell(f"{saved:+.4f}".replace("-", "−"), value=saved))
        body.append(f"<tr>{''.join(cells)}</tr>")
    heads = ["*document", "bytes", "tokens", "nats/token", "bits/byte", *["saved"] * adapted]
    table = table_of(heads, body, sortable=True, sorted_by="bits/byte", tall=len(body) > 14)
    count = f"The {len(body):,} hardest of {len(ranked):,}. " if len(ranked) > len(body) else ""
    figures = figure_pair(runs.documents(rows), runs.documents(rows, width=NARROW))
    parts = section(
        "Documents", count + "A dot's area grows with the document; its stem starts at the mean.", figures + table
    )
    saved_by = figure_pair(runs.gains(rows), runs.gains(rows, width=NARROW))
    said = "Bits per byte of each document without adaptation, less those with it. Dashed: over all bytes."
    return section("What adaptation saved", said, saved_by) + parts


def _recipe(describe: str) -> str:
    lines = [line for line in describe.splitlines() if line.strip()]
    if not lines:
        return ""
    rows = []
    for line in lines:
        found = re.match(r"\s*(\S+)\s*(?:=|\t|\s{2,})\s*(\S.*)$", line)
        if found:
            rows.append((found[1], found[2]))
        else:
            rows.append((line.strip(), ""))
    summary = f"<summary>Recipe <small>{len(rows):,} rows</small></summary>"
    return f"<section><details>{summary}{_pairs(rows, mono=True)}</details></section>"


def _machine(result: Result) -> str:
    return section("Machine", "", _pairs(machine_rows(result)))


def _proof(result: Result) -> str:
    note = "What the count of bytes rests on, and SHA-256 of the tokenizer and of each validation shard."
    rows = proof_rows(result)
    return section("What was scored", note, _pairs(rows, mono=True)) if rows else ""


def _again(result: Result) -> str:
    command = result.command or _command(result)
    return section(
        "Run it again",
        "The first line trains and packs the same recipe; the second scores the artifact beside this page from its "
        "bytes alone.",
        f"<pre><code>{escape(command)}\npargolf score model.pargolf --data DATA</code></pre>",
    )


def _command(result: Result) -> str:
    return f"pargolf train {shlex.quote(result.recipe)} --data DATA --out RUN --seed {result.seed}"


def section(heading: str, note: str, content: str) -> str:
    """Return a part of a page, nothing where it has no `content` (HTML); heading and note are text."""
    if not content:
        return ""
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(heading)}</h2>{said}{content}</section>"


def figure_pair(wide: str, narrow: str) -> str:
    """Return a plot in its two widths, of which the reader's screen shows one."""
    if not wide:
        return ""
    return f'<figure><div class="wide">{wide}</div><div class="narrow">{narrow}</div></figure>'


def table_of(
    heads: Iterable[str],
    rows: Sequence[str],
    *,
    foot: str = "",
    sortable: bool = False,
    sorted_by: str = "",
    up: bool = False,
    tall: bool = False,
    name: str = "",
) -> str:
    """Return a table; a head that begins with `*` stands over words, the others over numbers."""
    cells = []
    for head in heads:
        words = escape(head.removeprefix("*"))
        kind = ' class="text"' if head.startswith("*") else ""
        order = f' aria-sort="{"ascending" if up else "descending"}"' if sorted_by == head else ""
        button = f'<button type="button">{words}</button>' if sortable else words
        cells.append(f'<th scope="col"{kind}{order}>{button}</th>')
    end = f"<tfoot>{foot}</tfoot>" if foot else ""
    mark = (f' id="{name}"' if name else "") + (" data-sortable" if sortable else "")
    return (
        f'<div class="scroll{" tall" if tall else ""}"><table{mark}><thead><tr>{"".join(cells)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody>{end}</table></div>"
    )


def _pairs(rows: Iterable[tuple[str, str]], *, mono: bool = False) -> str:
    kind = " mono" if mono else ""
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="pairs{kind}"><tbody>{body}</tbody></table>'


def _cell(shown: str, *, text: bool = False, mono: bool = False, value: float | None = None) -> str:
    kinds = " ".join(["text"] * text + ["mono"] * mono)
    kind = f' class="{kinds}"' if kinds else ""
    data = "" if value is None else f' data-value="{value!r}"'
    return f"<td{kind}{data}>{escape(shown)}</td>"


def number_cell(shown: str, value: float) -> str:
    """Return a cell of a number, sorted by `value`; minus signs are set as such."""
    return _cell(shown.replace("-", "−"), value=value)


def text_cell(shown: str, *, kind: str = "") -> str:
    """Return a cell of words."""
    return f'<td class="{f"text {kind}".strip()}">{escape(shown)}</td>'


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


def _short(count: int) -> str:
    for power, letter in ((1_000_000_000, "G"), (1_000_000, "M")):
        if count >= power:
            return f"{count / power:.2f} {letter}"
    return f"{count:,}"
