"""Any device, and too little memory: a row says what a kind can do, and passes become smaller with the same numbers."""

import math
import re
import resource
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch
from forks import ended, forked
from torch import nn

import pargolf
from pargolf.core import devices, world
from pargolf.core.budget import Clock
from pargolf.core.errors import UserError
from pargolf.core.events import Narrowed
from pargolf.core.world import KINDS, DeviceKind, World, abilities
from pargolf.evaluate.adapted import score_adapted
from pargolf.evaluate.adapters.adamw import AdamW
from pargolf.evaluate.adapters.hint_tilt import HintTilt
from pargolf.evaluate.adapters.low_rank import LowRank
from pargolf.evaluate.adapters.phases import Phases
from pargolf.evaluate.adapters.sgd import SGD
from pargolf.evaluate.score import Ledger, Score, score
from pargolf.evaluate.text import Text
from pargolf.evaluate.texts import score_texts
from pargolf.evaluate.windows import PerDocument, Sliding
from pargolf.run.training import RunTraining
from pargolf.training.loop import Training

ROOT = Path(pargolf.__file__).parent
SCRIPTS = (
    *(f"audit/rules/script/{name}.py" for name in ("little_python", "self_contained", "score_path")),
    *(f"audit/rules/window/{name}.py" for name in ("small_windows", "time_axis", "targets")),
)
KNOW = ("core/world.py", "core/devices.py", "ship/shrink/reserved.py", *SCRIPTS)  # the last list names of torch
FULL = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."


def test_only_the_table_knows_devices_by_name():
    """What a device can do is asked of `core/world.py`: no other file names a kind."""
    names = re.compile(r"""["'](cuda|mps|xpu)["']|is_cuda|torch\.(cuda|mps|xpu)\b""")
    strange = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in ROOT.rglob("*.py")
        if path.parts[-2] not in ("sandbox", "blackbox") and path.relative_to(ROOT).as_posix() not in KNOW
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if names.search(line)
    ]
    assert strange == []


def training(device, **fields):
    fields = {"steps": 2, **fields}
    return Training(
        small.train(**fields),
        small.model().build(0).to(device),
        small.shards(),
        seed=1,
        clock=Clock(),
        seconds=float("inf"),
        world=World(device=torch.device(device)),
    )


def test_a_device_that_nobody_knows_is_asked_for_float32_alone(monkeypatch):
    assert abilities(torch.device("meta")) == DeviceKind()
    plain = training("meta")
    assert not plain.half and not plain.compiled and plain._load(0)[0].device.type == "meta"
    assert not training("meta", half=True).half
    monkeypatch.setitem(KINDS, "meta", DeviceKind(half=True, compiles=True))
    able = training("meta")
    assert able.half and able.compiled and not training("meta", half=False).half


def test_an_old_card_is_not_asked_for_bfloat16(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for capability, half, compiles in (((9, 0), True, True), ((7, 5), False, True), ((6, 1), False, False)):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device, found=capability: found)
        found = abilities(torch.device("cuda"))
        assert (found.half, found.flex, found.compiles, found.pins) == (half, half, compiles, True)


def test_a_made_up_device_is_taken_and_counted(monkeypatch):
    monkeypatch.setitem(KINDS, "made", DeviceKind())
    monkeypatch.setattr(torch, "made", SimpleNamespace(device_count=lambda: 2), raising=False)
    devices.check_device("made:1")
    with pytest.raises(UserError, match=r"There is no device 'made:2' here: this machine has cpu and made:0 to made:1"):
        devices.check_device("made:2")
    for word in ("mps", "xpu", "xpu:0", "tpu"):
        with pytest.raises(UserError, match=f"There is no device '{word}'"):
            devices.check_device(word)


def test_a_device_s_memory_is_given_back_and_waited_for(monkeypatch):
    asked = []
    module = SimpleNamespace(empty_cache=lambda: asked.append("empty"), synchronize=lambda: asked.append("wait"))
    monkeypatch.setattr("torch.get_device_module", lambda device: module)
    for device in ("cpu", "meta"):
        devices.release_memory(torch.device(device))
        world.synchronize(torch.device(device))
    assert asked == ["empty", "wait"]


# --- memory


class Cramped(nn.Module):
    """A model that has room for `most` rows at a time."""

    def __init__(self, model, most):
        super().__init__()
        self.inner, self.most, self.shown = model, most, []

    def forward(self, ids_BT, *, first=0):
        self.shown.append(len(ids_BT))
        if len(ids_BT) > self.most:
            raise RuntimeError(FULL)
        return self.inner(ids_BT, first=first)


def a_text(tokens=600):
    stream = small.shards(tokens).take(0, tokens)
    stream[::60] = 1
    return Text(stream, np.ones(tokens - 1, dtype=np.int64), 32, 1)


def final(work):
    events = list(work)
    return events[-1], [event for event in events if isinstance(event, Narrowed)]


def test_scoring_shows_fewer_windows_where_memory_runs_out():
    model = small.model().build(0).eval()
    whole, none = final(score(model, a_text(), Sliding(16, 8), batch_windows=12))
    cramped = Cramped(model, 2)
    found, said = final(score(cramped, a_text(), Sliding(16, 8), batch_windows=12))
    assert none == [] and [(event.what, event.size) for event in said] == [("windows at once", 1)]
    assert isinstance(found, Score) and found.in_turn and found.tokens == whole.tokens
    assert found.loss == pytest.approx(whole.loss, abs=1e-6) and max(cramped.shown[4:]) <= 12
    assert np.allclose(found.nats_N, whole.nats_N, atol=1e-6)
    with pytest.raises(RuntimeError, match="allocate memory"):
        final(score(Cramped(model, 0), a_text(), Sliding(16, 8), batch_windows=12))


