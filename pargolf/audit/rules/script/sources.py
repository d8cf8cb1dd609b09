"""Find what a value is made of: the expressions behind it, followed backwards through names, stores, calls and returns.

`float(bits * per_byte)` leads to both factors, `bits` to its assigned value, `total` to everything added to it, a call
of the script's own function to its results, and a parameter to what the live calls pass. If a result is taken apart,
only the requested part is followed. The tests that decide whether a value is added or assigned are listed with it.
Nothing is run.
"""

import ast
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import LOOPS
from pargolf.audit.code.tree import Function, argument_for, dotted

_MOST_NODES = 6_000
_ENDS = (ast.Continue, ast.Break, ast.Return)
_GIVING = frozenset(
    {
        ast.Assign,
        ast.AnnAssign,
        ast.AugAssign,
        ast.NamedExpr,
        ast.For,
        ast.AsyncFor,
        ast.comprehension,
        ast.withitem,
        ast.Expr,
    }
)


@dataclass(frozen=True, eq=False)
class Given:
    """One assignment of a name: the value, the part of it that is taken, and the statement."""

    value: ast.expr
    part: int | None
    statement: ast.AST


@dataclass
class Slice:
    """Everything that a value is made of.

    Attributes:
        nodes: expressions, each with its function, in the order in which they were found.
        tests: tests that decide whether one of them counts, each with its function.
        ends: expressions that were not followed further.
        whole: whether everything was followed; otherwise there was too much.
    """

    nodes: dict[ast.expr, Function] = field(default_factory=dict)
    tests: dict[ast.expr, Function] = field(default_factory=dict)
    ends: set[ast.expr] = field(default_factory=set)
    whole: bool = True


class Sources:
    """Follows values of a program backwards.

    Args:
        program: the program under its settings.
        stops: whether an expression is not followed further, and is no part of a slice.
    """

    def __init__(self, program: Program, stops: Callable[[ast.expr, Function], bool]) -> None:
        self.program, self.stops = program, stops
        self._given: dict[Function, dict[str, list[Given]]] = {}
        self._attributes = self._of_attributes()

    def of(self, seeds: Iterable[tuple[ast.expr, Function]]) -> Slice:
        """Everything that some expressions are made of."""
        out = Slice()
        seen: set[tuple[int, int | None]] = set()
        waiting: list[tuple[ast.expr, Function, int | None]] = [(node, function, None) for node, function in seeds]
        while waiting and len(seen) < _MOST_NODES:
            node, function, part = waiting.pop()
            if (id(node), part) in seen:
                continue
            if self.stops(node, function):
                out.ends.add(node)
                continue
            seen.add((id(node), part))
            out.nodes.setdefault(node, function)
            waiting += self._behind(node, function, part, out)
        out.whole = not waiting
        return out

    # ---- one step back

    def _behind(
        self, node: Any, function: Function, part: int | None, out: Slice
    ) -> Iterator[tuple[ast.expr, Function, int | None]]:
        if isinstance(node, ast.Name):
            yield from self._of_name(node.id, function, part, out)
        elif isinstance(node, ast.Attribute):
            yield from self._of_attribute(node, function, out)
        elif isinstance(node, ast.Call):
            yield from self._of_call(node, function, part)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield node.value, function, node.slice.value if isinstance(node.slice.value, int) else None
        elif isinstance(node, (ast.Tuple, ast.List)) and part is not None and -len(node.elts) <= part < len(node.elts):
            yield node.elts[part], function, None
        else:
            for child in self.program.children.get(node, ()):
                if isinstance(child, ast.comprehension):
                    yield from ((e, function, None) for e in (child.iter, *child.ifs))
                elif isinstance(child, ast.expr):
                    yield child, function, part if isinstance(node, ast.IfExp) and child is not node.test else None

    def _of_name(
        self, name: str, function: Function, part: int | None, out: Slice
    ) -> Iterator[tuple[ast.expr, Function, int | None]]:
        scope: Function | None = function
        while scope is not None:
            given = self._of(scope).get(name, [])
            for one in given:
                self._note_tests(one.statement, scope, out)
                yield one.value, scope, one.part if one.part is not None else part
            if name in scope.params:
                for site in scope.calls:
                    passed = argument_for(site.call, scope, name) or scope.defaults.get(name)
                    if passed is not None:
                        yield passed, site.caller, part
                return
            if given:
                return
            scope = scope.parent

    def _of_attribute(
        self, node: ast.Attribute, function: Function, out: Slice
    ) -> Iterator[tuple[ast.expr, Function, int | None]]:
        held = self._attributes.get(node.attr, [])
        for one in held:
            scope = self.program.function_of(one.statement)
            self._note_tests(one.statement, scope, out)
            yield one.value, scope, one.part
        methods = [f for f in self.program.by_name.get(node.attr, ()) if f.owner is not None and f.live]
        yield from (pair for method in methods for pair in self._returned(method, None))
        if not held and not methods:
            yield node.value, function, None

    def _of_call(
        self, node: ast.Call, function: Function, part: int | None
    ) -> Iterator[tuple[ast.expr, Function, int | None]]:
        callees = self.program.callees(node)
        built = dotted(node.func) in self.program.classes
        if callees and not built:
            for callee in callees:
                yield from self._returned(callee, part)
            return
        if isinstance(node.func, ast.Attribute):
            yield node.func.value, function, None
        for argument in (*node.args, *(k.value for k in node.keywords)):
            yield argument, function, None

    def _returned(self, callee: Function, part: int | None) -> Iterator[tuple[ast.expr, Function, int | None]]:
        if isinstance(callee.node, ast.Lambda):
            yield callee.node.body, callee, part
            return
        for node in self.program.own_nodes(callee):
            gives = isinstance(node, (ast.Return, ast.Yield)) and node in self.program.live
            if gives and (value := getattr(node, "value", None)) is not None:
                yield value, callee, part

    # ---- what statements give

    def _of(self, function: Function) -> dict[str, list[Given]]:
        given = self._given.get(function)
        if given is None:
            given = self._given[function] = defaultdict(list)
            for node in self.program.own_nodes(function):
                if node in self.program.live or isinstance(node, ast.comprehension):
                    for target, one in gives(node):
                        if name := _root(target):
                            given[name].append(one)
        return given

    def _of_attributes(self) -> dict[str, list[Given]]:
        held: dict[str, list[Given]] = defaultdict(list)
        for node in self.program.live_of(ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr):
            for target, one in gives(node):
                inner = target
                while isinstance(inner, ast.Subscript):
                    inner = inner.value
                if isinstance(inner, ast.Attribute):
                    held[inner.attr].append(one)
        return held

    def _note_tests(self, statement: ast.AST, function: Function, out: Slice) -> None:
        """Tests around a statement, and those before it in its block that leave the loop or skip a turn."""
        below = statement
        for above in self.program.ancestors(statement):
            if above is function.node or isinstance(above, (ast.FunctionDef, ast.ClassDef)):
                break
            if isinstance(above, (ast.If, ast.While)):
                out.tests[above.test] = function
            block = getattr(above, "body", None)
            if isinstance(above, LOOPS) and isinstance(block, list) and below in block:
                for before in block[: block.index(below)]:
                    if isinstance(before, ast.If) and any(isinstance(s, _ENDS) for s in before.body):
                        out.tests[before.test] = function
            below = above


