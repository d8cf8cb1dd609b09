"""Commands of many runs under torchrun: all processes share each run, the first one decides, reads and writes."""

import json

import pytest
import small
from forks import shared

import pargolf
from pargolf.core.events import Step
from pargolf.core.spec import edit
from pargolf.data.stream import Shuffled
from pargolf.watch.runlog import read_events

RECIPE = edit(small.RECIPE, {"train.steps": 3, "train.batch_tokens": 128, "train.order": Shuffled()})


def steps(run):
    return [event for event in read_events(run / "events.jsonl") if isinstance(event, Step)]


def test_seeds_run_on_all_processes_and_the_first_one_says_what_came_of_it(data, tmp_path, quick_code):
    def work(rank):
        first = pargolf.seeds(RECIPE, seeds=[1, 2], data=data, out=tmp_path / "runs").result()
        again = pargolf.seeds(RECIPE, seeds=[1, 2, 3], data=data, out=tmp_path / "runs").result()
        if rank:
            assert first[0] == again[0] == []
        else:
            assert [row["seed"] for row in first[0]] == [1, 2]
            assert [row["bpb"] for row in again[0][:2]] == [row["bpb"] for row in first[0]]

    assert shared(2, work, out=tmp_path) == [0, 0]
    for seed in (1, 2, 3):
        result = json.loads((tmp_path / "runs" / f"seed-{seed}" / "result.json").read_text())
        assert result["machine"]["world_size"] == 2 and result["seed"] == seed
    pargolf.seeds(RECIPE, seeds=[1], data=data, out=tmp_path / "alone").result()
    alone, both = ([e.loss for e in steps(tmp_path / out / "seed-1")] for out in ("alone", "runs"))
    assert len(both) == 3 and both == pytest.approx(alone, abs=1e-3)


def test_an_ablation_whose_parts_fail_keeps_the_processes_in_step(data, tmp_path, quick_code):
    """One part is over its cap when it is rehearsed, by the first process; one cannot share its batch, on both."""
    edits = {
        "over the cap": {"budget.bytes": 20_100},
        "no share": {"train.batch_tokens": 48},
        "no clip": {"train.grad_clip": None, "train.seq_len": 8},
    }

    def work(rank):
        rows = pargolf.ablate(RECIPE, edits=edits, seeds=[1], data=data, out=tmp_path / "runs", paced=True).result()
        if rank == 0:
            assert [bool(row.failed) for row in rows] == [False, True, True, False]
            assert "cap is 20,100" in rows[1].failed and "cannot share" in rows[2].failed

    assert shared(2, work, out=tmp_path) == [0, 0]
    assert json.loads((tmp_path / "runs" / "ablation.json").read_text())["rows"][3]["bpb"] > 0


def test_a_sweep_runs_its_trials_on_all_processes(data, tmp_path, quick_code):
    def work(rank):
        swept = pargolf.sweep(RECIPE, ["train.steps=int:2,4"], data=data, out=tmp_path / "runs", trials=3).result()
        assert swept is None if rank else [trial.state for trial in swept.trials] == ["complete"] * 3

    assert shared(2, work, out=tmp_path) == [0, 0]


def test_what_cannot_begin_ends_all_processes_with_one_line(data, tmp_path, capfd):
    def work(rank):
        pargolf.seeds(RECIPE, seeds=[1], data=data, out=tmp_path / "runs", jobs=2).result()

    assert shared(2, work, out=tmp_path) == [2, 0]
    assert "Leave out --jobs" in capfd.readouterr().out


def test_an_error_of_the_first_process_is_everybodys(data, tmp_path, capfd):
    """Not a wait of ten minutes, nor a traceback: the folder is taken, and only the first process looks."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text("{}")

    def work(rank):
        pargolf.train(RECIPE, data=data, out=tmp_path / "run").result()

    assert shared(2, work, out=tmp_path) == [2, 2]
    assert capfd.readouterr().out.count("already holds a run") == 2
