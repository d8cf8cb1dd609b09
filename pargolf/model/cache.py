"""What a model keeps of a text that it is shown piece by piece, so that a further token costs one position's work.

    logits = Cache(model, length)(ids)      the same as model(all ids so far)[-1], to rounding

Everything that looks back does so through its `Context` (slots.py): attention asks for all keys and values, smearing
for the token before, hashes and masks for the ids. `Further` is the context of further positions: each of these calls
finds what the same call was given for the positions before, as a forward pass makes its calls always in one order. So
no technique has a second form for this, and a new one needs none.

Positions and angles are those of a window of `length`, as it is shown in scoring: where the base of the rotation
depends on the length (`Rope.ntk_from`), it is that of the whole window from the first token on.
"""

import torch
from torch import Tensor

from pargolf.kernels.attention import Mask
from pargolf.model.slots import Context
from pargolf.model.transformer import Transformer


class Cache:
    """`ids (B, T) -> logits (B, V)` after the last of them; the ids follow those shown before, `length` in all."""

    def __init__(self, model: Transformer, length: int) -> None:
        self.model = model
        self.length = length
        self.shown = 0
        self.held: list[Tensor] = []

    def __call__(self, ids_BT: Tensor) -> Tensor:
        """Show further ids, on the model's device; no gradient flows."""
        assert self.shown + ids_BT.shape[1] <= self.length, "a window's length"
        with torch.no_grad():
            logits_B1V: Tensor = self.model(ids_BT, ids_BT.shape[1] - 1, Further(self, ids_BT))
        self.shown += ids_BT.shape[1]
        return logits_B1V[:, -1]

    def forget(self) -> None:
        """Begin a new text."""
        self.shown = 0
        self.held.clear()


class Further(Context):
    """The context of ids that follow what `cache` has been shown."""

    def __init__(self, cache: Cache, ids_BT: Tensor) -> None:
        super().__init__(ids_BT)
        self._cache = cache
        self._calls = 0
        self._all = cache.model.context(self.whole(ids_BT))
        self.doc_BT = None if self._all.doc_BT is None else self._all.doc_BT[:, -ids_BT.shape[1] :]

    @property
    def window(self) -> int:
        """The window's length, however much of it has been shown."""
        return self._cache.length

    def whole(self, x_BT: Tensor) -> Tensor:
        """Keep `x` behind what the same call kept before, and return both."""
        cache, start = self._cache, self._cache.shown
        if self._calls == len(cache.held):
            cache.held.append(x_BT.new_empty(x_BT.shape[0], cache.length, *x_BT.shape[2:]))
        held_BL = cache.held[self._calls]
        self._calls += 1
        stop = start + x_BT.shape[1]
        held_BL[:, start:stop] = x_BT
        return held_BL[:, :stop]

    def here(self, x_T: Tensor) -> Tensor:
        """The entries of these positions."""
        start = self._cache.shown
        return x_T[start : start + self.ids_BT.shape[1]]

    def mask(self) -> Mask | None:
        """The rows of these positions, (B, 1, T, all)."""
        whole = self._all.mask()
        return whole[..., -self.ids_BT.shape[1] :, :] if isinstance(whole, Tensor) else None

    def shifted(self, x_BT: Tensor, by: int, fill: int) -> Tensor:
        """As `Context.shifted`, with what lies before."""
        return self._all.shifted(self.whole(x_BT), by, fill)[:, -x_BT.shape[1] :]

    def same_document(self, by: int) -> Tensor:
        """As `Context.same_document`, with what lies before."""
        return self._all.same_document(by)[:, -self.ids_BT.shape[1] :]
