"""The auditor, on small submissions written for it; each imitates one shape."""

import ast
import base64
import io
import json
import lzma
import math
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats as scipy_stats

from pargolf.audit import known
from pargolf.audit.batch import Range, audit_all, read_reports
from pargolf.audit.code_rules import CODE_RULES
from pargolf.audit.constants import UNKNOWN
from pargolf.audit.flow import Program
from pargolf.audit.ground import Record
from pargolf.audit.judge import audit
from pargolf.audit.logs import read_log
from pargolf.audit.older import rewrite
from pargolf.audit.rules import RULES
from pargolf.audit.show import render
from pargolf.audit.site import write_site
from pargolf.audit.source import Repository
from pargolf.audit.stats import better_by, t_tail
from pargolf.audit.unpack import read_code, text_of
from pargolf.audit.verdict import FAIL, HOLD, ORDER, PASS, SUSPECT, UNVERIFIABLE, Report
from pargolf.core.errors import UserError
from pargolf.core.events import Progress

RATIO = known.GOOD[0].ratio
TRACK = "records/track_10min_16mb"

LEGAL = """
import os, torch
import torch.nn.functional as F
class Args:
    val_files = os.path.join("data", "fineweb_val_*.bin")
    train_files = os.path.join("data", "fineweb_train_*.bin")
    ttt_enabled = bool(int(os.environ.get("TTT_ENABLED", "1")))
    prequant = bool(int(os.environ.get("PREQUANT", "0")))
    epochs = int(os.environ.get("TTT_EPOCHS", 3))
def load(pattern):
    return torch.cat([read_shard(p) for p in sorted(glob(pattern))])
def score_first(args, model, tokens):
    total = torch.zeros(())
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for start in range(0, tokens.numel(), 1024):
        chunk = tokens[start:start + 1025]
        with torch.inference_mode():
            nll = F.cross_entropy(model(chunk[:-1]), chunk[1:], reduction="none")
        total += nll.sum()
        for epoch in range(args.epochs):
            loss = F.cross_entropy(model(chunk[:-1]), chunk[1:])
            loss.backward()
            opt.step()
    return total / tokens.numel()
def adapt(args, model, tokens):
    opt = torch.optim.AdamW(model.parameters(), lr=0.1)
    for epoch in range(args.epochs):
        epoch_sum = torch.zeros(())
        for start in range(0, tokens.numel(), 1024):
            x = tokens[start:start + 1025]
            loss = model(x[:-1], x[1:])
            loss.backward()
            opt.step()
            epoch_sum += loss.detach()
        print(f"prequant_ttt:epoch {epoch} loss:{epoch_sum}")
def main():
    args = Args()
    model = make_model()
    train = load(args.train_files)
    for step in range(100):
        loss = model(train[step:step + 64], train[step + 1:step + 65])
        loss.backward()
    held_out = load(args.val_files)
    if args.prequant:
        adapt(args, model, held_out)
    if args.ttt_enabled:
        loss = score_first(args, model, held_out)
        print(f"legal_ttt_exact val_loss:{loss} val_bpb:{loss / 1.7}")
    print("step: val_loss: val_bpb: train_time: stopping_early: wallclock_cap")
    print("Total submission size int8+zlib: Serialized model Code size")
    print("final_int8_zlib_roundtrip_exact val_loss: val_bpb:")
if __name__ == "__main__":
    main()
"""

CACHE = """
import os
import numpy as np
import torch, math
class Cache:
    def __init__(self, orders, buckets):
        self.ctx = [np.zeros(buckets, np.uint32) for _ in range(orders)]
        self.full = [np.zeros(buckets, np.uint32) for _ in range(orders)]
    def keys(self, t, at):
        h = np.zeros(len(at), np.uint64)
        for k in range(3):
            h ^= t[at - k] * np.uint64(36313)
        return h & 1023, (h ^ (t[at + 1] * np.uint64(27191))) & 1023
    def look(self, t, at, i):
        c, f = self.keys(t, at)
        a = self.ctx[i][c].astype(float)
        b = self.full[i][f].astype(float)
        return np.minimum(a, b) / np.maximum(a, 1.0)
    def add(self, t, at, i):
        c, f = self.keys(t, at)
        np.add.at(self.ctx[i], c, 1)
        np.add.at(self.full[i], f, 1)
def evaluate(model, val_tokens):
    t = val_tokens.numpy().astype(np.uint64)
    cache = Cache(2, 1024)
    total = 0.0
    for start in range(0, len(t), 512):
        at = np.arange(start, start + 512)
        nll = model(val_tokens[start:start + 512], val_tokens[start + 1:start + 513])
        p = cache.look(t, at, 0)
        total += -np.log(0.5 * np.exp(-nll) + 0.5 * p).sum()
        cache.add(t, at, 0)
    return total
def main():
    val_tokens = load(os.path.join("x", "fineweb_val_*.bin"))
    if int(os.environ.get("CACHE_ORDER", "DEFAULT")) > 0:
        print("val_bpb", evaluate(make(), val_tokens))
main()
"""


