"""Functions that only say one expression, written where they are called, and events that nobody looks at.

    def f(x): return g(x, 1)     f(y) -> g(y, 1)        where that is shorter, or f is called once
    def none(x): pass            none(y) -> None
    yield Told(...)              gone, where the program asks of nothing whether it is a `Told`

An argument that is more than a name is moved only where it is used once, and in the order of the others; where a name
would be caught by another of the same letters, the call stays.
"""

import ast
import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from pargolf.ship.shrink.tree import TreeTransformer, children, walk

Still = Callable[[ast.AST], bool]
"""Says of an expression that its evaluation acts on nothing."""


def inlined(tree: ast.Module, *, keep: Collection[str], harmless: Still) -> ast.Module:
    """Put one-expression functions where they are called; changes `tree` and returns it. `keep` stay as they are."""
    candidates = {f.name: f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name not in keep and _says(f)}
    calls = Counter(n.func.id for n in walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name))
    named = Counter(n.id for n in walk(tree) if isinstance(n, ast.Name))
    texts = {n.value for n in walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    free = {
        name: said
        for name, f in candidates.items()
        if calls[name] == named[name] > 0 and name not in texts and (said := _says(f)) is not None
        if (calls[name] == 1 or _short(said)) and not any(isinstance(n, ast.Name) and n.id == name for n in walk(said))
    }
    for node in tree.body:
        if not (isinstance(node, ast.FunctionDef) and node.name in free):
            local = {n.id for n in walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            local |= {n.arg for n in walk(node) if isinstance(n, ast.arg)}
            _Inlined(candidates, free, local, harmless).visit(node)
    return tree


def _says(function: ast.FunctionDef) -> ast.expr | None:
    """The expression that is all of a function."""
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


def _short(said: ast.expr) -> bool:
    """Whether an expression is no longer than a call of it."""
    return len(walk(said)) <= 3 or (isinstance(said, ast.Call) and all(isinstance(a, ast.Name) for a in said.args)
                                    and not said.keywords and isinstance(said.func, ast.Name))  # fmt: skip


class _Inlined(TreeTransformer):
    """Puts expressions in the place of calls."""

    def __init__(
        self, functions: dict[str, ast.FunctionDef], said: dict[str, ast.expr], local: set[str], harmless: Still
    ) -> None:
        self.functions, self.said, self.local, self.harmless = functions, said, local, harmless

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """A call of a function that is one expression."""
        self.generic_visit(node)
        if not (isinstance(node.func, ast.Name) and node.func.id in self.said):
            return node
        given = _given(self.functions[node.func.id].args, node)
        said = self.said[node.func.id]
        return node if given is None or not self._fits(said, given) else _Put(given).visit(copy.deepcopy(said))

    def _fits(self, said: ast.expr, given: dict[str, ast.expr]) -> bool:
        names = [n.id for n in walk(said) if isinstance(n, ast.Name)]
        bound = {n.id for n in walk(said) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        bound |= {n.arg for n in walk(said) if isinstance(n, ast.arg)}
        if (set(names) - set(given)) & self.local or bound & set(given):
            return False
        moved = [name for name, value in given.items() if not isinstance(value, ast.Name | ast.Constant)]
        if bound and (moved or bound & {n.id for v in given.values() for n in walk(v) if isinstance(n, ast.Name)}):
            return False
        used = _in_order(said, set(moved))
        unused = [name for name in moved if name not in used]
        return (
            [name for name in moved if name in used] == used
            and all(self.harmless(given[name]) for name in unused)
            and (not moved or (self.harmless(said) and all(self.harmless(given[name]) for name in moved)))
        )


def _in_order(said: ast.AST, names: set[str]) -> list[str]:
    """Uses of names in the order in which they are evaluated."""
    if isinstance(said, ast.Name):
        return [said.id] if said.id in names else []
    return [name for inner in children(said) for name in _in_order(inner, names)]


def _given(args: ast.arguments, call: ast.Call) -> dict[str, ast.expr] | None:
    """Each parameter's value in a call; None where that is not plain."""
    names = [a.arg for a in args.args]
    if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords):
        return None
    given: dict[str, ast.expr] = dict(zip(names, call.args)) | {str(k.arg): k.value for k in call.keywords}
    defaults = dict(zip(reversed(names), reversed(args.defaults)))
    defaults |= {a.arg: d for a, d in zip(args.kwonlyargs, args.kw_defaults) if d is not None}
    wanted = [*names, *(a.arg for a in args.kwonlyargs)]
    whole = {name: given.get(name, defaults.get(name)) for name in wanted}
    values = {name: value for name, value in whole.items() if value is not None}
    return values if len(values) == len(wanted) and len(call.args) <= len(names) and set(given) <= set(wanted) else None


class _Put(TreeTransformer):
    """Values in the place of parameters."""

    def __init__(self, values: dict[str, ast.expr]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """A parameter."""
        return copy.deepcopy(self.values[node.id]) if node.id in self.values else node


def untold(tree: ast.Module) -> ast.Module:
    """Take out the yields of objects that nobody asks for; changes `tree` and returns it."""
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    named = Counter(n.id for n in walk(tree) if isinstance(n, ast.Name) and n.id in classes)
    told = Counter(name for n in walk(tree) if isinstance(n, ast.stmt) and (name := _told(n)))
    unasked = {name for name in told if told[name] == named[name]}
    for node in walk(tree) if unasked else ():
        if isinstance(node, ast.FunctionDef):
            yields = [n for n in walk(node) if isinstance(n, ast.Yield | ast.YieldFrom)]
            gone = [n for n in walk(node) if isinstance(n, ast.stmt) and _told(n) in unasked]
            if 0 < len(gone) < len(yields):
                _Without(gone).visit(node)
    return tree


def _told(node: ast.stmt) -> str:
    """The class of which a statement yields an object."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield) and isinstance(node.value.value, ast.Call):
        func = node.value.value.func
        return func.id if isinstance(func, ast.Name) else ""
    return ""


class _Without(TreeTransformer):
    """Takes statements out."""

    def __init__(self, gone: Iterable[ast.stmt]) -> None:
        self.gone = {id(node) for node in gone}

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """One that goes."""
        return ast.Pass() if id(node) in self.gone else node
