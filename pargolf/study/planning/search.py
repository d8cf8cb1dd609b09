"""The search: every size of `house` that fits the byte cap, ranked by the score that the law forecasts.

    steps = (seconds - start - end) / seconds of a step      end: packing, in rehearsal and twice more
    bits  = 8 (cap - code - what is stored whole) / weights  net, for tables and matrices

The search tries all shapes, some thousand in a second. If none can be trained, it raises an error that names the
smallest budget that works.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from pargolf.core.budget import Budget
from pargolf.core.errors import UserError
from pargolf.core.units import size_text, time_text
from pargolf.data.learn import SMALLEST
from pargolf.data.tokens import ByteTokenizer
from pargolf.recipes.family import HEADS, Shape
from pargolf.run.training import LOOKING
from pargolf.study.planning.law import Law, interval
from pargolf.study.planning.sample import TextFacts
from pargolf.study.planning.throughput import Throughput

PIECES = (512, 1024, 2048, 4096)
"""Vocabularies that the law has runs of."""
WIDTHS = tuple(dim for dim in HEADS if dim >= 64)
"""Widths that the law can forecast: nothing narrower was trained."""
BLOCKS = (2, 3, 4, 6, 8, 11)
BATCHES = (2048, 4096, 8192, 16_384, 32_768)
"""Tokens per step. A CPU is busy with the first; on a GPU larger batches cost little more."""
RATIOS = (2, 3, 4)
"""Hidden units of an MLP, as multiples of the width."""
ALTERNATIVES = 3
CODE = 27_300
"""A first estimate of the bytes of a script; a few of them are the shape's own numbers."""
_LEAST_STEPS = 40
_LEAST_BITS, _MOST_BITS = 2.4, 7.5  # net: the law has no runs with fewer; the packed format never needs more
_COST_SPREAD = 0.5  # relative deviation of the cost of packing, which grows with training
_EACH_SEEN = 20  # how often a piece must occur on average, so that a vocabulary can be learned
_BY_HEART = 10  # weights per token of text, above which a model memorizes it; the runs had up to 3
DROPOUT, MEMORIZES = 0.2, {0: 12.0, 4000: 8.0}
"""Dropout, and by training steps the passes times weights per token of text from which on it gains (docs/LOG.md)."""
_START = 1.5  # seconds before the first step
_OWN_BITS, _FINEST = 3.7, 2.5  # net bits with the recipe's own step sizes; the finest step sizes take this factor more
_SOLVED, _FILLED, _PACKED = 10.5, 6.0, 3.0  # packings that a run makes or reserves time for (`_packings`)
_LOOKS = 35  # time of scoring validation samples during training, in steps: at most ten, of two to five steps each
_ROOM = 300  # bytes of code that a shape's own numbers may add


@dataclass(frozen=True)
class Prospect:
    """The forecast for one shape: steps, passes through the text, net bits per weight, bytes and bits per byte.

    `before` is the score before packing, `packed` the score after it, `bpb` the score at the end; `low` to `high` is a
    95 % interval of `bpb`.
    """

    shape: Shape
    steps: int
    passes: float
    bits: float
    bytes: int
    before: float
    packed: float
    bpb: float
    low: float
    high: float


