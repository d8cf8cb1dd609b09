"""Whether the printed score is the loss over the bytes, without any number of the script's own on the way.

Loss, tokens and bytes of validation text are multiplied and divided on their way to the printed line. The product of
the numbers among the factors must be 1 or the logarithm of two. Whole numbers are counts, powers of ten are units. A
number added to a loss or a score, or a power of one, is neither. Operations inside the model, or on a loss that is only
trained on, do not matter. Weights of a mixture that sum to one are allowed.
"""

import ast
import math
import re
from collections.abc import Iterator

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import names_in, nearby, updates
from pargolf.audit.code.tree import Function, dotted, last_name, spelled, walk
from pargolf.audit.report import SUSPECT, UNVERIFIABLE
from pargolf.audit.rules.rule import Hit
from pargolf.audit.rules.script.score_path import ScorePath, score_path
from pargolf.audit.rules.window.masks import model_functions

_NEAR = 2e-4
_FAR = 1.6
_LEAST, _MOST = 1e-4, 0.5
_UNWRAPPED = (
    "float",
    "item",
    "sum",
    "mean",
    "to",
    "double",
    "cpu",
    "detach",
    "abs",
    "clone",
    "tensor",
    "view",
    "reshape",
)
_METHODS: dict[str, type[ast.operator]] = {
    **dict.fromkeys(("mul", "mul_", "multiply", "multiply_"), ast.Mult),
    **dict.fromkeys(("div", "div_", "divide", "divide_", "true_divide"), ast.Div),
    **dict.fromkeys(("add", "add_", "sub", "sub_", "subtract"), ast.Add),
    **dict.fromkeys(("pow", "pow_", "float_power"), ast.Pow),
}
_FUNCTIONS: dict[str, type[ast.operator]] = {"truediv": ast.Div, "power": ast.Pow}
_CAPS = ("clamp", "clamp_", "clamp_max", "clamp_max_", "clamp_min", "clamp_min_", "clip")
_SIZES = ("size", "numel", "len", "shape", "nelement")
_LOSSES = ("cross_entropy", "nll_loss")
_ROUNDS = ("math.floor", "math.trunc", "floor", "trunc")
_MIDDLES = ("median", "nanmedian", "quantile", "kthvalue", "mode")
_WHOLE = ("factorial", "comb", "perm", "gcd", "lcm")  # results of any size
_NORMALIZES = ("softmax", "log_softmax", "cross_entropy")
_RATES = re.compile(r"(^|_)lr(_|$)|sched|warm|decay|momentum|anneal")
_PROBE = "Probe: run the committed script on a text of known bytes, and divide by hand."


def final_score(program: Program) -> Iterator[Hit]:
    """Whether a number of the script's own enters the reported loss or score."""
    inside = model_functions(program)
    path = ScorePath(program, inside)
    learned = {name for _, loss in updates(program) for name in names_in(loss)}
    lines: set[int] = set()
    for node in program.live_of(ast.BinOp, ast.AugAssign, ast.Call):
        function = program.function_of(node)
        line = getattr(node, "lineno", 0)
        if function in inside or _RATES.search(function.name) or line in lines or node not in path:
            continue
        number = _foreign_number(program, node, function)
        if number is None or _of_logits(program, node) or _only_learned(program, node, learned, function):
            continue
        lines.add(line)
        action = f"`{function.name}` lets {number:g} enter a loss or a count that the score is made of."
        yield Hit("final_score", SUSPECT, node, action, _PROBE)
    yield from _without_bytes(program, inside)
    yield from _more_bytes(program, inside)
    yield from _rewritten(program)
    for node, action in _chosen(program):
        function = program.function_of(node)
        on_path = node in path or not isinstance(node, ast.Call)
        if function not in inside and on_path and not _of_logits(program, node):
            yield Hit("final_score", SUSPECT, node, f"`{function.name}` {action}.", _PROBE)
            break
    yield from _weighed_losses(program, inside)
    yield from _printed(program)
    yield from _training_loss(program)
    yield from score_path(program, path)


