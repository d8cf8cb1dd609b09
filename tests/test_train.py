"""The train floor: optimizers against the published numbers, schedules, averages, phases, and the loop's promises."""

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from pargolf.core.budget import Clock
from pargolf.core.errors import UserError
from pargolf.core.events import PhaseBegan, Step, Stopped
from pargolf.core.spec import checked, edit
from pargolf.data.stream import Shuffled
from pargolf.data.unigram import log_unigram
from pargolf.model.dropout import Dropout
from pargolf.model.graph import looped
from pargolf.model.head import Head
from pargolf.quant.grid import Int
from pargolf.quant.plan import QAT
from pargolf.recipes.catalog import find
from pargolf.recipes.scale import fractional, mini
from pargolf.training.adam import Adam, Frozen
from pargolf.training.average import EMA, LAWA, SWA
from pargolf.training.checkpoint import Checkpoints, open_checkpoint
from pargolf.training.loop import NotFinite, Training
from pargolf.training.muon import POLAR_EXPRESS, QUINTIC, Muon, MuonGroup, orthogonalize
from pargolf.training.optimizer import Optimizer
from pargolf.training.phases import AtFraction, AtStep, BelowLR, FromStart, Phase
from pargolf.training.schedule import Moment, Warmdown, WarmdownIters

GOLDEN = Path(__file__).parent / "golden"
MUON_ROWS = {
    "baseline": Muon(0.04, momentum=0.95),
    "pr295": Muon(0.02, momentum=0.99, weight_decay=0.04),
    "pr1009": Muon(0.02, momentum=0.99, weight_decay=0.04, half_state=True),
    "pr543": Muon(0.025, momentum=0.99, weight_decay=0.04, decay_after=True),
    "pr861": Muon(0.025, momentum=0.99, weight_decay=0.04, decay_after=True),
}


PLAIN = small.model()
LOOPED = small.model(layers=3, order=looped(3, 1, 1, 3))


def training(*, model=PLAIN, seed=1, seconds=float("inf"), clock=None, **fields):
    model = model.build(seed)
    spec = small.train(**{"steps": 5, **fields})
    return Training(spec, model, small.shards(), seed=seed, clock=clock or Clock(), seconds=seconds)


def weights(run):
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def losses(run):
    return [e.loss for e in run.run() if isinstance(e, Step)]


def muon_step(group):
    """One step of a group by itself, its momentum having risen."""
    group.reduce()
    group.wait()
    group.update(1.0, step=1_000_000, fraction=0.0)
    group.finish()


@pytest.mark.parametrize("system", sorted(MUON_ROWS))
def test_muon_takes_the_published_steps(system):
    golden = load_file(GOLDEN / "muon.safetensors")
    names = sorted({key.split(".")[1] for key in golden if key.startswith(f"{system}.")})
    assert len(names) == 3
    row = MUON_ROWS[system]
    for name in names:
        start, after = golden[f"{name}.initial"], golden[f"{system}.{name}.final"]
        p = torch.nn.Parameter(start.clone())
        group = MuonGroup(row, [p], dtype=torch.bfloat16)
        for step in range(3):
            p.grad = golden[f"{name}.grad{step}"].clone()
            muon_step(group)
        change = (after - start).norm()
        assert abs((p.detach() - start).norm() - change) <= 2e-3 * change
        # bfloat16 products rounded in another order move single entries; the direction stays.
        assert torch.cosine_similarity((p.detach() - start).flatten(), (after - start).flatten(), dim=0) > 0.9995


def test_float32_products_point_where_bfloat16_ones_do():
    u = torch.randn(2, 24, 40, generator=torch.Generator().manual_seed(0))
    exact, rounded = orthogonalize(u), orthogonalize(u, dtype=torch.bfloat16)
    fused = orthogonalize(u, dtype=torch.bfloat16, fused=True)
    assert torch.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0) > 0.999
    assert torch.cosine_similarity(exact.flatten(), fused.flatten(), dim=0) > 0.999
    assert not torch.equal(fused, rounded) and not torch.equal(fused, exact)


