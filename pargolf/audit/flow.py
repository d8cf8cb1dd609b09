"""What a script would do, from its syntax tree alone: constants, reachability, and where validation tokens flow.

Three questions, each answered for given environment variables and without running a line:

1. Which value does an expression have? `int(os.environ.get("TTT_ENABLED", "0"))` is 0, `args.ttt_enabled` then too.
   A name has a value when every live assignment agrees on it, a parameter when every live call does.
2. Which statements can run? From the module's top level, along calls and references, past `if` tests whose value is
   known. What follows an unconditional `return` or `raise` is dead.
3. Which expressions hold validation tokens, and by which road? Labels flow through assignments, calls and returns.
   A function's result is described in terms of its parameters, so that one loader used for both splits does not mix
   them. `VAL` and `TRAIN` come from the files a script names, `HASH` from mixing arithmetic on tokens, and `COUNT#n`
   from reading a table of counts at such a key.
"""

import ast
import builtins
import operator
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Labels = frozenset[str]
NONE: Labels = frozenset()
UNKNOWN: Any = type("Unknown", (), {"__repr__": lambda self: "unknown"})()
_MOST_DEPTH = 24
_GRAMMAR = (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)
_BINDERS = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For, ast.AsyncFor, ast.NamedExpr, ast.Global, ast.Nonlocal)
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
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
}
_BUILTINS = frozenset(dir(builtins)) | {"print", "log0", "log", "tqdm", "cdiv"}
_PLAIN_METHODS = frozenset(
    [
        "append",
        "extend",
        "add_",
        "copy_",
        "put",
        "update",
        "to",
        "get",
        "pop",
        "index",
        "insert",
        "step",
        "zero_grad",
        "view",
        "reshape",
        "item",
        "write",
        "format",
        "join",
        "fill_",
        "load_state_dict",
        "setdefault",
        "remove",
        "count",
        "all_reduce",
        "broadcast",
        "add",
        "discard",
        "submit",
    ]
)
# What arrays and tensors have too: an object of the script that sets one says nothing about them.
_ARRAYS_OWN = frozenset(
    {"size", "shape", "ndim", "T", "data", "grad", "dtype", "device", "nbytes", "itemsize", "training"}
)
_TEXT = {"lower", "upper", "strip", "split", "startswith", "endswith", "replace"}


@dataclass(eq=False)
class Function:
    """A function, method, lambda, or the module's top level (`node` is the module, `parent` None)."""

    node: Any
    name: str
    owner: str | None
    parent: "Function | None"
    params: list[str] = field(default_factory=list)
    defaults: dict[str, ast.expr] = field(default_factory=dict)
    calls: list["Site"] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    assigned: dict[str, list[ast.expr | None]] = field(default_factory=dict)
    labels: dict[str, Labels] = field(default_factory=dict)
    returns: Labels = NONE
    parts: list[Labels] = field(default_factory=list)
    live: bool = False
    passing: bool = False

    def __hash__(self) -> int:
        return id(self)


@dataclass(frozen=True, eq=False)
class Site:
    """A live call: who calls, the call, and the function called."""

    caller: Function
    call: ast.Call
    callee: Function


