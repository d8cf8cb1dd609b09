"""Replace constant fields of the recipe and the program by their values, and remove the branches they decide.

x if spec.gate is None else y   ->   x          when no part of the recipe has a gate
self.cap = None ... self.cap is None -> True    when nothing else is ever stored under that name
"""

import ast
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from pargolf.ship.shrink.purity import (
    MISSING,
    bound_by,
    fields_of,
    is_data,
    is_pass,
    is_pure,
    is_store,
    target_names,
    truth_of,
    value_of,
)
from pargolf.ship.shrink.reserved import foreign_names
from pargolf.ship.shrink.tree import TreeTransformer, walk

Values = Mapping[str, Any]
"""Field name -> its only value."""


class ConstantFields(TreeTransformer):
    """Replaces reads of constant attributes by their values: of any owner, or only of an owner named `spec`."""

    def __init__(self, everywhere: Mapping[str, ast.expr], of_specs: Mapping[str, ast.expr]) -> None:
        self.everywhere, self.of_specs = everywhere, of_specs

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Replace a read of a constant attribute whose owner has no side effects."""
        self.generic_visit(node)
        owner = node.value
        spec = (isinstance(owner, ast.Name) and owner.id == "spec") or (
            isinstance(owner, ast.Attribute) and owner.attr == "spec"
        )
        value = self.of_specs.get(node.attr) if spec else None
        value = value or self.everywhere.get(node.attr)
        return value if value is not None and isinstance(node.ctx, ast.Load) and is_pure(owner) else node


def constant_fields(tree: ast.Module, constants: Values) -> tuple[dict[str, ast.expr], dict[str, ast.expr]]:
    """Constants that the program never sets, by name: those whose name has no other meaning, and all of them."""
    kinds = {n.name: fields_of(n) for n in tree.body if isinstance(n, ast.ClassDef) and is_data(n)}
    calls = [n for n in walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    changed = {name for call in calls for name in _set_by(call, kinds, constants)}
    values = {name: _literal(value) for name, value in constants.items() if name not in changed}
    shared = _other_meanings(tree) | foreign_names()
    return {name: value for name, value in values.items() if name not in shared}, values


def _set_by(call: ast.Call, kinds: Mapping[str, Mapping[str, ast.expr | None]], constants: Values) -> set[str]:
    """Fields that a call may set to something other than their constant."""
    assert isinstance(call.func, ast.Name)
    spelled = {k.arg or "" for k in call.keywords}
    names = set(spelled) if call.func.id == "replace" else set()
    starred = any(isinstance(a, ast.Starred) for a in call.args)
    for index, (name, default) in enumerate(kinds.get(call.func.id, {}).items()):
        passed = starred or index < len(call.args) or name in spelled
        if passed or default is None or ast.unparse(default) != repr(constants.get(name, "-")):
            names.add(name)
    return names


def _other_meanings(tree: ast.Module) -> set[str]:
    """Names that are also a keyword, a method, or an assigned attribute."""
    names: set[str] = set()
    for node in walk(tree):
        if isinstance(node, ast.keyword):
            names.add(node.arg or "")
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            names.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            names.add(node.func.attr)
        elif isinstance(node, ast.ClassDef):
            names |= {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)}
            assigned = [inner for inner in node.body if isinstance(inner, ast.Assign)]
            names |= {ast.unparse(target) for inner in assigned for target in inner.targets}
    return names


def _literal(value: Any) -> ast.expr:
    return ast.parse(repr(value), mode="eval").body


def constant_attributes(tree: ast.Module, outside: Collection[str] = ()) -> dict[str, ast.expr]:
    """Attributes that are only assigned one constant, and only as `self.name = constant`."""
    nodes = walk(tree)
    notes = [n for n in nodes if isinstance(n, ast.Assign) and _notes_constant(n)]
    values: dict[str, set[str]] = defaultdict(set)
    for note in notes:
        assert isinstance(note.targets[0], ast.Attribute)
        values[note.targets[0].attr].add(ast.unparse(note.value))
    plain = {id(note.targets[0]) for note in notes}
    taken = {*foreign_names(), *outside} | _members(tree)
    taken |= {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    stored = [n for n in nodes if isinstance(n, ast.Attribute) and not isinstance(n.ctx, ast.Load)]
    taken |= {n.attr for n in stored if id(n) not in plain}
    return {
        name: ast.parse(next(iter(texts)), mode="eval").body
        for name, texts in values.items()
        if len(texts) == 1 and name not in taken
    }


def _notes_constant(node: ast.Assign) -> bool:
    """Whether a statement is `self.name = constant`, except text."""
    target, value = node.targets[0], node.value
    constant = isinstance(value, ast.Constant) and not isinstance(value.value, str | bytes)
    own = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    return constant and own and len(node.targets) == 1


def _members(tree: ast.Module) -> set[str]:
    """The names of methods and fields of all classes."""
    bodies = [inner for node in walk(tree) if isinstance(node, ast.ClassDef) for inner in node.body]
    names = {inner.name for inner in bodies if isinstance(inner, ast.FunctionDef)}
    return names | {name for n in bodies if isinstance(n, ast.Assign | ast.AnnAssign) for name in bound_by(n)}


class Folded(TreeTransformer):
    """Constant folding: evaluates conditions on constants and removes dead branches."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Compare two constants."""
        self.generic_visit(node)
        left, right = value_of(node.left), value_of(node.comparators[0])
        if len(node.ops) > 1 or left is MISSING or right is MISSING:
            return node
        match node.ops[0]:
            case ast.Is() | ast.Eq():
                return ast.Constant(left == right and type(left) is type(right))
            case ast.IsNot() | ast.NotEq():
                return ast.Constant(not (left == right and type(left) is type(right)))
            case ast.Gt() if isinstance(left, int) and isinstance(right, int):
                return ast.Constant(left > right)
            case ast.In() if right == ():
                return ast.Constant(False)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """`not` of a constant."""
        self.generic_visit(node)
        node.operand = _condition(node.operand)
        known = truth_of(node.operand)
        return ast.Constant(not known) if isinstance(node.op, ast.Not) and known is not None else node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """Drop operands without influence, and operands that are never evaluated."""
        self.generic_visit(node)
        stops = isinstance(node.op, ast.Or)
        values: list[ast.expr] = []
        for index, value in enumerate(node.values):
            known = truth_of(value)
            if known is (not stops) and index < len(node.values) - 1:
                continue
            values.append(value)
            if known is stops:
                break
        return values[0] if len(values) == 1 else ast.BoolOp(node.op, values)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """Keep only the branch that is taken."""
        self.generic_visit(node)
        node.test = _condition(node.test)
        known = truth_of(node.test)
        return node if known is None else node.body if known else node.orelse

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """Keep only the branch that is taken; drop an `if` whose branches do nothing."""
        self.generic_visit(node)
        node.test = _condition(node.test)
        known = truth_of(node.test)
        if known is not None:
            return (node.body if known else node.orelse) or [ast.Pass()]
        if is_pass(node.orelse):
            node.orelse = []
        if is_pass(node.body) and not node.orelse and is_pure(node.test):
            return [ast.Pass()]
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        """Drop a loop that never runs."""
        self.generic_visit(node)
        node.test = _condition(node.test)
        return ast.Pass() if truth_of(node.test) is False else node

    def visit_For(self, node: ast.For) -> ast.AST:
        """Drop a loop over nothing, or one that does nothing."""
        self.generic_visit(node)
        empty = _is_empty(node.iter) or (is_pass(node.body) and not node.orelse and is_pure(node.iter))
        return ast.Pass() if empty else node

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp) -> ast.AST:
        """Replace a comprehension that is always empty."""
        self.generic_visit(node)
        first = node.generators[0]
        empty = _is_empty(first.iter) or any(truth_of(test) is False for test in first.ifs)
        return ast.List([], ast.Load()) if empty and (_is_empty(first.iter) or is_pure(first.iter)) else node

    visit_SetComp = visit_ListComp

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        """Drop conditions that are always true."""
        self.generic_visit(node)
        node.ifs = [test for test in map(_condition, node.ifs) if truth_of(test) is not True]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Evaluate `any`, `all` and `len` of nothing, and `callable` of a constant."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and len(node.args) == 1:
            arg = node.args[0]
            of_many = node.func.id in ("any", "all") and isinstance(arg, ast.GeneratorExp)
            if of_many and _is_empty(arg.generators[0].iter):  # type: ignore[attr-defined]
                return ast.Constant(node.func.id == "all")
            if node.func.id == "len" and value_of(arg) == ():
                return ast.Constant(0)
            if node.func.id == "callable" and isinstance(arg, ast.Constant):
                return ast.Constant(False)
        return node


