"""Scale techniques down with their system, for runs on small machines.

    at_scale(to: Smaller)      the technique for a system whose residual stream is `to.factor` times narrower
    at_length(run: RunLength)     the technique for a run of another length: step counts become fractions of the run

A technique that holds sizes or step counts defines these methods; `shrunk` and `relengthened` call them on it and on
everything it is made of. Without `at_scale`, fields with the usual names of sizes (`WIDTHS`, `SPANS`) shrink in
proportion, and any other whole number of 32 or more is refused, so that no size stays large by accident. A technique
without sizes may define an `at_scale` that returns `self`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar, cast

from pargolf.core.errors import UserError
from pargolf.core.roles import Table, layer_part

T = TypeVar("T")
V = TypeVar("V")
WIDTHS = ("dim", "buckets", "hidden", "rank")
"""Field names of sizes that shrink with the width of the residual stream."""
SPANS = ("length", "stride", "chunk", "context", "window")
"""Field names of sizes that shrink with the sequence length."""
_NO_SIZES = ("seed", "bits")
_LEAST, _LARGE = 8, 32


@dataclass(frozen=True)
class Smaller:
    """A smaller system: `factor` times narrower, with sequences of `context` tokens instead of `seq_len`.

    layers: the blocks that remain, by their old numbers
    head_dim, head_dim_before: the new and the old width of a head, for techniques inside a block
    """

    factor: int
    context: int
    seq_len: int
    layers: tuple[int, ...]
    head_dim: int = 0
    head_dim_before: float = 0.0

    def width(self, size: int) -> int:
        """Scale a size that follows the width of the stream."""
        return max(size // self.factor, _LEAST)

    def span(self, positions: int) -> int:
        """Scale a number of positions that follows the sequence length."""
        return max(positions * self.context // self.seq_len, 1)

    def chunk(self, tokens: int) -> int:
        """Scale a chunk of whole sequences, in tokens: as many sequences as before, at least one."""
        return max(self.span(tokens), self.context)

    def glob(self, glob: str) -> str | None:
        """Renumber the layers that a glob names; None when none of them remains."""
        part = layer_part(glob)
        if part is None:
            return glob
        now = "".join(str(new) for new, old in enumerate(self.layers) if fnmatchcase(str(old), part))
        parts = glob.split(".")
        parts[parts.index(part)] = now if len(now) == 1 else f"[{now}]"
        return ".".join(parts) if now else None

    def rows(self, table: Table[V]) -> tuple[tuple[str, V], ...]:
        """Renumber the layers in a table's globs; rows without a remaining layer are dropped."""
        moved = [(self.glob(glob), value) for glob, value in table]
        return tuple((glob, value) for glob, value in moved if glob is not None)


@dataclass(frozen=True)
class RunLength:
    """A run of about `steps` steps instead of `source` steps; the source run never reached its last share `behind`."""

    source: int
    steps: float
    behind: float = 0.0

    @property
    def ratio(self) -> float:
        """The new length over the old one."""
        return self.steps / self.source

    def fraction(self, step: float) -> float:
        """A step of the source run as a fraction of its length."""
        return min(step / self.source, 1.0)


def shrunk(part: T, to: Smaller) -> T:
    """A technique, or a tuple of them, for a smaller system. Raises `UserError` on a size that it cannot scale."""
    if isinstance(part, tuple):
        return cast(T, tuple(shrunk(item, to) for item in part))
    if not is_dataclass(part) or isinstance(part, type):
        return part
    if hasattr(part, "at_scale"):
        small: T = part.at_scale(to)
        return small
    values = {f.name: getattr(part, f.name) for f in fields(part) if f.init}
    return replace(part, **{name: _smaller(part, name, value, to) for name, value in values.items()})


def relengthened(part: T, run: RunLength) -> T:
    """A technique, or a tuple of them, for a run of another length."""
    if isinstance(part, tuple):
        return cast(T, tuple(relengthened(item, run) for item in part))
    if not is_dataclass(part) or isinstance(part, type):
        return part
    if hasattr(part, "at_length"):
        changed: T = part.at_length(run)
        return changed
    inner = {f.name: getattr(part, f.name) for f in fields(part) if f.init}
    parts = {name: value for name, value in inner.items() if isinstance(value, tuple) or is_dataclass(value)}
    return replace(part, **{name: relengthened(value, run) for name, value in parts.items()})


def _smaller(part: Any, name: str, value: Any, to: Smaller) -> Any:
    """Scale one field of a technique that defines no `at_scale`."""
    if isinstance(value, bool) or not isinstance(value, int):
        return shrunk(value, to)
    if name in WIDTHS:
        return to.width(value)
    if name in SPANS:
        return to.span(value)
    if value >= _LARGE and name not in _NO_SIZES:
        raise UserError(
            f"{type(part).__name__} has {name}={value}, and does not say what that is at another scale. Give it "
            "at_scale(self, to), which returns itself where there is no size (core/smaller.py)."
        )
    return value


def kept_layers(count: int, most: int) -> tuple[int, ...]:
    """At most `most` of `count` layers, spread evenly from first to last."""
    number = min(most, count)
    return tuple(round(i * (count - 1) / max(number - 1, 1)) for i in range(number))


def new_order(order: Sequence[int] | None, layers: Sequence[int]) -> tuple[int, ...] | None:
    """Renumber an order of blocks for the blocks that remain."""
    return None if order is None else tuple(layers.index(i) for i in order if i in layers)