def log_text(*, seconds=599.9, bpb=1.2, total=15_900_000, code=50_000, ratio=RATIO, seed=1, ranks=8) -> str:
    rows = [
        f"world_size:{ranks} grad_accum_steps:1",
        f"seed:{seed}",
        "val_tokens:62021632",
        *(
            f"step:{s}/2000 val_loss:{ratio * b:.4f} val_bpb:{b:.4f} train_time:{s * 300}ms step_avg:300.00ms"
            for s, b in ((500, 1.5), (1000, 1.4), (1500, 1.3))
        ),
        f"stopping_early: wallclock_cap train_time:{seconds * 1000:.0f}ms step:2000/20000",
        f"Serialized model int8+zlib: {total - code} bytes",
        f"Code size: {code} bytes",
        f"Total submission size int8+zlib: {total} bytes",
        f"final_int8_zlib_roundtrip_exact val_loss:{ratio * bpb:.8f} val_bpb:{bpb:.8f}",
    ]
    return "\n".join(rows) + "\n"


def write(folder: Path, **files: object) -> Path:
    """A complete submission with three seeds that passes, with some of its files replaced (None leaves one out)."""
    scores = {1: 1.2001, 2: 1.2003, 3: 1.2002}
    made: dict[str, object] = {
        "README.md": "# A plain model\n\nThree seeds.\n",
        "submission.json": {
            "name": "plain",
            "val_bpb": 1.2002,
            "val_loss": round(1.2002 * RATIO, 6),
            "bytes_total": 15_900_000,
            "seed_results": {str(s): {"val_bpb": b} for s, b in scores.items()},
        },
        "train_gpt.py": LEGAL,
        **{f"train_seed{s}.log": log_text(bpb=b, seed=s) for s, b in scores.items()},
    }
    for name, held in files.items():
        made[{"json": "submission.json", "script": "train_gpt.py", "readme": "README.md"}.get(name, name)] = held
    folder.mkdir(parents=True, exist_ok=True)
    for name, held in made.items():
        if held is None:
            continue
        data = held if isinstance(held, bytes) else (json.dumps(held) if isinstance(held, dict) else str(held)).encode()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def record(tmp_path: Path, **files: object) -> Path:
    return write(tmp_path / TRACK / "2026-01-01_x", **files)


def status(report: Report, rule: str) -> set[str]:
    return {f.status for f in report.findings if f.rule == rule}


def only_log(tmp_path: Path, text: str, **fields: object) -> Report:
    """A submission of one log and a submission.json with these fields."""
    logs = {f"train_seed{s}.log": None for s in (1, 2, 3)}
    return audit(record(tmp_path, **{**logs, "train.log": text, "json": {"val_bpb": 1.2, **fields}}))


# ---- the whole


def test_a_complete_submission_passes_and_names_what_was_not_checked(tmp_path):
    report = audit(record(tmp_path))
    assert report.verdict == PASS, [(f.rule, f.summary) for f in report.findings if f.status != PASS]
    assert report.track == "10min_16mb"
    assert any(text.startswith("significance") for text in report.unchecked)
    said = {f.rule for f in report.findings} | {text.partition(":")[0] for text in report.unchecked}
    assert {rule.name for rule in RULES} <= said | {"outside_folder", "significance"}
    assert {rule.name for rule in CODE_RULES} <= said


def test_json_has_the_documented_shape(tmp_path):
    held = json.loads(json.dumps(audit(record(tmp_path)).to_json()))
    assert list(held) == ["target", "head", "track", "verdict", "findings", "unchecked"]
    for finding in held["findings"]:
        assert list(finding) == ["rule", "status", "summary", "evidence", "numbers"]
        assert finding["status"] in ORDER and finding["summary"]
        for line in finding["evidence"]:
            assert list(line) == ["file", "line", "text"]


@given(st.lists(st.sampled_from(ORDER), min_size=1))
def test_the_verdict_is_the_weakest_finding(statuses):
    from pargolf.audit.verdict import RuleFinding

    report = Report("x", None, None, tuple(RuleFinding("a", s, "b") for s in statuses))
    assert ORDER.index(report.verdict) == max(map(ORDER.index, statuses))


def test_nothing_checked_is_not_a_pass():
    assert Report("x", None, None, ()).verdict == UNVERIFIABLE


