"""Operations of a model along time that are not known to keep later tokens out; they are named and do not pass.

`masks` reports code that is known to look ahead. The lists here are of operations known to be harmless: work on each
position by itself, changes of shape and type, attention, sums from the start. Anything else may bring in later tokens:
a reduction or a sort along time, a position looked up by a computed index, padding at the end, a layer or a function
that is not on the lists. Reading does not show that it does not. Source: #1017 (C1).
"""

import ast
from collections.abc import Iterator

from pargolf.audit.code.program import Program
from pargolf.audit.code.tree import Function, last_name
from pargolf.audit.report import UNVERIFIABLE
from pargolf.audit.rules.rule import Hit
from pargolf.audit.rules.window.masks import AHEAD, axes_of, built_modules, model_functions
from pargolf.audit.rules.window.small_windows import lets_later_in

_REDUCES = frozenset(
    {
        *(
            "mean",
            "sum",
            "max",
            "min",
            "amax",
            "amin",
            "logsumexp",
            "median",
            "nanmedian",
            "mode",
            "std",
            "var",
            "norm",
        ),
        *(
            "prod",
            "softmax",
            "log_softmax",
            "softmin",
            "argmax",
            "argmin",
            "aminmax",
            "normalize",
            "vector_norm",
            "sort",
        ),
        *("argsort", "topk", "kthvalue", "quantile", "std_mean", "var_mean", "all", "any", "unique"),
    }
)
_BY_WORD = frozenset({"topk", "kthvalue", "quantile"})  # their plain number is a count, not an axis
_POINTWISE = frozenset(
    {
        *(
            "relu",
            "relu_",
            "relu2",
            "gelu",
            "silu",
            "sigmoid",
            "tanh",
            "leaky_relu",
            "softplus",
            "square",
            "abs",
            "exp",
        ),
        *("log", "sqrt", "rsqrt", "sin", "cos", "pow", "neg", "sign", "clamp", "clamp_", "clamp_min", "clamp_max"),
        *("clamp_min_", "add", "add_", "sub", "mul", "mul_", "div", "div_", "addcmul", "lerp", "where", "masked_fill"),
        *(
            "masked_fill_",
            "maximum",
            "minimum",
            "round",
            "floor",
            "erf",
            "logsigmoid",
            "elu",
            "selu",
            "hardtanh",
            "mish",
        ),
        *(
            "dropout",
            "rms_norm",
            "layer_norm",
            "linear",
            "embedding",
            "one_hot",
            "logical_and",
            "logical_or",
            "eq",
            "ne",
        ),
        *("ge", "gt", "le", "lt", "bitwise_xor", "bitwise_and", "remainder", "fmod", "reciprocal", "log1p", "sigmoid_"),
        *("glu", "hardsigmoid", "relu6", "exp2", "zero_", "fill_", "copy_", "isnan", "logical_not", "nan_to_num"),
    }
)
_SHAPES = frozenset(
    {
        *("get_submodule", "functional_call"),
        *("items", "values", "keys", "get", "pop", "append", "extend", "addcmul", "index_add", "new_ones", "new_zeros"),
        *("zeros", "ones", "full", "empty", "tensor", "as_tensor", "from_numpy", "leaky_relu_backward", "bincount"),
        *("view", "reshape", "transpose", "permute", "contiguous", "flatten", "unflatten", "squeeze", "unsqueeze"),
        *("expand", "expand_as", "split", "chunk", "unbind", "cat", "stack", "concat", "to", "type", "float", "half"),
        *(
            "bfloat16",
            "type_as",
            "view_as",
            "clone",
            "detach",
            "cuda",
            "cpu",
            "size",
            "dim",
            "numel",
            "item",
            "rearrange",
        ),
        *(
            "repeat_interleave",
            "repeat",
            "narrow",
            "tensor_split",
            "swapaxes",
            "movedim",
            "long",
            "int",
            "double",
            "bool",
        ),
        *("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "empty_like", "full_like", "t"),
        *(
            "append",
            "pop",
            "arange",
            "linspace",
            "logspace",
            "eye",
            "meshgrid",
            "extend",
            "mark_dirty",
            "device",
            "diag",
        ),
        *("save_for_backward", "softcapped_ce"),
        *("requires_grad_", "data_ptr", "stride", "element_size", "is_contiguous", "select", "unfold", "pad", "roll"),
        *("as_strided", "numpy", "tolist", "reshape_as", "diagonal", "flip", "fliplr", "chunks", "hsplit", "rand_like"),
    }
)
_PRODUCTS = frozenset(
    {
        *("matmul", "bmm", "mm", "einsum", "baddbmm", "addmm", "outer", "dot", "scaled_dot_product_attention", "mv"),
        *(
            "flex_attention",
            "cross_entropy",
            "nll_loss",
            "gather",
            "take_along_dim",
            "cumsum",
            "cumprod",
            "logcumsumexp",
        ),
        *(
            "tril",
            "triu",
            "conv1d",
            "checkpoint",
            "apply",
            "scatter",
            "scatter_",
            "scatter_add",
            "scatter_add_",
            "rand",
        ),
        *("index_select", "linear_cross_entropy", "cummax", "index_add", "index_add_", "masked_select", "nonzero"),
        *("associative_scan", "mse_loss", "bernoulli", "randint", "kl_div", "bincount", "cosine_similarity", "isin"),
    }
)
_ATTENDS = ("scaled_dot_product_attention", "flex_attention")
_KNOWN = _REDUCES | _POINTWISE | _SHAPES | _PRODUCTS
_LAYERS = frozenset(
    {
        *(
            "Linear",
            "Embedding",
            "Dropout",
            "LayerNorm",
            "RMSNorm",
            "Identity",
            "GELU",
            "SiLU",
            "ReLU",
            "Sigmoid",
            "Tanh",
        ),
        *(
            "Sequential",
            "ModuleList",
            "ModuleDict",
            "ParameterList",
            "Parameter",
            "LSTM",
            "GRU",
            "RNN",
            "Conv1d",
            "Softmax",
        ),
        *(
            "CrossEntropyLoss",
            "Bilinear",
            "Softplus",
            "LeakyReLU",
            "EmbeddingBag",
            "ELU",
            "GLU",
            "LogSoftmax",
            "GroupNorm",
        ),
        *("MultiheadAttention", "TransformerEncoder", "TransformerEncoderLayer", "Transformer", "AdaptiveAvgPool1d"),
    }
)


def time_axis(program: Program) -> Iterator[Hit]:
    """Operations of a model along time that reading does not show to be causal; the first three places."""
    modules = model_functions(program)
    built = built_modules(program)
    seen: set[str] = set()
    for node in program.live_of(ast.Call, ast.Subscript):
        function = program.function_of(node)
        if function not in modules or not _of_model(program, function, modules):
            continue
        what = (
            _of_call(program, node, function, built)
            if isinstance(node, ast.Call)
            else _of_index(program, node, function)
        )
        if what and what not in seen and len(seen) < 3:
            seen.add(what)
            text = f"Not followed: `{function.name}` {what}; reading does not show that no later token comes in."
            yield Hit("causality", UNVERIFIABLE, node, text, AHEAD)


def _of_model(program: Program, function: Function, modules: set[Function]) -> bool:
    """Whether a function is a method, or a plain one that gets a method's arguments."""
    if function.owner is not None:
        return True
    sites = [site for site in function.calls if site.caller in modules]
    return any(_is_activation(program, a, site.caller) for site in sites for a in site.call.args)


def _is_activation(program: Program, node: ast.AST, function: Function) -> bool:
    """Whether an expression is made from the function's arguments, besides weights of the object."""
    return any(label.startswith("p:") and label != "p:self" for label in program.labels(node, function))


def _of_call(program: Program, call: ast.Call, function: Function, built: dict[str, ast.Call]) -> str:
    last = last_name(call)
    method = isinstance(call.func, ast.Attribute) and _is_activation(program, call.func.value, function)
    handed = method or any(_is_activation(program, a, function) for a in call.args)
    if not handed or program.callees(call):
        return ""
    own = (
        isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id == "self"
    )
    if own:
        kind = program.called(built[last]).rsplit(".", 1)[-1] if last in built else ""
        return f"calls nn.{kind}, which is not known to keep positions apart" if kind and kind not in _LAYERS else ""
    if last in _REDUCES and _along_time(program, call, last, function):
        return f"takes `{last}` along time"
    if last == "pad" and _padded_behind(program, call, function):
        return "pads the window at its end"
    if last in ("flip", "fliplr", "flipud") and axes_of(program, call, function) & {2, -3}:
        return "turns an axis round"
    if last == "scaled_dot_product_attention":
        return _of_mask(program, call, function)
    part = last in program.attribute_sources and not isinstance(call.func, ast.Name)  # a layer of another object
    meant = program.full_name(call.func, function)
    library = (method and not part) or meant.startswith(("torch.", "numpy.", "einops.", "scipy."))
    known = meant.rsplit(".", 1)[-1] in _KNOWN or last in _KNOWN or last.rstrip("_") in _KNOWN
    return f"calls `{last}`, which is not known to keep positions apart" if library and not known else ""


def _of_mask(program: Program, call: ast.Call, function: Function) -> str:
    """A given mask that cannot be computed."""
    words = {k.arg: k.value for k in call.keywords}
    mask = words.get("attn_mask", call.args[3] if len(call.args) > 3 else None)
    if mask is None or program.value(mask, function) is None or "is_causal" in words or None in words:
        return ""
    return "attends with a mask that could not be worked out" if lets_later_in(program, mask, function) is None else ""


def _along_time(program: Program, call: ast.Call, last: str, function: Function) -> bool:
    """Whether a reduction names the axis of time and no other."""
    if last in _BY_WORD:
        words = [k.value for k in call.keywords if k.arg in ("dim", "axis")]
        return any(program.value(word, function) in (1, -2) for word in words)
    axes = axes_of(program, call, function)
    attends = any(last_name(node).endswith(_ATTENDS) for node in program.own_of(function, ast.Call))
    return bool(axes) and axes <= ({1, 2, -2} if attends else {1, -2})  # heads stand before time, or after it


def _padded_behind(program: Program, call: ast.Call, function: Function) -> bool:
    """`pad(x, (0, 0, 0, 1))`: something is put after the last position, so that all others move."""
    sides = call.args[1] if len(call.args) > 1 else None
    elements = sides.elts if isinstance(sides, (ast.Tuple, ast.List)) else []
    value = program.value(elements[3], function) if len(elements) > 3 else 0
    return isinstance(value, int) and value > 0


def _of_index(program: Program, node: ast.Subscript, function: Function) -> str:
    """`x[:, order]`: positions in a computed order."""
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
    if not isinstance(node.ctx, ast.Load) or len(parts) < 2 or not _is_activation(program, node.value, function):
        return ""
    if not isinstance(parts[0], ast.Slice):
        return ""
    if _is_end(parts[1]):
        return f"reads the end of the window, `{ast.unparse(node)[:40]}`"
    for part in parts[1:]:
        plain = isinstance(part, (ast.Slice, ast.Constant, ast.UnaryOp)) or isinstance(
            program.value(part, function), int
        )
        if not plain and not _counts(part):
            return f"looks positions up by `{ast.unparse(part)[:40]}`"
    return ""


def _is_end(part: ast.expr) -> bool:
    """`-1` or `-1:`: the last positions of a window; `-x.shape[1]:` is one for each position of `x`."""
    first = part.lower if isinstance(part, ast.Slice) and part.upper is None else part
    if not isinstance(first, ast.UnaryOp) or not isinstance(first.op, ast.USub):
        return False
    length = first.operand.value if isinstance(first.operand, ast.Subscript) else None
    return not (isinstance(length, ast.Attribute) and length.attr == "shape")


def _counts(node: ast.expr) -> bool:
    """Whether an index is the counter of a loop: a plain short name."""
    return (isinstance(node, ast.Name) and len(node.id) <= 2) or isinstance(node, ast.BinOp)
