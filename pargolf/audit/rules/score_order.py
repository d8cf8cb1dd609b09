"""Score before update (C3): validation tokens are scored before anything learns from them.

Every `backward()` on a loss of validation tokens needs a reported score of them, earlier in the same iteration of a
loop that contains both. Callers are checked in the same way. A loop that scores and trains repeats itself if its
counter does not choose the data: from its second round on, it scores tokens it has trained on. SLOT has the same form
with tensors of the function's own (#1336); there is no ruling on it. Sources: README FAQ; #402, #1017.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import (
    LOOPS,
    STORES,
    is_loss,
    is_reported,
    is_validation,
    last_binding,
    library_module,
    live_below,
    names_in,
    root_of,
    updates,
)
from pargolf.audit.code.tree import Function, dotted, walk
from pargolf.audit.read.facts import Facts
from pargolf.audit.report import HOLD, SUSPECT, RuleFinding
from pargolf.audit.rules.rescoring import graded_again
from pargolf.audit.rules.rule import FLIP, Hit, Missing, Surroundings, quoted
from pargolf.audit.rules.validation_data import until_told

_LAST_ROUND = "that an earlier round of the same loop has trained on: only the last round's score counts"
_OPTIMIZERS = ("AdamW", "Adam", "SGD", "LBFGS", "RMSprop", "Muon", "NAdam", "Adagrad")


def logged_order(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """A log that mentions adaptation on validation data before the final score."""
    for log in until_told(facts):
        if log.prequant is not None:
            yield RuleFinding(
                "ttt_order",
                SUSPECT,
                "The log tells of adaptation on validation data before quantization, and so before the final score "
                f"(#1376, #1972, C3). {FLIP}",
                quoted([log.prequant]),
            )


def ttt_order(program: Program) -> Iterator[Hit]:
    """Whether every update from validation tokens comes after their score.

    Updates of SLOT's own tensors are separate.
    """
    for call, loss in updates(program):
        if not is_validation(program, call, loss):
            continue
        function = program.function_of(call)
        if _thrown_away(program, call, function):
            continue
        reason = _unscored(program, call, function, frozenset())
        if not reason:
            hit = graded_again(program, call, function)
            if hit is not None:
                yield hit
            continue
        if _context_only(program, call, loss, function):
            yield Hit(
                "ttt_order",
                HOLD,
                call,
                f"`{function.name}` updates the model on the part of a window before the one it then scores; that is "
                "legal where earlier windows have scored it, in order (#1350, #1017 C3).",
                FLIP,
            )
        elif _own_tensors(program, call, function):
            yield Hit(
                "slot",
                HOLD,
                call,
                f"`{function.name}` optimises tensors of its own on the tokens it then scores; no ruling exists "
                "(#1336), #1240 shows that it looks ahead.",
                FLIP,
            )
        else:
            yield Hit(
                "ttt_order",
                SUSPECT,
                call,
                f"`{function.name}` updates the model on validation tokens {reason} (#1017 C3).",
                FLIP,
            )


def _unscored(program: Program, node: ast.AST, function: Function, visited: frozenset[Function]) -> str:
    """Why no reported score precedes an update at `node`, or nothing."""
    reason = _scored_in(program, node, function)
    if reason is not None:
        return reason
    if function is program.module or function in visited or len(visited) > 6:
        return "before any reported score of them"
    sites = [s for s in function.calls if s.call in program.live]
    if not sites:
        # Passed as a value, or a method without a known call: the definition is used in place of the call.
        if function.parent is not None and function.parent is not program.module:
            return _unscored(program, function.node, function.parent, visited | {function})
        return "before any reported score of them"
    reasons = [
        _unscored(program, s.call, s.caller, visited | {function})
        for s in sites
        if function.owner is not None or _brings_validation(program, s.call, function)
    ]
    return next((r for r in reasons if r), "")


def _brings_validation(program: Program, call: ast.Call, function: Function) -> bool:
    arguments = [*call.args, *(k.value for k in call.keywords)]
    labels = (
        frozenset().union(*(program.of(a, program.function_of(call)) for a in arguments)) if arguments else frozenset()
    )
    return "VAL" in labels or "TRAIN" not in labels


def _scored_in(program: Program, node: ast.AST, function: Function) -> str | None:
    """Empty if scored before, a reason if scored wrongly, None if this function does not score it at all."""
    chain = _chain(program, node, function)
    repeats = [x for x in chain[1:] if isinstance(x, LOOPS) and _repeats(program, x, function)]
    outermost = max((i for i, x in enumerate(chain) if isinstance(x, LOOPS)), default=0)
    called_in_loop = _called_in_loop(program, function)
    for i in range(1, len(chain)):
        above, below = chain[i], chain[i - 1]
        inside = i <= outermost or called_in_loop
        if not inside or (above is function.node and not called_in_loop and function is program.module):
            continue
        statement = next((s for s in _before(above, below) if _reports_score(program, s, function)), None)
        if statement is not None:
            around = set(program.ancestors(statement))
            return _LAST_ROUND if around.intersection(repeats) else ""
    carried = any(isinstance(x, LOOPS) and _carried(program, node, x, function) for x in chain[1:])
    return "" if carried else None


def _carried(program: Program, node: ast.AST, loop: ast.AST, function: Function) -> bool:
    """Whether an update learns from tokens that an earlier iteration of its loop has scored and stored."""
    line = getattr(node, "lineno", 0)
    parts = [node]
    for name in names_in(node):
        parts += [value for value, _ in last_binding(program, name, node, function) or ()]
    inner = (n for part in parts for n in walk(part) if isinstance(n, ast.Name))
    validation_names = {n.id for n in inner if "VAL" in program.of(n, function)}
    nodes = [n for n in live_below(program, loop) if isinstance(n, (ast.Assign, ast.Call))]
    bound = {name: [n.lineno for n in nodes if _binds(n, name)] for name in validation_names}
    stored = {name: lines for name, lines in bound.items() if lines and min(lines) > line}
    if not stored or any(
        lines and name not in stored and not _from_kept(nodes, name, stored) for name, lines in bound.items()
    ):
        return False
    first = min(min(lines) for lines in stored.values())
    statements = (s for s in live_below(program, loop) if isinstance(s, ast.stmt) and s.lineno < first)
    return any(_reports_score(program, s, function) for s in statements if s not in program.ancestors(node))


def _binds(node: ast.Assign | ast.Call, name: str) -> bool:
    """Whether a node gives a name a value, or adds one to it."""
    if isinstance(node, ast.Assign):
        return any(name in names_in(target) for target in node.targets)
    adds = isinstance(node.func, ast.Attribute) and node.func.attr in ("append", "extend", "appendleft", "put")
    return adds and isinstance(node.func, ast.Attribute) and root_of(node.func.value) == name


def _from_kept(nodes: Sequence[ast.AST], name: str, stored: Mapping[str, list[int]]) -> bool:
    """Whether every value that a name gets in a loop is taken from what earlier iterations have stored."""
    values = [n.value for n in nodes if isinstance(n, ast.Assign) and _binds(n, name)]
    return bool(values) and all(names_in(value) & stored.keys() for value in values)


def _chain(program: Program, node: ast.AST, function: Function) -> list[ast.AST]:
    """A node and the nodes that enclose it, up to its function."""
    chain = [node]
    for above in program.ancestors(node):
        chain.append(above)
        if above is function.node:
            break
    return chain


def _called_in_loop(program: Program, function: Function) -> bool:
    """Whether a live loop contains a call of the function."""
    return any(isinstance(a, LOOPS) and a in program.live for s in function.calls for a in program.ancestors(s.call))


def _reports_score(program: Program, statement: ast.stmt, function: Function) -> bool:
    """Whether a live statement adds a loss of validation tokens to what the function, or its caller, reports."""
    if statement not in program.live:
        return False
    if any(is_reported(program, name, function) for name in _gathered(program, statement, function)):
        return True
    return _gives_back(program, statement, function) and _is_gathered(program, function)


def _gives_back(program: Program, statement: ast.stmt, function: Function) -> bool:
    """Whether a statement computes a loss without gradients under a name that the function returns."""
    if not isinstance(statement, (ast.With, ast.Assign)) or function is program.module:
        return False
    if isinstance(statement, ast.With) and not re.search("no_grad|inference_mode", ast.unparse(statement.items[0])):
        return False
    returned = {
        n
        for node in program.own_nodes(function)
        if isinstance(node, (ast.Return, ast.Yield)) and node.value is not None
        for n in names_in(node.value)
    }
    learned = {n for _, loss in updates(program) for n in names_in(loss)}
    return any(
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in returned - learned
        and is_loss(program, node.value, function)
        for node in live_below(program, statement)
    )


def _is_gathered(program: Program, function: Function) -> bool:
    """Whether each caller adds the function's result to what it reports."""
    sites = [site for site in function.calls if site.call in program.live]
    statements = [next((a for a in program.ancestors(s.call) if isinstance(a, ast.stmt)), None) for s in sites]
    return bool(sites) and all(
        statement is not None
        and any(is_reported(program, name, site.caller) for name in _gathered(program, statement, site.caller))
        for site, statement in zip(sites, statements)
    )


