"""Caches of counts that give only the true token a probability (C1, C2).

In code, a hashed cache is a quotient of two different counts, both read at keys made from validation tokens: the counts
of one continuation over those of its context. These need not sum to one (#779, #677). In logs it shows by the tag of
the reported score, by a gain that honest mixing cannot have (#886, #978), and by gates that opened (#2041).
"""

import ast
import itertools
import re
from collections.abc import Iterator

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import names_in
from pargolf.audit.code.tree import dotted, last_name, walk
from pargolf.audit.read.facts import Facts
from pargolf.audit.read.logs import Log
from pargolf.audit.report import SUSPECT, RuleFinding
from pargolf.audit.rules.rule import SUM, Hit, Missing, Surroundings, quoted
from pargolf.audit.rules.validation_data import until_told

_PICKERS = ("gather", "take_along_axis", "nll_loss", "cross_entropy", "index_select", "take_along_dim")


def logged_caches(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Log lines about counts behind the reported score, each kind once. A tag is evidence, not proof."""
    tags: set[str] = set()
    for log in until_told(facts):
        for tag, finding in _tagged(facts, log):
            if tag not in tags:
                tags.add(tag)
                yield finding
    yield from _gates(facts)


def _tagged(facts: Facts, log: Log) -> Iterator[tuple[str, RuleFinding]]:
    claim = facts.bpb.number if facts.bpb is not None else None
    mixes = [m for m in log.mixes if re.search(r"mix|ppm|n_?gram|cache", m.tag)]
    mixed = next((m for m in mixes if claim and abs(m.bpb - claim) < 0.002), None)
    if mixed is not None:
        text = (
            f"The declared score is the log's `{mixed.tag}`: a mixture with counts, which has to be a normalised "
            "distribution before the token is seen (#1835, #677). Probe: sum p over the vocabulary."
        )
        yield mixed.tag, RuleFinding("ngram_target_key", SUSPECT, text, quoted([mixed.line]))
    final = log.final
    if final is None:
        return
    plain = [s.bpb for s in log.scores if re.search(r"roundtrip|sliding", s.tag) and "ngram" not in s.tag]
    if re.search(r"n_?gram|cache|ppm|mixer", final.tag) and plain and final.bpb < min(plain) - 0.03:
        text = (
            f"`{final.tag}` is {min(plain) - final.bpb:.3f} bits per byte below the network's own score; honest "
            "n-gram mixing is worth about 0.003 (#886, #978). Probe: sum p over the vocabulary."
        )
        numbers = {"network": min(plain), "reported": final.bpb}
        yield final.tag, RuleFinding("ngram_target_key", SUSPECT, text, quoted([final.line]), numbers)


def _gates(facts: Facts) -> Iterator[RuleFinding]:
    """Gates that open by the class of the token being scored; the log says how often they did."""
    gates = [g for log in facts.own_logs or facts.logs for g in log.gates if g.value > 0]
    if gates:
        yield RuleFinding(
            "ngram_target_key",
            SUSPECT,
            f"The log shows within-word or word gates that opened {max(g.value for g in gates):g} times: they follow "
            "the class of the token being scored (ruled out on #2041 and #2118). Probe: sum p over the vocabulary.",
            quoted(g.line for g in gates[:3]),
            {"opened": max(g.value for g in gates)},
        )


def ngram_target_key(program: Program) -> Iterator[Hit]:
    """Counts that give only the true token a probability: in a quotient, in a sum, or as the larger of two."""
    first = next(itertools.chain(_quotients(program), _mixtures(program), _larger_of(program), _sure_of(program)), None)
    if first is not None:
        yield first


def _quotients(program: Program) -> Iterator[Hit]:
    """A count at a key that contains the scored token over a count at its context's key."""
    for node in program.live_of(ast.BinOp, ast.Call):
        pair = _quotient(node)
        if pair is not None:
            function = program.function_of(node)
            above, under = (_counts(program.of(side, function)) for side in pair)
            if (
                above - under
                and under
                and "VAL" in program.of(pair[0], function)
                and not _whole_row(program, node, pair)
            ):
                yield Hit(
                    "ngram_target_key",
                    SUSPECT,
                    node,
                    f"`{function.name}` divides a count at a key made with the scored token by its context's: only "
                    "the true token's probability is ever formed (#779, #677).",
                    SUM,
                )
                return


def _whole_row(program: Program, node: ast.AST, pair: tuple[ast.expr, ast.expr]) -> bool:
    """Whether a quotient is of rows of the vocabulary over their totals, from which the true token is picked."""
    if _widened(pair[1]) and not _widened(pair[0]):
        return True
    function = program.function_of(node)
    returned = any(isinstance(above, ast.Return) for above in program.ancestors(node))
    sites = [site.call for site in function.calls if site.call in program.live] if returned else []
    return picked_later(program, node) or (bool(sites) and all(picked_later(program, call) for call in sites))


def _widened(node: ast.expr) -> bool:
    """`totals[x][:, None]`, `totals.unsqueeze(-1)`, `rows.sum(-1, keepdim=True)`: one number for a whole row."""
    for part in walk(node):
        axes = part.slice.elts if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Tuple) else []
        added = any(isinstance(e, ast.Constant) and e.value is None for e in axes)
        named = getattr(part, "attr", "") == "unsqueeze" or getattr(part, "arg", "") in ("keepdim", "keepdims")
        if added or named:
            return True
    return False


