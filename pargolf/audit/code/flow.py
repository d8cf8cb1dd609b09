"""Where tokens flow: which expressions contain validation tokens, and in which form.

Labels pass through assignments, calls and returns. A function's result is described by its parameters (`p:name`), so
that one loader used for both splits does not mix them. Afterwards each parameter gets the labels that the live calls
pass. `VAL` and `TRAIN` come from the files that a script names, `LOSS` from a model's output, `GOLD` from its
exponential, `HASH` from mixing arithmetic on tokens, `COUNT#n` from reading a table of counts at such a key, `BLOB`
from raw bytes, `PIECE` from the pieces of a tokenizer.

Both phases repeat until nothing changes. A round skips every function whose inputs have not changed since it was last
visited. The result is the same as without skipping.
"""

import ast
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from pargolf.audit.code.flow_words import (
    BUILTINS,
    BYTES,
    EXPONENTIALS,
    FRESH,
    GATHERS,
    LIKENESSES,
    LISTS,
    LOOKUPS,
    LOSSES,
    MODELS,
    PIECES,
    PLAIN_METHODS,
    SILENT,
    named_split,
    split_by_name,
)
from pargolf.audit.code.reach import Reach
from pargolf.audit.code.tree import NONE, Function, Index, Labels, argument_for, dotted, roots
from pargolf.audit.code.values import UNKNOWN

_ROUNDS = 12
_FLOWING = frozenset(
    {
        ast.Assign,
        ast.AnnAssign,
        ast.AugAssign,
        ast.For,
        ast.Return,
        ast.withitem,
        ast.NamedExpr,
        ast.Call,
        ast.comprehension,
        ast.Yield,
    }
)
_MOST_TEXT = 80  # an expression with more nodes makes no path
_MAKE_TEXT = frozenset({ast.JoinedStr, ast.BinOp, ast.Subscript, ast.Call})
_HOLDS = frozenset({ast.comprehension, ast.keyword})