def test_a_predictor_that_cannot_be_parted_is_not():
    model = small.model().build(0).eval()
    cramped = Cramped(model, 2)
    with pytest.raises(RuntimeError, match="allocate memory"):
        final(score(lambda ids, *, first: cramped(ids, first=first), a_text(), Sliding(16, 8), batch_windows=12))


def test_a_tilt_that_has_counted_a_window_does_not_count_it_again(monkeypatch):
    """Where memory runs out behind the model, smaller parts would give other numbers: the error is raised as it is."""
    real = Ledger._normalize

    def cramped(self, logits_BSV, *rest):
        if len(logits_BSV) > 1:
            raise RuntimeError(FULL)
        return real(self, logits_BSV, *rest)

    monkeypatch.setattr(Ledger, "_normalize", cramped)
    with pytest.raises(RuntimeError, match="allocate memory"):
        list(score_adapted(small.model(bos=1).build(0), a_text(), Sliding(16, 8), HintTilt((2,))))


@pytest.mark.parametrize("adapter", [lambda spec: spec, lambda spec: HintTilt((2,), adapter=spec)])
def test_adapting_takes_fewer_documents_at_once_with_the_same_numbers(adapter, monkeypatch):
    shown = []
    spec = adapter(LowRank(rank=2, lr=0.05, chunk=8, batch=6, globs=("attn.q", "mlp.up")))

    def adapted():
        model = small.model(bos=1).build(0)
        return list(score_adapted(model, a_text(), PerDocument(16, 8), spec))[-1].score

    whole = adapted()
    real = type(small.model().build(0)).hidden

    def hidden(self, ids_BT, *args, **how):
        shown.append(len(ids_BT))
        if len(ids_BT) > 2:
            raise RuntimeError(FULL)
        return real(self, ids_BT, *args, **how)

    monkeypatch.setattr(type(small.model().build(0)), "hidden", hidden)
    cramped = adapted()
    assert max(shown) > 2 and sum(rows > 2 for rows in shown) < 8
    assert cramped.loss == pytest.approx(whole.loss, abs=1e-6)


def test_texts_are_scored_in_fewer_rows_with_the_same_grades():
    model, random = small.model().build(0).eval(), np.random.default_rng(3)
    texts = [random.integers(0, 32, size=9 + number // 4).tolist() for number in range(12)]
    whole = score_texts(model, texts, vocab=32, length=16)
    cramped = Cramped(model, 1)
    for found, wanted in zip(score_texts(cramped, texts, vocab=32, length=16), whole, strict=True):
        assert found.nats == pytest.approx(wanted.nats, abs=1e-6) and (found.likeliest == wanted.likeliest).all()
    assert max(cramped.shown) > 1 and sum(rows > 1 for rows in cramped.shown) < 4


@pytest.mark.parametrize(
    "spec",
    [
        SGD(lr=0.05, chunk=128, batch=6, epochs=2),
        HintTilt((2,), adapter=AdamW(lr=0.01, chunk=128, batch=6, anchor=0.1)),
        LowRank(rank=2, lr=0.05, chunk=8, batch=6, globs=("attn.q",), phases=Phases((5,), SGD(chunk=128, batch=6))),
    ],
)
def test_chunks_are_trained_on_in_fewer_rows_with_the_same_numbers(spec, monkeypatch):
    """Memory runs out where gradients are asked for, as they take most of it."""
    windows = PerDocument(16, 8) if spec.by_document else Sliding(16, 8)
    kind, tried = type(small.model().build(0)), []

    def adapted():
        events = list(score_adapted(small.model(bos=1).build(0), a_text(), windows, spec))
        return events[-1].score, [(event.what, event.size) for event in events if isinstance(event, Narrowed)]

    whole, none = adapted()
    real = kind.hidden

    def hidden(self, ids_BT, *args, **how):
        if torch.is_grad_enabled():
            tried.append(len(ids_BT))
            if len(ids_BT) > 1:
                raise RuntimeError(FULL)
        return real(self, ids_BT, *args, **how)

    monkeypatch.setattr(kind, "hidden", hidden)
    cramped, said = adapted()
    assert none == [] and said == [("rows trained at once", 1)]
    assert cramped.loss == pytest.approx(whole.loss, abs=1e-6) and cramped.loss != pytest.approx(math.log(32), abs=1e-3)
    assert 0 < sum(rows > 1 for rows in tried) < 12  # it is remembered


def cramped_training(micro_tokens):
    spec = small.train(batch_tokens=2048, seq_len=128, micro_tokens=micro_tokens)
    shards = small.shards(3000, vocab=16384)
    model = small.model(vocab=16384, layers=1).build(0)
    return RunTraining(spec, model, shards, seed=1, clock=Clock(), seconds=float("inf"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the size of its address space from /proc")
def test_under_a_limit_on_address_space_training_goes_on_in_smaller_passes():
    told = cramped_training(256)._gradients(0)
    cramped = cramped_training(2048)

    def work():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (120 << 20),) * 2)
        found = cramped._gradients(0)
        assert cramped.spec.micro_tokens < 2048 and found == pytest.approx(told, abs=1e-6)

    assert ended(forked(work)) == 0
