"""Index a script's syntax tree once: which node encloses which, which functions there are, what is assigned where.

Nothing here depends on settings, so one index serves every reading of the script: as it ran, on eight processes, and
with every switch on. Nodes are in one list in the order of the text. Each node knows the range of that list below it; a
function's own nodes are its range without those of the functions inside it.
"""

import ast
import operator
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Labels = frozenset[str]
NONE: Labels = frozenset()
_SCOPES = frozenset({ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef})
_FUNCTIONS = frozenset({ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda})
_BINDERS = frozenset(
    {ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For, ast.AsyncFor, ast.NamedExpr, ast.Global, ast.Nonlocal}
)
_BINDERS_IN_PARTS = frozenset({ast.comprehension, ast.withitem})
_SORTED = _BINDERS | {ast.Call, ast.Subscript, ast.Import, ast.ImportFrom, ast.ClassDef}
# Fields without nodes of their own: operators, load and store marks, plain strings.
_PLAIN_FIELDS = frozenset({"ctx", "op", "ops", "id", "attr", "arg", "kind", "type_comment", "level", "conversion"})
ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_Node = TypeVar("_Node", bound=ast.AST)


class _ChildFields(dict[type[ast.AST], tuple[str, ...]]):
    """For each kind of node, its fields with nodes that have a meaning at run time."""

    def __missing__(self, kind: type[ast.AST]) -> tuple[str, ...]:
        names = self[kind] = tuple(name for name in kind._fields if name not in _PLAIN_FIELDS)
        return names


_CHILD_FIELDS = _ChildFields()


@dataclass(eq=False)
class Function:
    """A function, method, lambda, or the module's top level (`node` is the module, `parent` None).

    The index fills the first seven fields. The others are what one program finds out about it under its settings.
    """

    node: Any
    name: str
    owner: str | None
    parent: "Function | None"
    params: list[str] = field(default_factory=list)
    defaults: dict[str, ast.expr] = field(default_factory=dict)
    assigned: dict[str, list[ast.expr | None]] = field(default_factory=dict)
    calls: list["Site"] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Labels] = field(default_factory=dict)
    returns: Labels = NONE
    parts: list[Labels] = field(default_factory=list)
    live: bool = False
    passing: bool = False


@dataclass(frozen=True, eq=False)
class Site:
    """A live call: the caller, the call, and the called function."""

    caller: Function
    call: ast.Call
    callee: Function


