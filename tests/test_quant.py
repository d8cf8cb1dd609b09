"""Grids: one computation for fake, round and pack, and every published quantizer to the bit."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from pargolf import upstream
from pargolf.core.errors import UserError
from pargolf.core.spec import checked
from pargolf.quant import published
from pargolf.quant.clip import Amax, Clip, MeanAbs, Percentile, Search, StdDev
from pargolf.quant.grid import Codes, Int, Keep, as_stored
from pargolf.quant.prune import Prune

GOLDEN = Path(__file__).parent / "golden"
CLIPS: list[Clip] = [Amax(), Percentile(0.999), Search(), Search(each="row"), StdDev(3.0), MeanAbs(2.0)]
PUBLISHED = [
    published.INT8,
    published.INT8_BY_FOURS_543,
    published.INT5_861,
    *(make(bits) for make in (published.lite_549, published.lite_1009, published.amax_295) for bits in (4, 5, 6)),
    *(
        make(bits)
        for make in (published.train_549, published.train_910, published.train_295, published.train_543)
        for bits in (4, 5, 6)
    ),
    published.train_861(),
]

ints = st.builds(
    Int,
    bits=st.integers(2, 8),
    clip=st.sampled_from(CLIPS),
    per=st.sampled_from(["row", "tensor", 4]),
    floor=st.sampled_from([0.0, 0.01, 1 / 7]),
    scale=st.sampled_from(["float16", "bfloat16", "float32"]),
    extra_code=st.booleans(),
    round_with=st.sampled_from(["stored", "exact"]),
)
grids = st.one_of(
    ints, st.sampled_from(PUBLISHED), st.sampled_from([Keep(d) for d in ("float16", "bfloat16", "float32")])
)


@st.composite
def weights(draw: st.DrawFn, smallest: int = -9, largest: int = 4) -> Tensor:
    """Matrices whose rows differ by orders of magnitude; some rows all zero, sometimes one giant outlier."""
    rows, columns = draw(st.integers(1, 6)), 4 * draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    powers = torch.tensor(draw(st.lists(st.integers(smallest, largest), min_size=rows, max_size=rows))).float()
    w_RC = torch.randn(rows, columns, generator=generator) * 10.0 ** powers[:, None]
    if draw(st.booleans()):
        w_RC[draw(st.integers(0, rows - 1))] = 0.0
    if draw(st.booleans()):
        w_RC[0, 0] = 5e4
    return w_RC


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


# ---- one computation ----------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(grids, weights(largest=3))
def test_fake_is_decode_of_encode_to_the_bit(grid: Int | Keep, w_RC: Tensor) -> None:
    codes = grid.encode(w_RC)
    assert codes.codes.shape == w_RC.shape
    assert same_bits(grid.fake(w_RC), grid.decode(codes))
    assert bool(torch.isfinite(grid.decode(codes)).all())


@settings(max_examples=50, deadline=None)
@given(ints, weights())
def test_bfloat16_weights_are_quantized_in_float32_and_returned_in_bfloat16(grid: Int, w_RC: Tensor) -> None:
    w_RC = w_RC.bfloat16()
    assert torch.equal(grid.fake(w_RC), grid.decode(grid.encode(w_RC.float())).bfloat16())


@settings(max_examples=60, deadline=None)
@given(grids, weights(largest=3))
def test_gradient_of_fake_is_the_identity(grid: Int | Keep, w_RC: Tensor) -> None:
    w_RC = w_RC.clone().requires_grad_()
    upstream_grad = torch.randn_like(w_RC)
    grid.fake(w_RC).backward(upstream_grad)
    assert w_RC.grad is not None and torch.equal(w_RC.grad, upstream_grad)


COMPILED = [Int(6), Int(4, clip=StdDev(4.0), per=8), Int(8, clip=Search()), Keep()]


@pytest.mark.parametrize("grid", COMPILED)
def test_fake_compiles_whole_and_keeps_its_value(grid: Int | Keep) -> None:
    w_RC = torch.randn(16, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    compiled = torch.compile(grid.fake, fullgraph=True, backend="aot_eager", dynamic=False)
    out = compiled(w_RC)
    assert torch.equal(out, grid.decode(grid.encode(w_RC)))
    out.sum().backward()
    assert torch.equal(w_RC.grad, torch.ones_like(w_RC))


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_the_optimizing_compiler_cannot_drop_the_rounding_of_scales() -> None:
    """It drops `x.half().float()`: training would see float32 scales where the artifact holds float16."""
    w_RC = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    grids = [Int(6), Int(4, scale="bfloat16", per=8), Keep("float16")]

    def fakes(w_RC: Tensor) -> list[Tensor]:
        return [grid.fake(w_RC) for grid in grids]

    for out, grid in zip(torch.compile(fakes, fullgraph=True, dynamic=False)(w_RC), grids):
        assert torch.equal(out, grid.decode(grid.encode(w_RC)))


@settings(max_examples=60, deadline=None)
@given(weights(smallest=-12, largest=6), st.sampled_from(["float16", "bfloat16", "float32"]))
def test_rounding_on_the_bits_is_the_cast(w_RC: Tensor, dtype: str) -> None:
    ties_C = torch.tensor([0.0, -0.0, 65504.0, 65519.0, 65520.0, -65520.0, 2.0**-25, 3 * 2.0**-25, 2.0**-14, 6e-5])
    for x in (w_RC, ties_C, 1 + torch.arange(64) * 2.0**-13):
        assert same_bits(as_stored(x, dtype), x.to(getattr(torch, dtype)).float())


@settings(max_examples=60, deadline=None)
@given(weights(smallest=-2), st.integers(2, 8), st.sampled_from(["row", "tensor", 4]))
def test_round_under_the_grids_own_scales_gives_the_same_codes_as_encode(
    w_RC: Tensor, bits: int, per: str | int
) -> None:
    grid = Int(bits, per=per)
    codes, scales = grid.encode(w_RC), grid.scales(w_RC)
    assert same_bits(scales, codes.scales)
    spread = {"row": scales[:, None], "tensor": scales}.get(str(per))
    if spread is None:
        spread = scales.repeat_interleave(4, dim=1)
    assert torch.equal(grid.round(w_RC, scales=spread).to(torch.int8), codes.codes)


# ---- what a grid is -----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(ints, weights())
def test_codes_stay_in_range_and_scales_have_their_shape_and_dtype(grid: Int, w_RC: Tensor) -> None:
    codes = grid.encode(w_RC)
    assert codes.codes.dtype == torch.int8
    assert grid.low <= int(codes.codes.min()) and int(codes.codes.max()) <= grid.high
    assert grid.low == -grid.high - grid.extra_code
    rows, columns = w_RC.shape
    assert tuple(codes.scales.shape) == {"row": (rows,), "tensor": (1,), 4: (rows, columns // 4)}[grid.per]
    assert codes.scales.dtype == getattr(torch, grid.scale)
    assert bool((codes.scales > 0).all())


@settings(max_examples=60, deadline=None)
@given(
    weights(smallest=-2, largest=2),
    st.integers(2, 8),
    st.sampled_from(["row", "tensor", 4]),
    st.sampled_from(["float16", "float32"]),
)
def test_error_is_at_most_half_a_step_where_nothing_is_clipped(
    w_RC: Tensor, bits: int, per: str | int, scale: str
) -> None:
    grid = Int(bits, per=per, scale=scale)
    codes = grid.encode(w_RC)
    scale_NC = grid.decode(Codes(torch.ones_like(codes.codes), codes.scales))
    assert bool(((grid.decode(codes) - w_RC).abs() <= 0.5001 * scale_NC).all())


@settings(max_examples=60, deadline=None)
@given(weights(smallest=-2, largest=2), st.integers(2, 8), st.sampled_from(["row", "tensor", 4]))
def test_quantizing_a_quantized_tensor_changes_nothing(w_RC: Tensor, bits: int, per: str | int) -> None:
    """By amax the largest weight of a row has the largest code, so the same scale is found again."""
    grid = Int(bits, per=per)
    first = grid.encode(w_RC)
    again = grid.encode(grid.decode(first))
    assert torch.equal(first.codes, again.codes) and torch.equal(first.scales, again.scales)


@settings(max_examples=60, deadline=None)
@given(weights(), st.integers(2, 8), st.randoms(use_true_random=False))
def test_rows_are_quantized_apart_from_each_other(w_RC: Tensor, bits: int, random) -> None:
    order = list(range(len(w_RC)))
    random.shuffle(order)
    for clip in (Amax(), Percentile(0.999), Search(each="row"), StdDev(3.0)):
        grid = Int(bits, clip=clip)
        straight, shuffled = grid.encode(w_RC), grid.encode(w_RC[order])
        assert torch.equal(straight.codes[order], shuffled.codes)
        assert torch.equal(straight.scales[order], shuffled.scales)


@settings(max_examples=50, deadline=None)
@given(ints, st.integers(1, 5))
def test_zero_rows_give_zeros(grid: Int, rows: int) -> None:
    w_RC = torch.zeros(rows, 8)
    codes = grid.encode(w_RC)
    assert not codes.codes.any() and not grid.decode(codes).any() and not grid.fake(w_RC).any()


@settings(max_examples=50, deadline=None)
@given(weights(smallest=-2, largest=1), st.sampled_from([3, 4, 6]))
def test_a_search_per_row_is_never_worse_than_one_per_tensor_or_none(w_RC: Tensor, bits: int) -> None:
    def error(clip: Clip) -> float:
        grid = Int(bits, clip=clip)
        return float((grid.decode(grid.encode(w_RC)) - w_RC).double().square().sum())

    slack = 1 + 1e-5
    assert error(Search(each="row")) <= error(Search()) * slack
    assert error(Search()) <= error(Amax()) * slack


def test_a_giant_outlier_saturates_and_leaves_other_rows_alone() -> None:
    w_RC = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    spoiled_RC = w_RC.clone()
    spoiled_RC[2, 5] = 3e38
    clean, spoiled = Int(6).encode(w_RC), Int(6).encode(spoiled_RC)
    assert torch.equal(clean.codes[[0, 1, 3]], spoiled.codes[[0, 1, 3]])
    assert int(spoiled.codes[2, 5]) == 31 and bool(torch.isfinite(Int(6).fake(spoiled_RC)).all())


def test_std_clip_is_k_standard_deviations() -> None:
    w_RC = torch.randn(5, 512, generator=torch.Generator().manual_seed(2))
    scales = Int(6, clip=StdDev(12.85), scale="float32").encode(w_RC).scales
    assert torch.allclose(scales, 12.85 * w_RC.std(dim=1) / 31)
    assert torch.equal(Int(6, clip=StdDev(12.85)).encode(torch.full((2, 8), 0.5)).codes, torch.full((2, 8), 31).char())


def test_two_bits_with_the_mean_magnitude_are_the_ternary_grid() -> None:
    w_RC = torch.randn(3, 40, generator=torch.Generator().manual_seed(3))
    grid = Int(2, clip=MeanAbs(), per="tensor", scale="float32")
    mean = w_RC.abs().mean()
    assert torch.equal(grid.fake(w_RC), (w_RC / mean).round().clamp(-1, 1) * mean)


@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 3, 4)])
def test_every_shape_keeps_its_shape(shape: tuple[int, ...]) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    codes = Int(8).encode(w)
    assert codes.codes.shape == w.shape == Int(8).fake(w).shape
    assert tuple(codes.scales.shape) == ((shape[0],) if len(shape) > 1 else (1,))
    assert torch.allclose(Int(8).decode(codes), w, atol=float(codes.scales.max()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("grid", [Int(6), Keep(), published.INT8])
def test_weights_that_are_no_numbers_are_refused_at_encode_and_seen_after_fake(grid: Int | Keep, bad: float) -> None:
    w_RC = torch.ones(2, 8)
    w_RC[1, 3] = bad
    with pytest.raises(UserError, match="1 of 16 weights"):
        grid.encode(w_RC)
    assert not bool(torch.isfinite(grid.fake(w_RC)).all())


def test_unusable_settings_say_what_to_choose() -> None:
    for make, word in [
        (lambda: Int(9), "2 to 8"),
        (lambda: Int(1), "2 to 8"),
        (lambda: Int(6, per="column"), "row"),
        (lambda: Int(6, per=0), "number of columns"),
        (lambda: Int(6, scale="int8"), "float16"),
        (lambda: Int(6, floor=-1.0), "floor"),
        (lambda: Int(6, multiple=32), "multiple"),
        (lambda: Int(6, round_with="both"), "stored"),
        (lambda: Int(6, per=3).encode(torch.ones(2, 8)), "divisor"),
        (lambda: Int(6).encode(torch.ones(0, 8)), "no weights"),
        (lambda: Keep("float8"), "bfloat16"),
        (lambda: Keep().encode(torch.full((2,), 1e6)), "float32"),
        (lambda: Percentile(99.9), "fractions"),
        (lambda: Search(()), "fractions"),
        (lambda: Search(each="group"), "tensor"),
        (lambda: checked(Prune(1.0)), "below 1"),
    ]:
        with pytest.raises(UserError, match=word):
            make()


# ---- pruning ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.floats(0.0, 0.95), st.integers(0, 100))
def test_pruning_zeroes_the_smallest_fraction_and_nothing_else(fraction: float, seed: int) -> None:
    w_RC = torch.randn(20, 30, generator=torch.Generator().manual_seed(seed))
    pruned = Prune(fraction, larger_than=0).apply(w_RC)
    gone = pruned == 0
    assert abs(int(gone.sum()) - fraction * w_RC.numel()) <= 1
    assert torch.equal(pruned[~gone], w_RC[~gone])
    if gone.any():
        assert w_RC[gone].abs().max() < w_RC[~gone].abs().min()


def test_pruning_passes_over_vectors_and_small_matrices() -> None:
    small, vector, large = torch.randn(256, 256), torch.randn(70_000), torch.randn(257, 256)
    assert torch.equal(Prune(0.5).apply(small), small) and torch.equal(Prune(0.5).apply(vector), vector)
    assert int((Prune(0.5).apply(large) == 0).sum()) == 257 * 128


# ---- published systems --------------------------------------------------------------------------------------------

QUANTIZERS = load_file(GOLDEN / "quantizers.safetensors")


@pytest.mark.parametrize("key", sorted(k.removesuffix(".q") for k in QUANTIZERS if k.endswith(".q")))
def test_published_codes_and_scales_are_reproduced_to_the_bit(key: str) -> None:
    system, rule, tensor = key.split(".")
    options = {"gptq_lite": True} if rule == "gptq_lite" else {"bits": int(rule[-1])}
    codes, scales = upstream.quantize(system, QUANTIZERS[tensor], **options)
    assert same_bits(codes, QUANTIZERS[f"{key}.q"])
    assert same_bits(scales.float(), QUANTIZERS[f"{key}.scale"])


def test_quantize_refuses_what_was_never_published() -> None:
    for arguments, word in [
        (("pr9101",), "pr910"),
        (("pr861", 8), "It has: 5"),
        (("pr910", 3), "4, 5, 6, 8"),
        (("baseline", 8, True), "pr543"),
    ]:
        with pytest.raises(UserError, match=word):
            upstream.quantize(
                arguments[0],
                torch.ones(2, 2),
                **dict(zip(("bits", "gptq_lite"), arguments[1:])),  # type: ignore[arg-type]
            )


def test_a_scale_floor_collapses_small_rows_and_ours_does_not() -> None:
    """Pull request 910's fault: a weight range of .1 has three int4 values left, and training never saw it."""
    w_RC = 0.2 * torch.rand(64, 256, generator=torch.Generator().manual_seed(5)) - 0.1
    exported, trained = published.lite_549(4), published.train_910(4)
    assert exported.encode(w_RC).codes.unique().tolist() == [-1, 0, 1]
    assert len(trained.encode(w_RC).codes.unique()) >= 15
    assert len(Int(4).encode(w_RC).codes.unique()) == 15
    lost = (exported.fake(w_RC) - w_RC).square().mean() / (Int(4).fake(w_RC) - w_RC).square().mean()
    assert lost > 40


