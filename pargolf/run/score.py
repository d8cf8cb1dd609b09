"""Scoring as a run does it: the validation stream of a data folder through the ledger, with its bytes proved first."""

from collections.abc import Generator, Iterator
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from pargolf.core.errors import UserError
from pargolf.core.events import Event, Progress, Proved, Scored
from pargolf.core.result import DocumentScore, Proof
from pargolf.core.world import World
from pargolf.data.content import refuse_changed
from pargolf.data.folder import DataFolder, find_tokenizer
from pargolf.data.meta import file_sha256
from pargolf.data.proof import finish
from pargolf.data.shards import Shards
from pargolf.data.sidecar import Sidecar
from pargolf.evaluate.adapt import Adapted, Adapter, score_adapted
from pargolf.evaluate.bpb import DocumentRow, by_document
from pargolf.evaluate.lookahead import LookAhead, Predictor
from pargolf.evaluate.score import Score, final, merge, score
from pargolf.evaluate.windows import Stream, pieces
from pargolf.recipes.recipe import Windows
from pargolf.run.pack import Unpacked

T = TypeVar("T")
_SENT = 1 << 22  # grades that processes exchange at once


@dataclass(frozen=True)
class Validation:
    """The validation stream: `tokens` (N+1), the bytes of its N targets, and what they rest on once that is proved."""

    data: DataFolder
    proof: Proof | None = None

    @property
    def tokens(self) -> Shards:
        """The split."""
        return self.data.val

    @property
    def byte_counts(self) -> Stream:
        """Bytes of each target."""
        return self.data.val_bytes

    @cached_property
    def bytes(self) -> int:
        """Bytes of all targets."""
        return sum(int(piece.sum()) for _, piece in pieces(self.byte_counts))

    def prove(self) -> "Validation":
        """`proving` to its end."""
        return finish(self.proving())

    def proving(self) -> "Generator[Progress, None, Validation]":
        """Validation with the proof of its bytes, and progress. Raises `UserError` as `DataFolder.proving` does."""
        proof = yield from self.data.proving("val")
        if self.bytes != proof.bytes:
            raise UserError(f"{self.bytes:,} bytes would be scored and {proof.bytes:,} were proved: no score.")
        digest = tokenizer_digest(self.data)
        return replace(self, proof=Proof(proof.rests, self.data.val_hashes, digest, proof.note))

    def unchanged(self) -> None:
        """Raise `UserError` where a shard file is no longer the one that was proved."""
        refuse_changed(self.tokens)
        if isinstance(self.byte_counts, Sidecar):
            refuse_changed(self.byte_counts.counts)

    def holds(self, *all_windows: Windows) -> None:
        """Raise `UserError` when there is less text than one window shows."""
        positions = len(self.tokens) - 1
        for windows in all_windows:
            if positions < windows.length:
                raise UserError(
                    f"Validation has {positions:,} tokens to grade, fewer than one window of {windows}. Prepare more "
                    f"text, or score with windows of at most {max(positions, 1)}, as plain:{max(positions, 1)}."
                )

    def grade(
        self,
        predictor: Predictor,
        windows: Windows,
        *,
        vocab: int,
        seconds: float | None = None,
        world: World | None = None,
        keep: bool = False,
    ) -> Iterator[Event | Score]:
        """Progress, and at the end the `Score`; each process of a world grades its share, and all return the whole.

        `keep` each position's grade: for documents' scores, and to compare with an adapted score that is stopped.
        """
        self.unchanged()
        world = world or World()
        # Windows that grade positions repeatedly, or too few to share, are scored by every process alike.
        shared = windows.in_turn and len(self.tokens) > world.size * windows.length
        for event in score(
            predictor,
            self.tokens,
            windows,
            byte_counts=self.byte_counts,
            vocab=vocab,
            bos=self.data.bos,
            seconds=seconds,
            device=world.device,
            rank=world.rank if shared else 0,
            world=world.size if shared else 1,
            keep=keep,
        ):
            yield gathered(event, world) if shared and isinstance(event, Score) else event
        self.unchanged()

    def adapt(
        self,
        unpacked: Unpacked,
        windows: Windows,
        adapter: Adapter,
        *,
        without: Score,
        seconds: float | None = None,
        world: World | None = None,
    ) -> Iterator[Event | Adapted]:
        """Progress, and at the end the score with adaptation beside the one without; on each process of a world."""
        yield from score_adapted(
            unpacked.model,
            self.tokens,
            windows,
            adapter,
            byte_counts=self.byte_counts,
            vocab=unpacked.model.spec.vocab,
            bos=self.data.bos,
            seconds=seconds,
            without=without,
            device=next(unpacked.model.parameters()).device,
            world=world,
        )
        self.unchanged()

    def sample(
        self, predictor: Predictor, windows: Windows, *, vocab: int, count: int, device: torch.device | str = "cpu"
    ) -> Score:
        """Grade `count` windows' worth of tokens spread evenly over the split; for watching a run, not for results.

        A token counts as many bytes as it does on average over the split: one split has one quotient of loss and bpb.
        """
        self.unchanged()
        length = windows.length
        last = len(self.tokens) - 1 - length
        starts = np.linspace(0, max(last, 0), max(1, min(count, last // length))).astype(np.int64)
        spans = [*((s, s + length) for s in starts), (last + length, last + length + 1)]
        tokens = np.concatenate([self.tokens[a:b] for a, b in spans])
        ones = np.ones(len(tokens) - 1, dtype=np.int64)
        found = final(
            score(
                predictor,
                tokens,
                windows,
                byte_counts=ones,
                vocab=vocab,
                bos=self.data.bos,
                device=device,
                probe=False,
            )
        )
        return replace(found, bytes=max(1, round(found.tokens * self.bytes / (len(self.tokens) - 1))))

    def documents(self, graded: Score, *, without: Score | None = None) -> list[DocumentScore]:
        """Loss and BPB of each document that was graded in full, by its id where the data keep them.

        `without` is the BPB in the score of that name (the same model's that did not adapt), None where there is none.
        """
        rows, before = ([] if score is None else self._by_document(score) for score in (graded, without))
        bare = {row["index"]: row["bpb"] for row in before}
        named = self.data.rows("val") or []
        return [
            DocumentScore(
                id=named[row["index"]].id if row["index"] < len(named) else f"{row['index']}",
                bytes=row["bytes"],
                tokens=row["tokens"],
                loss=row["loss"],
                bpb=row["bpb"],
                without=bare.get(row["index"]),
            )
            for row in rows
            if row["bpb"] is not None
        ]

    def _by_document(self, graded: Score) -> list[DocumentRow]:
        return by_document(self.tokens, graded.nats_N, self.byte_counts, self.data.bos)


def tokenizer_file(data: DataFolder) -> Path | None:
    """The SentencePiece file of the data; None for the vocabulary of plain bytes."""
    if data.meta.get("tokenizer") == "bytes":
        return None
    return data.tokenizer_path or find_tokenizer(data.path)


def tokenizer_digest(data: DataFolder) -> str:
    """SHA-256 of the tokenizer file; `bytes` for the vocabulary of plain bytes."""
    path = tokenizer_file(data)
    return "bytes" if path is None else file_sha256(path)


def gathered(part: Score, world: World) -> Score:
    """The whole score of which each process holds a part."""
    if world.size == 1:
        return part
    look = astuple(part.look)
    numbers = torch.tensor([[part.first, part.tokens, part.bytes, part.nats, part.seconds, *look]], dtype=torch.float64)
    rows = world.all_gather(numbers.to(world.device)).wait().tolist()
    nats_N = part.nats_N
    for at in range(0, len(nats_N), _SENT):
        block = torch.from_numpy(np.nan_to_num(nats_N[at : at + _SENT])).to(world.device)
        nats_N[at : at + _SENT] = world.sum(block).cpu().numpy()
    parts = [
        replace(part, first=int(a), tokens=int(b), bytes=int(c), nats=d, seconds=e, nats_N=nats_N[:0], look=_look(*f))
        for a, b, c, d, e, *f in rows
    ]
    ends = [*(each.first for each in parts[1:]), len(nats_N)]
    for each, end in zip(parts, ends):
        nats_N[each.first + each.tokens : end] = np.nan  # where nobody was in time
    return replace(merge(parts), nats_N=nats_N)


def _look(windows: float, ahead: float, position: float, nats: float) -> LookAhead:
    return LookAhead(int(windows), int(ahead), int(position), nats)


def scored(name: str, graded: Score) -> Scored:
    """The event of a finished scoring."""
    return Scored(name, graded.windows, graded.loss, graded.bpb, graded.tokens, graded.bytes, graded.seconds)


def proved(validation: Validation) -> Proved:
    """The event of a finished proof."""
    proof, tokens, size = validation.proof, len(validation.tokens) - 1, validation.bytes
    assert proof is not None
    return Proved(str(proof.rests), tokens, size, proof.shards_sha256, proof.tokenizer_sha256, proof.note)


def watched(events: Iterator[Event | T], kind: type[T]) -> Generator[Event, None, T]:
    """Pass progress on; returns the thing of `kind` at the end."""
    last: T | None = None
    for event in events:
        if isinstance(event, kind):
            last = event
        elif isinstance(event, Event):
            yield event
    assert last is not None
    return last