def test_muon_multiplies_bfloat16_where_a_run_does():
    start, grad = torch.randn(2, 24, 40, generator=torch.Generator().manual_seed(0))

    def after(half):
        p = torch.nn.Parameter(start.clone())
        optimizer = Optimizer((("*", Muon(0.1)),), {"w": p}, half=half)
        p.grad = grad.clone()
        optimizer.reduce()
        optimizer.step(1.0, step=0, fraction=0.0)
        return (p.detach() - start).flatten()

    assert not torch.equal(after(True), after(False))
    assert torch.cosine_similarity(after(True), after(False), dim=0) > 0.999


@pytest.mark.parametrize("polynomials", [QUINTIC, POLAR_EXPRESS])
@given(rows=st.integers(2, 24), cols=st.integers(2, 24), seed=st.integers(0, 9))
def test_orthogonalize_brings_singular_values_near_one_and_keeps_directions(polynomials, rows, cols, seed):
    x = torch.randn(2, rows, cols, generator=torch.Generator().manual_seed(seed))
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    well = s.min(-1).values / s.norm(dim=-1) > 0.02
    o = orthogonalize(x, polynomials)
    values = torch.linalg.svdvals(o)[well]
    assert ((values > 0.3) & (values < 1.5)).all()
    # o shares the singular vectors of x, so u^T o v is diagonal.
    inner = u.mT @ o @ v.mT
    assert (inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-3


def test_stacking_matrices_changes_no_update():
    generator = torch.Generator().manual_seed(0)
    starts, grads = (torch.randn(3, 8, 12, generator=generator) for _ in range(2))
    together = [torch.nn.Parameter(p.clone()) for p in starts]
    for p, g in zip(together, grads):
        p.grad = g.clone()
    muon_step(MuonGroup(Muon(momentum=0.9), together))
    for p, start, grad in zip(together, starts, grads):
        alone = torch.nn.Parameter(start.clone())
        alone.grad = grad.clone()
        muon_step(MuonGroup(Muon(momentum=0.9), [alone]))
        torch.testing.assert_close(p, alone, atol=1e-6, rtol=0)


def test_row_norm_changes_the_update_and_decay_order_matters():
    def after(row):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4).clone())
        p.grad = torch.linspace(0.5, 2, 12).view(3, 4).sin()
        muon_step(MuonGroup(replace(row, momentum=0.9), [p]))
        return p.detach()

    plain = after(Muon(0.1))
    assert not torch.allclose(plain, after(Muon(0.1, row_norm=True)))
    before, late = after(Muon(0.1, weight_decay=1.0)), after(Muon(0.1, weight_decay=1.0, decay_after=True))
    start = torch.linspace(-1, 1, 12).view(3, 4)
    torch.testing.assert_close(before, plain - 0.1 * start)
    torch.testing.assert_close(late, plain * 0.9)


def test_weight_decay_tapers_over_the_last_share_of_the_run():
    row = Muon(weight_decay=0.1, taper_from=0.7, taper_to=0.5)
    assert [row.decay_at(f) for f in (0.0, 0.7, 0.85, 1.0)] == pytest.approx([0.1, 0.1, 0.075, 0.05])
    assert Muon(weight_decay=0.1).decay_at(1.0) == 0.1
    full, tapered = (
        training(steps=6, optimizer=(*small.OPTIMIZER[:-1], ("*", Muon(weight_decay=1.0, taper_from=t, taper_to=0.0))))
        for t in (1.0, 0.5)
    )
    a, b = losses(full), losses(tapered)
    # The step that begins at half the run still decays in full; the loss after the next shows the difference.
    assert b[:5] == a[:5] and b[5] != a[5]


def test_optimizer_table_is_strict():
    params = dict(small.model().build().named_parameters())
    with pytest.raises(UserError, match="No row of the optimizer table speaks of"):
        Optimizer((("embed.*", Adam(0.1)), ("graph.*", Adam(0.1))), params)
    with pytest.raises(UserError, match="matches no parameter"):
        Optimizer((("embed.bigrm", Adam(0.1)), ("*", Adam(0.1))), params)
    with pytest.raises(UserError, match="Muon takes matrices"):
        Optimizer((("*", Muon()),), params)


