"""pargolf: the workbench for byte-budget language models.

`pargolf.train("baseline", data="data", out="runs/a", scale="mini")` does what the command line does. Names are looked
up in `pargolf.api` when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    if name in ("upstream", "api", "recipes"):
        return import_module(f"pargolf.{name}")
    api = import_module("pargolf.api")
    if name not in api.__all__:
        raise AttributeError(f"pargolf has no '{name}'")
    return getattr(api, name)
