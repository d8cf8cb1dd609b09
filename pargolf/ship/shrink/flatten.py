"""One file out of many: the definitions that some roots need, with the package's imports resolved to plain names.

    closure of imports -> definitions -> what the roots reach -> one namespace -> source in the order of the modules

Everything is read from syntax trees; nothing is imported. A definition reaches the names in its body, but not those in
its annotations. `isinstance(x, Kind)` does not reach `Kind`: if nothing else does, no `Kind` can exist, so the test
becomes False and its branch is removed. A method whose name is never mentioned is removed, too. Most names keep their
spelling; names that two modules define get their module's name in front.
"""

import ast
import builtins
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pargolf.ship.shrink.modules import Key, Package, Unfit, UserFile
from pargolf.ship.shrink.rewrite import Rewriter


@dataclass(frozen=True)
class Flat:
    """The result: import statements, then definitions, each with its module."""

    imports: tuple[str, ...]
    definitions: tuple[tuple[str, ast.stmt], ...]
    names: Mapping[Key, str]

    def name(self, address: str) -> str:
        """The name of `module:name` in the flat file."""
        return self.names[_key(address)]


def flatten(
    root: Path,
    roots: Iterable[str],
    *,
    instead: Mapping[str, str] | None = None,
    without: Iterable[str] = (),
    constants: Mapping[str, Callable[..., str]] | None = None,
    settings: Mapping[str, bool | int] | None = None,
    user_files: Mapping[str, UserFile] | None = None,
    whole: Iterable[str] = (),
) -> Flat:
    """Collect what `roots` (addresses `package.module:name`) need from the package whose folder is `root`.

    instead: addresses that are replaced by others
    without: methods, as `Class.method`, that the caller knows are never called
    constants: functions, by address, whose calls at a module's top level are replaced by the strings they return
    settings: globals, by address, that are replaced by these values
    user_files: files outside the package, by module name
    whole: addresses of classes that keep all methods, because code outside calls them

    The part of an address after `@` is ignored. Raises `ValueError` on an address that does not exist, and `Unfit` on a
    file of the user with code that cannot be followed.
    """
    known = {_key(address): value for address, value in (settings or {}).items()}
    package = Package(root, frozenset(without), constants, user_files, known)
    for address in [*roots, *(instead or {}).values()]:
        package.module(address.partition(":")[0])
    for name in [*(instead or {}), *(settings or {})]:
        package.expect(_key(name))
    swapped = {_key(old): _key(new) for old, new in (instead or {}).items()}
    called = {name for address in whole for name in _methods_of(package, _key(address))}
    reached, methods = _reach(package, [_key(address) for address in roots], swapped, called)
    names = _flat_names(package, reached, swapped, methods)
    imports = sorted({statement for module, statement in reached if not module})
    out = []
    for name in package.order():
        for defined in package.modules[name].nodes:
            if (name, defined) in reached:
                rewriter = Rewriter(package, name, swapped, kept=reached, methods=methods, names=names)
                out.append((name, rewriter.rewritten(defined)))
    return Flat(tuple(_import_line(line, names) for line in imports), tuple(_once(out)), names)


def _methods_of(package: Package, key: Key) -> list[str]:
    """The names of the methods that a class defines."""
    node = package.module(key[0]).nodes[key[1]]
    body = node.body if isinstance(node, ast.ClassDef) else []
    return [inner.name for inner in body if isinstance(inner, ast.FunctionDef)]


