"""Scoring windows: which positions a model sees at once, and which of them are graded.

A stream of N+1 tokens has N positions; position i sees tokens[..i] and predicts tokens[i+1]. A window
`(start, end, first)` shows the model positions start..end-1 and grades first..end-1; those before `first` are
context.

    plain      |====|====|==                 every window is graded whole; the cheapest
    sliding    |====|                        the first window is graded whole, then the last `stride` positions of each
                 ..|==|                      (Press, Smith, Lewis 2021, "Shortformer", section 3)
    document   sliding, restarted at the first token of every document
    published  sliding as in the published scripts, which grade the last stride several times: not in turn

Every kind that is `in_turn` grades each position exactly once, in order, including the tail.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pargolf.core import own
from pargolf.core.errors import UserError, near
from pargolf.core.ranges import Length
from pargolf.core.smaller import Smaller

IntArray = NDArray[np.integer[Any]]
_READ = 1 << 20  # tokens that are read at once, so that a stream on disk is never in memory as a whole


class Stream(Protocol):
    """A sequence of integers that is read by slices: an array, or data on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> IntArray: ...


class Window(NamedTuple):
    """Positions start..end-1 are shown, first..end-1 are graded; start <= first < end."""

    start: int
    end: int
    first: int


class Windows(Protocol):
    """The slot for how N positions are cut into windows. Results name it by its `str()`.

    For a plan that is `in_turn`, the ledger refuses a position that is graded twice or out of order. A plan whose
    windows never contain two documents has `by_document = True` and gets the starts of the documents.
    """

    in_turn: ClassVar[bool]

    @property
    def length(self) -> int:
        """The most positions that a model sees at once."""
        ...

    def over(self, positions: int, *, starts: Sequence[int] | IntArray = ()) -> Iterator[Window]:
        """Yield the windows over `positions`; `starts` are the rising positions where documents begin."""
        ...


@dataclass(frozen=True)
class Plain:
    """Adjacent windows of `length`, graded whole; the last one may be shorter."""

    length: Length
    word: ClassVar[str] = "plain"
    in_turn: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self)

    def __str__(self) -> str:
        return _spell(self)

    def at_scale(self, to: Smaller) -> "Plain":
        """Windows of the smaller context."""
        return Plain(to.context)

    def over(self, positions: int, *, starts: Sequence[int] | IntArray = ()) -> Iterator[Window]:
        """Yield ceil(positions / length) windows."""
        for start in range(0, positions, self.length):
            yield Window(start, min(start + self.length, positions), start)


