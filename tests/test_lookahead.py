"""A score finds out by itself whether its predictor read tokens to the right, and says how far ahead."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from peeking import BOS, VOCAB, Attending, LastOne, OverTime, Shifted, T, sound

from pargolf.core.budget import Clock
from pargolf.evaluate.adapted import score_adapted
from pargolf.evaluate.adapters.adamw import AdamW
from pargolf.evaluate.adapters.count_tilt import CountTilt
from pargolf.evaluate.adapters.hint_tilt import HintTilt
from pargolf.evaluate.adapters.low_rank import LowRank
from pargolf.evaluate.adapters.online import Online
from pargolf.evaluate.adapters.sgd import SGD
from pargolf.evaluate.lookahead import Flips, LookAhead, changed, moved
from pargolf.evaluate.score import batches, final, merge, score
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import PerDocument, Plain, Published, Sliding, Window

PLAIN = Plain(T)


def text(length=400, seed=0):
    tokens = np.random.default_rng(seed).integers(2, VOCAB, length + 1)
    tokens[::37] = BOS
    return tokens


def run(predictor, windows=PLAIN, tokens=None, **options):
    tokens = text() if tokens is None else tokens
    ones = np.ones(len(tokens) - 1, dtype=np.int64)
    return final(score(predictor, Text(tokens, ones, VOCAB, BOS), windows, **options))


@pytest.mark.parametrize(
    ("predictor", "ahead"),
    [
        (Shifted(1), 1),
        (Shifted(2), 2),
        (Shifted(7), 7),
        (Attending(1), 1),
        (Attending(2), 2),
        (Attending(None), T - 1),
        (OverTime(), T - 1),
        (LastOne(), T - 1),
    ],
    ids=lambda x: str(getattr(x, "by", "")) + type(x).__name__,
)
def test_a_score_names_the_position_that_looked_and_how_far(predictor, ahead):
    found = run(predictor)
    assert found.probed is False and found.in_turn and found.complete
    assert found.look.ahead == ahead
    row = found.row()
    assert row["probed"] is False and f"looked {ahead} token" in row["look"]
    assert f"position {found.look.position:,}" in row["look"] and "Not causal" in row["look"]


@pytest.mark.parametrize("windows", [Plain(T), Sliding(T, 8), PerDocument(T, 4), Published(T, 8)], ids=str)
@pytest.mark.parametrize("fields", [{}, {"bos": BOS}], ids=str)
def test_a_sound_model_is_probed_and_its_score_is_the_same(windows, fields):
    found, bare = run(sound(**fields), windows), run(sound(**fields), windows, probe=False)
    assert found.probed and found.look.ahead == 0 and found.look.nats == 0.0
    assert found.nats == bare.nats and np.array_equal(found.nats_N, bare.nats_N)
    assert bare.probed is None and "No token was changed" in str(bare.look)
    assert "no distribution before them moved" in str(found.look)


@pytest.mark.parametrize("by", [1, 2])
def test_a_look_ahead_shows_in_every_kind_of_window(by):
    for windows in (Sliding(T, 8), PerDocument(T, 8), Published(T, 8)):
        assert run(Shifted(by), windows).look.ahead == by


def test_a_model_that_draws_while_it_scores_is_not_said_to_look_ahead():
    inner, random = sound(), torch.Generator().manual_seed(0)

    def drawing(ids, *, first):
        logits = inner(ids, first=first)
        return logits + 0.1 * torch.randn(logits.shape, generator=random)

    found = run(drawing, Sliding(T, 8))
    assert found.probed is False and found.look.unsteady and str(found.look).startswith("Not repeatable")
    assert not run(Shifted(2), Sliding(T, 8)).look.unsteady


def test_windows_that_show_nothing_to_the_right_prove_nothing():
    assert run(sound(), Plain(1)).probed is None


def test_each_process_probes_its_share_and_the_worst_stands():
    tokens = text(4000)

    def cheats_late(ids, *, first):
        return Shifted(2)(ids, first=first) if ids[0, 0] >= 1 and late[0] else sound()(ids, first=first)

    late, parts = [False], []
    for rank in range(2):
        late[0] = rank == 1
        parts.append(run(cheats_late, Sliding(T, 8), tokens, rank=rank, world=2))
    assert [part.probed for part in parts] == [True, False]
    whole = merge(parts)
    assert whole.probed is False and whole.look.ahead == 2 and whole.look.position >= 2000
    assert whole.look.windows == sum(part.look.windows for part in parts)


def test_probing_costs_a_percent_or_two():
    calls = 0
    model = sound()

    def counting(ids, *, first):
        nonlocal calls
        calls += 1
        return model(ids, first=first)

    tokens = text(T * 8 * 200)
    run(counting, Plain(T), tokens, probe=False, batch_windows=8)
    bare, calls = calls, 0
    assert run(counting, Plain(T), tokens, batch_windows=8).probed
    assert bare < calls <= 1.02 * bare


def test_flips_are_spread_over_the_text_and_keep_documents():
    shown = []

    def model(ids, *, first):
        shown.append(ids)
        return torch.zeros(*ids[:, first:].shape, VOCAB)

    flips = Flips(model, batches=640, rows=4, vocab=VOCAB, bos=BOS)
    probed = []
    for number in range(640):
        ids = torch.randint(0, VOCAB, (4, T), generator=torch.Generator().manual_seed(number))
        shown.clear()
        windows = [Window(number * T, (number + 1) * T, number * T)] * 4
        flips.around(windows)(ids, first=3)
        if len(shown) == 2:
            probed.append(number)
            assert torch.equal(shown[1], ids)
            differs = shown[0] != ids
            assert differs.any(1).sum() == 4 and not differs[:, :4].any()
            assert torch.equal(shown[0] == BOS, ids == BOS)
    assert len(probed) == 10
    assert [number // 64 for number in probed] == list(range(10))


@pytest.mark.parametrize("vocab", [3, 4, 300])
@pytest.mark.parametrize("bos", [0, 1, 2])
def test_changed_tokens_differ_and_are_no_beginnings(vocab, bos):
    random = np.random.default_rng(0)
    tokens = np.array([t for t in range(vocab) if t != bos] * 5)
    other = changed(tokens, np.arange(len(tokens)), vocab=vocab, bos=bos, random=random)
    assert (other != tokens).all() and (other != bos).all() and other.min() >= 0 and other.max() < vocab


def test_moves_within_rounding_are_none_and_a_nan_is_one():
    before = torch.zeros(5, 3)
    assert moved(before, before + 1e-6, start=10, place=14) == LookAhead(1, nats=pytest.approx(1e-6))
    after = before.clone()
    after[1, 2] = torch.nan
    assert moved(before, after, start=10, place=14).ahead == 3
    assert moved(before, after, start=10, place=11).ahead == 0
    assert moved(before, after, start=10, place=10) == LookAhead()


# ---- a model that adapts


@dataclass(frozen=True)
class Unsound:
    """Grades through the ledger, and learns from the tokens of the windows that come, behind its back."""

    by_document: ClassVar[bool] = False

    def run(self, model, ledger, windows, *, starts, batch_windows, device):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in batches(windows.over(ledger.positions), 2):
            yield "train"
            ids = torch.from_numpy(np.array(ledger.text.tokens[batch[0].start : batch[-1].end + 1]))[None]
            model.loss(ids[:, :-1], ids[:, 1:]).backward()
            optimizer.step()
            optimizer.zero_grad()
            yield "grade"
            ledger.grade(model, batch)


@dataclass(frozen=True)
class Tilted:
    """Pushes at each position the id that stands `by` to the right in its window."""

    by: int
    by_document: ClassVar[bool] = False

    def run(self, model, ledger, windows, *, starts, batch_windows, device):
        shifted = Shifted(self.by)
        shifted.inner = model
        for batch in batches(windows.over(ledger.positions), batch_windows):
            yield "grade"
            ledger.grade(shifted, batch)


def adapted(adapter, windows=PLAIN, **options):
    tokens = text()
    ones = np.ones(len(tokens) - 1, dtype=np.int64)
    *_, found = score_adapted(sound(), Text(tokens, ones, VOCAB, BOS), windows, adapter, **options)
    return found


@pytest.mark.parametrize(
    ("adapter", "windows"),
    [
        (SGD(lr=0.1, chunk=32, batch=2), Sliding(T, 8)),
        (AdamW(lr=0.01, chunk=16, batch=2, globs=("*",), anchor=0.1), PLAIN),
        (LowRank(rank=2, chunk=8, lr=0.05, batch=3), PerDocument(T, 8)),
        (CountTilt((1, 2), adapter=AdamW(lr=0.01, chunk=16, globs=("*",))), Sliding(T, 8)),
        (Online(lr=0.01), PLAIN),
        (HintTilt((1,), threshold=0.3), PLAIN),
    ],
    ids=lambda x: type(x).__name__,
)
def test_sound_adaptation_is_probed(adapter, windows):
    found, bare = adapted(adapter, windows), adapted(adapter, windows, probe=False)
    assert found.score.probed and found.score.look.windows == 3 and found.score.look.nats == 0.0
    assert found.score.nats == bare.score.nats and bare.score.probed is None
    row = found.row()
    assert row["probed"] and row["without"]["probed"] and "no distribution before them moved" in row["look"]


@pytest.mark.parametrize("by", [1, 2])
def test_an_adapter_that_reads_to_the_right_is_caught(by):
    found = adapted(Tilted(by))
    assert found.score.probed is False and found.score.look.ahead == by
    assert found.without.probed, "the model alone is sound"


def test_an_adapter_that_learns_from_what_comes_is_caught():
    found = adapted(Unsound())
    assert found.score.probed is False and found.score.look.ahead > T
    assert "Not causal" in found.row()["look"]


def test_an_adaptation_that_was_stopped_is_not_probed():
    now = 0.0

    def passing():
        nonlocal now
        now += 1.0
        return now

    found = adapted(SGD(lr=0.1, chunk=32, batch=2), seconds=30.0, clock=Clock(passing))
    assert not found.score.complete and found.score.probed is None
