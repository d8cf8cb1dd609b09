"""The clock that ends training: how many seconds have really passed when it says that the time is up.

The loop stops when an expression of clock differences reaches a limit. The expression is linear in the clock. Its slope
(1000 for milliseconds) and the limit's value give the wall seconds at which training stops. So a scaled clock and a
raised limit show in one number, however they are written. A constant that is subtracted counts, too. A clock that is
set back once, at a step of training, is found by the test around it.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import LOOPS, names_in, updates
from pargolf.audit.code.tree import Function, dotted, walk
from pargolf.audit.code.values import UNKNOWN
from pargolf.audit.report import SUSPECT, UNVERIFIABLE
from pargolf.audit.rules.rule import Hit
from pargolf.audit.rules.time_limits import SECONDS

_READINGS = ("time.perf_counter", "time.time", "time.monotonic")
_OTHERS = ("time.process_time", "time.thread_time", "time.process_time_ns", "time.thread_time_ns", "time.clock")
_CLOCKS = {**dict.fromkeys(_READINGS, 1.0), **{f"{name}_ns": 1e9 for name in _READINGS}}
PROBE = "Probe: time the run from outside."
_MOST_DEPTH, MOST_VISITS = 12, 200_000  # of expressions, in one program: cycles can be walked in too many ways
_READERS = ("elapsed_time", "timestamp", "total_seconds", "elapsed", "time", "perf_counter")
_TIMES = re.compile(r"time|clock|elapsed|second|_ms$|_s$|start|begin|deadline|limit", re.I)
LIMIT = re.compile(r"wall_?clock|time_?limit|max_?(?:seconds|time)|time_?budget|deadline|time_?cap", re.I)


@dataclass(frozen=True)
class _Line:
    """`slope` times the seconds since a reading of the clock, plus `offset`; a plain number has slope 0."""

    slope: float
    offset: float


def training_clock(program: Program) -> Iterator[Hit]:
    """Whether a limit that a reading of the clock is compared with is at most 600 s of wall time."""
    ends = False
    for node in program.live_of(ast.Compare):
        if len(node.ops) != 1 or not isinstance(node.ops[0], (ast.Gt, ast.GtE, ast.Lt, ast.LtE)):
            continue
        function = program.function_of(node)
        sides = [clock_line(program, side, function, 0) for side in (node.left, node.comparators[0])]
        if any(side is None for side in sides):
            continue
        stops = _stops_at(*(side for side in sides if side is not None))
        ends = ends or (stops is not None and _ends_training(program, node, function))
        if stops is not None and stops > SECONDS and _ends_training(program, node, function):
            yield Hit(
                "train_time",
                SUSPECT,
                node,
                f"`{function.name}` goes on until its clock says so, which is after {stops:,.0f} s of the wall clock; "
                "600 s are allowed in this track.",
                PROBE,
            )
            return
        if stops is not None and (interval := _looks_seldom(program, node, function)):
            summary = f"`{function.name}` looks at its clock every {interval:,} steps only."
            yield Hit("train_time", SUSPECT, node, summary, PROBE)
            return
    tampering = [*_set_back(program), *_moved(program), *_begun_again(program), *_bent(program)]
    yield from tampering
    if not ends and not tampering:
        yield from _switched_off(program)


def _bent(program: Program) -> Iterator[Hit]:
    """A power of a clock reading, or only some steps of it: no linear function of the wall clock any more."""
    for node in program.live_of(ast.BinOp):
        function = program.function_of(node)
        factors = (node.left, node.right) if isinstance(node.op, ast.Mult) else ()
        some = any(isinstance(f, ast.BinOp) and isinstance(f.op, ast.Mod) for f in factors)
        power = isinstance(node.op, ast.Pow) and program.value(node.right, function) != 1
        sides = factors if some else (node.left,) if power else ()
        if any(line is not None and line.slope for line in (clock_line(program, side, function, 0) for side in sides)):
            summary = f"`{function.name}` counts time by `{ast.unparse(node)[:60]}`, which is not what has passed."
            yield Hit("train_time", SUSPECT, node, summary, PROBE)
            return


def _looks_seldom(program: Program, node: ast.Compare, function: Function) -> int:
    """The number of steps between two readings of the clock, if it is a thousand or more."""
    above = program.parents.get(node)
    beside = above.values if isinstance(above, ast.BoolOp) and isinstance(above.op, ast.And) else []
    for test in beside:
        turns = test.left if isinstance(test, ast.Compare) else None
        if isinstance(turns, ast.BinOp) and isinstance(turns.op, ast.Mod):
            steps = program.value(turns.right, function)
            if isinstance(steps, int) and steps >= 1000:
                return steps
    return 0


def _switched_off(program: Program) -> Iterator[Hit]:
    """A script with a limit of seconds, in whose training loop no live code compares a clock with a limit."""
    named = (n for n in program.index.order if isinstance(n, (ast.Name, ast.Attribute)))
    if not any(LIMIT.search(n.id if isinstance(n, ast.Name) else n.attr) for n in named):
        return
    for call, loss in updates(program):
        function = program.function_of(call)
        if "TRAIN" not in program.of(loss, function):
            continue
        readers = ClockReaders(program)
        if not any(readers.compares(node) for node in program.live_of(ast.Compare)):
            text = (
                f"The script has a limit of seconds, and nothing that can run in the loop of `{function.name}` "
                "compares a clock with it: only the logs show its time."
            )
            yield Hit("train_time", UNVERIFIABLE, call, text, PROBE)
        return


class ClockReaders:
    """Expressions that read a clock, followed through names, attributes and functions; each is checked once."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.known: dict[tuple[Function | None, str], bool] = {}

    def compares(self, node: ast.Compare) -> bool:
        """Whether a comparison in a loop is of a clock reading; true for what cannot be followed."""
        program, function = self.program, self.program.function_of(node)
        if not _ends_training(program, node, function):
            return False
        sides = [node.left, *node.comparators]
        lines = [clock_line(program, side, function, 0) for side in sides]
        if all(line is not None for line in lines):
            return any(line is not None and line.slope for line in lines)
        return any(self.reads(side, function) for side in sides)

    def reads(self, node: ast.expr, function: Function) -> bool:
        """Whether an expression, or the values of its names, read a clock."""
        return any(self._part(part, function) for part in walk(node))

    def _part(self, part: ast.AST, function: Function) -> bool:
        program = self.program
        if isinstance(part, ast.Name):
            return self._name(part.id, function)
        if isinstance(part, ast.Attribute):
            sources = [(f, e) for f, e in program.attribute_sources.get(part.attr, ()) if e is not None][:6]
            return self._once(None, part.attr, sources + _of_property(program, part))
        if not isinstance(part, ast.Call):
            return False
        name = program.called(part)
        if name in _CLOCKS or name in _OTHERS or getattr(part.func, "attr", "") in _READERS:
            return True
        return any(self._once(callee, "", _returned(program, callee)) for callee in program.callees(part))

    def _name(self, name: str, function: Function) -> bool:
        scope: Function | None = function
        while scope is not None:
            if name in scope.assigned:
                added = [n.value for n in self.program.own_of(scope, ast.AugAssign) if _is_name(n, name)]
                sources = [*(s for s in scope.assigned[name] if s is not None), *added]
                unpacked = len(sources) < len(scope.assigned[name]) and _TIMES.search(name) is not None
                return unpacked or self._once(scope, name, [(scope, s) for s in sources[:8]])
            if name in scope.params:
                return _TIMES.search(name) is not None  # passed in, so it may be a clock
            scope = scope.parent
        return False

    def _once(self, scope: Function | None, name: str, sources: list[tuple[Function, ast.expr]]) -> bool:
        key = (scope, name)
        if key not in self.known:
            self.known[key] = False  # a value that depends on itself adds nothing
            self.known[key] = any(self.reads(source, place) for place, source in sources)
        return self.known[key]