def straight_through_as_published(system: str, w: Tensor, c: int) -> Tensor:
    """Each script's own formula, written out."""
    m = w.abs().amax(dim=1, keepdim=True)
    scale, low = {
        "pr549": ((m / c).clamp_min(1 / c), -c - 1),
        "pr910": (m.clamp_min(1e-12) / c, -c - 1),
        "pr543": (m.clamp_min(1e-8) / c, -c),
        "pr295": (m.clamp_min(1e-12) / c, -c),
        "pr861": ((m / c).clamp_min(1 / c), -c),
    }[system]
    return w + (torch.clamp(torch.round(w / scale), low, c) * scale - w)


@pytest.mark.parametrize(
    ("system", "grid"),
    [
        ("pr549", published.train_549()),
        *(("pr910", published.train_910(bits)) for bits in (4, 5, 6)),
        ("pr543", published.train_543()),
        *(("pr295", published.train_295(bits)) for bits in (5, 6)),
        ("pr861", published.train_861()),
    ],
)
def test_straight_through_values_are_the_published_ones(system: str, grid: Int) -> None:
    w_RC = QUANTIZERS["w"]
    expected = straight_through_as_published(system, w_RC, grid.high)
    assert torch.allclose(grid.fake(w_RC), expected, rtol=1e-6, atol=1e-9)


