"""The house stands: imports go down only, files do not import in circles, a public name means one thing.

Read from the syntax trees of `pargolf/`, so nothing is imported here. Floors 0 to 5 are the house, 6 to 13 its roof;
`upstream/` stands beside the tower and is imported from the roof only.
"""

import ast
import runpy
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "pargolf"
FLOORS = [
    {"core"},
    {"data", "kernels", "watch"},
    {"model"},
    {"training"},
    {"quant"},
    {"packing"},
    {"evaluate"},
    {"recipes", "exporting"},
    {"ship"},
    {"run"},
    {"engines"},
    {"study", "audit"},
    {"report", "serving"},
    {"submit"},
    {"api"},
    {"cli", "__init__"},
    {"__main__"},
]
ROOF = {
    "recipes",
    "exporting",
    "ship",
    "run",
    "engines",
    "study",
    "audit",
    "report",
    "serving",
    "submit",
    "api",
    "cli",
    "__init__",
    "__main__",
}
BESIDE = {"upstream"}
# Files that answer before torch is loaded: what they need, they import when a function runs.
LAZY = {"pargolf", "pargolf.__main__", "pargolf.recipes.catalog", "pargolf.cli.terminal"}
_CALLS = "artifacts", "data", "exporting", "ledger", "planning", "recipes", "results", "runs"
LAZY |= {f"pargolf.api.{name}" for name in _CALLS}
# What the command line draws with. All else that it does is a call of the api.
DRAWING = {"pargolf.core", "pargolf.report.reviews", "pargolf.report.text", "pargolf.watch.live"}
# One meaning each, at two places: a fast path's twin, and the read-back of what was stored.
SHARED_NAMES = {"reference": "kernels", "load": "core.spec and upstream"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text())


def folder(module: str) -> str:
    """`core` of `pargolf.core.spec`; `__init__` for the package itself."""
    return module.split(".")[1] if "." in module else "__init__"


def level(name: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if name in floor)


def imports(module: str, nodes: list[ast.AST] | None = None) -> Iterator[tuple[str, int]]:
    """Modules of the package that a file imports, with the line."""
    for node in ast.walk(tree(module)) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports relatively"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else str(node.module) for name in inner]
        else:
            continue
        yield from ((name, node.lineno) for name in names if name.split(".")[0] == "pargolf")


IMPORT = (ast.Import, ast.ImportFrom)


def is_choice(node: ast.AST) -> bool:
    """An `if` at the top that chooses an import by Python's version, or for the type checker."""
    return isinstance(node, ast.If) and ast.unparse(node.test).startswith(("sys.version_info", "TYPE_CHECKING"))


def top_level(module: str, *, checked: bool = True) -> list[ast.AST]:
    """The imports at the top of a file; without `checked`, those that run."""
    nodes: list[ast.AST] = []
    for node in tree(module).body:
        if is_choice(node) and (checked or "TYPE_CHECKING" not in ast.unparse(node)):
            nodes += ast.walk(node)
        nodes.append(node)
    return [n for n in nodes if isinstance(n, IMPORT)]


def test_every_file_has_a_floor() -> None:
    known = set().union(*FLOORS) | BESIDE
    assert {folder(module) for module in FILES} <= known
    assert len(FILES) > 40


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down_only(module: str) -> None:
    here = folder(module)
    for target, line in imports(module):
        there, where = folder(target), f"{module}:{line} imports {target}"
        assert target in FILES, f"{where}, which does not exist"
        if there == here:
            continue
        if there in BESIDE:
            assert here in ROOF, f"{where}: {there} stands beside the tower"
        elif here in BESIDE:
            assert level(there) < level("api"), f"{where}: nothing imports the command line"
        else:
            assert level(there) < level(here), f"{where}: not down"


def test_the_shrinker_could_be_a_package_of_its_own() -> None:
    """`ship/shrink` works on syntax trees, and has no word of what it is used for."""
    for module in [name for name in FILES if name.startswith("pargolf.ship.shrink.")]:
        assert {target.rpartition(".")[0] for target, _ in imports(module)} <= {"pargolf.ship.shrink"}, module
        assert "pargolf" not in FILES[module].read_text().replace("from pargolf.ship.shrink", ""), module


def test_no_circles_between_files() -> None:
    graph = {module: {target for target, _ in imports(module) if target != module} for module in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports run in a circle: {' -> '.join(error.args[1])}")


def home(module: str) -> str:
    """`pargolf.audit.read` of `pargolf.audit.read.logs`, and of itself."""
    return module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]


def assigns(module: str, name: str) -> bool:
    targets = [t for n in tree(module).body if isinstance(n, ast.Assign) for t in n.targets]
    targets += [n.target for n in tree(module).body if isinstance(n, ast.AnnAssign)]
    return any(isinstance(t, ast.Name) and t.id == name for t in targets)


