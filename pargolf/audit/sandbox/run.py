"""Run a foreign script in the sandbox, and turn the result into findings.

`audit --run` and `probe SCRIPT` use this. The child gets the script's text and its siblings in a scratch folder, which
is also its home. It has no environment but the run's own settings, no network and no other processes, and limits on
memory, seconds and files (see `jail`). It answers one JSON object. It is stopped when its time is up. The laws are
those of `pargolf probe`. A script that cannot be imported or built here has broken no rule, so it goes to `unchecked`.
"""

import json
from pathlib import Path
from typing import Any

from pargolf.audit.code.script import Code, read_code
from pargolf.audit.read.facts import Facts
from pargolf.audit.report import FAIL, HOLD, PASS, Evidence, RuleFinding
from pargolf.audit.rules.rule import Missing
from pargolf.audit.rules.table import RULES
from pargolf.audit.sandbox.child import confined
from pargolf.audit.sandbox.jail import Level, Limits
from pargolf.core.errors import UserError
from pargolf.core.sources import binds

SECONDS = 120
_ENTRY = "pargolf.audit.sandbox.foreign:serve"
_MOST_ANSWER = 1 << 20


def try_script(
    code: Code,
    *,
    siblings: dict[str, str] | None = None,
    env: dict[str, str] | None = None,
    seconds: int = SECONDS,
    level: Level | None = None,
    unsafe: bool = False,
) -> dict[str, Any]:
    """Import a script, build its model small and probe it, all in the sandbox.

    Returns the child's answer: the `stage` it reached (import, build, probe, done), `error` if any, `import_seconds`,
    `replaced` modules, `model` (class, dim, layers, vocab, parameters), `laws`; and from this side `guard`, the
    confinement. Raises `UserError` if the system cannot confine the script and `unsafe` is not set.
    """
    settings = {k: v for k, v in (env or {}).items() if k.isupper() and not k.startswith(("LD_", "PYTHON", "PATH"))}
    settings |= {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
    name = Path(code.path).name or "train_gpt.py"
    files = {**{Path(path).name: text for path, text in (siblings or {}).items()}, name: code.text}
    request = {"text": code.text, "name": name, "env": settings, "seconds": seconds}
    limits = Limits(seconds=seconds)
    with confined(_ENTRY, files=files, limits=limits, level=level, unsafe=unsafe) as child:
        answer = child.ask(json.dumps(request).encode(), most=_MOST_ANSWER)
        return {**_read(answer, child.stopped, child.end()), "guard": child.guard}


def _read(answer: bytes, stopped: str | None, status: int) -> dict[str, Any]:
    try:
        result = json.loads(answer)
        assert isinstance(result, dict)
        return result
    except (ValueError, AssertionError):
        why = stopped or f"the process ended with status {status} and no answer"
        return {"stage": "import", "error": why, "replaced": []}


def smoke(facts: Facts, missing: Missing, *, unsafe: bool = False) -> list[RuleFinding]:
    """Findings of a run in the sandbox: whether the script imports and builds, and which laws its model keeps."""
    code = facts.main
    if code is None or code.tree is None or not code.text:
        missing.add("run: there is no script that could be run")
        return []
    siblings = {c.path: c.text for c in facts.codes if c is not code and c.tree is not None}
    result = try_script(code, siblings=siblings, env=facts.environment, unsafe=unsafe)
    evidence = (Evidence(code.path, 0, ""),)
    findings = [_built(code, result, evidence, missing)] if "model" in result else []
    for law in result.get("laws", ()):
        rule = next(rule.name for rule in RULES if rule.law == law["law"])
        if law["holds"]:
            findings.append(RuleFinding(rule, PASS, f"Probed: {law['evidence']}.", evidence, {"worst": law["worst"]}))
        else:
            text = f"Probed on the script's own model, cut to {result['small']['parameters']:,} parameters: "
            findings.append(RuleFinding(rule, FAIL, text + law["evidence"] + ".", evidence, {"worst": law["worst"]}))
    if result["stage"] != "done":
        missing.add(f"run: {what_failed(result)}")
    return findings


def what_failed(result: dict[str, Any]) -> str:
    """One line: how far a script got, and what stopped it."""
    doing = {
        "import": "the script could not be imported",
        "build": "its model could not be built",
        "probe": "its model could not be probed",
    }
    replaced = f" (replaced here: {', '.join(result['replaced'])})" if result.get("replaced") else ""
    return f"{doing.get(result['stage'], result['stage'])}: {result.get('error', 'no reason given')}{replaced}"


def _built(code: Code, result: dict[str, Any], evidence: tuple[Evidence, ...], missing: Missing) -> RuleFinding:
    model = result["model"]
    numbers = {**model, "import_seconds": result.get("import_seconds"), "code_bytes": code.size}
    numbers["replaced"] = result["replaced"]
    numbers["document_isolated"] = result.get("isolated")
    guard = result["guard"]
    numbers["sandbox"] = guard.rows()
    if guard.level is Level.NONE:
        missing.add(f"run: {guard.line()}")
    text = (
        f"Imports in {result.get('import_seconds', 0):.1f} s and builds {model['class']}: {model['layers']} layers of "
        f"width {model['dim']}, a vocabulary of {model['vocab']}, {model['parameters']:,} parameters; "
        f"{code.size:,} bytes of code. {guard.line()}"
    )
    if result.get("loss_is_mean") is False:
        return RuleFinding(
            "run", HOLD, text + " Its loss is not the mean cross-entropy of its logits.", evidence, numbers
        )
    return RuleFinding("run", PASS, text, evidence, numbers)


def is_foreign(target: object) -> bool:
    """Whether a target is a Python file that is no recipe: it assigns no `RECIPE` at its top level."""
    path = Path(str(target))
    if path.suffix != ".py" or not path.is_file():
        return False
    try:
        return not binds(path, "RECIPE")
    except UserError:
        return True


def probe_script(path: str | Path, *, unsafe: bool = False) -> list[dict[str, Any]]:
    """The laws of a foreign script's own model as rows, like those of our recipes.

    Raises `UserError` if the script cannot be read, imported, built or run here.
    """
    path = Path(path)
    try:
        code = read_code(path.name, path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if code.tree is None:
        raise UserError(f"{path} is not Python that can be read: {code.error}.")
    siblings = {p.name: p.read_text(encoding="utf-8", errors="replace") for p in path.parent.glob("*.py") if p != path}
    result = try_script(code, siblings=siblings, unsafe=unsafe)
    if "laws" not in result:
        raise UserError(f"{path}: {what_failed(result)}.")
    return [{**law, "sandbox": result["guard"].line()} for law in result["laws"]]
