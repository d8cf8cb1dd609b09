"""Peak memory and speed of `data prepare` on made-up text, stage by stage. Memory must not grow with the text.

    python benchmarks/prepare.py                           100 and 200 MB of text with 1,024 pieces
    python benchmarks/prepare.py --megabytes 1000          1 GB
    python benchmarks/prepare.py --vocab 257               plain bytes: no tokenizer to wait for

The text consists of words from a long-tailed vocabulary, in documents of about 3 kB, as JSON lines. Each size runs in a
process of its own, because the peak of a process never falls.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pargolf.data.prepare import prepare

WORDS, PER_DOCUMENT = 50_000, 500


def main() -> None:
    words = argparse.ArgumentParser(description="Peak memory and speed of preparing text.")
    words.add_argument("--megabytes", type=int, nargs="+", default=[100, 200])
    words.add_argument("--vocab", type=int, default=1024)
    words.add_argument("--inside", help=argparse.SUPPRESS)
    options = words.parse_args()
    if options.inside:
        measure(Path(options.inside), options.vocab)
        return
    print(f"{'MB':>6} {'MB/s':>7} {'peak MB':>8}  seconds by stage")
    for size in options.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "text.jsonl"
            size_written = write_text(path, size * 1_000_000)
            print(f"{size_written / 1e6:6.0f} ", end="", flush=True)
            command = [sys.executable, __file__, "--inside", str(path), "--vocab", str(options.vocab)]
            subprocess.run(command, check=True)


def write_text(path: Path, size: int) -> int:
    """Write JSON lines with about `size` bytes of text; return the number of bytes."""
    random = np.random.default_rng(0)
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    drawn = [random.integers(0, 26, 2 + number % 9) for number in range(WORDS)]
    pool = ["".join(letters[int(i * i / 26)] for i in word) for word in drawn]
    total = number = 0
    with path.open("w") as file:
        while total < size:
            picks = np.minimum(random.zipf(1.2, PER_DOCUMENT), WORDS) - 1
            text = " ".join(pool[pick] for pick in picks)
            file.write(json.dumps({"id": f"d{number}", "text": text}) + "\n")
            total, number = total + len(text), number + 1
    return total


def measure(path: Path, vocab: int) -> None:
    """Prepare a text, and print memory and seconds."""
    began = last = time.perf_counter()
    stages: dict[str, float] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for event in prepare([path], path.with_name("data"), vocab=vocab):
        time_now = time.perf_counter()
        stages[event.task] = stages.get(event.task, 0.0) + time_now - last
        last = time_now
    seconds, size = time.perf_counter() - began, path.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts = ", ".join(f"{task} {spent:.0f}" for task, spent in stages.items())
    print(f"{size / 1e6 / seconds:7.2f} {peak / 1024:8.0f}  {parts}; {before / 1024:.0f} MB before it began")


if __name__ == "__main__":
    main()
