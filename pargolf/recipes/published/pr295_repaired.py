"""PR 295, repaired: the promised inits and fp32 SWA (10 layers, int5 MLPs from the first step, backout).

Source: openai/parameter-golf pull request 295, with the mends below.
Forecast: 15.2 MB of model by `run/forecast.py`.
"""

from pargolf.core.spec import edit
from pargolf.model.init import Orthogonal, Zeros
from pargolf.quant.grid import Int
from pargolf.quant.plan import QAT
from pargolf.recipes.published.pr295 import RECIPE as PR295

_ATTENTION, _MLP = Int(6), Int(5)

RECIPE = edit(
    PR295,
    {
        "name": "PR 295, repaired",
        # The inits that its README promises: output projections orthogonal, over sqrt(2L), which were zeroed later on.
        "model.init[attn.out]": Orthogonal(depth_scaled=True),
        "model.init[mlp.down]": Orthogonal(depth_scaled=True),
        # The bigram hash begins silent by its table, as meant, and its projection can pass gradients to it.
        "model.init[embed.bigram.table]": Zeros(),
        "model.init[embed.bigram.proj]": Orthogonal(depth_scaled=True),
        # Sums in float32: 24 snapshots of bfloat16 tables lose what is under half an ulp.
        "train.average.tables_bfloat16": False,
        # Prune what lies on the coarse grids. In float16 a zero costs nearly as much as any other number.
        "quant.pruned.roles": ("embed.bigram.table", "attn.[qkv]", "attn.out", "mlp.*"),
        # Those zeros had saved bytes all the same. The token table in 8 bits and the last keys in the 6 that they
        # trained with win them back, and leave room for the spread between seeds.
        "quant.table[embed.tokens]": Int(8),
        "quant.table[blocks.[89].attn.k]": _ATTENTION,
        # Training and export on one grid object; the two differed by a code that neither reaches.
        "train.phases[0].weights": QAT(
            (
                ("attn.[qkv]", _ATTENTION),
                ("attn.out", _ATTENTION),
                ("mlp.*", _MLP),
                ("*", None),
            )
        ),
        "quant.table[embed.bigram.table]": _ATTENTION,
        "quant.table[attn.[qkv]]": _ATTENTION,
        "quant.table[attn.out]": _ATTENTION,
        "quant.table[mlp.*]": _MLP,
        # Each document begins anew: attention, the SmearGate and the bigram hash stop at its first token.
        "model.bos": 1,
        # Every second counted.
        "budget.counts": "all",
    },
)
