"""Functions whose results a compiled graph treats as constants, marked only when something is compiled.

`torch.compiler.assume_constant_result` imports torch's compiler, which takes longer than torch itself. A decorator of
it at the top of a file would cost every command these seconds, and few of them compile.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")
_CONSTANT: list[Callable[..., Any]] = []


def constant(function: Callable[P, T]) -> Callable[P, T]:
    """Note that a function's result depends on its arguments alone, which a graph knows when it is compiled."""
    _CONSTANT.append(function)
    return function


def compile_whole(function: Callable[P, T]) -> Callable[P, T]:
    """`function` as one graph for the shapes it meets. Raises torch's error where it is not one graph."""
    mark: Callable[..., Any] = torch.compiler.assume_constant_result
    for noted in _CONSTANT:
        mark(noted)
    return torch.compile(function, fullgraph=True, dynamic=False)
