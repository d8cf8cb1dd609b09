"""What stands in a file's place is named and never waited for: pipes, devices, Git LFS pointers, pages of HTML."""

import os
import random
import shutil
import threading

import pytest
from batteries import imports, trial

import pargolf
from pargolf.core.errors import UserError
from pargolf.core.files import reading
from pargolf.data.check import checks
from pargolf.data.folder import open_data
from pargolf.data.prepare import prepare
from pargolf.data.tokenizer_files import open_tokenizer
from pargolf.upstream.checkpoints import read_checkpoint

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
PAGES = [b"<!DOCTYPE html>\n<html><head>", b"\n<!-- saved from x -->\n<html lang=en>", b"<HTML><title>404</title>"]


def prepared(path, out):
    for _ in prepare([path], out, vocab=257):
        pass


def scored(data, name, path):
    """Put `path` in the place of a file of the data, and train on it."""
    target = next(data.glob(name))
    target.unlink()
    target.symlink_to(path) if not path.is_file() else shutil.copyfile(path, target)
    pargolf.train("baseline", data=data, out=data.parent / "out", scale="mini").result()


READERS = {
    "a.ptz": lambda path, *_: read_checkpoint(path),
    "a.pt": lambda path, *_: pargolf.import_checkpoint(path, system="baseline", out=path.parent / "out"),
    "a.pargolf": lambda path, *_: pargolf.inspect(path),
    "b.pargolf": lambda path, data, run: pargolf.score(path, data=data).result(),
    "a.safetensors": lambda path, *_: pargolf.bench_codec(path).result(),
    "tokenizer.model": lambda path, *_: open_tokenizer(path),
    "tokenizer.json": lambda path, *_: open_tokenizer(path),
    "a.jsonl": lambda path, *_: prepared(path, path.parent / "out"),
    "a.jsonl.xz": lambda path, *_: prepared(path, path.parent / "out"),
    "a.csv": lambda path, *_: prepared(path, path.parent / "out"),
    "a.json": lambda path, *_: prepared(path, path.parent / "out"),
    "a.parquet": lambda path, *_: prepared(path, path.parent / "out"),
    "final_model.npz": lambda path, *_: read_checkpoint(path),
    "val.bin": lambda path, data, run: scored(data, "*_val_*.bin", path),
    "train.bin": lambda path, data, run: scored(data, "*_train_*.bin", path),
    "copy.model": lambda path, data, run: scored(data, "*.model", path),
    "documents": lambda path, data, run: scored(data, "documents.jsonl", path),
    "result": lambda path, data, run: swapped(run, "result.json", path),
    "recipe": lambda path, data, run: swapped(run, "recipe.json", path),
    "weights": lambda path, data, run: swapped(run, "weights.safetensors", path),
}


def swapped(run, name, path):
    """Put `path` in the place of a file of the run, compare it and pack it again."""
    (run / name).unlink()
    (run / name).symlink_to(path) if not path.is_file() else shutil.copyfile(path, run / name)
    pargolf.compare([run], against=["1.0"])
    pargolf.pack(run)


@pytest.fixture
def place(data, run, tmp_path):
    """Copies of a data folder and a run, to put strange files into."""
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(run[0], tmp_path / "run")
    return tmp_path / "data", tmp_path / "run"


def within(seconds, work):
    """The error of `work`; a test that hangs fails by itself."""
    caught = []

    def call():
        try:
            work()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    assert caught and isinstance(caught[0], UserError), caught
    assert "\n" not in str(caught[0])
    return str(caught[0])


@pytest.mark.parametrize("name", READERS)
def test_a_git_lfs_pointer_is_named_whatever_it_stands_for(name, place, tmp_path):
    (tmp_path / name).write_bytes(POINTER)
    said = within(60, lambda: READERS[name](tmp_path / name, *place))
    assert "is a Git LFS pointer" in said and "git lfs pull" in said


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", READERS)
def test_a_page_of_html_is_named_whatever_it_stands_for(name, page, place, tmp_path):
    (tmp_path / name).write_bytes(page + b"x" * 2000)
    assert "is a page of HTML" in within(60, lambda: READERS[name](tmp_path / name, *place))


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_or_a_device_is_refused_and_not_waited_for(name, kind, place, tmp_path):
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to(kind)
    said = within(60, lambda: READERS[name](tmp_path / name, *place))
    assert any(word in said for word in ("a pipe or a device", "no run folder", "has not ended", "is missing"))


def test_a_folder_and_what_is_missing_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        pargolf.inspect(tmp_path)
    with pytest.raises(UserError, match="There is no artifact"):
        pargolf.inspect(tmp_path / "a.pargolf")
    with reading(tmp_path / "nowhere"):
        pass


def test_data_check_names_them_too(place):
    folder, _ = place
    next(folder.glob("*_val_*.bin")).write_bytes(POINTER)
    assert any("Git LFS pointer" in finding.summary for finding in checks(folder) if not finding.ok)
    with pytest.raises(UserError, match="Git LFS pointer"):
        len(open_data(folder).val)


def test_altered_checkpoints_are_imported_or_refused_in_one_line(tmp_path):
    row = trial.run("imports", imports.trials(tmp_path, random.Random(0)), count=40)
    assert row.sound, row.faults
    assert row.words["refused"] > 10


def test_altered_checkpoints_repeat():
    assert imports.hostile_file(random.Random(7)) == imports.hostile_file(random.Random(7))
