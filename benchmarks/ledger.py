"""Time how long it takes to list many run folders, the first time and from the cache: `python benchmarks/ledger.py`."""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from pargolf.core.budget import Budget
from pargolf.core.result import Bytes, Grids, Machine, Proof, Rests, Result, ScoreRow, TextOverlap
from pargolf.core.work import Work
from pargolf.study.ledger import read_ledger


def made_up(seed: int) -> Result:
    """A made-up result."""
    bpb = 1.2 + seed % 997 / 1000
    return Result(
        recipe="house",
        digest="d" * 16,
        seed=seed,
        val_loss=2 * bpb,
        val_bpb=bpb,
        val_tokens=1000,
        val_bytes=4000,
        val_split_tokens=1000,
        complete=True,
        in_turn=True,
        probed=True,
        look=None,
        grades_per_position=(1, 1),
        proof=Proof(Rests.DOCUMENTS, {"val_000000.bin": "a" * 64}, "b" * 64),
        scores={"post_quant": ScoreRow(2 * bpb, bpb, "plain", 1.0)},
        adaptation=None,
        bytes=Bytes(900_000, 20_000, 920_000, 1_000_000),
        grids=Grids.RECIPE,
        artifact_sha256=f"{seed:064x}",
        train_seconds=60.0,
        eval_seconds=60.0,
        steps=100,
        train_tokens=100_000,
        parameters=1_000_000,
        interrupted=False,
        overlap=TextOverlap(True, 0, 0.0),
        budget=Budget(bytes=1_000_000),
        machine=Machine("x86_64", 2, 1, "2.13.0", "3.12.0", "Linux", 1),
        data="data",
        command="pargolf train house",
    )


def main() -> None:
    """Make the folders, list them three times, and print wall seconds and processor seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        for seed in range(count):
            path = Path(folder) / "runs" / f"{seed // 100:03}" / f"seed-{seed}"
            path.mkdir(parents=True)
            (path / "recipe.json").write_text("{}")
            (path / "result.json").write_text(json.dumps(made_up(seed).to_json()))
        for name in ("first", "cached", "filtered and sorted"):
            wall, processor = time.perf_counter(), time.process_time()
            ledger = Work(read_ledger([f"{folder}/runs"])).result()
            if name.startswith("filtered"):
                ledger = ledger.where("bpb < 1.3 and recipe = house").sorted("-bpb")
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            print(f"{name:20} {len(ledger.rows):7,} rows  {wall:6.2f} s  {processor:6.2f} s of processor")


if __name__ == "__main__":
    main()
