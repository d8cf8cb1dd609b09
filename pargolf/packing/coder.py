"""An adaptive range coder for quantized weights that learns which rows and columns are large.

The codes of a weight matrix look like q[r, c] ~ shape * row[r] * column[c]: one shape, close to a Gaussian, and rows
and columns of different magnitude. So the context of a code is its expected magnitude,

    m[r, c] = row[r] * (sum |q[:r, c]| + k * level) / (sum row[:r] + k),    row[r] likewise from the columns left of it,

estimated from codes that the decoder already has. Only log2 k is transmitted: the weight of the average (`level`)
against the estimate of a line. The matrix is coded in tiles that grow as more is known. log2 m, in eighths of an
octave, selects an adaptive frequency table, which starts as exp(-|x / s|^p) with mean magnitude m and is carried over
from matrix to matrix. Columns with a spread of ln sigma save 1.44 var(ln sigma) bits per weight (0.2-1.1 % of the bytes
of published models, 4-6 % in late attention; column context is also what the zpaq of pull request 1855 gains from).

Trellis codes are shifted by quarters of a step. The shift is their `side`: a code x has the value x + side / 4, each
side has its own table, and x at side 1 mirrors -x - 1 at side 3. All model numbers are exact integers, so every machine
writes the same bytes; the arithmetic is constriction's range coder (Bamler, arXiv:2201.01741).
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from pargolf.core.errors import UserError
from pargolf.packing.codecs import Damage

Codes = NDArray[np.int32]
Sums = NDArray[np.int64]
Sides = NDArray[np.uint8] | None
# Encodes symbols under a model and returns them, or decodes as many.
Port = Callable[[Codes, Any], Codes]

MAX_CODES = 1 << 28  # of one matrix; keeps every sum below 2^62
_WIDEST = 255  # larger magnitudes have their low bits stored uncoded
_FRACTION = 12  # fixed-point bits of factors and expected magnitudes
_LOWEST = -6  # log2 of the smallest magnitude with its own context
_PER_OCTAVE = 8  # contexts
_CONTEXTS = (8 - _LOWEST) * _PER_OCTAVE + 1
_ALIKE = 15  # this log2 k means that all lines share one magnitude
_PRIOR = 1 << 20  # approximate sum of the integers of a starting table
_TILE = 1 << 16  # codes
_SAMPLE = 1 << 14  # codes that are tried to choose the style of a stream


@dataclass(frozen=True)
class _Style:
    """How tables start and learn: exp(-|x|^power) counts as `weight` codes; `symmetric` counts x and -x together."""

    power: int
    weight: int
    symmetric: bool


_STYLES = (_Style(2, 1024, True), _Style(1, 1024, True), _Style(2, 64, True), _Style(1, 64, False))


def encode(matrices: Sequence[NDArray[Any]], sides: Sequence[Sides] | None = None) -> bytes:
    """Code two-dimensional integer arrays with values of int16, one after another, into one stream.

    Pass matrices of one role together, because they share the learned tables. `sides` has for each matrix None or an
    array of its shape with values 0 to 3; it is not stored, and the reader must know it. Raises `UserError` on other
    arrays.
    """
    checked = [_checked(matrix) for matrix in matrices]
    sides = sides or [None] * len(checked)
    heights = list(_sample(checked))
    sample = [matrix[:rows] for matrix, rows in zip(checked, heights)]
    sample_sides = [None if side is None else side[:rows] for side, rows in zip(sides, heights)]
    return _encode(checked, sides, _best_style(sample, sample_sides))


def decode(
    data: bytes, shapes: Sequence[tuple[int, int]], sides: Sequence[Sides] | None = None
) -> list[NDArray[np.int16]]:
    """Decode the arrays that `encode` coded, as int16, with the same `sides`.

    Raises `Damage` when the bytes are not such a stream. Memory follows `shapes`, so check those first.
    """
    if not data or data[0] >= len(_STYLES) or any(h * w > MAX_CODES for h, w in shapes):
        raise Damage("not a stream of the range coder")
    plans, offset = [], 1
    for _ in shapes:
        plan, offset = _Plan.unpack(data, offset)
        plans.append(plan)
    if (len(data) - offset) % 4:
        raise Damage("the stream is cut")
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(data[offset:], "<u4").astype(np.uint32))

    def read(symbols: Codes, model: Any) -> Codes:
        codes: Codes = decoder.decode(model, len(symbols))
        return codes

    tables = _Tables(_STYLES[data[0]])
    out = []
    try:
        for shape, plan, side in zip(shapes, plans, sides or [None] * len(shapes)):
            high, low = np.zeros(shape, np.int32), np.zeros(shape if plan.shift else (), np.int32)
            _walk(high, low, side=side, plan=plan, tables=tables, port=read)
            out.append(((high << plan.shift) + low + plan.centre).astype(np.int16))
    except AssertionError as error:  # constriction raises this for bits that no symbol explains
        raise Damage("the stream does not decode") from error
    if not decoder.maybe_exhausted():
        raise Damage("the stream is longer than its codes")
    return out


def order0_bytes(codes: NDArray[Any]) -> float:
    """The order-0 entropy of an array in bytes: Shannon's bound, without the cost of the frequencies."""
    counts = np.unique(codes, return_counts=True)[1]
    return float((counts * np.log2(codes.size / counts)).sum() / 8) if codes.size else 0.0


