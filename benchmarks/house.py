"""Compare our recipes with the published baseline: same text, seconds, cores and byte cap, in one run.

    python benchmarks/house.py [--seconds 300] [--seeds 1337] [--text embedded] [--cpu] [--out runs/bench_house]
    python benchmarks/house.py --table [--caps 64kB,1MB] [--clocks 60,300] [--texts embedded,FILE] [--hours 2]
    python benchmarks/house.py --sweep [--others 3] [--caps 64kB,1MB] [--clocks 60]

Prints a row per run: speed, steps, bytes, and bits per byte before packing, packed, and at the end (sliding windows,
with the recipe's adaptation). The last columns divide the scores by the baseline's packed score. Each recipe has the
text in its own vocabulary, which bits per byte do not depend on. The baseline is the published one at mini scale (7 x
128). `--cpu` counts processor seconds of one thread, for a machine that others use, too. Finished runs are not
repeated.

`--table` has a row for each cap, clock and text: the choice of `pargolf plan`, its forecast, its result, and the best
of three widths of the baseline, all in processor seconds. `--sweep` also trains the best alternatives that the plan of
each cell prints, for the same seconds, and says how far the choice is behind the best. The machine is measured once for
an output folder. No run starts after the hours are over; the cells that were not run are named at the end.
"""

import argparse
import os
import time
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from apart import add_options, values_of
from rich.console import Console
from rich.table import Table

from pargolf import api
from pargolf.core.errors import UserError
from pargolf.core.files import claimed, read_json, write_json
from pargolf.core.result import Grids, Result, read_result
from pargolf.core.spec import build
from pargolf.core.units import parse_bytes, parse_seconds
from pargolf.core.work import Work
from pargolf.core.world import settle_threads
from pargolf.data.prepare import prepare
from pargolf.recipes.family import member
from pargolf.recipes.recipe import Recipe
from pargolf.study.planning.search import Prospect
from pargolf.study.planning.throughput import Throughput, measured
from pargolf.study.planning.words import Plan
from pargolf.watch.live import draw

HEADS = ["recipe", "seed", "tokens/s", "steps", "pre", "packed", "final", "bytes", "packed/base", "final/base"]

WIDTHS = {64_000: (16, 24, 32), 250_000: (32, 48, 64), 1_000_000: (96, 128, 192), 4_000_000: (128, 192, 256)}
"""Three widths of the baseline for each cap; heads have 32 channels, or half the width of a narrow model."""
SHORT, SHORT_WIDTHS = 300.0, (64, 96, 128)
"""In runs this short, wider baselines see too little text; these widths are used instead."""
CELL_HEADS = ["cap", "seconds", "text", "seed", "planned", "forecast", "packed", "end", "bytes", "baseline", "end/base"]
SWEEP_HEADS = ["cap", "seconds", "text", "seed", "shape", "steps", "forecast", "end", "/ best"]


@dataclass(frozen=True)
class Cell:
    """One cap, clock, text and seed."""

    cap: int
    seconds: float
    text: str
    seed: int

    @property
    def name(self) -> str:
        """The cell's folder name."""
        return f"{self.cap}_{self.seconds:g}_{Path(self.text).stem}_{self.seed}"

    @property
    def words(self) -> list[str]:
        """The first columns of its row."""
        return [f"{self.cap:,}", f"{self.seconds:g}", Path(self.text).stem, str(self.seed)]


def main() -> None:
    options = _arguments()
    if options.table or options.sweep:
        torch.set_num_threads(1)
        _print_cells(options)
        return
    if options.threads or options.cpu:
        torch.set_num_threads(options.threads or 1)
    else:
        settle_threads()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    rows = [(name, seed, _run(name, seed, options)) for seed in seeds for name in options.recipes.split(",")]
    title = f"{options.seconds:g} s of training, packing included; cap {options.cap:,} bytes with code"
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


