"""PR 910: the 549 stack with int4 MLPs (12 layers, int4 and int6 QAT from the first step, lzma).

Source: openai/parameter-golf pull request 910. Its table reads as an edit of pull request 549, and so does this file.
Reported: 1.2292 bits per byte (mean of three seeds in the pull request's text; its files hold none), 12,972,053 bytes,
600 s. 29,355,620 parameters. Before quantization its three seeds stand at 1.1600: quantization costs .069.
Adaptation: listed in its README, off by default in its script and not turned on by its command.

Known faults
- The MLP trains on the grid amax/7 and ships on one with a floor of 1/7 under the scale: every row under magnitude 1
  falls to two or three codes, and training could not prepare for it. Attention likewise, with 1/31.
- The two small projections train at 6 bits with a floor of 1/31, and are stored in float16.
- No number in its files: val_bpb is null, there is no log.
- Value embeddings stay in layers 9 and 10 although the last layers are 10 and 11.
- With adaptation on, strides of 32 and 64 both scored would pass 600 s of evaluation.
- Sliding windows grade the last 32 tokens 63 times too often; the rotation's base is rescaled as in 549.

Crosses documents: packed attention, the SmearGate, and the bigram hash.
"""

from pargolf.core.spec import edit
from pargolf.evaluate.windows import Published
from pargolf.quant.plan import QAT
from pargolf.quant.published import lite_549, train_549, train_910
from pargolf.recipes.published.pr549 import EARLY, LATE, VALUED
from pargolf.recipes.published.pr549 import RECIPE as PR549
from pargolf.recipes.recipe import Reported
from pargolf.training.phases import FromStart, Phase

RECIPE = edit(
    PR549,
    {
        "name": "PR 910",
        "source": "openai/parameter-golf pull request 910",
        "model.blocks": (EARLY,) * 8 + (LATE,) + (VALUED,) * 2 + (LATE,),
        "model.embed[0].buckets": 2048,
        "train.phases": (
            Phase(
                "QAT",
                FromStart(),
                QAT(
                    (
                        ("embed.bigram.proj", train_549()),
                        ("shared.value_embed.proj", train_549()),
                        ("attn.[qkv]", train_910(6)),
                        ("attn.out", train_910(6)),
                        ("mlp.*", train_910(4)),
                        ("*", None),
                    )
                ),
            ),
        ),
        "quant.table[mlp.*]": lite_549(4),
        "adapt": None,
        "windows": Published(2048, 32),
        "reported": Reported(bpb=1.2292, bytes=12_972_053, seconds=600.0),
    },
)
