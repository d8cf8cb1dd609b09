"""Ablations: a part each, taken back to the base, at the same work; and what it is worth."""

import math
from dataclasses import replace

import pytest
import small
from rich.console import Console

import pargolf
from pargolf.core.errors import UserError
from pargolf.core.spec import edit
from pargolf.model.init import Normal
from pargolf.model.smear import SmearGate
from pargolf.quant.grid import Int
from pargolf.recipes import catalog
from pargolf.report.stats_tables import worth_table
from pargolf.run.ablate import ablations
from pargolf.training.adam import Adam

pytestmark = pytest.mark.usefixtures("quick_code")

BASE = edit(small.RECIPE, {"train.steps": 2})
SMEAR = replace(BASE.model, stream=(SmearGate(),), init=(("embed.tokens", Normal(0.01)), *BASE.model.init[1:]))
RECIPE = replace(
    edit(BASE, {"name": "more", "quant.table[mlp.*]": Int(4)}),
    model=SMEAR,
    train=replace(BASE.train, optimizer=(("stream.*", Adam(0.02)), *BASE.train.optimizer)),
)


def test_each_part_goes_alone_and_takes_its_rows_along():
    found = ablations(RECIPE, BASE)
    assert set(found) == {"model.stream", "model.init", "train.optimizer", "quant"}
    assert found["model.stream"].model.stream == () and found["model.stream"].train.optimizer == BASE.train.optimizer
    assert found["quant"].quant == BASE.quant and found["quant"].model == RECIPE.model
    with pytest.raises(UserError, match="no part"):
        ablations(RECIPE, RECIPE)


@pytest.mark.parametrize("name", ["pr1009", "pr910", "pr295"])
def test_the_repairs_of_a_shipped_recipe_are_its_parts(name):
    repaired, origin = catalog.find(f"{name}_repaired"), catalog.find(name)
    for path, variant in ablations(repaired, origin).items():
        outer, _, inner = path.partition(".")
        assert outer in ("model", "train", "quant", "windows", "codec", "plain", "adapt"), path
        assert variant != repaired and inner not in ("steps", "seconds")


def test_worth_is_the_mean_difference_and_what_ran_is_not_run_again(data, tmp_path):
    rows = pargolf.ablate(RECIPE, base=BASE, data=data, out=tmp_path / "a", seeds=[1, 2])
    whole = rows[0]
    assert whole["part"] == "" and set(whole["scores"]) == {"1", "2"}
    by_part = {row["part"]: row for row in rows}
    assert set(by_part) == {"", "model.stream", "model.init", "train.optimizer", "quant"}
    # Which parts cannot go alone is for the run to find out; those that can are worth what they are worth.
    for row in rows[1:]:
        if not row["failed"]:
            assert math.isclose(row["worth"], row["bpb"] - whole["bpb"], abs_tol=1e-12)
            assert row["low"] <= row["worth"] <= row["high"]
    assert not by_part["quant"]["failed"] and not by_part["model.stream"]["failed"]
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")}
    again = pargolf.ablate(RECIPE, base=BASE, data=data, out=tmp_path / "a", seeds=[1, 2])
    assert again == rows and times == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("result.json")}
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(worth_table(rows))
    shown = console.export_text()
    assert "nothing" in shown and all(part in shown for part in by_part)