def test_folders_of_the_roof_are_small() -> None:
    """Up to 13 files beside `__init__.py`; a shelf of recipes, one a file, may be longer."""
    folders = defaultdict(list)
    for module in FILES:
        if "." in module and folder(module) in ROOF and FILES[module].name != "__init__.py":
            folders[home(module)].append(module)
    shelf = {name for name, files in folders.items() if all(assigns(module, "RECIPE") for module in files)}
    large = {name: len(files) for name, files in folders.items() if len(files) > 13 and name not in shelf}
    assert not large


@pytest.mark.parametrize("module", [m for m in FILES if m not in LAZY])
def test_imports_stand_at_the_top(module: str) -> None:
    top = {id(n) for n in top_level(module)}
    inner = [n.lineno for n in ast.walk(tree(module)) if isinstance(n, IMPORT) and id(n) not in top]
    assert not inner, f"{module} imports inside a function or block, at lines {inner}"
    kinds = [isinstance(n, IMPORT) or is_choice(n) for n in tree(module).body[1:]]
    assert kinds == sorted(kinds, reverse=True), f"{module} imports after it has begun to define"


@pytest.mark.parametrize("module", ["pargolf", "pargolf.cli"])
def test_the_command_line_answers_before_torch_is_loaded(module: str) -> None:
    """Follow the top-level imports from here: none may reach torch."""
    seen, todo = set(), [module]
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        top = top_level(at, checked=False)
        outside = {a.name for n in top if isinstance(n, ast.Import) for a in n.names}
        outside |= {str(n.module) for n in top if isinstance(n, ast.ImportFrom)}
        heavy = {name for name in outside if name.split(".")[0] in ("torch", "matplotlib", "scipy", "sentencepiece")}
        assert not heavy, f"{module} loads {heavy} through {at}"
        todo += [target for target, _ in imports(at, top)]
        todo += [
            ".".join(at.split(".")[:n]) for n in range(1, at.count(".") + 1) if ".".join(at.split(".")[:n]) in FILES
        ]


@pytest.mark.parametrize("module", [m for m in FILES if folder(m) == "cli"])
def test_the_command_line_calls_nothing_but_the_api(module: str) -> None:
    for target, line in imports(module):
        drawn = any(target == name or target.startswith(f"{name}.") for name in DRAWING)
        assert folder(target) in ("api", "cli") or drawn, f"{module}:{line} imports {target}, past the api"


@pytest.mark.parametrize("module", FILES)
def test_modules_only_define(module: str) -> None:
    """No work at import: imports, definitions, assignments; no loops, and no bare calls but the command line's."""
    for node in tree(module).body:
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        wiring = isinstance(node, ast.Expr) and module == "pargolf.cli"
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        defines = isinstance(node, (*IMPORT, *functions, ast.ClassDef, ast.Assign, ast.AnnAssign))
        assert defines or text or wiring or is_choice(node) or module == "pargolf.__main__", f"{module}:{node.lineno}"


def test_no_decorator_loads_torchs_compiler() -> None:
    """Importing it takes longer than importing torch; `core/constants.py` marks what a graph takes as constants."""
    defined = [(m, n) for m in FILES for n in ast.walk(tree(m)) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    slow = [f"{m}:{n.lineno}" for m, n in defined for d in n.decorator_list if "torch.compile" in ast.unparse(d)]
    assert not slow


@pytest.mark.parametrize("module", FILES)
def test_every_module_says_what_it_is(module: str) -> None:
    doc = ast.get_docstring(tree(module))
    assert doc and len(doc.split("\n")[0]) > 20, f"{module} opens without a docstring that says something"


def public(module: str) -> Iterator[str]:
    """Classes and functions that a file defines for others."""
    for node in tree(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name


def test_a_public_name_means_one_thing() -> None:
    homes = defaultdict(list)
    for module in FILES:
        if folder(module) not in ROOF:  # there, names are the commands'
            for name in public(module):
                homes[name].append(module)
    twice = {name: where for name, where in homes.items() if len(where) > 1 and name not in SHARED_NAMES}
    assert not twice, "\n".join(f"{name}: {', '.join(where)}" for name, where in twice.items())


@pytest.mark.parametrize("module", FILES)
def test_functions_fit_a_screen(module: str) -> None:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 80, f"{module}:{node.lineno} {node.name} is longer than a screen"


def test_the_map_is_the_house():
    """docs/map.md is what `benchmarks/map.py` prints, and every file has a first sentence."""
    names = runpy.run_path(str(ROOT.parent / "benchmarks" / "map.py"))
    assert (ROOT.parent / "docs" / "map.md").read_text(encoding="utf-8") == names["page"]()
    assert set(names["FLOORS"]) == {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()} | {
        path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))
    }
    for path in ROOT.rglob("*.py"):
        if path.name != "__init__.py":
            assert names["first_sentence"](path).endswith((".", "?", ":", "`")), path
