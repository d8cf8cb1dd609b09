"""Architectures that see what they must not: later tokens (C1), or the end of another document.

Attention is causal by an argument in the syntax tree: `is_causal=True`, `causal=True`, or a mask. Without any of them,
every position sees the whole window. A smear adds the token before to each token. If attention stops at documents, a
smear that does not check for document starts crosses their borders (#1797, corrected in #1851). A probe shows whether
it matters: `audit --run`.
"""

import ast
from collections.abc import Iterator

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import root_of
from pargolf.audit.code.tree import Function, last_name
from pargolf.audit.code.values import UNKNOWN
from pargolf.audit.report import HOLD, SUSPECT
from pargolf.audit.rules.rule import Hit
from pargolf.audit.rules.window.masks import AHEAD, open_windows
from pargolf.audit.rules.window.targets import targets_used
from pargolf.audit.rules.window.time_axis import time_axis

_FLASH = ("flash_attn_func", "flash_attn_3_func", "flash_attn_qkvpacked_func", "flash_attn_varlen_func")


def causality(program: Program) -> Iterator[Hit]:
    """Whether attention is causal, and a smear stops at documents if attention does."""
    apart = False
    for node in program.live_of(ast.Call):
        name = last_name(node)
        function = program.function_of(node)
        apart = apart or name == "flash_attn_varlen_func" or (name in _FLASH and bool(_word(node, "cu_seqlens")))
        if not _in_module(program, function) or not _sees_all(program, node, name, function):
            continue
        if _crosses(program, node, function):
            yield Hit(
                "causality",
                HOLD,
                node,
                f"`{function.name}` attends without a mask to another input than its queries come from; whether that "
                "holds later tokens, reading does not show (#1017 C1).",
                AHEAD,
            )
        else:
            yield Hit(
                "causality",
                SUSPECT,
                node,
                f"`{function.name}` attends with no mask and without being told to be causal: every position sees the "
                "whole window (#1017 C1).",
                AHEAD,
            )
    if apart:
        yield from _smears(program)
    yield from open_windows(program)
    yield from time_axis(program)
    yield from targets_used(program)


def _crosses(program: Program, call: ast.Call, function: Function) -> bool:
    """Whether keys come from an input that queries do not come from: another stream, or a cache of the past."""
    if len(call.args) < 2:
        return False
    query, key = (
        {x for x in program.labels(part, function) if x.startswith("p:") and x != "p:self"} for part in call.args[:2]
    )
    return bool(query) and bool(key - query)


def _in_module(program: Program, function: Function) -> bool:
    """Whether a function belongs to a model: a method of a class that has `forward`."""
    return function.owner is not None and any(f.owner == function.owner for f in program.by_name.get("forward", ()))


def _word(call: ast.Call, name: str) -> ast.expr | None:
    return next((k.value for k in call.keywords if k.arg is not None and k.arg.startswith(name)), None)


def _sees_all(program: Program, call: ast.Call, name: str, function: Function) -> bool:
    if any(k.arg is None for k in call.keywords) or any(isinstance(a, ast.Starred) for a in call.args):
        return False
    if name == "scaled_dot_product_attention":
        if len(call.args) > 3 or _given(program, _word(call, "attn_mask"), function):
            return False
        return not _given(program, _word(call, "is_causal"), function)
    if name in _FLASH and len(call.args) <= 3:
        window = program.value(_word(call, "window_size"), function)
        if isinstance(window, tuple) and len(window) == 2 and window[1] == 0:
            return False
        return not _given(program, _word(call, "causal"), function)
    return False


def _given(program: Program, argument: ast.expr | None, function: Function) -> bool:
    """Whether an argument is there and not known to be None or False."""
    if argument is None:
        return False
    value = program.value(argument, function)
    return value is UNKNOWN or bool(value)


def _smears(program: Program) -> Iterator[Hit]:
    """`cat(x[:, :1], x[:, 1:] + gate * x[:, :-1])` without a check for tokens that begin documents."""
    for function in program.functions:
        if not function.live or not _in_module(program, function):
            continue
        nodes = program.below(function.node)
        before = [n for n in nodes if _all_but_last(n) and isinstance(program.parents.get(n), ast.BinOp)]
        if before and before[0] in program.live and not any(_reads_tokens(n, function) for n in nodes):
            yield Hit(
                "causality",
                HOLD,
                before[0],
                f"`{function.name}` adds to each token the one before it and does not look where documents begin, "
                "while attention stops there (#1797, #1851).",
                "Probe: rewrite the document before; the next one's logits must not move.",
            )
            return


def _reads_tokens(node: ast.AST, function: Function) -> bool:
    """A comparison for equality with the function's input, such as `input_ids != BOS`."""
    if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
        return False
    parameters = set(function.params) - {"self"}
    return any(root_of(side) in parameters for side in (node.left, *node.comparators))


def _all_but_last(node: ast.AST) -> bool:
    """`x[:, :-1]`, also with more axes after it."""
    if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Tuple) or len(node.slice.elts) < 2:
        return False
    first, second = node.slice.elts[:2]
    plain = isinstance(first, ast.Slice) and first.lower is None and first.upper is None
    return plain and isinstance(second, ast.Slice) and second.lower is None and _is_minus_one(second.upper)


def _is_minus_one(node: ast.expr | None) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and ast.unparse(node) == "-1"
