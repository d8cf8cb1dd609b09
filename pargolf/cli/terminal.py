"""What all commands share: the console, thread counts, and errors as one line."""

import os
import shlex
import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from pargolf.core import own
from pargolf.core.errors import UserError, out_of_memory

TOGETHER = frozenset({"train", "score", "seeds", "ablate", "sweep", "rerun"})
"""Commands that all processes of torchrun run together; other commands run on the first process only."""

# A pipe has no width; with the default of 80 columns, long paths of a recipe would wrap.
console = Console(highlight=False, width=None if sys.stdout is not None and sys.stdout.isatty() else 140)


ThreadsOpt = Annotated[
    int, typer.Option("--threads", help="CPU threads; 0: measure, and use the fastest number.", min=0)
]


def fail(line: str) -> NoReturn:
    """Print one line on standard error and exit with code 2."""
    print(f"pargolf: {' '.join(line.split())}", file=sys.stderr)
    raise SystemExit(2)


def print_next(path: object, *words: object) -> None:
    """Print where something was written, and the command to type next, quoted for the shell."""
    console.print(f"-> {path}   next: pargolf {shlex.join(map(str, words))}", soft_wrap=True, markup=False)


def one_line(error: BaseException) -> str | None:
    """The line for an error that the user can fix; None for a bug of this package."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted before anything was saved. Run the command again."
    # The interpreter raises this itself if there is no memory left for an exception.
    if out_of_memory(error) or (isinstance(error, SystemError) and "without exception set" in str(error)):
        return (
            "Memory ran out. Existing files are unchanged. Free some memory, or use less: a smaller "
            "train.micro_tokens, a smaller model, fewer --jobs."
        )
    own_fault = own.fault(error)
    if own_fault is not None:
        return own_fault
    if isinstance(error, OSError):
        prefix = f"{error.filename}: " if error.filename else ""
        return f"{prefix}{error.strerror or error}. Existing files are unchanged. Free disk space or correct the path."
    if isinstance(error, UnicodeEncodeError):
        return f"The system's encoding ({error.encoding}) cannot write {error.object[error.start]!a}. Set PYTHONUTF8=1."
    if isinstance(error, ImportError) and not (error.name or "pargolf").startswith("pargolf"):
        return f"{error.name} cannot be loaded ({error}). Install it again. If memory is limited, raise the limit."
    return None


def waits_for_first(words: list[str]) -> bool:
    """Whether this is not the first process of torchrun, and the command runs on the first one only."""
    if not all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        return False
    return os.environ["RANK"] != "0" and not TOGETHER.intersection(words[:1])


def set_threads(count: int) -> None:
    """Set thread counts, which works only before torch is imported; 0 measures which number is fastest now.

    Threads sleep while they wait: a spinning thread could take a shared core from the thread that it waits for.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if count:
        os.environ["OMP_NUM_THREADS"] = str(count)
    if "OMP_NUM_THREADS" in os.environ:
        return
    os.environ["OMP_NUM_THREADS"] = str(os.cpu_count() or 1)
    from pargolf.core.world import settle_threads

    settle_threads()


def whole_numbers(text: str, option: str) -> list[int]:
    """Read `42,314,999`."""
    if not all(word.strip().isdecimal() for word in text.split(",")):
        raise UserError(f"{option} takes whole numbers, as 42,314,999; not '{text}'.")
    return [int(word) for word in text.split(",")]


def is_first() -> bool:
    """Whether this process prints: the only one, or the first of torchrun."""
    return os.environ.get("RANK", "0") == "0"