def test_torch_is_not_imported():
    code = "import sys, pargolf.audit.judge, pargolf.audit.batch, pargolf.audit.show; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_folder_is_never_executed(tmp_path):
    marker = tmp_path / "ran"
    script = f"open({str(marker)!r}, 'w').write('x')\nval_bpb = 1\n"
    audit(record(tmp_path, script=script, **{"setup.py": script, "sitecustomize.py": script}))
    assert not marker.exists()


# ---- arithmetic rules


@pytest.mark.parametrize(
    ("total", "code", "wanted"),
    [(16_000_000, 50_000, PASS), (16_000_001, 50_000, FAIL), (16_777_216, 50_000, FAIL)],
)
def test_the_cap_is_decimal_and_inclusive(tmp_path, total, code, wanted):
    report = only_log(tmp_path, log_text(total=total, code=code), bytes_total=total)
    assert status(report, "size_cap") == {wanted}
    if wanted == FAIL:
        assert "16,000,000 bytes, decimal" in next(f.summary for f in report.findings if f.rule == "size_cap")


def test_every_seed_of_a_readme_table_counts_toward_the_cap(tmp_path):
    table = (
        "# t\n\n| Seed | val bpb | Artifact |\n|---|---|---|\n| 1 | 1.20 | 16,290,425 |\n| 2 | 1.21 | 15,408,223 |\n"
    )
    report = audit(record(tmp_path, readme=table, json={"val_bpb": 1.2}))
    finding = next(f for f in report.findings if f.rule == "size_cap")
    assert finding.status == FAIL and "16,290,425" in finding.summary and finding.evidence[0].line == 5


def test_a_log_over_the_cap_is_recomputed_with_the_committed_script(tmp_path):
    text = log_text(total=16_040_000, code=90_000)
    assert status(only_log(tmp_path, text, bytes_total=15_990_000), "size_cap") == {PASS}
    big = only_log(tmp_path / "b", text.replace("Code size: 90000", "Code size: 1000"), bytes_total=15_990_000)
    assert status(big, "size_cap") == {PASS}
    over = audit(
        record(
            tmp_path / "c",
            **{f"train_seed{s}.log": log_text(total=16_040_000, bpb=1.2, code=9) for s in (1, 2, 3)},
        )
    )
    assert status(over, "size_cap") == {FAIL}


def test_raw_model_plus_code_is_not_the_artifact():
    text = "Serialized model: 98000000 bytes\nCode size: 50000 bytes\nTotal submission size: 98050000 bytes\n"
    assert read_log("x", text).total_bytes is None
    assert read_log("x", "Total submission size: 15935368 bytes (15.94 MB)\n").total_bytes.value == 15_935_368


@pytest.mark.parametrize(("seconds", "wanted"), [(600.3, PASS), (601.0, PASS), (602.0, FAIL), (2222.0, FAIL)])
def test_training_time_allows_one_second(tmp_path, seconds, wanted):
    assert status(only_log(tmp_path, log_text(seconds=seconds)), "train_time") == {wanted}
    assert status(only_log(tmp_path, log_text(), wallclock_seconds=seconds), "train_time") == {wanted}


def test_a_track_without_a_time_limit_has_none(tmp_path):
    folder = write(tmp_path / "records/track_non_record_16mb/x", json={"val_bpb": 1.2, "wallclock_seconds": 5000})
    assert status(audit(folder), "train_time") == set()


def test_seconds_on_other_hardware_are_held(tmp_path):
    assert status(only_log(tmp_path, log_text(ranks=1)), "train_time") == {HOLD}


def test_scoring_time_is_limited_apart(tmp_path):
    slow = log_text() + f"legal_ttt_exact val_loss:{1.19 * RATIO:.8f} val_bpb:1.19000000 eval_time:700000ms\n"
    assert status(only_log(tmp_path, slow, val_bpb=1.19), "eval_time") == {FAIL}


def test_one_run_fails_two_are_held_three_pass(tmp_path):
    for n, wanted in ((1, FAIL), (2, HOLD), (3, PASS)):
        logs = {f"train_seed{s}.log": log_text(bpb=1.2 + s * 1e-4, seed=s) if s <= n else None for s in (1, 2, 3)}
        report = audit(record(tmp_path / str(n), json={"val_bpb": 1.2002}, **logs))
        assert status(report, "seeds") == {wanted}


def test_declared_seeds_without_logs_are_unverifiable(tmp_path):
    logs = {f"train_seed{s}.log": None for s in (2, 3)}
    assert status(audit(record(tmp_path, **logs)), "seeds") == {UNVERIFIABLE}


