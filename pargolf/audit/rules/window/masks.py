"""Code that sees the whole window besides attention calls without a mask: attention by hand, library encoders, filters.

Inside a model, time is the axis before the last. Attention by hand is a softmax over a product of two projections. It
needs a triangle in its function or in the code that builds its mask. Encoders and recurrences of the library look both
ways by default. Rolling by a negative step, flipping, averaging over time and symmetric convolutions bring in later
tokens. Source: #1017 (C1).
"""

import ast
import re
from collections.abc import Iterator

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import LOOPS, names_in
from pargolf.audit.code.tree import Function, dotted, last_name, walk
from pargolf.audit.code.values import UNKNOWN
from pargolf.audit.report import SUSPECT
from pargolf.audit.rules.rule import Hit
from pargolf.audit.rules.window.small_windows import lets_later_in, shuts_too_little

AHEAD = "Probe: change the last tokens of a window; no earlier logit may move (`pargolf audit --run`)."
_TRIANGLES = ("tril", "triu", "masked_fill", "masked_fill_", "where", "causal", "is_causal", "create_block_mask")
_BOTH_WAYS = ("TransformerEncoder", "TransformerEncoderLayer", "MultiheadAttention", "Transformer")
_MASK_WORDS = ("mask", "src_mask", "attn_mask", "is_causal", "tgt_mask")
_NO_WINDOW = ("__init__", "reset", "backward")
_POOLS = ("AdaptiveAvgPool1d", "AdaptiveMaxPool1d", "BatchNorm1d", "InstanceNorm1d")


def open_windows(program: Program) -> Iterator[Hit]:
    """Code of a model through which a position sees later tokens."""
    modules = model_functions(program)
    built = built_modules(program)
    for call in program.live_of(ast.Call):
        function = program.function_of(call)
        if function not in modules:
            continue
        reason = _of_call(program, call, function, built)
        if reason:
            yield Hit("causality", SUSPECT, call, f"`{function.name}` {reason} (#1017 C1).", AHEAD)
    for node in program.live_of(ast.Assign):
        function = program.function_of(node)
        if function in modules and _moves_back(node):
            yield Hit(
                "causality", SUSPECT, node, f"`{function.name}` moves later tokens one place back (#1017 C1).", AHEAD
            )
    for loop in program.live_of(ast.For):
        function = program.function_of(loop)
        if function in modules and _scans_ahead(program, loop):
            text = f"`{function.name}` goes through the window so that later tokens enter earlier places (#1017 C1)."
            yield Hit("causality", SUSPECT, loop, text, AHEAD)
    for node in program.live_of(ast.BinOp):
        function = program.function_of(node)
        if function in modules and _sums_up_keys(program, node, function):
            text = f"`{function.name}` sums keys and values over the whole window (#1017 C1)."
            yield Hit("causality", SUSPECT, node, text, AHEAD)
    for node in program.live_of(ast.Subscript):
        function = program.function_of(node)
        if function in modules and _is_reversed(node):
            yield Hit("causality", SUSPECT, node, f"`{function.name}` reads the window backwards (#1017 C1).", AHEAD)
        elif function in modules and _shifts_ahead(program, node):
            yield Hit(
                "causality", SUSPECT, node, f"`{function.name}` moves later tokens one place back (#1017 C1).", AHEAD
            )


def model_functions(program: Program) -> set[Function]:
    """Methods of classes that have `forward`, and the plain functions that these call.

    A `backward` computes gradients, which see all of the window.
    """
    owners = {f.owner for f in program.by_name.get("forward", ()) if f.owner}
    functions = {f for f in program.functions if f.live and f.owner in owners and f.name not in _NO_WINDOW}
    waiting = list(functions)
    callers: dict[Function, list[Function]] = {}
    for function in program.functions:
        for site in function.calls:
            callers.setdefault(site.caller, []).append(function)
    while waiting:
        for callee in callers.get(waiting.pop(), []):
            if callee not in functions and callee.owner is None:
                functions.add(callee)
                waiting.append(callee)
    return functions