def gives(node: ast.AST) -> Iterator[tuple[ast.expr, Given]]:
    """The targets of a statement or a loop, each with its value. A plain call may change its arguments."""
    if type(node) not in _GIVING:
        return
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _taken_apart(target, node.value, node)
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value is not None:
        yield node.target, Given(node.value, None, node)
    elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
        yield from _items(node.target, node.iter, node)
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        yield node.optional_vars, Given(node.context_expr, None, node)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value
        receiver = [call.func.value] if isinstance(call.func, ast.Attribute) else []
        for changed in (*receiver, *call.args):
            if isinstance(changed, (ast.Name, ast.Attribute, ast.Subscript)):
                yield changed, Given(call, None, node)


def _taken_apart(target: ast.expr, value: ast.expr, statement: ast.AST) -> Iterator[tuple[ast.expr, Given]]:
    if not isinstance(target, (ast.Tuple, ast.List)):
        yield target, Given(value, None, statement)
        return
    several = isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts)
    for i, element in enumerate(target.elts):
        if several and isinstance(value, (ast.Tuple, ast.List)):
            yield from _taken_apart(element, value.elts[i], statement)
        elif isinstance(element, (ast.Tuple, ast.List, ast.Starred)):
            yield from ((e, Given(value, None, statement)) for e in ast.walk(element) if isinstance(e, ast.Name))
        else:
            yield element, Given(value, i, statement)


def _items(target: ast.expr, source: ast.expr, loop: ast.AST) -> Iterator[tuple[ast.expr, Given]]:
    """`for a, b in zip(x, y)` gives `a` items of `x`; any other loop gives all its targets items of its source."""
    zipped = isinstance(source, ast.Call) and dotted(source.func) == "zip"
    sides = source.args if zipped and isinstance(source, ast.Call) else []
    if isinstance(target, ast.Tuple) and len(sides) == len(target.elts):
        for element, one in zip(target.elts, sides):
            yield from _items(element, one, loop)
        return
    for part in ast.walk(target):
        if isinstance(part, ast.Name):
            yield part, Given(source, None, loop)


def _root(node: ast.AST) -> str:
    """The plain name at the root of a target; empty for an attribute."""
    while isinstance(node, (ast.Subscript, ast.Starred)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
