"""The least of several losses of the same token: each pass may be honest, but a choice after the token is known is not.

It can be written as a minimum of two tensors, a comparison that becomes a weight, the least along a stack of rounds,
the larger of two log-probabilities, or their plain sum. In each case two losses of validation tokens go in, and one
comes out that depends on their size. Sources: #573, #685, #846; #1017 (C4).
"""

import ast
import re
from collections.abc import Iterator

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import LOOPS, is_loss, names_in
from pargolf.audit.code.tree import Function, dotted, last_name, walk
from pargolf.audit.report import SUSPECT
from pargolf.audit.rules.rule import Hit

_PAIRS = ("minimum", "fmin", "maximum", "fmax")
_REDUCES = (
    *("amin", "min", "amax", "nanmin", "reduce", "aminmax", "sort", "topk", "kthvalue", "cummin", "argmin", "argmax"),
    *("nanargmin", "nanargmax", "argsort"),
)
_BY_SIGN = ("relu", "clamp", "clamp_min", "abs", "sign", "heaviside", "threshold", "maximum", "minimum")
_STACKS = ("stack", "vstack", "array", "cat", "concatenate")
_PROBE = "Probe: count the scored contributions of each token; each must be one."


def least_loss(program: Program) -> Iterator[Hit]:
    """A choice between losses of the same validation tokens by their size."""
    for call in program.live_of(ast.Call):
        function = program.function_of(call)
        choice = _of_pair(program, call, function) or _of_stack(program, call, function)
        choice = choice or _of_function(program, call, function) or _of_difference(program, call, function)
        if choice:
            yield _hit(program, call, choice)
    for node in program.live_of(ast.BinOp, ast.Compare, ast.If):
        function = program.function_of(node)
        choice = (
            _of_sum(program, node, function) or _of_weight(program, node, function) or _kept(program, node, function)
        )
        if choice:
            yield _hit(program, node, choice)


def _hit(program: Program, node: ast.AST, choice: str) -> Hit:
    text = (
        f"`{program.function_of(node).name}` takes {choice} of the same validation tokens, chosen when the tokens are "
        "known (#573, #846, #1017 C4)."
    )
    return Hit("two_pass", SUSPECT, node, text, _PROBE)


def _of_function(program: Program, call: ast.Call, function: Function) -> str:
    """`map(min, a, b)`, `reduce(torch.minimum, [a, b])`, and `min(p, q)` for each pair of two lists."""
    last = last_name(call)
    if last in ("map", "reduce") and len(call.args) > 1:
        chooser = dotted(call.args[0]).rsplit(".", 1)[-1]
        if chooser in (*_PAIRS, "min", "max") and any(_is_token_loss(program, a, function) for a in call.args[1:]):
            return f"the `{chooser}` of several losses"
    if last in ("softmax", "softmin"):
        stacks = [n for a in call.args for n in walk(a) if isinstance(n, ast.Call) and _stacks_several(n)]
        first = any(program.value(a, function) == 0 for a in (*call.args[1:], *(k.value for k in call.keywords)))
        if first and any(_is_loss_of_tokens(program, s, function) for s in stacks):
            return "a choice between losses by weights that follow from their size"
    pairs = dotted(call.func) == "min" and len(call.args) == 2
    inside = any(isinstance(a, (ast.GeneratorExp, ast.ListComp)) for a in program.ancestors(call))
    if pairs and inside and all(_is_token_loss(program, a, function) for a in call.args):
        return "the smaller of two losses"
    bare = last == "logaddexp" and len(call.args) == 2 and not _weighted(program, call, function)
    if bare and all(_is_token_loss(program, a, function) for a in call.args):
        return "the sum of two probabilities, which is more than either"
    return ""


def _stacks_several(call: ast.Call) -> bool:
    rows = call.args[0] if call.args else None
    return dotted(call.func).endswith("stack") and isinstance(rows, (ast.List, ast.Tuple)) and len(rows.elts) > 1


def _weighted(program: Program, call: ast.Call, function: Function) -> bool:
    """Whether the statement around a call, or the assignment of its arguments, computes weights: it adds or divides."""
    statement = next((a for a in program.ancestors(call) if isinstance(a, ast.stmt)), call)
    names = {n for argument in call.args for n in names_in(argument)}
    sources = [s for name in names for s in function.assigned.get(name, ()) if s is not None]
    return any(isinstance(n, ast.BinOp) for part in (statement, *sources) for n in walk(part))


def _of_difference(program: Program, call: ast.Call, function: Function) -> str:
    """`relu(a - b)`, `(a - b).clamp(min=0)`: a choice by the sign of a difference."""
    last = last_name(call)
    if last not in _BY_SIGN:
        return ""
    sources = [*call.args[:2], *([call.func.value] if isinstance(call.func, ast.Attribute) else [])]
    for source in sources:
        if isinstance(source, ast.BinOp) and isinstance(source.op, ast.Sub):
            sides = (source.left, source.right)
            above = program.parents.get(call)
            chooses = isinstance(above, ast.BinOp)
            if chooses and all(_is_loss_of_tokens(program, side, function) for side in sides):
                return "one of two losses by the sign of their difference"
    return ""


