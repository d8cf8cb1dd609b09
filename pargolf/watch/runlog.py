"""The two logs of a run: `train.log` for people and parsers, `events.jsonl` for programs.

The published logs of Parameter Golf are read with regular expressions, so a log with lines of the same form works with
every existing tool: `step:S/ITER train_loss:L train_time:Tms step_avg:Ams`,
`final_X_roundtrip val_loss:L val_bpb:B`, `Total submission size X: N bytes` where total = model + code.
`log_lines` translates one event; `RunLog` chooses which steps are worth a line (1-10, every N-th, the last).

ITER is the step limit. A run with a limit in seconds only has none, so the step itself is printed: `step:130/130`.
(Published scripts print a limit of 20000, which they never reach in their time; we do not.) Source of the forms:
openai/parameter-golf `train_gpt.py` and the logs under its `records/`.
"""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pargolf.core.errors import UserError
from pargolf.core.events import (
    Event,
    Narrowed,
    Packed,
    PhaseBegan,
    Progress,
    Proved,
    Resumed,
    Scored,
    Started,
    Step,
    Stopped,
    Unsaved,
    Validated,
    Weighed,
    from_json,
    to_json,
)
from pargolf.core.files import reading, write_text

NAME = "pargolf"
_FIRST_STEPS = 10


def log_lines(event: Event, *, limit: int | None = None) -> list[str]:
    """Return the published log lines of one event, without newlines; `limit` is the step limit, if there is one."""
    match event:
        case Started():
            return _started(event)
        case Step(step=step, loss=loss, seconds=seconds):
            return [f"{_of(step, limit)} train_loss:{loss:.4f} {_time(step, seconds)}"]
        case Validated(step=step, loss=loss, bpb=bpb, seconds=seconds):
            # Positions come last: published parsers stop reading before them, people see it was a sample.
            numbers = f"val_loss:{loss:.4f} val_bpb:{bpb:.4f} {_time(step, seconds)}"
            return [f"{_of(step, limit)} {numbers} positions:{event.positions}"]
        case Weighed(step=step, model_bytes=model, code_bytes=code, cap=cap, seconds=seconds):
            return [f"{_of(step, limit)} weighs:{model + code}/{cap} model:{model} train_time:{_ms(seconds)}ms"]
        case PhaseBegan(step=step, phase=phase, seconds=seconds):
            return [f"phase:{_plain(phase)} {_of(step, limit)} train_time:{_ms(seconds)}ms"]
        case Resumed(step=step, file=file, refused=refused, seconds=seconds):
            return [f"resumed:{_plain(file)} {_of(step, limit)} train_time:{_ms(seconds)}ms", *map(_plain, refused)]
        case Unsaved(step=step, reason=reason, seconds=seconds):
            return [f"no_checkpoint: {_plain(reason)} {_of(step, limit)} train_time:{_ms(seconds)}ms"]
        case Narrowed(what=what, size=size, seconds=seconds):
            return [f"memory ran out: {_plain(what)} is now {size} train_time:{_ms(seconds)}ms"]
        case Stopped(step=step, reason=reason, seconds=seconds):
            tag = {"seconds": "stopping_early: wallclock_cap", "steps": "stopping: step_limit"}
            why = tag.get(reason, f"stopping_early: {_plain(reason)}")
            return [f"{why} train_time:{_ms(seconds)}ms {_of(step, limit)}"]
        case Packed(model_bytes=model, code_bytes=code):
            return [
                f"Serialized model {NAME}: {model} bytes",
                f"Code size: {code} bytes",
                f"Total submission size {NAME}: {model + code} bytes",
            ]
        case Proved(rests=rests, tokens=tokens, bytes=size, note=note):
            why = f" ({_plain(note)})" if note else ""
            hashes = event.shards_sha256 | {"tokenizer": event.tokenizer_sha256}
            line = f"validation: {tokens} tokens, {size} bytes, which rest on: {_plain(rests)}{why}"
            return [line, *(f"sha256 {_plain(name)}: {_plain(digest)}" for name, digest in hashes.items())]
        case Scored():
            return _scored(event)
        case _:
            return []


class RunLog:
    """Takes a run's events in order and returns the lines to log: steps 1-10, every `every`-th and the last."""

    def __init__(self, *, every: int = 50) -> None:
        self._every = max(every, 1)
        self._limit: int | None = None
        self._held: Step | None = None

    def lines(self, event: Event) -> list[str]:
        """Return the lines of `event`, preceded by the last step's if training ended on one not yet logged."""
        match event:
            case Started(steps_limit=limit):
                self._limit = limit
            case Step(step=step):
                self._held = None
                if step > _FIRST_STEPS and step % self._every:
                    self._held = event
                    return []
            case Stopped() if self._held is not None:
                last, self._held = self._held, None
                return log_lines(last, limit=self._limit) + log_lines(event, limit=self._limit)
        return log_lines(event, limit=self._limit)


