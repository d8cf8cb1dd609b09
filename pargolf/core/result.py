"""The result of a run: the typed value of `result.json`, and whether its score is legal.

`in_turn` says that every position was scored once, from left to right. `probed` says that flipping later tokens changed
no earlier score. `proof` says how the byte count was confirmed. `legal` follows from these and a few more facts, and
`why_not` lists what is missing. Both are written to the file for its readers, and are checked when it is read.
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
"""The version of `result.json`. Files without this number have the older layout."""
UNRECORDED = "what its bytes rest on was not recorded"
"""Why a run in the older layout does not count."""


class Grids(StrEnum):
    """Which grids the artifact uses: the recipe's, or grids that a solver chose so that it meets or fills the cap."""

    RECIPE = "as the recipe says"
    SOLVED = "solved for the cap"


class Rests(StrEnum):
    """How a count of validation bytes was proved.

    documents    prepared here: each document decodes to the text whose hash was recorded
    round trip   the token stream decodes to a text that encodes to the same stream
    published    the hashes of shards and tokenizer are those of a known published split
    table        not proved: only the tokenizer's own byte table gives the count
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
        """How the count was proved, as part of a sentence about bytes."""
        return {
            Rests.DOCUMENTS: "proved by the documents",
            Rests.ROUND_TRIP: "proved by encoding the decoded text again",
            Rests.PUBLISHED: "of a published split, by its hashes",
            Rests.TABLE: "unproved, by the tokenizer's own table",
        }[self]


@dataclass(frozen=True)
class Proof:
    """How the byte count was proved, and the SHA-256 of the files that were scored.

    shards_sha256: SHA-256 of each validation shard by file name
    tokenizer_sha256: of the tokenizer file, or `bytes` for the vocabulary of plain bytes
    note: why bytes are unproved, or that a split is not the one that its name claims
    lossless: True when the scored text is the original, False when the tokenizer normalized it, None when unknown
    """

    rests: Rests
    shards_sha256: dict[str, str]
    tokenizer_sha256: str
    note: str = ""
    lossless: bool | None = None


@dataclass(frozen=True)
class ScoreRow:
    """One scoring: `loss` in nats per token, `bpb` in bits per byte, `windows` as on the command line, and seconds."""

    loss: Loss
    bpb: Loss
    windows: str
    seconds: Seconds


@dataclass(frozen=True)
class DocumentScore:
    """The score of one validation document; `without` is its bits per byte without adaptation, if the model adapted."""

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
        """Raise `UserError` when `total` is not `model` plus `code`."""
        if self.total != self.model + self.code:
            raise UserError(f"total is {self.total:,}, and model and code make {self.model + self.code:,}.")


@dataclass(frozen=True)
class Machine:
    """The machine of a run: `threads` per process, `world_size` processes."""

    processor: str
    cores: Count | None
    threads: Count
    torch: str
    python: str
    system: str
    world_size: Count


@dataclass(frozen=True)
class TextOverlap:
    """Whether validation text was searched in the training text, and the matches: copied documents, shared 13-grams."""

    checked: bool
    copied_documents: Amount | None = None
    shared_13grams: Share | None = None


@dataclass(frozen=True)
class StartedFrom:
    """The weights that a run started from: the file's path, its SHA-256, and the recipe that made them.

    `train_seconds` is the training time of these weights, earlier runs included; None when unknown.
    """

    path: str
    sha256: str
    recipe: str
    digest: str
    train_seconds: Seconds | None


@dataclass(frozen=True)
class Result:
    """A finished run.

    val_loss, val_bpb: nats per token and bits per byte of the final score
    val_tokens, val_bytes: what was scored, out of `val_split_tokens` tokens in the split
    scores: all scorings by name, the final one last
    probed, proof, val_split_tokens, version: None (or empty) when the run did not record them
    look: where the predictor read tokens to the right, in words, if it did
    origin: the weights that the run started from; None for a fresh initialization
    train_seconds: of this run alone
    version: of this package, with its commit
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
        """Raise `UserError` when fields contradict each other."""
        whole = self.val_tokens == self.val_split_tokens
        if self.in_turn and self.val_split_tokens is not None and self.complete != whole:
            raise UserError(f"complete is {self.complete}, and {self._scored} were scored.")
        if not self.scores:
            raise UserError("scores is empty.")

    @property
    def all_train_seconds(self) -> float | None:
        """Seconds of training, including those of the starting weights; None when unknown."""
        if self.origin is None:
            return self.train_seconds
        before = self.origin.train_seconds
        return None if before is None else self.train_seconds + before

    @property
    def legal(self) -> bool:
        """Whether the score counts, as far as the run itself can tell."""
        return not self.why_not

    @property
    def why_not(self) -> list[str]:
        """Why the score does not count, a few words for each reason; empty when it counts."""
        return [*([] if self.complete else [f"only the first {self._scored} were scored"]), *self._other_reasons()]

    @property
    def sentence(self) -> str:
        """One line on what the score is based on; reasons against it come first."""
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
        """Why the score does not count, apart from tokens that were not scored in time."""
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
    """Say how many tokens of a split were scored; `of` is the size of the split, None when unknown."""
    if not once:
        return f"{of or tokens:,} validation tokens were scored, some more than once."
    if tokens == of:
        return f"Every one of {tokens:,} validation tokens was scored once."
    whole = "" if of is None else f" of {of:,}"
    return (
        f"Only the first {tokens:,}{whole} validation tokens were scored (time ran out): the number counts for nothing."
    )


def files_apart(proofs: Sequence[Proof | Proved]) -> str:
    """Which files differ between scores by their hashes, in a few words; empty when none is known to differ."""
    if len({proof.tokenizer_sha256 for proof in proofs}) > 1:
        return "tokenizers of different SHA-256"
    if len({tuple(sorted(proof.shards_sha256.values())) for proof in proofs if proof.shards_sha256}) > 1:
        return "validation shards of different SHA-256"
    return ""


def mixture(results: Sequence[Result]) -> str:
    """How the texts that results were scored on differ, in a few words; empty when no difference is known.

    Hashes decide when the results have them, else the counts of bytes and tokens.
    """
    if words := files_apart([result.proof for result in results if result.proof is not None]):
        return words
    for name, words in (("val_bytes", "bytes"), ("val_tokens", "tokens")):
        counts = sorted({getattr(result, name) for result in results})
        if len(counts) > 1:
            return f"different text ({' and '.join(f'{count:,}' for count in counts)} {words})"
    return ""


def read_result(path: str | Path) -> Result:
    """Read a `result.json` of this layout or the older one. Raises `UserError` that names the file and the field."""
    return result_of(read_json(path), where=str(path))


def result_of(value: Any, *, where: str) -> Result:
    """A `Result` from parsed JSON. Raises `UserError` that begins with `where` and names the wrong field."""
    if not isinstance(value, dict):
        raise UserError(f"{where} holds no JSON object. Was it made by another program?")
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
    """Read a `documents.json`. Raises `UserError` that names the file and the field."""
    return build(list[DocumentScore], read_json(path), where=str(path))


def _upgrade(old: dict[str, Any]) -> dict[str, Any]:
    """Convert the layout before formats were numbered, where `legal` meant `in_turn` and no proof was recorded."""
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
