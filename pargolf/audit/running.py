"""What running a submission proves: its model built small and probed, and its own `main` run small, in the sandbox.

A file of its own, because the judge works without any library that only runs need.
"""

from pargolf.audit.blackbox.findings import black_box
from pargolf.audit.read.facts import Facts
from pargolf.audit.report import RuleFinding
from pargolf.audit.rules.rule import Missing, Runner
from pargolf.audit.sandbox.run import smoke


def runner(*, unsafe: bool = False) -> Runner:
    """What runs each script of a target; where the system can confine nothing, only when `unsafe`."""

    def run(facts: Facts, missing: Missing) -> list[RuleFinding]:
        return [*smoke(facts, missing, unsafe=unsafe), *black_box(facts, missing, unsafe=unsafe)]

    return run