# ---- whole state dicts, filled by formula -------------------------------------------------------------------------

Rules = dict[str, Int]


def fill(j: int, start: int, shape: tuple[int, int], *, amp: float, power: int) -> Tensor:
    """Elements `start` and on of the j-th tensor of the deterministic fill (32-bit integer hash of i and j)."""
    i = np.arange(start, start + shape[0] * shape[1], dtype=np.uint64)
    mask = np.uint64(2**32 - 1)
    h = (i * np.uint64(2654435761) + np.uint64((j + 1) * 2246822519 % 2**32)) & mask
    h ^= h >> np.uint64(15)
    h = (h * np.uint64(2246822519)) & mask
    h ^= h >> np.uint64(13)
    h = (h * np.uint64(3266489917)) & mask
    h ^= h >> np.uint64(16)
    x = 2.0 * (h / 2.0**32) - 1.0
    return torch.from_numpy((amp * np.sign(x) * np.abs(x) ** power).astype(np.float32)).reshape(shape)


BANKS = {
    **{f"attn.{name}": ("qo_bank", half, (512, 512)) for name, half in (("c_q", 0), ("proj", 1))},
    **{f"attn.{name}": ("kv_bank", half, (256, 512)) for name, half in (("c_k", 0), ("c_v", 1))},
    "mlp.fc": ("mlp_up_bank", 0, (1536, 512)),
    "mlp.proj": ("mlp_down_bank", 0, (512, 1536)),
}
SHAPES = {
    "tok_emb.weight": (1024, 512),
    "ve_shared.embed.weight": (1024, 128),
    "ve.embed.weight": (1024, 128),
    "bigram.proj.weight": (512, 128),
    "ve_shared.proj.weight": (256, 128),
}
BIGRAMS = {"549": 1536, "910": 2048, "1009": 10240, "295": 10240, "861": 4096}
HIDDEN = {"baseline": 1024, "543": 1408}


