"""PR 910, repaired: one grid for training and export (12 layers, int4 and int6 QAT from the first step).

Source: openai/parameter-golf pull request 910, with the mends below.
Forecast: 15.4 MB of model by `run/forecast.py`. Full int4 codes have more to say than the collapsed ones that 910
shipped in 12.97 MB.
"""

from pargolf.core.spec import edit
from pargolf.evaluate.windows import Sliding
from pargolf.quant.grid import Int
from pargolf.quant.plan import QAT
from pargolf.recipes.published.pr910 import RECIPE as PR910

_ATTENTION, _MLP = Int(6), Int(4)

RECIPE = edit(
    PR910,
    {
        "name": "PR 910, repaired",
        # Training and export on one grid, without a floor: 910 trained on amax/7 and shipped a floor of 1/7.
        # The two small projections are stored in float16, so they have nothing to prepare for.
        "train.phases[0].weights": QAT(
            (
                ("attn.[qkv]", _ATTENTION),
                ("attn.out", _ATTENTION),
                ("mlp.*", _MLP),
                ("*", None),
            )
        ),
        "quant.table[attn.[qkv]]": _ATTENTION,
        "quant.table[attn.out]": _ATTENTION,
        "quant.table[mlp.*]": _MLP,
        # Tables: the floor of 1/127 under their scales goes too.
        "quant.table[embed.tokens]": Int(8),
        "quant.table[embed.bigram.table]": Int(8),
        "quant.table[shared.value_embed.table]": Int(8),
        # Each document begins anew: attention, the SmearGate and the bigram hash stop at its first token.
        "model.bos": 1,
        # Every token graded once, and every second counted.
        "windows": Sliding(2048, 32),
        "budget.counts": "all",
    },
)
