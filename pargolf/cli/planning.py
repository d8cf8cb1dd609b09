"""Commands that choose a model: `golf` makes the best one for a text under a cap, `plan` prints what it would train."""

import shlex

from pargolf import api
from pargolf.cli.options import ASKED, Arguments, command
from pargolf.cli.runs import check_run, print_run
from pargolf.cli.terminal import console
from pargolf.report.text.plans import outcome_table, plan_table


@command(api.golf, threads=ASKED, hidden=["throughput"])
def golf(arguments: Arguments) -> None:
    """Draw the run, and print the plan, its outcome, and the run's table."""
    golfed = arguments.result(api.golf)
    if not arguments.prints_json(golfed):
        console.print(plan_table(golfed.plan))
        console.print(outcome_table(golfed.plan, golfed.result))
        print_run(golfed.result, arguments["out"])
    check_run(golfed.result)


@command(api.plan, threads=ASKED, hidden=["throughput"])
def plan(arguments: Arguments) -> None:
    """Print the plan."""
    best = arguments.result(api.plan)
    if arguments.prints_json(best.row()):
        return
    console.print(plan_table(best))
    console.print(
        f"next: {_next(arguments, best.choice.shape.vocab, prepared=best.text.vocab is not None)}", soft_wrap=True
    )


def _next(arguments: Arguments, vocab: int, *, prepared: bool) -> str:
    """The command to type next."""
    words, write = shlex.join(map(str, arguments["data"])), shlex.quote(str(arguments["write"]))
    if not arguments["write"]:
        return f"pargolf golf {words} --cap {arguments['cap']}, or add --write mine.py for the recipe"
    if prepared:
        return f"pargolf train {write} --data {words}"
    return f"pargolf data prepare {words} --vocab {vocab} --out data, then pargolf train {write} --data data"
