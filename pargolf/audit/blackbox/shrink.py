"""The settings of a script made small in its syntax tree, and those of the modules beside it.

What the script reads from its environment is small already (`small`). Here plain numbers get small values by the same
names: those of a class of hyperparameters, of the top level, and those that a call or a signature gives for an amount
of calibration. The folders of the published data become ours, and switches for kernels of the GPU are off.
"""

import ast
import re
import types
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

from pargolf.audit.code.newer_syntax import rewrite

_KERNELS = ("use_fused", "use_fused_mlp", "fused_ce_enabled", "use_triton")


class Shrink(ast.NodeTransformer):
    """Replaces settings by small ones.

    Args:
        settings: values by name, for a class or the top level.
        amounts: most values by name, for keywords of calls and defaults of functions.
        paths: patterns of published folders, with what takes their place.
    """

    def __init__(self, settings: dict[str, Any], amounts: dict[str, int], paths: dict[str, str]) -> None:
        self.settings, self.amounts, self.paths = settings, amounts, paths

    def tree(self, text: str) -> ast.Module:
        """The small script. Raises `SyntaxError` if the text is no Python."""
        try:
            tree = ast.parse(text)
        except SyntaxError:
            tree = ast.parse(rewrite(text))
        self.visit(tree)
        return ast.fix_missing_locations(tree)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        """The top level."""
        self._assignments(node.body)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """A class of settings."""
        self._assignments(node.body)
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """A path of the published data."""
        if isinstance(node.value, str) and len(node.value) < 200:
            for pattern, put in self.paths.items():
                node.value = re.sub(pattern, put, node.value)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """Turn off a switch for GPU kernels; the same script computes the same in plain torch."""
        name = getattr(node.targets[0], "attr", "")
        if name in _KERNELS and isinstance(node.value, ast.Constant) and node.value.value is True:
            node.value = ast.Constant(False)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """An amount that a call gives by its name."""
        for keyword in node.keywords:
            keyword.value = self._at_most(keyword.arg, keyword.value)
        return self.generic_visit(node)

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        """Amounts that a function takes unless a call gives others."""
        named = [*node.posonlyargs, *node.args][-len(node.defaults) :] if node.defaults else []
        node.defaults = [self._at_most(one.arg, value) for one, value in zip(named, node.defaults)]
        node.kw_defaults = [
            value and self._at_most(one.arg, value) for one, value in zip(node.kwonlyargs, node.kw_defaults)
        ]
        return self.generic_visit(node)

    def _at_most(self, name: str | None, value: ast.expr) -> ast.expr:
        most = self.amounts.get((name or "").lower())
        number = value.value if isinstance(value, ast.Constant) else None
        large = most is not None and isinstance(number, int) and number > most
        return ast.copy_location(ast.Constant(most), value) if large else value

    def _assignments(self, body: list[ast.stmt]) -> None:
        for statement in body:
            if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or not _is_number(statement.value):
                continue
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            name = targets[0].id.lower() if isinstance(targets[0], ast.Name) else ""
            if name in self.settings:
                statement.value = ast.Constant(self.settings[name])


def _is_number(node: ast.expr | None) -> bool:
    """A literal number, or a product of literal numbers."""
    if isinstance(node, ast.BinOp):
        return _is_number(node.left) and _is_number(node.right)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


class Beside:
    """Finds the modules beside the script, and makes their settings small too."""

    def __init__(self, folder: Path, shrink: Shrink) -> None:
        self.folder, self.shrink = folder, shrink

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """The module of a file in the folder."""
        file = self.folder / f"{name}.py"
        loader = _Small(name, str(file), self.shrink)
        return spec_from_file_location(name, file, loader=loader) if file.is_file() else None


class _Small(SourceFileLoader):
    """Loads one module with small settings."""

    def __init__(self, name: str, path: str, shrink: Shrink) -> None:
        super().__init__(name, path)
        self.shrink = shrink

    def get_code(self, fullname: str) -> types.CodeType:
        """The code of the module's text after its settings were made small."""
        return compile(self.shrink.tree(self.get_data(self.path).decode("utf-8-sig")), self.path, "exec")
