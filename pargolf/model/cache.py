"""The key-value cache: what a model keeps of a text shown in pieces, so that a new token costs one position's work.

    logits = Cache(model, length)(ids)      the same as model(all ids so far)[-1], to rounding

Everything that looks back does so through its `Context` (slots.py): attention asks for all keys and values, smearing
for the token before, hashes and masks for the ids. `Further` is the context of further positions: each of these calls
finds what the same call was given for the positions before, as a forward pass makes its calls always in one order. So
no technique has a second form for this, and a new one needs none.

Positions and angles are those of a window of `length`, as it is shown in scoring: where the base of the rotation
depends on the length (`Rope.ntk_from`), it is that of the whole window from the first token on.

What is kept has no gradient. So a text can be learned from piece by piece, each piece through its own positions alone
(`evaluate/adapters/online.py`), as in Transformer-XL (Dai et al. 2019, arXiv:1901.02860).
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
        with torch.no_grad():
            return self.show(ids_BT, first=ids_BT.shape[1] - 1)[:, -1]

    def show(self, ids_BT: Tensor, *, first: int = 0, sees: int | None = None) -> Tensor:
        """Logits (B, T - first, V) of further ids, which see the last so many of those before (None: all)."""
        assert self.shown + ids_BT.shape[1] <= self.length, "a window's length"
        further = Further(self, ids_BT, sees)
        logits_BSV: Tensor = self.model(ids_BT, first, further)
        self.held = further.held
        self.shown += ids_BT.shape[1]
        return logits_BSV

    def forget(self) -> None:
        """Begin a new text."""
        self.shown = 0
        self.held = []


class Further(Context):
    """The context of ids that follow what `cache` has been shown, of which they see the last `sees`."""

    def __init__(self, cache: Cache, ids_BT: Tensor, sees: int | None = None) -> None:
        super().__init__(ids_BT)
        self.held: list[Tensor] = []
        self._cache = cache
        self._sees = cache.shown if sees is None else sees
        self._all = cache.model.context(self.whole(ids_BT))
        self.doc_BT = None if self._all.doc_BT is None else self._all.doc_BT[:, -ids_BT.shape[1] :]

    @property
    def window(self) -> int:
        """The window's length, however much of it has been shown."""
        return self._cache.length

    def whole(self, x_BT: Tensor) -> Tensor:
        """Put what the same call kept before in front of `x`, keep that, and return it."""
        if self._cache.held and self._sees:
            x_BT = torch.cat([self._cache.held[len(self.held)][:, -self._sees :], x_BT], 1)
        self.held.append(x_BT.detach())
        return x_BT

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
