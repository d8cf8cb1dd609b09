"""The targets that a model gets must go only to its loss: no logit may be made with the token it predicts.

From the parameter of the loss, every use is followed through names, changes of shape and the script's own functions. It
may be compared with padding, counted, used as an index into finished rows, and given to a loss. In any other use the
model sees the answer. Source: #1017 (C1, C2).
"""

import ast
import re
from collections.abc import Iterator

from pargolf.audit.code.flow_words import LOSSES
from pargolf.audit.code.program import Program
from pargolf.audit.code.tree import Function, argument_for, dotted, last_name
from pargolf.audit.report import SUSPECT, UNVERIFIABLE
from pargolf.audit.rules.rule import Hit
from pargolf.audit.rules.window.masks import AHEAD, model_functions

_TARGETS = re.compile(r"^(?:(?:targets?|labels?|tgt)(?:_|$)|y(?:_[a-z]|$))")
_SHAPES = frozenset(
    {
        *("view", "reshape", "flatten", "contiguous", "to", "long", "unsqueeze", "squeeze", "clone", "detach", "numel"),
        *(
            "size",
            "dim",
            "type",
            "cuda",
            "int",
            "roll",
            "pad",
            "cat",
            "where",
            "clamp",
            "clamp_min",
            "ravel",
            "transpose",
        ),
        *("masked_fill", "zeros_like", "full_like", "ones_like", "empty_like", "chunk", "split", "narrow", "expand"),
    }
)
_PICKS = frozenset(
    {"gather", "take_along_dim", "index_select", "eq", "ne", "isinstance", "len", "print", "save_for_backward"}
)
_ENTROPY = re.compile(r"loss|entropy|nll|_ce\b|^ce_|\bce\b|crit", re.I)
_MOST_DEPTH = 5


def targets_used(program: Program) -> Iterator[Hit]:
    """The first use of the targets in a model that is not for a loss."""
    modules = model_functions(program)
    for function in program.by_name.get("forward", ()):
        names = [p for p in function.params if _TARGETS.match(p)]
        if not function.live or function not in modules or not names:
            continue
        for name in names:
            for node, where, how in _uses(program, function, name, modules, 0):
                status = SUSPECT if how else UNVERIFIABLE
                what = how or f"uses the targets in `{ast.unparse(node)[:50]}`, which is not known to be a loss"
                start = "" if how else "Not followed: "
                yield Hit("causality", status, node, f"{start}`{where.name}` {what} (#1017 C1).", AHEAD)
                return


def _uses(
    program: Program, function: Function, name: str, modules: set[Function], depth: int
) -> Iterator[tuple[ast.AST, Function, str]]:
    """Uses of a name of targets that are not for a loss: the node, its function, and the fault if it is known."""
    if depth > _MOST_DEPTH:
        return
    names, waiting = {name}, [name]
    while waiting:
        current = waiting.pop()
        for node in program.own_of(function, ast.Name):
            if node.id != current or not isinstance(node.ctx, ast.Load) or node not in program.live:
                continue
            top, above = _top(program, node)
            if isinstance(above, (ast.Assign, ast.AnnAssign, ast.NamedExpr)):
                targets = above.targets if isinstance(above, ast.Assign) else [above.target]
                fresh = {t.id for t in targets if isinstance(t, ast.Name)} - names
                names |= fresh
                waiting += fresh
            elif isinstance(above, ast.Call):
                yield from _of_call(program, above, top, function, modules, depth)
            elif isinstance(above, ast.BinOp):
                # In a function that is handed the targets it may be an index, or a weight of the loss.
                yield above, function, "" if depth else f"computes with the targets, `{ast.unparse(above)[:50]}`"


def _top(program: Program, node: ast.AST) -> tuple[ast.AST, ast.AST | None]:
    """The largest expression that is still the targets in another shape, and the node around it."""
    top, above = node, program.parents.get(node)
    while above is not None:
        shaped = isinstance(above, (ast.Attribute, ast.Subscript, ast.Starred, ast.Tuple, ast.List))
        if isinstance(above, ast.Subscript) and above.slice is top:
            return top, None  # an index into finished rows
        if isinstance(above, ast.Call) and last_name(above) in _SHAPES:
            shaped = True
        if isinstance(above, ast.IfExp) and above.test is not top:
            shaped = True
        if isinstance(above, ast.Attribute) and above.attr in ("shape", "device", "dtype", "ndim"):
            return top, None
        if isinstance(above, ast.keyword):
            shaped = True
        if not shaped:
            return top, above
        top, above = above, program.parents.get(above)
    return top, above


def _of_call(
    program: Program, call: ast.Call, top: ast.AST, function: Function, modules: set[Function], depth: int
) -> Iterator[tuple[ast.AST, Function, str]]:
    last = last_name(call)
    if call.func is top or last in LOSSES or last in _PICKS or _ENTROPY.search(dotted(call.func)):
        return
    callees = program.callees(call)
    for callee in callees:
        for name in callee.params:
            if argument_for(call, callee, name) is top or argument_for(call, callee, name) is getattr(
                top, "value", None
            ):
                yield from _uses(program, callee, name, modules, depth + 1)
    if callees:
        return
    forwards = _forwards(program, call, top)
    for forward, name in forwards:
        yield from _uses(program, forward, name, modules, depth + 1)
    if forwards:
        return
    if last == "one_hot" or dotted(call.func).startswith("self."):
        yield call, function, f"hands the targets to `{dotted(call.func)}`, a part of the model"
    else:
        yield call, function, ""


def _forwards(program: Program, call: ast.Call, top: ast.AST) -> list[tuple[Function, str]]:
    """The `forward` of each class of the script that `self.model(x, y)` may mean, with the name of `top` in it.

    A model that was handed to the constructor may be of any class whose `forward` takes targets.
    """
    attribute = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    sources = [value for _, value in program.attribute_sources.get(attribute, ())]
    built = {dotted(value.func) for value in sources if isinstance(value, ast.Call)}
    handed = bool(sources) and all(isinstance(value, ast.Name) for value in sources)
    forwards = [
        f
        for f in program.by_name.get("forward", ())
        if f.owner in built or (handed and f.live and any(map(_TARGETS.match, f.params)))
    ]
    return [(f, name) for f in forwards for name in f.params if argument_for(call, f, name) is top]
