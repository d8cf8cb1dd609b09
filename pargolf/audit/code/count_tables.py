"""Find the names a script counts into: `np.add.at(t, k, 1)`, `t[k] += 1`, `t.scatter_add_(...)`, `t += bincount(...)`.

A helper that counts into its parameter counts into what its callers pass, and `d = counts[key]; d[token] += 1` counts
into `counts`. A table is identified by its name or attribute, whatever object holds it.
"""

import ast
from collections.abc import Iterable

from pargolf.audit.code.tree import Function, Index, argument_for, dotted, roots

_ADDING_METHODS = ("scatter_add_", "index_add_", "index_put_", "scatter_reduce_")


def find_tables(index: Index, scopes: list[Function], live: Iterable[ast.AST]) -> set[str]:
    """Names and attributes that live code counts into."""
    tables: set[str] = set()
    for node in live:
        kind = type(node)
        if kind is ast.AugAssign or kind is ast.Call or kind is ast.Assign:
            tables |= _counted_into(index, scopes, node)
    _pass_up(index, scopes, tables)
    for _ in range(2):
        _follow_rows(scopes, tables)
    return tables


def _counted_into(index: Index, scopes: list[Function], node: ast.AST) -> set[str]:
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        counts = isinstance(node.target, ast.Subscript) or _counts(index, node.value, scopes[index.place[node]])
        return roots(node.target) if counts else set()
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in _ADDING_METHODS:
            return roots(node.func.value)
        if node.args and node.func.attr == "at" and dotted(node.func).endswith("add.at"):
            return roots(node.args[0])
    elif isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Subscript) and _is_sum(node.value):
        parts = (e for e in index.below(node.value) if isinstance(e, (ast.Name, ast.Attribute)))
        return roots(target) & {r for e in parts for r in roots(e)}
    return set()


def _is_sum(node: ast.expr) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)


def _counts(index: Index, value: ast.expr, function: Function) -> bool:
    """Whether an expression comes from `bincount`, directly or through a local name."""
    for node in index.below(value):
        if isinstance(node, ast.Call) and dotted(node.func).endswith("bincount"):
            return True
        if isinstance(node, ast.Name):
            for source in function.assigned.get(node.id, ()):
                if isinstance(source, ast.Call) and dotted(source.func).endswith("bincount"):
                    return True
    return False


def _pass_up(index: Index, scopes: list[Function], tables: set[str]) -> None:
    for _ in range(3):
        for function in scopes[1:]:
            for name in function.params:
                if function.live and name in tables and _adds_to(index, function, name):
                    for site in function.calls:
                        expression = argument_for(site.call, function, name)
                        if expression is not None:
                            tables |= roots(expression)


def _adds_to(index: Index, function: Function, name: str) -> bool:
    for node in index.own_nodes(function.node):
        if isinstance(node, ast.AugAssign) and name in roots(node.target):
            return True
        adds = isinstance(node, ast.Call) and node.args and dotted(node.func).endswith(("add.at", "scatter_add_"))
        if isinstance(node, ast.Call) and adds and name in roots(node.args[0]) | roots(node.func):
            return True
    return False


def _follow_rows(scopes: list[Function], tables: set[str]) -> None:
    for function in scopes:
        for name in [n for n in function.assigned if n in tables]:
            for source in function.assigned[name]:
                if isinstance(source, (ast.Subscript, ast.Attribute)):
                    tables |= roots(source)
                elif (
                    isinstance(source, ast.Call)
                    and isinstance(source.func, ast.Attribute)
                    and source.func.attr in ("get", "setdefault")
                ):
                    tables |= roots(source.func.value)
