"""The frontier's two systems give the logits of the published scripts, with and without recurrence.

`golden/pr1855.npz`, `golden/pr2135.npz`: what the scripts' own classes give, 32 wide with 11 layers, for a row of three
documents and the weights that `filled` names; once with each block run once, once with blocks 3 to 5 looped. The latter
with the smear gate's mend switched on, which its published command has off.
"""

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from pargolf.core.roles import resolve
from pargolf.core.spec import edit
from pargolf.model.init import Zeros, generator_for
from pargolf.model.transformer import Transformer, shapes
from pargolf.quant.grid import Int, Keep
from pargolf.recipes import catalog
from pargolf.recipes.scale import mini
from pargolf.training.adam import Frozen
from pargolf.training.schedule import Moment

GOLDEN = Path(__file__).parent / "golden"
SYSTEMS = ["pr1855", "pr2135"]
SMALL = {
    "vocab": 32,
    "dim": 32,
    "blocks[:].attn.heads": 4,
    "blocks[:].attn.kv_heads": 2,
    "blocks[:].attn.rope.dims": 4,
    "blocks[:].mlp.hidden": 128,
}


@cache
def filled(system: str) -> Transformer:
    """The small system: matrices of noise, everything else its own start and noise, by the order of the names."""
    spec = edit(catalog.find(system).model, {**SMALL, "init": (("*", Zeros()),)})
    model = spec.build(0)
    with torch.no_grad():
        for i, (name, p) in enumerate(sorted(model.named_parameters())):
            noise = np.random.default_rng(i).standard_normal(tuple(p.shape)).astype("float32")
            p.add_(torch.from_numpy(noise) * (5.0 if name.startswith("head.cap") else 0.3))
    return model


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("system", SYSTEMS)
def test_logits_loss_and_gradient_are_the_published_scripts_own(system: str, looped: bool) -> None:
    model, golden = filled(system), np.load(GOLDEN / f"{system}.npz")
    ids, targets = (torch.from_numpy(golden[name].astype("int64"))[None] for name in ("ids", f"targets_{looped:d}"))
    model.graph.recur(looped)
    try:
        torch.testing.assert_close(
            model(ids)[0].detach(), torch.from_numpy(golden[f"logits_{looped:d}"]), atol=2e-5, rtol=0
        )
        model.zero_grad()
        loss = model.loss(ids, targets)
        loss.backward()
    finally:
        model.graph.recur(True)
    assert loss.item() == pytest.approx(float(golden[f"loss_{looped:d}"]), abs=1e-5)
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
    assert norm == pytest.approx(float(golden[f"norm_{looped:d}"]), rel=1e-4)


def test_skips_beyond_the_plain_order_learn_only_once_it_loops() -> None:
    model = filled("pr1855")
    ids = torch.arange(2, 18)[None]
    for looped in (False, True):
        model.graph.recur(looped)
        model.zero_grad()
        model.loss(ids, ids).backward()
        live = {name for name, p in model.named_parameters() if p.grad is not None}
        dead = {name for name, _ in model.named_parameters()} - live
        late = {f"graph.skip.{n}.{part}" for n in (10, 11, 12) for part in ("weight", "gate")}
        assert dead == (set() if looped else late)


def test_a_gate_s_grid_is_a_row() -> None:
    for system, grid in (("pr1855", Int(8)), ("pr2135", Keep("float16"))):
        recipe = catalog.find(system)
        grids = recipe.quant.grids(dict.fromkeys(shapes(recipe.model), torch.empty(0)))
        assert {g for name, g in grids.items() if "head_gate" in name} == {grid}


def test_the_caps_of_2135_wait_for_adaptation_and_its_rates_end_at_a_tenth() -> None:
    train, model = catalog.find("pr2135").train, catalog.find("pr2135").model
    rows = resolve(train.optimizer, shapes(model))
    assert {name for name, row in rows.items() if isinstance(row, Frozen)} == {"head.cap.above", "head.cap.below"}
    assert train.schedule(Moment(1, 599.0, 600.0)) == pytest.approx(0.1)
    assert train.phases[0].at(Moment(1, 0.35 * 600, 600.0), 1.0) and model.bos is not None


@torch.no_grad()
@pytest.mark.parametrize("name", catalog.names())
def test_every_recipe_is_causal_and_stops_at_documents_where_it_says_so(name: str) -> None:
    spec = edit(mini(catalog.find(name)).model, {"vocab": 32, "blocks[:].mlp.hidden": 48})
    model = spec.build(0)
    for tensor, p in model.named_parameters():
        p.add_(torch.empty(p.shape).normal_(0.0, 0.2, generator=generator_for(tensor, 1)))
    T, bos = 12, 1
    ids_T = torch.arange(2, 2 + T)
    ids_T[5] = bos
    others_TT = ids_T.repeat(T, 1) + torch.eye(T, dtype=torch.long) * 15
    moved_TT = (model(others_TT) - model(ids_T[None])).abs().amax(-1)
    assert moved_TT.tril(-1).max() < 1e-4, "a token changed the past"
    assert moved_TT.diagonal().min() > 1e-4
    into_next = moved_TT[:5, 5:].max()
    assert into_next < 1e-4 if spec.bos == bos else into_next > 1e-4