def test_frozen_rows_do_not_move_and_all_others_do():
    run = training(optimizer=(("embed.tokens", Frozen()), *small.OPTIMIZER[1:]), steps=3)
    before = weights(run)
    losses(run)
    after = weights(run)
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {"embed.tokens.weight"}


def test_training_lowers_the_loss():
    run = training(steps=60)
    found = losses(run)
    assert sum(found[-5:]) / 5 < sum(found[:5]) / 5 - 0.5


def test_a_head_s_bias_starts_at_the_frequencies_of_the_training_text():
    model = small.model(head=Head(bias=True)).build(1)
    source = small.shards()
    spec = small.train(steps=1, optimizer=(("head.bias", Adam(0.02)), *small.OPTIMIZER))
    run = Training(spec, model, source, seed=1, clock=Clock(), seconds=float("inf"))
    counts = torch.bincount(torch.from_numpy(source.take(0, len(source)).astype("int64")), minlength=32)
    torch.testing.assert_close(model.head.bias.detach().exp(), (counts + 1.0) / (len(source) + 32))
    targets_BT = run.stream.batch(0)[1]
    first = losses(run)[0]
    assert first == pytest.approx(-float(log_unigram(source, 32)[targets_BT].mean()), abs=0.05)
    assert first < losses(training(steps=1))[0] - 0.1


def test_two_runs_of_one_seed_are_bit_identical():
    a, b = training(seed=3), training(seed=3)
    assert losses(a) == losses(b)
    assert all(torch.equal(x, y) for x, y in zip(weights(a).values(), weights(b).values()))


def test_micro_batches_do_not_change_the_step():
    whole, split = training(steps=3), training(steps=3, micro_tokens=16)
    assert losses(whole) == pytest.approx(losses(split), abs=1e-5)
    for x, y in zip(weights(whole).values(), weights(split).values()):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=1e-4)


class SlowClock:
    """Every look at the time costs a fixed number of seconds, and every step some more."""

    def __init__(self, per_look):
        self.now, self.per_look = 0.0, per_look

    def __call__(self):
        self.now += self.per_look
        return self.now


@settings(max_examples=8)
@given(per_look=st.floats(0.1, 0.7), seconds=st.floats(5, 12))
def test_a_run_bounded_by_seconds_ends_inside_them(per_look, seconds):
    run = training(steps=None, seconds=seconds, clock=Clock(SlowClock(per_look)))
    *steps, stopped = list(run.run())
    assert isinstance(stopped, Stopped) and stopped.reason == "seconds"
    assert all(e.seconds <= seconds for e in steps)
    # It does not stop far too early either: another two steps would not have fitted.
    longest = max(b.seconds - a.seconds for a, b in itertools.pairwise(steps)) if len(steps) > 1 else seconds
    assert steps[-1].seconds + 3 * longest + 3 * per_look >= seconds


def test_steps_bound_a_run_and_stop_ends_it():
    assert len(losses(training(steps=4))) == 4
    run = training(steps=100)
    seen = []
    for event in run.run():
        seen.append(event)
        run.stop = "interrupted" if isinstance(event, Step) and event.step == 2 else ""
    assert isinstance(seen[-1], Stopped) and seen[-1].reason == "interrupted" and seen[-1].step == 2


def test_an_infinite_loss_names_the_step():
    run = training(steps=3)
    with torch.no_grad():
        run.model.embed.tokens.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="at step 0"):
        losses(run)


@given(st.floats(0, 1), st.floats(0.05, 1), st.floats(0, 0.5))
def test_warmdown_stays_between_floor_and_one_and_never_rises(elapsed, fraction, floor):
    schedule = Warmdown(fraction, floor)
    here, later = (schedule(Moment(9, 100 * x, 100.0)) for x in (elapsed, min(elapsed + 0.1, 1.0)))
    assert floor <= later <= here <= 1
    assert schedule(Moment(9, 0.0, 100.0)) == 1
    assert schedule(Moment(9, 100.0, 100.0)) == pytest.approx(floor)


def test_published_warmdown_is_by_mean_step_time():
    schedule = WarmdownIters(10)
    assert schedule(Moment(50, 50.0, 100.0)) == 1
    assert schedule(Moment(95, 95.0, 100.0)) == pytest.approx(0.5)
    # Pull request 861: 1,386.5 s into 1,800 s at step 19,999 the multiplier is still .994.
    assert WarmdownIters(6000)(Moment(19_999, 1386.5, 1800.0)) == pytest.approx(0.994, abs=1e-3)