def _of_property(program: Program, node: ast.Attribute) -> list[tuple[Function, ast.expr]]:
    """The result of a property with that name."""
    owned = [f for f in program.by_name.get(node.attr, ()) if f.owner is not None]
    marked = [f for f in owned if any(dotted(d).endswith("property") for d in getattr(f.node, "decorator_list", ()))]
    return [pair for function in marked for pair in _returned(program, function)]


def _returned(program: Program, callee: Function) -> list[tuple[Function, ast.expr]]:
    returns = (n.value for n in program.own_of(callee, ast.Return))
    return [(callee, value) for value in returns if value is not None]


def _is_name(node: ast.AugAssign, name: str) -> bool:
    return isinstance(node.target, ast.Name) and node.target.id == name


def _begun_again(program: Program) -> Iterator[Hit]:
    """The clock of the limit, read again in the training loop without adding up what it showed."""
    for node in program.live_of(ast.Compare):
        function = program.function_of(node)
        sides = [clock_line(program, side, function, 0) for side in (node.left, *node.comparators)]
        if len(sides) != 2 or not any(side is not None and side.slope for side in sides):
            continue
        names = names_in(node)
        for _ in range(3):
            names |= {
                n for name in names for s in function.assigned.get(name, ()) if s is not None for n in names_in(s)
            }
        for reading in program.own_of(function, ast.Assign):
            above = program.parents.get(reading)
            if reading not in program.live or not isinstance(above, ast.If):
                continue
            bare = isinstance(reading.value, ast.Call) and program.called(reading.value) in _CLOCKS
            looped = any(isinstance(a, LOOPS) for a in program.ancestors(reading))
            trains = any(isinstance(n, ast.Attribute) and n.attr == "backward" for n in _loop_nodes(program, reading))
            if bare and looped and trains and names & names_in(reading.targets[0]) and _alone(above):
                summary = f"`{function.name}` starts its clock again in the loop, without adding up the time before."
                yield Hit("train_time", SUSPECT, reading, summary, PROBE)
                return


