"""User-defined techniques: Python files that the user names, and the addresses of what they define.

    mine:Act@1f2e3d4c5b6a        module : name @ digest of the source that defines it

A recipe may use classes and functions of any file. `read` runs a file that the caller names, together with the modules
beside it that it imports; nothing else here runs code. A stored spec (an artifact, a `recipe.json`) holds addresses
only, and `find` looks them up among the files that were read before. The digest covers the definition and everything
it uses from these files, so different code under the same name is noticed. The source text is remembered as it was
when it ran: a submission ships that text, even if the file changes later.
"""

import hashlib
import importlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from pargolf.core.errors import NotRead, UserError
from pargolf.core.files import cache_folder, write_text
from pargolf.core.sources import Source, closure, used

Files = list[tuple[Path, str, str]]
"""Files as they are sent to another process: path here, path under the folder of modules, text."""
_PACKAGE = __name__.partition(".")[0]
_ADDRESS = re.compile(r"([\w.]+):(\w+)@([0-9a-f]+)")
_DIGITS = 12
_OF_VALUES = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, ArithmeticError, AssertionError)
"""Errors that come of a wrong value, wherever it was made."""


@dataclass(frozen=True, eq=False)
class Own:
    """A module that was read: its source, the loaded module, and the sources beside it that it imports."""

    source: Source
    module: ModuleType
    beside: dict[str, Source] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def digest(self, name: str) -> str:
        """Twelve hex digits of the SHA-256 over a definition's source and everything it uses in these modules."""
        if name not in self.digests:
            whole = "\0".join(f"{module}\0{text}" for module, text in used(self.source, name, self.beside))
            self.digests[name] = hashlib.sha256(whole.encode()).hexdigest()[:_DIGITS]
        return self.digests[name]


_READ: dict[str, Own] = {}
"""The modules that were read, by name. A later file of the same name replaces the earlier one."""


def read(path: str | Path) -> ModuleType:
    """Run a `.py` file, and the modules beside it that it imports; run again only when a text has changed.

    Raises `UserError` when the file is missing, fails, or has the name of a module that is in use.
    """
    path = Path(path).absolute()
    sources = closure(path)
    name = next(iter(sources))
    if all(n in _READ and _same(_READ[n].source, s) and _READ[n].module.__name__ == n for n, s in sources.items()):
        return _READ[name].module
    for source in sources.values():
        _check_name(source)
    names = _with_parents(sources)
    before = {other: sys.modules.pop(other) for other in names if other in sys.modules}
    finder = _Finder(sources)
    sys.meta_path.insert(0, finder)
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        for other in names:
            sys.modules.pop(other, None)
        sys.modules.update(before)
        if isinstance(error, UserError | KeyboardInterrupt):
            raise
        last = _last_step(error, sources.values())
        where = f" ({last.filename}, line {last.lineno})" if last else ""
        raise UserError(f"{path} does not run: {type(error).__name__}: {error}{where}") from error
    finally:
        sys.meta_path.remove(finder)
    _register(sources, {n: sys.modules[n] for n in sources if n in sys.modules})
    return module


def use(paths: str | Path | Sequence[str | Path]) -> None:
    """Read each file, or every `.py` file directly in a folder: the `--with` option."""
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        files = sorted(path.glob("*.py")) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path} holds no .py file.")
        for file in files:
            read(file)


def address(thing: Any) -> str:
    """The stored address of a user-defined class or function; registers its module when needed.

    Raises `UserError` when it is not defined at the top level of a file.
    """
    name, module = str(thing.__qualname__), str(thing.__module__)
    if not name.isidentifier():
        inner = name.rpartition(".")[2].replace("<lambda>", "A lambda")
        raise UserError(f"{inner} of {module} cannot be stored by name. Define it at the top level of its file.")
    own = _of_module(module, name)
    if getattr(own.module, name, None) is not thing:
        raise UserError(
            f"{own.source.path} defines another {name} now: it was changed, or another file of that name was read. "
            "Read the recipe again, or rename one file."
        )
    return f"{own.source.name}:{name}@{own.digest(name)}"


