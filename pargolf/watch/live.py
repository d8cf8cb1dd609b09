"""Show a run while it runs: progress bars on a terminal, plain lines everywhere else.

`draw` is a filter: it yields the events it is given, unchanged and in order, and draws on the side, so the pipeline
reads `for event in draw(train(...), console)`. The fraction done is the larger of elapsed / seconds limit and
step / steps limit, whichever ends the run. Drawing happens at most four times a second whatever the step time is.
"""

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pargolf.core.events import (
    Event,
    JobBegan,
    JobEnded,
    JobEvent,
    JobLost,
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
)

_DRAWS_PER_SECOND = 4.0
_PLAIN_SECONDS = 5.0
_RATE_STEPS = 20
_SMOOTHING = 0.9


def draw(events: Iterable[Event], console: Console, *, plain_seconds: float = _PLAIN_SECONDS) -> Iterator[Event]:
    """Yield `events` unchanged while drawing them on `console`; off a terminal, a line every `plain_seconds`."""
    if console.is_terminal and not console.is_dumb_terminal:
        yield from _drawn(events, console)
    else:
        yield from _printed(events, console, plain_seconds)


def milestone(event: Event) -> str | None:
    """Return the line that stays on the screen for a rare event, None for the frequent ones."""
    match event:
        case Started():
            machine = ", ".join(f"{key} {value}" for key, value in event.machine.items())
            bounds = [f"{event.seconds_limit:,.0f} s"] if math.isfinite(event.seconds_limit) else []
            bounds += [f"{event.steps_limit:,} steps"] if event.steps_limit is not None else []
            parts = (
                event.recipe,
                f"seed {event.seed}",
                f"{event.parameters:,} parameters",
                " or ".join(bounds),
                machine,
            )
            return " · ".join(part for part in parts if part)
        case PhaseBegan():
            return f"{_clock(event.seconds)}  step {event.step:,}: {event.phase} begins"
        case Resumed():
            refused = "".join(f" {line}" for line in event.refused)
            return f"{_clock(event.seconds)}  resumed after step {event.step:,} from {event.file}.{refused}"
        case Unsaved():
            return f"{_clock(event.seconds)}  no checkpoint after step {event.step:,}: {event.reason}; training goes on"
        case Narrowed():
            return f"{_clock(event.seconds)}  memory ran out: {event.what} is now {event.size:,}, with the same numbers"
        case Stopped():
            why = {"seconds": "the time is spent", "steps": "all steps are done", "interrupted": "interrupted"}
            reason = why.get(event.reason, event.reason)
            return f"{_clock(event.seconds)}  trained {event.step:,} steps; {reason}"
        case Packed():
            total = event.model_bytes + event.code_bytes
            share = f" ({total / event.cap:.1%})" if event.cap else ""
            return (
                f"{_clock(event.seconds)}  packed {event.model_bytes:,} + {event.code_bytes:,} of code"
                f" = {total:,} of {event.cap:,} bytes{share}"
            )
        case Proved():
            note = f": {event.note}" if event.note else ""
            return f"validation: {event.bytes:,} bytes, which rest on: {event.rests}{note}"
        case Scored():
            return f"{event.name} {event.windows}: {event.bpb:.4f} bits per byte in {event.seconds:.1f} s"
        case _:
            return _job_milestone(event)


def _job_milestone(event: Event) -> str | None:
    """The line for an event of one of several runs."""
    match event:
        case JobBegan():
            again = f", attempt {event.attempt}" if event.attempt > 1 else ""
            return f"{event.job}: on {event.machine}, process {event.process}{again}"
        case JobLost():
            return f"{event.job}: lost, since {event.why}; {'it begins again' if event.again else 'given up'}"
        case JobEnded(error=error) if error:
            return f"{event.job}: {error}"
        case JobEvent(event=Resumed() | Unsaved() | Narrowed()):
            return f"{event.job}: {milestone(event.event)}"
        case _:
            return None


