"""Rules about what the code does: dataflow and reachability, never names alone.

Score before update (C3): every `backward()` on a loss of validation tokens needs, earlier in the same iteration of a
loop that holds both, a score of them that the function reports. One level up the callers are asked the same. A loop
that scores and trains but whose counter does not choose the data repeats itself: from its second round on it scores
tokens it has trained on. Hashed caches (C1, C2) show as a quotient of two different counts, both read at keys made from
validation tokens: the counts of one continuation over those of its context, which need not sum to one. Two passes (C4)
show as counts complete before the loop that reads them. What is found is SUSPECT and names the probe that would prove
it; what only other settings reach is `latent` and names them.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pargolf.audit.facts import Facts
from pargolf.audit.flow import Function, Program
from pargolf.audit.logs import Line
from pargolf.audit.rules import Missing
from pargolf.audit.unpack import Code
from pargolf.audit.verdict import HOLD, PASS, SUSPECT, Evidence, RuleFinding

_EIGHT = {"WORLD_SIZE": "8", "RANK": "0", "LOCAL_RANK": "0"}
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_STORES = ("add_", "append", "extend", "copy_", "index_add_", "scatter_add_", "index_copy_", "masked_scatter_", "put_")
_LOGGERS = ("print", "log", "log0", "log_fn", "info", "logger", "_log", "log_func", "logf")
FLIP = "Probe: flip one target and see whether any score at or before it changes."
SUM = "Probe: sum p over the whole vocabulary at random positions; it must be 1."


@dataclass(frozen=True)
class Hit:
    """One place in the code that a rule objects to."""

    rule: str
    status: str
    node: ast.AST
    summary: str
    probe: str

    @property
    def key(self) -> tuple[str, int]:
        """What makes two hits the same."""
        return self.rule, getattr(self.node, "lineno", 0)


@dataclass(frozen=True)
class CodeRule:
    """A rule's name, its words, where they are written, and the function that finds hits in a program."""

    name: str
    quote: str
    source: str
    check: Callable[[Program], Iterator[Hit]]


def read_code_rules(facts: Facts, missing: Missing) -> list[RuleFinding]:
    """Run every code rule on the main script as it ran, on eight processes, and with every switch open."""
    code = facts.main
    names = sorted(_CLEAN)
    if code is None or code.tree is None:
        for name in names:
            missing.add(f"{name}: there is no script that could be read")
        return []
    if code.note.startswith(("a long", "a packed")):
        for name in names:
            missing.add(f"{name}: {code.path} holds code that could not be unpacked")
        return []
    if "val" not in code.text:
        for name in names:
            missing.add(f"{name}: {code.path} does not mention validation data; another file may score")
        return []
    own = _environment(facts)
    here = Program(code.tree, own)
    hits = {hit.key: hit for rule in CODE_RULES for hit in rule.check(here)}
    findings = [_finding(code, hit, facts) for hit in sorted(hits.values(), key=lambda h: h.key)]
    findings += _latent(code, own, hits, here, facts)
    spoken = {f.rule for f in findings}
    for name in names:
        if name not in spoken and name in _CLEAN:
            findings.append(RuleFinding(name, PASS, _CLEAN[name]))
    return findings


def _finding(code: Code, hit: Hit, facts: Facts) -> RuleFinding:
    line = getattr(hit.node, "lineno", 0)
    evidence = [Evidence(code.path, line, code.line(line))]
    where = " (line numbers are those of the unpacked script)" if code.packed else ""
    logged = next((log.prequant for log in facts.own_logs or facts.logs if log.prequant), None)
    if logged is not None and hit.rule == "ttt_order":
        evidence.append(Evidence(logged.file, logged.number, logged.text))
    return RuleFinding(hit.rule, hit.status, f"{hit.summary} {hit.probe}{where}", tuple(evidence))


