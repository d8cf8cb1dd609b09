"""PR 295: int5 MLPs from the first step (10 layers, backout, spectrum init, SWA, 8 % pruned, zstd).

Source: openai/parameter-golf pull request 295.
Reported: 1.1477 bits per byte (sliding windows; one seed), 15,935,368 bytes, 599,995 ms, 6,457 steps. 25,517,138
parameters.
Adaptation: none.

Known faults
- "Orthogonal init with muP-scaled output projections": those are zeroed afterwards, as is that of the bigram hash,
  whose table in turn is orthogonal where it was to be zero.
- SWA sums the embedding tables in bfloat16: 24 snapshots lose what is under half an ulp.
- Pruning reaches the tensors stored in float16 (token table, keys of the last two layers), where it buys little.
- "Penalty of .016 down to .005" has no evidence: it compares raw weights in plain windows with averaged ones in
  sliding windows.
- Unmentioned: the ramp of the x0 mix, gradient clipping, embedding tables without QAT. Its backout takes out the first
  block of the second half, not the middle.

Crosses documents: packed attention, the SmearGate, and the bigram hash.
"""

from pargolf.core.budget import Budget
from pargolf.evaluate.windows import Plain, Sliding
from pargolf.model.activations import relu2
from pargolf.model.attention import Attention
from pargolf.model.bigram import BigramHash
from pargolf.model.graph import Backout, UNet, X0Mix, ramp, ramp_down
from pargolf.model.init import Orthogonal, Spectrum, Zeros
from pargolf.model.mlp import MLP
from pargolf.model.rope import Rope
from pargolf.model.smear import SmearGate
from pargolf.model.transformer import Block, Model
from pargolf.packing.codecs import Zstd
from pargolf.quant.grid import Keep
from pargolf.quant.plan import QAT, Pruned, Quantize
from pargolf.quant.prune import Prune
from pargolf.quant.published import amax_295, train_295
from pargolf.recipes.recipe import Recipe, Reported
from pargolf.training.adam import Adam
from pargolf.training.average import SWA
from pargolf.training.loop import Train
from pargolf.training.muon import Muon
from pargolf.training.phases import FromStart, Phase
from pargolf.training.schedule import WarmdownIters

_MUON = Muon(lr=0.02, momentum=0.99, momentum_start=0.92, momentum_warmup=1500, weight_decay=0.04)
_TABLES = Adam(0.03, weight_decay=0.01)

RECIPE = Recipe(
    name="PR 295",
    source="openai/parameter-golf pull request 295",
    model=Model(
        vocab=1024,
        dim=512,
        blocks=(Block(Attention(rope=Rope(ntk_from=2048)), MLP(1536, relu2)),) * 10,
        init=(
            ("embed.tokens", Spectrum(0.005)),
            ("embed.bigram.table", Orthogonal()),
            ("embed.bigram.proj", Zeros()),
            ("attn.out", Zeros()),
            ("mlp.down", Zeros()),
            ("*", Orthogonal()),
        ),
        embed=(BigramHash(buckets=10_240, dim=128),),
        stream=(SmearGate(),),
        graph=(UNet(), X0Mix(keep=ramp, add=ramp_down), Backout(0.2)),
    ),
    train=Train(
        optimizer=(
            ("embed.tokens", _TABLES),
            ("embed.bigram.table", _TABLES),
            ("embed.bigram.proj", _MUON),
            ("attn.[qkv]", _MUON),
            ("attn.out", _MUON),
            ("mlp.*", _MUON),
            ("*", Adam(0.02, weight_decay=0.01)),
        ),
        batch_tokens=786_432,
        seq_len=2048,
        schedule=WarmdownIters(3000),
        average=SWA(below=0.4, every=50, tables_bfloat16=True),
        phases=(
            Phase(
                "QAT",
                FromStart(),
                QAT(
                    (
                        ("attn.[qkv]", train_295(6)),
                        ("attn.out", train_295(6)),
                        ("mlp.*", train_295(5)),
                        ("*", None),
                    )
                ),
            ),
        ),
        grad_clip=0.3,
    ),
    quant=Quantize(
        (
            ("embed.tokens", Keep("float16")),
            ("blocks.[89].attn.k", Keep("float16")),
            ("embed.bigram.table", amax_295(6)),
            ("attn.[qkv]", amax_295(6)),
            ("attn.out", amax_295(6)),
            ("mlp.*", amax_295(5)),
            ("*", Keep("float16")),
        ),
        pruned=Pruned(("*",), Prune(0.08)),
    ),
    codec=Zstd(22),
    plain=Plain(2048),
    windows=Sliding(2048, 64),
    budget=Budget(counts="published"),
    reported=Reported(bpb=1.1477, bytes=15_935_368, steps=6457, seconds=599.995),
)
