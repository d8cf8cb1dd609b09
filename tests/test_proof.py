"""What bytes rest on: real and made-up data whose count is wrong, and what each must give.

`cases/no_space_piece.model` is the tokenizer of pull request 755 of openai/parameter-golf, which has no piece for the
space; `cases/text.jsonl` is made-up text.
"""

import io
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import small
from batteries.moving_data import change

import pargolf
from pargolf.core.errors import UserError
from pargolf.core.files import cache_folder
from pargolf.core.result import Rests
from pargolf.core.spec import edit
from pargolf.data import content, official, proof
from pargolf.data.byte_table import SPACE_MARK, count_bytes
from pargolf.data.check import check
from pargolf.data.folder import open_data
from pargolf.data.prepare import prepare
from pargolf.data.shards import ShardFile, write_shard
from pargolf.data.tokenizer_files import open_tokenizer
from pargolf.data.tokens import SentencePieceTokenizer, load_tokenizer
from pargolf.run.score import proving_text, score_together

CASES = Path(__file__).parent / "cases"
TEXTS = [json.loads(line)["text"] for line in (CASES / "text.jsonl").read_text(encoding="utf-8").splitlines()]
VAL, TRAIN = TEXTS[:7], TEXTS[7:]
VAL_BYTES = 4128
PUBLISHED = {"model_type": "bpe", "character_coverage": 0.999, "byte_fallback": True, "split_digits": True} | {
    "normalization_rule_name": "nmt_nfkc",
    "add_dummy_prefix": False,
    "pad_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "unk_id": 3,
    "hard_vocab_limit": False,
}
"""The settings of the published tokenizers (openai/parameter-golf, `data/download_hf_docs_and_tokenize.py`)."""


def learned(vocab=400, texts=TRAIN, **options):
    """A SentencePiece model of our own making, with any settings."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in texts for line in text.split("\n")]),
        model_writer=written,
        vocab_size=vocab,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    return written.getvalue()


pytestmark = pytest.mark.usefixtures("quick_code", "quick_page")
BACKWARDS = [text[::-1] for text in TRAIN]
PHRASES = [f"{i} of the people by the people {'for the people ' * (i % 5)}in the union of {i * i}" for i in range(99)]


@pytest.fixture(scope="session")
def model():
    return learned(**PUBLISHED)


@pytest.fixture(scope="session")
def other():
    """A tokenizer of the same size that learned other pieces."""
    return learned(texts=BACKWARDS, **PUBLISHED)


def stream(tokenizer, texts):
    return np.concatenate([np.concatenate([[tokenizer.bos], tokenizer.encode(text)]) for text in texts])


def export(folder, proto, *, val=VAL, train=TRAIN, written_by=None):
    """A folder as the published exporter leaves it: shards and a tokenizer, and no record of the documents."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(proto)
    tokenizer = SentencePieceTokenizer(written_by or proto)
    write_shard(folder / "fineweb_train_000000.bin", stream(tokenizer, train))
    write_shard(folder / "fineweb_val_000000.bin", stream(tokenizer, val))
    return folder


def trained(folder, out, **changes):
    return pargolf.train(edit(small.RECIPE, {"train.steps": 1, **changes}), data=folder, out=out, seed=1).result()


def failed(folder):
    """The checks that do not hold, with what they say."""
    return {finding.name: finding.summary for finding in check(folder) if not finding.ok}


# ---- the text that tokens decode to


def test_shards_as_published_are_proved_by_a_round_trip(model, tmp_path):
    proved = open_data(export(tmp_path / "data", model)).prove()
    assert (proved.rests, proved.note, proved.documents) == (Rests.ROUND_TRIP, "", 7)
    assert proved.bytes == sum(len(" ".join(text.split()).encode()) for text in VAL)  # it turns newlines into spaces
    assert failed(tmp_path / "data") == {}


