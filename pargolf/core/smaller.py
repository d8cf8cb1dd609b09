"""How techniques shrink with a system, and what happens to one that has no rule for it.

    at_scale(to: Smaller)      the technique of a system whose stream is `to.factor` times narrower
    at_length(run: RunLength)     the technique of a run of another length: fractions of it in the place of step counts

A technique has either method where it holds sizes or step counts; `shrunk` and `relengthened` ask for them and go
through all that it is made of. Of one without `at_scale`, fields by the usual names of sizes shrink in proportion, and
a whole number of 32 or more under another name is refused: nothing may keep its full size unawares. `at_scale` that
returns `self` says that there is no size.
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
"""Fields that shrink with the width of the stream."""
SPANS = ("length", "stride", "chunk", "context", "window")
"""Fields that shrink with the length of a sequence."""
_NO_SIZES = ("seed", "bits")
_LEAST, _LARGE = 8, 32


@dataclass(frozen=True)
class Smaller:
    """A smaller system: `factor` times narrower, sequences of `context` tokens in the place of `seq_len`.

    `layers` are the blocks that stay, by the numbers they had; `head_dim` is a head's width, and `head_dim_before`
    what it was, where the technique stands in a block.
    """

    factor: int
    context: int
    seq_len: int
    layers: tuple[int, ...]
    head_dim: int = 0
    head_dim_before: float = 0.0

    def width(self, size: int) -> int:
        """A size that goes with the stream's width."""
        return max(size // self.factor, _LEAST)

    def span(self, positions: int) -> int:
        """A number of positions that goes with the length of a sequence."""
        return max(positions * self.context // self.seq_len, 1)

    def chunk(self, tokens: int) -> int:
        """Tokens of a chunk of whole sequences: as many sequences as before, and at least one."""
        return max(self.span(tokens), self.context)

    def glob(self, glob: str) -> str | None:
        """A glob over single layers as one over what they have become; None when none of them was kept."""
        part = layer_part(glob)
        if part is None:
            return glob
        now = "".join(str(new) for new, old in enumerate(self.layers) if fnmatchcase(str(old), part))
        parts = glob.split(".")
        parts[parts.index(part)] = now if len(now) == 1 else f"[{now}]"
        return ".".join(parts) if now else None

    def rows(self, table: Table[V]) -> tuple[tuple[str, V], ...]:
        """A table whose rows over single layers follow them; rows whose layers are all gone go too."""
        moved = [(self.glob(glob), value) for glob, value in table]
        return tuple((glob, value) for glob, value in moved if glob is not None)


@dataclass(frozen=True)
class RunLength:
    """A run of about `steps` steps in the place of one of `source` steps, of which a share of `behind` never came."""

    source: int
    steps: float
    behind: float = 0.0

    @property
    def ratio(self) -> float:
        """How many times as long the run is."""
        return self.steps / self.source

    def fraction(self, step: float) -> float:
        """A step of the source as a share of its run."""
        return min(step / self.source, 1.0)


def shrunk(part: T, to: Smaller) -> T:
    """A technique, or a tuple of them, of a smaller system. Raises `UserError` on sizes that nothing is known of."""
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
    """A technique, or a tuple of them, of a run of another length."""
    if isinstance(part, tuple):
        return cast(T, tuple(relengthened(item, run) for item in part))
    if not is_dataclass(part) or isinstance(part, type):
        return part
    if hasattr(part, "at_length"):
        other: T = part.at_length(run)
        return other
    inner = {f.name: getattr(part, f.name) for f in fields(part) if f.init}
    parts = {name: value for name, value in inner.items() if isinstance(value, tuple) or is_dataclass(value)}
    return replace(part, **{name: relengthened(value, run) for name, value in parts.items()})


def _smaller(part: Any, name: str, value: Any, to: Smaller) -> Any:
    """A field of a technique that says nothing of scale."""
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
    """At most so many of `count` layers, taken evenly from first to last."""
    kept = min(most, count)
    return tuple(round(i * (count - 1) / max(kept - 1, 1)) for i in range(kept))


def new_order(order: Sequence[int] | None, layers: Sequence[int]) -> tuple[int, ...] | None:
    """An order of blocks by the numbers that those which stay have now."""
    return None if order is None else tuple(layers.index(i) for i in order if i in layers)