def _environment(facts: Facts) -> dict[str, str]:
    """The settings the reported run had: eight ranks, the run command's variables, and what the log dumps."""
    env = {**_EIGHT, **{name: value for name, (value, _) in facts.env.items()}}
    log = next((x for x in facts.own_logs if len(x.settings) > 20), None)
    sizes = {x.world_size for x in facts.own_logs if x.world_size}
    if len(sizes) == 1:
        env["WORLD_SIZE"] = str(sizes.pop())
    if log is not None and facts.main is not None:
        for name, (value, _) in log.settings.items():
            upper = name.upper()
            if upper in facts.main.text and value in ("True", "False") and upper not in facts.env:
                env[upper] = "1" if value == "True" else "0"
    return env


def _latent(
    code: Code, own: dict[str, str], hits: dict[tuple[str, int], Hit], here: Program, facts: Facts
) -> Iterator[RuleFinding]:
    """What is off in the reported run but on elsewhere: on eight processes, or when a switch is turned."""
    assert code.tree is not None
    seen = set(hits)
    if own.get("WORLD_SIZE") != "8":
        eight = Program(code.tree, _EIGHT)
        for hit in [h for rule in CODE_RULES for h in rule.check(eight)]:
            if hit.key not in seen and hit.status == SUSPECT:
                seen.add(hit.key)
                yield _latent_finding(code, hit, SUSPECT, f"on 8 processes (the log shows {own.get('WORLD_SIZE')})")
    if not _sleeping(here):
        return
    switches = _switches(code.tree)
    turned = {name: "1" for name in switches if own.get(name, "0") in ("0", "", "false")}
    opened = Program(code.tree, {**own, **turned}, any_word=True)
    for hit in [h for rule in CODE_RULES for h in rule.check(opened)]:
        if hit.key not in seen and hit.status == SUSPECT:
            seen.add(hit.key)
            ran = _printed(here, opened, hit.node, facts)
            if ran is not None:
                line = getattr(hit.node, "lineno", 0)
                places = (Evidence(code.path, line, code.line(line)), Evidence(ran.file, ran.number, ran.text))
                text = f"{hit.summary} It is off by default, but the log shows that it ran. {hit.probe}"
                yield RuleFinding(hit.rule, hit.status, text, places)
                continue
            names = _guards(opened, hit.node)
            yield _latent_finding(
                code, hit, PASS, f"with {' or '.join(sorted(names)[:3])} set" if names else "with other settings"
            )


def _latent_finding(code: Code, hit: Hit, status: str, when: str) -> RuleFinding:
    line = getattr(hit.node, "lineno", 0)
    text = (
        f"Off in the reported run; it fires {when}: {hit.rule}: {hit.summary[:1].lower()}{hit.summary[1:]} {hit.probe}"
    )
    return RuleFinding("latent", status, text, (Evidence(code.path, line, code.line(line)),))


def _printed(here: Program, opened: Program, node: ast.AST, facts: Facts) -> Line | None:
    """A log line that only code around `node`, dead under the settings we know, can have printed."""
    live = "\n".join(n.value for n in here.live if isinstance(n, ast.Constant) and isinstance(n.value, str))
    words: list[str] = []
    seen: set[Function] = set()

    def climb(at: ast.AST, function: Function) -> None:
        dead = at
        for above in opened.ancestors(at):
            if above in here.live or above is function.node or isinstance(above, ast.Module):
                break
            dead = above
        region = function.node if _is_dead(here, function) else dead
        words.extend(_log_words(region))
        if _is_dead(here, function) and function not in seen and len(seen) < 12:
            seen.add(function)
            for site in function.calls:
                climb(site.call, site.caller)

    climb(node, opened.function_of(node))
    wanted = [w for w in dict.fromkeys(words) if w not in live]
    for log in facts.own_logs:
        for line in log.lines:
            if any(line.text.startswith(w) for w in wanted):
                return line
    return None


def _is_dead(here: Program, function: Function) -> bool:
    return next((not f.live for f in here.functions if f.node is function.node), False)


