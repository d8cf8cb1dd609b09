"""Which code may be removed: expressions without effects, and expressions whose value is known.

An expression is pure when it only calls functions that are known to be pure. It is harmless when no call in it has side
effects: on shared objects, on a random stream, on files. A function of the program has side effects when its body
stores into its arguments, or calls something with side effects; if several share a name, one is enough for all.
"""

import ast
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

from pargolf.ship.shrink.tree import walk

KEPT_METHODS = {"forward", "backward", "setup_context", "step", "zero_grad"}
"""Methods that torch calls."""
_PURE_CALLS = {
    *("len", "int", "str", "sorted", "min", "max", "set", "list", "dict", "tuple", "sum", "any", "all", "abs", "float"),
    *("bool", "repr", "isinstance", "zip", "enumerate", "range", "type", "frozenset", "map"),
}
_PURE_METHODS = {"join", "get", "items", "keys", "values", "startswith", "endswith", "split", "dim", "max", "numel"}
_ACTS = {
    *("next", "pop", "append", "add", "update", "setdefault", "extend", "remove", "discard", "clear", "write", "read"),
    *("manual_seed", "step", "backward", "wait", "send", "close", "all_reduce", "put", "fill", "sort", "popleft"),
}
_PURE = (
    *(ast.Constant, ast.Name, ast.Attribute, ast.operator, ast.boolop, ast.unaryop, ast.cmpop, ast.expr_context),
    *(ast.BinOp, ast.BoolOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.Tuple, ast.List, ast.Set, ast.Dict),
    *(ast.Subscript, ast.Slice, ast.JoinedStr, ast.FormattedValue, ast.Starred, ast.comprehension),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda, ast.arguments, ast.arg),
)


def is_pure(node: ast.AST) -> bool:
    """Whether an expression has only names, constants, operators, and calls that are known to be pure."""
    for inner in walk(node):
        if isinstance(inner, ast.Call):
            func = inner.func
            known = isinstance(func, ast.Name) and func.id in _PURE_CALLS
            if not known and not (isinstance(func, ast.Attribute) and func.attr in _PURE_METHODS):
                return False
        elif not isinstance(inner, _PURE) and not isinstance(inner, ast.keyword):
            return False
    return True


class Harmless:
    """Decides whether an expression can be dropped when its value is not used."""

    def __init__(self, tree: ast.Module, outside: Collection[str] = ()) -> None:
        bodies = _bodies(tree)
        called = {
            name: {_called(n) for function in functions for n in walk(function) if isinstance(n, ast.Call)}
            for name, functions in bodies.items()
        }
        self.acting = {name for name, functions in bodies.items() if any(map(_stores, functions))}
        self.acting |= {name for name, others in called.items() if any(map(_acts, others))} | {*outside}
        while more := {name for name, others in called.items() if others & self.acting} - self.acting:
            self.acting |= more

    def __call__(self, node: ast.AST) -> bool:
        """Whether no call in an expression has side effects."""
        for inner in walk(node):
            if isinstance(inner, ast.Yield | ast.YieldFrom | ast.NamedExpr | ast.Await):
                return False
            if isinstance(inner, ast.Call) and (_acts(name := _called(inner)) or name in self.acting):
                return False
        return True


def _bodies(tree: ast.Module) -> dict[str, list[ast.FunctionDef]]:
    """Functions and methods by name; constructors by the name of their class."""
    bodies: dict[str, list[ast.FunctionDef]] = defaultdict(list)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            bodies[node.name].append(node)
        elif isinstance(node, ast.ClassDef):
            for method in [inner for inner in node.body if isinstance(inner, ast.FunctionDef)]:
                constructs = method.name in ("__init__", "__post_init__")
                bodies[node.name if constructs else method.name].append(method)
    return bodies


def _called(call: ast.Call) -> str:
    func = call.func
    return func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""


def _acts(name: str) -> bool:
    return name in _ACTS or (name.endswith("_") and not name.endswith("__"))


def _stores(function: ast.FunctionDef) -> bool:
    """Whether a function writes into objects that it did not create; a constructor may write into its own object."""
    inner = walk(function)
    made = {n.id for n in inner if isinstance(n, ast.Name) and is_store(n)}
    made |= {"self"} if function.name in ("__init__", "__post_init__") else set()
    for node in inner:
        if isinstance(node, ast.Nonlocal | ast.Global):
            return True
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            owner: ast.AST = node
            while isinstance(owner, ast.Attribute | ast.Subscript):
                owner = owner.value
            if not (isinstance(owner, ast.Name) and owner.id in made):
                return True
    return False


MISSING = object()


def value_of(node: ast.expr | None) -> Any:
    """The value of a constant, or of an empty tuple; else `MISSING`."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple | ast.List) and not node.elts and isinstance(node.ctx, ast.Load):
        return ()
    return MISSING


def truth_of(node: ast.expr) -> bool | None:
    """Whether an expression is true; None when unknown."""
    value = value_of(node)
    return None if value is MISSING else bool(value)


def is_pass(body: list[ast.stmt]) -> bool:
    """Whether a block does nothing."""
    return all(isinstance(s, ast.Pass) for s in body)


def is_data(node: ast.ClassDef) -> bool:
    """Whether a class is a dataclass."""
    return any("dataclass" in ast.unparse(d) for d in node.decorator_list)


def fields_of(node: ast.ClassDef) -> dict[str, ast.expr | None]:
    """Fields of a dataclass and their defaults."""
    return {n.target.id: n.value for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}


def is_store(node: ast.Name) -> bool:
    """Whether a name is bound or deleted here."""
    return not isinstance(node.ctx, ast.Load)


def target_names(targets: list[ast.expr]) -> list[str]:
    """Names that an assignment binds; an empty string for a target that is not a plain name."""
    return [t.id if isinstance(t, ast.Name) else "" for t in targets]


def bound_by(node: ast.stmt) -> Iterator[str]:
    """Names that a top-level statement binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        yield from (n.id for n in walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