def built_modules(program: Program) -> dict[str, ast.Call]:
    """Attributes that hold a module of the library, with the call that builds it."""
    modules: dict[str, ast.Call] = {}
    for attribute, sources in program.attribute_sources.items():
        for _, value in sources:
            if isinstance(value, ast.Call) and program.called(value).startswith("torch.nn."):
                modules[attribute] = value
    return modules


def _of_call(program: Program, call: ast.Call, function: Function, built: dict[str, ast.Call]) -> str:
    """How a call in a model brings in later tokens, in words; empty if it does not."""
    name = last_name(call)
    if name == "scaled_dot_product_attention":
        return _open_mask(program, call, function)
    if name == "flex_attention":
        return _of_flex(program, call, function)
    if name in ("masked_fill", "masked_fill_") and _fills_scores(call):
        mask = call.args[0] if isinstance(call.func, ast.Attribute) and len(call.args) == 2 else call.args[1]
        if shuts_too_little(program, mask, function):
            return "attends with a mask that lets later tokens in"
    if name == "softmax" and _weighs_values(program, call, function):
        return "attends by hand with no triangle over the scores: every position sees the whole window"
    if isinstance(call.func, ast.Attribute) and call.func.attr in built:
        return _of_module(program, call, built[call.func.attr], function)
    if name == "roll" and _rolls_ahead(program, call, function):
        return "rolls later tokens into earlier places"
    if name in ("flip", "fliplr") and axes_of(program, call, function) & {1, -2}:
        return "turns the window round"
    if name in ("avg_pool1d", "max_pool1d", "fft", "rfft", "conv1d") and _spreads(program, call, function):
        return f"calls {name} over both sides of a position"
    if name in ("mean", "sum", "max", "amax", "logsumexp") and _over_time(program, call, function):
        return f"takes the {name} over the whole window"
    return ""


def _open_mask(program: Program, call: ast.Call, function: Function) -> str:
    """Why a given mask, or the argument in its place, lets later tokens in."""
    words = {k.arg: k.value for k in call.keywords}
    causal = words.get("is_causal", call.args[5] if len(call.args) > 5 else None)
    if causal is not None and re.search(r"self\.training|grad_enabled", ast.unparse(causal)):
        return "is told to be causal while it trains only: scoring sees the whole window"
    mask = words.get("attn_mask", call.args[3] if len(call.args) > 3 else None)
    none = mask is None or program.value(mask, function) is None
    if none and len(call.args) > 3 and not (causal is not None and _is_given(program, causal, function)):
        return "attends with no mask and without being told to be causal: every position sees the whole window"
    if mask is not None and lets_later_in(program, mask, function):
        return "attends with a mask that lets later tokens in"
    return ""


def _of_flex(program: Program, call: ast.Call, function: Function) -> str:
    """Why `flex_attention` lets later tokens in: it gets no mask, or one that lets them in."""
    words = {k.arg: k.value for k in call.keywords}
    if None in words or any(isinstance(a, ast.Starred) for a in call.args):
        return ""
    mask = words.get("block_mask", call.args[4] if len(call.args) > 4 else None)
    if mask is None and "score_mod" not in words and len(call.args) <= 3:
        return "attends with no mask and without being told to be causal: every position sees the whole window"
    if mask is not None and lets_later_in(program, mask, function):
        return "attends with a mask that lets later tokens in"
    return ""


def _fills_scores(call: ast.Call) -> bool:
    """Whether the filled-in value is the lowest number, as in scores before a softmax."""
    text = ast.unparse(call.args[-1]) if call.args else ""
    return "-inf" in text or ".min" in text or "-1e" in text or "-torch.inf" in text or "-math.inf" in text


def _weighs_values(program: Program, call: ast.Call, function: Function) -> bool:
    """Whether a softmax is of a product of two projections, without a triangle in its function or its scores."""
    scores = call.args[0] if call.args and not _is_method(call) else getattr(call.func, "value", None)
    if scores is None or axes_of(program, call, function) == {0}:  # over layers or lanes, not over positions
        return False
    sources = [scores, *_sources(function, scores)]
    product = any(_is_product(node) for source in sources for node in walk(source))
    if not product:
        return False
    if any(
        _mentions(statement, _TRIANGLES) for statement in program.own_nodes(function) if isinstance(statement, ast.expr)
    ):
        return False
    words = {n for source in sources for n in names_in(source)} | {
        n.attr for source in sources for n in walk(source) if isinstance(n, ast.Attribute)
    }
    if any("mask" in word or "bias" in word or "causal" in word for word in words):
        return False
    return _mixes_time(program, call, function)


