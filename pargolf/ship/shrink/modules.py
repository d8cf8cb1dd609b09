"""The files of a package as syntax trees: what each defines, and what its global names stand for."""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

from pargolf.ship.shrink.tree import walk

Key = tuple[str, str]
"""A definition as (module, name); something from outside the package as ("", import statement)."""


@dataclass
class Module:
    """A file: its definitions in order, and what each of its global names stands for (a key, or a module's name)."""

    name: str
    nodes: dict[str, ast.stmt] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    names: dict[str, Key | str] = field(default_factory=dict)


class Package:
    """Files of the package, parsed as they are asked for."""

    def __init__(
        self, root: Path, without: frozenset[str], constants: Mapping[str, Callable[..., str]] | None = None
    ) -> None:
        self.root, self.without, self.constants = root, without, constants or {}
        self.modules: dict[str, Module] = {}
        self._needs: dict[str, set[str]] = {}

    def module(self, name: str) -> Module:
        """A module and, through it, everything that it imports."""
        if name not in self.modules:
            path = self.path(name)
            if path is None:
                raise ValueError(f"{name} is no module of {self.root.name}.")
            self.modules[name] = found = Module(name)
            self._needs[name] = set()
            text = path.read_text(encoding="utf-8")
            lines = text.splitlines()
            for node in ast.parse(text).body:
                self._take(found, node, lines)
        return self.modules[name]

    def path(self, name: str) -> Path | None:
        """The file of a module of the package."""
        path = self.root.parent.joinpath(*name.split(".")).with_suffix(".py")
        return path if name.split(".")[0] == self.root.name and path.is_file() else None

    def order(self) -> list[str]:
        """Modules, each after those that it imports; the same list every time."""
        graph = {name: sorted(self._needs[name]) for name in sorted(self._needs)}
        return list(TopologicalSorter(graph).static_order())

    def fresh(self, key: Key) -> ast.stmt:
        """A tree of the definition that may be changed; parsing again is faster than copying."""
        return ast.parse(self.modules[key[0]].texts[key[1]]).body[0]

    def _take(self, module: Module, node: ast.stmt, lines: list[str]) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".")[0]
                said = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
                module.names[bound] = ("", said)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                self._take_from(module, str(node.module), alias)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            module.nodes[node.name] = node
            module.names[node.name] = (module.name, node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            node, lines = self._written_out(module, node, lines)
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound_names = [n.id for target in targets for n in walk(target) if isinstance(n, ast.Name)]
            for name in bound_names:
                module.nodes[name] = node
                module.names[name] = (module.name, name)
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        for name in [name for name, held in module.nodes.items() if held is node]:
            module.texts[name] = "\n".join(lines[first - 1 : node.end_lineno])

    def _written_out(
        self, module: Module, node: ast.Assign | ast.AnnAssign, lines: list[str]
    ) -> tuple[ast.Assign | ast.AnnAssign, list[str]]:
        """`NAME = f("text")` as the string that `f` returns, where the caller named `f` as a maker of constants."""
        call = node.value
        if not (isinstance(node, ast.Assign) and isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            return node, lines
        make = self.constants.get(":".join(module.names.get(call.func.id, ("", ""))))
        if make is None:
            return node, lines
        value = make(*map(ast.literal_eval, call.args))
        line = f"{ast.unparse(node.targets[0])} = {value!r}"
        written = ast.parse(line).body[0]
        assert isinstance(written, ast.Assign)
        return written, [line]

    def _take_from(self, module: Module, source: str, alias: ast.alias) -> None:
        bound, inner = alias.asname or alias.name, f"{source}.{alias.name}"
        if self.path(inner) is not None:
            self._needs[module.name].add(inner)
            self.module(inner)
            module.names[bound] = inner
        elif self.path(source) is not None:
            self._needs[module.name].add(source)
            self.module(source)
            module.names[bound] = (source, alias.name)
        else:
            said = f"from {source} import {alias.name}"
            module.names[bound] = ("", said + (f" as {alias.asname}" if alias.asname else ""))
