"""Which value an expression has under given settings, without running a line.

`int(os.environ.get("TTT_ENABLED", "0"))` is 0, `args.ttt_enabled` then too. A name has a value when every assignment to
it agrees on one, an attribute when every object that sets it does, a parameter when every live call passes the same. A
small helper such as `env_bool("NAME", True)` is followed through its assignments, tests and returns. Whatever cannot be
told is UNKNOWN, and nothing is decided by it.
"""

import ast
import base64
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from pargolf.audit.code.tree import Function, argument_for, dotted

UNKNOWN: Any = type("Unknown", (), {"__repr__": lambda self: "unknown"})()
_MOST_DEPTH = 24
BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
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
# What arrays and tensors have too: an object of the script that sets one says nothing about them.
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
_WIDE = re.compile(r"\d{4,}")  # a width in a template, which makes a long text of a short one
_BYTES: dict[str, Callable[[Any], Any]] = {
    "bytes.fromhex": lambda text: bytes.fromhex(str(text)),
    "base64.b64decode": base64.b64decode,
}
_READS = ("os.environ.get", "os.getenv", "environ.get", "getenv")

Sources = Mapping[str, list[tuple[Function, ast.expr | None]]]


class Constants:
    """Values of expressions under one environment.

    Args:
        module: the script's top level.
        by_name: the script's functions by name.
        attributes: what every attribute name is set to, and where.
        shared: names that functions set from within, through `global` or `nonlocal`.
        env: environment variables that are set; everything else takes the script's own default.
        any_word: whether a variable that holds a word, such as a mode, may hold any.
    """

    def __init__(
        self,
        module: Function,
        by_name: Mapping[str, list[Function]],
        attributes: Sources,
        shared: set[str],
        env: Mapping[str, str],
        *,
        any_word: bool,
    ) -> None:
        self.module, self.by_name, self.attributes, self.shared = module, by_name, attributes, shared
        self.env, self.any_word = env, any_word
        self._evaluating: set[tuple[int, int]] = set()
        self._values: dict[tuple[int, int], Any] = {}
        self._cycles = 0
        self._kinds: dict[type, Callable[[Any, Function, int], Any]] = {
            ast.Name: lambda node, scope, depth: self._name(node.id, scope, depth),
            ast.Attribute: lambda node, scope, depth: self._attribute(node.attr, depth),
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
        """Drop what was worked out, because assignments or parameters are known better now."""
        self._values.clear()

    def value(self, node: ast.expr | None, scope: Function, depth: int = 0) -> Any:
        """The constant that an expression has, or UNKNOWN."""
        if node is None or depth > _MOST_DEPTH:
            return UNKNOWN
        if type(node) is ast.Constant:
            return node.value
        read = self._kinds.get(type(node))
        if read is None:
            return UNKNOWN
        key = (id(node), id(scope))
        if key in self._values and not scope.passing:
            return self._values[key]
        if key in self._evaluating:
            self._cycles += 1
            return UNKNOWN
        self._evaluating.add(key)
        cycles = self._cycles
        try:
            value = read(node, scope, depth + 1)
            value = UNKNOWN if _is_large(value) else value
        except Exception:  # evaluating somebody's arithmetic may fail in any way; then it has no known value
            value = UNKNOWN
        finally:
            self._evaluating.discard(key)
        # A helper's scope lives for one call: its identity may be another's by the next.
        if not scope.passing and (self._cycles == cycles or not self._evaluating):
            self._values[key] = value
        return value

    def _sequence(self, node: ast.Tuple | ast.List | ast.Set, scope: Function, depth: int) -> Any:
        if isinstance(node, ast.List) and not node.elts:
            return UNKNOWN  # an empty list is there to be filled
        values = [self.value(e, scope, depth) for e in node.elts]
        return UNKNOWN if any(h is UNKNOWN for h in values) else tuple(values)

    def _unary(self, node: ast.UnaryOp, scope: Function, depth: int) -> Any:
        operand = self.value(node.operand, scope, depth)
        if operand is UNKNOWN:
            return UNKNOWN
        return not operand if isinstance(node.op, ast.Not) else -operand if isinstance(node.op, ast.USub) else operand

    def _choice(self, node: ast.IfExp, scope: Function, depth: int) -> Any:
        test = self.value(node.test, scope, depth)
        if test is UNKNOWN:
            both = [self.value(e, scope, depth) for e in (node.body, node.orelse)]
            return both[0] if both[0] is not UNKNOWN and both[0] == both[1] else UNKNOWN
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
        if not isinstance(container, (str, tuple)):
            return UNKNOWN
        if not isinstance(node.slice, ast.Slice):
            index = self.value(node.slice, scope, depth)
            return container[index] if isinstance(index, int) else UNKNOWN
        ends: list[Any] = [e and self.value(e, scope, depth) for e in (node.slice.lower, node.slice.upper)]
        step = None if node.slice.step is None else self.value(node.slice.step, scope, depth)
        return UNKNOWN if any(e is UNKNOWN for e in (*ends, step)) else container[ends[0] : ends[1] : step]

    def _template(self, node: ast.JoinedStr, scope: Function, depth: int) -> Any:
        """An f-string of known parts, with no format of its own."""
        parts = []
        for part in node.values:
            plain = isinstance(part, ast.Constant) or (
                isinstance(part, ast.FormattedValue) and part.format_spec is None
            )
            value = (
                self.value(part.value if isinstance(part, ast.FormattedValue) else part, scope, depth)
                if plain
                else UNKNOWN
            )
            if not isinstance(value, (str, int)):
                return UNKNOWN
            parts.append(str(value))
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
        return UNKNOWN if name in _ARRAYS_OWN else self._agree(self.attributes.get(name, ()), depth)

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
        if name.endswith("cuda.is_available"):
            return True
        arguments = [self.value(a, scope, depth) for a in node.args]
        if name in _READS:
            return self._variable(arguments)
        if name == "getattr" and len(arguments) >= 2 and isinstance(arguments[1], str):
            known = arguments[1] in self.attributes
            return self._attribute(arguments[1], depth) if known else [*arguments, UNKNOWN][2]
        if name in _JOINS and arguments and not node.keywords and all(isinstance(a, str) for a in arguments):
            return "/".join(arguments)
        if name in _BYTES and len(arguments) == 1 and isinstance(arguments[0], (str, bytes)):
            return _BYTES[name](arguments[0])
        if name in _PURE and not node.keywords and name not in self.by_name:
            return UNKNOWN if any(a is UNKNOWN for a in arguments) else _PURE[name](*arguments)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _TEXT:
            return self._text(node.func, arguments, scope, depth)
        functions = self.by_name.get(name, [])
        helper = len(functions) == 1 and functions[0].owner is None and depth < 12
        return self._apply(functions[0], node, scope, depth) if helper else UNKNOWN

    def _variable(self, arguments: list[Any]) -> Any:
        """An environment variable's value, from the name and the default that are passed."""
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
        """The result of a small helper: assignments, ifs and returns only."""
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
    """Whether a value is too long to be carried on."""
    if isinstance(value, (str, bytes, tuple)):
        return len(value) > 10_000
    return isinstance(value, int) and value.bit_length() > 256


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value.replace("_", "").replace("-", "").isalpha()
