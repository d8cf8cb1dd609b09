"""Ablations: a part each, taken back to the base or by an edit, at the same work; and what it is worth."""

import itertools
import json
import math
import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import made_up
import pytest
import small
from rich.console import Console

import pargolf
from pargolf.core.ablation import costs, ranked, read_ablation
from pargolf.core.errors import UserError
from pargolf.core.spec import edit
from pargolf.data.folder import open_data
from pargolf.data.prepare import prepare
from pargolf.model.init import Normal
from pargolf.model.smear import SmearGate
from pargolf.model.transformer import parameters, shapes
from pargolf.model.xsa import XSA
from pargolf.quant.grid import Int
from pargolf.recipes import catalog
from pargolf.recipes.describe import describe
from pargolf.recipes.variants import base_parts, chosen, edited_parts, in_plain_windows, parse_edits
from pargolf.report.plots.worth import worth_svg
from pargolf.report.text.worth import worth_table
from pargolf.study.ablate import WorthsSoFar, worth_row
from pargolf.study.compare import read_finished
from pargolf.study.jobs import JobDone
from pargolf.study.pace import pace
from pargolf.training.adam import Adam
from pargolf.training.loop import Training

pytestmark = pytest.mark.usefixtures("quick_code", "quick_page")

BASE = edit(small.RECIPE, {"train.steps": 2})
SMEAR = replace(BASE.model, stream=(SmearGate(),), init=(("embed.tokens", Normal(0.01)), *BASE.model.init[1:]))
RECIPE = replace(
    edit(BASE, {"name": "more", "quant.table[mlp.*]": Int(4)}),
    model=SMEAR,
    train=replace(BASE.train, optimizer=(("stream.*", Adam(0.02)), *BASE.train.optimizer)),
)
EDITS = {
    "gate": {"model.stream": ()},
    "+ XSA": {"model.blocks[:].attn.outputs": (XSA(),)},
    "blows up": {"train.optimizer[stream.*].lr": 1e38},
}


def test_each_part_goes_alone_and_takes_its_rows_along():
    found = base_parts(RECIPE, BASE)
    assert set(found) == {"model.stream", "model.init", "train.optimizer", "quant"}
    assert found["model.stream"].model.stream == () and found["model.stream"].train.optimizer == BASE.train.optimizer
    assert found["quant"].quant == BASE.quant and found["quant"].model == RECIPE.model
    with pytest.raises(UserError, match="no part"):
        base_parts(RECIPE, RECIPE)


def test_an_edit_is_a_part_and_takes_its_rows_along():
    found = edited_parts(RECIPE, EDITS)
    assert found["gate"].train.optimizer == BASE.train.optimizer and found["gate"].name == "more without gate"
    assert found["+ XSA"].name == "more with XSA" and found["+ XSA"].train == RECIPE.train
    with pytest.raises(UserError, match=r"'gate' does not fit more: .*model\.streams"):
        edited_parts(RECIPE, {"gate": {"model.streams": ()}})


@pytest.mark.parametrize("name", ["pr1009", "pr910", "pr295"])
def test_the_repairs_of_a_shipped_recipe_are_its_parts(name):
    repaired, origin = catalog.find(f"{name}_repaired"), catalog.find(name)
    for path, variant in base_parts(repaired, origin).items():
        outer, _, inner = path.partition(".")
        assert outer in ("model", "train", "quant", "windows", "codec", "plain", "adapt"), path
        assert variant != repaired and inner not in ("steps", "seconds")


def test_every_edit_of_the_house_fits_it_and_changes_it():
    house, edits = catalog.find("house"), catalog.ablations("house")
    removed = [label for label in edits if not label.startswith("+ ")]
    assert len(removed) >= 15 and len(edits) - len(removed) >= 10
    plain = in_plain_windows(house)
    for label, variant in edited_parts(house, edits).items():
        assert replace(in_plain_windows(variant), name=plain.name) != plain, label
        assert parameters(variant.model) and shapes(variant.model), label
    assert catalog.ablations("baseline") == {}


