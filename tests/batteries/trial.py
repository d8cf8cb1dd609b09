"""One trial, how it ends, and the row of a table that many come to.

A trial is a function. It is *handled* when it returns, or raises a `UserError` of one line. An assertion of it that
does not hold is a *wrong* answer, anything else that escapes a *crash*, and what takes over `seconds` a *hang*.
"""

import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pargolf.core.errors import UserError

FAULTS = ("crash", "hang", "wrong")
LONGEST_LINE = 1000


@dataclass(frozen=True)
class Trial:
    """Something tried. `act` may return a word on how it was handled; `seconds` is how long it may take."""

    name: str
    act: Callable[[], object]
    seconds: float = 60.0


Battery = Callable[[Path, random.Random], Iterator[Trial]]
"""Endless trials, drawn at random after those that are always made; they may write into the folder."""


@dataclass
class Row:
    """What trials came to: how many ended how, and in which words; `faults` has a line for each that was not handled.

    `words` counts what the handled trials returned, `refused` where they raised a `UserError`.
    """

    name: str
    ends: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """Trials made."""
        return self.ends.total()

    @property
    def sound(self) -> bool:
        """Whether something was tried, and all of it was handled."""
        return self.tried > 0 and not self.faults

    def markdown(self) -> str:
        """The row of a table in Markdown."""
        counts = [self.tried, self.ends["handled"], *(self.ends[fault] for fault in FAULTS)]
        return "| " + " | ".join([self.name, *(f"{count:,}" for count in counts)]) + " |"


class _Late(BaseException):
    """The seconds are over. No `Exception`, so that nothing takes it for an error of its own."""


def run(name: str, trials: Iterable[Trial], *, count: int | None = None, seconds: float = float("inf")) -> Row:
    """Make trials one after the other, `count` of them or until `seconds` are over; a fault is printed as well."""
    row, began = Row(name), time.monotonic()
    for trial in trials:
        end, word = outcome(trial)
        row.ends[end] += 1
        if end == "handled":
            row.words[word] += 1
        else:
            row.faults.append(f"{end}: {trial.name}: {word}")
            print(f"{name}: {row.faults[-1]}", file=sys.stderr, flush=True)
        if row.tried == count or time.monotonic() - began > seconds:
            break
    return row


def outcome(trial: Trial) -> tuple[str, str]:
    """How one trial ends, and in which words."""
    previous = signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, trial.seconds)
    try:
        word = trial.act()
    except UserError as error:
        line = str(error)
        return ("handled", "refused") if "\n" not in line and len(line) < LONGEST_LINE else ("crash", repr(line))
    except AssertionError as error:
        return "wrong", _where(error)
    except (_Late, pytest.fail.Exception):
        return "hang", f"over {trial.seconds:g} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "crash", _where(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    return "handled", word if isinstance(word, str) else "came to its end"


def _late(*_: object) -> None:
    raise _Late


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    at = "".join(f" {Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:])
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} at{at}"
