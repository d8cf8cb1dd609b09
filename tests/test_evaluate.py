"""Windows, the ledger, bits per byte and sampling, against naive per-position references and stub predictors."""

import math
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pargolf.core.budget import Clock
from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.data.byte_table import ByteCounts, ByteTable
from pargolf.data.shards import open_split, write_shard
from pargolf.evaluate.bpb import bits_per_byte, by_document, loss_per_bpb, nats_per_token
from pargolf.evaluate.generate import generate
from pargolf.evaluate.grades import LogitsError
from pargolf.evaluate.probes import stir
from pargolf.evaluate.score import Ledger, OrderError, Score, UngradedError, batches, final, merge, score
from pargolf.evaluate.text import Text
from pargolf.evaluate.texts import score_texts
from pargolf.evaluate.windows import (
    PerDocument,
    Plain,
    Published,
    Sliding,
    Window,
    document_spans,
    document_starts,
    parse,
)
from pargolf.model.cache import Cache
from pargolf.recipes import catalog
from pargolf.recipes.scale import scaled

VOCAB = 11
BOS = 1


@st.composite
def strided(draw, kind):
    length = draw(st.integers(1, 40))
    return kind(length, draw(st.integers(1, length)))


sizes = st.integers(1, 150)
legal_specs = st.one_of(st.builds(Plain, st.integers(1, 40)), strided(Sliding), strided(PerDocument))
any_spec = st.one_of(legal_specs, strided(Published))


def stream(n, seed=0, documents=True):
    tokens = np.random.default_rng(seed).integers(2, VOCAB, n + 1).astype(np.uint16)
    if documents:
        tokens[np.random.default_rng(seed + 1).random(n + 1) < 0.07] = BOS
    tokens[0] = BOS
    return tokens


def lengths(tokens):
    """Bytes of each target: BOS stands for none."""
    return np.where(tokens[1:] == BOS, 0, tokens[1:] % 4 + 1).astype(np.int16)


class Bigram:
    """Logits are a table's row for the input token."""

    def __init__(self, seed=0):
        self.table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3

    def __call__(self, ids, *, first):
        return self.table[ids[:, first:]]


class Recency:
    """Depends on every token of its context, more on near ones; row by row, so batching cannot touch it."""

    def __init__(self, seed=0):
        self.table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2
        self.longest = 0

    def __call__(self, ids, *, first):
        self.longest = max(self.longest, ids.shape[1])
        state = torch.zeros(ids.shape[0], VOCAB)
        states = []
        for t in range(ids.shape[1]):
            state = state * 0.9 + self.table[ids[:, t]]
            states.append(state)
        return torch.stack(states, 1)[:, first:]


def naive(predictor, tokens, windows):
    """One position at a time, nothing but its own prefix shown: {position: nats}, and nats of every grade."""
    grades, all_nats = {}, []
    for start, end, first in windows.over(len(tokens) - 1, starts=document_starts(tokens, BOS)):
        for i in range(first, end):
            prefix = torch.tensor(tokens[start : i + 1].astype(np.int64))[None]
            logits = predictor(prefix, first=i - start)[0, 0].double()
            nats = float(logits.logsumexp(0) - logits[int(tokens[i + 1])])
            grades[i] = nats
            all_nats.append(nats)
    return grades, all_nats


def run(predictor, tokens, windows, **options):
    return final(score(predictor, text(tokens), windows, **options))


def text(tokens):
    return Text(tokens, lengths(tokens), VOCAB, BOS)


# ---- windows


@given(legal_specs, sizes, st.integers(0, 5))
def test_legal_windows_grade_every_position_once_and_in_order(spec, n, seed):
    cut = list(spec.over(n, starts=document_starts(stream(n, seed), BOS)))
    assert [i for w in cut for i in range(w.first, w.end)] == list(range(n))
    assert all(0 <= w.start <= w.first < w.end <= w.start + spec.length for w in cut)


@given(strided(Sliding), sizes)
def test_sliding_gives_full_context_to_all_but_the_first_window_and_the_tail_too(spec, n):
    cut = list(spec.over(n))
    assert all(w.end - w.start == min(spec.length, n) for w in cut)
    assert all(w.end - w.first == spec.stride for w in cut[1:-1])
    assert len(cut) == 1 + math.ceil(max(0, n - spec.length) / spec.stride)


