"""An adapted model, scored again (C4): a pass that scores first, and then another score by the very weights it changed.

Each update of a score-first pass may be legal and the whole still is not, when a later call scores the same validation
tokens with what the pass has learned from all of them (#991). Followed are the names whose parameters an optimizer
holds, up through the callers; weights that are put back in between end the trail. Source: #991, #1017 C4.
"""

import ast

from pargolf.audit.constants import UNKNOWN
from pargolf.audit.flow import Program
from pargolf.audit.hits import LOOPS, Hit, library_module, live_below, names_in
from pargolf.audit.tree import Function, dotted
from pargolf.audit.verdict import SUSPECT


def graded_again(program: Program, update: ast.Call, function: Function) -> Hit | None:
    """A later score of validation tokens by the very model that a score-first pass over them has changed (C4, #991)."""
    waiting = [(function, name) for name in _learned(program, function) & set(function.params)]
    seen = set(waiting)
    if _restored(program, function, update):
        return None
    while waiting:
        callee, name = waiting.pop()
        for site in callee.calls:
            given = _passed_name(site.call, callee, name)
            if not given or _restored(program, site.caller, site.call, given):
                continue
            if given in site.caller.params:
                if (site.caller, given) not in seen:
                    seen.add((site.caller, given))
                    waiting.append((site.caller, given))
            elif (later := _later_score(program, site.call, site.caller, given)) is not None:
                return Hit(
                    "two_pass",
                    SUSPECT,
                    later,
                    f"`{site.caller.name}` scores validation tokens here with a model that line {site.call.lineno} "
                    "has adapted to them (#991, #1017 C4).",
                    "Probe: count the scored contributions of each token; each must be one.",
                )
    return None


def _passed_name(call: ast.Call, callee: Function, name: str) -> str:
    """The plain name that a call passes for a parameter."""
    at = callee.params.index(name) - (1 if callee.owner is not None else 0)
    given = next((k.value for k in call.keywords if k.arg == name), None)
    if given is None and 0 <= at < len(call.args):
        given = call.args[at]
    return given.id if isinstance(given, ast.Name) else ""


def _learned(program: Program, function: Function) -> set[str]:
    """Names of a function whose parameters its optimizers hold: followed through lists, never through a constructor."""
    feeds: dict[str, set[str]] = {}
    held: set[str] = set()
    for node in program.own_nodes(function):
        if isinstance(node, ast.Assign):
            built = isinstance(node.value, ast.Call) and dotted(node.value.func) in program.classes
            built = built or library_module(node.value)
            for target in node.targets:
                for name in names_in(target):
                    feeds.setdefault(name, set()).update(set() if built else _followed(program, node.value))
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            for name in names_in(node.target):
                feeds.setdefault(name, set()).update(_followed(program, node.iter))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("append", "extend") and isinstance(node.func.value, ast.Name):
                feeds.setdefault(node.func.value.id, set()).update(*(_followed(program, a) for a in node.args))
            elif node.func.attr == "step" and isinstance(node.func.value, ast.Name):
                held.add(node.func.value.id)
    waiting = list(held)
    while waiting:
        for name in feeds.get(waiting.pop(), set()) - held:
            held.add(name)
            waiting.append(name)
    return held


def _followed(program: Program, value: ast.expr) -> set[str]:
    """Names in a value, without those of which only a setting is read, such as `args` of `args.lr`."""
    found = set()
    for node in program.below(value):
        if isinstance(node, ast.Name):
            above = program.parents.get(node)
            setting = (
                isinstance(above, ast.Attribute) and program.value(above, program.function_of(node)) is not UNKNOWN
            )
            if not setting:
                found.add(node.id)
    return found


def _restored(program: Program, function: Function, after: ast.AST, name: str = "") -> bool:
    """Whether weights are put back after a line of a function: `load_state_dict`, or `copy_` outside an optimizer."""
    line = getattr(after, "lineno", 0)
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("load_state_dict", "copy_")
        and node.lineno > line
        and (not name or name in names_in(node))
        for node in program.below(function.node)
    )


def _later_score(program: Program, call: ast.Call, function: Function, name: str) -> ast.Call | None:
    """A call after this one, in no common loop, that scores validation tokens with the model of that name."""
    if any(isinstance(a, LOOPS) for a in program.ancestors(call) if program.function_of(a) is function):
        return None
    below: ast.AST = call
    for above in program.ancestors(call):
        for block in (getattr(above, part, None) for part in ("body", "orelse", "finalbody")):
            if isinstance(block, list) and below in block:
                for statement in block[block.index(below) + 1 :]:
                    for node in live_below(program, statement):
                        if isinstance(node, ast.Call) and _scores_with(program, node, function, name):
                            return node
        if above is function.node:
            return None
        below = above
    return None


def _scores_with(program: Program, call: ast.Call, function: Function, name: str) -> bool:
    held = [*call.args, *(k.value for k in call.keywords)]
    if not any(isinstance(a, ast.Name) and a.id == name for a in held):
        return False
    return any({"VAL", "LOSS"} <= program.known(c.returns, c) for c in program.callees(call))