def _mixtures(program: Program) -> Iterator[Hit]:
    """A sum of the true token's probability and one from counts."""
    for node in program.live_of(ast.BinOp):
        if isinstance(node.op, ast.Add):
            function = program.function_of(node)
            left, right = program.of(node.left, function), program.of(node.right, function)
            for model, counts in ((left, right), (right, left)):
                if (
                    "GOLD" in model
                    and _counts(counts)
                    and not _counts(model)
                    and "VAL" in counts
                    and not picked_later(program, node)
                ):
                    yield Hit(
                        "ngram_target_key",
                        SUSPECT,
                        node,
                        f"`{function.name}` mixes the true token's probability with one from counts: "
                        "no distribution over the vocabulary is formed before the token is seen (#1835, #677).",
                        SUM,
                    )
                    return


def _larger_of(program: Program) -> Iterator[Hit]:
    """The larger of the true token's probability and one from counts, or a choice between them by a test."""
    for call in program.live_of(ast.Call):
        last = last_name(call)
        sides = call.args[-2:] if last in ("maximum", "fmax", "max", "where") and len(call.args) >= 2 else []
        if not sides:
            continue
        function = program.function_of(call)
        labels = [program.of(side, function) for side in sides]
        for model, counts in (labels, reversed(labels)):
            if (
                "GOLD" in model
                and not _counts(model)
                and _counts(counts)
                and "VAL" in counts
                and not picked_later(program, call)
            ):
                text = (
                    f"`{function.name}` takes the true token's probability or one from counts: no distribution over "
                    "the vocabulary is formed before the token is seen (#1835, #677)."
                )
                yield Hit("ngram_target_key", SUSPECT, call, text, SUM)
                return


def _sure_of(program: Program) -> Iterator[Hit]:
    """`where(guess == target, .95, p)`: a probability that depends on the true token."""
    for call in program.live_of(ast.Call):
        if last_name(call) != "where" or len(call.args) != 3:
            continue
        function = program.function_of(call)
        test = call.args[0]
        if isinstance(test, ast.Name):
            sources = [s for s in function.assigned.get(test.id, ()) if s is not None]
            test = sources[0] if len(sources) == 1 else test
        if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], (ast.Eq, ast.NotEq)):
            continue
        tokens = [program.of(side, function) for side in (test.left, *test.comparators)]
        arms = [(arm, program.of(arm, function)) for arm in call.args[1:]]
        gold = any("GOLD" in labels for _, labels in arms)
        number = any(isinstance(program.value(arm, function), float) for arm, _ in arms)
        if gold and number and any("VAL" in labels and "LOSS" not in labels for labels in tokens):
            text = (
                f"`{function.name}` gives the true token a probability of its own where a guess is right: no "
                "distribution over the vocabulary is formed before the token is seen (#1835, #677)."
            )
            yield Hit("ngram_target_key", SUSPECT, call, text, SUM)
            return


def picked_later(program: Program, node: ast.AST) -> bool:
    """Whether the true token is picked from the result of a node, so that it is a mixture of whole rows."""
    function = program.function_of(node)
    names: set[str] = set()
    for above in (node, *program.ancestors(node)):
        if isinstance(above, ast.stmt):
            names = {n for t in getattr(above, "targets", ()) for n in names_in(t)}
            break
        if _picks(above, node):
            return True
    for _ in range(2):
        for name, sources in function.assigned.items():
            if any(s is not None and names & names_in(s) and not _is_sum(s) for s in sources):
                names = names | {name}
    return any(_picks(n, ast.Name(name)) for name in names for n in program.own_nodes(function))


def _picks(node: ast.AST, row: ast.AST) -> bool:
    """Whether a node picks entries from rows: `gather`, `row[range, targets]`, `nll_loss(row, y)`."""

    def is_row(part: ast.AST) -> bool:
        return part is row or (isinstance(row, ast.Name) and row.id in names_in(part))

    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        return isinstance(node.slice, ast.Tuple) and not _has_slice(node.slice) and is_row(node.value)
    if not isinstance(node, ast.Call):
        return False
    last = last_name(node)
    subject = node.args[0] if last in _PICKERS and node.args else None
    if last == "gather" and isinstance(node.func, ast.Attribute):
        return is_row(node.func.value) or (subject is not None and is_row(subject))
    return subject is not None and is_row(subject)


def _has_slice(node: ast.Tuple) -> bool:
    return any(isinstance(e, (ast.Slice, ast.Constant)) for e in node.elts)


def _is_sum(node: ast.expr) -> bool:
    """Whether an expression is a sum or a number, and no longer a row of the vocabulary."""
    return any(isinstance(n, ast.Call) and getattr(n.func, "attr", "") in ("sum", "mean", "item") for n in walk(node))


def _quotient(node: ast.AST) -> tuple[ast.expr, ast.expr] | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return node.left, node.right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr == "div" and len(node.args) == 1:
            return node.func.value, node.args[0]
        if dotted(node.func) in ("np.divide", "torch.div", "numpy.divide", "np.true_divide") and len(node.args) >= 2:
            return node.args[0], node.args[1]
    return None


def _counts(labels: frozenset[str]) -> frozenset[str]:
    return frozenset(x for x in labels if x.startswith("COUNT"))