def _mixes_time(program: Program, call: ast.Call, function: Function) -> bool:
    """Whether the weights are used in another product: `softmax(...) @ v`, directly or through a name."""
    above = program.parents.get(call)
    for _ in range(4):
        if above is None or isinstance(above, ast.stmt):
            break
        if _is_product(above):
            return True
        above = program.parents.get(above)
    names = {t.id for t in getattr(above, "targets", []) if isinstance(t, ast.Name)}
    return any(
        _is_product(node) and names & names_in(node) and node is not call for node in program.own_nodes(function)
    )


def _is_product(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.MatMult)
    return isinstance(node, ast.Call) and last_name(node) in ("matmul", "bmm", "einsum", "baddbmm")


def _is_method(call: ast.Call) -> bool:
    """Whether `x.softmax(...)` is a method of a tensor, not a function of the library."""
    return isinstance(call.func, ast.Attribute) and dotted(call.func).split(".")[0] not in (
        "F",
        "torch",
        "nn",
        "np",
        "jax",
    )


def _sources(function: Function, node: ast.AST) -> list[ast.expr]:
    """The values of the names in an expression, two steps back."""
    sources: list[ast.expr] = []
    names = names_in(node)
    for _ in range(2):
        fresh = [s for name in names for s in function.assigned.get(name, ()) if s is not None and s not in sources]
        sources += fresh
        names = {n for s in fresh for n in names_in(s)}
    return sources


def _of_module(program: Program, call: ast.Call, construction: ast.Call, function: Function) -> str:
    """What a module of the library sees, by the arguments of its construction and its call."""
    kind = program.called(construction).rsplit(".", 1)[-1]
    words = {k.arg: k.value for k in (*construction.keywords, *call.keywords)}
    if kind in _BOTH_WAYS:
        masked = any(w in words and _is_given(program, words[w], function) for w in _MASK_WORDS)
        plain = 3 if kind == "MultiheadAttention" else 1
        return "" if masked or len(call.args) > plain else f"calls nn.{kind} without a mask: it sees the whole window"
    if kind in ("LSTM", "GRU", "RNN"):
        arguments = words.get("bidirectional")
        return (
            f"calls an nn.{kind} that runs both ways"
            if arguments is not None and _is_given(program, arguments, function)
            else ""
        )
    if kind == "Conv1d":
        padding = program.value(words["padding"], function) if "padding" in words else 0
        cut = any(isinstance(a, ast.Subscript) for a in program.ancestors(call)) or _cut_later(program, call, function)
        symmetric = padding == "same" or (isinstance(padding, int) and padding > 0 and not cut)
        return "calls an nn.Conv1d that is padded on both sides" if symmetric and padding is not UNKNOWN else ""
    if kind in _POOLS:
        return f"calls nn.{kind}, whose statistics are those of the whole window"
    shape = construction.args[0] if construction.args else None
    if kind == "LayerNorm" and isinstance(shape, (ast.List, ast.Tuple)) and len(shape.elts) > 1:
        return "calls an nn.LayerNorm over time as well: its statistics are those of the whole window"
    if kind == "GroupNorm" and call.args and _turns(call.args[0]):
        return "calls an nn.GroupNorm, whose statistics are those of the whole window"
    if kind == "Linear" and call.args and _turns(call.args[0]) and _turns(program.parents.get(call)):
        return "calls an nn.Linear over the axis of time: every position sees the whole window"
    return ""


def _turns(node: ast.AST | None) -> bool:
    """`x.transpose(1, 2)`, `x.mT`: time and channels change places."""
    if isinstance(node, ast.Attribute):
        return node.attr in ("mT", "transpose", "swapaxes", "permute")
    inner = node.func if isinstance(node, ast.Call) and len(node.args) < 4 else None
    return isinstance(inner, ast.Attribute) and inner.attr in ("transpose", "swapaxes", "permute")