def test_no_log_is_unverifiable_whatever_is_declared(tmp_path):
    report = audit(record(tmp_path, **{f"train_seed{s}.log": None for s in (1, 2, 3)}))
    assert report.verdict == UNVERIFIABLE
    for rule in ("size_cap", "train_time", "package", "seeds"):
        assert status(report, rule) == {UNVERIFIABLE}, rule


def test_null_results_are_unverifiable_not_failed(tmp_path):
    logs = {f"train_seed{s}.log": None for s in (1, 2, 3)}
    held = {"val_bpb": None, "artifact_bytes": None, "train_time_seconds": 600}
    assert audit(record(tmp_path, json=held, **logs)).verdict == UNVERIFIABLE


@pytest.mark.parametrize("lacking", ["readme", "json", "script"])
def test_a_missing_file_fails_the_package(tmp_path, lacking):
    assert FAIL in status(audit(record(tmp_path, **{lacking: None})), "package")


@pytest.mark.parametrize(
    ("ratio", "wanted", "bpb"),
    [
        (RATIO, PASS, None),
        (known.GOOD[3].ratio, PASS, None),
        (known.GOOD[4].ratio, PASS, None),
        (3.04, FAIL, 1.2 * 3.04 / known.GOOD[3].ratio),
        (known.BAD[1].ratio, FAIL, 1.2 * known.BAD[1].ratio / known.GOOD[4].ratio),
        (2.149, SUSPECT, None),
        (2.02, HOLD, None),
    ],
)
def test_the_quotient_of_loss_and_bpb_proves_the_byte_count(tmp_path, ratio, wanted, bpb):
    report = only_log(tmp_path, log_text(ratio=ratio))
    assert status(report, "byte_denominator") == {wanted}
    if bpb is not None:
        numbers = next(f.numbers for f in report.findings if f.rule == "byte_denominator")
        assert numbers["corrected_bpb"] == pytest.approx(bpb, abs=1e-5)


def test_a_corrected_declared_score_is_not_blamed_for_its_log(tmp_path):
    wrong = log_text(ratio=known.BAD[1].ratio, bpb=1.1)
    declared = round(1.1 * known.BAD[1].ratio / known.GOOD[4].ratio, 6)
    fields = {"val_bpb": declared, "val_loss": round(declared * known.GOOD[4].ratio, 6)}
    assert status(only_log(tmp_path, wrong, **fields), "byte_denominator") == {PASS}


def test_another_validation_set_passes_by_its_own_bytes_outside_the_record_track(tmp_path):
    ratio, fields = math.log(2) * 3, {"val_bpb": 1.2, "val_tokens": 1000, "val_bytes": 3000}
    for track, held, wanted in (
        ("non_record_16mb", 3000, PASS),
        ("non_record_16mb", 3100, HOLD),
        ("10min_16mb", 3000, HOLD),
    ):
        logs = {f"train_seed{s}.log": log_text(ratio=ratio) for s in (1, 2, 3)}
        folder = tmp_path / f"records/track_{track}" / f"x{held}"
        report = audit(write(folder, json={**fields, "val_bytes": held}, **logs))
        assert status(report, "byte_denominator") == {wanted}


def test_split_fingerprints_are_suspect(tmp_path):
    text = log_text() + "train_shards: 1499\nval_tokens: 47851520\n"
    assert status(only_log(tmp_path, text), "split_overlap") == {SUSPECT}
    short = log_text().replace("62021632", "9662464")
    assert status(only_log(tmp_path / "b", short), "split_overlap") == {SUSPECT}


def test_late_calibration_is_added_to_training(tmp_path):
    base = log_text(seconds=599.6).replace("Serialized", "{}Serialized", 1)
    for line, wanted in (
        ("GPTQ:collecting Hessians from calibration data...\nGPTQ:collected 67 Hessians in 60.0s\n", SUSPECT),
        ("GPTQ:collecting Hessians from calibration data...\nGPTQ:collected 67 Hessians in 3.6s\n", HOLD),
        ("gptq:calibrating with self-generated sequences\n", PASS),
        ("", PASS),
    ):
        report = only_log(tmp_path / str(len(line)), base.format(line))
        assert status(report, "calibration_budget") == {wanted}, line


def test_target_class_gates_that_opened_are_suspect(tmp_path):
    text = log_text() + "ngram within_gate=1234 word_gate=0\n"
    assert SUSPECT in status(only_log(tmp_path, text), "ngram_target_key")
    clean = log_text() + "ngram within_gate=0 word_gate=0\n"
    assert SUSPECT not in status(only_log(tmp_path / "b", clean), "ngram_target_key")


