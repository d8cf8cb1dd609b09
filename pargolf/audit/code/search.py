"""Searches that the rules on code share: updates, losses, what is reported, and what was assigned last."""

import ast
from collections.abc import Iterator

from pargolf.audit.code.program import Program
from pargolf.audit.code.tree import Function, dotted, walk

LOOPS = (ast.For, ast.AsyncFor, ast.While)
STORES = ("add_", "append", "extend", "copy_", "index_add_", "scatter_add_", "index_copy_", "masked_scatter_", "put_")


def updates(program: Program) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Live calls that compute gradients, with the differentiated loss."""
    if "backward" not in program.by_name:
        for call, method in program.calls_of("backward"):
            yield call, method.value
    for call, method in program.calls_of("grad"):
        if len(call.args) > 1 and dotted(method).endswith("autograd.grad"):
            yield call, call.args[0]


def is_loss(program: Program, node: ast.expr, function: Function) -> bool:
    """Whether an expression is a loss of validation tokens."""
    labels = program.of(node, function)
    return "VAL" in labels and "LOSS" in labels


def is_reported(program: Program, root: str, function: Function) -> bool:
    """Whether the sum in a name leaves the function: returned, stored on an object, or summed at the top level."""
    if root in function.params or root not in function.assigned or function.name in ("main", "<module>"):
        return True
    nodes = program.own_nodes(function)
    if any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in nodes):
        return True
    names: set[str] = set()
    feeds: dict[str, set[str]] = {}
    for node in nodes:
        if node in program.live:
            names |= _leaving(node)
            for name, sources in _feeding(node):
                feeds.setdefault(name, set()).update(sources)
    waiting = list(names)
    while waiting:
        for name in feeds.get(waiting.pop(), set()) - names:
            names.add(name)
            waiting.append(name)
    return root in names


def _leaving(node: ast.AST) -> set[str]:
    """Names whose values a node returns or stores on an object."""
    if isinstance(node, ast.Return) and node.value is not None:
        return names_in(node.value)
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)) and node.value is not None:
        return names_in(node.value) if any(isinstance(t, ast.Attribute) for t in _targets(node)) else set()
    return set()


def _feeding(node: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """Names that a node assigns or stores into, and the names that it takes from."""
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)) and node.value is not None:
        sources = names_in(node.value)
        yield from ((name, sources) for target in _targets(node) for name in names_in(target))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in STORES:
        yield root_of(node.func.value), {name for a in node.args for name in names_in(a)}


def _targets(node: ast.Assign | ast.AugAssign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def live_below(program: Program, node: ast.AST) -> Iterator[ast.AST]:
    """Live nodes below a node, without the bodies of functions."""
    stack = [node]
    while stack:
        part = stack.pop()
        if part in program.live or isinstance(part, (ast.comprehension, ast.keyword, ast.withitem)):
            yield part
        if not isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            stack.extend(program.children.get(part, ()))


def names_in(node: ast.AST) -> set[str]:
    """Plain names that a tree mentions."""
    return {n.id for n in walk(node) if isinstance(n, ast.Name)}


def root_of(node: ast.AST) -> str:
    """The name at the root of a target, `self.x` kept whole; empty if there is none."""
    while isinstance(node, (ast.Subscript, ast.Attribute, ast.Starred)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            return f"self.{node.attr}"
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def nearby(program: Program, node: ast.AST, at: ast.AST, depth: int = 0) -> frozenset[str]:
    """`VAL` and `TRAIN` labels of an expression, by the nearest assignments before `at` instead of all in the function.

    Scripts reuse `x`, `y` and `loss` for both splits within one long function. Here each use sees only what was
    assigned last before it.
    """
    key = (id(node), id(at))
    if key in program.near:
        return program.near[key]
    program.near[key] = frozenset()  # a value that depends on itself adds nothing
    function = program.function_of(at)
    out: frozenset[str] = frozenset()
    stack = [node]
    while stack:
        part = stack.pop()
        if isinstance(part, ast.Name):
            bindings = last_binding(program, part.id, at, function) if depth < 8 else None
            if bindings is None:
                out |= program.of(part, function)
            for value, binder in bindings or ():
                out |= nearby(program, value, binder, depth + 1)
        else:
            if isinstance(part, (ast.Attribute, ast.Constant)):
                out |= program.own_labels(part)
            stack.extend(c for c in program.children.get(part, ()) if not isinstance(part, ast.Lambda))
    program.near[key] = out & {"VAL", "TRAIN"}
    return program.near[key]


def last_binding(
    program: Program, name: str, node: ast.AST, function: Function
) -> list[tuple[ast.expr, ast.AST]] | None:
    """The values from the nearest statement before `at` that assigns a name; None at the function's start."""
    below = node
    for above in program.ancestors(node):
        for block in (getattr(above, part, None) for part in ("body", "orelse", "finalbody")):
            if isinstance(block, list) and below in block:
                for statement in reversed(block[: block.index(below)]):
                    bindings = _bound(program, statement).get(name)
                    if bindings:
                        return bindings
        if isinstance(above, (ast.For, ast.AsyncFor)) and name in names_in(above.target):
            return [(above.iter, above)]
        if above is function.node:
            return None
        below = above
    return None


