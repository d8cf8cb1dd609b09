"""A run that starts from another one's weights goes on where that one stopped, and says so, its seconds counted."""

import json
import shutil
from dataclasses import replace

import pytest
import small
import torch
from typer.testing import CliRunner

import pargolf
from pargolf.cli import app
from pargolf.core.errors import UserError
from pargolf.core.events import Step
from pargolf.core.result import StartedFrom, read_result
from pargolf.core.spec import edit
from pargolf.run.folder import RunFolder
from pargolf.run.loading import read_start
from pargolf.training.average import EMA


@pytest.fixture(scope="module")
def more(run, data, tmp_path_factory, quick_code):
    """The session's run, trained further."""
    out = tmp_path_factory.mktemp("more") / "b"
    work = pargolf.train(small.RECIPE, data=data, out=out, seed=3, start=run[0])
    losses = [event.loss for event in work if isinstance(event, Step)]
    return out, work.result(), losses


def losses_of(folder):
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row and "lr" in row]


def test_training_goes_on_and_the_result_says_from_what(run, more):
    (first, before), (out, after, losses) = run, more
    assert losses[0] < losses_of(first)[0] - 0.05
    assert after.val_bpb < before.val_bpb
    assert after.origin == StartedFrom(
        str(first), after.origin.sha256, before.recipe, before.digest, before.train_seconds
    )
    assert after.all_train_seconds == after.train_seconds + before.train_seconds
    assert read_result(out / "result.json") == after and before.origin is None
    assert "started from" in (out / "report.html").read_text() or str(first) in (out / "report.html").read_text()
    assert f"--from {first}" in after.command


def test_a_run_that_started_from_weights_is_repeated_from_the_same_ones_alone(more, tmp_path, quick_code, quick_page):
    out = shutil.copytree(more[0], tmp_path / "a folder")
    again = pargolf.rerun(out, out=tmp_path / "again").result()
    assert again.same_bytes and again.second.origin == more[1].origin
    assert again.second.command == f"pargolf rerun '{out}' --out {tmp_path / 'again'}"
    for path, words in ((tmp_path / "gone", "cannot be read"), (out, "other weights")):
        origin = replace(more[1].origin, path=str(path))
        RunFolder(out).write_result(replace(more[1], origin=origin))
        with pytest.raises(UserError, match=words):
            pargolf.rerun(out, out=tmp_path / "other").result()


def test_a_chain_of_runs_counts_all_seconds_and_more_than_the_budget_is_not_legal(
    run, data, more, tmp_path, quick_code
):
    again = pargolf.train(small.RECIPE, data=data, out=tmp_path / "c", start=more[0] / "model.pargolf").result()
    assert again.origin.train_seconds == more[1].all_train_seconds
    assert again.legal
    over = replace(again, budget=replace(again.budget, train_seconds=again.train_seconds))
    assert not over.legal and "in all, over the budget" in over.why_not[0]
    unknown = replace(again, origin=replace(again.origin, train_seconds=None))
    assert unknown.why_not == ["nothing says how long its starting weights were trained"]


def test_weights_are_those_of_the_file_and_an_average_begins_with_them(run, data):
    start = read_start(run[0] / "model.pargolf")
    unpacked, _ = pargolf.load(run[0] / "model.pargolf")
    assert all(torch.equal(start.weights[name], p) for name, p in unpacked.named_parameters())
    kept = read_start(run[0])
    assert all(torch.equal(kept.weights[name], w) for name, w in RunFolder(run[0]).read_weights().items())
    recipe = replace(small.RECIPE, train=small.train(steps=1, average=EMA(0.999)))
    model = replace(recipe.model, vocab=300).build(0)
    training = pargolf.run.training.RunTraining(
        recipe.train, model, pargolf.data.folder.open_data(data).train, seed=0,
        clock=pargolf.core.budget.Clock(), seconds=9.0,
    )  # fmt: skip
    training.start_from(kept.weights)
    list(training.run())
    # Almost all of the average is what it began with.
    assert (model.embed.tokens.weight - kept.weights["embed.tokens.weight"]).abs().max() < 1e-3


def test_weights_that_do_not_fit_name_the_rows(run, data, tmp_path):
    wide = edit(small.RECIPE, {"model.dim": 32})
    with pytest.raises(UserError, match=r"do not fit the recipe \(model\.dim: 16 -> 32"):
        pargolf.train(wide, data=data, out=tmp_path / "wide", start=run[0]).result()
    assert not (tmp_path / "wide").exists()
    with pytest.raises(UserError, match="no run folder"):
        pargolf.train(small.RECIPE, data=data, out=tmp_path / "x", start=tmp_path).result()


def test_more_seconds_go_on_with_a_run_and_grow_its_budget(run, data, tmp_path, quick_code):
    alone = tmp_path / "alone.pargolf"
    shutil.copyfile(run[0] / "model.pargolf", alone)
    with pytest.raises(UserError, match="how long"):
        pargolf.train(small.RECIPE, data=data, out=tmp_path / "d", start=alone, more_seconds=5).result()
    with pytest.raises(UserError, match="--from"):
        pargolf.train(small.RECIPE, data=data, out=tmp_path / "d", more_seconds=5).result()
    system, start = pargolf.api.runs._recipe_and_start(run[0], None, 600.0, scale=None, changes=None)
    assert (system.train.seconds, system.train.steps) == (600.0, None) and start.origin.path == str(run[0])
    assert system.budget.train_seconds == pytest.approx(run[1].train_seconds + 600)


def test_the_folder_of_a_run_stands_for_its_recipe_and_its_weights(run, data, tmp_path, quick_code):
    words = ["train", str(run[0]), "--data", str(data), "--out", str(tmp_path / "e"), "--threads", "1"]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 0, made.output
    result = read_result(tmp_path / "e" / "result.json")
    assert result.origin.path == str(run[0]) and result.steps == 6 and "started from" in made.output
    assert RunFolder(tmp_path / "e").read_recipe().digest == run[1].digest


def test_a_run_is_resumed_with_the_weights_that_it_started_from(run, data, tmp_path, quick_code):
    settings = {"data": data, "out": tmp_path / "f", "seed": 3, "checkpoint_every": 0.0}
    work = pargolf.train(small.RECIPE, start=run[0], **settings)
    next(event for event in work if isinstance(event, Step) and event.step == 4)
    work.close()
    with pytest.raises(UserError, match="start_sha256"):
        pargolf.train(small.RECIPE, resume=True, **settings).result()
    result = pargolf.train(small.RECIPE, resume=True, start=run[0], **settings).result()
    assert result.steps == 6 and result.origin.path == str(run[0])


def test_a_submission_has_no_starting_weights(more, tmp_path):
    with pytest.raises(UserError, match="initial weights"):
        pargolf.write_submission([more[0]], out=tmp_path / "records" / "track_non_record_16mb" / "x").result()
