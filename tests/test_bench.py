"""The bench says what packing would give: sizes are of real artifacts, comparisons read off curves, forecasts hold."""

import json
from dataclasses import replace

import pytest
import small
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import pargolf.api as api
from pargolf.cli import app
from pargolf.core.errors import UserError
from pargolf.core.events import Weighed
from pargolf.core.roles import role
from pargolf.data.folder import open_data
from pargolf.packing.codecs import Brotli, Lzma, Zlib, Zstd
from pargolf.quant.clip import StdDev
from pargolf.quant.gptq import GPTQ
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import Quantize
from pargolf.quant.trellis import Trellis
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder, load_tensors
from pargolf.run.forecast import forecast, unused_pieces, weigh
from pargolf.run.pack import pack, read_artifact, unpack
from pargolf.study.bench import (
    codec_rows,
    int6_codes,
    interpolate,
    own_codec,
    published,
    quantizer_rows,
    stored_codes,
    sum_row,
)
from pargolf.watch.runlog import read_events


@pytest.fixture(scope="module")
def weights():
    model = small.model(dim=64, vocab=256).build(0)
    generator = torch.Generator().manual_seed(0)
    return {
        n: torch.randn(p.shape, generator=generator) * 0.1 if p.ndim == 2 else p.detach()
        for n, p in model.named_parameters()
    }


RECIPE = Recipe("r", "tests", small.model(dim=64, vocab=256), small.train(), Quantize((("*", Keep()),)))


def test_every_published_pair_packs_as_the_artifact_would(weights):
    rows = list(quantizer_rows(RECIPE, weights, None, published(), grade=lambda model: float(model.spec.dim)))
    assert [row["name"] for row in rows][-1] == "sdclip" and len(rows) == 8
    for pair, row in zip(published(), rows):
        plan = Recipe("r", "tests", RECIPE.model, RECIPE.train, pair.plan(weights), pair.codec)
        assert row["bytes"] == len(pack(plan, weights, tokenizer="bytes"))
        assert row["bpb"] == 64.0 and row["squared_error"] > 0
    by_name = {row["name"]: row for row in rows}
    assert by_name["pr910"]["squared_error"] > 5 * by_name["sdclip"]["squared_error"]  # its floor at these magnitudes


def test_ours_is_smaller_at_less_error_than_the_same_steps_without_a_trellis(weights):
    scalar, trellis = quantizer_rows(RECIPE, weights, None, [own_codec(states=None), own_codec()])
    assert trellis["squared_error"] < 0.85 * scalar["squared_error"]
    assert trellis["bytes"] < 1.01 * scalar["bytes"]


def test_codes_are_compared_under_every_codec(weights):
    found = int6_codes(weights)
    rows = list(codec_rows(found))
    assert {row["role"] for row in rows} >= {"attn.q", "mlp.up", "embed.tokens"}
    up = next(row for row in rows if row["role"] == "mlp.up")
    assert up["ours"] < min(up[name] for name in ("zlib-9", "zstd-22", "xz-9e", "brotli-11"))
    assert up["zstd-22"] == len(Zstd().encode(b"".join(t.codes.tobytes() for t in found["mlp.up"])))
    total = sum_row(rows)
    assert total["ours"] == sum(row["ours"] for row in rows) and total["role"] == "all"
    banks = int6_codes({"bank": torch.stack([weights["blocks.0.mlp.up.weight"]] * 2), "gate": torch.ones(3)})
    assert [tensor.codes.shape for tensor in banks["bank"]] == [(256, 64)]
    with pytest.raises(UserError, match="no matrices"):
        int6_codes({"gate": torch.ones(3)})


def test_a_trellis_s_codes_are_weighed_as_the_artifact_holds_them(weights):
    grid = Trellis(Int(5, clip=StdDev(8.0)))
    quant = Quantize((("mlp.*", grid), ("attn.[qkv]", Int(6)), ("*", Keep())))
    data = pack(replace(RECIPE, quant=quant), weights, tokenizer="t")
    artifact = unpack(data).artifact
    found = stored_codes(artifact)
    assert set(found) == {"mlp.up", "mlp.down", "attn.q", "attn.k", "attn.v"}
    sizes = {section.name: section.size for section in artifact.sections}
    for row in codec_rows(found):
        assert row["ours"] == sizes[f"codes of {row['role']}"]
        assert row["codes"] == sum(w.numel() for n, w in weights.items() if role(n) == row["role"])
        # The general codecs get the same codes, a byte each.
        flat = b"".join(grid.encode(w).codes.numpy().tobytes() for n, w in weights.items() if role(n) == row["role"])
        if "mlp" in row["role"]:
            assert row["brotli-11"] == len(Brotli().encode(flat))
    with pytest.raises(UserError, match="holds no codes"):
        stored_codes(unpack(pack(RECIPE, weights, tokenizer="t")).artifact)


