"""Compare forecasts of packed bytes with packing itself: the forecast by the recipe, and the one by trained weights.

    python benchmarks/forecast.py RUN... --data DATA
    python benchmarks/forecast.py --published

Each run is packed with its recipe's own grids, even if it was to fill its cap, and with the steps it took.
`--published` compares the size that each system reports, code included, with the forecast of its recipe at full size.
"""

import argparse
from pathlib import Path

import torch

from pargolf.data.folder import open_data
from pargolf.recipes.catalog import find, names
from pargolf.run.folder import RunFolder
from pargolf.run.forecast import forecast, unused_pieces, weigh
from pargolf.run.growth import expected_steps
from pargolf.run.pack import pack
from pargolf.ship.size import count_code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--published", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.published:
        published()
    if not args.runs:
        return
    unused = unused_pieces(open_data(args.data))
    print(f"{'run':16} {'steps':>6} {'packed':>11} {'before':>11} {'':>7} {'by weights':>11}")
    for path in args.runs:
        folder = RunFolder.open(path)
        recipe, weights = folder.read_recipe(), folder.read_weights()
        real = len(pack(recipe, weights, tokenizer="0" * 64, hessians=folder.read_hessians()))
        steps = folder.read_result().steps
        before, trained = forecast(recipe, unused=unused, steps=steps).model, weigh(recipe, weights).model
        print(
            f"{path.name:16} {steps:6} {real:11,} {before:11,} {before / real - 1:+7.2%}"
            f" {trained:11,} {trained / real - 1:+7.2%}"
        )


def published() -> None:
    """Recipes at full size, without their repairs."""
    print(f"{'system':16} {'steps':>6} {'reported':>11} {'forecast':>11}")
    for name in names():
        recipe = find(name)
        if recipe.reported.bytes and not name.endswith("_repaired"):
            guess = forecast(recipe).model + count_code(recipe)
            change = guess / recipe.reported.bytes - 1
            print(f"{name:16} {expected_steps(recipe):6} {recipe.reported.bytes:11,} {guess:11,} {change:+7.2%}")


if __name__ == "__main__":
    main()
