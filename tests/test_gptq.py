"""Error feedback: never worse than rounding, plain where nothing can be gained; Hessians that say what errors cost."""

import math
import shutil

import pytest
import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import pargolf
from pargolf.core.errors import UserError
from pargolf.core.spec import checked, edit
from pargolf.model.head import Head
from pargolf.quant.calibrate import _Sums, calibrate, own_text
from pargolf.quant.clip import Amax, HessianStdDev, StdDev
from pargolf.quant.gptq import GPTQ, OwnText, weighted_error
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import Quantize
from pargolf.quant.trellis import Trellis
from pargolf.run.pack import read_artifact


def inputs(columns, *, seed, rank=None):
    """A Hessian of correlated inputs, singular when `rank` is under the columns."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(rank or columns, columns, generator=generator)
    x = torch.randn(4 * columns, rank or columns, generator=generator) @ mix
    return x.T @ x / len(x)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 40),
    bits=st.integers(2, 8),
    clip=st.sampled_from([Amax(), StdDev(2.5)]),
    block=st.sampled_from([1, 7, 128]),
    rank=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 99),
)
def test_error_feedback_is_never_worse_than_rounding(rows, columns, bits, clip, block, rank, seed):
    w = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    hessian, grid = inputs(columns, seed=seed, rank=rank), Int(bits, clip=clip)
    solved = GPTQ(block=block).encode(w, grid, hessian)
    rounded = grid.encode(w)
    assert torch.equal(solved.scales, rounded.scales) and solved.codes.shape == w.shape
    low, high = int(solved.codes.min()), int(solved.codes.max())
    assert grid.low <= low <= high <= grid.high
    error, plain = (weighted_error(w - grid.decode(c), hessian) for c in (solved, rounded))
    assert error <= plain * (1 + 1e-4)


def test_error_feedback_gains_much_where_inputs_are_correlated():
    w, hessian = torch.randn(64, 128, generator=torch.Generator().manual_seed(1)), inputs(128, seed=2, rank=40)
    grid = Int(4, clip=StdDev(3.5))
    error = weighted_error(w - grid.decode(GPTQ().encode(w, grid, hessian)), hessian)
    assert error < 0.5 * weighted_error(w - grid.decode(grid.encode(w)), hessian)


def test_blocks_change_the_order_of_work_and_not_its_result():
    w, hessian = torch.randn(32, 96, generator=torch.Generator().manual_seed(3)), inputs(96, seed=4)
    one, many = (GPTQ(block=b).encode(w, Int(6), hessian).codes for b in (96, 16))
    assert (one != many).float().mean() < 0.01


def test_uncorrelated_inputs_leave_plain_rounding():
    w = torch.randn(16, 24, generator=torch.Generator().manual_seed(5))
    for grid in (Int(5), Trellis(Int(5))):
        solved = GPTQ().encode(w, grid, 3.0 * torch.eye(24))
        assert torch.equal(solved.codes, grid.encode(w).codes)


def test_inputs_that_never_vary_do_not_stop_it():
    w = torch.randn(8, 12, generator=torch.Generator().manual_seed(6))
    for hessian in (torch.zeros(12, 12), torch.ones(12, 12), torch.diag(torch.arange(12.0))):
        for grid in (Int(4), Trellis(Int(4))):
            assert torch.isfinite(grid.decode(GPTQ().encode(w, grid, hessian))).all()
    assert torch.equal(GPTQ().encode(w, Keep(), torch.eye(12)).codes, w.half())


def test_hessians_are_second_moments_of_inputs_in_nats():
    """For the head, half the mean squared gradient and E[h h^T] have closed forms."""
    model = small.model(head=Head(tied=False, softcap=None)).build(0)
    with torch.no_grad():
        model.head.own.weight.normal_(generator=torch.Generator().manual_seed(0))
    ids = torch.arange(32).reshape(2, 16) % 32
    targets = (ids * 7 + 1) % 32
    found = calibrate(model, [(ids, targets)])
    linears = {n for n, p in model.named_parameters() if p.ndim == 2 and ("attn" in n or "mlp" in n)}
    assert set(found) == linears | {"embed.tokens.weight", "head.own.weight"}
    h = model.hidden(ids).detach().reshape(-1, 16)
    p = torch.softmax(h @ model.head.own.weight.detach().T, 1)
    gradient = p - torch.nn.functional.one_hot(targets.reshape(-1), 32)
    expected = 0.5 * gradient.square().mean() * (h.T @ h) / len(h)
    torch.testing.assert_close(found["head.own.weight"], expected, rtol=1e-4, atol=1e-9)
    assert model.training and not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_more_batches_average():
    model = small.model().build(0)
    pairs = [(torch.full((1, 8), i), torch.full((1, 8), i + 1)) for i in range(3)]
    whole = calibrate(model, [(torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs]))])
    parts = calibrate(model, pairs)
    for name, hessian in whole.items():
        torch.testing.assert_close(parts[name], hessian, rtol=1e-3, atol=1e-8)


def test_sums_stay_in_float32_under_autocast():
    sums, x = _Sums(), torch.randn(64, 8)
    with torch.autocast("cpu", torch.bfloat16):
        sums.watch("w", x, x)
    assert sums.squares["w"].dtype == torch.float32
    torch.testing.assert_close(sums.squares["w"], x.T @ x)


def test_a_plan_uses_its_solver_where_there_is_a_hessian():
    weights = {"a.weight": torch.randn(8, 16, generator=torch.Generator().manual_seed(7)), "b": torch.ones(3)}
    hessians = {"a.weight": inputs(16, seed=8)}
    plan = Quantize((("a", Int(3)), ("b", Keep())), solver=GPTQ())
    plain, solved = plan.encode(weights)["a.weight"][1], plan.encode(weights, hessians)["a.weight"][1]
    assert torch.equal(plain.codes, Int(3).encode(weights["a.weight"]).codes)
    assert torch.equal(solved.codes, GPTQ().encode(weights["a.weight"], Int(3), hessians["a.weight"]).codes)
    assert not torch.equal(plain.codes, solved.codes)


def test_a_table_s_hessian_predicts_what_an_error_in_its_rows_costs():
    """One row moved by e changes the summed loss by g . e; H holds half the mean square of that, over all rows."""
    model = small.model().build(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.normal_(0, 0.3, generator=torch.Generator().manual_seed(p.numel()))
    ids, targets = torch.tensor([[3, 4, 5]]), torch.tensor([[4, 5, 6]])
    tied = model.embed.tokens.weight
    rows = tied.detach()[ids].requires_grad_()
    model.embed.tokens.forward = lambda _: rows
    loss = 3 * model.loss(ids, targets)
    (g,) = torch.autograd.grad(loss, rows)
    del model.embed.tokens.forward
    found = calibrate(model, [(ids, targets)])["embed.tokens.weight"]
    h = model.hidden(ids).detach()[0]
    z = model.head.scores(h, tied).detach().requires_grad_()
    capped = 30 * torch.tanh(z / 30)
    (gz,) = torch.autograd.grad(torch.nn.functional.cross_entropy(capped, targets[0], reduction="sum"), z)
    expected = 0.5 * (g[0].T @ g[0]) / 3 / 32 + 0.5 * gz.square().mean() * (h.T @ h) / 3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)


def test_a_clip_that_knows_the_hessian_widens_rows_that_matter():
    generator = torch.Generator().manual_seed(11)
    w, hessian = torch.randn(12, 24, generator=generator), torch.diag(torch.rand(24, generator=generator) + 0.1)
    w[3, hessian.diagonal().argmax()] *= 6
    plain, aware = Int(6, clip=StdDev(12.85)), Int(6, clip=HessianStdDev(12.85))
    assert torch.equal(aware.scales(w), plain.scales(w))
    codes = GPTQ().encode(w, aware, hessian)
    columns = hessian.diagonal() / hessian.diagonal().mean()
    importance = (w.abs() * columns).mean(1)
    expected = 12.85 * w.std(1) * (1 + 0.175 * (importance / importance.mean() - 1)) / 31
    torch.testing.assert_close(codes.scales.float(), expected, rtol=1e-3, atol=1e-6)
    assert weighted_error(w - aware.decode(codes), hessian) <= weighted_error(
        w - aware.round(w, scales=codes.scales[:, None]) * codes.scales.float()[:, None], hessian
    ) * (1 + 1e-4)
    with pytest.raises(UserError, match="rows"):
        Int(6, clip=HessianStdDev(12.85), per="tensor")


def test_a_model_calibrates_on_its_own_text():
    model = small.model(bos=1).build(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.normal_(0, 0.3, generator=torch.Generator().manual_seed(p.numel()))
    ids = own_text(model, (3, 12), OwnText(0.8), seed=5)
    assert ids.shape == (3, 13) and bool((ids[:, 0] == 1).all()) and 0 <= int(ids.min()) <= int(ids.max()) < 32
    assert torch.equal(ids, own_text(model, (3, 12), OwnText(0.8), seed=5)) and model.training
    assert not torch.equal(ids, own_text(model, (3, 12), OwnText(0.8), seed=6))
    # Cold sampling follows the likeliest piece.
    cold = own_text(model, (1, 6), OwnText(1e-4), seed=0)
    assert torch.equal(cold[0, 1:], model(cold)[0, :-1].argmax(-1))
    assert set(calibrate(model, [(ids[:, :-1], ids[:, 1:])])) == set(calibrate(model, [(ids, ids)]))
    with pytest.raises(UserError, match="over 0"):
        checked(OwnText(0.0))


def test_own_text_is_a_row_of_a_recipe(data, tmp_path, quick_code):
    recipe = edit(small.RECIPE, {"quant.solver": GPTQ(batches=1, calibration=OwnText()), "train.steps": 2})
    result = pargolf.train(recipe, data=data, out=tmp_path / "own").result()
    other = pargolf.train(edit(recipe, {"quant.solver": GPTQ(batches=1)}), data=data, out=tmp_path / "data").result()
    assert result.scores["pre_quant"] != {} and result.artifact_sha256 != other.artifact_sha256


@pytest.fixture(scope="module")
def solved_run(data, tmp_path_factory):
    """A run whose folder keeps Hessians, which `pargolf pack` reads again."""
    out = tmp_path_factory.mktemp("solved") / "run"
    recipe = edit(small.RECIPE, {"quant.solver": GPTQ(batches=1), "train.steps": 2})
    pargolf.train(recipe, data=data, out=out).result()
    return out


def with_hessians(run, change):
    """Change one Hessian in a run's folder; returns its name."""
    path = run / "hessians.safetensors"
    hessians = load_file(path)
    name = "blocks.0.mlp.up.weight"
    hessians[name] = change(hessians[name].clone())
    save_file(hessians, path)
    return name