@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 10))
def test_published_grades_the_last_stride_again_as_often_as_its_formula_says(stride, ratio, steps):
    length, n = stride * ratio, stride * (ratio + steps)
    graded = [i for w in Published(length, stride).over(n) for i in range(w.first, w.end)]
    counts = np.bincount(graded, minlength=n)
    assert len(graded) == n + (length // stride - 1) * stride
    assert (counts[:-stride] == 1).all()
    assert (counts[-stride:] == ratio).all()


@given(strided(PerDocument), sizes, st.integers(0, 5))
def test_document_windows_stay_within_one_document(spec, n, seed):
    tokens = stream(n, seed)
    for w in spec.over(n, starts=document_starts(tokens, BOS)):
        assert BOS not in tokens[w.start + 1 : w.end]


def test_document_windows_are_refused_without_documents():
    tokens = np.arange(2, 9)
    with pytest.raises(UserError, match="sliding:4,2"):
        run(Bigram(), tokens, PerDocument(4, 2))


def test_tokens_before_the_first_document_are_a_span_of_their_own():
    assert list(document_spans(10, [3, 7])) == [(0, 3), (3, 7), (7, 10)]
    assert list(document_spans(10, [0, 7])) == [(0, 7), (7, 10)]
    assert list(document_starts(np.array([1, 5, 1, 5, 1]), 1)) == [0, 2]


@given(any_spec)
def test_a_spec_and_its_word_are_the_same_thing(spec):
    assert parse(str(spec)) == spec


@given(
    st.one_of(
        st.text(max_size=12), st.from_regex(r"(plain|sliding|document|published):[-0-9,_ ٣]{0,6}", fullmatch=True)
    )
)
def test_parse_reads_its_own_syntax_or_says_what_is_wrong(text):
    try:
        spec = parse(text)
    except UserError:
        return
    assert parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("slidng:256,64", "sliding"),
        ("sliding:256", "sliding:LENGTH,STRIDE"),
        ("plain:0", "at least 1"),
        ("sliding:64,65", "from 1 to"),
        ("sliding:64,0", "from 1 to"),
        ("", "plain"),
    ],
)
def test_a_bad_word_names_the_way_out(text, hint):
    with pytest.raises(UserError, match=hint):
        parse(text)


# ---- the ledger


@settings(max_examples=25, deadline=None)
@given(any_spec, st.integers(3, 60), st.integers(0, 5))
def test_scores_equal_a_position_by_position_reference(spec, n, seed):
    tokens = stream(n, seed)
    tokens[1] = 2  # at least one byte
    found = run(Recency(), tokens, spec, batch_windows=3)
    grades, all_nats = naive(Recency(), tokens, spec)
    assert found.tokens == len(all_nats)
    assert found.nats == pytest.approx(sum(all_nats), rel=1e-5)
    graded = np.array(sorted(grades))
    np.testing.assert_allclose(found.nats_N[graded], [grades[i] for i in graded], rtol=1e-4, atol=1e-5)
    assert found.in_turn == (not isinstance(spec, Published))
    if found.in_turn:
        assert (found.complete, found.grades_min, found.grades_max) == (True, 1, 1)
        assert (found.tokens, found.bytes) == (n, lengths(tokens).sum())
        assert found.positions == n


@given(st.integers(4, 100), st.integers(0, 5))
def test_a_bigram_scores_what_its_table_says_under_any_windows(n, seed):
    tokens, model = stream(n, seed), Bigram(seed)
    tokens[1] = 2
    log_p = model.table.double().log_softmax(1).numpy()
    by_hand = -log_p[tokens[:-1].astype(int), tokens[1:].astype(int)].sum()
    for spec in (Plain(7), Sliding(9, 4), PerDocument(8, 3)):
        assert run(model, tokens, spec).nats == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("spec", [Plain(16), Sliding(16, 5), PerDocument(16, 4), Published(16, 4)], ids=str)
def test_the_batch_size_moves_no_bit(spec):
    tokens = stream(300)
    one = run(Recency(), tokens, spec, batch_windows=1)
    for size in (2, 7, 1000):
        many = run(Recency(), tokens, spec, batch_windows=size)
        assert many.nats == one.nats
        assert np.array_equal(many.nats_N, one.nats_N)


