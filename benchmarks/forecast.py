"""Forecasts against what packing gives: before training by the recipe, and by the trained weights.

    python benchmarks/forecast.py RUN... --data DATA

Each run is packed on its recipe's own grids, whether or not it was to fill its cap.
"""

import argparse
from pathlib import Path

import torch

from pargolf.data.folder import open_data
from pargolf.run.folder import RunFolder
from pargolf.run.forecast import forecast, unused_pieces, weigh
from pargolf.run.pack import pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    unused = unused_pieces(open_data(args.data))
    print(f"{'run':16} {'packed':>11} {'before':>11} {'':>7} {'by weights':>11}")
    for path in args.runs:
        folder = RunFolder.open(path)
        recipe, weights = folder.read_recipe(), folder.read_weights()
        real = len(pack(recipe, weights, tokenizer="0" * 64, hessians=folder.read_hessians()))
        before, now = forecast(recipe, unused=unused).model, weigh(recipe, weights).model
        print(f"{path.name:16} {real:11,} {before:11,} {before / real - 1:+7.2%} {now:11,} {now / real - 1:+7.2%}")


if __name__ == "__main__":
    main()
