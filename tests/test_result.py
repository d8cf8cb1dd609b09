"""The file that says what a run came to: strict both ways, one line with file and field where it is damaged."""

import json
import random
from dataclasses import replace
from pathlib import Path

import made_up
import pytest
from batteries import run_files, trial

from pargolf.core.errors import UserError
from pargolf.core.result import Grids, Proof, Rests, mixture, read_result, result_of

OLD = Path(__file__).parent / "golden" / "result_before_formats.json"


def test_a_result_comes_back_as_it_was_written(tmp_path):
    for entry in made_up.entries():
        path = tmp_path / "result.json"
        path.write_text(json.dumps(entry.result.to_json()))
        assert read_result(path) == entry.result
    kept = json.loads(path.read_text())
    assert kept["legal"] is True and kept["why_not"] == [] and kept["grids"] in list(Grids)


def test_a_run_folder_of_the_layout_before_still_reads():
    result, old = read_result(OLD), json.loads(OLD.read_text())
    for name in ("recipe", "digest", "seed", "val_bpb", "val_loss", "steps", "interrupted", "command"):
        assert getattr(result, name) == old[name]
    assert result.in_turn and result.complete and result.val_split_tokens == old["val_tokens"]
    assert result.bytes.total == old["bytes"]["total"] and result.grids is Grids.RECIPE
    assert result.scores["post_quant_sliding"].bpb == result.val_bpb
    # What rests on nothing that was recorded is not called proved.
    assert result.proof is None and result.probed is None and not result.legal
    assert result.why_not == ["what its bytes rest on was not recorded"]
    assert result_of(result.to_json(), where="again") == result
    adapted = result_of({**old, "adaptation": "adapting saved 0.1", "legal": False}, where="old")
    assert adapted.adaptation == "adapting saved 0.1" and not adapted.in_turn


DEEP = json.loads("[" * 60 + "]" * 60)
BAD = [
    ("seed", "7"),
    ("val_bpb", [1.0]),
    ("val_bpb", 10**400),
    ("val_bpb", float("nan")),
    ("val_bpb", -1.0),
    ("val_loss", float("inf")),
    ("val_bytes", 0),
    ("val_tokens", 2.5),
    ("steps", -3),
    ("steps", True),
    ("recipe", None),
    ("recipe", "\ud800"),
    ("scores", {}),
    ("scores", {"post_quant": 3}),
    ("bytes", {"model": 1, "code": 1, "total": 3, "cap": 9}),
    ("bytes", {"model": 1, "code": 1, "total": 2}),
    ("grids", "narrowed"),
    ("proof", {"rests": "hope", "shards_sha256": {}, "tokenizer_sha256": ""}),
    ("proof", {"rests": "table", "shards_sha256": {"a": 1}, "tokenizer_sha256": ""}),
    ("machine", "a fast one"),
    ("complete", False),
    ("legal", False),
    ("budget", DEEP),
    ("grades_per_position", [1]),
    ("format", 3),
    ("colour", "red"),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BAD)])
def test_a_field_that_does_not_fit_is_named_with_its_file(tmp_path, name, value):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(made_up.entry().result.to_json() | {name: value}))
    with pytest.raises(UserError) as caught:
        read_result(path)
    line = str(caught.value)
    assert line.startswith(str(path)) and name in line and "\n" not in line and len(line) < 400


@pytest.mark.parametrize(
    "name", sorted(made_up.entry().result.to_json().keys() - {"format", "why_not", "version", "origin"})
)
def test_a_missing_field_is_named(name):
    kept = made_up.entry().result.to_json()
    del kept[name]
    with pytest.raises(UserError, match=name):
        result_of(kept, where="result.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "[" * 100_000, '{"a":' * 5000, "9" * 5000, "\x00"])
def test_what_is_no_result_at_all_is_one_line(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_result(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_nobody_can_write_legal_by_hand():
    kept = made_up.entry(interrupted=True).result.to_json()
    assert kept["legal"] is False and kept["why_not"] == ["training was interrupted"]
    with pytest.raises(UserError, match=r"legal .*training was interrupted"):
        result_of(kept | {"legal": True}, where="result.json")


def test_texts_are_told_apart_by_hashes_where_both_are_known():
    one = made_up.entry().result
    assert one.proof is not None
    shards = replace(one, proof=replace(one.proof, shards_sha256={"val_000000.bin": "d" * 64}))
    tokenizer = replace(one, proof=replace(one.proof, tokenizer_sha256="d" * 64))
    unknown = replace(one, proof=None)
    renamed = replace(one, proof=Proof(Rests.ROUND_TRIP, {"other.bin": "a" * 64}, "b" * 64))
    assert mixture([one, one, unknown, renamed]) == ""
    assert "shards" in mixture([one, shards]) and "tokenizers" in mixture([one, tokenizer])
    assert "bytes" in mixture([unknown, replace(one, val_bytes=9)])


def test_no_edit_of_a_run_s_files_makes_a_reader_fall_over(run, data, tmp_path):
    row = trial.run("run files", run_files.trials(run[0], data, tmp_path, random.Random(1)), count=60)
    assert row.sound, row.faults
    assert row.words["refused"] > 10 and row.words["read"] > 10
