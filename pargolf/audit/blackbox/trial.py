"""Run a script's own `main` on one validation text in the sandbox, and give back what it sent."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pargolf.audit.blackbox.small import SMALL, environment, paths
from pargolf.audit.blackbox.texts import ValidationText, corpus
from pargolf.audit.blackbox.wire import MOST_BYTES, Ended, Frame, Garbled, frames
from pargolf.audit.code.script import Code

SECONDS, WALL = 60, 180.0
_PACKAGE = Path(__file__).resolve().parents[2]
_BOOT = "import sys; sys.path.insert(0, sys.argv.pop()); from pargolf.audit.blackbox.child import serve; serve()"
_HOMES = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@dataclass(frozen=True, eq=False)
class Trace:
    """What one run sent, in order, on which text, and how it ended; `seconds` is the wall clock."""

    text: ValidationText
    frames: tuple[Frame, ...]
    error: str
    seconds: float

    @property
    def end(self) -> Ended | None:
        """The last word, if it came."""
        return self.frames[-1] if self.frames and isinstance(self.frames[-1], Ended) else None


def try_main(
    code: Code,
    text: ValidationText,
    *,
    siblings: Mapping[str, str],
    env: dict[str, str],
    seconds: int = SECONDS,
    wall: float = WALL,
) -> Trace:
    """Run a script's `main` small on a text, for so many seconds of the processor and of the clock.

    Never raises: what went wrong is the trace's `error`.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="pargolf-") as folder:
        scratch = Path(folder).resolve()
        name = Path(code.path).name or "train_gpt.py"
        for path, held in {**siblings, name: code.text}.items():
            (scratch / Path(path).name).write_text(held, encoding="utf-8", errors="replace")
        (scratch / "logs").mkdir(exist_ok=True)
        corpus().write(scratch / "data", text, sidecar="val_bytes" in code.text)
        data = str(scratch / "data")
        reading, writing = os.pipe()
        request = {
            **{"text": code.text, "name": name, "env": environment(code, env, data), "small": SMALL},
            **{"paths": paths(data), "seconds": seconds, "readable": [str(_PACKAGE)], "pipe": writing},
        }
        try:
            child = _start(str(scratch), writing)
        finally:
            os.close(writing)
        sent, late = _collect(child, json.dumps(request).encode(), reading, wall)
    over = late or -child.returncode in (signal.SIGXCPU, signal.SIGKILL)
    why = f"stopped after {seconds} s" if over else f"the process ended with status {child.returncode} and no answer"
    return _trace(text, sent, why, time.perf_counter() - began)


def _start(folder: str, pipe: int) -> "subprocess.Popen[bytes]":
    clean = {
        **dict.fromkeys(_HOMES, folder),
        **{"PATH": os.defpath, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    }
    return subprocess.Popen(
        [sys.executable, "-s", "-c", _BOOT, str(_PACKAGE.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=clean,
        pass_fds=(pipe,),
        start_new_session=True,
    )


def _collect(child: "subprocess.Popen[bytes]", request: bytes, pipe: int, seconds: float) -> tuple[bytes, bool]:
    """What the child writes until it ends or its time is up, and whether it was up."""
    parts: list[bytes] = []

    def read() -> None:
        size = 0
        with open(pipe, "rb", buffering=0) as stream:
            while (part := stream.read(1 << 20)) and size <= MOST_BYTES:
                parts.append(part)
                size += len(part)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    late = False
    try:
        child.communicate(request, timeout=seconds)
    except subprocess.TimeoutExpired:
        late = True
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    reader.join(5)
    return b"".join(parts), late


def _trace(text: ValidationText, sent: bytes, error: str, seconds: float) -> Trace:
    found: list[Frame] = []
    try:
        for frame in frames(sent):
            found.append(frame)
        if found and isinstance(found[-1], Ended):
            error = found[-1].error
    except Garbled as problem:
        error = f"what it sent cannot be read: {problem}"
        found = []
    return Trace(text, tuple(found), error, seconds)
