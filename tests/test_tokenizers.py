"""Tokenizers as people have them: read and counted to the byte, or refused for the true reason."""

import base64
import io
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st
from made_up import entry

from pargolf.core.errors import UserError
from pargolf.core.result import Rests
from pargolf.data.byte_table import count_bytes
from pargolf.data.caseops_published import ALLCAPS, CAPNEXT, ESCAPE, PUBLISHED, TITLE
from pargolf.data.check import check
from pargolf.data.folder import open_data
from pargolf.data.prepare import prepare
from pargolf.data.proof import finish, prove
from pargolf.data.shards import Shards, write_shard
from pargolf.data.tokenizer_files import find_tokenizer, open_tokenizer
from pargolf.data.tokens import CaseTokenizer, SentencePieceTokenizer
from pargolf.run.score import proving_text

CASES = Path(__file__).parent / "cases"
DOCS = (Path(__file__).parent / "golden" / "docs.txt").read_text(encoding="utf-8").split("\x1e")
WORDS = "The House of Representatives met. the senate of the USA met in WASHINGTON, and McKay spoke as I did. " * 20


def piece_model(texts=DOCS, **how):
    """A SentencePiece model; by default as a newcomer trains one."""
    out = io.BytesIO()
    lines = [line for text in texts for line in text.split("\n") if line]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=out,
        **{"model_type": "bpe", "vocab_size": 600, "minloglevel": 2, "hard_vocab_limit": False, **how},
    )
    return out.getvalue()


EXACT = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}


def marked(**changes):
    """A `tokenizer.json` of Llama 2's kind: no pre-tokenizer, byte fallback, a mark for a space."""
    library = pytest.importorskip("tokenizers")
    bare = [f"<0x{byte:02X}>" for byte in range(256)]
    words = library.Tokenizer(library.models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    words.normalizer = library.normalizers.Sequence(
        [library.normalizers.Prepend("▁"), library.normalizers.Replace(" ", "▁")]
    )
    d = library.decoders
    words.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)])
    trainer = library.trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>", *bare], show_progress=False
    )
    words.train_from_iterator([line for text in DOCS[:4] for line in text.split("\n")] + [WORDS], trainer)
    facts = json.loads(words.to_str())
    facts["added_tokens"] = facts["added_tokens"][:3]
    return json.dumps({**facts, **changes}).encode()


def byte_export(**changes):
    config = {"bos_id": 1, "byte_count": 256, "byte_offset": 4, "eos_id": 2, "pad_id": 0, "unk_id": 3, **changes}
    return json.dumps({"config": config, "tokenizer_type": "pure_byte", "vocab_size": 260}, indent=2).encode()


def cased(vocab=400):
    """A model of text as it is published with case symbols."""
    symbols = [TITLE, ALLCAPS, CAPNEXT, ESCAPE]
    return piece_model([PUBLISHED.spell(WORDS)], vocab_size=vocab, user_defined_symbols=symbols, **EXACT)


def ranks(merges=40):
    """A tiktoken file that was learned from the words, pair by pair."""
    tokens, parts = [bytes([b]) for b in range(256)], [bytes([b]) for b in WORDS.replace(" ", "").encode()]
    for _ in range(merges):
        counts = Counter(a + b for a, b in pairwise(parts))
        best = max(sorted(counts), key=counts.__getitem__)
        tokens.append(best)
        out = []
        while parts:
            joined = len(parts) > 1 and parts[0] + parts[1] == best
            out.append(best if joined else parts[0])
            parts = parts[2 if joined else 1 :]
        parts = out
    return b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(tokens))


def fill(texts, tokenizer, tmp_path, **how):
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8", newline="")
    (tmp_path / "given").write_bytes(tokenizer)
    for _ in prepare([f"{tmp_path}/*.txt"], tmp_path / "data", val_fraction=0.3, tokenizer=tmp_path / "given", **how):
        pass
    return open_data(tmp_path / "data")


def texts(count=14):
    rng = np.random.default_rng(0)
    return [" ".join(rng.permutation(WORDS.split()[:60])) + f"\nNumber {i}, “naïve” ☃." for i in range(count)]


def proved(data):
    rows = data.rows("val")
    assert data.prove("val").bytes + data.prove("val").free == sum(row.bytes for row in rows) > 0
    assert [found.name for found in check(data.path) if not found.ok] == []


# --- what a SentencePiece model loses


def test_pieces_with_spaces_inside_count_one_byte_for_each(tmp_path):
    proto = piece_model([WORDS], split_by_whitespace=False, vocab_size=400, add_dummy_prefix=False, **EXACT)
    assert any("▁" in piece[1:] for piece in open_pieces(proto))
    data = fill(texts(), proto, tmp_path)
    assert data.meta["lossless"] and data.meta["normalized"] is None
    proved(data)


