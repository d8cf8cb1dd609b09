"""A key-value cache: a text is shown to the model piece by piece, and each new token costs the work of one position.

    logits = Cache(model, length)(ids)      the same as model(all ids so far)[-1], to rounding

Everything that looks back does so through its `Context` (slots.py): attention asks for all keys and values, smearing
for the previous token, hashes and masks for the ids. `Further` is the context of the new positions. A forward pass
always makes these calls in the same order, so each call gets the stored tensor of the same call for earlier positions
in front of its own. No technique needs a second implementation for this.

Positions and rotation angles are those of a window of `length` tokens, as in scoring: if the rotation base depends on
the length (`Rope.ntk_from`), the base of the whole window is used from the first token on.

Cached tensors carry no gradient. So a model can learn from a text piece by piece, with gradients only through the
positions of each piece (`evaluate/adapters/online.py`), as in Transformer-XL (Dai et al. 2019, arXiv:1901.02860).
"""

import torch
from torch import Tensor

from pargolf.kernels.attention import Mask
from pargolf.model.slots import Context
from pargolf.model.transformer import Transformer


class Cache:
    """`ids (B, T) -> logits (B, V)` after the last id. The ids continue those shown before; at most `length` in all."""

    def __init__(self, model: Transformer, length: int) -> None:
        self.model = model
        self.length = length
        self.shown = 0
        self.held: list[Tensor] = []

    def __call__(self, ids_BT: Tensor) -> Tensor:
        """Show further ids, on the model's device, without gradients."""
        with torch.no_grad():
            return self.show(ids_BT, first=ids_BT.shape[1] - 1)[:, -1]

    def show(self, ids_BT: Tensor, *, first: int = 0, sees: int | None = None) -> Tensor:
        """Logits (B, T - first, V) of further ids, which see the last `sees` earlier positions (None: all)."""
        assert self.shown + ids_BT.shape[1] <= self.length, "a window's length"
        further = Further(self, ids_BT, sees)
        logits_BSV: Tensor = self.model(ids_BT, first, further)
        self.held = further.held
        self.shown += ids_BT.shape[1]
        return logits_BSV

    def forget(self) -> None:
        """Start a new text."""
        self.shown = 0
        self.held = []


class Further(Context):
    """The context of ids that follow those in `cache`; they see its last `sees` positions."""

    def __init__(self, cache: Cache, ids_BT: Tensor, sees: int | None = None) -> None:
        super().__init__(ids_BT)
        self.held: list[Tensor] = []
        self._cache = cache
        self._sees = cache.shown if sees is None else sees
        self._all = cache.model.context(self.whole(ids_BT))
        self.doc_BT = None if self._all.doc_BT is None else self._all.doc_BT[:, -ids_BT.shape[1] :]

    @property
    def window(self) -> int:
        """The full length of the window, even if less has been shown."""
        return self._cache.length

    def whole(self, x_BT: Tensor) -> Tensor:
        """Put the cached tensor of the same call in front of `x`; cache and return the result."""
        if self._cache.held and self._sees:
            x_BT = torch.cat([self._cache.held[len(self.held)][:, -self._sees :], x_BT], 1)
        self.held.append(x_BT.detach())
        return x_BT

    def here(self, x_T: Tensor) -> Tensor:
        """The entries for the new positions."""
        start = self._cache.shown
        return x_T[start : start + self.ids_BT.shape[1]]

    def mask(self) -> Mask | None:
        """The mask rows of the new positions, (B, 1, T, all)."""
        whole = self._all.mask()
        return whole[..., -self.ids_BT.shape[1] :, :] if isinstance(whole, Tensor) else None

    def shifted(self, x_BT: Tensor, by: int, fill: int) -> Tensor:
        """As `Context.shifted`, with the earlier positions."""
        return self._all.shifted(self.whole(x_BT), by, fill)[:, -x_BT.shape[1] :]

    def same_document(self, by: int) -> Tensor:
        """As `Context.same_document`, with the earlier positions."""
        return self._all.same_document(by)[:, -self.ids_BT.shape[1] :]
