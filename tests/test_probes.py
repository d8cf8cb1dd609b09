"""The four laws hold for every recipe's model and adapter, and every broken twin breaks the law that it should."""

import dataclasses
import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import peeking
import pytest
import torch
from small import model as small_model
from torch import nn

from pargolf.core.errors import UserError
from pargolf.core.spec import edit
from pargolf.evaluate.adapters.adamw import AdamW
from pargolf.evaluate.adapters.adapter import choose
from pargolf.evaluate.adapters.chunks import train_on
from pargolf.evaluate.adapters.low_rank import LowRank
from pargolf.evaluate.adapters.phases import Phases
from pargolf.evaluate.adapters.sgd import SGD
from pargolf.evaluate.probes import LAWS, ForeignGrader, LedgerGrader, probe, stream
from pargolf.evaluate.score import batches
from pargolf.evaluate.windows import PerDocument, Plain, Published, Sliding
from pargolf.model.bigram import BigramHash
from pargolf.model.cache import Further
from pargolf.model.smear import SmearGate, SmearGateModule
from pargolf.recipes import catalog
from pargolf.recipes.scale import mini as to_mini

VOCAB, BOS = 5, 1
WINDOWS = Sliding(16, 8)
LESSONS = SGD(lr=0.1, epochs=1, chunk=16, batch=2)


def rough(spec, seed=0):
    """A built model with every weight moved away from its start, so that each technique acts."""
    torch.manual_seed(seed)
    model = spec.build(seed).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += torch.randn_like(weight) * 0.2
    return model


def ours(windows=WINDOWS, adapter=None, **fields):
    return LedgerGrader(rough(small_model(vocab=VOCAB, **fields)), windows, VOCAB, BOS, adapter)


def broken(grader, *, isolated=False, **options):
    """The laws that a grader breaks."""
    tokens = stream(vocab=VOCAB, bos=BOS, length=48)
    verdicts = probe(grader, tokens, vocab=VOCAB, bos=BOS, isolated=isolated, **{"flips": 2, **options})
    assert tuple(v.law for v in verdicts) == LAWS
    json.dumps([v.row() for v in verdicts], allow_nan=False)
    return {v.law for v in verdicts if not v.holds}


# ---- what is sound passes


TECHNIQUES = {"stream": (SmearGate(),), "embed": (BigramHash(17, 8),)}


@pytest.mark.parametrize(
    ("windows", "adapter", "isolated"),
    [
        (Plain(16), None, True),
        (WINDOWS, None, True),
        (PerDocument(16, 8), None, True),
        (WINDOWS, LESSONS, False),
        (WINDOWS, AdamW(lr=0.01, chunk=16, batch=2), False),
        (PerDocument(16, 8), LowRank(rank=2, chunk=8, lr=0.05, batch=3), True),
        (PerDocument(16, 8), LowRank(rank=2, chunk=8, lr=0.05, batch=2, warm=True), False),
        (PerDocument(16, 8), LowRank(rank=2, chunk=8, lr=0.05, phases=Phases((2,), LESSONS)), False),
    ],
    ids=str,
)
def test_sound_scorings_hold_all_laws(windows, adapter, isolated):
    assert broken(ours(windows, adapter, bos=BOS, **TECHNIQUES), isolated=isolated) == set()


def test_packed_documents_are_not_isolated_and_need_not_be_unless_asked():
    grader = ours(**TECHNIQUES)
    assert broken(grader) == set()
    assert broken(grader, isolated=True) == {"isolated"}
    assert broken(ours(WINDOWS, LESSONS, bos=BOS), isolated=True) == {"isolated"}
    assert broken(ours(PerDocument(16, 8), **TECHNIQUES), isolated=True) == set()


def test_warm_factors_carry_one_document_into_the_next():
    warm = LowRank(rank=2, chunk=4, lr=0.05, batch=1, warm=True)
    assert broken(ours(PerDocument(16, 8), warm, bos=BOS), isolated=True) == {"isolated"}


class Counting:
    """Somebody else's predictor: how often each token followed the last one, plus one."""

    def prob(self, prefix):
        follows = Counter(int(b) for a, b in pairwise(prefix) if a == prefix[-1])
        counts = np.array([1.0 + follows[v] for v in range(VOCAB)])
        return counts / counts.sum()


def test_a_sound_foreign_predictor_holds_all_laws():
    assert broken(ForeignGrader(Counting(), VOCAB)) == set()


@pytest.mark.parametrize("name", catalog.names())
def test_every_recipe_holds_all_laws(name):
    mini = to_mini(catalog.find(name)).model
    spec = edit(mini, {"vocab": VOCAB, "bos": None if mini.bos is None else BOS})
    grader = LedgerGrader(rough(spec), Sliding(32, 16), VOCAB, BOS)
    tokens = stream(vocab=VOCAB, bos=BOS, length=48, documents=3)
    verdicts = probe(grader, tokens, vocab=VOCAB, bos=BOS, isolated=spec.bos is not None, flips=2)
    assert all(v.holds for v in verdicts), verdicts


# ---- what is broken is caught


