"""The way from the losses and bytes of tokens to the printed score, where only sums and quotients are allowed.

The printed score is followed backwards to the model's losses and to the byte table. Sums, means, units and changes of
type are allowed on this way. Not allowed are: a loss that is compared, sorted, rounded, given to an unknown function,
or summed with something of the tokens that is no loss. Anything not known to be harmless is named and does not pass,
because the list here is one of allowed operations. Sources: README; #1017.
"""

import ast
import math
import re
from collections.abc import Iterator

from pargolf.audit.code.flow_words import LOSSES
from pargolf.audit.code.program import Program
from pargolf.audit.code.search import LOOPS, root_of, updates
from pargolf.audit.code.tree import Function, dotted, last_name
from pargolf.audit.report import UNVERIFIABLE
from pargolf.audit.rules.ngram_caches import picked_later
from pargolf.audit.rules.rule import Hit
from pargolf.audit.rules.script.sources import Slice, Sources

_SCORE = re.compile(r"(?:bpb|bits_per_byte|val_loss|nll)\W*$", re.I)
_PROBE = "Probe: run the committed script on a text of known bytes, and divide by hand."
_TYPES = frozenset(
    {
        *("float", "int", "item", "to", "double", "long", "detach", "cpu", "cuda", "numpy", "tolist", "type", "astype"),
        *("clone", "tensor", "as_tensor", "asarray", "array", "Tensor", "float64", "float32", "from_numpy", "half"),
        *("bfloat16", "contiguous", "pin_memory", "requires_grad_", "data", "copy", "list", "tuple", "dict"),
    }
)
_SHAPES = frozenset(
    {
        *("view", "reshape", "flatten", "ravel", "squeeze", "unsqueeze", "expand", "expand_as", "view_as", "transpose"),
        *("permute", "stack", "cat", "concatenate", "concat", "split", "chunk", "unbind", "narrow", "repeat", "t"),
        *("zip", "enumerate", "range", "len", "reversed", "items", "values", "keys", "get", "pop", "popleft"),
        *("numel", "size", "shape", "nelement", "dim"),
        *("append", "extend", "full", "zeros", "empty", "zeros_like", "new_zeros", "ones_like", "full_like", "map"),
    }
)
_SUMS = frozenset(
    {
        *("sum", "mean", "nansum", "fsum", "cumsum", "add", "add_", "sub", "mul", "mul_", "div", "div_", "average"),
        *("all_reduce", "all_gather", "all_gather_object", "gather_object", "broadcast", "barrier", "reduce_"),
        *(
            "index_add_",
            "scatter_add_",
            "copy_",
            "fill_",
            "zero_",
            "bincount",
            "index_put_",
            "update",
            "dot",
            "neg",
            "lerp",
        ),
    }
)
_LOGS = frozenset({"log", "log2", "log_", "log1p"})
_CHANCES = frozenset({"exp", "exp_", "exp2", "softmax", "sigmoid"})
_LOGARITHMS = frozenset({"log", "log2", "log_", "log1p", "exp", "exp_", "softmax", "log_softmax", "logaddexp"})
_CHOICES = frozenset({"gather", "take_along_axis", "index_select", "take", "where", "masked_fill", "logsumexp"})
_BOUNDS = frozenset({"clamp", "clamp_min", "clamp_", "clamp_min_", "maximum", "max", "clip"})
_READS = frozenset({"fromfile", "memmap", "frombuffer"})
_CHECKS = frozenset(
    {"isnan", "isfinite", "isinf", "isinstance", "hasattr", "getattr", "print", "log0", "all", "any", "backward"}
)
_COUNTS = _TYPES | _SHAPES | _SUMS | _CHOICES | {"max", "clamp_min", "logical_and", "logical_not", "bitwise_and"}
_ALLOWED = _TYPES | _SHAPES | _SUMS | _LOGARITHMS | _CHOICES | _CHECKS


