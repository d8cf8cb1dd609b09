"""Capitals as symbols: exact on all of Unicode, and in bytes."""

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pargolf.core.errors import UserError
from pargolf.data.caseops import CAPS, ESCAPE, NEXT, SYMBOL_BYTES, SYMBOLS, TITLE, plain, spelled
from pargolf.data.check import check
from pargolf.data.folder import open_data
from pargolf.data.learn import train_bpe
from pargolf.data.prepare import prepare
from pargolf.data.tokens import CaseTokenizer, count_bytes, load_tokenizer

UNICODE = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
TEXTS = st.text(
    st.characters(exclude_categories=("Cs",)) | st.sampled_from("aAbBzZ  '-éÉßẞİıǅKÅſΣς" + SYMBOLS), max_size=40
)
WORDS = "The House of Representatives met. the senate of the USA met in WASHINGTON, and McKay spoke as I did. " * 40


def size(text):
    return sum(SYMBOL_BYTES[c] if c in SYMBOLS else len(c.encode()) for c in text)


@given(TEXTS)
@example(UNICODE)
def test_every_text_comes_back_and_its_bytes_are_a_number_per_character(text):
    assert plain(spelled(text)) == text
    assert size(spelled(text)) == len(text.encode())


@given(TEXTS, TEXTS)
def test_two_texts_are_never_spelled_alike(one, other):
    assert (spelled(one) == spelled(other)) == (one == other)


@given(TEXTS)
def test_any_string_reads_as_some_text(text):
    assert isinstance(plain(text), str)


def test_a_word_keeps_the_space_before_it():
    table = {TITLE: "^", CAPS: "*", NEXT: "+", ESCAPE: "!"}
    found = "".join(table.get(c, c) for c in spelled(f"The McKay of USA, I  Am{TITLE}B"))
    assert found == "^the^ mc+kay of* usa,^ i ^ am!a^b"
    assert not re.search("[A-Z]", spelled(WORDS))


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([WORDS], vocab=300, caseops=True)


@given(TEXTS)
@example(WORDS)
@example(" A" + SYMBOLS)
def test_tokens_count_the_bytes_of_the_text_itself(tokenizer, text):
    ids = np.concatenate([[tokenizer.bos], tokenizer.encode(text)])
    raw = text.encode()
    table = tokenizer.byte_table()
    free = raw.startswith(b" ") and bool(table.leading_space_V[ids[1]])
    assert tokenizer.raw(ids[1:]) == raw
    assert count_bytes(table, ids[:-1], ids[1:]).sum() == len(raw) - free


def test_the_symbols_are_pieces_and_both_cases_share_the_rest(tokenizer, tmp_path):
    the, capital = tokenizer.encode(" the"), tokenizer.encode(" The")
    assert len(the) == 1
    assert capital.tolist() == [tokenizer.piece_id(TITLE), *the]
    (tmp_path / "t.model").write_bytes(tokenizer.proto)
    assert isinstance(load_tokenizer(tmp_path / "t.model"), CaseTokenizer)
    assert not isinstance(train_bpe([WORDS + SYMBOLS * 99], vocab=300), CaseTokenizer)


def test_a_prepared_folder_is_proved_over_the_raw_bytes(tmp_path):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.permutation(WORDS.split()[:80])) for _ in range(30)]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text + " ẞΣ" + SYMBOLS)
    files = sorted(tmp_path.glob("*.txt"))
    *_, _ = prepare(files, tmp_path / "data", vocab=300, val_fraction=0.3, caseops=True)
    data = open_data(tmp_path / "data")
    assert data.prove("val").bytes == data.meta["splits"]["val"]["bytes"] > 0
    failed = [found for found in check(tmp_path / "data") if not found.ok]
    assert [found.name for found in failed] in ([], ["overlap"])
    with pytest.raises(UserError, match="no pieces"):
        list(prepare(files, tmp_path / "bytes", vocab=257, caseops=True))
