"""Compare full-size systems on one GPU: same text, same seconds of training, bits per byte before packing.

    python benchmarks/race.py --text TEXT.jsonl.xz [--seconds 60] [--recipes baseline,pr549,house_full] [--out DIR]

Each recipe has the text in its own vocabulary (prepared into OUT if it is missing). It trains with its own batch, with
step counts turned into fractions of the time. It is scored with its own plain windows on an even sample of the
validation split. Only compiling does not count. The published batches were made for eight GPUs and ten minutes, and a
minute of one GPU is a hundred of their steps; `--batch 131072` gives all recipes another batch. So this compares
recipes on little compute, not on the whole track. Model FLOP utilization is counted as in `benchmarks/gpu.py`.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from gpu import flops_per_token, product_rate

from pargolf.core.budget import Clock
from pargolf.core.events import Step
from pargolf.core.spec import edit
from pargolf.core.world import World
from pargolf.data.folder import DataFolder, open_data
from pargolf.data.prepare import prepare
from pargolf.recipes.catalog import find
from pargolf.recipes.scale import fractional, mini
from pargolf.run.score import open_text, score_sample
from pargolf.training.loop import Training

GRADED = 1 << 20
PACE = 1.2e6
"""A rough number of tokens per second of a GPU, used only for the length of weight averages."""


def main() -> None:
    options = _arguments()
    device = torch.device("cpu" if options.check else "cuda")
    for name in options.recipes.split(","):
        folder = _prepared(name, options)
        if not options.prepare:
            print(json.dumps(_race(name, folder, device, options)), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", default=["embedded"])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--recipes", default="baseline,pr549,house_full")
    parser.add_argument("--micro", type=int, default=131_072, help="tokens in one forward pass")
    parser.add_argument("--batch", type=int, default=0, help="tokens in a batch, for all; 0: the recipe's own")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--out", type=Path, default=Path("runs/race"))
    parser.add_argument("--prepare", action="store_true", help="only prepare the text")
    parser.add_argument("--check", action="store_true", help="the same code on a CPU at mini scale; no numbers")
    return parser.parse_args()


def _prepared(name: str, options: argparse.Namespace) -> DataFolder:
    """The text in the recipe's vocabulary."""
    vocab = find(name).model.vocab
    path = options.out / f"data_{vocab}"
    if not path.exists():
        options.out.mkdir(parents=True, exist_ok=True)
        for _ in prepare(options.text, path, vocab=vocab, val_fraction=0.05):
            pass
    return open_data(path)


def _race(name: str, data: DataFolder, device: torch.device, options: argparse.Namespace) -> dict[str, object]:
    """Train one recipe and score it."""
    recipe = find(name)
    recipe = mini(recipe) if options.check else edit(recipe, {"train.micro_tokens": options.micro})
    if options.batch:
        recipe = edit(recipe, {"train.batch_tokens": options.batch})
    torch._dynamo.reset()
    torch.manual_seed(options.seed)
    model = recipe.model.build(options.seed).to(device)
    clock, world = Clock(), World(device=device)
    train = fractional(recipe, steps=options.seconds * PACE / recipe.train.batch_tokens)
    training = Training(train, model, data.train, seed=options.seed, clock=clock, seconds=options.seconds, world=world)
    began = time.perf_counter()
    clock.pause()
    training.warm_up()
    clock.resume()
    compiling, loss = time.perf_counter() - began, 0.0
    for event in training.run():
        if isinstance(event, Step):
            loss = event.loss
    duration, steps, tokens = clock.seconds, training.step, training.tokens
    began = time.perf_counter()
    model.eval()
    with torch.no_grad():
        count = GRADED // recipe.plain.length
        sample = score_sample(model, open_text(data), recipe.plain, count=count, device=device)
    rate = product_rate(device, seconds=0.5)
    return {
        "recipe": recipe.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "batch": recipe.train.batch_tokens,
        "seconds": round(duration, 1),
        "compiling": round(compiling, 1),
        "steps": steps,
        "tokens": tokens,
        "tokens_per_s": round(tokens / duration),
        "mfu": round(tokens / duration * flops_per_token(recipe, training) / rate, 3),
        "epochs": round(tokens / len(data.train), 2),
        "train_loss": round(loss, 4),
        "val_bpb": round(sample.bpb, 4),
        "graded": sample.tokens,
        "grading": round(time.perf_counter() - began, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }


if __name__ == "__main__":
    main()
