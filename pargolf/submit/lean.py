"""The program without what a run of its recipe never needs: the form that is shipped, beside the one that is read.

    guards -> constants of the recipe -> branches that are decided -> what nobody reads or reaches; until all stays

A guard is an `if` that can only raise, or a `try` whose handlers can only raise: a run that ended has tripped none.
`SystemExit` is no guard. A field that has one value of None, True, False or () all over the recipe, and that no call
sets, is that value; so is an argument that no call gives, and an attribute that only ever holds one. Then conditions
fold, branches go, and functions, methods and names that nobody uses any more go with them. Only syntax trees are read,
so what is one thing is decided by its name, on the safe side: where another thing has the same name, both stay.
"""

import ast
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pargolf.submit.bare import Bare
from pargolf.submit.outside import outside

_KEPT_METHODS = {"forward", "backward", "setup_context", "step", "zero_grad"}
_PURE_CALLS = {
    *("len", "int", "str", "sorted", "min", "max", "set", "list", "dict", "tuple", "sum", "any", "all", "abs", "float"),
    *("bool", "repr", "isinstance", "zip", "enumerate", "range", "type", "frozenset", "map"),
}
_PURE_METHODS = {"join", "get", "items", "keys", "values", "startswith", "endswith", "split", "dim", "max", "numel"}
_ACTS = {
    *("next", "pop", "append", "add", "update", "setdefault", "extend", "remove", "discard", "clear", "write", "read"),
    *("manual_seed", "step", "backward", "wait", "send", "close", "all_reduce", "put", "fill", "sort", "popleft"),
}
_STILL = (
    *(ast.Constant, ast.Name, ast.Attribute, ast.operator, ast.boolop, ast.unaryop, ast.cmpop, ast.expr_context),
    *(ast.BinOp, ast.BoolOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.Tuple, ast.List, ast.Set, ast.Dict),
    *(ast.Subscript, ast.Slice, ast.JoinedStr, ast.FormattedValue, ast.Starred, ast.comprehension),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda, ast.arguments, ast.arg),
)

Constants = Mapping[str, Any]
"""Field name -> the one value that it has."""


def lean(
    tree: ast.Module,
    constants: Constants | None = None,
    *,
    sure: Mapping[str, str] | None = None,
    keep: Collection[str] = (),
) -> ast.Module:
    """Take out what is never needed; changes `tree` and returns it.

    `constants` are those of the recipe's fields; `sure` ones, as source text, hold whatever the program sets; `keep`
    names globals that must stay.
    """
    tree = _Unguarded().visit(Bare().visit(tree))
    given = {name: ast.parse(text, mode="eval").body for name, text in (sure or {}).items()}
    everywhere, of_specs = _settled(tree, constants or {})
    tree = _Constants(everywhere | given, of_specs).visit(tree)
    size = 0
    while size != (size := sum(1 for _ in ast.walk(tree))):
        tree = _Folded().visit(_Unguarded().visit(tree))
        tree = _Arguments(tree).visit(tree)
        tree = _Constants(_held(tree), {}).visit(tree)
        tree = _Tidied(tree).visit(_Unasked(tree).visit(tree))
        tree = _reached(tree, keep)
    return tree


def _raises(body: list[ast.stmt]) -> bool:
    """Whether a block does nothing but raise: plain values for the message may come before."""
    if not body or not isinstance(body[-1], ast.Raise) or body[-1].exc is None:
        return False
    raised = body[-1].exc
    name = raised.func if isinstance(raised, ast.Call) else raised
    if isinstance(name, ast.Name) and name.id == "SystemExit":
        return False
    return all(isinstance(s, ast.Assign | ast.AnnAssign) for s in body[:-1])


def _is_pass(body: list[ast.stmt]) -> bool:
    return all(isinstance(s, ast.Pass) for s in body)