def _more_bytes(program: Program, inside: set[Function]) -> Iterator[Hit]:
    """A count of something else that is added to the bytes of validation tokens."""
    for node in program.live_of(ast.BinOp):
        function = program.function_of(node)
        if not isinstance(node.op, ast.Add) or function in inside:
            continue
        for side, other in ((node.left, node.right), (node.right, node.left)):
            counts = any(getattr(n, "attr", getattr(n, "id", "")) in _SIZES for n in walk(other))
            if not counts or "PIECE" in program.of(other, function):
                continue
            labels = program.of(side, function)
            if {"VAL", "PIECE"} <= labels and "LOSS" not in labels:
                text = f"`{function.name}` adds `{ast.unparse(other)[:40]}` to the bytes of validation tokens."
                yield Hit("final_score", SUSPECT, node, text, _PROBE)
                return


def _rewritten(program: Program) -> Iterator[Hit]:
    """A function that prints, and puts other digits into its output."""
    for call in program.live_of(ast.Call):
        if getattr(call.func, "attr", dotted(call.func)) not in ("replace", "sub", "translate"):
            continue
        function = program.function_of(call)
        prints = any(isinstance(n, ast.Call) and dotted(n.func).endswith("print") for n in program.own_nodes(function))
        texts = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        digits = any(re.search(r"\d\.\d|val_|bpb|loss", text) for text in texts)
        if prints and digits and function.name not in ("main", "<module>"):
            text = f"`{function.name}` prints, and puts other digits into what it is told to print."
            yield Hit("final_score", SUSPECT, call, text, _PROBE)
            return


def _without_bytes(program: Program, inside: set[Function]) -> Iterator[Hit]:
    """Bits per byte that are made from a loss with a number of the script's own, without a count of bytes."""
    for node in program.live_of(ast.BinOp):
        above = program.parents.get(node)
        inner = isinstance(above, ast.BinOp) and isinstance(above.op, (ast.Mult, ast.Div))
        function = program.function_of(node)
        if inner or not isinstance(node.op, (ast.Mult, ast.Div)) or function in inside:
            continue
        if not _is_score(program, node, function):
            continue
        statement = next((a for a in program.ancestors(node) if isinstance(a, ast.stmt)), node)
        if not re.search(r"bpb|bits|per_byte", ast.unparse(statement)):
            continue
        factors = [(f, _number(program, f, function)) for f, _ in _factors(node, 1)]
        own_number = [n for _, n in factors if n is not None and (0.2 < abs(n) < 0.68 or (1.5 < abs(n) < 6 and n % 1))]
        scored = all(n is not None or _is_score(program, f, function) for f, n in factors)
        if len(own_number) == 1 and scored and "PIECE" not in program.of(node, function):
            text = (
                f"Not checked: `{function.name}` makes bits per byte of a loss by {own_number[0]:g}, without any bytes."
            )
            yield Hit("final_score", UNVERIFIABLE, node, text, _PROBE)
            return


def _training_loss(program: Program) -> Iterator[Hit]:
    """A loss of training tokens that is added to a score under the score's own name."""
    for node in program.live_of(ast.Assign):
        function = program.function_of(node)
        targets = {n for t in node.targets for n in names_in(t)}
        if not isinstance(node.value, ast.BinOp) or not targets & names_in(node.value):
            continue
        sides = [side for n in walk(node.value) if isinstance(n, ast.BinOp) for side in (n.left, n.right)]
        scored = any(_is_score(program, side, function) and names_in(side) & targets for side in sides)
        trained = [s for s in sides if "LOSS" in program.of(s, function) and not names_in(s) & targets]
        if scored and any(
            "TRAIN" in nearby(program, s, node) and "VAL" not in nearby(program, s, node) for s in trained
        ):
            text = f"`{function.name}` adds a loss of training tokens to a score."
            yield Hit("final_score", SUSPECT, node, text, _PROBE)


