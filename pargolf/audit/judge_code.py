"""Judge what a script does, by dataflow and reachability, never by names alone.

The script is read three times: as it ran, on eight processes, and with every switch on. A hit in the first reading is
SUSPECT and names the probe that would prove it. A hit only in a later reading is `latent` and names the settings that
reach it, unless the log shows a line that only this code prints.
"""

import ast
import math
import re
from collections.abc import Iterator, Sequence

from pargolf.audit.code.program import Program
from pargolf.audit.code.script import Code
from pargolf.audit.code.switches import guards, sleeping, switches
from pargolf.audit.code.tree import Function, dotted, walk
from pargolf.audit.read.facts import EIGHT, Facts
from pargolf.audit.read.logs import Line
from pargolf.audit.report import PASS, SUSPECT, Coverage, Evidence, RuleFinding
from pargolf.audit.rules.rule import Hit, Missing
from pargolf.audit.rules.table import RULES
from pargolf.audit.rules.trails import unexplained_gains

Template = tuple[str, ...]
_LOGGERS = ("print", "log", "log0", "log_fn", "info", "logger", "_log", "log_func", "logf")


def judge_code(facts: Facts, missing: Missing) -> list[RuleFinding]:
    """Run every check of code on the main script: as it ran, on eight processes, and with every switch on."""
    reads = sorted((rule for rule in RULES if rule.reads_code), key=lambda rule: rule.name)
    reason, code = _unread(facts), facts.program
    if reason or code is None:
        for rule in reads:
            missing.add(f"{rule.name}: {reason}")
        return []
    program = Program(code.index, facts.settings)
    missing.coverage.append(_coverage(code, program))
    hits = _hits_of_run(code, program, facts)
    findings = [_finding(code, hit, facts) for hit in sorted(hits.values(), key=lambda h: h.key)]
    findings += unexplained_gains(facts, program)
    findings += _latent(code, facts.settings, hits, program, facts)
    decided = {f.rule for f in findings}
    clean = [rule for rule in reads if rule.name not in decided]
    if code.unread:
        for rule in clean:
            missing.add(f"{rule.name}: not all of the code could be followed: {'; '.join(code.unread[:3])}")
        return findings
    return findings + [RuleFinding(rule.name, PASS, rule.passes) for rule in clean]


def _hits_of_run(code: Code, program: Program, facts: Facts) -> dict[tuple[str, int], Hit]:
    """The hits under the settings that ran and as committed, without rules that the folder makes pointless."""
    hits = {hit.key: hit for hit in _hits(program)}
    committed = _as_committed(facts, code)
    if committed != facts.settings:  # the committed script is judged, too, if it does more than the logged one
        hits = {hit.key: hit for hit in _hits(Program(code.index, committed))} | hits
    pointless = _pointless(facts)
    return {key: hit for key, hit in hits.items() if hit.rule not in pointless}


def _pointless(facts: Facts) -> set[str]:
    """Rules that this folder needs no reading of code for."""
    logged = any(log.stop for log in facts.own_logs)  # the log's own seconds are better evidence
    unlimited = not facts.record_track  # the limit applies to the record track only
    return {rule for rule, holds in (("calibration_budget", logged), ("train_time", unlimited)) if holds}


def _as_committed(facts: Facts, code: Code) -> dict[str, str]:
    """The settings without what the logs print and the script, or its run command, contradicts."""
    contradicted = set(facts.not_as_committed)
    for name, value in facts.settings.items():
        sources = [s for _, s in code.index.attributes.get(name, ()) if s is not None] if name.islower() else []
        if value == "0" and any(isinstance(part, (ast.Compare, ast.Not)) for s in sources for part in ast.walk(s)):
            contradicted.add(name.upper())  # off in the logs; on or off by a test in the script
        if name not in facts.env and _number_in(code.index.defaults.get(name)) > _number_in(value):
            contradicted.add(name.upper())  # the script sets a higher one before it reads its settings
    return {n: v for n, v in facts.settings.items() if n.upper() not in contradicted or n in facts.env}


