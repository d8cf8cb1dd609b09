"""The spine: a run in a folder, scored from its bytes alone, and every way it may be asked for badly."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import small
import torch
from forks import ended, forked
from typer.testing import CliRunner

import pargolf
from pargolf.cli import app, main
from pargolf.core.errors import UserError
from pargolf.core.result import read_result
from pargolf.core.spec import edit
from pargolf.data.folder import open_data
from pargolf.data.prepare import prepare
from pargolf.data.shards import write_shard
from pargolf.evaluate.adapters.sgd import SGD
from pargolf.evaluate.windows import Sliding
from pargolf.model.transformer import Transformer
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import Quantize
from pargolf.run.folder import RunFolder
from pargolf.run.pack import fit, pack, read_artifact, unpack
from pargolf.run.score import tokenizer_digest
from pargolf.ship.program import shipped
from pargolf.ship.size import count_code

RECIPE = small.RECIPE


@pytest.fixture
def bare(monkeypatch):
    """Runs without their page, and with code of one size: writing both takes most of a small run's time."""
    monkeypatch.setattr("pargolf.report.pages.write.page_of", lambda *_, **__: "<!doctype html>")
    monkeypatch.setattr("pargolf.ship.size.shipped", lambda recipe, **how: bytes(20_000))
    count_code.cache_clear()
    yield
    count_code.cache_clear()


def test_a_run_leaves_what_the_readme_says(run):
    out, result = run
    folder = RunFolder.open(out)
    assert folder.read_result() == result
    for name in ("events.jsonl", "train.log", "report.html", "model.pargolf", "tokenizer.model", "weights.safetensors"):
        assert folder[name].stat().st_size > 0
    size = result.bytes
    assert size.model == folder["model.pargolf"].stat().st_size
    assert size.total == size.model + size.code <= size.cap == 200_000
    assert result.steps == 6 and result.train_tokens == 6 * 64
    assert result.val_bpb == result.scores["post_quant_sliding"].bpb
    assert set(result.scores) == {"pre_quant", "post_quant", "post_quant_sliding"}


def test_the_graded_bytes_are_the_documents_own(run, data):
    _, result = run
    rows = open_data(data).rows("val")
    assert result.val_bytes == sum(row.bytes for row in rows)
    assert result.grades_per_position == (1, 1) and result.complete and result.legal and not result.why_not
    assert result.val_tokens == len(open_data(data).val) - 1


def test_scoring_the_artifact_again_gives_the_same_number(run, data):
    out, result = run
    again = pargolf.score(out / "model.pargolf", data=data).result()
    assert again["bpb"] == result.val_bpb and again["loss"] == result.val_loss
    plain = pargolf.score(out / "model.pargolf", data=data, windows="plain:16").result()
    assert plain["bpb"] == result.scores["post_quant"].bpb


def test_what_is_scored_came_from_the_bytes(run):
    out, _ = run
    folder = RunFolder.open(out)
    recipe, weights = folder.read_recipe(), folder.read_weights()
    unpacked = read_artifact(folder["model.pargolf"])
    for name, p in unpacked.model.named_parameters():
        grid, codes = recipe.quant.encode(weights)[name]
        assert torch.equal(p.detach(), grid.decode(codes))
    assert any(not torch.equal(p.detach(), weights[n]) for n, p in unpacked.model.named_parameters())


def test_the_same_seed_makes_the_same_bytes(run, data, tmp_path, bare):
    out, result = run
    again = pargolf.train(RECIPE, data=data, out=tmp_path / "b", seed=3).result()
    assert (tmp_path / "b" / "model.pargolf").read_bytes() == (out / "model.pargolf").read_bytes()
    assert again.val_bpb == result.val_bpb
    other = pargolf.train(RECIPE, data=data, out=tmp_path / "c", seed=4).result()
    assert other.val_bpb != result.val_bpb


def test_a_run_bounded_by_seconds_ends_inside_them(data, tmp_path):
    recipe = edit(RECIPE, {"train.steps": None, "train.seconds": 6.0})
    result = pargolf.train(recipe, data=data, out=tmp_path / "a").result()
    assert result.steps > 3 and result.train_seconds <= 6.0


def test_seconds_too_few_to_pack_are_refused_before_training(data, tmp_path):
    with pytest.raises(UserError, match=r"too few.*train\.seconds="):
        pargolf.train(
            edit(RECIPE, {"train.steps": None, "train.seconds": 0.01}), data=data, out=tmp_path / "a"
        ).result()


def test_a_folder_with_a_run_is_not_overwritten_unless_forced(run, data):
    out, _ = run
    before = (out / "result.json").read_bytes()
    with pytest.raises(UserError, match="--force"):
        pargolf.train(RECIPE, data=data, out=out).result()
    assert (out / "result.json").read_bytes() == before