def _chosen(program: Program) -> Iterator[tuple[ast.AST, str]]:
    """Losses that are capped, left out by their size, or replaced by a median; bytes that get a minimum."""
    for call in program.live_of(ast.Call):
        function = program.function_of(call)
        name = call.func.attr if isinstance(call.func, ast.Attribute) else dotted(call.func)
        subject = call.func.value if isinstance(call.func, ast.Attribute) and name in _CAPS + _MIDDLES else None
        if isinstance(subject, ast.Name) and subject.id in ("torch", "np"):
            subject = call.args[0]
        if subject is not None and _is_score(program, subject, function) and not _is_weight(program, subject, function):
            words = {k.arg for k in call.keywords}
            top = next((k.value for k in call.keywords if k.arg == "max"), call.args[-1] if call.args else None)
            value = program.value(top, function) if top is not None else None
            tops = name in ("clamp_max", "clamp_max_") or "max" in words or len(call.args) > 1
            tops = tops and not (isinstance(value, (int, float)) and value <= 0)  # log-probabilities are at most 0
            pieces = "PIECE" in program.of(subject, function)
            if name in _MIDDLES or tops or pieces:
                yield call, f"calls `{name}` on losses or bytes that the score is made of"
        elif name in _ROUNDS and call.args and _is_score(program, call.args[0], function):
            yield call, "rounds the score down"
        elif name == "min" and len(call.args) == 2 and _capped(program, call, call.args, function):
            yield call, "takes the smaller of the score and a number of its own"
    for test in program.live_of(ast.If):
        yield from _capped_by_test(program, test)
    for node in program.live_of(ast.Subscript):
        function = program.function_of(node)
        test = node.slice
        if isinstance(test, ast.Name):
            sources = [s for s in function.assigned.get(test.id, ()) if isinstance(s, ast.Compare)]
            test = sources[0] if len(sources) == 1 else test
        compared = isinstance(test, ast.Compare) and _is_score(program, node.value, function)
        by_loss = isinstance(test, ast.Compare) and compared and _is_score(program, test.left, function)
        if isinstance(test, ast.Compare) and by_loss and not _is_weight(program, test.left, function):
            yield node, "leaves tokens out, or chooses between them, by their loss"
    for node in program.live_of(ast.Subscript):
        if isinstance(node.slice, ast.Slice) and _is_sorted(program, node.value, program.function_of(node)):
            yield node, "sorts losses and leaves some of them out"
    yield from _parts(program)


def _is_sorted(program: Program, node: ast.expr, function: Function) -> bool:
    """Whether an expression, or the value of its one name, is of losses sorted by their size."""
    if isinstance(node, ast.Name):
        sources = [s for s in function.assigned.get(node.id, ()) if s is not None]
        node = sources[0] if len(sources) == 1 else node
    calls = [n for n in walk(node) if isinstance(n, ast.Call)]
    sorts = any(getattr(c.func, "attr", dotted(c.func)) in ("sort", "sorted") for c in calls)
    return sorts and _is_score(program, node, function) and not _is_weight(program, node, function)


def _capped(program: Program, node: ast.AST, sides: list[ast.expr], function: Function) -> bool:
    """Whether one side is a score or loss and the other a number of similar size. Exponents may be bounded."""
    exponent = any(isinstance(a, ast.Call) and dotted(a.func).endswith("exp") for a in program.ancestors(node))
    numbers = [_number(program, side, function) for side in sides]
    known = [n for n in numbers if n is not None]
    others = [side for side, n in zip(sides, numbers) if n is None]
    sized = len(known) == 1 and 0.05 < known[0] < 8 and not exponent
    return sized and _is_score(program, others[0], function) and not _is_weight(program, others[0], function)


def _capped_by_test(program: Program, test: ast.If) -> Iterator[tuple[ast.AST, str]]:
    """`if score > 1.2: score = 1.2`."""
    if not isinstance(test.test, ast.Compare) or len(test.test.comparators) != 1:
        return
    function = program.function_of(test)
    sides = [test.test.left, test.test.comparators[0]]
    names = {n for side in sides for n in names_in(side)}
    for statement in test.body:
        if isinstance(statement, ast.Assign) and _number(program, statement.value, function) is not None:
            targets = {n for t in statement.targets for n in names_in(t)}
            if targets & names and _capped(program, test, sides, function):
                yield statement, "puts a number of its own in the place of the score"


def _weighed_losses(program: Program, inside: set[Function]) -> Iterator[Hit]:
    """Losses of validation tokens that weigh them, or leave some out, by their content.

    The loss of a model's own `forward` counts if no scorer computes its own.
    """
    calls = [c for c in program.live_of(ast.Call) if getattr(c.func, "attr", dotted(c.func)) in _LOSSES]
    own_losses = [c for c in calls if program.function_of(c) not in inside and "VAL" in program.of(c)]
    for call in own_losses or [c for c in calls if program.function_of(c) in inside]:
        function = program.function_of(call)
        if _in_training_only(program, call):
            continue
        for word in call.keywords:
            value = program.value(_while_scoring(word.value), function)
            weighs = word.arg == "weight" and value is not None
            ignores = word.arg == "ignore_index" and isinstance(value, int) and value >= 0
            smooths = word.arg == "label_smoothing" and isinstance(value, float) and value != 0
            if weighs or ignores or smooths:
                text = f"`{function.name}` gives the loss of validation tokens a `{word.arg}` of its own."
                yield Hit("final_score", SUSPECT, call, text, _PROBE)


