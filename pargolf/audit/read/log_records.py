"""Turn logs in JSON into plain log lines: a log inside a string, one record per line, or a whole document of records.

Notebooks and job services keep a script's output in JSON strings; loggers write one record per line. Text in a string
is split into its lines. A record of numbers becomes the line that the published scripts print, such as `step:500/2000
val_loss:2.0 val_bpb:1.2 train_time:60000ms`, so that one reader handles all. Other settings in records are ignored,
because a list of settings does not show what ran.
"""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

MOST_DEPTH = 6
MOST_PARTS = 200_000
_LOSS = ("val_loss", "valid_loss", "validation_loss", "eval_loss")
_BPB = ("val_bpb", "valid_bpb", "validation_bpb", "eval_bpb", "bpb")
_TRAIN_LOSS = ("train_loss", "loss")
_STEP = ("step", "iter", "iteration", "global_step")
_STEPS = ("steps", "max_steps", "total_steps", "num_steps", "iterations", "num_iterations")
_TAG = ("tag", "event", "name", "phase", "kind", "type", "metric", "split")
_SECONDS = {"ms": ("train_time_ms", "training_time_ms"), "s": ("train_seconds", "train_time_s", "train_time")}
_EVAL = {"ms": ("eval_time_ms",), "s": ("eval_seconds", "eval_time_s", "eval_time")}
_SIZES = {
    "Total submission size json": ("bytes_total", "total_bytes", "artifact_bytes", "total_submission_size"),
    "Serialized model json": ("bytes_model", "model_bytes"),
    "Code size": ("bytes_code", "code_bytes"),
}
# Another system's result, a goal or a difference: no score of this run.
OTHERS = re.compile(r"baseline|target|previous|prior|sota|parent|delta|margin|limit|budget|before|best|record|leader")
_SETTINGS = ("world_size", "seed", "val_tokens", "train_shards")


def log_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a log, counted from 1. A line from JSON has the number of the line where it begins."""
    head = text.lstrip()[:1]
    if head in ("{", "[", '"'):
        value = _parsed(text)
        if value is not None:
            yield from ((_line_of(text, line), line) for line in _unfolded(value))
            return
    for number, line in enumerate(text.splitlines(), 1):
        body = line.strip()
        value = _parsed(body) if body[:1] in ("{", "[", '"') and body[-1:] in ("}", "]", '"') else None
        if value is None:
            yield number, line
        else:
            yield from ((number, inner) for inner in _unfolded(value))


def _parsed(text: str) -> Any:
    """A value that may contain log lines (a string, a list or an object), also as Python prints it; otherwise None."""
    try:
        value = ast.literal_eval(text) if text.startswith("{'") and len(text) < 4000 else json.loads(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return value if isinstance(value, (str, list, dict)) else None


def _unfolded(value: Any) -> Iterator[str]:
    """The lines of every text and every record below a value, in their order."""
    waiting: list[tuple[Any, int, str]] = [(value, 0, "")]
    parts = 0
    while waiting and parts < MOST_PARTS:
        content, depth, name = waiting.pop()
        parts += 1
        if isinstance(content, str):
            yield from content.splitlines()
        elif isinstance(content, list) and content and all(isinstance(part, str) for part in content):
            yield from "".join(part if part.endswith("\n") else f"{part}\n" for part in content).splitlines()
        elif isinstance(content, (list, dict)) and depth < MOST_DEPTH:
            if isinstance(content, dict) and not OTHERS.search(name.lower()):
                yield from _record(content, name)
            waiting += [(part, depth + 1, key) for key, part in reversed(list(_parts(content, name)))]


def _parts(content: list[Any] | dict[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """What may contain lines in a list (under the list's own name) or in a record (under its keys)."""
    if isinstance(content, list):
        yield from ((name, part) for part in content)
        return
    for key, part in content.items():
        if isinstance(part, (list, dict)) or (isinstance(part, str) and _is_log(part)):
            yield str(key), part


def _is_log(text: str) -> bool:
    """Whether a field's text may be log lines, not a name or a setting."""
    return "\n" in text or ":" in text or "val_bpb" in text


def _record(record: dict[str, Any], parent: str) -> Iterator[str]:
    """The lines that the published scripts would print for a record; `parent` is the key above it."""
    fields = {re.sub(r"[^a-z0-9]+", "_", str(key).lower()): value for key, value in record.items()}
    for name in _SETTINGS:
        if setting := _number(fields, (name,)):
            yield f"{name}: {setting}"
    yield from _score_line(fields, parent)
    for words, names in _SIZES.items():
        if size := _number(fields, names):
            yield f"{words}: {size} bytes"


def _score_line(fields: dict[str, Any], parent: str) -> Iterator[str]:
    """A validation row, a named score, or a row of training."""
    loss, bpb, step = _number(fields, _LOSS), _number(fields, _BPB), _number(fields, _STEP)
    trained, steps = _time(fields, _SECONDS, "train_time"), _number(fields, _STEPS) or step
    if bpb and loss and step.isdecimal() and steps.isdecimal():
        yield f"step:{step}/{steps} val_loss:{loss} val_bpb:{bpb}{trained}"
    elif bpb:
        tag = next((value for name in _TAG if isinstance(value := fields.get(name), str)), parent or "final")
        values = f"val_loss:{loss} val_bpb:{bpb}" if loss else f"val_bpb:{bpb}"
        yield f"{re.sub(r'[^A-Za-z0-9_ -]', '_', tag)[:40]} {values}{_time(fields, _EVAL, 'eval_time')}"
    elif step and trained and (loss := _number(fields, _TRAIN_LOSS)):
        yield f"step:{step}/{steps} train_loss:{loss}{trained}"


def _number(fields: dict[str, Any], names: tuple[str, ...]) -> str:
    """The first of some fields as the text of a number that is not negative; empty if there is none."""
    value = next((fields[name] for name in names if name in fields), None)
    if isinstance(value, str):
        return value if re.fullmatch(r"\d{1,18}(\.\d{1,18})?", value) else ""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e18:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.9g}"


def _time(fields: dict[str, Any], units: dict[str, tuple[str, ...]], name: str) -> str:
    """` train_time:60000ms` from the first field with a time; empty if there is none."""
    times = ((unit, _number(fields, names)) for unit, names in units.items())
    return next((f" {name}:{value}{unit}" for unit, value in times if value), "")


def _line_of(text: str, line: str) -> int:
    """The line of a document that contains the first words of a text; 1 if it is not found."""
    offset = text.find(json.dumps(line)[1:40].rstrip('"'))
    return text.count("\n", 0, offset) + 1 if offset > 0 else 1
