"""Files that training reads: whether a validation shard is among them, by a pattern, a copy, a link or a joined list.

Texts are put together first (`code/values`), so a path spelled by slices, formats or letters is the path that it makes.
A pattern that fits the shards of both splits is found by trying it on their names. Sources: README FAQ; #44, #262.
"""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

from pargolf.audit.code.flow_words import named_split, split_by_name
from pargolf.audit.code.program import Program
from pargolf.audit.code.search import LOOPS, last_binding, updates
from pargolf.audit.code.tree import Function, dotted, last_name, walk
from pargolf.audit.report import SUSPECT
from pargolf.audit.rules.rule import Hit

_COPIES = frozenset(
    {
        *("shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.move", "shutil.copytree", "shutil.copyfileobj"),
        *("os.link", "os.symlink", "os.rename", "os.replace", "os.renames"),
    }
)
_LINKS = ("symlink_to", "hardlink_to", "link_to")
_JOINED = ("cat", "concat", "concatenate", "hstack", "chain")
_GATHERS = ("extend", "append", "insert", "update")
_COUNTS = ("numel", "len", "size", "shape", "item", "sum", "nbytes")
_COUNTED = re.compile(r"total|count|num|pos|seen|step|size|len|\bn$")
_WEIGHT = re.compile(r"\.(?:weight|bias)\b")
_TRAIN = re.compile(r"fineweb_train_")
_PROBE = "Probe: hash the training stream against the validation tokens."


def training_files(program: Program) -> Iterator[Hit]:
    """Whether a validation shard reaches the files that training reads."""
    lines: set[int] = set()
    for node, action in _found(program):
        if (line := getattr(node, "lineno", 0)) not in lines:
            lines.add(line)
            name = program.function_of(node).name
            yield Hit("val_in_training", SUSPECT, node, f"`{name}` {action} (README FAQ, #44).", _PROBE)


def _found(program: Program) -> Iterator[tuple[ast.AST, str]]:
    for call in program.live_of(ast.Call):
        function = program.function_of(call)
        if _copies(program, call, function):
            yield call, "copies, moves or links validation shards"
        elif _looks_beside(program, call, function):
            yield call, "looks for validation shards next to the training shards"
        elif _joins(program, call, function):
            yield call, "joins validation tokens or shards to those of training"
    for node in program.live_of(ast.BinOp, ast.AugAssign):
        function = program.function_of(node)
        left, right = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
        if isinstance(node.op, ast.Add) and _mixes(program, left, right, function):
            yield node, "joins validation tokens or shards to those of training"
    yield from _both_in_loop(program)
    yield from _named_for_training(program)
    yield from _both(program)
    yield from _beside(program)
    yield from _into_weights(program)


def _copies(program: Program, call: ast.Call, function: Function) -> bool:
    name = program.called(call)
    parts = list(call.args)
    if isinstance(call.func, ast.Attribute) and call.func.attr in _LINKS:
        parts.append(call.func.value)
    elif (
        isinstance(call.func, ast.Attribute)
        and call.func.attr in ("write_bytes", "write", "tofile")
        and not program.callees(call)
    ):
        contents = [*call.args] if call.func.attr != "tofile" else [call.func.value]
        return any(
            "VAL" in labels and not labels & {"LOSS", "PIECE"}
            for labels in (program.of(part, function) for part in contents)
        )
    elif name not in _COPIES:
        return False
    if any("VAL" in program.of(part, function) for part in parts):
        return True
    linked = isinstance(call.func, ast.Attribute) and call.func.attr in _LINKS
    source, copy = (parts[0], parts[-1]) if len(parts) == 2 and (linked or name in _COPIES) else (None, None)
    if source is None or copy is None or "TRAIN" in program.of(source, function):
        return False
    return any(_TRAIN.search(str(n.value)) for n in walk(copy) if isinstance(n, ast.Constant))


