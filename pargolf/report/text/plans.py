"""A plan as terminal tables: the choice and its reasons, the next best choices, and the forecast with the result."""

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pargolf.core.result import Result
from pargolf.core.units import size_text, time_text

if TYPE_CHECKING:
    from pargolf.study.planning.search import Prospect
    from pargolf.study.planning.words import Plan


def plan_table(plan: "Plan") -> RenderableType:
    """The forecast, a row with its reason for each choice, and the alternatives."""
    choice = plan.choice
    heading = Text.assemble(
        (f"{choice.bpb:.3f}", "bold cyan"),
        (" bits per byte forecast", "bold"),
        (f"   95 %: {choice.low:.3f} to {choice.high:.3f}", "dim"),
    )
    under = f"{choice.bytes:,} bytes with {plan.code:,} of code, under {size_text(plan.budget.bytes)}"
    facts = Text(f"{under}; {choice.steps:,} steps in {time_text(plan.budget.train_seconds)} of training")
    rows = Table(title="what, and why", title_justify="left")
    for head in ("row", "choice", "reason"):
        rows.add_column(head, overflow="fold")
    for reason in plan.reasons:
        rows.add_row(Text(reason.row), Text(reason.choice), Text(reason.why))
    more = Text(f"Twice the text would bring {plan.more_text:.3f} bits per byte on this budget.")
    return Group("", heading, facts, "", rows, "", _others(plan), "", more, "")


def outcome_table(plan: "Plan", result: Result) -> RenderableType:
    """The forecast and the result, side by side."""
    table = Table(title="forecast and outcome", title_justify="left")
    for head in ("", "forecast", "came"):
        table.add_column(head, justify="right")
    choice, scores = plan.choice, result.scores
    inside = "inside" if choice.low <= result.val_bpb <= choice.high else "outside"
    table.add_row("steps", f"{choice.steps:,}", f"{result.steps:,}")
    table.add_row("before packing", f"{choice.before:.4f}", f"{scores['pre_quant'].bpb:.4f}")
    table.add_row("packed", f"{choice.packed:.4f}", f"{scores['post_quant'].bpb:.4f}")
    table.add_row("at the end", f"{choice.bpb:.4f}", f"{result.val_bpb:.4f}")
    table.add_row("interval", f"{choice.low:.3f} to {choice.high:.3f}", inside)
    table.add_row("bytes", f"{choice.bytes:,}", f"{result.bytes.total:,}")
    table.add_row("scoring", time_text(plan.scoring), time_text(result.eval_seconds))
    return table


def _others(plan: "Plan") -> Table:
    """The choice and the best alternatives."""
    table = Table(title=f"the best of {plan.weighed:,} that fit", title_justify="left")
    for head in ("", "pieces", "width", "blocks", "hidden", "weights", "bits", "steps", "packed", "bits per byte"):
        table.add_column(head, justify="right")
    for number, prospect in enumerate((plan.choice, *plan.others)):
        table.add_row("->" if number == 0 else "", *_cells(prospect))
    return table


def _cells(prospect: "Prospect") -> list[str]:
    shape = prospect.shape
    sizes = [shape.vocab, shape.dim, shape.blocks, shape.hidden, shape.weights]
    scores = f"{prospect.packed:.3f}", f"{prospect.bpb:.3f} ({prospect.low:.3f} to {prospect.high:.3f})"
    return [*(f"{size:,}" for size in sizes), f"{prospect.bits:.2f}", f"{prospect.steps:,}", *scores]