def find(stored: str) -> Any:
    """The class or function at an address that `address` made, among the modules that were read.

    Raises `NotRead` when its file was not read, and `UserError` when the file defines something else.
    """
    match = _ADDRESS.fullmatch(stored)
    if match is None:
        raise UserError(f"{stored[:80]!r} is outside what a stored spec may name.")
    module, name, digest = match.groups()
    own = _READ.get(module)
    if own is None:
        raise NotRead(name, f"{module.replace('.', '/')}.py")
    thing = getattr(own.module, name, None)
    if getattr(thing, "__module__", None) != own.module.__name__:
        raise UserError(f"This uses {name} of {own.source.file}, and {own.source.path} defines no {name}.")
    if own.digest(name) != digest:
        raise UserError(
            f"This was made with another {name} than {own.source.path} defines now. "
            "Name the file as it was: a run keeps its copy in RUN/own."
        )
    return thing


def fault(error: BaseException) -> str | None:
    """One line with the place in a user's file where an error arose, or with the error; None if no file was read."""
    if not _READ:
        return None
    words = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
    last = _last_step(error, (own.source for own in _READ.values()))
    if last is not None:
        return f"{last.filename}, line {last.lineno}, in {last.name}: {words}"
    if not isinstance(error, _OF_VALUES):
        return None
    files = ", ".join(sorted({own.source.file for own in _READ.values()}))
    step = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{words} ({step.filename}, line {step.lineno}). Code of {files} is in use: does each technique there take and "
        "return what its protocol says?"
    )


def _last_step(error: BaseException, sources: Iterable[Source]) -> traceback.FrameSummary | None:
    """The innermost frame of an error's traceback that is in one of these files."""
    files = {str(source.path) for source in sources}
    return next((s for s in reversed(traceback.extract_tb(error.__traceback__)) if s.filename in files), None)


def classes() -> dict[str, type]:
    """The dataclasses that the read files define, by name."""
    every = ((name, thing, own) for own in _READ.values() for name, thing in vars(own.module).items())
    return {
        n: t for n, t, own in every if is_dataclass(t) and isinstance(t, type) and t.__module__ == own.module.__name__
    }


def named_in(dumped: Any) -> list[str]:
    """The addresses of user-defined techniques in a dumped spec, sorted, without repeats."""
    out: set[str] = set()
    todo = [dumped]
    while todo:
        value = todo.pop()
        if isinstance(value, list | tuple):
            todo += value
        elif isinstance(value, dict):
            todo += value.values()
            out |= {str(value[k]) for k in ("is", "fn") if k in value and _ADDRESS.fullmatch(str(value[k]))}
    return sorted(out)


def texts(addresses: Iterable[str]) -> dict[str, Source]:
    """The sources that addresses need, by module name: their own modules and those that these import."""
    out: dict[str, Source] = {}
    for name in sorted({stored.partition(":")[0] for stored in addresses if "@" in stored}):
        if name in _READ:
            out |= {name: _READ[name].source} | _READ[name].beside
    return out


def files_of(dumped: Any) -> Files:
    """The files that another process must read (by `use_files`) before it loads a dumped spec."""
    return [(source.path, source.file, source.text) for source in texts(named_in(dumped)).values()]


def use_files(files: Files) -> None:
    """Read the files of `files_of`: in place, or from a copy on a machine where they are missing or differ."""
    if any(not path.is_file() or path.read_text(encoding="utf-8") != text for path, _, text in files):
        digest = hashlib.sha256(repr([(file, text) for _, file, text in files]).encode()).hexdigest()
        folder = cache_folder() / "own" / digest[:_DIGITS]
        _store([(file, text) for _, file, text in files], folder)
        use([folder / file for _, file, _ in files])
    else:
        use([path for path, _, _ in files])


def keep(dumped: Any, folder: Path) -> None:
    """Copy the files that a dumped spec needs, and the files that import them, into `folder`."""
    needed = texts(named_in(dumped))
    for own in list(_READ.values()) if needed else ():
        if needed.keys() & own.beside.keys():
            needed = needed | {own.source.name: own.source} | own.beside
    _store([(source.file, source.text) for source in needed.values()], folder)


def _store(files: Sequence[tuple[str, str]], folder: Path) -> None:
    """Write texts under a folder so that each copy keeps its module name."""
    for file, text in files:
        target = folder / file
        for parent in [*target.relative_to(folder).parents][:-1]:
            (folder / parent).mkdir(parents=True, exist_ok=True)
            if not (folder / parent / "__init__.py").exists():
                write_text(folder / parent / "__init__.py", "")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(target, text)