def _print_cells(options: argparse.Namespace) -> None:
    """Run the table's cells until the hours are over, and print them."""
    heads, row = (SWEEP_HEADS, _swept) if options.sweep else (CELL_HEADS, _row)
    subject = (
        "the planner's choice (first) and its alternatives" if options.sweep else "the planner's choice and a baseline"
    )
    table = Table(
        title=f"{subject}; {options.held_out:g} of each text held out and scored; seconds of one processor thread"
    )
    for head in heads:
        table.add_column(head, justify="right")
    clocks = [parse_seconds(word) for word in options.clocks.split(",")]
    caps = [parse_bytes(word) for word in options.caps.split(",")]
    seeds = [int(word) for word in options.seeds.split(",")]
    every = product(clocks, caps, options.texts.split(","), seeds)
    cells = [Cell(cap, seconds, text, seed) for seconds, cap, text, seed in every]
    options.out, options.until = options.out.absolute(), time.time() + 3600 * options.hours
    todo = {f"{cell.name}_sweep{options.others}" if options.sweep else cell.name: (cell, options) for cell in cells}
    values = values_of(todo, row, options.out, on=options.on, jobs=options.jobs, needs=options.needs)
    for rows in values.values():
        for cells_of_row in rows:
            table.add_row(*cells_of_row)
    Console(width=150).print(table)
    missing = [name for name in todo if name not in values]
    if missing:
        print(f"not run: {', '.join(missing)}")


def _row(cell: Cell, options: argparse.Namespace) -> list[list[str]] | None:
    """A row of the table; None if the hours were over before all of its runs ended."""
    plan = _plan(cell, options)
    chosen = _chosen(plan.choice, cell, options)
    widths = next(three for cap, three in WIDTHS.items() if cell.cap <= cap)
    if cell.seconds <= SHORT:
        widths = min(widths, SHORT_WIDTHS)
    bases = [(run.scores["post_quant"].bpb, width) for width in widths if (run := _baseline(cell, width, options))]
    if chosen is None or not bases or time.time() > options.until:
        return None
    best, width = min(bases)
    forecast = f"{plan.choice.bpb:.4f} ({plan.choice.low:.3f} to {plan.choice.high:.3f})"
    scores = f"{chosen.scores['post_quant'].bpb:.4f}", f"{chosen.val_bpb:.4f}", f"{chosen.bytes.total:,}"
    shape = str(plan.choice.shape)
    return [[*cell.words, shape, forecast, *scores, f"{best:.4f} ({width})", f"{chosen.val_bpb / best:.3f}"]]


def _swept(cell: Cell, options: argparse.Namespace) -> list[list[str]] | None:
    """Rows for the choice and for each alternative; None if the hours were over before all runs ended."""
    plan = _plan(cell, options)
    prospects = [plan.choice, *plan.others[: options.others]]
    runs = [_chosen(prospect, cell, options) for prospect in prospects]
    ended = [(prospect, run) for prospect, run in zip(prospects, runs) if run is not None]
    if len(ended) < len(prospects):
        return None
    best = min(run.val_bpb for _, run in ended)
    return [
        [
            *cell.words,
            str(prospect.shape),
            f"{run.steps:,}",
            f"{prospect.bpb:.4f}",
            f"{run.val_bpb:.4f}",
            f"{run.val_bpb / best:.4f}",
        ]
        for prospect, run in ended
    ]


def _plan(cell: Cell, options: argparse.Namespace) -> Plan:
    """The plan of a cell."""
    pace = _throughput(options.out / "pace.json")
    return api.plan(data=[cell.text], cap=cell.cap, seconds=cell.seconds, throughput=pace).result()


def _chosen(prospect: Prospect, cell: Cell, options: argparse.Namespace) -> Result | None:
    """The run of a shape; None if it was not run."""
    recipe = member(prospect.shape)
    return _trained(recipe, f"cell_{cell.name}_{recipe.digest[:6]}", cell, {}, options)


