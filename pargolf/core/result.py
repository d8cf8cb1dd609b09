"""The result of a run: the one value that `result.json` holds, and what it proves.

`in_turn` says that every position was scored from left to right, once; `probed` that flipped tokens changed no score
before them; `proof` what the count of bytes rests on. `legal` follows from these and a few more facts, and `why_not`
lists what is missing. Both stand in the file too, for whoever reads it, and must agree with the rest when it is read.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pargolf.core.budget import Budget
from pargolf.core.errors import UserError
from pargolf.core.events import Proved
from pargolf.core.files import read_json
from pargolf.core.ranges import Amount, Count, Loss, Seconds, Share, Some
from pargolf.core.spec import build

FORMAT = 2
"""The layout of `result.json`. Files without the number are of the layout before it."""
UNRECORDED = "what its bytes rest on was not recorded"
"""Why a run of the layout before does not count."""


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

    @property
    def words(self) -> str:
        """What the count rests on, for a sentence about bytes."""
        return {
            Rests.DOCUMENTS: "proved by the documents",
            Rests.ROUND_TRIP: "proved by encoding the decoded text again",
            Rests.PUBLISHED: "of a published split, by its hashes",
            Rests.TABLE: "unproved, by the tokenizer's own table",
        }[self]


@dataclass(frozen=True)
class Proof:
    """What the byte count rests on, and the SHA-256 of the files that were scored.

    `shards_sha256` names the validation shards; `tokenizer_sha256` is `bytes` for the vocabulary of plain bytes. `note`
    says what a reader should know: why bytes are unproved, or that a split is not the one that its name claims.
    `lossless` is whether the text is the original, or what a tokenizer's normalization left of it; None: not known.
    """

    rests: Rests
    shards_sha256: dict[str, str]
    tokenizer_sha256: str
    note: str = ""
    lossless: bool | None = None


@dataclass(frozen=True)
class ScoreRow:
    """One scoring: `loss` in nats per token, `bpb` in bits per byte, the windows as on the command line, seconds."""

    loss: Loss
    bpb: Loss
    windows: str
    seconds: Seconds


@dataclass(frozen=True)
class DocumentScore:
    """The score of one validation document; `without` is the bits per byte without adaptation, where it adapted."""

    id: str
    bytes: Some
    tokens: Some
    loss: Loss
    bpb: Loss
    without: Loss | None = None


@dataclass(frozen=True)
class Bytes:
    """What the cap counts: bytes of the artifact and of the code, their sum, and the cap."""

    model: Amount
    code: Amount
    total: Amount
    cap: Amount

    def check_fields(self) -> None:
        """Raise `UserError` where the sum is not that of its parts."""
        if self.total != self.model + self.code:
            raise UserError(f"total is {self.total:,}, and model and code make {self.model + self.code:,}.")


@dataclass(frozen=True)
class Machine:
    """What the numbers were measured on; `threads` of each process, `world_size` processes."""

    processor: str
    cores: Count | None
    threads: Count
    torch: str
    python: str
    system: str
    world_size: Count


@dataclass(frozen=True)
class TextOverlap:
    """Whether validation text was looked for in training, and what was found: copied documents, shared 13-grams."""

    checked: bool
    copied_documents: Amount | None = None
    shared_13grams: Share | None = None


@dataclass(frozen=True)
class StartedFrom:
    """The weights that a run started from: the file as it was named, its SHA-256, and the recipe that made them.

    `train_seconds` are all that were spent on them, runs before theirs included; None where nothing says how many.
    """

    path: str
    sha256: str
    recipe: str
    digest: str
    train_seconds: Seconds | None


@dataclass(frozen=True)
class Result:
    """A finished run. `val_tokens` and `val_bytes` were scored, of `val_split_tokens` there are.

    `val_loss` is in nats per token and `val_bpb` in bits per byte; `scores` are all scorings by name, the final one
    last. `probed`, `proof` and `val_split_tokens` are None where a run did not record them, and `version` (of this
    package, with its commit) is empty. `look` says in words where the predictor read tokens to the right, if it did.
    `origin` is what the run started from, None for initial weights; `train_seconds` are this run's alone.
    """

    recipe: str
    digest: str
    seed: int
    val_loss: Loss
    val_bpb: Loss
    val_tokens: Some
    val_bytes: Some
    val_split_tokens: Some | None
    complete: bool
    in_turn: bool
    probed: bool | None
    look: str | None
    grades_per_position: tuple[Amount, Amount]
    proof: Proof | None
    scores: dict[str, ScoreRow]
    adaptation: str | None
    bytes: Bytes
    grids: Grids
    artifact_sha256: str
    train_seconds: Seconds
    eval_seconds: Seconds
    steps: Amount
    train_tokens: Amount
    parameters: Some
    interrupted: bool
    overlap: TextOverlap
    budget: Budget
    machine: Machine
    data: str
    command: str
    version: str = ""
    origin: StartedFrom | None = None

    def check_fields(self) -> None:
        """Raise `UserError` where the fields contradict each other."""
        whole = self.val_tokens == self.val_split_tokens
        if self.in_turn and self.val_split_tokens is not None and self.complete != whole:
            raise UserError(f"complete is {self.complete}, and {self._scored} were scored.")
        if not self.scores:
            raise UserError("scores is empty.")

    @property
    def all_train_seconds(self) -> float | None:
        """Seconds of training, those of the starting weights included; None where nobody knows how many."""
        if self.origin is None:
            return self.train_seconds
        before = self.origin.train_seconds
        return None if before is None else self.train_seconds + before

    @property
    def legal(self) -> bool:
        """Whether the number counts, as far as the run itself can say."""
        return not self.why_not

    @property
    def why_not(self) -> list[str]:
        """Why the number does not count, a few words each; empty where it does."""
        return [*([] if self.complete else [f"only the first {self._scored} were scored"]), *self._other_reasons()]

    @property
    def sentence(self) -> str:
        """What the number stands on, in one line; what speaks against it comes first."""
        size, reasons = self.bytes, "; ".join(self._other_reasons())
        if not self.complete:
            return scored_sentence(self.val_tokens, self.val_split_tokens) + (f" Also: {reasons}." if reasons else "")
        every = scored_sentence(self.val_tokens, self.val_split_tokens or self.val_tokens, once=self.in_turn)
        loss_note = (
            " as its tokenizer normalizes it, not lossless" if self.proof and self.proof.lossless is False else ""
        )
        bytes_words = f"{self.val_bytes:,} bytes of text{loss_note}" + (
            f" ({self.proof.rests.words})" if self.proof else ""
        )
        return (f"Not legal: {reasons}. " if reasons else "") + (
            f"{every.rstrip('.')}, over {bytes_words}, by what was unpacked from {size.model:,} bytes; "
            f"with {size.code:,} bytes of code {size.total:,} of a cap of {size.cap:,}."
        )

    @property
    def _scored(self) -> str:
        of = "" if self.val_split_tokens is None else f" of {self.val_split_tokens:,}"
        return f"{self.val_tokens:,}{of} validation tokens"

    def _other_reasons(self) -> list[str]:
        """Why the number does not count, but for tokens that were not scored in time."""
        over, copied = self.bytes.total - self.bytes.cap, self.overlap.copied_documents or 0
        look = f" ({self.look.rstrip('.')})" if self.look else ""
        note = f" ({self.proof.note.rstrip('.')})" if self.proof is not None and self.proof.note else ""
        total, limit = self.all_train_seconds, self.budget.train_seconds
        reasons = {
            "nothing says how long its starting weights were trained": total is None,
            f"{total or 0:.0f} s of training in all, over the budget of {limit:.0f}": (
                self.origin is not None and total is not None and total > limit
            ),
            "positions were not scored in turn, each once": not self.in_turn,
            f"scores changed when later tokens were flipped{look}": self.probed is False,
            UNRECORDED: self.proof is None,
            f"its bytes are unproved{note}": self.proof is not None and not self.proof.rests.proved,
            "no step was trained": self.steps < 1,
            "training was interrupted": self.interrupted,
            f"{over:,} bytes over the cap": over > 0,
            f"{copied:,} validation documents stand in the training text": copied > 0,
        }
        return [words for words, holds in reasons.items() if holds]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `result.json`."""
        return {"format": FORMAT, **asdict(self), "legal": self.legal, "why_not": self.why_not}


