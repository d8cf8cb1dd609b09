"""Tests that the training loss and text shown in pieces do not look ahead either.

    training   the loss, with gradients asked for, dropout and all     what it says of position t, ids[t+1..] changed
    pieces     a text shown piece by piece, keys and values kept       what it says of position t, where the cache held
                                                                       another text before, which differs from t + 1 on

A loss is one number for all positions. What it says of position t is by how much it changes when the target of t alone
is another: a difference of two logits there, which no id to the right of t may move. That holds beside losses of heads
that look at later targets, too, since each adds its own difference.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pargolf.evaluate.lookahead import LookAhead, changed, moved
from pargolf.evaluate.windows import IntArray
from pargolf.model.cache import Cache
from pargolf.model.transformer import Transformer

Loss = Callable[[Tensor, Tensor], Tensor]
_PIECES = (3, 1, 2)  # positions that are shown at once, in turn


def training_look(loss: Loss, tokens: IntArray, *, vocab: int, bos: int, device: torch.device | str) -> LookAhead:
    """How far ahead the loss of `tokens` (N+1) looked: one, two and as many as there are, from two places.

    `loss` takes ids and targets (1, N) to a mean in nats. Keep N to some dozens: single differences are in the last
    digits of a mean over many.
    """
    targets = np.array(tokens[1:], dtype=np.int64)
    other = changed(targets, np.arange(len(targets)), vocab=vocab, bos=-1, random=np.random.default_rng(1))

    def nats(ids: IntArray, wanted: IntArray) -> float:
        pair = (torch.from_numpy(np.array(row, dtype=np.int64))[None].to(device) for row in (ids, wanted))
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same dropout for all
            return len(wanted) * float(loss(*pair).detach())

    def said(ids: IntArray, positions: Sequence[int]) -> dict[int, float]:
        whole, differences = nats(ids, targets), {}
        for position in positions:
            wanted = targets.copy()
            wanted[position] = other[position]
            differences[position] = nats(ids, wanted) - whole
        return differences

    tried = [
        (place, ids, sorted({0, place - 2, place - 1} & set(range(place))))
        for place, ids in changes(tokens[:-1], vocab=vocab, bos=bos)
    ]
    before = said(tokens[:-1], sorted({position for _, _, positions in tried for position in positions}))
    look = LookAhead()
    for place, ids, positions in tried:
        for position, after in said(ids, positions).items():
            pair = (torch.tensor([[x]], dtype=torch.float64) for x in (before[position], after))
            look = look.joined(moved(*pair, start=position, place=place))
    return look


def pieces_look(model: Transformer, tokens: IntArray, *, vocab: int, bos: int) -> LookAhead:
    """How far ahead `tokens` (N) shown one by one looked, into what the cache held from the text before."""
    look, before = LookAhead(), _in_pieces(model, tokens, tokens, (1,))
    for place, other in changes(tokens, vocab=vocab, bos=bos):
        look = look.joined(moved(before, _in_pieces(model, other, tokens, (1,)), start=0, place=place))
    return look


@torch.no_grad()
def pieces_differ(model: Transformer, tokens: IntArray) -> float:
    """By how many nats a text (N) shown piece by piece is read otherwise than at once, at the worst place."""
    ids_BT = _row(model, tokens)
    whole_NV = model(ids_BT)[0].double().log_softmax(-1).cpu()
    ends = list(_ends(len(tokens), _PIECES))
    return float((_in_pieces(model, tokens, tokens, _PIECES) - whole_NV)[ends].abs().max())


def changes(tokens: IntArray, *, vocab: int, bos: int) -> Iterator[tuple[int, IntArray]]:
    """Where each change begins, and the changed tokens: one in the middle, the last one, all from the middle on."""
    random, free = np.random.default_rng(0), np.flatnonzero(np.asarray(tokens) != bos)
    free = free[free > 0]
    middle = len(free) // 2
    for places in (free[middle : middle + 1], free[-1:], free[middle:]):
        yield int(places[0]), changed(tokens, places, vocab=vocab, bos=bos, random=random)


@torch.no_grad()
def _in_pieces(model: Transformer, earlier: IntArray, tokens: IntArray, sizes: Sequence[int]) -> Tensor:
    """Log-probabilities (N, V) after each piece, zero elsewhere; the cache held another text before, and forgot it."""
    cache, ids_BT = Cache(model, len(tokens)), _row(model, tokens)
    cache(_row(model, earlier))
    cache.forget()
    logs_NV, begin = torch.zeros(len(tokens), model.spec.vocab, dtype=torch.float64), 0
    for end in _ends(len(tokens), sizes):
        logs_NV[end] = cache(ids_BT[:, begin : end + 1])[0].double().log_softmax(-1).cpu()
        begin = end + 1
    return logs_NV


def _ends(count: int, sizes: Sequence[int]) -> Iterator[int]:
    """The last positions of pieces of these sizes, in turn."""
    end, turn = -1, 0
    while end < count - 1:
        end = min(end + sizes[turn % len(sizes)], count - 1)
        turn += 1
        yield end


def _row(model: Transformer, tokens: IntArray) -> Tensor:
    device = next(model.parameters()).device
    return torch.from_numpy(np.array(tokens, dtype=np.int64))[None].to(device)