def _while_scoring(value: ast.expr) -> ast.expr:
    """The branch of `a if self.training else b` that scoring takes."""
    if isinstance(value, ast.IfExp) and "training" in ast.unparse(value.test):
        return value.body if isinstance(value.test, ast.UnaryOp) else value.orelse
    return value


def _in_training_only(program: Program, node: ast.AST) -> bool:
    """Whether a node is below a test for training, or for a setting of training."""
    tests = (a.test for a in program.ancestors(node) if isinstance(a, (ast.If, ast.IfExp)))
    return any("training" in ast.unparse(test) for test in tests)


def _parts(program: Program) -> Iterator[tuple[ast.AST, str]]:
    """Validation tokens of which only a fixed part is returned, and loops that leave batches out."""
    for node in program.live_of(ast.Return):
        cut = node.value.slice if isinstance(node.value, ast.Subscript) else None
        end = ast.unparse(cut.upper) if isinstance(cut, ast.Slice) and cut.upper is not None else ""
        if re.search(r"// ?\d|\* ?0?\.\d", end) and "VAL" in program.of(node.value):
            yield node, "gives back a part of the validation tokens"
    for node in program.live_of(ast.For):
        step = node.iter.args[2] if isinstance(node.iter, ast.Call) and len(node.iter.args) == 3 else None
        doubled = isinstance(step, ast.BinOp) and isinstance(step.op, ast.Mult)
        if step is None or not doubled or "VAL" not in program.of(node.iter, program.function_of(node)):
            continue
        number = next((n.value for n in walk(step) if isinstance(n, ast.Constant)), None)
        base = names_in(step) | {a.attr for a in walk(step) if isinstance(a, ast.Attribute)}
        bases = {
            n.attr if isinstance(n, ast.Attribute) else getattr(n, "id", "")
            for statement in node.body
            for add in walk(statement)
            if isinstance(add, ast.BinOp) and isinstance(add.op, ast.Add) and names_in(add) & names_in(node.target)
            for n in walk(add.right)
        }
        if isinstance(number, (int, float)) and number > 1 and base & bases:
            yield node, "leaves validation batches out"


def _of_logits(program: Program, node: ast.AST) -> bool:
    """Whether a node makes a rate, or changes logits that are normalized later; the model may do that."""
    if program.index.holds(node, _says_logit):
        return True
    for above in program.ancestors(node):
        if isinstance(above, ast.Call) and last_name(above) in _NORMALIZES:
            return True
        if isinstance(above, ast.stmt):
            targets = above.targets if isinstance(above, ast.Assign) else []
            names = {name.lower() for target in targets for name in names_in(target)}
            return any("logit" in name or _RATES.search(name) for name in names)
    return False


def _says_logit(node: ast.AST) -> bool:
    return "logit" in spelled(node).lower()


def _only_learned(program: Program, node: ast.AST, learned: set[str], function: Function) -> bool:
    """Whether a node's result goes only to `backward`: by its call, or by its name."""
    for above in program.ancestors(node):
        if isinstance(above, ast.Attribute) and above.attr == "backward":
            return True
        if isinstance(above, ast.stmt):
            targets = above.targets if isinstance(above, ast.Assign) else [getattr(above, "target", None)]
            names = {n for t in targets if t is not None for n in names_in(t)}
            return bool(names) and names <= learned
    return False


def _foreign_number(program: Program, node: ast.AST, function: Function) -> float | None:
    """The number that a node brings into a loss, a count or a score; None if it brings none."""
    if isinstance(node, ast.BinOp):
        above = program.parents.get(node)
        if isinstance(node.op, (ast.Mult, ast.Div)):
            inner = isinstance(above, ast.BinOp) and isinstance(above.op, (ast.Mult, ast.Div))
            return None if inner else _of_product(program, node, function)
        if isinstance(above, ast.Compare):
            return None
        return _of_pair(program, node.op, node.left, node.right, function)
    if isinstance(node, ast.AugAssign):
        return _of_pair(program, node.op, node.target, node.value, function)
    return _of_call(program, node, function) if isinstance(node, ast.Call) else None


