"""A run folder of our own as a target: it passes when it kept its rules, and what is wrong with it is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pargolf.audit.judge import audit
from pargolf.audit.report import FAIL, HOLD, PASS, SUSPECT, UNVERIFIABLE
from pargolf.core.errors import UserError


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return Path(shutil.copytree(run[0], tmp_path / "mine"))


def change(folder: Path, act: Callable[[dict[str, Any]], object]) -> None:
    held = json.loads((folder / "result.json").read_text())
    act(held)
    (folder / "result.json").write_text(json.dumps(held, indent=2))


def test_a_run_that_kept_the_rules_passes_and_says_what_it_cannot_show(run):
    report = audit(run[0])
    assert report.verdict == PASS, report.to_json()
    assert {f.rule for f in report.findings} >= {"size_cap", "train_time", "eval_time", "byte_denominator", "two_pass"}
    assert any("pargolf seeds" in text for text in report.unchecked)
    assert any("pargolf probe" in text for text in report.unchecked)


@pytest.mark.parametrize(
    ("act", "rule", "status"),
    [
        (lambda r: r["bytes"].update(total=r["budget"]["bytes"] + 1), "size_cap", FAIL),
        (lambda r: r.update(train_seconds=r["budget"]["train_seconds"] + 2), "train_time", FAIL),
        (lambda r: r.update(eval_seconds=r["budget"]["eval_seconds"] + 2), "eval_time", FAIL),
        (lambda r: r.update(val_bytes=r["val_bytes"] + 1), "byte_denominator", FAIL),
        (lambda r: r.update(grades_per_position=[0, 1], complete=False), "two_pass", UNVERIFIABLE),
        (lambda r: r.update(grades_per_position=[1, 2]), "two_pass", SUSPECT),
        (lambda r: r.update(legal=False), "ttt_order", SUSPECT),
        (lambda r: r.update(artifact_sha256="0" * 64), "consistency", FAIL),
        (lambda r: r.update(digest="feedbeef"), "consistency", SUSPECT),
        (lambda r: r.update(seed=99), "consistency", SUSPECT),
        (lambda r: r.update(val_bpb=2 * r["val_bpb"], val_loss=2 * r["val_loss"]), "consistency", SUSPECT),
        (lambda r: r["overlap"].update(copied_documents=3), "split_overlap", FAIL),
        (lambda r: r.update(interrupted=True), "package", HOLD),
        (lambda r: r.pop("budget"), "size_cap", UNVERIFIABLE),
        (lambda r: r.update(val_bpb=None), "byte_denominator", UNVERIFIABLE),
    ],
)
def test_what_a_run_did_wrong_is_named(copy, act, rule, status):
    change(copy, act)
    found = [f for f in audit(copy).findings if f.rule == rule and f.status != PASS]
    assert [f.status for f in found] == [status], found
    assert found[0].evidence


@pytest.mark.parametrize("name", ["result.json", "model.pargolf", "train.log", "tokenizer.model"])
def test_what_a_run_folder_lacks_is_named(copy, name):
    (copy / name).unlink()
    report = audit(copy)
    assert report.verdict == UNVERIFIABLE
    assert any(name in f.summary for f in report.findings)


def test_another_artifact_is_not_the_one_that_was_scored(copy):
    held = (copy / "model.pargolf").read_bytes()
    (copy / "model.pargolf").write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    assert audit(copy).verdict == FAIL


@pytest.mark.parametrize("text", ["{", "[1]", '{"val_bpb": "x", "bytes": 3}', "null", '{"val_bpb": NaN}'])
def test_a_damaged_result_is_a_finding(copy, text):
    (copy / "result.json").write_text(text)
    report = audit(copy)
    assert report.verdict in (UNVERIFIABLE, SUSPECT) and report.findings


def test_a_folder_of_runs_is_judged_run_by_run(run, tmp_path):
    for seed in ("seed-1", "seed-2"):
        shutil.copytree(run[0], tmp_path / "runs" / seed)
    change(tmp_path / "runs" / "seed-2", lambda r: r.update(train_seconds=1e6))
    report = audit(tmp_path / "runs")
    late = next(f for f in report.findings if f.status == FAIL)
    assert late.rule == "train_time" and late.evidence[0].file.startswith("seed-2/")


def test_an_artifact_alone_names_what_to_audit(run):
    with pytest.raises(UserError, match="pargolf probe"):
        audit(run[0] / "model.pargolf")