def test_describe_says_beside_each_row_what_it_was_measured_to_be_worth():
    house, edits = catalog.find("house"), catalog.ablations("house")
    rows = [
        made_up.ablation_row(label, worth=n / 100, low=n / 100 - 0.002, high=n / 100 + 0.002)
        for n, label in enumerate(edits)
    ]
    whole = made_up.ablation_row(scores={"1": 2.0, "2": 2.0})
    text = describe(house, edits=edits, ablation=made_up.ablation(whole, *rows, steps=7))
    system, measured = text.replace("\N{NO-BREAK SPACE}", " ").split("\nmeasured\n")
    beside = {line.split("| ")[1]: line for line in system.splitlines() if "| " in line}
    for n, label in enumerate(edits):
        said = f"{label.removeprefix('+ ')} +.{n:02}00 ±.0020"
        assert said in (measured if label.startswith("+ ") else beside), label
    for said, row in beside.items():
        for label, part in (("smear gate", "SmearGate()"), ("4,096 pieces", "4096"), ("GPTQ", "GPTQ(batches=4)")):
            assert not said.startswith(label) or part in row
    assert "runs of 7 steps, seeds 1, 2" in measured and "  of  " not in measured
    older = made_up.ablation(whole, steps=7, of="an old form")
    assert re.search(r"\n  of +an old form\n", describe(house, edits=edits, ablation=older))
    clipped = {"clip": {"train.grad_clip": 1.0}}  # a default is no row
    clip = made_up.ablation(whole, replace(rows[0], part="clip"))
    first, *_ = describe(house, edits=clipped, ablation=clip).splitlines()
    assert "house" in first and "clip" in first
    assert describe(house) == describe(house, edits=edits, ablation=None)