def shape_of(system: str, name: str) -> tuple[int, int]:
    if name in SHAPES:
        return SHAPES[name]
    if ".embed." in name:
        return BIGRAMS[system], 128
    hidden = HIDDEN.get(system, 1536)
    if ".mlp." in name:
        return (512, hidden) if "proj" in name and "up_proj" not in name else (hidden, 512)
    return (512 if system == "861" or "c_q" in name or ".proj" in name else 256), 512


def weight(system: str, module_names: list[str], name: str, *, amp: float, power: int) -> Tensor:
    """The tensor `name` under the export's names; 549 and 910 cut it from a bank."""
    if system in ("549", "910") and name.startswith("blocks."):
        _, layer, kind = name.removesuffix(".weight").split(".", 2)
        bank, half, shape = BANKS[kind]
        start = (3 * half + int(layer)) * shape[0] * shape[1]
        return fill(module_names.index(bank), start, shape, amp=amp, power=power)
    return fill(module_names.index(name), 0, shape_of(system, name), amp=amp, power=power)


def grid_of(system: str, name: str) -> Int:
    """Which grid the system's script gave this tensor."""
    mlp, attention = ".mlp." in name, ".attn." in name
    if system == "861":
        return published.INT5_861
    if system == "543":
        fourths = name.startswith(("blocks.1.", "blocks.2."))
        return published.INT8_BY_FOURS_543 if fourths else published.INT8_SEARCHED_543
    if system == "295":
        return published.amax_295(5 if mlp else 6)
    if system in ("549", "910") and (mlp or attention):
        return published.lite_549(4 if mlp and system == "910" else 6)
    if system == "1009" and not name.startswith("ve_shared.embed"):
        return published.lite_1009(4 if mlp or name.startswith("bigram") else 6)
    return published.INT8


