"""The files of a package as syntax trees: what each defines, and what its global names refer to.

Files of the user (`user_files`) are handled in the same way.
"""

import ast
import builtins
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Protocol

from pargolf.ship.shrink.tree import walk

Key = tuple[str, str]
"""A definition as (module, name); something imported from outside the package as ("", import statement)."""


_PLAIN_DECORATORS = frozenset(
    {*("dataclass", "cache", "lru_cache", "contextmanager", "total_ordering", "wraps", "singledispatch", "final")}
    | {*("runtime_checkable", "compile", "script", "no_grad", "inference_mode", "enable_grad", "unique", "disable")}
)


class Unfit(ValueError):
    """A file of the user has code that cannot be followed; the message says where."""


class UserFile(Protocol):
    """A file outside the package: its text, and the package that its relative imports start from."""

    @property
    def text(self) -> str:
        """The whole text."""
        ...

    @property
    def package(self) -> str:
        """The name of its package; empty when it has none."""
        ...

    @property
    def file(self) -> str:
        """Its name in messages."""
        ...


@dataclass
class Module:
    """A file: its definitions in order, and the meaning of each global name (a key, or the name of a module).

    `loose` are names that other top-level statements bind (a loop, for example), with the line. `acting` are
    definitions with a side effect: for example, a decorator adds them to a registry.
    """

    name: str
    nodes: dict[str, ast.stmt] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    names: dict[str, Key | str] = field(default_factory=dict)
    loose: dict[str, int] = field(default_factory=dict)
    acting: set[str] = field(default_factory=set)