@pytest.mark.parametrize("normalizer", ["identity", "nmt_nfkc"])
@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("spaces", [True, False])
def test_what_a_tokenizer_changes_before_it_cuts_is_no_matter(normalizer, prefix, spaces, tmp_path):
    """The text that is counted is the one that the tokens say, as the exporter's own call to the library made them."""
    how = {"normalization_rule_name": normalizer, "add_dummy_prefix": prefix, "remove_extra_whitespaces": spaces}
    texts = [" two  spaces, ﬁ, ½ and Ⅷ\n\n", "a", *VAL[:2]]
    proved = open_data(export(tmp_path / "data", learned(**PUBLISHED | how), val=texts)).prove()
    tokenizer = load_tokenizer(tmp_path / "data" / "tokenizer.model")
    decoded = [tokenizer.decode(tokenizer.encode(text)) for text in texts]
    assert proved.rests is Rests.ROUND_TRIP and proved.documents == 4
    assert proved.bytes + proved.free == sum(len(text.encode()) for text in decoded)


def test_the_mark_that_stands_for_a_space_is_no_document_lost(model, tmp_path):
    """U+2581 in a text is a space to the published tokenizers, and is counted as the one that they decode it to."""
    proved = open_data(export(tmp_path / "data", model, val=["▁ itself", "a ▁▁▂▃ b", *VAL])).prove()
    assert proved.rests is Rests.ROUND_TRIP and proved.documents == 9


def test_a_space_that_is_spelled_in_bytes_counts_once_or_proves_nothing(tmp_path):
    """Its table counts 5,347 bytes (5,354 with each document's dummy space) for a text of 4,128."""
    folder = export(tmp_path / "data", (CASES / "no_space_piece.model").read_bytes())
    data = open_data(folder)
    counted = int(count_bytes(data.byte_table, data.val[:-1], data.val[1:]).sum())
    assert sum(len(text.encode()) for text in VAL) == VAL_BYTES < counted
    proved = data.prove()
    assert proved.rests is Rests.TABLE
    assert f"{counted:,} bytes are counted and the text has {VAL_BYTES:,}" in proved.note
    result = trained(folder, tmp_path / "run")
    assert not result.legal and result.proof.rests is Rests.TABLE and proved.note in result.sentence
    row = pargolf.score(tmp_path / "run" / "model.pargolf", data=folder).result()
    assert row["legal"] is False and row["proof"]["rests"] == "table" and row["proof"]["note"] == proved.note
    assert proved.note in failed(folder)["bytes"]


def test_shards_beside_another_tokenizer_of_the_same_size_are_refused(model, other, tmp_path):
    assert SentencePieceTokenizer(other).vocab == SentencePieceTokenizer(model).vocab
    folder = export(tmp_path / "data", other, written_by=model)
    line = r"Document number 0 does not encode to itself.*another tokenizer"
    with pytest.raises(UserError, match=line):
        trained(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    trained(export(tmp_path / "good", other), tmp_path / "run")
    with pytest.raises(UserError, match=line):
        pargolf.score(tmp_path / "run" / "model.pargolf", data=folder).result()
    assert "does not encode to itself" in failed(folder)["bytes"]


def test_a_few_documents_that_do_not_encode_to_themselves_make_it_unproved(model, tmp_path):
    tokenizer = SentencePieceTokenizer(model)
    letters = np.concatenate([tokenizer.encode(letter) for letter in "cutara"])  # spelled out, as nobody encodes it
    assert tokenizer.decode(letters) == "cutara" and len(letters) > len(tokenizer.encode("cutara"))
    folder = export(tmp_path / "data", model, val=TEXTS)
    good = stream(tokenizer, TEXTS)
    write_shard(folder / "fineweb_val_000000.bin", np.concatenate([[tokenizer.bos], letters, good]))
    proved = open_data(folder).prove()
    assert proved.rests is Rests.TABLE
    assert proved.note == "1 of 61 documents do not encode to themselves, first number 0"


def test_an_inner_space_is_one_byte(tmp_path):
    exact = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    proto = learned(texts=PHRASES, split_by_whitespace=False, **PUBLISHED | exact)
    tokenizer = SentencePieceTokenizer(proto)
    pieces = [tokenizer._model.id_to_piece(i) for i in range(tokenizer.vocab)]
    inner = np.array(["▁" in piece[1:] for piece in pieces])
    assert inner[stream(tokenizer, PHRASES)].sum() > 20
    proved = open_data(export(tmp_path / "theirs", proto, val=PHRASES)).prove()
    assert (proved.rests, proved.bytes) == (Rests.ROUND_TRIP, sum(len(text.encode()) for text in PHRASES))
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in PHRASES))
    (tmp_path / "own.model").write_bytes(proto)
    for _ in prepare([tmp_path / "text.jsonl"], tmp_path / "ours", tokenizer=tmp_path / "own.model"):
        pass
    ours = open_data(tmp_path / "ours")
    result = trained(ours.path, tmp_path / "run")
    assert result.proof.rests is Rests.DOCUMENTS and result.legal
    assert result.val_bytes == ours.meta["splits"]["val"]["bytes"] == sum(row.bytes for row in ours.rows("val"))


