import gzip
import hashlib
import io
import json
import lzma
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from pargolf.core.errors import UserError
from pargolf.core.result import Rests
from pargolf.data import prepare as prepare_module
from pargolf.data.byte_table import count_bytes
from pargolf.data.check import bpb_constant, check
from pargolf.data.corpus import embedded
from pargolf.data.documents import Document, validates
from pargolf.data.folder import open_data
from pargolf.data.hashing import distinct
from pargolf.data.learn import chunks, frequent_characters, train_bpe
from pargolf.data.overlap import GRAM, check_overlap, hash_ngrams
from pargolf.data.prepare import prepare
from pargolf.data.proof import prove
from pargolf.data.read.files import find_files, read_documents
from pargolf.data.shards import ShardFile, Shards, open_split, split_documents, write_shard
from pargolf.data.stream import MicroBatch, Sequential, Shuffled, Strided, TrainStream, permute, stride
from pargolf.data.tokens import ByteTokenizer, SentencePieceTokenizer, load_tokenizer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GOLDEN = Path(__file__).with_name("golden")
EVAL = load_file(GOLDEN / "eval.safetensors")
DOCS = (GOLDEN / "docs.txt").read_text(encoding="utf-8").split("\x1e")
LEARNED = train_bpe(DOCS, vocab=320)
any_text = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" ▁\n\r\t\0 abe\U0001f600é")), max_size=60
)


def fill(sources, out, **options):
    for _ in prepare(sources, out, **options):
        pass
    return open_data(out)


def write_stream(path, tokenizer, texts):
    parts = [np.concatenate([[tokenizer.bos], tokenizer.encode(text)]).astype(np.uint16) for text in texts]
    write_shard(path, parts)
    return np.concatenate(parts)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- shards


@given(st.lists(st.integers(0, 65535), max_size=50), st.lists(st.integers(0, 65535), max_size=50))
def test_shard_round_trips_and_has_the_published_layout(tmp_path_factory, first, second):
    path = tmp_path_factory.mktemp("s") / "x_train_000000.bin"
    write_shard(path, [np.array(first, dtype=np.uint16), np.array(second, dtype=np.int64)])
    raw = path.read_bytes()
    assert np.frombuffer(raw[:12], "<i4").tolist() == [20240520, 1, len(first) + len(second)]
    assert np.frombuffer(raw[1024:], "<u2").tolist() == first + second == ShardFile(path)[:].tolist()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: raw[:-1], "is truncated"),
        (lambda raw: raw[:1000], "header alone"),
        (lambda raw: b"", "header alone"),
        (lambda raw: raw + b"\0\0", "does not fit its header"),
        (lambda raw: b"\1" + raw[1:], "magic number"),
        (lambda raw: raw[:4] + b"\2" + raw[5:], "version 2"),
        (lambda raw: raw[:8] + b"\xff\xff\xff\xff" + raw[12:], "-1 tokens"),
    ],
)
def test_damaged_shard_is_named(tmp_path, damage, said):
    path = tmp_path / "x_val_000000.bin"
    write_shard(path, np.arange(10))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=said) as caught:
        open_split(tmp_path, "val")
    assert path.name in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes share an open file only where they fork")
def test_processes_that_share_an_open_shard_read_what_they_ask_for(tmp_path):
    write_shard(tmp_path / "x_train_000000.bin", np.arange(60_000))
    shard = ShardFile(tmp_path / "x_train_000000.bin")
    child = os.fork()
    places = range(0, 59_000, 7) if child else range(59_000, 0, -11)
    right = all(np.array_equal(shard[at : at + 500], np.arange(at, at + 500)) for at in places for _ in range(2))
    if not child:
        os._exit(0 if right else 1)
    assert right and os.waitpid(child, 0)[1] == 0


