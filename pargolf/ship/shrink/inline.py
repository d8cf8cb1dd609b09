"""Inline functions that are one expression, and remove events that have no reader.

    def f(x): return g(x, 1)     f(y) -> g(y, 1)        if that is shorter, or f is called once
    def none(x): pass            none(y) -> None
    yield Told(...)              removed if `Told` is not used anywhere else

An argument that is not a plain name is moved only if it is used once and in the same order; if a name would be captured
by a local of the same spelling, the call stays.
"""

import ast
import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from pargolf.ship.shrink.tree import TreeTransformer, children, walk

Purity = Callable[[ast.AST], bool]
"""Whether evaluating an expression has no side effects."""


def inlined(tree: ast.Module, *, keep: Collection[str], harmless: Purity) -> ast.Module:
    """Inline one-expression functions; changes `tree` and returns it. Functions named in `keep` stay."""
    functions = {f.name: f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name not in keep}
    expressions = {name: body for name, f in functions.items() if (body := _expression_of(f)) is not None}
    nodes = walk(tree)
    calls = Counter(n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name))
    uses = Counter(n.id for n in nodes if isinstance(n, ast.Name))
    texts = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    free = {
        name: body
        for name, body in expressions.items()
        if calls[name] == uses[name] > 0 and name not in texts and _worth(name, body, calls[name])
    }
    for node in tree.body:
        if not (isinstance(node, ast.FunctionDef) and node.name in free):
            _Inliner(functions, free, _names_inside(node), harmless).visit(node)
    return tree


def _worth(name: str, body: ast.expr, calls: int) -> bool:
    """Whether inlining a function is allowed and makes the program no longer."""
    return (calls == 1 or _short(body)) and not any(isinstance(n, ast.Name) and n.id == name for n in walk(body))


def _names_inside(node: ast.stmt) -> set[str]:
    """Names that are bound anywhere inside a definition."""
    nodes = walk(node)
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names | {n.arg for n in nodes if isinstance(n, ast.arg)}


def _expression_of(function: ast.FunctionDef) -> ast.expr | None:
    """The expression that a one-expression function returns; None for other functions."""
    args = function.args
    if function.decorator_list or args.vararg or args.kwarg or args.posonlyargs or len(function.body) != 1:
        return None
    only = function.body[0]
    if isinstance(only, ast.Pass):
        return ast.Constant(None)
    if isinstance(only, ast.Return):
        inner = () if only.value is None else walk(only.value)
        if not any(isinstance(n, ast.Yield | ast.YieldFrom | ast.NamedExpr) for n in inner):
            return only.value or ast.Constant(None)
    return None


def _short(body: ast.expr) -> bool:
    """Whether an expression is no longer than a call of it."""
    return len(walk(body)) <= 3 or (isinstance(body, ast.Call) and all(isinstance(a, ast.Name) for a in body.args)
                                    and not body.keywords and isinstance(body.func, ast.Name))  # fmt: skip


