"""Published data from a hub: a small one on the loopback, that cuts off, lies, and goes away."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hubs import SHA, serving
from typer.testing import CliRunner

import pargolf
from pargolf.cli import app
from pargolf.core.errors import UserError
from pargolf.data import fetch as fetching
from pargolf.data.check import bpb_constant
from pargolf.data.folder import open_data
from pargolf.data.official import SP1024
from pargolf.data.shards import ShardFile, write_shard

hub_library = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def published(data, tmp_path_factory):
    """The suite's own data, laid out as the published one: two training shards, one of validation."""
    place = tmp_path_factory.mktemp("published")
    source = open_data(data)
    train, val = source.train.take(0, len(source.train)), source.val.take(0, len(source.val))
    for name, tokens in (("train_000000", train[:3000]), ("train_000001", train[3000:]), ("val_000000", val)):
        write_shard(place / f"fineweb_{name}.bin", tokens)
    files = {f"datasets/datasets/fineweb10B_sp300/{path.name}": path.read_bytes() for path in place.iterdir()}
    files["datasets/tokenizers/fineweb_300_bpe.model"] = (data / "tokenizer.model").read_bytes()
    stats = {"files_train": 2, "files_val": 1, "tokens_val": len(val)}
    manifest = {
        "datasets": [{"name": "fineweb10B_sp300", "tokenizer_name": "sp_bpe_300", "stats": stats}],
        "tokenizers": [{"name": "sp_bpe_300", "model_path": "tokenizers/fineweb_300_bpe.model"}],
    }
    return files | {"datasets/manifest.json": json.dumps(manifest).encode()}


@pytest.fixture
def hub(published, monkeypatch):
    """A hub on the loopback; its files, its faults, and what was asked of it."""
    held, faults, asked = dict(published), {}, []
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serving(held, faults, asked) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield held, faults, asked


def test_what_is_fetched_is_a_data_folder_that_scores(hub, data, tmp_path):
    _, _, asked = hub
    found = pargolf.fetch_data("sp300", out=tmp_path / "data", shards=1).result()
    folder = tmp_path / "data" / "datasets" / "fineweb10B_sp300"
    assert found.folder == folder and (found.train_shards, found.val_shards, found.revision) == (1, 1, SHA)
    assert sorted(path.name for path in folder.iterdir()) == ["fineweb_train_000000.bin", "fineweb_val_000000.bin"]
    ours, theirs = open_data(folder), open_data(data)
    assert (ours.val.take(0, len(ours.val)) == theirs.val.take(0, len(theirs.val))).all()
    proof = ours.prove("val")
    assert (found.tokens, found.bytes) == (proof.tokens, proof.bytes)
    assert found.constant == bpb_constant(proof.tokens, proof.bytes)
    assert not (tmp_path / "data" / ".fetch").exists()
    before = len(asked)
    pargolf.fetch_data("sp300", out=tmp_path / "data", shards=2).result()
    assert [path.rpartition("/")[2] for path, _ in asked[before:]] == ["manifest.json", "fineweb_train_000001.bin"]
    assert len(open_data(folder).train) == len(theirs.train)


def test_a_download_that_was_cut_off_goes_on_where_it_stopped(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(hub_library.constants, "DOWNLOAD_CHUNK_SIZE", 300)  # what the library writes at once: 10 MB
    _, faults, asked = hub
    path = "datasets/datasets/fineweb10B_sp300/fineweb_train_000000.bin"
    faults[path] = "cut off"
    with pytest.raises(UserError, match="run the command again"):
        pargolf.fetch_data("sp300", out=tmp_path, shards=1).result()
    cut = [start for name, start in asked if name == path]
    assert not (tmp_path / "datasets" / "fineweb10B_sp300" / "fineweb_train_000000.bin").exists()
    faults.clear()
    pargolf.fetch_data("sp300", out=tmp_path, shards=1).result()
    starts = [start for name, start in asked if name == path]
    assert len(starts) == len(cut) + 1 and starts[0] == 0 < starts[-1] == starts[1]
    shard = ShardFile(tmp_path / "datasets" / "fineweb10B_sp300" / "fineweb_train_000000.bin")
    assert len(shard) == 3000


def test_a_file_of_other_bytes_is_refused(hub, tmp_path):
    _, faults, _ = hub
    path = "datasets/datasets/fineweb10B_sp300/fineweb_val_000000.bin"
    faults[path] = "other bytes"
    with pytest.raises(UserError, match="other bytes than the hub says"):
        pargolf.fetch_data("sp300", out=tmp_path, shards=0).result()
    place = tmp_path / "datasets" / "fineweb10B_sp300" / "fineweb_val_000000.bin"
    assert not place.exists()
    faults.clear()
    pargolf.fetch_data("sp300", out=tmp_path, shards=0).result()
    whole = place.read_bytes()
    place.write_bytes(whole[:-2] + b"\0\0")
    with pytest.raises(UserError, match=r"fineweb_val_000000.bin is not the published file.*--force"):
        pargolf.fetch_data("sp300", out=tmp_path, shards=0).result()
    pargolf.fetch_data("sp300", out=tmp_path, shards=0, force=True).result()
    assert place.read_bytes() == whole


def test_a_split_that_is_not_what_was_published_is_refused(hub, monkeypatch, tmp_path):
    tokens = np.frombuffer(hub[0]["datasets/datasets/fineweb10B_sp300/fineweb_val_000000.bin"][1024:], "<u2")
    monkeypatch.setattr(fetching, "SP1024", replace(SP1024, tokens=len(tokens), vocab=300))
    with pytest.raises(UserError, match="official split has 151,080,363 bytes"):
        pargolf.fetch_data("sp300", out=tmp_path, shards=0).result()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sp301"], "There is no published data 'sp301'. Did you mean sp300?"),
        (["sp300", "--shards", "3"], "sp300 has 2 training shards, and 3 were asked for."),
    ],
)
def test_what_is_not_published_is_one_line(hub, tmp_path, words, line):
    done = CliRunner().invoke(app, ["data", "fetch", *words, "--out", str(tmp_path)])
    assert isinstance(done.exception, UserError) and line in str(done.exception), done.exception


def test_a_manifest_cannot_write_elsewhere(hub, tmp_path):
    held, _, _ = hub
    manifest = json.loads(held["datasets/manifest.json"])
    manifest["tokenizers"][0]["model_path"] = "../../outside.model"
    held["datasets/manifest.json"] = json.dumps(manifest).encode()
    with pytest.raises(UserError, match="names no files"):
        pargolf.fetch_data("sp300", out=tmp_path / "in", shards=1).result()
    held["datasets/manifest.json"] = b"[]"
    shutil.rmtree(tmp_path / "in")
    with pytest.raises(UserError, match=r"manifest of .* is damaged"):
        pargolf.fetch_data("sp300", out=tmp_path / "in").result()


def test_a_hub_that_is_away_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 did not give .*run the command again") as caught:
        pargolf.fetch_data("sp1024", out=tmp_path / "data").result()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()
