"""Compute an attention mask for a window of six positions, and find which later positions it lets in.

A mask can be written in many ways: a triangle, a comparison of positions, a window, a function that a library calls for
each pair. On six positions each of them is a square of 36 values. Unknown sizes are taken as six. Nothing of the script
is run: the few operations that make masks have their meaning here, and any other ends the work with `Unclear`.
"""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from pargolf.audit.code.program import Program
from pargolf.audit.code.tree import Function, dotted, last_name
from pargolf.audit.code.values import BINARY, COMPARE, UNKNOWN
from pargolf.audit.rules.script.little_python import Unclear

_COUNT = 6
_MOST_DEPTH = 16
_SHUT = -1e4  # a number added to a score to keep a position out is below this
_SAME = {
    *("to", "int", "long", "type", "contiguous", "expand", "expand_as", "clone", "detach", "cuda"),
    *("cpu", "half", "bfloat16", "requires_grad_", "masked", "type_as"),
}
_FILLED = {"ones": 1, "zeros": 0, "ones_like": 1, "zeros_like": 0, "new_ones": 1, "new_zeros": 0}
_PAIRS: dict[str, Callable[[Any, Any], Any]] = {
    **{"logical_and": lambda a, b: bool(a and b), "logical_or": lambda a, b: bool(a or b)},
    **{"bitwise_and": operator.and_, "bitwise_or": operator.or_, "ge": operator.ge, "gt": operator.gt},
    **{"le": operator.le, "lt": operator.lt, "eq": operator.eq, "ne": operator.ne, "sub": operator.sub},
}
_OPERATORS = BINARY | {ast.BitXor: operator.xor}


class Square:
    """Values for pairs of positions. One row or one column stands for all."""

    def __init__(self, rows: list[list[Any]]) -> None:
        self.rows = rows

    def at(self, i: int, j: int) -> Any:
        """The value for a query at `i` and a key at `j`."""
        row = self.rows[i if len(self.rows) > 1 else 0]
        return row[j if len(row) > 1 else 0]

    def turned(self) -> "Square":
        """Rows as columns."""
        return Square([list(column) for column in zip(*self.rows)])

    def each(self, change: Callable[[Any], Any]) -> "Square":
        """Change every value."""
        return Square([[change(value) for value in row] for row in self.rows])


def lets_later_in(program: Program, mask: ast.expr, function: Function) -> bool | None:
    """Whether a mask lets some position see a later one; None if it cannot be computed.

    True values of a boolean mask let a pair through, and so do numbers that are not far below zero.
    """
    square = _square(program, mask, function)
    return None if square is None else any(_open(square.at(i, j)) for i, j in _later())


def shuts_too_little(program: Program, blocked: ast.expr, function: Function) -> bool | None:
    """Whether a mask of excluded positions leaves a later one open; None if it cannot be computed."""
    square = _square(program, blocked, function)
    return None if square is None else not all(square.at(i, j) for i, j in _later())


def _later() -> list[tuple[int, int]]:
    return [(i, j) for i in range(_COUNT) for j in range(i + 1, _COUNT)]


def _open(value: Any) -> bool:
    return value if isinstance(value, bool) else value > _SHUT


def _square(program: Program, mask: ast.expr, function: Function) -> Square | None:
    """A mask on six positions, if it is one over both queries and keys."""
    try:
        value = _Window(program).value(mask, function, {}, 0)
    except (Unclear, TypeError, ValueError, LookupError, ArithmeticError, RecursionError):
        return None
    whole = isinstance(value, Square) and len(value.rows) == _COUNT and len(value.rows[0]) == _COUNT
    return value if whole else None