def test_missing_shards_folder_and_tokens_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="no data folder"):
        open_split(tmp_path / "none", "val")
    with pytest.raises(UserError, match=r"no \*_val_\*\.bin"):
        open_split(tmp_path, "val")
    with pytest.raises(UserError, match="no shard"):
        ShardFile(tmp_path / "x_val_0.bin")
    write_shard(tmp_path / "x_val_0.bin", np.zeros(0, np.uint16))
    with pytest.raises(UserError, match="no tokens"):
        open_split(tmp_path, "val")


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(0, 200), st.integers(0, 90))
def test_take_equals_the_repeated_concatenation(sizes, start, n):
    parts = [np.arange(size, dtype=np.uint16) + 100 * i for i, size in enumerate(sizes)]
    if not sum(sizes):
        return
    ring = np.concatenate(parts)
    assert (
        Shards(parts).take(start, n).tolist() == np.resize(ring, 400)[np.arange(start, start + n) % len(ring)].tolist()
    )


def test_split_follows_the_order_of_names(tmp_path):
    for number in (2, 0, 1):
        write_shard(tmp_path / f"fineweb_train_{number:06d}.bin", np.full(3, number))
    write_shard(tmp_path / "fineweb_val_000000.bin", np.full(3, 9))
    assert open_split(tmp_path, "train").take(0, 9).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [block.tolist() for block in open_split(tmp_path, "val").blocks(2)] == [[9, 9], [9]]


def test_token_past_the_vocabulary_names_its_file(tmp_path):
    write_shard(tmp_path / "a_train_000000.bin", np.arange(10))
    write_shard(tmp_path / "a_train_000001.bin", np.array([1, 10, 2]))
    shards = open_split(tmp_path, "train", vocab=10)
    assert shards.take(0, 11)[-1] == 1
    with pytest.raises(UserError, match=r"a_train_000001\.bin holds token id 10"):
        shards.take(11, 1)


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 9))
def test_documents_begin_at_bos_wherever_blocks_end(tokens, size):
    array = np.array(tokens, dtype=np.uint16)
    whole = list(split_documents([array], 1))
    cut = list(split_documents([array[i : i + size] for i in range(0, len(array), size)], 1))
    assert [x.tolist() for x in whole] == [x.tolist() for x in cut]
    assert [t for x in whole for t in x.tolist()] == tokens
    assert all(1 not in x[1:] for x in whole) and all(x[0] == 1 for x in whole[1:])


# --- tokens and bytes


def test_byte_table_and_stream_are_the_published_ones():
    tokenizer = load_tokenizer(GOLDEN / "tokenizer.model")
    table = tokenizer.byte_table()
    assert np.array_equal(table.bytes_V, EVAL["base_bytes"])
    assert np.array_equal(table.leading_space_V, EVAL["has_leading_space"].astype(bool))
    assert np.array_equal(table.boundary_V, EVAL["is_boundary"].astype(bool))
    stream = np.concatenate([np.concatenate([[tokenizer.bos], tokenizer.encode(text)]) for text in DOCS])
    tokens = EVAL["tokens"]
    assert np.array_equal(stream[: len(tokens)], tokens)
    total = json.loads((GOLDEN / "eval.json").read_text())["total_bytes"]
    assert count_bytes(table, tokens[:-1], tokens[1:]).sum() == total


def test_byte_table_pads_with_silent_boundaries():
    table = LEARNED.byte_table(400)
    assert len(table.bytes_V) == 400 and not table.bytes_V[320:].any() and table.boundary_V[320:].all()


@settings(max_examples=200, deadline=None)
@given(st.lists(any_text, min_size=1, max_size=6))
def test_graded_bytes_are_the_documents_bytes(texts):
    for tokenizer in (LEARNED, ByteTokenizer()):
        parts = [np.concatenate([[tokenizer.bos], tokenizer.encode(text)]).astype(np.uint16) for text in texts]
        stream = np.concatenate(parts)
        for text, part in zip(texts, parts):
            assert tokenizer.decode(part[1:]) == text and tokenizer.raw(part[1:]) == text.encode()
        free = sum(text.startswith(" ") for text in texts) if tokenizer is LEARNED else 0
        total = sum(len(text.encode()) for text in texts) - free
        assert count_bytes(tokenizer.byte_table(), stream[:-1], stream[1:]).sum() == total
        proof = prove(tokenizer, Shards([stream]))
        assert (proof.documents, proof.tokens, proof.bytes, proof.free) == (len(texts), len(stream) - 1, total, free)


