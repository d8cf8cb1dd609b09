"""Corrections of the rounding error: never larger an error, the same bits after the artifact, all bytes counted."""

from dataclasses import replace

import pytest
import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pargolf.core.errors import UserError
from pargolf.core.spec import checked
from pargolf.quant.clip import StdDev
from pargolf.quant.gptq import GPTQ, weighted_error
from pargolf.quant.grid import Int, Keep
from pargolf.quant.lqer import LQER, corrected
from pargolf.quant.plan import Quantize
from pargolf.quant.trellis import Trellis
from pargolf.run.pack import pack, unpack


def decoded(plan, weights, hessians):
    coded = plan.encode(weights, hessians)
    return coded, corrected({name: grid.decode(codes) for name, (grid, codes) in coded.items()})


@settings(max_examples=40)
@given(
    rows=st.integers(1, 24),
    columns=st.sampled_from([1, 5, 16, 32]),
    bits=st.integers(2, 6),
    rank=st.integers(1, 6),
    known=st.booleans(),
    trellis=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_error_is_never_larger(rows, columns, bits, rank, known, trellis, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = {"a.weight": torch.randn(rows, columns, generator=generator), "b": torch.ones(3)}
    x = torch.randn(2 * columns, columns, generator=generator)
    hessians = {"a.weight": x.T @ x} if known else None
    grid = Int(bits, clip=StdDev(2.5))
    plain = Quantize((("a", Trellis(grid, 4) if trellis else grid), ("b", Keep())), solver=GPTQ() if known else None)
    before = decoded(plain, weights, hessians)[1]
    coded, after = decoded(replace(plain, correct=LQER(rank=rank, group=16)), weights, hessians)
    assert set(after) == set(weights)
    hessian = (hessians or {}).get("a.weight")
    errors = [weighted_error(weights["a.weight"] - v["a.weight"], hessian) for v in (before, after)]
    assert errors[1] <= errors[0] * (1 + 1e-5) + 1e-9
    assert (errors[1] < errors[0]) == ("a.lqer_left" in coded) or errors[0] < 1e-6


def test_what_few_directions_hold_is_given_back():
    generator = torch.Generator().manual_seed(1)
    w = 0.1 * torch.randn(48, 64, generator=generator)
    signs = torch.randn(48, 1, generator=generator).sign()
    w = w + signs * torch.randn(1, 64, generator=generator)  # a direction that two bits cannot follow
    plan = Quantize((("a", Int(2, clip=StdDev(0.8))),))
    errors = [
        float((w - decoded(p, {"a.weight": w}, None)[1]["a.weight"]).square().sum())
        for p in (plan, replace(plan, correct=LQER(rank=2)))
    ]
    assert errors[1] < 0.7 * errors[0]


def test_only_the_worst_tensors_are_corrected_and_their_bytes_count():
    generator = torch.Generator().manual_seed(2)
    recipe = replace(small.RECIPE, model=small.model(dim=32, bos=1))
    weights = {n: torch.randn(p.shape, generator=generator) for n, p in recipe.model.build(0).named_parameters()}
    weights["blocks.1.mlp.up.weight"] *= 9
    weights["blocks.0.attn.v.weight"] *= 7
    plan = replace(recipe.quant, correct=LQER(tensors=2, rank=3, group=16))
    data = pack(replace(recipe, quant=plan), weights, tokenizer="t")
    unpacked = unpack(data)
    names = {name for name in unpacked.artifact.tensors if "lqer" in name}
    stems = ("blocks.1.mlp.up", "blocks.0.attn.v")
    assert names == {f"{stem}.lqer_{side}" for stem in stems for side in ("left", "right")}
    rows = {row["role"]: row for row in unpacked.artifact.by_role()}
    assert rows["mlp.up.lqer_right"]["bytes"] > 0 and sum(row["bytes"] for row in rows.values()) == len(data)
    values = decoded(plan, weights, None)[1]
    assert all(torch.equal(p.detach(), values[name]) for name, p in unpacked.model.named_parameters())
    assert len(data) > len(pack(recipe, weights, tokenizer="t"))


def test_halves_and_misfits_are_refused():
    left, right = torch.ones(4, 2), torch.ones(2, 3)
    with pytest.raises(UserError, match="nothing to correct"):
        corrected({"a.weight": torch.ones(4, 3), "a.lqer_left": left})
    with pytest.raises(UserError, match="nothing to correct"):
        corrected({"b": torch.ones(4, 3), "a.lqer_left": left, "a.lqer_right": right})
    with pytest.raises(UserError, match="does not fit"):
        corrected({"a": torch.ones(4, 4), "a.lqer_left": left, "a.lqer_right": right})
    with pytest.raises(UserError, match="rank takes a whole number from 1"):
        checked(LQER(rank=0))
