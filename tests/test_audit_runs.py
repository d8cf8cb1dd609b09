"""A run folder of our own as a target: it passes when it kept its rules, and what is wrong with it is named."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batteries.doctored import KINDS
from test_doctored import runs  # noqa: F401
from typer.testing import CliRunner

from pargolf.audit.judge import audit
from pargolf.audit.own_runs.checks import Recomputed
from pargolf.audit.own_runs.recompute import recompute
from pargolf.audit.report import FAIL, HOLD, PASS, SUSPECT, UNVERIFIABLE
from pargolf.cli import app
from pargolf.core.errors import UserError
from pargolf.core.result import result_of
from pargolf.core.work import Work


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return Path(shutil.copytree(run[0], tmp_path / "mine"))


def change(folder: Path, act: Callable[[dict[str, Any]], object]) -> None:
    """Edit result.json; `legal` follows the other fields where they agree."""
    path = folder / "result.json"
    kept = json.loads(path.read_text())
    act(kept)
    with contextlib.suppress(UserError):
        result_of({**kept, "legal": not kept["legal"]}, where="")
        kept["legal"] = not kept["legal"]
    path.write_text(json.dumps(kept, indent=2))


def test_a_run_that_kept_the_rules_passes_and_says_what_it_cannot_show(run, data):
    again = Work(recompute(run[0], data=data)).result()
    report = audit(run[0], recomputed={run[0]: again})
    assert report.verdict == PASS, report.to_json()
    assert {f.rule for f in report.findings} >= {"size_cap", "train_time", "eval_time", "byte_denominator", "two_pass"}
    said = next(f.summary for f in report.findings if f.rule == "consistency")
    assert "hash and size of the artifact" in said and f"{again.bpb:.6f} again" in said
    for words in ("pargolf seeds", "pargolf probe", "taken on trust: the seconds"):
        assert any(words in text for text in report.unchecked)
    assert not any("scored again" in text for text in report.unchecked)


def test_what_was_not_recomputed_is_not_called_recomputed(run):
    report = audit(run[0])
    assert report.verdict == PASS
    assert any("not scored again" in text and "--data" in text for text in report.unchecked)
    assert any("the code was not counted again" in text for text in report.unchecked)


def size(r: dict[str, Any], *, model: int = 0, code: int = 0) -> None:
    held = r["bytes"]
    held.update(model=held["model"] + model, code=held["code"] + code, total=held["total"] + model + code)


@pytest.mark.parametrize(
    ("act", "rule", "status"),
    [
        (lambda r: size(r, model=r["budget"]["bytes"]), "size_cap", FAIL),
        (lambda r: r.update(train_seconds=r["budget"]["train_seconds"] + 2), "train_time", FAIL),
        (lambda r: r.update(eval_seconds=r["budget"]["eval_seconds"] + 2), "eval_time", FAIL),
        (lambda r: r.update(val_bytes=r["val_bytes"] + 1), "byte_denominator", FAIL),
        (lambda r: r.update(proof=None), "byte_denominator", UNVERIFIABLE),
        (lambda r: r["proof"].update(rests="table"), "byte_denominator", UNVERIFIABLE),
        (lambda r: r.update(val_tokens=r["val_tokens"] - 1, complete=False), "two_pass", FAIL),
        (lambda r: r.update(grades_per_position=[1, 2]), "two_pass", SUSPECT),
        (lambda r: r.update(grades_per_position=[0, 1]), "two_pass", FAIL),
        (lambda r: r.update(in_turn=False), "ttt_order", SUSPECT),
        (lambda r: r.update(probed=False), "causality", FAIL),
        (lambda r: r.update(artifact_sha256="0" * 64), "consistency", FAIL),
        (lambda r: r.update(digest="feedbeef"), "consistency", SUSPECT),
        (lambda r: r.update(seed=99), "consistency", SUSPECT),
        (lambda r: r.update(val_bpb=2 * r["val_bpb"], val_loss=2 * r["val_loss"]), "consistency", SUSPECT),
        (lambda r: r["overlap"].update(copied_documents=3), "split_overlap", FAIL),
        (lambda r: r.update(interrupted=True), "package", HOLD),
        (lambda r: r.update(steps=0), "package", FAIL),
    ],
)
def test_what_a_run_did_wrong_is_named(copy, act, rule, status):
    change(copy, act)
    found = [f for f in audit(copy).findings if f.rule == rule and f.status != PASS]
    assert [f.status for f in found] == [status], found
    assert found[0].evidence and found[0].words and found[0].source


def test_a_result_that_calls_itself_legal_is_judged_and_named(copy):
    kept = json.loads((copy / "result.json").read_text())
    kept.update(interrupted=True, legal=True)
    (copy / "result.json").write_text(json.dumps(kept))
    findings = audit(copy).findings
    assert any(f.rule == "consistency" and f.status == FAIL and "legal" in f.summary for f in findings)
    assert any(f.rule == "package" and f.status == HOLD for f in findings)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda r: r.pop("budget"), "budget"),
        (lambda r: r.update(val_bpb=None), "val_bpb"),
        (lambda r: r.update(val_bpb="1.2"), "val_bpb"),
        (lambda r: r.update(steps=[3]), "steps"),
        (lambda r: r.update(val_tokens=10**400), "val_tokens"),
        (lambda r: r["bytes"].update(total=-1), "total"),
        (lambda r: r["bytes"].update(total=1), "total"),
        (lambda r: r.update(machine=3), "machine"),
        (lambda r: r.update(scores={}), "scores"),
        (lambda r: r.update(more=1), "more"),
    ],
)
def test_a_field_that_does_not_fit_is_named_in_one_line(copy, act, said):
    kept = json.loads((copy / "result.json").read_text())
    act(kept)
    (copy / "result.json").write_text(json.dumps(kept))
    report = audit(copy)
    assert report.verdict == UNVERIFIABLE
    (finding,) = report.findings
    assert "result.json" in finding.summary and said in finding.summary and "\n" not in finding.summary


def test_a_result_nested_without_end_is_a_finding(copy):
    (copy / "result.json").write_text('{"bytes": ' * 5000 + "1" + "}" * 5000)
    assert audit(copy).verdict == UNVERIFIABLE


@pytest.mark.parametrize("kind", KINDS)
def test_a_doctored_run_never_passes(runs, data, tmp_path, kind):  # noqa: F811
    folder = tmp_path / "mine"
    shutil.copytree(runs / "seed-1", folder)
    shutil.copytree(runs / "seed-2", tmp_path / "other")
    KINDS[kind](folder)
    again = Work(recompute(folder, data=data)).result() if (folder / "recipe.json").is_file() else None
    report = audit(folder, recomputed=None if again is None else {folder: again})
    assert report.verdict != PASS, report.to_json()
    assert not any("the check failed" in text for text in report.unchecked)


def test_code_that_is_counted_small_is_counted_again(copy):
    """A run whose code was made to fit the cap by hand."""
    again = Recomputed(code_bytes=200_000)
    report = audit(copy, recomputed={copy: again})
    found = next(f for f in report.findings if f.rule == "size_cap")
    assert found.status == FAIL and "200,000" in found.summary


def test_the_command_scores_a_run_again(run, data):
    said = CliRunner().invoke(app, ["audit", str(run[0]), "--data", str(data)])
    assert said.exit_code == 0, said.output
    assert "again" in said.output and "on trust" in said.output
    refused = CliRunner().invoke(app, ["audit", __file__, "--data", str(data)])
    assert refused.exit_code != 0


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


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"val_bpb": "x", "bytes": 3}', "null", '{"val_bpb": NaN}'])
def test_a_damaged_result_is_a_finding(copy, text):
    (copy / "result.json").write_text(text)
    report = audit(copy)
    assert report.verdict in (UNVERIFIABLE, SUSPECT) and report.findings


def test_a_folder_of_runs_is_judged_run_by_run(run, tmp_path):
    for seed in ("seed-1", "seed-2"):
        shutil.copytree(run[0], tmp_path / "runs" / seed)
    change(tmp_path / "runs" / "seed-2", lambda r: r.update(train_seconds=1e5))
    report = audit(tmp_path / "runs")
    late = next(f for f in report.findings if f.status == FAIL)
    assert late.rule == "train_time" and late.evidence[0].file.startswith("seed-2/")


def test_an_artifact_alone_names_what_to_audit(run):
    with pytest.raises(UserError, match="pargolf probe"):
        audit(run[0] / "model.pargolf")