@given(st.integers(0, 200), st.integers(1, 400))
def test_a_stream_cut_anywhere_is_still_proved(start, length):
    text = "Größe 😀 ▁ one two\n" * 12
    ids = np.concatenate([[LEARNED.bos], LEARNED.encode(text)] * 2).astype(np.uint16)[start : start + length]
    proof = prove(LEARNED, Shards([ids]))
    assert proof.bytes == count_bytes(LEARNED.byte_table(), ids[:-1], ids[1:]).sum()


def published_like(**options):
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(DOCS), model_writer=written, vocab_size=420, minloglevel=2, num_threads=1, **options
    )
    return SentencePieceTokenizer(written.getvalue())


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_models_with_a_dummy_prefix_are_proved_too(kind):
    tokenizer = published_like(model_type=kind, byte_fallback=True, max_sentence_length=100000)
    texts = [DOCS[0], "Größe 😀", DOCS[1]]
    stream = np.concatenate([np.concatenate([[tokenizer.bos], tokenizer.encode(text)]) for text in texts])
    assert prove(tokenizer, Shards([stream])).bytes == sum(len(text.encode()) for text in texts)


def test_proof_names_the_first_document_that_differs():
    lossy = published_like(model_type="bpe", byte_fallback=False, max_sentence_length=100000)
    texts = [DOCS[0], DOCS[1], "snowman ☃", "😀"]
    stream = np.concatenate([np.concatenate([[lossy.bos], lossy.encode(text)]) for text in texts])
    with pytest.raises(UserError, match="Document number 2 does not encode to itself"):
        prove(lossy, Shards([stream]))


def test_a_table_that_counts_otherwise_proves_nothing(monkeypatch):
    table = LEARNED.byte_table()
    table.bytes_V[LEARNED.encode("e")[0]] = 2
    monkeypatch.setattr(LEARNED, "byte_table", lambda: table, raising=False)
    stream = np.concatenate([np.concatenate([[LEARNED.bos], LEARNED.encode(text)]) for text in ("xyz", "e")])
    proof = prove(LEARNED, Shards([np.append(stream, LEARNED.bos)]))
    assert proof.rests is Rests.TABLE
    assert proof.note == "5 bytes are counted and the text has 4, other first in document number 1"


def test_what_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "a.model").write_bytes(b"nonsense")
    (tmp_path / "b.model").write_bytes(b"")
    for name, said in (
        ("a.model", "not a SentencePiece"),
        ("b.model", "not a"),
        ("c.model", "no tokenizer"),
        ("d", "model file"),
    ):
        with pytest.raises(UserError, match=said):
            load_tokenizer(tmp_path / name)


# --- learning


def test_learning_keeps_within_the_vocabulary_on_text_of_many_characters():
    draw = np.random.default_rng(0)
    texts = ["".join(chr(0x4E00 + int(c)) for c in draw.zipf(1.3, 3000) % 4000) for _ in range(4)]
    tokenizer = train_bpe(texts, vocab=400)
    assert tokenizer.vocab == 400 and all(tokenizer.decode(tokenizer.encode(text)) == text for text in texts)


@given(any_text.map(lambda text: text * 40))
def test_chunks_lose_only_the_characters_not_kept(text):
    kept = frequent_characters([text], at_most=4)
    parts = list(chunks([text], kept))
    assert "".join(parts) == "".join(c for c in text if c in kept)
    assert all(0 < len(part) <= 1000 for part in parts) and not set(kept) & set("\n\0▁")


def test_too_large_a_vocabulary_is_told_the_largest_that_fits():
    with pytest.raises(UserError, match=r"at most (\d+)") as caught:
        train_bpe(["some little text"], vocab=1024)
    most = int(str(caught.value).split("at most ")[1].split(",")[0])
    assert train_bpe(["some little text"], vocab=most).vocab == most


# --- stream


@given(st.integers(1, 300), st.integers(0, 2**64 - 1))
def test_permute_is_a_permutation(size, key):
    assert sorted(permute(np.arange(size), size=size, key=key).tolist()) == list(range(size))


