"""Find the environment variables that switch code on, and those that a piece of code depends on."""

import ast

from pargolf.audit.code.program import Program
from pargolf.audit.code.tree import Function, dotted, index_of, walk


def switches(tree: ast.Module) -> set[str]:
    """Environment variables whose default is off: `0`, empty or false."""
    names = set()
    for node in index_of(tree).order:
        if isinstance(node, ast.Call) and len(node.args) == 2 and isinstance(node.args[0], ast.Constant):
            default = node.args[1]
            off = isinstance(default, ast.Constant) and str(default.value).lower() in ("0", "", "false", "none", "0.0")
            name = node.args[0].value
            if off and isinstance(name, str) and name.isupper():
                names.add(name)
    return names


def guards(program: Program, node: ast.AST) -> set[str]:
    """Environment variables that the tests around a node, or around the calls to it, depend on."""
    variables: set[str] = set()
    visited: set[Function] = set()

    def climb(start: ast.AST, function: Function, depth: int) -> None:
        for above in program.ancestors(start):
            if isinstance(above, (ast.If, ast.IfExp)):
                variables.update(_variables(program, above.test))
        if function in visited or depth > 5:
            return
        visited.add(function)
        for site in function.calls:
            climb(site.call, site.caller, depth + 1)

    climb(node, program.function_of(node), 0)
    return variables


def _variables(program: Program, test: ast.expr, depth: int = 0) -> set[str]:
    variables: set[str] = set()
    for node in walk(test):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper():
            variables.add(node.value)
        elif isinstance(node, ast.Attribute) and depth < 3:
            for _, source in program.attribute_sources.get(node.attr, ())[:3]:
                variables |= _variables(program, source, depth + 1) if source is not None else set()
        elif isinstance(node, ast.Name) and depth < 3:
            for source2 in program.function_of(test).assigned.get(node.id, ())[:3]:
                if source2 is not None:
                    variables |= _variables(program, source2, depth + 1)
    return variables


def sleeping(program: Program) -> bool:
    """Whether dead code contains anything that a rule could object to: an update, a count, a comparison of tokens."""
    for node in program.index.order:
        if node in program.live:
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("backward", "scatter_add_", "at", "bincount") or dotted(node.func).endswith(
                "autograd.grad"
            ):
                return True
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Subscript):
            return True
    return False
