"""Findings of the black box: run a submission's own `main` small on three texts, and check the laws of a fair score.

A law that is kept proves its rule as far as a small run can. A broken law is FAIL if the printed score is the mean of
the observed losses, and SUSPECT if the script computes its score from them in another way. A run that reaches no score
has broken nothing; it is listed under what was not checked.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pargolf.audit.blackbox.laws import MOVED, Reported, Ruling, laws, reported
from pargolf.audit.blackbox.passes import Reading
from pargolf.audit.blackbox.texts import ValidationText, corpus
from pargolf.audit.blackbox.trial import Trace, Trial
from pargolf.audit.read.facts import Facts
from pargolf.audit.report import BLACK_BOX, FAIL, HOLD, PASS, SUSPECT, Evidence, RuleFinding
from pargolf.audit.rules.rule import Missing
from pargolf.audit.rules.table import BY_NAME

_OBSERVED = "As observed from within, where a script that looks for an observer could hide: "
_CHANGED = {"slot": "slot", "trained": "ttt_order", "lookahead": "causality", "chosen": "val_in_training"}


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of a submission's `main`: one for each text, or only the first if it reached no score."""

    traces: tuple[Trace, ...]
    reports: tuple[Reported, ...]

    @property
    def why(self) -> str:
        """Why there is no score on every text; empty if there is."""
        short = [trace for trace in self.traces if not Reading(trace).scores]
        return f"on the {short[0].text.name} text: {short[0].error or 'it printed no score'}" if short else ""


def run_main(trial: Trial, texts: Sequence[ValidationText] = ()) -> Runs:
    """Run a script's `main` on every text, two at a time. Raises `UserError` if the system cannot confine it."""
    first, *others = texts or corpus().texts
    traces = [trial.run(first)]
    if Reading(traces[0]).scores:
        with ThreadPoolExecutor(2) as pool:
            traces += pool.map(trial.run, others)
    reports = [reported(Reading(trace)) for trace in traces]
    runs = Runs(tuple(traces), tuple(report for report in reports if report is not None))
    if len(runs.reports) > 1 and any(law.law == "order" and law.holds is False for law in laws(runs.reports)):
        repeated = reported(Reading(trial.run(first)))
        if repeated is None or not _same(runs.reports[0], repeated):
            return Runs(runs.traces, ())
    return runs


def _same(first: Reported, second: Reported) -> bool:
    """Whether two runs on one text gave the same losses."""
    if first.losses is None or second.losses is None:
        return False
    return bool((np.abs(np.nan_to_num(first.losses.losses - second.losses.losses)) <= MOVED).all())


def black_box(facts: Facts, missing: Missing, *, unsafe: bool = False) -> list[RuleFinding]:
    """Findings of the submission's own evaluation, judged from outside."""
    code = facts.main
    if code is None or code.tree is None or not code.text:
        return []
    siblings = {c.path: c.text for c in facts.codes if c is not code and c.tree is not None}
    runs = run_main(Trial(code, siblings, facts.environment, unsafe=unsafe))
    return findings_of(runs, (Evidence(code.path, 0, ""),), missing)


def findings_of(runs: Runs, evidence: tuple[Evidence, ...], missing: Missing) -> list[RuleFinding]:
    """What the runs show about the rules. What they cannot show goes to `missing`."""
    if runs.why:
        missing.add(f"run: its own main reached no score, {runs.why}")
        return []
    if not runs.reports:
        missing.add("run: its own main gives other losses when it is run again, so nothing can be compared")
        return []
    findings = [RuleFinding("run", PASS, _reached(runs), evidence, {"by": BLACK_BOX})]
    for law in laws(runs.reports):
        if law.holds is None:
            missing.add(f"run: {law.evidence}")
        findings += _of_law(law, evidence, explained=all(run.explained for run in runs.reports))
    return findings


def _reached(runs: Runs) -> str:
    score = runs.reports[0].score
    seconds = [trace.end.seconds for trace in runs.traces if trace.end is not None]
    return (
        f"Its own main, run small on three texts, printed val_loss {score.loss:.4f} and val_bpb {score.bpb:.4f} on the "
        f"first; {max(seconds, default=0):.0f} s of the processor each."
    )


def _of_law(law: Ruling, evidence: tuple[Evidence, ...], *, explained: bool) -> Iterator[RuleFinding]:
    numbers = {**law.numbers, "by": BLACK_BOX}
    text = f"Ran: {law.evidence}."
    if law.law == "denominator":
        status = {True: PASS, False: FAIL, None: SUSPECT}[law.holds]
        yield RuleFinding("byte_denominator", status, text, evidence, numbers)
    elif law.law == "once" and law.holds is not None:
        yield RuleFinding("two_pass", PASS if law.holds else FAIL, text, evidence, numbers)
    elif law.law == "order" and law.holds:
        for rule in ("ttt_order", "causality", "slot"):
            yield RuleFinding(rule, PASS, text, evidence, numbers)
    elif law.law == "order" and law.holds is False:
        rule = _CHANGED[law.numbers["why"]]
        proven = explained and rule != "val_in_training"
        broken = HOLD if rule == "slot" else FAIL if proven else SUSPECT
        yield RuleFinding(rule, broken, text, evidence, numbers)
    elif law.law == "held out" and law.holds is not None:
        sentence = f"{_OBSERVED}{law.evidence}."
        yield RuleFinding("val_in_training", PASS if law.holds else SUSPECT, sentence, evidence, numbers)
    elif law.law == "artifact" and law.holds is not None and "self_contained" in BY_NAME:
        sentence = f"{_OBSERVED}{law.evidence}."
        yield RuleFinding("self_contained", PASS if law.holds else SUSPECT, sentence, evidence, numbers)