def test_contradictions_are_found(tmp_path):
    fields = {"vocab_size": 256, "training_time_seconds": 2222, "artifact_under_16mb": True, "bytes_total": 16_265_723}
    text = log_text(seconds=1386.5)
    text += "quant:saving int5 model...\nttt_sliding:done val_loss=2.0262 val_bpb=1.2000 elapsed=178.5s\n"
    text += f"legal_ttt_exact val_loss:{1.2 * RATIO:.8f} val_bpb:1.20000000 eval_time:178175ms\n"
    report = only_log(tmp_path, text, **fields)
    said = " ".join(f.summary for f in report.findings if f.rule == "consistency")
    for words in ("vocabulary of 256", "2222 / 1386.5", "artifact_under_16mb", "outer timer", "'quant:saving"):
        assert words in said, words


def test_rows_that_break_the_constant_are_found(tmp_path):
    text = log_text()
    for bpb in (1.5, 1.4, 1.3):
        text = text.replace(f"val_bpb:{bpb:.4f}", f"val_bpb:{bpb - 0.004:.4f}")
    text = text.replace("step:500/", "step:250/2000 val_loss:3.0 val_bpb:1.7 train_time:9ms\nstep:500/", 1)
    said = [f.summary for f in only_log(tmp_path, text).findings if f.rule == "consistency"]
    assert any("validation rows break" in s for s in said)


def test_significance_follows_the_tokenizer(tmp_path):
    record_ = Record("before", (1.2100, 1.2101, 1.2102))
    report = audit(record(tmp_path), record=record_)
    assert status(report, "significance") == {PASS}
    close = audit(record(tmp_path), record=Record("before", (1.2030, 1.2031, 1.2032)))
    assert status(close, "significance") == {FAIL}
    bar = next(f.numbers["bar_bpb"] for f in report.findings if f.rule == "significance")
    assert bar == pytest.approx(0.005 / RATIO, rel=1e-4)


@given(st.floats(-8, 8), st.floats(1, 60))
@settings(max_examples=60)
def test_students_tail_agrees_with_the_reference(t, freedom):
    assert t_tail(t, freedom) == pytest.approx(scipy_stats.t.sf(t, freedom), abs=1e-7)


def test_the_test_agrees_with_welch():
    new, old = [1.0, 1.01, 0.99], [1.05, 1.06, 1.052, 1.049]
    want = scipy_stats.ttest_ind([x + 0.005 for x in new], old, equal_var=False, alternative="less").pvalue
    assert better_by(new, old, 0.005) == pytest.approx(want, rel=1e-9)
    assert better_by([1.0], old, 0.005) is None


# ---- reading


@pytest.mark.parametrize(
    "source",
    [
        'x = f"{d["a"]}" + f"{x!r:>{w}} {a != b} {{}}" "tail"\n',
        'print("a" f"{x=}" f"b{"c" if y else f"{z["k"]}"}")\n',
        'if f"""a\n{b}\n""": pass\ny = 1\n',
        "def f[T](x: T) -> T:\n    return rf'\\d{x}'\n",
        "type A = list[int]\nx = f'{x:%Y-%m}' if f'{(lambda q: q)(1)}' else 'b'\n",
        'log(f"{"\\n".join(a)}"\n    "b" f"{c}")\nd = 1\n',
        "if'tok'in name or 1 if x else'y':pass\n",
    ],
)
def test_newer_syntax_is_rewritten_line_for_line(source):
    tree = ast.parse(rewrite(source))
    assert rewrite(source).count("\n") == source.count("\n")
    assert tree.body[-1].lineno <= source.count("\n")


def test_what_no_python_parses_fails_and_names_the_line(tmp_path):
    report = audit(record(tmp_path, script="val_bpb = 1\nx = f\"{5 if c == 'm' else '6}\"\n"))
    finding = next(f for f in report.findings if f.rule == "syntax")
    assert finding.status == FAIL and finding.evidence[0].line == 2


def test_a_byte_order_mark_is_python(tmp_path):
    report = audit(record(tmp_path, script=b"\xef\xbb\xbf" + CACHE.replace("DEFAULT", "7").encode()))
    assert status(report, "syntax") == {PASS}
    assert SUSPECT in status(report, "ngram_target_key")


def packers():
    raw = [{"id": lzma.FILTER_LZMA2, "preset": 9}]
    return {
        "lzma b85": lambda b: base64.b85encode(lzma.compress(b)),
        "raw lzma2 b85": lambda b: base64.b85encode(lzma.compress(b, lzma.FORMAT_RAW, filters=raw)),
        "zlib b64": lambda b: base64.b64encode(zlib.compress(b)),
        "twice": lambda b: base64.b85encode(
            lzma.compress(
                b"import zlib,base64;exec(zlib.decompress(base64.b64decode('"
                + base64.b64encode(zlib.compress(b))
                + b"')))"
            )
        ),
    }