def _bound(program: Program, statement: ast.stmt) -> dict[str, list[tuple[ast.expr, ast.AST]]]:
    """Names that a live statement assigns, with the values; cached, because every later use needs it."""
    bindings = program.binds.get(statement)
    if bindings is not None:
        return bindings
    bindings = program.binds[statement] = {}
    for node in live_below(program, statement):
        pairs: list[tuple[ast.expr, ast.expr]] = []
        if isinstance(node, ast.Assign):
            pairs = [pair for target in node.targets for pair in _paired(target, node.value)]
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign)) and node.value is not None:
            pairs = [(node.target, node.value)]
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            pairs = [(node.target, node.iter)]
        for target, value in pairs:
            for name in names_in(target):
                bindings.setdefault(name, []).append((value, node))
    return bindings


def _paired(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """`a, b = x, y` as two assignments."""
    several = isinstance(target, (ast.Tuple, ast.List)) and isinstance(value, (ast.Tuple, ast.List))
    elements, values = getattr(target, "elts", []), getattr(value, "elts", [])
    if several and len(elements) == len(values):
        return [pair for t, v in zip(elements, values) for pair in _paired(t, v)]
    return [(target, value)]


def is_validation(program: Program, call: ast.Call, loss: ast.expr) -> bool:
    """Whether an update learns from validation tokens and not from training tokens, by the last assignments."""
    labels = program.of(loss, program.function_of(call))
    if "VAL" in labels and "TRAIN" in labels:
        labels = nearby(program, loss, call)
    return "VAL" in labels and "TRAIN" not in labels


def library_module(value: ast.expr) -> bool:
    """Whether a value is a new module of the library, such as `nn.Linear(8, 8).to(device)`."""
    while (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and isinstance(value.func.value, ast.Call)
    ):
        value = value.func.value
    return isinstance(value, ast.Call) and dotted(value.func).removeprefix("torch.").startswith("nn.")


def calibrates(program: Program, call: ast.Call, split: str) -> bool:
    """Whether a call gives data of only one split to a function that watches layers through hooks."""
    # A scorer may watch layers, too. It returns a loss, and a calibrator does not.
    watches = any(
        callee in program.watchers and "LOSS" not in program.known(callee.returns, callee)
        for callee in program.callees(call)
    )
    if not watches:
        return False
    arguments = [*call.args, *(k.value for k in call.keywords)]
    labels = frozenset().union(*(nearby(program, a, call) for a in arguments)) if arguments else frozenset()
    return split in labels and len(labels & {"TRAIN", "VAL"}) == 1
