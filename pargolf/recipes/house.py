"""Ours: a small model for minutes of two CPU cores and 1,000,000 bytes, and why each row of it is there.

Source: this project. Adaptation: score-first Adam over all weights, and n-grams learned as the text goes by.
Where seconds and text are few, what counts is text seen, in mixed order, and that the model cannot learn it by heart:

- 4,096 pieces and not 1,024 spell the same text in a third fewer tokens, which pays for the larger head.
- Matrix products take bfloat16 factors where the processor multiplies them (`half`).
- Four blocks and a batch half the baseline's take more steps; shuffled windows show every period of the
  corpus from the start, where the published order shows the oldest texts alone.
- The bytes go to width and not to tables: a narrower model with hashed bigrams and value embeddings is ahead in the
  first minutes, and behind after half an hour, six times through the text.
- Nothing joins blocks but the stream: with U-Net skips and x0 mixing it was behind, and their code takes bytes.
- The embedding's Adam has a low rate and remembers squared gradients for 100 steps, as a batch of 2,048 tokens holds
  few of the pieces.
- The head starts at the tokens' log frequencies, so no step is spent on learning those.
- Packing fills the cap, so the grids below are only where it begins.

The worth of each row was measured at this scale only: `pargolf describe house` prints it next to the rows, and
docs/recipes.md discusses it, including what lost. `pargolf ablate house` removes each part in turn, and tries each
addition (`+`). Attention does not cross documents.
"""

from typing import Any

from pargolf.core.budget import Budget
from pargolf.data.stream import Sequential, Shuffled, Strided
from pargolf.evaluate.adapters.count_mix import CountMix
from pargolf.evaluate.adapters.count_tilt import CountTilt
from pargolf.evaluate.adapters.online import Online
from pargolf.evaluate.windows import Plain, Sliding
from pargolf.model.activations import leaky_relu2, relu2
from pargolf.model.asymmetric_cap import AsymmetricCap
from pargolf.model.attention import Attention
from pargolf.model.bigram import BigramHash
from pargolf.model.dropout import Dropout
from pargolf.model.gates import GatedAttention, HeadGate
from pargolf.model.graph import Backout, Gated, UNet, X0Mix, looped
from pargolf.model.head import Head
from pargolf.model.init import FanIn, Normal, Zeros
from pargolf.model.mlp import MLP
from pargolf.model.norm import depth_rsqrt
from pargolf.model.residual import Parallel, TwoLanes
from pargolf.model.smear import SmearGate
from pargolf.model.transformer import Block, Model
from pargolf.model.value_embed import AddValueEmbed, ValueEmbed
from pargolf.model.xsa import XSA
from pargolf.quant.awq import AWQ
from pargolf.quant.clip import HessianStdDev, StdDev
from pargolf.quant.gptq import GPTQ, OwnText
from pargolf.quant.grid import Int, Keep
from pargolf.quant.lqer import LQER
from pargolf.quant.plan import Quantize
from pargolf.quant.trellis import Trellis
from pargolf.recipes.recipe import Recipe
from pargolf.training.adam import Adam
from pargolf.training.average import EMA
from pargolf.training.loop import Train
from pargolf.training.muon import POLAR_EXPRESS, Muon
from pargolf.training.phases import AtFraction, FromStart, Phase
from pargolf.training.schedule import Warmdown

_MUON = Muon(lr=0.025, momentum=0.95, momentum_start=0.85, momentum_warmup=0.3)
_SIX_BITS = Trellis(Int(6, clip=StdDev(12.85)))
_BLOCK = Block(Attention(heads=6, kv_heads=3), MLP(384, leaky_relu2))

RECIPE = Recipe(
    name="house",
    source="this project",
    model=Model(
        vocab=4096,
        dim=192,
        blocks=(_BLOCK,) * 4,
        init=(
            ("embed.tokens", Normal(0.005)),
            ("attn.out", Zeros()),
            ("mlp.down", Zeros()),
            ("*", FanIn()),
        ),
        stream=(SmearGate(),),
        head=Head(bias=True),
        bos=1,
    ),
    train=Train(
        optimizer=(
            ("embed.tokens", Adam(0.02, beta2=0.99)),
            ("attn.[qkv]", _MUON),
            ("attn.out", _MUON),
            ("mlp.*", _MUON),
            ("*", Adam(0.04)),
        ),
        batch_tokens=2048,
        seq_len=256,
        schedule=Warmdown(1.0),
        order=Shuffled(),
        half=True,
    ),
    quant=Quantize(
        (
            ("embed.tokens", Trellis(Int(7, clip=StdDev(14.0)))),
            ("attn.[qkv]", _SIX_BITS),
            ("attn.out", _SIX_BITS),
            ("mlp.*", _SIX_BITS),
            ("*", Keep("float16")),
        ),
        solver=GPTQ(batches=4),
        fill=True,
    ),
    plain=Plain(256),
    windows=Sliding(256, 128),
    adapt=CountMix(adapter=CountTilt(adapter=Online())),
    budget=Budget(bytes=1_000_000, train_seconds=180.0),
)

_RECUR = Phase("depth recurrence", AtFraction(0.35), recur=True)
_WHOLE_ROWS = Phase("rows of 256", AtFraction(0.4), seq_len=256)
_MATRICES = ("attn.[qkv]", "attn.out", "mlp.*")


def _muon(**changes: Any) -> dict[str, Any]:
    """One edit of every Muon row."""
    return {f"train.optimizer[{glob}].{name}": value for glob in _MATRICES for name, value in changes.items()}


