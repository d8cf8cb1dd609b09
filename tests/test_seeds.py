"""Several seeds of one recipe: each a run, none run twice, and what is missing is what runs."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import small
from batteries import beside
from forks import ended, forked

import pargolf
from pargolf.core.errors import UserError
from pargolf.core.events import Step
from pargolf.core.spec import edit
from pargolf.core.stats import spread
from pargolf.data.folder import open_data
from pargolf.run.folder import RunFolder
from pargolf.run.signals import Interrupted
from pargolf.study.jobs import JobDone, run_jobs
from pargolf.study.together import Job

pytestmark = pytest.mark.usefixtures("quick_code")
RECIPE = edit(small.RECIPE, {"train.steps": 2})


@pytest.mark.parametrize("seed", [-1, 10**30, 1.5])
def test_a_seed_that_no_stream_begins_with_is_refused(seed, data, tmp_path):
    calls = {
        "train": lambda: pargolf.train(RECIPE, data=data, out=tmp_path, seed=seed).result(),
        "seeds": lambda: pargolf.seeds(RECIPE, data=data, out=tmp_path, seeds=[1, seed]).result(),
        "generate": lambda: list(pargolf.generate(tmp_path / "model.pargolf", seed=seed)),
    }
    for call in calls.values():
        with pytest.raises(UserError, match=r"A seed is a whole number from 0 to 2,147,483,648, not"):
            call()


def test_a_run_that_goes_on_is_not_resumed_or_replaced_by_another(data, tmp_path):
    with pargolf.train(RECIPE, data=data, out=tmp_path / "run", seed=1) as work:
        assert any(isinstance(event, Step) for event in work)

        def again():
            for how in ({"resume": True}, {"force": True}):
                with pytest.raises(UserError, match="Another process works in"):
                    pargolf.train(RECIPE, data=data, out=tmp_path / "run", seed=1, **how).result()

        assert ended(forked(again)) == 0
    assert pargolf.train(RECIPE, data=data, out=tmp_path / "run", seed=1, resume=True).result().legal
    assert not (tmp_path / "run" / ".running").exists()


def test_prepared_data_is_never_replaced_by_a_run(data):
    before = sorted(path.name for path in data.iterdir())
    with pytest.raises(UserError, match=r"holds prepared data. Choose another --out"):
        RunFolder.create(data, force=True)
    assert sorted(path.name for path in data.iterdir()) == before


@pytest.fixture(scope="module")
def done(data, quick_code, tmp_path_factory):
    out = tmp_path_factory.mktemp("seeds")
    return out, *pargolf.seeds(RECIPE, seeds=[7, 5], data=data, out=out).result()


def test_each_seed_is_a_run_of_its_own(done):
    out, rows, found = done
    assert [row["seed"] for row in rows] == [5, 7]
    for row in rows:
        result = json.loads((out / f"seed-{row['seed']}" / "result.json").read_text())
        assert result["seed"] == row["seed"] and result["val_bpb"] == row["bpb"]
    assert found == spread([row["bpb"] for row in sorted(rows, key=lambda r: -r["seed"])])
    assert rows[0]["bpb"] != rows[1]["bpb"]


def test_what_has_ended_stays_and_what_is_missing_runs(done, data, tmp_path):
    out, rows, _ = done
    copy = tmp_path / "runs"
    shutil.copytree(out, copy)
    kept = (copy / "seed-5" / "result.json").stat().st_mtime_ns
    (copy / "seed-7" / "result.json").unlink()  # cut off before its end
    again, _ = pargolf.seeds(RECIPE, seeds=[5, 7], data=data, out=copy).result()
    assert [row["bpb"] for row in again] == [row["bpb"] for row in rows]
    assert (copy / "seed-5" / "result.json").stat().st_mtime_ns == kept


def test_side_by_side_gives_the_same_numbers(done, data, tmp_path):
    _, rows, _ = done
    beside, _ = pargolf.seeds(RECIPE, seeds=[5, 7], data=data, out=tmp_path / "runs", jobs=2).result()
    assert all((tmp_path / "runs" / f"seed-{seed}" / "report.html").is_file() for seed in (5, 7))
    assert [row["bpb"] for row in beside] == [row["bpb"] for row in rows]


def test_other_recipes_and_other_data_are_not_mixed_in(done, data, tmp_path):
    out, _, _ = done
    with pytest.raises(UserError, match="another recipe"):
        pargolf.seeds(edit(RECIPE, {"train.steps": 3}), seeds=[5], data=data, out=out).result()
    texts = tmp_path / "texts"
    texts.mkdir()
    for i in range(12):
        (texts / f"{i}.txt").write_text(f"quite other words {i} " * 30)
    from pargolf.data.prepare import prepare

    for _ in prepare([texts], tmp_path / "data", vocab=300):
        pass
    with pytest.raises(UserError, match="other data"):
        pargolf.seeds(RECIPE, seeds=[5], data=tmp_path / "data", out=out).result()


def test_a_run_that_fails_stops_no_other_and_one_that_is_interrupted_stops_all(done, data, tmp_path, monkeypatch):
    out, _, _ = done

    def run(recipe, data, folder, *, seed, **options):
        if seed == 1:
            raise UserError("It diverged.")
        shutil.copytree(out / "seed-7", folder, dirs_exist_ok=True)
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(
            json.dumps(result | {"seed": seed, "interrupted": seed == 3, "legal": seed != 3})
        )
        yield from ()

    monkeypatch.setattr("pargolf.study.together.run_recipe", run)
    jobs = [Job(f"seed {seed}", RECIPE, seed, tmp_path / f"seed-{seed}") for seed in (1, 2, 3, 4)]
    ended = []
    with pytest.raises(Interrupted, match="same command again to go on"):
        for event in run_jobs(jobs, open_data(data)):
            ended += [event] if isinstance(event, JobDone) else []
    assert [(e.job.seed, str(e.error or "")) for e in ended] == [(1, "It diverged."), (2, "")]
    assert not jobs[3].folder.exists()


def test_other_text_of_the_same_length_is_other_data(done, data, tmp_path):
    out, rows, _ = done
    other = tmp_path / "data"
    shutil.copytree(data, other)
    shard = other / "text_val_000000.bin"
    raw = bytearray(shard.read_bytes())
    raw[-4:-2], raw[-2:] = raw[-2:], raw[-4:-2]
    shard.write_bytes(raw)
    with pytest.raises(UserError, match=r"seed-5 holds a run on other data than .*data"):
        pargolf.seeds(RECIPE, seeds=[5, 7], data=other, out=out).result()
    moved = shutil.copytree(data, tmp_path / "moved")
    again, _ = pargolf.seeds(RECIPE, seeds=[5, 7], data=moved, out=out).result()
    assert [row["bpb"] for row in again] == [row["bpb"] for row in rows]


@pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_runs_side_by_side_end_with_the_process_that_began_them_and_go_on(data, tmp_path, capfd):
    beside.interrupted(signal.SIGTERM, data, tmp_path / "runs")
    said = capfd.readouterr()
    assert "Traceback" not in said.err and said.out.count("\n") == 1 and "same command again" in said.out


@pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc").is_dir(), reason="looks at processes in /proc")
def test_a_process_that_is_killed_is_replaced_and_its_run_goes_on(data, tmp_path):
    assert beside.replaced(data, tmp_path / "runs")


def test_every_run_has_its_page_and_the_command_that_makes_it_again(done, data, tmp_path):
    """Where the page is gone it is written again, and nothing is run."""
    out, *_ = done
    result = RunFolder.open(out / "seed-5").read_result()
    assert result.command == f"pargolf seeds small --seeds 7,5 --data {data} --out {out}"
    copy = tmp_path / "runs"
    shutil.copytree(out, copy)
    (copy / "seed-5" / "report.html").unlink()
    pargolf.seeds(RECIPE, seeds=[5, 7], data=data, out=copy).result()
    for folder in (out, copy):
        for seed in (5, 7):
            assert "bits per byte" in (folder / f"seed-{seed}" / "report.html").read_text()


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_are_named_once_each(seeds, data, tmp_path):
    with pytest.raises(UserError, match="each seed once"):
        pargolf.seeds(RECIPE, seeds=seeds, data=data, out=tmp_path).result()


def test_the_command_line_reads_seeds_and_says_the_mean(done, data, cli):
    out, _, found = done
    recipe = out / "mine.py"
    recipe.write_text(
        f"import sys\nsys.path.insert(0, {str(sys.path[0])!r})\nimport test_seeds\nRECIPE = test_seeds.RECIPE\n"
    )
    words = ["seeds", recipe, "--data", data, "--out", out, "--seeds"]
    shown = cli(*words, "5,7")
    assert shown.returncode == 0, shown.stderr
    assert f"{found.mean:.6f}" in shown.stdout and f"sd {found.sd:.6f}" in shown.stdout
    bad = cli(*words, "five")
    assert bad.returncode == 2 and "whole numbers" in bad.stderr
