"""Scoring as a run does it: the validation stream of a data folder through the ledger, with its bytes proved first."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pargolf.core.errors import UserError
from pargolf.core.events import Event, Scored
from pargolf.core.world import World
from pargolf.data.folder import DataFolder, find_tokenizer
from pargolf.data.meta import file_sha256
from pargolf.data.tokens import count_bytes
from pargolf.evaluate.adapt import Adapted, Adapter, score_adapted
from pargolf.evaluate.bpb import DocumentRow, by_document
from pargolf.evaluate.score import Predictor, Score, final, merge, score
from pargolf.run.pack import Unpacked
from pargolf.run.recipe import Windows

T = TypeVar("T")


@dataclass(frozen=True)
class Validation:
    """The validation stream: `tokens` (N+1), the bytes of its N targets, and the data they come from."""

    data: DataFolder

    @cached_property
    def tokens(self) -> NDArray[np.uint16]:
        """The whole split, in memory."""
        return self.data.val.take(0, len(self.data.val))

    @cached_property
    def byte_counts(self) -> NDArray[Any]:
        """Bytes of each target."""
        return count_bytes(self.data.byte_table, self.tokens[:-1], self.tokens[1:])

    def prove(self) -> int:
        """Prove that the graded bytes are the documents' own; returns them. Raises `UserError` when they are not."""
        proof = self.data.prove("val")
        counted = int(self.byte_counts.sum(dtype=np.int64))
        if counted != proof.bytes:
            raise UserError(
                f"The byte table counts {counted:,} bytes and the documents have {proof.bytes:,}: no score."
            )
        return counted

    def grade(
        self,
        predictor: Predictor,
        windows: Windows,
        *,
        vocab: int,
        seconds: float | None = None,
        world: World | None = None,
    ) -> Iterator[Event | Score]:
        """Progress, and at the end the `Score`; each process of a world grades its share, and all return the whole."""
        world = world or World()
        # Windows that grade positions repeatedly, or too few to share, are scored by every process alike.
        shared = windows.legal and len(self.tokens) > world.size * windows.length
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
        ):
            yield gathered(event, world) if shared and isinstance(event, Score) else event

    def adapt(
        self, unpacked: Unpacked, windows: Windows, adapter: Adapter, *, without: Score, seconds: float | None = None
    ) -> Iterator[Event | Adapted]:
        """Progress, and at the end the score with adaptation beside the one without."""
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
        )

    def sample(
        self, predictor: Predictor, windows: Windows, *, vocab: int, count: int, device: torch.device | str = "cpu"
    ) -> Score:
        """Grade `count` windows' worth of tokens spread evenly over the split; for watching a run, not for results."""
        length = windows.length
        last = len(self.tokens) - 1 - length
        starts = np.linspace(0, max(last, 0), max(1, min(count, last // length))).astype(np.int64)
        tokens = np.concatenate([self.tokens[s : s + length] for s in starts] + [self.tokens[-1:]])
        # Where two pieces meet, the last target of one is the first token of the next; count its bytes as such.
        counts = count_bytes(self.data.byte_table, tokens[:-1], tokens[1:])
        return final(
            score(predictor, tokens, windows, byte_counts=counts, vocab=vocab, bos=self.data.bos, device=device)
        )

    def documents(self, graded: Score, *, without: Score | None = None) -> list[dict[str, Any]]:
        """Loss and BPB of each document that was graded in full, by its id where the data keep them.

        `without` is the BPB in the score of that name (the same model's that did not adapt), None where there is none.
        """
        rows, before = ([] if score is None else self._by_document(score) for score in (graded, without))
        bare = {row["index"]: row["bpb"] for row in before}
        named = self.data.rows("val") or []
        return [
            {
                "id": named[row["index"]].id if row["index"] < len(named) else f"{row['index']}",
                **{key: row[key] for key in ("bytes", "tokens", "loss", "bpb")},
                "without": bare.get(row["index"]),
            }
            for row in rows
            if row["bytes"]
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
    numbers = torch.tensor([[part.first, part.tokens, part.bytes, part.nats, part.seconds]], dtype=torch.float64)
    rows = world.all_gather(numbers.to(world.device)).wait().tolist()
    nats_RN = world.all_gather(torch.from_numpy(part.nats_N)[None].to(world.device)).wait().cpu().numpy()
    return merge(
        [
            replace(part, first=int(a), tokens=int(b), bytes=int(c), nats=d, seconds=e, nats_N=nats_N)
            for (a, b, c, d, e), nats_N in zip(rows, nats_RN)
        ]
    )


def scored(name: str, graded: Score) -> Scored:
    """The event of a finished scoring."""
    return Scored(name, graded.windows, graded.loss, graded.bpb, graded.tokens, graded.bytes, graded.seconds)


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
