"""A validation text ready to score: its tokens, the bytes of each, and what those counts rest on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from pargolf.core.errors import UserError
from pargolf.core.result import Proof
from pargolf.evaluate.windows import Stream, Windows, pieces


def _nothing() -> None:
    """Text in memory does not change."""


@dataclass(frozen=True, eq=False)
class Text:
    """A stream of N+1 `tokens` out of `vocab` ids, and the bytes that each of its N targets stands for.

    `bos` is the id that opens a document, `names` are the documents' in order, where they are known. `proof` says what
    the bytes rest on; without it a score is for watching only. `check` raises `UserError` where files that the text is
    read from are no longer what they were; it is called before and after each scoring.
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
        """How many tokens there are to predict."""
        return len(self.tokens) - 1

    @cached_property
    def bytes(self) -> int:
        """Bytes of all targets."""
        return sum(int(piece.sum()) for _, piece in pieces(self.byte_counts))

    def holds(self, *all_windows: Windows) -> None:
        """Raise `UserError` when there is less text than one window shows."""
        for windows in all_windows:
            if self.positions < windows.length:
                most = max(self.positions, 1)
                raise UserError(
                    f"Validation has {self.positions:,} tokens to score, fewer than one window of {windows}. Prepare "
                    f"more text, or score with windows of at most {most}, as plain:{most}."
                )