def digest_cases() -> Iterator[tuple[str, str]]:
    """One block of every system and all its tables, smaller than the largest; both fills are checked for each."""
    for system in ("baseline", "549", "910", "1009", "543", "295", "861"):
        names = json.loads((GOLDEN / "tiny" / f"{system}.json").read_text())["quant"]["A"]
        block = ("blocks.0.attn.c_v", "blocks.1.attn.c_q", "blocks.2.attn.proj", "blocks.1.mlp.fc", "blocks.2.mlp.down")
        for name in names:
            if name.startswith(block) or (not name.startswith("blocks.") and "bigram.embed" not in name):
                yield system, name


@pytest.mark.parametrize(("system", "name"), list(digest_cases()))
def test_quantized_state_dicts_have_the_published_digests(system: str, name: str) -> None:
    quant = json.loads((GOLDEN / "tiny" / f"{system}.json").read_text())["quant"]
    names = {*quant["A"], *quant["A_pass"]}
    if system in ("549", "910"):
        names = {n for n in names if not (n.startswith("blocks.") and n.endswith(".weight"))}
        names |= {bank for bank, _, _ in BANKS.values()}
    for fill_name, amp, power in (("A", 0.1, 1), ("B", 2.5, 7)):
        expected = quant[fill_name][name]
        codes = grid_of(system, name).encode(weight(system, sorted(names), name, amp=amp, power=power))
        digests = [hashlib.sha256(t.numpy().tobytes()).hexdigest()[:16] for t in (codes.codes, codes.scales)]
        assert [int(codes.codes.min()), int(codes.codes.max())] == [expected["min"], expected["max"]]
        assert digests == [expected["sha"], expected["ssha"]]


def test_grids_are_data_that_compare_and_change() -> None:
    assert replace(Int(6), bits=4) == Int(4) != Int(4, extra_code=True)
    assert Int(8, clip=Percentile(0.9999984), floor=1 / 127, round_with="exact") == published.INT8
