"""N-gram counts of a stream: which tokens followed each context so far (for `hint_tilt`, `count_tilt`, `count_mix`).

A context is the last k tokens, for each k in `orders`. The tables are Python dictionaries: a few hundred bytes and a
few microseconds for each token and context, so this suits validation texts of some millions of tokens. The counts of a
window's contexts are returned as arrays (`Seen`), so that tilts and mixtures can use vector operations.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pargolf.core.errors import UserError
from pargolf.evaluate.adapters.adapter import Adapter

TOTAL = -1  # the key under which a context stores how often it was seen; no token has this id
Followed = dict[int, int]  # how often each token followed a context; under TOTAL their sum


@dataclass(frozen=True)
class Seen:
    """The counts of a window's contexts, each at the time of its position.

    A cell is a position s and a context number k, stored as s * `contexts` + k; only contexts seen before have a cell.
    Each of the C cells has its total count `total_C` and its number of different followers `kinds_C`. The N followers
    are in the order of cells: index of the cell `of_N`, token, and count.
    """

    contexts: int
    cell_C: NDArray[np.int64]
    total_C: NDArray[np.int64]
    kinds_C: NDArray[np.int64]
    of_N: NDArray[np.int64]
    token_N: NDArray[np.int64]
    count_N: NDArray[np.int64]


class ContextCounts:
    """Counts of the tokens that followed each context, for a stream that is fed token by token; `readers` share it."""

    def __init__(self, orders: tuple[int, ...]) -> None:
        self.orders = orders
        self.readers = 0
        self._ahead: dict[int, list[Seen]] = {}
        self._widths = [4 * order for order in orders]
        self._text = bytearray()  # the last tokens, four bytes each, so that a slice is the key of a context
        self._after: dict[bytes, Followed | int] = {}

    def begin(self) -> None:
        """Forget the last tokens, so that no context spans two documents."""
        self._text.clear()

    def step(self, token: int) -> list[bytes | None]:
        """Count the token after each current context; returns the contexts that end with it (None: text too short)."""
        text, widths = self._text, self._widths
        for width in widths:
            if len(text) >= width:
                self._count(bytes(text[-width:]), token)
        text += token.to_bytes(4, "little")
        del text[: -widths[-1]]
        return [bytes(text[-width:]) if len(text) >= width else None for width in widths]

    def over(self, first: int, ids: list[int]) -> Seen:
        """Count a window's ids, whose first position is `first`, and return its counts; each reader calls this once."""
        ahead = self._ahead
        if first not in ahead:
            found = (map(self.after, self.step(token)) for token in ids)
            ahead[first] = [gathered(found, len(self.orders))] * self.readers
        seen = ahead[first].pop()
        if not ahead[first]:
            del ahead[first]
        return seen

    def after(self, context: bytes | None) -> Followed | None:
        """The counts of tokens after a context, with their sum under `TOTAL`; None for an unseen context."""
        held = None if context is None else self._after.get(context)
        return {held: 1, TOTAL: 1} if isinstance(held, int) else held

    def _count(self, context: bytes, token: int) -> None:
        held = self._after.get(context)
        if held is None:
            self._after[context] = token  # most contexts occur once; an int takes a tenth of a dictionary's memory
            return
        if isinstance(held, int):
            held = self._after[context] = {held: 1, TOTAL: 1}
        held[token] = held.get(token, 0) + 1
        held[TOTAL] += 1


def gathered(found: Iterable[Iterable[Followed | None]], contexts: int) -> Seen:
    """Convert the counts of each position's contexts to arrays; `found` may be lazy, it is read in order."""
    cells: list[int] = []
    sizes: list[int] = []
    tokens: list[int] = []
    counts: list[int] = []
    for s, followed in enumerate(found):
        for k, after in enumerate(followed):
            if after is not None:
                cells.append(s * contexts + k)
                sizes.append(len(after))
                tokens += after
                counts += after.values()
    size_C, token_N, count_N = (np.array(column, dtype=np.int64) for column in (sizes, tokens, counts))
    real = token_N != TOTAL
    of_N = np.repeat(np.arange(len(cells)), size_C)[real]
    cell_C = np.array(cells, dtype=np.int64)
    return Seen(contexts, cell_C, count_N[~real], size_C - 1, of_N, token_N[real], count_N[real])


def joined(a: Followed | None, b: Followed | None) -> Followed | None:
    """The summed counts of a context in two texts."""
    if a is None or b is None:
        return a or b
    return {token: a.get(token, 0) + b.get(token, 0) for token in {**a, **b}}


def check_orders(orders: tuple[int, ...], adapter: Adapter | None = None) -> None:
    """Raise `UserError` unless the context lengths rise from 1 or more, and the adapter learns along one text."""
    if not orders or any(a >= b for a, b in pairwise((0, *orders))):
        raise UserError(f"contexts of {orders} tokens should be rising lengths, for example (1, 2, 4)")
    if adapter is not None and adapter.by_document:
        raise UserError("counts learn along one text, not along documents in turns: use an adapter by chunks")
