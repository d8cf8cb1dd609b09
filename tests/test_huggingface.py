"""Hugging Face tokenizers: exact on every text, counted in bytes, refused where they cannot be."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pargolf.core.errors import UserError
from pargolf.data import huggingface
from pargolf.data.byte_table import count_bytes
from pargolf.data.check import check
from pargolf.data.folder import open_data
from pargolf.data.huggingface import hugging_face_tokenizer
from pargolf.data.prepare import prepare
from pargolf.data.tokenizer_files import open_tokenizer
from pargolf.data.tokens import SentencePieceTokenizer

tokenizers = pytest.importorskip("tokenizers")
TEXT = "The House of Representatives met. the senate met in Washington, naïve as ever, at 10 o'clock. " * 30
BOS = "<|endoftext|>"


def learned(vocab=300):
    words = tokenizers.Tokenizer(tokenizers.models.BPE())
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[BOS], initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator([TEXT], trainer)
    return words.to_str().encode()


@pytest.fixture(scope="module")
def tokenizer():
    return hugging_face_tokenizer(learned())


@given(st.text(max_size=60))
@example(TEXT)
@example(f" {BOS}\x00\n ▁ \U0010ffff")
def test_every_text_comes_back_and_counts_its_bytes(tokenizer, text):
    ids = np.concatenate([[tokenizer.bos], tokenizer.encode(text)])
    assert tokenizer.raw(ids) == text.encode()
    assert tokenizer.decode(ids) == text
    assert tokenizer.bos not in ids[1:]
    assert count_bytes(tokenizer.byte_table(), ids[:-1], ids[1:]).sum() == len(text.encode())


def test_a_folder_prepared_with_it_is_proved(tokenizer, tmp_path):
    (tmp_path / "mine.json").write_bytes(tokenizer.proto)
    rng = np.random.default_rng(0)
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text(" ".join(rng.permutation(TEXT.split()[:60])))
    files = sorted(tmp_path.glob("*.txt"))
    *_, _ = prepare(files, tmp_path / "data", val_fraction=0.3, tokenizer=tmp_path / "mine.json")
    data = open_data(tmp_path / "data")
    assert isinstance(data.tokenizer, huggingface.HuggingFaceTokenizer)
    assert data.prove("val").bytes == data.meta["splits"]["val"]["bytes"] > 0
    assert {found.name for found in check(tmp_path / "data") if not found.ok} <= {"overlap"}


def test_the_kind_is_read_from_the_file_and_not_from_its_name(tokenizer, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.proto)
    assert open_tokenizer(tmp_path / "tokenizer.model").digest == tokenizer.digest
    with pytest.raises(UserError, match="no tokenizer"):
        open_tokenizer(tmp_path / "other.model")
    assert not isinstance(tokenizer, SentencePieceTokenizer)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda facts: facts["model"].update(type="WordPiece"), "does not read this tokenizer.json"),
        (lambda facts: facts.update(decoder={"type": "WordPiece"}), "do not say which bytes"),
        (lambda facts: facts["added_tokens"][0].update(content="<pad>"), "opens a document"),
        (lambda facts: facts["added_tokens"][0].update(special=False), "opens a document"),
        (lambda facts: facts.pop("added_tokens"), "opens a document|do not say|not a tokenizer.json"),
        (lambda facts: facts.pop("model"), "not a tokenizer.json"),
    ],
)
def test_what_cannot_be_counted_is_refused(tokenizer, change, hint):
    facts = json.loads(tokenizer.proto)
    change(facts)
    with pytest.raises(UserError, match=hint):
        hugging_face_tokenizer(json.dumps(facts).encode())


def test_without_the_package_the_reader_is_told_what_to_install(tokenizer, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(huggingface.importlib, "import_module", missing)
    with pytest.raises(UserError, match="pip install"):
        hugging_face_tokenizer(tokenizer.proto)
