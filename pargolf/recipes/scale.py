"""The same system at a size that two CPU cores train in minutes.

Width, depth, context, batch and budget shrink together.

Kept: every technique, bit-widths, ratios of width (hidden units, heads, rotated share), the share of layers that a
technique stands in, and everything that is a fraction of the run. Step counts become fractions of the run by the
steps that the source reports.

A 512-wide model becomes 128 wide with 4 heads of 32; more than 7 blocks become 7, taken evenly from first to last. Rows
of tables that speak of single layers (`blocks.[1-9].mlp.*`) then speak of what these layers have become.
"""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from pargolf.core.errors import UserError
from pargolf.core.roles import Table, layer_part
from pargolf.evaluate.adapters.adamw import AdamW
from pargolf.evaluate.adapters.adapter import Adapter
from pargolf.evaluate.adapters.count_tilt import CountTilt
from pargolf.evaluate.adapters.hint_tilt import HintTilt
from pargolf.evaluate.adapters.low_rank import LowRank
from pargolf.evaluate.adapters.sgd import SGD
from pargolf.evaluate.windows import Plain
from pargolf.model.transformer import Block, Model
from pargolf.quant.awq import AWQ
from pargolf.quant.plan import QAT, Quantize
from pargolf.recipes.recipe import Recipe, Windows
from pargolf.training.average import EMA, LAWA, SWA
from pargolf.training.loop import Train
from pargolf.training.muon import Muon
from pargolf.training.phases import AtFraction, AtStep, Phase
from pargolf.training.schedule import Schedule, Warmdown, WarmdownIters

T = TypeVar("T")

WIDTH, LAYERS, HEADS, CONTEXT, BATCH, SECONDS, BYTES = 128, 7, 4, 256, 4096, 300.0, 1_000_000
STEPS = 470
"""Steps of the baseline in 300 s at some 6,400 tokens a second; turns the sources' step counts into fractions."""


def mini(recipe: Recipe) -> Recipe:
    """Derive the small system; one as narrow, or made for as few bytes, is small already.

    Raises `UserError` when the recipe's width has no such scale.
    """
    if recipe.model.dim <= WIDTH or recipe.budget.bytes <= BYTES:
        return recipe
    if recipe.model.dim % WIDTH:
        raise UserError(f"{recipe.name} is {recipe.model.dim} wide, which is no multiple of {WIDTH}: no mini scale.")
    factor = recipe.model.dim // WIDTH
    layers = len(recipe.model.blocks)
    kept = min(LAYERS, layers)
    picks = [round(i * (layers - 1) / max(kept - 1, 1)) for i in range(kept)]
    return replace(
        recipe,
        name=f"{recipe.name} mini",
        model=_model(recipe.model, factor, picks, recipe.train.seq_len),
        train=_train(recipe, picks),
        quant=_quant(recipe.quant, factor, picks),
        plain=Plain(CONTEXT),
        windows=_windows(recipe.windows),
        adapt=_adapt(recipe.adapt, factor, recipe.train.seq_len),
        budget=replace(recipe.budget, bytes=BYTES, train_seconds=SECONDS, counts="all"),
    )


def scaled(recipe: Recipe, scale: str | None) -> Recipe:
    """The recipe at a named scale: `mini`, or None for full size."""
    if scale is None:
        return recipe
    if scale != "mini":
        raise UserError(f"No scale '{scale}'. Known: mini; leave --scale out for full size.")
    return mini(recipe)


def _model(model: Model, factor: int, picks: Sequence[int], seq_len: int) -> Model:
    """Fewer, narrower blocks and narrower tables."""
    return replace(
        model,
        dim=WIDTH,
        blocks=tuple(_block(model.blocks[i], model.dim, factor, seq_len) for i in picks),
        init=_rows(model.init, picks),
        embed=tuple(_narrow(slot, factor) for slot in model.embed),
        shared=tuple(_narrow(slot, factor) for slot in model.shared),
        order=None if model.order is None else tuple(picks.index(i) for i in model.order if i in picks),
    )