def _log_words(region: ast.AST) -> Iterator[str]:
    """What the log calls of a piece of code begin their lines with."""
    for node in ast.walk(region):
        if isinstance(node, ast.Call) and node.args and _text(node.func).split(".")[-1] in _LOGGERS:
            first = node.args[0]
            part = first.values[0] if isinstance(first, ast.JoinedStr) and first.values else first
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                word = part.value.strip()
                if len(word) >= 8 and re.search(r"[a-z]{4}", word):
                    yield word


def _sleeping(here: Program) -> bool:
    """Whether dead code holds anything that a rule could object to: an update, a count, a comparison of tokens."""
    for node in here.parents:
        if node in here.live:
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("backward", "scatter_add_", "at", "bincount") or _text(node.func).endswith(
                "autograd.grad"
            ):
                return True
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Subscript):
            return True
    return False


def _switches(tree: ast.Module) -> set[str]:
    """Environment variables whose default is off: `0`, empty or false."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.args) == 2 and isinstance(node.args[0], ast.Constant):
            default = node.args[1]
            off = isinstance(default, ast.Constant) and str(default.value).lower() in ("0", "", "false", "none", "0.0")
            name = node.args[0].value
            if off and isinstance(name, str) and name.isupper():
                found.add(name)
    return found


def _guards(program: Program, node: ast.AST) -> set[str]:
    """Environment variables that the tests around a node, or around the calls to it, depend on."""
    found: set[str] = set()
    seen: set[Function] = set()

    def climb(at: ast.AST, function: Function, depth: int) -> None:
        for above in program.ancestors(at):
            if isinstance(above, (ast.If, ast.IfExp)):
                found.update(_variables(program, above.test))
        if function in seen or depth > 5:
            return
        seen.add(function)
        for site in function.calls:
            climb(site.call, site.caller, depth + 1)

    climb(node, program.function_of(node), 0)
    return found


def _variables(program: Program, test: ast.expr, depth: int = 0) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(test):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper():
            found.add(node.value)
        elif isinstance(node, ast.Attribute) and depth < 3:
            for _, source in program.attribute_sources.get(node.attr, ())[:3]:
                found |= _variables(program, source, depth + 1) if source is not None else set()
        elif isinstance(node, ast.Name) and depth < 3:
            for source2 in program.function_of(test).assigned.get(node.id, ())[:3]:
                if source2 is not None:
                    found |= _variables(program, source2, depth + 1)
    return found


# ---- score before update


def ttt_order(program: Program) -> Iterator[Hit]:
    """Every update from validation tokens comes after those tokens were scored; SLOT's own tensors are told apart."""
    for call, loss in _updates(program):
        labels = program.of(loss, program.function_of(call))
        if "VAL" not in labels or "TRAIN" in labels:
            continue
        function = program.function_of(call)
        if _thrown_away(program, call, function):
            continue
        reason = _unscored(program, call, function, frozenset())
        if not reason:
            continue
        if _own_tensors(program, call, function):
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


def _updates(program: Program) -> Iterator[tuple[ast.Call, ast.expr]]:
    for node in program.live:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "backward" and node.func.attr not in program.by_name:
                yield node, node.func.value
            elif (
                node.func.attr == "grad"
                and node.args
                and len(node.args) > 1
                and _text(node.func).endswith("autograd.grad")
            ):
                yield node, node.args[0]


def _unscored(program: Program, node: ast.AST, function: Function, seen: frozenset[Function]) -> str:
    """Why an update at `node` is not preceded by a reported score, or nothing."""
    found = _scored_in(program, node, function)
    if found is not None:
        return found
    if function is program.module or function in seen or len(seen) > 6:
        return "before any reported score of them"
    sites = [s for s in function.calls if s.call in program.live]
    if not sites:
        # Passed as a value, or a method found by no call: the definition's own place stands for the call.
        if function.parent is not None and function.parent is not program.module:
            return _unscored(program, function.node, function.parent, seen | {function})
        return "before any reported score of them"
    reasons = [
        _unscored(program, s.call, s.caller, seen | {function})
        for s in sites
        if function.owner is not None or _brings_validation(program, s.call, function)
    ]
    return next((r for r in reasons if r), "")


