"""Ours at full size: 11 blocks of 512 for 16,000,000 bytes, and steps small enough that few seconds hold many.

Source: this project. The rows of `house` that do not depend on size, on the frame of the last records (1394 to 2135).
Shown on one GPU and for one minute alone (`benchmarks/race.py`), never for the track's 600 s on eight:

- 8,192 pieces, as every record since 1394, and a head that starts at their log frequencies.
- Batches a sixth of the published ones, in mixed order: a minute of one GPU then holds several hundred steps.
- Value embeddings, and XSA in the last four blocks (549); SmearGate; U-Net skips and x0 mixing, as 549 has them.
- Muon by Polar Express (1787); q-gain 5 (1394 on).
- Documents are kept apart: FlexAttention passes over what a query may not see.
- Packing fills the cap.
"""

from pargolf.core.budget import Budget
from pargolf.core.spec import edit
from pargolf.evaluate.windows import Plain, Sliding
from pargolf.model.activations import leaky_relu2
from pargolf.model.attention import Attention
from pargolf.model.graph import UNet, X0Mix
from pargolf.model.mlp import MLP
from pargolf.model.rope import Rope
from pargolf.model.transformer import Block
from pargolf.model.value_embed import AddValueEmbed, ValueEmbed
from pargolf.model.xsa import XSA
from pargolf.quant.clip import StdDev
from pargolf.quant.gptq import GPTQ
from pargolf.quant.grid import Int, Keep
from pargolf.recipes.house import RECIPE as HOUSE
from pargolf.training.adam import Adam
from pargolf.training.muon import POLAR_EXPRESS, Muon

_MLP = MLP(2048, leaky_relu2)
_ROPE = Rope(dims=16)
_SIX_BITS = Int(6, clip=StdDev(12.85))
_PLAIN = Block(Attention(rope=_ROPE, q_gain=5.0), _MLP)
_LATE = Block(Attention(rope=_ROPE, q_gain=5.0, values=(AddValueEmbed(1.0),), outputs=(XSA(),)), _MLP)
_MUON = Muon(
    lr=0.03, momentum=0.95, momentum_start=0.85, momentum_warmup=0.3, weight_decay=0.04, polynomials=POLAR_EXPRESS
)

RECIPE = edit(
    HOUSE,
    {
        "name": "house at full size",
        "model.vocab": 8192,
        "model.dim": 512,
        "model.blocks": (_PLAIN,) * 7 + (_LATE,) * 4,
        "model.graph": (UNet(), X0Mix()),
        "model.shared": (ValueEmbed(64, scale=0.5),),
        "train.optimizer": (
            ("embed.tokens", Adam(0.03, weight_decay=0.04)),
            ("shared.value_embed.table", Adam(0.03, weight_decay=0.04)),
            ("attn.[qkv]", _MUON),
            ("attn.out", _MUON),
            ("mlp.*", _MUON),
            ("*", Adam(0.02)),
        ),
        "train.batch_tokens": 131_072,
        "train.micro_tokens": 131_072,
        "train.seq_len": 1024,
        "train.grad_clip": 1.0,
        "train.half": None,
        "quant.table": (
            ("embed.tokens", Int(7, clip=StdDev(14.0))),
            ("shared.value_embed.table", _SIX_BITS),
            ("attn.[qkv]", _SIX_BITS),
            ("attn.out", _SIX_BITS),
            ("mlp.*", _SIX_BITS),
            ("*", Keep("float16")),
        ),
        "quant.solver": GPTQ(batches=16),
        "plain": Plain(1024),
        "windows": Sliding(1024, 64),
        "budget": Budget(),
    },
)
