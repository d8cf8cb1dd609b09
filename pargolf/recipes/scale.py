"""The same system at a size that two CPU cores train in minutes.

Width, depth, context, batch and budget shrink together.

Unchanged are every technique, bit-widths, ratios of width (hidden units, heads, rotated share), the share of layers
that have a technique, and everything that is a fraction of the run. Step counts become fractions of the run, using the
steps that the source reports.

A 512-wide model becomes 128 wide with 4 heads of 32; more than 7 blocks become 7, taken evenly from first to last. Rows
of tables for single layers (`blocks.[1-9].mlp.*`) are renumbered for the remaining layers. Each technique defines
itself how it scales (`core/smaller.py`).
"""

from dataclasses import replace
from typing import Any

from pargolf.core.errors import UserError
from pargolf.core.smaller import RunLength, Smaller, kept_layers, new_order, relengthened, shrunk
from pargolf.model.transformer import Block, Model
from pargolf.quant.plan import Quantize
from pargolf.recipes.recipe import Recipe
from pargolf.training.loop import Train
from pargolf.training.phases import Phase

WIDTH, LAYERS, HEADS, CONTEXT, BATCH, SECONDS, BYTES = 128, 7, 4, 256, 4096, 300.0, 1_000_000
STEPS = 470
"""Steps of the baseline in 300 s at about 6,400 tokens per second; used to turn step counts into fractions."""


def mini(recipe: Recipe) -> Recipe:
    """The small form of a recipe; a recipe that is already as narrow, or for as few bytes, is returned unchanged.

    Raises `UserError` when its width is not a multiple of the small width.
    """
    if recipe.model.dim <= WIDTH or recipe.budget.bytes <= BYTES:
        return recipe
    if recipe.model.dim % WIDTH:
        raise UserError(f"{recipe.name} is {recipe.model.dim} wide, which is no multiple of {WIDTH}: no mini scale.")
    layers = kept_layers(len(recipe.model.blocks), LAYERS)
    to = Smaller(recipe.model.dim // WIDTH, CONTEXT, recipe.train.seq_len, layers)
    return replace(
        recipe,
        name=f"{recipe.name} mini",
        model=_model(recipe.model, to),
        train=_train(recipe, to),
        quant=_quant(recipe.quant, to),
        plain=shrunk(recipe.plain, to),
        windows=shrunk(recipe.windows, to),
        adapt=shrunk(recipe.adapt, to),
        budget=replace(recipe.budget, bytes=BYTES, train_seconds=SECONDS, counts="all"),
    )


def scaled(recipe: Recipe, scale: str | None) -> Recipe:
    """The recipe at a named scale: `mini`, or None for full size."""
    if scale is None:
        return recipe
    if scale != "mini":
        raise UserError(f"No scale '{scale}'. Known: mini; leave --scale out for full size.")
    return mini(recipe)


def fractional(recipe: Recipe, *, steps: float) -> Train:
    """How a recipe trains in a run of another length: step counts become fractions of the run.

    `steps` is the approximate number of steps of the new run; averages cover the same share of it as in the source.
    """
    train, reported = recipe.train, recipe.reported
    behind = 0.0
    if train.steps and train.seconds and reported.seconds:
        behind = max(train.seconds / reported.seconds - 1.0, 0.0)
    run = RunLength(_steps(recipe), steps, behind)
    return replace(
        train,
        optimizer=tuple((glob, relengthened(row, run)) for glob, row in train.optimizer),
        schedule=relengthened(train.schedule, run),
        average=relengthened(train.average, run),
        phases=relengthened(train.phases, run),
        seconds=None,
        steps=None,
    )


def _model(model: Model, to: Smaller) -> Model:
    """Fewer, narrower blocks and narrower tables."""
    slots: dict[str, Any] = {
        name: shrunk(getattr(model, name), to) for name in ("embed", "entry", "stream", "shared", "graph", "head")
    }
    return replace(
        model,
        dim=WIDTH,
        blocks=tuple(_block(model.blocks[i], model.dim, to) for i in to.layers),
        init=to.rows(model.init),
        order=new_order(model.order, to.layers),
        **slots,
    )


def _block(block: Block, dim: int, to: Smaller) -> Block:
    """Scale a block: heads in proportion, techniques by their own rules."""
    attn = block.attn
    to = replace(to, head_dim=WIDTH // HEADS, head_dim_before=dim / attn.heads)
    attn = replace(
        attn,
        heads=HEADS,
        kv_heads=max(1, HEADS * attn.kv_heads // attn.heads),
        rope=shrunk(attn.rope, to),
        values=shrunk(attn.values, to),
        outputs=shrunk(attn.outputs, to),
    )
    parts: dict[str, Any] = {name: shrunk(getattr(block, name), to) for name in ("mlp", "gate", "residual")}
    return replace(block, attn=attn, **parts)


def _quant(quant: Quantize, to: Smaller) -> Quantize:
    """The same grids; pruning, solver, correction and protection by their own rules."""
    parts: dict[str, Any] = {
        name: shrunk(getattr(quant, name), to) for name in ("pruned", "solver", "correct", "protect")
    }
    return replace(quant, table=to.rows(quant.table), **parts)


def _train(recipe: Recipe, to: Smaller) -> Train:
    """A batch of 16 x 256, tables renumbered for the remaining layers, and fractions instead of step counts."""
    train = fractional(recipe, steps=STEPS)
    return replace(
        train,
        optimizer=to.rows(tuple((glob, shrunk(row, to)) for glob, row in train.optimizer)),
        schedule=shrunk(train.schedule, to),
        average=shrunk(train.average, to),
        phases=tuple(_phase(phase, train, to) for phase in train.phases),
        order=shrunk(train.order, to),
        batch_tokens=BATCH,
        seq_len=CONTEXT,
    )


def _phase(phase: Phase, train: Train, to: Smaller) -> Phase:
    """Lengths and batches in proportion; trigger and weights by their own rules."""
    seq_len = phase.seq_len and to.span(phase.seq_len)
    batch = phase.batch_tokens and max(phase.batch_tokens * BATCH // train.batch_tokens, 1)
    at, weights = shrunk(phase.at, to), shrunk(phase.weights, to)
    return replace(phase, at=at, weights=weights, seq_len=seq_len, batch_tokens=batch)


def _steps(recipe: Recipe) -> int:
    """Steps of the full-size run: the source's reported pace over this recipe's own limit."""
    reported, seconds = recipe.reported, recipe.train.seconds or recipe.budget.train_seconds
    steps = reported.steps or 6000
    if recipe.train.steps is not None or not reported.seconds:
        return recipe.train.steps or steps
    return round(steps * seconds / reported.seconds)
