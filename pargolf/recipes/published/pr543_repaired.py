"""PR 543, repaired: a value embedding that learns, QAT that matters (11 layers, int5 and int6, SWA, zstd).

Source: openai/parameter-golf pull request 543, with the mends below.
Forecast: 15.1 MB of model by `run/forecast.py`. Six bits throughout would be 17 MB: "int8 by fours" fits only because
the floor of 1/127 leaves most of its codes unused.
"""

from pargolf.core.spec import edit
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import QAT
from pargolf.recipes.published.pr543 import RECIPE as PR543
from pargolf.training.adam import Adam
from pargolf.training.phases import BelowLR

_ATTENTION, _MLP = Int(6), Int(5)

RECIPE = edit(
    PR543,
    {
        "name": "PR 543, repaired",
        # The value embedding learns: it was in no optimizer group.
        "train.optimizer[shared.value_embed.table]": Adam(0.035, weight_decay=0.04),
        "train.optimizer[shared.value_embed.proj]": Adam(0.025, weight_decay=0.04),
        # "AdamW, weight decay .04", as its README says: the setting was read and never used.
        "train.optimizer[embed.tokens].weight_decay": 0.04,
        "train.optimizer[*].weight_decay": 0.04,
        # QAT early enough to matter: half-way down the warmdown, some 1,500 steps and all snapshots before the end, and
        # at the full rate. It began one step before the end, after the last snapshot.
        "train.phases[0].at": BelowLR(0.5),
        "train.phases[0].lr": 1.0,
        # Training and export on one grid: it trained on amax/31 and shipped every fourth code of amax/127. Without the
        # floor six bits fit for attention alone; the MLP takes five and the token table eight.
        "train.phases[0].weights": QAT(
            (
                ("attn.[qkv]", _ATTENTION),
                ("attn.out", _ATTENTION),
                ("mlp.*", _MLP),
                ("*", None),
            )
        ),
        "quant.table": (
            ("embed.tokens", Int(8)),
            ("shared.value_embed.table", Int(8)),
            ("attn.[qkv]", _ATTENTION),
            ("attn.out", _ATTENTION),
            ("mlp.*", _MLP),
            ("stream.smear.gate", Keep("float16")),
            ("shared.value_embed.proj", Keep("float16")),
            ("attn.values.*", Keep("float16")),
            ("*", Keep("float32")),
        ),
        # Each document begins anew: attention and the SmearGate stop at its first token.
        "model.bos": 1,
        # Every second counted, the recompilation for QAT too, which took it past 600.
        "budget.counts": "all",
    },
)
