"""Completions as small steps: the prompt with its log probabilities where asked, then one token at a time.

A piece of text is sent when it is complete: no half of a character, and nothing that may be the beginning of a stop
word. BOS ends a document and is never shown; a prompt is the beginning of a document, so BOS is put in front of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pargolf.data.tokens import Tokenizer
from pargolf.evaluate.generate import sampled
from pargolf.evaluate.windows import Sliding
from pargolf.exporting.source import Source
from pargolf.serving.requests import PROMPT_TOKENS, APIError, Completion

_INCOMPLETE = "\ufffd"


@dataclass(frozen=True)
class TokenLogprob:
    """A token as text, its log-probability in nats (None for a prompt's first token), and the likeliest tokens."""

    text: str
    logprob: float | None
    top: dict[str, float] | None


@dataclass(frozen=True)
class Piece:
    """Text that can be shown, its tokens, and in the last piece the reason for the end."""

    text: str = ""
    tokens: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    count: int = 0


def prompt_ids(source: Source, prompt: str | Sequence[int]) -> list[int]:
    """Ids of a prompt, BOS in front. Raises `APIError` for invalid ids, and for too many."""
    words, vocab = source.tokenizer, source.model.spec.vocab
    if isinstance(prompt, str):
        try:
            ids = [int(token) for token in words.encode(prompt)]
        except ValueError as error:
            raise APIError(str(error), param="prompt") from None
    else:
        ids = list(prompt)
    if ids and not 0 <= min(ids) <= max(ids) < vocab:
        raise APIError(f"A token id lies outside the vocabulary of {vocab}.", param="prompt")
    ids = ids if ids[:1] == [words.bos] else [words.bos, *ids]
    if len(ids) > PROMPT_TOKENS:
        raise APIError(f"The prompt has {len(ids):,} tokens, and {PROMPT_TOKENS:,} are the most.", param="prompt")
    return ids


def complete(
    source: Source, request: Completion, prompt: str | Sequence[int], ids: list[int], seed: int
) -> Iterator[Piece]:
    """One choice of a request, piece by piece; `ids` are the prompt's, BOS in front."""
    if request.echo:
        yield from _echoed(source, request, prompt, ids)
    writing = Writing(source.tokenizer, request.stop)
    drawn = sampled(
        source.model,
        ids,
        tokens=request.max_tokens,
        length=source.length,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=seed % (1 << 63),
    )
    for token, logits_V in drawn:
        if token == source.tokenizer.bos:
            yield writing.ended("stop")
            return
        graded: tuple[TokenLogprob, ...] = ()
        if request.logprobs is not None:
            graded = (logprob_of(source.tokenizer, token, logits_V.log_softmax(-1), request.logprobs),)
        piece = writing.added(token, graded)
        yield piece
        if piece.finish:
            return
    yield writing.ended("length")


@dataclass
class Writing:
    """Generated text: the part that was shown, and the part that must wait."""

    words: Tokenizer
    stops: tuple[str, ...]
    ids: list[int] = field(default_factory=list)
    shown: int = 0
    held: list[TokenLogprob] = field(default_factory=list)
    unshown: int = 0

    def added(self, token: int, graded: tuple[TokenLogprob, ...]) -> Piece:
        """Add a token; returns the text that can be shown now, as the last piece if a stop word is complete."""
        self.ids.append(token)
        self.held += graded
        self.unshown += 1
        text = self.words.decode(self.ids)
        ends = [text.index(stop) for stop in self.stops if stop in text]
        if ends:
            return self._shown(text[: min(ends)], "stop")
        if text.endswith(_INCOMPLETE):
            return Piece()
        waiting = max((_overlap(text, stop) for stop in self.stops), default=0)
        return self._shown(text[: len(text) - waiting], None) if waiting == 0 else Piece()

    def ended(self, finish: str) -> Piece:
        """The last piece, with the rest of the text."""
        return self._shown(self.words.decode(self.ids), finish)

    def _shown(self, text: str, finish: str | None) -> Piece:
        piece = Piece(text[self.shown :], tuple(self.held), finish, self.unshown)
        self.shown, self.held, self.unshown = max(self.shown, len(text)), [], 0
        return piece


def logprob_of(words: Tokenizer, token: int, logs_V: Tensor, count: int) -> TokenLogprob:
    """A token's log-probability, and the `count` likeliest tokens."""
    own = float(logs_V[token])
    best = torch.topk(logs_V, min(count, len(logs_V)))
    top = {shown(words, int(i)): float(value) for value, i in zip(best.values, best.indices)}
    return TokenLogprob(shown(words, token), own, {shown(words, token): own, **top} if count else None)


def shown(words: Tokenizer, token: int) -> str:
    """A token as text; bytes that are not complete characters are written as escapes."""
    if token == words.bos:
        return "<bos>"
    data = words.bytes_of(token) if token < words.vocab else b""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def graded_prompt(source: Source, ids: Sequence[int], count: int) -> Iterator[list[TokenLogprob]]:
    """The tokens of `ids` after the first, window by window, each with its log-probability and `count` others."""
    stream = np.array(ids, dtype=np.int64)
    length = source.length
    for window in Sliding(length, max(1, length // 4)).over(len(ids) - 1):
        shown_BT = torch.from_numpy(stream[window.start : window.end])[None]
        with torch.no_grad():
            logs_SV = source.model(shown_BT, first=window.first - window.start)[0].float().log_softmax(-1)
        targets = stream[window.first + 1 : window.end + 1]
        yield [logprob_of(source.tokenizer, int(token), row_V, count) for token, row_V in zip(targets, logs_SV)]


def _echoed(source: Source, request: Completion, prompt: str | Sequence[int], ids: list[int]) -> Iterator[Piece]:
    words = source.tokenizer
    starts_with_bos = not isinstance(prompt, str) and list(prompt[:1]) == [words.bos]
    text = prompt if isinstance(prompt, str) else words.decode(ids)
    tokens: list[TokenLogprob] = [TokenLogprob(shown(words, words.bos), None, None)] if starts_with_bos else []
    if request.logprobs is not None:
        for graded in graded_prompt(source, ids, request.logprobs):
            tokens += graded
            yield Piece()
    yield Piece(text, tuple(tokens) if request.logprobs is not None else ())


def _overlap(text: str, stop: str) -> int:
    """The number of characters at the end of `text` that are a beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def choice_json(
    index: int, text: str, tokens: Sequence[TokenLogprob], finish: str | None, offset: int, logprobs: bool
) -> dict[str, Any]:
    """A choice in the API's JSON form; `offset` is the length of the text before it."""
    logged: dict[str, Any] | None = None
    if logprobs:
        offsets, position = [], offset
        for token in tokens:
            offsets.append(position)
            position += len(token.text)
        logged = {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [token.top for token in tokens],
            "text_offset": offsets,
        }
    return {"index": index, "text": text, "logprobs": logged, "finish_reason": finish}
