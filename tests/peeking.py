"""Predictors that look ahead, each in one way, and a sound one."""

import torch
from small import model as small_model
from torch import nn

VOCAB, BOS, T = 32, 1, 16


def sound(**fields):
    """A model with every weight away from its start."""
    model = small_model(vocab=VOCAB, **fields).build(0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += torch.randn(weight.shape, generator=generator) * 0.2
    return model


class Shifted(nn.Module):
    """Position t is told the id at t + by, none beyond the window: an embedding shifted the wrong way."""

    def __init__(self, by):
        super().__init__()
        self.by, self.inner = by, sound()

    def forward(self, ids, first=0):
        ahead = nn.functional.pad(ids, (0, self.by))[:, self.by :]
        return self.inner(ids, first=first) + 0.1 * nn.functional.one_hot(ahead[:, first:], VOCAB)


class Attending(nn.Module):
    """One layer of attention whose mask lets a position see `by` later ones; None: all of its window."""

    def __init__(self, by):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.by, self.table = by, torch.randn(VOCAB, VOCAB, generator=generator)

    def forward(self, ids, first=0):
        x = self.table[ids]
        T = ids.shape[1]
        mask = torch.ones(T, T, dtype=torch.bool).tril(T if self.by is None else self.by)
        weights = (x @ x.mT / VOCAB).masked_fill(~mask, -torch.inf).softmax(-1)
        return (weights @ x)[:, first:]


class OverTime(nn.Module):
    """A normalization over the positions of a window instead of its channels."""

    def __init__(self):
        super().__init__()
        self.inner = sound()

    def forward(self, ids, first=0):
        logits = self.inner(ids)
        return (logits / logits.std((1, 2), keepdim=True))[:, first:]


class LastOne(nn.Module):
    """Reads the last id of the window, and nothing else ahead."""

    def forward(self, ids, first=0):
        hint = 0.01 * nn.functional.one_hot(ids[:, -1], VOCAB)
        return nn.functional.one_hot(ids, VOCAB)[:, first:] + hint[:, None]
