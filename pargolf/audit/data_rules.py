"""What the code does with data besides training and scoring: paid prefixes, late calibration, bytes counted twice."""

import ast
from collections.abc import Callable, Iterator

from pargolf.audit.flow import Program
from pargolf.audit.hits import LOOPS, Hit, nearby, updates
from pargolf.audit.verdict import HOLD, SUSPECT


def val_in_training(program: Program) -> Iterator[Hit]:
    """Validation tokens reach neither the training loader, nor the artifact, nor a table of known answers."""
    for node in program.live_of(ast.Compare):
        if len(node.ops) == 1 and isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
            yield from _answers(program, node)
    for node in program.live_of(ast.Call):
        if _calibrates(program, node, "VAL"):
            yield Hit(
                "val_in_training",
                SUSPECT,
                node,
                f"`{program.function_of(node).name}` gathers statistics for quantization from validation tokens "
                "before they are scored (#728).",
                "Probe: quantize with other tokens there; the artifact must not change.",
            )


def _answers(program: Program, node: ast.Compare) -> Iterator[Hit]:
    """Targets compared with tokens that came in a file of the artifact: a paid prefix."""
    function = program.function_of(node)
    left, right = program.of(node.left, function), program.of(node.comparators[0], function)
    for tokens, other in ((left, right), (right, left)):
        if "VAL" in tokens and "HASH" not in tokens and "BLOB" in other and "VAL" not in other:
            yield Hit(
                "val_in_training",
                SUSPECT,
                node,
                f"`{function.name}` compares the targets with tokens read from a file: a stored prefix of the "
                "validation set (#168, #262).",
                "Probe: score with the file removed; the score must not change.",
            )


def late_calibration(program: Program) -> Iterator[Hit]:
    """Statistics for quantization from training data, gathered after the loop that trains: whose seconds are they?"""
    for call, loss in updates(program):
        function = program.function_of(call)
        labels = nearby(program, loss, call)
        loops = [a for a in program.ancestors(call) if isinstance(a, LOOPS) and program.function_of(a) is function]
        if not loops or "TRAIN" not in labels or "VAL" in labels:
            continue
        end = getattr(loops[-1], "end_lineno", 0)
        for node in program.own_nodes(function):
            if (
                isinstance(node, ast.Call)
                and node in program.live
                and node.lineno > end
                and _calibrates(program, node, "TRAIN")
            ):
                yield Hit(
                    "calibration_budget",
                    HOLD,
                    node,
                    f"`{function.name}` calibrates on training data after the loop that trains (#593, #656); no log "
                    "says whether that was inside the 600 s.",
                    "Probe: wrap the data loader and fail on any training shard opened after the clock stopped.",
                )
                return


def _calibrates(program: Program, call: ast.Call, split: str) -> bool:
    """Whether a call hands data of one split, and not of the other, to a function that watches layers through hooks."""
    # A scorer may watch layers too; what it returns is a loss, a calibrator's statistics are none.
    watches = any(
        callee in program.watchers and "LOSS" not in program.known(callee.returns, callee)
        for callee in program.callees(call)
    )
    if not watches:
        return False
    held = [*call.args, *(k.value for k in call.keywords)]
    labels = frozenset().union(*(nearby(program, a, call) for a in held)) if held else frozenset()
    return split in labels and len(labels & {"TRAIN", "VAL"}) == 1


def byte_table(program: Program) -> Iterator[Hit]:
    """The leading space's byte stands in the table of token bytes, and scoring adds it once more."""
    again = [
        node
        for node in program.live_of(ast.AugAssign)
        if any(
            isinstance(n, ast.BinOp)
            and isinstance(n.op, ast.BitAnd)
            and isinstance(n.right, ast.UnaryOp)
            and isinstance(n.right.op, ast.Invert)
            for n in program.below(node.value)
        )
    ]
    if not again:
        return
    for node in program.live_of(ast.If):
        if "startswith" in ast.unparse(node.test) and "\u2581" in _strings(node.test):
            marks = any(_sets(n, lambda v: isinstance(v, ast.Constant) and v.value is True) for n in node.body)
            counted = next((n for n in node.body if _sets(n, _one_more_than_encoded)), None)
            if marks and counted is not None:
                yield Hit(
                    "byte_denominator",
                    SUSPECT,
                    counted,
                    f"The byte of a leading space is counted here and again on line {again[0].lineno}: the "
                    "score comes out some 15 % too low (#1545, #1687).",
                    "Probe: decode all validation tokens; they must give 151,074,309 bytes.",
                )
                return


def _sets(node: ast.stmt, fits: Callable[[ast.expr], bool]) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript) and fits(node.value)


def _one_more_than_encoded(value: ast.expr) -> bool:
    plus = isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add)
    return plus and "encode" in ast.unparse(value) and ast.unparse(value).endswith("+ 1")


def _strings(node: ast.AST) -> str:
    return "".join(n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))
