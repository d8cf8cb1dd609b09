"""Tilts: the published formula and ours against slow twins, and the laws."""

import dataclasses
import json
from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from small import model as small_model

from pargolf.core.errors import UserError
from pargolf.core.spec import checked, dump
from pargolf.core.spec import load as load_spec
from pargolf.evaluate.adapted import score_adapted
from pargolf.evaluate.adapters.count_mix import CountMix
from pargolf.evaluate.adapters.count_tilt import CountTilt
from pargolf.evaluate.adapters.hint_tilt import HintTilt
from pargolf.evaluate.adapters.low_rank import LowRank
from pargolf.evaluate.adapters.sgd import SGD
from pargolf.evaluate.probes import LedgerGrader, probe, stream
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import PerDocument, Plain, Published, Sliding, document_spans, document_starts

VOCAB, BOS = 32, 1
HINT = HintTilt(contexts=(2, 4), threshold=0.6, boost=1.5)
COUNT = CountTilt(orders=(1, 2, 3), lr=0.3)
MIX = CountMix(orders=(1, 2, 3), lr=0.5, start=-2.0)
ALL = (HINT, COUNT, MIX)


def text(n=200, seed=0):
    """Eight phrases said again and again, one token in ten misheard."""
    rng = np.random.default_rng(seed)
    phrases = [rng.integers(2, VOCAB, rng.integers(3, 9)) for _ in range(8)]
    tokens = np.concatenate([[BOS], *(phrases[i] for i in rng.integers(0, 8, n))])[: n + 1]
    wrong = rng.random(n + 1) < 0.1
    return np.where(wrong, rng.integers(1, VOCAB, n + 1), tokens).astype(np.uint16)


def rough(bos=None):
    torch.manual_seed(0)
    model = small_model(bos=bos).build()
    with torch.no_grad():
        for weight in model.parameters():
            weight += torch.randn_like(weight) * 0.1
    return model


def run(tokens, windows, adapter, **options):
    text = Text(tokens, np.ones(len(tokens) - 1, dtype=np.int64), VOCAB, BOS)
    *_, found = score_adapted(rough(), text, windows, adapter, **options)
    return found


def log_probabilities(tokens, windows, spans=()):
    """The model's own, for each position, in float64."""
    out = []
    for window in windows.over(len(tokens) - 1, starts=[begin for begin, _ in spans]):
        ids = torch.tensor(tokens[window.start : window.end].astype(np.int64))[None]
        with torch.no_grad():
            out.append(rough()(ids, first=window.first - window.start)[0].double().log_softmax(-1).numpy())
    return np.concatenate(out)


def followed(prefix, order):
    """What followed the prefix's last `order` tokens earlier in it, counted by going through all of it."""
    end = prefix[len(prefix) - order :]
    return Counter(prefix[i + order] for i in range(len(prefix) - order) if prefix[i : i + order] == end)


def normalized(z):
    return z - np.log(np.exp(z).sum())


@pytest.mark.parametrize("windows", [Plain(16), Sliding(16, 5)], ids=str)
def test_a_hint_multiplies_one_probability_and_the_rest_makes_room(windows):
    tokens, hits = text(), 0
    own = log_probabilities(tokens, windows)
    found = run(tokens, windows, HINT).score.nats_N
    for t in range(len(tokens) - 1):
        prefix, p = tokens[: t + 1].tolist(), np.exp(own[t])
        hint = None
        for order in HINT.contexts:  # the longest is the last to speak
            after = followed(prefix, order) if t + 1 >= order else Counter()
            top = min(after, key=lambda token: (-after[token], token), default=None)
            if top is not None and after[top] >= HINT.threshold * after.total():
                hint = top
        if hint is not None:
            q, hits = p[hint], hits + 1
            p[hint] *= np.exp(HINT.boost)
            p /= 1 + q * (np.exp(HINT.boost) - 1)
        assert found[t] == pytest.approx(-np.log(p[tokens[t + 1]]), abs=1e-5)
    assert hits > 50


STILL = LowRank(rank=2, lr=1e-30, chunk=5, batch=1, warm=True, globs=("mlp.*",))
TURNS = dataclasses.replace(HINT, adapter=STILL)


def documents(n=200, seed=0):
    tokens = text(n, seed)
    tokens[[0, 31, 32, 90, 150]] = BOS
    return tokens


