"""Scopes of a script: the meaning of each name at a place, and which names are functions there.

A minified script uses its short names again in every function, so a name has a meaning only in its scope.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pargolf.audit.code.hidden.names import imported
from pargolf.audit.code.tree import children_of, walk

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, eq=False)
class Scope:
    """The nodes of one scope without those of inner scopes, the names that its imports bind, and the visible functions.

    `own` are the functions that an assignment in this scope would replace. `receiver` is a method's name for its
    object, which a minifier does not call "self"; empty elsewhere. `classes` are those of the script's top level whose
    names mean nothing else anywhere.
    """

    nodes: list[ast.AST]
    names: dict[str, str]
    functions: frozenset[str]
    own: frozenset[str]
    receiver: str = ""
    classes: frozenset[str] = frozenset()


def scopes(tree: ast.Module) -> Iterator[Scope]:
    """The scopes of a script, each after the one that contains it."""
    defined = {n.name for n in tree.body if isinstance(n, ast.ClassDef)}
    others = (
        {n.id for n in walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} if defined else set()
    )
    classes = frozenset(defined - others - {n.arg for n in walk(tree) if isinstance(n, ast.arg)})
    yield from (replace(scope, classes=classes) for scope in _below(tree, {}, frozenset(), frozenset(), ""))


def _below(
    scope: _Scope, names: Mapping[str, str], functions: frozenset[str], outermost: frozenset[str], receiver: str
) -> Iterator[Scope]:
    nodes = [*_own_nodes(scope)]
    defined = frozenset(n.name for n in nodes if isinstance(n, _FUNCTIONS))
    elsewhere = {name for n in nodes if isinstance(n, (ast.Global, ast.Nonlocal)) for name in n.names}
    hidden = _bound(scope, nodes) - elsewhere if scope.__class__ is not ast.Module else set()
    imports = imported(nodes, {name: full for name, full in names.items() if name not in hidden})
    visible = (functions - hidden) | defined
    own_functions = defined | (functions | outermost) & elsewhere
    yield Scope(nodes, imports, visible, own_functions, receiver)
    outermost = defined if isinstance(scope, ast.Module) else outermost
    # Functions inside a class do not see what the class binds.
    down = (names, functions) if isinstance(scope, ast.ClassDef) else (imports, visible)
    for node in nodes:
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            yield from _below(node, *down, outermost, _receiver(scope, node))


def _receiver(scope: _Scope, node: ast.stmt) -> str:
    """The name of the object in a plain method of a class; empty in any other function."""
    plain = isinstance(scope, ast.ClassDef) and isinstance(node, _FUNCTIONS) and not node.decorator_list
    first = [*node.args.posonlyargs, *node.args.args][:1] if plain and isinstance(node, _FUNCTIONS) else []
    return "".join(a.arg for a in first)


def _own_nodes(scope: _Scope) -> Iterator[ast.AST]:
    """All nodes of a scope; functions and classes inside it are one node each, with their decorators and defaults."""
    stack: list[ast.AST] = [*scope.body]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, _FUNCTIONS):
            stack += [*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
        elif isinstance(node, ast.ClassDef):
            stack += [*node.decorator_list, *node.bases, *(k.value for k in node.keywords)]
        else:
            stack += children_of(node)


def _bound(scope: _Scope, nodes: list[ast.AST]) -> set[str]:
    """Names that a scope binds without imports; names of comprehensions belong to these."""
    inside = {id(n) for c in nodes if isinstance(c, ast.comprehension) for n in walk(c.target)}
    bound = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store) and id(n) not in inside}
    bound |= {n.name for n in nodes if isinstance(n, (*_FUNCTIONS, ast.ClassDef))}
    if isinstance(scope, _FUNCTIONS):
        a = scope.args
        bound |= {x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg)))}
    return bound
