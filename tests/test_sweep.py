"""Sweeps: typed ranges over paths of a recipe, trials that are run folders, and a study that goes on."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import small
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import pargolf
from pargolf.cli import app
from pargolf.core.errors import UserError
from pargolf.core.events import Step
from pargolf.core.spec import edit, show
from pargolf.core.work import Work
from pargolf.data.folder import open_data
from pargolf.engines.task import Happened, Place, TaskEnded
from pargolf.run.folder import RunFolder
from pargolf.study.sweep import Span, SweepResult, TrialDone, read_span, run_sweep
from pargolf.study.together import StudyOptions

optuna = pytest.importorskip("optuna")
TINY = edit(small.RECIPE, {"train.steps": 2, "train.validate_every": 0.5, "budget.bytes": 400_000})
RATE = "train.optimizer[*].lr=log:0.001,0.1"


@pytest.fixture
def tiny(quick_code, quick_page):
    return TINY


def test_trials_are_run_folders_of_the_values_proposed(tiny, data, tmp_path):
    spans = [
        RATE,
        "train.micro_tokens=int:16,64,16",
        "train.grad_clip=choice:none,0.5",
        "quant.table[mlp.*].bits=int:4,6",
    ]
    swept = pargolf.sweep(tiny, spans, data=data, out=tmp_path, trials=2).result()
    assert [trial.number for trial in swept.trials] == [0, 1]
    for trial in swept.trials:
        run = RunFolder.open(Path(trial.run))
        result = json.loads(run["result.json"].read_text())
        words = " ".join(["pargolf sweep", tiny.name, shlex.join(spans), f"--data {data} --out {tmp_path}"])
        assert result["command"].startswith(words) and run["report.html"].is_file()
        made = run.read_recipe()
        assert trial.state == "complete" and trial.bpb == result["val_bpb"]
        assert 0.001 <= trial.values["train.optimizer[*].lr"] <= 0.1
        assert dict(made.train.optimizer)["*"].lr == trial.values["train.optimizer[*].lr"]
        assert made.train.micro_tokens == trial.values["train.micro_tokens"] in (16, 32, 48, 64)
        assert made.train.grad_clip is trial.values["train.grad_clip"] or made.train.grad_clip == 0.5
        assert dict(made.quant.table)["mlp.*"].bits == trial.values["quant.table[mlp.*].bits"] in (4, 5, 6)
    assert swept.best is not None and swept.best.bpb == min(trial.bpb for trial in swept.trials)
    assert len({trial.values["train.optimizer[*].lr"] for trial in swept.trials}) == 2


def test_a_sweep_goes_on_where_it_stopped_and_no_other_goes_on_with_it(tiny, data, tmp_path):
    first = pargolf.sweep(tiny, [RATE], data=data, out=tmp_path, trials=1).result()
    work = pargolf.sweep(tiny, [RATE], data=data, out=tmp_path, trials=2)
    assert sum(isinstance(event, TrialDone) for event in work) == 1
    assert isinstance(work.result(), SweepResult) and work.result().trials[0] == first.trials[0]
    cut = pargolf.sweep(tiny, [RATE], data=data, out=tmp_path, trials=3)
    next(event for event in cut if isinstance(event, Step))
    cut.close()
    third = pargolf.sweep(tiny, [RATE], data=data, out=tmp_path, trials=3).result()
    assert [trial.number for trial in third.trials] == [0, 1, 2]  # the one that was under way goes on
    assert not list(pargolf.sweep(tiny, [RATE], data=data, out=tmp_path, trials=3))[:-1]
    for other, spans, line in (
        (edit(tiny, {"train.steps": 3}), [RATE], "other recipe"),
        (tiny, ["train.optimizer[*].lr=log:0.001,0.2"], "other ranges"),
    ):
        with pytest.raises(UserError, match=line):
            pargolf.sweep(other, spans, data=data, out=tmp_path, trials=4).result()
    moved = shutil.copytree(data, tmp_path / "data")
    raw = bytearray((moved / "text_val_000000.bin").read_bytes())
    raw[-4:-2], raw[-2:] = raw[-2:], raw[-4:-2]
    (moved / "text_val_000000.bin").write_bytes(raw)
    with pytest.raises(UserError, match="other validation shards"):
        pargolf.sweep(tiny, [RATE], data=moved, out=tmp_path, trials=4).result()


def test_trials_side_by_side_are_those_of_rounds_and_do_not_depend_on_which_ends_first(tiny, data, tmp_path):
    class Backwards:
        """Two at a time in this process, the last one first."""

        def room(self):
            return 2

        def run(self, tasks):
            for number in reversed(range(len(tasks))):
                for event in tasks[number].work(Place(), *tasks[number].arguments):
                    yield Happened(number, event)
                yield TaskEnded(number)

    class Forwards(Backwards):
        def run(self, tasks):
            return sorted(super().run(tasks), key=lambda event: event.number)

    swept = []
    for engine in (Backwards(), Forwards()):
        out = tmp_path / type(engine).__name__
        work = Work(run_sweep(tiny, [read_span(RATE)], open_data(data), out, trials=3, options=StudyOptions(engine)))
        swept.append([(trial.number, trial.values, trial.bpb) for trial in work.result().trials])
    assert swept[0] == swept[1] and [number for number, _, _ in swept[0]] == [0, 1, 2]


def test_a_poor_trial_ends_at_a_look_and_is_no_best(tiny, data, tmp_path):
    spans = [read_span(RATE)]
    pruner = optuna.pruners.ThresholdPruner(upper=0.0)
    swept = Work(run_sweep(tiny, spans, open_data(data), tmp_path, trials=1, pruner=pruner)).result()
    (trial,) = swept.trials
    assert trial.state == "pruned" and trial.bpb > 0 and swept.best is None
    assert not (Path(trial.run) / "result.json").exists()
    (tmp_path / "trial-0001").mkdir()
    with pytest.raises(UserError, match="trial-0001 belongs to another sweep"):
        pargolf.sweep(tiny, [RATE], data=data, out=tmp_path, trials=2).result()


def test_many_machines_share_a_study_in_a_database(tiny, data, tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    pargolf.sweep(tiny, [RATE], data=data, out=tmp_path / "one", trials=1, storage=url).result()
    swept = pargolf.sweep(tiny, [RATE], data=data, out=tmp_path / "two", trials=2, storage=url).result()
    assert [Path(trial.run).parent.name for trial in swept.trials] == ["one", "two"]
    assert not (tmp_path / "one" / "sweep.journal").exists()
    with pytest.raises(UserError, match="study cannot be opened at nosuch"):
        pargolf.sweep(tiny, [RATE], data=data, out=tmp_path, trials=1, storage="nosuch://x").result()


def test_values_that_cannot_be_trained_are_an_answer_and_stop_nothing(tiny, data, tmp_path):
    swept = pargolf.sweep(tiny, ["train.batch_tokens=choice:64,10000000"], data=data, out=tmp_path, trials=3).result()
    states = {trial.values["train.batch_tokens"]: trial for trial in swept.trials}
    assert swept.best is None or swept.best.values["train.batch_tokens"] == 64
    if 10_000_000 in states:
        assert states[10_000_000].state == "failed" and "fewer than one batch" in states[10_000_000].note


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train.optimizr[*].lr=log:0.1,1"], "No 'optimizr'.*Did you mean optimizer"),
        (["train.optimizer[mlp].lr=log:0.1,1"], r"No row '\[mlp\]'"),
        (["train.steps=float:0.5,1.5"], "train.steps takes"),
        (["train.steps=choice:3,x"], "train.steps takes"),
        ([RATE, RATE], "same path"),
        ([], "Name at least one range"),
        (["train.steps=4"], "Name at least one range"),
        (["train.steps=int:4"], r"Write train.steps=int:LOW,HIGH\[,STEP\]"),
        (["train.steps=int:4,2"], "is not a range"),
        (["train.steps=int:4,8.5"], "is not a range"),
        (["train.grad_clip=log:0,1"], "logarithm of 0"),
        (["train.grad_clip=float:0,1,0"], "a step above 0"),
        (["train.grad_clip=choice:1"], "fewer than two choices"),
    ],
)
def test_a_range_that_cannot_be_is_one_line(data, tmp_path, words, line):
    with pytest.raises(UserError, match=line):
        pargolf.sweep(TINY, words, data=data, out=tmp_path / "out", trials=1).result()
    assert not (tmp_path / "out").exists()


@given(st.sampled_from(["log", "float"]), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_a_range_reads_as_it_is_written(kind, one, other):
    low, high = sorted((one, other))
    word = f"train.grad_clip={kind}:{low!r},{high!r}"
    if low == high:
        with pytest.raises(UserError):
            read_span(word)
    else:
        assert read_span(word) == Span("train.grad_clip", kind, low, high)
    assert read_span("name=log") is None and read_span("a=b") is None and show(low)


def test_the_command_prints_the_best_and_json(tiny, data, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from small import RECIPE\nfrom pargolf.core.spec import edit\n"
        "RECIPE = edit(RECIPE, {'train.steps': 2, 'budget.bytes': 400_000})\n"
    )
    words = ["sweep", str(tmp_path / "mine.py"), RATE, "train.micro_tokens=32", "--trials", "1", "--data", str(data)]
    words += ["--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.exception
    assert "best: " in done.output and "'train.optimizer[*].lr=0.0" in done.output
    said = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert said["best"]["number"] == 0 and said["trials"][0]["state"] == "complete"