def test_packing_again_meets_a_smaller_cap_or_says_what_is_possible(run):
    out, _ = run
    folder = RunFolder.open(out)
    recipe, weights = folder.read_recipe(), folder.read_weights()
    _, whole = fit(recipe, weights, tokenizer="t", cap=10**9)
    cap = count_code(recipe) + len(whole) - 1
    narrowed, smaller = fit(recipe, weights, tokenizer="t", cap=cap)
    assert len(smaller) < len(whole) and narrowed.quant != recipe.quant
    with pytest.raises(UserError, match=r"packs to [\d,]+ bytes at the least"):
        fit(recipe, weights, tokenizer="t", cap=1000)


def test_an_artifact_of_another_package_s_parts_is_refused(run):
    out, _ = run
    folder = RunFolder.open(out)
    unpacked = read_artifact(folder["model.pargolf"])
    meta = dict(unpacked.artifact.meta)
    for hostile in (
        {"is": "os:system"},
        {"fn": "pargolf.run.folder:read_json"},
        {"is": "pargolf.run.folder:RunFolder"},
    ):
        from pargolf.packing.artifact import to_bytes

        data = to_bytes({**meta, "model": hostile}, list(unpacked.artifact.tensors.values()))
        with pytest.raises(UserError):
            unpack(data)


def test_scoring_with_another_tokenizer_is_refused(run, tmp_path):
    out, _ = run
    texts = tmp_path / "texts"
    texts.mkdir()
    for i in range(12):
        (texts / f"{i}.txt").write_text(f"quite other words {i} " * 30)
    for _ in prepare([texts], tmp_path / "data", vocab=280):
        pass
    with pytest.raises(UserError, match="another tokenizer"):
        pargolf.score(out / "model.pargolf", data=tmp_path / "data").result()


def test_bad_input_to_scoring_is_one_clear_line(run, data, tmp_path):
    """A window longer than the text; ids past the vocabulary; byte counts of other tokens. Nothing is graded."""
    out, _ = run
    held = open_data(data)
    with pytest.raises(UserError, match=r"fewer than one window of plain:9000. .* plain:\d+"):
        pargolf.score(out / "model.pargolf", data=data, windows="plain:9000").result()
    with pytest.raises(UserError, match="fewer than one window of sliding:9000,10"):
        pargolf.train(replace(RECIPE, windows=Sliding(9000, 10)), data=data, out=tmp_path / "long").result()
    assert not (tmp_path / "long").exists()
    for change, hint in (("tokens", "past the vocabulary"), ("bytes", "byte counts for")):
        folder = tmp_path / change
        shutil.copytree(data, folder)
        shard = next(folder.glob("*_val_*.bin"))
        tokens = np.array(held.val[:])
        if change == "tokens":
            tokens[70] = 60_000
            write_shard(shard, tokens)
        else:
            write_shard(folder / "text_val_bytes_000000.bin", np.ones(len(tokens) + 1, dtype=int))
        with pytest.raises(UserError, match=hint) as caught:
            pargolf.score(out / "model.pargolf", data=folder).result()
        assert "\n" not in str(caught.value)


def test_scoring_asks_for_no_kernel_and_stops_in_time(run, data, monkeypatch):
    """An artifact can need nothing that a machine lacks: scoring is torch alone, with or without a compiler."""
    out, result = run
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("pargolf.kernels.compiled._find", lambda half: pytest.fail("scoring looked for a compiler"))
    assert pargolf.score(out / "model.pargolf", data=data).result()["bpb"] == result.val_bpb
    row = pargolf.score(out / "model.pargolf", data=data, windows="sliding:16,1", seconds=0.001).result()
    assert not row["complete"] and 0 < row["tokens"] < row["positions"] and row["grades_min"] == 0


def test_artifact_needs_neither_training_data_nor_network(run, data, tmp_path):
    out, result = run
    alone = tmp_path / "val_only"
    shutil.copytree(data, alone)
    for shard in alone.glob("*_train_*.bin"):
        shard.unlink()
    assert pargolf.score(out / "model.pargolf", data=alone).result()["bpb"] == result.val_bpb


def test_generation_goes_on_from_the_prompt_and_repeats(run):
    out, _ = run
    options = {"prompt": "the state", "tokens": 12, "seed": 5}
    texts = ["".join(pargolf.generate(out / "model.pargolf", **options)) for _ in range(2)]
    assert texts[0] == texts[1]
    three = "".join(pargolf.generate(out / "model.pargolf", documents=3, **options))
    assert three.startswith(f"{texts[0]}\n\nthe state")
    last = "".join(pargolf.generate(out / "model.pargolf", **options | {"seed": 7}))
    assert three.endswith(f"\n\nthe state{last}")