def _looks_beside(program: Program, call: ast.Call, function: Function) -> bool:
    """`Path(train_pattern).parent.glob("fineweb_val_*")`."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in ("glob", "rglob") or len(call.args) != 1:
        return False
    named = named_split(program.value(call.args[0], function))
    return "VAL" in named and "TRAIN" in program.of(call.func.value, function)


def _joins(program: Program, call: ast.Call, function: Function) -> bool:
    name = last_name(call)
    if name in _JOINED and call.args:
        parts = call.args[0].elts if isinstance(call.args[0], (ast.List, ast.Tuple)) else call.args
        return any(_mixes(program, a, b, function) for a, b in pairwise(parts))
    if isinstance(call.func, ast.Attribute) and name in _GATHERS and call.args and not program.callees(call):
        return _mixes(program, call.func.value, call.args[-1], function, gathers=True)
    return False


def _mixes(program: Program, left: ast.expr, right: ast.expr, function: Function, *, gathers: bool = False) -> bool:
    """Whether one side is of training and the other of validation alone. Sums of counts and losses are allowed."""
    paths = [any(named_split(n.value) for n in walk(s) if isinstance(n, ast.Constant)) for s in (left, right)]
    if not any(paths) and any(_is_count(side) or _COUNTED.search(dotted(side)) for side in (left, right)):
        return False
    first, second = program.of(left, function), program.of(right, function)
    if "LOSS" in first | second or "COUNT" in "".join(first | second):
        return False
    sides = ((first, second),) if gathers else ((first, second), (second, first))
    return any("TRAIN" in a and "VAL" in b and "TRAIN" not in b for a, b in sides)


def _is_count(node: ast.AST) -> bool:
    """Whether an expression is a number of tokens or text about them."""
    for inner in walk(node):
        if isinstance(inner, (ast.JoinedStr, ast.Constant)) and not isinstance(node, ast.Call):
            return True
        if isinstance(inner, ast.Attribute) and inner.attr in _COUNTS:
            return True
        if isinstance(inner, ast.Call) and dotted(inner.func) in _COUNTS:
            return True
    return False


def _named_for_training(program: Program) -> Iterator[tuple[ast.AST, str]]:
    """A name for training, or a loader with such a name, that gets the validation shards."""
    for node in program.live_of(ast.Assign, ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = {
            t.id if isinstance(t, ast.Name) else t.attr for t in targets if isinstance(t, (ast.Name, ast.Attribute))
        }
        if node.value is None or not any("TRAIN" in split_by_name(name) for name in names):
            continue
        function = program.function_of(node)
        sources = [node.value, *node.value.args] if isinstance(node.value, ast.Call) else [node.value]
        if any("VAL" in named_split(program.value(part, function)) for part in sources):
            yield node, f"gives `{sorted(names)[0]}` the validation shards"


def _both(program: Program) -> Iterator[tuple[ast.AST, str]]:
    """An update on files from a pattern that fits the shards of both splits."""
    for call, loss in updates(program):
        if "BOTH" in program.of(loss, program.function_of(call)):
            yield call, "trains on files of a pattern that fits the shards of both splits"
            return


def _both_in_loop(program: Program) -> Iterator[tuple[ast.AST, str]]:
    """`for split in ("train", "val"): files += glob(f"fineweb_{split}_*.bin")`, in a script that learns from both."""
    if not any({"VAL", "TRAIN"} <= program.of(loss, program.function_of(call)) for call, loss in updates(program)):
        return
    for made in program.live_of(ast.ListComp, ast.GeneratorExp):
        texts = (part for part in walk(made.elt) if isinstance(part, ast.JoinedStr))
        if any({"VAL", "TRAIN"} <= program.of(text, program.function_of(made)) for text in texts):
            yield made, "lists the shards of both splits"
            return
    for node in program.live_of(ast.AugAssign, ast.Call):
        gathers = isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("extend", "append")
        value = node.value if isinstance(node, ast.AugAssign) else node.args[0] if gathers and node.args else None
        target = node.target if isinstance(node, ast.AugAssign) else getattr(node.func, "value", None)
        if value is None or isinstance(target, ast.Subscript):
            continue
        function = program.function_of(node)
        texts = (part for part in walk(value) if isinstance(part, ast.JoinedStr))
        if any({"VAL", "TRAIN"} <= program.of(text, function) for text in texts):
            yield node, "joins the shards of both splits in one list"
            return


def _beside(program: Program) -> Iterator[tuple[ast.AST, str]]:
    """An update whose loss is of some validation tokens and some of training, by the last assignments."""
    for call, loss in updates(program):
        if {"VAL", "TRAIN"} <= program.of(loss, program.function_of(call)):
            sources = _sources(program, loss, call)
            if any("TRAIN" not in labels for labels in sources if "VAL" in labels) and any(
                "VAL" not in labels for labels in sources if "TRAIN" in labels
            ):
                yield call, "trains on validation tokens together with training tokens"
                return


def _into_weights(program: Program) -> Iterator[tuple[ast.AST, str]]:
    """Numbers made from validation tokens, outside any loop that scores, that a weight of the model is set to."""
    for node in program.live_of(ast.Assign, ast.AugAssign, ast.Call):
        if isinstance(node, ast.Call):
            sets = isinstance(node.func, ast.Attribute) and node.func.attr in ("copy_", "add_", "set_") and node.args
            target, value = (node.func, node.args[0]) if sets else (None, None)
        else:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            value = node.value
        if target is None or value is None or not _WEIGHT.search(ast.unparse(target)):
            continue
        labels = program.of(value, program.function_of(node))
        looped = any(isinstance(above, LOOPS) for above in program.ancestors(node))
        if "VAL" in labels and not labels & {"LOSS", "TRAIN", "PIECE"} and not looped:
            yield node, "sets a weight of the model to numbers that are made from validation tokens"
            return


def _sources(program: Program, loss: ast.expr, node: ast.AST) -> list[frozenset[str]]:
    """Labels of each name that a loss is made of, by the last assignments; a parameter has those of all calls."""
    labels: list[frozenset[str]] = []
    visited: set[int] = set()
    waiting: list[tuple[ast.expr, ast.AST]] = [(loss, node)]
    while waiting:
        expression, position = waiting.pop()
        function = program.function_of(position)
        for returned in _results(program, expression):
            if returned.value is not None and id(returned) not in visited and len(visited) < 40:
                visited.add(id(returned))
                waiting.append((returned.value, returned))
        for name in (n for n in walk(expression) if isinstance(n, ast.Name)):
            bound = last_binding(program, name.id, position, function) if len(visited) < 40 else None
            if name.id not in function.params:
                labels.append(program.of(name, function))
            for value, binder in bound or ():
                if id(value) not in visited:
                    visited.add(id(value))
                    waiting.append((value, binder))
    return labels


def _results(program: Program, expression: ast.expr) -> Iterator[ast.Return]:
    """What the script's plain functions return that an expression calls."""
    for call in (n for n in walk(expression) if isinstance(n, ast.Call)):
        for callee in program.callees(call):
            if callee.owner is None:
                yield from program.own_of(callee, ast.Return)