class Status:
    """The latest values, updated by each event; both displays read them."""

    def __init__(self) -> None:
        self.training: Step | None = None
        self.validated: Validated | None = None
        self.weighed: Weighed | None = None
        self.phase = ""
        self.work: dict[str, Progress] = {}
        self.jobs: dict[str, Status] = {}
        self._seconds_limit = math.inf
        self._steps_limit: int | None = None
        self._loss = math.nan
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RATE_STEPS)

    def take(self, event: Event) -> None:
        """Remember what `event` says."""
        match event:
            case Started():
                self._seconds_limit = event.seconds_limit
                self._steps_limit = event.steps_limit
            case Step():
                first = math.isnan(self._loss)
                self._loss = event.loss if first else _SMOOTHING * self._loss + (1 - _SMOOTHING) * event.loss
                self._recent.append((event.seconds, event.tokens))
                self.training = event
                self.work.clear()
            case Validated():
                self.validated = event
            case Weighed():
                self.weighed = event
            case PhaseBegan():
                self.phase = event.phase
            case Stopped() | Proved() | Scored() | Packed() | Resumed():
                self.training = None
                self.work.clear()
            case Progress():
                self.work.pop(event.task, None)
                if event.done < event.total:
                    self.work[event.task] = event
            case JobEvent():
                self.jobs.setdefault(event.job, Status()).take(event.event)
            case JobLost() | JobEnded():
                self.jobs.pop(event.job, None)

    @property
    def fraction(self) -> float:
        """The share of training that is done, 0 to 1."""
        if self.training is None:
            return 0.0
        by_time = self.training.seconds / self._seconds_limit if self._seconds_limit > 0 else 0.0
        by_step = self.training.step / self._steps_limit if self._steps_limit else 0.0
        return min(max(by_time, by_step), 1.0)

    @property
    def seconds_left(self) -> float:
        """Seconds until training ends, at the pace so far."""
        if self.training is None or self.fraction == 0.0:
            return math.inf
        return self.training.seconds * (1 - self.fraction) / self.fraction

    @property
    def tokens_per_second(self) -> float:
        """Speed over the last steps, without the warm-up before them."""
        if len(self._recent) < 2:
            return math.nan
        (begin, few), (end, many) = self._recent[0], self._recent[-1]
        return (many - few) / (end - begin) if end > begin else math.nan

    def numbers(self) -> str:
        """Step, loss, bits per byte, speed and phase on one line."""
        if self.training is None:
            return ""
        parts = [f"step {self.training.step:,}", f"loss {self._loss:.4f}"]
        parts += [f"bpb {self.validated.bpb:.4f} at {self.validated.step:,}"] if self.validated else []
        if self.weighed is not None:
            share = (self.weighed.model_bytes + self.weighed.code_bytes) / max(self.weighed.cap, 1)
            parts.append(f"{share:.0%} of the cap")
        speed = self.tokens_per_second
        parts += [f"{speed:,.0f} tokens/s"] if math.isfinite(speed) else []
        return "   ".join([*parts, self.phase] if self.phase else parts)

    def plain(self) -> str:
        """The status as one line of text, empty when there is nothing to say."""
        parts = [
            f"{work.task} {work.done / max(work.total, 1):.0%} {work.note}".rstrip() for work in self.work.values()
        ]
        parts += [f"{label} {job.brief()}" for label, job in self.jobs.items()]
        if self.training is not None:
            remaining = f"{_clock(self.seconds_left)} left" if math.isfinite(self.seconds_left) else ""
            parts.insert(
                0, f"{_clock(self.training.seconds)}  {self.fraction:.0%}  {self.numbers()}   {remaining}".rstrip()
            )
        return "   ".join(parts)

    def brief(self) -> str:
        """The status of one of several runs, in a few words."""
        if self.training is not None:
            return f"{self.fraction:.0%} loss {self._loss:.3f}"
        return next((f"{work.task} {work.done / max(work.total, 1):.0%}" for work in self.work.values()), "begins")

    def __rich__(self) -> RenderableType:
        """The bars: training while it runs, then one for each long piece of work."""
        bars = Table.grid(padding=(0, 2, 0, 0), expand=True)
        bars.add_column(no_wrap=True)
        bars.add_column(ratio=1)
        bars.add_column(no_wrap=True, justify="right")
        lines: list[RenderableType] = []
        if self.training is not None:
            remaining = f"{_clock(self.seconds_left)} left" if math.isfinite(self.seconds_left) else ""
            bars.add_row("train", _bar(self.fraction), Text(f"{self.fraction:4.0%}  {remaining}"))
            lines.append(Text(self.numbers(), style="cyan"))
        for work in self.work.values():
            share = work.done / max(work.total, 1)
            bars.add_row(Text(work.task), _bar(share), Text(f"{share:4.0%}  {work.note}".rstrip()))
        for label, job in self.jobs.items():
            bars.add_row(Text(label), _bar(job.fraction), Text(job.brief()))
        return Group(bars, *lines) if bars.row_count else Text("")


def _drawn(events: Iterable[Event], console: Console) -> Iterator[Event]:
    status = Status()
    with Live(
        get_renderable=lambda: status, console=console, refresh_per_second=_DRAWS_PER_SECOND, transient=True
    ) as live:
        for event in events:
            status.take(event)
            line = milestone(event)
            if line is not None:
                live.console.print(Text(line), soft_wrap=True)
            yield event


def _printed(events: Iterable[Event], console: Console, plain_seconds: float) -> Iterator[Event]:
    status = Status()
    printed, last_line = time.monotonic(), ""
    for event in events:
        status.take(event)
        line = milestone(event)
        if line is None and time.monotonic() - printed >= plain_seconds:
            line = status.plain() or None
            if line == last_line:  # do not repeat a line during a long wait
                line = None
        if line is not None:
            console.print(Text(line), soft_wrap=True)
            printed, last_line = time.monotonic(), line
        yield event


def _bar(share: float) -> ProgressBar:
    return ProgressBar(total=1.0, completed=share)


def _clock(seconds: float) -> str:
    """Minutes and seconds, hours when there are any: `1:05`, `2:00:01`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
