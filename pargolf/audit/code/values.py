"""Compute the value of an expression under given settings, without running a line.

`int(os.environ.get("TTT_ENABLED", "0"))` is 0, and so is `args.ttt_enabled` then. A name has a value if all assignments
to it agree on one; an attribute, if all objects that set it do; a parameter, if all live calls pass the same. A small
helper such as `env_bool("NAME", True)` is followed through its assignments, tests and returns. Everything else is
UNKNOWN, and an unknown value decides nothing.
"""

import ast
import base64
import codecs
import operator
import re
import string
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from pargolf.audit.code.tree import ARITHMETIC, Function, argument_for, dotted

UNKNOWN: Any = type("Unknown", (), {"__repr__": lambda self: "unknown"})()
_MOST_DEPTH, MOST_VISITS = 24, 1_000_000  # of expressions, in one program: cycles can be walked in too many ways
BINARY: dict[type, Callable[[Any, Any], Any]] = {
    **ARITHMETIC,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_PURE: dict[str, Callable[..., Any]] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "max": max,
    "min": min,
    "abs": abs,
    "len": len,
    "round": round,
    "chr": chr,
    "ord": ord,
    "reversed": lambda held: tuple(reversed(held)),
    "list": tuple,
    "tuple": tuple,
    "sorted": lambda held: tuple(sorted(held)),
}
# Attributes that arrays and tensors have, too: an object of the script that sets one says nothing about them.
_ARRAYS_OWN = frozenset(
    {"size", "shape", "ndim", "T", "data", "grad", "dtype", "device", "nbytes", "itemsize", "training"}
)
_TEXT = {
    *("lower", "upper", "strip", "split", "startswith", "endswith", "replace", "format", "join", "removeprefix"),
    *("removesuffix", "swapcase", "title", "capitalize", "zfill", "lstrip", "rstrip", "decode"),
}
_JOINS = (
    "os.path.join",
    "Path",
    "pathlib.Path",
    "PurePath",
    "str",
    "os.fspath",
    "os.path.expanduser",
    "os.path.abspath",
)
_WIDE = re.compile(r"\d{4,}")  # a width in a template, which makes a short text long
_BYTES: dict[str, Callable[[Any], Any]] = {
    "bytes.fromhex": lambda text: bytes.fromhex(str(text)),
    "base64.b64decode": base64.b64decode,
}
_CHARACTERS: dict[str, Callable[[Any], Any]] = {"chr": chr, "str": str, "ord": ord, "int": int}
_STRINGS = {
    **{"string.ascii_lowercase": string.ascii_lowercase, "string.ascii_uppercase": string.ascii_uppercase},
    **{"string.ascii_letters": string.ascii_letters, "string.digits": string.digits, "os.sep": "/"},
}
_SPECIFICATION = re.compile(r"[0-9.]{0,3}[a-z]?")
_MOST_ITEMS = 64
_READS = ("os.environ.get", "os.getenv", "environ.get", "getenv")

Sources = Mapping[str, list[tuple[Function, ast.expr | None]]]


