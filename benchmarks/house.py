"""Ours against the published baseline: same text, seconds, cores and byte cap, in one run.

    python benchmarks/house.py [--seconds 300] [--seeds 1337] [--text embedded] [--cpu] [--out runs/bench_house]

Prints a row per run: speed, steps, bits per byte before packing, packed, and at the end (sliding windows and whatever
the recipe adapts), bytes, and both scores as ratios of the baseline's packed one. Each recipe has the text in its own
vocabulary; bits per byte do not depend on that. The baseline is the published one at mini scale (7 x 128).
`--cpu` counts one thread's seconds on the processor, for a machine that is not free. Finished runs are not run again.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from pargolf import api
from pargolf.core.result import Result, read_result
from pargolf.core.world import settle_threads
from pargolf.data.prepare import prepare
from pargolf.watch.live import draw

HEADS = ["recipe", "seed", "tokens/s", "steps", "pre", "packed", "final", "bytes", "packed/base", "final/base"]


def main() -> None:
    asked = _arguments()
    if asked.threads or asked.cpu:
        torch.set_num_threads(asked.threads or 1)
    else:
        settle_threads()
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    rows = [(name, seed, _run(name, seed, asked)) for seed in seeds for name in asked.recipes.split(",")]
    title = f"{asked.seconds:g} s of training, packing included; cap {asked.cap:,} bytes with code"
    table = Table(title=f"{title}; {torch.get_num_threads()} threads of {os.cpu_count()} cores")
    for head in HEADS:
        table.add_column(head, justify="right")
    for name, seed, r in rows:
        base = next(b for _, s, b in rows if s == seed).scores["post_quant"].bpb
        packed = r.scores["post_quant"].bpb
        table.add_row(
            name,
            str(seed),
            f"{r.train_tokens / r.train_seconds:,.0f}",
            f"{r.steps:,}",
            f"{r.scores['pre_quant'].bpb:.4f}",
            f"{packed:.4f}",
            f"{r.val_bpb:.4f}",
            f"{r.bytes.total:,}",
            f"{packed / base:.3f}",
            f"{r.val_bpb / base:.3f}",
        )
    Console(width=120).print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--cap", type=int, default=1_000_000)
    parser.add_argument("--seeds", default="1337")
    parser.add_argument("--recipes", default="baseline,house")
    parser.add_argument("--text", default="embedded", help="what to train on: embedded, or a path of your own")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_house"))
    parser.add_argument("--threads", type=int, default=0, help="0: what is fastest now, for both alike")
    parser.add_argument("--cpu", action="store_true", help="count seconds on the processor, not on the wall")
    return parser.parse_args()


def _run(name: str, seed: int, asked: argparse.Namespace) -> Result:
    """Train, pack and score one recipe with one seed, or read what was found before."""
    out = asked.out / f"{name}_{seed}"
    if not (out / "result.json").exists():
        vocab = api.recipe(name, scale="mini").model.vocab
        data = asked.out / f"data_{vocab}"
        if not data.exists():
            asked.out.mkdir(parents=True, exist_ok=True)
            for _ in prepare([asked.text], data, vocab=vocab):
                pass
        changes: dict[str, Any] = {"train.seconds": asked.seconds, "budget.bytes": asked.cap}
        if asked.cpu:
            changes |= {"budget.counts": "cpu", "budget.eval_seconds": 3600.0}
        events = api.train(name, data=data, out=out, scale="mini", changes=changes, seed=seed, force=True)
        for _ in draw(events, Console(stderr=True)):
            pass
    return read_result(out / "result.json")


if __name__ == "__main__":
    main()
