"""Mark functions whose results a compiled graph may treat as constants, without importing torch's compiler early.

`torch.compiler.assume_constant_result` imports the compiler, which takes longer than torch itself. As a decorator at
the top of a file it would cost every command these seconds. So `constant` only notes the function, and `compile_whole`
marks all noted functions just before it compiles.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")
_CONSTANT: list[Callable[..., Any]] = []


def constant(function: Callable[P, T]) -> Callable[P, T]:
    """Note that a function's result depends only on its arguments, which are known when a graph is compiled."""
    _CONSTANT.append(function)
    return function


def compile_whole(function: Callable[P, T]) -> Callable[P, T]:
    """Compile `function` to a single graph for each input shape. Raises torch's error on a graph break."""
    mark: Callable[..., Any] = torch.compiler.assume_constant_result
    for noted in _CONSTANT:
        mark(noted)
    return torch.compile(function, fullgraph=True, dynamic=False)
