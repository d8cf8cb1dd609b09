"""Full names of what a script calls: `F.cross_entropy` is `torch.nn.functional.cross_entropy`, under any alias."""

import ast
from collections.abc import Iterable, Mapping

from pargolf.audit.code.tree import dotted, last_name

_BINDERS = frozenset({ast.Import, ast.ImportFrom, ast.Assign})


def imported(nodes: Iterable[ast.AST], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Names that imports bind, with their full names; `x = __import__("y")` and `x = plain_name` bind, too.

    `known` are the names that enclosing code binds.
    """
    names: dict[str, str] = dict(known or {})
    aliases: list[tuple[str, str]] = []
    for node in nodes:
        if type(node) not in _BINDERS:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            if isinstance(node.value, ast.Call) and (module := named_module(node.value)):
                names[node.targets[0].id] = module
            elif isinstance(node.value, (ast.Name, ast.Attribute)):
                aliases.append((node.targets[0].id, dotted(node.value)))
    for name, source in aliases:
        root, _, rest = source.partition(".")
        if root in names and name not in names:
            names[name] = f"{names[root]}.{rest}".rstrip(".")
    return names


def named_module(call: ast.Call) -> str:
    """The module that `__import__("x")` or `import_module("x")` returns; empty for anything else."""
    named = last_name(call) in ("__import__", "import_module")
    value = getattr(call.args[0], "value", None) if named and call.args else None
    return value if isinstance(value, str) else ""


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """The full name of an expression; empty if it has none."""
    attributes = ""
    while isinstance(node, ast.Attribute):
        attributes = f".{node.attr}{attributes}"
        node = node.value
    if isinstance(node, ast.Name):
        return f"{names.get(node.id, node.id)}{attributes}"
    if isinstance(node, ast.Call) and (module := named_module(node)):
        return f"{module}{attributes}"
    return ""