def _loop_nodes(program: Program, node: ast.AST) -> list[ast.AST]:
    """Nodes of the innermost loop around one."""
    loop = next((a for a in program.ancestors(node) if isinstance(a, LOOPS)), None)
    return program.below(loop) if loop is not None else []


def _moved(program: Program) -> Iterator[Hit]:
    """A clock of processor time, and a start that is moved forward by a number."""
    for call in program.live_of(ast.Call):
        if program.called(call) in _OTHERS:
            summary = f"`{program.called(call)}` counts the processor's time, not the wall clock's."
            yield Hit("train_time", SUSPECT, call, summary, PROBE)
            return
    for node in program.live_of(ast.AugAssign):
        function = program.function_of(node)
        if isinstance(node.target, ast.Name) and isinstance(program.value(node.value, function), (int, float)):
            sources = [s for s in function.assigned.get(node.target.id, ()) if s is not None]
            if any(isinstance(s, ast.Call) and program.called(s) in _CLOCKS for s in sources):
                summary = f"`{function.name}` puts the beginning of its clock forward by a number."
                yield Hit("train_time", SUSPECT, node, summary, PROBE)
                return


def _stops_at(left: _Line, right: _Line) -> float | None:
    """The wall seconds at which two sides are equal; None unless exactly one of them reads the clock."""
    if bool(left.slope) == bool(right.slope):
        return None
    clock, limit = (left, right) if left.slope else (right, left)
    return (limit.offset - clock.offset) / clock.slope if clock.slope > 0 else None


def _ends_training(program: Program, node: ast.Compare, function: Function) -> bool:
    """Whether a comparison is in a loop, or in a function that a loop calls, as the end of training is."""
    if any(isinstance(above, LOOPS) for above in program.ancestors(node)):
        return True
    return any(isinstance(above, LOOPS) for site in function.calls for above in program.ancestors(site.call))


@dataclass
class _Memory:
    """Computed lines of one program, and those in progress: a value that depends on itself has no line.

    `visits` counts the questions that were not in `known`.
    """

    known: dict[tuple[int, int], _Line | None] = field(default_factory=dict)
    active: set[tuple[int, int]] = field(default_factory=set)
    cut: int = 0
    visits: int = 0


_memories: WeakKeyDictionary[Program, _Memory] = WeakKeyDictionary()


