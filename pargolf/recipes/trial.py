"""Try your own techniques on small inputs before anything long begins, and report what they cannot do.

    limits(recipe)      lines for people: this grid is rounded plainly, that one keeps its bytes

A technique that contradicts itself (a grid whose `fake` differs from its decoded codes, a codec that does not return
its input, a window plan that skips a position) is refused, with its row. Techniques of the package are not tried,
because its tests check the same laws.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pargolf.core import own
from pargolf.core.errors import UserError
from pargolf.core.roles import matches, resolve, role
from pargolf.core.spec import dump
from pargolf.core.world import World
from pargolf.data.stream import MicroBatch, WindowOrder
from pargolf.evaluate.windows import Windows
from pargolf.model.transformer import Model, Transformer, shapes
from pargolf.packing.codecs import Codec
from pargolf.quant.grid import Codes
from pargolf.recipes.recipe import Recipe
from pargolf.training.schedule import Moment, Schedule

_ROWS = 8  # rows of the matrix that a grid is tried on


def limits(recipe: Recipe) -> list[str]:
    """What the user's techniques in the recipe cannot do. Raises `UserError` on one that contradicts itself."""
    if not own.named_in(dump(recipe)):
        return []
    parts: dict[str, tuple[Any, Callable[[Any], None]]] = {
        "codec": (recipe.codec, _try_codec),
        "train.order": (recipe.train.order, _try_order),
        "train.schedule": (recipe.train.schedule, _try_schedule),
        "plain": (recipe.plain, _try_windows),
        "windows": (recipe.windows, _try_windows),
    }
    for path, (part, try_part) in parts.items():
        if _is_own(part):
            with _at(path, part):
                try_part(part)
    if _is_own(recipe.model):
        _try_model(recipe)
    sizes, out = shapes(recipe.model), list[str]()
    for glob, grid in recipe.quant.table:
        shape = next((shape for name, shape in sizes.items() if matches(name, glob)), None)
        if _is_own(grid) and shape is not None:
            path, solved = f"quant.table[{glob}]", recipe.quant.solver is not None
            with _at(path, grid):
                _try_grid(grid, shape, solved=solved)
            if solved and not hasattr(grid, "round") and not hasattr(grid, "follow_feedback"):
                out.append(f"{path}: {_name(grid)} is rounded plainly. Error feedback needs scales, round and values.")
            if not hasattr(grid, "at_step"):
                out.append(f"{path}: {_name(grid)} keeps its steps. Solving them for a cap needs at_step.")
    return list(dict.fromkeys(out))


def _try_model(recipe: Recipe) -> None:
    """What an artifact would lose of the model, and what training would do to it against its word."""
    with torch.device("meta"):
        model = Transformer(recipe.model)
    for module in model.modules():
        for name, _ in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                raise UserError(
                    f"model: {_name(module)} keeps `{name}` as a buffer, and an artifact holds parameters only. Make "
                    "it a parameter; or, if nothing ever changes it, register it with persistent=False."
                )
    params = dict(model.named_parameters())
    rows = resolve(recipe.train.optimizer, params, what="optimizer table")
    for name, p in params.items():
        if not p.is_floating_point():
            raise UserError(
                f"model: the parameter '{role(name)}' holds {p.dtype}, and only real numbers are trained and packed. "
                "Make it a buffer with persistent=False."
            )
        if not p.requires_grad and rows[name].begin({name: _like(p)}, world=World(), half=False):
            raise UserError(
                f"train.optimizer: '{role(name)}' is built with requires_grad=False, and its row trains it. Give it "
                "the row Frozen(), or let it require gradients."
            )
    if any(_constants(model)):
        _try_constants(recipe.model)


def _try_constants(model: Model) -> None:
    """Build the model twice: tensors that are not parameters must be equal, because an artifact does not store them."""
    with torch.random.fork_rng(devices=[]):
        first, second = (list(_constants(Transformer(model))) for _ in range(2))
    for (module, name, a), (_, _, b) in zip(first, second):
        if not torch.equal(a, b):
            raise UserError(
                f"model: {_name(module)} draws `{name}` anew whenever it is built, so an artifact would not compute "
                "what was trained. Give it a seed of its own: generator=torch.Generator().manual_seed(0)."
            )