def test_momentum_rises_by_steps_or_by_share_of_the_run():
    by_steps, by_share = Muon(momentum_warmup=500), Muon(momentum_warmup=0.5)
    assert by_steps.momentum_at(0, 0) == pytest.approx(0.85)
    assert by_steps.momentum_at(250, 0.9) == pytest.approx(0.90)
    assert by_share.momentum_at(9999, 0.25) == pytest.approx(0.90)
    assert by_share.momentum_at(0, 0.75) == pytest.approx(0.95)


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=20), st.floats(0.1, 0.99))
def test_ema_is_its_closed_form(values, decay):
    average = EMA(decay).begin({"w": torch.zeros(1, dtype=torch.float64)})
    for step, value in enumerate(values, 1):
        average.update({"w": torch.tensor([value], dtype=torch.float64)}, step=step, lr=1.0)
    n = len(values)
    expected = sum((1 - decay) * decay ** (n - 1 - i) * v for i, v in enumerate(values))
    assert float(average.weights()["w"]) == pytest.approx(expected, abs=1e-5)


def test_ema_in_bfloat16_loses_small_steps_as_published():
    def last(low):
        name = "embed.tokens.weight"
        average = EMA(0.997, tables_bfloat16=low).begin({name: torch.full((1,), 0.9)})
        for step in range(2000):
            average.update({name: torch.ones(1)}, step=step, lr=1.0)
        return float(average.weights()[name])

    assert last(low=False) == pytest.approx(1.0, abs=1e-3)
    assert last(low=True) == pytest.approx(0.8984375)


def test_swa_takes_the_mean_of_late_snapshots():
    average = SWA(below=0.5, every=2).begin({"w": torch.zeros(1)})
    assert average.weights() is None
    for step, lr in enumerate((1.0, 0.6, 0.4, 0.3, 0.2, 0.1), 1):
        average.update({"w": torch.tensor([float(step)])}, step=step, lr=lr)
    assert float(average.weights()["w"]) == pytest.approx((4 + 6) / 2)


def test_the_average_is_what_a_run_ends_with():
    plain, averaged = training(steps=6), training(steps=6, average=EMA(0.5))
    assert losses(plain) == losses(averaged)
    assert not torch.equal(weights(plain)["embed.tokens.weight"], weights(averaged)["embed.tokens.weight"])


@pytest.mark.parametrize(
    ("trigger", "first"), [(FromStart(), 0), (AtStep(3), 3), (AtFraction(0.5), 4), (BelowLR(0.6), 6)]
)
def test_phases_begin_when_they_say(trigger, first):
    run = training(steps=8, phases=(Phase("p", trigger),))
    began = [e for e in run.run() if isinstance(e, PhaseBegan)]
    assert [e.step for e in began] == [first]


def test_qat_is_live_and_its_weights_are_the_grid_s_own():
    grid = Int(3)
    table = (("mlp.*", grid), ("*", None))
    plain, qat = training(steps=3), training(steps=3, phases=(Phase("qat", AtStep(1), weights=QAT(table)),))
    a, b = losses(plain), losses(qat)
    assert a[0] == b[0] and a[1] != b[1]
    live = dict(qat.model.named_parameters())
    changed = qat.change(live)
    assert set(changed) == {name for name in live if ".mlp." in name}
    for name, w in changed.items():
        torch.testing.assert_close(w, grid.decode(grid.encode(live[name].detach())), atol=0, rtol=0)


def test_phases_change_batch_learning_rate_and_average():
    phase = Phase("long", AtStep(2), seq_len=32, batch_tokens=128, lr=0.5, reset_average=True)
    run = training(steps=4, phases=(phase,), average=EMA(0.9), schedule=Warmdown(0.0))
    steps = [e for e in run.run() if isinstance(e, Step)]
    assert [e.tokens for e in steps] == [64, 128, 256, 384]
    assert [e.lr for e in steps] == [1, 1, 0.5, 0.5]
    assert run.stream.batch(3)[0].shape == (4, 32)