class Index:
    """The content of a syntax tree, independent of settings."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.order: list[ast.AST] = []
        self.parents: dict[ast.AST, ast.AST] = {}
        self.children: dict[ast.AST, list[ast.AST]] = {}
        self.span: dict[ast.AST, tuple[int, int]] = {}
        self.place: dict[ast.AST, int] = {}
        self.definitions: list[Function] = [Function(tree, "<module>", None, None)]
        self.classes: dict[str, ast.ClassDef] = {}
        self.attributes: dict[str, list[tuple[int, ast.expr | None]]] = defaultdict(list)
        self.imports: set[str] = set()
        self.shared: set[str] = set()
        self.filled: set[str] = set()
        self.defaults: dict[str, str] = {}
        self.settings: dict[str, str] = {}
        self.calls: list[ast.Call] = []
        self.binders: list[ast.AST] = []
        self.bound_later: list[ast.AST] = []
        self._branching: set[ast.AST] = set()
        self._own: dict[ast.AST, list[ast.AST]] = {}
        self._own_kinds: dict[ast.AST, dict[type, list[Any]]] = {}
        self._fitting: dict[Callable[[ast.AST], bool], list[int]] = {}
        self._mentioned: dict[ast.AST, tuple[frozenset[str], frozenset[str]]] = {}
        self._walk(tree, 0, None)
        for node in self.order:
            if type(node) in _SORTED:
                self._sort(node)
        for definition in self.definitions:
            for node in self.own_nodes(definition.node):
                kind = type(node)
                if kind in _BINDERS:
                    note_assignment(node, definition.assigned)
                elif kind in _BINDERS_IN_PARTS:
                    note_assignment(node, definition.assigned)
                    self.bound_later.append(node)

    def _walk(self, node: ast.AST, inside: int, owner: str | None) -> None:
        start = len(self.order)
        self.order.append(node)
        below = self.children[node] = children_of(node)
        is_class = type(node) is ast.ClassDef
        for child in below:
            self.parents[child] = node
            self.place[child] = inside
            kind = type(child)
            if kind in _FUNCTIONS:
                self._walk(child, self._define(child, inside, owner), None)
            elif kind is ast.ClassDef:
                assert isinstance(child, ast.ClassDef)
                self.classes[child.name] = child
                self._walk(child, inside, child.name)
            else:
                self._walk(child, inside, owner if is_class else None)
            if child in self._branching:
                self._branching.add(node)
        if type(node) in (ast.IfExp, ast.Lambda) or (type(node) is ast.BoolOp and type(node.op) is ast.And):
            self._branching.add(node)
        self.span[node] = (start, len(self.order))

    def _define(self, node: Any, inside: int, owner: str | None) -> int:
        arguments: ast.arguments = node.args
        plain = [*arguments.posonlyargs, *arguments.args]
        names = [a.arg for a in (*plain, *arguments.kwonlyargs)]
        definition = Function(node, getattr(node, "name", "<lambda>"), owner, self.definitions[inside], names)
        for argument, default in zip(plain[len(plain) - len(arguments.defaults) :], arguments.defaults):
            definition.defaults[argument.arg] = default
        for argument, optional in zip(arguments.kwonlyargs, arguments.kw_defaults):
            if optional is not None:
                definition.defaults[argument.arg] = optional
        if arguments.vararg:
            names.append(arguments.vararg.arg)
        self.definitions.append(definition)
        return len(self.definitions) - 1

    def _sort(self, node: ast.AST) -> None:
        """Put a node into the list of its kind, and note what it shows about attributes."""
        kind = type(node)
        if kind in _BINDERS:
            self.binders.append(node)
        if isinstance(node, ast.Call):
            self.calls.append(node)
            self._note_call(node)
        elif isinstance(node, ast.Subscript) and type(node.ctx) is ast.Store:
            self._note_element(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self.imports |= {a.asname or a.name.split(".")[0] for a in node.names}
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            self.shared |= set(node.names)
        elif isinstance(node, (ast.Assign, ast.AugAssign)):
            known = node.value if isinstance(node, ast.Assign) else None
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self._note_attribute(target, known, self.place[node])
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute) and node.value:
            self._note_attribute(node.target, node.value, self.place[node])
        elif isinstance(node, ast.ClassDef):
            self._note_class(node)

    def _note_class(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            value = getattr(statement, "value", None)
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and value is not None:
                for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
                    if isinstance(target, ast.Name):
                        self.attributes[target.id].append((0, value))
                        self.definitions[0].assigned.setdefault(f"{node.name}.{target.id}", []).append(value)

    def _note_attribute(self, target: ast.expr, value: ast.expr | None, position: int) -> None:
        if isinstance(target, ast.Attribute):
            self.attributes[target.attr].append((position, value))
        elif isinstance(target, (ast.Tuple, ast.List)):
            for element, source in _pairs_of(target, value):
                self._note_attribute(element, source, position)

    def _note_call(self, call: ast.Call) -> None:
        """`setattr(x, "name", value)` and `parser.add_argument("--name", default=value)` set attributes, too."""
        if isinstance(call.func, ast.Name) and call.func.id == "setattr" and len(call.args) == 3:
            name = call.args[1]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                self.attributes[name.value].append((self.place[call], call.args[2]))
        elif isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            self._note_option(call)
        elif dotted(call.func) == "os.environ.setdefault" and len(call.args) == 2 and not self.place[call]:
            self._set_variable(self.defaults, *call.args)
        elif dotted(call.func) == "os.environ.update" and not self.place[call]:
            tables = [a for a in call.args if isinstance(a, ast.Dict)]
            pairs = [(k, v) for table in tables for k, v in zip(table.keys, table.values) if k is not None]
            for key, value in [*pairs, *((ast.Constant(k.arg), k.value) for k in call.keywords if k.arg)]:
                self._set_variable(self.settings, key, value)

    def _note_element(self, node: ast.Subscript) -> None:
        """`table[key] = value`, and `os.environ["NAME"] = "value"` at the top level."""
        if isinstance(node.value, ast.Name):
            self.filled.add(node.value.id)
        above = self.parents.get(node)
        value = above.value if isinstance(above, ast.Assign) and dotted(node.value) == "os.environ" else None
        if value is not None and not self.place[node]:
            self._set_variable(self.settings, node.slice, value)

    def _set_variable(self, variables: dict[str, str], name: ast.expr, value: ast.expr) -> None:
        """An environment variable that the script sets itself."""
        text = _constant_text(value)
        if isinstance(name, ast.Constant) and text is not None:
            variables.setdefault(str(name.value), text)

    def _note_option(self, call: ast.Call) -> None:
        """`add_argument("--name", default=...)`: the value of the command line, like a variable, or the default."""
        names = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        words = {k.arg: k.value for k in call.keywords}
        default, action = words.get("default"), words.get("action")
        if default is None and isinstance(action, ast.Constant):
            default = ast.Constant(action.value == "store_false")
        if names and default is not None:
            name = max(names, key=len)
            passed: ast.expr = _reads("os.environ.get", ast.Constant(name.replace("_", "-")), default)
            kind = words.get("type")
            if isinstance(kind, ast.Name) and kind.id in ("int", "float"):
                passed = _reads(kind.id, passed)
            self.attributes[name.lstrip("-").replace("-", "_")].append((0, passed))

    # ---- questions

    def below(self, node: ast.AST) -> list[ast.AST]:
        """A node and all nodes below it, in the order of the text."""
        span = self.span.get(node)
        return self.order[span[0] : span[1]] if span is not None else [*walk(node)]

    def own_nodes(self, node: ast.AST) -> list[ast.AST]:
        """Nodes of a function's body in the order of the text, without those of functions and classes inside it."""
        nodes = self._own.get(node)
        if nodes is None:
            nodes = self._own[node] = []
            content: Any = getattr(node, "body", node)
            body = content if isinstance(content, list) else [content]
            for statement in body:
                nodes += self.shallow(statement)
        return nodes

    def own_of(self, node: ast.AST, kind: type[_Node]) -> list[_Node]:
        """The nodes of one kind among a function's own nodes."""
        kinds = self._own_kinds.get(node)
        if kinds is None:
            kinds = self._own_kinds[node] = defaultdict(list)
            for own in self.own_nodes(node):
                kinds[type(own)].append(own)
        return kinds.get(kind, [])

    def shallow(self, node: ast.AST) -> Iterator[ast.AST]:
        """A node and the nodes below it in the order of the text.

        Functions and classes inside are named, not entered.
        """
        position, end = self.span[node]
        order = self.order
        while position < end:
            child = order[position]
            yield child
            position = self.span[child][1] if type(child) in _SCOPES else position + 1

    def branches(self, node: ast.AST) -> bool:
        """Whether an expression may leave a part of itself unevaluated."""
        return node in self._branching

    def holds(self, node: ast.AST, fits: Callable[[ast.AST], bool]) -> bool:
        """Whether a node, or one below it, fits. The whole tree is checked once for each function `fits`."""
        positions = self._fitting.get(fits)
        if positions is None:
            positions = self._fitting[fits] = [i for i, part in enumerate(self.order) if fits(part)]
        start, end = self.span[node]
        first = bisect_left(positions, start)
        return first < len(positions) and positions[first] < end

    def mentioned(self, node: ast.AST) -> tuple[frozenset[str], frozenset[str]]:
        """Names and attributes in a node, and those of them that are classes."""
        mentions = self._mentioned.get(node)
        if mentions is None:
            start, end = self.span[node]
            names = {n.id for n in self.order[start:end] if type(n) is ast.Name}
            attributes = {n.attr for n in self.order[start:end] if type(n) is ast.Attribute}
            mentions = frozenset(names | attributes), frozenset(names & self.classes.keys())
            self._mentioned[node] = mentions
        return mentions


