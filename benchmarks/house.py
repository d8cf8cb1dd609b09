"""Ours against the published baseline: same text, seconds, cores and byte cap, in one run.

    python benchmarks/house.py [--seconds 300] [--seeds 1337] [--text embedded] [--cpu] [--out runs/bench_house]
    python benchmarks/house.py --table [--caps 64kB,1MB] [--clocks 60,300] [--texts embedded,FILE] [--hours 2]
    python benchmarks/house.py --sweep [--others 3] [--caps 64kB,1MB] [--clocks 60]

Prints a row per run: speed, steps, bits per byte before packing, packed, and at the end (sliding windows and whatever
the recipe adapts), bytes, and both scores as ratios of the baseline's packed one. Each recipe has the text in its own
vocabulary; bits per byte do not depend on that. The baseline is the published one at mini scale (7 x 128).
`--cpu` counts one thread's seconds on the processor, for a machine that is not free. Finished runs are not run again.

`--table` has a row for each cap, clock and text: what `pargolf plan` chose, its forecast, what came, and the baseline
of the best of three widths, on the processor's seconds throughout. `--sweep` trains what `pargolf plan` prints as the
best alternatives of each cell, too, for as many seconds, and says how far the choice is behind the best. The machine is
measured once for an output folder. No run begins after the hours are over; what was not run is named at the end.
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
"""Widths of the baseline by the largest cap that three are for; heads have 32 channels, or half of a narrow one."""
SHORT, SHORT_WIDTHS = 60.0, (64, 96, 128)
"""Seconds in which wider ones see too little, under the caps that hold them."""
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
        """A folder's name."""
        return f"{self.cap}_{self.seconds:g}_{Path(self.text).stem}_{self.seed}"

    @property
    def words(self) -> list[str]:
        """What a row begins with."""
        return [f"{self.cap:,}", f"{self.seconds:g}", Path(self.text).stem, str(self.seed)]


def main() -> None:
    asked = _arguments()
    if asked.table or asked.sweep:
        torch.set_num_threads(1)
        _print_cells(asked)
        return
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


def _print_cells(asked: argparse.Namespace) -> None:
    """Run the table's cells while the hours last, and print them."""
    heads, row = (SWEEP_HEADS, _swept) if asked.sweep else (CELL_HEADS, _row)
    what = "the planner's choice (first) and its alternatives" if asked.sweep else "the planner's choice and a baseline"
    table = Table(title=f"{what}; {asked.held_out:g} of each text held out and scored; seconds of one processor thread")
    for head in heads:
        table.add_column(head, justify="right")
    clocks = [parse_seconds(word) for word in asked.clocks.split(",")]
    caps = [parse_bytes(word) for word in asked.caps.split(",")]
    seeds = [int(word) for word in asked.seeds.split(",")]
    every = product(clocks, caps, asked.texts.split(","), seeds)
    cells = [Cell(cap, seconds, text, seed) for seconds, cap, text, seed in every]
    asked.out, asked.until = asked.out.absolute(), time.time() + 3600 * asked.hours
    todo = {f"{cell.name}_sweep{asked.others}" if asked.sweep else cell.name: (cell, asked) for cell in cells}
    found = values_of(todo, row, asked.out, on=asked.on, jobs=asked.jobs, needs=asked.needs)
    for rows in found.values():
        for cells_of_row in rows:
            table.add_row(*cells_of_row)
    Console(width=150).print(table)
    missing = [name for name in todo if name not in found]
    if missing:
        print(f"not run: {', '.join(missing)}")


