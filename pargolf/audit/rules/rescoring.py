"""Tokens that are scored twice (C4).

Two passes show in three ways: counts that are complete before the loop that reads them; the least loss over several
rounds (#846, #573); or a later score with the weights that a score-first pass has changed (#991). In the last, each
update of the first pass may be legal, and the whole is still not. To detect it, the names whose parameters an optimizer
holds are followed through the callers. Weights that are restored in between end the search.
"""

import ast
import re
from collections.abc import Callable, Iterator

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import (
    LOOPS,
    STORES,
    is_loss,
    is_reported,
    library_module,
    live_below,
    names_in,
    root_of,
    updates,
)
from pargolf.audit.code.tree import Function, dotted, walk
from pargolf.audit.code.values import UNKNOWN
from pargolf.audit.read.facts import Facts
from pargolf.audit.report import SUSPECT, RuleFinding
from pargolf.audit.rules.rule import Hit, Missing, Surroundings, quoted
from pargolf.audit.rules.script.least_loss import least_loss
from pargolf.audit.rules.validation_data import until_told

# Nodes that can count into a table or read one.
_TOUCHING = (ast.AugAssign, ast.Call, ast.Subscript)


def logged_passes(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Reported scores whose tag in the log names a second pass; each tag once."""
    tags: set[str] = set()
    for log in until_told(facts):
        final = log.final
        if final is not None and final.tag not in tags and re.search(r"two_?pass|pass_?2|rescore", final.tag):
            tags.add(final.tag)
            yield RuleFinding(
                "two_pass",
                SUSPECT,
                f"The reported score is the log's `{final.tag}`: a second pass (#846, C4). Probe: count the scored "
                "contributions of each token; each must be one.",
                quoted([final.line]),
            )


def two_pass(program: Program) -> Iterator[Hit]:
    """Whether no token is scored twice: no minimum over rounds, no second reading of complete counts."""
    for node in program.live_of(ast.Call):
        if dotted(node.func).split(".")[-1] in ("minimum", "min", "fmin"):
            hit = _minimum(program, node)
            if hit is not None:
                yield hit
    yield from least_loss(program)
    yield from _filled_first(program)
    yield from _added_first(program)


def _added_first(program: Program) -> Iterator[Hit]:
    """Counts to which an iteration of a loop adds its tokens before it reads them to score the same tokens."""
    adds, reads = _closure(program, _adds_counts), _closure(program, _reads_counts)
    for loop in program.live_of(ast.For) if adds and reads else ():
        function, block = program.function_of(loop), loop.body
        tables = _count_holders(program, function, adds)
        for i, earlier in enumerate(block) if tables else ():
            added = _touched(program, earlier, function, adds, _adds_counts) & tables
            if not added or any(_touched(program, s, function, reads, _reads_counts) & added for s in block[: i + 1]):
                continue
            assigned = {n for s in block[:i] if isinstance(s, ast.Assign) for t in s.targets for n in names_in(t)}
            fresh = assigned & names_in(earlier)
            later = block[i + 1 :]
            is_read = any(_touched(program, s, function, reads, _reads_counts) & added for s in later)
            scored = {n for s in later if _sums_loss(program, s, function) for n in names_in(s)}
            if is_read and fresh & scored:
                text = f"`{function.name}` counts tokens here before it scores them with the same counts (#1017 C3)."
                yield Hit("ttt_order", SUSPECT, earlier, text, "Probe: flip one target; its own score may not change.")
                return


def _sums_loss(program: Program, statement: ast.stmt, function: Function) -> bool:
    """Whether a statement adds a loss of validation tokens to a sum or a list."""
    if isinstance(statement, ast.AugAssign):
        return is_loss(program, statement.value, function)
    call = statement.value if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) else None
    stores = call is not None and getattr(call.func, "attr", "") in STORES
    return stores and call is not None and any(is_loss(program, a, function) for a in call.args)


def _minimum(program: Program, call: ast.Call) -> Hit | None:
    function = program.function_of(call)
    if len(call.args) < 2 or not any(is_loss(program, a, function) for a in call.args):
        return None
    parent = program.parents.get(call)
    if not isinstance(parent, ast.Assign) or len(parent.targets) != 1:
        return None
    minimum = root_of(parent.targets[0])
    loops = [a for a in program.ancestors(call) if isinstance(a, LOOPS) and program.function_of(a) is function]
    if not any(minimum in names_in(a) for a in call.args) or not is_reported(program, minimum, function):
        return None
    if not any(_trains(program, loop) for loop in loops) or not _counts(program, minimum, function):
        return None
    return Hit(
        "two_pass",
        SUSPECT,
        call,
        f"`{function.name}` reports the least loss over several rounds on the same tokens (#573, #685, #1017 C4).",
        "Probe: count the scored contributions of each token; each must be one.",
    )


def _counts(program: Program, name: str, function: Function) -> bool:
    """Whether a name is added to a sum, stored, returned or printed as a score, not only kept for inspection."""
    if name in function.params or name not in function.assigned:
        return True
    for node in program.own_nodes(function):
        if node not in program.live or name not in names_in(node):
            continue
        if isinstance(node, (ast.Return, ast.AugAssign)) and node.value is not None and name in names_in(node.value):
            return True
        if isinstance(node, ast.Assign) and name not in {n for t in node.targets for n in names_in(t)}:
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in STORES:
            return True
        if isinstance(node, ast.JoinedStr) and re.search(r"val_(?:bpb|loss)[:=]", ast.unparse(node)):
            return True
    return False


def _trains(program: Program, loop: ast.AST) -> bool:
    """Whether a loop contains an update."""
    nodes = set(live_below(program, loop))
    return any(update in nodes for update, _ in updates(program))


def _filled_first(program: Program) -> Iterator[Hit]:
    """Counts that one statement completes over validation tokens and a later one, in no common loop, scores with."""
    adds, reads = _closure(program, _adds_counts), _closure(program, _reads_counts)
    if not adds or not reads:
        return
    for function in (program.module, *program.functions):
        if not function.live or any(_looped(program, site.call, site.caller) for site in function.calls):
            continue
        tables = _count_holders(program, function, adds)
        pairs = (
            p
            for block in _open_blocks(program, function)
            for p in _fill_and_use(program, function, block, tables, reads)
        )
        for earlier, later, read_tables in pairs if tables else ():
            if _touched(program, earlier, function, adds, _adds_counts) & read_tables and not _is_prefix(
                function, earlier, later
            ):
                yield Hit(
                    "two_pass",
                    SUSPECT,
                    later,
                    f"`{function.name}` scores here with counts that line {earlier.lineno} has filled "
                    "from the validation tokens (#846, #888, #1017 C4).",
                    "Probe: count the scored contributions of each token, in order; each must be one.",
                )
                return


def _fill_and_use(
    program: Program, function: Function, block: list[ast.stmt], tables: set[str], reads: set[Function]
) -> Iterator[tuple[ast.stmt, ast.stmt, set[str]]]:
    """Pairs of statements of a block: one that may fill tables, a later one that reads some, and those tables."""
    for i, later in enumerate(block):
        read_tables = _touched(program, later, function, reads, _reads_counts) & tables
        if read_tables and later in program.live:
            for earlier in block[:i]:
                if earlier in program.live and isinstance(earlier, (*LOOPS, ast.Expr, ast.Assign, ast.If, ast.With)):
                    yield earlier, later, read_tables


def _is_prefix(function: Function, earlier: ast.stmt, later: ast.stmt) -> bool:
    """Whether counts are filled only up to where scoring begins (#796):

    `range(0, mine[0])`, then a loop over `mine`.
    """
    scored = names_in(later)
    for name in _ends(earlier):
        for source in function.assigned.get(name, ()):
            if isinstance(source, ast.Subscript) and getattr(source.slice, "value", None) == 0:
                return bool(names_in(source.value) & scored)
        for source in (s for n in scored for s in function.assigned.get(n, ())):
            cut = source.slice if isinstance(source, ast.Subscript) else None
            if isinstance(cut, ast.Slice) and isinstance(cut.lower, ast.Name) and cut.lower.id == name:
                return True
    return False


def _ends(statement: ast.stmt) -> set[str]:
    """Names at which a statement's ranges and slices end, and none of them begins."""
    ends: set[str] = set()
    starts: set[str] = set()
    for node in walk(statement):
        if isinstance(node, ast.Call) and dotted(node.func) == "range":
            ends |= names_in(node.args[min(1, len(node.args) - 1)]) if node.args else set()
            starts |= names_in(node.args[0]) if len(node.args) > 1 else set()
        elif isinstance(node, ast.Slice):
            ends |= names_in(node.upper) if node.upper is not None else set()
            starts |= names_in(node.lower) if node.lower is not None else set()
    return ends - starts


def _looped(program: Program, node: ast.AST, function: Function) -> bool:
    """Whether a node is in a loop of its own function."""
    for above in program.ancestors(node):
        if above is function.node:
            return False
        if isinstance(above, LOOPS):
            return True
    return False


def _adds_counts(program: Program, node: ast.AST) -> set[str]:
    """Roots of tables into which a node counts validation tokens."""
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        return _last(node.target) & program.tables
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if dotted(node.func).endswith("add.at") and node.args:
            return _last(node.args[0]) & program.tables
        if node.func.attr in ("scatter_add_", "index_add_", "index_put_"):
            return _last(node.func.value) & program.tables
    return set()


def _reads_counts(program: Program, node: ast.AST) -> set[str]:
    """Roots of tables that a node reads at a key made from validation tokens."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and _last(node) & program.tables:
        parent = program.parents.get(node)
        if not isinstance(parent, ast.AugAssign) and "VAL" in program.of(node.slice, program.function_of(node)):
            return _last(node) & program.tables
    return set()


def _closure(program: Program, direct: Callable[[Program, ast.AST], set[str]]) -> set[Function]:
    """Functions that do something, themselves or through functions of the script that they call."""
    functions = {program.function_of(node) for node in program.live_of(*_TOUCHING) if direct(program, node)}
    waiting = list(functions)
    while waiting:
        for site in waiting.pop().calls:
            if site.caller not in functions and site.caller is not program.module:
                functions.add(site.caller)
                waiting.append(site.caller)
    return functions


def _count_holders(program: Program, function: Function, adds: set[Function]) -> set[str]:
    """Names of a function that hold tables: tables, objects that count, and the results of counting calls."""
    owners = {f.owner for f in adds if f.owner}
    holders = {name for name in (*function.assigned, *function.params) if name in program.tables}
    for name, sources in function.assigned.items():
        for source in sources:
            if isinstance(source, ast.Call):
                constructor = source.func.id if isinstance(source.func, ast.Name) else ""
                if constructor in owners or any(c in adds and c.owner is None for c in program.callees(source)):
                    holders.add(name)
    return holders


def _open_blocks(program: Program, function: Function) -> Iterator[list[ast.stmt]]:
    """Blocks of a function that are in none of its loops."""
    waiting = [function.node.body] if isinstance(function.node.body, list) else []
    while waiting:
        block = waiting.pop()
        yield block
        for statement in block:
            if isinstance(statement, (ast.If, ast.With, ast.Try)):
                waiting += [b for n in ("body", "orelse", "finalbody") if (b := getattr(statement, n, None))]


def _touched(
    program: Program,
    statement: ast.stmt,
    function: Function,
    through: set[Function],
    direct: Callable[[Program, ast.AST], set[str]],
) -> set[str]:
    """Names whose tables a statement touches: directly, as a method's object, an argument or a closure's name."""
    names: set[str] = set()
    for node in live_below(program, statement):
        names |= direct(program, node)
        if isinstance(node, ast.Call):
            for callee in program.callees(node):
                if callee in through:
                    names |= _handed(program, node, callee, function)
        elif isinstance(node, ast.Assign) and _returns_tables(program, node.value, through):
            names |= {n for t in node.targets for n in names_in(t)}
    return names


def _returns_tables(program: Program, value: ast.expr, through: set[Function]) -> bool:
    """Whether a value is the result of one of the functions, not of a method."""
    calls = program.callees(value) if isinstance(value, ast.Call) else []
    return any(c in through and c.owner is None for c in calls)


def _handed(program: Program, call: ast.Call, callee: Function, function: Function) -> set[str]:
    """Names that a call passes to a function: its object, its plain arguments, and the names that a closure sees."""
    names = {root_of(call.func.value)} if isinstance(call.func, ast.Attribute) else set()
    names |= {a.id for a in (*call.args, *(k.value for k in call.keywords)) if isinstance(a, ast.Name)}
    if callee.parent is function and function is not program.module:
        names |= names_in(callee.node)
    return names


def _last(node: ast.AST) -> set[str]:
    """The name or attribute at the root of a table expression."""
    while isinstance(node, (ast.Subscript, ast.Starred)):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else {node.attr} if isinstance(node, ast.Attribute) else set()


# ---- an adapted model that scores again


def graded_again(program: Program, update: ast.Call, function: Function) -> Hit | None:
    """A later score of validation tokens by the model that a score-first pass over them has changed (C4, #991)."""
    waiting = [(function, name) for name in _learned(program, function) & set(function.params)]
    visited = set(waiting)
    if _restored(program, function, update):
        return None
    while waiting:
        callee, name = waiting.pop()
        for site in callee.calls:
            argument = _passed_name(site.call, callee, name)
            if not argument or _restored(program, site.caller, site.call, argument):
                continue
            if argument in site.caller.params:
                if (site.caller, argument) not in visited:
                    visited.add((site.caller, argument))
                    waiting.append((site.caller, argument))
            elif (later := _later_score(program, site.call, site.caller, argument)) is not None:
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
    index = callee.params.index(name) - (1 if callee.owner is not None else 0)
    argument = next((k.value for k in call.keywords if k.arg == name), None)
    if argument is None and 0 <= index < len(call.args):
        argument = call.args[index]
    return argument.id if isinstance(argument, ast.Name) else ""


def _learned(program: Program, function: Function) -> set[str]:
    """Names of a function whose parameters its optimizers hold; followed through lists, never through a constructor."""
    feeds: dict[str, set[str]] = {}
    names: set[str] = set()
    for node in program.own_nodes(function):
        for name, sources in _fed(program, node):
            feeds.setdefault(name, set()).update(sources)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "step":
            names |= {node.func.value.id} if isinstance(node.func.value, ast.Name) else set()
    waiting = list(names)
    while waiting:
        for name in feeds.get(waiting.pop(), set()) - names:
            names.add(name)
            waiting.append(name)
    return names


def _fed(program: Program, node: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """Names to which a node gives something, and the names where that comes from."""
    if isinstance(node, ast.Assign):
        built = isinstance(node.value, ast.Call) and dotted(node.value.func) in program.classes
        sources = set() if built or library_module(node.value) else _followed(program, node.value)
        yield from ((name, sources) for target in node.targets for name in names_in(target))
    elif isinstance(node, (ast.For, ast.AsyncFor)):
        yield from ((name, _followed(program, node.iter)) for name in names_in(node.target))
    elif isinstance(node, ast.Call):
        method = node.func
        if isinstance(method, ast.Attribute) and method.attr in ("append", "extend"):
            sources = {name for a in node.args for name in _followed(program, a)}
            yield from [(method.value.id, sources)] if isinstance(method.value, ast.Name) else []


def _followed(program: Program, value: ast.expr) -> set[str]:
    """Names in a value, except those of which only a setting is read, such as `args` of `args.lr`."""
    names = set()
    for node in program.below(value):
        if isinstance(node, ast.Name):
            above = program.parents.get(node)
            setting = (
                isinstance(above, ast.Attribute) and program.value(above, program.function_of(node)) is not UNKNOWN
            )
            if not setting:
                names.add(node.id)
    return names


def _restored(program: Program, function: Function, after: ast.AST, name: str = "") -> bool:
    """Whether weights are restored after a line of a function: `load_state_dict`, or `copy_` outside an optimizer."""
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
    arguments = [*call.args, *(k.value for k in call.keywords)]
    if not any(isinstance(a, ast.Name) and a.id == name for a in arguments):
        return False
    return any({"VAL", "LOSS"} <= program.known(c.returns, c) for c in program.callees(call))
