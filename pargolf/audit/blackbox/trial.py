"""Run a script's own `main` on one validation text in the sandbox, and return what it sent."""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pargolf.audit.blackbox.small import AMOUNTS, PATHS, SMALL, environment
from pargolf.audit.blackbox.texts import ValidationText, corpus
from pargolf.audit.blackbox.wire import MOST_BYTES, Ended, Frame, Garbled, frames
from pargolf.audit.code.script import Code
from pargolf.audit.sandbox.child import confined
from pargolf.audit.sandbox.jail import Limits

SECONDS, WALL = 60, 180.0
_ENTRY = "pargolf.audit.blackbox.child:serve"


@dataclass(frozen=True, eq=False)
class Trace:
    """What one run sent, in order, on which text, and how it ended; `seconds` are wall seconds."""

    text: ValidationText
    frames: tuple[Frame, ...]
    error: str
    seconds: float

    @property
    def end(self) -> Ended | None:
        """The last frame, if it arrived."""
        return self.frames[-1] if self.frames and isinstance(self.frames[-1], Ended) else None


@dataclass(frozen=True)
class Trial:
    """A script with its modules and the settings of the reported run, and the limits of each run.

    `seconds` are processor seconds, `wall` are wall seconds. `unsafe` also runs if the system cannot confine anything.
    """

    code: Code
    siblings: Mapping[str, str]
    env: Mapping[str, str]
    seconds: int = SECONDS
    wall: float = WALL
    unsafe: bool = False

    def run(self, text: ValidationText) -> Trace:
        """Run `main` small on a text. The trace's `error` says what went wrong.

        Raises `UserError` if the system cannot confine the script and the trial is not `unsafe`.
        """
        began = time.perf_counter()
        name = Path(self.code.path).name or "train_gpt.py"
        data = corpus().files(text, sidecar="val_bytes" in self.code.text)
        files: dict[str, str | bytes] = {f"data/{path}": content for path, content in data.items()}
        files |= {Path(path).name: content for path, content in self.siblings.items()}
        files |= {name: self.code.text, "logs/.keep": ""}
        texts = (self.code.text, *self.siblings.values())
        request = {
            **{"text": self.code.text, "name": name, "env": environment(texts, self.env), "seconds": self.seconds},
            "shrink": {"settings": SMALL, "amounts": AMOUNTS, "paths": PATHS},
        }
        with confined(_ENTRY, files=files, limits=Limits(seconds=self.wall), unsafe=self.unsafe) as child:
            with contextlib.suppress(BrokenPipeError):
                child.input.write(json.dumps(request).encode())
                child.input.close()
            sent = child.output.read(MOST_BYTES + 1)
            status = child.end()
            problem = child.stopped or _ending(status, self.seconds)
        return _trace(text, sent, problem, time.perf_counter() - began)


def _ending(status: int, seconds: int) -> str:
    if status in (-9, -24, 137, 152):  # killed, or out of processor seconds; the last two through bubblewrap
        return f"stopped after {seconds} s of the processor"
    return f"the process ended with status {status} and no answer"


def _trace(text: ValidationText, sent: bytes, error: str, seconds: float) -> Trace:
    records: list[Frame] = []
    try:
        for frame in frames(sent):
            records.append(frame)
        if records and isinstance(records[-1], Ended):
            error = records[-1].error
    except Garbled as problem:
        error = f"what it sent cannot be read: {problem}"
        records = []
    return Trace(text, tuple(records), error, seconds)