_BIGRAMS = {
    "model.embed": (BigramHash(buckets=8192, dim=64, scale=0.2),),
    "model.init": (("embed.bigram.table", Zeros()), *RECIPE.model.init),
    "train.optimizer": (("embed.bigram.table", Adam(0.05)), ("embed.bigram.proj", _MUON), *RECIPE.train.optimizer),
    "quant.table": (("embed.bigram.*", _SIX_BITS), *RECIPE.quant.table),
}
_VALUES = {
    "model.shared": (ValueEmbed(96, scale=0.5),),
    "model.blocks[1:].attn.values": (AddValueEmbed(1.0),),
    "train.optimizer": (("shared.value_embed.table", Adam(0.05)), *RECIPE.train.optimizer),
    "quant.table": (("shared.value_embed.table", _SIX_BITS), *RECIPE.quant.table),
}

ABLATIONS: dict[str, dict[str, Any]] = {
    "4,096 pieces (1,024)": {"model.vocab": 1024},
    "192 wide (128)": {"model.dim": 128, "model.blocks[:].attn.heads": 4, "model.blocks[:].attn.kv_heads": 2},
    "smear gate": {"model.stream": ()},
    "head bias at log frequencies": {"model.head.bias": False},
    "soft-cap": {"model.head.softcap": None},
    "documents apart": {"model.bos": None},
    "leaky slope (relu2)": {"model.blocks[:].mlp.act": relu2},
    "grouped keys (6 heads each)": {"model.blocks[:].attn.kv_heads": 6},
    "outputs at zero": {"model.init[attn.out]": FanIn(), "model.init[mlp.down]": FanIn()},
    "shuffled windows": {"train.order": Sequential()},
    "bfloat16 products": {"train.half": None},
    "small batch (4,096 tokens)": {"train.batch_tokens": 4096},
    "warmdown of the whole run (half)": {"train.schedule": Warmdown(0.5)},
    "Muon (Adam)": {f"train.optimizer[{glob}]": Adam(0.005) for glob in _MATRICES},
    "Muon at .025 (.04)": _muon(lr=0.04),
    "Muon's momentum warm-up": _muon(momentum_start=0.95),
    "slow embedding (.05, squares of 20 steps)": {"train.optimizer[embed.tokens]": Adam(0.05)},
    "GPTQ": {"quant.solver": None},
    "trellis grids": {f"quant.table[{glob}]": x.base for glob, x in RECIPE.quant.table if isinstance(x, Trellis)},
    "filling the cap": {"quant.fill": False},
    "+ 8,192 pieces": {"model.vocab": 8192},
    "+ hashed bigrams": _BIGRAMS,
    "+ value embeddings": _VALUES,
    "+ dropout from the second pass": {"model.blocks[:].residual": Dropout(0.2, after=1.0)},
    "+ XSA": {"model.blocks[:].attn.outputs": (XSA(),)},
    "+ head gates": {"model.blocks[:].attn.outputs": (HeadGate(),)},
    "+ gated attention": {"model.blocks[:].attn.outputs": (GatedAttention(),)},
    "+ query gain 5": {"model.blocks[:].attn.q_gain": 5.0},
    "+ half of the head rotated": {"model.blocks[:].attn.rope.dims": 16},
    "+ U-Net skips": {"model.graph": (UNet(),)},
    "+ gated skips": {"model.graph": (UNet(Gated()),)},
    "+ x0 mixing": {"model.graph": (X0Mix(),)},
    "+ backout": {"model.graph": (Backout(),)},
    "+ norms scaled by depth": {"model.blocks[:].norm_scale": depth_rsqrt},
    "+ parallel residuals": {"model.blocks[2:].residual": Parallel()},
    "+ two lanes": {"model.blocks[2:].residual": TwoLanes()},
    "+ depth recurrence": {"model.order": looped(4, 1, 2, 2)},
    "+ depth recurrence, late": {"model.order": looped(4, 1, 2, 2), "train.phases": (_RECUR,)},
    "+ two more blocks": {"model.blocks": (_BLOCK,) * 6},
    "+ 512 hidden units": {"model.blocks[:].mlp.hidden": 512},
    "+ soft-cap at 15": {"model.head.softcap": 15.0},
    "+ soft-cap with two bounds": {"model.head.softcap": AsymmetricCap()},
    "+ short rows first": {"train.phases": (Phase("rows of 128", FromStart(), seq_len=128), _WHOLE_ROWS)},
    "+ windows at a stride": {"train.order": Strided()},
    "+ batch of 1,024 tokens": {"train.batch_tokens": 1024},
    "+ Polar Express": _muon(polynomials=POLAR_EXPRESS),
    "+ row-normed Muon": _muon(row_norm=True),
    "+ weight decay .1 in Muon": _muon(weight_decay=0.1),
    "+ weight decay .1 that tapers": _muon(weight_decay=0.1, taper_from=0.7, taper_to=0.5),
    "+ learning-rate floor .1": {"train.schedule": Warmdown(1.0, floor=0.1)},
    "+ learning-rate warm-up": {"train.schedule": Warmdown(1.0, warmup=20)},
    "+ EMA .99": {"train.average": EMA(0.99)},
    "+ gradients clipped at 1": {"train.grad_clip": 1.0},
    "+ clip by Hessian": {f"quant.table[{glob}].base.clip": HessianStdDev(12.85) for glob in _MATRICES},
    "+ LQER": {"quant.correct": LQER()},
    "+ AWQ-lite": {"quant.protect": AWQ()},
    "+ calibration on own text": {"quant.solver": GPTQ(batches=4, calibration=OwnText())},
}
"""What each row is worth, as `pargolf ablate house` asks: a part taken back, or behind a plus something more."""
