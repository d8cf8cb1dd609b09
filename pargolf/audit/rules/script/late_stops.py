"""A clock that is right and a stop that comes late: delayed by another test or by steps, or blind to some work.

`clocks` computes after how many seconds the limit is reached. Training may still go on: the comparison counts only
after so many steps, the stop is set some thousand steps ahead, or the clock is read again after work that it should
have counted. A limit with an unknown value is named and does not pass. Source: README FAQ.
"""

import ast
from collections.abc import Iterator

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import names_in
from pargolf.audit.code.tree import Function, walk
from pargolf.audit.report import SUSPECT, UNVERIFIABLE
from pargolf.audit.rules.rule import Hit
from pargolf.audit.rules.script.clocks import LIMIT, PROBE, ClockReaders, clock_line, training_clock

_ORDERS = (ast.Gt, ast.GtE, ast.Lt, ast.LtE)
_MOST_STEPS = 20  # steps between the clock's limit and the stop, or steps before the clock starts


def training_end(program: Program) -> Iterator[Hit]:
    """Whether training ends within 600 s of wall time, by its clock and by the stop that follows."""
    hits = [*training_clock(program)]
    yield from hits
    if hits:
        return
    limits = [node for node in program.live_of(ast.Compare) if _holds_clock(program, node)]
    late = [*_held_back(program, limits), *_put_off(program, limits), *_uncounted_work(program)]
    yield from late[:1]
    if not late:
        yield from _unknown_limit(program)


def _holds_clock(program: Program, node: ast.Compare) -> bool:
    """Whether a comparison is of a clock with a number."""
    if len(node.ops) != 1 or not isinstance(node.ops[0], _ORDERS):
        return False
    function = program.function_of(node)
    lines = [clock_line(program, side, function, 0) for side in (node.left, node.comparators[0])]
    return all(line is not None for line in lines) and any(line is not None and line.slope for line in lines)


def _held_back(program: Program, limits: list[ast.Compare]) -> Iterator[Hit]:
    """`step >= 14_000 and elapsed >= limit`: a clock that counts only from a later step on."""
    for node in limits:
        function = program.function_of(node)
        for above in program.ancestors(node):
            if isinstance(above, ast.stmt) and not isinstance(above, ast.If):
                break
            tests = above.values if isinstance(above, ast.BoolOp) and isinstance(above.op, ast.And) else []
            for test in tests:
                if isinstance(test, ast.Compare) and test is not node and _of_later_steps(program, test, function):
                    what = f"`{function.name}` looks at its clock only where `{ast.unparse(test)[:50]}`."
                    yield Hit("train_time", SUSPECT, test, what, PROBE)


def _of_later_steps(program: Program, test: ast.Compare, function: Function) -> bool:
    number = program.value(test.comparators[0], function)
    counts = isinstance(test.left, (ast.Name, ast.Attribute)) and isinstance(number, int) and number > _MOST_STEPS
    return counts and isinstance(test.ops[0], (ast.Gt, ast.GtE)) and clock_line(program, test.left, function, 0) is None


def _put_off(program: Program, limits: list[ast.Compare]) -> Iterator[Hit]:
    """`if reached: stop_after = step + 4000`."""
    for node in program.live_of(ast.If):
        function = program.function_of(node)
        names = names_in(node.test)
        sources = [s for name in names for s in function.assigned.get(name, ()) if s is not None]
        if not any(part in limits for source in (node.test, *sources) for part in walk(source)):
            continue
        for statement in node.body:
            value = statement.value if isinstance(statement, ast.Assign) else None
            if isinstance(value, ast.BinOp) and isinstance(value.op, (ast.Add, ast.Mult)):
                numbers = [program.value(side, function) for side in (value.left, value.right)]
                late = any(isinstance(n, (int, float)) and n > _MOST_STEPS for n in numbers)
                if late and _is_awaited(program, statement, function):
                    what = f"`{function.name}` trains on when its clock has run out: `{ast.unparse(value)[:50]}`."
                    yield Hit("train_time", SUSPECT, statement, what, PROBE)


def _is_awaited(program: Program, statement: ast.Assign, function: Function) -> bool:
    """Whether something that is counted, or a name of the value, is compared with what a statement assigns."""
    targets = {name for target in statement.targets for name in names_in(target)}
    counted = {name for n in program.own_of(function, ast.AugAssign) for name in names_in(n.target)}
    counted |= {name for loop in program.own_of(function, ast.For) for name in names_in(loop.target)}
    tests = [n for n in program.own_of(function, ast.Compare) if n in program.live and isinstance(n.ops[0], _ORDERS)]
    return any(
        targets & names_in(test) and (counted | names_in(statement.value)) & (names_in(test) - targets)
        for test in tests
    )


def _uncounted_work(program: Program) -> Iterator[Hit]:
    """Training between the reading that is added up and the reading with which the clock starts again."""
    for added in program.live_of(ast.AugAssign):
        function = program.function_of(added)
        line = clock_line(program, added.value, function, 0)
        if line is None or not line.slope or not isinstance(added.op, ast.Add):
            continue
        block = next((b for b in _blocks(program.parents.get(added)) if added in b), [])
        after = block[block.index(added) + 1 :] if block else []
        for i, statement in enumerate(after):
            again = clock_line(program, statement.value, function, 0) if isinstance(statement, ast.Assign) else None
            if again is not None and again.slope and names_in(statement) & names_in(added.value):
                work = next((s for s in after[:i] if _trains(program, s, function)), None)
                if work is not None:
                    what = f"`{function.name}` leaves `{ast.unparse(work)[:50]}` out of what its clock counts."
                    yield Hit("train_time", SUSPECT, work, what, PROBE)
                break


def _blocks(node: ast.AST | None) -> Iterator[list[ast.stmt]]:
    for part in ("body", "orelse", "finalbody"):
        block = getattr(node, part, None)
        if isinstance(block, list):
            yield block


def _trains(program: Program, statement: ast.stmt, function: Function) -> bool:
    """Whether a statement fetches training tokens or takes a step."""
    calls = [n for n in program.below(statement) if isinstance(n, ast.Call) and n in program.live]
    steps = any(getattr(call.func, "attr", "") in ("backward", "step", "next_batch") for call in calls)
    fetched = any({"TRAIN"} == program.of(call, function) & {"TRAIN", "VAL"} for call in calls)
    return steps or (fetched and isinstance(statement, ast.Assign))


def _unknown_limit(program: Program) -> Iterator[Hit]:
    """A training loop whose clock is read, but not compared with a known limit."""
    readers = ClockReaders(program)
    unclear: list[ast.Compare] = []
    for node in program.live_of(ast.Compare):
        if len(node.ops) == 1 and isinstance(node.ops[0], _ORDERS) and readers.compares(node):
            if _holds_clock(program, node):
                return
            if LIMIT.search(ast.unparse(node)):
                unclear.append(node)
    if unclear:
        shown = ast.unparse(unclear[0])[:60]
        text = f"The seconds after which `{shown}` ends training could not be worked out: only the logs tell its time."
        yield Hit("train_time", UNVERIFIABLE, unclear[0], text, PROBE)
