"""Train a SentencePiece BPE tokenizer that is lossless: every text decodes to itself, byte for byte.

Four settings make it exact: identity normalization, no dummy prefix, no removal of spaces, byte fallback. Ids are the
published ones (unknown 0, BOS 1, EOS 2, bytes from 3). The text is cut in two ways before the library sees it:

- at every character that is not worth a piece of its own; such characters are encoded as bytes. The library accepts no
  newline, NUL or U+2581, and its `character_coverage` has a minimum of .98, while text with many different characters
  (Chinese at 1,024 pieces) needs less;
- between words, into chunks of 1,000 characters, because the library skips longer lines.
"""

import io
import re
from collections.abc import Iterator, Sequence

import numpy as np
import sentencepiece

from pargolf.core.errors import UserError
from pargolf.data.byte_table import SPACE_MARK
from pargolf.data.caseops import SYMBOLS, spelled
from pargolf.data.tokens import SentencePieceTokenizer, sentencepiece_tokenizer

RESERVED = 3 + 256
SMALLEST = RESERVED + 5
COVERAGE = 0.9995
CHUNK = 1000


class TooManyPieces(UserError):
    """The text does not contain enough different pieces; `most` is how many it supports, None when unknown."""

    def __init__(self, vocab: int, most: int | None) -> None:
        fits = f"it supports at most {most}, so pass that as the vocabulary" if most else "add text"
        super().__init__(f"The training text is too small for {vocab} pieces: {fits}, or 257 for plain bytes.")
        self.most = most


def train_bpe(texts: Sequence[str], *, vocab: int, caseops: bool = False) -> SentencePieceTokenizer:
    """Train `vocab` pieces on `texts`; the same texts give the same bytes. Raises `TooManyPieces` for too little text.

    With `caseops`, the texts are first spelled by `caseops.py`, and its four symbols are among the pieces.
    """
    symbols = list(SYMBOLS) if caseops else []
    texts = [spelled(text) for text in texts] if caseops else texts
    least = SMALLEST + len(symbols)
    if not least <= vocab <= 1 << 16:
        raise UserError(
            f"A vocabulary of {vocab} pieces cannot be trained; take {least} to 65536, or 257 for plain bytes."
        )
    written = io.BytesIO()
    kept = frequent_characters(texts, at_most=(vocab - RESERVED - len(symbols)) // 2)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chunks(texts, kept),
            model_writer=written,
            model_type="bpe",
            vocab_size=vocab,
            byte_fallback=True,
            user_defined_symbols=symbols,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            character_coverage=1.0,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        most = re.search(r"<= (\d+)", str(error).rpartition("Please set it")[2])
        raise TooManyPieces(vocab, int(most[1]) if most else None) from error
    return sentencepiece_tokenizer(written.getvalue())


def frequent_characters(texts: Sequence[str], *, at_most: int) -> str:
    """The most common characters that cover 99.95 % of the text (at most `at_most`); ties by code point."""
    counts = np.zeros(0x110000, dtype=np.int64)
    for text in texts:
        in_text = np.bincount(np.frombuffer(text.encode("utf-32-le"), dtype="<u4"))
        counts[: len(in_text)] += in_text
    counts[[0, *map(ord, "\n\r\t" + SPACE_MARK + SYMBOLS)]] = 0
    order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
    covered = np.cumsum(counts[order]) / max(1, int(counts.sum()))
    enough = int(np.searchsorted(covered, COVERAGE)) + 1
    return "".join(chr(code) for code in order[: min(enough, at_most)])


def chunks(texts: Sequence[str], kept: str) -> Iterator[str]:
    """Cut texts at characters outside `kept`, and between words into chunks of at most 1,000 characters."""
    if not kept:
        return
    inside = "[" + re.escape(kept) + "]"
    word = "[" + re.escape(kept.replace(" ", "")) + "]" if kept.strip(" ") else "(?!)"
    pattern = re.compile(f"{inside}{{1,{CHUNK}}}(?!{word})|{inside}{{1,{CHUNK}}}")
    for text in texts:
        for match in pattern.finditer(text):
            yield match[0]
