"""One run as one page, from what its folder holds; `pargolf report RUN` writes it again.

The page answers in this order: how good is it (one number), what is the number based on (every token once, from the
unpacked bytes), what did it cost (bytes, seconds, steps), how did it get there (curves), where are the bytes, which
documents are hard, what exactly ran, and how to run it again.
"""

import re
import shlex
from collections.abc import Sequence

from pargolf.core.errors import NotRead
from pargolf.core.events import Event, Weighed
from pargolf.core.result import DocumentScore, Result
from pargolf.core.spec import rows
from pargolf.packing.artifact import RoleRow
from pargolf.report.pages.template import Cell, Plot, Row, Table, number, render, words
from pargolf.report.plots import runs
from pargolf.report.plots.drawing import NARROW
from pargolf.report.text.results import bits_text, is_headline, machine_rows, proof_rows, score_label
from pargolf.run.folder import RunFolder
from pargolf.run.pack import read_container
from pargolf.watch.runlog import read_events

_MOST_DOCUMENTS = 1000
_TALL = 14
_FORECAST = "The bytes of the weights at that step, on the recipe's own grids."
_SOLVED = " Packing then solved for other steps, to fill the cap or to meet it."


def page_of(folder: RunFolder, result: Result) -> str:
    """Return the page of a finished run as HTML text. Raises `UserError` on damage.

    If the recipe uses a user's file that was not named, its rows are left out and the page says so; if the codec is
    from such a file, the bytes of each role are left out too.
    """
    title, by_role = result.recipe, list[RoleRow]()
    try:
        by_role = read_container(folder["model.pargolf"]).by_role()
        recipe = folder.read_recipe()
        title, describe = recipe.name, "\n".join(f"{path} = {value}" for path, value in rows(recipe).items())
    except NotRead as error:
        describe = str(error)
    return run_page(
        result,
        read_events(folder["events.jsonl"]),
        by_role=by_role,
        documents=folder.read_documents(),
        describe=describe,
        title=title,
    )


def run_page(
    result: Result,
    events: Sequence[Event],
    *,
    by_role: Sequence[RoleRow],
    documents: Sequence[DocumentScore],
    describe: str,
    title: str,
) -> str:
    """Return the whole page of one run as HTML text.

    Args:
        result: the run's result; its `command`, if it has one, is shown as the way to run it again.
        events: the run's records in order.
        by_role: rows of role, tensors, weights, bytes, bits_per_weight.
        documents: the score of each document; may be empty.
        describe: the recipe as text, one `path = value` a line.
        title: the heading and the name of the browser's tab.
    """
    weighed = [event for event in events if isinstance(event, Weighed)]
    shown = min(len(documents), _MOST_DOCUMENTS)
    left_out = f"The {shown:,} hardest of {len(documents):,}. " if len(documents) > shown else ""
    return render(
        "run.html",
        title=title,
        result=result,
        cards=_cards(result),
        curves=Plot.of(runs.curves(events), runs.curves(events, width=NARROW)),
        forecasts=_forecasts(result, weighed),
        forecast_note=_FORECAST + (_SOLVED if weighed and weighed[-1].fills else ""),
        scores=_scores(result),
        roles=_roles(by_role),
        roles_plot=Plot.of(runs.roles(by_role), runs.roles(by_role, width=NARROW)),
        gains=Plot.of(runs.gains(documents), runs.gains(documents, width=NARROW)),
        documents=_documents(documents),
        documents_note=left_out + "A dot's area grows with the document; its stem starts at the mean.",
        documents_plot=Plot.of(runs.documents(documents), runs.documents(documents, width=NARROW)),
        recipe_rows=_recipe_rows(describe),
        machine=machine_rows(result),
        proofs=proof_rows(result),
        command=result.command
        or f"pargolf train {shlex.quote(result.recipe)} --data DATA --out RUN --seed {result.seed}",
    )


def _cards(result: Result) -> list[tuple[str, str, str]]:
    """Name, value and note of each cost."""
    size, train, count = result.bytes, result.train_seconds, max(result.parameters, 1)
    speed = result.train_tokens / max(train, 1e-9)
    return [
        ("Total size", f"{size.total:,}", f"bytes, {size.total / max(size.cap, 1):.1%} of the cap"),
        ("Training", _seconds(train), f"{result.steps:,} steps"),
        ("Tokens seen", _short(result.train_tokens), f"{speed:,.0f} per second"),
        ("Parameters", _short(result.parameters), f"{8 * size.model / count:.2f} bits each, packed"),
        ("Scoring", _seconds(result.eval_seconds), f"{result.val_tokens:,} tokens"),
    ]


