"""Join a script and the modules beside it that it imports into one program, so that helpers are judged as part of it.

The modules' statements come first, in the order of import, and the script's own follow. `helper.score` and imported
names under another name become the plain name. What a helper does only when it is run itself is left out. Lines of the
script keep their numbers, and the lines of each module follow after, so a place in the program is a file and a line.
What cannot be followed (a module that is no Python, code that is made at run time) is named.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import PurePosixPath

from pargolf.audit.code.hidden.made_at_run_time import made_at_run_time
from pargolf.audit.code.script import MOST_NODES, Code
from pargolf.audit.code.tree import copied, dotted, index_of, walk

_MOST_MODULES = 24


@dataclass
class _Joined:
    """What was joined so far: the program's names, and the new names of each module."""

    modules: dict[str, Code]
    body: list[ast.stmt] = field(default_factory=list)
    parts: list[tuple[int, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)


@lru_cache(maxsize=8)
def joined(main: Code, others: tuple[Code, ...]) -> Code:
    """The script with every module of `others` that it imports. `unread` names what could not be followed."""
    assert main.tree is not None
    modules = {name: code for code in others if code is not main for name in _names_of(code.path)}
    state = _Joined(modules, lines=list(main.lines), taken=_defined(main.tree))
    unread = [*made_at_run_time(main.tree, main.path)]
    if not _imports(main.tree, modules):
        return replace(main, unread=tuple(unread))
    tree = copied(main.tree)
    body = _linked(tree, state)
    whole = ast.Module([*state.body, *body], [])
    unread += state.unread
    if sum(1 for _ in walk(whole)) > MOST_NODES:
        return replace(main, unread=(*unread, "the modules beside it, which are too large to be followed"))
    text = "\n".join(state.lines)
    return replace(main, text=text, tree=whole, parts=tuple(state.parts), unread=tuple(unread))


def _linked(tree: ast.Module, state: _Joined) -> list[ast.stmt]:
    """The statements of a module. Local imports are replaced by their modules, which join the program."""
    plain: dict[str, str] = {}
    handles: dict[str, dict[str, str]] = {}
    for module, bound, name in _imports(tree, state.modules):
        names = _join(module, state)
        if name is None:
            handles[bound] = names
        elif name == "*":
            plain |= names
        else:
            plain[bound] = names.get(name, name)
    if not plain and not handles:
        return tree.body
    rename = _Rename(plain, handles)
    return [rename.visit(node) for node in tree.body]


def _join(module: str, state: _Joined) -> dict[str, str]:
    """Put one module into the program, once; returns the new names of its top level."""
    code = state.modules[module]
    if code.path in state.names:
        return state.names[code.path]
    state.names[code.path] = {}
    if code.tree is None or len(state.names) > _MOST_MODULES:
        state.unread.append(f"{code.path} ({code.error or 'one module too many'})")
        return {}
    tree = copied(code.tree)
    tree.body = [node for node in tree.body if not _runs_alone(node)]
    own = _defined(tree)
    stem = PurePosixPath(code.path).stem
    names = {name: f"{stem}__{name}" if name in state.taken else name for name in own}
    state.names[code.path] = names
    state.taken |= set(names.values())
    state.parts.append((len(state.lines) + 1, code.path))
    for node in tree.body:
        ast.increment_lineno(node, len(state.lines))
    state.lines += code.lines
    state.unread += made_at_run_time(code.tree, code.path)
    changed = {name: new for name, new in names.items() if name != new}
    body = _linked(tree, state)
    renamed = [_Rename(changed, {}).visit(node) for node in body] if changed else body
    state.body += renamed
    return names


class _Rename(ast.NodeTransformer):
    """Gives names their new name, and turns `handle.name` into the plain name of what the handle's module defines."""

    def __init__(self, names: dict[str, str], handles: dict[str, dict[str, str]]) -> None:
        self._names, self._handles = names, handles

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Another name, where it has one."""
        node.id = self._names.get(node.id, node.id)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """`handle.name` becomes `name`."""
        names = self._handles.get(dotted(node.value)) if isinstance(node.value, ast.Name | ast.Attribute) else None
        if names is not None and node.attr in names:
            return ast.copy_location(ast.Name(names[node.attr], node.ctx), node)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """A definition under its new name."""
        node.name = self._names.get(node.name, node.name)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """A class under its new name."""
        node.name = self._names.get(node.name, node.name)
        return self.generic_visit(node)


def _imports(tree: ast.Module, modules: dict[str, Code]) -> list[tuple[str, str, str | None]]:
    """Imports of local modules: the module, the name that is bound, and which of its names (None: the module)."""
    if not modules:
        return []
    binders = [node for node in index_of(tree).order if type(node) in (ast.Import, ast.ImportFrom, ast.Assign)]
    return [wanted for node in binders for wanted in _wanted(node, modules)]


def _wanted(node: ast.AST, modules: dict[str, Code]) -> Iterator[tuple[str, str, str | None]]:
    """Imports of local modules: the module, the bound name, and the imported name (None: the module itself)."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name in modules:
                yield alias.name, alias.asname or alias.name, None
    elif isinstance(node, ast.ImportFrom):
        source = node.module or ""
        for alias in node.names:
            inner = f"{source}.{alias.name}".lstrip(".")
            if inner in modules:
                yield inner, alias.asname or alias.name, None
            elif source in modules:
                yield source, alias.asname or alias.name, alias.name
    elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        call = node.value
        if isinstance(call, ast.Call) and dotted(call.func).endswith(("import_module", "__import__")) and call.args:
            name = getattr(call.args[0], "value", None)
            if isinstance(name, str) and name in modules:
                yield name, node.targets[0].id, None


def _names_of(path: str) -> Iterator[str]:
    """The names under which a file may be imported: its path from the folder, and its last part."""
    parts = PurePosixPath(path).with_suffix("").parts
    parts = parts[:-1] if parts[-1:] == ("__init__",) else parts
    if parts:
        yield ".".join(parts)
        yield parts[-1]


def _defined(tree: ast.Module) -> set[str]:
    """The names that a module's top level defines."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {inner.id for target in targets for inner in walk(target) if isinstance(inner, ast.Name)}
    return names


def _runs_alone(node: ast.stmt) -> bool:
    """Whether a statement runs only when the module is run itself."""
    return isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
