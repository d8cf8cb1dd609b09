"""Arguments that are one constant in all calls, written where they are read."""

import ast
from collections import defaultdict

from pargolf.ship.shrink.constants import Placed
from pargolf.ship.shrink.purity import KEPT_METHODS, MISSING, value_of
from pargolf.ship.shrink.tree import TreeTransformer, walk


class Arguments(TreeTransformer):
    """Arguments with a constant default that no call gives become that constant."""

    def __init__(self, tree: ast.Module) -> None:
        functions: dict[str, list[ast.FunctionDef]] = defaultdict(list)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                functions[node.name].append(node)
            elif isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef):
                        functions["." + (node.name if inner.name == "__init__" else inner.name)].append(inner)
        called: dict[str, list[ast.Call]] = defaultdict(list)
        callees = set()
        for each in walk(tree):
            if isinstance(each, ast.Call) and isinstance(each.func, ast.Name):
                called[each.func.id].append(each)
                called["." + each.func.id].append(each)
                callees.add(id(each.func))
            elif isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute):
                called["." + each.func.attr].append(each)
                callees.add(id(each.func))
        loose = set()
        for each in walk(tree):
            if isinstance(each, ast.Name) and id(each) not in callees:
                loose |= {each.id}
            elif isinstance(each, ast.Attribute) and id(each) not in callees:
                loose.add("." + each.attr)
            elif isinstance(each, ast.Constant) and isinstance(each.value, str):
                loose |= {each.value, "." + each.value}
        self.never: dict[int, dict[str, ast.expr]] = {}
        for name, defined in functions.items():
            free = name in loose or name[1:] in KEPT_METHODS or name.startswith(".__")
            if free or any(d.decorator_list for d in defined):
                continue
            for function in defined:
                self.never[id(function)] = _never_given(function, called[name], method=name.startswith("."))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Put the constants in."""
        never = self.never.get(id(node), {})
        if never:
            _drop(node.args, set(never))
            node = Placed(never).visit(node)
        return self.generic_visit(node)


def _never_given(function: ast.FunctionDef, calls: list[ast.Call], *, method: bool) -> dict[str, ast.expr]:
    """Names of arguments that all calls leave out, with their constant defaults."""
    args = function.args
    positional = [*args.posonlyargs, *args.args]
    defaults: dict[str, ast.expr | None] = {a.arg: d for a, d in zip(args.kwonlyargs, args.kw_defaults)}
    defaults |= {a.arg: d for a, d in zip(reversed(positional), reversed(args.defaults))}
    given: set[str | None] = set()
    at_most = 0
    for call in calls:
        given |= {k.arg for k in call.keywords}
        starred = any(isinstance(a, ast.Starred) for a in call.args)
        at_most = max(at_most, 99 if starred else len(call.args) + method)
    given |= {a.arg for a in positional[:at_most]}
    if None in given or args.vararg or args.kwarg:
        return {}
    alike: dict[str, ast.expr] = {}
    for name in [] if method else [a.arg for a in (*positional, *args.kwonlyargs) if a.arg in given]:
        said = [next((k.value for k in call.keywords if k.arg == name), defaults.get(name)) for call in calls]
        known = {ast.dump(v) if v is not None and value_of(v) is not MISSING else "" for v in said}
        if len(known) == 1 and "" not in known and name not in {a.arg for a in positional[:at_most]}:
            alike[name] = next(v for v in said if v is not None)
    # Only the last positional ones can go without moving others.
    out: dict[str, ast.expr] = {}
    stored = {n.id for n in walk(function) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    inner = {a.arg for n in walk(function) if n is not function and isinstance(n, ast.Lambda | ast.FunctionDef)
             for a in [*n.args.args, *n.args.kwonlyargs]}  # fmt: skip
    for name, default in defaults.items():
        if default is not None and value_of(default) is not MISSING and name not in given | stored | inner:
            out[name] = default
    for name, value in alike.items():
        if name not in stored | inner:
            out[name] = value
            for call in calls:
                call.keywords = [k for k in call.keywords if k.arg != name]
    return out


def _drop(args: ast.arguments, names: set[str]) -> None:
    """Take arguments out of a signature."""
    first = len(args.args) - len(args.defaults)
    pairs = [(a, args.defaults[i - first] if i >= first else None) for i, a in enumerate(args.args)]
    pairs = [(a, d) for a, d in pairs if a.arg not in names]
    args.args, args.defaults = [a for a, _ in pairs], [d for _, d in pairs if d is not None]
    keyed = [(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults) if a.arg not in names]
    args.kwonlyargs, args.kw_defaults = [a for a, _ in keyed], [d for _, d in keyed]