@lru_cache(maxsize=8)
def index_of(tree: ast.Module) -> Index:
    """The index of a tree, made once for all readers. Raises `RecursionError` if it is nested too deeply."""
    return Index(tree)


def _reads(name: str, *arguments: ast.expr) -> ast.Call:
    """A call of a function by its dotted name."""
    return ast.Call(ast.parse(name, mode="eval").body, [*arguments], [])


def note_assignment(node: ast.AST, assigned: dict[str, list[ast.expr | None]]) -> None:
    """Add what a binding node assigns to names: the value, or None if it is unknown."""
    kind = type(node)
    if kind is ast.Assign:
        assert isinstance(node, ast.Assign)
        for target in node.targets:
            _note(target, node.value, assigned)
    elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
        if node.value is not None:
            _note(node.target, node.value, assigned)
    elif isinstance(node, (ast.AugAssign, ast.For, ast.AsyncFor, ast.comprehension)):
        _note(node.target, None, assigned)
    elif isinstance(node, ast.withitem):
        if node.optional_vars is not None:
            _note(node.optional_vars, None, assigned)
    elif isinstance(node, (ast.Global, ast.Nonlocal)):
        for name in node.names:
            assigned.pop(name, None)


def _note(target: ast.expr, value: ast.expr | None, assigned: dict[str, list[ast.expr | None]]) -> None:
    if isinstance(target, ast.Name):
        assigned.setdefault(target.id, []).append(value)
    elif isinstance(target, (ast.Tuple, ast.List)):
        for element, source in _pairs_of(target, value):
            _note(element, source, assigned)
    elif isinstance(target, ast.Starred):
        _note(target.value, None, assigned)


