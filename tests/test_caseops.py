"""Capitals as symbols: exact on all of Unicode, and in bytes."""

import re

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from pargolf.core.errors import UserError
from pargolf.core.result import Rests
from pargolf.data.byte_table import count_bytes
from pargolf.data.caseops import CAPS, ESCAPE, NEXT, SYMBOL_BYTES, SYMBOLS, TITLE, plain, spelled
from pargolf.data.check import check
from pargolf.data.folder import open_data
from pargolf.data.learn import train_bpe
from pargolf.data.prepare import prepare
from pargolf.data.proof import finish
from pargolf.data.shards import write_shard
from pargolf.data.tokens import CaseTokenizer, load_tokenizer
from pargolf.evaluate.windows import Sliding
from pargolf.run.score import document_rows, proving_text, score_sample, score_together

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


# ---- byte counts that came with somebody else's transformed text

CAPITAL = "\ue001"
FOREIGN = ["The House met.", "the senate of the USA", "McKay spoke. " * 30]


def foreign(text):
    """Transformed as by others: a mark before each capital, which is written small."""
    return re.sub("[A-Z]", lambda found: CAPITAL + found[0].lower(), text)


@pytest.fixture
def published(tmp_path):
    """Shards and byte counts as they are published: no record of the documents, one uint16 for each token."""
    words = train_bpe([foreign(WORDS) * 2], vocab=300)
    ids, counts = [], []
    for text in FOREIGN:
        body = words.encode(foreign(text)).tolist()
        ids += [words.bos, *body]
        counts += [0, *(len(words.raw([i]).decode(errors="replace").replace(CAPITAL, "").encode()) for i in body)]
        counts[-len(body)] += len(text.encode()) - sum(counts[-len(body) :])  # pieces of a character, and first spaces
    (tmp_path / "own.model").write_bytes(words.proto)
    write_shard(tmp_path / "fineweb_train_000000.bin", np.array(ids))
    write_shard(tmp_path / "fineweb_val_000000.bin", np.array(ids))
    write_shard(tmp_path / "fineweb_val_bytes_000000.bin", np.array(counts))
    return tmp_path, np.array(ids), np.array(counts)


def test_bits_are_divided_by_a_sidecars_bytes(published):
    folder, ids, _ = published
    data = open_data(folder)
    raw = sum(len(text.encode()) for text in FOREIGN)
    assert len(data.val) == len(ids) and data.prove("val").bytes == raw < sum(len(foreign(t).encode()) for t in FOREIGN)
    text, uniform = finish(proving_text(data)), lambda ids, *, first: torch.zeros(*ids[:, first:].shape, 300)
    assert text.proof.rests is Rests.ROUND_TRIP and text.bytes == raw
    *_, found = score_together(uniform, text, Sliding(16, 5), keep=True)
    assert (found.tokens, found.bytes) == (len(ids) - 1, raw)
    assert sum(row.bytes for row in document_rows(text, found)) == raw
    assert [len(text.encode()) for text in FOREIGN] == [row.bytes for row in document_rows(text, found)]
    assert score_sample(uniform, text, Sliding(16, 5), count=3).bytes > 0
    assert next(f for f in check(folder) if f.name == "bytes").ok


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda ids, counts: counts[:-1], "hold 354 byte counts for 355 tokens"),
        (lambda ids, counts: counts + (ids == ids[5]), "sidecar counts .* of validation and its text has"),
        (lambda ids, counts: np.where(np.arange(len(ids)) == 0, 1, counts), "Document number 0"),
        (lambda ids, counts: np.roll(counts, 1), "Document number 0"),
        (lambda ids, counts: counts + (counts > 0), "Document number"),
    ],
)
def test_a_sidecar_that_does_not_fit_is_refused(published, change, hint):
    folder, ids, counts = published
    write_shard(folder / "fineweb_val_bytes_000000.bin", change(ids, counts))
    with pytest.raises(UserError, match=hint):
        finish(proving_text(open_data(folder)))