def test_published_counts_the_repeated_grades_in_its_denominators():
    tokens = stream(48, documents=False)
    found = run(Bigram(), tokens, Published(16, 4))
    assert not found.in_turn
    assert (found.positions, found.tokens) == (48, 48 + 3 * 4)
    assert (found.grades_min, found.grades_max) == (1, 4)
    counts = lengths(tokens)
    assert found.bytes == counts.sum() + 3 * counts[-4:].sum()
    once = run(Bigram(), tokens, Sliding(16, 4))
    extra = once.nats_N[-4:].sum(dtype=np.float64)
    assert found.nats == pytest.approx(once.nats + 3 * extra, rel=1e-12)


@given(st.floats(-1000, 1000), st.integers(0, 3))
def test_adding_a_constant_to_the_logits_changes_nothing(offset, seed):
    tokens, model = stream(40, seed), Bigram(seed)
    plain = run(model, tokens, Plain(8))
    moved = run(lambda ids, *, first: model(ids, first=first).double() + offset, tokens, Plain(8))
    assert moved.nats == pytest.approx(plain.nats, rel=1e-6)


def test_a_predictor_that_does_not_normalize_gains_nothing():
    tokens = stream(60)
    certain = run(lambda ids, *, first: torch.full((*ids[:, first:].shape, VOCAB), 1e6), tokens, Plain(8))
    assert certain.loss == pytest.approx(math.log(VOCAB), rel=1e-6)


def test_half_precision_logits_are_normalized_in_float32():
    tokens, model = stream(60), Bigram()
    rounded = Bigram()
    rounded.table = model.table.bfloat16().float()
    half = run(lambda ids, *, first: model(ids, first=first).bfloat16(), tokens, Plain(8))
    assert half.nats == run(rounded, tokens, Plain(8)).nats


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(value):
    def broken(ids, *, first):
        logits = Bigram()(ids, first=first).clone()
        logits[-1, -1, 0] = value
        return logits

    with pytest.raises(LogitsError, match="not finite"):
        run(broken, stream(20), Plain(8))


@pytest.mark.parametrize("shape", [lambda x: x[..., :-1], lambda x: x[:, :-1], lambda x: x[0], lambda x: x.long()])
def test_logits_of_another_shape_or_type_are_refused(shape):
    with pytest.raises(LogitsError, match="expected"):
        run(lambda ids, *, first: shape(Bigram()(ids, first=first)), stream(20), Plain(8))


@pytest.mark.parametrize(
    ("tokens", "counts", "hint"),
    [
        ([1], [], "two tokens"),
        ([1, 2, 3], [1, 1, 1], "3 byte counts for 2"),
        ([1, 2, VOCAB], [1, 1], f"token {VOCAB} at index 2"),
        ([1, -2, 3], [1, 1], "token -2 at index 1"),
        ([1, 2, 3], [0, 0], "byte table"),
        ([1, 2, 3], [-1, 2], "byte table"),
    ],
)
def test_bad_streams_are_refused_in_one_clear_line(tokens, counts, hint):
    with pytest.raises(UserError, match=hint):
        Ledger(Text(np.array(tokens), np.array(counts, dtype=int), VOCAB, BOS))


def test_only_graded_tokens_are_handed_out():
    tokens = stream(30)
    ledger = Ledger(text(tokens))
    assert list(ledger.graded(0, 1)) == [BOS]
    with pytest.raises(UngradedError):
        ledger.graded(0, 2)
    for batch in batches(Sliding(8, 3).over(30), 2):
        ledger.grade(Bigram(), batch)
        end = batch[-1].end
        assert np.array_equal(ledger.graded(0, end + 1), tokens[: end + 1])
        with pytest.raises(UngradedError):
            ledger.graded(end, end + 2)
    ledger.graded(0, 2)[:] = 0
    assert ledger.graded(0, 2)[0] == BOS


@pytest.mark.parametrize(
    "batch",
    [
        [Window(0, 4, 0)],  # again
        [Window(2, 9, 5)],  # a gap
        [Window(4, 6, 4), Window(5, 7, 5)],  # twice within a batch
        [Window(4, 99, 4)],
    ],
)
def test_a_position_out_of_turn_is_refused_and_leaves_the_books_alone(batch):
    tokens = stream(12)
    ledger = Ledger(text(tokens))
    ledger.grade(Bigram(), [Window(0, 4, 0)])
    before = ledger.nats
    with pytest.raises(OrderError):
        ledger.grade(Bigram(), batch)
    assert (ledger.nats, ledger.tokens, ledger.frontier) == (before, 4, 4)