def _of_sum(program: Program, node: ast.AST, function: Function) -> str:
    """`log(exp(-a) + exp(-b))`: probabilities of the same token added without weights."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Add):
        return ""
    above = program.parents.get(node)
    logged = isinstance(above, ast.Call) and last_name(above) in ("log", "log2", "log1p")
    logged = logged or (isinstance(above, ast.Attribute) and above.attr in ("log", "log_"))
    sides = [node.left, node.right]
    bare = all(isinstance(s, (ast.Call, ast.Name)) and "GOLD" in program.of(s, function) for s in sides)
    return "the sum of two probabilities, which is more than either" if logged and bare else ""


def _of_weight(program: Program, node: ast.AST, function: Function) -> str:
    """A comparison of two losses of tokens that becomes a weight: `(a < b).float()`."""
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        return ""
    above = program.parents.get(node)
    turned = isinstance(above, ast.Attribute) and above.attr in ("float", "to", "double", "half", "type", "astype")
    factor = isinstance(above, ast.BinOp) and isinstance(above.op, ast.Mult)
    sides = (node.left, node.comparators[0])
    if (turned or factor) and all(_is_loss_of_tokens(program, side, function) for side in sides):
        return "one of two losses by their size"
    return ""


def _kept(program: Program, node: ast.AST, function: Function) -> str:
    """`if now < best: best = now` in a loop of rounds, if `best` is counted."""
    if not isinstance(node, ast.If) or not isinstance(node.test, ast.Compare) or len(node.test.ops) != 1:
        return ""
    names = [side.id for side in (node.test.left, node.test.comparators[0]) if isinstance(side, ast.Name)]
    if len(names) != 2 or not any(isinstance(a, LOOPS) for a in program.ancestors(node)):
        return ""
    for statement in node.body:
        value = statement.value if isinstance(statement, ast.Assign) else None
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if not isinstance(value, ast.Name) or not isinstance(target, ast.Name) or {value.id, target.id} != set(names):
            continue
        if _is_loss_of_tokens(program, value, function) and _is_counted(program, target.id, function, statement):
            return "the least of several rounds of losses"
    return ""


def _is_counted(program: Program, name: str, function: Function, statement: ast.stmt) -> bool:
    """Whether a name is added to a sum, or makes another loss, elsewhere in its function."""
    for node in program.own_nodes(function):
        if node is statement or node not in program.live:
            continue
        if isinstance(node, ast.AugAssign) and name in names_in(node.value):
            return True
        if isinstance(node, ast.Assign) and name in names_in(node.value):
            targets = {n for t in node.targets for n in names_in(t)}
            if name not in targets and any(re.search(r"loss|nll|bpb|sum|total", t) for t in targets):
                return True
    return False


def _is_loss_of_tokens(program: Program, node: ast.expr, function: Function) -> bool:
    """Whether an expression is a loss, and neither logits nor whole rows of probabilities."""
    return _is_token_loss(program, node, function) and "logit" not in ast.unparse(node).lower()


def _of_pair(program: Program, call: ast.Call, function: Function) -> str:
    """`minimum(a, b)`, `torch.min(a, b)`, `a.minimum(b)`, `where(a < b, a, b)` of two losses."""
    name = dotted(call.func)
    last = name.rsplit(".", 1)[-1] or getattr(call.func, "attr", "")
    arguments = list(call.args)
    if isinstance(call.func, ast.Attribute) and len(arguments) == 1:
        arguments.insert(0, call.func.value)
    if last in _PAIRS or (last in ("min", "max") and "." in name and len(call.args) == 2):
        are_losses = len(arguments) == 2 and all(_is_token_loss(program, a, function) for a in arguments)
        return f"the {'larger' if 'max' in last else 'smaller'} of two losses" if are_losses else ""
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
    """The two sides of a comparison, also of one behind a name."""
    if isinstance(test, ast.Name):
        sources = [s for s in function.assigned.get(test.id, ()) if isinstance(s, ast.Compare)]
        test = sources[0] if sources else test
    return [test.left, *test.comparators] if isinstance(test, ast.Compare) else []


def _of_stack(program: Program, call: ast.Call, function: Function) -> str:
    """`stack(rounds).amin(0)`, `np.min(np.stack(rounds), axis=0)`: the least along several rounds."""
    last = last_name(call)
    if last not in _REDUCES or not isinstance(call.func, ast.Attribute):
        return ""
    for source in (call.func.value, *call.args[:1]):
        value = _made(source, function)
        if value is not None and is_loss(program, value, function):
            return "the least of several rounds of losses"
    return ""


def _made(node: ast.expr, function: Function) -> ast.Call | None:
    """The call that stacks several tensors, directly or behind a name."""
    if isinstance(node, ast.Name):
        sources = [s for s in function.assigned.get(node.id, ()) if isinstance(s, ast.Call)]
        node = sources[0] if len(sources) == 1 else node
    stacks = isinstance(node, ast.Call) and last_name(node) in _STACKS[:3]
    return node if stacks and isinstance(node, ast.Call) else None


def _is_token_loss(program: Program, node: ast.expr, function: Function) -> bool:
    """Whether an expression is a loss of validation tokens, and neither a plain number nor counts."""
    counts = any(label.startswith("COUNT") for label in program.of(node, function))
    return not isinstance(node, ast.Constant) and not counts and is_loss(program, node, function)