def _forecasts(result: Result, weighed: Sequence[Weighed]) -> Table | None:
    """The model's size as forecast during training, and as it is."""
    if not weighed:
        return None
    rows = []
    for event in weighed:
        total = event.model_bytes + event.code_bytes
        cells = [f"{event.step:,}", f"{event.model_bytes:,}", f"{total:,}", f"{total / max(event.cap, 1):.1%}"]
        rows.append(Row([Cell(text) for text in cells]))
    size = result.bytes
    packed = ["packed", f"{size.model:,}", f"{size.total:,}", f"{size.total / max(size.cap, 1):.1%}"]
    heads = ["step", "model", "with code", "of the cap"]
    return Table(heads, rows, foot=[Cell(text) for text in packed], tall=len(rows) > _TALL)


def _scores(result: Result) -> Table:
    rows = []
    for name, score in result.scores.items():
        change = score.bpb - result.val_bpb
        cells = [
            words(score_label(name)),
            words(score.windows, "mono"),
            number(f"{score.loss:.4f}"),
            number(f"{score.bpb:.4f}"),
            number(f"{change:+.4f}" if change else "0"),
            number(f"{score.seconds:,.1f}"),
        ]
        rows.append(Row(cells, kind="chosen" if is_headline(result, score) else ""))
    return Table(["*weights", "*windows", "nats/token", "bits/byte", "vs graded", "seconds"], rows)


def _roles(by_role: Sequence[RoleRow]) -> Table | None:
    """A row for each role, the largest first, and their sum."""
    if not by_role:
        return None
    total, weights, tensors = (
        sum(row["bytes"] for row in by_role),
        sum(row["weights"] for row in by_role),
        sum(row["tensors"] for row in by_role),
    )
    rows = [
        Row(
            [
                words(str(row["role"]), "mono"),
                number(f"{row['tensors']:,}", row["tensors"]),
                number(f"{row['weights']:,}", row["weights"]),
                number(f"{row['bytes']:,}", row["bytes"]),
                number(bits_text(row), row["bits_per_weight"] or 0.0),
                number(f"{row['bytes'] / max(total, 1):.1%}", row["bytes"]),
            ]
        )
        for row in sorted(by_role, key=lambda row: -row["bytes"])
    ]
    sums = [f"{tensors:,}", f"{weights:,}", f"{total:,}", f"{8 * total / max(weights, 1):.3f}", "100%"]
    heads = ["*role", "tensors", "weights", "bytes", "bits/weight", "share"]
    return Table(heads, rows, foot=[words("all"), *map(Cell, sums)], sortable=True, sorted_by="bytes")


def _documents(documents: Sequence[DocumentScore]) -> Table | None:
    """A row for each of the hardest documents."""
    if not documents:
        return None
    adapted = any(row.without is not None for row in documents)
    rows = []
    for row in sorted(documents, key=lambda row: -row.bpb)[:_MOST_DOCUMENTS]:
        cells = [
            words(row.id),
            number(f"{row.bytes:,}", row.bytes),
            number(f"{row.tokens:,}", row.tokens),
            number(f"{row.loss:.4f}", row.loss),
            number(f"{row.bpb:.4f}", row.bpb),
        ]
        if adapted:
            saved = 0.0 if row.without is None else row.without - row.bpb
            cells.append(number(f"{saved:+.4f}", saved))
        rows.append(Row(cells))
    heads = ["*document", "bytes", "tokens", "nats/token", "bits/byte", *["saved"] * adapted]
    return Table(heads, rows, sortable=True, sorted_by="bits/byte", tall=len(rows) > _TALL)


def _recipe_rows(describe: str) -> list[tuple[str, str]]:
    """Path and value of each line; a line without a value has an empty one."""
    lines = [line for line in describe.splitlines() if line.strip()]
    matches = [(line, re.match(r"\s*(\S+)\s*(?:=|\t|\s{2,})\s*(\S.*)$", line)) for line in lines]
    return [(match[1], match[2]) if match else (line.strip(), "") for line, match in matches]


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


def _short(count: int) -> str:
    for power, letter in ((1_000_000_000, "G"), (1_000_000, "M")):
        if count >= power:
            return f"{count / power:.2f} {letter}"
    return f"{count:,}"