def test_a_predictor_cannot_change_the_ledger_through_its_ids():
    tokens = stream(40)

    def vandal(ids, *, first):
        logits = Bigram()(ids, first=first)
        ids.zero_()
        return logits

    assert run(vandal, tokens, Sliding(8, 2)).nats == run(Bigram(), tokens, Sliding(8, 2)).nats


def test_the_predictor_sees_windows_and_is_asked_only_for_graded_positions():
    asked = 0

    def counting(ids, *, first):
        nonlocal asked
        asked += ids[:, first:].numel()
        assert ids.dtype == torch.int64
        return Bigram()(ids, first=first)

    run(counting, stream(100), Sliding(16, 4), probe=False)
    assert asked == 100


@given(st.integers(0, 8), st.data())
def test_a_document_does_not_see_the_one_before(seed, data):
    tokens = stream(90, seed)
    spans = list(document_spans(90, document_starts(tokens, BOS)))
    if len(spans) < 2:
        return
    which = data.draw(st.integers(0, len(spans) - 2))
    begin, stop = spans[which]
    if stop - begin < 2:
        return
    place = data.draw(st.integers(begin + 1, stop - 1))
    flipped = tokens.copy()
    flipped[place] = 2 + (tokens[place] - 1) % (VOCAB - 2)
    spec = PerDocument(12, 5)
    before, after = run(Recency(), tokens, spec).nats_N, run(Recency(), flipped, spec).nats_N
    assert np.array_equal(before[stop:], after[stop:])
    assert np.array_equal(before[: place - 1], after[: place - 1])
    assert not np.array_equal(before[begin:stop], after[begin:stop])
    assert not np.array_equal(
        run(Recency(), tokens, Sliding(90, 1)).nats_N[stop:],
        run(Recency(), flipped, Sliding(90, 1)).nats_N[stop:],
    )