def _before(above: ast.AST, below: ast.AST) -> list[ast.stmt]:
    """Statements before `below` in the same block, the last first."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(above, name, None)
        if isinstance(block, list) and below in block:
            return list(reversed(block[: block.index(below)]))
    return []


def _gathered(program: Program, statement: ast.stmt, function: Function) -> Iterator[str]:
    """Names to which a statement adds losses of validation tokens: the reported sum, and others."""
    for node in live_below(program, statement):
        if isinstance(node, ast.AugAssign) and is_loss(program, node.value, function):
            yield root_of(node.target)
        elif isinstance(node, ast.Assign) and is_loss(program, node.value, function):
            target = node.targets[0]
            if isinstance(target, ast.Subscript) or (
                isinstance(node.value, ast.BinOp) and root_of(target) in names_in(node.value)
            ):
                yield root_of(target)
        elif isinstance(node, ast.Call):
            if (
                isinstance(node.func, ast.Attribute)
                and node.func.attr in STORES
                and any(is_loss(program, a, function) for a in node.args)
            ):
                yield root_of(node.func.value)
            name = _held_loss(program, node, function)
            if name is not None:
                yield name
            yield from _kept_on_object(program, node)


def _kept_on_object(program: Program, call: ast.Call) -> Iterator[str]:
    """Sums on its own object to which a called method adds losses of validation tokens."""
    for callee in program.callees(call):
        for node in program.own_nodes(callee) if callee.owner is not None else ():
            if isinstance(node, ast.AugAssign) and node in program.live and is_loss(program, node.value, callee):
                root = root_of(node.target)
                if root.startswith("self."):
                    yield root


def _held_loss(program: Program, call: ast.Call, function: Function) -> str | None:
    """The name to which a call of the script's own function adds a loss, such as `accumulate(loss, ..., loss_sum)`."""
    if not any(is_loss(program, a, function) for a in call.args):
        return None
    for callee in program.callees(call):
        for node in program.below(callee.node):
            name = None
            if isinstance(node, ast.AugAssign):
                name = root_of(node.target)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in STORES:
                name = root_of(node.func.value)
            if name in callee.params:
                index = callee.params.index(name)
                arguments = [k.value for k in call.keywords if k.arg == name] or call.args[index : index + 1]
                if arguments:
                    return root_of(arguments[0])
    return None