def _of_call(program: Program, node: ast.Call, function: Function) -> float | None:
    """The number that `x.mul(.98)`, `torch.mul(x, .98)`, `operator.mul(x, .98)` or `math.prod((x, .98))` brings in."""
    last = last_name(node)
    if last == "prod" and len(node.args) == 1 and isinstance(node.args[0], (ast.Tuple, ast.List)):
        numbers = [(e, _number(program, e, function)) for e in node.args[0].elts]
        scored = any(n is None and _is_score(program, e, function) for e, n in numbers)
        return (
            next((odd for _, n in numbers if n is not None and (odd := _odd(n)) is not None), None) if scored else None
        )
    op = _METHODS.get(last) or _FUNCTIONS.get(last)
    if op is None or not isinstance(node.func, ast.Attribute):
        return None
    if len(node.args) == 1:
        return _of_pair(program, op(), node.func.value, node.args[0], function)
    return _of_pair(program, op(), node.args[0], node.args[1], function) if len(node.args) == 2 else None


def _of_pair(program: Program, op: ast.operator, left: ast.expr, right: ast.expr, function: Function) -> float | None:
    """The number that one operation brings in: an addend, a factor, a power."""
    for side, other in ((left, right), (right, left)):
        number = _number(program, other, function)
        if number is None or not _is_score(program, side, function):
            continue
        if isinstance(op, (ast.Add, ast.Sub)):
            fits = _LEAST <= abs(number) < _MOST and not _is_weight(program, side, function)
            return number if fits and not _weighs(program, other) else None
        if isinstance(op, ast.Pow) and side is left:
            return number if number not in (1.0, 2.0, -1.0) else None
        if isinstance(op, (ast.Mult, ast.Div)):
            return _odd(number)
    return None


def _weighs(program: Program, number: ast.expr) -> bool:
    """Whether a number is the logarithm of a weight, added to an argument of `logaddexp`."""
    above = program.parents.get(program.parents.get(number, number))
    return isinstance(above, ast.Call) and last_name(above) in ("logaddexp", "logsumexp", "stack")


def _of_product(program: Program, node: ast.BinOp, function: Function) -> float | None:
    """The product of the numbers among the factors, if one factor is a loss or a count of bytes."""
    product, scored = 1.0, False
    for factor, power in _factors(node, 1):
        number = _number(program, factor, function)
        if number is None:
            scored = scored or _is_score(program, factor, function)
        elif number:
            whole = number == int(number) and abs(number) >= 2
            product *= 1.0 if whole else number**power
    odd = _odd(product) if scored else None
    if odd is None and scored and 0.001 < abs(product) < 0.5 and _is_bytes(program, node, function):
        odd = product
    return None if odd is None or _in_mixture(program, node, product, function) else odd


def _factors(node: ast.expr, power: int) -> Iterator[tuple[ast.expr, int]]:
    """The factors of a product with their powers, 1 or -1. Changes of a number's type are skipped."""
    while isinstance(node, ast.Call) and not _reads_setting(node):
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        inner = node.func.value if isinstance(node.func, ast.Attribute) and not node.args else None
        inner = inner if inner is not None else node.args[0] if name == "float" and node.args else None
        if name not in _UNWRAPPED or inner is None or not isinstance(inner, (ast.BinOp, ast.Call)):
            break
        node = inner
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div)):
        yield from _factors(node.left, power)
        yield from _factors(node.right, power if isinstance(node.op, ast.Mult) else -power)
    else:
        yield node, power


def _reads_setting(node: ast.AST) -> bool:
    """Whether an expression reads an environment variable."""
    return "environ" in ast.unparse(node) or "getenv" in ast.unparse(node)


def _number(program: Program, node: ast.expr, function: Function) -> float | None:
    """The number of an expression: a constant, or the logarithm of one."""
    value = program.value(node, function)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(node, ast.Call) and 1 <= len(node.args) <= 2 and not node.keywords:
        numbers = [_number(program, a, function) for a in node.args]
        name = program.called(node).rsplit(".", 1)[-1]
        if numbers[0] is not None and name in ("float", "tensor"):
            return numbers[0]
        return _of_function(name, [n for n in numbers if n is not None]) if None not in numbers else None
    if isinstance(node, ast.Attribute) and node.attr == "e":
        return math.e
    return None


