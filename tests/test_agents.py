"""What a program that drives pargolf needs: a line of JSON an event, and every command with its options."""

import json

import pytest
import small
from typer.testing import CliRunner

from pargolf import api
from pargolf.cli import app
from pargolf.cli.options import event_line
from pargolf.core import events


def answer(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.stdout, done.exception)
    return done.stdout


def test_every_event_is_a_line_and_the_value_is_the_last(run, data):
    out, result = run
    text = answer("score", out / "model.pargolf", "--data", data, "--events", "json")
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["event"] for line in lines} >= {"Done"}
    assert [line["event"] for line in lines].index("Done") == len(lines) - 1
    assert lines[-1]["value"]["bpb"] == result.val_bpb
    kinds = {*dir(events), "Done"}
    assert all(line["event"] in kinds for line in lines)


def test_a_run_can_be_followed_from_outside(data, tmp_path):
    work = api.train(small.RECIPE, data=data, out=tmp_path / "a", seed=3)
    names = [json.loads(line)["event"] for line in map(event_line, work)]
    assert names[-1] != "Done" and {"Started", "Step", "Packed", "Scored"} <= set(names)


def test_every_command_that_ends_prints_json():
    rows = {row["command"]: row for row in json.loads(answer("help", "--json"))}
    without = {
        name for name, row in rows.items() if "--json" not in {o for one in row["parameters"] for o in one["options"]}
    }
    assert without == {"serve"}


def test_a_run_prints_its_result_as_json(run, data, tmp_path):
    out, _ = run
    text = answer("train", out, "train.steps=3", "--data", data, "--out", tmp_path / "a", "--json")
    assert json.loads(text) == json.loads((tmp_path / "a" / "result.json").read_text())


def test_what_tokens_cost_is_json(run):
    out, _ = run
    artifact = out / "model.pargolf"
    priced = json.loads(answer("generate", artifact, "--score", "a few words", "--json"))
    losses = api.token_losses(artifact, "a few words")
    assert priced["bpb"] == losses.bpb
    assert [row["nats"] for row in priced["tokens"]] == losses.nats.tolist()
    assert json.loads(answer("generate", artifact, "--prompt", "a", "--tokens", 3, "--json"))["text"]


def test_another_form_of_events_is_one_line():
    done = CliRunner().invoke(app, ["score", "x", "--data", "y", "--events", "xml"])
    assert "--events is json" in str(done.exception)


def test_help_lists_every_command_with_its_options():
    rows = {row["command"]: row for row in json.loads(answer("help", "--json"))}
    assert {"train", "golf", "audit", "data prepare", "bench codec", "runs"} <= set(rows)
    for row in rows.values():
        assert row["help"], row["command"]
        for one in row["parameters"]:
            assert one["kind"] in ("argument", "option") and one["type"]
            assert one["help"] or one["name"] in ("words", "help"), (row["command"], one["name"])
    options = {option for one in rows["train"]["parameters"] for option in one["options"]}
    assert {"--data", "--out", "--seed", "--events"} <= options


@pytest.mark.parametrize("words", [["help"], ["--help"]])
def test_help_reads_like_help(words):
    assert "data prepare" in answer(*words)