def test_bfloat16_scales_survive_the_artifact():
    recipe = replace(RECIPE, quant=Quantize((("embed.*", Int(8, scale="bfloat16")), ("*", Keep("bfloat16")))))
    weights = {n: p.detach() for n, p in recipe.model.build(1).named_parameters()}
    model = unpack(pack(recipe, weights, tokenizer="t")).model
    for name, p in model.named_parameters():
        grid, codes = recipe.quant.encode(weights)[name]
        assert torch.equal(p.detach(), grid.decode(codes))


def test_an_adapting_recipe_scores_first_and_says_what_it_gained(data, tmp_path, bare):
    recipe = replace(RECIPE, adapt=SGD(lr=0.01, chunk=64, epochs=1, batch=2))
    result = pargolf.train(recipe, data=data, out=tmp_path / "a", seed=3).result()
    assert result.val_bpb == result.scores["adapted"].bpb != result.scores["post_quant_sliding"].bpb
    assert result.adaptation.startswith("adapting ")
    again = pargolf.score(tmp_path / "a" / "model.pargolf", data=data, adapt=True).result()
    assert again["bpb"] == result.val_bpb
    assert again["without"]["bpb"] == result.scores["post_quant_sliding"].bpb


def test_probe_judges_recipes_and_artifacts(run):
    out, _ = run
    for target in (RECIPE, out / "model.pargolf"):
        verdicts = {row["law"]: row for row in pargolf.probe(target)}
        assert set(verdicts) == {"causal", "normalized", "once", "isolated"}
        assert all(row["holds"] for row in verdicts.values()) and verdicts["isolated"]["asked"]


def test_copied_validation_text_stops_a_run_unless_allowed(tmp_path, bare):
    rng = np.random.default_rng(0)
    texts = tmp_path / "texts"
    texts.mkdir()
    for i in range(20):
        (texts / f"{i}.txt").write_text(" ".join(str(n) for n in rng.integers(0, 10_000, 80)))
    for _ in prepare([texts], tmp_path / "data", vocab=280):
        pass
    made, folder = open_data(tmp_path / "data"), tmp_path / "leaky"  # `data prepare` itself would mend it
    folder.mkdir()
    shutil.copyfile(made.path / "tokenizer.model", folder / "tokenizer.model")
    train, val = made.train.take(0, len(made.train)), made.val.take(0, len(made.val))
    write_shard(folder / "own_val_000000.bin", val)
    write_shard(folder / "own_train_000000.bin", np.concatenate([train, val]))
    with pytest.raises(UserError, match="--allow-overlap"):
        pargolf.train(RECIPE, data=folder, out=tmp_path / "run").result()
    assert not (tmp_path / "run").exists()
    result = pargolf.train(RECIPE, data=folder, out=tmp_path / "run", allow_overlap=True).result()
    assert result.overlap.copied_documents >= 1


