"""What is off in the reported run and on elsewhere: on eight processes, or when a switch is turned.

A script is read three times: as it ran, on eight processes, and with every switch open. A hit that only the later
readings give is `latent` and names the settings that reach it, unless the log shows a line that only that code prints.
"""

import ast
import re
from collections.abc import Iterator, Sequence

from pargolf.audit.facts import Facts
from pargolf.audit.flow import Program
from pargolf.audit.hits import CodeRule, Hit
from pargolf.audit.logs import Line
from pargolf.audit.tree import Function, dotted
from pargolf.audit.unpack import Code
from pargolf.audit.verdict import PASS, SUSPECT, Evidence, RuleFinding

_EIGHT = {"WORLD_SIZE": "8", "RANK": "0", "LOCAL_RANK": "0"}
_LOGGERS = ("print", "log", "log0", "log_fn", "info", "logger", "_log", "log_func", "logf")


def environment_of(facts: Facts) -> dict[str, str]:
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


def latent(
    code: Code,
    own: dict[str, str],
    hits: dict[tuple[str, int], Hit],
    here: Program,
    facts: Facts,
    rules: Sequence[CodeRule],
) -> Iterator[RuleFinding]:
    """What is off in the reported run but on elsewhere: on eight processes, or when a switch is turned."""
    assert code.tree is not None
    seen = set(hits)
    if own.get("WORLD_SIZE") != "8":
        eight = Program(code.index, _EIGHT)
        for hit in [h for rule in rules for h in rule.check(eight)]:
            if hit.key not in seen and hit.status == SUSPECT:
                seen.add(hit.key)
                yield _latent_finding(code, hit, SUSPECT, f"on 8 processes (the log shows {own.get('WORLD_SIZE')})")
    if not _sleeping(here):
        return
    switches = _switches(code.tree)
    turned = {name: "1" for name in switches if own.get(name, "0") in ("0", "", "false")}
    opened = Program(code.index, {**own, **turned}, any_word=True)
    for hit in [h for rule in rules for h in rule.check(opened)]:
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
    yield from _uncalled(code, {**own, **turned}, seen, opened, facts, rules)


def _uncalled(
    code: Code,
    env: dict[str, str],
    seen: set[tuple[str, int]],
    opened: Program,
    facts: Facts,
    rules: Sequence[CodeRule],
) -> Iterator[RuleFinding]:
    """Hits in functions that nothing in the script calls, but whose lines stand in the log: it ran another version."""
    assert code.tree is not None
    ran: dict[str, Line] = {}
    for function in opened.functions:
        if not function.live and function.owner is None:
            said = _logged(opened, list(_log_words(function.node)), facts)
            if said is not None:
                ran[function.name] = said
    if not ran:
        return
    program = Program(code.index, env, any_word=True, also=frozenset(ran))
    for hit in [h for rule in rules for h in rule.check(program)]:
        name = program.function_of(hit.node).name
        if hit.key not in seen and hit.status == SUSPECT and name in ran:
            line = getattr(hit.node, "lineno", 0)
            shown = Evidence(ran[name].file, ran[name].number, ran[name].text)
            text = f"{hit.summary} The committed script never calls it, but the log shows that it ran. {hit.probe}"
            yield RuleFinding(hit.rule, hit.status, text, (Evidence(code.path, line, code.line(line)), shown))


def _latent_finding(code: Code, hit: Hit, status: str, when: str) -> RuleFinding:
    line = getattr(hit.node, "lineno", 0)
    text = (
        f"Off in the reported run; it fires {when}: {hit.rule}: {hit.summary[:1].lower()}{hit.summary[1:]} {hit.probe}"
    )
    return RuleFinding("latent", status, text, (Evidence(code.path, line, code.line(line)),))


def _printed(here: Program, opened: Program, node: ast.AST, facts: Facts) -> Line | None:
    """A log line that only code around `node`, dead under the settings we know, can have printed."""
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
    return _logged(here, words, facts)


def _logged(here: Program, words: Sequence[str], facts: Facts) -> Line | None:
    """The first log line that begins with one of the words, if no live code holds that word."""
    if not words:
        return None
    live = here.live_text
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
        if isinstance(node, ast.Call) and node.args and dotted(node.func).split(".")[-1] in _LOGGERS:
            first = node.args[0]
            part = first.values[0] if isinstance(first, ast.JoinedStr) and first.values else first
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                word = part.value.strip()
                if len(word) >= 8 and re.search(r"[a-z]{4}", word):
                    yield word


def _sleeping(here: Program) -> bool:
    """Whether dead code holds anything that a rule could object to: an update, a count, a comparison of tokens."""
    for node in here.index.order:
        if node in here.live:
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("backward", "scatter_add_", "at", "bincount") or dotted(node.func).endswith(
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
