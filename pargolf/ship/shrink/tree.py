"""Walk and rewrite syntax trees, several times as fast as `ast` does.

Only fields that can hold code are visited: not the context of a name, not operators, not the value of a constant. So
`walk` yields no contexts and operators, and a `TreeTransformer` never visits them.
"""

import ast
from collections.abc import Callable
from typing import Any, ClassVar

_PLAIN = {
    *("ctx", "op", "ops", "id", "attr", "arg", "name", "asname", "level", "module", "kind", "conversion"),
    *("simple", "type_comment", "type_ignores", "is_async", "type_params", "rest", "kwd_attrs", "tag"),
}
"""Fields that never hold code, for any node; `names` and `value` depend on the node."""


_SPARSE = {"keys", "kw_defaults"}
"""Lists that may contain None: `**` in a dictionary, an argument without a default."""


class _Children(dict[type, tuple[tuple[str, bool], ...]]):
    """Node class -> its fields that can hold code, each with whether its list may contain None."""

    def __missing__(self, kind: type) -> tuple[tuple[str, bool], ...]:
        fields = tuple((name, name in _SPARSE) for name in getattr(kind, "_fields", ()) if name not in _PLAIN)
        if kind in (ast.Global, ast.Nonlocal, ast.Constant, ast.MatchSingleton):
            fields = ()
        self[kind] = fields
        return fields


_CHILDREN = _Children()


def children(node: ast.AST) -> list[ast.AST]:
    """The direct children of a node."""
    out: list[ast.AST] = []
    values = node.__dict__
    for name, sparse in _CHILDREN[node.__class__]:
        value = values.get(name)
        if value.__class__ is list:
            out += [inner for inner in value if inner is not None] if sparse else value
        elif value is not None:
            out.append(value)
    return out


def walk(node: ast.AST) -> list[ast.AST]:
    """A node and all its descendants, breadth first."""
    out = [node]
    for inner in out:  # the list grows during the loop
        fields = _CHILDREN[inner.__class__]
        if fields:
            values = inner.__dict__
            for name, sparse in fields:
                value = values.get(name)
                if value:
                    if value.__class__ is list:
                        out += [child for child in value if child is not None] if sparse else value
                    else:
                        out.append(value)
    return out


def blocks(node: ast.AST) -> list[tuple[str, list[ast.stmt]]]:
    """The statement lists of a node, each with its field name."""
    values = node.__dict__
    if values.get("body").__class__ is not list:
        return []
    return [(name, values[name]) for name in ("body", "orelse", "finalbody") if values.get(name)]


class TreeTransformer(ast.NodeTransformer):
    """A faster `ast.NodeTransformer`: a visit may return None to remove a node, or a list of nodes."""

    _asked: ClassVar[dict[type, Callable[..., Any]]]
    _leaves: ClassVar[set[type]]

    def __init_subclass__(cls) -> None:
        cls._asked, cls._leaves = {}, set()

    def visit(self, node: ast.AST) -> Any:
        """Visit a node; returns its replacement."""
        kind = node.__class__
        method = self._asked.get(kind)
        return (method or self._ask(kind))(self, node)

    @classmethod
    def _ask(cls, kind: type) -> Callable[..., Any]:
        """The visitor method for a node class; classes without method and children are never visited again."""
        method: Callable[..., Any] = getattr(cls, f"visit_{kind.__name__}", cls.generic_visit)
        cls._asked[kind] = method
        if method is cls.generic_visit and not _CHILDREN[kind]:
            cls._leaves.add(kind)
        return method

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Visit all children, and replace them in place; returns the node."""
        values, visit, leaves = node.__dict__, self.visit, self._leaves
        for name, _ in _CHILDREN[node.__class__]:
            value = values.get(name)
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
                    values[name] = seen
        return node