def _number_in(text: str | None) -> float:
    """The number that a setting holds; less than any if it holds none."""
    try:
        return float(text or "")
    except ValueError:
        return -math.inf


def _coverage(code: Code, program: Program) -> Coverage:
    """How much of the code was reached in the first reading."""
    functions = [function for function in program.functions if function.name != "<lambda>"]
    return Coverage(code.path, sum(function.live for function in functions), len(functions), code.unread)


def _unread(facts: Facts) -> str:
    """Why the script cannot be judged by its code, or nothing."""
    code = facts.program
    if code is None or code.tree is None:
        return "there is no script that could be read"
    if code.note.startswith(("a long", "a packed")):
        return f"{code.path} holds code that could not be unpacked"
    if "val" not in code.text:
        return f"{code.path} does not mention validation data; another file may score"
    return ""


def _hits(program: Program) -> list[Hit]:
    return [hit for rule in RULES if rule.code is not None for hit in rule.code(program)]


def _finding(code: Code, hit: Hit, facts: Facts) -> RuleFinding:
    line = getattr(hit.node, "lineno", 0)
    evidence = [Evidence(*code.place(line))]
    suffix = " (line numbers are those of the unpacked script)" if code.packed else ""
    logged = next((log.prequant for log in facts.own_logs or facts.logs if log.prequant), None)
    if logged is not None and hit.rule == "ttt_order":
        evidence.append(Evidence(logged.file, logged.number, logged.text))
    return RuleFinding(hit.rule, hit.status, f"{hit.summary} {hit.probe}{suffix}", tuple(evidence))


# ---- other settings


def _latent(
    code: Code, settings: dict[str, str], hits: dict[tuple[str, int], Hit], program: Program, facts: Facts
) -> Iterator[RuleFinding]:
    """Hits that need other settings than those that ran: eight processes, or a switch turned on."""
    assert code.tree is not None
    keys, pointless = set(hits), _pointless(facts)
    if settings.get("WORLD_SIZE") != "8":
        eight = Program(code.index, EIGHT)
        for hit in _hits(eight):
            if hit.key not in keys and hit.status == SUSPECT and hit.rule not in pointless:
                keys.add(hit.key)
                yield _latent_finding(
                    code, hit, SUSPECT, f"on 8 processes (the log shows {settings.get('WORLD_SIZE')})"
                )
    if not sleeping(program):
        return
    turned = {name: "1" for name in switches(code.tree) if settings.get(name, "0") in ("0", "", "false")}
    opened = Program(code.index, {**settings, **turned}, any_word=True)
    for hit in _hits(opened):
        if hit.key not in keys and hit.status == SUSPECT and hit.rule not in pointless:
            keys.add(hit.key)
            ran = _printed(program, opened, hit.node, facts)
            if ran is not None:
                line = getattr(hit.node, "lineno", 0)
                places = (Evidence(*code.place(line)), Evidence(ran.file, ran.number, ran.text))
                text = f"{hit.summary} It is off by default, but the log shows that it ran. {hit.probe}"
                yield RuleFinding(hit.rule, hit.status, text, places)
                continue
            names = guards(opened, hit.node)
            yield _latent_finding(
                code, hit, PASS, f"with {' or '.join(sorted(names)[:3])} set" if names else "with other settings"
            )
    yield from _uncalled(code, {**settings, **turned}, keys, opened, facts)


