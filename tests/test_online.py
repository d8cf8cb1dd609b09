"""Learning from the graph that was graded: slow twins, the laws, and what is kept of a text."""

import json

import numpy as np
import pytest
import torch
from small import model as small_model
from torch.nn.functional import cross_entropy

from pargolf.core.errors import UserError
from pargolf.core.spec import dump, edit
from pargolf.core.spec import load as load_spec
from pargolf.evaluate.adapted import score_adapted
from pargolf.evaluate.adapters import online
from pargolf.evaluate.adapters.count_tilt import CountTilt
from pargolf.evaluate.adapters.online import Online
from pargolf.evaluate.probes import LedgerGrader, probe, stream
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import PerDocument, Plain, Sliding

VOCAB, BOS = 32, 1
STILL = Online(lr=1e-30, anchor=0.0)
BRISK = Online(lr=0.01, anchor=0.05)


def text(n=160, seed=0):
    """Four documents that each repeat three tokens."""
    random = np.random.default_rng(seed)
    parts = [[BOS, *random.choice(random.integers(2, 12, 3), n // 4)] for _ in range(4)]
    return np.concatenate(parts)[: n + 1].astype(np.uint16)


def rough(layers=2, bos=BOS):
    torch.manual_seed(0)
    model = small_model(bos=bos, layers=layers).build()
    with torch.no_grad():
        for weight in model.parameters():
            weight += torch.randn_like(weight) * 0.2
    return model.eval()


def run(model, tokens, windows, adapter, **options):
    counted = Text(tokens, np.ones(len(tokens) - 1, dtype=np.int64), VOCAB, BOS)
    *_, found = score_adapted(model, counted, windows, adapter, **options)
    return found


@pytest.mark.parametrize("windows", [Plain(16), Sliding(16, 5), Sliding(200, 16), PerDocument(16, 8)], ids=str)
@pytest.mark.parametrize("bos", [None, BOS])
def test_what_learns_nothing_grades_as_windows_do(windows, bos):
    """In one layer, keys and values depend on nothing before them, so those that are kept are those of the window."""
    found = run(rough(1, bos), text(), windows, STILL, probe=False)
    np.testing.assert_allclose(found.score.nats_N, found.without.nats_N, atol=2e-5)


def test_a_text_longer_than_what_is_kept_begins_anew(monkeypatch):
    monkeypatch.setattr(online, "_LENGTH", 40)
    found = run(rough(1), text(), Sliding(16, 5), STILL, probe=False)
    np.testing.assert_allclose(found.score.nats_N, found.without.nats_N, atol=2e-5)


def test_windows_side_by_side_are_learned_one_after_the_other():
    """By hand: grade, gradient of the mean, Adam without momentum, a share of the way back."""
    model, tokens = rough(), text(64)
    found = run(rough(), tokens, Plain(16), BRISK, probe=False).score.nats_N
    start = [w.detach().clone() for w in model.parameters()]
    squares = [torch.zeros_like(w) for w in start]
    for step, begin in enumerate(range(0, 64, 16), 1):
        ids = torch.tensor(tokens[begin : begin + 17].astype(np.int64))
        logits = model(ids[None, :-1])[0]
        nats = cross_entropy(logits, ids[1:], reduction="none").detach()
        np.testing.assert_allclose(found[begin : begin + 16], nats, atol=1e-4)
        model.zero_grad()
        cross_entropy(logits, ids[1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with torch.no_grad():
            for w, w_0, square in zip(model.parameters(), start, squares):
                square.mul_(0.999).add_(0.001 * w.grad**2)
                w -= 0.01 * w.grad / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
                w.lerp_(w_0, 0.05)


@pytest.mark.parametrize("adapter", [BRISK, CountTilt((1, 2), adapter=BRISK)], ids=str)
@pytest.mark.parametrize("windows", [Plain(16), Sliding(16, 8), PerDocument(16, 8)], ids=str)
def test_the_laws_hold_and_it_helps(adapter, windows):
    grader = LedgerGrader(rough(), windows, VOCAB, BOS, adapter)
    tokens = np.tile(stream(vocab=VOCAB, bos=BOS, length=24), 2)
    for verdict in probe(grader, tokens, vocab=VOCAB, bos=BOS, isolated=False):
        assert verdict.holds, verdict
    found = run(rough(), text(), windows, adapter)
    assert found.saved > 0.02 and found.score.probed
    assert (found.score.complete, found.score.grades_min, found.score.grades_max) == (True, 1, 1)


def test_documents_apart_stay_apart_where_nothing_is_learned():
    grader = LedgerGrader(rough(), PerDocument(16, 8), VOCAB, BOS, STILL)
    tokens = np.tile(stream(vocab=VOCAB, bos=BOS, length=24), 2)
    assert all(verdict.holds for verdict in probe(grader, tokens, vocab=VOCAB, bos=BOS, isolated=True))


def test_angles_that_depend_on_the_windows_length_are_refused():
    spec = edit(small_model(), {"blocks[:].attn.rope.ntk_from": 8})
    with pytest.raises(UserError, match="ntk_from"):
        run(spec.build(), text(), Plain(16), STILL)


def test_it_is_data():
    assert load_spec(json.loads(json.dumps(dump(BRISK)))) == BRISK
