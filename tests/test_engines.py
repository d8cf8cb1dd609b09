"""What engines share: what a job needs, one process a folder, tries that are counted, data that travels."""

import os
import shutil
import time
from dataclasses import replace

import pytest
from falling import always_falls, fails, falls
from forks import ended, forked, wait_until

from pargolf.core.errors import UserError
from pargolf.core.events import JobBegan, JobEnded, JobEvent, JobLost, Resumed, Started, Step
from pargolf.core.files import claimed
from pargolf.data.folder import open_data
from pargolf.engines import parcels
from pargolf.engines.choose import choose
from pargolf.engines.processes import Processes
from pargolf.engines.task import Attempts, Happened, Needs, Task, TaskEnded
from pargolf.watch.live import Status, milestone


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("", Needs()),
        ("cores=4,gpus=0.5,memory=8GB", Needs(4, 0.5, 8_000_000_000)),
        ("gpus=2", Needs(gpus=2.0)),
        ("gpus=0", Needs(gpus=0.0)),
    ],
)
def test_needs_are_read(text, needs):
    assert Needs.parse(text) == needs


@pytest.mark.parametrize("text", ["cores", "cores=0", "cores=-1", "gpus=1.5", "gpus=-1", "disk=3GB", "memory=8G"])
def test_other_needs_are_one_line(text):
    with pytest.raises(UserError, match=r"--needs|is not possible"):
        Needs.parse(text)


def test_a_command_chooses_its_engine():
    assert choose() is choose(jobs=1) is None
    assert choose(jobs=3) == Processes(3) and choose(needs="cores=1") == Processes(1, Needs(1))
    for how, words in (({"on": "slurm"}, "--on is local, ray"), ({"jobs": 0}, "at least 1")):
        with pytest.raises(UserError, match=words):
            choose(**how)


def test_more_than_the_machine_has_is_refused():
    for needs, words in ((Needs(gpus=512.0), "more GPUs"), (Needs(memory=10**15), "memory"), (Needs(10**6), "cores")):
        with pytest.raises(UserError, match=words):
            Processes(2, needs).run([])


def test_a_task_is_lost_a_few_times_in_a_row_and_begins_to_count_anew_when_it_has_come_further():
    attempts = Attempts()
    assert [attempts.count_loss(0), attempts.count_loss(0), attempts.count_loss(1)] == [1, 2, 1]
    attempts.note(0, Resumed(5, "step-5", [], 1.0))
    assert attempts.count_loss(0) == 1
    attempts.note(0, Resumed(5, "step-5", [], 1.0))  # no further than before
    assert attempts.count_loss(0) == 2


def test_processes_are_replaced_a_few_times_and_a_fault_is_told(tmp_path):
    marks = tmp_path
    tasks = [Task("a", falls, (marks,)), Task("b", fails), Task("c", always_falls)]
    events = list(Processes(2).run(tasks))
    ends = {event.number: event for event in events if isinstance(event, TaskEnded)}
    losses = [event for event in events if isinstance(event, JobLost)]
    assert ends[0].error is None and str(ends[1].error) == "It diverged." and "lost 3 times" in str(ends[2].error)
    assert [(e.losses, e.again) for e in losses if e.job == "a"] == [(1, True), (2, True)]
    assert [(e.losses, e.again) for e in losses if e.job == "c"] == [(1, True), (2, True), (3, False)]
    assert [e.attempt for e in events if isinstance(e, JobBegan) and e.job == "a"] == [1, 2, 3]
    assert [e.event.step for e in events if isinstance(e, Happened) and isinstance(e.event, Step)].count(4) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="two processes")
def test_a_folder_is_one_process_s_until_it_ends_however_it_ends(tmp_path):
    folder, inside = tmp_path / "run", tmp_path / "inside"

    def hold():
        with claimed(folder):
            inside.touch()
            time.sleep(60)

    child = forked(hold)
    wait_until(inside.is_file)
    with pytest.raises(UserError, match="Another process works in"), claimed(folder, patience=0.2):
        pass
    os.kill(child, 9)
    assert ended(child) == -9
    with claimed(folder, patience=5.0):
        assert (folder / ".claim").is_file()
    assert not (folder / ".claim").exists()


def test_data_travels_once_and_is_known_by_its_hashes(data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "node"))
    monkeypatch.setattr(parcels, "PIECE", 1000)
    here = shutil.copytree(data, tmp_path / "here")
    parcel = parcels.parcel_of(open_data(here))
    assert parcels.find_parcel(parcel).path == here
    files: dict[str, list[bytes]] = {}
    for name, piece in parcels.cut(parcel):
        files.setdefault(name, []).append(piece)
    assert max(len(piece) for pieces in files.values() for piece in pieces) <= 1000
    (here / "text_val_000000.bin").write_bytes((here / "text_train_000000.bin").read_bytes())
    assert parcels.find_parcel(parcel) is None  # other text at the same path
    copy = parcels.unpack(parcel, files)
    assert copy.path != here and copy.copy_of == here
    assert copy.prove() == open_data(data).prove()
    assert parcels.unpack(parcel, {}).path == copy.path  # it is there
    with pytest.raises(UserError, match="changed while it was sent"):
        parcels.unpack(replace(parcel, path=tmp_path / "gone", sha256=(("val_sha256", "0"),)), files)


def test_runs_side_by_side_are_a_bar_each():
    status = Status()
    step = Step(1, 2.0, 1.0, 64, 3.0)
    for job in ("seed 1", "seed 2"):
        status.take(JobEvent(job, Started("x", "", 1, 1, 1, 1, 4, 9.0, {})))
    status.take(JobEvent("seed 1", step))
    assert status.plain() == "seed 1 33% loss 2.000   seed 2 begins"
    status.take(JobEnded("seed 2"))
    assert status.plain() == "seed 1 33% loss 2.000"
    assert (
        milestone(JobLost("seed 1", "its node left", 1, True)) == "seed 1: lost, since its node left; it begins again"
    )
    assert milestone(JobEvent("seed 1", step)) is None
