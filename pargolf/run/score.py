"""Score as a run does it: the validation split through the ledger, with its bytes proved first.

`proving_text` gives the validation text with its proof, `score_together` scores it (each process a share), and
`score_sample` scores a small sample during training.
"""

from collections.abc import Generator, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from pargolf.core.errors import UserError
from pargolf.core.events import Event, Progress, Proved, Scored
from pargolf.core.result import DocumentScore, Proof
from pargolf.core.world import World
from pargolf.data.content import refuse_changed
from pargolf.data.folder import DataFolder
from pargolf.data.meta import file_sha256
from pargolf.data.sidecar import Sidecar
from pargolf.data.tokenizer_files import find_tokenizer
from pargolf.evaluate.bpb import by_document
from pargolf.evaluate.lookahead import LookAhead, Predictor
from pargolf.evaluate.score import Score, final, merge, score
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import Windows

T = TypeVar("T")
_SENT = 1 << 22  # grades that processes exchange at once


def open_text(data: DataFolder) -> Text:
    """The validation text of a data folder, without proof. Tokens and counts are read on demand."""
    tokens, counts = data.val, data.val_bytes

    def check() -> None:
        refuse_changed(tokens)
        if isinstance(counts, Sidecar):
            refuse_changed(counts.counts)

    names = tuple(row.id for row in data.rows("val") or ())
    return Text(tokens, counts, data.vocab, data.bos, names, check=check)


def proving_text(data: DataFolder) -> Generator[Progress, None, Text]:
    """The validation text with the proof of its bytes, and progress. Raises what `DataFolder.proving` raises."""
    proof = yield from data.proving("val")
    text = open_text(data)
    if text.bytes != proof.bytes:
        raise UserError(f"{text.bytes:,} bytes would be scored and {proof.bytes:,} were proved: no score.")
    lossless = data.meta.get("lossless")
    return replace(text, proof=Proof(proof.rests, data.val_hashes, tokenizer_digest(data), proof.note, lossless))


def score_together(
    predictor: Predictor,
    text: Text,
    windows: Windows,
    *,
    seconds: float | None = None,
    world: World | None = None,
    keep: bool = False,
) -> Iterator[Event | Score]:
    """Yield progress and at the end the `Score`; each process of a world scores its share, and all get the whole.

    `keep` the grade of each position: for scores by document, and to compare with an incomplete adapted score.
    """
    world = world or World()
    # Windows that grade positions repeatedly, or are too few to share, are scored by every process alike.
    shared = windows.in_turn and len(text.tokens) > world.size * windows.length
    for event in score(
        predictor,
        text,
        windows,
        seconds=seconds,
        device=world.device,
        rank=world.rank if shared else 0,
        world=world.size if shared else 1,
        keep=keep,
    ):
        yield gathered(event, world) if shared and isinstance(event, Score) else event


def score_sample(
    predictor: Predictor, text: Text, windows: Windows, *, count: int, device: torch.device | str = "cpu"
) -> Score:
    """Score `count` windows, spread evenly over the text; for watching a run, not for results.

    Each token counts the average bytes per token of the text, so loss and bpb have the ratio of the whole split.
    """
    text.check()
    length = windows.length
    last = text.positions - length
    starts = np.linspace(0, max(last, 0), max(1, min(count, last // length))).astype(np.int64)
    spans = [*((s, s + length) for s in starts), (last + length, last + length + 1)]
    tokens = np.concatenate([text.tokens[a:b] for a, b in spans])
    sample = Text(tokens, np.ones(len(tokens) - 1, dtype=np.int64), text.vocab, text.bos)
    sampled = final(score(predictor, sample, windows, device=device, probe=False))
    return replace(sampled, bytes=max(1, round(sampled.tokens * text.bytes / text.positions)))


def document_rows(text: Text, graded: Score, *, without: Score | None = None) -> list[DocumentScore]:
    """Loss and bits per byte of each fully graded document, by its name if the text has names.

    `without` is the same model's score without adaptation, for the column of that name.
    """
    rows, before = (
        [] if score is None else by_document(text.tokens, score.nats_N, text.byte_counts, text.bos)
        for score in (graded, without)
    )
    bare = {row["index"]: row["bpb"] for row in before}
    return [
        DocumentScore(
            id=text.names[row["index"]] if row["index"] < len(text.names) else f"{row['index']}",
            bytes=row["bytes"],
            tokens=row["tokens"],
            loss=row["loss"],
            bpb=row["bpb"],
            without=bare.get(row["index"]),
        )
        for row in rows
        if row["bpb"] is not None
    ]


def tokenizer_file(data: DataFolder) -> Path | None:
    """The tokenizer file of the data; None for the vocabulary of plain bytes."""
    if data.meta.get("tokenizer") == "bytes":
        return None
    return data.tokenizer_path or find_tokenizer(data.path)


def tokenizer_digest(data: DataFolder) -> str:
    """SHA-256 of the tokenizer file; `bytes` for the vocabulary of plain bytes."""
    path = tokenizer_file(data)
    return "bytes" if path is None else file_sha256(path)


def gathered(part: Score, world: World) -> Score:
    """Combine the scores of all processes into the whole score."""
    if world.size == 1:
        return part
    look = astuple(part.look)
    numbers = torch.tensor([[part.first, part.tokens, part.bytes, part.nats, part.seconds, *look]], dtype=torch.float64)
    rows = world.all_gather(numbers.to(world.device)).wait().tolist()
    nats_N = part.nats_N
    for first in range(0, len(nats_N), _SENT):
        block = torch.from_numpy(np.nan_to_num(nats_N[first : first + _SENT])).to(world.device)
        nats_N[first : first + _SENT] = world.sum(block).cpu().numpy()
    parts = [
        replace(part, first=int(a), tokens=int(b), bytes=int(c), nats=d, seconds=e, nats_N=nats_N[:0], look=_look(*f))
        for a, b, c, d, e, *f in rows
    ]
    ends = [*(each.first for each in parts[1:]), len(nats_N)]
    for each, end in zip(parts, ends):
        nats_N[each.first + each.tokens : end] = np.nan  # not graded in time
    return replace(merge(parts), nats_N=nats_N)


def _look(windows: float, ahead: float, position: float, nats: float, unsteady: float) -> LookAhead:
    return LookAhead(int(windows), int(ahead), int(position), nats, bool(unsteady))


def scored(name: str, graded: Score) -> Scored:
    """The event of a finished scoring."""
    return Scored(name, graded.windows, graded.loss, graded.bpb, graded.tokens, graded.bytes, graded.seconds)


def proved(text: Text) -> Proved:
    """The event of a finished proof."""
    proof = text.proof
    assert proof is not None
    hashes = proof.shards_sha256, proof.tokenizer_sha256
    return Proved(str(proof.rests), text.positions, text.bytes, *hashes, proof.note, proof.lossless)


def watched(events: Iterator[Event | T], kind: type[T]) -> Generator[Event, None, T]:
    """Pass events on; returns the last object of type `kind`."""
    last: T | None = None
    for event in events:
        if isinstance(event, kind):
            last = event
        elif isinstance(event, Event):
            yield event
    assert last is not None
    return last
