"""The command line among streams, encodings, devices, processes and limits of memory that are not as it would like."""

import itertools
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from batteries.trial import Trial

PARGOLF = f"{sys.executable} -m pargolf"
STREAMS = [
    (f"{PARGOLF} recipes | head -1; exit ${{PIPESTATUS[0]}}", 0),
    (f"{PARGOLF} recipes --json | true; exit ${{PIPESTATUS[0]}}", 0),
    (f"{PARGOLF} --help | true; exit ${{PIPESTATUS[0]}}", 0),
    (f"{PARGOLF} recipes >&-", 0),
    (f"{PARGOLF} recipes <&- >&- 2>&-", 0),
    (f"{PARGOLF} audit nowhere 2>&-", 2),
    (f"{PARGOLF} recipes > /dev/full", 2),
    (f"{PARGOLF} --help > /dev/full", 2),
    (f"{PARGOLF} audit nowhere 2> /dev/full", 2),
]
ENCODINGS = ("ascii", "cp1252", "utf-16", "ascii:strict")
DEVICES = ("mps", "cuda:99", "tpu", "", "cuda:x", "CPU")
STRAY = [
    ({"RANK": "1", "WORLD_SIZE": "2"}, "without MASTER_ADDR and MASTER_PORT"),
    ({"WORLD_SIZE": "2"}, "is not a valid rank"),
    ({"RANK": "1", "WORLD_SIZE": "many"}, "is not a valid rank"),
    ({"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "no such process"),
    ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "port"}, "do not answer"),
]
MEMORY = (250_000, 400_000, 600_000)


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line in bash."""
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60, env=os.environ | environment, errors="replace"
    )


def together(*lines: str) -> str:
    """Commands one after the other in one process, which ends as the last one does: torch is loaded once for all."""
    code = "import sys; from pargolf.cli import main"
    for line in lines:
        code += f"\nsys.argv = {['pargolf', *line.split()]!a}\n"
        code += "main()" if line == lines[-1] else "try: main()\nexcept SystemExit: pass"
    return f"{sys.executable} -c {shlex.quote(code)}"


def trials(data: Path, folder: Path, chance: random.Random) -> Iterator[Trial]:
    """Each of the above once, the quick ones first; then again in other pairs."""
    for line, code in STREAMS:
        yield Trial(line, partial(ends, line, code))
    for encoding in ENCODINGS:
        yield Trial(encoding, partial(ends, f"{PARGOLF} diff pr549 pr1009", 0, PYTHONIOENCODING=encoding))
    for kilobytes in MEMORY:
        yield Trial(f"{kilobytes} kB", partial(ends, f"ulimit -v {kilobytes}; {PARGOLF} forecast house", 2))
    train = f"{PARGOLF} train baseline --scale mini --data {data} --out {folder}/run"
    for device in DEVICES:
        yield Trial(f"--device {device}", partial(ends, f"{train} --device '{device}'", 2))
    for stray, _ in STRAY:
        yield Trial(f"{stray}", partial(ends, train, 2, **stray))
    for _ in itertools.count():
        (line, code), encoding = chance.choice(STREAMS), chance.choice(ENCODINGS)
        act = partial(ends, line, code, PYTHONIOENCODING=encoding, LC_ALL=chance.choice(("POSIX", "C.UTF-8", "")))
        yield Trial(f"{line} in {encoding}", act)


def ends(line: str, code: int, **environment: str) -> str:
    """Run a line that must end with `code`, without a traceback, and in one line of words where something is amiss."""
    done = shell(line, **environment)
    if "Traceback" in done.stderr or "Fatal" in done.stderr or done.returncode < 0:
        raise RuntimeError(done.stderr[-300:])
    assert done.returncode == code, f"{done.returncode}: {done.stderr[-300:]}"
    assert done.stderr.count("\n") <= 1, done.stderr[-300:]
    return "one line" if code else "done"