def open_pieces(proto):
    model = sentencepiece.SentencePieceProcessor(model_proto=proto)
    return [model.id_to_piece(i) for i in range(model.vocab_size())]


def test_a_dummy_prefix_alone_loses_nothing(tmp_path):
    data = fill([*texts(), " begins with a space"], piece_model(**EXACT), tmp_path)
    assert data.meta["lossless"]
    proved(data)


LOSSES = [
    ({}, "two\nlines", r"has no piece for '\\n'|turns '\\n' into ' '"),
    ({}, "a ☃ b", "has no piece for '☃' and no byte fallback"),
    ({"byte_fallback": True}, "ﬁne", "normalizes: turns 'ﬁ' into 'fi'"),
    ({"byte_fallback": True}, "two\nlines", r"normalizes: turns '\\n' into ' '"),
    ({"byte_fallback": True}, "two  spaces", "makes one space of several"),
    ({"byte_fallback": True}, "ends with one ", "drops a space at the end"),
    (EXACT, "a mark ▁ here", "turns '▁' into ' '"),
]


@pytest.mark.parametrize(("how", "text", "said"), LOSSES)
def test_the_rule_that_loses_something_is_named(how, text, said, tmp_path):
    with pytest.raises(UserError, match=said) as caught:
        fill([text, "the other document of the two"], piece_model(**how), tmp_path)
    line = str(caught.value)
    assert "does not keep document '0.txt'" in line and "--normalize" in line and "\n" not in line


@pytest.mark.parametrize("how", [{}, {"byte_fallback": True}, {"model_type": "unigram"}, EXACT])
def test_what_the_tokenizer_keeps_is_counted_where_that_is_asked_for(how, tmp_path):
    originals = [*texts(), "a mark ▁ here", "two  spaces\n\nand lines "]
    data = fill(originals, piece_model(**how), tmp_path, normalize=True)
    proved(data)
    lost = data.meta["normalized"]
    assert not data.meta["lossless"] and lost["documents"] > 0 and lost["lost"] > 0
    assert lost["bytes"] == sum(len(text.encode()) for text in originals)
    text = finish(proving_text(data))
    assert text.proof.lossless is False
    assert "as its tokenizer normalizes it, not lossless" in entry(proof=text.proof).result.sentence
    assert re.search(r"Not lossless: .* changed \d+ documents, and [\d,]+ of [\d,]+ bytes are lost", str(data.meta))


def test_texts_that_become_one_when_normalized_are_kept_once(tmp_path):
    same = ["one  text of a few words", "one text of a few words", "one text of a\nfew words"]
    data = fill([*texts(), *same], piece_model(byte_fallback=True), tmp_path, normalize=True)
    assert data.meta["normalized"]["repeats"] == 2
    assert len(data.rows("train")) + len(data.rows("val")) == len(texts()) + 1


def test_a_lossless_tokenizer_stays_so_where_normalizing_is_allowed(tmp_path):
    data = fill(texts(), piece_model(**EXACT), tmp_path, normalize=True)
    assert data.meta["lossless"] and data.meta["normalized"]["documents"] == 0
    assert finish(proving_text(data)).proof.lossless is True


