"""The auditor's arithmetic: bytes, seconds, runs, denominators, and numbers that stand twice."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from submissions import LEGAL, RATIO, log_text, only_log, record, status, write
from typer.testing import CliRunner

from pargolf.audit.judge import audit, record_of
from pargolf.audit.read import validation_sets as known
from pargolf.audit.read.facts import read_facts
from pargolf.audit.read.logs import read_log
from pargolf.audit.read.target import open_target
from pargolf.audit.read.tokenizer import read_tokenizer
from pargolf.audit.report import FAIL, HOLD, PASS, SUSPECT, UNVERIFIABLE
from pargolf.audit.rules.rule import Record
from pargolf.audit.rules.trails import copied_logs
from pargolf.cli import app
from pargolf.core.errors import UserError

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


def test_significance_is_welch_s_test_in_nats(tmp_path):
    new, old = [1.0, 1.01, 0.99], [1.05, 1.06, 1.052, 1.049]
    runs = {str(seed): {"val_bpb": score} for seed, score in enumerate(new, 1)}
    folder = record(tmp_path, json={"val_bpb": 1.0, "val_loss": RATIO, "seed_results": runs})
    report = audit(folder, record=Record("theirs", tuple(old)))
    p = next(f.numbers["p"] for f in report.findings if f.rule == "significance")
    shifted = [x + 0.005 / RATIO for x in new]
    want = scipy_stats.ttest_ind(shifted, old, equal_var=False, alternative="less").pvalue
    assert p == pytest.approx(want, rel=1e-4)


def test_the_record_is_named_by_its_scores_or_its_folder(tmp_path):
    assert record_of("1.1147,1.1150").bpb == (1.1147, 1.1150)
    folder = record(tmp_path, **{"train_seed1.log": log_text(bpb=1.2001, ratio=2.5832)})
    held = record_of(str(folder))
    assert held.bpb == (1.2001, 1.2003, 1.2002) and held.name == "2026-01-01_x"
    for wrong in ("nowhere", "1.1,-3", "1.1,x"):
        with pytest.raises(UserError):
            record_of(wrong)
    done = CliRunner().invoke(app, ["audit", str(folder), "--record", "1.25,1.2501", "--json"])
    said = {f["rule"]: f["status"] for f in json.loads(done.stdout)["findings"]}
    assert said["significance"] == PASS


# ---- what is no fault


def test_a_trial_on_fewer_processes_is_not_the_submission_s_time(tmp_path):
    trial = log_text(seconds=2400, ranks=2, bpb=1.2002)
    assert status(audit(record(tmp_path, **{"trial.log": trial})), "train_time") == {PASS}
    assert status(only_log(tmp_path / "b", trial), "train_time") == {FAIL}


def test_scoring_on_an_unknown_machine_is_held(tmp_path):
    text = log_text() + f"final_x_exact val_loss:{1.2 * RATIO:.8f} val_bpb:1.20000000 eval_time:700000ms\n"
    assert status(only_log(tmp_path, text), "eval_time") == {FAIL}
    unknown = text.replace("world_size:8 grad_accum_steps:1\n", "")
    assert status(only_log(tmp_path / "b", unknown), "eval_time") == {HOLD}


def test_adaptation_counts_as_scoring_time(tmp_path):
    assert status(only_log(tmp_path, log_text(), ttt_time_seconds=1463), "eval_time") == {FAIL}


def test_logs_of_other_runs_over_the_cap_are_held(tmp_path):
    over, under = log_text(total=16_400_000, bpb=1.2004), log_text(total=15_000_000)
    small = {"bytes_total": 15_000_000}
    study = tmp_path / "records/track_non_record_16mb/study"
    logs = {f"train_seed{s}.log": None for s in (1, 2, 3)}
    files = {**logs, "a.log": under, "b.log": over, "json": {"val_bpb": 1.2, **small}}
    assert status(audit(write(study, **files)), "size_cap") == {HOLD}
    # In the record track every seed near the score is the submission's, and so is one whose score is declared.
    assert status(audit(record(tmp_path, **files)), "size_cap") == {FAIL}
    declared = {"val_bpb": 1.2, **small, "seed_results": {"1": {"val_bpb": 1.2}, "2": {"val_bpb": 1.2004}}}
    assert status(audit(write(study, **{**files, "json": declared})), "size_cap") == {FAIL}


def test_logs_without_a_claim_are_held_unless_all_are_over(tmp_path):
    logs = {f"train_seed{s}.log": None for s in (1, 2, 3)}
    over, under = log_text(total=16_400_000), log_text(total=15_000_000, bpb=1.3)
    files = {**logs, "json": None, "a.log": over}
    assert status(audit(record(tmp_path, **files)), "size_cap") == {FAIL}
    assert status(audit(record(tmp_path / "b", **files, **{"b.log": under})), "size_cap") == {HOLD}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("600s training + 3376s eval", PASS),
        ("Eval wallclock: `1613s`", PASS),
        ("Training time: 3376s", SUSPECT),
        ("Trained in 1200s", SUSPECT),
    ],
)
def test_prose_about_scoring_is_no_training_time(tmp_path, words, wanted):
    report = audit(record(tmp_path, readme=f"# x\n\n{words}\n"))
    assert status(report, "consistency") == {wanted}


def test_a_bare_wall_clock_yields_to_a_training_time(tmp_path):
    both = {"wallclock_seconds": 1831.2, "train_wallclock_seconds": 599.9}
    assert status(only_log(tmp_path, log_text(), **both), "train_time") == {PASS}
    alone = {"wallclock_seconds": 1831.2}
    assert status(only_log(tmp_path / "b", log_text(), **alone), "train_time") == {FAIL}


def test_logs_of_several_lengths_do_not_contradict_each_other(tmp_path):
    study = {f"x{i}.log": log_text(seconds=s, bpb=1.2) for i, s in enumerate((599.9, 1200, 6000))}
    report = audit(write(tmp_path / "records/track_non_record_16mb/study", **study))
    assert status(report, "consistency") == {PASS}


def test_a_timer_printed_in_whole_seconds_is_not_contradicted(tmp_path):
    end = f"legal_ttt_exact val_loss:{1.2 * RATIO:.8f} val_bpb:1.20000000 eval_time:98704ms\n"
    inner = "ttt:done val_loss=2.0262 val_bpb=1.2000 elapsed="
    for elapsed, off in (("99s", False), ("98.8s", False), ("99.4s", True)):
        report = only_log(tmp_path / elapsed, log_text() + inner + elapsed + "\n" + end)
        assert any("outer timer" in f.summary for f in report.findings) == off, elapsed


def test_rows_of_another_quotient_that_agree_are_no_contradiction(tmp_path):
    """A sliding window may leave other tokens out than the rows do; only rows that no quotient fits are off."""
    text = log_text(ratio=RATIO * 1.0008)
    text = text[: text.index("final_")] + f"final_exact val_loss:{1.2 * RATIO:.8f} val_bpb:1.20000000\n"
    said = [f for f in only_log(tmp_path, text + "0/2000 val_loss:6.9 val_bpb:4.1\n").findings if f.status != PASS]
    assert not any("rows" in f.summary for f in said)


# ---- bytes that a log names


def test_another_quotient_than_the_rows_own_is_suspect_and_corrected(tmp_path):
    """#2039: the rows divide by one number of bytes, the reported score by another."""
    text = log_text(ratio=2.1493)
    text = text[: text.index("final_")] + "mix_exact val_loss:2.38730316 val_bpb:1.01595810\n"
    report = only_log(tmp_path, text, val_bpb=1.015958)
    finding = next(f for f in report.findings if f.rule == "byte_denominator")
    assert finding.status == SUSPECT and finding.numbers["corrected_bpb"] == pytest.approx(
        2.38730316 / 2.1493, abs=1e-4
    )