@pytest.mark.parametrize("cut", [1, 3, 40])
def test_a_split_that_ends_inside_a_document_is_proved_up_to_there(model, tmp_path, cut):
    folder = export(tmp_path / "data", model)
    write_shard(folder / "fineweb_val_000000.bin", open_data(folder).val[:-cut])
    proved = open_data(folder).prove()
    assert proved.rests is Rests.ROUND_TRIP and proved.documents == 7


def test_one_cut_document_proves_nothing_of_another_tokenizers_shards(model, other, tmp_path):
    folder = export(tmp_path / "data", other, written_by=model, val=[VAL[0][:30]])
    assert open_data(folder).prove().rests is Rests.TABLE
    write_shard(folder / "fineweb_val_000000.bin", stream(SentencePieceTokenizer(model), VAL[:1]))
    with pytest.raises(UserError, match="does not encode to itself"):
        open_data(folder).prove()


# ---- which files a split is made of


def refused(folder, line):
    """Training, scoring's proof and `data check` all say it."""
    with pytest.raises(UserError, match=line) as caught:
        trained(folder, folder.parent / "run")
    assert "\n" not in str(caught.value) and not (folder.parent / "run").exists()
    assert any(str(caught.value) == said for said in failed(folder).values())


def test_a_copy_of_a_shard_is_named(model, tmp_path):
    folder = export(tmp_path / "data", model)
    copy = folder / "fineweb_val_000000 (1).bin"
    shutil.copy(folder / "fineweb_val_000000.bin", copy)
    refused(folder, r"fineweb_val_000000 \(1\)\.bin is beside fineweb_val_000000\.bin")
    copy.rename(folder / "fineweb_val_000001.bin")
    refused(folder, r"fineweb_val_000001\.bin holds the same tokens as fineweb_val_000000\.bin")
    (folder / "fineweb_val_000001.bin").rename(folder / "other_val_000000.bin")
    refused(folder, r"two sets of val shards, fineweb_val_000000\.bin and other_val_000000\.bin")


def test_a_training_shard_twice_or_missing_is_named(model, monkeypatch, tmp_path):
    folder = export(tmp_path / "data", model)
    shutil.copy(folder / "fineweb_train_000000.bin", folder / "fineweb_train_000001.bin")
    refused(folder, r"fineweb_train_000001\.bin holds the same tokens as fineweb_train_000000\.bin")
    shutil.copy(folder / "fineweb_val_000000.bin", folder / "fineweb_train_000001.bin")
    monkeypatch.setattr("pargolf.run.pipeline.CHECKED_TOKENS", 0)
    refused(folder, r"fineweb_val_000000\.bin holds the same tokens as fineweb_train_000001\.bin")
    tokens = open_data(export(tmp_path / "other", model)).train[:]
    write_shard(folder / "fineweb_train_000000.bin", tokens[:2000])
    (folder / "fineweb_train_000001.bin").unlink()
    write_shard(folder / "fineweb_train_000002.bin", tokens[2000:3000])
    write_shard(folder / "fineweb_train_000009.bin", tokens[3000:])
    refused(folder, r"holds 3 train shards and lacks number 1, 3, 4, 5, 6, 7, 8:")


