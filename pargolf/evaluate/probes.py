"""Probes: test four laws of fair scoring on any predictor, by feeding it different streams and comparing the results.

    causal      a token changes no distribution before it, adaptation included              issue 1017, C1 and C4
    normalized  each distribution sums to 1, and each grade is the true token's share       C2
    once        each position is graded once, in order, before anything learns from it      C3 and C4
    isolated    a document's grades do not depend on the documents before it (if requested)  pull request 1851

A grader is a complete scoring procedure that starts fresh at every call: it takes N+1 tokens and returns N grades in
nats. So the laws can be tested alike for a model, for a model that adapts, and for a foreign script.

`causal` changes one token, and then all tokens from it on, at places spread over the stream and at the last place of
each window. At two more places it tries every token that occurs in the stream, and some that do not. (BOS is also
tried, unless documents are graded separately: then the division into documents is given.) If a distribution before the
change moves, the grader has looked ahead, and the verdict says how far. For a model of this package the same is tested
on its training loss, and on text shown in pieces (`paths.py`).

A `Shows` grader returns all its distributions, so each can be summed, and a look at the very next token is visible in
`causal`. Other graders return only the grades of the true tokens. Then a look at the next token would hide in the grade
that changes anyway, so `normalized` puts every token of the vocabulary at one place in turn, scores each of these
streams, and sums exp(-grade). A cache keyed with the target is caught there, because every candidate finds itself in
it. For a grader that shows its distributions this sum adds nothing: the same distribution has the same sum whichever
token comes next.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pargolf.core.errors import UserError
from pargolf.evaluate.adapters.adapter import Adapter
from pargolf.evaluate.grades import LogitsError
from pargolf.evaluate.lookahead import LookAhead, Predictor, changed, moved
from pargolf.evaluate.paths import pieces_differ, pieces_look, training_look
from pargolf.evaluate.score import OrderError, UngradedError, batches
from pargolf.evaluate.text import Text
from pargolf.evaluate.watched import Watched
from pargolf.evaluate.windows import IntArray, Windows, document_starts, per_document
from pargolf.kernels.compiled import compiled_kernels
from pargolf.model.transformer import Transformer

Grades = NDArray[np.floating[Any]]
LAWS = ("causal", "normalized", "once", "isolated")
_ALIKE = 1e-3  # nats by which rounding may separate text at once from text in pieces
_SHORT = 16  # tokens for the tests of training loss and text in pieces
_UNSEEN = 8  # tokens that do not occur in the stream and are tried as well


class Grader(Protocol):
    """A scoring procedure that starts fresh at every call: N+1 tokens to the N grades of tokens[1:], in nats."""

    def __call__(self, tokens: IntArray) -> Grades:
        """Grade the stream."""
        ...


@runtime_checkable
class Shows(Protocol):
    """A grader that also returns the distributions of its grades."""

    def __call__(self, tokens: IntArray) -> Grades:
        """Grade the stream."""
        ...

    def show(self, tokens: IntArray) -> tuple[Grades, Tensor]:
        """Grade the stream, and also return all log-probabilities (N, V), float64, on the CPU."""
        ...


class Foreign(Protocol):
    """The minimal interface of a foreign predictor."""

    def prob(self, prefix: IntArray) -> Any:
        """Probabilities (vocab) of the token after `prefix`, as anything that numpy can convert to an array."""
        ...


@dataclass(frozen=True)
class Verdict:
    """The result of a probe.

    worst: the largest deviation, in nats, or for `normalized` the distance of a sum from 1; None when the ledger
    stopped
        the grader
    asked: False for a law that was not tested; it then holds
    """

    law: str
    holds: bool
    evidence: str
    worst: float | None = 0.0
    asked: bool = True

    def row(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class LedgerGrader:
    """Our own scoring as a grader: a predictor, or a module that adapts, through a watched ledger.

    The predictor is copied for each run, so that nothing cached from one stream reaches the next.
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

    def show(self, tokens: IntArray) -> tuple[Grades, Tensor]:
        """Grade the stream and show the distributions. Raises what the ledger raises."""
        ledger = self.watch(tokens)
        return ledger.nats_N, ledger.logs_NV

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
    """A foreign `prob(prefix)` as a grader."""

    foreign: Foreign
    vocab: int

    def __call__(self, tokens: IntArray) -> Grades:
        """Grade the stream, one prefix at a time. Raises `LogitsError` for vectors that are no probabilities."""
        return self.show(tokens)[0]

    def show(self, tokens: IntArray) -> tuple[Grades, Tensor]:
        """Grade the stream and return the log-probabilities. Raises `LogitsError` as `__call__` does."""
        foreign, rows = copy.deepcopy(self.foreign), []
        for i in range(len(tokens) - 1):
            p_V = np.asarray(foreign.prob(tokens[: i + 1].copy()), dtype=np.float64)
            if p_V.shape != (self.vocab,) or not np.isfinite(p_V).all() or p_V.min() < 0:
                raise LogitsError(f"prob(prefix of {i + 1}) gave no {self.vocab} numbers from 0 up")
            rows.append(np.log(np.maximum(p_V, 1e-300)))
        logs_NV = np.stack(rows)
        return -logs_NV[np.arange(len(logs_NV)), np.asarray(tokens[1:], dtype=np.int64)], torch.from_numpy(logs_NV)


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
    """Test a grader on the four laws; it passes when `all(v.holds for v in verdicts)`.

    `tokens` is a short stream (see `stream`). A grader that shows its distributions is run about 2 * flips times, plus
    `places` times the number of candidates (up to 9 more than the stream has different tokens); any other grader
    places * vocab times. `tolerance` in nats allows for arithmetic that does not repeat exactly.
    Raises `UserError` for a stream of fewer than three tokens, or with a single document when `isolated` is tested.
    """
    if len(tokens) < 3 or vocab <= 2:
        raise UserError("probing needs a stream of at least three tokens over a vocabulary of more than two")
    if isolated and len(_boundaries(tokens, bos)) == 0:
        raise UserError(f"probing isolation needs a second document: no token {bos} after the first")
    random = np.random.default_rng(seed)
    unasked = Verdict("isolated", True, "not asked: documents are packed together", asked=False)
    verdicts = [
        _caught("causal", lambda: _causal(grader, tokens, vocab, bos, flips, places, tolerance, random)),
        _caught("normalized", lambda: _normalized(grader, tokens, vocab, bos, places)),
        _caught("once", lambda: _once(grader, tokens)),
        _caught("isolated", lambda: _isolated(grader, tokens, vocab, bos, flips, tolerance, random))
        if isolated
        else unasked,
    ]
    return _outside(grader, verdicts)