class ScorePath:
    """The expressions of losses and of bytes between the model and the printed score.

    Args:
        program: the script.
        inside: functions of the model, which are not entered.
    """

    def __init__(self, program: Program, inside: set[Function]) -> None:
        self.program, self.inside = program, inside
        printed = list(_printed(program))
        self.ways = Sources(program, self._holds_no_loss)
        self.losses = self.ways.of(printed)
        self.octets = Sources(program, self._holds_no_bytes).of(printed)
        slices = (self.losses, self.octets)
        self.names = {(f, n.id): n for path in slices for n, f in path.nodes.items() if isinstance(n, ast.Name)}

    def __contains__(self, node: ast.AST) -> bool:
        """Whether the score is made of what a node computes. True if the score could not be followed."""
        if not self.losses.nodes or not (self.losses.whole and self.octets.whole):
            return True
        if isinstance(node, ast.AugAssign):
            return (self.program.function_of(node), root_of(node.target)) in self.names
        return node in self.losses.nodes or node in self.octets.nodes

    def _holds_no_loss(self, node: ast.expr, function: Function) -> bool:
        if isinstance(node, ast.Constant) or function in self.inside or _reads(node):
            return True
        if isinstance(node, (ast.Compare, ast.BoolOp, ast.UnaryOp)):
            return False  # a boolean has no labels of its own
        labels = self.program.of(node, function)
        return "LOSS" not in labels or "VAL" not in labels or _is_model(self.program, node, self.inside)

    def _holds_no_bytes(self, node: ast.expr, function: Function) -> bool:
        if isinstance(node, ast.Constant) or function in self.inside or _reads(node):
            return True
        labels = self.program.of(node, function)
        return "PIECE" not in labels or "VAL" not in labels or _is_model(self.program, node, self.inside)


def score_path(program: Program, path: ScorePath) -> Iterator[Hit]:
    """Operations on losses and bytes, on their way to the printed score, that are not known to be harmless."""
    seen: set[str] = set()
    odd = [*_odd(program, path), *_odd_bytes(program, path.octets), *_odd_sums(program, path)]
    for node, what in odd:
        if what not in seen and len(seen) < 3:
            seen.add(what)
            text = f"Not followed: on the way to the score `{program.function_of(node).name}` {what}."
            yield Hit("final_score", UNVERIFIABLE, node, text, _PROBE)
    yield from _unscored(program, path)


def _unscored(program: Program, path: ScorePath) -> Iterator[Hit]:
    """A pass of the model over validation tokens whose loss is not printed: it may gather what scoring then uses."""
    losses, inside = path.losses, path.inside
    learning = {program.function_of(call) for call, _ in updates(program)}
    for call in program.live_of(ast.Call) if losses.ends else ():
        function = program.function_of(call)
        if call in losses.ends or call in losses.nodes or function in inside or function in learning:
            continue
        if (
            last_name(call) in LOSSES
            or not _is_model(program, call, inside)
            or "LOSS" not in program.of(call, function)
        ):
            continue
        looped = any(isinstance(above, LOOPS) for above in program.ancestors(call))
        if (
            looped
            and _thrown_away(program, call)
            and any("VAL" in program.of(argument, function) for argument in call.args)
        ):
            text = (
                f"Not followed: `{function.name}` runs the model over validation tokens, `{ast.unparse(call)[:40]}`, "
                "and prints no loss of it."
            )
            yield Hit("val_in_training", UNVERIFIABLE, call, text, _PROBE)
            return


def _thrown_away(program: Program, call: ast.Call) -> bool:
    """Whether the result of a call is only stored: `store.add(model(x))`."""
    above = program.parents.get(call)
    while isinstance(above, (ast.Call, ast.Attribute, ast.Subscript)):
        above = program.parents.get(above)
    return isinstance(above, ast.Expr)


def _printed(program: Program) -> Iterator[tuple[ast.expr, Function]]:
    """Values that are printed after the word for a score or a validation loss."""
    for text in program.live_of(ast.JoinedStr):
        for before, part in zip(text.values, text.values[1:]):
            named = isinstance(before, ast.Constant) and _SCORE.search(str(before.value))
            if named and isinstance(part, ast.FormattedValue):
                yield part.value, program.function_of(text)


def _is_model(program: Program, node: ast.expr, inside: set[Function]) -> bool:
    """Whether an expression is a call that makes losses or logits; what happens inside is part of the model."""
    if not isinstance(node, ast.Call):
        return False
    last = last_name(node)
    callees = program.callees(node)
    if last in LOSSES or any(callee in inside for callee in callees):
        return True
    parts = [*node.args, *(k.value for k in node.keywords)]
    parts += [node.func.value] if isinstance(node.func, ast.Attribute) else []
    return not callees and last not in _ALLOWED and not any({"LOSS", "PIECE"} & program.of(part) for part in parts)


