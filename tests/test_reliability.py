"""Runs that are killed, terminated, shared or starved keep their promises; every process here is a fork of this one."""

import json
import os
import resource
import signal
import time
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch
from batteries import kills
from batteries.kills import (
    RECIPE,
    SIGNALS,
    disturbed,
    goes_on,
    killed_at,
    killed_while_writing,
    limited,
    logged_steps,
    sent,
    steps_of,
)
from forks import die, ended, forked, shared

import pargolf
from pargolf.core.budget import Clock
from pargolf.core.errors import UserError
from pargolf.core.events import Narrowed, Packed, Resumed, Started, Step, Unsaved
from pargolf.core.spec import edit
from pargolf.core.world import World, join_world
from pargolf.evaluate.adapted import score_adapted
from pargolf.evaluate.adapters.adamw import AdamW
from pargolf.evaluate.adapters.count_mix import CountMix
from pargolf.evaluate.adapters.count_tilt import CountTilt
from pargolf.evaluate.adapters.hint_tilt import HintTilt
from pargolf.evaluate.adapters.low_rank import LowRank
from pargolf.evaluate.adapters.online import Online
from pargolf.evaluate.adapters.phases import Phases
from pargolf.evaluate.adapters.sgd import SGD
from pargolf.evaluate.probes import stir
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import PerDocument, Sliding
from pargolf.run import pipeline as run_pipeline
from pargolf.run import reserve
from pargolf.run import training as run_training
from pargolf.run.folder import RunFolder
from pargolf.run.pipeline import run_recipe
from pargolf.run.resume import Checkpointer
from pargolf.run.score import open_text
from pargolf.run.training import train_weights
from pargolf.training.checkpoint import Checkpoints
from pargolf.training.optimizer import Optimizer
from pargolf.watch.runlog import read_events


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return kills.prepared(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nothing disturbs."""
    return kills.undisturbed(data, tmp_path_factory.mktemp("runs") / "whole")


def test_every_place_where_a_run_is_disturbed_is_there():
    assert all(callable(getattr(owner, name)) for owner, name, _ in kills.PLACES) and len(kills.PLACES) + 8 > 32


@pytest.mark.parametrize("kill", [(killed_at, 1), (killed_at, 4), (killed_at, 8), (killed_while_writing, 4)])
def test_a_killed_run_goes_on_to_the_same_bytes(kill, data, whole, tmp_path):
    how, when = kill
    out = tmp_path / "run"
    assert how(when, data, out) == -signal.SIGKILL
    assert not (out / "result.json").exists()
    events = list(run_recipe(RECIPE, data, out, resume=True))
    assert sum(isinstance(e, Resumed) for e in events) == (0 if when == 1 else 1)
    again = RunFolder.open(out)
    for name in ("weights.safetensors", "model.pargolf"):
        assert again[name].read_bytes() == whole[name].read_bytes()
    steps = [[(e.step, e.loss, e.tokens) for e in read_events(f["events.jsonl"]) if isinstance(e, Step)]
             for f in (again, whole)]  # fmt: skip
    assert steps[0] == steps[1] and len(steps[0]) == 8
    assert sum(isinstance(e, Started) for e in read_events(again["events.jsonl"])) == 1
    assert not again.checkpoints.exists()


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(data, whole, tmp_path):
    out = tmp_path / "run"
    killed_at(6, data, out)
    newest, before = Checkpoints(out / "checkpoints").paths()
    newest.write_bytes(newest.read_bytes()[:-100])
    (resumed,) = [e for e in run_recipe(RECIPE, data, out, resume=True) if isinstance(e, Resumed)]
    assert resumed.file == before.name and resumed.step == 4 and newest.name in resumed.refused[0]
    assert RunFolder.open(out)["weights.safetensors"].read_bytes() == whole["weights.safetensors"].read_bytes()


def test_sigterm_keeps_the_step_at_hand_and_says_how_to_go_on(data, whole, tmp_path, capfd):
    out = tmp_path / "run"

    def work():
        for event in run_recipe(RECIPE, data, out):
            if isinstance(event, Step) and event.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    assert ended(forked(work)) == 2
    assert "Terminated after step" in (said := capfd.readouterr().out) and "--resume" in said
    assert Checkpoints(out / "checkpoints").newest().facts["step"] >= 3
    for _ in run_recipe(RECIPE, data, out, resume=True):
        pass
    assert RunFolder.open(out)["weights.safetensors"].read_bytes() == whole["weights.safetensors"].read_bytes()


def test_resuming_otherwise_than_begun_is_refused_with_what_differs(data, whole, tmp_path):
    out = tmp_path / "run"
    killed_at(3, data, out)
    other = edit(RECIPE, {"train.grad_clip": 0.5, "train.seq_len": 32})
    with pytest.raises(UserError, match=r"train\.grad_clip: 1\.0 -> 0\.5; *train\.seq_len|train\.seq_len: 16 -> 32"):
        next(run_recipe(other, data, out, resume=True))
    with pytest.raises(UserError, match="begun with seed 1337, not 5"):
        next(run_recipe(RECIPE, data, out, seed=5, resume=True))
    with pytest.raises(UserError, match="finished run"):
        next(run_recipe(RECIPE, data, whole.path, resume=True))
    with pytest.raises(UserError, match="no run folder"):
        next(run_recipe(RECIPE, data, tmp_path / "nowhere", resume=True))


def test_a_loss_that_is_no_number_leaves_the_last_good_state(data, tmp_path):
    wild = edit(RECIPE, {"train.optimizer[embed.tokens].lr": 1e30, "train.grad_clip": None})
    with pytest.raises(UserError, match=r"at step \d+, on batch \d+.*halve the rates.*kept in .*step-\d+\.safetensors"):
        for _ in run_recipe(wild, data, tmp_path / "run"):
            pass
    kept = Checkpoints(tmp_path / "run" / "checkpoints").newest()
    assert all(torch.isfinite(x).all() for x in kept.tensors.values())


def test_two_processes_train_pack_and_score_as_one(data, tmp_path):
    # Without fake quantization, whose steps turn a last bit of difference into a whole code.
    recipe = edit(RECIPE, {"train.steps": 50, "train.batch_tokens": 128, "train.phases": ()})
    alone = pargolf.train(recipe, data=data.path, out=tmp_path / "one").result()

    def work(rank):
        result = pargolf.train(recipe, data=data.path, out=tmp_path / "two", checkpoint_every=0).result()
        assert result.steps == 50  # each process has the result, once the first one has written it

    assert shared(2, work, out=tmp_path) == [0, 0]
    one, two = (
        [e.loss for e in read_events(tmp_path / run / "events.jsonl") if isinstance(e, Step)] for run in ("one", "two")
    )
    assert len(one) == len(two) == 50 and one == pytest.approx(two, abs=1e-4)
    together = json.loads((tmp_path / "two" / "result.json").read_text())
    assert together["machine"]["world_size"] == 2
    assert together["bytes"]["model"] == pytest.approx(alone.bytes.model, rel=0.01)
    assert together["val_bpb"] == pytest.approx(alone.val_bpb, abs=1e-3)
    # The same artifact scored by one process: evaluation in shares changes nothing.
    again = pargolf.score(tmp_path / "two" / "model.pargolf", data=data.path).result()
    assert again["loss"] == pytest.approx(together["val_loss"], abs=1e-7)
    assert again["tokens"] == together["val_tokens"] and again["bytes"] == together["val_bytes"]


LOW_RANK = LowRank(rank=2, alpha=2.0, lr=0.02, chunk=9, batch=3, globs=("attn.q", "mlp.*"))
LEARNERS = (
    SGD(lr=0.05, chunk=64, batch=3, epochs=2),
    AdamW(lr=0.002, chunk=64, batch=2, weight_decay=0.1, globs=("*",)),
    LOW_RANK,
    replace(LOW_RANK, warm=True, phases=Phases((3, 5), SGD(lr=0.05, epochs=2, chunk=48, batch=2))),
    CountTilt(orders=(1, 2), adapter=AdamW(lr=0.002, chunk=64, batch=2)),
    Online(lr=0.005),
    CountMix(orders=(1, 2), adapter=CountTilt(orders=(1, 2), adapter=Online(lr=0.005))),
    HintTilt(contexts=(2,), threshold=0.5, adapter=replace(LOW_RANK, warm=True)),
)


def test_two_processes_adapt_as_one(tmp_path):
    """Each learner's score, in full and where it was stopped, from the same weights on the same text."""
    model = small.model(bos=1).build()
    stir(model)
    tokens = np.array(small.shards(240).parts[0])
    tokens[np.random.default_rng(0).choice(240, 6, replace=False)] = 1
    text = Text(tokens, np.ones(239, dtype=np.int64), 32, bos=1)

    def scores(world):
        for learner in LEARNERS:
            windows = PerDocument(16, 8) if learner.by_document else Sliding(16, 8)
            *_, whole = score_adapted(model, text, windows, learner, world=world, batch_windows=3)
            limited = {"seconds": 25.0, "clock": Clock(count().__next__), "batch_windows": 3}
            learning = score_adapted(model, text, windows, learner, world=world, without=whole.without, **limited)
            *_, cut = learning
            assert whole.score.complete and not cut.score.complete and abs(whole.saved) > 1e-3
            yield whole.score.bpb, cut.score.bpb, cut.score.tokens

    def work(rank):
        (tmp_path / f"{rank}.json").write_text(json.dumps(list(scores(join_world("cpu")))))

    assert shared(2, work, out=tmp_path) == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert [row[0] for row in first] == pytest.approx([row[0] for row in scores(World())], abs=1e-7)


def test_a_checkpoint_of_two_processes_is_one_of_one_process(data, tmp_path):
    """Momentum is gathered from its owners, so a run may go on with another number of processes."""
    recipe = edit(RECIPE, {"train.steps": 20, "train.phases": ()})

    def work(rank):
        for event in run_recipe(recipe, data, tmp_path / "two", checkpoint_every=0):
            if isinstance(event, Step) and event.step == 9:
                die()

    # The first process dies after step 9; the second one notices, and ends by itself.
    codes = shared(2, work, out=tmp_path)
    assert codes[0] == -signal.SIGKILL and codes[1] == 2
    kept = Checkpoints(tmp_path / "two" / "checkpoints").newest()
    assert kept.facts["step"] == 8 and kept.refused == ()
    for _ in run_recipe(recipe, data, tmp_path / "two", resume=True):
        pass
    for _ in run_recipe(recipe, data, tmp_path / "one"):
        pass
    one, two = (
        [e.loss for e in read_events(tmp_path / run / "events.jsonl") if isinstance(e, Step)] for run in ("one", "two")
    )
    assert len(two) == 20 and one == pytest.approx(two, abs=1e-4)


def test_a_process_that_dies_ends_the_job_with_its_reason(data, tmp_path, capfd):
    def work(rank):
        if rank == 1:
            step = run_training.Training._one_step
            run_training.Training._one_step = lambda self, *a: die() if self.step == 5 else step(self, *a)
        for _ in run_recipe(RECIPE, data, tmp_path / "run", checkpoint_every=0):
            pass

    began = time.monotonic()
    assert shared(2, work, out=tmp_path) == [2, -signal.SIGKILL]
    assert time.monotonic() - began < 60
    said = capfd.readouterr().out
    assert "Another process of this job is gone" in said and "--resume" in said
    assert Checkpoints(tmp_path / "run" / "checkpoints").newest().facts["step"] == 5


def test_a_batch_that_the_processes_cannot_share_is_refused(data, tmp_path, capfd):
    recipe = edit(RECIPE, {"train.batch_tokens": 48})

    def work(rank):
        for _ in run_recipe(recipe, data, tmp_path / "run"):
            pass

    assert shared(2, work, out=tmp_path) == [2, 2]
    assert "2 processes cannot share a batch of 48 tokens" in capfd.readouterr().out


class SlowDisk(RunFolder):
    """A folder whose writes take `cost` seconds of an injected clock."""

    def write_weights(self, weights):
        super().write_weights(weights)
        self.now[0] += self.cost


@pytest.mark.parametrize("counts", ["all", "published"])
def test_a_slow_disk_slow_looks_and_slow_steps_fit_into_the_seconds(counts, data, tmp_path, monkeypatch):
    now, calls = [0.0], []
    clock, checkpoints = Clock(lambda: now[0]), Checkpoints(tmp_path / "checkpoints", 5.0)

    def slow(owner, name, seconds):
        real = getattr(owner, name)

        def late(*args, **options):
            calls.append(name)
            now[0] += seconds
            return real(*args, **options)

        monkeypatch.setattr(owner, name, late)

    slow(Checkpoints, "write", 2.0)
    slow(RunFolder, "write_weights", 1.0)
    slow(reserve, "fit", 1.5)
    slow(run_training.Training, "_gradients", 1.0)
    slow(run_training, "score_sample", 4.0)
    changes = {"train.steps": None, "train.seconds": 200.0, "budget.counts": counts, "model.vocab": data.vocab}
    recipe = edit(RECIPE, changes)
    folder = RunFolder.create(tmp_path / "run")
    checkpointer = Checkpointer(folder, checkpoints)
    events = list(
        train_weights(
            recipe, data.train, open_text(data), seed=1, world=World(), clock=clock, checkpointer=checkpointer
        )
    )
    needed = 1.0 + 1.5
    assert 200.0 - 2 * needed - 5.0 <= clock.seconds <= 200.0 - needed
    looks = sum(type(e).__name__ == "Validated" for e in events)
    assert looks == 1 if counts == "all" else looks >= 8  # looks that count may take 2 % of the time, or be one
    # At most 2 % of the time goes into checkpoints, and what the published count leaves out is looks and warm-up.
    assert 1 <= calls.count("write") <= 0.02 * 200.0 / 2.0 + 1
    uncounted = now[0] - clock.seconds
    assert uncounted == (0 if counts == "all" else needed + 4.0 * (looks + 1) + 3.0)


@pytest.mark.parametrize("late", [100.0, 150.0, 1e9])
def test_what_is_kept_for_packing_follows_the_load(late, data, tmp_path, monkeypatch):
    """Three times slower from `late` on, packing as well as steps: the end still fits, and no more is kept."""
    now = [0.0]
    clock = Clock(lambda: now[0])

    def slow(owner, name, seconds):
        real = getattr(owner, name)

        def slowed(*args, **options):
            now[0] += seconds * (3.0 if now[0] > late else 1.0)
            return real(*args, **options)

        monkeypatch.setattr(owner, name, slowed)

    slow(reserve, "fit", 4.0)
    slow(run_training.Training, "_gradients", 0.5)
    monkeypatch.setattr(
        run_training, "score_sample", lambda *args, **options: SimpleNamespace(loss=1.0, bpb=1.0, tokens=1)
    )
    recipe = edit(RECIPE, {"train.steps": None, "train.seconds": 200.0})
    list(train_weights(recipe, data.train, open_text(data), seed=1, world=World(), clock=clock))
    packing = 4.0 * (3.0 if late < 200.0 else 1.0)
    assert 200.0 - 2.0 * packing - 3.0 <= clock.seconds <= 200.0 - 2.0 * packing


def test_seconds_too_few_for_one_step_and_packing_are_refused(data, tmp_path, monkeypatch):
    gradients = run_training.Training._gradients
    monkeypatch.setattr(
        run_training.Training, "_gradients", lambda self, step: time.sleep(0.4) or gradients(self, step)
    )
    recipe = edit(RECIPE, {"train.steps": None, "train.seconds": 1.2})
    with pytest.raises(UserError, match=r"too few.*train\.seconds="):
        list(run_recipe(recipe, data, tmp_path / "run"))


@pytest.mark.parametrize("pair", SIGNALS)
def test_two_signals_20_ms_apart_end_the_run_at_once_with_its_state(pair, data, whole, tmp_path, capfd):
    out = tmp_path / "run"
    owner, name = run_training.Training, "_gradients"
    assert disturbed(owner, name, lambda: sent(*pair), data, out, at=4) == 2
    assert "Ended at once, after step 3" in (said := capfd.readouterr().out) and "--resume" in said
    assert Checkpoints(out / "checkpoints").newest().facts["step"] == 3
    goes_on(out, data, whole, from_step=3)


@pytest.mark.parametrize(("at", "kept"), [(4, 4), (8, 8)])
def test_signals_in_the_middle_of_an_update_wait_for_it(at, kept, data, whole, tmp_path):
    out = tmp_path / "run"
    assert disturbed(Optimizer, "step", lambda: sent(*SIGNALS[0]), data, out, at=at) == 2
    assert Checkpoints(out / "checkpoints").newest().facts["step"] == kept
    goes_on(out, data, whole, from_step=kept)


def test_signals_while_a_checkpoint_is_written_wait_for_it(data, whole, tmp_path):
    out = tmp_path / "run"
    assert disturbed(Checkpoints, "write", lambda: sent(*SIGNALS[0]), data, out, at=4, checkpoint_every=0) == 2
    assert Checkpoints(out / "checkpoints").newest().facts["step"] == 4
    goes_on(out, data, whole, from_step=4)


@pytest.mark.parametrize(
    ("owner", "name", "number", "from_step"),
    [
        (reserve, "fit", signal.SIGINT, 0),  # rehearsing
        (run_pipeline, "fit", signal.SIGINT, 8),
        (run_pipeline, "packed_event", signal.SIGINT, 8),
        (run_pipeline, "score_together", signal.SIGINT, 8),
        (run_pipeline, "score_together", signal.SIGTERM, 8),
        (run_pipeline, "score_together", signal.SIGHUP, 8),
        (run_pipeline, "document_rows", signal.SIGINT, 8),
    ],
)
def test_a_signal_outside_training_ends_the_run_and_resume_goes_on_there(
    owner, name, number, from_step, data, whole, tmp_path, capfd
):
    out = tmp_path / "run"
    assert disturbed(owner, name, lambda: os.kill(os.getpid(), number), data, out) == 2
    assert "--resume" in capfd.readouterr().out and not (out / "result.json").exists()
    goes_on(out, data, whole, from_step=from_step)


def test_what_is_packed_is_not_packed_again(data, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    disturbed(run_pipeline, "score_together", die, data, out)
    monkeypatch.setattr(run_pipeline, "fit", None)
    goes_on(out, data, whole, from_step=8)


@pytest.mark.parametrize("file", ["weights.safetensors", "model.pargolf", "checkpoints/stage.json"])
def test_a_stage_that_does_not_fit_its_files_is_not_believed(file, data, whole, tmp_path):
    out = tmp_path / "run"
    disturbed(run_pipeline, "score_together", die, data, out, checkpoint_every=0)
    path = out / file
    path.write_bytes(path.read_bytes()[:-9])
    goes_on(out, data, whole, from_step=8)


def test_ctrl_c_while_somebody_reads_the_events_waits_for_the_next(data, whole, tmp_path):
    out = tmp_path / "run"

    def work():
        for event in run_recipe(RECIPE, data, out):
            if isinstance(event, Packed):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
                (out / "reader").touch()

    assert ended(forked(work)) == 2 and (out / "reader").exists()
    goes_on(out, data, whole, from_step=8)


def test_a_run_ended_by_one_ctrl_c_is_scored_and_still_goes_on(data, whole, tmp_path):
    out = tmp_path / "run"
    owner, name = run_training.Training, "_gradients"
    assert disturbed(owner, name, lambda: os.kill(os.getpid(), signal.SIGINT), data, out, at=3) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["interrupted"] and result["steps"] == 3
    goes_on(out, data, whole, from_step=3)
    with pytest.raises(UserError, match="finished run"):
        next(run_recipe(RECIPE, data, out, resume=True))


def test_nohup_keeps_a_run_from_sighup(data, tmp_path):
    out = tmp_path / "run"

    def work():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for event in run_recipe(RECIPE, data, out):
            if isinstance(event, Step):
                os.kill(os.getpid(), signal.SIGHUP)

    assert ended(forked(work)) == 0 and (out / "result.json").exists()


@pytest.mark.parametrize("until", [6, 99])
def test_a_disk_that_is_full_for_a_while_costs_checkpoints_and_nothing_else(until, data, whole, tmp_path, capfd):
    out = tmp_path / "run"

    def work():
        for event in run_recipe(RECIPE, data, out, checkpoint_every=0):
            if isinstance(event, Step) and event.step in (3, until):
                limited((out / "events.jsonl").stat().st_size + 40 if event.step == 3 else resource.RLIM_INFINITY)

    code = ended(forked(work))
    if until == 6:
        assert code == 0
        folder = RunFolder.open(out)
        assert steps_of(folder) == steps_of(whole) and logged_steps(folder) == list(range(1, 9))
        assert [e.step for e in read_events(folder["events.jsonl"]) if isinstance(e, Unsaved)] == [3, 4, 5]
        assert folder["model.pargolf"].read_bytes() == whole["model.pargolf"].read_bytes()
    else:
        assert code == 4 and "File too large" in capfd.readouterr().out
        assert Checkpoints(out / "checkpoints").newest().facts["step"] == 2
        goes_on(out, data, whole, from_step=2)


def test_a_disk_that_is_full_again_at_resume_loses_nothing(data, whole, tmp_path):
    out = tmp_path / "run"
    killed_at(5, data, out)
    before = (out / "events.jsonl").read_bytes()

    def work():
        limited(100)
        for _ in run_recipe(RECIPE, data, out, resume=True):
            pass

    assert ended(forked(work)) == 4
    assert (out / "events.jsonl").read_bytes() == before
    goes_on(out, data, whole, from_step=4)


def test_passes_shrink_where_memory_runs_out(data, tmp_path, monkeypatch):
    """Too little for more than two rows at a time: the run's numbers are those of two rows, and all steps are there."""
    sizes, room = [], [32]
    real = run_training.Training._gradients

    def gradients(self, step):
        sizes.append(self.spec.micro_tokens)
        if self.spec.micro_tokens > room[0]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return real(self, step)

    monkeypatch.setattr(run_training.Training, "_gradients", gradients)
    small_passes = list(run_recipe(edit(RECIPE, {"train.micro_tokens": 32}), data, tmp_path / "a"))
    sizes.clear()
    events = list(run_recipe(RECIPE, data, tmp_path / "b"))
    assert sizes[0] == 32_768 and sizes[-1] == 32
    said = [(e.what, e.size) for e in read_events(tmp_path / "b" / "events.jsonl") if isinstance(e, Narrowed)]
    assert said == [("train.micro_tokens", 32)]
    assert [e.loss for e in events if isinstance(e, Step)] == [e.loss for e in small_passes if isinstance(e, Step)]
    room[0] = 0
    with pytest.raises(UserError, match=r"Memory ran out .* a model 16 wide on 16 tokens.*train\.seq_len.*--resume"):
        list(run_recipe(RECIPE, data, tmp_path / "c"))
