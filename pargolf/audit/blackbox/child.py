"""Inside the sandbox: run a script's own `main`, small, and send what it computes to the judge.

`trial.Trial.run` starts this in a process of its own; nothing else imports it. Settings that the script does not read
from its environment are made small in its syntax tree (`shrink`).
"""

import json
import os
import resource
import sys
import types
import warnings
from pathlib import Path
from time import process_time as CLOCK
from typing import IO

import torch

from pargolf.audit.blackbox.machine import pretend
from pargolf.audit.blackbox.shrink import Beside, Shrink
from pargolf.audit.blackbox.watch import Lines, watch
from pargolf.audit.blackbox.wire import Sender
from pargolf.audit.sandbox.stand_ins import stand_in


def serve(request: IO[bytes], answer: IO[bytes]) -> None:
    """Read a request in JSON, run, and send frames."""
    job = json.load(request)
    sender = Sender(answer.fileno())
    scratch = Path.cwd()
    resource.setrlimit(resource.RLIMIT_CPU, (job["seconds"], job["seconds"]))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.update(job["env"])
    sys.path[:] = [path for path in sys.path if _listed(path)]
    finder = stand_in()
    pretend()
    sys.stdout = sys.stderr = Lines(sender)
    error = ""
    try:
        with watch(sender):
            _run(job["text"], scratch / job["name"], Shrink(**job["shrink"]))
    except SystemExit as stop:
        error = f"SystemExit: {stop}" if stop.code else ""
    except BaseException as problem:  # a script may raise anything; the end must still be sent
        error = f"{type(problem).__name__}: {str(problem)[:300]} (line {_line(problem, str(scratch))})"
    sys.stdout.write("\n")
    sender.ended(error, CLOCK(), finder.replaced)


def _listed(folder: str) -> bool:
    """Whether the sandbox lets a folder of packages be read.

    In other folders, optional packages raise no `ImportError`.
    """
    try:
        return any(Path(folder).iterdir())
    except OSError:
        return folder.endswith(".zip")


def _line(problem: BaseException, scratch: str) -> int:
    """The last line of the script in the traceback of an error."""
    line, step = 0, problem.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename.startswith(scratch):
            line = step.tb_lineno
        step = step.tb_next
    return line


def _run(text: str, path: Path, shrink: Shrink) -> None:
    sys.meta_path.insert(0, Beside(path.parent, shrink))
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    sys.path.insert(0, str(path.parent))
    sys.argv = [str(path)]
    exec(compile(shrink.tree(text), str(path), "exec"), module.__dict__)