def kept(error: NotRead, run: Path) -> NotRead:
    """The same error, naming the copy in the run's `own/` folder when there is one."""
    copy = run / "own" / error.file
    return NotRead(error.name, error.file, str(copy)) if copy.is_file() else error


class _Finder:
    """Gives the import system the gathered sources while a file is read."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = sources

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The spec of a gathered module, or of a plain folder that holds some."""
        if name in self.sources:
            source = self.sources[name]
            spec = spec_from_loader(name, _Loader(source), is_package=source.path.name == "__init__.py")
            assert spec is not None
            spec.origin, spec.has_location = str(source.path), True
        elif any(other.startswith(f"{name}.") for other in self.sources):
            spec = ModuleSpec(name, None, is_package=True)
        else:
            return None
        if spec.submodule_search_locations is not None:
            root = next(iter(self.sources.values())).root
            spec.submodule_search_locations = [str(root.joinpath(*name.split(".")))]
        return spec


@dataclass(frozen=True)
class _Loader(Loader):
    """Runs a text as a module."""

    source: Source

    def create_module(self, spec: ModuleSpec) -> None:
        """An ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        """Run it."""
        code = compile(self.source.text, str(self.source.path), "exec", dont_inherit=True)
        exec(code, module.__dict__)


def _same(a: Source, b: Source) -> bool:
    return (a.path, a.text) == (b.path, b.text)


def _check_name(source: Source) -> None:
    """Raise `UserError` when a file has the name of a module that is already in use."""
    top = source.name.partition(".")[0]
    if any(name.partition(".")[0] == top for name in _READ):
        return
    loaded, taken = sys.modules.get(top), False
    if loaded is not None:
        files = [
            getattr(loaded, "__file__", None),
            *(f"{path}/__init__.py" for path in getattr(loaded, "__path__", ())),
        ]
        ours = {(source.root / f"{top}.py").resolve(), (source.root / top / "__init__.py").resolve()}
        taken = not ours & {Path(file).resolve() for file in files if file}
    else:
        try:
            spec = find_spec(top)
        except (ImportError, ValueError):
            spec = None
        taken = spec is not None and spec.origin is not None and _installed(spec.origin)
    if taken or top == _PACKAGE:
        raise UserError(f"{source.path} has the name of the module {top}, which is in use. Rename the file.")


def _installed(origin: str) -> bool:
    """Whether a module's file belongs to Python or to an installed package."""
    if origin in ("built-in", "frozen"):
        return True
    path = Path(origin).resolve()
    roots = [Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib")]
    return bool({"site-packages", "dist-packages"} & {*path.parts}) or any(path.is_relative_to(root) for root in roots)


def _with_parents(names: Iterable[str]) -> list[str]:
    """Names of modules and of the packages that contain them."""
    return list(dict.fromkeys(".".join(n.split(".")[: k + 1]) for n in names for k in range(n.count(".") + 1)))


def _register(sources: Mapping[str, Source], modules: Mapping[str, ModuleType]) -> None:
    """Register modules that have run, each with the sources that it reaches through its imports."""
    known = {n: s if n in modules else _READ[n].source for n, s in sources.items() if n in modules or n in _READ}
    for name, module in modules.items():
        beside: dict[str, Source] = {}
        todo = [known[name]]
        while todo:
            wanted = todo.pop().wanted & known.keys() - beside.keys() - {name}
            beside |= {other: known[other] for other in sorted(wanted)}
            todo += [known[other] for other in sorted(wanted)]
        _READ[name] = Own(known[name], module, beside)


def _of_module(module: str, name: str) -> Own:
    """The registered module that defines `name`; a module that is already loaded is registered now."""
    running = sys.modules.get(module)
    for own in _READ.values():
        if own.module is running:
            return own
    file = getattr(running, "__file__", None)
    if running is None or (file is None and module == "__main__"):
        raise UserError(f"{name} is defined at a prompt or in a notebook's cell. Put it into a .py file.")
    if file is None or not file.endswith(".py") or _installed(file):
        raise UserError(f"A recipe cannot name {name} of {module}. Wrap it in a function or class of your own file.")
    sources = closure(Path(file).absolute())
    first, *others = sources
    beside = {n: sys.modules.get(n) for n in others if n not in _READ}
    ran = {n: loaded for n, loaded in beside.items() if getattr(loaded, "__file__", "") == str(sources[n].path)}
    _register(sources, {first: running} | {n: loaded for n, loaded in ran.items() if loaded is not None})
    return _READ[first]