def memory_of(program: Program) -> _Memory:
    """The lines that were computed for a program."""
    return _memories.setdefault(program, _Memory())


def clock_line(program: Program, node: ast.expr, function: Function, depth: int) -> _Line | None:
    """An expression as a linear function of the wall clock; None if it is not one."""
    memory = memory_of(program)
    key = (id(node), id(function))
    if key in memory.known:
        return memory.known[key]
    memory.visits += 1
    if key in memory.active or depth > _MOST_DEPTH or memory.visits > MOST_VISITS:
        memory.cut += 1
        return None
    memory.active.add(key)
    cut = memory.cut
    line = _worked_out(program, node, function, depth)
    memory.active.discard(key)
    if memory.cut == cut or not memory.active:
        memory.known[key] = line
    return line


def _worked_out(program: Program, node: ast.expr, function: Function, depth: int) -> _Line | None:
    value = program.value(node, function)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _Line(0.0, float(value))
    if isinstance(node, ast.BinOp):
        return _of_operation(program, node, function, depth)
    if isinstance(node, ast.Call):
        return _of_call(program, node, function, depth)
    if isinstance(node, ast.Name):
        return _of_name(program, node, function, depth)
    if isinstance(node, ast.Attribute):
        sources = [(f, e) for f, e in program.attribute_sources.get(node.attr, ()) if e] + _of_property(program, node)
        return _raised(program, node, _agreed([clock_line(program, e, f, depth + 1) for f, e in sources]))
    if isinstance(node, ast.IfExp):
        return _agreed(
            [clock_line(program, e, function, depth + 1) for e in (node.body, node.orelse) if e in program.live]
        )
    return None


def _raised(program: Program, node: ast.Attribute, line: _Line | None) -> _Line | None:
    """A number that a statement adds to an attribute later, such as `args.max_seconds += 240`."""
    for added in program.live_of(ast.AugAssign):
        if isinstance(added.target, ast.Attribute) and added.target.attr == node.attr and line is not None:
            number = program.value(added.value, program.function_of(added))
            known = isinstance(number, (int, float)) and isinstance(added.op, (ast.Add, ast.Mult))
            if known and not line.slope:
                offset = line.offset + number if isinstance(added.op, ast.Add) else line.offset * number
                line = _Line(0.0, offset)
            elif not line.slope and not isinstance(number, (int, float)):
                return clock_line(program, added.value, program.function_of(added), 1)
    return line


def _of_operation(program: Program, node: ast.BinOp, function: Function, depth: int) -> _Line | None:
    left = clock_line(program, node.left, function, depth + 1)
    right = clock_line(program, node.right, function, depth + 1)
    if left is None or right is None:
        return None
    if isinstance(node.op, ast.Sub) and left.slope and right.slope:
        return _Line(left.slope, 0.0) if left.slope == right.slope else None  # now minus the start
    if isinstance(node.op, (ast.Add, ast.Sub)):
        sign = 1.0 if isinstance(node.op, ast.Add) else -1.0
        # Earlier sums run on the same clock: one slope is enough for both.
        slope = min(left.slope, right.slope) if left.slope and right.slope else left.slope + sign * right.slope
        return _Line(slope, left.offset + sign * right.offset)
    if isinstance(node.op, ast.Mult) and not (left.slope and right.slope):
        line, factor = (left, right.offset) if left.slope else (right, left.offset)
        return _Line(line.slope * factor, line.offset * factor)
    if isinstance(node.op, (ast.Div, ast.FloorDiv)) and not right.slope and right.offset:
        return _Line(left.slope / right.offset, left.offset / right.offset)
    return None