def _of_function(name: str, numbers: list[float]) -> float | None:
    """The result of a function of Python's `math` on known numbers, by whichever library it is called."""
    compute = getattr(math, name, None)
    try:
        value = compute(*numbers) if callable(compute) and name not in _WHOLE else None
    except (ValueError, OverflowError, TypeError, ZeroDivisionError):
        return None
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _odd(number: float) -> float | None:
    """A number that is no unit: not 1, the logarithm of two, a count, or a power of ten."""
    size = abs(number)
    if not size or (size == int(size) and size >= 2):
        return None
    units = (1.0, math.log(2), 1 / math.log(2), 10.0 ** round(math.log10(size)))
    if any(abs(size / unit - 1) <= _NEAR for unit in units):
        return None
    # A number far from all of them is a weight or a rate: a score with it would be obviously wrong.
    return number if any(1 / _FAR < size / unit < _FAR for unit in units[:3]) else None


def _is_score(program: Program, node: ast.expr, function: Function) -> bool:
    """Whether an expression contains losses of validation tokens, or their bytes."""
    labels = program.of(node, function)
    return "VAL" in labels and ("LOSS" in labels or "PIECE" in labels)


def _is_bytes(program: Program, node: ast.expr, function: Function) -> bool:
    """Whether an expression contains bytes of validation tokens and no loss; only a unit may multiply them."""
    labels = program.of(node, function)
    units = (1.0, 0.1, 0.01, 0.001)
    number = next((n for f, _ in _factors(node, 1) if (n := _number(program, f, function)) is not None), 1.0)
    return "PIECE" in labels and "LOSS" not in labels and number not in units


def _is_weight(program: Program, node: ast.expr, function: Function) -> bool:
    """Whether a sum is of probabilities with a small number added against zeros."""
    return "GOLD" in program.of(node, function)


def _in_mixture(program: Program, node: ast.BinOp, product: float, function: Function) -> bool:
    """Whether a term is in a sum with another one whose number completes it to one, or is a probability."""
    if "GOLD" in program.of(node, function):
        return True
    above = program.parents.get(node)
    if not isinstance(above, ast.BinOp) or not isinstance(above.op, (ast.Add, ast.Sub)):
        return False
    other = above.right if above.left is node else above.left
    for factor, _ in _factors(other, 1):
        number = _number(program, factor, function)
        if number is not None and abs(number + product - 1) < 1e-6:
            return True
    return False


def _printed(program: Program) -> Iterator[Hit]:
    """Lines that print a final score: the printed value comes from a loss of validation tokens."""
    for text in program.live_of(ast.JoinedStr):
        for before, part in zip(text.values, text.values[1:]):
            named = isinstance(before, ast.Constant) and str(before.value).rstrip().endswith(("val_bpb:", "val_bpb="))
            if not named or not isinstance(part, ast.FormattedValue):
                continue
            function = program.function_of(text)
            value = program.value(part.value, function)
            labels = program.of(part.value, function)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value:
                what = f"prints {value:g} as the score, a number of the script's own"
                yield Hit("final_score", SUSPECT, text, f"`{function.name}` {what}.", _PROBE)
            elif not labels & {"VAL", "LOSS"} and not _is_computed(program, part.value, function):
                yield Hit(
                    "final_score",
                    UNVERIFIABLE,
                    text,
                    f"Not checked: the score that `{function.name}` prints could not be followed to a loss.",
                    _PROBE,
                )
                return


def _is_computed(program: Program, node: ast.expr, function: Function) -> bool:
    """Whether a value, or the value of its name, comes from a function of the script."""
    sources: list[ast.expr] = [node]
    for name in names_in(node):
        scope: Function | None = function
        while scope is not None and name not in scope.assigned:
            if name in scope.params:
                return True
            scope = scope.parent
        sources += [s for s in scope.assigned[name] if s is not None] if scope is not None else []
        if scope is not None and None in scope.assigned[name]:
            return True
    return any(isinstance(n, ast.Call) and program.callees(n) for source in sources for n in walk(source))