def test_the_code_that_counts_is_what_would_be_shipped():
    plain = count_code(RECIPE)
    assert plain == len(shipped(RECIPE)) < 25_000
    # A solver for the cap comes on top.
    assert plain < count_code(RECIPE, fitted=True) < plain + 5_000


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train", "baselin", "--data", "nowhere"], "Did you mean baseline?"),
        (["train", "baseline", "train.secnds=3", "--data", "nowhere"], "Did you mean seconds"),
        (["train", "baseline", "seconds", "--data", "nowhere"], "path=value"),
        (["train", "baseline", "--scale", "tiny"], "No scale 'tiny'"),
        (["train", "baseline", "--data", "nowhere"], "pargolf data prepare"),
        (["score", "nothing.pargolf"], "no artifact"),
        (["inspect", "nothing.pargolf"], "no artifact"),
        (["pack", "nowhere"], "no run folder"),
        (["describe", "nothing"], "nothing"),
    ],
)
def test_bad_input_is_one_line_and_code_2(words, line, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli(*words)
    assert done.returncode == 2
    assert line in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(tmp_path.iterdir())


def test_the_terminal_scores_generates_and_prices(run, data):
    artifact = str(run[0] / "model.pargolf")

    def said(*words, code=0):
        done = CliRunner().invoke(app, [words[0], artifact, *map(str, words[1:])])
        assert done.exit_code == code, done.output
        return done.stdout

    part = json.loads(said("score", "--data", data, "--seconds", 0.001, "--json", code=2))
    assert not part["complete"] and part["tokens"] < part["positions"]
    first = said("score", "--data", data, "--seconds", 0.001, code=2).splitlines()[0]
    assert first.startswith(f"Only the first {part['tokens']} of {part['positions']} validation tokens were scored")
    assert "Every one of" in said("score", "--data", data)
    assert said("generate", "--prompt", "the state", "--documents", 2, "--tokens", 3).count("the state") == 2
    priced = said("generate", "--score", "the union")
    assert priced.startswith("the union") and "bits over 9 bytes" in priced


def test_the_score_of_a_model_that_looks_ahead_is_shown_and_refused(run, data, monkeypatch):
    artifact = str(run[0] / "model.pargolf")

    def peek(self, ids, first=0, ctx=None):
        ahead = torch.nn.functional.pad(ids, (0, 1))[:, 1:]
        return honest(self, ids, first, ctx) + 9.0 * torch.nn.functional.one_hot(ahead[:, first:], self.spec.vocab)

    honest = Transformer.forward
    assert "no distribution before them moved" in CliRunner().invoke(app, ["score", artifact, "--data", data]).stdout
    monkeypatch.setattr(Transformer, "forward", peek)
    for words in ([], ["--json"]):
        done = CliRunner().invoke(app, ["score", artifact, "--data", data, *words])
        assert done.exit_code == 2 and "looked 1 token ahead" in done.stdout
        assert "not legal" in done.stderr


def test_a_run_whose_model_looks_ahead_ends_with_an_error_and_says_where(data, tmp_path, monkeypatch, bare):
    def peek(self, ids, first=0, ctx=None):
        ahead = torch.nn.functional.pad(ids, (0, 2))[:, 2:]
        return honest(self, ids, first, ctx) + torch.nn.functional.one_hot(ahead[:, first:], self.spec.vocab)

    honest = Transformer.forward
    monkeypatch.setattr(Transformer, "forward", peek)
    words = ["train", "baseline", "train.steps=1", "train.batch_tokens=512", "--scale", "mini", "--data", data]
    done = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / "run")])
    assert done.exit_code == 2 and "not legal" in done.stderr
    result = read_result(tmp_path / "run" / "result.json")
    assert result.in_turn and result.complete and result.probed is False and not result.legal
    assert "looked 2 tokens ahead" in result.sentence and result.sentence.startswith("Not legal")


def test_a_damaged_artifact_names_its_section(run, cli, tmp_path):
    out, _ = run
    whole = (out / "model.pargolf").read_bytes()
    (tmp_path / "cut.pargolf").write_bytes(whole[: len(whole) // 2])
    done = cli("inspect", tmp_path / "cut.pargolf")
    assert done.returncode == 2 and "damaged" in done.stderr


def test_an_interrupt_packs_and_scores_what_was_trained(data, tmp_path, bare):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "import sys; sys.path.insert(0, sys.path[0])\n"
        "from pargolf.core.spec import edit\nfrom pargolf.recipes.published.baseline import RECIPE\n"
        'RECIPE = edit(RECIPE, {"name": "mine"})\n'
    )
    words = ["train", recipe, "train.steps=100000", "train.batch_tokens=512", "--scale", "mini"]
    reading, writing = os.pipe()

    def work():
        os.dup2(writing, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
        sys.argv = ["pargolf", *map(str, words), "--data", str(data), "--out", str(tmp_path / "run")]
        try:
            main()
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(end.code or 0)

    child = forked(work)
    os.close(writing)
    with os.fdopen(reading) as stream:
        for line in stream:
            if "step" in line and "tokens/s" in line:
                break
        os.kill(child, signal.SIGINT)
        error = stream.read()
    assert ended(child) == 2 and "Traceback" not in error
    assert "packed and scored" in error.strip().splitlines()[-1]
    result = read_result(tmp_path / "run" / "result.json")
    assert result.interrupted and result.steps >= 1 and result.grades_per_position == (1, 1)
    assert not result.legal and result.why_not == ["training was interrupted"]


def test_help_and_recipes_do_not_import_torch():
    probe = (
        "import sys; sys.argv = ['pargolf', *{!r}]\n"
        "import pargolf.cli\n"
        "try: pargolf.cli.main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    for words in (["--help"], ["recipes"], ["recipes", "--json"]):
        subprocess.run([sys.executable, "-c", probe.format(words)], check=True, capture_output=True)


def test_the_data_tokenizer_is_named_in_the_artifact(run, data):
    out, _ = run
    assert read_artifact(out / "model.pargolf").tokenizer == tokenizer_digest(open_data(data))


def test_the_auditor_answers_from_the_command_line(cli, tmp_path):
    (tmp_path / "train_gpt.py").write_text("print('hello')\n")
    done = cli("audit", tmp_path, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 2 and report["verdict"] != "PASS"
    assert set(report) == {"target", "head", "track", "verdict", "coverage", "findings", "unchecked"}
    assert pargolf.judge(tmp_path).result().to_json() == report
