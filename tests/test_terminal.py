"""The command line never falls over: streams closed or full, encodings without a letter, devices, processes."""

import pytest
import small
from batteries.terminal import ENCODINGS, MEMORY, PARGOLF, STRAY, STREAMS, shell, together

import pargolf
from pargolf.core import devices
from pargolf.core.errors import UserError, out_of_memory


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_encoding_without_a_letter_gets_another(encoding):
    """One of them also with a command that loads torch: the stream is the same for all, and loading takes seconds."""
    longer = ("diff pr549 pr1009",) if encoding == "ascii" else ()
    done = shell(together("recipes", *longer, "audit pas-là-…"), PYTHONIOENCODING=encoding)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    if encoding != "utf-16":
        assert "baseline" in done.stdout and "is not there" in done.stderr
    if encoding.startswith("ascii"):
        assert "pas-la-..." in done.stderr


def test_a_locale_without_utf_8_is_enough():
    done = shell(f"{PARGOLF} recipes && {PARGOLF} inspect é", LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 2 and "baseline" in done.stdout and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("line", "code"), STREAMS)
def test_streams_that_are_gone_closed_or_full_end_nothing(line, code):
    done = shell(line)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == ("recipes > /dev/full" in line) + ("help > /dev/full" in line)


def test_what_a_closed_stream_leaves_free_is_no_other_files_place(tmp_path):
    """The page's own descriptor would be number 1, and the path that is printed would go into it."""
    (tmp_path / "text.jsonl").write_text('{"text": "a b c"}\n' * 20)
    done = shell(f"{PARGOLF} data prepare {tmp_path}/text.jsonl --vocab 257 --out {tmp_path}/data >&- 2>&-")
    assert done.returncode == 0
    assert shell(f"{PARGOLF} data check {tmp_path}/data").returncode == 0


@pytest.mark.parametrize("device", ["mps", "cuda", "cuda:3", "tpu", "", "cuda:x", "CPU"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(device, run, data, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    calls = [
        lambda: pargolf.train(small.RECIPE, data=data, out=tmp_path / "a", device=device).result(),
        lambda: pargolf.seeds(small.RECIPE, seeds=[1], data=data, out=tmp_path / "a", device=device).result(),
        lambda: pargolf.sweep(
            small.RECIPE, ["train.steps=int:3,9"], data=data, out=tmp_path / "a", device=device
        ).result(),
        lambda: pargolf.ablate(
            small.RECIPE, edits={"a": {"train.steps": 3}}, data=data, out=tmp_path / "a", device=device
        ).result(),
        lambda: pargolf.score(run[0] / "model.pargolf", data=data, device=device).result(),
    ]
    for call in calls:
        with pytest.raises(UserError, match=f"There is no device '{device}' here: this machine has cpu only"):
            call()
    assert not (tmp_path / "a").exists()


def test_gpus_are_counted(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for device in (None, "cpu", "cuda", "cuda:0", "cuda:1"):
        devices.check_device(device)
    with pytest.raises(UserError, match="cpu and cuda:0 to cuda:1"):
        devices.check_device("cuda:2")
    for name, word in {
        "WORLD_SIZE": "4",
        "RANK": "3",
        "LOCAL_RANK": "3",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, word)
    with pytest.raises(UserError, match="2 GPUs, and process 3 has none"):
        devices.find_world("cuda")
    with pytest.raises(UserError, match="without a number"):
        devices.find_world("cuda:1")


@pytest.mark.parametrize(("stray", "line"), STRAY)
def test_variables_that_describe_no_processes_are_one_line(stray, line, run, data, tmp_path, monkeypatch):
    for name, word in stray.items():
        monkeypatch.setenv(name, word)
    with pytest.raises(UserError, match=line):
        pargolf.train(small.RECIPE, data=data, out=tmp_path / "a").result()
    with pytest.raises(UserError, match=line):
        pargolf.score(run[0] / "model.pargolf", data=data).result()


@pytest.mark.parametrize("stray", [{"RANK": "3"}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "1", "RANK": "0"}])
def test_variables_of_one_process_are_one_process(stray, monkeypatch):
    for name, word in stray.items():
        monkeypatch.setenv(name, word)
    assert devices.find_world("cpu").size == 1


def test_a_command_of_one_process_is_the_first_ones():
    """Under torchrun the others say nothing and end well; stray variables alone silence nobody."""
    place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    assert shell(f"{PARGOLF} recipes", **place).stdout == ""
    assert "baseline" in shell(f"{PARGOLF} recipes", **place | {"RANK": "0"}).stdout
    assert "baseline" in shell(f"{PARGOLF} recipes", RANK="1", WORLD_SIZE="2").stdout


@pytest.mark.parametrize("kilobytes", MEMORY)
def test_memory_too_small_for_the_libraries_is_one_line(kilobytes):
    done = shell(f"ulimit -v {kilobytes}; {PARGOLF} forecast house")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "emory" in done.stderr


def test_errors_of_memory_are_told_from_others():
    import torch

    assert out_of_memory(MemoryError()) and out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    assert out_of_memory(error.value) and not out_of_memory(RuntimeError("shape"))
