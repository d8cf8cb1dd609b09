"""Test which included recipes export to ONNX, at mini scale, and compare ONNX Runtime's logits with the model's own.

    python benchmarks/onnx_recipes.py [RECIPE...]

The weights are initial ones with noise, so that every part of the model takes part. A row shows the largest difference
of a logit over texts of three shapes, or why torch could not trace the model.
"""

import argparse
import time
from dataclasses import replace

import torch

from pargolf.core.errors import UserError
from pargolf.evaluate.probes import stir
from pargolf.exporting.onnx import TOLERANCE, difference, traced
from pargolf.model.transformer import Transformer
from pargolf.recipes import catalog
from pargolf.recipes.scale import scaled
from pargolf.ship.modeling import to_run

VOCAB = 256


def main() -> None:
    words = argparse.ArgumentParser(description="Which recipes go to ONNX.")
    words.add_argument("recipes", nargs="*", default=catalog.names())
    torch.set_num_threads(1)
    print("| recipe | goes | largest difference of a logit | bytes | seconds |\n|---|---|---|---|---|")
    for name in words.parse_args().recipes:
        spec = to_run(scaled(catalog.find(name), "mini").model)
        bos = None if spec.bos is None else min(spec.bos, VOCAB - 1)
        model = Transformer(replace(spec, vocab=VOCAB, bos=bos)).eval()
        stir(model)
        began = time.perf_counter()
        try:
            graph = traced(model, {})
        except UserError as error:
            print(f"| {name} | no | {error} | | |", flush=True)
            continue
        worst, seconds = difference(graph, model), time.perf_counter() - began
        goes = "yes" if worst <= TOLERANCE else "no"
        print(f"| {name} | {goes} | {worst:.1e} | {len(graph):,} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
