"""The seven published systems, as read from their own state dicts, agree with the numbers that they printed.

Golden files: two shapes per system with random weights (`SYSTEM_v0`, `SYSTEM_v1`), a tiny one each filled by a formula,
and unit values (rotations, hashes, initial norms). Tolerances: logits and losses 1e-5, gradient norms 1e-4 relative.
"""

import json
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pargolf.core.errors import UserError
from pargolf.core.roles import matches
from pargolf.core.spec import dump
from pargolf.core.spec import load as load_spec
from pargolf.kernels.rms_norm import rms_norm
from pargolf.model.bigram import BigramHash, BigramMix, TrigramHash
from pargolf.model.init import FanIn, Normal, Orthogonal, Spectrum, Zeros, generator_for
from pargolf.model.rope import Rope
from pargolf.model.slots import Context
from pargolf.model.transformer import Transformer
from pargolf.quant.grid import Grid
from pargolf.quant.published import train_295, train_543, train_549, train_861, train_910
from pargolf.upstream import load
from pargolf.upstream.state_dicts import SYSTEMS, Origin, find_origins, rename

GOLDEN = Path(__file__).parent / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
QAT = json.loads((GOLDEN / "qat.json").read_text())
CASES = [name.removesuffix(".safetensors") for name in MANIFEST]
TINY = {"heads": 4, "kv_heads": 2, "rope_dims": 8, "xsa": 2, "ve_layers": (2, 3), "train_seq_len": 64}