def _row(cell: Cell, asked: argparse.Namespace) -> list[list[str]] | None:
    """A row of the table; None where the hours were over before all of it had run."""
    plan = _plan(cell, asked)
    mine = _chosen(plan.choice, cell, asked)
    widths = next(three for cap, three in WIDTHS.items() if cell.cap <= cap)
    if cell.seconds <= SHORT:
        widths = min(widths, SHORT_WIDTHS)
    bases = [(run.scores["post_quant"].bpb, width) for width in widths if (run := _baseline(cell, width, asked))]
    if mine is None or not bases or time.time() > asked.until:
        return None
    best, width = min(bases)
    forecast = f"{plan.choice.bpb:.4f} ({plan.choice.low:.3f} to {plan.choice.high:.3f})"
    scores = f"{mine.scores['post_quant'].bpb:.4f}", f"{mine.val_bpb:.4f}", f"{mine.bytes.total:,}"
    shape = str(plan.choice.shape)
    return [[*cell.words, shape, forecast, *scores, f"{best:.4f} ({width})", f"{mine.val_bpb / best:.3f}"]]


def _swept(cell: Cell, asked: argparse.Namespace) -> list[list[str]] | None:
    """A row for the choice and for each alternative; None where the hours were over before all had run."""
    plan = _plan(cell, asked)
    prospects = [plan.choice, *plan.others[: asked.others]]
    runs = [_chosen(prospect, cell, asked) for prospect in prospects]
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


def _plan(cell: Cell, asked: argparse.Namespace) -> Plan:
    """What is planned for a cell."""
    pace = _throughput(asked.out / "pace.json")
    return api.plan(data=[cell.text], cap=cell.cap, seconds=cell.seconds, throughput=pace).result()


def _chosen(prospect: Prospect, cell: Cell, asked: argparse.Namespace) -> Result | None:
    """The run of a shape; None where it was not run."""
    recipe = member(prospect.shape)
    return _trained(recipe, f"cell_{cell.name}_{recipe.digest[:6]}", cell, {}, asked)


def _baseline(cell: Cell, width: int, asked: argparse.Namespace) -> Result | None:
    """The published baseline at mini scale and another width; None where it does not fit, or was not run.

    One whose own grids fit a cap is the same under every larger one, and is run once.
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
    own, shared = f"base_{cell.name}_{width}", f"base_{cell.seconds:g}_{Path(cell.text).stem}_{cell.seed}_{width}"
    if (asked.out / shared / "result.json").exists():
        result = read_result(asked.out / shared / "result.json")
        if result.bytes.total <= cell.cap:
            return result
    try:
        run = _trained(api.recipe("baseline", scale="mini"), own, cell, changes, asked)
    except UserError as error:
        print(f"baseline {width} wide: {error}")
        return None
    if run is not None and run.grids is Grids.RECIPE and not (asked.out / shared).exists():
        (asked.out / own).rename(asked.out / shared)
    return run


def _trained(
    recipe: Recipe, name: str, cell: Cell, changes: dict[str, Any], asked: argparse.Namespace
) -> Result | None:
    """One run, or what was found before; None where the hours are over."""
    out = asked.out / name
    if not (out / "result.json").exists():
        if time.time() > asked.until:
            return None
        changes = {"budget.counts": "cpu", "budget.eval_seconds": 3600.0, **changes}
        data = _prepared(cell.text, recipe.model.vocab, asked)
        events = api.train(recipe, data=data, out=out, changes=changes, seed=cell.seed, force=True)
        for _ in draw(events, Console(stderr=True)):
            pass
    return read_result(out / "result.json")


def _prepared(text: str, vocab: int, asked: argparse.Namespace) -> Path:
    """The text in so many pieces; one job prepares it, and others wait for that."""
    data: Path = asked.out / f"{Path(text).stem}_{vocab}_{asked.held_out:g}"
    with claimed(asked.out / f"claim_{data.name}", patience=600.0):
        if not data.exists():
            api.prepare_data([text], out=data, vocab=vocab, val_fraction=asked.held_out).result()
    return data


def _throughput(kept: Path) -> Throughput:
    """This machine on the processor's seconds, measured once for all cells."""
    if not kept.exists():
        write_json(kept, asdict(replace(Work(measured(now=time.process_time)).result(), seconds=0.0)))
    return build(Throughput, read_json(kept), where=str(kept))


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