@dataclass(frozen=True)
class Search:
    """The fixed inputs of a search; `code` is the bytes of code that come with every artifact."""

    budget: Budget
    text: TextFacts
    pace: Throughput
    law: Law
    code: int

    def best(self) -> list[Prospect]:
        """Every shape that can be trained, the best first. Raises `UserError` if there is none."""
        ranked = sorted(self.prospects(), key=lambda prospect: prospect.bpb)
        if not ranked:
            raise UserError(self._too_small())
        return ranked

    def prospects(self) -> Iterator[Prospect]:
        """The forecast of each shape of the family that fits the budget."""
        for shape in self.shapes():
            prospect = self.weigh(shape)
            if prospect is not None:
                yield prospect

    def shapes(self) -> Iterator[Shape]:
        """The shapes of the family that this text and cap allow."""
        base = Shape(half=self.pace.half, cap=self.budget.bytes, seconds=self.budget.train_seconds)
        for vocab, dim, blocks, ratio, batch in product(self.pieces, WIDTHS, BLOCKS, RATIOS, self.batches):
            tokens = self.tokens(vocab)
            shape = replace(base, vocab=vocab, dim=dim, blocks=blocks, hidden=ratio * dim, batch_tokens=batch)
            learnable = tokens >= _EACH_SEEN * vocab or self.text.vocab or vocab == self.pieces[0]
            small = shape.weights <= _BY_HEART * tokens or (dim, blocks, ratio) == (WIDTHS[0], BLOCKS[0], RATIOS[0])
            if learnable and small and blocks >= least_blocks(dim):
                yield shape

    @property
    def pieces(self) -> tuple[int, ...]:
        """The vocabularies to try: that of prepared text, otherwise those that the text has enough pieces for."""
        if self.text.vocab:
            return (self.text.vocab,)
        limit = self.text.most or PIECES[-1]
        return tuple(vocab for vocab in PIECES if vocab <= limit) or (
            limit if limit >= SMALLEST else ByteTokenizer.vocab,
        )

    @property
    def batches(self) -> tuple[int, ...]:
        """The tokens per step to try on this machine."""
        return BATCHES[:1] if self.pace.machine.startswith("cpu") else BATCHES

    def tokens(self, vocab: int) -> float:
        """Tokens of the text in so many pieces."""
        return self.text.train_bytes / self.text.spelled(vocab, self.law)

    def weigh(self, shape: Shape) -> Prospect | None:
        """The forecast for a shape; None if it does not fit the bytes or the seconds."""
        bits = self.bits(shape)
        steps = self.steps(shape)
        per_token, unique = self.text.spelled(shape.vocab, self.law), self.tokens(shape.vocab)
        if bits < _LEAST_BITS or steps < _LEAST_STEPS or unique <= shape.batch_tokens:
            return None
        arguments = {"tokens": float(steps * shape.batch_tokens), "unique": unique, "bytes_per_token": per_token}
        scale = self.text.hardness
        before = scale * self.law.constants.loss(shape, **arguments)
        packed = before + scale * self.law.cost(bits, steps * shape.batch_tokens, shape)
        bpb = packed if shape.adapt is None else scale * self.law.adapted(packed / scale)
        fit_deviation = self.law.constants.deviation(shape, **arguments)
        text_deviation = 0.0 if self.text.known else self.law.elsewhere
        low, high = interval(bpb, math.hypot(fit_deviation, text_deviation, _COST_SPREAD * (packed - before) / bpb))
        passes = steps * shape.batch_tokens / unique
        shape = regularized(shape, steps=steps, unique=unique)
        size = min(self.budget.bytes, self._whole(shape) + round(_MOST_BITS * shape.weights / 8))
        return Prospect(shape, steps, passes, min(bits, _MOST_BITS), size, before, packed, bpb, low, high)

    def bits(self, shape: Shape) -> float:
        """Net bits for each weight of tables and matrices."""
        return 8 * (self.budget.bytes - self._whole(shape)) / shape.weights

    def steps(self, shape: Shape) -> int:
        """Training steps that fit in the time limit."""
        step, seconds = self.pace.step(shape), self.budget.train_seconds
        looks = min(_LOOKS * step, LOOKING * seconds)
        return max(0, int((seconds - self._overhead(shape) - looks) / step))

    def scoring(self, shape: Shape) -> float:
        """Seconds of scoring the artifact, with adaptation if the shape has it."""
        return self.pace.score(shape, self.text.val_bytes / self.text.spelled(shape.vocab, self.law))

    def _overhead(self, shape: Shape) -> float:
        """Seconds of the start and of packing."""
        slower = self.pace.step(Shape()) / self.law.step_seconds
        return _START + self._packings(shape) * slower * self.law.packing(shape.weights / 1e6) + 0.5

    def _packings(self, shape: Shape) -> float:
        """Packings in the rehearsal, plus twice the packings expected at the end (`run/training.py`).

        Solving for step sizes takes three or four packings, in the rehearsal and at the end. If the recipe's own step
        sizes fit the cap, one packing is rehearsed and two or three follow; only one follows if the finest step sizes
        fit.
        """
        bits = self.bits(shape)
        return _SOLVED if bits < _OWN_BITS else _FILLED if bits < _FINEST * _OWN_BITS else _PACKED

    def _whole(self, shape: Shape) -> int:
        """Bytes of code, header, scales, and tensors stored in 16 bits."""
        return self.code + _ROOM + stored_whole(shape)

    def _too_small(self) -> str:
        """One line that says what is missing, and the smallest budget that works."""
        shapes = sorted(self.shapes(), key=lambda shape: shape.weights)
        smallest = shapes[0]
        cap = self._whole(smallest) + math.ceil(_LEAST_BITS * smallest.weights / 8)
        cap = math.ceil(cap / 1000) * 1000
        training = self._overhead(smallest) + (_LEAST_STEPS + 1) * self.pace.step(smallest)
        seconds = math.ceil(training / (1 - LOOKING))
        if self.budget.bytes < cap:
            under = (
                "under the code alone" if self.budget.bytes <= self.code else "too small for any member of the house"
            )
            return (
                f"A cap of {size_text(self.budget.bytes)} is {under} ({self.code:,} bytes of it). "
                f"The smallest that can be trained takes --cap {cap // 1000}kB."
            )
        return (
            f"{time_text(self.budget.train_seconds)} are too few to train anything under {size_text(self.budget.bytes)}"
            f" here. The smallest member takes --seconds {seconds}."
        )


