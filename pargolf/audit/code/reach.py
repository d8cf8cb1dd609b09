"""Find the statements that can run: from the module's top level, along calls, past tests with known values.

Code after an unconditional `return` or `raise` is dead, and so is a branch of `if` or `x if t else y` that the settings
exclude. A function becomes live when live code mentions its name in any way, because it may be passed on as a value. A
class makes its special methods live. Calls are bound to the functions they may mean, and only live calls count.
"""

import ast

from pargolf.audit.code.tree import Function, Index, Site, argument_for, dotted, last_name, note_assignment
from pargolf.audit.code.values import UNKNOWN, Constants

_ROUNDS = 3
_ENDS = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_SIMPLE = frozenset({ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr})
_CLASS_WAKES = ("forward", "step", "backward", "setup_context")


class Reach:
    """Live nodes and live calls of a script under its settings.

    Args:
        index: the script's tree.
        scopes: its functions in the order of the index, the module first.
        by_name: those functions by name.
        constants: the values that decide tests.
        also: functions that are known to have run although nothing calls them.
    """

    def __init__(
        self,
        index: Index,
        scopes: list[Function],
        by_name: dict[str, list[Function]],
        constants: Constants,
        also: frozenset[str],
    ) -> None:
        self.index, self.scopes, self.by_name, self.constants, self.also = index, scopes, by_name, constants, also
        self.live: dict[ast.AST, None] = {}
        self._called: dict[ast.Call, list[Function]] = {}
        self._instances = _instances(index)
        self._aliases = _aliases(index)
        self._by_node = {function.node: function for function in scopes}
        # The arguments of a call decide tests inside the function, and these decide further calls.
        for _ in range(_ROUNDS - 1):
            before = [function.assigned for function in scopes]
            self._reach()
            if not self._bind_parameters() and before == [function.assigned for function in scopes]:
                break
        else:
            self._reach()

    def callees(self, call: ast.Call) -> list[Function]:
        """Functions of the script that a call may mean: by name, as a method, or through a wrapper (torch.compile)."""
        callees = self._called.get(call)
        if callees is None:
            callees = self._called[call] = self._find_callees(call.func) or self._meant(call.func, call)
        return callees

    def _meant(self, function: ast.expr, call: ast.Call) -> list[Function]:
        """Functions that a called value may be: from a table, one of two, a partial function, a named lambda."""
        if last_name(call) == "partial" and call.args:
            return self._values_of(call.args[0], 0)
        if isinstance(function, ast.Name) and function.id not in self.index.classes:
            return [f for value in self._aliases.get(function.id, ()) for f in self._values_of(value, 0)]
        return self._values_of(function, 0) if isinstance(function, (ast.Subscript, ast.IfExp, ast.Call)) else []

    def _values_of(self, value: ast.AST, depth: int) -> list[Function]:
        """Functions of the script that an expression may give."""
        if depth > 4:
            return []
        if isinstance(value, ast.Lambda):
            return [self._by_node[value]] if value in self._by_node else []
        if isinstance(value, ast.Name):
            plain = [f for f in self.by_name.get(value.id, ()) if f.owner is None]
            return plain or [f for v in self._aliases.get(value.id, ()) for f in self._values_of(v, depth + 1)]
        parts: list[ast.AST] = []
        if isinstance(value, ast.IfExp):
            parts = [value.body, value.orelse]
        elif isinstance(value, ast.Subscript):
            table = value.value
            tables = self._aliases.get(table.id, ()) if isinstance(table, ast.Name) else [table]
            parts = [element for values in tables for element in _elements(values)]
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "get":
            return self._values_of(ast.Subscript(value.func.value, ast.Constant(None)), depth)
        elif isinstance(value, ast.Call) and dotted(value.func).endswith("partial") and len(value.args) == 1:
            parts = [value.args[0]]  # given positional arguments would move the others
        return [f for part in parts for f in self._values_of(part, depth + 1)]

    def _find_callees(self, function: ast.expr) -> list[Function]:
        if isinstance(function, ast.Name):
            if function.id in self.index.classes:
                return [f for f in self.by_name.get("__init__", ()) if f.owner == function.id]
            plain = [f for f in self.by_name.get(function.id, ()) if f.owner is None]
            owner = self._instances.get(function.id)
            return plain or [f for f in self.by_name.get("__call__", ()) if f.owner is not None and f.owner == owner]
        if isinstance(function, ast.Attribute):
            methods = [f for f in self.by_name.get(function.attr, ()) if f.owner is not None]
            return methods if len(methods) <= 6 and function.attr not in ("forward", "step", "backward") else []
        return []

    def _reach(self) -> None:
        self.live = {}
        for function in self.scopes:
            function.live = False
            function.calls = []
        self.constants.forget()
        self._names: set[str] = set(self.also)
        self._enter(self.scopes[0])
        for function in self.scopes:
            if isinstance(function.node, ast.Lambda):
                function.live = True
        waiting = True
        while waiting:
            waiting = False
            for name in sorted(self._names & self.by_name.keys()):
                for function in self.by_name[name]:
                    if not function.live:
                        self._enter(function)
                        waiting = True
        self._find_calls()

    def _enter(self, function: Function) -> None:
        function.live = True
        body = function.node.body
        if isinstance(body, list):
            self._block(body, function)
        else:
            self._mark(body, function)

    def _block(self, body: list[ast.stmt], function: Function) -> bool:
        """Walk live statements; True if the block never continues after its end."""
        return any(self._statement(statement, function) for statement in body)

    def _statement(self, statement: ast.stmt, function: Function) -> bool:
        self.live[statement] = None
        if type(statement) in _SIMPLE:
            self._mark(statement, function)
            return False
        if isinstance(statement, ast.If):
            return self._if(statement, function)
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for expression in (*statement.decorator_list, *statement.args.defaults):
                self._mark(expression, function)
        elif isinstance(statement, ast.ClassDef):
            for expression in statement.bases:
                self._mark(expression, function)
            self._block(statement.body, function)
        elif isinstance(statement, (ast.For, ast.AsyncFor)):
            self._mark(statement.iter, function)
            if not self._empty(statement.iter, function):
                self._block(statement.body, function)
                self._block(statement.orelse, function)
        elif isinstance(statement, ast.While):
            self._mark(statement.test, function)
            test = self.constants.value(statement.test, function)
            if test is UNKNOWN or test:
                self._block(statement.body, function)
                self._block(statement.orelse, function)
        elif isinstance(statement, (ast.With, ast.AsyncWith)):
            for item in statement.items:
                self._mark(item, function)
            return self._block(statement.body, function)
        elif isinstance(statement, (ast.Try, ast.TryStar)):
            return self._try(statement, function)
        else:
            self._mark(statement, function)
        return isinstance(statement, _ENDS)

    def _try(self, statement: ast.Try | ast.TryStar, function: Function) -> bool:
        ended = self._block(statement.body, function)
        for handler in statement.handlers:
            self.live[handler] = None
            self._block(handler.body, function)
        self._block(statement.orelse, function)
        return self._block(statement.finalbody, function) or (ended and not statement.handlers)

    def _if(self, statement: ast.If, function: Function) -> bool:
        self._mark(statement.test, function)
        test = self.constants.value(statement.test, function)
        if test is UNKNOWN:
            ended = self._block(statement.body, function)
            return self._block(statement.orelse, function) and ended and bool(statement.orelse)
        return self._block(statement.body if test else statement.orelse, function)

    def _empty(self, iterable: ast.expr, function: Function) -> bool:
        """Whether a loop over `range(0)` never runs."""
        if isinstance(iterable, ast.Call) and dotted(iterable.func) == "range" and len(iterable.args) == 1:
            count = self.constants.value(iterable.args[0], function)
            return isinstance(count, (int, float)) and count <= 0
        return False

    def _mark(self, node: ast.AST, scope: Function) -> None:
        """Mark a live expression or simple statement as live, except excluded branches of `x if t else y`."""
        index = self.index
        if not index.branches(node):
            self.live.update(dict.fromkeys(index.below(node)))
            names, classes = index.mentioned(node)
            self._names |= names
            for name in classes:
                self._want_class(name)
            return
        self.live[node] = None
        if isinstance(node, ast.Lambda):
            self._mark(node.body, self.scopes[index.place[node.body]])
            return
        if isinstance(node, ast.Attribute):
            self._names.add(node.attr)
        elif isinstance(node, ast.IfExp):
            test = self.constants.value(node.test, scope)
            if test is not UNKNOWN:
                self._mark(node.test, scope)
                self._mark(node.body if test else node.orelse, scope)
                return
        elif isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            for i, value in enumerate(node.values):
                self._mark(value, scope)
                known = self.constants.value(value, scope)
                if known is not UNKNOWN and not known and i + 1 < len(node.values):
                    break
            return
        for child in index.children[node]:
            self._mark(child, scope)

    def _want_class(self, name: str) -> None:
        for statement in self.index.classes[name].body:
            if isinstance(statement, ast.FunctionDef) and (
                statement.name.startswith("__") or statement.name in _CLASS_WAKES
            ):
                self._names.add(statement.name)

    def _find_calls(self) -> None:
        """Bind live calls, and keep only the assignments that can run."""
        self.constants.forget()
        index, live = self.index, self.live
        self.live = live = {node: None for node in index.order if node in live}
        for function in self.scopes:
            if function.live:
                function.assigned = {k: v for k, v in function.assigned.items() if "." in k}
        for call in index.calls:
            if call in live:
                caller = self.scopes[index.place[call]]
                for callee in self.callees(call):
                    callee.calls.append(Site(caller, call, callee))
        for node in index.binders:
            if node in live:
                note_assignment(node, self.scopes[index.place[node]].assigned)
        for node in index.bound_later:
            if (scope := self.scopes[index.place[node]]).live:
                note_assignment(node, scope.assigned)

    def _bind_parameters(self) -> bool:
        """Give each parameter its value if all live calls agree on one; True if any value is new."""
        bound: dict[Function, dict[str, object]] = {}
        for function in self.scopes[1:]:
            values: dict[str, object] = {}
            for name in function.params if function.calls else ():
                if name == "self":
                    continue
                first = self._passed(function.calls[0], name)
                if first is UNKNOWN:
                    continue
                other_values = (self._passed(site, name) for site in function.calls[1:])
                if all(type(v) is type(first) and v == first for v in other_values):
                    values[name] = first
            bound[function] = values
        changed = False
        for function, values in bound.items():
            constants = {k: v for k, v in values.items() if k not in function.assigned}
            changed = changed or constants != function.values
            function.values = constants
        return changed

    def _passed(self, site: Site, name: str) -> object:
        expression = argument_for(site.call, site.callee, name)
        if expression is not None:
            return self.constants.value(expression, site.caller)
        if any(isinstance(a, ast.Starred) for a in site.call.args) or any(k.arg is None for k in site.call.keywords):
            return UNKNOWN
        return self.constants.value(site.callee.defaults.get(name), self.scopes[0])


def _instances(index: Index) -> dict[str, str]:
    """Names that are assigned a new object of one of the script's classes, with that class."""
    instances: dict[str, str] = {}
    for node in index.binders:
        built = isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and dotted(node.value.func)
        if isinstance(node, ast.Assign) and built in index.classes:
            instances |= {target.id: str(built) for target in node.targets if isinstance(target, ast.Name)}
    return instances


def _elements(table: ast.AST) -> list[ast.expr]:
    """Values of a literal table."""
    if isinstance(table, ast.Dict):
        return table.values
    return table.elts if isinstance(table, (ast.List, ast.Tuple)) else []


def _aliases(index: Index) -> dict[str, list[ast.expr]]:
    """Names that are assigned a possible function: another name, a lambda, a table, one of two, a partial function."""
    aliases: dict[str, list[ast.expr]] = {}
    kinds = (ast.Name, ast.Lambda, ast.Dict, ast.List, ast.Tuple, ast.IfExp, ast.Subscript, ast.Call)
    for node in index.binders:
        if isinstance(node, ast.Assign) and isinstance(node.value, kinds):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    aliases.setdefault(target.id, []).append(node.value)
    return aliases