class Program:
    """A script under one environment.

    Args:
        tree: the module's syntax tree.
        env: environment variables that are set; everything else takes the script's own default.
        any_word: whether a variable that holds a word, such as a mode, may hold any.
        also: functions that are known to have run although nothing calls them.
    """

    def __init__(
        self, tree: ast.Module, env: dict[str, str], *, any_word: bool = False, also: frozenset[str] = frozenset()
    ) -> None:
        self.tree = tree
        self.also = also
        self.env = env
        self.any_word = any_word
        self.parents: dict[ast.AST, ast.AST] = {}
        self.children: dict[ast.AST, list[ast.AST]] = {}
        self.functions: list[Function] = []
        self.by_name: dict[str, list[Function]] = defaultdict(list)
        self.classes: dict[str, ast.ClassDef] = {}
        self.of_node: dict[ast.AST, Function] = {}
        self.attribute_sources: dict[str, list[tuple[Function, ast.expr | None]]] = defaultdict(list)
        self.attribute_labels: dict[str, Labels] = {}
        self.tables: set[str] = set()
        self.imports: set[str] = set()
        self.concrete: dict[tuple[Function, str], Labels] = {}
        self.near: dict[tuple[int, int], Labels] = {}
        self._evaluating: set[tuple[int, int]] = set()
        self._values: dict[tuple[int, int], Any] = {}
        self._seen_labels: dict[int, Labels] = {}
        self._cycles = 0
        self._bound_later: list[ast.AST] = []
        self._shared: set[str] = set()
        self.module = Function(tree, "<module>", None, None)
        self.order: list[ast.AST] = []
        self.span: dict[ast.AST, tuple[int, int]] = {}
        self.binds: dict[ast.AST, dict[str, list[tuple[ast.expr, ast.AST]]]] = {}
        self._index(tree, self.module, None)
        for node in self.order:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self.imports |= {a.asname or a.name.split(".")[0] for a in node.names}
        self._find_attributes()
        for function in (self.module, *self.functions):
            self._gather(function)
        for _ in range(2):
            self._reach()
            self._bind_parameters()
        self._reach()
        self._find_tables()
        self._pass_tables_up()
        self._follow_rows()
        self._follow_rows()
        self._spread_labels()

    # ---- index

    def _index(self, node: ast.AST, inside: Function, owner: str | None) -> None:
        start = len(self.order)
        self.order.append(node)
        below = self.children[node] = _children(node)
        for child in below:
            self.parents[child] = node
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                made = self._function(child, inside, owner)
                self._index(child, made, None)
            elif isinstance(child, ast.ClassDef):
                self.classes[child.name] = child
                self.of_node[child] = inside
                self._index(child, inside, child.name)
            else:
                self.of_node[child] = inside
                self._index(child, inside, owner if isinstance(node, ast.ClassDef) else None)
        self.span[node] = (start, len(self.order))

    def below(self, node: ast.AST) -> list[ast.AST]:
        """A node and everything under it, in the order of the text."""
        span = self.span.get(node)
        return self.order[span[0] : span[1]] if span is not None else [*ast.walk(node)]

    def _function(self, node: FunctionNode, inside: Function, owner: str | None) -> Function:
        name = getattr(node, "name", "<lambda>")
        arguments = node.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        made = Function(node, name, owner, inside, names)
        plain = [*arguments.posonlyargs, *arguments.args]
        for argument, default in zip(plain[len(plain) - len(arguments.defaults) :], arguments.defaults):
            made.defaults[argument.arg] = default
        for argument, optional in zip(arguments.kwonlyargs, arguments.kw_defaults):
            if optional is not None:
                made.defaults[argument.arg] = optional
        if arguments.vararg:
            names.append(arguments.vararg.arg)
        self.functions.append(made)
        self.by_name[name].append(made)
        self.of_node[node] = inside
        return made

    def function_of(self, node: ast.AST) -> Function:
        """The function whose body holds `node`."""
        return self.of_node.get(node, self.module)

    def own_nodes(self, function: Function) -> Iterator[ast.AST]:
        """Nodes of a function's body, without those of functions inside it."""
        body = function.node.body if isinstance(function.node.body, list) else [function.node.body]
        for statement in body:
            yield from self._own_nodes(statement)

    @cached_property
    def watchers(self) -> set[Function]:
        """Functions that watch layers through forward hooks."""
        hooks = [n for n in self.order if isinstance(n, ast.Attribute) and n.attr.startswith("register_forward")]
        return {self.function_of(n) for n in hooks}

    @cached_property
    def live_text(self) -> str:
        """All strings of live code."""
        return "\n".join(n.value for n in self.live if isinstance(n, ast.Constant) and isinstance(n.value, str))

    def ancestors(self, node: ast.AST) -> Iterator[ast.AST]:
        """Nodes that enclose `node`, nearest first."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def _find_attributes(self) -> None:
        for name, node in self.classes.items():
            for statement in node.body:
                value = getattr(statement, "value", None)
                if isinstance(statement, (ast.Assign, ast.AnnAssign)) and value is not None:
                    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                    for target in targets:
                        if isinstance(target, ast.Name):
                            self.attribute_sources[target.id].append((self.module, value))
                            self.module.assigned.setdefault(f"{name}.{target.id}", []).append(value)
        for node2 in self.parents:
            if isinstance(node2, (ast.Assign, ast.AugAssign)):
                known = node2.value if isinstance(node2, ast.Assign) else None
                for target in node2.targets if isinstance(node2, ast.Assign) else [node2.target]:
                    self._note_attribute(target, known, self.function_of(node2))
            elif isinstance(node2, ast.AnnAssign) and isinstance(node2.target, ast.Attribute) and node2.value:
                self._note_attribute(node2.target, node2.value, self.function_of(node2))
            elif isinstance(node2, (ast.Global, ast.Nonlocal)):
                self._shared |= set(node2.names)
            elif isinstance(node2, ast.Call) and dotted(node2.func) == "setattr" and len(node2.args) == 3:
                name3 = self.value(node2.args[1], self.function_of(node2))
                if isinstance(name3, str):
                    self.attribute_sources[name3].append((self.function_of(node2), node2.args[2]))
            elif (
                isinstance(node2, ast.Call)
                and isinstance(node2.func, ast.Attribute)
                and node2.func.attr == "add_argument"
            ):
                self._add_argument(node2)

    def _note_attribute(self, target: ast.expr, value: ast.expr | None, function: Function) -> None:
        if isinstance(target, ast.Attribute):
            self.attribute_sources[target.attr].append((function, value))
        elif isinstance(target, (ast.Tuple, ast.List)):
            same = isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts)
            for i, element in enumerate(target.elts):
                held = value.elts[i] if same and isinstance(value, (ast.Tuple, ast.List)) else None
                self._note_attribute(element, held, function)

    def _add_argument(self, call: ast.Call) -> None:
        names = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if not names:
            return
        words = {k.arg: k.value for k in call.keywords}
        default = words.get("default")
        action = words.get("action")
        if default is None and isinstance(action, ast.Constant):
            default = ast.Constant(action.value == "store_false")
        if default is not None:
            name = max(names, key=len).lstrip("-").replace("-", "_")
            self.attribute_sources[name].append((self.module, default))

    # ---- constants

    def value(self, node: ast.expr | None, scope: Function, depth: int = 0) -> Any:
        """The constant that an expression has under this environment, or UNKNOWN."""
        if node is None or depth > _MOST_DEPTH:
            return UNKNOWN
        if isinstance(node, ast.Constant):
            return node.value
        key = (id(node), id(scope))
        if key in self._values and not scope.passing:
            return self._values[key]
        if key in self._evaluating:
            self._cycles += 1
            return UNKNOWN
        self._evaluating.add(key)
        cycles = self._cycles
        try:
            found = self._value(node, scope, depth + 1)
            if (isinstance(found, (str, bytes, tuple)) and len(found) > 10_000) or (
                isinstance(found, int) and found.bit_length() > 256
            ):
                found = UNKNOWN
        except Exception:  # evaluating somebody's arithmetic may fail in any way; then it has no known value
            found = UNKNOWN
        finally:
            self._evaluating.discard(key)
        # A helper's scope lives for one call: its identity may be another's by the next.
        if not scope.passing and (self._cycles == cycles or not self._evaluating):
            self._values[key] = found
        return found

    def _value(self, node: ast.expr, scope: Function, depth: int) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._name(node.id, scope, depth)
        if isinstance(node, ast.Attribute):
            return self._attribute(node.attr, depth)
        if isinstance(node, ast.List) and not node.elts:
            return UNKNOWN  # an empty list is there to be filled
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            held = [self.value(e, scope, depth) for e in node.elts]
            return UNKNOWN if any(h is UNKNOWN for h in held) else tuple(held)
        if isinstance(node, ast.BoolOp):
            return self._boolean(node, scope, depth)
        if isinstance(node, ast.UnaryOp):
            held = self.value(node.operand, scope, depth)
            if held is UNKNOWN:
                return UNKNOWN
            return not held if isinstance(node.op, ast.Not) else -held if isinstance(node.op, ast.USub) else held
        if isinstance(node, ast.IfExp):
            test = self.value(node.test, scope, depth)
            if test is UNKNOWN:
                both = [self.value(e, scope, depth) for e in (node.body, node.orelse)]
                return both[0] if both[0] is not UNKNOWN and both[0] == both[1] else UNKNOWN
            return self.value(node.body if test else node.orelse, scope, depth)
        if isinstance(node, ast.BinOp):
            left, right = self.value(node.left, scope, depth), self.value(node.right, scope, depth)
            known = left is not UNKNOWN and right is not UNKNOWN and type(node.op) in _BINARY
            return _BINARY[type(node.op)](left, right) if known else UNKNOWN
        if isinstance(node, ast.Compare):
            return self._compare(node, scope, depth)
        if isinstance(node, ast.Subscript) and dotted(node.value) == "os.environ":
            name = self.value(node.slice, scope, depth)
            return self.env.get(name, UNKNOWN)
        if isinstance(node, ast.Call):
            return self._call(node, scope, depth)
        if isinstance(node, ast.NamedExpr):
            return self.value(node.value, scope, depth)
        return UNKNOWN

    def _boolean(self, node: ast.BoolOp, scope: Function, depth: int) -> Any:
        is_and = isinstance(node.op, ast.And)
        held = [self.value(e, scope, depth) for e in node.values]
        for value in held:
            if value is not UNKNOWN and bool(value) != is_and:
                return value
        return UNKNOWN if any(h is UNKNOWN for h in held) else held[-1]

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
            if not _COMPARE[type(op)](left, right):
                return False
            left = right
        return True

    def _name(self, name: str, scope: Function, depth: int) -> Any:
        at: Function | None = scope
        while at is not None:
            if name in at.values:
                return at.values[name]
            if name in at.assigned:
                if name in self._shared:
                    return UNKNOWN
                return self._agree([(at, e) for e in at.assigned[name]], depth)
            if name in at.params:
                return UNKNOWN
            at = at.parent
        return UNKNOWN

    def _attribute(self, name: str, depth: int) -> Any:
        if name in _ARRAYS_OWN:
            return UNKNOWN
        return self._agree(list(self.attribute_sources.get(name, ())), depth)

    def _agree(self, sources: list[tuple[Function, ast.expr | None]] | list[Any], depth: int) -> Any:
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
        arguments = [self.value(a, scope, depth) for a in node.args]
        if name in ("os.environ.get", "os.getenv", "environ.get", "getenv"):
            default = arguments[1] if len(arguments) > 1 else None
            if self.any_word and arguments and arguments[0] not in self.env and _is_word(default):
                return UNKNOWN
            return self.env.get(arguments[0], default) if arguments and arguments[0] is not UNKNOWN else UNKNOWN
        if name == "getattr" and len(node.args) >= 2 and isinstance(arguments[1], str):
            if arguments[1] in self.attribute_sources:
                return self._attribute(arguments[1], depth)
            return arguments[2] if len(arguments) > 2 else UNKNOWN
        if name.endswith("cuda.is_available"):
            return True
        if name in _PURE and not node.keywords and name not in self.by_name:
            if any(a is UNKNOWN for a in arguments):
                return UNKNOWN
            return _PURE[name](*arguments)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _TEXT:
            text = self.value(node.func.value, scope, depth)
            if isinstance(text, str) and not any(a is UNKNOWN for a in arguments):
                made = getattr(text, node.func.attr)(*arguments)
                return tuple(made) if isinstance(made, list) else made
            return UNKNOWN
        found = self.by_name.get(name, [])
        if len(found) == 1 and found[0].owner is None and depth < 12:
            return self._apply(found[0], node, scope, depth)
        return UNKNOWN

    def _apply(self, function: Function, call: ast.Call, scope: Function, depth: int) -> Any:
        """The result of a small helper such as `env_bool("NAME", True)`: assignments, ifs and returns only."""
        body = function.node.body if isinstance(function.node.body, list) else [ast.Return(function.node.body)]
        if len(body) > 8 or len(function.params) > 4:
            return UNKNOWN
        bound = Function(function.node, function.name, None, self.module, function.params, passing=True)
        for name in function.params:
            expression = _argument(call, function, name)
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

    # ---- reachability

    def _reach(self) -> None:
        """Mark what can run and note live assignments and calls, starting at the module's top level."""
        self.live: dict[ast.AST, None] = {}
        for function in (self.module, *self.functions):
            function.live = False
            function.calls = []
        self._values.clear()
        self._names: set[str] = set(self.also)
        self._enter(self.module)
        for function in self.functions:
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
            self._mark(body)

    def _gather(self, function: Function) -> None:
        """Assignments anywhere in the function, so that tests inside it can be evaluated while walking it."""
        body = function.node.body if isinstance(function.node.body, list) else []
        for statement in body:
            for node in self._own_nodes(statement):
                self._note_assignment(node, function)
                if isinstance(node, (ast.comprehension, ast.withitem)):
                    self._bound_later.append(node)

    def _own_nodes(self, statement: ast.AST) -> Iterator[ast.AST]:
        """Nodes of a statement, without the bodies of functions and classes inside it."""
        stack = [statement]
        while stack:
            node = stack.pop()
            yield node
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
                stack.extend(self.children[node])

    def _note_assignment(self, node: ast.AST, function: Function) -> None:
        def note(target: ast.expr, value: ast.expr | None) -> None:
            if isinstance(target, ast.Name):
                function.assigned.setdefault(target.id, []).append(value)
            elif isinstance(target, (ast.Tuple, ast.List)):
                same = isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts)
                for i, element in enumerate(target.elts):
                    note(element, value.elts[i] if same and isinstance(value, (ast.Tuple, ast.List)) else None)
            elif isinstance(target, ast.Starred):
                note(target.value, None)

        if isinstance(node, ast.Assign):
            for target in node.targets:
                note(target, node.value)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            note(node.target, node.value)
        elif isinstance(node, (ast.AugAssign, ast.For, ast.AsyncFor, ast.comprehension)):
            note(node.target, None)
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            note(node.optional_vars, None)
        elif isinstance(node, ast.NamedExpr):
            note(node.target, node.value)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            for name in node.names:
                function.assigned.pop(name, None)

    def _block(self, body: list[ast.stmt], function: Function) -> bool:
        """Walk live statements; True when the block never falls through."""
        return any(self._statement(statement, function) for statement in body)

    def _statement(self, statement: ast.stmt, function: Function) -> bool:
        self.live[statement] = None
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for expression in (*statement.decorator_list, *statement.args.defaults):
                self._mark(expression)
            return False
        if isinstance(statement, ast.ClassDef):
            for expression in statement.bases:
                self._mark(expression)
            self._block(statement.body, function)
            return False
        if isinstance(statement, ast.If):
            return self._if(statement, function)
        if isinstance(statement, (ast.For, ast.AsyncFor)):
            self._mark(statement.iter)
            if self._empty(statement.iter, function):
                return False
            self._block(statement.body, function)
            self._block(statement.orelse, function)
            return False
        if isinstance(statement, ast.While):
            self._mark(statement.test)
            test = self.value(statement.test, function)
            if test is not UNKNOWN and not test:
                return False
            self._block(statement.body, function)
            self._block(statement.orelse, function)
            return False
        if isinstance(statement, (ast.With, ast.AsyncWith)):
            for item in statement.items:
                self._mark(item.context_expr)
            return self._block(statement.body, function)
        if isinstance(statement, (ast.Try, ast.TryStar)):
            ended = self._block(statement.body, function)
            for handler in statement.handlers:
                self.live[handler] = None
                self._block(handler.body, function)
            self._block(statement.orelse, function)
            return self._block(statement.finalbody, function) or (ended and not statement.handlers)
        self._mark(statement)
        return isinstance(statement, (ast.Return, ast.Raise, ast.Continue, ast.Break))

    def _if(self, statement: ast.If, function: Function) -> bool:
        self._mark(statement.test)
        test = self.value(statement.test, function)
        if test is UNKNOWN:
            ended = self._block(statement.body, function)
            return self._block(statement.orelse, function) and ended and bool(statement.orelse)
        return self._block(statement.body if test else statement.orelse, function)

    def _empty(self, iterable: ast.expr, function: Function) -> bool:
        """Whether a loop over `range(0)` never runs."""
        if isinstance(iterable, ast.Call) and dotted(iterable.func) == "range" and len(iterable.args) == 1:
            count = self.value(iterable.args[0], function)
            return isinstance(count, (int, float)) and count <= 0
        return False

    def _mark(self, node: ast.AST) -> None:
        """Everything in a live expression or simple statement is live, but the arms of a decided `x if t else y`."""
        stack = [node]
        while stack:
            at = stack.pop()
            self.live[at] = None
            if isinstance(at, ast.Lambda):
                stack.append(at.body)
                continue
            if isinstance(at, ast.Name):
                self._names.add(at.id)
                if at.id in self.classes:
                    self._want_class(at.id)
            elif isinstance(at, ast.Attribute):
                self._names.add(at.attr)
            elif isinstance(at, ast.IfExp):
                test = self.value(at.test, self.function_of(at))
                if test is not UNKNOWN:
                    stack += [at.test, at.body if test else at.orelse]
                    continue
            elif isinstance(at, ast.BoolOp) and isinstance(at.op, ast.And):
                scope = self.function_of(at)
                for i, value in enumerate(at.values):
                    stack.append(value)
                    known = self.value(value, scope)
                    if known is not UNKNOWN and not known and i + 1 < len(at.values):
                        break
                continue
            stack.extend(self.children[at])

    def _want_class(self, name: str) -> None:
        for statement in self.classes[name].body:
            if isinstance(statement, ast.FunctionDef) and (
                statement.name.startswith("__") or statement.name in ("forward", "step", "backward", "setup_context")
            ):
                self._names.add(statement.name)

    def _find_calls(self) -> None:
        self._values.clear()
        for function in (self.module, *self.functions):
            if function.live:
                function.assigned = {k: v for k, v in function.assigned.items() if "." in k}
        for node in self.live:
            if isinstance(node, ast.Call):
                caller = self.function_of(node)
                for callee in self.callees(node):
                    callee.calls.append(Site(caller, node, callee))
            elif isinstance(node, _BINDERS):
                self._note_assignment(node, self.function_of(node))
        for node in self._bound_later:
            self._note_assignment(node, self.function_of(node))

    def callees(self, call: ast.Call) -> list[Function]:
        """User functions that a call may mean: by name, as a method, or through a wrapper such as torch.compile."""
        function = call.func
        if isinstance(function, ast.Name):
            if function.id in self.classes:
                return [f for f in self.by_name["__init__"] if f.owner == function.id]
            return [f for f in self.by_name.get(function.id, ()) if f.owner is None]
        if isinstance(function, ast.Attribute):
            methods = [f for f in self.by_name.get(function.attr, ()) if f.owner is not None]
            return methods if len(methods) <= 6 and function.attr not in ("forward", "step", "backward") else []
        return []

    def _bind_parameters(self) -> None:
        """Give each parameter its value when every live call agrees on one."""
        bound: dict[Function, dict[str, Any]] = {}
        for function in self.functions:
            sites = function.calls
            used_bare = not sites
            values: dict[str, Any] = {}
            for name in function.params:
                if used_bare or name == "self":
                    continue
                seen = [self._passed(site, name) for site in sites]
                same = seen[0] is not UNKNOWN and all(type(v) is type(seen[0]) and v == seen[0] for v in seen)
                if same:
                    values[name] = seen[0]
            bound[function] = values
        for function, values in bound.items():
            function.values = {k: v for k, v in values.items() if k not in function.assigned}

    def _passed(self, site: Site, name: str) -> Any:
        expression = _argument(site.call, site.callee, name)
        if expression is not None:
            return self.value(expression, site.caller)
        if any(isinstance(a, ast.Starred) for a in site.call.args) or any(k.arg is None for k in site.call.keywords):
            return UNKNOWN
        return self.value(site.callee.defaults.get(name), self.module)

    # ---- labels

    def _is_model(self, call: ast.Call, name: str, function: Function) -> bool:
        """Whether a call computes a loss or logits: one of the library's, or a value called like a function."""
        last = name.rsplit(".", 1)[-1]
        if last in ("cross_entropy", "nll_loss", "log_softmax", "linear_cross_entropy", "logsumexp"):
            return True
        if not call.args or name.split(".")[0] in self.imports or last in _PLAIN_METHODS:
            return False
        if isinstance(call.func, ast.Name):
            return name not in _BUILTINS and name not in self.by_name and name not in self.classes
        if not isinstance(call.func, ast.Attribute) or self.labels(call.func.value, function):
            return False
        return any(self.labels(a, function) for a in (*call.args, *(k.value for k in call.keywords)))

    def _find_tables(self) -> None:
        """Names and attributes that are counted into: `np.add.at(t, k, 1)`, `t[k] += 1`, `t.scatter_add_(...)`."""
        for node in self.live:
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Subscript):
                if isinstance(node.op, ast.Add):
                    self.tables |= _roots(node.target)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = dotted(node.func)
                if name.endswith("add.at") and node.args:
                    self.tables |= _roots(node.args[0])
                elif node.func.attr in ("scatter_add_", "index_add_", "index_put_", "scatter_reduce_"):
                    self.tables |= _roots(node.func.value)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
                target = node.targets[0]
                if isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.Add):
                    inner = {
                        r for e in self.below(node.value) if isinstance(e, (ast.Name, ast.Attribute)) for r in _roots(e)
                    }
                    self.tables |= _roots(target) & inner
            elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add) and self._counts(node.value, node):
                self.tables |= _roots(node.target)

    def _counts(self, value: ast.expr, at: ast.AST) -> bool:
        """Whether an expression comes from `bincount`, directly or by a local name."""
        function = self.function_of(at)
        for node in self.below(value):
            if isinstance(node, ast.Call) and dotted(node.func).endswith("bincount"):
                return True
            if isinstance(node, ast.Name):
                for source in function.assigned.get(node.id, ()):
                    if isinstance(source, ast.Call) and dotted(source.func).endswith("bincount"):
                        return True
        return False

    def _follow_rows(self) -> None:
        """`d = counts[key]; d[token] = ... + 1` counts into `counts`."""
        for function in (self.module, *self.functions):
            for name in [n for n in function.assigned if n in self.tables]:
                for source in function.assigned[name]:
                    if isinstance(source, (ast.Subscript, ast.Attribute)):
                        self.tables |= _roots(source)
                    elif (
                        isinstance(source, ast.Call)
                        and isinstance(source.func, ast.Attribute)
                        and source.func.attr in ("get", "setdefault")
                    ):
                        self.tables |= _roots(source.func.value)

    def _pass_tables_up(self) -> None:
        """A helper that counts into its parameter counts into what its callers pass."""
        for _ in range(3):
            for function in self.functions:
                for name in function.params:
                    if function.live and name in self.tables and self._adds_to(function, name):
                        for site in function.calls:
                            expression = _argument(site.call, function, name)
                            if expression is not None:
                                self.tables |= _roots(expression)

    def _adds_to(self, function: Function, name: str) -> bool:
        for node in self.own_nodes(function):
            if isinstance(node, ast.AugAssign) and name in _roots(node.target):
                return True
            if (
                isinstance(node, ast.Call)
                and node.args
                and dotted(node.func).endswith(("add.at", "scatter_add_"))
                and name in _roots(node.args[0]) | _roots(node.func)
            ):
                return True
        return False

    def _spread_labels(self) -> None:
        live = [f for f in (self.module, *self.functions) if f.live]
        statements: dict[Function, list[ast.AST]] = defaultdict(list)
        for node in self.live:
            if isinstance(
                node,
                (
                    ast.Assign,
                    ast.AnnAssign,
                    ast.AugAssign,
                    ast.For,
                    ast.Return,
                    ast.withitem,
                    ast.NamedExpr,
                    ast.Call,
                    ast.comprehension,
                    ast.Yield,
                ),
            ):
                statements[self.function_of(node)].append(node)
        for _ in range(12):
            before = self._state(live)
            for function in live:
                self._seen_labels.clear()
                for node in statements[function]:
                    self._flow(node, function)
                if isinstance(function.node, ast.Lambda):
                    function.returns = self.labels(function.node.body, function)
            if self._state(live) == before:
                break
        for _ in range(12):
            self._seen_labels.clear()
            before2 = dict(self.concrete)
            for function in live:
                for site in function.calls:
                    for name in function.params:
                        expression = _argument(site.call, function, name)
                        if expression is not None:
                            passed = self.known(self.labels(expression, site.caller), site.caller)
                            key = (function, name)
                            self.concrete[key] = self.concrete.get(key, NONE) | passed
            for attribute, sources in self.attribute_sources.items():
                for scope, expression in sources:
                    if expression is not None and (expression in self.live or scope is self.module):
                        self.attribute_labels[attribute] = self.attribute_labels.get(attribute, NONE) | self.known(
                            self.labels(expression, scope), scope
                        )
            for function in live:
                self._seen_labels.clear()
                for node in statements[function]:
                    self._flow(node, function)
            self._seen_labels.clear()
            if self.concrete == before2:
                break

    def _state(self, live: list[Function]) -> int:
        return sum(len(v) for f in live for v in f.labels.values()) + sum(len(f.returns) for f in live)

    def _flow(self, node: ast.AST, function: Function) -> None:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._give(target, node.value, function)
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
            self._give(node.target, node.value, function)
        elif isinstance(node, ast.AugAssign):
            self._add(node.target, self.labels(node.value, function), function)
        elif isinstance(node, (ast.For, ast.comprehension)):
            self._add(node.target, self.labels(node.iter, function), function)
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            self._add(node.optional_vars, self.labels(node.context_expr, function), function)
        elif isinstance(node, (ast.Return, ast.Yield)) and node.value is not None:
            function.returns |= self.labels(node.value, function)
            if isinstance(node.value, ast.Tuple):
                held = [self.labels(e, function) for e in node.value.elts]
                if len(function.parts) not in (0, len(held)):
                    held = []
                old = function.parts or [NONE] * len(held)
                function.parts = [a | b for a, b in zip(old, held)]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("append", "extend", "add_", "copy_", "put", "update")
            and node.args
            and not self.callees(node)
        ):
            labels = frozenset().union(*(self.labels(a, function) for a in node.args))
            self._add(node.func.value, labels, function)

    def _give(self, target: ast.expr, value: ast.expr, function: Function) -> None:
        if (
            isinstance(target, (ast.Tuple, ast.List))
            and isinstance(value, (ast.Tuple, ast.List))
            and len(target.elts) == len(value.elts)
        ):
            for a, b in zip(target.elts, value.elts):
                self._give(a, b, function)
            return
        if isinstance(target, (ast.Tuple, ast.List)) and isinstance(value, ast.Call):
            callees = self.callees(value)
            if callees and all(len(c.parts) == len(target.elts) for c in callees):
                for i, element in enumerate(target.elts):
                    held = [self._passed_labels(value, c, c.parts[i], function) for c in callees]
                    self._add(element, frozenset().union(*held), function)
                return
        self._add(target, self.labels(value, function), function)

    def _passed_labels(self, call: ast.Call, callee: Function, labels: Labels, function: Function) -> Labels:
        """What a function gives back, with its parameters replaced by the arguments of this call."""
        out: Labels = NONE
        for label in labels:
            if not label.startswith("p:"):
                out |= {label}
                continue
            expression = _argument(call, callee, label[2:])
            if expression is not None:
                out |= self.labels(expression, function)
        return out

    def _add(self, target: ast.expr, labels: Labels, function: Function) -> None:
        if not labels:
            return
        if isinstance(target, ast.Name):
            function.labels[target.id] = function.labels.get(target.id, NONE) | labels
        elif isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self._add(element, labels, function)
        elif isinstance(target, (ast.Subscript, ast.Starred)):
            self._add(target.value, labels, function)
        elif isinstance(target, ast.Attribute):
            known = frozenset(x for x in labels if not x.startswith("p:"))
            if known:
                self.attribute_labels[target.attr] = self.attribute_labels.get(target.attr, NONE) | known

    def known(self, labels: Labels, function: Function) -> Labels:
        """Labels with parameters replaced by what the live calls pass for them."""
        out = {x for x in labels if not x.startswith("p:")}
        at: Function | None = function
        while at is not None:
            for label in labels:
                if label.startswith("p:"):
                    out |= self.concrete.get((at, label[2:]), NONE)
            at = at.parent
        return frozenset(out)

    def of(self, node: ast.expr, function: Function | None = None) -> Labels:
        """What an expression holds, parameters resolved."""
        function = function or self.function_of(node)
        return self.known(self.labels(node, function), function)

    def own_labels(self, node: ast.AST) -> Labels:
        """What an attribute or a constant holds of itself, whatever its object is."""
        if isinstance(node, ast.Constant):
            return _named_split(node.value)
        if isinstance(node, ast.Attribute):
            return self.attribute_labels.get(node.attr, NONE) | _split_by_name(node.attr)
        return NONE

    def labels(self, node: ast.AST, function: Function) -> Labels:
        """What an expression holds, in terms of the function's parameters (`p:name`)."""
        if isinstance(node, ast.Constant):
            return _named_split(node.value)
        found = self._seen_labels.get(id(node))
        if found is None:
            found = self._seen_labels[id(node)] = self._labels(node, function)
        return found

    def _labels(self, node: ast.AST, function: Function) -> Labels:
        if isinstance(node, ast.Name):
            return self._name_labels(node.id, function)
        if isinstance(node, ast.Attribute):
            own = self.attribute_labels.get(node.attr, NONE) | _split_by_name(node.attr)
            inner = self.labels(node.value, function)
            return own | (inner if node.attr not in ("shape", "device", "dtype", "ndim") else NONE)
        if isinstance(node, ast.Call):
            return self._call_labels(node, function)
        if isinstance(node, ast.Subscript):
            held = self.labels(node.value, function)
            key = self.labels(node.slice, function)
            row = _counted(held) and isinstance(node.ctx, ast.Load) and "VAL" in key
            if (_roots(node.value) & self.tables or row) and not isinstance(node.slice, ast.Slice):
                return held | (key - {"HASH"}) | _count(node, key, held)
            return held if isinstance(node.slice, ast.Slice) else held | (key & {"VAL", "TRAIN"})
        if isinstance(node, ast.BinOp):
            both = self.labels(node.left, function) | self.labels(node.right, function)
            mixes = isinstance(node.op, (ast.BitXor, ast.Mod)) or (isinstance(node.op, ast.BitAnd) and "VAL" in both)
            params = any(x.startswith("p:") for x in both)
            return both | {"HASH"} if mixes and ("VAL" in both or params) else both
        if isinstance(node, (ast.Lambda, ast.JoinedStr)):
            return NONE
        if isinstance(node, (ast.Compare,)):
            return NONE
        if isinstance(node, ast.IfExp):
            arms = [e for e in (node.body, node.orelse) if e in self.live] or [node.body, node.orelse]
            return frozenset().union(*(self.labels(e, function) for e in arms))
        out: Labels = NONE
        for child in self.children.get(node, ()):
            if isinstance(child, (ast.expr, ast.comprehension, ast.keyword)):
                out |= self.labels(child, function)
        return out

    def _name_labels(self, name: str, function: Function) -> Labels:
        at: Function | None = function
        out: Labels = _split_by_name(name)
        while at is not None:
            if name in at.labels:
                out |= at.labels[name] if at is function else self.known(at.labels[name], at)
            if name in at.params:
                return out | ({f"p:{name}"} if at is function else self.known(frozenset({f"p:{name}"}), at))
            if name in at.assigned:
                return out
            at = at.parent
        return out

    def _call_labels(self, node: ast.Call, function: Function) -> Labels:
        arguments = [*node.args, *(k.value for k in node.keywords)]
        name = dotted(node.func)
        callees = self.callees(node)
        if callees and not (isinstance(node.func, ast.Name) and node.func.id in self.classes):
            out: Labels = NONE
            for callee in callees:
                out |= self._passed_labels(node, callee, callee.returns, function)
            if isinstance(node.func, ast.Attribute) and "VAL" in self.labels(node.func.value, function):
                out |= {"VAL"}
            return out
        held: Labels = NONE
        for argument in arguments:
            held |= self.labels(argument, function)
        if isinstance(node.func, ast.Attribute):
            receiver = self.labels(node.func.value, function)
            if (
                node.func.attr in ("gather", "index_select", "take", "get", "take_along_axis")
                and arguments
                and (_roots(node.func.value) & self.tables or (node.func.attr == "get" and _counted(receiver)))
            ):
                return held | receiver | _count(node, held | {"HASH"}, receiver)
            held |= receiver
        elif name in ("len", "print", "log0", "log", "isinstance", "range") or not name:
            return held & {"VAL"} if name == "range" else NONE if name else held
        if name.rsplit(".", 1)[-1] in ("frombuffer", "decompress", "read_bytes", "fromfile") and "VAL" not in held:
            held |= {"BLOB"}
        if "LOSS" in held and name.rsplit(".", 1)[-1] in ("exp", "exp_", "exp2", "expm1"):
            held |= {"GOLD"}
        if held and self._is_model(node, name, function):
            held |= {"LOSS"}
        if name == "hash" or name.endswith(("tobytes", "crc32", "tuple")):
            held |= {"HASH"} if "VAL" in held or any(x.startswith("p:") for x in held) else NONE
        return held