def stream(
    *, vocab: int, bos: int, length: int = 96, documents: int = 4, kinds: int = 12, seed: int = 0
) -> NDArray[np.int64]:
    """A random stream of `length` + 1 tokens in documents of unequal length, for `probe`.

    It uses only `kinds` different tokens, so that contexts recur and n-gram counts have something to count.
    """
    if vocab <= 2 or not 0 <= bos < vocab or length < 4 * documents:
        raise UserError(f"no stream of {length} tokens in {documents} documents over a vocabulary of {vocab}")
    random = np.random.default_rng(seed)
    others = np.delete(np.arange(vocab), bos)
    tokens = random.choice(random.permutation(others)[:kinds], length + 1)
    edges = np.linspace(0, length, documents, endpoint=False).astype(np.int64)
    edges[1:] += random.integers(-1, 2, documents - 1)
    tokens[edges] = bos
    return tokens


def shortened(adapter: Adapter, **most: int) -> Adapter:
    """The adapter with the named fields limited to these values, also in adapters inside it.

    So an adapter with chunks of thousands of tokens can learn in a stream of a hundred: shortened(adapter, chunk=16).
    """

    def cut(part: Any) -> Any:
        if not is_dataclass(part) or isinstance(part, type):
            return part
        values = {each.name: getattr(part, each.name) for each in fields(part)}
        return type(part)(**{n: min(v, most[n]) if n in most else cut(v) for n, v in values.items()})

    learner: Adapter = cut(adapter)
    return learner


def stir(model: nn.Module) -> None:
    """Perturb freshly initialized weights, because with zero outputs every law would hold trivially."""
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
    places: int,
    tolerance: float,
    random: np.random.Generator,
) -> Verdict:
    """Change one token, and then all from it on; no distribution before the change may move."""
    grades, rows = _view(grader, tokens)
    hidden = 0 if isinstance(grader, Shows) else 1  # the grade before a change is of the changed token
    free = np.flatnonzero(np.asarray(tokens) != bos)
    free = free[free > 1]
    look, later, count = LookAhead(), 0.0, 0
    for place, other in _changes(grader, tokens, free, vocab, bos, flips, places, random):
        other_grades, other_rows = _view(grader, other)
        before = rows[: place - hidden]
        look = look.joined(moved(before, other_rows, start=0, place=place, tolerance=tolerance))
        later = max(later, float((other_grades - grades).abs()[place - 1 :].max()))
        count += 1
    if look.ahead:
        return Verdict("causal", False, str(look).rstrip("."), look.nats)
    what = "grade" if hidden else "distribution"
    if isinstance(grader, LedgerGrader) and isinstance(grader.predictor, Transformer):
        elsewhere = _elsewhere(grader.predictor, tokens, vocab, bos)
        if elsewhere:
            return Verdict("causal", False, *elsewhere)
    evidence = (
        f"{count} times a token, or all from it on, was changed: no {what} before it moved, and later grades did by up "
        f"to {later:.2g} nats"
    )
    if isinstance(grader, LedgerGrader) and isinstance(grader.predictor, Transformer):
        evidence += "; the training loss does not look ahead either, nor does a text shown in pieces"
    if hidden:
        evidence += "; the changed token's own grade says nothing here: a look at it shows in 'normalized'"
    return Verdict("causal", True, evidence, look.nats)