def _repeats(program: Program, loop: ast.AST, function: Function) -> bool:
    """Whether a loop uses the same data again: a count above one that chooses no data."""
    if not isinstance(loop, ast.For) or not isinstance(loop.iter, ast.Call) or dotted(loop.iter.func) != "range":
        return False
    if len(loop.iter.args) == 1:
        count = program.value(loop.iter.args[0], function)
        if isinstance(count, (int, float)) and count <= 1:
            return False
    if any("VAL" in program.of(a, function) for a in loop.iter.args):
        return False
    nodes = list(live_below(program, loop))
    names = _follow(names_in(loop.target), nodes)
    return not any(_chooses(program, node, loop.iter, names, function) for node in nodes)


def _follow(names: set[str], nodes: list[ast.AST]) -> set[str]:
    """Names, and those that get their values from them, through at most four assignments."""
    for _ in range(4):
        for node in nodes:
            if isinstance(node, (ast.Assign, ast.AugAssign)):
                if node.value is not None and names_in(node.value) & names:
                    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                        names |= names_in(target)
            elif isinstance(node, (ast.For, ast.comprehension)) and names_in(node.iter) & names:
                names |= names_in(node.target)
    return names


def _chooses(program: Program, node: ast.AST, head: ast.Call, names: set[str], function: Function) -> bool:
    """Whether a node picks validation tokens by one of the names: as an index, or as an argument of the same call."""
    if isinstance(node, ast.Subscript):
        return bool(names_in(node.slice) & names) and "VAL" in program.of(node.value, function)
    if isinstance(node, ast.Call) and node is not head and not isinstance(node.func, ast.Attribute):
        arguments = [*node.args, *(k.value for k in node.keywords)]
        return any(names_in(a) & names for a in arguments) and any("VAL" in program.of(a, function) for a in arguments)
    return False


