"""The board that the README pictures, from runs of this machine: python benchmarks/board.py --out runs/board.

Three recipes at mini scale with two seeds each, on the corpus that ships with a smaller validation split, and an
ablation of `house` by its steps: runs of a minute, made to have something to look at, and no statement about any
recipe. Seconds are each process's own on the processor; what has ended is not run again.
"""

import argparse
from pathlib import Path

import torch

from pargolf import api
from pargolf.core.events import Scored
from pargolf.data.prepare import prepare

RECIPES = ("baseline", "pr910_repaired", "house")
PARTS = ("value embeddings", "shuffled windows", "head bias at log frequencies", "+ XSA")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0, help="training seconds of each run")
    parser.add_argument("--steps", type=int, default=40, help="steps of each run of the ablation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 314])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/board"))
    args = parser.parse_args()
    torch.set_num_threads(args.jobs)
    data = args.out / "data"
    if not data.exists():
        for _ in prepare(["embedded"], data, val_fraction=0.03):
            pass
    same = {"data": data, "seeds": args.seeds, "jobs": args.jobs}
    seconds = {"train.seconds": args.seconds, "budget.counts": "cpu", "budget.eval_seconds": 3600.0}
    steps = {"train.steps": args.steps}
    for name in RECIPES:
        _watch(name, api.seeds_events(name, scale="mini", changes=seconds, out=args.out / name, **same))
    _watch("parts", api.ablate_events("house", only=PARTS, plain=True, changes=steps, out=args.out / "parts", **same))
    print(f"-> {api.write_report([args.out])}")


def _watch(name: str, events: object) -> None:
    """Say each scoring."""
    for event in events:
        if isinstance(event, Scored):
            print(f"{name}: {event.name} {event.windows} {event.bpb:.4f}", flush=True)


if __name__ == "__main__":
    main()
