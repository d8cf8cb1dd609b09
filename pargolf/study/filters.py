"""Filters for runs, as text: `bpb < 1.3 and recipe = house`, `not legal`, `seed in (1, 2) or name = "pr*"`.

A filter compares columns with numbers and words by = != < <= > >= and `in (...)`, joined by `and`, `or`, `not` and
parentheses. A word needs quotes only if it is not a plain name. After `=`, a word with * or ? is a pattern; case is
ignored. A row without a value (`adaptation = none`) fails every comparison with < <= > >=. Filters are never executed:
Python's parser reads them, and all other kinds of expressions are refused.
"""

import ast
import operator
import re
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any

from pargolf.core.errors import UserError, near

Row = Mapping[str, Any]
Filter = Callable[[Row], bool]

_EQUALS = re.compile(r"""("[^"]*"|'[^']*')|(?<![=!<>])=(?!=)""")
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_LONGEST = 2_000


def read_filter(text: str, columns: Collection[str]) -> Filter:
    """Parse a filter into a test of rows. Raises `UserError` on an unknown column or a syntax error."""
    if len(text) > _LONGEST:
        raise UserError(f"The filter has {len(text):,} characters; at most {_LONGEST:,}.")
    try:
        tree = ast.parse(_EQUALS.sub(lambda match: match[1] or "==", text).strip(), mode="eval")
        return _test(tree.body, columns)
    except UserError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(
            f"'{text}' is no filter ({_reason(error)}). Write it as: bpb < 1.3 and recipe = house."
        ) from None


def _test(node: ast.expr, columns: Collection[str]) -> Filter:
    """The test for one expression. Raises `ValueError` if it is not allowed in a filter."""
    match node:
        case ast.BoolOp(op=op, values=values):
            parts, joined = [_test(value, columns) for value in values], all if isinstance(op, ast.And) else any
            return lambda row: joined(part(row) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            part = _test(operand, columns)
            return lambda row: not part(row)
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [left, *others]
            steps = [_comparison(*step, columns) for step in zip(sides, ops, others, strict=False)]
            return lambda row: all(step(row) for step in steps)
        case ast.Name() | ast.Attribute():
            name = _column(node, columns)
            return lambda row: bool(row.get(name))
    raise ValueError(f"'{ast.unparse(node)}' compares nothing")


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr, columns: Collection[str]) -> Filter:
    if _names_column(right, columns) and not _names_column(left, columns):
        turned = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
        left, op, right = right, turned.get(type(op), type(op))(), left
    name = _column(left, columns)
    if isinstance(op, ast.In | ast.NotIn):
        if not isinstance(right, ast.Tuple | ast.List | ast.Set):
            raise ValueError(f"write the values of {name} as: {name} in (1, 2)")
        values, inside = [_value(one) for one in right.elts], isinstance(op, ast.In)
        return lambda row: any(_same(row.get(name), value) for value in values) is inside
    value = _value(right)
    if isinstance(op, ast.Eq | ast.NotEq):
        equal = isinstance(op, ast.Eq)
        return lambda row: _same(row.get(name), value) is equal
    order = _ORDER.get(type(op))
    if order is None:
        raise ValueError("compare by = != < <= > >= or in")
    if value is None or isinstance(value, bool):
        raise ValueError(f"{name} is compared in size with what has none")
    return lambda row: _ordered(order, row.get(name), value)


def _same(cell: Any, value: Any) -> bool:
    """Whether a cell equals the value; words are matched as patterns, ignoring case."""
    if cell is None or value is None:
        return cell is value
    if isinstance(cell, str) and isinstance(value, str):
        cell, value = cell.casefold(), value.casefold()
        return fnmatchcase(cell, value) if set(value) & set("*?") else cell == value
    return not isinstance(cell, str) and bool(cell == value)


def _ordered(order: Callable[[Any, Any], bool], cell: Any, value: Any) -> bool:
    if cell is None or isinstance(cell, str) != isinstance(value, str):
        return False
    return order(cell, value)


def _column(node: ast.expr, columns: Collection[str]) -> str:
    name = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
    if not name:
        raise ValueError(f"'{ast.unparse(node)}' is no column")
    return check_column(name, columns)


def _names_column(node: ast.expr, columns: Collection[str]) -> bool:
    return isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in columns


def check_column(name: str, columns: Collection[str]) -> str:
    """Return the name if it is a column. Otherwise raises `UserError` with the nearest one."""
    if name not in columns:
        raise UserError(f"There is no column '{name}'.{near(name, list(columns))} All: {', '.join(columns)}.")
    return name


def _value(node: ast.expr) -> Any:
    """A number, a word, true or false, or `none` for no value; a name without quotes is a word."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Constant(value=None) | ast.Name(id="none"):
            return None
        case ast.Name(id="true" | "yes"):
            return True
        case ast.Name(id="false" | "no"):
            return False
        case ast.Name(id=word):
            return word
        case ast.Attribute():
            return ast.unparse(node)
    raise ValueError(f"'{ast.unparse(node)}' is no number and no word; put words with signs in quotes")


def _reason(error: BaseException) -> str:
    return "it cannot be read" if not isinstance(error, ValueError) or isinstance(error, SyntaxError) else str(error)