def test_validation_without_bos_or_of_one_token_is_one_line(model, tmp_path):
    folder = export(tmp_path / "data", model)
    val = open_data(folder).val[:]
    for tokens in (val[val != 1], val[1:]):
        write_shard(folder / "fineweb_val_000000.bin", tokens)
        refused(folder, r"begins with token \d+, not with BOS \(1\)")
    for count in (1, 2):
        write_shard(folder / "fineweb_val_000000.bin", val[:count])
        with pytest.raises(UserError, match=r"nothing to score|fewer than one window"):
            trained(folder, tmp_path / "run")
        check(folder)


def test_a_name_that_a_split_does_not_live_up_to_is_said(tmp_path):
    proto = (CASES / "no_space_piece.model").read_bytes()
    folder = export(tmp_path / "fineweb10B_sp1024", proto)
    proved = open_data(folder).prove()
    assert "scores 62,021,632 or 63,779,840 tokens, and this one has" in proved.note
    assert official.doubt_of_length("fineweb10B_sp1024", 1024, 62_021_846) == ""
    assert "does not compare" in official.doubt_of_length("fineweb10B_sp1024", 1024, 62_021_845)
    assert official.doubt_of_length("fineweb10B_sp8192", 8192, 40_540_161) == ""
    assert "does not compare" in official.doubt_of_length("fineweb10B_sp8192", 8192, 40_540_160)
    assert official.doubt_of_length("mine", 1024, 17) == official.doubt_of_length("fineweb10B_sp300", 300, 17) == ""


def test_official_totals_agree_with_each_other():
    assert official.TEXT_BYTES - official.SP1024.bytes == 270
    assert official.SP1024.tokens - 1 - official.SP1024.scored == 213
    left = official.TEXT_BYTES - official.CASEOPS.bytes  # what less than one window leaves at the end
    per_token = official.CASEOPS.bytes / official.CASEOPS.scored
    assert 0 < left / per_token < 2048


def test_a_published_split_is_known_by_its_hashes(model, monkeypatch, tmp_path):
    folder = export(tmp_path / "data", model)
    data = open_data(folder)
    shards, size = tuple(data.val_hashes.values()), data.prove().bytes
    known = official.Official("made up", 400, len(data.val) - 1, size, len(data.val), shards, data.tokenizer.digest)
    monkeypatch.setattr(official, "SPLITS", (known,))
    assert (open_data(folder).prove().rests, open_data(folder).prove().bytes) == (Rests.PUBLISHED, size)
    monkeypatch.setattr(official, "SPLITS", (replace(known, bytes=size + 1),))
    with pytest.raises(UserError, match="The published split made up has"):
        open_data(folder).prove()
    assert all(not split.shards_sha256 for split in (official.SP1024, official.CASEOPS))  # none is known; none made up


# ---- what was proved is what is scored


def test_hashes_are_those_of_the_files(data, run):
    folder = open_data(data)
    out, result = run
    shards, tokenizer = folder.meta["sha256"]["text_val_000000.bin"], folder.meta["sha256"]["tokenizer.model"]
    expected = {"rests": "documents", "note": "", "lossless": True} | {
        "shards_sha256": {"text_val_000000.bin": shards},
        "tokenizer_sha256": tokenizer,
    }
    assert asdict(result.proof) == expected == pargolf.score(out / "model.pargolf", data=data).result()["proof"]
    log = (out / "train.log").read_text()
    assert f"sha256 text_val_000000.bin: {shards}\nsha256 tokenizer: {tokenizer}" in log
    assert f"{result.val_bytes} bytes, which rest on: documents" in log


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("way", ["in place", "cut", "replaced", "removed"])
def test_validation_that_changes_after_the_proof_ends_the_scoring(data, tmp_path, monkeypatch, resident, way):
    monkeypatch.setattr(content, "RESIDENT_BYTES", 1 << 30 if resident else 0)
    shutil.copytree(data, tmp_path / "data")
    text = proof.finish(proving_text(open_data(tmp_path / "data")))
    before = text.tokens[:]
    change(tmp_path / "data" / "text_val_000000.bin", way)
    model = small.model(vocab=300).build(0)
    with pytest.raises(UserError, match=r"text_val_000000\.bin was changed while it was in use"):
        list(score_together(model, text, small.RECIPE.plain))
    if resident:
        assert np.array_equal(text.tokens[:], before)
    else:
        with pytest.raises(UserError, match="was changed while it was in use"):
            text.tokens[10:20]