def _brings_validation(program: Program, call: ast.Call, function: Function) -> bool:
    held = [*call.args, *(k.value for k in call.keywords)]
    labels = frozenset().union(*(program.of(a, program.function_of(call)) for a in held)) if held else frozenset()
    return "VAL" in labels or "TRAIN" not in labels


def _scored_in(program: Program, node: ast.AST, function: Function) -> str | None:
    """'' when scored before, a reason when scored wrongly, None when this function does not score it at all."""
    chain = [node]
    for above in program.ancestors(node):
        chain.append(above)
        if above is function.node:
            break
    repeats: list[ast.AST] = [x for x in chain[1:] if isinstance(x, _LOOPS) and _repeats(program, x, function)]
    loops = [i for i, x in enumerate(chain) if isinstance(x, _LOOPS)]
    called_in_loop = any(
        isinstance(a, _LOOPS) for s in function.calls for a in program.ancestors(s.call) if a in program.live
    )
    for i in range(1, len(chain)):
        above, below = chain[i], chain[i - 1]
        inside = any(j >= i for j in loops) or called_in_loop
        if not inside or (above is function.node and not called_in_loop and function is program.module):
            continue
        for statement in _before(above, below):
            if statement not in program.live:
                continue
            root = _score(program, statement, function)
            if root is None or not _reported(program, root, function):
                continue
            wrong = next((r for r in repeats if any(a is r for a in program.ancestors(statement))), None)
            if wrong is not None:
                return "that an earlier round of the same loop has trained on: only the last round's score counts"
            return ""
    return None


def _before(above: ast.AST, below: ast.AST) -> list[ast.stmt]:
    """Statements of the block that holds `below` which come before it, last first."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(above, name, None)
        if isinstance(block, list) and below in block:
            return list(reversed(block[: block.index(below)]))
    return []


def _score(program: Program, statement: ast.stmt, function: Function) -> str | None:
    """The name that a statement adds a loss of validation tokens to, if it does."""
    for node in _inside(program, statement):
        if isinstance(node, ast.AugAssign) and _is_loss(program, node.value, function):
            return _root(node.target)
        if isinstance(node, ast.Assign) and _is_loss(program, node.value, function):
            target = node.targets[0]
            if isinstance(target, ast.Subscript):
                return _root(target)
            if (
                isinstance(target, ast.Name)
                and isinstance(node.value, ast.BinOp)
                and any(isinstance(n, ast.Name) and n.id == target.id for n in ast.walk(node.value))
            ):
                return target.id
        if isinstance(node, ast.Call):
            if (
                isinstance(node.func, ast.Attribute)
                and node.func.attr in _STORES
                and any(_is_loss(program, a, function) for a in node.args)
            ):
                return _root(node.func.value)
            held = _held_loss(program, node, function)
            if held is not None:
                return held
    return None


def _held_loss(program: Program, call: ast.Call, function: Function) -> str | None:
    """The name that a call of the script's own function adds a loss to, such as `accumulate(loss, ..., loss_sum)`."""
    if not any(_is_loss(program, a, function) for a in call.args):
        return None
    for callee in program.callees(call):
        for node in ast.walk(callee.node):
            name = None
            if isinstance(node, ast.AugAssign):
                name = _root(node.target)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _STORES:
                name = _root(node.func.value)
            if name in callee.params:
                at = callee.params.index(name)
                passed = [k.value for k in call.keywords if k.arg == name] or call.args[at : at + 1]
                if passed:
                    return _root(passed[0])
    return None


