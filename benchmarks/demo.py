"""The demo recipe against the published baseline: same corpus, seconds, cores and byte cap, in one run.

    python benchmarks/demo.py [--seconds 180] [--seeds 1337] [--out runs/bench_demo]

Prints a row per run: speed, steps, bits per byte before packing, packed, and under the final windows, bytes, and the
packed BPB as a ratio of the baseline's. The baseline is column B of the published systems at mini scale (7 x 128).
"""

import argparse
import json
import os
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from pargolf import api
from pargolf.core.world import settle_threads
from pargolf.data.prepare import prepare
from pargolf.report.live import draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--cap", type=int, default=1_000_000)
    parser.add_argument("--seeds", default="1337")
    parser.add_argument("--recipes", default="baseline,demo")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_demo"))
    parser.add_argument("--threads", type=int, default=0, help="0: what is fastest now, for both alike")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    else:
        settle_threads()
    data = asked.out / "data"
    if not data.exists():
        asked.out.mkdir(parents=True, exist_ok=True)
        for _ in prepare(["embedded"], data):
            pass
    rows = []
    for seed in map(int, asked.seeds.split(",")):
        for name in asked.recipes.split(","):
            changes = {"train.seconds": asked.seconds, "budget.bytes": asked.cap}
            events = api.train_events(
                name, data=data, out=asked.out / f"{name}_{seed}", scale="mini", changes=changes, seed=seed, force=True
            )
            for _ in draw((event for event in events if not isinstance(event, dict)), Console(stderr=True)):
                pass
            result = json.loads((asked.out / f"{name}_{seed}" / "result.json").read_text())
            rows.append((name, seed, result))
    title = f"{asked.seconds:g} s of training, packing included; cap {asked.cap:,} bytes with code"
    table = Table(title=f"{title}; {torch.get_num_threads()} threads of {os.cpu_count()} cores")
    for head in ["recipe", "seed", "tokens/s", "steps", "pre", "packed", "final", "bytes", "packed/base", "final/base"]:
        table.add_column(head, justify="right")
    for name, seed, r in rows:
        base = next(b for n, s, b in rows if s == seed)["scores"]["post_quant"]["bpb"]
        scores = r["scores"]
        table.add_row(
            name,
            str(seed),
            f"{r['train_tokens'] / r['train_seconds']:,.0f}",
            f"{r['steps']:,}",
            f"{scores['pre_quant']['bpb']:.4f}",
            f"{scores['post_quant']['bpb']:.4f}",
            f"{r['val_bpb']:.4f}",
            f"{r['bytes']['total']:,}",
            f"{scores['post_quant']['bpb'] / base:.3f}",
            f"{r['val_bpb'] / base:.3f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
