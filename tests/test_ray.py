"""Runs on a Ray cluster of two nodes: the same artifacts as here, whatever is killed on the way."""

import os
import signal
import time
from pathlib import Path

import pytest
import small

import pargolf
from pargolf.core.events import JobBegan, JobEvent, JobLost, Resumed
from pargolf.core.spec import edit
from pargolf.packing.codecs import Zstd
from pargolf.run.folder import RunFolder

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("quick_page"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes"),
]
RECIPE = edit(small.RECIPE, {"train.steps": 8, "codec": Zstd(3)})
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
        cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
        cluster.add_node(**size)
        patched.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


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
    began, lost, resumed = [], [], []
    for event in work:
        if isinstance(event, JobBegan):
            began.append(event)
            if event.job.startswith("4 bits") and not lost:
                kill_in_training(tmp_path / "there" / "4-bits" / "seed-1", event.process)
        lost += [event] if isinstance(event, JobLost) else []
        resumed += [event] if isinstance(event, JobEvent) and isinstance(event.event, Resumed) else []
    there = work.result()
    assert {row.part: row.scores for row in there} == {row.part: row.scores for row in here}
    assert artifacts(tmp_path / "there") == artifacts(tmp_path / "here") and len(there) == 9
    assert [(event.job, event.losses, event.again) for event in lost] == [("4 bits, seed 1", 1, True)]
    assert [event.job for event in resumed] == ["4 bits, seed 1"] and 0 < resumed[0].event.step < 8
    assert len(began) == 10 and len({event.process for event in began}) == 3
