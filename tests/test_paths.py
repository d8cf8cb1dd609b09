"""A look ahead shows on each path through a model: training's loss, with and without kernels in C, and a kept cache."""

from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from peeking import BOS, VOCAB
from small import model as small_model
from torch import nn

from pargolf.core.spec import edit
from pargolf.evaluate.paths import changes, pieces_differ, pieces_look, training_look
from pargolf.evaluate.probes import LedgerGrader, probe, stream
from pargolf.evaluate.windows import Plain
from pargolf.kernels.compiled import compiled_kernels
from pargolf.model import attention as attention_module
from pargolf.model.cache import Cache, Further
from pargolf.model.dropout import Dropout
from pargolf.model.head import MTP
from pargolf.model.mlp import SwiGLU

TEXT = stream(vocab=VOCAB, bos=BOS, length=16, documents=2)
END = 15  # from the first position to the last of 16
KERNELS = pytest.mark.parametrize("kernels", [nullcontext, compiled_kernels], ids=["torch", "in C"])


def rough(**fields):
    torch.manual_seed(0)
    model = small_model(vocab=VOCAB, **fields).build(0).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += torch.randn_like(weight) * 0.2
    return model


def in_training(model, loss=None):
    return training_look(loss or model.train().loss, TEXT, vocab=VOCAB, bos=BOS, device="cpu")


def causal(model):
    """The first law's verdict of the whole probe."""
    grader = LedgerGrader(model, Plain(16), VOCAB, BOS)
    return probe(grader, stream(vocab=VOCAB, bos=BOS, length=32), vocab=VOCAB, bos=BOS, isolated=False)[0]


@dataclass(frozen=True)
class Ahead:
    """An embedding of the id `by` positions to the right, none (0) beyond the window."""

    by: int
    key: str = "ahead"

    def build(self, place):
        return AheadModule(self.by, place)


class AheadModule(nn.Module):
    def __init__(self, by, place):
        super().__init__()
        self.by, self.table = by, nn.Embedding(place.vocab, place.dim)

    def forward(self, ctx):
        return self.table(nn.functional.pad(ctx.ids_BT, (0, self.by))[:, self.by :])


@dataclass(frozen=True)
class OverTime:
    """The stream, scaled and moved by what it is over all positions of the window."""

    key: str = "over_time"

    def build(self, place):
        return OverTimeModule()


class OverTimeModule(nn.Module):
    def forward(self, x_BTD, ctx):
        return x_BTD / x_BTD.abs().amax((1, 2), keepdim=True) + x_BTD.mean(1, keepdim=True)


def seeing(by):
    """Attention whose mask lets each position see `by` later ones; None: all of the window."""

    def attention(q_BTHd, k_BTKd, v_BTKd, since_BT=None, mask=None):
        q, k, v = (x.transpose(1, 2) for x in (q_BTHd, k_BTKd, v_BTKd))
        S, T = q.shape[2], k.shape[2]
        allowed = torch.ones(S, T, dtype=torch.bool).tril(T - S + (T if by is None else by))
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=True).transpose(1, 2)

    return attention


@KERNELS
@pytest.mark.parametrize("fields", [{}, {"bos": BOS}], ids=str)
def test_sound_models_look_nowhere(fields, kernels):
    for model in (
        small_model(vocab=VOCAB, **fields),
        edit(small_model(vocab=VOCAB, **fields), {"head.mtp": MTP(2)}),
        edit(small_model(vocab=VOCAB, **fields), {"blocks[:].residual": Dropout(0.3)}),
        edit(small_model(vocab=VOCAB, **fields), {"blocks[:].mlp": SwiGLU(24)}),
    ):
        torch.manual_seed(0)
        built = model.build(0)
        with kernels():
            look = in_training(built)
        assert look.probed and look.windows > 6
        assert pieces_look(built.eval(), TEXT[:-1], vocab=VOCAB, bos=BOS).probed
        assert pieces_differ(built, TEXT[:-1]) < 1e-5