def _cut_later(program: Program, call: ast.Call, function: Function) -> bool:
    """Whether a call's result is cut at its end under its name: `y = conv(x)`, `y[..., :length]`."""
    above = next((a for a in program.ancestors(call) if isinstance(a, ast.stmt)), None)
    names = {t.id for t in getattr(above, "targets", []) if isinstance(t, ast.Name)}
    return any(
        isinstance(n, ast.Subscript) and isinstance(n.value, ast.Name) and n.value.id in names
        for n in program.own_nodes(function)
    )


def _is_given(program: Program, node: ast.expr, function: Function) -> bool:
    value = program.value(node, function)
    return value is UNKNOWN or bool(value)


def _rolls_ahead(program: Program, call: ast.Call, function: Function) -> bool:
    """`torch.roll(x, -1, dims=1)`: a negative step along time, of the model's own tensor with three axes."""
    method = _is_method(call)
    steps = next((k.value for k in call.keywords if k.arg == "shifts"), None)
    steps = steps or (call.args[0 if method else 1] if len(call.args) > (0 if method else 1) else None)
    value = program.value(steps, function)
    value = value[0] if isinstance(value, tuple) and value else value
    return isinstance(value, int) and value < 0


def _spreads(program: Program, call: ast.Call, function: Function) -> bool:
    """Whether a filter of the library is padded on both sides, or a transform is over time."""
    name = last_name(call)
    if name in ("fft", "rfft"):
        return bool(axes_of(program, call, function) & {1, -2})
    padding = next((k.value for k in call.keywords if k.arg == "padding"), None)
    value = program.value(padding, function) if padding is not None else 0
    return value == "same" or (isinstance(value, int) and value > 0 and not _cut_later(program, call, function))


def axes_of(program: Program, call: ast.Call, function: Function) -> set[int]:
    """Axes that a call names: its numbers, and those of `dim`, `dims` and `axis`."""
    arguments = [*call.args[0 if _is_method(call) else 1 :], *(k.value for k in call.keywords if k.arg in _AXES)]
    axes: set[int] = set()
    for node in arguments:
        value = program.value(node, function)
        axes |= {v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, int)}
    return axes


_AXES = ("dim", "dims", "axis")


def _over_time(program: Program, call: ast.Call, function: Function) -> bool:
    """Whether a reduction is over the axis of time, and its result goes back to every position."""
    if not _is_method(call) and not dotted(call.func).startswith(("torch.", "F.")):
        return False
    keepdim = next((k.value for k in call.keywords if k.arg == "keepdim"), None)
    axes = axes_of(program, call, function)
    if keepdim is None or program.value(keepdim, function) is not True or not axes or not axes <= {1, -2}:
        return False
    # Weights, gates and heads are reduced, too. Only a result that is added to the window itself counts.
    source = call.func.value if _is_method(call) and isinstance(call.func, ast.Attribute) else call.args[0]
    above = program.parents.get(call)
    if not isinstance(source, ast.Name):
        return False
    if isinstance(above, ast.BinOp):
        return source.id in names_in(_other(above, call))
    names = {t.id for t in getattr(above, "targets", ()) if isinstance(t, ast.Name)}
    sums = (n for n in program.own_nodes(function) if isinstance(n, ast.BinOp))
    return any(names & names_in(n) and source.id in names_in(n) and not names & {source.id} for n in sums)


def _other(node: ast.BinOp, side: ast.AST) -> ast.expr:
    return node.right if node.left is side else node.left


def _shifts_ahead(program: Program, node: ast.Subscript) -> bool:
    """`cat([x[:, 1:], ...])` or `pad(x[:, 1:], (0, 0, 0, 1))`: a position gets the value of the next one."""
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
    cuts = [p for p in parts[1:3] if isinstance(p, ast.Slice) and p.upper is None and p.lower is not None]
    if not any(cut.lower is not None and ast.unparse(cut.lower) == "1" for cut in cuts):
        return False
    above = program.parents.get(node)
    if isinstance(above, (ast.List, ast.Tuple)) and above.elts and above.elts[0] is node:
        call = program.parents.get(above)
        return isinstance(call, ast.Call) and last_name(call) in ("cat", "concat")
    if isinstance(above, ast.Call) and last_name(above) == "pad" and len(above.args) > 1:
        sides = [ast.unparse(e) for e in getattr(above.args[1], "elts", [])]
        return len(sides) == 4 and sides[2] == "0" and sides[3] != "0"
    return False