def _pairs_of(target: ast.Tuple | ast.List, value: ast.expr | None) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    """`a, b = x, y` by element; None if the right side is no tuple of the same length."""
    if isinstance(value, ast.BoolOp) and isinstance(value.op, ast.Or) and getattr(value.values[0], "elts", None):
        value = value.values[0]  # a tuple that is not empty is true
    same = isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts)
    for i, element in enumerate(target.elts):
        yield element, value.elts[i] if same and isinstance(value, (ast.Tuple, ast.List)) else None


def children_of(node: ast.AST) -> list[ast.AST]:
    """Child nodes with a meaning at run time: no operators, no load and store marks."""
    children: list[ast.AST] = []
    for name in _CHILD_FIELDS[type(node)]:
        value = getattr(node, name, None)
        if type(value) is list:
            children += [v for v in value if isinstance(v, ast.AST)]
        elif isinstance(value, ast.AST):
            children.append(value)
    return children


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all nodes below it in the order of `ast.walk`, without operators, load and store marks."""
    nodes = [node]
    for part in nodes:  # the list grows
        yield part
        nodes += children_of(part)


def copied(node: _Node) -> _Node:
    """A copy of a tree whose nodes can be changed without changing the original; operators and marks are shared."""
    twin = type(node)()
    twin.__dict__.update(node.__dict__)
    for name in _CHILD_FIELDS[type(node)]:
        value = getattr(node, name, None)
        if type(value) is list:
            setattr(twin, name, [copied(v) if isinstance(v, ast.AST) else v for v in value])
        elif isinstance(value, ast.AST):
            setattr(twin, name, copied(value))
    return twin


def spelled(node: ast.AST) -> str:
    """The name, attribute, keyword or text of a node; empty for any other node."""
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, (str, bytes)) else ""
    name = "id" if isinstance(node, ast.Name) else "attr" if isinstance(node, ast.Attribute) else "arg"
    return getattr(node, name, None) or ""


def dotted(node: ast.AST) -> str:
    """A name with its attributes, `os.environ.get`; other parts are left out."""
    if type(node) is ast.Name:
        return node.id
    if type(node) is ast.Attribute:
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else node.attr
    return ""


def last_name(call: ast.Call) -> str:
    """The last part of what a call calls: `get` of `os.environ.get(...)`."""
    return dotted(call.func).rsplit(".", 1)[-1]


def roots(node: ast.AST) -> set[str]:
    """The names or attributes at the root of a target or a table expression."""
    while isinstance(node, (ast.Subscript, ast.Starred, ast.Call)):
        node = (
            node.func.value
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            else getattr(node, "value", ast.Constant(None))
        )
    if isinstance(node, ast.Name):
        return {node.id}
    return {node.attr} if isinstance(node, ast.Attribute) else set()


def argument_for(call: ast.Call, function: Function, name: str) -> ast.expr | None:
    """The expression that a call passes for a parameter, if any."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    if name not in function.params:
        return None
    index = function.params.index(name)
    if function.owner is not None and function.params and function.params[0] in ("self", "cls"):
        index -= 1
    if dotted(call.func).rsplit(".", 1)[-1] == "partial":
        index += 1
    if index >= 0 and call.args and isinstance(call.args[-1], ast.Starred) and index >= len(call.args) - 1:
        return call.args[-1]  # a last starred argument goes to all that follow
    if not 0 <= index < len(call.args):
        return None
    return call.args[index] if not any(isinstance(a, ast.Starred) for a in call.args[: index + 1]) else None


def _constant_text(node: ast.expr) -> str | None:
    """The text of a constant, of `str(60 * 13)` or of an f-string of such numbers; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Call) and dotted(node.func) in ("str", "repr") and len(node.args) == 1:
        number = _constant_number(node.args[0])
        return None if number is None else str(number)
    if isinstance(node, ast.JoinedStr):
        parts = [
            _constant_number(p.value) if isinstance(p, ast.FormattedValue) else _constant_text(p) for p in node.values
        ]
        return None if None in parts else "".join(map(str, parts))
    return None


def _constant_number(node: ast.expr) -> float | None:
    """The number of an expression that is made of small numbers only; None for any other."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, (int, float)) and abs(node.value) < 1e9 else None
    if not isinstance(node, ast.BinOp) or type(node.op) not in ARITHMETIC:
        return None
    left, right = _constant_number(node.left), _constant_number(node.right)
    if left is None or right is None or (isinstance(node.op, ast.Div) and not right):
        return None
    number: float = ARITHMETIC[type(node.op)](left, right)
    return number