@KERNELS
@pytest.mark.parametrize("by", [1, 2])
def test_an_embedding_shifted_the_wrong_way(by, kernels):
    model = rough(embed=(Ahead(by),))
    with kernels():
        look = in_training(model)
    assert look.probed is False and look.ahead == by
    assert f"looked {by} token" in causal(model).evidence
    assert pieces_differ(model.eval(), TEXT[:-1]) > 0.1, "in pieces there is nothing ahead to be read"


@KERNELS
def test_a_normalization_over_time(kernels):
    model = rough(stream=(OverTime(),))
    with kernels():
        assert in_training(model).ahead == END
    assert f"looked {END} tokens" in causal(model).evidence


@pytest.mark.parametrize(("by", "far"), [(1, 1), (2, 2), (None, END)])
def test_a_mask_that_is_off(by, far, monkeypatch):
    monkeypatch.setattr(attention_module, "attention", seeing(by))
    one_layer = rough(layers=1)
    assert in_training(one_layer).ahead == far
    verdict = causal(one_layer)
    assert not verdict.holds and f"looked {far} token" in verdict.evidence


@pytest.mark.parametrize(("by", "far"), [(1, 1), (2, 2), (None, END)])
def test_a_mask_that_is_off_in_training_alone(by, far, monkeypatch):
    """What is scored is sound; only the loss is taken of a model that sees more, as by a kernel of its own."""
    sound, broken = attention_module.attention, seeing(by)

    def attention(*args, **options):
        return (broken if torch.is_grad_enabled() else sound)(*args, **options)

    monkeypatch.setattr(attention_module, "attention", attention)
    verdict = causal(rough(layers=1))
    assert not verdict.holds and verdict.evidence.startswith("In the training loss: Not causal")
    assert f"looked {far} token" in verdict.evidence


@pytest.mark.parametrize("by", [1, 2, None])
def test_a_cache_that_is_filled_from_the_future(by, monkeypatch):
    """Keys and values of positions to the right are still there from the text before, and are read."""

    def forget(self):
        self.shown, self.earlier, self.held = 0, self.held, []

    def whole(self, x_BT):
        earlier, stop = getattr(self._cache, "earlier", []), self._cache.shown + x_BT.shape[1]
        whole_BT = sound(self, x_BT)
        if not earlier:
            return whole_BT
        ahead_BT = earlier[len(self.held) - 1][:, stop : None if by is None else stop + by]
        return torch.cat([whole_BT, ahead_BT], 1)

    sound = Further.whole
    model = rough()
    assert pieces_look(model, TEXT[:-1], vocab=VOCAB, bos=BOS).probed and causal(model).holds
    monkeypatch.setattr(Cache, "forget", forget)
    monkeypatch.setattr(Further, "whole", whole)
    look = pieces_look(model, TEXT[:-1], vocab=VOCAB, bos=BOS)
    assert look.probed is False and look.ahead == (by or END)
    verdict = causal(model)
    assert not verdict.holds and verdict.evidence.startswith("With keys and values kept: Not causal")


def test_a_cache_that_reads_a_piece_as_a_whole(monkeypatch):
    """Positions of one piece see each other: the text is read otherwise than at once."""
    sound = attention_module.attention

    def attention(q_BTHd, k_BTKd, *rest, **options):
        inside = q_BTHd.shape[1] < k_BTKd.shape[1]
        return (seeing(None) if inside else sound)(q_BTHd, k_BTKd, *rest, **options)

    monkeypatch.setattr(attention_module, "attention", attention)
    assert "read otherwise than at once" in causal(rough(layers=2)).evidence


def test_changes_are_one_token_the_last_and_the_rest():
    (one, first), (last, second), (rest, third) = changes(TEXT, vocab=VOCAB, bos=BOS)
    assert one == rest < last == 16
    assert [int((ids != TEXT).sum()) for ids in (first, second)] == [1, 1]
    assert ((third != TEXT)[rest:] == (TEXT[rest:] != BOS)).all() and (third[:rest] == TEXT[:rest]).all()