def memorizing(shape: Shape, *, steps: int, unique: float) -> float:
    """Passes through a text of `unique` tokens, times weights per token of it."""
    return steps * shape.batch_tokens * shape.weights / unique**2


def dropout_from(steps: int) -> float:
    """The passes times weights per token from which on dropout gains; a long run has time to make up for its cost."""
    return MEMORIZES[max(least for least in MEMORIZES if steps >= least)]


def regularized(shape: Shape, *, steps: int, unique: float) -> Shape:
    """The shape with dropout where it would memorize the text, and without elsewhere."""
    memorizes = memorizing(shape, steps=steps, unique=unique) >= dropout_from(steps)
    return replace(shape, dropout=DROPOUT if memorizes else 0.0)


def least_blocks(dim: int) -> int:
    """The fewest blocks for a width: the law counts weights, not depth, and has no runs of flatter models."""
    return {64: 2, 96: 3}.get(dim, 4)


def stored_whole(shape: Shape) -> int:
    """Bytes of an artifact that are not codes: header, scales of rows, and the head's bias and vectors in 16 bits."""
    keys = HEADS[shape.dim] * 32
    rows = shape.vocab + shape.blocks * (3 * shape.dim + 2 * keys + shape.hidden)
    vectors = shape.vocab + 4 * shape.blocks * shape.dim
    return 1000 + round(2 * (0.9 * rows + 0.8 * vectors))


def alternatives(ranked: list[Prospect]) -> tuple[Prospect, ...]:
    """The best prospects that differ in vocabulary, width or depth; then the best of the rest."""
    first: dict[tuple[int, int, int], Prospect] = {}
    for prospect in ranked:
        first.setdefault(_frame(prospect.shape), prospect)
    others = [*first.values(), *(prospect for prospect in ranked if prospect not in first.values())]
    return tuple(sorted(others[1 : 1 + ALTERNATIVES], key=lambda prospect: prospect.bpb))


def _frame(shape: Shape) -> tuple[int, int, int]:
    return shape.vocab, shape.dim, shape.blocks