def _moves_back(node: ast.Assign) -> bool:
    """`ahead[:, :-1] = x[:, 1:]`: a position gets the value of the next one. Targets may be shifted like this."""
    target, value = node.targets[0], node.value
    if not isinstance(target, ast.Subscript) or not isinstance(value, ast.Subscript):
        return False
    if re.search(r"target|label|tgt|ids|tok", ast.unparse(value.value)):
        return False
    ends = [s.slice.elts[1] for s in (target, value) if isinstance(s.slice, ast.Tuple) and len(s.slice.elts) > 1]
    if len(ends) != 2 or not all(isinstance(end, ast.Slice) for end in ends):
        return False
    return [ast.unparse(end) for end in ends] in ([":-1", "1:"], ["0:-1", "1:"])


def _scans_ahead(program: Program, loop: ast.For) -> bool:
    """Whether a loop over positions reads `x[:, t + 1]` for position `t`, or runs from the last to the first."""
    if not isinstance(loop.target, ast.Name):
        return False
    counter, ahead, placed = loop.target.id, False, False
    for statement in loop.body:
        for node in program.below(statement):
            if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Tuple):
                continue
            parts = node.slice.elts
            place = parts[1] if len(parts) > 1 and isinstance(parts[0], ast.Slice) else None
            placed = placed or (isinstance(place, ast.Name) and place.id == counter)
            if isinstance(place, ast.BinOp) and isinstance(place.op, ast.Add) and isinstance(node.ctx, ast.Load):
                ahead = ahead or (counter in names_in(place.left) and isinstance(place.right, ast.Constant))
    return placed and (ahead or _runs_down(loop.iter))


def _runs_down(items: ast.expr) -> bool:
    """`reversed(range(n))` and `range(n - 1, -1, -1)`."""
    if not isinstance(items, ast.Call):
        return False
    if dotted(items.func) == "reversed":
        return bool(items.args) and isinstance(items.args[0], ast.Call) and dotted(items.args[0].func) == "range"
    return dotted(items.func) == "range" and len(items.args) == 3 and isinstance(items.args[2], ast.UnaryOp)


def _sums_up_keys(program: Program, node: ast.BinOp, function: Function) -> bool:
    """`k.mT @ v`, multiplied with queries: a sum over all positions, if no loop or triangle orders it."""
    if not isinstance(node.op, ast.MatMult) or not _turns(_bare(node.left)) or _turns(_bare(node.right)):
        return False
    if any(isinstance(n, ast.Attribute) and n.attr == "weight" for n in walk(node)) or "self." in ast.unparse(node):
        return False
    nodes = program.own_nodes(function)
    ordered = any(isinstance(n, LOOPS) for n in nodes) or any(_mentions(n, (*_TRIANGLES, "cumsum")) for n in nodes)
    names = {t.id for t in getattr(program.parents.get(node), "targets", ()) if isinstance(t, ast.Name)}
    used = any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.MatMult) and names & names_in(n.right) for n in nodes)
    return not ordered and used


def _bare(node: ast.expr) -> ast.expr:
    """An expression without the change of type around it."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("to", "float"):
        node = node.func.value
    return node


def _is_reversed(node: ast.Subscript) -> bool:
    """Whether `x[:, ::-1]` reads the window backwards. `x[:, 1:]` is left to the probe; a step back is fine."""
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return len(parts) > 1 and any(
        isinstance(p, ast.Slice) and p.step is not None and ast.unparse(p.step) == "-1" for p in parts
    )


def _mentions(node: ast.AST, words: tuple[str, ...]) -> bool:
    """Whether a tree names one of some functions or arguments."""
    for inner in walk(node):
        if isinstance(inner, ast.Attribute) and inner.attr in words:
            return True
        if isinstance(inner, ast.Name) and inner.id in words:
            return True
        if isinstance(inner, ast.keyword) and inner.arg in words:
            return True
    return False