def test_what_was_measured_is_of_edits_that_there_are(tmp_path):
    found = catalog.measured("house")
    assert len(found.rows) > 10 and {row.part for row in found.rows} <= {"", *catalog.ablations("house")}
    assert catalog.measured("baseline") is None
    mine = tmp_path / "mine.py"
    mine.write_text("from pargolf.recipes.house import RECIPE\n")
    assert catalog.measured(str(mine)) is None
    beside, whole = mine.with_suffix(".ablation.json"), asdict(made_up.ablation())
    beside.write_text(json.dumps(whole))
    assert catalog.measured(str(mine)) == made_up.ablation()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rows": []}, "rows"),
        ({"rows": 3}, "rows"),
        ({"rows": [asdict(made_up.ablation_row("gate"))]}, "rows"),
        ({"rows": [asdict(made_up.ablation_row()), {"part": "gate"}]}, r"rows\[1\]"),
        ({"rows": [asdict(made_up.ablation_row()) | {"worth": ""}]}, r"rows\[0\]\.worth"),
        ({"rows": [asdict(made_up.ablation_row()) | {"low": 0.1}]}, r"rows\[0\]\.worth"),
        ({"steps": None}, "steps"),
        ({"steps": "7"}, "steps"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_damaged_ablation_is_named_by_file_and_field(tmp_path, change, field):
    path = tmp_path / "ablation.json"
    path.write_text(json.dumps(asdict(made_up.ablation()) | change))
    with pytest.raises(UserError, match=rf"ablation\.json.*{field}"):
        read_ablation(path)


def test_edits_are_read_as_overrides_with_a_label():
    assert parse_edits(["no gate: model.stream=[] train.steps=3", "model.blocks[-4:].attn.q_gain=4"]) == {
        "no gate": {"model.stream": (), "train.steps": 3},
        "model.blocks[-4:].attn.q_gain=4": {"model.blocks[-4:].attn.q_gain": 4},
    }
    for bad in (["no gate: "], ["a: x=1", "a: x=2"], ["nonsense"]):
        with pytest.raises(UserError, match=r"LABEL|path=value"):
            parse_edits(bad)
    variants = edited_parts(RECIPE, EDITS)
    assert list(chosen(variants, ["+*"])) == ["+ XSA"] and chosen(variants, []) == variants
    with pytest.raises(UserError, match="Did you mean gate"):
        chosen(variants, ["gates"])


@pytest.fixture(scope="module")
def ablated(data, quick_code, quick_page, tmp_path_factory):
    """Where an ablation ran, and every table that it gave on the way."""
    out = tmp_path_factory.mktemp("ablation")
    work = pargolf.ablate(RECIPE, edits=EDITS, data=data, out=out, seeds=[1, 2], plain=True)
    tables = [[*map(worth_row, event.worths)] for event in work if isinstance(event, WorthsSoFar)]
    assert work.result() == tables[-1]
    return out, tables


def test_worth_is_the_mean_difference_with_its_interval(ablated):
    out, (*_, rows) = ablated
    whole, by_part = rows[0], {row.part: row for row in rows}
    assert whole.part == "" and set(whole.scores) == {"1", "2"} and set(by_part) == {"", *EDITS}
    for label, sign in (("gate", 1), ("+ XSA", -1)):
        row = by_part[label]
        assert math.isclose(row.worth, sign * (row.bpb - whole.bpb), abs_tol=1e-12)
        assert row.low <= row.worth <= row.high and row.steps == 2 and row.step_ms > 0
    assert "diverged" in by_part["blows up"].failed and by_part["blows up"].worth is None
    assert costs(by_part["gate"], whole)[1] > 0  # its bytes, on the grids
    assert read_ablation(out / "ablation.json").rows == tuple(rows)
    assert (out / "ablation.svg").read_text().startswith("<svg") and (out / "ablation.png").stat().st_size > 5000
    result = json.loads((out / "gate" / "seed-1" / "result.json").read_text())
    assert set(result["scores"]) == {"pre_quant", "post_quant"}  # plain windows alone
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(worth_table(rows))
    shown = console.export_text()
    assert "nothing" in shown and all(part in shown for part in by_part)


def test_every_seed_goes_through_all_parts_in_whatever_order_they_end(ablated, data, monkeypatch):
    out, tables = ablated
    counts = [{row.part: len(row.scores) for row in rows if not row.failed} for rows in tables]
    assert {"": 1, "gate": 1, "+ XSA": 1} in counts and {"": 2, "gate": 1, "+ XSA": 1} in counts
    assert counts[0] == {"": 1} and counts[-1] == {"": 2, "gate": 2, "+ XSA": 2}
    edits = {label: EDITS[label] for label in ("gate", "+ XSA")}
    times = {p: p.stat().st_mtime_ns for p in out.rglob("result.json")}

    def backwards(wanted, data, _options):
        return [JobDone(job, read_finished(job.folder)) for job in reversed(wanted)]

    again = pargolf.ablate(RECIPE, edits=edits, data=data, out=out, seeds=[1, 2], plain=True).result()
    monkeypatch.setattr("pargolf.study.ablate.run_jobs", backwards)
    assert again == pargolf.ablate(RECIPE, edits=edits, data=data, out=out, seeds=[1, 2], plain=True).result()
    assert again == [row for row in tables[-1] if row.part in ("", *edits)]
    assert times == {p: p.stat().st_mtime_ns for p in out.rglob("result.json")}  # what ran is not run again


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_part_with_another_vocabulary_takes_the_text_in_its_pieces(texts, data, quick_code, tmp_path, jobs):
    """In turn and side by side; and says so where there is none, or where it is another text."""
    for name, source, pieces in (("fewer", texts, 280), ("other", texts / "00.txt", 281)):
        for _ in prepare(
            [source] * 1 if source.is_dir() else [source, texts / "01.txt"], tmp_path / name, vocab=pieces
        ):
            pass
    edits = {"300 pieces (280)": {"model.vocab": 280}, "+ 281": {"model.vocab": 281}, "+ 290": {"model.vocab": 290}}
    folders = [data, tmp_path / "fewer", tmp_path / "other"]
    rows = pargolf.ablate(
        RECIPE, edits=edits, data=folders, out=tmp_path / "out", seeds=[1], plain=True, jobs=jobs
    ).result()
    whole, fewer, other, none = rows
    result = json.loads((tmp_path / "out" / "300-pieces-280" / "seed-1" / "result.json").read_text())
    assert fewer.worth == fewer.bpb - whole.bpb and result["val_tokens"] > 0
    kept = (tmp_path / "out" / "300-pieces-280" / "seed-1" / "tokenizer.model").read_bytes()
    assert kept == (tmp_path / "fewer" / "tokenizer.model").read_bytes()
    assert "other validation documents" in other.failed and "--vocab 290" in none.failed


def test_paced_parts_get_the_steps_that_equal_seconds_buy(data, quick_code, tmp_path, monkeypatch):
    """Timed once, and kept; parts that train alike are not timed."""
    timed = []

    def half_as_fast(recipe, other, *_, **__):
        timed.append(other.name)
        return 2.0

    monkeypatch.setattr("pargolf.study.ablate.pace_together", half_as_fast)
    edits = {"gate": {"model.stream": ()}, "+ 8 bits": {"quant.table[mlp.*]": Int(8)}}
    options = {"edits": edits, "data": data, "out": tmp_path / "out", "plain": True, "changes": {"train.steps": 6}}
    first = pargolf.ablate(RECIPE, seeds=[1], paced=True, **options).result()
    assert [row.steps for row in first] == [6, 3, 6] and timed == ["more without gate"]
    assert json.loads((tmp_path / "out" / "ablation.json").read_text())["paced"]
    whole, gate, _ = first
    assert gate.pace == 2.0 and costs(gate, whole)[0] == pytest.approx(-whole.step_ms)  # the part saves a step
    again = pargolf.ablate(RECIPE, seeds=[1, 2], paced=True, **options).result()
    assert [row.steps for row in again] == [6, 3, 6] and len(timed) == 1
    bounded = {**options, "out": tmp_path / "b", "changes": {"train.steps": None, "train.seconds": 9.0}}
    with pytest.raises(UserError, match=r"train\.steps=240"):
        pargolf.ablate(RECIPE, seeds=[1], paced=True, **bounded).result()


def test_the_pace_of_a_recipe_is_what_its_steps_take(data, monkeypatch):
    """On a clock that counts tokens: of itself one, of twice the batch two, though some steps meet a busy machine."""
    seconds, numbers, one_step = [0.0], itertools.count(), Training._one_step

    def step(self, *how):
        seconds[0] += self.stream.batch_tokens * (10 if next(numbers) % 11 == 0 else 1)
        return one_step(self, *how)

    monkeypatch.setattr(Training, "_one_step", step)
    monkeypatch.setattr("pargolf.study.pace.time", SimpleNamespace(process_time=lambda: seconds[0]))
    folder = open_data(data)
    assert pace(RECIPE, RECIPE, folder, folder) == 1.0
    twice = edit(RECIPE, {"train.batch_tokens": 2 * RECIPE.train.batch_tokens})
    assert pace(RECIPE, twice, folder, folder) == 2.0


def test_the_plot_has_a_row_for_each_part_and_says_what_helps():
    whole = made_up.ablation_row(bpb=1.0, step_ms=10.0, bytes=1000, weighs=900, scores={"1": 1.0})
    a = replace(whole, part="a <b>", worth=0.02, low=0.01, high=0.03, step_ms=9.0, weighs=800)
    plus = replace(whole, part="+ c", worth=-0.01, low=-0.02, high=-0.001, step_ms=12.0)
    lost = replace(whole, part="d", failed="no")
    rows = [whole, plus, lost, a]
    assert [row.part for row in ranked(rows)] == ["a <b>", "+ c"]
    assert costs(a, whole) == (1.0, 100) and costs(plus, whole) == (2.0, 0)
    svg = worth_svg(rows)
    assert svg == worth_svg(rows) and "a &lt;b&gt;" in svg and "+ c" in svg
    assert "var(--series-1" in svg and "var(--series-2" in svg
    assert worth_svg([whole, lost]) == ""
    assert "<style>" in worth_svg(rows, page=False) and "<style>" not in svg