def _is_loss(program: Program, node: ast.expr, function: Function) -> bool:
    labels = program.of(node, function)
    return "VAL" in labels and "LOSS" in labels


def _reported(program: Program, root: str, function: Function) -> bool:
    """Whether what a name gathers leaves the function: returned, kept on an object, or gathered at the top."""
    if root in function.params or root not in function.assigned or function.name in ("main", "<module>"):
        return True
    if any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in program.own_nodes(function)):
        return True
    names: set[str] = set()
    feeds: dict[str, set[str]] = {}
    for node in program.own_nodes(function):
        if node not in program.live:
            continue
        if isinstance(node, ast.Return) and node.value is not None:
            names |= _names(node.value)
        elif isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Attribute):
                    names |= _names(node.value)
                for name in _names(target):
                    feeds.setdefault(name, set()).update(_names(node.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _STORES:
            name = _root(node.func.value)
            feeds.setdefault(name, set()).update(*(_names(a) for a in node.args))
    waiting = list(names)
    while waiting:
        for name in feeds.get(waiting.pop(), set()) - names:
            names.add(name)
            waiting.append(name)
    return root in names


def _repeats(program: Program, loop: ast.AST, function: Function) -> bool:
    """Whether a loop goes over the same data again: a count above one that chooses no data."""
    if not isinstance(loop, ast.For) or not isinstance(loop.iter, ast.Call) or _text(loop.iter.func) != "range":
        return False
    if len(loop.iter.args) == 1:
        count = program.value(loop.iter.args[0], function)
        if isinstance(count, (int, float)) and count <= 1:
            return False
    if any("VAL" in program.of(a, function) for a in loop.iter.args):
        return False
    names = _names(loop.target)
    nodes = list(_inside(program, loop))
    for _ in range(4):
        for node in nodes:
            if isinstance(node, (ast.Assign, ast.AugAssign)) and node.value is not None and _names(node.value) & names:
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    names |= _names(target)
            elif isinstance(node, (ast.For, ast.comprehension)) and _names(node.iter) & names:
                names |= _names(node.target)
    for node in nodes:
        if isinstance(node, ast.Subscript) and _names(node.slice) & names and "VAL" in program.of(node.value, function):
            return False
        if isinstance(node, ast.Call) and node is not loop.iter and not isinstance(node.func, ast.Attribute):
            held = [*node.args, *(k.value for k in node.keywords)]
            if any(_names(a) & names for a in held) and any("VAL" in program.of(a, function) for a in held):
                return False
    return True


def _thrown_away(program: Program, call: ast.AST, function: Function) -> bool:
    """Whether what is trained is made inside the loop around it, and neither scored with nor used after it."""
    outer = [a for a in program.ancestors(call) if isinstance(a, _LOOPS) and program.function_of(a) is function]
    if not outer:
        return False
    loop = outer[-1]
    made = {}
    for node in _inside(program, loop):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Call):
            made[node.targets[0].id] = node.value
    stepped = {
        _root(n.func.value)
        for n in _inside(program, loop)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == "step"
    }
    if not stepped or not all(name in made for name in stepped):
        return False
    parts = {n for name in stepped for n in _names(made[name]) if n in made}
    end = getattr(loop, "end_lineno", 0) or 0
    used_after = any(isinstance(n, ast.Name) and n.id in parts and n.lineno > end for n in program.own_nodes(function))
    scores = any(_score(program, s, function) for s in getattr(loop, "body", []))
    return bool(parts) and not used_after and not scores


def _own_tensors(program: Program, call: ast.AST, function: Function) -> bool:
    """Whether the optimizer beside an update holds fresh tensors of this function rather than the model's weights."""
    made, asked = set(), set()
    for node in program.own_nodes(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Call):
            text = ast.unparse(node.value)
            if any(k in text for k in ("zeros", "randn", "empty", "ones", "clone()", "Parameter(")):
                made.add(node.targets[0].id)
                asked |= {node.targets[0].id} if "requires_grad" in text or "Parameter(" in text else set()
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "requires_grad_"
            and isinstance(node.func.value, ast.Name)
        ):
            asked.add(node.func.value.id)
    fresh = made & asked
    if not fresh:
        return False
    for node in program.own_nodes(function):
        if isinstance(node, ast.Call) and _text(node.func).split(".")[-1] in (
            "AdamW",
            "Adam",
            "SGD",
            "LBFGS",
            "RMSprop",
            "Muon",
            "NAdam",
            "Adagrad",
        ):
            names = {n for a in node.args[:1] for n in _names(a)}
            sources = {n for name in names for e in function.assigned.get(name, ()) if e is not None for n in _names(e)}
            if (names | sources) & fresh:
                return True
    return isinstance(call, ast.Call) and len(call.args) > 1 and bool(_names(call.args[1]) & fresh)


