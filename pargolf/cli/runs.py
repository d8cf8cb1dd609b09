"""Commands that make runs: one, many, or many told apart."""

from collections.abc import Callable
from pathlib import Path

from pargolf import api
from pargolf.cli.options import ASKED, Given, command
from pargolf.cli.terminal import ThreadsOpt, console, fail, set_threads
from pargolf.core.result import Result
from pargolf.core.work import Work
from pargolf.report.text.results import result_table
from pargolf.report.text.statistics import seeds_table
from pargolf.report.text.sweeps import override_words, sweep_table
from pargolf.report.text.worth import worth_table


@command(api.train, as_json=False, threads=ASKED)
def train(given: Given) -> None:
    """Watch the run, and print its table."""
    _finish(given, api.train)


def _finish(given: Given, function: Callable[..., Work[Result]]) -> None:
    """Watch a run to its end and print its table."""
    end_run(given.result(function), given["out"])


def end_run(result: Result, out: Path) -> None:
    """Print a run's table, and fail where its number does not count."""
    console.print(result_table(result))
    console.print(f"report  {(out / 'report.html').resolve()}")
    if result.interrupted:
        fail("Interrupted: what was trained so far is packed and scored. Add --resume to train the rest.")
    if result.probed is False:
        fail("The model looked ahead while it was scored, so the score is not legal. Find out where: pargolf probe.")
    if not result.complete:
        fail(f"{result.sentence} Raise budget.eval_seconds.")


@command(api.pack, threads=0)
def pack(given: Given) -> None:
    """Print the bytes."""
    packed = given.call(api.pack)
    if not given.prints_json(packed):
        total, cap = packed["total"], packed["cap"]
        console.print(
            f"{packed['model']:,} model + {packed['code']:,} code = {total:,} bytes of {cap:,} "
            f"({total / cap:.1%}) -> {given['run'] / 'model.pargolf'}"
        )


@command(api.seeds, threads=ASKED)
def seeds(given: Given) -> None:
    """Print a row for each seed, and the mean."""
    runs = given.result(api.seeds)
    if not given.prints_json(runs._asdict()):
        console.print(seeds_table(*runs))


@command(api.ablate)
def ablate(given: Given, threads: ThreadsOpt = 0) -> None:
    """Print what each part is worth."""
    set_threads(threads or (given["jobs"] if given["jobs"] > 1 else 0))
    rows = given.result(api.ablate)
    if not given.prints_json(rows):
        console.print(worth_table(rows))
        console.print(f"-> {given['out'] / 'ablation.svg'}   next: pargolf report {given['out']}", soft_wrap=True)


@command(api.sweep, threads=ASKED, hidden=["changes"])
def sweep(given: Given) -> None:
    """Print the trials, and the best one's values."""
    swept = given.result(api.sweep)
    if given.prints_json(swept):
        return
    console.print(sweep_table(swept.trials))
    if swept.best is None:
        fail("No trial ran to its end. Widen the ranges, or see the notes of those that failed.")
    changes = " ".join(override_words(swept.best.values))
    console.print(f"best: {swept.best.bpb:.4f} bits per byte with {changes}", soft_wrap=True)
    console.print(f"-> {swept.best.run}", soft_wrap=True)


@command(api.import_checkpoint, threads=0)
def import_(given: Given) -> None:
    """Print the sizes, and what to do next."""
    made = given.call(api.import_checkpoint)
    if given.prints_json(made):
        return
    artifact = given["out"] / "model.pargolf"
    step = f"pargolf score {artifact} --data {given['data']}" if given["data"] else f"pargolf inspect {artifact}"
    console.print(
        f"{made['parameters']:,} parameters in {made['layers']} layers; "
        f"{made['model']:,} model + {made['code']:,} code = {made['total']:,} bytes of {made['cap']:,}"
    )
    console.print(f"-> {given['out']}   next: {step}", soft_wrap=True)
