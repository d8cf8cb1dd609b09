"""Import modules that need optional libraries only when they are used.

An extra (`pip install pargolf[onnx]`) installs the libraries that a module of this package needs. When they are
missing, the error says which extra to install.
"""

from importlib import import_module
from typing import Any

from pargolf.core.errors import UserError


def extra(module: str, name: str) -> Any:
    """Import a module whose libraries the extra `name` installs. Raises `UserError` when they are missing."""
    try:
        return import_module(module)
    except ImportError as error:
        if (error.name or "pargolf").partition(".")[0] == "pargolf":
            raise
        raise UserError(f"This needs {error.name}, which is not installed: pip install 'pargolf[{name}]'.") from error
