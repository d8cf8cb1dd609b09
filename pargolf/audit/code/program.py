"""Read what a script would do under given settings, from its syntax tree alone.

Three questions are answered, each in a file of its own and without running a line: which value an expression has
(`values`), which statements can run (`reach`), and where validation tokens flow (`flow`, `count_tables`). The tree
itself is indexed once (`tree`), and can be read again under other settings.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import Any, TypeVar

from pargolf.audit.code.count_tables import find_tables
from pargolf.audit.code.flow import Flow
from pargolf.audit.code.hidden.names import full_name, imported
from pargolf.audit.code.reach import Reach
from pargolf.audit.code.tree import Function, Index, Labels, dotted
from pargolf.audit.code.values import Constants

_Node = TypeVar("_Node", bound=ast.AST)


class Program:
    """A script under one environment.

    Args:
        index: the module's syntax tree, indexed, or the bare tree.
        env: environment variables that are set; everything else takes the script's own default.
        any_word: whether a variable that holds a word, such as a mode, may hold any.
        also: functions that are known to have run although nothing calls them.
    """

    def __init__(
        self,
        index: Index | ast.Module,
        env: dict[str, str],
        *,
        any_word: bool = False,
        also: frozenset[str] = frozenset(),
    ) -> None:
        self.index = index = Index(index) if isinstance(index, ast.Module) else index
        self.parents, self.children, self.classes = index.parents, index.children, index.classes
        scopes = _copied(index.definitions)
        self._scopes = scopes
        self.module, self.functions = scopes[0], scopes[1:]
        self.by_name: dict[str, list[Function]] = defaultdict(list)
        for function in self.functions:
            self.by_name[function.name].append(function)
        self.attribute_sources = {
            name: [(scopes[position], value) for position, value in pairs] for name, pairs in index.attributes.items()
        }
        env = {**index.defaults, **env, **index.settings}
        constants = Constants(
            self.module, self.by_name, self.attribute_sources, index.shared, index.filled, env, any_word=any_word
        )
        reach = Reach(index, scopes, self.by_name, constants, also)
        self.live = reach.live
        self.tables = find_tables(index, scopes, self.live)
        self._flow = Flow(index, scopes, reach, self.attribute_sources, self.tables)
        self.value, self.callees = constants.value, reach.callees
        self.labels, self.known, self.own_labels = self._flow.labels, self._flow.known, self._flow.own
        self.below = index.below
        self._called: dict[ast.Call, str] = {}
        self.near: dict[tuple[int, int], Labels] = {}
        self.binds: dict[ast.AST, dict[str, list[tuple[ast.expr, ast.AST]]]] = {}

    def of(self, node: ast.expr, function: Function | None = None) -> Labels:
        """The labels of an expression, with parameters resolved."""
        function = function or self.function_of(node)
        return self.known(self.labels(node, function), function)

    def function_of(self, node: ast.AST) -> Function:
        """The function whose body contains `node`."""
        return self._scopes[self.index.place.get(node, 0)]

    def own_nodes(self, function: Function) -> list[ast.AST]:
        """Nodes of a function's body, without those of functions inside it."""
        return self.index.own_nodes(function.node)

    def own_of(self, function: Function, kind: type[_Node]) -> list[_Node]:
        """The nodes of one kind among a function's own."""
        return self.index.own_of(function.node, kind)

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        """Nodes that enclose `node`, the nearest first."""
        parents = self.parents
        while node in parents:
            node = parents[node]
            yield node

    def live_of(self, *kinds: type[ast.AST]) -> list[Any]:
        """Live nodes of some kinds: kind by kind, each in the order of the text."""
        return [node for kind in kinds for node in self._by_kind.get(kind, ())]

    @cached_property
    def _by_kind(self) -> dict[type, list[ast.AST]]:
        nodes: dict[type, list[ast.AST]] = defaultdict(list)
        for node in self.live:
            nodes[type(node)].append(node)
        return nodes

    @cached_property
    def watchers(self) -> set[Function]:
        """Functions that watch layers through forward hooks."""
        hooks = [n for n in self.index.order if isinstance(n, ast.Attribute) and n.attr.startswith("register_forward")]
        return {self.function_of(n) for n in hooks}

    @cached_property
    def imported(self) -> dict[str, str]:
        """Full names that imports bind, in live or dead code."""
        return imported(self.index.order)

    def full_name(self, node: ast.AST, function: Function) -> str:
        """The full name of an expression in a function; a parameter or local of the same name hides an import."""
        name = dotted(node)
        root, scope = name.split(".", 1)[0], function
        while scope.parent is not None:
            if root in scope.params or root in scope.assigned:
                return name
            scope = scope.parent
        return full_name(node, self.imported)

    def calls_of(self, method: str) -> Iterator[tuple[ast.Call, ast.Attribute]]:
        """Live calls of a method, or of a module's function: `x.method(...)`."""
        for call in self._by_method.get(method, ()):
            yield call, call.func

    @cached_property
    def _by_method(self) -> dict[str, list[Any]]:
        calls: dict[str, list[ast.Call]] = defaultdict(list)
        for call in self.live_of(ast.Call):
            if isinstance(call.func, ast.Attribute):
                calls[call.func.attr].append(call)
        return calls

    def called(self, call: ast.Call) -> str:
        """The full name of what a call calls, with imports resolved."""
        name = self._called.get(call)
        if name is None:
            name = self._called[call] = full_name(call.func, self.imported)
        return name

    @cached_property
    def live_text(self) -> str:
        """All strings of live code."""
        return "\n".join(n.value for n in self.live_of(ast.Constant) if isinstance(n.value, str))


def _copied(definitions: list[Function]) -> list[Function]:
    """A fresh copy of the index's functions, so that one reading does not change another's."""
    copies: dict[int, Function] = {}
    for old in definitions:
        parent = copies[id(old.parent)] if old.parent is not None else None
        copies[id(old)] = Function(old.node, old.name, old.owner, parent, old.params, old.defaults, old.assigned)
    return list(copies.values())
