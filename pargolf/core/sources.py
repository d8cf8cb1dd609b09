"""Read Python files as syntax trees: what a file imports, what its top level binds, what a definition uses.

Nothing is run. `core/own.py` uses this to load a user's files together with the modules beside them that they import,
and to hash exactly the source that a definition depends on.
"""

import ast
import builtins
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pargolf.core.errors import UserError

_PACKAGE = __name__.partition(".")[0]
_APART = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda


@dataclass(frozen=True, eq=False)
class Source:
    """A file's text and its module name; `root` is the folder that module names are relative to."""

    name: str
    path: Path
    root: Path
    text: str

    @property
    def file(self) -> str:
        """The path under `root`, as `grids.py` or `tech/grids.py`."""
        return self.path.relative_to(self.root).as_posix()

    @property
    def package(self) -> str:
        """The package that its relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree. Raises `UserError` when the text is not valid Python."""
        return tree_of(self.text, self.path)

    @cached_property
    def statements(self) -> dict[str, list[ast.stmt]]:
        """The top-level statements that bind each name."""
        out: dict[str, list[ast.stmt]] = {}
        for node in self.tree.body:
            for name in bound(node):
                out.setdefault(name, []).append(node)
        return out

    @cached_property
    def imported(self) -> dict[str, tuple[str, str]]:
        """Origin of each name imported at top level: (module, name); the name is empty for a module itself."""
        out: dict[str, tuple[str, str]] = {}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom):
                module = import_source(node, self.package)
                out |= {alias.asname or alias.name: (module, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                out |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
        return out

    @cached_property
    def wanted(self) -> set[str]:
        """Every module that its imports may refer to, without those of Python and of this package."""
        out: set[str] = set()
        for node in ast.walk(self.tree):
            bases: list[str] = []
            if isinstance(node, ast.Import):
                bases = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                source = import_source(node, self.package)
                bases = [source, *(f"{source}.{alias.name}" for alias in node.names if alias.name != "*")]
            parts = [base.split(".") for base in bases]
            ours = [p for p in parts if p[0] not in ("", _PACKAGE) and p[0] not in sys.stdlib_module_names]
            out |= {".".join(p[: n + 1]) for p in ours for n in range(len(p))}
        return out - {self.name}


def module_name(path: Path) -> tuple[Path, str]:
    """The root folder of a file's module name, and that name; dotted when the file is in a package."""
    start = path.name == "__init__.py"
    parts, root = ([], path.parent) if start else ([re.sub(r"\W", "_", path.stem)], path.parent)
    while (root / "__init__.py").is_file():
        parts.append(root.name)
        root = root.parent
    return root, ".".join(reversed(parts))


def closure(path: Path) -> dict[str, Source]:
    """A file (first) and all modules beside it that it imports, by name. Raises `UserError` on unreadable files."""
    root, name = module_name(path)
    out: dict[str, Source] = {}
    todo = [(name, path)]
    while todo:
        module, file = todo.pop()
        if module not in out:
            out[module] = source = Source(module, file, root, _text(file))
            beside = ((wanted, _file_of(root, wanted)) for wanted in sorted(source.wanted))
            todo += [(wanted, other) for wanted, other in beside if other is not None]
    return out


def tree_of(text: str | bytes, path: Path) -> ast.Module:
    """Parse a text. Raises `UserError` when it is not valid Python."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path} does not run: {type(error).__name__}: {error}") from error


def binds(path: Path, name: str) -> bool:
    """Whether a file's top level assigns, defines or imports a name. Nothing is run."""
    try:
        tree = tree_of(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    return any(name in bound(statement) for statement in tree.body)


def import_source(node: ast.ImportFrom, package: str) -> str:
    """The module that `from ... import` names, its dots resolved."""
    if not node.level:
        return str(node.module)
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def bound(statement: ast.stmt) -> set[str]:
    """Names that a top-level statement binds, also inside `if`, `try`, `with` and loops."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.AnnAssign) and statement.value is None:
        return set()
    names: set[str] = set()
    todo: list[ast.AST] = [statement]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        inner = [n for n in ast.iter_child_nodes(node) if not isinstance(n, ast.Lambda | ast.comprehension)]
        apart = [n for n in inner if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)]
        names = names.union(*map(bound, apart))
        todo += [n for n in inner if n not in apart]
    return names


def used(source: Source, name: str, beside: Mapping[str, Source]) -> list[tuple[str, str]]:
    """(module, text) of a definition and of everything it uses in its own file and in the files of `beside`."""
    seen: set[tuple[str, str]] = set()
    out: set[tuple[str, str]] = set()
    todo = [(source, name)]
    while todo:
        here, wanted = todo.pop()
        if (here.name, wanted) in seen:
            continue
        seen.add((here.name, wanted))
        origin = here.imported.get(wanted)
        if origin is not None:
            out.add((here.name, f"{wanted} = {origin[0]}:{origin[1]}"))
            if origin[0] in beside and origin[1]:
                todo.append((beside[origin[0]], origin[1]))
        for node in here.statements.get(wanted, []):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                out.add((here.name, segment(here.text, node)))
                todo += _mentions(here, node, beside)
    return sorted(out)


def segment(text: str, node: ast.stmt) -> str:
    """The source lines of a statement, decorators included."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return "\n".join(line.rstrip() for line in text.splitlines()[first - 1 : node.end_lineno])


def _mentions(source: Source, node: ast.stmt, beside: Mapping[str, Source]) -> Iterator[tuple[Source, str]]:
    """What a statement may use: global names, and `module.name` of modules beside the file."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and not hasattr(builtins, inner.id):
            yield source, inner.id
        elif isinstance(inner, ast.Attribute):
            module, name = source.imported.get(ast.unparse(inner.value), ("", ""))
            other = beside.get(f"{module}.{name}" if name else module)
            if other is not None:
                yield other, inner.attr


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}).") from error


def _file_of(root: Path, name: str) -> Path | None:
    """The file of a module under a root folder; None when there is none."""
    stem = root.joinpath(*name.split("."))
    return next((file for file in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")) if file.is_file()), None)
