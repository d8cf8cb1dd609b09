"""The slots of the transformer on one page: where a technique can be placed, what it gets, what it returns.

| slot | field | a module is called with | and returns |
|---|---|---|---|
| embed | `model.embed` | `ctx` | `e_BTD`, added to the token embedding |
| entry | `model.entry` | `x_BTD, ctx` | `x_BTD`, right before the embedding's norm |
| stream | `model.stream` | `x_BTD, ctx` | `x_BTD`, right after it |
| shared | `model.shared` | `ctx` | any tensor, computed once, read as `ctx.shared[key]` |
| wire | `model.graph` | `x_BTD, source_BTD` | `x_BTD`, at the entrance of a block or of the head |
| value | `attn.values` | `v_BTKd, ctx` | `v_BTKd`, before attention |
| output | `attn.outputs` | `y_BTHd, v_BTKd, u_BTD` | `y_BTHd`, after attention, before its output matrix |
| residual | `block.residual` | `lanes, read_BTD, attend, feed` | `lanes`, attention and MLP joined to the stream |
| gate | `block.gate` | `x_BTD, out_BTD` | `out_BTD`, after the whole block |
| activation | `mlp.act` | `z_BTF` | `a_BTF` |
| cap | `model.head.softcap` | `z_NV` | `z_NV`, bounded; with a `loss` of its own |

A technique is a frozen dataclass whose `build(place)` makes its module; one without parameters may be a plain function.
A module may define these methods to follow the training (`training/loop.py` calls them):

    start_from(source)               before anything else: set initial values from the training text
    follow_phases(begun, coming)     at the start and whenever a phase begins: the begun phases and the coming ones
    follow_step(epoch, passes)       before each step: the text has been covered `epoch` times, and the run is expected
                                     to cover it `passes` times. The attribute `last_change` is the last epoch at which
                                     the module changes its computation; that graph is then compiled before training

Shape suffixes, everywhere: B batch, T time, D width of the stream, H query heads, K key and value heads, d width of a
head, F hidden units of the MLP, V vocabulary, N rows or buckets, L layers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pargolf.kernels.attention import Mask, document_mask


@dataclass(frozen=True)
class Place:
    """The sizes that a technique may need when it is built, and its layer (-1: not in a block)."""

    vocab: int
    dim: int
    layers: int
    heads: int = 0
    kv_heads: int = 0
    hidden: int = 0
    layer: int = -1
    bos: int | None = None

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.heads


@dataclass
class Context:
    """The data of one forward pass besides the stream: ids, documents, and values computed once for all layers.

    doc_BT: document numbers when documents are kept apart, None when they are packed together
    since_BT: the first position of each position's document

    Techniques that look back call `whole` for the earlier positions; `model/cache.py` has a context that gets them from
    a cache.
    """

    ids_BT: Tensor
    doc_BT: Tensor | None = None
    since_BT: Tensor | None = None
    shared: dict[Any, Any] = field(default_factory=dict)

    @property
    def window(self) -> int:
        """The length of the window that the ids belong to."""
        return self.ids_BT.shape[1]

    def whole(self, x_BT: Tensor) -> Tensor:
        """`x` (B, T, ...) of these positions, preceded by `x` of all earlier positions of the window."""
        return x_BT

    def here(self, x_T: Tensor) -> Tensor:
        """Select the entries of these positions from a tensor over the whole window."""
        return x_T

    def mask(self) -> Mask | None:
        """The document mask (rows may attend to columns), computed on first use; None when there is one document."""
        if self.since_BT is None:
            return None
        if "mask" not in self.shared:
            self.shared["mask"] = document_mask(self.since_BT)
        mask: Mask = self.shared["mask"]
        return mask

    def shifted(self, x_BT: Tensor, by: int, fill: int) -> Tensor:
        """`x` shifted right by `by` positions; positions without such a predecessor in their document get `fill`."""
        out_BT = torch.full_like(x_BT, fill)
        out_BT[:, by:] = x_BT[:, :-by]
        if self.doc_BT is None:
            return out_BT
        return torch.where(self.same_document(by), out_BT, fill)

    def same_document(self, by: int) -> Tensor:
        """(B, T) bool: whether the position `by` places before exists and is in the same document."""
        same_BT = torch.zeros_like(self.ids_BT, dtype=torch.bool)
        if self.doc_BT is None:
            same_BT[:, by:] = True
        else:
            same_BT[:, by:] = self.doc_BT[:, by:] == self.doc_BT[:, :-by]
        return same_BT


@runtime_checkable
class Slot(Protocol):
    """A technique as data. `key` names its module and is the first part of its parameters' roles."""

    @property
    def key(self) -> str:
        """The module's name under its slot."""
        ...

    def build(self, place: Place) -> nn.Module:
        """Make the module for this place."""
        ...


@runtime_checkable
class Builds(Protocol):
    """A part in a field of its own, so that it needs no key: an MLP, a block, a head, a join."""

    def build(self, place: Place) -> nn.Module:
        """Make the module for this place."""
        ...


class FeedForward(Protocol):
    """The part of a block after attention: `hidden` units, whatever they are."""

    @property
    def hidden(self) -> int:
        """The number of hidden units."""
        ...

    def build(self, place: Place) -> nn.Module:
        """Make the module `u_BTD -> u_BTD`."""
        ...


ByLayer = Callable[[int, int], float]
"""A number that depends on depth: called with (layer, layers) when the model is built."""


def at_layer(value: float | ByLayer, place: Place) -> float:
    """Resolve a number that may depend on depth."""
    return value(place.layer, place.layers) if callable(value) else value


def build_all(slots: tuple[Slot, ...], place: Place) -> nn.ModuleDict:
    """Build the techniques of one slot under their keys. Raises `AssertionError` when two share a key."""
    assert len({s.key for s in slots}) == len(slots), f"two techniques with one key in {slots}"
    return nn.ModuleDict({s.key: s.build(place) for s in slots})


def following(model: nn.Module, hook: str) -> list[Any]:
    """The modules that define the method `hook`."""
    return [module for module in model.modules() if hasattr(module, hook)]