def test_tokens_called_bytes_are_suspect(tmp_path):
    """#2076: the line of the declared score counts as many bytes as the set has tokens."""
    text = log_text() + "ppm_mixer val_bpb:0.92982823 eval_time:550024ms order=5 N_bytes=62021632\n"
    report = only_log(tmp_path, text, val_bpb=0.92982823)
    finding = next(f for f in report.findings if f.rule == "byte_denominator")
    assert finding.status == SUSPECT and "number of its tokens" in finding.summary
    assert status(report, "ngram_target_key") == {SUSPECT}
    impossible = [f.summary for f in report.findings if f.rule == "consistency"]
    assert len(impossible) == 1 and "best honest score" in impossible[0]
    honest = text.replace("N_bytes=62021632", "N_bytes=151074309")
    assert status(only_log(tmp_path / "b", honest, val_bpb=0.92982823), "byte_denominator") != {SUSPECT}


# ---- own words


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("Val-only training, 0.72 BPB", SUSPECT),
        ("- [x] GPTQ calibration on validation data", SUSPECT),
        ("then use score-first test-time training on val data", PASS),
        ('> "You can\'t train on the validation tokens before you evaluate"', PASS),
        ("You can\u2019t cheat by training on the validation set", PASS),
        ("Source 2 (beta, use as validation only)", PASS),
    ],
)
def test_own_words_about_validation_are_read_with_their_denials(tmp_path, words, wanted):
    assert status(audit(record(tmp_path, readme=f"# x\n\n{words}\n")), "val_in_training") == {wanted}


