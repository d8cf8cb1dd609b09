"""A SentencePiece tokenizer for Hugging Face transformers, with exactly the ids of the model's training.

`ship/modeling.py` writes this file and the tokenizer that it uses into `tokenization_pargolf.py`. A document begins
with BOS, and a model that generates BOS has ended its document, so BOS is the end token too. If a text contains the
name of a special token, it is encoded as text.
"""

import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer

from pargolf.data.tokens import ByteTokenizer, SentencePieceTokenizer, sentencepiece_tokenizer

FILE = "tokenizer.model"


class PargolfTokenizer(PreTrainedTokenizer):
    """The tokenizer in `tokenizer.model`; without that file, plain bytes."""

    vocab_files_names = {"vocab_file": FILE}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str | None = None, **options: Any) -> None:
        self.vocab_file = vocab_file
        self.inner: SentencePieceTokenizer | ByteTokenizer = ByteTokenizer()
        if vocab_file:
            self.inner = sentencepiece_tokenizer(Path(vocab_file).read_bytes())
        opening = self.inner.piece(self.inner.bos)
        names = {"bos_token": opening, "eos_token": opening, "pad_token": opening}
        super().__init__(**{"padding_side": "left", **options, **names, "split_special_tokens": True})

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return self.inner.vocab

    def get_vocab(self) -> dict[str, int]:
        """Ids by piece."""
        return {self.inner.piece(i): i for i in range(self.inner.vocab)}

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """BOS before each text; a second text is another document."""
        second = [] if token_ids_1 is None else [self.inner.bos, *token_ids_1]
        return [self.inner.bos, *token_ids_0, *second]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join pieces to text."""
        return self.inner.decode([self._convert_token_to_id(token) for token in tokens])

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Copy the tokenizer's file."""
        if self.vocab_file is None:
            return ()
        target = Path(save_directory) / f"{filename_prefix + '-' if filename_prefix else ''}{FILE}"
        if target.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, target)
        return (str(target),)

    def _tokenize(self, text: str, **options: Any) -> list[str]:
        return [self.inner.piece(int(i)) for i in self.inner.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return self.inner.piece_id(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.inner.piece(index)
