"""Causality tests for the other ways to run a model: its training loss, and text shown piece by piece with a cache.

    training   the loss with gradients and dropout; ids after position t are changed
    pieces     a text shown piece by piece with cached keys and values; before it the cache held another text, which
               differs after position t

The loss is one number for all positions. To isolate position t, only its target is replaced: the change of the loss is
then a difference of two logits at t, and no id to the right of t may influence it. This also works when multi-token
heads are part of the loss, because each adds its own difference.
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
_PIECES = (3, 1, 2)  # sizes of the pieces, in turn


def training_look(loss: Loss, tokens: IntArray, *, vocab: int, bos: int, device: torch.device | str) -> LookAhead:
    """How far ahead the training loss of `tokens` (N+1) looks; tests looks of one token, two, and as many as possible.

    `loss` maps ids and targets (1, N) to a mean in nats. N should be a few dozen at most, because a single position
    only changes the last digits of a mean over many.
    """
    targets = np.array(tokens[1:], dtype=np.int64)
    other = changed(targets, np.arange(len(targets)), vocab=vocab, bos=-1, random=np.random.default_rng(1))

    def nats(ids: IntArray, wanted: IntArray) -> float:
        pair = (torch.from_numpy(np.array(row, dtype=np.int64))[None].to(device) for row in (ids, wanted))
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same dropout in every call
            return len(wanted) * float(loss(*pair).detach())

    def differences_at(ids: IntArray, positions: Sequence[int]) -> dict[int, float]:
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
    before = differences_at(tokens[:-1], sorted({position for _, _, positions in tried for position in positions}))
    look = LookAhead()
    for place, ids, positions in tried:
        for position, after in differences_at(ids, positions).items():
            pair = (torch.tensor([[x]], dtype=torch.float64) for x in (before[position], after))
            look = look.joined(moved(*pair, start=position, place=place))
    return look


def pieces_look(model: Transformer, tokens: IntArray, *, vocab: int, bos: int) -> LookAhead:
    """How far ahead `tokens` (N) look when they are shown one by one, into what the cache held of an earlier text."""
    look, before = LookAhead(), _in_pieces(model, tokens, tokens, (1,))
    for place, other in changes(tokens, vocab=vocab, bos=bos):
        look = look.joined(moved(before, _in_pieces(model, other, tokens, (1,)), start=0, place=place))
    return look


@torch.no_grad()
def pieces_differ(model: Transformer, tokens: IntArray) -> float:
    """The largest difference in nats between log-probabilities of a text (N) shown piece by piece and shown at once."""
    ids_BT = _row(model, tokens)
    whole_NV = model(ids_BT)[0].double().log_softmax(-1).cpu()
    ends = list(_ends(len(tokens), _PIECES))
    return float((_in_pieces(model, tokens, tokens, _PIECES) - whole_NV)[ends].abs().max())


def changes(tokens: IntArray, *, vocab: int, bos: int) -> Iterator[tuple[int, IntArray]]:
    """(first changed place, changed tokens): one token in the middle, the last token, all tokens from the middle on."""
    random, free = np.random.default_rng(0), np.flatnonzero(np.asarray(tokens) != bos)
    free = free[free > 0]
    middle = len(free) // 2
    for places in (free[middle : middle + 1], free[-1:], free[middle:]):
        yield int(places[0]), changed(tokens, places, vocab=vocab, bos=bos, random=random)


@torch.no_grad()
def _in_pieces(model: Transformer, earlier: IntArray, tokens: IntArray, sizes: Sequence[int]) -> Tensor:
    """Log-probabilities (N, V) at the end of each piece, zero elsewhere; first the cache sees and forgets `earlier`."""
    cache, ids_BT = Cache(model, len(tokens)), _row(model, tokens)
    cache(_row(model, earlier))
    cache.forget()
    logs_NV, begin = torch.zeros(len(tokens), model.spec.vocab, dtype=torch.float64), 0
    for end in _ends(len(tokens), sizes):
        logs_NV[end] = cache(ids_BT[:, begin : end + 1])[0].double().log_softmax(-1).cpu()
        begin = end + 1
    return logs_NV


def _ends(count: int, sizes: Sequence[int]) -> Iterator[int]:
    """The last position of each piece; the sizes are used in turn."""
    end, turn = -1, 0
    while end < count - 1:
        end = min(end + sizes[turn % len(sizes)], count - 1)
        turn += 1
        yield end


def _row(model: Transformer, tokens: IntArray) -> Tensor:
    device = next(model.parameters()).device
    return torch.from_numpy(np.array(tokens, dtype=np.int64))[None].to(device)
