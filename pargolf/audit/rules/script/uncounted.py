"""Bytes that scoring needs and that no size counts: further files, modules, a script that grew after it was logged.

Everything that the program reads belongs to the artifact: code beside the script, weights and tables in any file, under
any name. A tokenizer does not count. Logs, texts and pictures do not count if the script does not name them. What
counts is added to the largest size that the submission gives. Above the cap it is FAIL; below it a person has to count.
"""

import ast
import fnmatch
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

from pargolf.audit.code.script import Code
from pargolf.audit.code.tree import dotted, walk
from pargolf.audit.read.facts import Facts
from pargolf.audit.read.logs import LoggedNumber
from pargolf.audit.read.submission import File
from pargolf.audit.report import FAIL, HOLD, Evidence, RuleFinding
from pargolf.core.units import CAP

_SLACK, _NOTABLE = 64, 4_096
_LEAST = 2_000
# The share that minifying saves of packed code; and the bytes by which people count code differently.
_MINIFIED = 0.5
_MARGIN = 25_000
_WRITES = {"savefig", "imsave", "write", "write_text", "write_bytes", "save", "dump", "tofile", "print", "log0", "log"}
# Code of normal size that fits under the cap is a matter of style; tables of numbers in it are weights.
_PLAIN_CODE, _TABLE = 16_384, 200
_SOURCES = {".c", ".cpp", ".cc", ".cu", ".h", ".rs", ".pyx", ".cuh"}
_BINARY = {
    *(".pt", ".pth", ".bin", ".npz", ".npy", ".pkl", ".pickle", ".safetensors", ".ptz", ".zst", ".xz", ".br", ".lzma"),
    *(".zlib", ".gz", ".bz2", ".zip", ".h5", ".onnx", ".ckpt", ".dat", ".joblib", ".msgpack", ".so", ".blob", ".raw"),
}
_PICTURES = {".png", ".svg", ".jpg", ".jpeg", ".gif", ".pdf", ".webp", ".mp4", ".html", ".ipynb"}
_TOKENIZER = (".model", ".vocab", ".tiktoken")
_PROJECT = ("readme", "license", "submission.json", "requirements", ".gitignore", "train_log", "pyproject", "makefile")


def uncounted_bytes(facts: Facts) -> Iterator[RuleFinding]:
    """Files, modules and a larger script that no declared or logged size counts."""
    if not facts.folder.script_only:
        yield from _further_files(facts)
        yield from _larger_script(facts)


def _further_files(facts: Facts) -> Iterator[RuleFinding]:
    """Data besides the artifact that the script reads, or that can only be weights."""
    counted = [file for file in facts.folder.files if _is_data(facts, file)]
    total = sum(file.size for file in counted)
    if total < _LEAST:
        return
    evidence = [Evidence(file.path, 0, f"{file.size:,} bytes") for file in counted[:6]]
    contents = f"{', '.join(file.path for file in counted[:3])}: {total:,} bytes that no size counts"
    sources = all(file.suffix in _SOURCES for file in counted)
    yield _added(_largest(facts), total, contents, evidence, proven=not sources)


def _added(largest: float, more: float, contents: str, evidence: list[Evidence], *, proven: bool) -> RuleFinding:
    """The cap with some bytes added. Code is often counted packed, so for code alone a person has to judge."""
    numbers = {"cap": CAP, "uncounted": int(more), "with_them": int(largest + more)}
    if largest and largest + more > CAP:
        text = f"{contents}; with them the artifact has {largest + more:,.0f}, over the cap of {CAP:,}."
        return RuleFinding("size_cap", FAIL if proven else HOLD, text, tuple(evidence), numbers)
    return RuleFinding("size_cap", HOLD, f"{contents}. Count them, or say what they are for.", tuple(evidence), numbers)


def _is_data(facts: Facts, file: File) -> bool:
    """Whether a file contains what the script may score with: the script names it, or its kind has no other use."""
    name, lower = file.name, file.name.lower()
    if file.suffix in (".py", ".sh", ".log", *_TOKENIZER) or lower.startswith(_PROJECT):
        return False
    if "tokenizer" in lower or "fineweb" in lower or _is_artifact(facts, file):
        return False
    logs = {log.path for log in facts.logs if log.final is not None or log.rows}
    if file.path in logs or file.suffix in (".out", ".err"):
        return False
    if file.suffix in (".md", *_PICTURES):  # for people, unless the script reads it
        return _is_read(facts, name)
    return _named(facts, name) or (file.suffix in _BINARY and file.size > _LEAST)


def _is_artifact(facts: Facts, file: File) -> bool:
    """Whether a file is the packed model, by its size or by its name in the scripts."""
    sizes = [log.model.value for log in facts.logs if log.model is not None] + [x.number or 0.0 for x in facts.models]
    near = any(abs(file.size - size) < 0.02 * size for size in sizes if size)
    return near or (file.name.startswith(("final_model", "model.int", "final.")) and file.size > 1_000_000)