def _baseline(cell: Cell, width: int, options: argparse.Namespace) -> Result | None:
    """The published baseline at mini scale and another width; None if it does not fit, or was not run.

    If its own grids fit a cap, its result is the same under every larger cap, so it runs only once.
    """
    heads = max(2, width // 32)
    changes: dict[str, Any] = {
        "budget.bytes": cell.cap,
        "budget.train_seconds": cell.seconds,
        "model.dim": width,
        "model.blocks[:].attn.heads": heads,
        "model.blocks[:].attn.kv_heads": heads // 2,
        "model.blocks[:].mlp.hidden": 2 * width,
    }
    own_name, shared_name = (
        f"base_{cell.name}_{width}",
        f"base_{cell.seconds:g}_{Path(cell.text).stem}_{cell.seed}_{width}",
    )
    if (options.out / shared_name / "result.json").exists():
        result = read_result(options.out / shared_name / "result.json")
        if result.bytes.total <= cell.cap:
            return result
    try:
        run = _trained(api.recipe("baseline", scale="mini"), own_name, cell, changes, options)
    except UserError as error:
        print(f"baseline {width} wide: {error}")
        return None
    if run is not None and run.grids is Grids.RECIPE and not (options.out / shared_name).exists():
        (options.out / own_name).rename(options.out / shared_name)
    return run


def _trained(
    recipe: Recipe, name: str, cell: Cell, changes: dict[str, Any], options: argparse.Namespace
) -> Result | None:
    """One run, or its earlier result; None if the hours are over."""
    out = options.out / name
    if not (out / "result.json").exists():
        if time.time() > options.until:
            return None
        changes = {"budget.counts": "cpu", "budget.eval_seconds": 3600.0, **changes}
        data = _prepared(cell.text, recipe.model.vocab, options)
        events = api.train(recipe, data=data, out=out, changes=changes, seed=cell.seed, force=True)
        for _ in draw(events, Console(stderr=True)):
            pass
    return read_result(out / "result.json")


def _prepared(text: str, vocab: int, options: argparse.Namespace) -> Path:
    """The text in this vocabulary. One job prepares it, and the others wait."""
    data: Path = options.out / f"{Path(text).stem}_{vocab}_{options.held_out:g}"
    with claimed(options.out / f"claim_{data.name}", patience=600.0):
        if not data.exists():
            api.prepare_data([text], out=data, vocab=vocab, val_fraction=options.held_out).result()
    return data


def _throughput(path: Path) -> Throughput:
    """This machine's speed in processor seconds, measured once for all cells."""
    if not path.exists():
        write_json(path, asdict(replace(Work(measured(now=time.process_time)).result(), seconds=0.0)))
    return build(Throughput, read_json(path), where=str(path))


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
    parser.add_argument("--table", action="store_true", help="caps x seconds x texts, each as planned")
    parser.add_argument("--sweep", action="store_true", help="the same, each beside its best alternatives")
    parser.add_argument("--others", type=int, default=3, help="alternatives of a sweep")
    parser.add_argument("--held-out", type=float, default=0.1, help="share of the table's texts that is scored")
    parser.add_argument("--caps", default="64kB,250kB,1MB,4MB", help="of the table")
    parser.add_argument("--clocks", default="60,300,1800", help="seconds of the table")
    parser.add_argument("--texts", default="embedded", help="of the table: embedded, files, with commas between")
    parser.add_argument("--hours", type=float, default=1e9, help="after which no run of the table begins")
    add_options(parser)
    return parser.parse_args()


def _run(name: str, seed: int, options: argparse.Namespace) -> Result:
    """Train, pack and score one recipe with one seed, or read its earlier result."""
    out = options.out / f"{name}_{seed}"
    if not (out / "result.json").exists():
        vocab = api.recipe(name, scale="mini").model.vocab
        data = options.out / f"data_{vocab}"
        if not data.exists():
            options.out.mkdir(parents=True, exist_ok=True)
            for _ in prepare([options.text], data, vocab=vocab):
                pass
        changes: dict[str, Any] = {"train.seconds": options.seconds, "budget.bytes": options.cap}
        if options.cpu:
            changes |= {"budget.counts": "cpu", "budget.eval_seconds": 3600.0}
        events = api.train(name, data=data, out=out, scale="mini", changes=changes, seed=seed, force=True)
        for _ in draw(events, Console(stderr=True)):
            pass
    return read_result(out / "result.json")


if __name__ == "__main__":
    main()
