"""Replace arguments that are the same constant in all calls, and remove arguments that are never read."""

import ast
from collections import defaultdict
from collections.abc import Collection

from pargolf.ship.shrink.constants import Substituted
from pargolf.ship.shrink.purity import KEPT_METHODS, MISSING, is_pure, value_of
from pargolf.ship.shrink.tree import TreeTransformer, walk


class Arguments(TreeTransformer):
    """Replaces arguments that have the same constant value in all calls, by that constant."""

    def __init__(self, tree: ast.Module, outside: Collection[str] = ()) -> None:
        calls, callees = _calls(tree)
        loose = _mentioned(tree, callees) | {*outside} | {f".{name}" for name in outside}
        self.never: dict[int, dict[str, ast.expr]] = {}
        for name, defined in _functions(tree).items():
            free = name in loose or name[1:] in KEPT_METHODS or name.startswith(".__")
            if free or any(d.decorator_list for d in defined):
                continue
            if not name.startswith(".") and len(defined) == 1:
                _leave_unread(defined[0], calls[name])
            for function in defined:
                self.never[id(function)] = _never_given(function, calls[name], method=name.startswith("."))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Remove the constant arguments and insert their values."""
        never = self.never.get(id(node), {})
        if never:
            _drop(node.args, set(never))
            node = Substituted(never).visit(node)
        return self.generic_visit(node)


def _functions(tree: ast.Module) -> dict[str, list[ast.FunctionDef]]:
    """Functions by name, methods by `.name`, constructors by `.Class`."""
    functions: dict[str, list[ast.FunctionDef]] = defaultdict(list)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            functions[node.name].append(node)
        elif isinstance(node, ast.ClassDef):
            for method in [inner for inner in node.body if isinstance(inner, ast.FunctionDef)]:
                functions["." + (node.name if method.name == "__init__" else method.name)].append(method)
    return functions


def _calls(tree: ast.Module) -> tuple[dict[str, list[ast.Call]], set[int]]:
    """Calls by the names of what they may call (as in `_functions`), and the ids of the callee nodes."""
    calls: dict[str, list[ast.Call]] = defaultdict(list)
    callees = set()
    for call in [node for node in walk(tree) if isinstance(node, ast.Call)]:
        if isinstance(call.func, ast.Name):
            calls[call.func.id].append(call)
            calls["." + call.func.id].append(call)
            callees.add(id(call.func))
        elif isinstance(call.func, ast.Attribute):
            calls["." + call.func.attr].append(call)
            callees.add(id(call.func))
    return calls, callees


def _mentioned(tree: ast.Module, callees: set[int]) -> set[str]:
    """Names of functions that are used in other ways than in calls, so that not all their calls are known."""
    names = set()
    for node in walk(tree):
        if isinstance(node, ast.Name) and id(node) not in callees:
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and id(node) not in callees:
            names.add("." + node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= {node.value, "." + node.value}
    return names


def _never_given(function: ast.FunctionDef, calls: list[ast.Call], *, method: bool) -> dict[str, ast.expr]:
    """Arguments that have one constant value in all calls, with that value; it is removed from the calls."""
    args = function.args
    positional = [*args.posonlyargs, *args.args]
    defaults: dict[str, ast.expr | None] = {a.arg: d for a, d in zip(args.kwonlyargs, args.kw_defaults)}
    defaults |= {a.arg: d for a, d in zip(reversed(positional), reversed(args.defaults))}
    by_place = {a.arg for a in positional[: _most_positional(calls, method)]}
    passed = by_place.union(*({k.arg for k in call.keywords} for call in calls))
    if None in passed or args.vararg or args.kwarg:
        return {}
    rebound = _bound_inside(function)
    constants: dict[str, ast.expr] = {}
    for name, default in defaults.items():
        if default is not None and value_of(default) is not MISSING and name not in passed | rebound:
            constants[name] = default
    spelled = [] if method else [a.arg for a in (*positional, *args.kwonlyargs) if a.arg in passed - by_place]
    for name in spelled:
        value = _same_in_all(name, calls, defaults.get(name))
        if value is not None and name not in rebound:
            constants[name] = value
            for call in calls:
                call.keywords = [k for k in call.keywords if k.arg != name]
    return constants


def _most_positional(calls: list[ast.Call], method: bool) -> int:
    """The largest number of positional arguments in any call."""
    starred = any(isinstance(a, ast.Starred) for call in calls for a in call.args)
    return 99 if starred else max((len(call.args) + method for call in calls), default=0)


def _bound_inside(function: ast.FunctionDef) -> set[str]:
    """Names that a function's body binds, including arguments of inner functions."""
    nodes = walk(function)
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    inner = [n.args for n in nodes if n is not function and isinstance(n, ast.Lambda | ast.FunctionDef)]
    return stored.union(*({a.arg for a in [*args.args, *args.kwonlyargs]} for args in inner))


def _same_in_all(name: str, calls: list[ast.Call], default: ast.expr | None) -> ast.expr | None:
    """The constant that all calls give to an argument, by name or by default; None when they differ."""
    values = [next((k.value for k in call.keywords if k.arg == name), default) for call in calls]
    texts = {"" if value is None or value_of(value) is MISSING else ast.dump(value) for value in values}
    return values[0] if len(texts) == 1 and "" not in texts else None


def _leave_unread(function: ast.FunctionDef, calls: list[ast.Call]) -> None:
    """Remove arguments that a function does not read, if no call passes them by position."""
    args = function.args
    if args.vararg or args.kwarg or any(map(_is_open, calls)):
        return
    read = {n.id for n in walk(function) if isinstance(n, ast.Name)}
    by_place = max((len(call.args) for call in calls), default=0)
    unread = {a.arg for a in [*args.args[by_place:], *args.kwonlyargs]} - read
    passed = [k.value for call in calls for k in call.keywords if k.arg in unread]
    if unread and all(map(is_pure, passed)):
        _drop(args, unread)
        for call in calls:
            call.keywords = [k for k in call.keywords if k.arg not in unread]


def _is_open(call: ast.Call) -> bool:
    """Whether a call uses `*args` or `**kwargs`."""
    return any(k.arg is None for k in call.keywords) or any(isinstance(a, ast.Starred) for a in call.args)


def _drop(args: ast.arguments, names: set[str]) -> None:
    """Remove arguments from a signature."""
    first = len(args.args) - len(args.defaults)
    pairs = [(a, args.defaults[i - first] if i >= first else None) for i, a in enumerate(args.args)]
    pairs = [(a, d) for a, d in pairs if a.arg not in names]
    args.args, args.defaults = [a for a, _ in pairs], [d for _, d in pairs if d is not None]
    keyed = [(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults) if a.arg not in names]
    args.kwonlyargs, args.kw_defaults = [a for a, _ in keyed], [d for _, d in keyed]
