"""Events: the small frozen records that a run yields while it works.

`train()` and the scorer are generators of events; the caller logs, draws and saves. There are no callbacks.
A record becomes one JSON line (`to_json`) with its kind under `"event"`; times are seconds since the budget's start.
"""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pargolf.core.errors import UserError
from pargolf.core.ranges import Amount, Loss, Rate, Seconds, Within
from pargolf.core.spec import build
from pargolf.core.strict import parse_json

Limit = Annotated[float, Within(0, endless=True)]
"""The time limit of a run in seconds; infinite when only steps limit it."""


@dataclass(frozen=True)
class Event:
    """Base class of all events. Kinds that only one folder uses may be defined there."""


@dataclass(frozen=True)
class Started(Event):
    """The first event of a run: the recipe, its size, its limits and the machine."""

    recipe: str
    digest: str
    seed: int
    parameters: Amount
    train_tokens: Amount
    val_tokens: Amount
    steps_limit: Amount | None
    seconds_limit: Limit
    machine: dict[str, Any]


@dataclass(frozen=True)
class Step(Event):
    """One optimizer step: mean training loss in nats per token, the learning-rate multiplier, tokens so far."""

    step: Amount
    loss: Loss
    lr: Rate
    tokens: Amount
    seconds: Seconds


@dataclass(frozen=True)
class Validated(Event):
    """A validation during training, on unpacked weights: `loss` in nats per token, `bpb` in bits per byte."""

    step: Amount
    loss: Loss
    bpb: Loss
    positions: Amount
    seconds: Seconds


@dataclass(frozen=True)
class Weighed(Event):
    """The artifact's size if training ended now, on the recipe's grids; `fills`: packing solves grids for the cap."""

    step: Amount
    model_bytes: Amount
    code_bytes: Amount
    cap: Amount
    fills: bool
    seconds: Seconds


@dataclass(frozen=True)
class PhaseBegan(Event):
    """A phase (QAT, longer sequences, ...) took effect before this step."""

    step: Amount
    phase: str
    seconds: Seconds


@dataclass(frozen=True)
class Resumed(Event):
    """Training resumed from the checkpoint `file`, written after `step` steps; `refused` names damaged newer ones."""

    step: Amount
    file: str
    refused: list[str]
    seconds: Seconds


@dataclass(frozen=True)
class Unsaved(Event):
    """A checkpoint after `step` steps could not be written, for `reason`; training continues and will try again."""

    step: Amount
    reason: str
    seconds: Seconds


@dataclass(frozen=True)
class Narrowed(Event):
    """Memory ran out: from now on at most `size` of `what` are computed at once. The results are the same."""

    what: str
    size: Amount
    seconds: Seconds


@dataclass(frozen=True)
class Stopped(Event):
    """Training ended: `reason` is one of `seconds`, `steps`, `interrupted`, `terminated`."""

    step: Amount
    reason: str
    seconds: Seconds


@dataclass(frozen=True)
class Packed(Event):
    """Weights became bytes. `by_role` maps a role to its bytes in the artifact."""

    model_bytes: Amount
    code_bytes: Amount
    cap: Amount
    by_role: dict[str, Amount]
    seconds: Seconds


@dataclass(frozen=True)
class Proved(Event):
    """How the validation byte count was proved (`result.Rests`), before scoring; SHA-256 of each shard by file name."""

    rests: str
    tokens: Amount
    bytes: Amount
    shards_sha256: dict[str, str]
    tokenizer_sha256: str
    note: str = ""
    lossless: bool | None = None


@dataclass(frozen=True)
class Scored(Event):
    """One finished scoring: `name` is `pre_quant`, `post_quant`, ...; `windows` is written as on the command line."""

    name: str
    windows: str
    loss: Loss
    bpb: Loss
    tokens: Amount
    bytes: Amount
    seconds: Seconds


@dataclass(frozen=True)
class Progress(Event):
    """Progress of long work: `done` of `total`. For progress bars; not written to the event file."""

    task: str
    done: int
    total: int
    note: str = ""


@dataclass(frozen=True)
class JobBegan(Event):
    """One of several runs has started on a machine, in a process; `attempt` is 2 after it was lost once."""

    job: str
    machine: str
    process: int
    attempt: int = 1


@dataclass(frozen=True)
class JobEvent(Event):
    """An event of one of several parallel runs; not written to the event file."""

    job: str
    event: Event


@dataclass(frozen=True)
class JobEnded(Event):
    """One of several parallel runs has ended; `error` says why it failed, and is empty when it did not."""

    job: str
    error: str = ""


@dataclass(frozen=True)
class JobLost(Event):
    """One of several runs was lost with its process or machine: why, how many times in a row, whether it is retried."""

    job: str
    why: str
    losses: int
    again: bool


_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        Started,
        Resumed,
        Step,
        Validated,
        Weighed,
        PhaseBegan,
        Unsaved,
        Narrowed,
        Stopped,
        Packed,
        Proved,
        Scored,
        Progress,
    )
}
"""The kinds of event that `events.jsonl` may hold."""


def to_json(event: Event) -> str:
    """One line of JSON, without its newline."""
    return json.dumps({"event": type(event).__name__, **asdict(event)}, ensure_ascii=False)


def from_json(line: str | bytes, *, where: str = "an event") -> Event:
    """Read an event that `to_json` wrote. Raises `UserError` that begins with `where` and names the wrong field."""
    fields = parse_json(line, where)
    kind = fields.pop("event", None) if isinstance(fields, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UserError(f"{where}: event names no kind of event. Known: {', '.join(_KINDS)}.")
    event: Event = build(_KINDS[kind], fields, where=where)
    return event
