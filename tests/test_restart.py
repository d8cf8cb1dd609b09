"""torchrun's own restarts: a process is killed, all begin again, and the run goes on from its last checkpoint."""

import os
import signal

import pytest
import small
from forks import ended, forked, shared

import pargolf
from pargolf.core.devices import begun_again
from pargolf.core.events import Resumed, Step
from pargolf.core.spec import edit
from pargolf.packing.codecs import Zstd
from pargolf.run.folder import RunFolder
from pargolf.watch.runlog import read_events

RECIPE = edit(small.RECIPE, {"train.steps": 6, "codec": Zstd(3)})


def train(data, out):
    """One of two processes; the first one is killed after step 3, unless it was begun again."""
    for event in pargolf.train(RECIPE, data=data, out=out, device="cpu", checkpoint_every=0):
        if isinstance(event, Step) and event.step == 3 and not begun_again():
            os.kill(os.getpid(), signal.SIGKILL)


def launch(data, out):
    """What `torchrun --nproc_per_node=2 --max-restarts=2` does, with forks in the place of new interpreters."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    how = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "restart", "monitor_interval": 0.1}
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, max_restarts=2, start_method="fork", **how)
    elastic_launch(config, train)(data, out)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")
def test_torchrun_begins_again_from_the_last_checkpoint(data, tmp_path, quick_code, quick_page, monkeypatch):
    def work(rank):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # nothing is killed, and an empty folder is begun
        train(data, tmp_path / "whole")

    assert shared(2, work, out=tmp_path) == [0, 0]
    assert ended(forked(lambda: launch(data, tmp_path / "cut")), within=120.0) == 0
    events = read_events(tmp_path / "cut" / "events.jsonl")
    assert [event.step for event in events if isinstance(event, Resumed)] in ([2], [3])
    assert [event.step for event in events if isinstance(event, Step)] == [1, 2, 3, 4, 5, 6]
    whole, cut = (RunFolder(tmp_path / name).read_result() for name in ("whole", "cut"))
    assert cut.artifact_sha256 == whole.artifact_sha256 and cut.machine.world_size == 2


@pytest.mark.parametrize(
    ("name", "count", "again"),
    [
        ("TORCHELASTIC_RESTART_COUNT", "0", False),
        ("TORCHELASTIC_RESTART_COUNT", "1", True),
        ("SLURM_RESTART_COUNT", "2", True),
        ("SLURM_RESTART_COUNT", "", False),
    ],
)
def test_a_scheduler_says_when_it_begins_a_command_again(name, count, again, monkeypatch):
    for other in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, count)
    assert begun_again() is again