class Flow:
    """Labels of a script's expressions, after everything has flowed.

    Args:
        index: the script's tree.
        scopes: its functions, the module first.
        reach: what can run.
        attributes: every attribute name with the values it is set to, and where.
        tables: names that are counted into.
    """

    def __init__(
        self,
        index: Index,
        scopes: list[Function],
        reach: Reach,
        attributes: dict[str, list[tuple[Function, ast.expr | None]]],
        tables: set[str],
    ) -> None:
        self.index, self.scopes, self.reach, self.attributes, self.tables = index, scopes, reach, attributes, tables
        self.by_attribute: dict[str, Labels] = {}
        self.concrete: dict[tuple[Function, str], Labels] = {}
        self._seen: dict[int, Labels] = {}
        self._clock = 0
        self._changed: dict[Function, int] = defaultdict(int)
        self._attribute_changed: dict[str, int] = defaultdict(int)
        self._kinds: dict[type, Callable[[Any, Function], Labels]] = {
            ast.Name: lambda node, function: self._of_name(node.id, function),
            ast.Attribute: self._of_attribute,
            ast.Call: self._of_call,
            ast.Subscript: self._of_subscript,
            ast.BinOp: self._of_binary,
            ast.IfExp: self._of_choice,
            ast.Lambda: lambda node, function: NONE,
            ast.JoinedStr: lambda node, function: NONE,
            ast.Compare: lambda node, function: NONE,
        }
        self._spread()

    # ---- answers

    def labels(self, node: ast.AST, function: Function) -> Labels:
        """The labels of an expression, in terms of the function's parameters (`p:name`)."""
        if type(node) is ast.Constant:
            return named_split(node.value)
        labels = self._seen.get(id(node))
        if labels is None:
            labels = self._named(node, function) if type(node) in _MAKE_TEXT else NONE
            if not labels:
                read = self._kinds.get(type(node))
                labels = read(node, function) if read is not None else self._of_parts(node, function)
            self._seen[id(node)] = labels
        return labels

    def _named(self, node: Any, function: Function) -> Labels:
        """The split named by a text that is put together from parts, whatever the parts name."""
        start, end = self.index.span.get(node, (0, _MOST_TEXT + 1))
        if end - start > _MOST_TEXT:
            return NONE
        if not self.index.holds(node, _is_text):
            return NONE
        value = self.reach.constants.value(node, function)
        return named_split(value) if value is not UNKNOWN else self._named_in_loop(node, function)

    def _named_in_loop(self, node: Any, function: Function) -> Labels:
        """The splits named by a text for the values of a loop around it: `for split in ("train", "val")`."""
        names = {part.id for part in self.index.below(node) if type(part) is ast.Name}
        out: Labels = NONE
        loops = self._loops(node)
        counters = {name.id: 0 for above in loops if isinstance(name := above.target, ast.Name)}
        for above in loops:
            target, items = getattr(above.target, "id", ""), self.reach.constants.value(above.iter, function)
            if target in names and isinstance(items, tuple) and len(items) < 9:
                for item in items:
                    inside = Function(function.node, function.name, None, function, passing=True)
                    inside.values.update(counters | {target: item})
                    out |= named_split(self.reach.constants.value(node, inside))
        return out

    def _loops(self, node: ast.AST) -> list[ast.For | ast.comprehension]:
        """Loops around a node, those of comprehensions among them."""
        loops: list[ast.For | ast.comprehension] = []
        while node in self.index.parents:
            node = self.index.parents[node]
            loops += [node] if isinstance(node, ast.For) else getattr(node, "generators", [])
        return loops

    def known(self, labels: Labels, function: Function) -> Labels:
        """Labels in which parameters are replaced by what the live calls pass for them."""
        parameters = [x[2:] for x in labels if x.startswith("p:")]
        if not parameters:
            return labels
        out = {x for x in labels if not x.startswith("p:")}
        scope: Function | None = function
        while scope is not None:
            for name in parameters:
                out |= self.concrete.get((scope, name), NONE)
            scope = scope.parent
        return frozenset(out)

    def own(self, node: ast.AST) -> Labels:
        """The labels of an attribute or a constant itself, whatever its object is."""
        if isinstance(node, ast.Constant):
            return named_split(node.value)
        if isinstance(node, ast.Attribute):
            return self.by_attribute.get(node.attr, NONE) | split_by_name(node.attr)
        return NONE

    # ---- rounds

    def _spread(self) -> None:
        live = [f for f in self.scopes if f.live]
        statements: dict[Function, list[ast.AST]] = {f: [] for f in self.scopes}
        reads: dict[Function, set[Function]] = {f: {f} for f in self.scopes}
        attributes: dict[Function, set[str]] = {f: set() for f in self.scopes}
        for node in self.reach.live:
            kind = type(node)
            if kind in _FLOWING or kind is ast.Attribute:
                function = self.scopes[self.index.place.get(node, 0)]
                if isinstance(node, ast.Attribute):
                    attributes[function].add(node.attr)
                    continue
                statements[function].append(node)
                if isinstance(node, ast.Call):
                    reads[function].update(self.reach.callees(node))
        for function in self.scopes:
            scope = function.parent
            while scope is not None:
                reads[function].add(scope)
                scope = scope.parent
        self._reads, self._attribute_reads = reads, attributes
        self._flow_until_still(live, statements)
        self._bind_until_still(live, statements)
        self._seen.clear()

    def _stale(self, function: Function, since: int) -> bool:
        """Whether anything that a function reads has changed since a point in time."""
        changed = self._changed
        if any(changed[f] > since for f in self._reads[function]):
            return True
        return any(self._attribute_changed[name] > since for name in self._attribute_reads[function])

    def _flow_until_still(self, live: list[Function], statements: dict[Function, list[ast.AST]]) -> None:
        """First phase: the labels of functions and their results, in terms of their parameters."""
        ran: dict[Function, int] = {}
        for _ in range(_ROUNDS):
            waiting = [f for f in live if f not in ran or self._stale(f, ran[f])]
            if not waiting:
                break
            for function in live:
                if function not in ran or self._stale(function, ran[function]):
                    ran[function] = self._clock
                    self._run(function, statements[function])
                    if isinstance(function.node, ast.Lambda):
                        self._return(function, self.labels(function.node.body, function))
        self._ran = ran

    def _bind_until_still(self, live: list[Function], statements: dict[Function, list[ast.AST]]) -> None:
        """Second phase: the labels that calls pass for parameters, and those of attributes."""
        ran, bound = self._ran, -1
        for _ in range(_ROUNDS):
            self._seen.clear()
            before = self._clock
            self._bind(live, {f for f in self.scopes if bound < 0 or self._stale(f, bound)})
            bound = before
            for function in live:
                if self._stale(function, ran[function]):
                    ran[function] = self._clock
                    self._run(function, statements[function])
            if self._clock == before:
                break

    def _bind(self, live: list[Function], fresh: set[Function]) -> None:
        """Pass on the labels of the functions that changed: to functions they call, and to attributes."""
        for function in live:
            for site in function.calls:
                if site.caller in fresh:
                    self._pass(site.call, function, site.caller)
        for attribute, sources in self.attributes.items():
            for scope, expression in sources:
                if scope not in fresh or expression is None:
                    continue
                if expression in self.reach.live or scope is self.scopes[0]:
                    self._hold(attribute, self.known(self.labels(expression, scope), scope))

    def _run(self, function: Function, statements: list[ast.AST]) -> None:
        self._seen.clear()
        for node in statements:
            self._flow(node, function)

    def _pass(self, call: ast.Call, function: Function, caller: Function) -> None:
        for name in function.params:
            expression = argument_for(call, function, name) or function.defaults.get(name)
            if expression is not None:
                key = (function, name)
                old = self.concrete.get(key, NONE)
                new = old | self.known(self.labels(expression, caller), caller)
                if len(new) > len(old):
                    self.concrete[key] = new
                    self._clock += 1
                    self._changed[function] = self._clock

    # ---- one statement

    def _flow(self, node: ast.AST, function: Function) -> None:
        if isinstance(node, ast.Call):
            self._gather(node, function)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                self._give(target, node.value, function)
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
            if node.value is not None:
                self._give(node.target, node.value, function)
        elif isinstance(node, ast.AugAssign):
            self._add(node.target, self.labels(node.value, function), function)
        elif isinstance(node, (ast.For, ast.comprehension)):
            self._add(node.target, self.labels(node.iter, function), function)
        elif isinstance(node, ast.withitem):
            if node.optional_vars is not None:
                self._add(node.optional_vars, self.labels(node.context_expr, function), function)
        elif isinstance(node, (ast.Return, ast.Yield)) and node.value is not None:
            self._return(function, self.labels(node.value, function))
            if isinstance(node.value, ast.Tuple):
                self._return_parts(function, [self.labels(e, function) for e in node.value.elts])

    def _gather(self, node: ast.Call, function: Function) -> None:
        """`x.append(y)` and similar methods, if the script does not define the method."""
        method = node.func
        if not isinstance(method, ast.Attribute) or method.attr not in GATHERS or not node.args:
            return
        if not self.reach.callees(node):
            labels = frozenset().union(*(self.labels(a, function) for a in node.args))
            self._add(method.value, labels, function)

    def _return(self, function: Function, labels: Labels) -> None:
        if not labels <= function.returns:
            function.returns |= labels
            self._clock += 1
            self._changed[function] = self._clock

    def _return_parts(self, function: Function, parts: list[Labels]) -> None:
        """The labels of each element of a returned tuple; given up if the lengths differ."""
        if len(function.parts) not in (0, len(parts)):
            parts = []
        old = function.parts or [NONE] * len(parts)
        new = [a | b for a, b in zip(old, parts)]
        if new != function.parts:
            function.parts = new
            self._clock += 1
            self._changed[function] = self._clock

    def _give(self, target: ast.expr, value: ast.expr, function: Function) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            if isinstance(value, (ast.Tuple, ast.List)) and len(target.elts) == len(value.elts):
                for a, b in zip(target.elts, value.elts):
                    self._give(a, b, function)
                return
            if isinstance(value, ast.Call):
                callees = self.reach.callees(value)
                if callees and all(len(c.parts) == len(target.elts) for c in callees):
                    for i, element in enumerate(target.elts):
                        labels = [self._passed(value, c, c.parts[i], function) for c in callees]
                        self._add(element, frozenset().union(*labels), function)
                    return
        self._add(target, self.labels(value, function), function)

    def _add(self, target: ast.expr, labels: Labels, function: Function) -> None:
        if not labels:
            return
        if isinstance(target, ast.Name):
            old = function.labels.get(target.id, NONE)
            if not labels <= old:
                function.labels[target.id] = old | labels
                self._clock += 1
                self._changed[function] = self._clock
        elif isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self._add(element, labels, function)
        elif isinstance(target, (ast.Subscript, ast.Starred)):
            self._add(target.value, labels, function)
        elif isinstance(target, ast.Attribute):
            self._hold(target.attr, frozenset(x for x in labels if not x.startswith("p:")))

    def _hold(self, attribute: str, labels: Labels) -> None:
        old = self.by_attribute.get(attribute, NONE)
        if not labels <= old:
            self.by_attribute[attribute] = old | labels
            self._clock += 1
            self._attribute_changed[attribute] = self._clock

    # ---- one expression

    def _of_parts(self, node: ast.AST, function: Function) -> Labels:
        out: Labels = NONE
        for child in self.index.children.get(node, ()):
            if isinstance(child, ast.expr) or type(child) in _HOLDS:
                out |= self.labels(child, function)
        return out

    def _of_attribute(self, node: ast.Attribute, function: Function) -> Labels:
        own = self.by_attribute.get(node.attr, NONE) | split_by_name(node.attr)
        inner = self.labels(node.value, function)
        return own | (inner if node.attr not in ("shape", "device", "dtype", "ndim") else NONE)

    def _of_subscript(self, node: ast.Subscript, function: Function) -> Labels:
        labels = self.labels(node.value, function)
        key = self.labels(node.slice, function)
        row = _counted(labels) and isinstance(node.ctx, ast.Load) and "VAL" in key
        if (roots(node.value) & self.tables or row) and not isinstance(node.slice, ast.Slice):
            return labels | (key - {"HASH"}) | _count(node, key)
        return labels if isinstance(node.slice, ast.Slice) else labels | (key & {"VAL", "TRAIN"})

    def _of_binary(self, node: ast.BinOp, function: Function) -> Labels:
        both = self.labels(node.left, function) | self.labels(node.right, function)
        mixes = isinstance(node.op, (ast.BitXor, ast.Mod)) or (isinstance(node.op, ast.BitAnd) and "VAL" in both)
        return both | {"HASH"} if mixes and ("VAL" in both or _asks(both)) else both

    def _of_choice(self, node: ast.IfExp, function: Function) -> Labels:
        arms = [e for e in (node.body, node.orelse) if e in self.reach.live] or [node.body, node.orelse]
        return frozenset().union(*(self.labels(e, function) for e in arms))

    def _of_name(self, name: str, function: Function) -> Labels:
        scope: Function | None = function
        out: Labels = split_by_name(name)
        while scope is not None:
            if name in scope.labels:
                out |= scope.labels[name] if scope is function else self.known(scope.labels[name], scope)
            if name in scope.params:
                return out | ({f"p:{name}"} if scope is function else self.known(frozenset({f"p:{name}"}), scope))
            if name in scope.assigned:
                return out
            scope = scope.parent
        return out

    def _passed(self, call: ast.Call, callee: Function, labels: Labels, function: Function) -> Labels:
        """The labels of a function's result, with its parameters replaced by the arguments of this call."""
        out: Labels = NONE
        for label in labels:
            if not label.startswith("p:"):
                out |= {label}
                continue
            expression = argument_for(call, callee, label[2:])
            default = callee.defaults.get(label[2:])
            if expression is not None:
                out |= self.labels(expression, function)
            elif default is not None and callee.parent is not None:
                out |= self.known(self.labels(default, callee.parent), callee.parent)
        return out

    def _of_call(self, node: ast.Call, function: Function) -> Labels:
        callees = self.reach.callees(node)
        if callees and not (isinstance(node.func, ast.Name) and node.func.id in self.index.classes):
            out: Labels = NONE
            for callee in callees:
                out |= self._passed(node, callee, callee.returns, function)
            if isinstance(node.func, ast.Attribute) and "VAL" in self.labels(node.func.value, function):
                out |= {"VAL"}
            return out
        return self._of_library_call(node, dotted(node.func), function)

    def _of_library_call(self, node: ast.Call, name: str, function: Function) -> Labels:
        """A call of something that the script does not define: it holds what its arguments and its object hold."""
        arguments = [*node.args, *(k.value for k in node.keywords)]
        labels: Labels = NONE
        last = name.rsplit(".", 1)[-1] or getattr(node.func, "attr", "")
        if last in FRESH:
            return NONE
        for argument in arguments if last not in LIKENESSES else ():
            labels |= self.labels(argument, function)
        if isinstance(node.func, ast.Attribute):
            receiver = self.labels(node.func.value, function)
            row = node.func.attr == "get" and _counted(receiver)
            if node.func.attr in LOOKUPS and arguments and (row or roots(node.func.value) & self.tables):
                return labels | receiver | _count(node, labels | {"HASH"})
            named_anew = node.func.attr in ("with_name", "with_stem") and labels & {"VAL", "TRAIN"}
            labels |= NONE if named_anew else receiver
        elif name in SILENT:
            return labels & {"VAL"} if name == "range" else labels & {"PIECE"} if name == "len" else NONE
        elif not name:
            return labels
        return labels | self._gained(node, name, labels, function)

    def _gained(self, node: ast.Call, name: str, labels: Labels, function: Function) -> Labels:
        """Labels that a library call adds: raw bytes, a probability, a loss, a hash."""
        last = name.rsplit(".", 1)[-1]
        gained: Labels = NONE
        if last in BYTES and "VAL" not in labels:
            gained |= {"BLOB"}
        if last in LISTS and not self._tells_splits(function):
            gained |= {"BOTH"}
        if last in PIECES:
            gained |= {"PIECE"}
        if "LOSS" in labels and last in EXPONENTIALS:
            gained |= {"GOLD"}
        if (labels or gained) and self._is_model(node, name, last, function):
            gained |= {"LOSS"}
        if (name == "hash" or name.endswith(("tobytes", "crc32", "tuple"))) and ("VAL" in labels or _asks(labels)):
            gained |= {"HASH"}
        return gained

    def _tells_splits(self, function: Function) -> bool:
        """Whether a function names a split, as a function does that picks files from a folder."""
        texts = (n.value for n in self.index.own_of(function.node, ast.Constant))
        return any(isinstance(text, str) and ("train" in text or "val" in text) for text in texts)

    def _is_model(self, call: ast.Call, name: str, last: str, function: Function) -> bool:
        """Whether a call computes a loss or logits: one of the library's, or a value called like a function."""
        if last in LOSSES:
            return True
        if not call.args or name.split(".")[0] in self.index.imports or last in PLAIN_METHODS:
            return False
        if isinstance(call.func, ast.Name):
            return name not in BUILTINS and name not in self.reach.by_name and name not in self.index.classes
        if not isinstance(call.func, ast.Attribute):
            return False
        own = isinstance(call.func.value, ast.Name) and call.func.value.id == "self" and MODELS.search(last)
        if not own and self.labels(call.func.value, function):
            return False
        return any(self.labels(a, function) for a in (*call.args, *(k.value for k in call.keywords)))


def _is_text(node: ast.AST) -> bool:
    return type(node) is ast.Constant and type(node.value) is str


def _asks(labels: Labels) -> bool:
    """Whether labels still name parameters."""
    return any(x.startswith("p:") for x in labels)


def _count(node: ast.expr, key: Labels) -> Labels:
    if "HASH" in key or "VAL" in key or _asks(key):
        return frozenset({f"COUNT#{node.lineno}.{node.col_offset}"})
    return NONE


def _counted(labels: Labels) -> bool:
    return any(x.startswith("COUNT") for x in labels)