def test_the_piece_without_a_space_is_not_counted_by_its_table(tmp_path):
    """4,128 bytes where the published table says 5,347: spaces are spelled as the three bytes of their mark."""
    tokenizer = open_tokenizer(CASES / "no_space_piece.model")
    lines = (CASES / "text.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    stream = [np.append(tokenizer.bos, tokenizer.encode(json.loads(line)["text"])) for line in lines]
    proof = prove(tokenizer, Shards([np.concatenate(stream).astype(np.uint16)]))
    raw = sum(len(json.loads(line)["text"].encode()) for line in lines)
    assert not proof.rests.proved or proof.bytes == raw


# --- tokenizer.json, tiktoken, bytes


def test_a_marked_tokenizer_is_exact_and_proved(tmp_path):
    data = fill([*texts(), " a space first", "two  spaces"], marked(), tmp_path)
    assert data.meta["lossless"]
    proved(data)
    stream = Shards([data.val.take(0, len(data.val))])
    assert prove(data.tokenizer, stream).rests is Rests.ROUND_TRIP


@given(st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"]), min_size=1, max_size=30))
@example(" a  b\n ☃")
def test_marked_pieces_count_the_bytes_of_every_text(text):
    tokenizer = MARKED()
    ids = np.concatenate([[tokenizer.bos], tokenizer.encode(text)])
    counted = count_bytes(tokenizer.byte_table(), ids[:-1], ids[1:]).sum()
    assert tokenizer.decode(ids) == text and len(text.encode()) - counted in (0, 1)


def MARKED(held=[]):  # noqa: B006
    if not held:
        from pargolf.data.huggingface import hugging_face_tokenizer

        held.append(hugging_face_tokenizer(marked()))
    return held[0]


def test_mistrals_suffix_is_a_sentencepiece_model(tmp_path):
    (tmp_path / "tokenizer.model.v1").write_bytes(piece_model(**EXACT))
    assert isinstance(open_tokenizer(find_tokenizer(tmp_path)), SentencePieceTokenizer)


def test_a_tiktoken_file_is_read_as_byte_level(tmp_path):
    pytest.importorskip("tokenizers")
    data = fill(texts(), ranks(), tmp_path)
    assert (data.vocab, data.bos) == (297, 296)
    proved(data)


def test_a_tiktoken_file_gives_the_librarys_own_tokens():
    pytest.importorskip("tokenizers")
    library = pytest.importorskip("tiktoken")
    from pargolf.data.huggingface import hugging_face_tokenizer
    from pargolf.data.tiktoken_ranks import tokenizer_json

    table = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in ranks().splitlines()}
    split = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    theirs = library.Encoding("t", pat_str=split, mergeable_ranks=table, special_tokens={})
    ours = hugging_face_tokenizer(tokenizer_json(ranks()))
    for text in texts():
        assert ours.encode(text).tolist() == theirs.encode(text)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"".join(base64.b64encode(bytes([b])) + b" %d\n" % b for b in range(255)), "lacks the byte 255"),
        (ranks(2) + base64.b64encode(b"zqzq") + b" 258\n", "this is no BPE"),
        (ranks(2) + b"nonsense here\n", "Line 259"),
        (b"".join(base64.b64encode(b"%06d" % i) + b" %d\n" % i for i in range(70_000)), "70,000 tiktoken tokens"),
        (b'{"config": {}, "vocab": [1, 2], "special_tokens": []}', "Tekken file of 2 tokens"),
        (byte_export(bos_id=2), "other ids than the official"),
        (b'{"x": 1', "is not valid JSON"),
    ],
)
def test_what_is_not_read_is_refused_for_the_true_reason(raw, said, tmp_path):
    (tmp_path / "a").write_bytes(raw)
    with pytest.raises(UserError, match=said):
        open_tokenizer(tmp_path / "a")


def test_the_official_bytes_are_read_beside_their_shards(tmp_path):
    data = fill(texts(), byte_export(), tmp_path)
    assert (data.vocab, data.bos, data.meta["tokenizer"]) == (260, 1, "bytes-260")
    proved(data)
    shards = tmp_path / "datasets" / "fineweb10B_byte260"
    shards.mkdir(parents=True)
    (tmp_path / "tokenizers").mkdir()
    (tmp_path / "tokenizers" / "fineweb_pure_byte_260.json").write_bytes(byte_export())
    (tmp_path / "tokenizers" / "fineweb_1024_bpe.model").write_bytes(piece_model(**EXACT))
    ids = [np.append(1, 4 + np.frombuffer(text.encode(), np.uint8)).astype(np.uint16) for text in texts()]
    write_shard(shards / "fineweb_val_000000.bin", ids)
    proof = open_data(shards).prove("val")
    assert (proof.rests, proof.bytes) == (Rests.ROUND_TRIP, sum(len(text.encode()) for text in texts()))


# --- CaseOps as published


@given(st.text(st.sampled_from("aAbBz Z'1é" + TITLE + ALLCAPS + CAPNEXT + ESCAPE), max_size=30))
def test_the_published_spelling_comes_back(text):
    assert PUBLISHED.read(PUBLISHED.spell(text)) == text
    text = text.replace(ESCAPE, "")
    assert sum(PUBLISHED.bytes.get(c, len(c.encode())) for c in PUBLISHED.spell(text)) == len(text.encode())


def test_the_published_spelling_is_the_published_one():
    """By the rules of `lossless_caps_caseops_v1`: a symbol right before the word, capitals of ASCII alone."""
    table = str.maketrans({TITLE: "^", ALLCAPS: "*", CAPNEXT: "+", ESCAPE: "!"})
    assert (
        PUBLISHED.spell("The NASA McKay iPhone I É aB2CD").translate(table) == "^the *nasa ^mc+kay i+phone ^i É a+b2*cd"
    )
    assert PUBLISHED.spell(f"A{TITLE}b").translate(table) == "^a!^b"


def test_a_folder_with_the_published_symbols_is_proved_over_raw_bytes(tmp_path):
    data = fill(texts(), cased(), tmp_path)
    assert isinstance(data.tokenizer, CaseTokenizer) and data.meta["lossless"]
    proved(data)