@pytest.mark.parametrize("how", list(packers()))
def test_a_packed_script_is_judged_by_what_is_inside(tmp_path, how):
    inner = CACHE.replace("DEFAULT", "7").encode() * 1
    packed = b"import lzma as L,base64 as B\nexec(L.decompress(B.b85decode('" + packers()[how](inner) + b"')))\n"
    report = audit(record(tmp_path, script=packed))
    assert SUSPECT in status(report, "ngram_target_key")
    assert read_code("a.py", packed).size == len(packed)


def test_a_bomb_in_a_string_is_left_alone(tmp_path):
    bomb = base64.b85encode(zlib.compress(b"import os\ndef f(): pass\n" + b"#" * 60_000_000))
    report = audit(
        record(tmp_path, script=b"import zlib,base64\nexec(zlib.decompress(base64.b85decode('" + bomb + b"')))")
    )
    assert status(report, "syntax") == {UNVERIFIABLE}
    assert report.verdict in (UNVERIFIABLE, FAIL)


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 100, b"\xff\xfe\x00", bytes(range(256)) * 9, b"(" * 5000, b"# -*- coding: nonsense -*-\n"]
)
def test_damaged_files_end_as_findings(tmp_path, data):
    names = {"json": data, "script": data, "readme": data, "train_seed1.log": data}
    report = audit(record(tmp_path, **names))
    assert report.findings and report.verdict != PASS


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_reading_never_raises(data):
    read_code("x.py", data)
    read_log("x.log", text_of(data))
    text_of(data)


def test_a_script_of_two_hundred_megabytes_is_a_finding(tmp_path):
    folder = record(tmp_path)
    with (folder / "train_gpt.py").open("wb") as file:
        file.truncate(200_000_000)
    report = audit(folder)
    assert UNVERIFIABLE in status(report, "syntax")
    assert any("could not be read" in text for text in report.unchecked)


def test_logs_in_other_encodings_are_read(tmp_path):
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le"):
        assert read_log("x", text_of(log_text().encode(encoding))).final.bpb == 1.2


def test_source_echoed_into_a_log_is_not_a_result():
    echoed = 'log0(f"final_int8_zlib_roundtrip_exact val_loss:{q:.8f} val_bpb:{b:.8f}")\n'
    assert read_log("x", echoed).final is None
    assert read_log("x", "[rank0]: 2026-01-01 10:00:00 final_x_exact val_loss:2.0 val_bpb:1.1\n").final.bpb == 1.1


# ---- code rules


def code_status(tmp_path: Path, source: str, rule: str, **files: object) -> set[str]:
    return status(audit(record(tmp_path, script=source, **files)), rule)


def test_score_first_adaptation_is_legal(tmp_path):
    assert code_status(tmp_path, LEGAL, "ttt_order") == {PASS}


def test_train_then_score_is_suspect_although_it_sums_a_loss(tmp_path):
    source = LEGAL.replace('"PREQUANT", "0"', '"PREQUANT", "1"')
    report = audit(record(tmp_path, script=source))
    finding = next(f for f in report.findings if f.rule == "ttt_order")
    assert finding.status == SUSPECT and "Probe" in finding.summary
    assert finding.evidence[0].text == "loss.backward()" and "`adapt`" in finding.summary


def test_a_switch_that_is_off_is_latent_and_named(tmp_path):
    report = audit(record(tmp_path))
    finding = next(f for f in report.findings if f.rule == "latent")
    assert finding.status == PASS and "PREQUANT" in finding.summary


def test_the_run_command_turns_a_switch_on(tmp_path):
    readme = "# x\n\n```bash\nPREQUANT=1 torchrun train_gpt.py\n```\n"
    assert code_status(tmp_path, LEGAL, "ttt_order", readme=readme) == {SUSPECT}


def test_the_last_rounds_score_is_not_score_first(tmp_path):
    source = LEGAL.replace(
        "    for start in range(0, tokens.numel(), 1024):\n        chunk",
        "    for again in range(4):\n     total = torch.zeros(())\n"
        "     for start in range(0, tokens.numel(), 1024):\n        chunk",
        1,
    )
    assert code_status(tmp_path, source, "ttt_order") == {SUSPECT}