def test_documents_that_take_turns_are_hinted_by_themselves_and_by_those_before():
    """One at a time: all before. Side by side: none but themselves."""
    tokens, windows = documents(), PerDocument(64, 8)
    spans = list(document_spans(200, document_starts(tokens, BOS)))
    own = log_probabilities(tokens, windows, spans)
    alone = run(tokens, windows, TURNS).score.nats_N
    together = run(
        tokens, windows, dataclasses.replace(TURNS, adapter=dataclasses.replace(STILL, batch=9))
    ).score.nats_N
    hits = Counter()
    for begin, stop in spans:
        for t in range(begin, stop):
            before = [tokens[a : b + 1].tolist() for a, b in spans if b <= begin]
            hints = {}
            for known in (0, len(before)):
                for order in HINT.contexts if t else ():
                    parts = [*before[:known], tokens[begin : t + 1].tolist()]
                    after = followed_in(parts, order) if t - begin + 1 >= order else Counter()
                    top = min(after, key=lambda token: (-after[token], token), default=None)
                    if top is not None and after[top] >= HINT.threshold * after.total():
                        hints[known] = top
            nats = {known: hinted(own[t], hints.get(known), tokens[t + 1]) for known in (0, len(before))}
            assert alone[t] == pytest.approx(nats[len(before)], abs=1e-5)
            hits[len(before) in hints] += 1
            assert together[t] == pytest.approx(nats[0], abs=1e-5)
    assert hits[True] > 50 and not np.allclose(alone, together, atol=1e-3)


def followed_in(parts, order):
    """What followed the last `order` tokens of the last part, in any of the parts."""
    end = parts[-1][len(parts[-1]) - order :]
    return Counter(p[i + order] for p in parts for i in range(len(p) - order) if p[i : i + order] == end)


def hinted(logp, hint, target):
    push = np.zeros(VOCAB)
    if hint is not None:
        push[hint] = HINT.boost
    return -normalized(logp + push)[target]


def test_learned_pushes_equal_a_slow_twin():
    tokens, windows = text(150), Sliding(16, 5)
    own, found = log_probabilities(tokens, windows), run(tokens, windows, COUNT).score.nats_N
    weight, squares = Counter(), Counter()
    for window in windows.over(150):
        gradient = Counter()
        for t in range(window.first, window.end):
            prefix, push = tokens[: t + 1].tolist(), np.zeros(VOCAB)
            names = []
            for order in COUNT.orders:
                after = followed(prefix, order) if t + 1 >= order else Counter()
                for token, count in after.items():
                    share = sum(count / after.total() >= edge for edge in (0.04, 0.15, 0.4, 0.8))
                    chance = sum(own[t][token] > edge for edge in (-8, -5, -3, -1.5))
                    names.append((token, (order, min(int(np.log2(count)), 5), share, chance)))
            for token, name in names:
                push[token] += weight[name]
            logp, target = normalized(own[t] + push), tokens[t + 1]
            assert found[t] == pytest.approx(-logp[target], abs=1e-5)
            for token, name in names:
                gradient[name] += float(token == target) - np.exp(logp[token])
        for name, g in gradient.items():
            squares[name] += g * g
            weight[name] += COUNT.lr * g / np.sqrt(1 + squares[name])
    assert len({chance for *_, chance in weight}) > 1


