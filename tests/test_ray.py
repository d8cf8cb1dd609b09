"""Runs on a Ray cluster of two nodes: the same artifacts as here, whatever is killed on the way."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import small
from forks import wait_until

import pargolf
from pargolf.core.errors import UserError
from pargolf.core.events import JobBegan, JobEvent, JobLost, Resumed
from pargolf.core.spec import edit
from pargolf.core.version import VERSION
from pargolf.data.folder import open_data
from pargolf.engines.parcels import parcel_of
from pargolf.engines.task import Place, Task
from pargolf.packing.codecs import Zstd
from pargolf.run.folder import RunFolder
from pargolf.study.together import run_alone

ray = pytest.importorskip("ray")
cluster = pytest.importorskip("pargolf.engines.cluster")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("quick_page"),
    pytest.mark.skipif(sys.platform == "win32", reason="kills processes"),
]
STEPS = 40
"""Enough that a run is killed before its last."""
RECIPE = edit(small.RECIPE, {"train.steps": STEPS, "codec": Zstd(3)})
PARTS = {
    **{f"a rate of {rate}": {"train.optimizer[*].lr": rate} for rate in (0.005, 0.01, 0.03, 0.04)},
    **{f"{bits} bits": {"quant.table[mlp.*].bits": bits} for bits in (4, 6)},
    "4 steps": {"train.steps": 4},
    "an MLP of 24": {"model.blocks[:].mlp.hidden": 24},
}
"""Eight parts that one script serves, since they differ in numbers alone."""


@pytest.fixture(scope="module")
def nodes():
    """A cluster of two nodes with a core each, which `--on ray` joins."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_worker_niceness", "0")  # else a busy machine gives them next to nothing
        size = {"num_cpus": 1, "object_store_memory": 80_000_000}
        two = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
        two.second = two.add_node(**size)
        patched.setenv("RAY_ADDRESS", two.address)
        yield two
        ray.shutdown()
        two.shutdown()


def artifacts(out: Path) -> dict[str, str]:
    folders = {path.parent for path in out.rglob("result.json")}
    return {str(path.relative_to(out)): RunFolder(path).read_result().artifact_sha256 for path in folders}


def kill_in_training(job: Path, process: int) -> None:
    """End a process for good as soon as its run has a checkpoint; it writes one after every step."""
    until = time.monotonic() + 60
    while not any(job.glob("checkpoints/step-*")) and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)


def test_an_ablation_over_two_nodes_with_a_worker_killed_equals_the_local_one(nodes, data, tmp_path):
    def table(out, **how):
        return pargolf.ablate(RECIPE, edits=PARTS, seeds=[1], data=data, out=tmp_path / out, **how)

    here = table("here").result()
    work = table("there", on="ray", needs="cores=1", checkpoint_every=0)
    began, losses, resumed = [], [], []
    for event in work:
        if isinstance(event, JobBegan):
            began.append(event)
            if event.job == "4 bits, seed 1" and event.attempt == 1:
                kill_in_training(tmp_path / "there" / "4-bits" / "seed-1", event.process)
        losses += [event] if isinstance(event, JobLost) else []
        resumed += [event] if isinstance(event, JobEvent) and isinstance(event.event, Resumed) else []
    there = work.result()
    assert {row.part: row.scores for row in there} == {row.part: row.scores for row in here}
    assert artifacts(tmp_path / "there") == artifacts(tmp_path / "here") and len(there) == 9
    assert [(event.job, event.losses, event.again) for event in losses] == [("4 bits, seed 1", 1, True)]
    assert [event.job for event in resumed] == ["4 bits, seed 1"] and 0 < resumed[0].event.step < STEPS
    assert len(began) == 10 and len({event.process for event in began}) >= 2
    killed, again = [event.process for event in began if event.job == "4 bits, seed 1"]
    assert killed != again


def test_a_command_and_then_a_node_that_are_killed_cost_nothing(nodes, data, tmp_path):
    """What had ended is not run again, and the rest goes on where it was."""

    def runs(out, **how):
        return pargolf.seeds(RECIPE, seeds=[1, 2, 3], data=data, out=tmp_path / out, **how)

    how, out = {"on": "ray", "needs": "cores=1", "checkpoint_every": 0}, tmp_path / "there"
    words = {"seeds": [1, 2, 3], "data": str(data), "out": str(out), **how}
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import pargolf, test_ray; "
    code += f"pargolf.seeds(test_ray.RECIPE, **{words!r}).result()"
    command = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    runs("here").result()
    wait_until(lambda: any(out.rglob("result.json")), within=150.0)
    command.kill()
    assert command.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    work = runs("there", **how)
    for event in work:
        if isinstance(event, JobBegan) and nodes.second is not None:
            nodes.remove_node(nodes.second, allow_graceful=False)
            nodes.second = None
    assert [row["seed"] for row in work.result().runs] == [1, 2, 3]
    assert artifacts(out) == artifacts(tmp_path / "here")
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


def test_a_node_that_cannot_do_it_says_why(tmp_path, data):
    task = Task("a", run_alone, (), tmp_path / "runs" / "a")
    handshake = cluster.Handshake("0.0.0", None)
    assert "Install the same" in cluster.do_task(0, task, Place(), handshake, None).reason
    handshake = cluster.Handshake(VERSION, (tmp_path / "runs", "word"))
    assert f"does not see {tmp_path / 'runs'}" in cluster.do_task(0, task, Place(), handshake, None).reason
    gone = replace(parcel_of(open_data(data)), path=tmp_path / "gone", sha256=(("val_sha256", "0"),))
    task = replace(task, arguments=(gone,), folder=None)
    assert cluster.do_task(0, task, Place(), cluster.Handshake(VERSION, None), None) == cluster.Refusal(parcel=gone)


def test_what_no_node_has_is_refused(nodes, data, tmp_path):
    with pytest.raises(UserError, match="No node of the cluster has 512 cores at once; there is up to 1 cores"):
        pargolf.seeds(RECIPE, seeds=[1], data=data, out=tmp_path, on="ray", needs="cores=512").result()
