"""PR 2135, the top of the audited board (1 May 2026: 1855 with unequal caps, n-gram tilt and longer context).

Source: openai/parameter-golf pull request 2135, record 2026-05-01_SP8192_PR2130Base_Calib32.
Reported: 1.05651 bits per byte (mean of three seeds), at most 15,947,490 bytes, 599.7 s, 4,994 steps. Mean before
quantization 1.06075, after it 1.06910. 35,945,673 parameters, of which 48 are read by nothing, as in 1855.
Adaptation: as 1855, without weights on the keys, at rate 8e-5, one global phase after 2,500 documents; over it a tilt
towards the token that followed the same 15 tokens before.

Known faults, beside those of 1855
- Its command switches the mend of the smear gate off (SMEAR_GATE_BOS_FIX=0, which is also the script's default): in
  training each document's first token takes in the last of the one before. Adaptation grades documents one by one, so
  its number does not profit; the diagnostic numbers before it do. Here the gate stops at documents.
- The two caps are in no optimizer and the fused loss holds the constant 30: they move in global adaptation only.
- Gates are stored in float16 again, at some 1 KB more than 1855's eight bits.
- The tilt counts all text before a position of the stream, also documents that adaptation, by length, grades later.
  It takes 200 s of the 540 s of scoring.

Its pedigree has AWQ-lite (1908, 1945, 2014: `quant.protect=AWQ()`), but its own script has none of it.

Not as published, beside 1855's list: the tilt counts a document's own text so far and the documents before it that are
finished, so that no grade depends on text that was not graded yet.
"""

from pargolf.core.spec import edit
from pargolf.evaluate.adapters.hint_tilt import HintTilt
from pargolf.evaluate.adapters.low_rank import LowRank
from pargolf.evaluate.adapters.phases import Phases
from pargolf.evaluate.adapters.sgd import SGD
from pargolf.evaluate.windows import PerDocument, Plain
from pargolf.model.asymmetric_cap import AsymmetricCap
from pargolf.quant.gptq import GPTQ
from pargolf.quant.grid import Keep
from pargolf.quant.lqer import LQER
from pargolf.recipes.published.pr1855 import RECIPE as PR1855
from pargolf.recipes.recipe import Reported
from pargolf.training.adam import Frozen

RECIPE = edit(
    PR1855,
    {
        "name": "PR 2135",
        "source": "openai/parameter-golf pull request 2135",
        "model.head.softcap": AsymmetricCap(30.0),
        "train.optimizer": (("head.cap.*", Frozen()), *PR1855.train.optimizer),
        "train.optimizer[attn.[qkv]].lr": 0.028,
        "train.optimizer[attn.out].lr": 0.028,
        "train.optimizer[mlp.*].lr": 0.028,
        "quant.table[attn.outputs.head_gate.score]": Keep("float16"),
        "quant.solver": GPTQ(batches=32),
        "quant.correct": LQER(tensors=3, rank=4, group=32),
        "plain": Plain(2560),
        "windows": PerDocument(2560, 48),
        "adapt": HintTilt(
            contexts=(15,),
            threshold=0.8,
            boost=2.625,
            adapter=LowRank(
                rank=80,
                lr=0.00008,
                warm=True,
                globs=("attn.q", "attn.v", "attn.out", "mlp.*"),
                phases=Phases((2500,), SGD(lr=0.001, epochs=1)),
            ),
        ),
        "reported": Reported(bpb=1.05651, bytes=15_947_490, steps=4994, seconds=599.7),
    },
)
