"""Counts of which tokens followed each context of a stream: the memory that `hint_tilt` and `count_tilt` read.

A context is the last k tokens, for each k in `orders`. The tables are dictionaries of this process: a few hundred bytes
and a few microseconds for each token and context, so this is for validation texts of some millions of tokens.
"""

from itertools import pairwise

from pargolf.core.errors import UserError

TOTAL = -1  # where a context keeps how often it was seen; no token has this id
Followed = dict[int, int]  # how often each token followed a context, and under TOTAL how often any did


class ContextCounts:
    """Which tokens followed which contexts, of a stream that is told token by token."""

    def __init__(self, orders: tuple[int, ...]) -> None:
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


def joined(a: Followed | None, b: Followed | None) -> Followed | None:
    """What followed a context in either of two texts."""
    if a is None or b is None:
        return a or b
    return {token: a.get(token, 0) + b.get(token, 0) for token in {**a, **b}}


def check_orders(orders: tuple[int, ...]) -> None:
    """Raise `UserError` unless the lengths of contexts rise from 1 or more."""
    if not orders or any(a >= b for a, b in pairwise((0, *orders))):
        raise UserError(f"contexts of {orders} tokens should be rising lengths, for example (1, 2, 4)")