def _of_call(program: Program, node: ast.Call, function: Function, depth: int) -> _Line | None:
    name = program.called(node)
    if name in _CLOCKS:
        return _Line(_CLOCKS[name], 0.0)
    method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if name.endswith(("datetime.now", "datetime.utcnow", "datetime.today")):
        return _Line(1.0, 0.0)
    if method in ("timestamp", "total_seconds") and isinstance(node.func, ast.Attribute):
        return clock_line(program, node.func.value, function, depth + 1)
    if method == "elapsed_time" and len(node.args) == 1:  # of two events of the GPU
        return _Line(1000.0, 0.0)
    if name in ("float", "int", "round", "max", "min") and node.args:
        lines = [line for a in node.args if (line := clock_line(program, a, function, depth + 1)) is not None]
        return next((line for line in lines if line.slope), None)
    returns = []
    for callee in program.callees(node):
        returned = [n.value for n in program.own_of(callee, ast.Return) if n.value is not None]
        returned += [callee.node.body] if isinstance(callee.node, ast.Lambda) else []
        returns += [clock_line(program, value, callee, depth + 1) for value in returned]
    return _agreed(returns)


def _of_name(program: Program, node: ast.Name, function: Function, depth: int) -> _Line | None:
    """A name, by its assignments: a sum that begins at zero and grows by readings is linear."""
    scope: Function | None = function
    while scope is not None:
        if node.id in scope.assigned:
            return _assigned(program, node.id, scope, depth)
        if node.id in scope.params:
            return _passed(program, node.id, scope, depth)
        scope = scope.parent
    return None


def _assigned(program: Program, name: str, function: Function, depth: int) -> _Line | None:
    lines = [clock_line(program, e, function, depth + 1) for e in function.assigned[name] if e is not None]
    for node in program.own_of(function, ast.AugAssign):
        if isinstance(node.op, ast.Add) and node in program.live and _is_name(node, name):
            lines.append(clock_line(program, node.value, function, depth + 1))
    known_lines = [line for line in lines if line is not None and line.slope]
    return _slowest(known_lines) if known_lines else _agreed(lines)


def _passed(program: Program, name: str, function: Function, depth: int) -> _Line | None:
    lines = []
    for site in function.calls:
        argument = next((k.value for k in site.call.keywords if k.arg == name), None)
        index = function.params.index(name) - (1 if function.owner is not None else 0)
        if argument is None and 0 <= index < len(site.call.args):
            argument = site.call.args[index]
        if argument is not None:
            lines.append(clock_line(program, argument, site.caller, depth + 1))
        elif (default := function.defaults.get(name)) is not None:
            lines.append(clock_line(program, default, program.module, depth + 1))
    return _agreed(lines)


def _agreed(lines: list[_Line | None]) -> _Line | None:
    """The line that all agree on; if several read the clock, the slowest."""
    known_lines = [line for line in lines if line is not None]
    if not known_lines or (len(known_lines) < len(lines) and not any(line.slope for line in known_lines)):
        return None
    clocks = [line for line in known_lines if line.slope]
    return _slowest(clocks) if clocks else known_lines[0] if len(set(known_lines)) == 1 else None


def _slowest(lines: list[_Line]) -> _Line:
    """The slowest of some readings of one clock. A plain reading has no unit yet and does not count."""
    return min(lines, key=lambda line: (line.slope, line.offset))


def _set_back(program: Program) -> Iterator[Hit]:
    """A clock read again at a step of training that a number in the test around it names, with no score beside it."""
    for node in program.live_of(ast.Assign):
        if not isinstance(node.value, ast.Call) or not isinstance(node.targets[0], ast.Name):
            continue
        function = program.function_of(node)
        line = clock_line(program, node.value, function, 0)
        if line is None or not line.slope:
            continue
        above = program.parents.get(node)
        if not isinstance(above, ast.If) or not isinstance(above.test, ast.Compare):
            continue
        number = program.value(above.test.comparators[0], function)
        step = "step" in "".join(names_in(above.test)) or "iter" in "".join(names_in(above.test))
        if step and isinstance(number, int) and number is not UNKNOWN and number > 20 and _alone(above):
            yield Hit(
                "train_time",
                SUSPECT,
                node,
                f"`{function.name}` starts its clock again at step {number}: the seconds before it are not counted.",
                PROBE,
            )
            return


def _alone(test: ast.If) -> bool:
    """Whether a block reads the clock again without adding up what it showed before."""
    return not any(isinstance(node, ast.AugAssign) for statement in test.body for node in walk(statement))
