"""Compare further steps after SDClip and GPTQ on a trained model: bytes, error in nats, loss in mBPB.

    python benchmarks/corrections.py RUN --data DATA [--windows 120]

The grids are those of the last published system (int6 at 12.85 deviations, int7 tables at 14), with GPTQ and our coder,
not solved for a cap. Hessians are from 16 training batches; `one batch` and `own text` use the same amount of text.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from pargolf.data.folder import open_data
from pargolf.quant.awq import AWQ
from pargolf.quant.calibrate import calibrate, own_text
from pargolf.quant.clip import HessianStdDev, StdDev
from pargolf.quant.gptq import GPTQ, OwnText, weighted_error
from pargolf.quant.grid import Int
from pargolf.quant.lqer import LQER
from pargolf.run.folder import RunFolder
from pargolf.run.pack import pack, unpack
from pargolf.run.score import open_text, score_sample
from pargolf.study.bench import Pair, hessians_of

WIDTH = 16  # columns of AWQ's group: an eighth of the model's, as published


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=120)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder, data = RunFolder.open(args.run), open_data(args.data)
    recipe, weights = folder.read_recipe(), folder.read_weights()
    text, model = open_text(data), recipe.model.build(0)
    model.load_state_dict(weights, strict=False)

    def bpb_of(model) -> float:
        return score_sample(model.eval(), text, recipe.plain, count=args.windows).bpb

    def table(clip):
        matrices = Int(6, clip=clip(12.85))
        return Pair("", matrices, matrices, Int(7, clip=clip(14.0)), None, GPTQ()).plan(weights)

    before, hessians = bpb_of(model), hessians_of(recipe, weights, data, batches=16)
    begun, shape = time.process_time(), (recipe.train.batch_tokens // recipe.train.seq_len, recipe.train.seq_len)
    ids_BT = own_text(model, shape, OwnText(), seed=0)
    print(f"own text: {time.process_time() - begun:.1f} s for {shape[0]} x {shape[1]} tokens")
    plain = table(StdDev)
    cases = (
        ("sdclip", plain, hessians),
        ("HessianStdDev", table(HessianStdDev), hessians),
        ("LQER", replace(plain, correct=LQER()), hessians),
        ("AWQ", replace(plain, protect=AWQ(width=WIDTH, larger_than=4096)), hessians),
        ("AWQ, LQER", replace(plain, protect=AWQ(width=WIDTH, larger_than=4096), correct=LQER()), hessians),
        ("one batch", plain, hessians_of(recipe, weights, data, batches=1)),
        ("own text", plain, calibrate(model, [(ids_BT[:, :-1], ids_BT[:, 1:])])),
    )
    for name, quant, moments in cases:
        packed = pack(replace(recipe, quant=quant, codec=None), weights, tokenizer="bytes", hessians=moments)
        unpacked = unpack(packed).model
        params = dict(unpacked.named_parameters())
        error = sum(weighted_error(params[n].detach() - weights[n], h) for n, h in hessians.items())
        print(f"{name:14} {len(packed):9,} {error:10.6f} {1000 * (bpb_of(unpacked) - before):8.2f}", flush=True)


if __name__ == "__main__":
    main()