class Package:
    """The files of the package and of the user, parsed on demand."""

    def __init__(
        self,
        root: Path,
        without: frozenset[str],
        constants: Mapping[str, Callable[..., str]] | None = None,
        user_files: Mapping[str, UserFile] | None = None,
        settings: Mapping[Key, bool | int] | None = None,
    ) -> None:
        self.root, self.without = root, without
        self.constants, self.user_files, self.settings = constants or {}, user_files or {}, settings or {}
        self.modules: dict[str, Module] = {}
        self._needs: dict[str, set[str]] = {}

    def module(self, name: str) -> Module:
        """A module; everything that it imports is loaded, too."""
        if name not in self.modules:
            text = self._text(name)
            if text is None:
                raise ValueError(f"{name} is no module of {self.root.name}.")
            self.modules[name] = module = Module(name)
            self._needs[name] = set()
            lines = text.splitlines()
            for node in ast.parse(text).body:
                self._take(module, node, lines)
        return self.modules[name]

    def expect(self, key: Key) -> None:
        """Raise `ValueError` unless a module defines this name."""
        if key[1] not in self.module(key[0]).nodes:
            raise ValueError(f"{key[0]} has no '{key[1]}'.")

    def file(self, name: str) -> str:
        """The name of a module's file in messages."""
        return self.user_files[name].file if name in self.user_files else name

    def order(self) -> list[str]:
        """All modules, each after those that it imports, in a reproducible order."""
        graph = {name: sorted(self._needs[name]) for name in sorted(self._needs)}
        try:
            return list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            files = " and ".join(sorted({self.file(name) for name in error.args[1]}))
            raise Unfit(
                f"{files} import each other, and one script cannot. Put what both need into a third file."
            ) from error

    def copy_of(self, key: Key) -> ast.stmt:
        """A new tree of the definition, which may be changed; parsing again is faster than copying."""
        return ast.parse(self.modules[key[0]].texts[key[1]]).body[0]

    def _path(self, name: str) -> Path | None:
        """The file of a module of the package."""
        path = self.root.parent.joinpath(*name.split(".")).with_suffix(".py")
        return path if name.split(".")[0] == self.root.name and path.is_file() else None

    def _text(self, name: str) -> str | None:
        if name in self.user_files:
            return self.user_files[name].text
        path = self._path(name)
        return None if path is None else path.read_text(encoding="utf-8")

    def has(self, name: str) -> bool:
        """Whether the module belongs to the package, or is a user's file."""
        return name in self.user_files or self._path(name) is not None

    def _take(self, module: Module, node: ast.stmt, lines: list[str]) -> None:
        """Add what a top-level statement imports or defines."""
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._take_import(module, node)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            if module.name in self.user_files and any(map(_acts, node.decorator_list)):
                if node.name in module.nodes:
                    self._unfit(module, node.lineno, f"a second {node.name}", "another name")
                module.acting.add(node.name)
            module.nodes[node.name] = node
            module.names[node.name] = (module.name, node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            node, lines = self._written_out(module, node, lines)
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in [name for target in targets for name in _stored_names(target)]:
                module.nodes[name] = node
                module.names[name] = (module.name, name)
        if module.name in self.user_files and not isinstance(node, ast.FunctionDef | ast.ClassDef):
            self._take_loose(module, node)
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        for name in [name for name, defined in module.nodes.items() if defined is node]:
            module.texts[name] = "\n".join(lines[first - 1 : node.end_lineno])
            module.lines[name] = first

    def _take_import(self, module: Module, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self._take_module(module, alias, node.lineno)
        else:
            source = self._source(module, node)
            for alias in node.names:
                self._take_from(module, source, alias, node.lineno)

    def _written_out(
        self, module: Module, node: ast.Assign | ast.AnnAssign, lines: list[str]
    ) -> tuple[ast.Assign | ast.AnnAssign, list[str]]:
        """Replace `NAME = f("text")` by the string that `f` returns, if the caller listed `f` in `constants`."""
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

    def _take_loose(self, module: Module, node: ast.stmt) -> None:
        """Note names that the top level binds or changes other than by a single assignment; they cannot be followed."""
        guard = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
        if guard or isinstance(node, ast.Import | ast.ImportFrom):
            return
        if isinstance(node, ast.Assign | ast.AnnAssign):
            again = {name for name, defined in module.nodes.items() if defined is node and name in module.texts}
            names = _changed_names(node) | again
        else:
            names = _bound_names(node)
        from_outside = {name for name, meant in module.names.items() if isinstance(meant, tuple) and not meant[0]}
        module.loose |= dict.fromkeys(names - from_outside - set(dir(builtins)), node.lineno)

    def _source(self, module: Module, node: ast.ImportFrom) -> str:
        """The module that names are taken from, its dots resolved."""
        if not node.level:
            return str(node.module)
        parts = self.user_files[module.name].package.split(".")
        return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])

    def _take_module(self, module: Module, alias: ast.alias, line: int) -> None:
        """`import a.b as c`."""
        if self.has(alias.name):
            if not alias.asname and "." in alias.name:
                self._unfit(module, line, f"import {alias.name}", f"import {alias.name} as SHORT")
            self._needs[module.name].add(alias.name)
            self.module(alias.name)
            module.names[alias.asname or alias.name] = alias.name
            return
        bound = alias.asname or alias.name.split(".")[0]
        statement = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
        module.names[bound] = ("", statement)

    def _take_from(self, module: Module, source: str, alias: ast.alias, line: int) -> None:
        bound, inner = alias.asname or alias.name, f"{source}.{alias.name}"
        if alias.name == "*":
            self._unfit(module, line, f"from {source} import *", "the names")
        if self.has(inner):
            self._needs[module.name].add(inner)
            self.module(inner)
            module.names[bound] = inner
        elif self.has(source):
            self._needs[module.name].add(source)
            self.module(source)
            module.names[bound] = (source, alias.name)
        else:
            statement = f"from {source} import {alias.name}"
            module.names[bound] = ("", statement + (f" as {alias.asname}" if alias.asname else ""))

    def _unfit(self, module: Module, line: int, what: str, instead: str) -> None:
        raise Unfit(f"{self.file(module.name)}, line {line}: a script cannot hold `{what}`. Write {instead}.")


def _acts(decorator: ast.expr) -> bool:
    """Whether a decorator may have a side effect, besides returning a function or class."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(called).rpartition(".")[2] not in _PLAIN_DECORATORS


def _stored(node: ast.AST) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Store)


def _stored_names(target: ast.expr) -> list[str]:
    """Names that the target of an assignment binds."""
    return [n.id for n in walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


def _changed_names(node: ast.stmt) -> set[str]:
    """Names of objects that an assignment changes: `TABLE[0] = x` changes TABLE."""
    owners = [n.value for n in walk(node) if isinstance(n, ast.Subscript | ast.Attribute) and _stored(n)]
    return {n.id for owner in owners for n in walk(owner) if isinstance(n, ast.Name)}


def _bound_names(node: ast.stmt) -> set[str]:
    """Names that a compound statement mentions, defines or imports."""
    nodes = walk(node)
    kinds = (ast.Name, ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    names = {str(getattr(n, "id", getattr(n, "name", ""))) for n in nodes if isinstance(n, kinds)}
    return names | {a.asname or a.name for n in nodes if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