def scored_sentence(tokens: int, of: int | None, *, once: bool = True) -> str:
    """Say that all of a split's tokens were scored, or how few; `of` None: more, nobody knows how many."""
    if not once:
        return f"{of or tokens:,} validation tokens were scored, some more than once."
    if tokens == of:
        return f"Every one of {tokens:,} validation tokens was scored once."
    whole = "" if of is None else f" of {of:,}"
    return (
        f"Only the first {tokens:,}{whole} validation tokens were scored (time ran out): the number counts for nothing."
    )


def files_apart(proofs: Sequence[Proof | Proved]) -> str:
    """Which files of a score differ by their hashes, in a few words; empty where none is known to."""
    if len({proof.tokenizer_sha256 for proof in proofs}) > 1:
        return "tokenizers of different SHA-256"
    if len({tuple(sorted(proof.shards_sha256.values())) for proof in proofs if proof.shards_sha256}) > 1:
        return "validation shards of different SHA-256"
    return ""


def mixture(results: Sequence[Result]) -> str:
    """What tells apart the texts that results were scored on, in a few words; empty where nothing does.

    Hashes speak where both results have them, and the counts of bytes and tokens where not.
    """
    if words := files_apart([result.proof for result in results if result.proof is not None]):
        return words
    for name, words in (("val_bytes", "bytes"), ("val_tokens", "tokens")):
        counts = sorted({getattr(result, name) for result in results})
        if len(counts) > 1:
            return f"different text ({' and '.join(f'{count:,}' for count in counts)} {words})"
    return ""


