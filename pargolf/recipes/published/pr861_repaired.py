"""PR 861, repaired: what its README describes, in 600 s and under the cap (11 layers, SwiGLU, XSA on all, int5 QAT).

Source: openai/parameter-golf pull request 861, with the mends below.
Forecast: 15.2 MB of model by `run/forecast.py`; with 8 key and value heads it would be over the cap, as 861 was.
"""

from pargolf.core.spec import edit
from pargolf.evaluate.windows import Sliding
from pargolf.model.mlp import SwiGLU
from pargolf.model.xsa import XSA
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import QAT
from pargolf.recipes.published.pr861 import RECIPE as PR861

_INT5 = Int(5)

RECIPE = edit(
    PR861,
    {
        "name": "PR 861, repaired",
        # 600 seconds. With 1,800 and 20,000 steps neither the warmdown nor QAT ever began; now they take the last 6,000
        # steps of some 8,600, and the last 900.
        "train.seconds": None,
        "train.steps": None,
        # As the README has it: XSA on all layers, and a gated MLP. 1,024 units would be as many weights as there were;
        # 960 leave room for a token table in float16, which it promises too.
        "model.blocks[:].attn.outputs": (XSA(),),
        "model.blocks[:].mlp": SwiGLU(960),
        # MLP-only adaptation, as it says; its rule by name had caught every scale of the blocks besides.
        "adapt.globs": ("mlp.*",),
        # Under 16,000,000 bytes: 4 key and value heads, as the stack that it says it is built on.
        "model.blocks[:].attn.kv_heads": 4,
        # Training and export on one grid, without a floor of 1/15, and nothing pruned that training has not seen.
        "train.phases[0].weights": QAT(
            (
                ("attn.[qkv]", _INT5),
                ("attn.out", _INT5),
                ("mlp.[!a]*", _INT5),
                ("*", None),
            )
        ),
        "quant.table": (
            ("embed.tokens", Keep("float16")),
            ("embed.bigram.table", _INT5),
            ("shared.value_embed.table", _INT5),
            ("attn.[qkv]", _INT5),
            ("attn.out", _INT5),
            ("mlp.[!a]*", _INT5),
            ("embed.bigram.proj", Keep("float16")),
            ("shared.value_embed.proj", Keep("float16")),
            ("*", Keep("float32")),
        ),
        "quant.pruned": None,
        # Each document begins anew: attention, the SmearGate and the bigram hash stop at its first token.
        "model.bos": 1,
        # Every token graded once, and every second counted.
        "windows": Sliding(1024, 64),
        "budget.counts": "all",
    },
)