# ---- the tokenizer beside the script


def model_file(*pieces: str) -> bytes:
    """A SentencePiece model with an unknown piece, a control piece, a byte piece and these."""

    def field(number: int, held: bytes) -> bytes:
        assert len(held) < 128
        return bytes([number << 3 | 2, len(held)]) + held

    kinds = [("<unk>", 2), ("<s>", 3), ("<0x41>", 6), *((piece, 1) for piece in pieces)]
    return b"".join(
        field(1, field(1, text.encode()) + b"\x15" + bytes(4) + bytes([3 << 3, kind])) for text, kind in kinds
    )


TABLE = (
    LEGAL
    + """
def build_luts(sp):
    for i in range(sp.vocab_size()):
        piece = sp.id_to_piece(i)
        if piece.startswith("▁"):
            piece = piece[1:]
        size[i] = len(piece.encode("utf-8"))
"""
)


@pytest.mark.parametrize(
    ("pieces", "script", "wanted"),
    [
        (("\u2581", "\u2581of", "\u2581of\u2581the"), TABLE, SUSPECT),
        (("\u2581", "\u2581\u2581"), TABLE, SUSPECT),
        (("\u2581of", "a"), TABLE, SUSPECT),
        (("\u2581", "\u2581of\u2581the"), LEGAL, HOLD),
        (("\u2581", "\u2581of", "a"), TABLE, PASS),
        (("\u2581", "a\u2581b"), TABLE.replace("piece[1:]", 'piece[1:].replace("\u2581", " ")'), PASS),
    ],
)
def test_a_tokenizer_in_reach_is_held_against_the_byte_table(tmp_path, pieces, script, wanted):
    folder = record(tmp_path, script=script, **{"tokenizer.model": model_file(*pieces)})
    assert status(audit(folder), "byte_denominator") - {PASS} == {wanted} - {PASS}
    alone = status(audit(folder / "train_gpt.py"), "byte_denominator")
    assert alone == {wanted} - {PASS}


def test_the_pieces_of_a_model_file_are_sentencepiece_s_own():
    import sentencepiece

    data = (Path(__file__).parent / "golden" / "tokenizer.model").read_bytes()
    theirs = sentencepiece.SentencePieceProcessor(model_proto=data)
    silent = (theirs.is_control, theirs.is_unknown, theirs.is_byte, theirs.is_unused)
    ids = [i for i in range(theirs.vocab_size()) if not any(kind(i) for kind in silent)]
    tokenizer = read_tokenizer("x.model", data)
    assert tokenizer is not None and tokenizer.pieces == tuple(theirs.id_to_piece(i) for i in ids)


@given(st.binary(max_size=200))
@settings(max_examples=60)
def test_reading_a_damaged_model_never_raises(data):
    read_tokenizer("x.model", data)
    read_tokenizer("x.model", model_file("\u2581")[: len(data)] + data)


@pytest.mark.parametrize(
    ("name", "seed", "copied"), [("train.log", 1, False), ("train_seed3.log", 3, True), ("train_seed3.log", 1, True)]
)
def test_a_log_given_twice_is_an_accusation_only_if_it_stands_for_another_seed(tmp_path, name, seed, copied):
    def log(seed: int, curve: int) -> str:
        rows = [
            f"{s}/2000 train_loss:{3 + curve * math.sin(s * curve):.4f} train_time:{s * curve}ms" for s in range(20, 40)
        ]
        return log_text(bpb=1.2, seed=seed) + "\n".join(rows) + "\n"

    logs = {"train_seed3.log": None, "train_seed1.log": log(1, 2), "train_seed2.log": log(2, 3), name: log(seed, 2)}
    found = copied_logs(read_facts(open_target(record(tmp_path, **logs)).folders[0]))
    assert (found is not None and found.status == FAIL) == copied
