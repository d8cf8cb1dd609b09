"""Commands that choose for you: `golf` makes the best model of a text under a cap, `plan` says what it would train."""

from pargolf import api
from pargolf.cli.options import ASKED, Given, command
from pargolf.cli.runs import end_run
from pargolf.cli.terminal import console
from pargolf.report.text.plans import outcome_table, plan_table


@command(api.golf, as_json=False, threads=ASKED, hidden=["throughput"])
def golf(given: Given) -> None:
    """Watch the run, and print the plan, what came of it, and the run's table."""
    golfed = given.result(api.golf)
    console.print(plan_table(golfed.plan))
    console.print(outcome_table(golfed.plan, golfed.result))
    end_run(golfed.result, given["out"])


@command(api.plan, threads=ASKED, hidden=["throughput"])
def plan(given: Given) -> None:
    """Print the plan."""
    made = given.result(api.plan)
    if given.prints_json(made.row()):
        return
    console.print(plan_table(made))
    console.print(
        f"next: {_next(given, made.choice.shape.vocab, prepared=made.text.vocab is not None)}", soft_wrap=True
    )


def _next(given: Given, vocab: int, *, prepared: bool) -> str:
    """What to type next."""
    words = " ".join(given["data"])
    if not given["write"]:
        return f"pargolf golf {words} --cap {given['cap']}, or add --write mine.py for the recipe"
    if prepared:
        return f"pargolf train {given['write']} --data {words}"
    return f"pargolf data prepare {words} --vocab {vocab} --out data, then pargolf train {given['write']} --data data"