def _odd(program: Program, path: ScorePath) -> Iterator[tuple[ast.AST, str]]:
    """Operations on losses, and tests that decide whether they count."""
    for node, function in path.losses.nodes.items():
        what = _what(program, node, function)
        if (
            not what
            and isinstance(node, ast.Call)
            and last_name(node) in _LOGS
            and not _of_chance(node, function, path.ways)
        ):
            what = f"takes the logarithm of a loss, `{ast.unparse(node)[:60]}`"
        if what:
            yield node, what
    for test, function in path.losses.tests.items():
        for part in ast.walk(test):
            if isinstance(part, ast.Compare) and _by_size(program, part, function):
                yield test, f"counts by the size of a loss, `{ast.unparse(part)[:60]}`"


def _odd_bytes(program: Program, path: Slice) -> Iterator[tuple[ast.AST, str]]:
    """Operations on byte counts, except looking them up at one place and adding them up."""
    looked: dict[Function, dict[str, str]] = {}
    for node, function in path.nodes.items():
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
            for side in (node.left, node.right):
                piece = "PIECE" in program.of(side, function) or _is_truth(side)
                if not piece and not _is_number(program, side, function):
                    yield node, f"adds to a count of bytes what is none, `{ast.unparse(node)[:60]}`"
        elif isinstance(node, ast.Call) and not program.callees(node):
            last = last_name(node)
            if last not in _COUNTS:
                yield node, f"calls `{ast.unparse(node.func)[-60:]}` on bytes"
        elif isinstance(node, ast.Subscript) and re.search("base|byte", ast.unparse(node.value)):
            key, table = ast.unparse(node.slice), ast.unparse(node.value)
            if looked.setdefault(function, {}).setdefault(table, key) != key:
                yield node, f"looks bytes up at two places, `{key}` and `{looked[function][table]}`"


def _odd_sums(program: Program, path: ScorePath) -> Iterator[tuple[ast.AST, str]]:
    """Addends in a sum of losses or of bytes, by a statement of their own, that are neither."""
    names = path.names
    for node in program.live_of(ast.AugAssign):
        function = program.function_of(node)
        target = node.target
        if not isinstance(target, ast.Name) or (function, target.id) not in names:
            continue
        kinds = {"LOSS", "PIECE"} & program.of(names[function, target.id], function)
        if kinds == {"PIECE"} and _is_truth(node.value):
            continue
        if isinstance(node.op, (ast.Add, ast.Sub)) and kinds and not kinds & program.of(node.value, function):
            yield node, f"changes a sum by what is none of it, `{ast.unparse(node)[:60]}`"


def _is_truth(node: ast.expr) -> bool:
    """Whether an expression combines looked-up bits of tokens: `(space[ids] & ~first[before]).float()`.

    What they add to the bytes of a token is worked out on pieces of known bytes (`byte_tables.py`).
    """
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and last_name(node) in _TYPES:
        node = node.func.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr)):
        return all(_is_bit(side) for side in (node.left, node.right))
    return False


def _is_bit(node: ast.expr) -> bool:
    """Whether an expression is a looked-up bit, its opposite, or a combination of such."""
    node = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(node, ast.Subscript) or _is_truth(node)


def _what(program: Program, node: ast.expr, function: Function) -> str:
    """The operation of an expression on the way that is not known to be harmless; empty if it is harmless."""
    if isinstance(node, ast.Call):
        return _of_call(program, node, function)
    if isinstance(node, ast.Compare) and _by_size(program, node, function):
        return f"chooses by the size of a loss, `{ast.unparse(node)[:60]}`"
    if isinstance(node, ast.BinOp):
        return _of_operation(program, node, function)
    if isinstance(node, ast.Subscript) and _leaves_out(node):
        return f"leaves positions out, `{ast.unparse(node)[:60]}`"
    return ""


