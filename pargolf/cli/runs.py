"""Commands that make runs: train, pack, seeds, ablate, sweep, import."""

from pathlib import Path

from pargolf import api
from pargolf.cli.options import ASKED, Arguments, command
from pargolf.cli.terminal import ThreadsOpt, console, fail, print_next, set_threads
from pargolf.core.result import Result
from pargolf.report.text.results import result_table
from pargolf.report.text.statistics import seeds_table
from pargolf.report.text.sweeps import override_words, sweep_table
from pargolf.report.text.worth import worth_table


@command(api.train, threads=ASKED)
def train(arguments: Arguments) -> None:
    """Draw the run, and print its table."""
    result = arguments.result(api.train)
    if not arguments.prints_json(result):
        print_run(result, arguments["out"])
    check_run(result)


def print_run(result: Result, out: Path) -> None:
    """Print a run's table, and its page's path."""
    console.print(result_table(result))
    console.print(f"report  {(out / 'report.html').resolve()}")


def check_run(result: Result) -> None:
    """Exit with an error if a run's number does not count."""
    if result.interrupted:
        fail("Interrupted: the model as trained so far was packed and scored. Add --resume to train the rest.")
    if result.probed is False:
        fail(f"The score is not legal. {result.look or ''} Find out where: pargolf probe.")
    if not result.complete:
        fail(f"{result.sentence} Raise budget.eval_seconds.")


@command(api.pack, threads=0)
def pack(arguments: Arguments) -> None:
    """Print the bytes."""
    packed = arguments.call(api.pack)
    if not arguments.prints_json(packed):
        total, cap = packed["total"], packed["cap"]
        console.print(
            f"{packed['model']:,} model + {packed['code']:,} code = {total:,} bytes of {cap:,} "
            f"({total / cap:.1%}) -> {arguments['run'] / 'model.pargolf'}"
        )


@command(api.seeds, threads=ASKED)
def seeds(arguments: Arguments) -> None:
    """Print a row for each seed, and the mean."""
    runs = arguments.result(api.seeds)
    if not arguments.prints_json(runs._asdict()):
        console.print(seeds_table(*runs))


@command(api.ablate)
def ablate(arguments: Arguments, threads: ThreadsOpt = 0) -> None:
    """Print the worth of each part."""
    set_threads(threads or (arguments["jobs"] if (arguments["jobs"] or 1) > 1 else 0))
    rows = arguments.result(api.ablate)
    if not arguments.prints_json(rows):
        console.print(worth_table(rows))
        print_next(arguments["out"] / "ablation.svg", "report", arguments["out"])


@command(api.sweep, threads=ASKED, hidden=["changes"])
def sweep(arguments: Arguments) -> None:
    """Print the trials, and the best one's values."""
    swept = arguments.result(api.sweep)
    if arguments.prints_json(swept):
        return
    console.print(sweep_table(swept.trials))
    if swept.best is None:
        fail("No trial finished. Widen the ranges, or read the notes of the trials that failed.")
    changes = " ".join(override_words(swept.best.values))
    console.print(f"best: {swept.best.bpb:.4f} bits per byte with {changes}", soft_wrap=True)
    console.print(f"-> {swept.best.run}", soft_wrap=True)


@command(api.import_checkpoint, threads=0)
def import_(arguments: Arguments) -> None:
    """Print the sizes, and the next command."""
    imported = arguments.call(api.import_checkpoint)
    if arguments.prints_json(imported):
        return
    artifact = arguments["out"] / "model.pargolf"
    step = ("score", artifact, "--data", arguments["data"]) if arguments["data"] else ("inspect", artifact)
    console.print(
        f"{imported['parameters']:,} parameters in {imported['layers']} layers; "
        f"{imported['model']:,} model + {imported['code']:,} code = {imported['total']:,} bytes of {imported['cap']:,}"
    )
    print_next(arguments["out"], *step)