def _named(facts: Facts, name: str) -> bool:
    """Whether a string of the script is a file's name, or a pattern that the name fits."""
    program = facts.program
    if program is None or program.tree is None:
        return False
    for text in program.strings.splitlines():
        last = PurePosixPath(text).name
        if last == name or ("*" in last and len(last.replace("*", "")) > 4 and fnmatch.fnmatch(name, last)):
            return True
    return False


def _is_read(facts: Facts, name: str) -> bool:
    """Whether the script names a file in an expression that calls nothing that writes or prints."""
    program = facts.program
    if program is None or program.tree is None:
        return False
    index = program.index
    for node in index.order:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and PurePosixPath(node.value).name == name:
            around: list[ast.AST] = [node]
            while not isinstance(around[-1], ast.stmt) and around[-1] in index.parents:
                around.append(index.parents[around[-1]])
            calls = [a for a in walk(around[-1]) if isinstance(a, ast.Call)]
            names = {a.func.attr if isinstance(a.func, ast.Attribute) else dotted(a.func) for a in calls}
            if calls and not names & _WRITES:
                return True
    return False


def _largest(facts: Facts) -> float:
    """The largest total size that the submission declares or logs; 0 if it gives none."""
    sizes = [x.number or 0.0 for x in facts.totals]
    sizes += [logged_size.value for log in facts.own_logs if (logged_size := log.total_bytes) is not None]
    return max((size for size in sizes if size <= CAP), default=0.0)


_CODE = re.compile(r"^(bytes_code|code_bytes)$")


def _larger_script(facts: Facts) -> Iterator[RuleFinding]:
    """The committed script, and the modules it imports, compared with the bytes of code in the logs."""
    main = facts.main
    counts = [log.code for log in facts.own_logs if log.code is not None]
    if main is None or facts.program is None or not counts:
        return
    if any(_CODE.match(leaf.key) and leaf.number == main.size for leaf in facts.leaves):
        return  # declared as it is: the size rules use the sizes in submission.json
    count = max(counts, key=lambda number: number.value)
    logged, line = count.value, count.line
    models = [log.model.value for log in facts.own_logs if log.model is not None]
    totals = [log.total_bytes.value for log in facts.own_logs if log.total_bytes is not None]
    largest = max(models) + logged if models else max(totals, default=0.0)
    evidence = [Evidence(main.path, 0, f"{main.size:,} bytes"), Evidence(line.file, line.number, line.text)]
    size = _counted_like(main, count)
    if size > logged + (_NOTABLE if largest + size - logged <= CAP else _SLACK):
        contents = f"The committed {main.path} has {size:,} bytes of code and the logs count {logged:,.0f}"
        yield _added(largest, size - logged, contents, evidence, proven=True)
    else:
        yield from _imported(facts, main, logged, largest, evidence)


def _counted_like(main: Code, count: LoggedNumber) -> int:
    """The script's bytes, packed if the log line says that it counted packed code."""
    if not re.search(r"compress|packed|minif", count.line.text, re.I) or main.packed:
        return main.size
    return min(main.size, len(lzma.compress(main.text.encode("utf-8"))) - int(_MINIFIED * count.value))


def _imported(
    facts: Facts, main: Code, logged: float, largest: float, evidence: list[Evidence]
) -> Iterator[RuleFinding]:
    """Modules that the script imports and that the bytes of code in the logs do not include."""
    assert facts.program is not None
    beside = {path for _, path in facts.program.parts} - {main.path}
    modules = [code for code in facts.codes if code.path in beside]
    more = sum(code.size for code in modules)
    tables = any(_holds_table(code) for code in modules)
    slack = _NOTABLE if tables or largest + more > CAP else _PLAIN_CODE
    if more and main.size + more > logged + slack:
        shown = [Evidence(code.path, 0, f"{code.size:,} bytes, imported") for code in modules[:4]]
        contents = f"{main.path} imports {more:,} bytes of code and the logs count {logged:,.0f}, its own"
        packed = sum(len(zlib.compress(code.text.encode("utf-8"), 9)) for code in modules)
        lines = [evidence[0], *shown, *evidence[1:]]
        yield _added(largest, more, contents, lines, proven=largest + packed > CAP + _MARGIN)


def _holds_table(code: Code) -> bool:
    """Whether code contains data: a long text, or a long row of constants."""
    for node in walk(code.tree) if code.tree is not None else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)) and len(node.value) > _LEAST:
            return True
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)) and len(node.elts) > _TABLE:
            return True
        if isinstance(node, ast.Dict) and len(node.keys) > _TABLE:
            return True
    return False