def _encode(matrices: Sequence[Codes], sides: Sequence[Sides], style: _Style) -> bytes:
    """One stream: the style, a plan for each matrix, the words of the range coder."""
    encoder = constriction.stream.queue.RangeEncoder()

    def write(symbols: Codes, model: Any) -> Codes:
        encoder.encode(symbols, model)
        return symbols

    tables = _Tables(style)
    parts = [bytes([_STYLES.index(style)])]
    for matrix, side in zip(matrices, sides):
        plan = _Plan.of(matrix, side)
        parts.append(plan.pack())
        centred = matrix - plan.centre
        low = centred & ((1 << plan.shift) - 1)
        _walk(centred >> plan.shift, low, side=side, plan=plan, tables=tables, port=write)
    return b"".join(parts) + np.asarray(encoder.get_compressed(), "<u4").tobytes()


def _best_style(matrices: Sequence[Codes], sides: Sequence[Sides]) -> _Style:
    """The style with the fewest words of 32 bits, by the logarithms of its frequencies; one walk weighs all styles.

    Orders, contexts and counts are the same in each of them.
    """
    bits = np.zeros(len(_STYLES))

    def weigh(symbols: Codes, models: Any) -> Codes:
        bits[:] -= models[:, symbols].sum(1)
        return symbols

    tables = _AllTables(_STYLES[0])
    for matrix, side in zip(matrices, sides):
        plan = _Plan.of(matrix, side)
        _walk((matrix - plan.centre) >> plan.shift, None, side=side, plan=plan, tables=tables, port=weigh)
    return _STYLES[int((bits // 32).argmin())]


@dataclass(frozen=True)
class _Plan:
    """The parameters of one matrix in the stream, about five bytes.

    centre: subtracted from all codes
    reach: the largest distance from it
    shift: the number of low bits that are stored uncoded
    rows, columns: log2 of how many codes of a line are needed before its own mean outweighs the average
    start: the context of the first code
    """

    centre: int
    reach: int
    shift: int
    rows: int
    columns: int
    start: int

    @property
    def top(self) -> int:
        """The largest magnitude that the tables code."""
        return (self.reach >> self.shift) + (1 if self.shift else 0)

    @staticmethod
    def of(matrix: Codes, side: Sides) -> "_Plan":
        """Choose the parameters for a matrix, in integer arithmetic."""
        if not matrix.size:
            return _Plan(0, 0, 0, _ALIKE, _ALIKE, 0)
        # Codes with sides are already symmetric about zero.
        centre = 0 if side is not None else int(np.partition(matrix, matrix.size // 2, axis=None)[matrix.size // 2])
        size = np.abs(matrix - centre).astype(np.int64)
        reach, shift = int(size.max()), 0
        # A small matrix has too few codes to learn a wide table.
        limit = _WIDEST if reach <= _WIDEST or size.size >= 1 << 12 else 63 if size.size >= 1 << 8 else 15
        while reach >> shift >= limit + (shift == 0):
            shift += 1
        size = _sizes((matrix - centre) >> shift, side) if side is not None else size >> shift
        mean = (int(size.sum()) << _FRACTION) // (size.size << _fine(side))
        start = int(_contexts(np.array([1 << _FRACTION]), np.array([mean]))[0, 0])
        return _Plan(centre, reach, shift, _doubt(size, axis=1), _doubt(size, axis=0), start)

    def pack(self) -> bytes:
        """The plan as bytes."""
        zigzag = self.centre << 1 if self.centre >= 0 else (-self.centre << 1) - 1
        numbers = b"".join(_varint(n) for n in (zigzag, self.reach << 4 | self.shift))
        return numbers + bytes([self.rows << 4 | self.columns, self.start])

    @staticmethod
    def unpack(data: bytes, offset: int) -> tuple["_Plan", int]:
        """Read a plan at an offset; also return the offset after it. Raises `Damage`."""
        zigzag, offset = _read_varint(data, offset)
        wide, offset = _read_varint(data, offset)
        if offset + 2 > len(data):
            raise Damage("the stream is cut")
        centre = zigzag >> 1 if zigzag % 2 == 0 else -(zigzag + 1 >> 1)
        plan = _Plan(centre, wide >> 4, wide & 15, data[offset] >> 4, data[offset] & 15, data[offset + 1])
        if abs(centre) > 1 << 15 or plan.reach > 1 << 16 or plan.top > _WIDEST or plan.start >= _CONTEXTS:
            raise Damage("a matrix is described out of range")
        return plan, offset + 2


class _Tables:
    """Adaptive frequencies, `counts[side, context, symbol]`, on top of a fixed shape."""

    def __init__(self, style: _Style) -> None:
        self._style = style
        self._counts: dict[tuple[int, int], Sums] = {}

    def counts(self, top: int, *, sides: int) -> Sums:
        """The counts of symbols -top to top: a view of the table that matrices of the same width and sides share."""
        half = (1 << top.bit_length()) - 1
        whole = self._counts.setdefault((half, sides), np.zeros((sides, _CONTEXTS, 2 * half + 1), np.int64))
        return whole[:, :, half - top : half + top + 1]

    def model(self, counts: Sums, context: int, side: int) -> Any:
        """The coder's model for one context and side; its frequencies are exact integers below 2^53."""
        frequencies = _counted(counts, context, side, symmetric=self._style.symmetric)
        frequencies += _start(self._style, context, counts.shape[2] // 2, side if len(counts) > 1 else None)
        return constriction.stream.model.Categorical(frequencies.astype(np.float64), perfect=False)


class _AllTables(_Tables):
    """The same counts in all styles; a model is log2 of probabilities, (styles, symbols)."""

    def model(self, counts: Sums, context: int, side: int) -> Any:
        """Log2 of the probabilities of one context and side."""
        counted = [_counted(counts, context, side, symmetric=symmetric) for symmetric in (False, True)]
        frequencies = np.stack([counted[style.symmetric] for style in _STYLES])
        frequencies += _starts(context, counts.shape[2] // 2, side if len(counts) > 1 else None)
        return np.log2(frequencies) - np.log2(frequencies.sum(1, keepdims=True))


def _counted(counts: Sums, context: int, side: int, *, symmetric: bool) -> Sums:
    """Twice the counts of the symbols of one context and side, or their sum with the mirrored ones; times `_PRIOR`."""
    twice: Sums = 2 * counts[side, context]
    if symmetric:
        twice -= counts[side, context]
        mirrored = counts[-side % len(counts), context, ::-1]
        if side:
            twice[:-1] += mirrored[1:]
        else:
            twice += mirrored
    twice *= _PRIOR
    return twice


def _start(style: _Style, context: int, top: int, side: int | None) -> Sums:
    """The table that a style starts with."""
    table: Sums = 2 * style.weight * _prior(context, style.power, top, side)
    return table


@functools.lru_cache(maxsize=4096)
def _starts(context: int, top: int, side: int | None) -> Sums:
    """Those of all styles, (styles, symbols)."""
    tables: Sums = np.stack([_start(style, context, top, side) for style in _STYLES])
    return tables


def _walk(x: Codes, low: Codes | None, *, side: Sides, plan: _Plan, tables: _Tables, port: Port) -> None:
    """Pass every code of `x` (rows, columns) through `port`, in an order and with models that reader and writer share.

    The order is strips of columns from left to right, and in each strip tiles from top to bottom. Then come the bits of
    `low`, which have no model.
    """
    height, width = x.shape
    if not plan.reach or not x.size:
        return
    counts = tables.counts(plan.top, sides=1 if side is None else 4)
    row_sums = np.zeros(height, np.int64)
    total, seen = 2 * int(_magnitudes()[plan.start]) << _fine(side), 2
    for left, right in _edges(width, max(256, _TILE // height)):
        row = _row_factors(row_sums, left, plan.rows)
        column_sums = np.zeros(right - left, np.int64)
        shown = 0
        for up, down in _edges(height, max(256, _TILE // width)):
            column = _expected(column_sums, shown, total // seen, plan.columns)
            tile = x[up:down, left:right]
            tile_side = None if side is None else side[up:down, left:right]
            tile[:] = _code_tile(tile, _contexts(row[up:down], column, _fine(side)), tile_side, counts, tables, port)
            size = _sizes(tile, tile_side)
            column_sums += size.sum(0, dtype=np.int64)
            row_sums[up:down] += size.sum(1, dtype=np.int64)
            shown += int(row[up:down].sum())
            total += int(size.sum(dtype=np.int64)) << _FRACTION
            seen += size.size
    if plan.shift and low is not None:
        model = constriction.stream.model.Uniform(1 << plan.shift)
        low[:] = port(np.ascontiguousarray(low).ravel(), model).reshape(low.shape)


def _code_tile(
    tile: Codes, context: NDArray[np.uint8], side: Sides, counts: Sums, tables: _Tables, port: Port
) -> Codes:
    """Code the symbols of a tile, one group per context and side, and update the counts."""
    sides, _, width = counts.shape
    top = width // 2
    cells = context if side is None else context.astype(np.uint16) * np.uint16(sides) + side
    order = np.argsort(cells, axis=None, kind="stable")
    ranked = cells.ravel()[order]
    symbols = tile.ravel()[order] + np.int32(top)
    for begin, end in pairwise([0, *(np.flatnonzero(np.diff(ranked)) + 1).tolist(), len(symbols)]):
        cell, group = divmod(int(ranked[begin]), sides)
        symbols[begin:end] = port(symbols[begin:end], tables.model(counts, cell, group))
        counts[group, cell] += np.bincount(symbols[begin:end], minlength=width)
    out = np.empty_like(symbols)
    out[order] = symbols - np.int32(top)
    return out.reshape(tile.shape)


def _fine(side: Sides) -> int:
    """log2 of the units of magnitudes per code: quarters (2) with sides, else whole codes (0)."""
    return 0 if side is None else 2


def _sizes(x: Codes, side: Sides) -> Any:
    """Magnitudes in the units of `_fine`."""
    return np.abs(x) if side is None else np.abs(4 * x.astype(np.int64) + side)


def _row_factors(sums: Sums, n: int, doubt: int) -> Sums:
    """Fixed-point magnitude of each row relative to the average, from its sum over the `n` columns to the left."""
    total = int(sums.sum())
    if doubt == _ALIKE or total == 0:
        return np.full(len(sums), 1 << _FRACTION, np.int64)
    mean, k = max(1, (total << _FRACTION) // (n * len(sums))), 1 << doubt
    factors: Sums = np.maximum(1, (((sums << _FRACTION) + k * mean) << _FRACTION) // ((n + k) * mean))
    return factors


def _expected(sums: Sums, shown: int, level: int, doubt: int) -> Sums:
    """Fixed-point magnitude of each column, from its sum over the rows above; `shown` is the sum of their factors."""
    if doubt == _ALIKE:
        return np.full(len(sums), level, np.int64)
    k = 1 << doubt
    return ((sums << 2 * _FRACTION) + ((k * level) << _FRACTION)) // (shown + (k << _FRACTION))


def _doubt(size: Sums, *, axis: int) -> int:
    """log2 of (variance inside a line) / (variance of line means beyond chance): how many codes a line's mean needs.

    One-way random-effects analysis of variance, in exact integers. `axis` runs along the lines.
    """
    n, lines = size.shape[axis], size.shape[1 - axis]
    if n < 2 or lines < 2:
        # A single line is its own average; a line with one code has no earlier codes.
        return _ALIKE
    sums = [int(s) for s in size.sum(axis)]
    total, squares, of_sums = sum(sums), int((size * size).sum()), sum(s * s for s in sums)
    within = (n * squares - of_sums) * (lines - 1)
    beyond = (lines * of_sums - total * total) * (n - 1) - within
    if beyond <= 0:
        return _ALIKE
    ratio = (n * within << 8) // beyond
    rounded_log: int = ((2 * ratio * ratio).bit_length() - 1) // 2 - 8
    return min(_ALIKE, max(0, rounded_log))


def _contexts(row: Sums, column: Sums, fine: int = 0) -> NDArray[np.uint8]:
    """The context of every code of a tile, (rows, columns), from logarithms of factors and magnitudes."""
    log = _log16(row)[:, None] + (_log16(np.maximum(column, 1)) - 16 * (2 * _FRACTION + _LOWEST + fine))[None, :]
    contexts: NDArray[np.uint8] = np.clip((log + 1) >> 1, 0, _CONTEXTS - 1).astype(np.uint8)
    return contexts


def _log16(x: Sums) -> Codes:
    """floor(16 log2 x)."""
    return np.searchsorted(_powers(), x, side="right").astype(np.int32) - np.int32(1)


@functools.cache
def _powers() -> Sums:
    """2^(i / 16), rounded down."""
    root = math.isqrt(math.isqrt(math.isqrt(math.isqrt(2 << 1600))))
    sixteenths = [1 << 100]
    for _ in range(15):
        sixteenths.append(sixteenths[-1] * root >> 100)
    return np.array([part << octave >> 100 for octave in range(62) for part in sixteenths], np.int64)


def _magnitudes() -> Sums:
    """The fixed-point magnitude in the middle of each context."""
    first = 16 * (_FRACTION + _LOWEST)
    return _powers()[first : first + 2 * (_CONTEXTS + 2 * _PER_OCTAVE) : 2]


@functools.lru_cache(maxsize=4096)
def _prior(context: int, power: int, top: int, side: int | None = None) -> Sums:
    """Positive integers proportional to t^(|x|^power), x from -top to top, with t such that |x| has the context's mean.

    Past the mean of uniform codes the table is uniform. With a side, x + side / 4 replaces x.
    """
    if side is not None:
        quarters = _prior(context + 2 * _PER_OCTAVE, power, 4 * top + 3)
        return quarters[3 + side :: 4]
    target = int(_magnitudes()[context])
    low, high = 1, 1 << 32
    while low < high:
        middle = (low + high + 1) // 2
        half = _decay(middle, power, top)
        mean_above = 2 * sum(x * v for x, v in enumerate(half)) << _FRACTION > target * (2 * sum(half) - half[0])
        low, high = (low, middle - 1) if mean_above else (middle, high)
    half = _decay(low, power, top)
    total = 2 * sum(half) - half[0]
    scaled = [max(1, v * _PRIOR // total) for v in half] + [1] * (top + 1 - len(half))
    return np.array(scaled[:0:-1] + scaled, np.int64)


def _decay(t: int, power: int, top: int) -> list[int]:
    """2^48 (t / 2^32)^(x^power) for x from 0 to top, or until it is zero; power 1 or 2."""
    out, ratio, growth = [1 << 48], t, t * t >> 32 if power == 2 else 1 << 32
    for _ in range(top):
        value = out[-1] * ratio >> 32
        if not value:
            break
        out.append(value)
        ratio = ratio * growth >> 32
    return out


@functools.lru_cache(maxsize=256)
def _edges(n: int, widest: int) -> tuple[tuple[int, int], ...]:
    """Cut 0 to n into runs of at least four that grow by a factor of 1.4, up to `widest`."""
    cuts = [0]
    while cuts[-1] < n:
        step = min(max(4, cuts[-1] * 2 // 5), widest)
        cuts.append(min(n, cuts[-1] + step))
    return tuple(pairwise(cuts))


def _checked(matrix: NDArray[Any]) -> Codes:
    """The matrix as int32. Raises `UserError` on anything but a matrix of 16-bit integers."""
    if matrix.ndim != 2 or matrix.dtype.kind not in "iu" or matrix.size > MAX_CODES:
        raise UserError(f"The coder takes two-dimensional integer arrays, not {matrix.dtype} {matrix.shape}.")
    if matrix.size and not -(1 << 15) <= int(matrix.min()) <= int(matrix.max()) < 1 << 15:
        raise UserError(f"The coder takes codes of 16 bits, not {matrix.min()} to {matrix.max()}.")
    return matrix.astype(np.int32)


def _sample(matrices: Sequence[Codes]) -> Iterator[int]:
    """How many rows of the first matrices make a sample to choose the style with."""
    remaining = _SAMPLE
    for matrix in matrices:
        if remaining <= 0:
            return
        yield -(-remaining // max(1, matrix.shape[1]))
        remaining -= matrix.size


def _varint(n: int) -> bytes:
    """A number as bytes of seven bits, low bits first."""
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    """A number of at most three bytes, and the offset after it."""
    n = 0
    for i, byte in enumerate(data[offset : offset + 3]):
        n |= (byte & 127) << 7 * i
        if byte < 128:
            return n, offset + i + 1
    raise Damage("the stream is cut")
