"""A text that is ready to score: its tokens, the bytes of each token, and the proof of these counts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from pargolf.core.errors import UserError
from pargolf.core.result import Proof
from pargolf.evaluate.windows import Stream, Windows, pieces


def _nothing() -> None:
    """The check of text in memory, which does not change."""


@dataclass(frozen=True, eq=False)
class Text:
    """A stream of N+1 `tokens` out of `vocab` ids, and the bytes of each of its N targets.

    bos: the id that opens a document
    names: the names of the documents in order, if known
    proof: how the byte counts were proved; without it a score is only informal
    check: raises `UserError` when the files of the text have changed; called before and after each scoring
    """

    tokens: Stream
    byte_counts: Stream
    vocab: int
    bos: int
    names: tuple[str, ...] = ()
    proof: Proof | None = None
    check: Callable[[], None] = _nothing

    @property
    def positions(self) -> int:
        """The number of tokens to predict."""
        return len(self.tokens) - 1

    @cached_property
    def bytes(self) -> int:
        """The bytes of all targets."""
        return sum(int(piece.sum()) for _, piece in pieces(self.byte_counts))

    def holds(self, *all_windows: Windows) -> None:
        """Raise `UserError` when the text is shorter than one window."""
        for windows in all_windows:
            if self.positions < windows.length:
                most = max(self.positions, 1)
                raise UserError(
                    f"Validation has {self.positions:,} tokens to score, fewer than one window of {windows}. Prepare "
                    f"more text, or score with windows of at most {most}, as plain:{most}."
                )
