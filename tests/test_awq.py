"""The group of columns that matters keeps eight bits: chosen by use and size, fed back through, packed bit for bit."""

import pytest
import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pargolf
from pargolf.core.errors import UserError
from pargolf.core.spec import checked, dump, edit, load
from pargolf.quant.awq import AWQ, FineGroup
from pargolf.quant.clip import StdDev
from pargolf.quant.gptq import GPTQ, weighted_error
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import Quantize
from pargolf.recipes.published.pr1855 import RECIPE as PR1855
from pargolf.recipes.scale import mini
from pargolf.run.pack import pack, unpack

GRID = Int(6, clip=StdDev(12.85))


def weights_and_hessian(rows, columns, *, seed, heavy):
    """Some columns from `heavy` on carry ten times the input."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * columns, columns, generator=generator)
    x[:, heavy : heavy + 16] *= 10
    return torch.randn(rows, columns, generator=generator), x.T @ x / len(x)


def test_the_group_is_the_one_with_the_most_activation_times_weight_over_all_tensors():
    one, seen = weights_and_hessian(40, 96, seed=0, heavy=32)
    two, also = weights_and_hessian(40, 96, seed=1, heavy=64)
    weights = {"a.weight": one, "b.weight": two * 3, "c.weight": two * 9, "d": torch.ones(5)}
    grids = {"a.weight": GRID, "b.weight": GRID, "c.weight": Int(8), "d": Keep()}
    hessians = {"a.weight": seen, "b.weight": also, "c.weight": also}
    found = AWQ(width=16, larger_than=0).choose(weights, grids, hessians)
    assert found == {"b.weight": FineGroup(GRID, (64,), 16)}  # c has its eight bits already
    expected = {}
    for name in ("a.weight", "b.weight"):
        saliency = hessians[name].diagonal().sqrt() * weights[name].abs().mean(0)
        expected |= {(name, 16 * i): float(part.sum()) for i, part in enumerate(saliency.split(16))}
    best = sorted(expected, key=lambda key: -expected[key])[:3]
    many = AWQ(groups=3, width=16, larger_than=0).choose(weights, grids, hessians)
    assert {(name, start) for name, grid in many.items() for start in grid.starts} == set(best)
    assert AWQ(width=16).choose(weights, grids, hessians) == {}  # none is large enough
    assert AWQ(larger_than=0).choose(weights, grids, None) == {}


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(16, 60),
    bits=st.integers(2, 7),
    clip=st.sampled_from([2.5, 12.85]),
    start=st.integers(0, 50),
    seed=st.integers(0, 99),
)
def test_finer_steps_never_cost_error_and_come_back_from_the_codes(rows, columns, bits, clip, start, seed):
    w, hessian = weights_and_hessian(rows, columns, seed=seed, heavy=start)
    base = Int(bits, clip=StdDev(clip))
    grid = FineGroup(base, (start,), 16)
    for codes in (grid.encode(w), GPTQ().encode(w, grid, hessian)):
        steps = torch.where((torch.arange(columns) - start).div(16).floor() == 0, base.high / 127, 1.0)
        assert torch.equal(codes.scales, base.scales(w)) and codes.codes.dtype == torch.int8
        expected = codes.codes.float() * (codes.scales.float()[:, None] * steps)
        torch.testing.assert_close(grid.decode(codes), expected, rtol=0, atol=0)
    plain = (w - base.decode(base.encode(w))).square().sum()
    assert (w - grid.decode(grid.encode(w))).square().sum() <= plain * (1 + 1e-5)
    solved, rounded = (weighted_error(w - grid.decode(c), hessian) for c in (codes, grid.encode(w)))
    assert solved <= rounded * (1 + 1e-4)
    assert load(dump(grid), within=("pargolf.quant.",)) == grid


def test_where_few_columns_carry_the_input_the_group_pays():
    w, hessian = weights_and_hessian(64, 128, seed=2, heavy=48)
    fine = AWQ(width=16, larger_than=0).choose({"a": w}, {"a": GRID}, {"a": hessian})["a"]
    error, plain = (weighted_error(w - g.decode(GPTQ().encode(w, g, hessian)), hessian) for g in (fine, GRID))
    assert fine.starts == (48,) and error < 0.5 * plain


def test_it_is_a_row_of_a_recipe_and_lives_in_the_artifact(data, tmp_path):
    """Packed, coded and unpacked bit for bit, also before a low-rank correction; and it changes what is packed."""
    rows = {"quant.solver": GPTQ(batches=1), "quant.protect": AWQ(width=8, larger_than=0), "train.steps": 2}
    recipe = edit(small.RECIPE, rows)
    out = tmp_path / "awq"
    pargolf.train(recipe, data=data, out=out).result()
    folder = pargolf.run.folder.RunFolder.open(out)
    weights, hessians = folder.read_weights(), folder.read_hessians()
    fitted = folder.read_recipe()
    coded = fitted.quant.encode(weights, hessians)
    (name,) = [name for name, (grid, _) in coded.items() if isinstance(grid, FineGroup)]
    unpacked = unpack((out / "model.pargolf").read_bytes())
    params = dict(unpacked.model.named_parameters())
    assert torch.equal(params[name].detach(), coded[name][0].decode(coded[name][1]))
    stored = load(unpacked.artifact.tensors[name].grid, within=("pargolf.quant.",))
    assert stored == coded[name][0] and stored.base == fitted.quant.grids(weights)[name]
    plain = edit(fitted, {"quant.protect": None})
    assert pack(plain, weights, tokenizer="t", hessians=hessians) != pack(
        fitted, weights, tokenizer="t", hessians=hessians
    )


def test_small_scale_and_bad_settings():
    small_one = mini(edit(PR1855, {"quant.protect": AWQ()})).quant.protect
    assert small_one == AWQ(width=16, larger_than=4096)
    quant = Quantize((("*", GRID),), protect=AWQ())
    assert quant.encode({"a": torch.ones(3, 4)})["a"][0] == GRID
    for wrong in ({"groups": 0}, {"width": 0}, {"bits": 9}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} takes a whole number"):
            checked(AWQ(**wrong))
    with pytest.raises(UserError, match="FineGroup"):
        FineGroup(Int(8), (0,))
    with pytest.raises(UserError, match="stored scale"):
        FineGroup(Int(6, round_with="exact"), (0,))
