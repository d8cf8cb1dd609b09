"""The program without what its recipe never needs: the form that is shipped.

    remove guards -> insert constants of the recipe -> fold branches -> drop unused code; repeat until nothing changes

A guard is an `if` that only raises, or a `try` whose handlers only raise; a finished run has never triggered one.
(`SystemExit` is not a guard.) A field that has the same value None, True, False or () everywhere in the recipe, and
that no call sets, is replaced by that value; so is an argument that no call gives, and an attribute that only ever has
one value. Then conditions are folded, branches removed, and unused functions, methods and names dropped. Only syntax
trees are read, so things are identified by name, on the safe side: if another thing has the same name, both stay.
"""

import ast
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from pargolf.ship.shrink.arguments import Arguments
from pargolf.ship.shrink.constants import (
    ConstantFields,
    ConstantLocals,
    Folded,
    Values,
    constant_attributes,
    constant_fields,
)
from pargolf.ship.shrink.inline import inlined, without_unread_events
from pargolf.ship.shrink.purity import KEPT_METHODS, Harmless, bound_by, is_pass, is_store
from pargolf.ship.shrink.tree import TreeTransformer, walk
from pargolf.ship.shrink.undocumented import WithoutDocstrings
from pargolf.ship.shrink.unused import WithoutUnread, WithoutUnreadAttributes


def specialized(
    tree: ast.Module,
    constants: Values | None = None,
    *,
    sure: Mapping[str, str] | None = None,
    keep: Collection[str] = (),
    outside: Collection[str] = (),
) -> ast.Module:
    """Remove everything that is never needed; changes `tree` and returns it.

    constants: constant fields of the recipe
    sure: constants as source text that hold even if the program assigns these names
    keep: globals that must stay
    outside: all words in other code that uses `tree`; nothing is assumed about things with these names, and they stay
    """
    keep = {*keep, *outside}
    tree = _Unguarded().visit(WithoutDocstrings().visit(tree))
    given = {name: ast.parse(text, mode="eval").body for name, text in (sure or {}).items()}
    everywhere, of_specs = constant_fields(tree, {n: v for n, v in (constants or {}).items() if n not in outside})
    tree = ConstantFields(everywhere | given, of_specs).visit(tree)
    size = 0
    while size != (size := sum(1 for _ in walk(tree))):
        tree = Folded().visit(_Unguarded().visit(tree))
        tree = Arguments(tree, outside).visit(tree)
        tree = ConstantFields(constant_attributes(tree, outside), {}).visit(tree)
        tree = ConstantLocals().visit(tree)
        harmless = Harmless(tree, outside)
        tree = inlined(without_unread_events(tree, outside), keep=keep, harmless=harmless)
        tree = WithoutUnreadAttributes(tree, harmless, outside).visit(tree)
        tree = WithoutUnread(tree, harmless, outside).visit(tree)
        tree = _reachable(tree, keep, outside)
    return tree


_SCOPES = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _only_raises(body: list[ast.stmt]) -> bool:
    """Whether a block only raises, possibly after assignments for the message."""
    if not body or not isinstance(body[-1], ast.Raise) or body[-1].exc is None:
        return False
    raised = body[-1].exc
    name = raised.func if isinstance(raised, ast.Call) else raised
    if isinstance(name, ast.Name) and name.id == "SystemExit":
        return False
    return all(isinstance(s, ast.Assign | ast.AnnAssign) for s in body[:-1])