def _elsewhere(model: Transformer, tokens: IntArray, vocab: int, bos: int) -> tuple[str, float] | None:
    """Test the training loss (with and without C kernels) and text in pieces: what looks ahead, and by how many nats.

    None when nothing does.
    """
    short, training = tokens[: _SHORT + 1], copy.deepcopy(model).train()
    device = next(model.parameters()).device
    for kernels in (nullcontext, compiled_kernels):
        with kernels():
            look = training_look(training.loss, short, vocab=vocab, bos=bos, device=device)
        if look.ahead:
            return f"In the training loss: {look}".rstrip("."), look.nats
    look, differs = pieces_look(model, short[:-1], vocab=vocab, bos=bos), pieces_differ(model, short[:-1])
    if look.ahead:
        return f"With keys and values kept: {look}".rstrip("."), look.nats
    if differs > _ALIKE:
        return f"With keys and values kept, a text is read otherwise than at once, by {differs:.2g} nats", differs
    return None


def _changes(
    grader: Grader,
    tokens: IntArray,
    free: IntArray,
    vocab: int,
    bos: int,
    flips: int,
    places: int,
    random: np.random.Generator,
) -> Iterator[tuple[int, IntArray]]:
    """Yield changed streams, each with its first changed place."""
    spread = free[np.linspace(len(free) - 1, 0, min(flips, len(free))).astype(np.int64)]
    lasts = np.intersect1d(_lasts(grader, tokens), free)
    lasts = lasts[np.linspace(len(lasts) - 1, 0, min(flips, len(lasts))).astype(np.int64)]
    for place in np.union1d(spread, lasts):
        for change in (np.array([place]), free[free >= place]):
            yield int(place), changed(tokens, change, vocab=vocab, bos=bos, random=random)
    if not isinstance(grader, Shows):
        return
    unseen = random.permutation(np.setdiff1d(np.arange(vocab), tokens))[:_UNSEEN]
    for place in free[free >= _middle(tokens)][:places]:
        for candidate in np.union1d(tokens, unseen):
            if candidate != tokens[place] and not (candidate == bos and _by_document(grader)):
                other = np.array(tokens, dtype=np.int64)
                other[place] = candidate
                yield int(place), other


def _by_document(grader: Grader) -> bool:
    """Whether documents are graded separately, so that the division into documents is given beforehand."""
    if not isinstance(grader, LedgerGrader):
        return False
    apart = grader.adapter is not None and grader.adapter.by_document
    return apart or per_document(grader.windows)


def _lasts(grader: Grader, tokens: IntArray) -> IntArray:
    """The last input position of each window if the windows are known, else of the stream."""
    if not isinstance(grader, LedgerGrader):
        return np.array([len(tokens) - 2])
    cut = grader.windows.over(len(tokens) - 1, starts=document_starts(tokens, grader.bos))
    return np.array([window.end - 1 for window in cut])


def _middle(tokens: IntArray) -> int:
    """The index at which the last quarter of the stream begins."""
    return len(tokens) * 3 // 4


def _view(grader: Grader, tokens: IntArray) -> tuple[Tensor, Tensor]:
    """Grades (N,) and the rows that no later change may move: distributions (N, V), or else the grades (N, 1)."""
    if isinstance(grader, Shows):
        shown, logs_NV = grader.show(tokens.copy())
        return torch.from_numpy(_finite(shown, tokens)), logs_NV
    grades = torch.from_numpy(_grades(grader, tokens))
    return grades, grades[:, None]


