"""The code that counts: what a recipe's training and scoring import from the package, as one xz stream.

The imports are read from the syntax trees, from the run's entry points and the recipe's own parts down, and nothing is
executed. The single-file script of a submission will replace this count.
"""

import ast
import lzma
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = (
    "training/loop.py",
    "packing/artifact.py",
    "quant/plan.py",
    "evaluate/score.py",
    "data/folder.py",
    "core/spec.py",
)


def closure(*files: Path) -> list[Path]:
    """Every file of the package that `files` import, directly or not, themselves included; sorted."""
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        path = waiting.pop()
        if path not in found and path.is_file():
            found.add(path)
            waiting += _imports(path)
    return sorted(found)


def code_bytes(recipe_modules: set[str]) -> int:
    """Bytes of the xz stream over the entry points, the modules that define the recipe's parts, and their imports."""
    parts = [ROOT.parent / Path(*name.split(".")).with_suffix(".py") for name in sorted(recipe_modules)]
    return _packed(tuple(closure(*(ROOT / entry for entry in ENTRIES), *parts)))


@cache
def _packed(files: tuple[Path, ...]) -> int:
    """Length of the xz stream of these sources, each under its path."""
    text = b"".join(f"# {path.name}\n".encode() + path.read_bytes() for path in files)
    return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


@cache
def _imports(path: Path) -> tuple[Path, ...]:
    """Files of the package that `path` imports by name."""
    out = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        out += [ROOT.parent / Path(*n.split(".")).with_suffix(".py") for n in names if n.startswith("pargolf.")]
    return tuple(out)