class _Unguarded(TreeTransformer):
    """Removes guards."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """Keep only the branch that does not raise."""
        self.generic_visit(node)
        if any(isinstance(n, ast.NamedExpr) for n in walk(node.test)):
            return node
        if _only_raises(node.body):
            return node.orelse or [ast.Pass()]
        return node.body if _only_raises(node.orelse) else node

    def visit_Try(self, node: ast.Try) -> ast.AST | list[ast.stmt]:
        """Keep only the body when all handlers raise."""
        self.generic_visit(node)
        if not node.handlers or not all(_only_raises(h.body) or _reraises(h.body) for h in node.handlers):
            return node
        if node.finalbody:
            node.handlers, node.body, node.orelse = [], [*node.body, *node.orelse], []
            return node
        return [*node.body, *node.orelse]


def _reraises(body: list[ast.stmt]) -> bool:
    return len(body) == 1 and isinstance(body[0], ast.Raise) and body[0].exc is None


def _reachable(tree: ast.Module, kept: Collection[str], outside: Collection[str]) -> ast.Module:
    """Keep only the definitions, methods and imports that the top-level code and `kept` need."""
    defined: dict[str, list[ast.stmt]] = defaultdict(list)
    for node in tree.body:
        for name in bound_by(node):
            defined[name].append(node)
    roots = [node for node in tree.body if not any(True for _ in bound_by(node))]
    seen = _reach([*roots, *(node for name in kept for node in defined.get(name, ()))], defined, outside)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            node.body = [n for n in node.body if _stays(n, seen)] or [ast.Pass()]
    tree.body = [node for node in tree.body if id(node) in seen]
    return tree


def _reach(roots: list[ast.stmt], defined: Mapping[str, list[ast.stmt]], outside: Collection[str]) -> set[int]:
    """The ids of the definitions that the roots reach; a method is reached when its name is mentioned."""
    seen: set[int] = set()
    mentioned: set[str] = set(outside)
    methods: list[ast.FunctionDef] = []
    pending: list[ast.stmt] = list(roots)
    while pending:
        node = pending.pop()
        if id(node) not in seen:
            seen.add(id(node))
            own = _callable_by_name(node)
            methods += own
            for inner, hidden in (pair for part in _parts_without(node, own) for pair in _named(part)):
                if isinstance(inner, ast.Name):
                    pending += [] if inner.id in hidden else defined.get(inner.id, [])
                elif isinstance(inner, ast.Attribute):
                    mentioned.add(inner.attr)
                elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    mentioned.add(inner.value)
        if not pending:
            pending += [method for method in methods if method.name in mentioned and id(method) not in seen]
    return seen


def _named(part: ast.AST) -> Iterator[tuple[ast.AST, Collection[str]]]:
    """Every node of a part, with the names that are local there."""
    if not isinstance(part, ast.FunctionDef):
        yield from ((node, ()) for node in walk(part))
        return
    arguments = part.args
    outside = [*part.decorator_list, *arguments.defaults, *(one for one in arguments.kw_defaults if one is not None)]
    yield from ((node, ()) for one in outside for node in walk(one))
    own = {one.arg for one in walk(arguments) if isinstance(one, ast.arg)}
    pending: list[ast.AST] = [*part.body]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Name) and is_store(node):
            own.add(node.id)
        elif not isinstance(node, _SCOPES):
            pending += ast.iter_child_nodes(node)
    own -= {name for node in walk(part) if isinstance(node, ast.Global) for name in node.names}
    yield from ((node, own) for one in part.body for node in walk(one))


def _callable_by_name(node: ast.stmt) -> list[ast.FunctionDef]:
    """The methods of a class that only the program itself calls."""
    body = node.body if isinstance(node, ast.ClassDef) else []
    return [n for n in body if isinstance(n, ast.FunctionDef) and not _special(n)]


def _parts_without(node: ast.stmt, methods: list[ast.FunctionDef]) -> list[ast.AST]:
    """A definition, or the parts of a class other than these methods."""
    if not isinstance(node, ast.ClassDef):
        return [node]
    return [*node.bases, *node.keywords, *node.decorator_list, *(n for n in node.body if n not in methods)]


def _special(method: ast.FunctionDef) -> bool:
    """Whether Python or a library calls the method."""
    return method.name in KEPT_METHODS or method.name.startswith("__")


def _stays(node: ast.stmt, seen: set[int]) -> bool:
    if not isinstance(node, ast.FunctionDef):
        return True
    if node.name == "__post_init__":
        return not is_pass(node.body)
    return id(node) in seen or _special(node)