# ---- caches


def ngram_target_key(program: Program) -> Iterator[Hit]:
    """A count at a key that holds the scored token over a count at its context's key."""
    for node in program.live:
        function = program.function_of(node)
        pair = _quotient(node)
        if pair is not None:
            above, under = (_counts(program.of(side, function)) for side in pair)
            if above - under and under and "VAL" in program.of(pair[0], function):
                yield Hit(
                    "ngram_target_key",
                    SUSPECT,
                    node,
                    f"`{function.name}` divides a count at a key made with the scored token by its context's: only "
                    "the true token's probability is ever formed (#779, #677).",
                    SUM,
                )
                return
    for node in program.live:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            function = program.function_of(node)
            left, right = program.of(node.left, function), program.of(node.right, function)
            for model, counts in ((left, right), (right, left)):
                if "GOLD" in model and _counts(counts) and not _counts(model) and "VAL" in counts:
                    yield Hit(
                        "ngram_target_key",
                        SUSPECT,
                        node,
                        f"`{function.name}` mixes the true token's probability with one from counts: "
                        "no distribution over the vocabulary is formed before the token is seen (#1835, #677).",
                        SUM,
                    )
                    return


def _quotient(node: ast.AST) -> tuple[ast.expr, ast.expr] | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return node.left, node.right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr == "div" and len(node.args) == 1:
            return node.func.value, node.args[0]
        if _text(node.func) in ("np.divide", "torch.div", "numpy.divide", "np.true_divide") and len(node.args) >= 2:
            return node.args[0], node.args[1]
    return None


def _counts(labels: frozenset[str]) -> frozenset[str]:
    return frozenset(x for x in labels if x.startswith("COUNT"))


# ---- two passes


def two_pass(program: Program) -> Iterator[Hit]:
    """No token is scored twice: no minimum over rounds, no second reading of counts that are already complete."""
    for node in program.live:
        if isinstance(node, ast.Call) and _text(node.func).split(".")[-1] in ("minimum", "min", "fmin"):
            hit = _minimum(program, node)
            if hit is not None:
                yield hit
    yield from _filled_first(program)


def _minimum(program: Program, call: ast.Call) -> Hit | None:
    function = program.function_of(call)
    if len(call.args) < 2 or not any(_is_loss(program, a, function) for a in call.args):
        return None
    parent = program.parents.get(call)
    if not isinstance(parent, ast.Assign) or len(parent.targets) != 1:
        return None
    kept = _root(parent.targets[0])
    loops = [a for a in program.ancestors(call) if isinstance(a, _LOOPS) and program.function_of(a) is function]
    if not any(kept in _names(a) for a in call.args) or not loops or not _reported(program, kept, function):
        return None
    trains = any(update in set(_inside(program, loop)) for loop in loops for update, _ in _updates(program))
    if not trains:
        return None
    return Hit(
        "two_pass",
        SUSPECT,
        call,
        f"`{function.name}` reports the least loss over several rounds on the same tokens (#573, #685, #1017 C4).",
        "Probe: count the scored contributions of each token; each must be one.",
    )