def _children(node: ast.AST) -> list[ast.AST]:
    """Child nodes that mean something at run time: no operators, no load and store marks."""
    found: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            found += [v for v in value if isinstance(v, ast.AST) and not isinstance(v, _GRAMMAR)]
        elif isinstance(value, ast.AST) and not isinstance(value, _GRAMMAR):
            found.append(value)
    return found


def _count(node: ast.AST, key: Labels, held: Labels) -> Labels:
    if "HASH" in key or any(x.startswith("p:") for x in key) or "VAL" in key:
        return frozenset({f"COUNT#{getattr(node, 'lineno', 0)}.{getattr(node, 'col_offset', 0)}"})
    return NONE


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value.replace("_", "").replace("-", "").isalpha()


def _counted(labels: Labels) -> bool:
    return any(x.startswith("COUNT") for x in labels)


def dotted(node: ast.AST) -> str:
    """A name with its attributes, `os.environ.get`; what is no name is left out."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else node.attr
    return ""


def _roots(node: ast.AST) -> set[str]:
    """The name or attribute that a target or a table expression goes back to."""
    while isinstance(node, (ast.Subscript, ast.Starred, ast.Call)):
        node = (
            node.func.value
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            else getattr(node, "value", ast.Constant(None))
        )
    if isinstance(node, ast.Name):
        return {node.id}
    return {node.attr} if isinstance(node, ast.Attribute) else set()


def _argument(call: ast.Call, function: Function, name: str) -> ast.expr | None:
    """The expression that a call passes for a parameter, if it does."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    if name not in function.params:
        return None
    at = function.params.index(name)
    if function.owner is not None and function.params and function.params[0] in ("self", "cls"):
        at -= 1
    if not 0 <= at < len(call.args):
        return None
    return call.args[at] if not any(isinstance(a, ast.Starred) for a in call.args[: at + 1]) else None


def _named_split(value: object) -> Labels:
    if isinstance(value, str) and len(value) < 200:
        if "fineweb_val" in value or "val_*" in value or "_val_0" in value:
            return frozenset({"VAL"})
        if "fineweb_train" in value or "train_*" in value:
            return frozenset({"TRAIN"})
    return NONE


def _split_by_name(name: str) -> Labels:
    """The two names that every lineage keeps for its tokens, for scripts whose loader cannot be followed."""
    if name in ("val_tokens", "val_files", "val_data", "all_val_tokens", "val_tokens_np"):
        return frozenset({"VAL"})
    return frozenset({"TRAIN"}) if name in ("train_files", "train_loader", "train_tokens") else NONE
