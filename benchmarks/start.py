"""Measure the time before the first step of a run: wall seconds and processor seconds, after Python's own imports.

    python benchmarks/start.py --data DATA [--recipe house] [--scale mini]

Measured twice: with an empty cache folder, when the recipe's script is still to be written, and once it is known. Each
run is a process of its own, limited to 600 seconds, and ends at its first step. On 30 November 2026, `house` on two
busy cores took 6.7 processor seconds either way (25.5 and 22.4 wall seconds), because another process writes the
script.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RUN = """
import sys, time
import pargolf
import pargolf.ship.cache
from pargolf.core.events import Step
recipe, scale, data, out = sys.argv[1:]
clock, processor = time.perf_counter(), time.process_time()
work = pargolf.train(recipe, scale=scale or None, data=data, out=out, changes={"train.seconds": 600.0})
for event in work:
    if isinstance(event, Step):
        print(f"{time.perf_counter() - clock:7.1f} {time.process_time() - processor:7.1f}", flush=True)
        break
for child in getattr(pargolf.ship.cache, "BEGUN", {}).values():
    child.wait()
"""


def main() -> None:
    words = argparse.ArgumentParser(description="Seconds of a run before its first step.")
    words.add_argument("--data", required=True)
    words.add_argument("--recipe", default="house")
    words.add_argument("--scale", default="mini")
    options = words.parse_args()
    print(f"{'':16} {'clock':>7} {'cpu':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for label in ("script unknown", "script known"):
            row = [options.recipe, options.scale, options.data, str(Path(folder) / label)]
            env = os.environ | {"XDG_CACHE_HOME": folder}
            done = subprocess.run([sys.executable, "-c", RUN, *row], capture_output=True, text=True, env=env)
            print(f"{label:16} {done.stdout.strip() or done.stderr.strip()}", flush=True)


if __name__ == "__main__":
    main()