def _reach(
    package: Package, roots: list[Key], instead: Mapping[Key, Key], called: set[str]
) -> tuple[set[Key], set[str]]:
    """The definitions and mentioned names that the roots need, repeated until nothing is added."""
    reached: set[Key] = {instead.get(key, key) for key in roots}
    reached |= {(name, one) for name, module in package.modules.items() for one in module.acting}
    methods = set(called)
    annotated: set[Key] = set()
    waiting: dict[Key, set[Key | str]] = {}
    while True:
        # A definition is visited again when a class or method that it waits for has been reached.
        pending = [key for key in sorted(reached) if key[0] and waiting.get(key, reached) & (reached | methods)]
        if not pending:
            return reached | annotated, methods
        for module, name in pending:
            source = package.modules[module]
            if name in source.loose:
                where = f"{package.file(module)}, line {source.loose[name]}"
                raise Unfit(f"{where}: a script takes {name} as one statement of the file's top level makes it.")
            if name not in source.nodes:
                raise ValueError(f"{module} has no '{name}'.")
            rewriter = Rewriter(package, module, instead, kept=reached, methods=methods)
            rewriter.rewritten(name)
            reached = reached | rewriter.refs
            methods = methods | rewriter.mentioned
            annotated |= rewriter.annotated
            waiting[module, name] = rewriter.waits_for - rewriter.kept - rewriter.methods


def _flat_names(package: Package, reached: set[Key], instead: Mapping[Key, Key], methods: set[str]) -> dict[Key, str]:
    """A unique name for everything, which no function that uses it hides with a local name."""
    taken: dict[str, Key] = {name: ("builtins", name) for name in dir(builtins)}
    names: dict[Key, str] = {}
    # The package's names stay as they are; on a clash, the user's file is renamed.
    in_turn = sorted(reached, key=lambda key: (bool(key[0]) and key[1].startswith("_"), key))
    for key in sorted(in_turn, key=lambda key: key[0] in package.user_files):
        names[key] = wanted = _own_name(key)
        if wanted in taken and taken[wanted] != key and not (not key[0] and wanted in names.values() and not _as(key)):
            names[key] = _longer(key, taken)
        taken[names[key]] = key
    for _ in range(9):
        hidden: set[Key] = set()
        for module, name in sorted(reached):
            if module:
                rewriter = Rewriter(package, module, instead, kept=reached, methods=methods, names=names)
                rewriter.rewritten(name)
                hidden |= rewriter.shadowed
        if not hidden:
            return names
        for key in hidden:
            names[key] = _longer(key, taken)
            taken[names[key]] = key
    raise AssertionError("names keep hiding each other")


def _own_name(key: Key) -> str:
    """The name that a definition or an import binds."""
    if key[0]:
        return key[1]
    if " as " in key[1]:
        return key[1].rpartition(" as ")[2]
    last = key[1].rpartition(" ")[2]
    return last.split(".")[0] if key[1].startswith("import ") else last


def _as(key: Key) -> bool:
    """Whether an import can be bound to another name; `import a.b` cannot."""
    return not key[1].startswith("import ") or "." not in key[1] or " as " in key[1]


def _longer(key: Key, taken: Mapping[str, Key]) -> str:
    """The name of a definition prefixed by its module, or of an import prefixed by its source."""
    if key[0]:
        base = f"_{key[0].rpartition('.')[2]}_{key[1].lstrip('_')}"
    else:
        base = f"_{key[1].split()[1].replace('.', '_')}_{_own_name(key)}"
    name, count = base, 2
    while name in taken:
        name, count = f"{base}{count}", count + 1
    return name


def _import_line(statement: str, names: Mapping[Key, str]) -> str:
    """The import statement that binds its name in the flat file."""
    plain = statement.partition(" as ")[0]
    name = names["", statement]
    return plain if name == _own_name(("", plain)) else f"{plain} as {name}"


def _once(definitions: Iterable[tuple[str, ast.stmt]]) -> Iterator[tuple[str, ast.stmt]]:
    """Each statement once, even if it binds two names."""
    seen: set[str] = set()
    for module, node in definitions:
        text = f"{module} {ast.dump(node)}"
        if text not in seen:
            seen.add(text)
            yield module, node


def _key(address: str) -> Key:
    module, _, name = address.partition("@")[0].partition(":")
    return module, name