def test_tensors_of_its_own_are_slot_and_held(tmp_path):
    source = LEGAL.replace("    opt = torch.optim.AdamW(model.parameters(), lr=0.1)\n", "").replace(
        "        for start in range(0, tokens.numel(), 1024):\n            x = ",
        "        for start in range(0, tokens.numel(), 1024):\n"
        "            delta = torch.zeros(1, 512, requires_grad=True)\n"
        "            opt = torch.optim.AdamW([delta], lr=0.1)\n            x = ",
    )
    source = source.replace('"PREQUANT", "0"', '"PREQUANT", "1"')
    assert code_status(tmp_path, source, "slot") == {HOLD}
    assert SUSPECT not in code_status(tmp_path, source, "ttt_order")


def test_a_cache_keyed_by_the_scored_token_is_suspect(tmp_path):
    assert SUSPECT in code_status(tmp_path, CACHE.replace("DEFAULT", "7"), "ngram_target_key")


def test_the_same_cache_unreachable_is_not(tmp_path):
    assert code_status(tmp_path, CACHE.replace("DEFAULT", "0"), "ngram_target_key") == {PASS}


def test_a_cache_that_wakes_on_eight_processes_is_latent(tmp_path):
    source = CACHE.replace('int(os.environ.get("CACHE_ORDER", "DEFAULT"))', "order").replace(
        "def main():\n", 'def main():\n    order = 7 if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0\n'
    )
    logs = {f"train_seed{s}.log": log_text(bpb=1.2 + s * 1e-4, seed=s, ranks=1) for s in (1, 2, 3)}
    report = audit(record(tmp_path, script=source, **logs))
    assert status(report, "latent") == {SUSPECT}
    assert SUSPECT not in status(report, "ngram_target_key")


def test_input_hash_embeddings_are_legal(tmp_path):
    source = LEGAL.replace(
        "        total += nll.sum()",
        "        h = (chunk[1:] * 36313 ^ chunk[:-1] * 27191) % 1024\n        e = table[h] / scale[h]\n"
        "        total += nll.sum() + 0 * e.sum()",
    )
    assert code_status(tmp_path, source, "ngram_target_key") == {PASS}


def test_values_follow_defaults_helpers_and_calls():
    source = (
        "import os\n"
        "def flag(name, default=False):\n"
        "    v = os.environ.get(name)\n"
        "    if v is None:\n"
        "        return default\n"
        "    return v.lower() in ('1', 'true')\n"
        "class H:\n    a = flag('A', True)\n    b = int(os.environ.get('B', 3)) > 2\n"
        "def f(args, on):\n    if on and args.b:\n        yes()\n    else:\n        no()\n"
        "def yes(): pass\ndef no(): pass\n"
        "f(H(), H.a)\n"
    )
    for env, live in (({}, {"yes"}), ({"A": "0"}, {"no"}), ({"B": "1"}, {"no"})):
        program = Program(ast.parse(source), env)
        assert {f.name for f in program.functions if f.live and f.name in ("yes", "no")} == live
    program = Program(ast.parse("x = unknown()\nif x: y = 1\n"), {})
    assert program.value(ast.parse("x", mode="eval").body, program.module) is UNKNOWN


# ---- targets


def git(repo: Path, *words: str) -> str:
    env = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a"}
    done = subprocess.run(
        ["git", "-C", str(repo), "-c", "init.defaultBranch=main", *words],
        capture_output=True,
        check=True,
        env={**env, "PATH": "/usr/bin:/bin:/usr/local/bin"},
    )
    return done.stdout.decode().strip()


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """A main line with one old record; 1 adds a folder, 2 also touches a file outside, 3 was merged, 4 adds none."""
    path = tmp_path_factory.mktemp("repo")
    git(path, "init", "-q", "-b", "main")
    write(path / TRACK / "old")
    (path / "README.md").write_text("rules\n")
    git(path, "add", "-A")
    git(path, "commit", "-qm", "base")
    for n in (1, 2, 3, 4):
        git(path, "checkout", "-q", "-b", f"b{n}", "main")
        if n < 4:
            write(path / TRACK / f"new{n}")
        if n != 1 and n != 3:
            (path / "run.sh").write_text(f"echo {n}\n")
        git(path, "add", "-A")
        git(path, "commit", "-qm", f"pull {n}")
        git(path, "update-ref", f"refs/pull/{n}/head", f"b{n}")
        git(path, "checkout", "-q", "main")
    git(path, "merge", "-q", "--no-ff", "-m", "merge", "b3")
    return path


def test_the_added_folder_is_found_by_difference_from_the_merge_base(repo):
    report = audit(f"git:{repo}@pull/1/head")
    assert report.verdict == PASS and report.track == "10min_16mb" and len(report.head) == 40
    with Repository(repo) as opened:
        assert [f.path for f in opened.submission("3", target="x").folders] == [f"{TRACK}/new3"]


