"""Modules that need optional libraries, imported when they are used.

An extra (`pip install pargolf[onnx]`) brings the libraries of a module of this package. Where they are missing, the
message says which extra to install.
"""

from importlib import import_module
from typing import Any

from pargolf.core.errors import UserError


def extra(module: str, name: str) -> Any:
    """Import a module that the extra `name` brings the libraries of. Raises `UserError` where they are missing."""
    try:
        return import_module(module)
    except ImportError as error:
        if (error.name or "pargolf").partition(".")[0] == "pargolf":
            raise
        raise UserError(f"This needs {error.name}, which is not installed: pip install 'pargolf[{name}]'.") from error
