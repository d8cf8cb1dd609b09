"""Trackers: they get every number of the events by step, change none of them, and are no reason for a run to end."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import made_up
import pytest

import pargolf
from pargolf.core.errors import UserError
from pargolf.core.events import Packed, Progress, Scored, Started, Step, Stopped, Validated, Weighed
from pargolf.watch.trackers import TRACKERS, check_trackers, numbers_of, track

STARTED = Started("house", "d1", 42, 10, 20, 30, None, 60.0, {"processor": "x"})


@pytest.fixture
def sent(monkeypatch):
    """Stand-ins for all three, and what they were sent."""
    calls = []

    def board(name):
        def log(numbers, step):
            calls.append((name, numbers, step))

        return SimpleNamespace(
            init=lambda **how: calls.append((name, "init", how)),
            log=log,
            finish=lambda: calls.append((name, "finish", None)),
        )

    class SummaryWriter:
        def __init__(self, log_dir):
            calls.append(("tensorboard", "init", {"log_dir": log_dir}))

        def add_text(self, tag, text, step):
            assert "recipe = house" in text and step == 0

        def add_scalar(self, name, value, step):
            calls.append(("tensorboard", {name: value}, step))

        def close(self):
            calls.append(("tensorboard", "finish", None))

    for name in ("trackio", "wandb"):
        monkeypatch.setitem(sys.modules, name, board(name))
    writer = SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", writer)
    return calls


def test_every_number_arrives_by_step_and_events_pass_unchanged(sent, tmp_path):
    run = made_up.entry()
    events = [STARTED, Progress("pack", 1, 2), *run.events[:40], Stopped(40, "steps", 4.0), *run.events[-2:]]
    assert list(track(iter(events), TRACKERS, folder=tmp_path / "a")) == events
    expected, step = {}, 0
    for event in events:
        step = getattr(event, "step", step)
        expected |= {(name, step): value for name, value in numbers_of(event).items()}
    assert {"train/loss", "train/lr", "bytes/total", "score/post_quant"} <= {name for name, _ in expected}
    for tracker in TRACKERS:
        mine = [call for call in sent if call[0] == tracker]
        assert mine[0][1] == "init" and mine[-1][1] == "finish" and [c[1] for c in mine].count("finish") == 1
        got = {(name, step): value for _, row, step in mine[1:-1] for name, value in row.items()}
        assert got == expected
    about = next(how for name, what, how in sent if (name, what) == ("wandb", "init"))
    assert about["name"] == "a" and about["config"]["seed"] == 42 and about["config"]["recipe"] == "house"


def test_every_kind_of_event_that_has_numbers_says_them():
    kinds = {type(event) for event in made_up.entry().events}
    assert kinds == {Step, Validated, Weighed, Packed, Scored}
    assert all(numbers_of(event) for event in made_up.entry().events)
    assert numbers_of(STARTED) == {} == numbers_of(Progress("x", 1, 2))


def test_a_tracker_that_fails_is_dropped_and_the_run_goes_on(sent, tmp_path, monkeypatch):
    def gone(numbers, step):
        raise ConnectionError("no route")

    monkeypatch.setattr(sys.modules["wandb"], "log", gone)
    events = [STARTED, *made_up.entry().events[:3]]
    with pytest.warns(UserWarning, match="Tracking by wandb ended: ConnectionError: no route"):
        assert list(track(events, ["wandb", "trackio"], folder=tmp_path)) == events
    assert sum(call[0] == "trackio" and isinstance(call[1], dict) for call in sent) == 3


def test_it_is_closed_when_a_run_breaks_off(sent, tmp_path):
    def broken():
        yield STARTED
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(track(broken(), ["trackio"], folder=tmp_path))
    assert sent[-1] == ("trackio", "finish", None)
    assert list(track([replace(STARTED, seed=1)], [], folder=tmp_path)) == [replace(STARTED, seed=1)]


def test_a_missing_package_names_its_extra_before_anything_runs(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for kind in TRACKERS:
        with pytest.raises(UserError, match=rf"pip install 'pargolf\[{kind}\]'"):
            check_trackers([kind])
    with pytest.raises(UserError, match="Did you mean wandb"):
        pargolf.train("baseline", data=tmp_path, out=tmp_path / "a", trackers=["wandbb"]).result()
    assert not (tmp_path / "a").exists()