@given(st.integers(1, 300), st.integers(0, 2**64 - 1))
def test_stride_is_a_permutation_of_equal_steps(size, key):
    places = stride(np.arange(size), size=size, key=key)
    assert sorted(places.tolist()) == list(range(size))
    assert len(np.unique(np.diff(places) % size)) <= 1


@given(st.integers(9, 90), st.integers(1, 4), st.integers(0, 99), st.sampled_from([Shuffled(), Strided()]))
def test_every_window_is_visited_once_per_epoch(tokens, rows, seed, order):
    source = Shards([np.arange(tokens, dtype=np.uint16)])
    stream = TrainStream(source, batch_tokens=8 * rows, seq_len=8, seed=seed, order=order)
    per_epoch = (tokens - 1) // 8
    steps = -(-3 * per_epoch // rows)
    seen = np.concatenate([stream.batch(step)[1].numpy() for step in range(steps)])
    for epoch in range(3):
        windows = seen[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert len(np.unique(windows)) == windows.size == 8 * per_epoch


@pytest.mark.parametrize("order", [Shuffled(), Strided()])
def test_epochs_differ_and_seeds_differ(order):
    starts = {
        (seed, epoch): tuple(order.starts(MicroBatch(1000 * epoch, epoch, 1000, 8, 8001, seed)).tolist())
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    assert len(set(starts.values())) == 4
    assert len({places[0] % 8 for places in starts.values()}) > 1


@pytest.mark.parametrize("order", [Sequential(), Shuffled(), Strided()])
def test_batch_depends_on_seed_and_step_alone_and_targets_follow_inputs(order):
    source = Shards([np.arange(500, dtype=np.uint16)])
    make = lambda: TrainStream(source, batch_tokens=64, seq_len=16, seed=3, order=order)  # noqa: E731
    one, other = make(), make()
    later = [one.batch(step) for step in range(12)][7]
    again = other.batch(7)
    assert torch.equal(later[0], again[0]) and torch.equal(later[1], again[1])
    assert again[0].shape == (4, 16) and again[0].dtype == torch.int64
    assert torch.equal(again[1], (again[0] + 1) % 500)


@given(st.sampled_from([(2, 1), (4, 1), (1, 4), (2, 2), (8, 1), (2, 4)]), st.integers(0, 30))
def test_shuffled_global_batch_is_the_same_in_any_world(shape, step):
    world, accumulation = shape
    source = Shards([np.arange(701, dtype=np.uint16)])
    options = {"batch_tokens": 128, "seq_len": 16, "seed": 5}
    alone = TrainStream(source, **options).batch(step)
    ranks = [
        TrainStream(source, **options, rank=rank, world=world, accumulation=accumulation).batch(step)
        for rank in range(world)
    ]
    for side in (0, 1):
        assert torch.equal(torch.cat([batch[side] for batch in ranks]), alone[side])


@pytest.mark.parametrize(("world", "accumulation"), [(1, 8), (2, 4), (8, 1)])
def test_sequential_is_the_published_loader(world, accumulation):
    ring = np.arange(1000, dtype=np.uint16)
    spans = []
    for rank in range(world):
        stream = TrainStream(
            Shards([ring[:400], ring[400:]]),
            batch_tokens=128,
            seq_len=8,
            seed=0,
            order=Sequential(),
            rank=rank,
            world=world,
            accumulation=accumulation,
        )
        position = 0
        for step in range(10):
            for index in range(accumulation):
                taken = np.resize(ring, 4000)[position : position + world * 17]
                span = taken[rank * 17 : (rank + 1) * 17].astype(np.int64)
                x_BT, y_BT = stream.micro(step, index)
                assert np.array_equal(x_BT.numpy(), span[:-1].reshape(-1, 8))
                assert np.array_equal(y_BT.numpy(), span[1:].reshape(-1, 8))
                position += world * 17
                spans += [int(span[0])] if step == 4 else []
    assert sorted(spans) == sorted((4 * 8 + i) * 17 % 1000 for i in range(8))


def test_batches_that_cannot_be_cut_are_refused():
    source = Shards([np.arange(16, dtype=np.uint16)])
    with pytest.raises(UserError, match="multiple of 32"):
        TrainStream(source, batch_tokens=40, seq_len=8, seed=0, world=4)
    with pytest.raises(UserError, match="16 tokens and a sequence needs 17"):
        TrainStream(source, batch_tokens=16, seq_len=16, seed=0)
    x_BT, _ = TrainStream(source, batch_tokens=64, seq_len=8, seed=0, order=Sequential()).batch(0)
    assert x_BT.flatten().tolist() == [i % 16 for i in range(64)]


# --- sources and prepare


def test_embedded_corpus_has_the_stated_size():
    documents = embedded()
    held_out = [document for document in documents if validates(document.id)]
    assert (len(documents), sum(len(d.text.encode()) for d in documents)) == (233, 10_761_158)
    assert (len(held_out), sum(len(d.text.encode()) for d in held_out)) == (26, 1_025_229)
    for document in documents:
        rule = int(hashlib.sha256(document.id.encode()).hexdigest(), 16) % 10 == 0
        assert validates(document.id) == rule


def test_every_kind_of_file_is_read_and_nothing_else(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    line = json.dumps({"text": "line\n☃"}).encode() + b"\n\n" + json.dumps({"id": 7, "text": "named"}).encode()
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfplain\r\n")
    (tmp_path / "sub" / "B.TXT.GZ").write_bytes(gzip.compress(b"packed"))
    (tmp_path / "c.jsonl").write_bytes(line)
    (tmp_path / "d.jsonl.xz").write_bytes(lzma.compress(line))
    (tmp_path / "e.txt.zst").write_bytes(zstd.compress(b"zst") + zstd.compress(b"two"))
    (tmp_path / "f.md").write_bytes(b"\xff")  # about the tables, and so left out
    (tmp_path / "f.pdf").write_bytes(b"\xff")
    (tmp_path / ".hidden" / "g.txt").write_bytes(b"\xff")
    read = list(read_documents(find_files([tmp_path, tmp_path / "a.txt"])))
    assert read == [
        Document("a.txt", "plain\r\n"),
        Document("c.jsonl:1", "line\n☃"),
        Document("7", "named"),
        Document("d.jsonl.xz:1", "line\n☃"),
        Document("7#2", "named"),
        Document("e.txt.zst", "zsttwo"),
        Document("sub/B.TXT.GZ", "packed"),
        Document("a.txt#2", "plain\r\n"),
    ]


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("a.txt", b"caf\xe9", r"a\.txt is not UTF-8 \(byte 3\)"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 1}\n', r'a\.jsonl:2 has no "text"'),
        ("a.jsonl", b"[" * 5000, r"a\.jsonl:1 is not JSON"),
        ("a.jsonl", b'{"text": "\\ud800 x"}', r"'a\.jsonl:1' holds a lone surrogate"),
        ("a.txt.xz", lzma.compress(b"x" * 99)[:-9], "does not unpack"),
        ("a.txt.gz", gzip.compress(b"x" * 99, mtime=0)[:-9], "does not unpack"),
        ("a.txt.zst", b"nonsense", "does not unpack"),
        ("a.pdf", b"x", r"of no kind that is read: \.txt, "),
        ("a.txt", b" \n\n", "hold no text"),
        ("a.jsonl", b'{"text": ""}', "hold no text"),
        ("a.txt", b"x", "nothing to split"),
        ("a.txt", b"short text", r"too small for 1024 pieces: it supports at most \d+"),
    ],
)
def test_bad_text_is_named_and_leaves_nothing_behind(tmp_path, name, raw, said):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(UserError, match=said):
        fill([tmp_path / name], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_sources_that_are_not_there_or_empty_are_refused(tmp_path):
    for sources, said in (
        ([], "No documents"),
        ([tmp_path], "holds no file of a kind"),
        ([tmp_path / "x"], "There is no"),
    ):
        with pytest.raises(UserError, match=said):
            fill(sources, tmp_path / "out")
    for fraction in (0, 1, -1, 0.0001, float("nan")):
        with pytest.raises(UserError, match="validation fraction"):
            fill(["embedded"], tmp_path / "out", val_fraction=fraction)


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("messy")
    odd = ["", " \n", " leading\nline ▁ mark", "nul\0 \x07 \u2028", "😀" * 500, "x" * 20000, "Größe\r\n\ttab", "a", "a"]
    lines = [json.dumps({"id": f"odd-{i}", "text": text}) for i, text in enumerate(odd)]
    (folder / "odd.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "docs.jsonl.xz").write_bytes(
        lzma.compress("\n".join(json.dumps({"text": text}) for text in DOCS).encode())
    )
    (folder / "copy.txt").write_text(DOCS[3], encoding="utf-8", newline="")
    return folder


def test_messy_folder_is_prepared_whole(messy, tmp_path):
    data = fill([messy], tmp_path / "out", vocab=400)
    originals = {document.id: document.text for document in read_documents(find_files([messy]))}
    rows = data.rows("train") + data.rows("val")
    assert data.meta["dropped"] == {
        "duplicates": len(originals) - 2 - len(rows),
        "blank": 2,
        "unused": 0,
        "near_copies": 0,
    }
    assert {originals[row.id] for row in rows} == {text for text in originals.values() if text.strip()}
    for split, shards in (("train", data.train), ("val", data.val)):
        documents = [data.tokenizer.decode(span[1:]) for span in shards.documents(data.bos)]
        assert documents == [originals[row.id] for row in data.rows(split)]
        assert all(validates(row.id) == (split == "val") for row in data.rows(split))
        assert data.prove(split).bytes + data.prove(split).free == data.meta["splits"][split]["bytes"]
    assert [finding.name for finding in check(data.path) if not finding.ok] == []


def test_tokenizer_never_sees_validation(messy, tmp_path):
    first = fill([messy], tmp_path / "one", vocab=400)
    held_out, trained = ({row.id for row in first.rows(split)} for split in ("val", "train"))
    changed = tmp_path / "changed.jsonl"
    with changed.open("w", encoding="utf-8") as file:
        for document in read_documents(find_files([messy])):
            if document.id not in held_out | trained:
                continue  # changing a document must not bring back the duplicates that it kept out
            text = document.text.upper() + "QQ" if document.id in held_out else document.text
            file.write(json.dumps({"id": document.id, "text": text}) + "\n")
    second = fill([changed], tmp_path / "two", vocab=400)
    assert second.tokenizer.digest == first.tokenizer.digest
    assert (first.path / "text_val_000000.bin").read_bytes() != (second.path / "text_val_000000.bin").read_bytes()


def test_same_sources_give_the_same_bytes_in_shards_of_any_size(messy, tmp_path, monkeypatch):
    one = fill([messy], tmp_path / "one", vocab=400)
    assert contents(one.path) == contents(fill([messy], tmp_path / "two", vocab=400).path)
    monkeypatch.setattr(prepare_module, "SHARD_TOKENS", 1000)
    small = fill([messy], tmp_path / "small", vocab=400)
    assert {len(part) for part in small.train.parts[:-1]} == {1000} and len(small.train.parts) > 3
    assert np.array_equal(small.train.take(0, len(small.train)), one.train.take(0, len(one.train)))


def test_data_is_replaced_only_when_forced_and_nothing_else_ever(messy, tmp_path):
    out = tmp_path / "out"
    before = contents(fill([messy], out, vocab=300).path)
    with pytest.raises(UserError, match="already holds data"):
        fill([messy], out, vocab=320)
    with pytest.raises(UserError, match="too small"):
        fill([messy], out, vocab=60000, force=True)
    assert contents(out) == before
    assert fill([messy], out, vocab=320, force=True).vocab == 320
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        fill([messy], out, vocab=300, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_stopping_halfway_leaves_nothing(messy, tmp_path):
    work = prepare([messy], tmp_path / "out", vocab=300)
    while next(work).task != "learning the tokenizer":
        pass
    work.close()
    assert list(tmp_path.iterdir()) == []


@given(st.integers(1, 9), st.text("ab \n", min_size=2, max_size=80).filter(lambda text: text.strip()))
@settings(max_examples=40, deadline=None)
def test_a_lone_document_is_cut_in_two(tmp_path_factory, tenth, text):
    folder = tmp_path_factory.mktemp("one")
    (folder / "a.txt").write_text(text, encoding="utf-8", newline="")
    data = fill([folder], folder / "out", vocab=257, val_fraction=tenth / 10)
    train, val = (data.tokenizer.decode(split.take(0, len(split))) for split in (data.train, data.val))
    assert train + val == text and train and val


def test_a_long_lone_document_is_cut_between_lines(tmp_path):
    text = "".join(f"line number {i}\n" for i in range(500))
    (tmp_path / "a.txt").write_text(text, newline="")
    data = fill([tmp_path], tmp_path / "out", vocab=300)
    assert [row.id for row in data.rows("val")] == ["a.txt#val"]
    assert data.tokenizer.decode(data.train.take(0, len(data.train))).endswith("\n")
    assert 0.08 < data.meta["splits"]["val"]["bytes"] / len(text) < 0.12


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_no_split_stays_empty(tmp_path, fraction):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"text {name}")
    data = fill([tmp_path], tmp_path / "out", vocab=257, val_fraction=fraction)
    assert sorted([len(data.rows("train")), len(data.rows("val"))]) == [1, 2]


@given(share=st.integers(1, 999), more=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_less_text_to_train_on_is_part_of_more_and_scored_on_the_same(tmp_path_factory, share, more):
    folder = tmp_path_factory.mktemp("share")
    (folder / "docs.jsonl").write_text("".join(json.dumps({"id": f"d{i}", "text": f"t {i}"}) + "\n" for i in range(60)))
    source, shares = folder / "docs.jsonl", [share / 1000, min(share + more, 1000) / 1000, 1]
    try:
        data = [fill([source], folder / f"out{i}", vocab=257, train_fraction=f) for i, f in enumerate(shares)]
    except UserError as error:
        assert "takes none" in str(error) and share < 200
        return
    few, some, everything = ({row.id for row in each.rows("train")} for each in data)
    assert few <= some <= everything
    assert len({tuple(row.id for row in each.rows("val")) for each in data}) == 1
    assert data[0].meta["dropped"]["unused"] == len(everything) - len(few)
    assert abs(len(few) / len(everything) - shares[0]) < 0.25


def test_a_share_to_train_on_is_of_whole_documents(tmp_path):
    (tmp_path / "a.txt").write_text("one text\nof two lines")
    with pytest.raises(UserError, match="single document"):
        fill([tmp_path], tmp_path / "out", vocab=257, train_fraction=0.5)
    for share in (0, 1.1, -1, float("nan")):
        with pytest.raises(UserError, match="training fraction"):
            fill([tmp_path], tmp_path / "out", vocab=257, train_fraction=share)


# --- folder, overlap, check


def official(root, texts, *, val=DOCS[-3:]):
    folder = root / "datasets" / "fineweb10B_sp384"
    folder.mkdir(parents=True)
    (root / "tokenizers").mkdir()
    (root / "tokenizers" / "fineweb_384_bpe.model").write_bytes((GOLDEN / "tokenizer.model").read_bytes())
    (root / "tokenizers" / "fineweb_1384_bpe.model").write_bytes(b"other")
    tokenizer = load_tokenizer(GOLDEN / "tokenizer.model")
    write_stream(folder / "fineweb_train_000000.bin", tokenizer, texts)
    write_stream(folder / "fineweb_val_000000.bin", tokenizer, val)
    return folder


def test_official_layout_opens_unchanged(tmp_path):
    data = open_data(official(tmp_path, DOCS[:5]))
    assert data.vocab == 384 and data.bos == 1 and data.rows("val") is None and data.meta == {}
    assert data.prove().bytes == sum(len(text.encode()) for text in DOCS[-3:]) - sum(t[0] == " " for t in DOCS[-3:])


def test_scoring_needs_no_training_shard(tmp_path):
    folder = official(tmp_path, DOCS[:5])
    (folder / "fineweb_train_000000.bin").unlink()
    data = open_data(folder)
    assert len(data.val) > 0
    with pytest.raises(UserError, match="train"):
        data.train  # noqa: B018


def test_folders_without_a_tokenizer_or_with_a_foreign_one_say_so(messy, tmp_path):
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    write_shard(tmp_path / "a" / "b" / "c" / "x_val_0.bin", np.arange(5))
    with pytest.raises(UserError, match="No tokenizer was found"):
        open_data(tmp_path / "a" / "b" / "c").tokenizer  # noqa: B018
    with pytest.raises(UserError, match="no data folder"):
        open_data(tmp_path / "nowhere")
    data = fill([messy], tmp_path / "out", vocab=300)
    (data.path / "tokenizer.model").write_bytes((GOLDEN / "tokenizer.model").read_bytes())
    with pytest.raises(UserError, match=r"384 pieces and its meta\.json says 300"):
        open_data(data.path).tokenizer  # noqa: B018
    for raw in (b"{", b"[]", b'{"format": 99}'):
        (data.path / "meta.json").write_bytes(raw)
        with pytest.raises(UserError, match=r"meta\.json"):
            open_data(data.path)


@given(st.lists(st.integers(0, 3), max_size=60))
def test_ngram_hashes_are_equal_where_ngrams_are_and_stop_at_documents(tokens):
    array = np.array(tokens, dtype=np.uint16)
    runs = [tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)]
    runs = [run for run in runs if 1 not in run]
    hashes = hash_ngrams(array, 1).tolist()
    assert len(hashes) == len(runs) and len(set(zip(runs, hashes))) == len(set(runs)) == len(set(hashes))


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=30))
def test_distinct_hashes_stand_once_each_in_order(hashes):
    assert distinct(np.array(hashes, dtype=np.uint64)).tolist() == sorted(set(hashes))


def test_overlap_counts_what_a_plain_set_counts_and_finds_planted_copies(tmp_path, monkeypatch):
    monkeypatch.setattr("pargolf.data.shards.BLOCK", 50)
    half = DOCS[10][: len(DOCS[10]) * 3 // 4]
    val = [DOCS[20], DOCS[10], DOCS[30], DOCS[0][:40] + DOCS[21] + DOCS[22]]
    data = open_data(official(tmp_path, [*DOCS[:9], half + " and more", DOCS[30]], val=val))
    runs = {tuple(s[i : i + GRAM].tolist()) for s in data.train.documents(1) for i in range(1, len(s) - GRAM + 1)}
    spans = list(data.val.documents(1))
    shared = [sum(tuple(s[i : i + GRAM].tolist()) in runs for i in range(1, len(s) - GRAM + 1)) for s in spans]
    overlap = check_overlap(data)
    by_id = {one.id: one for one in overlap.worst}
    assert [by_id[f"number {i}"].shared for i in range(4)] == shared and overlap.shared == sum(shared)
    assert [one.id for one in overlap.copied] == ["number 2", "number 1"] and overlap.found
    assert [one.identical for one in overlap.copied] == [True, False]
    failed = {finding.name: finding.summary for finding in check(data.path) if not finding.ok}
    assert list(failed) == ["overlap"] and "number 2" in failed["overlap"]


def test_clean_official_data_passes_its_check_and_gives_the_constant(tmp_path):
    findings = {finding.name: finding for finding in check(official(tmp_path, DOCS[:50]))}
    assert all(finding.ok for finding in findings.values())
    numbers = findings["bytes"].numbers
    assert numbers["constant"] == pytest.approx(np.log(2) * numbers["bytes"] / numbers["tokens"], rel=1e-12)
    assert bpb_constant(62_021_632, 151_080_363) == pytest.approx(1.6884581, abs=5e-8)


def test_check_finds_each_kind_of_damage(messy, tmp_path):
    data = fill([messy], tmp_path / "out", vocab=300)
    train, val = data.path / "text_train_000000.bin", data.path / "text_val_000000.bin"
    good = contents(data.path)

    def failing():
        return {finding.name for finding in check(data.path) if not finding.ok}

    assert failing() == set()
    train.write_bytes(good[train.name][:-2])
    assert failing() == {"train shards", "recorded hashes", "overlap"}
    tokens = ShardFile(val)[:]
    tokens[5] = 300
    train.write_bytes(good[train.name])
    write_shard(val, tokens)
    assert {"val shards", "bytes", "overlap", "recorded hashes"} <= failing()
    tokens[5] = tokens[6]
    write_shard(val, tokens)
    assert {"bytes", "recorded hashes"} <= failing()