def test_files_outside_the_folder_are_held(repo):
    report = audit(f"git:{repo}@pull/2/head")
    assert status(report, "outside_folder") == {HOLD} and report.verdict == HOLD
    assert "run.sh" in [e.file for f in report.findings if f.rule == "outside_folder" for e in f.evidence]


def test_a_head_without_a_folder_is_unverifiable(repo):
    assert audit(f"git:{repo}@pull/4/head").verdict == UNVERIFIABLE


def test_every_head_is_audited_once_and_a_cut_line_is_mended(repo, tmp_path):
    out = tmp_path / "all.jsonl"
    events = list(audit_all(repo, out=out, jobs=1))
    assert [e.done for e in events if isinstance(e, Progress)] == [0, 1, 2, 3, 4]
    whole = out.read_bytes()
    out.write_bytes(whole[:-30])
    again = list(audit_all(repo, out=out, jobs=1))
    assert sum(isinstance(e, Report) for e in again) == 1
    assert sorted(r["target"] for r in read_reports(out)) == sorted(json.loads(x)["target"] for x in whole.splitlines())
    assert not [e for e in audit_all(f"git:{repo}", out=out, jobs=1) if isinstance(e, Report)]


@pytest.mark.parametrize("target", ["nowhere", "git:nowhere@x", "git:x", "git:{repo}@pull/99/head", "git:{empty}@main"])
def test_a_missing_target_is_one_clear_line(repo, tmp_path, target):
    with pytest.raises(UserError) as caught:
        audit(target.format(repo=repo, empty=tmp_path))
    assert "\n" not in str(caught.value)


def test_a_repository_without_heads_says_how_to_fetch_them(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("a")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "a")
    with pytest.raises(UserError, match="git fetch"):
        list(audit_all(tmp_path, out=tmp_path / "o.jsonl"))


def test_ranges_are_parsed_or_refused():
    assert Range.parse("1-20") == Range(1, 20) and Range.parse("7") == Range(7, 7)
    with pytest.raises(UserError):
        Range.parse("a-b")


def test_a_script_alone_is_judged_by_its_code(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(CACHE.replace("DEFAULT", "7"))
    report = audit(path)
    assert report.verdict == SUSPECT and any("size_cap" in text for text in report.unchecked)


def test_known_constants_are_ln2_times_bytes_per_token():
    assert known.GOOD[3].ratio == pytest.approx(math.log(2) * known.BYTES / 40_540_160, abs=2e-3)
    assert known.GOOD[0].ratio == pytest.approx(math.log(2) * known.BYTES / 62_021_632, abs=2e-3)


# ---- pages


def test_the_site_escapes_and_fetches_nothing(tmp_path):
    hostile = '</td><script>alert(1)</script>"'
    folder = record(tmp_path, json={"val_bpb": 1.2, "bytes_total": 17_000_000, "name": hostile}, readme=f"# {hostile}")
    (folder / f"{hostile.replace('/', '')}.log").write_text(log_text(total=17_000_000))
    held = json.loads(json.dumps(audit(folder).to_json()))
    numbered = {**held, "target": "git:/x@pull/861/head"}
    index = write_site([numbered, held], tmp_path / "site", shell=lambda body, title: f"<title>{title}</title>{body}")
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text()
        assert "<script>alert" not in text and "http" not in text
    assert "#861" in index.read_text() and "over the cap" in index.read_text()
    assert (tmp_path / "site/heads/861.html").exists()


def test_the_rendered_report_shows_texts_literally(tmp_path):
    out = io.StringIO()
    folder = record(tmp_path, readme="# [red]x[/red]", json={"val_bpb": 1.2, "bytes_total": 17_000_000})
    Console(file=out, width=200, no_color=True).print(render(audit(folder)))
    text = out.getvalue()
    assert text.startswith("FAIL") and "submission.json:1" in text and "Not checked" in text


def test_counts_complete_before_they_are_read_are_two_passes(tmp_path):
    one_pass = CACHE.replace("DEFAULT", "7")
    assert code_status(tmp_path, one_pass, "two_pass") == {PASS}
    filled = one_pass.replace(
        "    total = 0.0\n", "    cache.add(t, np.arange(3, len(t) - 1), 0)\n    total = 0.0\n", 1
    ).replace("        cache.add(t, at, 0)\n", "")
    assert code_status(tmp_path / "b", filled, "two_pass") == {SUSPECT}


def test_the_same_script_gets_the_same_findings_every_time(tmp_path):
    folder = record(tmp_path, script=CACHE.replace("DEFAULT", "7") + LEGAL)
    code = f"from pargolf.audit.judge import audit; import json; print(json.dumps(audit({str(folder)!r}).to_json()))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(said) == 1