class _Unguarded(ast.NodeTransformer):
    """Guards go."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """The branch that does not raise."""
        self.generic_visit(node)
        if any(isinstance(n, ast.NamedExpr) for n in ast.walk(node.test)):
            return node
        if _raises(node.body):
            return node.orelse or [ast.Pass()]
        return node.body if _raises(node.orelse) else node

    def visit_Try(self, node: ast.Try) -> ast.AST | list[ast.stmt]:
        """What is tried."""
        self.generic_visit(node)
        if not node.handlers or not all(_raises(h.body) or _again(h.body) for h in node.handlers):
            return node
        if node.finalbody:
            node.handlers, node.body, node.orelse = [], [*node.body, *node.orelse], []
            return node
        return [*node.body, *node.orelse]


def _again(body: list[ast.stmt]) -> bool:
    return len(body) == 1 and isinstance(body[0], ast.Raise) and body[0].exc is None


class _Constants(ast.NodeTransformer):
    """Writes the value of an attribute where it is read: of any owner, or of one that is called `spec`."""

    def __init__(self, everywhere: Mapping[str, ast.expr], of_specs: Mapping[str, ast.expr]) -> None:
        self.everywhere, self.of_specs = everywhere, of_specs

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """One that is read from something that may as well not be looked at."""
        self.generic_visit(node)
        owner = node.value
        spec = (isinstance(owner, ast.Name) and owner.id == "spec") or (
            isinstance(owner, ast.Attribute) and owner.attr == "spec"
        )
        value = self.of_specs.get(node.attr) if spec else None
        value = value or self.everywhere.get(node.attr)
        return value if value is not None and isinstance(node.ctx, ast.Load) and _is_still(owner) else node


def _settled(tree: ast.Module, constants: Constants) -> tuple[dict[str, ast.expr], dict[str, ast.expr]]:
    """The constants that nothing in the program sets, by name: those that name nothing else, and all."""
    kinds = {n.name: _fields(n) for n in tree.body if isinstance(n, ast.ClassDef) and _is_data(n)}
    set_, shared = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword):
            shared.add(node.arg or "")
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            shared.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            shared.add(node.func.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            spelled = {k.arg or "" for k in node.keywords}
            set_ |= spelled if node.func.id == "replace" else set()
            for at, (name, default) in enumerate(kinds.get(node.func.id, {}).items()):
                given = at < len(node.args) or any(isinstance(a, ast.Starred) for a in node.args) or name in spelled
                if given or default is None or ast.unparse(default) != repr(constants.get(name, "-")):
                    set_.add(name)
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    shared.add(inner.name)
                elif isinstance(inner, ast.Assign):
                    shared |= {ast.unparse(target) for target in inner.targets}
    values = {name: _literal(value) for name, value in constants.items() if name not in set_}
    return {name: value for name, value in values.items() if name not in shared}, values


def _literal(value: Any) -> ast.expr:
    return ast.parse(repr(value), mode="eval").body


def _held(tree: ast.Module) -> dict[str, ast.expr]:
    """Attributes that are only ever given one constant, by objects of the program's own to themselves."""
    found: dict[str, set[str]] = defaultdict(set)
    plain: set[int] = set()
    taken: set[str] = set(outside())
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Attribute):
            target = node.targets[0]
            constant = isinstance(node.value, ast.Constant) and not isinstance(node.value.value, str | bytes)
            if constant and isinstance(target.value, ast.Name) and target.value.id == "self":
                found[target.attr].add(ast.unparse(node.value))
                plain.add(id(target))
        elif isinstance(node, ast.ClassDef):
            taken |= {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
            taken |= {name for n in node.body if isinstance(n, ast.Assign | ast.AnnAssign) for name in bound_by(n)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            taken.add(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load) and id(node) not in plain:
            taken.add(node.attr)
    return {
        name: ast.parse(next(iter(values)), mode="eval").body
        for name, values in found.items()
        if len(values) == 1 and name not in taken
    }


class _Unasked(ast.NodeTransformer):
    """Takes out what objects of the program note of themselves and nobody asks for; modules note parameters."""

    def __init__(self, tree: ast.Module) -> None:
        nodes = list(ast.walk(tree))
        self.asked = set(outside())
        self.asked |= {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}
        self.asked |= {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """A class of the program's own making."""
        return node if node.bases else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """A note."""
        target = node.targets[0]
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            gone = len(node.targets) == 1 and target.attr not in self.asked and _is_harmless(node.value)
            return ast.Pass() if gone else node
        return node


def _is_data(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(d) for d in node.decorator_list)


def _fields(node: ast.ClassDef) -> dict[str, ast.expr | None]:
    """Fields of a dataclass and their defaults."""
    return {n.target.id: n.value for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}


def _is_still(node: ast.AST) -> bool:
    """Whether evaluating does nothing else: names, numbers, and calls that are known to be pure."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call):
            func = inner.func
            known = isinstance(func, ast.Name) and func.id in _PURE_CALLS
            if not known and not (isinstance(func, ast.Attribute) and func.attr in _PURE_METHODS):
                return False
        elif not isinstance(inner, _STILL) and not isinstance(inner, ast.keyword):
            return False
    return True


def _is_harmless(node: ast.AST) -> bool:
    """Whether a value that nobody reads need not be worked out: no call in it is known to act on anything."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Yield | ast.YieldFrom | ast.NamedExpr | ast.Await):
            return False
        if isinstance(inner, ast.Call):
            name = inner.func.id if isinstance(inner.func, ast.Name) else getattr(inner.func, "attr", "")
            if name in _ACTS or (name.endswith("_") and not name.endswith("__")):
                return False
    return True


_MISSING = object()


def _value(node: ast.expr | None) -> Any:
    """The value of a constant, or of an empty tuple; else `_MISSING`."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple | ast.List) and not node.elts and isinstance(node.ctx, ast.Load):
        return ()
    return _MISSING


def _known(node: ast.expr) -> bool | None:
    """Whether an expression is true, where that is certain."""
    value = _value(node)
    return None if value is _MISSING else bool(value)


class _Folded(ast.NodeTransformer):
    """Decides what constants decide."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Of two constants."""
        self.generic_visit(node)
        left, right = _value(node.left), _value(node.comparators[0])
        if len(node.ops) > 1 or left is _MISSING or right is _MISSING:
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
        known = _known(node.operand)
        return ast.Constant(not known) if isinstance(node.op, ast.Not) and known is not None else node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """Without what is passed over, and without what comes after it stops."""
        self.generic_visit(node)
        stops = isinstance(node.op, ast.Or)
        values: list[ast.expr] = []
        for at, value in enumerate(node.values):
            known = _known(value)
            if known is (not stops) and at < len(node.values) - 1:
                continue
            values.append(value)
            if known is stops:
                break
        return values[0] if len(values) == 1 else ast.BoolOp(node.op, values)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """The branch that is taken."""
        self.generic_visit(node)
        known = _known(node.test)
        return node if known is None else node.body if known else node.orelse

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """The branch that is taken; a condition that decides nothing goes."""
        self.generic_visit(node)
        known = _known(node.test)
        if known is not None:
            return (node.body if known else node.orelse) or [ast.Pass()]
        if _is_pass(node.orelse):
            node.orelse = []
        if _is_pass(node.body) and not node.orelse and _is_still(node.test):
            return [ast.Pass()]
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        """One that never begins."""
        self.generic_visit(node)
        return ast.Pass() if _known(node.test) is False else node

    def visit_For(self, node: ast.For) -> ast.AST:
        """One over nothing."""
        self.generic_visit(node)
        empty = _value(node.iter) == () or (_is_pass(node.body) and not node.orelse and _is_still(node.iter))
        return ast.Pass() if empty else node

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp) -> ast.AST:
        """One over nothing, or of nothing."""
        self.generic_visit(node)
        first = node.generators[0]
        empty = _value(first.iter) == () or any(_known(test) is False for test in first.ifs)
        return ast.List([], ast.Load()) if empty and _is_still(first.iter) else node

    visit_SetComp = visit_ListComp

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        """Without conditions that are always met."""
        self.generic_visit(node)
        node.ifs = [test for test in node.ifs if _known(test) is not True]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """`any` of nothing, `callable` of a constant."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and len(node.args) == 1:
            arg = node.args[0]
            of_many = node.func.id in ("any", "all") and isinstance(arg, ast.GeneratorExp)
            if of_many and _value(arg.generators[0].iter) == ():  # type: ignore[attr-defined]
                return ast.Constant(node.func.id == "all")
            if node.func.id == "callable" and isinstance(arg, ast.Constant):
                return ast.Constant(False)
        return node


class _Arguments(ast.NodeTransformer):
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
        for each in ast.walk(tree):
            if isinstance(each, ast.Call) and isinstance(each.func, ast.Name):
                called[each.func.id].append(each)
                called["." + each.func.id].append(each)
                callees.add(id(each.func))
            elif isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute):
                called["." + each.func.attr].append(each)
                callees.add(id(each.func))
        loose = set()
        for each in ast.walk(tree):
            if isinstance(each, ast.Name) and id(each) not in callees:
                loose |= {each.id}
            elif isinstance(each, ast.Attribute) and id(each) not in callees:
                loose.add("." + each.attr)
            elif isinstance(each, ast.Constant) and isinstance(each.value, str):
                loose |= {each.value, "." + each.value}
        self.never: dict[int, dict[str, ast.expr]] = {}
        for name, defined in functions.items():
            free = name in loose or name[1:] in _KEPT_METHODS or name.startswith(".__")
            if free or any(d.decorator_list for d in defined):
                continue
            for function in defined:
                self.never[id(function)] = _never_given(function, called[name], method=name.startswith("."))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Put the constants in."""
        never = self.never.get(id(node), {})
        if never:
            _drop(node.args, set(never))
            node = _Placed(never).visit(node)
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
        known = {ast.dump(v) if v is not None and _value(v) is not _MISSING else "" for v in said}
        if len(known) == 1 and "" not in known and name not in {a.arg for a in positional[:at_most]}:
            alike[name] = next(v for v in said if v is not None)
    # Only the last positional ones can go without moving others.
    out: dict[str, ast.expr] = {}
    stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    inner = {a.arg for n in ast.walk(function) if n is not function and isinstance(n, ast.Lambda | ast.FunctionDef)
             for a in [*n.args.args, *n.args.kwonlyargs]}  # fmt: skip
    for name, default in defaults.items():
        if default is not None and _value(default) is not _MISSING and name not in given | stored | inner:
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


class _Placed(ast.NodeTransformer):
    """Values in the place of names."""

    def __init__(self, values: Mapping[str, ast.expr]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """A name that has a value."""
        return self.values.get(node.id, node) if isinstance(node.ctx, ast.Load) else node


_ENDS = ast.Return | ast.Raise | ast.Continue | ast.Break


class _Tidied(ast.NodeTransformer):
    """Takes out names that nobody reads, calls of functions that do nothing, and statements that do nothing."""

    def __init__(self, tree: ast.Module) -> None:
        empty: dict[str, bool] = {}
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                empty[node.name] = _is_pass(node.body)
            elif isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef):
                        name = "." + inner.name
                        empty[name] = empty.get(name, True) and _is_pass(inner.body) and not inner.decorator_list
        self.empty = {name for name, nothing in empty.items() if nothing}

    def _idle(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.Pass):
            return True
        if not isinstance(node, ast.Expr):
            return False
        value = node.value
        if isinstance(value, ast.Yield) and self._calls_nothing(value.value):
            return True
        return self._calls_nothing(value) or _is_still(value)

    def _calls_nothing(self, value: ast.expr | None) -> bool:
        """Whether this is a call of a function that does nothing."""
        if isinstance(value, ast.Call):
            func, args = value.func, [*value.args, *(k.value for k in value.keywords)]
            name = func.id if isinstance(func, ast.Name) else "." + func.attr if isinstance(func, ast.Attribute) else ""
            return name in self.empty and all(map(_is_harmless, args))
        return False

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Blocks without idle statements, and without what comes after they are left."""
        super().generic_visit(node)
        for part in ("body", "orelse", "finalbody"):
            block = getattr(node, part, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                ends = [i for i, s in enumerate(block) if isinstance(s, _ENDS)]
                left = [s for s in block[: ends[0] + 1 if ends else None] if not self._idle(s)]
                setattr(node, part, left or ([ast.Pass()] if part == "body" else []))
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Without locals that nobody reads; what is named only to be returned is returned."""
        read = Counter(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Store))
        only = Counter(_filled(n) for n in ast.walk(node) if isinstance(n, ast.Expr))
        _Filled({name for name in only if name and only[name] == read[name] and _made_here(node, name)}).visit(node)
        shared = {name for n in ast.walk(node) if isinstance(n, ast.Nonlocal | ast.Global) for name in n.names}
        _Unread(set(read) | shared).visit(node)
        self.generic_visit(node)
        written = Counter(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
        _Returned({n for n in read if read[n] == written[n]} - shared, written).visit(node)
        return node


def _filled(node: ast.Expr) -> str:
    """The name of the list, set or dictionary that a statement only adds to."""
    call = node.value
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        name = call.func.value.id
        inside = any(isinstance(n, ast.Name) and n.id == name for a in call.args for n in ast.walk(a))
        if call.func.attr in ("add", "append", "update", "extend") and not inside and all(map(_is_still, call.args)):
            return name
    return ""


def _made_here(function: ast.FunctionDef, name: str) -> bool:
    """Whether a local name always stands for a fresh container."""
    given = [n.value for n in ast.walk(function) if isinstance(n, ast.Assign) and _names(n.targets) == [name]]
    stores = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name and _is_store(n)]
    fresh = all(
        isinstance(v, ast.List | ast.Set | ast.Dict)
        or (isinstance(v, ast.Call) and isinstance(v.func, ast.Name) and v.func.id in ("set", "list", "dict"))
        for v in given
    )
    return fresh and len(given) == len(stores) > 0


def _is_store(node: ast.Name) -> bool:
    return not isinstance(node.ctx, ast.Load)


def _names(targets: list[ast.expr]) -> list[str]:
    return [t.id if isinstance(t, ast.Name) else "" for t in targets]


class _Filled(ast.NodeTransformer):
    """Takes out statements that only add to containers that nobody reads."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """One that adds."""
        return ast.Pass() if _filled(node) in self.names else node


class _Unread(ast.NodeTransformer):
    """Takes out plain assignments to names that are not among those read."""

    def __init__(self, read: set[str]) -> None:
        self.read = read

    def _assigned(self, node: ast.Assign | ast.AnnAssign) -> ast.AST:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        gone = all(isinstance(t, ast.Name) and t.id not in self.read for t in targets)
        if gone and node.value is not None:
            return ast.Pass() if _is_harmless(node.value) else ast.Expr(node.value)
        return node

    visit_Assign = visit_AnnAssign = _assigned

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Its names are not local ones."""
        return node


class _Returned(ast.NodeTransformer):
    """`x = value; return x` is `return value`."""

    def __init__(self, once: set[str], written: Mapping[str, int]) -> None:
        self.once, self.written = once, written

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Each block."""
        super().generic_visit(node)
        for part in ("body", "orelse", "finalbody"):
            block = getattr(node, part, None)
            if isinstance(block, list) and len(block) > 1 and isinstance(block[-1], ast.Return):
                last, before = block[-1], block[-2]
                if isinstance(before, ast.Assign | ast.AnnAssign) and isinstance(last.value, ast.Name):
                    targets = before.targets if isinstance(before, ast.Assign) else [before.target]
                    same = len(targets) == 1 and isinstance(targets[0], ast.Name) and targets[0].id == last.value.id
                    if same and last.value.id in self.once and before.value is not None:
                        setattr(node, part, [*block[:-2], ast.Return(before.value)])
        return node


def _reached(tree: ast.Module, kept: Collection[str]) -> ast.Module:
    """The definitions, methods and imports that what runs at the top needs."""
    defined: dict[str, list[ast.stmt]] = defaultdict(list)
    roots: list[ast.AST] = []
    for node in tree.body:
        names = list(bound_by(node))
        for name in names:
            defined[name].append(node)
        if not names:
            roots.append(node)
    seen: set[int] = set()
    mentioned: set[str] = set()
    waiting: list[ast.FunctionDef] = []
    todo: list[ast.AST] = [*roots, *(node for name in kept for node in defined[name])]
    while todo:
        place = todo.pop()
        if id(place) not in seen:
            seen.add(id(place))
            parts: list[ast.AST] = [place]
            if isinstance(place, ast.ClassDef):
                own = [n for n in place.body if isinstance(n, ast.FunctionDef) and not _special(n)]
                parts = [*place.bases, *place.decorator_list, *(n for n in place.body if n not in own)]
                waiting += own
            for inner in (n for part in parts for n in ast.walk(part)):
                if isinstance(inner, ast.Name):
                    todo += defined.get(inner.id, [])
                elif isinstance(inner, ast.Attribute):
                    mentioned.add(inner.attr)
                elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    mentioned.add(inner.value)
        if not todo:
            todo += [method for method in waiting if method.name in mentioned and id(method) not in seen]
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            node.body = [n for n in node.body if _stays(n, seen)] or [ast.Pass()]
    tree.body = [node for node in tree.body if id(node) in seen]
    return tree


def _special(method: ast.FunctionDef) -> bool:
    """Whether others than this program call it."""
    return method.name in _KEPT_METHODS or method.name.startswith("__")


def _stays(node: ast.stmt, seen: set[int]) -> bool:
    if not isinstance(node, ast.FunctionDef):
        return True
    if node.name == "__post_init__":
        return not _is_pass(node.body)
    return id(node) in seen or _special(node)


def bound_by(node: ast.stmt) -> Iterator[str]:
    """Names that a statement at the top of a file binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