def test_a_run_is_benched_whole(run, data):
    """Codes from the artifact, quantizers on the weights, bits per byte after unpacking on the same sample."""
    out, result = run
    done = CliRunner().invoke(app, ["bench", "codec", str(out), "--data", str(data), "--json"])
    found = json.loads(done.stdout)
    sections = read_artifact(out / "model.pargolf").artifact.sections
    codes = sum(section.size for section in sections if section.name.startswith("codes"))
    assert found["codecs"][-1]["role"] == "all" and found["codecs"][-1]["ours"] == codes
    rows = {row["name"]: row for row in found["quantizers"]}
    assert next(iter(rows)) == "none" and list(rows)[-2:] == ["sdclip", "ours"]
    assert rows["none"]["squared_error"] == 0.0
    assert rows["none"]["bpb"] == pytest.approx(result.scores["pre_quant"].bpb, abs=0.3)
    for row in found["quantizers"]:
        assert set(row) == {"name", "bytes", "squared_error", "weighted_error", "bpb"}
    assert rows["ours"]["weighted_error"] < rows["sdclip"]["weighted_error"]
    text = CliRunner().invoke(app, ["bench", "codec", str(out / "model.pargolf")]).stdout
    assert f"{codes:,}" in text and "order0" in text


def test_comparisons_are_read_between_points_and_not_beyond_them():
    curve = [{"bytes": 100, "tax": 8.0}, {"bytes": 400, "tax": 2.0}]
    assert interpolate(curve, known="bytes", value=200, target="tax") == pytest.approx(4.0)
    assert interpolate(curve, known="tax", value=8.0, target="bytes") == pytest.approx(100)
    assert interpolate(curve, known="tax", value=1.0, target="bytes") is None
    assert interpolate(curve, known="tax", value=-1.0, target="bytes") is None


def test_a_forecast_weighs_a_trellis_like_its_base(weights):
    def plan(grid):
        quant = Quantize((("embed.*", grid), ("attn.[qkv]", grid), ("attn.out", grid), ("mlp.*", grid), ("*", Keep())))
        return Recipe("r", "tests", RECIPE.model, RECIPE.train, quant)

    assert forecast(plan(Int(5))) == forecast(plan(Trellis(Int(5))))
    system = plan(Trellis(Int(5)))
    real = len(pack(system, weights, tokenizer="t", hessians=None))
    assert forecast(system).model == pytest.approx(real, rel=0.05)
    assert system.quant.solver is None and GPTQ() == GPTQ(16)


def test_the_command_line_forecasts_and_compares(weights, tmp_path):
    run = CliRunner()
    found = json.loads(run.invoke(app, ["forecast", "house", "--json"]).stdout)
    assert found["total"] == found["model"] + found["code"] and found["fills"]
    assert sum(found["by_role"].values()) == found["model"]
    assert "fills the cap" in " ".join(run.invoke(app, ["forecast", "house"]).stdout.split())
    save_file(weights, tmp_path / "w.safetensors")
    rows = json.loads(run.invoke(app, ["bench", "codec", str(tmp_path / "w.safetensors"), "--json"]).stdout)["codecs"]
    expected = {row["role"]: row["order0"] for row in codec_rows(int6_codes(weights))}
    assert {row["role"]: row["order0"] for row in rows[:-1]} == expected
    with pytest.raises(UserError, match=r"There is no .*none\.safetensors"):
        api.bench_codec(tmp_path / "none.safetensors").result()
    (tmp_path / "bad.safetensors").write_bytes(b"12345678" * 9)
    with pytest.raises(UserError, match="cannot be read"):
        api.bench_codec(tmp_path / "bad.safetensors").result()


def test_weights_as_they_stand_are_weighed_nearly_as_they_pack(run):
    out, _ = run
    folder = RunFolder.open(out)
    recipe, weights = folder.read_recipe(), folder.read_weights()
    wide = replace(recipe, model=replace(recipe.model, dim=96, vocab=400))
    generator = torch.Generator().manual_seed(0)
    grown = {n: torch.randn(p.shape, generator=generator) * 0.2 for n, p in wide.model.build(0).named_parameters()}
    for codec in (None, Zlib(), Lzma(6, extreme=False), Zstd()):
        system = replace(wide, codec=codec)
        assert weigh(system, grown).model == pytest.approx(len(pack(system, grown, tokenizer="t")), rel=0.025)
    assert weigh(recipe, weights).by_role.keys() == forecast(recipe).by_role.keys()


def test_training_says_what_the_model_weighs_as_it_goes(run):
    out, result = run
    events = [event for event in read_events(out / "events.jsonl") if isinstance(event, Weighed)]
    assert events and events[-1].code_bytes == result.bytes.code and events[-1].cap == result.bytes.cap
    assert f"weighs:{events[-1].model_bytes + events[-1].code_bytes}/" in (out / "train.log").read_text()
    assert "Size forecast while training" in (out / "report.html").read_text()


def test_a_forecast_says_where_packing_will_land(data):
    fills = api.forecast("house")
    assert fills["lands"] == fills["cap"] > fills["total"]
    fits = api.forecast("baseline", scale="mini", data=data)
    assert fits["lands"] == fits["total"] < fits["cap"]
    over = api.forecast("baseline", scale="mini", changes={"budget.bytes": fits["total"] - 10_000})
    assert over["lands"] == over["cap"]
    # The same recipe on data that leave pieces out: rows that stay alike cost less.
    assert unused_pieces(open_data(data)) > 0
    plain = replace(small.RECIPE, codec=Zstd())
    assert forecast(plain, unused=16).model < forecast(plain).model


def test_weights_come_back_layer_after_layer(weights, tmp_path):
    """So that packing them again gives the same bytes each time."""
    names = [f"blocks.{i}.mlp.up.weight" for i in (0, 1, 2, 9, 10, 11)]
    save_file({name: weights["blocks.0.mlp.up.weight"].clone() for name in reversed(names)}, tmp_path / "w.safetensors")
    assert list(load_tensors(tmp_path / "w.safetensors")) == names