class _Appender:
    """A text file to which whole lines are appended. It begins with the `earlier` text, or else with its old content.

    Lines that cannot be written because the disk is full wait in memory until the next one. An incomplete last line,
    from an earlier crash, is removed when the file is opened.
    """

    def __init__(self, path: str | Path, earlier: str | None) -> None:
        self.path = Path(path)
        if earlier is not None:
            write_text(self.path, earlier)
        _drop_cut_line(self.path)
        self._file = self.path.open("ab", buffering=0)
        self._waiting = bytearray()

    def line(self, text: str, *, sync: bool) -> None:
        """Append one line; with `sync` it is on the disk when this returns, unless the disk is full."""
        self._waiting += (text + "\n").encode(errors="backslashreplace")
        with suppress(OSError):
            self.drain(sync=sync)

    def drain(self, *, sync: bool = True) -> None:
        """Write the waiting lines. Raises `OSError` if that fails."""
        while self._waiting:
            count = self._file.write(self._waiting)
            if not count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            del self._waiting[:count]
        if sync:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write the waiting lines to the disk and close the file; closing twice is allowed."""
        if not self._file.closed:
            try:
                self.drain()
            finally:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:  # whose error says more than a full disk's
            with suppress(OSError):
                self.close()


class EventFile(_Appender):
    """`events.jsonl`: one JSON line per event, appended at once. `Progress` events are for bars and are not written.

    Appending cannot use `core.files`, which replaces whole files. Steps are written to the system at once, and synced
    to the disk with the next rarer event: a crash of the machine loses some steps of the curve, a kill of the process
    none.
    """

    def __init__(self, path: str | Path, *, earlier: Sequence[Event] | None = None) -> None:
        lines = None if earlier is None else [to_json(event) for event in earlier if not isinstance(event, Progress)]
        super().__init__(path, None if lines is None else "".join(f"{line}\n" for line in lines))

    def write(self, event: Event) -> None:
        """Append `event`."""
        if not isinstance(event, Progress):
            self.line(to_json(event), sync=not isinstance(event, Step))


class LogFile(_Appender):
    """`train.log`: the lines that `RunLog` chooses, appended as they happen."""

    def __init__(self, path: str | Path, *, every: int = 50, earlier: Sequence[Event] | None = None) -> None:
        self._log = RunLog(every=every)
        lines = None if earlier is None else [line for event in earlier for line in self._log.lines(event)]
        super().__init__(path, None if lines is None else "".join(f"{line}\n" for line in lines))

    def write(self, event: Event) -> None:
        """Append the lines of `event`."""
        for text in self._log.lines(event):
            self.line(text, sync=not isinstance(event, Step))


def read_events(path: str | Path) -> list[Event]:
    """Return the events of a file that `EventFile` wrote, without an incomplete last line.

    Raises `UserError` if the file is missing or another line is not an event.
    """
    path = Path(path)
    try:
        with reading(path):
            data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: {reason}. Point at the events.jsonl of a run folder.") from error
    return list(_parse(data, path))


def _parse(data: bytes, path: Path) -> Iterator[Event]:
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield from_json(line, where=f"{path}, line {number}")
        except UserError as error:
            if number == len(lines):  # only an incomplete line has no newline
                return
            raise UserError(f"{error} Remove the line, or read the run with the version that wrote it.") from error


def _drop_cut_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            file.truncate(whole)


def _started(event: Started) -> list[str]:
    seconds = f"max_wallclock_seconds:{event.seconds_limit:.3f}"
    bounds = seconds if event.steps_limit is None else f"iterations:{event.steps_limit} {seconds}"
    machine = " ".join(f"{_plain(key)}={_plain(value)}" for key, value in event.machine.items())
    return [
        f"recipe:{_plain(event.recipe)} digest:{_plain(event.digest)}",
        f"seed:{event.seed}",
        f"world_size:{_plain(event.machine.get('world_size', 1))}",
        f"model_params:{event.parameters}",
        f"train_tokens:{event.train_tokens}",
        f"val_tokens:{event.val_tokens}",
        bounds,
        *([f"machine: {machine}"] if machine else []),
    ]


def _scored(event: Scored) -> list[str]:
    """A rounded line with its time, then an `_exact` one with eight decimals, as the published scripts print."""
    kind, _, size = event.windows.partition(":")
    stride = f" stride:{size.rpartition(',')[2]}" if kind == "sliding" else ""
    if event.name.startswith("post_quant"):
        tag = f"final_{NAME}_" + ("sliding_window" if kind == "sliding" else "roundtrip")
    elif event.name.startswith("adapted"):
        tag, stride = "legal_ttt", ""
    else:
        # Tools take the last final_... line as the result, so other scorings must look different.
        words = re.sub(r"\W+", " ", f"diagnostic {event.name} {kind}").strip()
        return [f"{words} val_loss:{event.loss:.8f} val_bpb:{event.bpb:.8f} eval_time:{_ms(event.seconds)}ms"]
    return [
        f"{tag} val_loss:{event.loss:.4f} val_bpb:{event.bpb:.4f}{stride} eval_time:{_ms(event.seconds)}ms",
        f"{tag}_exact val_loss:{event.loss:.8f} val_bpb:{event.bpb:.8f}",
    ]


def _of(step: int, limit: int | None) -> str:
    return f"step:{step}/{step if limit is None else limit}"


def _time(step: int, seconds: float) -> str:
    return f"train_time:{_ms(seconds)}ms step_avg:{1000 * seconds / max(step, 1):.2f}ms"


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


def _plain(value: Any) -> str:
    """One line without braces: parsers skip lines with `{` as echoed source, and a name must not fake a line."""
    return " ".join(str(value).replace("{", "(").replace("}", ")").split())