def _is_empty(node: ast.expr) -> bool:
    """Whether a loop over it never begins: `()`, `range(0)`, `enumerate(())`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1 and not node.keywords:
        arg = node.args[0]
        return (node.func.id == "range" and value_of(arg) == 0) or (node.func.id == "enumerate" and _is_empty(arg))
    return bool(value_of(node) == ())


def _condition(test: ast.expr) -> ast.expr:
    """Simplify an expression that is only used for its truth: there `x and False` is False, and `x or 1` is 1.

    Elsewhere this is wrong, because `x or 1` is x when x is true.
    """
    if not isinstance(test, ast.BoolOp):
        return test
    values = [_condition(value) for value in test.values]
    if truth_of(values[-1]) is isinstance(test.op, ast.Or) and all(map(is_pure, values[:-1])):
        return values[-1]
    return ast.BoolOp(test.op, values)


class Substituted(TreeTransformer):
    """Replaces names by values."""

    def __init__(self, values: Mapping[str, ast.expr]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Replace a name that has a value."""
        return self.values.get(node.id, node) if isinstance(node.ctx, ast.Load) else node


class ConstantLocals(TreeTransformer):
    """Replaces locals that are assigned once, with None, True or False, by that value."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Replace names that the body assigns once and nothing else binds."""
        inner = walk(node)
        stored = Counter(n.id for n in inner if isinstance(n, ast.Name) and is_store(n))
        bound = {n.arg for n in inner if isinstance(n, ast.arg)}
        bound |= {name for n in inner if isinstance(n, ast.Nonlocal | ast.Global) for name in n.names}
        known: dict[str, ast.expr] = {}
        for s in node.body:
            if isinstance(s, ast.Assign) and isinstance(s.value, ast.Constant) and _is_switch(s.value.value):
                known |= {name: s.value for name in target_names(s.targets) if stored[name] == 1 and name not in bound}
        if known:
            node = Substituted(known).visit(node)
        return self.generic_visit(node)


def _is_switch(value: Any) -> bool:
    return value is None or isinstance(value, bool)