def _constants(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """The tensors of user-defined modules that are not parameters."""
    for module in model.modules():
        if not type(module).__module__.startswith(("pargolf.", "torch.")):
            attributes = dict(module.named_buffers(recurse=False)) | vars(module)
            yield from ((module, name, x) for name, x in attributes.items() if isinstance(x, Tensor))


def _like(p: nn.Parameter) -> nn.Parameter:
    """A parameter of this shape that exists."""
    return nn.Parameter(torch.zeros(p.shape), requires_grad=False)


def _try_grid(grid: Any, shape: torch.Size, *, solved: bool) -> None:
    """Check codes, decoded values and fake values of a small tensor."""
    w = torch.randn(min(shape[0], _ROWS), *shape[1:], generator=torch.Generator().manual_seed(0)) * 0.02
    codes = grid.encode(w)
    if not isinstance(codes, Codes):
        raise UserError(f"encode gives a {type(codes).__name__}, not Codes.")
    if not codes.whole and codes.codes.dtype != torch.int8:
        raise UserError(f"encode gives codes of {codes.codes.dtype}, and an artifact holds int8.")
    values = grid.decode(codes)
    if values.shape != w.shape or not bool(values.isfinite().all()):
        raise UserError(f"decode gives {tuple(values.shape)} values for {tuple(w.shape)}, or some that are not finite.")
    if not torch.equal(grid.fake(w).float(), values):
        raise UserError("fake gives other values than decode(encode(w)), so training would not see the artifact's.")
    if solved and hasattr(grid, "round") and w.ndim == 2:
        scales = grid.scales(w, None)
        spread = grid.spread(scales, w) if hasattr(grid, "spread") else scales.float().reshape(-1, 1)
        rounded = grid.round(4 * w, scales=spread) if len(spread) in (1, len(w)) else torch.zeros(1)
        if float(rounded.abs().max()) > 128:
            raise UserError("round gives codes past 8 bits, which an artifact holds. Clamp them.")


def _try_codec(codec: Codec) -> None:
    """Check that bytes survive encoding and decoding."""
    for data in (b"", bytes(range(256)) * 4, bytes(1000)):
        if codec.decode(codec.encode(data), size=len(data)) != data:
            raise UserError(f"{len(data)} bytes do not come back as they were.")


def _try_order(order: WindowOrder) -> None:
    """Check the starts of two micro-batches."""
    for step in (0, 1000):
        starts = order.starts(MicroBatch(3 * step, step, 3, 16, 1000, seed=1))
        if not isinstance(starts, np.ndarray) or starts.shape != (3,) or starts.dtype.kind not in "iu":
            raise UserError("starts gives no array of whole numbers, one for each sequence.")


def _try_schedule(schedule: Schedule) -> None:
    """Check the multiplier along a run."""
    for step in (0, 1, 50, 99, 100):
        value = schedule(Moment(step, float(step), 100.0, 100))
        if not math.isfinite(value) or value < 0:
            raise UserError(f"at {step} % of a run the multiplier is {value}.")


def _try_windows(windows: Windows) -> None:
    """Check that every position is graded once, in order, from windows of at most the stated length."""
    positions, done = 3 * windows.length + 5, 0
    for window in windows.over(positions, starts=(0, positions // 2)):
        start, end, first = window
        if not 0 <= start <= first < end <= positions or end - start > windows.length:
            raise UserError(f"{window} is no window of up to {windows.length} of {positions} positions.")
        if windows.in_turn and first != done:
            raise UserError(f"position {first} is scored after position {done - 1}: not each once, in order.")
        done = end
    if windows.in_turn and done != positions:
        raise UserError(f"{positions - done} of {positions} positions are not scored.")


def _is_own(part: Any) -> bool:
    """Whether a part, or anything in it, is defined in a user's file."""
    return part is not None and bool(own.named_in(dump(part)))


def _name(part: Any) -> str:
    return type(part).__name__


@contextmanager
def _at(path: str, part: Any) -> Iterator[None]:
    """Turn errors of a technique into one line that names its row."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path} ({_name(part)}): {error}") from error
    except Exception as error:
        cause = f"{type(error).__name__}: {error}".partition("\n")[0][:160]
        raise UserError(f"{path}: {_name(part)} fails on a small input ({cause}).") from error