def test_recurrence_begins_with_its_phase_and_is_what_the_run_ends_with():
    late = Phase("recurrence", AtStep(2), recur=True)
    once, always = training(model=replace(LOOPED, order=None), steps=4), training(model=LOOPED, steps=4)
    run = training(model=LOOPED, steps=4, phases=(late,))
    a, b, c = losses(once), losses(run), losses(always)
    assert b[:2] == a[:2] and b[2] != a[2] and b[1] != c[1]
    ids = run.stream.batch(0)[0]
    again = LOOPED.build(0)
    again.load_state_dict(run.model.state_dict())
    torch.testing.assert_close(run.model(ids), again(ids))
    recipe = replace(small.RECIPE, train=small.train(phases=(late,)))
    with pytest.raises(UserError, match=r"train\.phases\[0\]\.recur needs a model\.order"):
        checked(recipe)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="multiple of"):
        training(batch_tokens=50)


def test_optimizer_state_goes_out_and_back():
    run = training(steps=3)
    losses(run)
    state = run.optimizer.state()
    other = training(steps=3)
    other.optimizer.restore(state)
    back = other.optimizer.state()
    assert state.keys() == back.keys() and all(torch.equal(state[name], back[name]) for name in state)
    assert {name.rpartition(".")[2] for name in state} == {"momentum", "step", "exp_avg", "exp_avg_sq"}


def test_lawa_takes_the_mean_of_the_latest_snapshots_only():
    average = LAWA(latest=2, every=2).begin({"w": torch.zeros(1)})
    assert average.weights() is None
    for step in range(1, 8):
        average.update({"w": torch.tensor([float(step)])}, step=step, lr=1.0)
    assert float(average.weights()["w"]) == pytest.approx((4 + 6) / 2)


AVERAGES = [EMA(0.9), EMA(0.9, tables_bfloat16=True), SWA(below=2.0, every=2), LAWA(latest=2, every=2)]


def everything(run):
    tensors, facts = run.state()
    return {name: x.clone() for name, x in tensors.items()}, {**facts, "seconds": 0}


def same(a, b):
    assert a[1] == b[1] and a[0].keys() == b[0].keys()
    assert all(torch.equal(a[0][name], b[0][name]) and a[0][name].dtype == b[0][name].dtype for name in a[0])


@pytest.mark.parametrize("average", AVERAGES, ids=repr)
def test_a_run_resumed_at_any_step_ends_bit_for_bit_as_one_that_never_stopped(average, tmp_path):
    phases = (
        Phase("qat", AtStep(3), weights=QAT((("mlp.*", Int(3)), ("*", None))), reset_average=True, lr=0.7),
        Phase("long", AtStep(5), seq_len=32, recur=True),
    )
    fields = {"model": LOOPED, "steps": 7, "average": average, "phases": phases, "order": Shuffled(), "grad_clip": 0.5}
    whole = training(**fields)
    kept = Checkpoints(tmp_path / "kept")
    files, seen = {}, []
    for event in whole.run():
        seen.append(event)
        if isinstance(event, Step):
            kept.write(*whole.state())
            files[event.step] = kept.paths()[0].read_bytes()
    for step in (1, 2, 4, 6):
        (tmp_path / "one.safetensors").write_bytes(files[step])
        other = training(**fields)
        other.restore(*open_checkpoint(tmp_path / "one.safetensors"))
        rest = list(other.run())
        assert [e.loss for e in rest if isinstance(e, Step)] == [
            e.loss for e in seen if isinstance(e, Step) and e.step > step
        ]
        same(everything(other), everything(whole))


