"""Remove unused code: names and attributes that are never read, and calls of functions that do nothing."""

import ast
from collections import Counter
from collections.abc import Collection, Mapping

from pargolf.ship.shrink.purity import Harmless, is_pass, is_pure, is_store, target_names
from pargolf.ship.shrink.reserved import foreign_names
from pargolf.ship.shrink.tree import TreeTransformer, blocks, walk


class WithoutUnreadAttributes(TreeTransformer):
    """Removes `self.name = value` when `name` is never read, except in classes with bases (modules have parameters)."""

    def __init__(self, tree: ast.Module, harmless: Harmless, outside: Collection[str] = ()) -> None:
        self.harmless = harmless
        nodes = list(walk(tree))
        self.asked = {*foreign_names(), *outside}
        self.asked |= {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}
        self.asked |= {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Skip classes with bases."""
        return node if node.bases else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """Remove an assignment to an attribute that is never read."""
        target = node.targets[0]
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            gone = len(node.targets) == 1 and target.attr not in self.asked and self.harmless(node.value)
            return ast.Pass() if gone else node
        return node


_ENDS = ast.Return | ast.Raise | ast.Continue | ast.Break


class WithoutUnread(TreeTransformer):
    """Removes names that are never read, calls of functions that do nothing, and statements that do nothing."""

    def __init__(self, tree: ast.Module, harmless: Harmless, outside: Collection[str] = ()) -> None:
        self.harmless = harmless
        empty: dict[str, bool] = {}
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                empty[node.name] = is_pass(node.body)
            elif isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef):
                        name = "." + inner.name
                        empty[name] = empty.get(name, True) and is_pass(inner.body) and not inner.decorator_list
        self.empty = {name for name, nothing in empty.items() if nothing and name.lstrip(".") not in outside}

    def _idle(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.Pass):
            return True
        if not isinstance(node, ast.Expr):
            return False
        value = node.value
        if isinstance(value, ast.Yield) and self._calls_nothing(value.value):
            return True
        return self._calls_nothing(value) or is_pure(value)

    def _calls_nothing(self, value: ast.expr | None) -> bool:
        """Whether this is a call of a function that does nothing."""
        if isinstance(value, ast.Call):
            func, args = value.func, [*value.args, *(k.value for k in value.keywords)]
            name = func.id if isinstance(func, ast.Name) else "." + func.attr if isinstance(func, ast.Attribute) else ""
            return name in self.empty and all(map(self.harmless, args))
        return False

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Drop idle statements, and unreachable statements after a return, raise, continue or break."""
        super().generic_visit(node)
        for part, block in blocks(node):
            ends = [i for i, s in enumerate(block) if isinstance(s, _ENDS)]
            remaining = [s for s in block[: ends[0] + 1 if ends else None] if not self._idle(s)]
            setattr(node, part, remaining or ([ast.Pass()] if part == "body" else []))
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Drop locals that are never read; `x = value; return x` becomes `return value`."""
        read = Counter(n.id for n in walk(node) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Store))
        only = Counter(_filled(n) for n in walk(node) if isinstance(n, ast.Expr))
        filled = {name for name in only if name and only[name] == read[name] and _made_here(node, name)}
        if filled:
            _Filled(filled).visit(node)
        shared = {name for n in walk(node) if isinstance(n, ast.Nonlocal | ast.Global) for name in n.names}
        _Unread(set(read) | shared, self.harmless).visit(node)
        self.generic_visit(node)
        written = Counter(n.id for n in walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
        _Returned({n for n in read if read[n] == written[n]} - shared, written).visit(node)
        return node


def _filled(node: ast.Expr) -> str:
    """The name of the container that a statement only adds to; empty for other statements."""
    call = node.value
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        name = call.func.value.id
        inside = any(isinstance(n, ast.Name) and n.id == name for a in call.args for n in walk(a))
        if call.func.attr in ("add", "append", "update", "extend") and not inside and all(map(is_pure, call.args)):
            return name
    return ""


def _made_here(function: ast.FunctionDef, name: str) -> bool:
    """Whether a local name is always a new container."""
    values = [n.value for n in walk(function) if isinstance(n, ast.Assign) and target_names(n.targets) == [name]]
    stores = [n for n in walk(function) if isinstance(n, ast.Name) and n.id == name and is_store(n)]
    fresh = all(
        isinstance(v, ast.List | ast.Set | ast.Dict)
        or (isinstance(v, ast.Call) and isinstance(v.func, ast.Name) and v.func.id in ("set", "list", "dict"))
        for v in values
    )
    return fresh and len(values) == len(stores) > 0


class _Filled(TreeTransformer):
    """Removes statements that only add to containers that are never read."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """Remove the statement if it only adds to such a container."""
        return ast.Pass() if _filled(node) in self.names else node


class _Unread(TreeTransformer):
    """Removes assignments to names that are never read."""

    def __init__(self, read: set[str], harmless: Harmless) -> None:
        self.read, self.harmless = read, harmless

    def _assigned(self, node: ast.Assign | ast.AnnAssign) -> ast.AST:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        gone = all(isinstance(t, ast.Name) and t.id not in self.read for t in targets)
        if gone and node.value is not None:
            return ast.Pass() if self.harmless(node.value) else ast.Expr(node.value)
        return node

    visit_Assign = visit_AnnAssign = _assigned

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Skip classes: their names are not local."""
        return node


class _Returned(TreeTransformer):
    """Replaces `x = value; return x` by `return value`."""

    def __init__(self, once: set[str], written: Mapping[str, int]) -> None:
        self.once, self.written = once, written

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Rewrite the end of each block."""
        super().generic_visit(node)
        for part, block in blocks(node):
            if len(block) > 1 and isinstance(block[-1], ast.Return):
                last, before = block[-1], block[-2]
                if isinstance(before, ast.Assign | ast.AnnAssign) and isinstance(last.value, ast.Name):
                    targets = before.targets if isinstance(before, ast.Assign) else [before.target]
                    same = len(targets) == 1 and isinstance(targets[0], ast.Name) and targets[0].id == last.value.id
                    if same and last.value.id in self.once and before.value is not None:
                        setattr(node, part, [*block[:-2], ast.Return(before.value)])
        return node
