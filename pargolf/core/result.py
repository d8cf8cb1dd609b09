"""What a run came to: the one value that `result.json` holds, and what it proves.

`in_turn` says that every position was scored from left to right, once; `probed` that flipped tokens changed no score
before them; `proof` what the count of bytes rests on. `legal` follows from these and a few more facts, and `why_not`
lists what is missing. Both stand in the file too, for whoever reads it, and must agree with the rest when it is read.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pargolf.core.budget import Budget

FORMAT = 2
"""The layout of `result.json`. Files without the number are of the layout before it."""


class Grids(StrEnum):
    """Whose grids the artifact is on: the recipe's, or others that were solved for to meet or to fill the cap."""

    RECIPE = "as the recipe says"
    SOLVED = "solved for the cap"


class Rests(StrEnum):
    """What a count of validation bytes rests on.

    `documents`: prepared here, and each document decodes to the text whose hash was recorded. `round trip`: the stream
    decodes to a text that encodes to the same stream. `published`: shards and tokenizer are a known split by their
    hashes. `table`: the tokenizer's own byte table, which nothing else confirms.
    """

    DOCUMENTS = "documents"
    ROUND_TRIP = "round trip"
    PUBLISHED = "published"
    TABLE = "table"

    @property
    def proved(self) -> bool:
        """Whether something besides the tokenizer confirms the count."""
        return self is not Rests.TABLE


@dataclass(frozen=True)
class Proof:
    """What the byte count rests on, and the SHA-256 of the files that were scored.

    `shards_sha256` names the validation shards; `tokenizer_sha256` is `bytes` for the vocabulary of plain bytes. `note`
    says what a reader should know: why bytes are unproved, or that a split is not the one that its name claims.
    """

    rests: Rests
    shards_sha256: dict[str, str]
    tokenizer_sha256: str
    note: str = ""


@dataclass(frozen=True)
class ScoreRow:
    """One scoring: `loss` in nats per token, `bpb` in bits per byte, the windows as on the command line, seconds."""

    loss: float
    bpb: float
    windows: str
    seconds: float


@dataclass(frozen=True)
class Bytes:
    """What the cap counts: bytes of the artifact and of the code, their sum, and the cap."""

    model: int
    code: int
    total: int
    cap: int

    def __post_init__(self) -> None:
        if min(self.model, self.code, self.cap) < 0 or self.total != self.model + self.code:
            raise ValueError(f"{self.model} bytes of model and {self.code} of code do not make {self.total}")


@dataclass(frozen=True)
class Machine:
    """What the numbers were measured on; `threads` of each process, `world_size` processes."""

    processor: str
    cores: int | None
    threads: int
    torch: str
    python: str
    system: str
    world_size: int


@dataclass(frozen=True)
class TextOverlap:
    """Whether validation text was looked for in training, and what was found: copied documents, shared 13-grams."""

    checked: bool
    copied_documents: int | None = None
    shared_13grams: float | None = None


@dataclass(frozen=True)
class Result:
    """A finished run. `val_tokens` and `val_bytes` were scored, of `val_split_tokens` there are.

    `val_loss` is in nats per token and `val_bpb` in bits per byte; `scores` are all scorings by name, the final one
    last. `probed`, `proof` and `val_split_tokens` are None where a run did not record them.
    """

    recipe: str
    digest: str
    seed: int
    val_loss: float
    val_bpb: float
    val_tokens: int
    val_bytes: int
    val_split_tokens: int | None
    complete: bool
    in_turn: bool
    probed: bool | None
    grades_per_position: tuple[int, int]
    proof: Proof | None
    scores: dict[str, ScoreRow]
    adaptation: str | None
    bytes: Bytes
    grids: Grids
    artifact_sha256: str
    train_seconds: float
    eval_seconds: float
    steps: int
    train_tokens: int
    parameters: int
    interrupted: bool
    overlap: TextOverlap
    budget: Budget
    machine: Machine
    data: str
    command: str

    @property
    def legal(self) -> bool:
        """Whether the number counts, as far as the run itself can say."""
        return not self.why_not

    @property
    def why_not(self) -> list[str]:
        """Why the number does not count, a few words each; empty where it does."""
        over, copied = self.bytes.total - self.bytes.cap, self.overlap.copied_documents or 0
        said = {
            f"only the first {self.scored} validation tokens were scored": not self.complete,
            "positions were not scored in turn, each once": not self.in_turn,
            "scores changed when later tokens were flipped": self.probed is False,
            "what its bytes rest on was not recorded": self.proof is None,
            "its bytes are unproved: they rest on the tokenizer's own table": (
                self.proof is not None and not self.proof.rests.proved
            ),
            "no step was trained": self.steps < 1,
            "training was interrupted": self.interrupted,
            f"{over:,} bytes over the cap": over > 0,
            f"{copied:,} validation documents stand in the training text": copied > 0,
        }
        return [words for words, holds in said.items() if holds]

    @property
    def scored(self) -> str:
        """How many validation tokens were scored, as `2,048 of 2,866`."""
        of = "" if self.val_split_tokens is None else f" of {self.val_split_tokens:,}"
        return f"{self.val_tokens:,}{of}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for `result.json`."""
        return {"format": FORMAT, **asdict(self), "legal": self.legal, "why_not": self.why_not}
