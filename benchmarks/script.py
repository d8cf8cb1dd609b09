"""Bytes of the one file that a submission of each recipe ships, and with --check whether it reproduces the run's score.

    python benchmarks/script.py                          readable, squeezed, and squeezed with its grids solved for
    python benchmarks/script.py --check --data DATA      at mini scale too: train, and let the squeezed file score

A file is checked in a folder of its own, by an interpreter that cannot import this package.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pargolf
from pargolf.core.errors import UserError
from pargolf.recipes import catalog
from pargolf.ship.program import program
from pargolf.ship.size import SOLVED, count_code

ALONE = "import sys; sys.modules['pargolf'] = None; sys.argv = sys.argv[1:]; import runpy; " \
        "runpy.run_path(sys.argv[0], run_name='__main__')"  # fmt: skip


def main() -> None:
    words = argparse.ArgumentParser(description="Bytes of each recipe's one file.")
    words.add_argument("recipes", nargs="*", default=catalog.names())
    words.add_argument("--check", action="store_true", help="train at mini scale and score by the file alone")
    words.add_argument("--data", help="a prepared data folder")
    words.add_argument("--steps", type=int, default=3)
    options = words.parse_args()
    print(f"{'recipe':16} {'readable':>9} {'squeezed':>9} {'solved':>9} {'seconds':>8}  alone")
    for name in options.recipes:
        recipe = catalog.find(name)
        began = time.process_time()
        small, solved = count_code(recipe), count_code(recipe, fitted=True)
        seconds = time.process_time() - began
        readable = len(program(recipe, also=SOLVED if recipe.quant.fill else ()).encode())
        alone = check(name, options.data, options.steps) if options.check else ""
        print(f"{name:16} {readable:9,} {small:9,} {solved:9,} {seconds:8.1f}  {alone}", flush=True)


def check(name: str, data: str, steps: int) -> str:
    """Train a little, score with the squeezed file, and return the comparison in words."""
    with tempfile.TemporaryDirectory() as folder:
        target, run = Path(folder) / "alone", Path(folder) / "run"
        changes = {"train.steps": steps, "train.seconds": None, "budget.bytes": 2_000_000}
        try:
            result = pargolf.train(name, data=data, out=run, seed=1, scale="mini", changes=changes).result()
            out = Path(folder) / "records" / "track_non_record_16mb" / name
            submission = pargolf.write_submission([run], out=out, squeeze=True, artifacts=True).result()
        except UserError as error:
            return str(error)
        shutil.copytree(submission.path, target)
        threads = str(result.machine.threads)
        words = ["train_gpt.py", "--evaluate", "model_seed1.pargolf", "--data", str(Path(data).resolve())]
        done = subprocess.run(
            [sys.executable, "-I", "-c", ALONE, *words, "--threads", threads],
            cwd=target, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": threads},
        )  # fmt: skip
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
        bpb = done.stdout.splitlines()[-1].partition(":")[2]
        return f"{bpb} {'is' if float(bpb) == result.val_bpb else 'IS NOT'} {result.val_bpb!r}"


if __name__ == "__main__":
    main()
