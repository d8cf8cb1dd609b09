"""Score-first adaptation: the published adapters' numbers, and the properties that make any adapter legal."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import model as small_model
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from pargolf.core.budget import Clock
from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.spec import checked, dump
from pargolf.core.spec import load as load_spec
from pargolf.evaluate.adapted import score_adapted
from pargolf.evaluate.adapters.adamw import AdamW
from pargolf.evaluate.adapters.low_rank import LowRank
from pargolf.evaluate.adapters.phases import Phases
from pargolf.evaluate.adapters.sgd import SGD
from pargolf.evaluate.score import Ledger, final, score
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import PerDocument, Plain, Published, Sliding, document_spans, document_starts
from pargolf.upstream.state_dicts import load

GOLDEN = Path(__file__).parent / "golden"
BOS = 1


def last(events):
    *_, found = events
    return found


# ---- published numbers


def byte_counts(tokens, base, leading, boundary):
    spaces = leading[tokens[1:]].astype(bool) & ~boundary[tokens[:-1]].astype(bool)
    return base[tokens[1:]].astype(np.int64) + spaces


@pytest.fixture(scope="module")
def fitted():
    facts = json.loads((GOLDEN / "eval.json").read_text())
    tensors = load_file(GOLDEN / "eval.safetensors")
    table = [tensors[name].numpy() for name in ("base_bytes", "has_leading_space", "is_boundary")]
    tokens = tensors["tokens"].numpy()

    def model(system):
        prefix = f"{system}.state."
        state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        sizes = {name: facts["config"][name] for name in ("heads", "kv_heads", "rope_dims", "xsa", "ve_layers")}
        return load(system, state, train_seq_len=facts["seq_len"], **sizes)

    return facts, Text(tokens, byte_counts(tokens, *table), facts["vocab"], BOS), model


ADAPTERS = {
    "pr1009": SGD(lr=0.02, epochs=2, chunk=64, batch=2),
    "pr861": AdamW(lr=0.002, epochs=2, chunk=64, batch=2),
}


@pytest.mark.parametrize("system", ADAPTERS)
def test_fitted_models_score_as_their_scripts_did(fitted, system):
    facts, text, model = fitted
    found = last(score_adapted(model(system), text, Sliding(32, 8), ADAPTERS[system]))
    assert (found.score.loss, found.score.bpb) == pytest.approx(facts[system]["ttt"], abs=1e-6)
    assert (found.without.loss, found.without.bpb) == pytest.approx(facts[system]["sliding"], abs=1e-6)
    assert found.score.bytes == facts["total_bytes"]
    assert (found.saved > 0) == (system == "pr861")
    assert ("made it worse" in found.verdict) == (system == "pr1009")
    if system == "pr1009":
        plain = final(score(model(system), text, Plain(32)))
        assert (plain.loss, plain.bpb) == pytest.approx(facts[system]["plain"], abs=1e-6)


TINY = {
    "baseline": (None, None),
    "pr295": (Sliding(64, 16), None),
    "pr543": (None, None),
    "pr549": (Published(64, 16), SGD(lr=0.05, epochs=2, chunk=256, batch=2)),
    "pr861": (Published(64, 16), AdamW(lr=0.01, epochs=2, chunk=256, batch=2)),
    "pr910": (Published(64, 16), SGD(lr=0.05, epochs=2, chunk=256, batch=2)),
    "pr1009": (Published(64, 16), SGD(lr=0.05, epochs=2, chunk=256, batch=2)),
}


@pytest.mark.parametrize("system", TINY)
def test_filled_models_score_as_their_scripts_did_double_counts_included(system):
    windows, adapter = TINY[system]
    golden = np.load(GOLDEN / "tiny" / f"{system.removeprefix('pr')}_tiny.npz")
    state = {name[3:]: torch.from_numpy(golden[name]) for name in golden.files if name.startswith("sd.")}
    model = load(system, state, heads=4, kv_heads=2, rope_dims=8, xsa=2, train_seq_len=64, ve_layers=(2, 3))
    tokens = golden["val"]
    text = Text(tokens, byte_counts(tokens, golden["base_bytes"], golden["leading"], golden["boundary"]), 64, BOS)
    plain = final(score(model, text, Plain(64)))
    assert (plain.loss, plain.bpb) == pytest.approx(golden["plain"], abs=1e-6)
    if windows:
        without = final(score(model, text, windows))
        assert (without.loss, without.bpb) == pytest.approx(golden["sliding"], abs=1e-6)
    if adapter:
        found = last(score_adapted(model, text, windows, adapter, without=without))
        assert (found.score.loss, found.score.bpb) == pytest.approx(golden["ttt"], abs=1e-6)


# ---- properties of every adapter

VOCAB = 32
LOW_RANK = LowRank(rank=2, alpha=2.0, lr=0.05, chunk=5, batch=4, globs=("attn.q", "mlp.*"))
CHUNKED = (
    SGD(lr=0.1, chunk=32, batch=2, epochs=2),
    AdamW(lr=0.005, chunk=32, batch=2),
    AdamW(lr=0.005, chunk=32, batch=2, anchor=0.1),
)
PER_DOCUMENT = (
    LOW_RANK,
    dataclasses.replace(LOW_RANK, warm=True),
    dataclasses.replace(LOW_RANK, phases=Phases((3, 5), SGD(lr=0.1, epochs=2, chunk=48, batch=2))),
)
CASES = [(a, Sliding(16, 8)) for a in CHUNKED] + [(a, PerDocument(16, 8)) for a in PER_DOCUMENT]


def text(n=160, seed=0, documents=8):
    """Documents that each repeat three of eight tokens, so that there is something to adapt to."""
    rng = np.random.default_rng(seed)
    tokens = np.empty(n + 1, dtype=np.uint16)
    edges = np.sort(rng.choice(np.arange(3, n - 3), documents - 1, replace=False))
    for begin, stop in pairwise([0, *edges, n + 1]):
        tokens[begin:stop] = rng.choice(rng.integers(2, 10, 3), stop - begin)
        tokens[begin] = BOS
    return tokens


def rough(seed=0):
    """Every weight moved away from its start, so that nothing is zero."""
    torch.manual_seed(seed)
    model = small_model(bos=BOS).build()
    with torch.no_grad():
        for weight in model.parameters():
            weight += torch.randn_like(weight) * 0.2
    return model


def run(model, tokens, windows, adapter, **options):
    return last(score_adapted(model, counted(tokens), windows, adapter, **options))


def counted(tokens):
    """One byte each."""
    return Text(tokens, np.ones(len(tokens) - 1, dtype=np.int64), VOCAB, BOS)


@pytest.mark.parametrize(("adapter", "windows"), CASES, ids=str)
def test_adapting_grades_once_helps_on_repetitive_text_and_leaves_the_callers_weights(adapter, windows):
    model, tokens = rough(), text()
    before = {name: w.clone() for name, w in model.state_dict().items()}
    asks = [w.requires_grad for w in model.parameters()]
    found = run(model, tokens, windows, adapter)
    assert (found.score.complete, found.score.grades_min, found.score.grades_max) == (True, 1, 1)
    assert (found.score.tokens, found.score.bytes) == (160, 160)
    assert found.saved > 0.01
    assert found.saved == pytest.approx(found.without.bpb - found.score.bpb)
    assert "saved" in found.verdict
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
    assert [w.requires_grad for w in model.parameters()] == asks
    json.dumps(found.row())


@pytest.mark.parametrize(("adapter", "windows"), CASES, ids=str)
def test_a_token_changes_no_grade_before_it(adapter, windows):
    model, tokens = rough(), text()
    grades = run(model, tokens, windows, adapter).score.nats_N
    spans = list(document_spans(160, document_starts(tokens, BOS)))
    for place in (40, 95, 150):
        flipped = tokens.copy()
        flipped[place] = 2 + (tokens[place] - 1) % (VOCAB - 2)
        assert tokens[place] != BOS
        found = run(model, flipped, windows, adapter).score.nats_N
        assert not np.array_equal(found[place - 1 :], grades[place - 1 :])
        np.testing.assert_allclose(found[: place - 1], grades[: place - 1], atol=1e-6)
        if not adapter.by_document:
            continue
        begin, stop = next(span for span in spans if span[0] < place <= span[1])
        if not adapter.warm and not adapter.phases:
            same = np.r_[0:begin, stop:160]
            np.testing.assert_allclose(found[same], grades[same], atol=1e-5)


def test_low_rank_grades_do_not_depend_on_how_documents_are_batched():
    tokens = text()
    one = run(rough(), tokens, PerDocument(16, 6), dataclasses.replace(LOW_RANK, batch=1)).score.nats_N
    for batch in (2, 3, 100):
        many = run(rough(), tokens, PerDocument(16, 6), dataclasses.replace(LOW_RANK, batch=batch)).score.nats_N
        np.testing.assert_allclose(many, one, atol=2e-4)


def test_low_rank_equals_one_document_at_a_time_by_hand():
    """Weights W + BA made in full, one Adam step per chunk, against the batched modules."""
    model, tokens, spec = rough(), text(40, documents=2), dataclasses.replace(LOW_RANK, globs=("mlp.up",))
    found = run(model, tokens, PerDocument(64, 64), spec).score.nats_N
    ups = [block.mlp.up.weight for block in model.blocks]
    random = torch.Generator().manual_seed(spec.seed)
    starts = [torch.randn(spec.rank, 16, generator=random) / 4 for _ in ups]
    for begin, stop in document_spans(40, document_starts(tokens, BOS)):
        factors = [(a.clone().requires_grad_(), torch.zeros(32, spec.rank, requires_grad=True)) for a in starts]
        optimizer = torch.optim.Adam([f for pair in factors for f in pair], lr=spec.lr, betas=spec.betas)
        for first in range(begin, stop, spec.chunk):
            end = min(first + spec.chunk, stop)
            ids = torch.tensor(tokens[begin : end + 1].astype(np.int64))[None]
            weights = {f"blocks.{i}.mlp.up.weight": w + b @ a for i, (w, (a, b)) in enumerate(zip(ups, factors))}
            logits = functional_call(model, weights, (ids[:, :-1],))[0, first - begin :]
            nats = cross_entropy(logits, ids[0, first - begin + 1 :], reduction="none")
            np.testing.assert_allclose(found[first:end], nats.detach(), atol=1e-4)
            optimizer.zero_grad()
            nats.mean().backward()
            optimizer.step()


@pytest.mark.parametrize("adapter", [SGD(epochs=0), SGD(chunk=10_000), SGD(lr=1e-12)], ids=str)
def test_an_adapter_that_learns_nothing_changes_nothing(adapter):
    found = run(rough(), text(), Sliding(16, 8), adapter)
    assert abs(found.saved) < 1e-7
    if adapter.lr > 1e-6:
        assert found.verdict.startswith("adapting changed nothing")
        assert np.array_equal(found.score.nats_N, found.without.nats_N)


def test_frozen_and_chosen_roles_are_what_moves(monkeypatch):
    moved = {}

    def spy(self, predictor, batch, **options):
        if isinstance(predictor, torch.nn.Module):  # the score without adaptation is probed through another
            moved.setdefault("first", {n: w.clone() for n, w in predictor.named_parameters()})
            moved["last"] = dict(predictor.named_parameters())
        return grade(self, predictor, batch, **options)

    grade = Ledger.grade
    plain = run(rough(), text(), Sliding(16, 8), SGD()).without
    monkeypatch.setattr(Ledger, "grade", spy)
    for adapter, wanted in (
        (SGD(lr=0.5, chunk=32, frozen=("blocks.0.*", "embed.*")), lambda n: "blocks.0." not in n and "embed" not in n),
        (AdamW(lr=0.03, chunk=32), lambda n: "mlp.up" in n or "mlp.down" in n or n.endswith("scale")),
    ):
        moved.clear()
        run(rough(), text(), Sliding(16, 8), adapter, without=plain, probe=False)
        changed = {n for n, w in moved["last"].items() if not torch.equal(w, moved["first"][n])}
        assert changed == {n for n in moved["last"] if wanted(n)}


def test_an_anchor_takes_back_its_share_of_each_step(monkeypatch):
    shown = []

    def spy(self, predictor, batch, **options):
        if isinstance(predictor, torch.nn.Module):
            shown.append({n: w.clone() for n, w in predictor.named_parameters()})
        return grade(self, predictor, batch, **options)

    grade = Ledger.grade
    monkeypatch.setattr(Ledger, "grade", spy)
    after = []
    for anchor in (0.0, 0.25):
        shown.clear()
        run(
            rough(),
            text(64),
            Sliding(16, 16),
            AdamW(lr=0.03, chunk=32, batch=2, anchor=anchor),
            batch_windows=2,
            probe=False,
        )
        after.append(shown[1])  # one step lies between the first grades and the second
    for name, start in shown[0].items():
        torch.testing.assert_close(after[1][name], torch.lerp(after[0][name], start, 0.25))
    assert any(not torch.equal(after[0][name], start) for name, start in shown[0].items())


def test_the_score_without_adaptation_is_the_plain_one_and_may_be_given():
    model, tokens, windows = rough(), text(), Sliding(16, 8)
    plain = final(score(model, counted(tokens), windows))
    found = run(model, tokens, windows, CHUNKED[0])
    assert np.array_equal(found.without.nats_N, plain.nats_N)
    assert run(model, tokens, windows, CHUNKED[0], without=plain).without is plain
    with pytest.raises(UserError, match="without adaptation"):
        run(model, tokens, Sliding(16, 4), CHUNKED[0], without=plain)


@pytest.mark.parametrize(("adapter", "windows"), CASES, ids=str)
def test_adapting_stops_inside_its_budget_and_compares_what_was_graded(adapter, windows):
    now = [0.0]

    class Slow(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = rough().blocks
            self.inner = [rough()]

        def forward(self, ids, *, first=0):
            now[0] += 1.0
            self.inner[0].blocks = self.blocks
            return self.inner[0](ids, first=first)

    whole = run(rough(), text(), windows, adapter)
    adapter = dataclasses.replace(adapter)
    found = run(Slow(), text(), windows, adapter, batch_windows=1, seconds=9.0, clock=Clock(lambda: now[0]))
    assert found.score.seconds <= 12.0  # a step may hold a few forward passes of different shapes
    assert not found.score.complete
    graded = ~np.isnan(found.score.nats_N)
    assert graded.sum() == found.score.tokens > 0
    both = (found.without.nats_N[graded].sum() - found.score.nats_N[graded].sum()) / graded.sum() / np.log(2)
    assert found.saved == pytest.approx(both, abs=1e-5)
    assert "graded in time" in found.verdict
    assert whole.without.nats == pytest.approx(found.without.nats, rel=1e-5)


def test_progress_comes_before_the_result():
    *events, found = score_adapted(rough(), counted(text()), Sliding(16, 8), CHUNKED[0])
    assert all(isinstance(event, Progress) for event in events)
    assert {event.task for event in events} == {f"{task} sliding:16,8" for task in ("adapt", "probe", "score")}
    assert found.adapter.startswith("SGD(lr=0.1")


@pytest.mark.parametrize(
    ("adapter", "windows", "hint"),
    [
        (SGD(frozen=("nothing.*",)), Plain(16), "matches no parameter"),
        (SGD(frozen=("*",)), Plain(16), "no parameter to train"),
        (AdamW(globs=("mlp.upp",)), Plain(16), "Did you mean mlp.up"),
        (LowRank(), Sliding(16, 8), "document:16"),
        (LowRank(globs=("embed.tokens",)), PerDocument(16, 8), "no linear module"),
    ],
    ids=str,
)
def test_bad_adapters_say_what_is_wrong(adapter, windows, hint):
    with pytest.raises(UserError, match=hint):
        run(rough(), text(), windows, adapter)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(lr=0.0),
        lambda: SGD(chunk=0),
        lambda: AdamW(clip=0.0),
        lambda: AdamW(anchor=1.0),
        lambda: LowRank(rank=0),
        lambda: Phases((3, 3)),
        lambda: Phases(()),
    ],
)
def test_settings_out_of_range_are_refused_before_they_run(make):
    with pytest.raises(UserError):
        checked(make())


@pytest.mark.parametrize("adapter", [*CHUNKED, *PER_DOCUMENT], ids=str)
def test_an_adapter_is_data(adapter):
    assert load_spec(json.loads(json.dumps(dump(adapter)))) == adapter