def _uncalled(
    code: Code, env: dict[str, str], keys: set[tuple[str, int]], opened: Program, facts: Facts
) -> Iterator[RuleFinding]:
    """Hits in functions that nothing calls, but whose lines are in the log: another version of the script ran."""
    assert code.tree is not None
    ran: dict[str, Line] = {}
    for function in opened.functions:
        if not function.live and function.owner is None:
            logged_line = _logged(opened, list(_log_words(function.node)), facts)
            if logged_line is not None:
                ran[function.name] = logged_line
    if not ran:
        return
    program = Program(code.index, env, any_word=True, also=frozenset(ran))
    for hit in _hits(program):
        name = program.function_of(hit.node).name
        if hit.key not in keys and hit.status == SUSPECT and name in ran:
            line = getattr(hit.node, "lineno", 0)
            shown = Evidence(ran[name].file, ran[name].number, ran[name].text)
            text = f"{hit.summary} The committed script never calls it, but the log shows that it ran. {hit.probe}"
            yield RuleFinding(hit.rule, hit.status, text, (Evidence(*code.place(line)), shown))


def _latent_finding(code: Code, hit: Hit, status: str, condition: str) -> RuleFinding:
    line = getattr(hit.node, "lineno", 0)
    summary = f"{hit.rule}: {hit.summary[:1].lower()}{hit.summary[1:]}"
    text = f"Off in the reported run; it fires {condition}: {summary} {hit.probe}"
    return RuleFinding("latent", status, text, (Evidence(*code.place(line)),))


def _printed(program: Program, opened: Program, node: ast.AST, facts: Facts) -> Line | None:
    """A log line that only code around `node`, dead under the known settings, can have printed."""
    words: list[Template] = []
    visited: set[Function] = set()

    def climb(start: ast.AST, function: Function) -> None:
        dead = start
        for above in opened.ancestors(start):
            if above in program.live or above is function.node or isinstance(above, ast.Module):
                break
            dead = above
        region = function.node if _is_dead(program, function) else dead
        words.extend(_log_words(region))
        if _is_dead(program, function) and function not in visited and len(visited) < 12:
            visited.add(function)
            for site in function.calls:
                climb(site.call, site.caller)

    climb(node, opened.function_of(node))
    return _logged(program, words, facts)


def _logged(program: Program, words: Sequence[Template], facts: Facts) -> Line | None:
    """The first log line that fits one of some templates, and no template of live code."""
    live = program.live_text
    wanted = [parts for parts in dict.fromkeys(words) if len(parts) > 1 or parts[0] not in live]
    if not wanted:
        return None
    live_templates: list[Template] | None = None
    for log in facts.own_logs:
        for line in log.lines:
            if any(_fits(line.text, parts) for parts in wanted):
                if live_templates is None:
                    live_templates = [
                        parts for call in program.live_of(ast.Call) for parts in _printed_by(call, least=1)
                    ]
                if not any(_fits(line.text, parts) for parts in live_templates):
                    return line
    return None


def _fits(line: str, parts: Template) -> bool:
    """Whether a line begins with the first part, and contains the others after it in their order."""
    if not line.startswith(parts[0]):
        return False
    offset = len(parts[0])
    for part in parts[1:]:
        start = line.find(part, offset)
        if start < 0:
            return False
        offset = start + len(part)
    return True


def _is_dead(program: Program, function: Function) -> bool:
    return next((not f.live for f in program.functions if f.node is function.node), False)


def _log_words(region: ast.AST) -> Iterator[Template]:
    """The fixed parts of the log calls in a piece of code."""
    for node in walk(region):
        if isinstance(node, ast.Call):
            yield from _printed_by(node, least=8)


def _printed_by(call: ast.Call, *, least: int) -> Iterator[Template]:
    """The fixed parts of what a log call prints, if they have enough letters to identify it."""
    if not call.args or dotted(call.func).split(".")[-1] not in _LOGGERS:
        return
    first = call.args[0]
    values = first.values if isinstance(first, ast.JoinedStr) else [first]
    texts = [v.value.strip() for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
    begins = bool(values) and isinstance(values[0], ast.Constant)
    parts = tuple(text for text in texts if text)
    if begins and parts and sum(map(str.isalpha, "".join(parts))) >= least and re.search(r"[a-z]{3}", parts[0]):
        yield parts
