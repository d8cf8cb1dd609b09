"""The bench says what packing would give: sizes are of real artifacts, comparisons read off curves, forecasts hold."""

import json

import pytest
import small
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import pargolf.api as api
from pargolf.cli import app
from pargolf.core.errors import UserError
from pargolf.packing.codecs import Zstd
from pargolf.quant.gptq import GPTQ
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import Quantize
from pargolf.quant.trellis import Trellis
from pargolf.run.bench import at_equal, codec_rows, ours, published, quantizer_rows, scalar_codes
from pargolf.run.forecast import forecast
from pargolf.run.pack import pack
from pargolf.run.recipe import Recipe


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
    scalar, trellis = quantizer_rows(RECIPE, weights, None, [ours(states=None), ours()])
    assert trellis["squared_error"] < 0.85 * scalar["squared_error"]
    assert trellis["bytes"] < 1.01 * scalar["bytes"]


def test_codes_are_compared_under_every_codec(weights):
    rows = list(codec_rows(scalar_codes(weights)))
    assert {row["role"] for row in rows} >= {"attn.q", "mlp.up", "embed.tokens"}
    up = next(row for row in rows if row["role"] == "mlp.up")
    assert up["ours"] < min(up[name] for name in ("zlib-9", "zstd-22", "xz-9e", "brotli-11"))
    codes = scalar_codes(weights)["mlp.up"]
    assert up["zstd-22"] == len(Zstd().encode(b"".join(c.tobytes() for c in codes)))
    plan = Quantize((("mlp.*", Trellis(Int(4))), ("*", Keep())))
    assert set(scalar_codes(weights, plan)) == {"mlp.up", "mlp.down"}


def test_comparisons_are_read_between_points_and_not_beyond_them():
    curve = [{"bytes": 100, "tax": 8.0}, {"bytes": 400, "tax": 2.0}]
    assert at_equal(curve, given="bytes", value=200, wanted="tax") == pytest.approx(4.0)
    assert at_equal(curve, given="tax", value=8.0, wanted="bytes") == pytest.approx(100)
    assert at_equal(curve, given="tax", value=1.0, wanted="bytes") is None
    assert at_equal(curve, given="tax", value=-1.0, wanted="bytes") is None


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
    found = json.loads(run.invoke(app, ["forecast", "demo", "--json"]).stdout)
    assert found["total"] == found["model"] + found["code"] and found["fills"]
    assert sum(found["by_role"].values()) == found["model"]
    assert "fills the cap" in " ".join(run.invoke(app, ["forecast", "demo"]).stdout.split())
    save_file(weights, tmp_path / "w.safetensors")
    rows = json.loads(run.invoke(app, ["bench", "codec", str(tmp_path / "w.safetensors"), "--json"]).stdout)["codecs"]
    expected = {row["role"]: row["order0"] for row in codec_rows(scalar_codes(weights))}
    assert {row["role"]: row["order0"] for row in rows} == expected
    with pytest.raises(UserError, match=r"There is no .*none\.safetensors"):
        api.bench_codec(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"12345678" * 9)
    with pytest.raises(UserError, match="cannot be read"):
        api.bench_codec(tmp_path / "bad.safetensors")