def read_result(path: str | Path) -> Result:
    """What `result.json` holds, of this layout or the one before. Raises `UserError` with file and field."""
    return result_of(read_json(path), where=str(path))


def result_of(value: Any, *, where: str) -> Result:
    """A `Result` from parsed JSON. Raises `UserError` with `where` and the field that does not fit."""
    if not isinstance(value, dict):
        raise UserError(f"{where} holds no object. Was it made by another program?")
    fields = _upgrade(value) if "format" not in value else dict(value)
    number, legal, _ = fields.pop("format", None), fields.pop("legal", None), fields.pop("why_not", None)
    if number != FORMAT or isinstance(number, bool):
        known = number if isinstance(number, int) else "unknown"
        raise UserError(f"{where}: format is {known}, and this version reads {FORMAT}.")
    result = build(Result, fields, where=where)
    if legal is not result.legal:
        why = "; ".join(result.why_not) or "nothing"
        raise UserError(f"{where}: legal is not {str(result.legal).lower()}, as its fields say ({why} against it).")
    return result


def read_document_scores(path: str | Path) -> list[DocumentScore]:
    """What `documents.json` holds. Raises `UserError` with file and field."""
    return build(list[DocumentScore], read_json(path), where=str(path))


def _upgrade(old: dict[str, Any]) -> dict[str, Any]:
    """The layout before formats were numbered: `legal` spoke of the order alone, and no proof was kept."""
    whole = old.get("complete") is True
    new = {
        "format": FORMAT,
        "in_turn": old.get("legal"),
        "probed": None,
        "look": None,
        "proof": None,
        "val_split_tokens": old.get("val_tokens") if whole else None,
        "adaptation": None,
        "overlap": {"checked": False},
        "data": "",
        "command": "",
    } | {name: value for name, value in old.items() if name != "legal"}
    return new | {"legal": False}