@dataclass(frozen=True)
class Sliding:
    """The first window is graded whole, then steps of `stride`, each with `length - stride` positions of context.

    The last window is moved back so that the tail is also graded once and with full context.
    """

    length: Length
    stride: Length
    word: ClassVar[str] = "sliding"
    in_turn: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self)

    def __str__(self) -> str:
        return _spell(self)

    def at_scale(self, to: Smaller) -> "Sliding":
        """Windows of the smaller context, with a stride of a quarter of it."""
        return Sliding(to.context, to.context // 4)

    def over(self, positions: int, *, starts: Sequence[int] | IntArray = ()) -> Iterator[Window]:
        """Yield 1 + ceil((positions - length) / stride) windows, of `length` unless the stream is shorter."""
        return _slide(0, positions, self.length, self.stride)


@dataclass(frozen=True)
class PerDocument:
    """Sliding within each document: no window contains a token from before its document's first token.

    The last graded token of a document is the BOS of the next one, predicted from the document's own context.
    """

    length: Length
    stride: Length
    word: ClassVar[str] = "document"
    in_turn: ClassVar[bool] = True
    by_document: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self)

    def __str__(self) -> str:
        return _spell(self)

    def at_scale(self, to: Smaller) -> "PerDocument":
        """Windows of the smaller context, with a stride of a quarter of it."""
        return PerDocument(to.context, to.context // 4)

    def over(self, positions: int, *, starts: Sequence[int] | IntArray = ()) -> Iterator[Window]:
        """Yield each document's sliding windows. Raises `UserError` without any document start."""
        if len(starts) == 0:
            raise UserError(
                "document windows need documents, and this stream has no beginning-of-sequence token: "
                f"use sliding:{self.length},{self.stride}"
            )
        for begin, stop in document_spans(positions, starts):
            yield from _slide(begin, stop, self.length, self.stride)


@dataclass(frozen=True)
class Published:
    """The sliding loop of the published scripts, only to reproduce their numbers (PRs 549, 910, 1009, 861).

    Windows start at 0, stride, 2 stride, ... below N, are cut off at N, and are used when at least `stride` long. Every
    cut-off window grades the same last `stride` positions again: N + (length/stride - 1) * stride grades when stride
    divides length and N.
    """

    length: Length
    stride: Length
    word: ClassVar[str] = "published"
    in_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self)

    def __str__(self) -> str:
        return _spell(self)

    def at_scale(self, to: Smaller) -> "Published":
        """Windows of the smaller context, with a stride of a quarter of it."""
        return Published(to.context, to.context // 4)

    def over(self, positions: int, *, starts: Sequence[int] | IntArray = ()) -> Iterator[Window]:
        """Yield the loop's windows: some positions repeat; with stride = length an odd tail is left out."""
        for start in range(0, positions, self.stride):
            end = min(start + self.length, positions)
            if start == 0:
                yield Window(0, end, 0)
            elif end - start >= self.stride:
                yield Window(start, end, end - self.stride)


_KINDS = (Plain, Sliding, PerDocument, Published)


def parse(text: str) -> Windows:
    """Parse `plain:256`, `sliding:256,64`, `document:256,64`, `published:256,64`, or `Name:16,4` for a user's class.

    The user's file must have been read (`core/own.py`). Raises `UserError`.
    """
    word, _, numbers = text.partition(":")
    kinds: dict[str, Any] = {kind.word: kind for kind in _KINDS}
    if word not in kinds:
        kinds |= {name: kind for name, kind in own.classes().items() if hasattr(kind, "over")}
    if word not in kinds:
        raise UserError(f"unknown windows {text!r}, expected for example sliding:256,64.{near(word, list(kinds))}")
    wanted = [field.name for field in fields(kinds[word])]
    words = numbers.split(",")
    if len(words) != len(wanted) or not all(n.isascii() and n.isdigit() and len(n) <= 9 for n in words):
        raise UserError(f"windows {text!r} should read {word}:{','.join(wanted).upper()}, in whole numbers")
    windows: Windows = kinds[word](*map(int, words))
    return windows


def document_starts(tokens: Stream, bos: int) -> NDArray[np.int64]:
    """The positions whose input token is `bos`: where documents begin. The final token is not an input."""
    starts = [np.flatnonzero(piece == bos) + first for first, piece in pieces(tokens, len(tokens) - 1)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *starts])


def starts_for(windows: Windows, tokens: Stream, bos: int) -> NDArray[np.int64]:
    """The starts of documents if the plan needs them; else an empty array, so that memory does not grow."""
    return document_starts(tokens, bos) if per_document(windows) else np.zeros(0, dtype=np.int64)


def per_document(windows: Windows) -> bool:
    """Whether the windows of a plan never contain two documents."""
    return bool(getattr(windows, "by_document", False))


def pieces(stream: Stream, stop: int | None = None) -> Iterator[tuple[int, IntArray]]:
    """The stream up to `stop` in spans of bounded size, each with its first index."""
    stop = len(stream) if stop is None else stop
    return ((first, stream[first : min(first + _READ, stop)]) for first in range(0, stop, _READ))


def document_spans(positions: int, starts: Sequence[int] | IntArray) -> Iterator[tuple[int, int]]:
    """Cut 0..positions at `starts` into non-empty spans, including the part before the first start."""
    inner = [int(start) for start in starts if start > 0]
    return ((begin, stop) for begin, stop in pairwise([0, *inner, positions]) if begin < stop)


def _slide(begin: int, stop: int, length: int, stride: int) -> Iterator[Window]:
    end = min(begin + length, stop)
    yield Window(begin, end, begin)
    while end < stop:
        first, end = end, min(end + stride, stop)
        yield Window(end - length, end, first)


def _spell(spec: Plain | Sliding | PerDocument | Published) -> str:
    return f"{spec.word}:{','.join(str(getattr(spec, field.name)) for field in fields(spec))}"


def _check(spec: Plain | Sliding | PerDocument | Published) -> None:
    if spec.length < 1:
        raise UserError(f"{spec}: a window needs a length of at least 1")
    stride = getattr(spec, "stride", spec.length)
    if not 1 <= stride <= spec.length:
        raise UserError(f"{spec}: the stride must be from 1 to the window's length, {spec.length}")
