"""Run folders that somebody edited: `submit` refuses each kind, in one line, and takes the folder as it was."""

import json
import shutil
from dataclasses import replace

import pytest
from batteries import doctored
from batteries.doctored import events_jsonl, result_json

import pargolf
from pargolf.core.errors import UserError
from pargolf.core.events import Started
from pargolf.core.work import Work
from pargolf.data.folder import open_data
from pargolf.run.folder import RunFolder
from pargolf.run.verify import contradictions, rescore


@pytest.fixture(scope="module")
def runs(data, quick_page, tmp_path_factory):
    return doctored.two_runs(data, tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("kind", doctored.KINDS)
def test_a_doctored_run_is_refused_in_one_line(runs, tmp_path, kind):
    doctored.refused(kind, runs, tmp_path)


@pytest.mark.parametrize("kind", list(doctored.KINDS)[::7])
def test_the_auditor_passes_no_doctored_run(runs, data, tmp_path, kind):
    doctored.not_passed(kind, runs, data, tmp_path)


def test_what_nobody_touched_is_taken_and_says_what_was_checked(runs, data, tmp_path):
    shutil.copytree(runs / "seed-1", tmp_path / "mine")
    folder = RunFolder.open(tmp_path / "mine")
    assert contradictions(folder) == []
    again = Work(rescore(folder, open_data(data))).result()
    assert again.differences == () and again.bpb == folder.read_result().val_bpb
    out = tmp_path / "track_non_record_16mb" / "a"
    made = pargolf.write_submission([folder.path], out=out).result()
    assert made.rescored == {1: again.bpb}
    text = (out / "README.md").read_text()
    assert folder.read_result().sentence in text and "scored again" in text
    proof, facts = folder.read_result().proof, json.loads((out / "submission.json").read_text())
    assert facts["val_proof"]["shards_sha256"] == proof.shards_sha256 and proof.shards_sha256
    for digest in (*proof.shards_sha256.values(), proof.tokenizer_sha256):
        assert digest in text and digest in (folder.path / "train.log").read_text()


@pytest.mark.parametrize(("name", "words"), [("shards", "validation shards"), ("tokenizer", "tokenizers")])
def test_numbers_on_other_text_are_not_mixed(runs, tmp_path, name, words):
    folder, other = tmp_path / "mine", "d" * 64
    shutil.copytree(runs / "seed-1", folder)
    changes = {"shards": {"shards_sha256": {"text_val_000000.bin": other}}, "tokenizer": {"tokenizer_sha256": other}}
    result_json(folder, lambda r: r["proof"].update(changes[name]))
    for mixed in (
        lambda: pargolf.compare([folder, runs / "seed-2"], against=["1.0"]),
        lambda: pargolf.write_submission([folder, runs / "seed-2"], out=tmp_path / "track" / "a").result(),
    ):
        with pytest.raises(UserError, match=f"{words} of different SHA-256"):
            mixed()
    if name == "shards":  # of another tokenizer only the bytes must be the same
        with pytest.raises(UserError, match=f"{words} of different SHA-256"):
            pargolf.compare([folder], against=[runs / "seed-2"])


def test_one_run_under_two_seeds_is_one_run(runs, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(runs / "seed-1", folder)
    result_json(folder, lambda r: r.update(seed=9))
    events_jsonl(folder, lambda e: replace(e, seed=9) if isinstance(e, Started) else e)
    with pytest.raises(UserError, match="the same artifact"):
        pargolf.write_submission([runs / "seed-1", folder], out=tmp_path / "track_non_record_16mb" / "a").result()


def test_the_data_are_those_of_the_run(runs, data, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(runs / "seed-1", folder)
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    result_json(folder, lambda r: r.update(data=str(tmp_path / "nowhere")))
    out = tmp_path / "track_non_record_16mb" / "a"
    with pytest.raises(UserError, match="Name the data with --data"):
        pargolf.write_submission([folder], out=out).result()
    assert pargolf.write_submission([folder], out=out, data=moved).result().path == out