@pytest.mark.parametrize("way", ["in place", "cut", "replaced"])
def test_training_data_that_changes_ends_the_run_which_others_cannot_resume(data, tmp_path, way):
    shutil.copytree(data, tmp_path / "data")
    shard = tmp_path / "data" / "text_train_000000.bin"
    whole = shard.read_bytes()
    recipe = edit(small.RECIPE, {"train.steps": 4})
    begin = lambda **how: pargolf.train(recipe, data=tmp_path / "data", out=tmp_path / "run", seed=1, **how)  # noqa: E731
    events = begin()
    while not isinstance(event := next(events), pargolf.core.events.Step) or event.step < 2:
        pass
    change(shard, way)
    with pytest.raises(UserError, match=r"text_train_000000\.bin was changed .* Its state is kept in") as caught:
        list(events)
    assert "\n" not in str(caught.value)
    if way != "cut":  # another text of the same length
        with pytest.raises(UserError, match="was begun with train_sha256"):
            list(begin(resume=True))
        return
    shard.write_bytes(whole)
    result = begin(resume=True).result()
    (tmp_path / "run").rename(tmp_path / "broken")
    straight = begin().result()
    assert result.val_bpb == straight.val_bpb


def test_a_sample_of_a_large_shard_sees_both_ends_and_each_sixteenth(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "SAMPLE_BYTES", 64)
    tokens = np.random.default_rng(0).integers(0, 1000, 10_000).astype(np.uint16)
    path = tmp_path / "x_train_000000.bin"

    def digest(array):
        write_shard(path, array)
        return content.sampled_sha256(content.Shards([ShardFile(path)]))

    first, seen = digest(tokens), 0
    assert digest(tokens) == first
    for place in (0, len(tokens) - 1):
        assert digest(np.where(np.arange(len(tokens)) == place, 7777, tokens)) != first
    assert digest(tokens[::-1]) != first and digest(tokens[:-1]) != first
    for start in range(0, len(tokens), 625):
        seen += digest(np.concatenate([tokens[:start], np.full(625, 5000), tokens[start + 625 :]])) != first
    assert seen == 16


def test_a_slow_proof_is_kept_for_these_bytes_alone(model, other, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(proof, "_SLOW", -1.0)
    folder = export(tmp_path / "data", model)
    first = open_data(folder).prove()
    kept = list((cache_folder() / "proofs").iterdir())
    assert len(kept) == 1
    monkeypatch.setattr(SentencePieceTokenizer, "encode", lambda *_: pytest.fail("it was proved before"))
    assert open_data(folder).prove() == first
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for damage in (b"{", b"[]", b'{"rests": "sure"}', b"\xff"):
        kept[0].write_bytes(damage)
        assert open_data(folder).prove() == first
    (folder / "tokenizer.model").write_bytes(other)
    with pytest.raises(UserError, match="does not encode to itself"):
        open_data(folder).prove()


def test_a_tokenizer_whose_pieces_are_no_text_is_refused_by_name(data, tmp_path):
    raw = (data / "tokenizer.model").read_bytes()
    assert SPACE_MARK.encode() in raw
    path = tmp_path / "tokenizer.model"
    path.write_bytes(raw.replace(SPACE_MARK.encode(), b"\xe2xx"))
    with pytest.raises(UserError, match=r"tokenizer\.model: This SentencePiece model is damaged: a piece is no text"):
        open_tokenizer(path)
