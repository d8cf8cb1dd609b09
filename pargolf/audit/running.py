"""What `--run` adds to an audit: the model built small and probed, and the script's own `main` run small, in a sandbox.

This is a file of its own, so that the judge needs no library that only runs need.
"""

from pargolf.audit.blackbox.findings import black_box
from pargolf.audit.read.facts import Facts
from pargolf.audit.report import RuleFinding
from pargolf.audit.rules.rule import Missing, Runner
from pargolf.audit.sandbox.run import smoke


def runner(*, unsafe: bool = False) -> Runner:
    """A function that runs each script of a target. If the system cannot confine it, it runs only with `unsafe`."""

    def run(facts: Facts, missing: Missing) -> list[RuleFinding]:
        return [*smoke(facts, missing, unsafe=unsafe), *black_box(facts, missing, unsafe=unsafe)]

    return run