class LeakySmearModule(SmearGateModule):
    """Blends with the predecessor even when that is another document's."""

    def forward(self, x_BTD, ctx):
        contexts = [ctx, ctx._all] if isinstance(ctx, Further) else [ctx]
        documents = [each.doc_BT for each in contexts]
        for each in contexts:
            each.doc_BT = None
        out_BTD = super().forward(x_BTD, ctx)
        for each, doc_BT in zip(contexts, documents, strict=True):
            each.doc_BT = doc_BT
        return out_BTD


@dataclass(frozen=True)
class LeakySmear(SmearGate):
    """A SmearGate that forgets where documents begin."""

    def build(self, place):
        return LeakySmearModule(place.dim, self.init)


def test_a_smear_gate_that_leaks_across_documents_is_caught():
    assert broken(ours(bos=BOS, stream=(SmearGate(),)), isolated=True) == set()
    assert broken(ours(bos=BOS, stream=(LeakySmear(),)), isolated=True) == {"isolated"}
    assert broken(ours(bos=BOS, stream=(LeakySmear(0.0),)), isolated=False) == set()


def test_a_cache_keyed_with_the_target_is_caught():
    """The hashed n-gram caches of March 2026: only the true token's bucket is ever looked up."""

    def grader(tokens):
        seen, context, nats = Counter(), Counter(), []
        for a, b in pairwise(tokens):
            hit = seen[(int(a) * 31 + int(b)) % 7] + 1
            nats.append(-math.log(min(0.9, hit / (context[int(a) % 7] + 4))))
            seen[(int(a) * 31 + int(b)) % 7] += 1
            context[int(a) % 7] += 1
        return np.array(nats)

    assert broken(grader) == {"normalized", "once"}


@pytest.mark.parametrize("bend", [lambda p: p * 1.01, lambda p: np.where(p == p.max(), 1.0, 0.5)])
def test_a_foreign_distribution_that_does_not_sum_to_one_is_caught(bend):
    class Bent(Counting):
        def prob(self, prefix):
            return bend(super().prob(prefix))

    assert "normalized" in broken(ForeignGrader(Bent(), VOCAB))


@pytest.mark.parametrize("bend", [lambda p: p[:-1], lambda p: p - 1, lambda p: p * math.nan])
def test_what_is_no_distribution_at_all_is_caught(bend):
    class Bent(Counting):
        def prob(self, prefix):
            return bend(super().prob(prefix))

    assert set(LAWS[:3]) <= broken(ForeignGrader(Bent(), VOCAB))


@dataclass(frozen=True)
class Early(SGD):
    """Asks for each chunk before it is graded; by `peek`, behind the ledger's back."""

    peek: bool = False

    def run(self, model, ledger, windows, *, starts, batch_windows, device):
        weights = choose(model, ("*",))
        optimizer = torch.optim.SGD(weights, lr=self.lr)
        for batch in batches(windows.over(ledger.positions, starts=starts), 2):
            stop = batch[-1].end + 1
            tokens = ledger.text.tokens[:stop] if self.peek else ledger.graded(0, stop)
            yield from train_on(self, model, optimizer, tokens, windows.length, device, ledger)
            ledger.grade(model, batch)


def test_training_before_scoring_is_caught():
    assert broken(ours(WINDOWS, Early(lr=0.1, epochs=1, batch=2))) == set(LAWS[:3])
    assert "causal" in broken(ours(WINDOWS, Early(lr=0.1, epochs=1, batch=2, peek=True)))


@dataclass(frozen=True)
class Twice(SGD):
    """Grades the stream, trains on all of it, and grades it again."""

    def run(self, model, ledger, windows, *, starts, batch_windows, device):
        optimizer = torch.optim.SGD(choose(model, ("*",)), lr=self.lr)
        for _ in range(2):
            for batch in batches(windows.over(ledger.positions, starts=starts), 8):
                ledger.grade(model, batch)
                yield "grade"
            tokens = ledger.graded(0, ledger.positions + 1)
            yield from train_on(self, model, optimizer, tokens, windows.length, device, ledger)


@dataclass(frozen=True)
class Anyhow(Plain):
    """Windows that claim to be illegal, for which the ledger lets a position be graded again."""

    in_turn = False


def test_two_passes_are_caught():
    assert broken(ours(WINDOWS, Twice(lr=0.1, epochs=1, batch=2))) == set(LAWS[:3])
    assert {"causal", "once"} <= broken(ours(Anyhow(16), Twice(lr=0.1, epochs=1, batch=2)))
    assert broken(ours(Published(16, 8))) == {"once"}


def test_two_passes_outside_the_ledger_are_caught():
    def grader(tokens):
        counts = defaultdict(Counter)
        for a, b in pairwise(tokens):
            counts[int(a)][int(b)] += 1
        chances = [(counts[int(a)][int(b)] + 1) / (sum(counts[int(a)].values()) + VOCAB) for a, b in pairwise(tokens)]
        return -np.log(chances)

    assert broken(grader) == set(LAWS[:3])