class Constants:
    """Values of expressions under one environment.

    Args:
        module: the script's top level.
        by_name: the script's functions by name.
        attributes: what every attribute name is set to, and where.
        shared: names that functions set from within, through `global` or `nonlocal`.
        filled: names whose elements are set after they are made.
        env: environment variables that are set; everything else takes the script's own default.
        any_word: whether a variable that holds a word, such as a mode, may hold any.
    """

    def __init__(
        self,
        module: Function,
        by_name: Mapping[str, list[Function]],
        attributes: Sources,
        shared: set[str],
        filled: set[str],
        env: Mapping[str, str],
        *,
        any_word: bool,
    ) -> None:
        self.module, self.by_name, self.attributes, self.shared = module, by_name, attributes, shared
        self.filled, self.env, self.any_word = filled, env, any_word
        self._evaluating: set[tuple[int, int]] = set()
        self._values: dict[tuple[int, int], Any] = {}
        self._cycles, self.visits = 0, 0
        self._kinds: dict[type, Callable[[Any, Function, int], Any]] = {
            ast.Name: lambda node, scope, depth: self._name(node.id, scope, depth),
            ast.Attribute: lambda node, scope, depth: _STRINGS.get(dotted(node)) or self._attribute(node.attr, depth),
            ast.Dict: self._table,
            ast.ListComp: self._comprehension,
            ast.GeneratorExp: self._comprehension,
            ast.Tuple: self._sequence,
            ast.List: self._sequence,
            ast.Set: self._sequence,
            ast.BoolOp: self._boolean,
            ast.UnaryOp: self._unary,
            ast.IfExp: self._choice,
            ast.BinOp: self._binary,
            ast.Compare: self._compare,
            ast.Subscript: self._subscript,
            ast.JoinedStr: self._template,
            ast.Call: self._call,
            ast.NamedExpr: lambda node, scope, depth: self.value(node.value, scope, depth),
        }

    def forget(self) -> None:
        """Drop computed values, because assignments or parameters are known better now."""
        self._values.clear()

    def value(self, node: ast.expr | None, scope: Function, depth: int = 0) -> Any:
        """The constant value of an expression, or UNKNOWN."""
        if node is None or depth > _MOST_DEPTH:
            return UNKNOWN
        if type(node) is ast.Constant:
            return node.value
        compute = self._kinds.get(type(node))
        if compute is None:
            return UNKNOWN
        key = (id(node), id(scope))
        if key in self._values and not scope.passing:
            return self._values[key]
        if key in self._evaluating:
            self._cycles += 1
            return UNKNOWN
        self.visits += 1
        if self.visits > MOST_VISITS:
            return UNKNOWN
        self._evaluating.add(key)
        cycles = self._cycles
        try:
            value = compute(node, scope, depth + 1)
            value = UNKNOWN if _is_large(value) else value
        except Exception:  # foreign arithmetic may fail in any way; then the value is unknown
            value = UNKNOWN
        finally:
            self._evaluating.discard(key)
        # A helper's scope exists for one call; the next call may reuse its identity.
        if not scope.passing and (self._cycles == cycles or not self._evaluating):
            self._values[key] = value
        return value

    def _sequence(self, node: ast.Tuple | ast.List | ast.Set, scope: Function, depth: int) -> Any:
        if isinstance(node, ast.List) and not node.elts:
            return UNKNOWN  # an empty list will be filled
        values = [self.value(e, scope, depth) for e in node.elts]
        return UNKNOWN if any(h is UNKNOWN for h in values) else tuple(values)

    def _table(self, node: ast.Dict, scope: Function, depth: int) -> Any:
        """A table of texts by plain keys."""
        if not node.keys or len(node.keys) > _MOST_ITEMS:
            return UNKNOWN  # an empty table will be filled
        pairs = [(self.value(k, scope, depth), self.value(v, scope, depth)) for k, v in zip(node.keys, node.values)]
        texts = all(isinstance(v, str) and isinstance(k, (str, int, bool)) for k, v in pairs)
        return dict(pairs) if texts else UNKNOWN

    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp, scope: Function, depth: int) -> Any:
        """`chr(n) for n in (118, 97, 108)`: one loop over known values."""
        loop = node.generators[0]
        items = self.value(loop.iter, scope, depth)
        plain = len(node.generators) == 1 and not loop.ifs and isinstance(loop.target, ast.Name)
        if not plain or not isinstance(items, (tuple, str)) or len(items) > _MOST_ITEMS:
            return UNKNOWN
        values = []
        for item in items:
            inside = Function(scope.node, scope.name, None, scope, passing=True)
            inside.values[getattr(loop.target, "id", "")] = item
            values.append(self.value(node.elt, inside, depth))
        return UNKNOWN if any(value is UNKNOWN for value in values) else tuple(values)

    def _unary(self, node: ast.UnaryOp, scope: Function, depth: int) -> Any:
        operand = self.value(node.operand, scope, depth)
        if operand is UNKNOWN:
            return UNKNOWN
        return not operand if isinstance(node.op, ast.Not) else -operand if isinstance(node.op, ast.USub) else operand

    def _choice(self, node: ast.IfExp, scope: Function, depth: int) -> Any:
        test = self.value(node.test, scope, depth)
        if test is UNKNOWN:
            values = [self.value(e, scope, depth) for e in (node.body, node.orelse)]
            return values[0] if values[0] is not UNKNOWN and values[0] == values[1] else UNKNOWN
        return self.value(node.body if test else node.orelse, scope, depth)

    def _binary(self, node: ast.BinOp, scope: Function, depth: int) -> Any:
        left, right = self.value(node.left, scope, depth), self.value(node.right, scope, depth)
        if left is UNKNOWN or right is UNKNOWN or type(node.op) not in BINARY:
            return UNKNOWN
        if isinstance(left, str) and isinstance(node.op, ast.Div):
            return f"{left}/{right}" if isinstance(right, str) else UNKNOWN  # paths
        sized = isinstance(left, (str, bytes, tuple)) or isinstance(right, (str, bytes, tuple))
        if sized and isinstance(node.op, ast.Mult) and max(x for x in (left, right, 0) if isinstance(x, int)) > 4096:
            return UNKNOWN
        if isinstance(left, str) and isinstance(node.op, ast.Mod) and _WIDE.search(left):
            return UNKNOWN
        return BINARY[type(node.op)](left, right)

    def _subscript(self, node: ast.Subscript, scope: Function, depth: int) -> Any:
        if dotted(node.value) == "os.environ":
            return self.env.get(self.value(node.slice, scope, depth), UNKNOWN)
        container = self.value(node.value, scope, depth)
        filled = isinstance(node.value, ast.Name) and node.value.id in self.filled
        if not isinstance(container, (str, tuple, dict)) or (filled and not isinstance(container, str)):
            return UNKNOWN
        if isinstance(container, dict):
            return container.get(self.value(node.slice, scope, depth), UNKNOWN)
        if not isinstance(node.slice, ast.Slice):
            index = self.value(node.slice, scope, depth)
            return container[index] if isinstance(index, int) else UNKNOWN
        ends: list[Any] = [e and self.value(e, scope, depth) for e in (node.slice.lower, node.slice.upper)]
        step = None if node.slice.step is None else self.value(node.slice.step, scope, depth)
        return UNKNOWN if any(e is UNKNOWN for e in (*ends, step)) else container[ends[0] : ends[1] : step]

    def _template(self, node: ast.JoinedStr, scope: Function, depth: int) -> Any:
        """An f-string with known parts, without a wide format."""
        parts = []
        for part in node.values:
            inner = part.value if isinstance(part, ast.FormattedValue) else part
            value = self.value(inner, scope, depth)
            template = part.format_spec if isinstance(part, ast.FormattedValue) else None
            specification = "" if template is None else self.value(template, scope, depth)
            known = isinstance(specification, str) and _SPECIFICATION.fullmatch(specification)
            if not known or not isinstance(value, (str, int)):
                return UNKNOWN
            parts.append(format(value, specification))
        return "".join(parts)

    def _boolean(self, node: ast.BoolOp, scope: Function, depth: int) -> Any:
        is_and = isinstance(node.op, ast.And)
        values = [self.value(e, scope, depth) for e in node.values]
        for value in values:
            if value is not UNKNOWN and bool(value) != is_and:
                return value
        return UNKNOWN if any(h is UNKNOWN for h in values) else values[-1]

    def _compare(self, node: ast.Compare, scope: Function, depth: int) -> Any:
        if dotted(node.comparators[0]) == "os.environ" and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            name = self.value(node.left, scope, depth)
            if name in self.env:
                return isinstance(node.ops[0], ast.In)
            return UNKNOWN if name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") else isinstance(node.ops[0], ast.NotIn)
        left = self.value(node.left, scope, depth)
        for op, right_node in zip(node.ops, node.comparators):
            right = self.value(right_node, scope, depth)
            if left is UNKNOWN or right is UNKNOWN:
                return UNKNOWN
            if not COMPARE[type(op)](left, right):
                return False
            left = right
        return True

    def _name(self, name: str, scope: Function, depth: int) -> Any:
        function: Function | None = scope
        while function is not None:
            if name in function.values:
                return function.values[name]
            if name in function.assigned:
                if name in self.shared:
                    return UNKNOWN
                return self._agree([(function, e) for e in function.assigned[name]], depth)
            if name in function.params:
                return UNKNOWN
            function = function.parent
        return UNKNOWN

    def _attribute(self, name: str, depth: int) -> Any:
        """The value that all objects give an attribute. A switch that a log prints has the value in the log."""
        if name in _ARRAYS_OWN:
            return UNKNOWN
        value = self._agree(self.attributes.get(name, ()), depth)
        logged = self.env.get(name) if isinstance(value, bool) else None
        return logged == "1" if logged is not None else value

    def _agree(self, sources: Any, depth: int) -> Any:
        if not sources or len(sources) > 12:
            return UNKNOWN
        first: Any = None
        for i, (scope, expression) in enumerate(sources):
            value = self.value(expression, scope, depth)
            if value is UNKNOWN or (i and (value != first or type(value) is not type(first))):
                return UNKNOWN
            first = value
        return first

    def _call(self, node: ast.Call, scope: Function, depth: int) -> Any:
        name = dotted(node.func)
        if isinstance(node.func, ast.Attribute) and "." not in name:
            name = f".{name}"  # a method of a call's or an index's result: f(x).float() is not float()
        if name.endswith("cuda.is_available"):
            return True
        arguments = [self.value(a, scope, depth) for a in node.args]
        if name in _READS:
            return self._variable(arguments)
        if name == "getattr" and len(arguments) >= 2 and isinstance(arguments[1], str):
            is_set = arguments[1] in self.attributes
            return self._attribute(arguments[1], depth) if is_set else [*arguments, UNKNOWN][2]
        if name in _JOINS and arguments and not node.keywords and all(isinstance(a, str) for a in arguments):
            return "/".join(arguments)
        if name == "map" and len(node.args) == 2:
            change = _CHARACTERS.get(dotted(node.args[0]))
            return tuple(map(change, arguments[1])) if change and isinstance(arguments[1], (tuple, str)) else UNKNOWN
        if name in ("bytes", "bytearray") and len(arguments) == 1 and isinstance(arguments[0], tuple):
            return bytes(arguments[0])
        if name in ("codecs.decode", "codecs.encode") and len(arguments) == 2 and "rot" in str(arguments[1]):
            return codecs.encode(arguments[0], "rot13") if isinstance(arguments[0], str) else UNKNOWN
        if isinstance(node.func, ast.Attribute) and node.func.attr == "total_seconds":
            return self._seconds(node.func.value, scope, depth)
        if name in _BYTES and len(arguments) == 1 and isinstance(arguments[0], (str, bytes)):
            return _BYTES[name](arguments[0])
        if name in _PURE and not node.keywords and name not in self.by_name:
            return UNKNOWN if any(a is UNKNOWN for a in arguments) else _PURE[name](*arguments)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _TEXT:
            return self._text(node.func, arguments, scope, depth)
        functions = self.by_name.get(name, [])
        helper = len(functions) == 1 and functions[0].owner is None and depth < 12
        return self._apply(functions[0], node, scope, depth) if helper else UNKNOWN

    def _seconds(self, span: ast.expr, scope: Function, depth: int) -> Any:
        """The seconds of `timedelta(minutes=15)`."""
        if not isinstance(span, ast.Call) or not dotted(span.func).endswith("timedelta"):
            return UNKNOWN
        plain = [self.value(a, scope, depth) for a in span.args]
        words = {k.arg: self.value(k.value, scope, depth) for k in span.keywords if k.arg}
        is_known = not any(value is UNKNOWN for value in (*plain, *words.values()))
        return timedelta(*plain, **words).total_seconds() if is_known else UNKNOWN

    def _variable(self, arguments: list[Any]) -> Any:
        """An environment variable's value, from the passed name and default."""
        if not arguments or arguments[0] is UNKNOWN:
            return UNKNOWN
        default = arguments[1] if len(arguments) > 1 else None
        if self.any_word and arguments[0] not in self.env and _is_word(default):
            return UNKNOWN
        return self.env.get(arguments[0], default)

    def _text(self, method: ast.Attribute, arguments: list[Any], scope: Function, depth: int) -> Any:
        text = self.value(method.value, scope, depth)
        wide = method.attr in ("format", "zfill") and (
            _WIDE.search(str(text)) or any(_WIDE.search(str(a)) for a in arguments)
        )
        if isinstance(text, (str, bytes)) and not wide and not any(a is UNKNOWN for a in arguments):
            result = getattr(text, method.attr)(*arguments)
            return tuple(result) if isinstance(result, list) else result
        return UNKNOWN

    def _apply(self, function: Function, call: ast.Call, scope: Function, depth: int) -> Any:
        """The result of a small helper: only assignments, ifs and returns."""
        body = function.node.body if isinstance(function.node.body, list) else [ast.Return(function.node.body)]
        if len(body) > 8 or len(function.params) > 4:
            return UNKNOWN
        bound = Function(function.node, function.name, None, self.module, function.params, passing=True)
        for name in function.params:
            expression = argument_for(call, function, name)
            bound.values[name] = (
                self.value(expression, scope, depth)
                if expression is not None
                else self.value(function.defaults.get(name), self.module, depth)
            )
        return self._run(body, bound, depth)[1]

    def _run(self, body: list[ast.stmt], scope: Function, depth: int) -> tuple[bool, Any]:
        for statement in body:
            if isinstance(statement, ast.Return):
                return True, self.value(statement.value, scope, depth) if statement.value else None
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                scope.values[statement.targets[0].id] = self.value(statement.value, scope, depth)
            elif isinstance(statement, ast.If):
                test = self.value(statement.test, scope, depth)
                if test is UNKNOWN:
                    return True, UNKNOWN
                done, value = self._run(statement.body if test else statement.orelse, scope, depth)
                if done:
                    return True, value
            elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                return True, UNKNOWN
        return False, None


def _is_large(value: object) -> bool:
    """Whether a value is too long to keep."""
    if isinstance(value, (str, bytes, tuple)):
        return len(value) > 10_000
    return isinstance(value, int) and value.bit_length() > 256


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value.replace("_", "").replace("-", "").isalpha()