def _block(block: Block, dim: int, factor: int, seq_len: int) -> Block:
    """Heads, rotated channels and hidden units in proportion; the rotation's rescale at its share of the context."""
    attn = block.attn
    rope = attn.rope
    if rope.dims is not None:
        share = rope.dims / (dim / attn.heads)
        rope = replace(rope, dims=max(2, int(share * WIDTH / HEADS) // 2 * 2))
    if rope.ntk_from is not None:
        rope = replace(rope, ntk_from=rope.ntk_from * CONTEXT // seq_len)
    attn = replace(attn, heads=HEADS, kv_heads=max(1, HEADS * attn.kv_heads // attn.heads), rope=rope)
    return replace(block, attn=attn, mlp=replace(block.mlp, hidden=block.mlp.hidden // factor))


def _narrow(slot: T, factor: int) -> T:
    """A table's width and buckets over `factor`, where it has them."""
    if not is_dataclass(slot) or isinstance(slot, type):
        return slot
    sizes: dict[str, Any] = {
        f.name: max(getattr(slot, f.name) // factor, 8) for f in fields(slot) if f.name in ("dim", "buckets")
    }
    return replace(slot, **sizes)


def _glob(glob: str, picks: Sequence[int]) -> str | None:
    """A glob over single layers as one over what they have become; None when none of them was kept."""
    part = layer_part(glob)
    if part is None:
        return glob
    now = "".join(str(new) for new, old in enumerate(picks) if fnmatchcase(str(old), part))
    parts = glob.split(".")
    parts[parts.index(part)] = now if len(now) == 1 else f"[{now}]"
    return ".".join(parts) if now else None


def _rows(table: Table[T], picks: Sequence[int]) -> tuple[tuple[str, T], ...]:
    """A table whose rows over single layers follow them; rows whose layers are all gone go too."""
    moved = [(_glob(glob, picks), value) for glob, value in table]
    return tuple((glob, value) for glob, value in moved if glob is not None)


def _quant(quant: Quantize, factor: int, picks: Sequence[int]) -> Quantize:
    """The same grids; pruning begins at a size in proportion, and fewer batches calibrate fewer weights."""
    pruned = quant.pruned
    if pruned is not None:
        moved = [_glob(glob, picks) for glob in pruned.roles]
        prune = replace(pruned.prune, larger_than=pruned.prune.larger_than // factor**2)
        pruned = replace(pruned, roles=tuple(glob for glob in moved if glob is not None), prune=prune)
    solver = quant.solver and replace(quant.solver, batches=max(quant.solver.batches // factor, 1))
    protect = quant.protect
    if isinstance(protect, AWQ):
        width, size = max(protect.width // factor, 1), protect.larger_than // factor**2
        protect = replace(protect, width=width, larger_than=size)
    return replace(quant, table=_rows(quant.table, picks), pruned=pruned, solver=solver, protect=protect)


def fractional(recipe: Recipe, *, steps: float) -> Train:
    """How a recipe trains, for a run of another length: fractions of the run in the place of step counts.

    `steps` is about how many the run will take; averages reach over the same share of it as the source's did.
    """
    train, reported = recipe.train, _steps(recipe)
    ratio, average = steps / reported, train.average
    if isinstance(average, EMA):
        average = replace(average, decay=max(0.5, 1 - (1 - average.decay) / ratio))
    if isinstance(average, SWA | LAWA):
        average = replace(average, every=max(1, round(average.every * ratio)))
    return replace(
        train,
        optimizer=tuple((glob, _row(row, reported)) for glob, row in train.optimizer),
        schedule=_schedule(recipe, reported),
        average=average,
        phases=tuple(_in_time(phase, reported) for phase in train.phases),
        seconds=None,
        steps=None,
    )


def _train(recipe: Recipe, picks: Sequence[int]) -> Train:
    """A batch of 16 x 256, tables moved with their layers, and fractions in the place of step counts."""
    train = fractional(recipe, steps=STEPS)
    return replace(
        train,
        optimizer=_rows(train.optimizer, picks),
        phases=tuple(_phase(phase, train, picks) for phase in train.phases),
        batch_tokens=BATCH,
        seq_len=CONTEXT,
    )


def _steps(recipe: Recipe) -> int:
    """Steps of the full-size run: by the pace that the source reports, over this recipe's own limit."""
    reported, seconds = recipe.reported, recipe.train.seconds or recipe.budget.train_seconds
    steps = reported.steps or 6000
    if recipe.train.steps is not None or not reported.seconds:
        return recipe.train.steps or steps
    return round(steps * seconds / reported.seconds)


def _schedule(recipe: Recipe, steps: int) -> Schedule:
    """The warmdown as a share of the run that it really took.

    Where a source's steps ran out before its seconds (861), the part of the warmdown that lay behind the end is cut
    off, and the multiplier ends where it ended there.
    """
    schedule = recipe.train.schedule
    if not isinstance(schedule, WarmdownIters):
        return schedule
    share, behind = schedule.iters / steps, 0.0
    if recipe.train.steps and recipe.train.seconds and recipe.reported.seconds:
        behind = max(recipe.train.seconds / recipe.reported.seconds - 1.0, 0.0)
    return Warmdown(min(max(share - behind, 0.0), 1.0), floor=min(behind / share, 1.0))


def _in_time(phase: Phase, steps: int) -> Phase:
    """A step as a fraction."""
    return replace(phase, at=AtFraction(min(phase.at.step / steps, 1.0))) if isinstance(phase.at, AtStep) else phase


def _phase(phase: Phase, train: Train, picks: Sequence[int]) -> Phase:
    """Lengths and batches in proportion, tables moved with their layers."""
    weights = phase.weights
    if isinstance(weights, QAT):
        weights = QAT(_rows(weights.table, picks))
    seq_len = phase.seq_len and max(phase.seq_len * CONTEXT // train.seq_len, 1)
    batch = phase.batch_tokens and max(phase.batch_tokens * BATCH // train.batch_tokens, 1)
    return replace(phase, weights=weights, seq_len=seq_len, batch_tokens=batch)


def _row(row: T, steps: int) -> T:
    """Momentum warm-up as a fraction of the run."""
    if isinstance(row, Muon) and row.momentum_warmup >= 1:
        return replace(row, momentum_warmup=min(row.momentum_warmup / steps, 0.999))
    return row


def _adapt(adapter: Adapter | None, factor: int, seq_len: int) -> Adapter | None:
    """Chunks of as many sequences of the small context; within documents one per stride, and ranks by the width."""
    if isinstance(adapter, HintTilt | CountTilt):
        return replace(adapter, adapter=_adapt(adapter.adapter, factor, seq_len))
    if isinstance(adapter, LowRank):
        rank = max(adapter.rank // factor, 4)
        return replace(adapter, rank=rank, alpha=adapter.alpha * rank / adapter.rank, chunk=CONTEXT // 4)
    if not isinstance(adapter, SGD | AdamW):
        return adapter
    return replace(adapter, chunk=max(CONTEXT, adapter.chunk * CONTEXT // seq_len))


def _windows(windows: Windows) -> Windows:
    """Windows of the small context; where they slide, with a stride of a quarter of it."""
    if isinstance(windows, Plain):
        return Plain(CONTEXT)
    return replace(windows, length=CONTEXT, stride=CONTEXT // 4)