def _filled_first(program: Program) -> Iterator[Hit]:
    """Counts that one statement completes over validation tokens and a later one, in no common loop, scores with."""
    adds, reads = _closure(program, _adds_counts), _closure(program, _reads_counts)
    if not adds or not reads:
        return
    for function in (program.module, *program.functions):
        if not function.live or any(_looped(program, site.call, site.caller) for site in function.calls):
            continue
        held = _count_holders(program, function, adds)
        if not held:
            continue
        for block in _open_blocks(program, function):
            for i, later in enumerate(block):
                read = _touched(program, later, function, reads, _reads_counts) & held
                if not read or later not in program.live:
                    continue
                for earlier in block[:i]:
                    if (
                        earlier in program.live
                        and isinstance(earlier, (*_LOOPS, ast.Expr, ast.Assign, ast.If, ast.With))
                        and _touched(program, earlier, function, adds, _adds_counts) & read
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


def _looped(program: Program, node: ast.AST, function: Function) -> bool:
    """Whether a node stands in a loop of its own function."""
    for above in program.ancestors(node):
        if above is function.node:
            return False
        if isinstance(above, _LOOPS):
            return True
    return False


def _adds_counts(program: Program, node: ast.AST) -> set[str]:
    """Roots of tables that a node counts validation tokens into."""
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        return _last(node.target) & program.tables
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if _text(node.func).endswith("add.at") and node.args:
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
    """Functions that do something themselves or through the script's functions they call."""
    found = {program.function_of(node) for node in program.live if direct(program, node)}
    waiting = list(found)
    while waiting:
        for site in waiting.pop().calls:
            if site.caller not in found and site.caller is not program.module:
                found.add(site.caller)
                waiting.append(site.caller)
    return found


def _count_holders(program: Program, function: Function, adds: set[Function]) -> set[str]:
    """Names of a function that hold tables: tables themselves, objects that count, and what a counting call returns."""
    owners = {f.owner for f in adds if f.owner}
    held = {name for name in (*function.assigned, *function.params) if name in program.tables}
    for name, sources in function.assigned.items():
        for source in sources:
            if isinstance(source, ast.Call):
                made = source.func.id if isinstance(source.func, ast.Name) else ""
                if made in owners or any(c in adds and c.owner is None for c in program.callees(source)):
                    held.add(name)
    return held


def _open_blocks(program: Program, function: Function) -> Iterator[list[ast.stmt]]:
    """Blocks of a function that stand in none of its loops."""
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
    """Names whose tables a statement touches: itself, as a method's object, an argument or a closure's name."""
    found: set[str] = set()
    for node in _inside(program, statement):
        found |= direct(program, node)
        if isinstance(node, ast.Call):
            for callee in program.callees(node):
                if callee in through:
                    if isinstance(node.func, ast.Attribute):
                        found.add(_root(node.func.value))
                    for argument in (*node.args, *(k.value for k in node.keywords)):
                        found |= {argument.id} if isinstance(argument, ast.Name) else set()
                    if callee.parent is function and function is not program.module:
                        found |= _names(callee.node)
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and any(c in through and c.owner is None for c in program.callees(node.value))
        ):
            found |= {n for t in node.targets for n in _names(t)}
    return found


def _last(node: ast.AST) -> set[str]:
    """The name or attribute that a table expression goes back to."""
    while isinstance(node, (ast.Subscript, ast.Starred)):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else {node.attr} if isinstance(node, ast.Attribute) else set()


# ---- validation data in training


def val_in_training(program: Program) -> Iterator[Hit]:
    """Validation tokens reach neither the training loader, nor the artifact, nor a table of known answers."""
    for node in program.live:
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
            yield from _answers(program, node)