def _normalized(grader: Grader, tokens: IntArray, vocab: int, bos: int, places: int) -> Verdict:
    """Sum the distributions if they are shown; otherwise put every token of the vocabulary at a place in turn.

    The tokens after the place stay, and the places are neighbours, so most windows contain the candidate itself, where
    a model that looks one token ahead would see it.
    """
    if isinstance(grader, Shows):
        return _summed(grader, tokens)
    worst, where, total = 0.0, 0, 1.0
    for place in range(_middle(tokens), min(_middle(tokens) + places, len(tokens))):
        tried = np.array(tokens, dtype=np.int64)
        mass = 0.0
        for candidate in range(vocab):
            tried[place] = candidate
            mass += math.exp(-float(_grades(grader, tried)[place - 1]))
        if abs(mass - 1) >= worst:
            worst, where, total = abs(mass - 1), place, mass
    evidence = f"the {vocab} probabilities at place {where} sum to {total:.6f}"
    if worst > 1e-4:
        evidence += ": they are no distribution, or what is graded looks one token ahead"
    return Verdict("normalized", worst <= 1e-4, evidence, worst)


def _summed(grader: Shows, tokens: IntArray) -> Verdict:
    """Check the sum of each distribution, and each grade against the true token's probability."""
    grades, logs_NV = grader.show(tokens.copy())
    sums_N = logs_NV.exp().sum(1)
    where = int((sums_N - 1).abs().argmax())
    worst = abs(float(sums_N[where]) - 1)
    targets_N = torch.from_numpy(np.asarray(tokens[1:], dtype=np.int64))
    own_N = -logs_NV[torch.arange(len(logs_NV)), targets_N]
    off = float((torch.from_numpy(_finite(grades, tokens)) - own_N).abs().max())
    evidence = f"{len(sums_N)} distributions sum to 1; furthest off, at position {where}: {float(sums_N[where]):.6f}"
    if off > 1e-4:
        evidence += f"; a grade is {off:.2g} nats away from the true token's share in its distribution"
    return Verdict("normalized", max(worst, off) <= 1e-4, evidence, max(worst, off))


def _once(grader: Grader, tokens: IntArray) -> Verdict:
    """Check the log of a watched ledger without trusting the ledger's own checks."""
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
    """Rewrite the documents before a boundary, with the same lengths; no grade after it may move."""
    grades = _grades(grader, tokens)
    edges = _boundaries(tokens, bos)
    edges = edges[np.unique(np.linspace(0, len(edges) - 1, min(flips, len(edges))).astype(np.int64))]
    worst, where = 0.0, ""
    for edge in edges:
        before = np.flatnonzero(np.asarray(tokens[:edge]) != bos)
        after = _grades(grader, changed(tokens, before, vocab=vocab, bos=bos, random=random))
        moved = np.abs(after - grades)[edge:]
        if moved.max() > worst:
            worst = float(moved.max())
            where = f"rewriting the documents before token {edge} moved the grade of position {edge + moved.argmax()}"
    if worst > tolerance:
        return Verdict("isolated", False, f"{where} by {worst:.2g} nats", worst)
    return Verdict("isolated", True, f"documents before {len(edges)} boundaries rewritten, no grade after moved", worst)


def _outside(grader: Grader, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Outside the ledger, `once` is judged by its consequences: it fails if `causal` or `normalized` does."""
    causal, normalized, once, isolated = verdicts
    if not isinstance(grader, LedgerGrader) and once.holds and not (causal.holds and normalized.holds):
        broken = " and ".join(f"'{v.law}'" for v in (causal, normalized) if not v.holds)
        once = Verdict("once", False, f"graded outside the ledger, and {broken} broken: it saw targets before grading")
    return [causal, normalized, once, isolated]


def _caught(law: str, run: Callable[[], Verdict]) -> Verdict:
    """Run a probe; if the ledger stops the grader, the law is broken."""
    try:
        return run()
    except (OrderError, UngradedError, LogitsError) as error:
        return Verdict(law, False, f"the ledger stopped it: {error}", None)


def _grades(grader: Grader, tokens: IntArray) -> NDArray[np.float64]:
    """One finite grade per position. Raises `LogitsError`."""
    return _finite(grader(tokens.copy()), tokens)


def _finite(raw: Grades, tokens: IntArray) -> NDArray[np.float64]:
    grades = np.asarray(raw, dtype=np.float64)
    if grades.shape != (len(tokens) - 1,) or not np.isfinite(grades).all():
        raise LogitsError(f"{len(tokens) - 1} finite grades were expected, one for each position")
    return grades


def _boundaries(tokens: IntArray, bos: int) -> NDArray[np.int64]:
    """The starts of documents, without the first one."""
    starts = document_starts(tokens, bos)
    return starts[starts > 0]
