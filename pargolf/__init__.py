"""pargolf: the workbench for byte-budget language models.

`pargolf.train("baseline", data="data", out="runs/a", scale="mini")` does what the command line does. Names are looked
up in `pargolf.api` when they are first used, so that importing the package costs nothing; so are the folders, as
`pargolf.recipes`.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pargolf.core.version import VERSION

if TYPE_CHECKING:
    from pargolf.api import *  # noqa: F403

__version__ = VERSION


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    if find_spec(f"pargolf.{name}") is not None:
        return import_module(f"pargolf.{name}")
    api = import_module("pargolf.api")
    if name not in api.__all__:
        raise AttributeError(f"pargolf has no '{name}'")
    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), "api", *import_module("pargolf.api").__all__})
