"""The least of several losses of the same token: each pass may be honest, choosing after the token is known is not.

However it is written (a minimum of two tensors, `where` by a comparison, the least along a stack of rounds, the larger
of two log probabilities), two losses of validation tokens go in and one comes out by their size. Sources: #573, #685,
#846; #1017 (C4).
"""

import ast
import re
from collections.abc import Iterator

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import is_loss, names_in
from pargolf.audit.code.tree import Function, dotted
from pargolf.audit.report import SUSPECT
from pargolf.audit.rules.rule import Hit

_PAIRS = ("minimum", "fmin", "maximum", "fmax")
_REDUCES = ("amin", "min", "amax", "nanmin", "reduce", "aminmax", "sort", "topk", "kthvalue", "cummin")
_STACKS = ("stack", "vstack", "array", "cat", "concatenate")
_PROBE = "Probe: count the scored contributions of each token; each must be one."


def least_loss(program: Program) -> Iterator[Hit]:
    """A choice between losses of the same validation tokens by their size."""
    for call in program.live_of(ast.Call):
        function = program.function_of(call)
        how = _of_pair(program, call, function) or _of_stack(program, call, function)
        if how:
            yield Hit(
                "two_pass",
                SUSPECT,
                call,
                f"`{function.name}` takes {how} of the same validation tokens, chosen when the tokens are known "
                "(#573, #846, #1017 C4).",
                _PROBE,
            )


def _of_pair(program: Program, call: ast.Call, function: Function) -> str:
    """`minimum(a, b)`, `torch.min(a, b)`, `a.minimum(b)`, `where(a < b, a, b)` of two losses."""
    name = dotted(call.func)
    last = name.rsplit(".", 1)[-1] or getattr(call.func, "attr", "")
    arguments = list(call.args)
    if isinstance(call.func, ast.Attribute) and len(arguments) == 1:
        arguments.insert(0, call.func.value)
    if last in _PAIRS or (last in ("min", "max") and "." in name and len(call.args) == 2):
        both = len(arguments) == 2 and all(_is_token_loss(program, a, function) for a in arguments)
        return f"the {'larger' if 'max' in last else 'smaller'} of two losses" if both else ""
    if name == "min" and len(call.args) == 2 and all(_is_token_loss(program, a, function) for a in call.args):
        above = program.parents.get(call)
        while isinstance(above, ast.Call):
            above = program.parents.get(above)
        targets = {n for t in getattr(above, "targets", []) for n in names_in(t)}
        named = any(re.search(r"loss|nll|bpb|ppl|score", ast.unparse(a)) for a in call.args)
        running = not named or any(isinstance(a, ast.Name) and a.id in targets for a in call.args)
        return "" if running else "the smaller of two losses"
    if last == "where" and len(call.args) == 3:
        test, chosen = call.args[0], call.args[1:]
        sides = _compared(test, function)
        if sides and all(_is_token_loss(program, side, function) for side in (*chosen, *sides)):
            return "one of two losses by their size"
    return ""


def _compared(test: ast.expr, function: Function) -> list[ast.expr]:
    """The two sides of a comparison, also one under a name."""
    if isinstance(test, ast.Name):
        sources = [s for s in function.assigned.get(test.id, ()) if isinstance(s, ast.Compare)]
        test = sources[0] if sources else test
    return [test.left, *test.comparators] if isinstance(test, ast.Compare) else []


def _of_stack(program: Program, call: ast.Call, function: Function) -> str:
    """`stack(rounds).amin(0)`, `np.min(np.stack(rounds), axis=0)`: the least along several rounds."""
    last = dotted(call.func).rsplit(".", 1)[-1] or getattr(call.func, "attr", "")
    if last not in _REDUCES or not isinstance(call.func, ast.Attribute):
        return ""
    for source in (call.func.value, *call.args[:1]):
        value = _made(source, function)
        if value is not None and is_loss(program, value, function):
            return "the least of several rounds of losses"
    return ""


def _made(node: ast.expr, function: Function) -> ast.Call | None:
    """The call that stacks several tensors, directly or under a name."""
    if isinstance(node, ast.Name):
        sources = [s for s in function.assigned.get(node.id, ()) if isinstance(s, ast.Call)]
        node = sources[0] if len(sources) == 1 else node
    stacks = isinstance(node, ast.Call) and dotted(node.func).rsplit(".", 1)[-1] in _STACKS[:3]
    return node if stacks and isinstance(node, ast.Call) else None


def _is_token_loss(program: Program, node: ast.expr, function: Function) -> bool:
    """Whether an expression holds losses of validation tokens, and is neither a plain number nor counts."""
    counts = any(label.startswith("COUNT") for label in program.of(node, function))
    return not isinstance(node, ast.Constant) and not counts and is_loss(program, node, function)