@cache
def published(case: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{case}.safetensors")


def state_of(case: str) -> dict[str, Tensor]:
    return {k.removeprefix("state."): v for k, v in published(case).items() if k.startswith("state.")}


def config_of(case: str) -> dict:
    return MANIFEST[f"{case}.safetensors"]["config"]


def system_of(case: str) -> str:
    return case.split("_")[0]


def read(case: str) -> tuple[Transformer, Tensor, Tensor]:
    tokens = published(case)["tokens"].long()
    return load(system_of(case), state_of(case), **config_of(case)), tokens[:, :-1], tokens[:, 1:]


@cache
def tiny(system: str) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    archive = np.load(GOLDEN / "tiny" / f"{system.removeprefix('pr')}_tiny.npz", allow_pickle=False)
    state = {k.removeprefix("sd."): torch.from_numpy(archive[k]) for k in archive.files if k.startswith("sd.")}
    return state, {k: archive[k] for k in archive.files if not k.startswith("sd.")}


def gradient_norms(model: nn.Module, origins: dict[str, Origin]) -> dict[str, float]:
    """Norms under the published names; the slices of a stack count together."""
    squares: dict[str, float] = {}
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        source = origins[name].name
        squares[source] = squares.get(source, 0.0) + float(p.grad.double().square().sum())
    return {name: square**0.5 for name, square in squares.items()}


def origins_of(case: str) -> dict[str, Origin]:
    return find_origins(system_of(case), state_of(case), ve_layers=config_of(case)["ve_layers"])


def lcg(seed: int, n: int, vocab: int) -> Tensor:
    """The published filler of token sequences."""
    tokens = []
    for _ in range(n):
        seed = (1103515245 * seed + 12345) % 2**31
        tokens.append((seed >> 8) % vocab)
    return torch.tensor(tokens)


# --- the seven systems at two shapes ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_logits_agree_with_the_original(case: str) -> None:
    model, x, _ = read(case)
    torch.testing.assert_close(model(x), published(case)["logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_norms_agree_with_the_original(case: str) -> None:
    model, x, y = read(case)
    loss = model.train().loss(x, y)
    loss.backward()
    golden = MANIFEST[f"{case}.safetensors"]
    assert loss.item() == pytest.approx(golden["loss"], abs=1e-5)
    assert gradient_norms(model, origins_of(case)) == pytest.approx(golden["grad_norms"], rel=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_every_published_parameter_is_ours_but_those_never_read(case: str) -> None:
    model, _, _ = read(case)
    read_names = {origin.name for origin in origins_of(case).values()}
    never_read = {name: t for name, t in state_of(case).items() if name not in read_names}
    layers, late = config_of(case)["layers"], config_of(case)["ve_layers"]
    idle = [f"ve_scales.{i}" for i in range(layers) if i not in late] if system_of(case) == "pr543" else []
    assert sorted(never_read) == idle
    ours = sum(p.numel() for p in model.parameters()) + sum(t.numel() for t in never_read.values())
    assert ours == MANIFEST[f"{case}.safetensors"]["num_params"]


@pytest.mark.parametrize("case", CASES)
def test_renaming_keeps_every_number(case: str) -> None:
    renamed = rename(system_of(case), state_of(case), ve_layers=config_of(case)["ve_layers"])
    for ours, origin in origins_of(case).items():
        whole = state_of(case)[origin.name]
        torch.testing.assert_close(renamed[ours], whole if origin.index is None else whole[origin.index])


@pytest.mark.parametrize("case", CASES)
def test_the_loaded_spec_is_data(case: str) -> None:
    spec = read(case)[0].spec
    assert load_spec(json.loads(json.dumps(dump(spec)))) == spec


# --- fake quantization in training, each system's own -------------------------------------------------------------

ATTENTION = "attn.[qkvo]*"
FAKES: dict[str, list[tuple[str, Grid]]] = {
    # The class-wide flag of 549 reaches only what is no bank.
    "pr549": [("embed.bigram.proj", train_549()), ("shared.*.proj", train_549()), ("head.own", train_549())],
    "pr910": [
        ("embed.bigram.proj", train_549()),
        ("shared.*.proj", train_549()),
        ("head.own", train_549()),
        (ATTENTION, train_910(6)),
        ("mlp.*", train_910(4)),
    ],
    "pr1009": [
        ("embed.bigram.*", train_910(4)),
        ("shared.*.proj", train_910(6)),
        ("head.own", train_910(6)),
        (ATTENTION, train_910(6)),
        ("mlp.*", train_910(4)),
    ],
    "pr543": [(glob, train_543()) for glob in ("shared.*.proj", "head.own", ATTENTION, "mlp.*")],
    "pr295": [
        ("embed.bigram.proj", train_295(6)),
        ("head.own", train_295(6)),
        (ATTENTION, train_295(6)),
        ("mlp.*", train_295(5)),
    ],
    "pr861": [(glob, train_861()) for glob in ("embed.bigram.proj", "shared.*.proj", "head.own", ATTENTION, "mlp.*")],
}


class Loss(nn.Module):
    """`model.loss` as a forward pass, so that its weights can be swapped."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.model.loss(x, y)


def faked(model: Transformer, system: str) -> dict[str, Tensor]:
    """Each matrix on the grid that training saw."""
    out = {}
    for name, p in model.named_parameters():
        grid = next((grid for glob, grid in FAKES[system] if matches(name, glob) and p.ndim == 2), None)
        if grid is not None:
            out[name] = grid.fake(p)
    return out


def loss_on_grids(model: Transformer, system: str, x: Tensor, y: Tensor) -> Tensor:
    weights = {f"model.{name}": w for name, w in faked(model, system).items()}
    loss: Tensor = torch.func.functional_call(Loss(model), weights, (x, y))
    return loss


@pytest.mark.parametrize("case", QAT)
def test_fake_quantization_agrees_with_the_original(case: str) -> None:
    model, x, y = read(case)
    loss = loss_on_grids(model, system_of(case), x, y)
    loss.backward()
    logits = torch.func.functional_call(model, faked(model, system_of(case)), (x,))
    assert loss.item() == pytest.approx(QAT[case]["loss"], abs=1e-5)
    assert logits.double().sum().item() == pytest.approx(QAT[case]["logits_sum"], abs=1e-2)
    assert logits.abs().mean().item() == pytest.approx(QAT[case]["logits_abs_mean"], abs=1e-5)
    assert gradient_norms(model, origins_of(case)) == pytest.approx(QAT[case]["grad_norms"], rel=1e-4)


# --- the tiny systems, filled by a formula ------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_tiny_logits_and_loss_agree(system: str) -> None:
    state, golden = tiny(system)
    model = load(system, state, **TINY)
    x, y = torch.from_numpy(golden["x"]), torch.from_numpy(golden["y"])
    torch.testing.assert_close(model(x), torch.from_numpy(golden["logits"]), atol=1e-5, rtol=0)
    assert model.loss(x, y).item() == pytest.approx(float(golden["loss"]), abs=1e-5)


@pytest.mark.parametrize("system", FAKES)
def test_tiny_fake_quantized_loss_agrees(system: str) -> None:
    state, golden = tiny(system)
    model = load(system, state, **TINY)
    loss = loss_on_grids(model, system, torch.from_numpy(golden["x"]), torch.from_numpy(golden["y"]))
    assert loss.item() == pytest.approx(float(golden["qat_train_loss"]), abs=1e-5)


def test_549_rescales_its_rotation_past_1024_tokens() -> None:
    model = load("pr549", tiny("pr549")[0], **TINY)
    x, y = lcg(12345, 1100, 64)[None], lcg(999, 1100, 64)[None]
    assert model.loss(x, y).item() == pytest.approx(5.020442, abs=1e-5)


# --- the published sizes ------------------------------------------------------------------------------------------


def shapes_of(
    system: str,
    *,
    layers: int,
    hidden: int,
    bigram: int = 0,
    late: int = 0,
    kv: int = 256,
    vocab: int = 1024,
    dim: int = 512,
) -> dict[str, tuple[int, ...]]:
    """The published names and shapes at full size; `late` layers add a value embedding."""
    shapes: dict[str, tuple[int, ...]] = {"tok_emb.weight": (vocab, dim), "skip_weights": (layers // 2, dim)}
    for i in range(layers):
        block = f"blocks.{i}."
        shapes |= {block + "attn_scale": (dim,), block + "mlp_scale": (dim,), block + "resid_mix": (2, dim)}
        shapes |= {block + "attn.q_gain": (8,)}
        if system not in ("pr549", "pr910"):
            up, down = ("up_proj", "down_proj") if system == "pr861" else ("fc", "proj")
            shapes |= {f"{block}attn.c_q.weight": (dim, dim), f"{block}attn.proj.weight": (dim, dim)}
            shapes |= {f"{block}attn.c_k.weight": (kv, dim), f"{block}attn.c_v.weight": (kv, dim)}
            shapes |= {f"{block}mlp.{up}.weight": (hidden, dim), f"{block}mlp.{down}.weight": (dim, hidden)}
        if system == "pr861":
            shapes |= {block + "mlp.scale": (hidden,), block + "mlp.bias": (hidden,)}
    if system in ("pr549", "pr910"):
        shapes |= {"qo_bank": (2 * layers, dim, dim), "kv_bank": (2 * layers, kv, dim)}
        shapes |= {"mlp_up_bank": (layers, hidden, dim), "mlp_down_bank": (layers, dim, hidden)}
    if system == "pr543":
        shapes |= {"smear_gate.gate_weight": (1, 1, dim), "ve.embed.weight": (vocab, 128), "ve.proj.weight": (kv, 128)}
        shapes |= {f"ve_scales.{i}": () for i in range(layers)}
    elif system == "pr861":
        shapes |= {"smear_gate.gate": (dim,), "skip_gates": (layers // 2, dim)}
        shapes |= {"bigram_emb.embed.weight": (bigram, 128), "bigram_emb.proj.weight": (dim, 128)}
    elif system != "baseline":
        shapes |= {"smear.gate": (dim,), "bigram.scale": ()}
        shapes |= {"bigram.embed.weight": (bigram, 128), "bigram.proj.weight": (dim, 128)}
    if system == "pr295":
        shapes |= {"backout_lambda": (1,)}
    if late and system != "pr543":
        shapes |= {"ve_shared.embed.weight": (vocab, 128), "ve_shared.proj.weight": (kv, 128), "ve_shared.scale": ()}
        shapes |= {f"ve_layer_scales.{i}": (1,) for i in range(late)}
    return shapes


RUN_549 = {"layers": 11, "hidden": 1536, "bigram": 1536, "late": 2}
RUN_861 = {"layers": 11, "hidden": 1536, "bigram": 4096, "late": 2, "kv": 512}
SIZES = [
    ("baseline", {"layers": 9, "hidden": 1024}, 17_059_912),
    ("pr549", RUN_549, 26_928_220),
    ("pr549", RUN_549 | {"bigram": 2048}, 26_993_756),
    ("pr910", {"layers": 12, "hidden": 1536, "bigram": 2048, "late": 2}, 29_355_620),
    ("pr1009", {"layers": 10, "hidden": 1536, "bigram": 10240}, 25_517_137),
    ("pr1009", {"layers": 12, "hidden": 1536, "bigram": 10240, "late": 2}, 30_404_196),
    ("pr543", {"layers": 11, "hidden": 1408, "late": 2}, 25_224_291),
    ("pr543", {"layers": 11, "hidden": 1536, "late": 2}, 26_666_083),
    ("pr295", {"layers": 10, "hidden": 1536, "bigram": 10240}, 25_517_138),
    ("pr861", RUN_861, 30_208_603),
    ("pr861", RUN_861 | {"hidden": 1792, "bigram": 8192}, 33_622_107),
]


@pytest.mark.parametrize(("system", "size", "count"), SIZES, ids=lambda v: str(v) if isinstance(v, str | int) else "")
def test_full_size_parameter_counts(system: str, size: dict, count: int) -> None:
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in shapes_of(system, **size).items()}
        late = range(size["layers"] - 2, size["layers"])
        model = load(system, state, heads=8, kv_heads=size.get("kv", 256) // 64, rope_dims=16, xsa=4, ve_layers=late)
    never_read = size["layers"] - 2 if system == "pr543" else 0
    assert sum(t.numel() for t in state.values()) == count
    assert sum(p.numel() for p in model.parameters()) + never_read == count


def fill(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The published filler of state dicts: a hash of the tensor's rank in the alphabet and the element's place."""
    state = {}
    for j, name in enumerate(sorted(shapes)):
        h = np.arange(math.prod(shapes[name]), dtype=np.uint32) * np.uint32(2654435761)
        h += np.uint32((j + 1) * 2246822519 % 2**32)
        h ^= h >> np.uint32(15)
        h *= np.uint32(2246822519)
        h ^= h >> np.uint32(13)
        h *= np.uint32(3266489917)
        h ^= h >> np.uint32(16)
        x = 0.1 * (2 * (h / 2**32) - 1)
        if len(shapes[name]) < 2 or re.search("resid_mix|skip_weight|skip_gates|gate_weight", name):
            x += 0.5 if "resid_mix" in name else 1.0 if re.search("scale|q_gain|skip_weight", name) else 0.0
        state[name] = torch.from_numpy(x.astype(np.float32).reshape(shapes[name]))
    return state


@pytest.mark.parametrize(
    ("row", "late", "loss", "first_logits"),
    [
        (0, (), 8.723013, [0.27235, 0.02848, -0.06362, -1.54622]),
        (1, (9, 10), 9.984391, [0.11848, 0.56176, 2.73112, 1.47197]),
        (3, (9, 10), 8.232596, [-1.21518, 1.59205, -1.17774, -0.60898]),
        (5, (10, 11), 8.324623, [-0.55021, 1.52471, -1.26056, -0.29612]),
        (6, (9, 10), 11.200837, [0.80616, 0.92864, 1.19607, 1.68989]),
        (8, (), 7.600612, [-0.14751, 0.433, -0.59975, 1.70503]),
        (9, (9, 10), 10.789557, [0.88973, 2.50115, -0.52544, 0.72831]),
    ],
    ids=lambda v: SIZES[v][0] if isinstance(v, int) else "",
)
def test_full_size_loss_agrees(row: int, late: tuple[int, ...], loss: float, first_logits: list[float]) -> None:
    system, size, _ = SIZES[row]
    kv_heads = size.get("kv", 256) // 64
    model = load(
        system, fill(shapes_of(system, **size)), heads=8, kv_heads=kv_heads, rope_dims=16, xsa=4, ve_layers=late
    )
    x, y = lcg(12345, 64, 1024).view(2, 32), lcg(999, 64, 1024).view(2, 32)
    assert model(x)[0, 0, :4].tolist() == pytest.approx(first_logits, abs=2e-5)
    assert model.loss(x, y).item() == pytest.approx(loss, abs=1e-5)


# --- unit values --------------------------------------------------------------------------------------------------

SEQUENCE = torch.tensor([[0, 1, 2, 1023, 1023, 0, 512, 7]])


@pytest.mark.parametrize(
    ("technique", "buckets"),
    [
        (BigramHash(1536), [1535, 1008, 962, 686, 121, 658, 336, 226]),
        (BigramHash(2048), [2047, 1514, 435, 274, 977, 1757, 1402, 484]),
        (BigramHash(10240), [10239, 5596, 2446, 8303, 1817, 7269, 8471, 7250]),
        (TrigramHash(4096), [4095, 4095, 2767, 2746, 3581, 476, 2752, 3188]),
        (BigramMix(4096), [0, 1, 1011, 3041, 1038, 15, 512, 519]),
    ],
)
def test_hashes(technique: BigramHash | BigramMix | TrigramHash, buckets: list[int]) -> None:
    assert technique.hash(Context(SEQUENCE)).tolist() == [buckets]


@pytest.mark.parametrize(
    ("rope", "length", "cos_sum", "sin_sum"),
    [
        (Rope(16, ntk_from=1024), 1024, 1795.761908, 1475.841491),
        (Rope(16, ntk_from=1024), 1025, 1797.182385, None),
        (Rope(16, ntk_from=1024), 2048, 3374.407955, 2427.703831),
        (Rope(), 2048, 13393.916393, None),
    ],
)
def test_rotations(rope: Rope, length: int, cos_sum: float, sin_sum: float | None) -> None:
    cos, sin = rope.angles(length, 64, torch.device("cpu"))
    assert cos.double().sum().item() == pytest.approx(cos_sum, abs=2e-4)
    assert sin_sum is None or sin.double().sum().item() == pytest.approx(sin_sum, abs=2e-4)


def test_rotation_of_the_last_of_2048_positions() -> None:
    cos, _ = Rope(16, ntk_from=1024).angles(2048, 64, torch.device("cpu"))
    golden = [0.249715, -0.374958, -0.151978, -0.563919, 0.354031, -0.693935, 0.426628, 0.948078]
    assert cos[-1].flatten().tolist() == pytest.approx(golden, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_of_a_small_constant(dtype: torch.dtype) -> None:
    x = torch.full((64,), 1e-3, dtype=dtype)
    assert rms_norm(x).mean().item() == pytest.approx(0.94524, abs=3e-3 if dtype == torch.bfloat16 else 2e-5)


@pytest.mark.parametrize(
    ("init", "shape", "norm"),
    [
        (Orthogonal(), (512, 512), 22.627),
        (Orthogonal(), (256, 512), 16.0),
        (Orthogonal(), (1536, 512), 22.627),
        (Orthogonal(), (10240, 128), 11.3137),
        (Orthogonal(), (512, 128), 11.3137),
        (Orthogonal(depth_scaled=True), (512, 128), 2.3094),
        (Zeros(), (512, 128), 0.0),
    ],
)
def test_initial_norms(init: Orthogonal | Zeros, shape: tuple[int, int], norm: float) -> None:
    w = init(torch.Size(shape), generator_for("w", 0), 12)
    assert w.shape == shape
    assert w.norm().item() == pytest.approx(norm, abs=1e-3)


def test_orthogonal_rows_or_columns_are_orthonormal() -> None:
    for rows, cols in ((24, 40), (40, 24)):
        w = Orthogonal()(torch.Size((rows, cols)), generator_for("w", 1), 4)
        gram = w @ w.T if rows < cols else w.T @ w
        torch.testing.assert_close(gram, torch.eye(24), atol=1e-5, rtol=0)


def test_spectrum_falls_as_one_over_the_root_of_rank() -> None:
    w = Spectrum(0.005)(torch.Size((128, 64)), generator_for("w", 0), 10)
    s = torch.linalg.svdvals(w)
    torch.testing.assert_close(s[0] / s, torch.arange(1, 65).sqrt(), atol=1e-3, rtol=1e-3)
    assert (s[0] / s[3]).item() == pytest.approx(2.0, abs=1e-4)


def test_random_starts_have_their_spread() -> None:
    uniform = FanIn()(torch.Size((300, 400)), generator_for("w", 0), 1)
    assert uniform.abs().max() <= 0.05
    assert uniform.std().item() == pytest.approx(0.05 / math.sqrt(3), rel=0.02)
    assert Normal(0.01)(torch.Size((300, 400)), generator_for("w", 0), 1).std().item() == pytest.approx(0.01, rel=0.02)


def test_a_fresh_model_predicts_every_token_alike() -> None:
    spec = load("baseline", tiny("baseline")[0], **TINY).spec
    init = (("attn.out", Zeros()), ("mlp.down", Zeros()), ("embed.tokens", Normal(0.005)), ("*", FanIn()))
    model = load_spec(dump(spec) | {"init": dump(init)}).build(seed=3)
    x, y = lcg(1, 64, 64)[None], lcg(2, 64, 64)[None]
    assert model.loss(x, y).item() == pytest.approx(math.log(64), abs=0.02)


# --- what is off in 549, and what does not fit --------------------------------------------------------------------


def with_everything(values: float, *, blend: tuple[float, float], seed: int = 0) -> dict[str, Tensor]:
    """The tiny 549 with its four switched-off techniques; `values` is the bias of both gates."""
    generator = torch.Generator().manual_seed(seed)
    state = dict(tiny("pr549")[0])
    for i in range(4):
        state[f"blocks.{i}.dtg_gate.weight"] = torch.zeros(1, 64)
        state[f"blocks.{i}.dtg_gate.bias"] = torch.full((1,), values)
        state[f"blocks.{i}.attn.attn_gate.weight"] = torch.zeros(4, 64)
        state[f"blocks.{i}.attn.attn_gate.bias"] = torch.full((4,), values)
        state[f"blocks.{i}.attn.vr_lambda"] = torch.tensor(blend)
    state["mtp_heads.0.weight"] = torch.empty(64, 64).normal_(0, 0.1, generator=generator)
    return state


def test_techniques_that_are_off_in_549_can_be_read() -> None:
    golden = tiny("pr549")[1]
    x, y = torch.from_numpy(golden["x"]), torch.from_numpy(golden["y"])
    plain = load("pr549", tiny("pr549")[0], **TINY)
    open_gates = load("pr549", with_everything(50.0, blend=(0.0, 1.0)), **TINY)
    torch.testing.assert_close(open_gates(x), plain(x), atol=1e-5, rtol=0)
    assert open_gates.loss(x, y) > plain.loss(x, y) + 0.1
    for other in (with_everything(1.0, blend=(0.0, 1.0)), with_everything(50.0, blend=(0.5, 0.5))):
        assert (load("pr549", other, **TINY)(x) - plain(x)).abs().max() > 1e-3


def test_unbanked_549_is_the_same_model() -> None:
    banked = tiny("pr549")[0]
    state = {name: w for name, w in banked.items() if not name.endswith("_bank")}
    for i in range(4):
        state |= {f"blocks.{i}.attn.c_q.weight": banked["qo_bank"][i]}
        state |= {f"blocks.{i}.attn.proj.weight": banked["qo_bank"][4 + i]}
        state |= {f"blocks.{i}.attn.c_k.weight": banked["kv_bank"][i]}
        state |= {f"blocks.{i}.attn.c_v.weight": banked["kv_bank"][4 + i]}
        state |= {f"blocks.{i}.mlp.fc.weight": banked["mlp_up_bank"][i]}
        state |= {f"blocks.{i}.mlp.proj.weight": banked["mlp_down_bank"][i]}
    x = torch.from_numpy(tiny("pr549")[1]["x"])
    assert torch.equal(load("pr549", state, **TINY)(x), load("pr549", banked, **TINY)(x))


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_missing_tensor_is_named(system: str) -> None:
    for name in tiny(system)[0]:
        state = {k: v for k, v in tiny(system)[0].items() if k != name}
        if name in ("ve_scales.0", "ve_scales.1"):
            load(system, state, **TINY)  # the script never reads them either
            continue
        with pytest.raises(UserError) as caught:
            load(system, state, **TINY)
        assert re.sub(r"(ve_layer_scales)\.\d", r"\1.*", name) in str(caught.value)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_tensor_of_another_shape_is_named(system: str) -> None:
    for name, w in tiny(system)[0].items():
        state = tiny(system)[0] | {name: torch.zeros(*w.shape[:-1], (w.shape or (1,))[-1] + 2)}
        if name in ("ve_scales.0", "ve_scales.1"):
            continue
        with pytest.raises(UserError):
            load(system, state, **TINY)


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_unexpected_tensor_is_named(system: str) -> None:
    for name in ("blocks.0.attn.c_z.weight", "optimizer.step"):
        with pytest.raises(UserError, match=name):
            load(system, tiny(system)[0] | {name: torch.zeros(3)}, **TINY)
    with pytest.raises(UserError, match=r"lm_head\.weight"):
        load(system, tiny(system)[0] | {"lm_head.weight": torch.zeros(64, 64)}, **TINY)


def test_wrong_settings_say_what_to_pass() -> None:
    state = tiny("pr1009")[0]
    with pytest.raises(UserError, match="pr1009"):
        load("pr1010", state, **TINY)
    with pytest.raises(UserError, match="heads="):
        load("pr1009", state, **TINY | {"heads": 5})
    with pytest.raises(UserError, match="kv_heads="):
        load("pr1009", state, **TINY | {"kv_heads": 4})
    with pytest.raises(UserError, match="rope_dims"):
        load("pr1009", state, **TINY | {"rope_dims": 32})
    with pytest.raises(UserError, match="ve_layers="):
        load("pr1009", state, **TINY | {"ve_layers": [3]})
    with pytest.raises(UserError, match="tok_emb"):
        load("pr1009", {}, **TINY)
    with pytest.raises(UserError, match="bigram_emb"):
        load("pr1009", tiny("pr861")[0], **TINY)
