"""A plan in words: a reason for each choice, what more text would gain, and the recipe as a file.

If possible, a reason is the forecast of the nearest other choice: the score of the next wider model in the same budget
says more than any rule. If a choice was measured once for all plans, the reason names the measurement.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pargolf.core.budget import Budget
from pargolf.core.spec import show
from pargolf.core.units import size_text, time_text
from pargolf.recipes.family import HEADS, Shape, member
from pargolf.recipes.recipe import Recipe
from pargolf.study.planning.sample import TextFacts
from pargolf.study.planning.search import (
    BLOCKS,
    RATIOS,
    WIDTHS,
    Prospect,
    Search,
    alternatives,
    dropout_from,
    least_blocks,
    memorizing,
)
from pargolf.study.planning.throughput import Throughput

_MORE = 2  # the plan says what this many times the text would gain


@dataclass(frozen=True)
class Reason:
    """One row of the plan: the choice, and the reason for it."""

    row: str
    choice: str
    why: str


@dataclass(frozen=True)
class Plan:
    """What to train, the forecast, the best alternatives, and the reasons.

    `more_text` is how many bits per byte twice the text should gain. `scoring` is the expected seconds of scoring.
    """

    budget: Budget
    text: TextFacts
    machine: Throughput
    choice: Prospect
    others: tuple[Prospect, ...]
    reasons: tuple[Reason, ...]
    more_text: float
    scoring: float
    weighed: int
    code: int

    @property
    def recipe(self) -> Recipe:
        """The recipe to train."""
        return member(self.choice.shape)

    def row(self) -> dict[str, Any]:
        """The whole plan as plain JSON."""
        return {
            "cap": self.budget.bytes,
            "seconds": self.budget.train_seconds,
            "text": {
                "name": self.text.name,
                "train_bytes": self.text.train_bytes,
                "val_bytes": self.text.val_bytes,
                "hardness": self.text.hardness,
            },
            "machine": {"what": self.machine.machine, "half": self.machine.half, "seconds": self.machine.seconds},
            "choice": prospect_row(self.choice),
            "others": [prospect_row(other) for other in self.others],
            "reasons": {reason.row: {"choice": reason.choice, "why": reason.why} for reason in self.reasons},
            "more_text": self.more_text,
            "scoring_seconds": self.scoring,
            "weighed": self.weighed,
            "code": self.code,
        }


def prospect_row(prospect: Prospect) -> dict[str, Any]:
    """One prospect as plain JSON."""
    shape = prospect.shape
    sizes = {name: getattr(shape, name) for name in ("vocab", "dim", "blocks", "hidden", "batch_tokens", "seq_len")}
    names = ("steps", "passes", "bits", "bytes", "before", "packed", "bpb", "low", "high")
    return {**sizes, "weights": shape.weights, **{name: getattr(prospect, name) for name in names}}


def make_plan(search: Search) -> Plan:
    """Search, and give reasons. Raises `UserError` if nothing can be trained."""
    prospects = search.best()
    choice = prospects[0]
    if search.scoring(choice.shape) > search.budget.eval_seconds:
        choice = search.weigh(replace(choice.shape, adapt=None)) or choice
    return Plan(
        search.budget,
        search.text,
        search.pace,
        choice,
        alternatives(prospects),
        tuple(_reasons(search, choice)),
        _more_text(search, choice),
        search.scoring(choice.shape),
        len(prospects),
        search.code,
    )


def recipe_file(plan: Plan, command: str) -> str:
    """A `.py` file that defines the plan's RECIPE."""
    choice, shape = plan.choice, plan.choice.shape
    default = Shape()
    fields = [
        f"    {name}={show(getattr(shape, name))},"
        for name in Shape.__dataclass_fields__
        if name != "adapt" and (getattr(shape, name) != getattr(default, name) or name in ("vocab", "dim", "blocks"))
    ]
    if shape.adapt is None:
        fields.append("    adapt=None,")
    lines = [
        f'"""House of {shape} (planned).',
        "",
        f"Source: {command}",
        f"Forecast: {choice.bpb:.3f} bits per byte ({choice.low:.3f} to {choice.high:.3f}), {choice.bytes:,} bytes, "
        f"{choice.steps:,} steps.",
        '"""',
        "",
        "from pargolf.recipes.family import Shape, member",
        "",
        "RECIPE = member(Shape(",
        *fields,
        "))",
    ]
    return "\n".join(lines) + "\n"