def test_gradients_flow_again_after_scoring_a_model_with_lazy_caches():
    class Lazy(torch.nn.Module):
        """Fills its cache at first use, as rotary tables do."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(VOCAB, VOCAB))
            self.cache = None

        def forward(self, ids, *, first=0):
            if self.cache is None:
                self.cache = torch.linspace(1, 2, VOCAB)
            return self.weight[ids[:, first:]] * self.cache

    model = Lazy()
    events = score(model, text(stream(20)), Plain(8), batch_windows=1)
    next(events)
    assert torch.is_grad_enabled()
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    assert model.weight.grad is not None


# ---- a pass per document, several processes, no arrays


def test_documents_may_take_turns_but_none_shows_another():
    tokens = np.array([BOS, 2, 3, 4, BOS, 5, 6, 7, 8])  # positions 0..3 and 4..7
    ledger = Ledger(text(tokens), documents=[0, 4])
    ledger.grade(Bigram(), [Window(4, 6, 4)])
    assert list(ledger.graded(4, 7)) == [BOS, 5, 6]
    for start, stop in ((4, 8), (0, 2), (3, 6)):
        with pytest.raises(UngradedError):
            ledger.graded(start, stop)
    for window in (Window(4, 6, 4), Window(3, 7, 6), Window(3, 5, 3)):
        with pytest.raises(OrderError):
            ledger.grade(Bigram(), [window])
    ledger.grade(Bigram(), [Window(0, 2, 0), Window(4, 8, 6)][:1])
    ledger.grade(Bigram(), [Window(0, 4, 2), Window(4, 8, 6)])
    assert list(ledger.graded(0, 9)) == list(tokens)
    turns, straight = ledger.score(Plain(2), seconds=0), run(Bigram(), tokens, Plain(2))
    assert (turns.complete, turns.tokens, turns.bytes) == (True, 8, straight.bytes)
    assert np.array_equal(turns.nats_N, straight.nats_N)


@given(st.one_of(st.builds(Plain, st.integers(1, 12)), strided(Sliding)), st.integers(60, 120), st.integers(2, 4))
def test_processes_agree_with_one(spec, n, world):
    tokens = stream(n)
    tokens[1] = 2
    whole = run(Bigram(), tokens, spec)
    if sum(1 for _ in spec.over(n)) < world:
        with pytest.raises(UserError, match="fewer"):
            [run(Bigram(), tokens, spec, rank=rank, world=world) for rank in range(world)]
        return
    shares = [run(Bigram(), tokens, spec, rank=rank, world=world) for rank in range(world)]
    joined = merge(shares[::-1])
    assert joined.nats == pytest.approx(whole.nats, rel=1e-7)
    assert np.array_equal(joined.nats_N, whole.nats_N)
    besides = dict.fromkeys(("nats", "loss", "bpb", "seconds", "probed", "look"))
    assert joined.row() | besides == whole.row() | besides
    assert joined.look.windows == sum(share.look.windows for share in shares)
    assert joined.probed is not False
    assert not any(share.complete for share in shares)
    assert not merge(shares[:-1]).complete


def test_repeated_grades_are_counted_by_one_process_only():
    with pytest.raises(UserError, match="one process"):
        run(Bigram(), stream(40), Published(8, 4), rank=0, world=2)


def test_a_score_without_kept_grades_is_the_same_score():
    tokens = stream(100)
    kept, bare = run(Bigram(), tokens, Sliding(8, 3)), run(Bigram(), tokens, Sliding(8, 3), keep=False)
    assert kept.row() | {"seconds": 0} == bare.row() | {"seconds": 0}
    assert len(bare.nats_N) == 0
    ledger = Ledger(text(tokens), keep=False)
    assert all(a.size < 10 for name, a in vars(ledger).items() if isinstance(a, np.ndarray) and "_" not in name[0])


def test_memory_does_not_grow_with_the_stream(tmp_path, monkeypatch):
    """From shards on disk, with and without grades kept (those in a file, which is not Python's memory)."""
    monkeypatch.setattr("pargolf.evaluate.windows._READ", 1 << 13)
    monkeypatch.setattr("pargolf.evaluate.score._HELD", 1 << 13)
    table, peaks = ByteTable(np.ones(VOCAB, np.int32), np.zeros(VOCAB, bool), np.ones(VOCAB, bool)), {}
    for n in (20_000, 100_000):
        write_shard(tmp_path / "x_val_000000.bin", [stream(n // 2), stream(n // 2 - 1)])
        tokens = open_split(tmp_path, "val", vocab=VOCAB)
        for spec, keep in ((Plain(64), True), (Sliding(64, 32), False)):
            whole = Text(tokens, ByteCounts(table, tokens), VOCAB, BOS)
            tracemalloc.start()
            found = final(score(Bigram(), whole, spec, keep=keep, batch_windows=64))
            peaks.setdefault(str(spec), []).append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert (found.tokens, found.bytes, len(found.nats_N)) == (n, n, n if keep else 0)
            if keep:
                begin = Text(tokens[:5000], np.ones(4999, int), VOCAB, BOS)
                part = final(score(Bigram(), begin, spec, batch_windows=64))
                assert np.array_equal(found.nats_N[:4900], part.nats_N[:4900])
    for short, long in peaks.values():
        assert long < 1.1 * short + 4096


# ---- progress and budget


def test_progress_rises_to_the_total_and_the_score_comes_last():
    tokens = stream(100)
    *progress, last = score(Bigram(), text(tokens), Plain(8), batch_windows=2)
    assert isinstance(last, Score)
    assert all(isinstance(p, Progress) and p.total == 100 for p in progress)
    assert all(a.done < b.done for a, b in pairwise(progress))
    assert progress[-1].done == 100
    assert progress[-1].note.startswith(f"{last.bpb:.4f} bpb")


@given(st.floats(1.0, 40.0), st.floats(0.5, 3.0))
def test_scoring_stops_inside_its_budget_and_says_that_it_is_incomplete(limit, cost):
    now = 0.0

    def slow(ids, *, first):
        nonlocal now
        now += cost
        return Bigram()(ids, first=first)

    tokens = stream(100, documents=False)
    found = run(slow, tokens, Plain(5), batch_windows=1, seconds=limit, clock=Clock(lambda: now), probe=False)
    assert now <= max(limit, cost) * (1 + 1e-9)
    assert found.seconds == pytest.approx(now)
    assert found.complete == (found.tokens == 100)
    assert found.complete == (now >= 20 * cost * (1 - 1e-9))
    if not found.complete:
        assert now + cost > limit * (1 - 1e-9)
        assert (found.grades_min, found.positions) == (0, 100)
        assert np.isnan(found.nats_N[found.tokens :]).all()
        whole = run(Bigram(), tokens, Plain(5))
        assert found.nats == pytest.approx(whole.nats_N[: found.tokens].sum(dtype=np.float64))


@settings(max_examples=30)
@given(limit=st.floats(0.5, 60), cost=st.floats(0.1, 3))
def test_a_probed_scoring_stops_inside_its_budget_too(limit, cost):
    now = 0.0

    def slow(ids, *, first):
        nonlocal now
        now += cost
        return Bigram()(ids, first=first)

    tokens = stream(100, documents=False)
    found = run(slow, tokens, Plain(5), batch_windows=1, seconds=limit, clock=Clock(lambda: now))
    assert now <= max(limit, cost) * (1 + 1e-9)
    assert found.complete == (found.tokens == 100)
    if limit > 24 * cost:
        assert found.complete and found.probed and found.look.windows == 3


def test_a_score_is_a_row_of_plain_numbers():
    row = run(Bigram(), stream(50), Sliding(8, 4)).row()
    assert row["windows"] == "sliding:8,4"
    assert all(isinstance(value, bool | int | float | str) for value in row.values())
    assert row["in_turn"] and row["probed"]
    assert row["bpb"] == pytest.approx(row["nats"] / math.log(2) / row["bytes"])


# ---- bits per byte


def test_the_official_split_has_its_published_constant():
    assert loss_per_bpb(62_021_632, 151_080_363) == pytest.approx(1.6884581, abs=5e-8)
    assert loss_per_bpb(63_779_840, 155_769_746) == pytest.approx(1.6928760, abs=5e-8)


@given(st.floats(0.1, 1e6), st.integers(1, 10**8), st.integers(1, 10**8))
def test_loss_and_bpb_differ_by_the_constant(nats, n_tokens, n_bytes):
    ratio = nats_per_token(nats, n_tokens) / bits_per_byte(nats, n_bytes)
    assert ratio == pytest.approx(loss_per_bpb(n_tokens, n_bytes))


def test_a_uniform_model_of_bytes_costs_eight_bits():
    assert bits_per_byte(1000 * math.log(256), 1000) == pytest.approx(8)


@given(st.integers(4, 150), st.integers(0, 9))
def test_documents_sum_to_the_stream(n, seed):
    tokens = stream(n, seed)
    tokens[1] = 2
    found = run(Bigram(), tokens, Plain(8))
    rows = by_document(tokens, found.nats_N, lengths(tokens), BOS)
    assert [row["index"] for row in rows] == list(range((tokens[:-1] == BOS).sum()))
    assert sum(row["tokens"] for row in rows) == n
    assert sum(row["bytes"] for row in rows) == found.bytes
    assert sum(row["loss"] * row["tokens"] for row in rows) == pytest.approx(found.nats)
    for row in rows:
        assert (row["bpb"] is None) == (row["bytes"] == 0)


def test_documents_that_were_not_graded_are_left_out():
    tokens = np.array([1, 2, 3, 1, 2, 1, 4, 5])
    nats = np.array([1, 1, 1, 1, np.nan, 1, 1], dtype=np.float32)
    rows = by_document(tokens, nats, np.ones(7, dtype=int), 1)
    assert [(row["index"], row["tokens"]) for row in rows] == [(0, 3), (2, 2)]


# ---- sampling


def sample(predictor, prompt=(BOS,), **options):
    return list(generate(predictor, prompt, **{"tokens": 20, "length": 16, **options}))


def test_greedy_takes_the_likeliest_token_each_time():
    model, token, expected = Bigram(), BOS, []
    for _ in range(20):
        token = int(model.table[token].argmax())
        expected.append(token)
    assert sample(model, temperature=0) == expected


def test_a_seed_repeats_and_another_differs():
    assert sample(Recency(), seed=3) == sample(Recency(), seed=3)
    assert sample(Recency(), seed=3) != sample(Recency(), seed=4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_tempered_distribution(temperature):
    logits = torch.linspace(-1, 1, VOCAB)
    drawn = sample(lambda ids, *, first: logits.expand(1, 1, VOCAB), tokens=4000, temperature=temperature)
    share = torch.bincount(torch.tensor(drawn), minlength=VOCAB) / 4000
    assert (share - (logits / temperature).softmax(0)).abs().max() < 0.03


@given(st.floats(0.01, 1.0), st.integers(0, 20))
def test_top_p_draws_from_the_smallest_set_that_reaches_it(top_p, seed):
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed))
    p = sorted(((float(q), i) for i, q in enumerate(logits.double().softmax(0))), reverse=True)
    allowed, mass = set(), 0.0
    for q, i in p:
        if mass < top_p + 1e-6:
            allowed.add(i)
        mass += q
    drawn = sample(lambda ids, *, first: logits.expand(1, 1, VOCAB), top_p=top_p, seed=seed, tokens=40)
    assert set(drawn) <= allowed


def test_a_small_top_p_is_greedy():
    assert sample(Bigram(), top_p=1e-6) == sample(Bigram(), temperature=0) == sample(Bigram(), temperature=1e-320)


def test_sampling_ends_before_a_stop_token_and_at_the_count():
    free = sample(Bigram(), temperature=0)
    assert sample(Bigram(), temperature=0, stop={free[0]}) == []
    last = free[-1]
    assert sample(Bigram(), temperature=0, stop={last}) == free[: free.index(last)]
    assert len(sample(Bigram(), tokens=7)) == 7
    assert sample(Bigram(), tokens=0) == []


def test_the_context_never_exceeds_its_length():
    model = Recency()
    sample(model, prompt=list(range(2, 9)) * 5, length=6, tokens=12)
    assert model.longest == 6


def test_only_the_last_tokens_of_a_long_prompt_matter():
    assert sample(Recency(), prompt=[5] * 9 + [2, 3, 4], length=3) == sample(Recency(), prompt=[2, 3, 4], length=3)


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": []},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"length": 0},
        {"tokens": -1},
    ],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(UserError):
        sample(Bigram(), **options)


def test_nothing_is_sampled_from_logits_that_are_not_finite():
    with pytest.raises(LogitsError):
        sample(lambda ids, *, first: torch.full((1, 1, VOCAB), math.nan))


@pytest.mark.parametrize("name", catalog.names())
def test_every_recipe_writes_from_its_cache_as_from_its_window(name):
    """Logits of a kept text are those of the whole window, which is longer than the one trained with."""
    spec = scaled(catalog.find(name), "mini").model
    model = replace(spec, vocab=32, bos=spec.bos and BOS).build().eval()
    stir(model)
    length = 300 if name in ("pr549", "house") else 40
    ids = torch.randint(2, 32, (2, length), generator=torch.Generator().manual_seed(0))
    ids[0, 20] = BOS
    with torch.no_grad():
        whole, cache, at = model(ids), Cache(model, length), 0
    for size in (length - 30, *[1] * 9, 5, *[1] * 16):
        at += size
        assert (cache(ids[:, at - size : at]) - whole[:, at - 1]).abs().max() < 1e-5
    prompt = ids[0, : length - 4].tolist()
    cold = sample(model, prompt, length=length, tokens=8, temperature=0)
    assert cold == sample(lambda ids, *, first: model(ids, first=first), prompt, length=length, tokens=8, temperature=0)


# ---- the cost of texts of one's own


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 20), st.integers(0, 5))
def test_the_nats_of_texts_are_their_tokens_grades(sizes, length, seed):
    texts, model = [stream(n, seed + i) for i, n in enumerate(sizes)], Bigram(seed)
    graded = score_texts(model, [tokens.tolist() for tokens in texts], vocab=VOCAB, length=length)
    log_p = model.table.double().log_softmax(1).numpy()
    for tokens, grades in zip(texts, graded):
        rows = log_p[tokens[:-1].astype(int)]
        assert grades.nats == pytest.approx(-rows[np.arange(len(rows)), tokens[1:].astype(int)], abs=1e-5)
        assert (grades.likeliest == (rows.argmax(1) == tokens[1:])).all()


def test_texts_see_the_context_that_scoring_gives_and_nothing_of_each_other():
    texts = [stream(50), stream(30, 1), stream(70, 2)]
    graded = score_texts(Recency(), [tokens.tolist() for tokens in texts], vocab=VOCAB, length=16)
    for tokens, grades in zip(texts, graded):
        assert grades.nats == pytest.approx(run(Recency(), tokens, Sliding(16, 4)).nats_N)


@pytest.mark.parametrize(("tokens", "hint"), [([], "two tokens"), ([BOS], "two tokens"), ([BOS, VOCAB], "vocabulary")])
def test_a_text_that_cannot_be_scored_says_why(tokens, hint):
    with pytest.raises(UserError, match=hint):
        score_texts(Bigram(), [tokens], vocab=VOCAB, length=8)
    assert score_texts(Bigram(), [], vocab=VOCAB, length=8) == []