def _leaves_out(node: ast.Subscript) -> bool:
    """Whether a fixed number of positions at the beginning of each window is cut off: `nll[:, 64:]`."""
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
    firsts = [part.lower for part in parts if isinstance(part, ast.Slice) and part.upper is None]
    return any(isinstance(first, ast.Constant) and first.value for first in firsts)


def _of_call(program: Program, node: ast.Call, function: Function) -> str:
    last = last_name(node)
    if program.callees(node) or last in program.classes:
        return ""
    shown = ast.unparse(node.func)[-60:]
    if last == "reduce" and dotted(node.func) == "dist.reduce":
        return ""
    if last == "all_reduce" and re.search(r"\b(?:MIN|MAX|PRODUCT)\b", ast.unparse(node)):
        return f"takes the least or most of the processes, `{ast.unparse(node)[:60]}`"
    if last in _BOUNDS:
        return "" if _only_bounds(program, node, function) else f"calls `{shown}` on losses"
    return "" if last in _ALLOWED else f"calls `{shown}`, which is not known to leave a loss as it is"


def _only_bounds(program: Program, node: ast.Call, function: Function) -> bool:
    """Whether a bound is a small lower bound: against a division by zero, or its logarithm."""
    numbers = [program.value(a, function) for a in (*node.args, *(k.value for k in node.keywords))]
    small = [n for n in numbers if isinstance(n, (int, float)) and n <= 1]
    return bool(small) and "max" not in {k.arg for k in node.keywords}


def _of_operation(program: Program, node: ast.BinOp, function: Function) -> str:
    """A sum of a loss and something that is neither a loss nor a plain number; a power; a remainder."""
    if isinstance(node.op, (ast.Mult, ast.Div)) and _scales_chance(program, node, function):
        return f"scales a probability, `{ast.unparse(node)[:60]}`"
    if isinstance(node.op, (ast.Mult, ast.Div, ast.MatMult, ast.BitAnd, ast.BitOr)):
        return ""
    if not isinstance(node.op, (ast.Add, ast.Sub)):
        return f"computes `{ast.unparse(node)[:60]}`"
    for side in (node.left, node.right):
        if "LOSS" in program.of(side, function) or _is_number(program, side, function):
            continue
        if not picked_later(program, node):  # as a mixture of whole rows is
            return f"adds to a loss what is none, `{ast.unparse(node)[:60]}`"
    return ""


def _scales_chance(program: Program, node: ast.BinOp, function: Function) -> bool:
    """Whether a probability is multiplied by a number without being added to another, as in a mixture."""
    above = program.parents.get(node)
    if isinstance(above, ast.BinOp):
        return False
    for side, other in ((node.left, node.right), (node.right, node.left)):
        number = program.value(other, function)
        bits = isinstance(number, (int, float)) and number in (math.log(2), 1 / math.log(2))
        if "GOLD" in program.of(side, function) and _is_number(program, other, function) and not bits:
            return True
    return False


def _is_number(program: Program, node: ast.expr, function: Function) -> bool:
    """Whether an expression has a known number, or is the logarithm of one; `final_score` judges those."""
    value = program.value(node, function)
    inner = node.args[0] if isinstance(node, ast.Call) and len(node.args) == 1 else None
    return isinstance(value, (int, float)) or (inner is not None and _is_number(program, inner, function))


def _by_size(program: Program, node: ast.Compare, function: Function) -> bool:
    """Whether a comparison is of a loss with something other than zero, its type or its shape."""
    if any(isinstance(op, (ast.Is, ast.IsNot, ast.In, ast.NotIn)) for op in node.ops):
        return False
    sides = (node.left, *node.comparators)
    return any({"VAL", "LOSS"} <= program.of(side, function) for side in sides)


def _of_chance(node: ast.Call, function: Function, ways: Sources) -> bool:
    """Whether a logarithm is of probabilities: of the result of an exponential or a softmax."""
    subject = node.args[0] if node.args else getattr(node.func, "value", node)
    parts = ways.of([(subject, function)])
    return any(isinstance(n, ast.Call) and last_name(n) in _CHANCES for n in (*parts.nodes, *parts.ends))


def _reads(node: ast.expr) -> bool:
    """Whether an expression reads tokens from a file; its arguments are names, and no part of a loss."""
    return isinstance(node, ast.Call) and last_name(node) in _READS