def _answers(program: Program, node: ast.Compare) -> Iterator[Hit]:
    """Targets compared with tokens that came in a file of the artifact: a paid prefix."""
    function = program.function_of(node)
    left, right = program.of(node.left, function), program.of(node.comparators[0], function)
    for tokens, other in ((left, right), (right, left)):
        if "VAL" in tokens and "BLOB" in other and "VAL" not in other:
            yield Hit(
                "val_in_training",
                SUSPECT,
                node,
                f"`{function.name}` compares the targets with tokens read from a file: a stored prefix of the "
                "validation set (#168, #262).",
                "Probe: score with the file removed; the score must not change.",
            )


def byte_table(program: Program) -> Iterator[Hit]:
    """The leading space's byte stands in the table of token bytes, and scoring adds it once more."""
    again = [
        node
        for node in program.live
        if isinstance(node, ast.AugAssign)
        and any(
            isinstance(n, ast.BinOp)
            and isinstance(n.op, ast.BitAnd)
            and isinstance(n.right, ast.UnaryOp)
            and isinstance(n.right.op, ast.Invert)
            for n in ast.walk(node.value)
        )
    ]
    if not again:
        return
    for node in program.live:
        if isinstance(node, ast.If) and "startswith" in ast.unparse(node.test) and "\u2581" in _strings(node.test):
            marks = any(_sets(n, lambda v: isinstance(v, ast.Constant) and v.value is True) for n in node.body)
            counted = next((n for n in node.body if _sets(n, _one_more_than_encoded)), None)
            if marks and counted is not None:
                yield Hit(
                    "byte_denominator",
                    SUSPECT,
                    counted,
                    f"The byte of a leading space is counted here and again on line {again[0].lineno}: the "
                    "score comes out some 15 % too low (#1545, #1687).",
                    "Probe: decode all validation tokens; they must give 151,074,309 bytes.",
                )
                return


def _sets(node: ast.stmt, fits: Callable[[ast.expr], bool]) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript) and fits(node.value)


def _one_more_than_encoded(value: ast.expr) -> bool:
    plus = isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add)
    return plus and "encode" in ast.unparse(value) and ast.unparse(value).endswith("+ 1")


def _strings(node: ast.AST) -> str:
    return "".join(n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))


_CLEAN = {
    "ttt_order": "Every reachable update from validation tokens follows their score, or there is none.",
    "slot": "No reachable code optimises tensors of its own on the tokens it scores.",
    "ngram_target_key": "No reachable quotient of counts is keyed by the scored token.",
    "two_pass": "No reachable code scores tokens a second time.",
    "val_in_training": "No validation tokens reach training or the artifact.",
}


def _none(program: Program) -> Iterator[Hit]:
    return iter(())


CODE_RULES: tuple[CodeRule, ...] = (
    CodeRule(
        "ttt_order", "only train on validation tokens you've already evaluated", "README FAQ; #402 #1017", ttt_order
    ),
    CodeRule("slot", "no maintainer has ruled", "#1336 #1240", _none),
    CodeRule(
        "ngram_target_key",
        "a full normalised distribution, fixed before the target",
        "#779 #677 #1017",
        ngram_target_key,
    ),
    CodeRule("byte_denominator", "bits per byte of the raw validation text", "#1545 #1687", byte_table),
    CodeRule("two_pass", "one left-to-right pass", "#846 #573 #1017", two_pass),
    CodeRule(
        "val_in_training", "no validation data in training, no paid prefix", "README FAQ; #168 #262", val_in_training
    ),
)


def _inside(program: Program, node: ast.AST) -> Iterator[ast.AST]:
    """Live nodes below a node, without the bodies of functions."""
    stack = [node]
    while stack:
        at = stack.pop()
        if at in program.live or isinstance(at, (ast.comprehension, ast.keyword, ast.withitem)):
            yield at
        if not isinstance(at, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            stack.extend(program.children.get(at, ()))


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _root(node: ast.AST) -> str:
    while isinstance(node, (ast.Subscript, ast.Attribute, ast.Starred)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            return f"self.{node.attr}"
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{_text(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""
