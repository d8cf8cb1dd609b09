"""Walk and rewrite syntax trees, several times as fast as `ast` does.

Only fields that can hold code are looked into: not a name's context, not an operator, not a constant's value. So
`walk` gives no contexts and operators, and a `TreeTransformer` is never asked about them.
"""

import ast
from collections.abc import Callable
from typing import Any, ClassVar

_PLAIN = {
    *("ctx", "op", "ops", "id", "attr", "arg", "name", "asname", "level", "module", "kind", "conversion"),
    *("simple", "type_comment", "type_ignores", "is_async", "type_params", "rest", "kwd_attrs", "tag"),
}
"""Fields that hold no code, whatever node they are of; `names` and `value` depend on it."""


_SPARSE = {"keys", "kw_defaults"}
"""Lists that may hold None: `**` in a dictionary, an argument without a default."""


class _Children(dict[type, tuple[tuple[str, bool], ...]]):
    """Class of node -> the fields that can hold code, each with whether it may hold None between others."""

    def __missing__(self, kind: type) -> tuple[tuple[str, bool], ...]:
        fields = tuple((name, name in _SPARSE) for name in getattr(kind, "_fields", ()) if name not in _PLAIN)
        if kind in (ast.Global, ast.Nonlocal, ast.Constant, ast.MatchSingleton):
            fields = ()
        self[kind] = fields
        return fields


_CHILDREN = _Children()


def children(node: ast.AST) -> list[ast.AST]:
    """The nodes right below."""
    out: list[ast.AST] = []
    held = node.__dict__
    for name, sparse in _CHILDREN[node.__class__]:
        value = held.get(name)
        if value.__class__ is list:
            out += [inner for inner in value if inner is not None] if sparse else value
        elif value is not None:
            out.append(value)
    return out


def walk(node: ast.AST) -> list[ast.AST]:
    """A node and all below it, the nearer ones first."""
    out = [node]
    for inner in out:  # grows on the way
        fields = _CHILDREN[inner.__class__]
        if fields:
            held = inner.__dict__
            for name, sparse in fields:
                value = held.get(name)
                if value:
                    if value.__class__ is list:
                        out += [child for child in value if child is not None] if sparse else value
                    else:
                        out.append(value)
    return out


def blocks(node: ast.AST) -> list[tuple[str, list[ast.stmt]]]:
    """The lists of statements right below, each with the field that it stands in."""
    held = node.__dict__
    if held.get("body").__class__ is not list:
        return []
    return [(name, held[name]) for name in ("body", "orelse", "finalbody") if held.get(name)]


class TreeTransformer(ast.NodeTransformer):
    """`ast.NodeTransformer`, which also takes None for nothing and a list for several."""

    _asked: ClassVar[dict[type, Callable[..., Any]]]
    _leaves: ClassVar[set[type]]

    def __init_subclass__(cls) -> None:
        cls._asked, cls._leaves = {}, set()

    def visit(self, node: ast.AST) -> Any:
        """What takes the node's place."""
        kind = node.__class__
        method = self._asked.get(kind)
        return (method or self._ask(kind))(self, node)

    @classmethod
    def _ask(cls, kind: type) -> Callable[..., Any]:
        """The method for a class of node; one that has no method and nothing below need not be visited again."""
        method: Callable[..., Any] = getattr(cls, f"visit_{kind.__name__}", cls.generic_visit)
        cls._asked[kind] = method
        if method is cls.generic_visit and not _CHILDREN[kind]:
            cls._leaves.add(kind)
        return method

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """The node, with what takes the places of those below."""
        held, visit, leaves = node.__dict__, self.visit, self._leaves
        for name, _ in _CHILDREN[node.__class__]:
            value = held.get(name)
            if value.__class__ is list:
                new: list[Any] = []
                for inner in value:
                    seen = inner if inner is None or inner.__class__ in leaves else visit(inner)
                    if seen.__class__ is list:
                        new += seen
                    elif seen is not None or inner is None:
                        new.append(seen)
                value[:] = new
            elif value is not None and value.__class__ not in leaves:
                seen = visit(value)
                if seen is None:
                    delattr(node, name)
                else:
                    held[name] = seen
        return node
