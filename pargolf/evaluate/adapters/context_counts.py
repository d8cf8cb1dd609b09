"""Counts of which tokens followed each context of a stream: the memory that `hint_tilt` and `count_tilt` read.

A context is the last k tokens, for each k in `orders`. The tables are dictionaries of this process: a few hundred bytes
and a few microseconds for each token and context, so this is for validation texts of some millions of tokens. What had
followed a window's contexts comes as arrays (`Seen`), which tilts and mixtures work on as a whole.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pargolf.core.errors import UserError

TOTAL = -1  # where a context keeps how often it was seen; no token has this id
Followed = dict[int, int]  # how often each token followed a context, and under TOTAL how often any did


@dataclass(frozen=True)
class Seen:
    """What had followed the contexts of a window's positions, each as it was when its position came.

    C cells: position s and context k, where that had been seen before, as s * `contexts` + k; `total_C` times, and
    `kinds_C` different tokens had followed. N followers in the order of cells: the cell's index, the token, how often.
    """

    contexts: int
    cell_C: NDArray[np.int64]
    total_C: NDArray[np.int64]
    kinds_C: NDArray[np.int64]
    of_N: NDArray[np.int64]
    token_N: NDArray[np.int64]
    count_N: NDArray[np.int64]


class ContextCounts:
    """Which tokens followed which contexts, of a stream that is told token by token; `readers` share it."""

    def __init__(self, orders: tuple[int, ...]) -> None:
        self.orders = orders
        self.readers = 0
        self._ahead: dict[int, list[Seen]] = {}
        self._widths = [4 * order for order in orders]
        self._text = bytearray()  # the last tokens, four bytes each, so that a slice of it is a context's key
        self._after: dict[bytes, Followed | int] = {}

    def begin(self) -> None:
        """Forget the last tokens, so that no context reaches from one document into the next."""
        self._text.clear()

    def step(self, token: int) -> list[bytes | None]:
        """Count the token after each context that it follows; returns the contexts that it ends, None: too long yet."""
        text, widths = self._text, self._widths
        for width in widths:
            if len(text) >= width:
                self._count(bytes(text[-width:]), token)
        text += token.to_bytes(4, "little")
        del text[: -widths[-1]]
        return [bytes(text[-width:]) if len(text) >= width else None for width in widths]

    def over(self, first: int, ids: list[int]) -> Seen:
        """Step over a window's ids, the first of its positions `first`; every reader may ask once."""
        ahead = self._ahead
        if first not in ahead:
            found = (map(self.after, self.step(token)) for token in ids)
            ahead[first] = [gathered(found, len(self.orders))] * self.readers
        seen = ahead[first].pop()
        if not ahead[first]:
            del ahead[first]
        return seen

    def after(self, context: bytes | None) -> Followed | None:
        """What followed a context, how often, and under `TOTAL` how often anything did; None where nothing did."""
        held = None if context is None else self._after.get(context)
        return {held: 1, TOTAL: 1} if isinstance(held, int) else held

    def _count(self, context: bytes, token: int) -> None:
        held = self._after.get(context)
        if held is None:
            self._after[context] = token  # most contexts are seen once, and a number is a tenth of a dictionary
            return
        if isinstance(held, int):
            held = self._after[context] = {held: 1, TOTAL: 1}
        held[token] = held.get(token, 0) + 1
        held[TOTAL] += 1


def gathered(found: Iterable[Iterable[Followed | None]], contexts: int) -> Seen:
    """As arrays what followed each position's contexts, taken down one position after the other."""
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
    """What followed a context in either of two texts."""
    if a is None or b is None:
        return a or b
    return {token: a.get(token, 0) + b.get(token, 0) for token in {**a, **b}}


def check_orders(orders: tuple[int, ...]) -> None:
    """Raise `UserError` unless the lengths of contexts rise from 1 or more."""
    if not orders or any(a >= b for a, b in pairwise((0, *orders))):
        raise UserError(f"contexts of {orders} tokens should be rising lengths, for example (1, 2, 4)")