class _Inliner(TreeTransformer):
    """Replaces calls by the expressions of their functions."""

    def __init__(
        self, functions: dict[str, ast.FunctionDef], bodies: dict[str, ast.expr], local: set[str], harmless: Purity
    ) -> None:
        self.functions, self.bodies, self.local, self.harmless = functions, bodies, local, harmless

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Replace a call of a one-expression function."""
        self.generic_visit(node)
        if not (isinstance(node.func, ast.Name) and node.func.id in self.bodies):
            return node
        arguments = _arguments_of(self.functions[node.func.id].args, node)
        body = self.bodies[node.func.id]
        if arguments is None or not self._fits(body, arguments):
            return node
        inserted: ast.AST = _Insertion(arguments).visit(copy.deepcopy(body))
        return inserted

    def _fits(self, body: ast.expr, arguments: dict[str, ast.expr]) -> bool:
        """Whether values can be inserted into an expression without name capture or a changed order of effects."""
        nodes = walk(body)
        names = {n.id for n in nodes if isinstance(n, ast.Name)}
        bound = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        bound |= {n.arg for n in nodes if isinstance(n, ast.arg)}
        if (names - set(arguments)) & self.local or bound & set(arguments):
            return False
        moved = [name for name, value in arguments.items() if not isinstance(value, ast.Name | ast.Constant)]
        inside = {n.id for value in arguments.values() for n in walk(value) if isinstance(n, ast.Name)}
        if bound and (moved or bound & inside):
            return False
        return self._in_turn(body, {name: arguments[name] for name in moved})

    def _in_turn(self, body: ast.expr, moved: dict[str, ast.expr]) -> bool:
        """Whether values that are not plain names can be evaluated where they are used: once each, and in order."""
        used = _in_order(body, set(moved))
        if [name for name in moved if name in used] != used:
            return False
        return all(map(self.harmless, moved.values())) and (not moved or self.harmless(body))


def _in_order(body: ast.AST, names: set[str]) -> list[str]:
    """The uses of names in the order of evaluation."""
    if isinstance(body, ast.Name):
        return [body.id] if body.id in names else []
    return [name for inner in children(body) for name in _in_order(inner, names)]


def _arguments_of(args: ast.arguments, call: ast.Call) -> dict[str, ast.expr] | None:
    """The value of each parameter in a call; None when the syntax does not show it."""
    names = [a.arg for a in args.args]
    if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords):
        return None
    arguments: dict[str, ast.expr] = dict(zip(names, call.args)) | {str(k.arg): k.value for k in call.keywords}
    defaults = dict(zip(reversed(names), reversed(args.defaults)))
    defaults |= {a.arg: d for a, d in zip(args.kwonlyargs, args.kw_defaults) if d is not None}
    wanted = [*names, *(a.arg for a in args.kwonlyargs)]
    whole = {name: arguments.get(name, defaults.get(name)) for name in wanted}
    values = {name: value for name, value in whole.items() if value is not None}
    complete = len(values) == len(wanted) and len(call.args) <= len(names) and set(arguments) <= set(wanted)
    return values if complete else None


class _Insertion(TreeTransformer):
    """Replaces parameters by values."""

    def __init__(self, values: dict[str, ast.expr]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Replace a parameter."""
        return copy.deepcopy(self.values[node.id]) if node.id in self.values else node


def without_unread_events(tree: ast.Module, outside: Collection[str] = ()) -> ast.Module:
    """Remove yields of objects whose class is used nowhere else; changes `tree` and returns it."""
    nodes = walk(tree)
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)} - {*outside}
    uses = Counter(n.id for n in nodes if isinstance(n, ast.Name) and n.id in classes)
    yielded = Counter(name for n in nodes if isinstance(n, ast.stmt) and (name := _yielded_class(n)))
    unread = {name for name in yielded if yielded[name] == uses[name]} - {*outside}
    for node in nodes if unread else ():
        if isinstance(node, ast.FunctionDef):
            _drop_yields(node, unread)
    return tree


def _drop_yields(function: ast.FunctionDef, unread: set[str]) -> None:
    """Remove the yields of these classes from a function that also yields something else."""
    inner = walk(function)
    yields = sum(1 for n in inner if isinstance(n, ast.Yield | ast.YieldFrom))
    gone = [n for n in inner if isinstance(n, ast.stmt) and _yielded_class(n) in unread]
    if 0 < len(gone) < yields:
        _Without(gone).visit(function)


def _yielded_class(node: ast.stmt) -> str:
    """The class of the object that a statement yields; empty for other statements."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield) and isinstance(node.value.value, ast.Call):
        func = node.value.value.func
        return func.id if isinstance(func, ast.Name) else ""
    return ""


class _Without(TreeTransformer):
    """Removes statements."""

    def __init__(self, gone: Iterable[ast.stmt]) -> None:
        self.gone = {id(node) for node in gone}

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """Remove the statement if it is listed."""
        return ast.Pass() if id(node) in self.gone else node
