"""Disturb everything that can be disturbed, for some minutes, and print a table of the outcomes.

    python benchmarks/reliability.py [--minutes 10] [--seed 0] [--only NAME ...]

Each row is a battery of `tests/batteries`. *handled* means a right end: one line that names the problem, or the very
bytes of an undisturbed run. *crash* is a traceback, *hang* took too long, *wrong* is any other end. The seed draws the
trials; the machine's speed decides how many fit in the minutes. A row that runs alone (`--only`) gets the time that it
has in the whole table.
"""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import small
import torch
from batteries import (
    artifacts,
    beside,
    checkpoints,
    doctored,
    imports,
    inputs,
    kills,
    moving_data,
    run_files,
    specs,
    terminal,
    trial,
)

import pargolf

HEAD = "| disturbed | tried | handled | crash | hang | wrong |\n|---|---|---|---|---|---|"
Make = Callable[[Path, random.Random], Iterator[trial.Trial]]


def batteries(home: Path) -> list[tuple[str, float, Make]]:
    """The name, share of the minutes, and trials of each row; shared inputs are made in `home`."""
    data = kills.prepared(home)
    whole = kills.undisturbed(data, home / "whole")
    finished, learned = home / "finished", home / "learned"
    pargolf.prepare_data([home / "texts"], out=learned, vocab=300).result()
    pargolf.train(small.RECIPE, data=learned, out=finished, seed=3).result()
    runs = doctored.two_runs(learned, home / "runs")
    return [
        ("a run, by SIGKILL", 26, lambda at, chance: kills.kills(data, whole, at, chance)),
        ("a run, by Ctrl-C, SIGTERM, SIGHUP", 11, lambda at, chance: kills.signals(data, whole, at, chance)),
        ("a run, by a full disk", 11, lambda at, chance: kills.full_disks(data, whole, at, chance)),
        ("runs side by side, by signals", 8, lambda at, chance: beside.trials(data.path, at, chance)),
        ("a run's data while it goes on", 6, lambda at, chance: moving_data.trials(data, whole, at, chance)),
        ("checkpoints", 6, lambda at, chance: checkpoints.trials(data, whole, at, chance)),
        ("devices, encodings, streams, memory", 9, lambda at, chance: terminal.trials(data.path, at, chance)),
        ("artifacts", 3, lambda at, chance: artifacts.trials(chance)),
        ("headers and recipes, checksums true", 5, specs.trials),
        ("result, events, documents and meta files", 5, lambda at, c: run_files.trials(finished, learned, at, c)),
        ("tokenizers, shards, weights, texts, submissions", 6, lambda at, c: inputs.trials(learned, finished, at, c)),
        ("runs made to look better", 7, lambda at, chance: doctored.trials(runs, learned, at, chance)),
        ("checkpoints of published scripts", 3, imports.trials),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[""], help="rows whose name has one of these in it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # messages of the disturbed processes are not part of the table
    sound = True
    print(HEAD, file=table, flush=True)
    with tempfile.TemporaryDirectory() as home:
        rows = batteries(Path(home))
        share = 60 * options.minutes / sum(weight for _, weight, _ in rows)
        for number, (name, weight, make) in enumerate(rows):
            if not any(word in name for word in options.only):
                continue
            folder = Path(home) / f"battery-{number}"
            folder.mkdir()
            trials = make(folder, random.Random(f"{options.seed} {name}"))
            row = trial.run(name, trials, seconds=weight * share)
            sound &= row.sound
            print(row.markdown(), file=table, flush=True)
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