def put(value, *at):
    def change(hessian):
        hessian[at] = value
        return hessian

    return change


@pytest.mark.parametrize(
    "change",
    [
        put(math.inf, 0, 0),
        put(-math.inf, 1, 2),
        put(math.nan, 2, 2),
        lambda h: h * math.nan,
        lambda h: h[:-1],
        lambda h: h.reshape(-1),
        lambda h: h[:0, :0],
    ],
)
def test_a_hessian_that_is_none_is_refused_by_its_name(change, solved_run, tmp_path):
    shutil.copytree(solved_run, tmp_path / "run")
    name = with_hessians(tmp_path / "run", change)
    with pytest.raises(UserError, match=f"'{name}' in .*hessians.safetensors"):
        pargolf.pack(tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [
        torch.zeros_like,
        torch.neg,
        lambda h: h - 3 * h.diagonal().mean() * torch.eye(len(h)),
        lambda h: h + 100 * h.diagonal().mean() * (1 - torch.eye(len(h))),
        lambda h: h * 1e-38,
        lambda h: h * 1e30,
        lambda h: h + h.triu(1),
        put(-1e30, 0, 0),
        put(1e30, 3, 4),
    ],
)
@pytest.mark.parametrize("cap", [None, 14_000])
def test_a_hessian_that_is_not_positive_is_packed_with_all_the_same(change, cap, solved_run, tmp_path, quick_code):
    """Zero, indefinite, huge, asymmetric: damped so far, or rounded without feedback."""
    shutil.copytree(solved_run, tmp_path / "run")
    with_hessians(tmp_path / "run", change)
    packed = pargolf.pack(tmp_path / "run", cap=None if cap is None else 20_000 + cap)
    assert packed["total"] <= packed["cap"]
    model = read_artifact(tmp_path / "run" / "model.pargolf").model
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_weights_that_are_none_are_refused_by_their_name(solved_run, tmp_path):
    shutil.copytree(solved_run, tmp_path / "run")
    path, name = tmp_path / "run" / "weights.safetensors", "blocks.1.attn.q.weight"
    weights = load_file(path)
    for value, line in (
        (weights[name] * math.inf, "holds NaN"),
        (weights[name][:1], r"is \(1, 16\), where"),
        (None, "nothing"),
    ):
        save_file({n: w for n, w in (weights | {name: value}).items() if w is not None}, path)
        with pytest.raises(UserError, match=f"'{name}' in .*weights.safetensors.*{line}"):
            pargolf.pack(tmp_path / "run")