def test_mixed_counts_equal_a_slow_twin():
    """Position by position and token by token, over the whole vocabulary; gates learn by finite differences."""
    tokens, windows = text(150), Sliding(16, 5)
    own, scored = log_probabilities(tokens, windows), run(tokens, windows, MIX).score.nats_N
    weights, squares = np.full((3, 8, 5), -2.0), np.ones((3, 8, 5))

    @cache
    def stack(t):
        prefix = tokens[: t + 1].tolist()
        rows = [followed(prefix, order) if t + 1 >= order else Counter() for order in MIX.orders]
        sizes = [(k, after, after.total(), len(after)) for k, after in enumerate(rows) if after]
        return [
            ((k, min(int(np.log2(total)), 7), min(5 * kinds // (total + 1), 4)), after, total)
            for k, after, total, kinds in sizes
        ]

    def mixed(t, weights):
        p = np.exp(own[t])
        for number, after, total in stack(t):
            gate = 1 / (1 + np.exp(-weights[number]))
            p = (1 - gate) * p + gate * np.array([after[a] / total for a in range(VOCAB)])
        assert p.sum() == pytest.approx(1)
        return np.log(p[tokens[t + 1]])

    for window in windows.over(150):
        gradient, place = np.zeros_like(weights), range(window.first, window.end)
        for t in place:
            assert scored[t] == pytest.approx(-mixed(t, weights), abs=1e-5)
        for number in {number for t in place for number, *_ in stack(t)}:
            step = np.zeros_like(weights)
            step[number] = 1e-4
            gradient[number] = sum(mixed(t, weights + step) - mixed(t, weights - step) for t in place) / 2e-4
        squares += gradient**2
        weights += MIX.lr * gradient / np.sqrt(squares)
    assert (weights != -2.0).sum() > 6


@pytest.mark.parametrize("tilt", ALL, ids=str)
def test_repeated_phrases_are_worth_bits_and_the_twin_without_stands_beside(tilt):
    found = run(text(400), Sliding(16, 8), tilt)
    assert found.saved > 0.2
    assert (found.score.complete, found.score.grades_min, found.score.grades_max) == (True, 1, 1)
    assert found.adapter.startswith(type(tilt).__name__)


@pytest.mark.parametrize("tilt", ALL, ids=str)
def test_grades_do_not_depend_on_how_windows_are_batched(tilt):
    one = run(text(), Sliding(16, 5), tilt, batch_windows=1).score.nats_N
    np.testing.assert_allclose(run(text(), Sliding(16, 5), tilt, batch_windows=7).score.nats_N, one, atol=1e-5)


APART = [
    LowRank(rank=2, alpha=2.0, lr=0.05, chunk=5, batch=batch, warm=warm, globs=("mlp.*",))
    for batch, warm in ((1, True), (3, True), (3, False))
]
LEARNING = dataclasses.replace(COUNT, adapter=SGD(lr=0.05, epochs=1, chunk=24, batch=2))


@pytest.mark.parametrize(
    ("tilt", "windows"),
    [
        (HINT, Plain(32)),
        (COUNT, Sliding(16, 8)),
        (COUNT, PerDocument(16, 4)),
        (MIX, Plain(32)),
        (dataclasses.replace(MIX, adapter=LEARNING), Sliding(16, 8)),
        (LEARNING, Sliding(16, 8)),
        *((dataclasses.replace(HINT, adapter=apart), PerDocument(16, 4)) for apart in APART),
    ],
    ids=str,
)
def test_tilts_keep_the_laws(tilt, windows):
    grader = LedgerGrader(rough(), windows, VOCAB, BOS, tilt)
    tokens = np.tile(stream(vocab=VOCAB, bos=BOS, length=24), 2)
    for verdict in probe(grader, tokens, vocab=VOCAB, bos=BOS, isolated=False):
        assert verdict.holds, verdict


@pytest.mark.parametrize(
    ("adapter", "windows"),
    [
        *((dataclasses.replace(HINT, adapter=apart), PerDocument(16, 4)) for apart in APART),
        *((apart, PerDocument(16, 4)) for apart in APART),
        *((tilt, PerDocument(16, 4)) for tilt in (HINT, COUNT, MIX, LEARNING)),
        (COUNT, Sliding(16, 8)),
    ],
    ids=str,
)
def test_no_score_depends_on_where_later_documents_end(adapter, windows):
    """The same text up to each place, and behind it other documents in number and length: the same scores."""
    cut, plain = 150, np.where(text(300) == BOS, 2, text(300))
    first = (0, 6, 14, 24, 36, 50, 68, 90, 117, cut)  # rising lengths, so that short ones behind would come between

    def scores(*ends):
        tokens = plain.copy()
        tokens[[*first, *ends]] = BOS
        return run(tokens, windows, adapter).score.nats_N[:cut]

    whole = scores()
    for ends in ((151, 153, 156), (155, 163, 200, 280), (170, 171, 172, 173, 260)):
        np.testing.assert_allclose(scores(*ends), whole, atol=1e-5)


def test_what_else_adapts_learns_from_the_models_own_distribution():
    """The tilt changes no lesson: tilting by nothing gives the adapter's own grades."""
    lessons = SGD(lr=0.1, chunk=32, batch=2)
    alone = run(text(), Sliding(16, 8), lessons).score.nats_N
    under = run(text(), Sliding(16, 8), HintTilt(contexts=(150,), adapter=lessons)).score.nats_N
    np.testing.assert_allclose(under, alone, atol=1e-6)
    both = run(text(400), Sliding(16, 8), dataclasses.replace(COUNT, adapter=lessons))
    assert both.saved > max(run(text(400), Sliding(16, 8), each).saved for each in (COUNT, lessons))


def test_busy_contexts_push_only_what_weighs_something():
    """Past 64 continuations, those under 1 in 256 are left alone; nothing else changes."""
    tokens = np.array([1, *(t for a, b in pairwise(range(2, 400)) for t in (0, a, 0, 3))], dtype=np.uint16)
    counts = np.ones(len(tokens) - 1, dtype=np.int64)

    class Flat(torch.nn.Module):
        def forward(self, ids, *, first=0):
            return torch.zeros(*ids[:, first:].shape, 400)

    *_, found = score_adapted(Flat(), Text(tokens, counts, 400, BOS), Plain(8), CountTilt(orders=(1,), lr=1.0))
    after_zero = found.score.nats_N[1::2]
    assert after_zero[-1] < 1.0 < np.log(400) < after_zero[-2]


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: HintTilt(contexts=()), "rising"),
        (lambda: CountTilt(orders=(3, 2)), "rising"),
        (lambda: checked(CountTilt(lr=0.0)), "lr takes a number over 0"),
        (lambda: checked(HintTilt(threshold=1.5)), "threshold takes a number over 0 and up to 1"),
        (lambda: CountTilt(adapter=LowRank()), "by chunks"),
        (lambda: CountMix(adapter=LowRank()), "by chunks"),
        (lambda: CountMix(orders=(2, 2)), "rising"),
        (lambda: run(text(), Published(16, 8), COUNT), "several times"),
    ],
)
def test_what_makes_no_sense_says_so(make, hint):
    with pytest.raises(UserError, match=hint):
        make()


@pytest.mark.parametrize("tilt", [*ALL, dataclasses.replace(COUNT, adapter=SGD()), TURNS], ids=str)
def test_a_tilt_is_data(tilt):
    assert load_spec(json.loads(json.dumps(dump(tilt)))) == tilt
