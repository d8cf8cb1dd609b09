"""Inside the sandbox: run a script's own `main`, small, and send what it computes to the judge.

`trial.Trial.run` starts this in a process of its own; nothing else imports it. Settings that the script does not read
from its environment are made small in its syntax tree: plain numbers of its class of hyperparameters and of its top
level, by the same names, and the folders of the published data. The modules beside it are treated alike.
"""

import ast
import json
import os
import re
import resource
import sys
import types
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from time import process_time as CLOCK
from typing import IO, Any

import torch

from pargolf.audit.blackbox.machine import pretend
from pargolf.audit.blackbox.watch import Lines, watch
from pargolf.audit.blackbox.wire import Sender
from pargolf.audit.code.newer_syntax import rewrite
from pargolf.audit.sandbox.stand_ins import stand_in

_KERNELS = ("use_fused", "use_fused_mlp", "fused_ce_enabled", "use_triton")


def serve(request: IO[bytes], answer: IO[bytes]) -> None:
    """Read a request in JSON, run, and send frames."""
    job = json.load(request)
    sender = Sender(answer.fileno())
    scratch = Path.cwd()
    resource.setrlimit(resource.RLIMIT_CPU, (job["seconds"], job["seconds"]))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.update(job["env"])
    sys.path[:] = [path for path in sys.path if _listed(path)]
    finder = stand_in()
    pretend()
    sys.stdout = sys.stderr = Lines(sender)
    error = ""
    try:
        with watch(sender):
            _run(job["text"], scratch / job["name"], job["small"], job["paths"])
    except SystemExit as stop:
        error = f"SystemExit: {stop}" if stop.code else ""
    except BaseException as problem:  # a script may raise anything; the end must still be sent
        error = f"{type(problem).__name__}: {str(problem)[:300]} (line {_line(problem, str(scratch))})"
    sys.stdout.write("\n")
    sender.ended(error, CLOCK(), finder.replaced)


def _listed(folder: str) -> bool:
    """Whether the sandbox lets a folder of packages be read.

    In other folders, optional packages raise no `ImportError`.
    """
    try:
        return any(Path(folder).iterdir())
    except OSError:
        return folder.endswith(".zip")


def _line(problem: BaseException, scratch: str) -> int:
    """The last line of the script in the traceback of an error."""
    line, step = 0, problem.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename.startswith(scratch):
            line = step.tb_lineno
        step = step.tb_next
    return line


def _run(text: str, path: Path, small: dict[str, Any], paths: dict[str, str]) -> None:
    def shrunk(text: str) -> ast.Module:
        try:
            tree = ast.parse(text)
        except SyntaxError:
            tree = ast.parse(rewrite(text))
        _Shrink(small, paths).visit(tree)
        return ast.fix_missing_locations(tree)

    sys.meta_path.insert(0, _Beside(path.parent, shrunk))
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    sys.path.insert(0, str(path.parent))
    sys.argv = [str(path)]
    exec(compile(shrunk(text), str(path), "exec"), module.__dict__)


class _Beside:
    """Finds the modules beside the script, and makes their settings small like its own."""

    def __init__(self, folder: Path, shrunk: Callable[[str], ast.Module]) -> None:
        self.folder, self.shrunk = folder, shrunk

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """The module of a file in the folder."""
        file = self.folder / f"{name}.py"
        loader = _Small(name, str(file), self.shrunk)
        return spec_from_file_location(name, file, loader=loader) if file.is_file() else None


class _Small(SourceFileLoader):
    """Loads one module with small settings."""

    def __init__(self, name: str, path: str, shrunk: Callable[[str], ast.Module]) -> None:
        super().__init__(name, path)
        self.shrunk = shrunk

    def get_code(self, fullname: str) -> types.CodeType:
        """The code of the module's text after its settings were made small."""
        return compile(self.shrunk(self.get_data(self.path).decode("utf-8-sig")), self.path, "exec")


class _Shrink(ast.NodeTransformer):
    """Replaces plain numbers of a class or the top level by small ones, and the published folders by ours."""

    def __init__(self, small: dict[str, Any], paths: dict[str, str]) -> None:
        self.small, self.paths = small, paths

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

    def _assignments(self, body: list[ast.stmt]) -> None:
        for statement in body:
            if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or not _is_number(statement.value):
                continue
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            name = targets[0].id.lower() if isinstance(targets[0], ast.Name) else ""
            if name in self.small:
                statement.value = ast.Constant(self.small[name])


def _is_number(node: ast.expr | None) -> bool:
    """A literal number, or a product of literal numbers."""
    if isinstance(node, ast.BinOp):
        return _is_number(node.left) and _is_number(node.right)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)
