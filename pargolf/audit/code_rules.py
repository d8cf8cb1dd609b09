"""Rules about what the code does: dataflow and reachability, never names alone.

Each rule is a generator of hits in its own module; here they are run on the main script as it ran, and put into words.
What is found is SUSPECT and names the probe that would prove it; what only other settings reach is `latent`.
"""

from collections.abc import Iterator

from pargolf.audit.causal_rules import causality
from pargolf.audit.counting import ngram_target_key, two_pass
from pargolf.audit.data_rules import byte_table, late_calibration, val_in_training
from pargolf.audit.facts import Facts
from pargolf.audit.flow import Program
from pargolf.audit.ground import Missing
from pargolf.audit.hits import CodeRule, Hit
from pargolf.audit.latent import environment_of, latent
from pargolf.audit.score_order import ttt_order
from pargolf.audit.unpack import Code
from pargolf.audit.verdict import PASS, Evidence, RuleFinding


def read_code_rules(facts: Facts, missing: Missing) -> list[RuleFinding]:
    """Run every code rule on the main script as it ran, on eight processes, and with every switch open."""
    code = facts.main
    names = sorted(_CLEAN)
    if code is None or code.tree is None:
        for name in names:
            missing.add(f"{name}: there is no script that could be read")
        return []
    if code.note.startswith(("a long", "a packed")):
        for name in names:
            missing.add(f"{name}: {code.path} holds code that could not be unpacked")
        return []
    if "val" not in code.text:
        for name in names:
            missing.add(f"{name}: {code.path} does not mention validation data; another file may score")
        return []
    own = environment_of(facts)
    here = Program(code.index, own)
    hits = {hit.key: hit for rule in CODE_RULES for hit in rule.check(here)}
    if any(log.stop for log in facts.own_logs):  # what the log says of the seconds is better
        hits = {key: hit for key, hit in hits.items() if hit.rule != "calibration_budget"}
    findings = [_finding(code, hit, facts) for hit in sorted(hits.values(), key=lambda h: h.key)]
    findings += latent(code, own, hits, here, facts, CODE_RULES)
    spoken = {f.rule for f in findings}
    for name in names:
        if name not in spoken and name in _CLEAN:
            findings.append(RuleFinding(name, PASS, _CLEAN[name]))
    return findings


def _finding(code: Code, hit: Hit, facts: Facts) -> RuleFinding:
    line = getattr(hit.node, "lineno", 0)
    evidence = [Evidence(code.path, line, code.line(line))]
    where = " (line numbers are those of the unpacked script)" if code.packed else ""
    logged = next((log.prequant for log in facts.own_logs or facts.logs if log.prequant), None)
    if logged is not None and hit.rule == "ttt_order":
        evidence.append(Evidence(logged.file, logged.number, logged.text))
    return RuleFinding(hit.rule, hit.status, f"{hit.summary} {hit.probe}{where}", tuple(evidence))


_CLEAN = {
    "ttt_order": "Every reachable update from validation tokens follows their score, or there is none.",
    "slot": "No reachable code optimises tensors of its own on the tokens it scores.",
    "ngram_target_key": "No reachable quotient of counts is keyed by the scored token.",
    "two_pass": "No reachable code scores tokens a second time.",
    "causality": "Reachable attention is told to be causal or has a mask.",
    "val_in_training": "No validation tokens reach training or the artifact.",
}


def _none(program: Program) -> Iterator[Hit]:
    return iter(())


CODE_RULES: tuple[CodeRule, ...] = (
    CodeRule(
        "ttt_order", "only train on validation tokens you've already evaluated", "README FAQ; #402 #1017", ttt_order
    ),
    CodeRule("slot", "no maintainer has ruled", "#1336 #1240", _none),
    CodeRule(
        "ngram_target_key",
        "a full normalised distribution, fixed before the target",
        "#779 #677 #1017",
        ngram_target_key,
    ),
    CodeRule("calibration_budget", "calibration belongs to the 600 s of training", "#593 #656", late_calibration),
    CodeRule("byte_denominator", "bits per byte of the raw validation text", "#1545 #1687", byte_table),
    CodeRule("two_pass", "one left-to-right pass", "#846 #573 #1017", two_pass),
    CodeRule("causality", "strict causal dependence", "#1017 C1; #1797 #1851", causality),
    CodeRule(
        "val_in_training", "no validation data in training, no paid prefix", "README FAQ; #168 #262", val_in_training
    ),
)
