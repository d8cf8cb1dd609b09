"""The ledger: score a text so that the result proves the conditions of a fair score.

The four conditions of Parameter Golf issue 1017, and what enforces each of them:

    C1  grades depend on artifact and prefix only   the predictor must; changed tokens test it (`lookahead.py`)
    C2  a full normalized distribution, fixed       the ledger: it takes logits and normalizes them itself
        before the target is seen
    C3  scored before anything adapts to it         the ledger: `graded` refuses tokens that have no grade yet
    C4  one pass from left to right                 the ledger: a position out of order raises an error
                                                    (one pass per document, when documents are graded apart)

The arithmetic is in `grades.py`; the ledger adds these checks and the record of every grade.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pargolf.core.budget import Clock
from pargolf.core.devices import halving, release_memory
from pargolf.core.errors import UserError, out_of_memory
from pargolf.core.events import Narrowed, Progress
from pargolf.core.world import World
from pargolf.evaluate.bpb import bits_per_byte, nats_per_token
from pargolf.evaluate.grades import Grades
from pargolf.evaluate.lookahead import Flips, LookAhead, Predictor, part_of
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import IntArray, Stream, Window, Windows, pieces, starts_for

_ON_CPU, _ELSEWHERE = 2048, 1 << 16  # positions of a batch: what fits a core's cache, what fills a GPU
_ALL = 1 << 30
_HELD = 1 << 22  # most grades that are kept in memory; those of a longer stream go to a file


class OrderError(RuntimeError):
    """A position would be graded out of order or twice."""


class UngradedError(RuntimeError):
    """A token was requested before it was graded."""


@dataclass(frozen=True, eq=False)
class Score:
    """The result of a scoring: `loss` in nats per token and `bpb` in bits per byte, over the graded `tokens`.

    positions: how many positions there are to grade
    in_turn: they were graded from left to right, each at most once
    grades_min, grades_max: how often a position was graded; both 1 for a complete score in turn
    look: the result of the causality test
    nats_N: the grade of each position, float32, NaN for ungraded ones; empty when grades were not kept
    first: where the share of this process begins, when several share the work
    """

    windows: str
    in_turn: bool
    complete: bool
    positions: int
    tokens: int
    bytes: int
    nats: float
    grades_min: int
    grades_max: int
    seconds: float
    nats_N: NDArray[np.float32]
    first: int = 0
    look: LookAhead = LookAhead()

    @property
    def loss(self) -> float:
        """Nats per graded token."""
        return nats_per_token(self.nats, self.tokens)

    @property
    def bpb(self) -> float:
        """Bits per graded byte."""
        return bits_per_byte(self.nats, self.bytes)

    @property
    def probed(self) -> bool | None:
        """Whether the causality test passed; None when no tokens were changed."""
        return self.look.probed

    def row(self) -> dict[str, Any]:
        """Everything except the array, for a JSON file; `look` in words."""
        names = ("windows", "in_turn", "probed", "complete", "loss", "bpb", "nats", "positions", "tokens", "bytes")
        row = {name: getattr(self, name) for name in (*names, "grades_min", "grades_max", "seconds")}
        return {**row, "look": str(self.look)}


class Ledger(Grades):
    """Owns the tokens, grades them, and gives them out only afterwards.

    once: positions must be graded from left to right, each exactly once (every scoring in turn)
    documents: rising start positions; each document becomes a pass of its own, documents may be graded in any order,
        and no window may show a token of another document
    first: where grading begins, for a process that grades a part by itself
    keep: keep the grade of every position; without it no array grows with the stream
    world: its processes grade each batch together, and each records all grades

    Raises `UserError` for ids outside the vocabulary, a stream without positions or bytes, and counts that do not
    align.
    """

    def __init__(
        self,
        text: Text,
        *,
        once: bool = True,
        documents: Sequence[int] | IntArray = (),
        first: int = 0,
        keep: bool = True,
        world: World | None = None,
    ) -> None:
        _check_stream(text.tokens, text.byte_counts, text.vocab)
        super().__init__(text)
        self.world = world or self.world
        self.vocab = text.vocab
        self.frontier = first  # graded positions, those before `first` included
        self.nats_N = _blank(self.positions if keep else 0)
        # With `once` the turn of a pass visits each position exactly once, so only repeated grades need a count.
        self.grades_N = np.zeros(0 if once else self.positions, dtype=np.int32)
        self.scored_at_once = self.trained_at_once = _ALL  # rows; fewer after memory has run out
        self._once = once
        self._first = first
        self._starts = np.array([0, *(start for start in documents if start > 0)], dtype=np.int64)
        self._stops = np.array([*self._starts[1:], self.positions], dtype=np.int64)
        self._turns = np.maximum(self._starts, first)  # per pass, the next position to grade

    def grade(
        self,
        predictor: Predictor,
        batch: list[Window],
        *,
        device: torch.device | str = "cpu",
        rows: Sequence[int] | None = None,
    ) -> None:
        """Show the predictor a batch of windows of one shape and record the grades.

        Each process of a world handles `rows` (None: an even share); together they must cover the batch.
        Raises `LogitsError` (nothing is recorded then) and `OrderError`.
        """
        length, first = _shape(batch[0])
        assert all(_shape(window) == (length, first) for window in batch), "a batch holds windows of one shape"
        self._check_turns(batch)
        rows = range(len(batch))[self.world.share(len(batch))] if rows is None else rows
        nats_BS = np.zeros((len(batch), length - first), dtype=np.float32)
        if rows:
            nats_BS[list(rows)] = self._nats(predictor, [batch[row] for row in rows], device)
        if self.world.size > 1:
            nats_BS = self.world.sum(torch.from_numpy(nats_BS).to(device)).cpu().numpy()
        for window, nats_S in zip(batch, nats_BS):
            self._add(window, nats_S)

    def graded(self, start: int, stop: int) -> IntArray:
        """A copy of tokens[start:stop], from which an adapter may learn; the first token of a pass needs no grade.

        Raises `UngradedError` if any of them has not been graded yet.
        """
        inside = self._first <= start <= stop
        turn = self._pass_of(start)
        while inside and stop > self._turns[turn] + 1:  # tokens up to the one at the turn are known
            inside = bool(self._turns[turn] == self._stops[turn] < self.positions)
            turn += 1
        if not inside:
            raise UngradedError(
                f"tokens {start} to {stop} were asked for, and of {self.positions + 1} only those before "
                f"{self._turns[min(turn, len(self._turns) - 1)] + 1} have been graded there"
            )
        return super().graded(start, stop)

    def train(self, rows: int, gradients: Callable[[int], None], device: torch.device | str) -> None:
        """Call `gradients` with the number of rows to take at once; while memory runs out, call again with half."""
        asked = min(rows, self.trained_at_once)
        if (fitted := halving(asked, gradients, torch.device(device))) < asked:
            self.trained_at_once = fitted

    def narrowed(self, seconds: float) -> Iterator[Narrowed]:
        """Events for the sizes that were reduced because memory ran out."""
        for what, size in (("windows at once", self.scored_at_once), ("rows trained at once", self.trained_at_once)):
            if size < _ALL:
                yield Narrowed(what, size, seconds)

    def score(self, windows: Windows, *, seconds: float) -> Score:
        """The `Score` of everything that was graded."""
        whole = int(self._first == 0 and self.frontier == self.positions)
        grades_min, grades_max = (whole, 1) if self._once else (int(self.grades_N.min()), int(self.grades_N.max()))
        return Score(
            windows=str(windows),
            in_turn=self._once,
            complete=grades_min > 0,
            positions=self.positions,
            tokens=self.tokens,
            bytes=self.bytes,
            nats=self.nats,
            grades_min=grades_min,
            grades_max=grades_max,
            seconds=seconds,
            nats_N=self.nats_N,
            first=self._first,
        )

    def _nats(self, predictor: Predictor, batch: list[Window], device: torch.device | str) -> NDArray[np.float32]:
        """Grades of a batch; if memory runs out, of its halves one after the other."""
        if len(batch) <= self.scored_at_once:
            try:
                return super()._nats(predictor, batch, device)
            except (MemoryError, RuntimeError) as error:
                if len(batch) < 2 or not out_of_memory(error) or part_of(predictor, 0, 0) is None:
                    raise
            self.scored_at_once = len(batch) // 2
            release_memory(torch.device(device))
        cuts = range(0, len(batch), self.scored_at_once)
        spans = [(begin, min(begin + self.scored_at_once, len(batch))) for begin in cuts]
        parts = [(part_of(predictor, *span), batch[slice(*span)]) for span in spans]
        return np.concatenate([self._nats(part or predictor, rows, device) for part, rows in parts])

    def _pass_of(self, position: int) -> int:
        """The index of the pass that a position belongs to."""
        return max(0, int(np.searchsorted(self._starts, position, side="right")) - 1)

    def _check_turns(self, batch: list[Window]) -> None:
        turns: dict[int, int] = {}
        for window in batch:
            number = self._pass_of(window.first)
            begin, stop = self._starts[number], self._stops[number]
            if not begin <= window.start <= window.first < window.end <= stop:
                raise OrderError(f"{window} does not lie within positions {begin} to {stop}")
            turn = turns.get(number, int(self._turns[number]))
            if self._once and window.first != turn:
                raise OrderError(f"{window} grades position {window.first}, and it is position {turn}'s turn")
            turns[number] = max(turn, window.end)

    def _add(self, window: Window, nats_S: NDArray[np.float32]) -> None:
        span = slice(window.first, window.end)
        if len(self.nats_N):
            self.nats_N[span] = nats_S
        if not self._once:
            self.grades_N[span] += 1
        super()._add(window, nats_S)
        turn = self._pass_of(window.first)
        self.frontier += max(0, window.end - int(self._turns[turn]))
        self._turns[turn] = max(self._turns[turn], window.end)


def score(
    predictor: Predictor,
    text: Text,
    windows: Windows,
    *,
    batch_windows: int | None = None,
    device: torch.device | str = "cpu",
    seconds: float | None = None,
    clock: Clock | None = None,
    rank: int = 0,
    world: int = 1,
    keep: bool = True,
    probe: bool = True,
) -> Iterator[Progress | Narrowed | Score]:
    """Score every position of `text`, yielding progress and at the end the `Score`.

    batch_windows: windows per batch; None means as many as suit the device
    seconds: stop before this limit, as soon as another batch might not fit; the score is then marked incomplete. One
        batch is always graded
    clock: a running clock, whose earlier time counts against the limit
    rank, world: grade only the share of this process; `merge` joins the scores
    keep: keep the grade of every position; without it memory does not depend on the length of the stream
    probe: also show a few windows with changed tokens, to test whether the predictor looks ahead (`Flips`); the time
        for this is included in the score's seconds

    Raises `UserError` (see `Ledger`), `LogitsError`.
    """
    text.check()
    clock = clock or Clock()
    began = clock.seconds
    starts = starts_for(windows, text.tokens, text.bos)
    cut = share(windows, text.positions, starts=starts, rank=rank, world=world)
    opening = next(cut, None)
    if opening is None and world > 1:
        raise UserError(f"{windows} cuts this stream into fewer windows than {world} processes: use fewer")
    ledger = Ledger(
        text,
        once=windows.in_turn,
        first=opening.first if opening else 0,
        keep=keep,
    )
    rows = batch_windows or suits(windows, device)
    count = sum(1 for _ in share(windows, text.positions, starts=starts, rank=rank, world=world)) if probe else 0
    flips = Flips(predictor, batches=-(-count // rows), rows=rows, vocab=text.vocab, bos=text.bos, seed=rank)
    # The slowest of the last few batches predicts the next one; a slow first batch (compilation) is soon forgotten.
    recent: deque[float] = deque(maxlen=8)
    for batch in batches(chain([opening] if opening else [], cut), rows):
        elapsed = clock.seconds
        if seconds is not None and ledger.bytes and elapsed + max(recent) > seconds:
            break
        spare = seconds is None or (len(recent) > 0 and elapsed + 2 * max(recent) <= seconds)
        shown, most = flips.around(batch) if spare else predictor, ledger.scored_at_once
        ledger.grade(shown, batch, device=device)
        if ledger.scored_at_once < most:
            yield from ledger.narrowed(clock.seconds - began)
        recent.append((clock.seconds - elapsed) / (1 if shown is predictor else 2))
        yield progress(ledger, f"score {windows}", elapsed=clock.seconds - began)
    text.check()
    yield replace(ledger.score(windows, seconds=clock.seconds - began), look=flips.look)


def suits(windows: Windows, device: torch.device | str) -> int:
    """The number of windows in a batch that suits a device."""
    return max(1, (_ON_CPU if torch.device(device).type == "cpu" else _ELSEWHERE) // windows.length)


def share(
    windows: Windows, positions: int, *, starts: Sequence[int] | IntArray = (), rank: int = 0, world: int = 1
) -> Iterator[Window]:
    """The windows of process `rank` out of `world`: a contiguous run; all windows for a world of one."""
    cut = windows.over(positions, starts=starts)
    if world == 1:
        return cut
    if not windows.in_turn:
        raise UserError(f"{windows} grades positions several times, which only one process can count")
    total = sum(1 for _ in windows.over(positions, starts=starts))
    return islice(cut, total * rank // world, total * (rank + 1) // world)


def merge(scores: Sequence[Score]) -> Score:
    """Combine the scores of all processes, in any order, into the score of the whole stream."""
    parts = sorted(scores, key=lambda part: part.first)
    edges = [*(part.first for part in parts), parts[0].positions]
    assert edges[0] == 0 and all(part.windows == parts[0].windows and part.in_turn for part in parts), "other shares"
    assert all(part.tokens <= stop - begin for part, (begin, stop) in zip(parts, pairwise(edges))), "shares overlap"
    nats_N = parts[0].nats_N.copy()
    for part in parts[1:]:
        np.copyto(nats_N, part.nats_N, where=~np.isnan(part.nats_N))
    tokens = sum(part.tokens for part in parts)
    return replace(
        parts[0],
        complete=tokens == parts[0].positions,
        tokens=tokens,
        bytes=sum(part.bytes for part in parts),
        nats=sum(part.nats for part in parts),
        grades_min=int(tokens == parts[0].positions),
        seconds=max(part.seconds for part in parts),
        nats_N=nats_N,
        look=reduce(LookAhead.joined, (part.look for part in parts)),
    )


def final(events: Iterable[Progress | Narrowed | Score]) -> Score:
    """Run a scoring to its end, ignoring its events, and return the score."""
    *_, last = events
    assert isinstance(last, Score)
    return last


def batches(windows: Iterable[Window], limit: int) -> Iterator[list[Window]]:
    """Group up to `limit` neighbouring windows of one shape (length, context), in order."""
    assert limit >= 1, "a batch holds at least one window"
    batch: list[Window] = []
    for window in windows:
        if batch and (len(batch) == limit or _shape(window) != _shape(batch[0])):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _shape(window: Window) -> tuple[int, int]:
    return window.end - window.start, window.first - window.start


def progress(ledger: Ledger, task: str, *, elapsed: float) -> Progress:
    """The progress of a scoring, with its bits per byte so far and the time left."""
    seconds_left = elapsed * (ledger.positions - ledger.frontier) / max(ledger.frontier, 1)
    note = f"{bits_per_byte(ledger.nats, ledger.bytes):.4f} bpb, {seconds_left:.0f} s left" if ledger.bytes else ""
    return Progress(task=task, done=ledger.frontier, total=ledger.positions, note=note)


def _blank(count: int) -> NDArray[np.float32]:
    """An array of NaN for each position; for a long stream in an unnamed temporary file."""
    if count <= _HELD:
        return np.full(count, np.nan, dtype=np.float32)
    with tempfile.TemporaryFile() as file:
        nats_N = np.memmap(file, dtype=np.float32, shape=count, mode="w+")
    for first in range(0, count, _HELD):
        nats_N[first : first + _HELD] = np.nan
    return nats_N


def _check_stream(tokens: Stream, byte_counts: Stream, vocab: int) -> None:
    if len(tokens) < 2:
        raise UserError("scoring needs a stream of at least two tokens: prepare more validation text")
    if len(byte_counts) != len(tokens) - 1:
        raise UserError(f"{len(byte_counts)} byte counts for {len(tokens) - 1} predictions: make both from one stream")
    for first, piece in pieces(tokens):
        outside = np.flatnonzero((piece < 0) | (piece >= vocab))
        if len(outside):
            raise UserError(
                f"token {int(piece[outside[0]])} at index {first + outside[0]} is outside the vocabulary of {vocab}: "
                "score with the tokenizer that the model was trained with"
            )
    counted = [(piece.min(), piece.sum(dtype=np.int64)) for _, piece in pieces(byte_counts)]
    if min(low for low, _ in counted) < 0 or not any(total for _, total in counted):
        raise UserError("the byte counts are negative or all zero: check the tokenizer's byte table")
