"""Four laws, proved on any predictor by what it does: feed it streams that differ, compare its grades.

    causal      a token changes no grade before it, adaptation included                     issue 1017, C1 and C4
    normalized  the probabilities of all tokens that could stand at a place sum to 1        C2
    once        each position is graded once, in order, before anything learns from it      C3 and C4
    isolated    a document's grades do not depend on the documents before it, where asked   pull request 1851

A grader is a whole scoring procedure begun afresh: it takes N+1 tokens and returns N grades in nats. So the laws hold
or break for a model, for a model that adapts, and for somebody else's script alike. `normalized` needs no access to a
distribution: it puts every token of the vocabulary at the place in turn, scores each of those streams, and adds up
exp(-grade). A cache keyed with the target gives itself away there, because every candidate finds itself in it.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pargolf.core.errors import UserError
from pargolf.evaluate.adapt import Adapter
from pargolf.evaluate.lookahead import Predictor
from pargolf.evaluate.score import Ledger, LogitsError, OrderError, UngradedError, batches
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import IntArray, Window, Windows, document_starts

Grades = NDArray[np.floating[Any]]
Entry = tuple[str, int, int]
LAWS = ("causal", "normalized", "once", "isolated")


class Grader(Protocol):
    """A scoring procedure begun afresh at every call: N+1 tokens to the N grades of tokens[1:], in nats."""

    def __call__(self, tokens: IntArray) -> Grades:
        """Grade the stream."""
        ...


class Foreign(Protocol):
    """The least that somebody else's predictor must offer."""

    def prob(self, prefix: IntArray) -> Any:
        """Probabilities (vocab) of the token that follows `prefix`, in anything that becomes an array."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What a probe found. `worst` is the largest deviation seen: nats, or for `normalized` the sum's distance from 1.

    None where the ledger stopped the grader. A law that was not `asked` for holds.
    """

    law: str
    holds: bool
    evidence: str
    worst: float | None = 0.0
    asked: bool = True

    def row(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


class Watched(Ledger):
    """A ledger that writes down every grade and every request for tokens, for somebody else to judge."""

    def __init__(self, text: Text, **options: Any) -> None:
        super().__init__(text, **options)
        self.log: list[Entry] = []

    def grade(self, predictor: Predictor, batch: list[Window], **options: Any) -> None:
        """As the ledger does."""
        super().grade(predictor, batch, **options)
        self.log += [("grade", window.first, window.end) for window in batch]

    def graded(self, start: int, stop: int) -> IntArray:
        """As the ledger does."""
        tokens = super().graded(start, stop)
        self.log.append(("learn", start, stop))
        return tokens


@dataclass(frozen=True)
class LedgerGrader:
    """Our own scoring as a grader: a predictor, or a module that adapts, through a watched ledger.

    The predictor is copied for each run, so that a cache of one stream never reaches the next.
    """

    predictor: Predictor
    windows: Windows
    vocab: int
    bos: int
    adapter: Adapter | None = None
    batch_windows: int = 32
    device: torch.device | str = "cpu"

    def __call__(self, tokens: IntArray) -> Grades:
        """Grade the stream. Raises what the ledger raises."""
        return self.watch(tokens).nats_N

    def watch(self, tokens: IntArray) -> Watched:
        """Grade the stream and return the ledger with its log."""
        starts = document_starts(tokens, self.bos)
        apart = self.adapter is not None and self.adapter.by_document
        ledger = Watched(
            Text(tokens, np.ones(len(tokens) - 1, dtype=np.int64), self.vocab, self.bos),
            once=self.windows.in_turn,
            documents=starts if apart else (),
        )
        predictor = copy.deepcopy(self.predictor)
        if self.adapter is None:
            for batch in batches(self.windows.over(ledger.positions, starts=starts), self.batch_windows):
                ledger.grade(predictor, batch, device=self.device)
            return ledger
        assert isinstance(predictor, nn.Module), "only a module can adapt"
        for _ in self.adapter.run(
            predictor, ledger, self.windows, starts=starts, batch_windows=self.batch_windows, device=self.device
        ):
            pass
        return ledger


@dataclass(frozen=True)
class ForeignGrader:
    """Somebody else's `prob(prefix)` as a grader; also notes how far each vector is from summing to 1."""

    foreign: Foreign
    vocab: int
    off: list[float] = field(default_factory=list, repr=False)

    def __call__(self, tokens: IntArray) -> Grades:
        """Grade the stream, one prefix at a time. Raises `LogitsError` for vectors that are no probabilities."""
        foreign, nats = copy.deepcopy(self.foreign), []
        for i in range(len(tokens) - 1):
            p_V = np.asarray(foreign.prob(tokens[: i + 1].copy()), dtype=np.float64)
            if p_V.shape != (self.vocab,) or not np.isfinite(p_V).all() or p_V.min() < 0:
                raise LogitsError(f"prob(prefix of {i + 1}) gave no {self.vocab} numbers from 0 up")
            self.off.append(abs(float(p_V.sum()) - 1))
            nats.append(-math.log(max(float(p_V[int(tokens[i + 1])]), 1e-300)))
        return np.array(nats)


def probe(
    grader: Grader,
    tokens: IntArray,
    *,
    vocab: int,
    bos: int,
    isolated: bool,
    flips: int = 4,
    places: int = 2,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> list[Verdict]:
    """Judge a grader by the four laws; they all hold when `all(v.holds for v in verdicts)`.

    `tokens` is a short stream (see `stream`): the grader runs about 2 * flips + places * vocab times over it.
    `tolerance` in nats leaves room for arithmetic that is not repeatable. Raises `UserError` for a stream without
    three tokens, or with a single document where isolation is asked.
    """
    if len(tokens) < 3 or vocab <= 2:
        raise UserError("probing needs a stream of at least three tokens over a vocabulary of more than two")
    if isolated and len(_boundaries(tokens, bos)) == 0:
        raise UserError(f"probing isolation needs a second document: no token {bos} after the first")
    random = np.random.default_rng(seed)
    unasked = Verdict("isolated", True, "not asked: documents are packed together", asked=False)
    verdicts = [
        _caught("causal", lambda: _causal(grader, tokens, vocab, bos, flips, tolerance, random)),
        _caught("normalized", lambda: _normalized(grader, tokens, vocab, bos, places)),
        _caught("once", lambda: _once(grader, tokens)),
        _caught("isolated", lambda: _isolated(grader, tokens, vocab, bos, flips, tolerance, random))
        if isolated
        else unasked,
    ]
    return _outside(grader, verdicts)


def stream(*, vocab: int, bos: int, length: int = 96, documents: int = 4, seed: int = 0) -> NDArray[np.int64]:
    """A random stream of `length` + 1 tokens in documents of unequal length, for `probe`."""
    if vocab <= 2 or not 0 <= bos < vocab or length < 4 * documents:
        raise UserError(f"no stream of {length} tokens in {documents} documents over a vocabulary of {vocab}")
    random = np.random.default_rng(seed)
    tokens = _others(random, length + 1, vocab, bos)
    edges = np.linspace(0, length, documents, endpoint=False).astype(np.int64)
    edges[1:] += random.integers(-1, 2, documents - 1)
    tokens[edges] = bos
    return tokens


def stir(model: nn.Module) -> None:
    """Move first weights away from zero outputs, where every law would hold for want of anything to see."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))


def _causal(
    grader: Grader,
    tokens: IntArray,
    vocab: int,
    bos: int,
    flips: int,
    tolerance: float,
    random: np.random.Generator,
) -> Verdict:
    """Change one token, and then all from it on; nothing before its own grade may move."""
    grades = _grades(grader, tokens)
    free = np.flatnonzero(np.asarray(tokens) != bos)
    free = free[free > 1]
    worst, later, where = 0.0, 0.0, ""
    picked = free[np.linspace(len(free) - 1, 0, min(flips, len(free))).astype(np.int64)]
    for place in picked:
        for change, label in (([place], f"token {place}"), (free[free >= place], f"tokens {place} and later")):
            found = _grades(grader, _changed(tokens, change, vocab, bos, random))
            moved = np.abs(found - grades)
            later = max(later, float(moved[place - 1 :].max()))
            before = moved[: place - 1]
            if before.max() > worst:
                worst, where = float(before.max()), f"changing {label} moved the grade of position {before.argmax()}"
    if worst > tolerance:
        return Verdict("causal", False, f"{where} by {worst:.2g} nats", worst)
    return Verdict("causal", True, f"{2 * len(picked)} changes moved later grades by up to {later:.2g} nats", worst)


def _normalized(grader: Grader, tokens: IntArray, vocab: int, bos: int, places: int) -> Verdict:
    """Put every token of the vocabulary at a place and add up the probabilities that they are given.

    What follows the place stays, and places are neighbours: so most have the candidate itself within their window,
    where a model that looks one token ahead would find it.
    """
    worst, where, total = 0.0, 0, 1.0
    middle = len(tokens) * 2 // 3
    for place in range(middle, min(middle + places, len(tokens))):
        tried = np.array(tokens, dtype=np.int64)
        mass = 0.0
        for candidate in range(vocab):
            tried[place] = candidate
            mass += math.exp(-float(_grades(grader, tried)[place - 1]))
        if abs(mass - 1) >= worst:
            worst, where, total = abs(mass - 1), place, mass
    for off in grader.off if isinstance(grader, ForeignGrader) else ():
        worst = max(worst, off)
    evidence = f"the {vocab} probabilities at place {where} sum to {total:.6f}"
    if worst > abs(total - 1):
        evidence += f"; a vector that prob() gave is off by {worst:.2g}"
    return Verdict("normalized", worst <= 1e-4, evidence, worst)


def _once(grader: Grader, tokens: IntArray) -> Verdict:
    """Replay the log of a watched ledger without trusting its own checks."""
    if not isinstance(grader, LedgerGrader):
        n = len(_grades(grader, tokens))
        return Verdict("once", True, f"{n} finite grades for {n} positions, made outside the ledger")
    ledger = grader.watch(tokens)
    counts, learned = np.zeros(ledger.positions, dtype=np.int64), 0
    openings = {0, *(document_starts(tokens, grader.bos) if grader.adapter and grader.adapter.by_document else ())}
    for kind, start, stop in ledger.log:
        if kind == "grade":
            if start > 0 and counts[start - 1] == 0 and start not in openings:
                return Verdict("once", False, f"position {start} was graded before the one to its left")
            counts[start:stop] += 1
        else:
            learned += 1
            early = [t for t in range(start, stop) if t not in openings and counts[t - 1] == 0]
            if early:
                return Verdict("once", False, f"token {early[0]} was handed out before it was graded")
    if counts.min() != 1 or counts.max() != 1:
        odd = int(np.flatnonzero(counts != 1)[0])
        return Verdict("once", False, f"position {odd} was graded {counts[odd]} times")
    return Verdict(
        "once", True, f"{len(counts)} positions graded once, in order; {learned} lessons, all on graded tokens"
    )


def _isolated(
    grader: Grader,
    tokens: IntArray,
    vocab: int,
    bos: int,
    flips: int,
    tolerance: float,
    random: np.random.Generator,
) -> Verdict:
    """Rewrite the documents before a boundary, lengths kept; no grade after it may move."""
    grades = _grades(grader, tokens)
    edges = _boundaries(tokens, bos)
    edges = edges[np.unique(np.linspace(0, len(edges) - 1, min(flips, len(edges))).astype(np.int64))]
    worst, where = 0.0, ""
    for edge in edges:
        before = np.flatnonzero(np.asarray(tokens[:edge]) != bos)
        found = _grades(grader, _changed(tokens, before, vocab, bos, random))
        moved = np.abs(found - grades)[edge:]
        if moved.max() > worst:
            worst = float(moved.max())
            where = f"rewriting the documents before token {edge} moved the grade of position {edge + moved.argmax()}"
    if worst > tolerance:
        return Verdict("isolated", False, f"{where} by {worst:.2g} nats", worst)
    return Verdict("isolated", True, f"documents before {len(edges)} boundaries rewritten, no grade after moved", worst)


def _outside(grader: Grader, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Outside the ledger the third law is judged by its consequences, which are the first two."""
    causal, normalized, once, isolated = verdicts
    if not isinstance(grader, LedgerGrader) and once.holds and not (causal.holds and normalized.holds):
        broken = " and ".join(f"'{v.law}'" for v in (causal, normalized) if not v.holds)
        once = Verdict("once", False, f"graded outside the ledger, and {broken} broken: it saw targets before grading")
    return [causal, normalized, once, isolated]


def _caught(law: str, run: Callable[[], Verdict]) -> Verdict:
    """A grader that the ledger stops breaks the law."""
    try:
        return run()
    except (OrderError, UngradedError, LogitsError) as error:
        return Verdict(law, False, f"the ledger stopped it: {error}", None)


def _grades(grader: Grader, tokens: IntArray) -> NDArray[np.float64]:
    """One finite grade per position, or `LogitsError`."""
    grades = np.asarray(grader(tokens.copy()), dtype=np.float64)
    if grades.shape != (len(tokens) - 1,) or not np.isfinite(grades).all():
        raise LogitsError(f"{len(tokens) - 1} finite grades were expected, one for each position")
    return grades


def _boundaries(tokens: IntArray, bos: int) -> NDArray[np.int64]:
    """Where documents begin, the first left out."""
    starts = document_starts(tokens, bos)
    return starts[starts > 0]


def _changed(
    tokens: IntArray, places: Sequence[int] | IntArray, vocab: int, bos: int, random: np.random.Generator
) -> IntArray:
    """A copy with another token, never `bos`, at each of `places`, none of which holds `bos`."""
    out = np.array(tokens, dtype=np.int64)
    at = np.asarray(places, dtype=np.int64)
    rank = out[at] - (out[at] > bos)  # among the vocab - 1 tokens that are not bos
    rank = (rank + random.integers(1, vocab - 1, len(at))) % (vocab - 1)
    out[at] = rank + (rank >= bos)
    return out


def _others(random: np.random.Generator, count: int, vocab: int, bos: int) -> NDArray[np.int64]:
    """Random tokens, none of them `bos`."""
    drawn = random.integers(0, vocab - 1, count)
    return drawn + (drawn >= bos)