def test_a_model_that_looks_ahead_is_caught():
    class Ahead(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.by, self.inner = by, rough(small_model(vocab=VOCAB))

        def forward(self, ids, first=0):
            ahead = nn.functional.pad(ids, (0, self.by))[:, self.by :]
            return self.inner(ids, first) + 0.1 * nn.functional.one_hot(ahead[:, first:], VOCAB)

    for by in (1, 2, 5):
        grader = LedgerGrader(Ahead(by), WINDOWS, VOCAB, BOS)
        assert broken(grader) == {"causal"}
        tokens = stream(vocab=VOCAB, bos=BOS, length=48)
        causal = probe(grader, tokens, vocab=VOCAB, bos=BOS, isolated=False)[0]
        assert f"looked {by} token" in causal.evidence


@pytest.mark.parametrize(
    ("predictor", "ahead"),
    [
        (peeking.Shifted(1), 1),
        (peeking.Shifted(2), 2),
        (peeking.Attending(1), 1),
        (peeking.Attending(2), 2),
        (peeking.Attending(None), 15),
        (peeking.OverTime(), 15),
        (peeking.LastOne(), 15),
    ],
    ids=lambda x: str(getattr(x, "by", "")) + type(x).__name__,
)
@pytest.mark.parametrize("windows", [WINDOWS, Plain(16)], ids=str)
def test_a_probe_says_not_causal_and_how_far(predictor, ahead, windows):
    grader = LedgerGrader(predictor, windows, peeking.VOCAB, BOS)
    tokens = stream(vocab=peeking.VOCAB, bos=BOS, length=48)
    causal, normalized, *_ = probe(grader, tokens, vocab=peeking.VOCAB, bos=BOS, isolated=False)
    assert not causal.holds and f"looked {ahead} token" in causal.evidence and "Not causal" in causal.evidence
    assert normalized.holds, "the ledger normalizes whatever it is given"


def test_of_grades_alone_a_look_at_the_next_token_shows_in_the_sum():
    """A grader that shows no distributions: the same predictor, of which only the true tokens' grades are known."""
    tokens = stream(vocab=peeking.VOCAB, bos=BOS, length=32)
    for by, law in ((1, 1), (2, 0)):
        inner = LedgerGrader(peeking.Shifted(by), Plain(16), peeking.VOCAB, BOS)
        verdicts = probe(lambda t, inner=inner: inner(t), tokens, vocab=peeking.VOCAB, bos=BOS, isolated=False)
        assert not verdicts[law].holds
        assert ("one token ahead" if law else "looked 2 tokens ahead") in verdicts[law].evidence
        assert "shows in 'normalized'" in verdicts[0].evidence or law == 0


def test_a_grade_that_is_not_its_distributions_share_is_caught():
    class Better(LedgerGrader):
        def show(self, tokens):
            grades, logs = super().show(tokens)
            return grades - 0.01, logs

    grader = Better(rough(small_model(vocab=VOCAB)), WINDOWS, VOCAB, BOS)
    assert broken(grader) == {"normalized"}


def test_a_cache_that_outlives_its_stream_cannot_hide():
    """A predictor that remembers what it was shown is begun afresh for each stream; within one it is caught."""

    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, ids, first=0):
            self.seen.append(ids)
            return torch.ones(*ids[:, first:].shape, VOCAB) * torch.arange(VOCAB) * len(self.seen)

    grader = LedgerGrader(Remembers(), WINDOWS, VOCAB, BOS)
    tokens = stream(vocab=VOCAB, bos=BOS, length=40)
    assert np.array_equal(grader(tokens), grader(tokens))
    assert grader.predictor.seen == []


# ---- the probe itself


@pytest.mark.parametrize("vocab", [3, 4, 300])
def test_streams_are_what_they_say(vocab):
    for bos in (0, 1, vocab - 1):
        tokens = stream(vocab=vocab, bos=bos, length=50, documents=5)
        assert len(tokens) == 51
        assert tokens.min() >= 0 and tokens.max() < vocab
        assert (tokens == bos).sum() == 5 and tokens[0] == bos


def test_a_verdict_carries_its_evidence():
    tokens = stream(vocab=VOCAB, bos=BOS, length=40)
    causal, normalized, once, isolated = probe(ours(WINDOWS, LESSONS), tokens, vocab=VOCAB, bos=BOS, isolated=False)
    assert "no distribution before it moved" in causal.evidence and causal.worst < 1e-6
    assert "40 distributions sum to 1" in normalized.evidence and normalized.worst < 1e-5
    assert once.evidence == "40 positions graded once, in order; 2 lessons, all on graded tokens"
    assert not isolated.asked and isolated.holds
    assert dataclasses.asdict(causal) == causal.row()


@pytest.mark.parametrize(
    ("tokens", "isolated", "hint"),
    [([1, 2], False, "three tokens"), ([1, 2, 3, 4, 1], True, "second document")],
)
def test_streams_that_prove_nothing_are_refused(tokens, isolated, hint):
    with pytest.raises(UserError, match=hint):
        probe(ours(), np.array(tokens), vocab=VOCAB, bos=BOS, isolated=isolated)