def test_dropout_is_of_training_alone_and_of_the_step_alone():
    dropped = edit(PLAIN, {"blocks[:].residual": Dropout(0.3)})
    assert losses(training(model=edit(PLAIN, {"blocks[:].residual": Dropout(0.0)}))) == losses(training())
    assert losses(training(model=dropped)) != losses(training())
    whole = training(model=dropped, steps=4)
    rest = training(model=dropped, steps=4)
    for event in whole.run():
        if isinstance(event, Step) and event.step == 2:
            rest.restore(*whole.state())
    torch.rand(3)
    assert len(losses(rest)) == 2
    same(everything(rest), everything(whole))
    ids = torch.arange(12)[None] % PLAIN.vocab
    plain = PLAIN.build(1)
    plain.load_state_dict(whole.model.state_dict())
    with torch.no_grad():
        assert torch.equal(whole.model(ids), plain(ids)), "scoring is thinned"
    assert torch.equal(whole.model.eval()(ids), plain(ids)), "adaptation is thinned"
    assert not torch.equal(whole.model.train()(ids), plain(ids))
    with pytest.raises(UserError, match="rate"):
        checked(Dropout(1.0))


def test_dropout_can_wait_until_the_text_was_gone_through():
    once = len(small.shards()) // 512  # steps of a time through
    fields = {"batch_tokens": 512, "steps": once + 2}
    late = losses(training(model=edit(PLAIN, {"blocks[:].residual": Dropout(0.3, after=1.0)}), **fields))
    plain = losses(training(**fields))
    assert late[:once] == plain[:once] and late[once] != plain[once]


def test_dropout_begins_only_in_a_run_that_comes_to_so_many_passes():
    once = len(small.shards()) // 512
    twice = edit(PLAIN, {"blocks[:].residual": Dropout(0.3, after=1.0, passes=2.0)})
    for steps, begins in ((2 * once - 2, False), (2 * once + 2, True)):
        fields = {"batch_tokens": 512, "steps": steps}
        late, plain = losses(training(model=twice, **fields)), losses(training(**fields))
        assert late[:once] == plain[:once] and (late[once + 1 :] != plain[once + 1 :]) is begins


