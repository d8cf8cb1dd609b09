"""What a run says while it happens: small frozen records, in order.

`train()` and the scorer yield these; whoever calls them logs, draws and saves. Nobody registers a callback.
A record becomes one JSON line (`to_json`) with its kind under `"event"`; times are seconds since the budget's start.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, get_args


@dataclass(frozen=True)
class Started:
    """The first record: what runs, on what."""

    recipe: str
    digest: str
    seed: int
    parameters: int
    train_tokens: int
    val_tokens: int
    steps_limit: int | None
    seconds_limit: float
    machine: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One optimizer step: mean training loss in nats per token, the learning-rate multiplier, tokens so far."""

    step: int
    loss: float
    lr: float
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Validated:
    """Scored while training, on weights not yet packed: `loss` in nats per token, `bpb` in bits per byte."""

    step: int
    loss: float
    bpb: float
    positions: int
    seconds: float


@dataclass(frozen=True)
class Weighed:
    """What the artifact would weigh if training ended now, on the table's grids; `fills`: packing solves to the cap."""

    step: int
    model_bytes: int
    code_bytes: int
    cap: int
    fills: bool
    seconds: float


@dataclass(frozen=True)
class PhaseBegan:
    """A phase (QAT, longer sequences, ...) took effect before this step."""

    step: int
    phase: str
    seconds: float


@dataclass(frozen=True)
class Resumed:
    """Training went on from the checkpoint `file`, written after `step` steps; `refused` names damaged newer ones."""

    step: int
    file: str
    refused: list[str]
    seconds: float


@dataclass(frozen=True)
class Unsaved:
    """A checkpoint after `step` steps could not be written, for `reason`; training went on, and tries again."""

    step: int
    reason: str
    seconds: float


@dataclass(frozen=True)
class Stopped:
    """Training ended: `reason` is one of `seconds`, `steps`, `interrupted`, `terminated`."""

    step: int
    reason: str
    seconds: float


@dataclass(frozen=True)
class Packed:
    """Weights became bytes. `by_role` maps a role to its bytes in the artifact."""

    model_bytes: int
    code_bytes: int
    cap: int
    by_role: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class Proved:
    """What validation's `bytes` rest on (`result.Rests`), before anything is scored; SHA-256 of shards by name."""

    rests: str
    tokens: int
    bytes: int
    shards_sha256: dict[str, str]
    tokenizer_sha256: str
    note: str = ""


@dataclass(frozen=True)
class Scored:
    """One finished scoring: `name` is `pre_quant`, `post_quant`, ...; `windows` as on the command line."""

    name: str
    windows: str
    loss: float
    bpb: float
    tokens: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Progress:
    """A long piece of work is `done` of `total`; for progress bars, not written to the event file."""

    task: str
    done: int
    total: int
    note: str = ""


Event = (
    Started
    | Resumed
    | Step
    | Validated
    | Weighed
    | PhaseBegan
    | Unsaved
    | Stopped
    | Packed
    | Proved
    | Scored
    | Progress
)
_KINDS: dict[str, Any] = {kind.__name__: kind for kind in get_args(Event)}


def to_json(event: Event) -> str:
    """One line of JSON, without its newline."""
    return json.dumps({"event": type(event).__name__, **asdict(event)}, ensure_ascii=False)


def from_json(line: str) -> Event:
    """Read back what `to_json` wrote. Raises `KeyError` or `TypeError` on a record of another shape."""
    fields = json.loads(line)
    event: Event = _KINDS[fields.pop("event")](**fields)
    return event