def _reasons(search: Search, choice: Prospect) -> Iterator[Reason]:
    """A reason for each row of the recipe."""
    shape, budget = choice.shape, search.budget
    yield Reason("vocabulary", f"{shape.vocab:,} pieces", _pieces(search, choice))
    yield Reason("width", f"{shape.dim}", _beside(search, choice, "dim", WIDTHS))
    yield Reason("depth", f"{shape.blocks} blocks", _beside(search, choice, "blocks", BLOCKS))
    ratios = tuple(ratio * shape.dim for ratio in RATIOS)
    yield Reason("hidden units", f"{shape.hidden}", _beside(search, choice, "hidden", ratios))
    heads = f"{shape.dim // 32} of 32, {HEADS[shape.dim]} for keys and values"
    yield Reason("heads", heads, "half as many heads of keys as of queries gained .017 in house's ablation")
    yield Reason("tables", "none", "hashed bigrams and value embeddings lost to width in 1,800 s (docs/LOG.md)")
    batch_reason = "half as many lost .095 in house's ablation, twice as many made no clear difference"
    batches = _beside(search, choice, "batch_tokens", search.batches)
    yield Reason("batch", f"{shape.batch_tokens:,} tokens", batch_reason if len(search.batches) == 1 else batches)
    yield Reason("rows", f"{shape.seq_len} tokens", "rows of 512 gained nothing for what they cost (docs/LOG.md)")
    training = f"{choice.steps:,} steps over {search.text.train_bytes:,} bytes of text"
    most_passes = max(run.tokens / run.unique_tokens for run in search.law.runs)
    extrapolation = (
        f"; no run of the law went through a text more than {most_passes:.0f} times"
        if choice.passes > most_passes + 1
        else ""
    )
    yield Reason("epochs", f"{choice.passes:.2f}", training + extrapolation)
    share = memorizing(shape, steps=choice.steps, unique=search.tokens(shape.vocab))
    gains = f"in {choice.steps:,} steps dropout gains from {dropout_from(choice.steps):g} on"
    memorizes = f"passes times weights per token of text are {share:.1f}; {gains}"
    yield Reason("dropout", f"{shape.dropout:g} from pass 2" if shape.dropout else "none", memorizes)
    yield Reason("weight decay", f"{shape.weight_decay:g}", "together with dropout it gained nothing (docs/LOG.md)")
    cost = choice.packed - choice.before
    yield Reason(
        "bits per weight", f"{choice.bits:.2f}", f"what the cap leaves; packing costs {cost:.4f} bits per byte"
    )
    yield Reason(
        "QAT", "no", "it lost .08 at 2.8 bits a weight (docs/LOG.md); grids are solved for the cap after training"
    )
    faster = "bfloat16" if shape.half else "float32"
    cached = "" if search.pace.fresh else " before, and it is as fast now"
    yield Reason("products", faster, f"measured faster on {search.pace.machine}{cached}")
    yield Reason("adaptation", "online and counts" if shape.adapt else "none", _adapting(search, choice, budget))


def _pieces(search: Search, choice: Prospect) -> str:
    if search.text.vocab:
        return "as the text was prepared"
    limit = f"the text holds {search.text.most:,} different pieces at most; " if search.text.most else ""
    return limit + _beside(search, choice, "vocab", search.pieces)


def _beside(search: Search, choice: Prospect, name: str, values: tuple[int, ...]) -> str:
    """The forecasts of the next smaller and the next larger value, with all else unchanged."""
    value, words = getattr(choice.shape, name), []
    smaller, larger = [v for v in values if v < value][-1:], [v for v in values if v > value][:1]
    for candidate in (*smaller, *larger):
        shape = _changed(choice.shape, name, candidate)
        if shape.blocks < least_blocks(shape.dim):
            words.append(f"{candidate:,}: flatter than any run of the law")
            continue
        prospect = search.weigh(shape)
        words.append(f"{candidate:,}: " + ("does not fit" if prospect is None else f"{prospect.bpb - choice.bpb:+.3f}"))
    return "; ".join(words) or "the only choice"


def _changed(shape: Shape, name: str, value: int) -> Shape:
    """The shape with one size changed. If the width changes, so do hidden units, and blocks if it needs more."""
    sizes: dict[str, Any] = {name: value}
    if name == "dim":
        sizes |= {"hidden": shape.hidden * value // shape.dim, "blocks": max(shape.blocks, least_blocks(value))}
    return replace(shape, **sizes)


def _adapting(search: Search, choice: Prospect, budget: Budget) -> str:
    seconds = search.scoring(choice.shape)
    if choice.shape.adapt is None:
        return f"scoring with it would take longer than the {time_text(budget.eval_seconds)} there are"
    return f"legal, score first: {choice.bpb - choice.packed:+.3f}; scoring takes about {time_text(seconds)} in all"


def _more_text(search: Search, choice: Prospect) -> float:
    """Bits per byte that twice the text should gain, with the same shape."""
    text = replace(search.text, train_bytes=_MORE * search.text.train_bytes)
    prospect = replace(search, text=text).weigh(choice.shape)
    return 0.0 if prospect is None else max(choice.bpb - prospect.bpb, 0.0)


def headline(plan: Plan) -> str:
    """The plan in a sentence."""
    choice = plan.choice
    return (
        f"{choice.bpb:.3f} bits per byte ({choice.low:.3f} to {choice.high:.3f}) in {choice.bytes:,} bytes under "
        f"{size_text(plan.budget.bytes)}: {choice.shape}, {choice.shape.weights:,} weights, {choice.steps:,} steps"
    )