class _Window:
    """Computes expressions over six positions. All methods raise `Unclear` on anything without a meaning here."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def value(self, node: ast.expr, function: Function, names: dict[str, Any], depth: int) -> Any:
        """A number, a boolean, or a square."""
        if depth > _MOST_DEPTH:
            raise Unclear("too deep")
        if isinstance(node, ast.Name) and node.id in names:
            return names[node.id]
        constant = self.program.value(node, function)
        if constant is not UNKNOWN and isinstance(constant, (bool, int, float)):
            return constant

        def evaluate(part: ast.expr) -> Any:
            return self.value(part, function, names, depth + 1)

        if isinstance(node, ast.Name):
            return self._name(node.id, function, depth)
        if isinstance(node, ast.Attribute):
            return evaluate(node.value).turned() if node.attr in ("T", "mT") else self._held(node.attr, depth)
        if isinstance(node, ast.BinOp):
            return _paired(_OPERATORS[type(node.op)], evaluate(node.left), evaluate(node.right))
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            return _paired(COMPARE[type(node.ops[0])], evaluate(node.left), evaluate(node.comparators[0]))
        if isinstance(node, ast.UnaryOp):
            operand = evaluate(node.operand)
            change: Callable[[Any], Any] = operator.neg if isinstance(node.op, ast.USub) else operator.not_
            return operand.each(change) if isinstance(operand, Square) else change(operand)
        if isinstance(node, ast.Subscript):
            return self._subscript(node, evaluate)
        if isinstance(node, ast.Call):
            return self._call(node, function, evaluate, depth)
        raise Unclear(type(node).__name__)

    def _name(self, name: str, function: Function, depth: int) -> Any:
        scope: Function | None = function
        while scope is not None:
            if name in scope.assigned:
                sources = [s for s in scope.assigned[name] if s is not None]
                if len(sources) != 1 or len(scope.assigned[name]) != 1:
                    raise Unclear(name)
                return self.value(sources[0], scope, {}, depth + 1)
            if name in scope.params:
                raise Unclear(name)
            scope = scope.parent
        raise Unclear(name)

    def _held(self, attribute: str, depth: int) -> Any:
        """The value of an attribute or a buffer that is set once."""
        sources = [(f, e) for f, e in self.program.attribute_sources.get(attribute, ()) if e is not None]
        for call in self.program.live_of(ast.Call):
            named = len(call.args) > 1 and getattr(call.args[0], "value", None) == attribute
            if named and dotted(call.func).endswith("register_buffer"):
                sources.append((self.program.function_of(call), call.args[1]))
        if len(sources) != 1:
            raise Unclear(attribute)
        return self.value(sources[0][1], sources[0][0], {}, depth + 1)

    def _subscript(self, node: ast.Subscript, evaluate: Callable[[ast.expr], Any]) -> Any:
        """`i[:, None]` is a column, `i[None, :]` a row, `mask[:n, :n]` and `mask[None, None]` the mask itself."""
        value = evaluate(node.value)
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        plain = [p for p in parts if isinstance(p, ast.Slice)]
        added = [p for p in parts if isinstance(p, ast.Constant) and p.value is None]
        if not isinstance(value, Square) or len(plain) + len(added) != len(parts):
            raise Unclear("a subscript")
        if len(value.rows) == 1 and added and parts[-1] in added and plain:
            return value.turned()
        return value

    def _call(self, node: ast.Call, function: Function, evaluate: Callable[[ast.expr], Any], depth: int) -> Any:
        name = last_name(node)
        functions = [f for f in self.program.callees(node) if f.owner is None or f.owner == function.owner]
        if len(functions) == 1:
            return self._own(functions[0], depth)
        if name == "arange":
            if len([a for a in node.args if a is not node.args[0]]) > 0:
                raise Unclear("a range")
            return Square([list(range(_COUNT))])
        if name in _FILLED or name in ("full", "full_like", "new_full"):
            fill = _FILLED[name] if name in _FILLED else evaluate(node.args[1])
            truth = any(k.arg == "dtype" and "bool" in ast.unparse(k.value) for k in node.keywords)
            return Square([[bool(fill) if truth else fill] * _COUNT for _ in range(_COUNT)])
        if name == "create_block_mask":
            return self._asked(node.args[0], depth)
        library = isinstance(node.func, ast.Attribute) and dotted(node.func.value) in ("torch", "np", "F", "math")
        subject = (
            evaluate(node.func.value)
            if isinstance(node.func, ast.Attribute) and not library
            else evaluate(node.args[0])
        )
        arguments = node.args if isinstance(node.func, ast.Attribute) and not library else node.args[1:]
        return self._changed(name, subject, [*arguments], node, evaluate)

    def _changed(
        self, name: str, subject: Any, arguments: list[ast.expr], node: ast.Call, evaluate: Callable[[ast.expr], Any]
    ) -> Any:
        """The result of an operation on its first operand."""
        words = {k.arg: k.value for k in node.keywords}
        if name in ("tril", "triu") and isinstance(subject, Square):
            offset = evaluate(words["diagonal"]) if "diagonal" in words else evaluate(arguments[0]) if arguments else 0
            lower = name == "tril"
            shape = range(_COUNT)
            inside = [[(j - i <= offset) if lower else (j - i >= offset) for j in shape] for i in shape]
            nothing = type(subject.at(0, 0))(0)
            return Square([[subject.at(i, j) if inside[i][j] else nothing for j in shape] for i in shape])
        if name in ("abs", "abs_") and isinstance(subject, Square):
            return subject.each(abs)
        if name in ("logical_not", "bitwise_not") and isinstance(subject, Square):
            return subject.each(operator.not_)
        if name in ("masked_fill", "masked_fill_"):
            return _paired_three(evaluate(arguments[0]), _number(arguments[1], evaluate), subject)
        if name == "where":
            return _paired_three(subject, _number(arguments[0], evaluate), _number(arguments[1], evaluate))
        if name in ("unsqueeze", "view", "reshape") and isinstance(subject, Square):
            single = len(subject.rows) == 1
            last = ast.unparse(arguments[-1]) if arguments else ""
            return subject.turned() if single and last in ("1", "-1") and name == "unsqueeze" else subject
        if name in ("transpose", "t") and isinstance(subject, Square):
            return subject.turned()
        if name in _PAIRS and arguments:
            return _paired(_PAIRS[name], subject, evaluate(arguments[0]))
        if name in ("bool", "float") and isinstance(subject, Square):
            return subject.each(bool if name == "bool" else float)
        if name in _SAME:
            return subject
        raise Unclear(name)

    def _own(self, callee: Function, depth: int) -> Any:
        returned = [
            n.value for n in self.program.own_nodes(callee) if isinstance(n, ast.Return) and n.value is not None
        ]
        if len(returned) != 1:
            raise Unclear(callee.name)
        return self.value(returned[0], callee, {}, depth + 1)

    def _asked(self, node: ast.expr, depth: int) -> Any:
        """A function that is called for each pair: `lambda b, h, q, k: q >= k`."""
        lambdas = [f for f in self.program.functions if f.node is node]
        named = [f for f in self.program.by_name.get(dotted(node), ()) if len(f.params) == 4]
        functions = lambdas or named
        if len(functions) != 1 or len(functions[0].params) != 4:
            raise Unclear("a function for pairs")
        function_of_pairs = functions[0]
        positions = Square([list(range(_COUNT))])
        names = {function_of_pairs.params[2]: positions.turned(), function_of_pairs.params[3]: positions}
        body = function_of_pairs.node.body
        if isinstance(body, list):
            if len(body) != 1 or not isinstance(body[0], ast.Return) or body[0].value is None:
                raise Unclear("a function for pairs")
            body = body[0].value
        return self.value(body, function_of_pairs, names, depth + 1)


def _number(node: ast.expr, evaluate: Callable[[ast.expr], Any]) -> Any:
    """A number, also `float("-inf")` and `torch.finfo(...).min`."""
    text = ast.unparse(node)
    if "inf" in text or ".min" in text:
        return -math.inf if "-" in text or ".min" in text else math.inf
    return evaluate(node)


def _paired(apply: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    if not isinstance(left, Square) and not isinstance(right, Square):
        return apply(left, right)
    left, right = (x if isinstance(x, Square) else Square([[x]]) for x in (left, right))
    height = max(len(left.rows), len(right.rows))
    width = max(len(left.rows[0]), len(right.rows[0]))
    return Square([[apply(left.at(i, j), right.at(i, j)) for j in range(width)] for i in range(height)])


def _paired_three(test: Any, yes: Any, no: Any) -> Any:
    """`where` by element."""
    sides = [x if isinstance(x, Square) else Square([[x]]) for x in (test, yes, no)]
    height, width = max(len(s.rows) for s in sides), max(len(s.rows[0]) for s in sides)
    test, yes, no = sides
    return Square([[yes.at(i, j) if test.at(i, j) else no.at(i, j) for j in range(width)] for i in range(height)])