def _thrown_away(program: Program, call: ast.AST, function: Function) -> bool:
    """Whether the trained model is made inside the loop around it, and neither scored with nor used after it."""
    outer = [a for a in program.ancestors(call) if isinstance(a, LOOPS) and program.function_of(a) is function]
    if not outer:
        return False
    loop = outer[-1]
    constructions, stepped = _made_and_stepped(program, loop)
    if not stepped or not stepped <= constructions.keys():
        return False
    parts = constructions.keys() & {n for name in stepped for n in names_in(constructions[name])}
    if not parts or any(True for s in getattr(loop, "body", []) for _ in _gathered(program, s, function)):
        return False
    end = getattr(loop, "end_lineno", 0) or 0
    names = (n for n in program.own_nodes(function) if isinstance(n, ast.Name))
    return not any(n.id in parts and n.lineno > end for n in names)


def _made_and_stepped(program: Program, loop: ast.AST) -> tuple[dict[str, ast.Call], set[str]]:
    """Names to which a loop gives the result of a call, and names whose `step` it calls."""
    constructions: dict[str, ast.Call] = {}
    stepped: set[str] = set()
    for node in live_below(program, loop):
        if isinstance(node, ast.Assign):
            if isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Call):
                constructions[node.targets[0].id] = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "step":
            stepped.add(root_of(node.func.value))
    return constructions, stepped


def _context_only(program: Program, update: ast.AST, loss: ast.expr, function: Function) -> bool:
    """Whether a loss is of `x[:, :s]` and `y[:, :s]`, and the same function scores from `s` on."""
    bound = last_binding(program, loss.id, update, function) if isinstance(loss, ast.Name) else [(loss, update)]
    arguments = [a for value, _ in bound or () if isinstance(value, ast.Call) for a in value.args]
    ends = {_end(argument) for argument in arguments}
    if len(ends) != 1 or "" in ends:
        return False
    cuts = (_cut(n) for n in program.own_nodes(function) if n in program.live)
    return any(cut is not None and isinstance(cut.lower, ast.Name) and cut.lower.id in ends for cut in cuts)


def _end(node: ast.AST) -> str:
    """The name `s` of `x[:, :s]`; empty for anything else."""
    cut = _cut(node)
    ends_at_name = cut is not None and cut.lower is None and isinstance(cut.upper, ast.Name)
    return cut.upper.id if ends_at_name and cut is not None and isinstance(cut.upper, ast.Name) else ""


def _cut(node: ast.AST) -> ast.Slice | None:
    """The slice of the last axis, `:s` of `x[:, :s]`."""
    if not isinstance(node, ast.Subscript):
        return None
    last = node.slice.elts[-1] if isinstance(node.slice, ast.Tuple) and node.slice.elts else node.slice
    return last if isinstance(last, ast.Slice) else None


def _own_tensors(program: Program, call: ast.AST, function: Function) -> bool:
    """Whether the optimizer of an update holds new tensors of this function, not the model's weights.

    A closure that an optimizer calls, as LBFGS does, is judged by the function around it.
    """
    fresh = _fresh_tensors(program, function)
    if fresh:
        if _optimized(program, function) & fresh:
            return True
        if isinstance(call, ast.Call) and len(call.args) > 1 and names_in(call.args[1]) & fresh:
            return True
    above = function.parent
    return above is not None and above is not program.module and _own_tensors(program, call, above)


def _optimized(program: Program, function: Function) -> set[str]:
    """Names in the construction of a function's optimizers, and the names where their values come from."""
    parameters: set[str] = set()
    for node in program.own_nodes(function):
        if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in _OPTIMIZERS:
            names = {n for a in node.args[:1] for n in names_in(a)}
            sources = [e for name in names for e in function.assigned.get(name, ()) if e is not None]
            parameters |= names | {n for e in sources for n in names_in(e)}
    return parameters


def _fresh_tensors(program: Program, function: Function) -> set[str]:
    """Names to which a function gives new tensors, or modules of the library, that need gradients."""
    fresh, trainable = set(), set()
    for node in program.own_nodes(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Call):
            name = node.targets[0].id
            if library_module(node.value):
                fresh.add(name)
                trainable.add(name)
                continue
            text = ast.unparse(node.value)
            if any(k in text for k in ("zeros", "randn", "empty", "ones", "clone()", "Parameter(")):
                fresh.add(name)
                trainable |= {name} if "requires_grad" in text or "Parameter(" in text else set()
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "requires_grad_"
            and isinstance(node.func.value, ast.Name)
        ):
            trainable.add(node.func.value.id)
    return fresh & trainable