def test_two_checkpoints_are_kept_and_a_damaged_one_is_refused_by_name(tmp_path):
    run, kept = training(steps=4), Checkpoints(tmp_path / "kept")
    for event in run.run():
        if isinstance(event, Step):
            kept.write(*run.state())
    newest, before = kept.paths()
    assert (newest.name, before.name) == ("step-00000004.safetensors", "step-00000003.safetensors")
    assert kept.newest().facts["step"] == 4 and kept.newest().refused == ()
    whole = newest.read_bytes()
    at = whole.index(b'"step\\": 4') if b'"step\\": 4' in whole else len(whole) - 40
    for damaged in (whole[: len(whole) // 2], whole[:7], b"", whole[:-30] + b"\xff" + whole[-29:], whole + b"\0",
                    whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):  # fmt: skip
        newest.write_bytes(damaged)
        found = kept.newest()
        assert found.facts["step"] == 3 and found.path == before
        assert len(found.refused) == 1 and newest.name in found.refused[0]
    before.write_bytes(b"also gone")
    with pytest.raises(UserError, match=r"step-00000004.*step-00000003"):
        kept.newest()


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_altered_byte_is_noticed_or_changes_nothing(place, flip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    tensors = {"a": torch.arange(6.0).bfloat16().view(2, 3), "b": torch.tensor(7)}
    path = Checkpoints(folder).write(tensors, {"step": 1})
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= flip
    path.write_bytes(data)
    try:
        read, facts = open_checkpoint(path)
    except UserError as error:
        assert path.name in str(error)
    else:
        assert facts == {"step": 1} and all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_checkpoints_take_no_more_than_their_share_of_the_time(tmp_path):
    kept = Checkpoints(tmp_path, every=10)
    assert not kept.due(9) and kept.due(10)
    kept.last, kept.cost = 10.0, 1.0
    assert not kept.due(59) and kept.due(60)


def test_a_run_that_blows_up_stops_whole_with_step_batch_and_what_to_try():
    run = training(steps=9, order=Shuffled())
    for event in run.run():
        before = everything(run)
        if isinstance(event, Step) and event.step == 4:
            break
    spoiled = training(steps=9, order=Shuffled())
    spoiled.restore(before[0], before[1])
    spoiled.loss = lambda x, y, loss=spoiled.loss: loss(x, y) * float("inf")
    with pytest.raises(NotFinite, match=r"at step 4, on batch 4 of 64 tokens.*halve the rates"):
        list(spoiled.run())
    same(everything(spoiled), before)
    # An infinite gradient under a finite loss is seen as well, before it reaches a weight.
    inf = torch.tensor(float("inf"))
    hook = run.model.embed.tokens.weight.register_hook(lambda g: g * inf)
    with pytest.raises(NotFinite, match="gradient's norm became"):
        list(run.run())
    hook.remove()
    same(everything(run), before)


def test_a_corpus_smaller_than_a_batch_is_refused():
    with pytest.raises(UserError, match="fewer than one batch"):
        training(batch_tokens=4096)


def fake_time():
    """A clock whose time is a list of one number, for others to move."""
    now = [0.0]
    return now, Clock(lambda: now[0])


@dataclass(frozen=True)
class Slow:
    """A weight change that takes `seconds` of an injected clock each time it is asked."""

    seconds: float
    now: list = field(hash=False)

    def resolve(self, weights):
        def change(live):
            self.now[0] += self.seconds
            return {}

        return change


@pytest.mark.parametrize("at", [AtFraction(0.97), AtFraction(0.5), BelowLR(0.04)])
def test_a_late_phase_of_slower_steps_does_not_run_over_the_time(at):
    now, clock = fake_time()
    phase = Phase("slow", at, weights=Slow(3.0, now))
    run = training(steps=None, seconds=40.0, clock=clock, phases=(phase,), schedule=Warmdown(1.0))
    plain = run.loss

    def loss(x, y):
        now[0] += 1.0
        return plain(x, y)

    run.loss = loss
    run.changes[None] = (None, loss)
    before = everything(run)
    run.warm_up()
    same(everything(run), before)
    assert run.slower == [2.0]
    events = list(run.run())
    assert clock.seconds <= 40.0
    assert all(e.seconds <= 40.0 for e in events)


def test_seconds_that_were_used_before_a_kill_count():
    now, _ = fake_time()
    run = training(steps=None, seconds=10.0, clock=Clock(lambda: now[0], already=8.0))
    plain = run.loss

    def loss(x, y):
        now[0] += 1.0
        return plain(x, y)

    run.loss = loss
    assert sum(isinstance(e, Step) for e in run.run()) == 2


@pytest.mark.parametrize("change", ["weights", "seq_len", "batch_tokens", "recur"])
def test_every_phase_is_live_under_torch_compile(change, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, backend=backend, **options))
    torch._dynamo.reset()
    value = {"weights": QAT((("mlp.*", Int(3)), ("*", None))), "seq_len": 32, "batch_tokens": 128, "recur": True}[
        change
    ]
    phases = (Phase("p", AtStep(2), **{change: value}),)
    model = LOOPED if change == "recur" else PLAIN
    eager, compiled = (training(model=model, steps=4, phases=phases, compile=c) for c in (False, True))
    before = everything(compiled)
    compiled.warm_up()
    same(everything(compiled), before)
    warm = len(graphs)
    assert warm == 2
    a, b = losses(eager), losses(compiled)
    assert b == pytest.approx(a, abs=1e-5)
    assert a[3] != losses(training(model=replace(model, order=None), steps=4))[3]
    assert len(graphs) == warm, "a graph was compiled after the warm-up"


@pytest.mark.parametrize("name", ["pr549", "house", "pr2135"])
def test_under_autocast_the_whole_stream_is_half_as_wide(name):
    model = mini(find(name)).model.build(1)
    ids = torch.randint(1, model.spec.vocab, (2, 32), generator=torch.Generator().manual_seed(1))
    kinds = set()
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: kinds.update(lane.dtype for lane in out))
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss(ids, ids)
    assert kinds == {torch.bfloat16}
    whole = model.loss(ids, ids)
    assert kinds == {torch.bfloat16, torch.float32}
    torch.testing.assert_close(half.float(), whole, atol=0.05, rtol=0.01)


@pytest.mark.parametrize("name", ["baseline", "pr549", "pr1009", "pr861"])
def test_a_run_of_another_length_takes_the_same_shares_of_it(name):
    full, small = find(name), mini(find(name))
    train = fractional(full, steps=400)
    assert train.schedule == small.train.schedule
    assert [phase.at for phase in train.phases] == [phase.at for phase in small.train.phases]
    assert train.batch_tokens == full.train.batch_tokens
