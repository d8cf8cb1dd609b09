"""A small interpreter for pieces of a script: loops, tests, texts, lists and rows of numbers, and nothing else.

No line of the script is run. Each syntax node is given its meaning here, for the few kinds of values that a byte table
is made of. Rows stand for arrays and tensors with one axis. Anything else ends the work with `Unclear`, and so does
work that takes too long.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from pargolf.audit.code.values import BINARY, COMPARE

MOST_STEPS = 60_000
_BINARY = BINARY | {ast.BitXor: operator.xor}
_PLAIN: dict[str, Callable[..., Any]] = {
    **{"len": len, "int": int, "bool": bool, "max": max, "min": min, "chr": chr, "ord": ord, "sum": sum, "abs": abs},
    **{"bytes": bytes, "str": str, "list": list, "tuple": tuple, "enumerate": enumerate, "zip": zip, "float": float},
    **{"any": any, "all": all, "sorted": sorted, "reversed": reversed, "dict": dict, "set": set},
}
_TEXT = {
    *("startswith", "endswith", "encode", "decode", "replace", "removeprefix", "removesuffix", "strip", "lstrip"),
    *("rstrip", "split", "lower", "upper", "count", "find", "isspace", "get", "items", "keys", "values", "append"),
    *("hex", "join", "index", "isalnum", "copy"),
}
_SAME = {
    *("to", "cuda", "cpu", "astype", "contiguous", "long", "short", "numpy", "clone", "int", "float", "double", "bool"),
    *("copy", "tolist", "type", "pin_memory", "item", "detach", "reshape", "view", "flatten"),
}
_FILLED = {"zeros": 0, "empty": 0, "ones": 1}
_MADE = (
    "tensor",
    "array",
    "asarray",
    "as_tensor",
    "from_numpy",
    "ascontiguousarray",
    "ShortTensor",
    "BoolTensor",
    "LongTensor",
)


_FAULTS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, MemoryError, StopIteration)


class Unclear(Exception):
    """The piece does something that has no meaning here."""


class Opaque:
    """A value that is passed on and never inspected, such as a device."""


class Row(list[Any]):
    """An array of one axis."""


class _Returned(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class _Broken(Exception):
    pass


class _Continued(Exception):
    pass


class LittlePython:
    """Computes functions and expressions.

    Args:
        functions: functions of the script that may be called, by name.
        known: values of names that are not assigned in the piece.
    """

    def __init__(self, functions: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        self.functions, self.known = functions, known
        self.steps = 0

    def call(self, function: Any, arguments: dict[str, Any]) -> Any:
        """The result of a function. Raises `Unclear`."""
        try:
            self._block(function.body, arguments)
        except _Returned as returned:
            return returned.value
        except (_Broken, _Continued, RecursionError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise Unclear(str(error)) from None
        return None

    def value(self, node: ast.AST, names: dict[str, Any]) -> Any:
        """The value of an expression. Raises `Unclear`."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise Unclear("too many steps")
        compute = getattr(self, f"_of_{type(node).__name__.lower()}", None)
        if compute is None:
            raise Unclear(type(node).__name__)
        try:
            value = compute(node, names)
        except (
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            MemoryError,
            StopIteration,
        ) as error:
            raise Unclear(str(error)) from None
        if isinstance(value, (str, bytes, list)) and len(value) > 100_000:
            raise Unclear("too long")
        return value

    # ---- statements

    def _block(self, body: list[ast.stmt], names: dict[str, Any]) -> None:
        for statement in body:
            self._statement(statement, names)

    def _statement(self, node: ast.stmt, names: dict[str, Any]) -> None:
        if isinstance(node, ast.Assign):
            value = self.value(node.value, names)
            for target in node.targets:
                self._give(target, value, names)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self._give(node.target, self.value(node.value, names), names)
        elif isinstance(node, ast.AugAssign):
            old = self.value(_loaded(node.target), names)
            self._give(node.target, self._binary(node.op, old, self.value(node.value, names)), names)
        elif isinstance(node, ast.If):
            self._block(node.body if self.value(node.test, names) else node.orelse, names)
        elif isinstance(node, ast.For):
            self._loop(node, names)
        elif isinstance(node, ast.Return):
            raise _Returned(self.value(node.value, names) if node.value is not None else None)
        elif isinstance(node, ast.Continue):
            raise _Continued
        elif isinstance(node, ast.Break):
            raise _Broken
        elif isinstance(node, ast.Expr):
            if not isinstance(node.value, ast.Constant):
                self.value(node.value, names)
        elif isinstance(node, ast.FunctionDef):
            names[node.name] = (node, names)
        elif isinstance(node, ast.Try):
            self._block([*node.body, *node.finalbody], names)
        elif not isinstance(node, (ast.Pass, ast.Assert, ast.Import, ast.ImportFrom)):
            raise Unclear(type(node).__name__)

    def _loop(self, node: ast.For, names: dict[str, Any]) -> None:
        for value in self.value(node.iter, names):
            self._give(node.target, value, names)
            try:
                self._block(node.body, names)
            except _Continued:
                continue
            except _Broken:
                return
        self._block(node.orelse, names)

    def _give(self, target: ast.expr, value: Any, names: dict[str, Any]) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            for element, part in zip(target.elts, value, strict=True):
                self._give(element, part, names)
        elif isinstance(target, ast.Subscript):
            container, index = self.value(target.value, names), self.value(target.slice, names)
            if isinstance(index, slice) and not isinstance(value, list):
                value = [value] * len(container[index])
            container[index] = value
        else:
            raise Unclear("a target")

    # ---- expressions

    def _of_constant(self, node: ast.Constant, names: dict[str, Any]) -> Any:
        return node.value

    def _of_name(self, node: ast.Name, names: dict[str, Any]) -> Any:
        if node.id in names:
            return names[node.id]
        return self.known[node.id]

    def _of_tuple(self, node: ast.Tuple, names: dict[str, Any]) -> Any:
        return tuple(self.value(e, names) for e in node.elts)

    def _of_list(self, node: ast.List, names: dict[str, Any]) -> Any:
        return [self.value(e, names) for e in node.elts]

    def _of_set(self, node: ast.Set, names: dict[str, Any]) -> Any:
        return {self.value(e, names) for e in node.elts}

    def _of_dict(self, node: ast.Dict, names: dict[str, Any]) -> Any:
        return {self.value(k, names): self.value(v, names) for k, v in zip(node.keys, node.values) if k is not None}

    def _of_ifexp(self, node: ast.IfExp, names: dict[str, Any]) -> Any:
        return self.value(node.body if self.value(node.test, names) else node.orelse, names)

    def _of_boolop(self, node: ast.BoolOp, names: dict[str, Any]) -> Any:
        result: Any = None
        for value in node.values:
            result = self.value(value, names)
            if bool(result) is isinstance(node.op, ast.Or):
                return result
        return result

    def _of_unaryop(self, node: ast.UnaryOp, names: dict[str, Any]) -> Any:
        operand = self.value(node.operand, names)
        if isinstance(node.op, ast.Not):
            return not operand
        if isinstance(node.op, ast.USub):
            return Row(-x for x in operand) if isinstance(operand, Row) else -operand
        if isinstance(node.op, ast.Invert) and isinstance(operand, Row):
            return Row(not x for x in operand)
        raise Unclear("an operator")

    def _of_binop(self, node: ast.BinOp, names: dict[str, Any]) -> Any:
        return self._binary(node.op, self.value(node.left, names), self.value(node.right, names))

    def _binary(self, op: ast.operator, left: Any, right: Any) -> Any:
        apply = _BINARY.get(type(op))
        if apply is None or isinstance(left, Opaque) or isinstance(right, Opaque):
            raise Unclear("an operator")
        if isinstance(left, Row) or isinstance(right, Row):
            count = len(left) if isinstance(left, Row) else len(right)
            left = left if isinstance(left, Row) else [left] * count
            right = right if isinstance(right, Row) else [right] * count
            return Row(apply(a, b) for a, b in zip(left, right, strict=True))
        sizes = [x for x in (left, right) if isinstance(x, (str, bytes, list, tuple))]
        if isinstance(op, (ast.Mult, ast.Mod)) and sizes and not isinstance(op, ast.Add):
            other = right if left is sizes[0] else left
            if not isinstance(other, int) or abs(other) > 4096 or isinstance(op, ast.Mod):
                raise Unclear("a large text")
        return apply(left, right)

    def _of_compare(self, node: ast.Compare, names: dict[str, Any]) -> Any:
        left = self.value(node.left, names)
        for op, other in zip(node.ops, node.comparators):
            right = self.value(other, names)
            if isinstance(left, Row):
                return Row(COMPARE[type(op)](x, right) for x in left)
            if not COMPARE[type(op)](left, right):
                return False
            left = right
        return True

    def _of_subscript(self, node: ast.Subscript, names: dict[str, Any]) -> Any:
        container, index = self.value(node.value, names), self.value(node.slice, names)
        if isinstance(container, Row) and isinstance(index, Row):
            return Row(container[int(i)] for i in index)
        item = container[index]
        return Row(item) if isinstance(container, Row) and isinstance(item, list) else item

    def _of_slice(self, node: ast.Slice, names: dict[str, Any]) -> Any:
        return slice(*(self.value(x, names) if x is not None else None for x in (node.lower, node.upper, node.step)))

    def _of_listcomp(self, node: ast.ListComp, names: dict[str, Any]) -> Any:
        return self._spread(node.elt, node.generators, dict(names))

    def _of_generatorexp(self, node: ast.GeneratorExp, names: dict[str, Any]) -> Any:
        return self._spread(node.elt, node.generators, dict(names))

    def _spread(self, element: ast.expr, generators: list[ast.comprehension], names: dict[str, Any]) -> list[Any]:
        if not generators:
            return [self.value(element, names)]
        first, *rest = generators
        values: list[Any] = []
        for value in self.value(first.iter, names):
            self._give(first.target, value, names)
            if all(self.value(test, names) for test in first.ifs):
                values += self._spread(element, rest, names)
        return values

    def _of_attribute(self, node: ast.Attribute, names: dict[str, Any]) -> Any:
        if isinstance(node.value, ast.Name) and node.value.id not in names and node.value.id not in self.known:
            return Opaque()  # a module's constant, such as a type of number
        owner = self.value(node.value, names)
        if isinstance(owner, (Opaque, Row)):
            return Opaque()
        raise Unclear("an attribute")

    def _of_call(self, node: ast.Call, names: dict[str, Any]) -> Any:
        if isinstance(node.func, ast.Attribute):
            return self._method(node, node.func, names)
        if not isinstance(node.func, ast.Name):
            raise Unclear("a call")
        name = node.func.id
        arguments = [self.value(a, names) for a in node.args]
        if name == "range" and all(isinstance(a, int) for a in arguments):
            steps = range(*arguments)
            return steps if len(steps) <= MOST_STEPS else self._unclear()
        if name == "print":
            return None
        callee = names.get(name) or self.functions.get(name)
        if callee is not None:
            return self._own(callee, node, arguments, names)
        keywords = {k.arg: self.value(k.value, names) for k in node.keywords if k.arg}
        if name in _PLAIN and not any(isinstance(a, Opaque) for a in arguments):
            if name in ("bytes", "list", "str") and arguments and isinstance(arguments[0], int) and arguments[0] > 4096:
                raise Unclear("a large text")
            return _PLAIN[name](*arguments, **keywords)
        raise Unclear(name)

    def _own(self, callee: Any, node: ast.Call, arguments: list[Any], names: dict[str, Any]) -> Any:
        """A call of a function of the script, or of one defined in the piece."""
        function, outer = callee if isinstance(callee, tuple) else (callee, {})
        if not isinstance(function, ast.FunctionDef) or len(arguments) > len(function.args.args):
            raise Unclear("a function")
        bindings = dict(zip((a.arg for a in function.args.args), arguments))
        bindings |= {k.arg: self.value(k.value, names) for k in node.keywords if k.arg}
        for argument, default in zip(reversed(function.args.args), reversed(function.args.defaults)):
            if argument.arg not in bindings:
                bindings[argument.arg] = self.value(default, {})
        return self.call(function, {**outer, **bindings})

    def _method(self, node: ast.Call, method: ast.Attribute, names: dict[str, Any]) -> Any:
        name = method.attr
        root = method.value
        is_module = isinstance(root, ast.Name) and root.id not in names and root.id not in self.known
        arguments = [self.value(a, names) for a in node.args]
        if is_module:
            return self._library(name, arguments, node, names)
        receiver = self.value(root, names)
        answer = getattr(receiver, "answer", None)
        if answer is not None:
            return answer(name, arguments)
        if isinstance(receiver, (str, bytes, dict, list)) and not isinstance(receiver, Row) and name in _TEXT:
            keywords = {k.arg: self.value(k.value, names) for k in node.keywords if k.arg}
            return getattr(receiver, name)(*arguments, **keywords)
        if name == "sum" and isinstance(receiver, Row):
            return sum(receiver)
        if name in _SAME or isinstance(receiver, Opaque):
            return receiver
        raise Unclear(name)

    def _library(self, name: str, arguments: list[Any], node: ast.Call, names: dict[str, Any]) -> Any:
        """A function of numpy or torch that makes a row."""
        if name in _FILLED or name == "full":
            size = arguments[0][0] if isinstance(arguments[0], tuple) else arguments[0]
            if not isinstance(size, int) or size > MOST_STEPS:
                raise Unclear("a size")
            fill = arguments[1] if name == "full" else _FILLED[name]
            boolean = any("bool" in ast.unparse(k.value) for k in node.keywords if k.arg == "dtype")
            return Row([bool(fill) if boolean else fill] * size)
        if name in _MADE and arguments and isinstance(arguments[0], (list, tuple)):
            return Row(arguments[0])
        if name in ("maximum", "minimum") and len(arguments) == 2:
            chosen = max if name == "maximum" else min
            rows = [a if isinstance(a, Row) else None for a in arguments]
            count = len(next(row for row in rows if row is not None))
            spread = [row if row is not None else [a] * count for row, a in zip(rows, arguments)]
            return Row(chosen(a, b) for a, b in zip(*spread, strict=True))
        if name == "where" and len(arguments) == 3 and isinstance(arguments[0], Row):
            test, yes, no = (a if isinstance(a, Row) else [a] * len(arguments[0]) for a in arguments)
            return Row(a if flag else b for flag, a, b in zip(test, yes, no, strict=True))
        if name == "logical_not" and arguments and isinstance(arguments[0], Row):
            return Row(not flag for flag in arguments[0])
        if name in ("logical_and", "bitwise_and", "logical_or", "bitwise_or") and len(arguments) == 2:
            return self._binary(ast.BitAnd() if name.endswith("and") else ast.BitOr(), *arguments)
        if name in ("device", "log0", "log"):
            return Opaque()
        raise Unclear(name)

    def _unclear(self) -> Any:
        raise Unclear("too many steps")


def _loaded(target: ast.expr) -> ast.expr:
    """An assignment target as an expression with its value."""
    if isinstance(target, ast.Name):
        return ast.Name(target.id, ast.Load())
    if isinstance(target, ast.Subscript):
        return ast.Subscript(target.value, target.slice, ast.Load())
    raise Unclear("a target")
