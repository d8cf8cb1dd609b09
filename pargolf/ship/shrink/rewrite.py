"""Follow the names of one definition: what it refers to, and the definition with names replaced.

On the way, `isinstance` of a class that is never created becomes False, and its branch is removed; so does `hasattr` of
a name that no class of the program defines (the package uses it on techniques only). Methods whose names are never
mentioned are removed.
"""

import ast
from collections.abc import Mapping
from typing import NoReturn

from pargolf.ship.shrink.modules import Key, Package, Unfit
from pargolf.ship.shrink.purity import KEPT_METHODS
from pargolf.ship.shrink.tree import TreeTransformer, children, walk

_NOT_IN_A_SCRIPT = {
    "__file__": "Write the values into the file: nothing lies beside a script.",
    "globals": "Name what you need.",
    "eval": "Write out what it would run.",
    "exec": "Write out what it would run.",
}
_DEFINED = "def "
"""Prefix of a mentioned name that some class defines, or that is assigned as an attribute."""


class Rewriter(TreeTransformer):
    """Follows the names of one definition: collects what it refers to and, given `names`, replaces the names."""

    def __init__(
        self,
        package: Package,
        module: str,
        instead: Mapping[Key, Key],
        *,
        kept: set[Key],
        methods: set[str],
        names: Mapping[Key, str] | None = None,
    ) -> None:
        self.package, self.module, self.instead = package, package.modules[module], instead
        self.in_user_file, self.first_line = module in package.user_files, 1
        self.kept, self.methods, self.names = kept, methods, names
        self.refs: set[Key] = set()
        self.mentioned: set[str] = set()
        self.shadowed: set[Key] = set()
        self.annotated: set[Key] = set()
        self.waits_for: set[Key | str] = set()
        self._scopes: list[set[str]] = []
        self._top = True

    def rewritten(self, name: str) -> ast.stmt:
        """A changed copy of a definition of this module."""
        self._top = True
        self.first_line = self.module.lines.get(name, 1)
        new = self.visit(self.package.copy_of((self.module.name, name)))
        assert isinstance(new, ast.stmt)
        return new

    def key_of(self, name: str) -> Key | str | None:
        """The meaning of a name here: a key, a module, or None for local names and builtins."""
        if any(name in scope for scope in self._scopes):
            return None
        key = self.module.names.get(name)
        return self._through(key) if isinstance(key, tuple) else key

    def _module_of(self, node: ast.expr) -> str | None:
        """The module that an expression denotes: a name, or an attribute of a module."""
        key: Key | str | None = None
        if isinstance(node, ast.Name):
            key = self.key_of(node.id)
        elif isinstance(node, ast.Attribute) and (module := self._module_of(node.value)) is not None:
            key = self._through((module, node.attr))
        return key if isinstance(key, str) else None

    def _refuse(self, node: ast.expr | ast.stmt, instead: str) -> NoReturn:
        """Raise `Unfit` for code that cannot work in a single file."""
        where = f"{self.package.file(self.module.name)}, line {self.first_line + node.lineno - 1}"
        raise Unfit(f"{where}: a script cannot hold `{ast.unparse(node)}`. {instead}")

    def _check_loose(self, name: str) -> None:
        """Raise `Unfit` on a global name that other top-level statements of its file bind or change."""
        if name in self.module.loose and not any(name in scope for scope in self._scopes):
            raise Unfit(
                f"{self.package.file(self.module.name)}, line {self.module.loose[name]}: a script takes imports, "
                f"functions, classes and single assignments from the top of a file. Make {name} one of these."
            )

    def _through(self, key: Key) -> Key | str:
        """The definition or module behind a key: follows re-imports, and replacements in `instead`."""
        while key[0] and key[1] not in self.package.modules[key[0]].nodes:
            key_there = self.package.modules[key[0]].names.get(key[1])
            if isinstance(key_there, str):
                return key_there
            if key_there is None:
                raise self._lacks(key)
            key = key_there
        return self.instead.get(key, key)

    def _lacks(self, key: Key) -> ValueError:
        """The error for a name that the module does not define."""
        is_user_file = key[0] in self.package.user_files
        return (Unfit if is_user_file else ValueError)(f"{self.package.file(key[0])} has no '{key[1]}'.")

    def _use(self, key: Key, node: ast.expr) -> ast.expr:
        if key in self.package.settings and isinstance(getattr(node, "ctx", None), ast.Load):
            return ast.Constant(self.package.settings[key])
        self.refs.add(key)
        if self.names is None:
            return node
        name = self.names.get(key)
        if name is None:  # another target of the same assignment
            return node
        if any(name in scope for scope in self._scopes):
            self.shadowed.add(key)
        return ast.copy_location(ast.Name(name, getattr(node, "ctx", ast.Load())), node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Follow a global name."""
        self._check_loose(node.id)
        key = self.key_of(node.id)
        if isinstance(key, str) and self.in_user_file:
            self._refuse(node, f"Take what you need out of the module, as {node.id}.NAME.")
        if key is None and self.in_user_file and node.id in _NOT_IN_A_SCRIPT and not self._is_local(node.id):
            self._refuse(node, _NOT_IN_A_SCRIPT[node.id])
        return self._use(key, node) if isinstance(key, tuple) else node

    def _is_local(self, name: str) -> bool:
        return any(name in scope for scope in self._scopes)

    def visit_Global(self, node: ast.Global) -> ast.AST:
        """A `global` statement: rename the names as at the top of the file."""
        keys = [(name, self.module.names.get(name)) for name in node.names]
        node.names = [(self.names or {}).get(key, name) if isinstance(key, tuple) else name for name, key in keys]
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Follow `module.name`; note any other attribute as a mentioned method."""
        if isinstance(node.value, ast.Name):
            self._check_loose(node.value.id)
        module = self._module_of(node.value)
        if module is not None:
            if not isinstance(node.ctx, ast.Load):
                self._refuse(node, "Only the file itself can change its names, in a function that says `global`.")
            key = self._through((module, node.attr))
            if isinstance(key, str):
                self._refuse(node, f"Take what you need out of the module, as {ast.unparse(node)}.NAME.")
            return self._use(key, node)
        self.mentioned.add(node.attr)
        if isinstance(node.ctx, ast.Store):
            self.mentioned.add(_DEFINED + node.attr)
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> ast.AST:
        """An import inside a function: allowed only for other packages."""
        if any(self.package.has(alias.name) for alias in node.names):
            self._refuse(node, "Write it at the top of the file.")
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        """An import inside a function: allowed only for other packages."""
        if node.level or self.package.has(str(node.module)):
            self._refuse(node, "Write it at the top of the file.")
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """A string may name a method."""
        if isinstance(node.value, str) and node.value.isidentifier():
            self.mentioned.add(node.value)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Replace `isinstance` of classes that are never created, and `hasattr` of undefined names, by False."""
        if isinstance(node.func, ast.Name) and node.func.id == "isinstance" and len(node.args) == 2:
            possible = [kind for kind in _kinds(node.args[1]) if self._can_exist(kind)]
            if not possible:
                return ast.Constant(False)
            first = self.visit(node.args[0])
            made = [kind if self._is_class(kind) and self.names is None else self.visit(kind) for kind in possible]
            kinds = made[0] if len(made) == 1 else ast.Tuple(made, ast.Load())
            return ast.Call(node.func, [first, kinds], [])
        if self._asks_own(node) and not self.in_user_file:
            assert isinstance(node.args[1], ast.Constant)
            defined = _DEFINED + str(node.args[1].value)
            if defined not in self.methods:
                self.waits_for.add(defined)
                return ast.Constant(False)
        return self.generic_visit(node)

    def _asks_own(self, call: ast.Call) -> bool:
        """Whether a call is `hasattr(x, "name")` with an x that is not an external module."""
        if not (
            isinstance(call.func, ast.Name) and call.func.id == "hasattr" and isinstance(call.args[1], ast.Constant)
        ):
            return False
        owner = self.key_of(call.args[0].id) if isinstance(call.args[0], ast.Name) else None
        return not (isinstance(owner, tuple) and not owner[0])

    def _class_key(self, kind: ast.expr) -> Key | None:
        key: Key | str | None = None
        if isinstance(kind, ast.Name):
            key = self.key_of(kind.id)
        elif isinstance(kind, ast.Attribute) and isinstance(kind.value, ast.Name):
            module = self._module_of(kind.value)
            key = self._through((module, kind.attr)) if module is not None else None
        if isinstance(key, tuple) and key[0]:
            return key if isinstance(self.package.modules[key[0]].nodes.get(key[1]), ast.ClassDef) else None
        return None

    def _is_class(self, kind: ast.expr) -> bool:
        return self._class_key(kind) is not None

    def _can_exist(self, kind: ast.expr) -> bool:
        key = self._class_key(kind)
        if key is None or key in self.kept:
            return True
        self.waits_for.add(key)
        return False

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """Simplify: `False and x` is False, `False or x` is x."""
        stops = isinstance(node.op, ast.Or)
        values: list[ast.expr] = []
        last = node.values[-1] if self.in_user_file else None  # users' code may use the value, ours only its truth
        for value in node.values:
            seen = self.visit(value)
            if isinstance(seen, ast.Constant) and seen.value is (not stops) and value is not last:
                continue
            values.append(seen)
            if isinstance(seen, ast.Constant) and seen.value is stops:
                break
        if not values:
            return ast.Constant(not stops)
        return values[0] if len(values) == 1 else ast.BoolOp(node.op, values)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """Simplify `not False`."""
        seen = self.generic_visit(node)
        assert isinstance(seen, ast.UnaryOp)
        if isinstance(seen.op, ast.Not) and isinstance(seen.operand, ast.Constant) and seen.operand.value is False:
            return ast.Constant(True)
        return seen

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """Keep only the chosen value if the condition is known."""
        test = self.visit(node.test)
        if isinstance(test, ast.Constant) and isinstance(test.value, bool):
            chosen: ast.AST = self.visit(node.body if test.value else node.orelse)
            return chosen
        return ast.IfExp(test, self.visit(node.body), self.visit(node.orelse))

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """Keep only the taken branch if the condition is known."""
        test = self.visit(node.test)
        if isinstance(test, ast.Constant) and isinstance(test.value, bool):
            return self._block(node.body if test.value else node.orelse) or [ast.Pass()]
        return ast.If(test, self._block(node.body), self._block(node.orelse))

    def _block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        out: list[ast.stmt] = []
        for statement in body:
            seen = self.visit(statement)
            out += seen if isinstance(seen, list) else [seen] if seen is not None else []
        return out

    def _annotation(self, node: ast.expr | None) -> None:
        """Replace the names in an annotation; it reaches external imports, but no definition."""
        for name in [n for n in walk(node) if isinstance(n, ast.Name)] if node is not None else []:
            key = self.key_of(name.id)
            if isinstance(key, tuple):
                self.annotated |= {key} if not key[0] else set()
                name.id = (self.names or {}).get(key, name.id)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Rename the annotation without following it."""
        self._annotation(node.annotation)
        node.target = self.visit(node.target)
        node.value = self.visit(node.value) if node.value is not None else None
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Rename the annotation without following it."""
        self._annotation(node.annotation)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Follow bases and body; leave out methods that are never mentioned."""
        node.decorator_list = [self.visit(d) for d in node.decorator_list]
        node.bases = [self.visit(base) for base in node.bases]
        node.keywords = [self.visit(keyword) for keyword in node.keywords]
        self.mentioned |= {_DEFINED + name for inner in node.body for name in _names_of(inner)}
        top, self._top = self._top, False
        body = [self._member(inner) for inner in node.body if self._needed(node, inner)]
        node.body = [one for many in body for one in many] or [ast.Pass()]
        if top and self.names is not None:
            node.name = self.names[self.module.name, node.name]
        return node

    def _member(self, inner: ast.stmt) -> list[ast.stmt]:
        """Rewrite a statement of a class body; the names that it binds belong to the class."""
        if isinstance(inner, ast.Assign | ast.AnnAssign):
            self._annotation(getattr(inner, "annotation", None))
            inner.value = None if inner.value is None else self.visit(inner.value)
            return [inner]
        return self._block([inner])

    def _needed(self, node: ast.ClassDef, inner: ast.stmt) -> bool:
        if not isinstance(inner, ast.FunctionDef) or self.in_user_file:
            return True
        name = inner.name
        if f"{node.name}.{name}" in self.package.without:
            return False
        self.waits_for.add(name)
        return name in self.methods or name in KEPT_METHODS or (name.startswith("__") and name.endswith("__"))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """A function's own names hide global ones."""
        node.decorator_list = [self.visit(d) for d in node.decorator_list]
        self._defaults(node.args)
        for argument in _arguments(node.args):
            self._annotation(argument.annotation)
        self._annotation(node.returns)
        top, self._top = self._top, False
        self._scopes.append(_bound(node))
        node.body = self._block(node.body)
        self._scopes.pop()
        if top and self.names is not None:
            node.name = self.names[self.module.name, node.name]
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """A lambda's arguments hide global names."""
        self._defaults(node.args)
        self._scopes.append({a.arg for a in _arguments(node.args)})
        node.body = self.visit(node.body)
        self._scopes.pop()
        return node

    def _defaults(self, args: ast.arguments) -> None:
        args.defaults = [self.visit(d) for d in args.defaults]
        args.kw_defaults = [None if d is None else self.visit(d) for d in args.kw_defaults]

    def _comprehension(self, node: ast.AST) -> ast.AST:
        bound = {
            n.id
            for generator in node.generators  # type: ignore[attr-defined]
            for n in walk(generator.target)
            if isinstance(n, ast.Name)
        }
        self._scopes.append(bound)
        seen = self.generic_visit(node)
        self._scopes.pop()
        return seen

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension


def _names_of(inner: ast.stmt) -> list[str]:
    """The names that a statement of a class body binds."""
    if isinstance(inner, ast.FunctionDef):
        return [inner.name]
    targets = inner.targets if isinstance(inner, ast.Assign) else [getattr(inner, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _kinds(node: ast.expr) -> list[ast.expr]:
    """The classes of `isinstance`'s second argument."""
    if isinstance(node, ast.Tuple):
        return [kind for item in node.elts for kind in _kinds(item)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_kinds(node.left), *_kinds(node.right)]
    return [node]


def _arguments(args: ast.arguments) -> list[ast.arg]:
    return [*args.posonlyargs, *args.args, *args.kwonlyargs, *(a for a in (args.vararg, args.kwarg) if a)]


def _bound(function: ast.FunctionDef) -> set[str]:
    """Names that are local to a function: arguments, and names that its own body binds."""
    names = {a.arg for a in _arguments(function.args)}
    free: set[str] = set()
    pending: list[ast.AST] = list(function.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Global | ast.Nonlocal):
            free |= set(node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        elif isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            walrus = [n.target.id for n in walk(node) if isinstance(n, ast.NamedExpr)]
            names |= set(walrus)
            continue
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            names.add(node.id)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
        pending += children(node)
    return names - free
