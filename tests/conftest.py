"""One thread, and hypothesis without deadlines: the suite runs on shared machines, where time says nothing.

Hypothesis draws the same examples each time, so a change is judged by the change; HYPOTHESIS_PROFILE=explore draws new.
"""

import gc
import hashlib
import os
import sys
from types import SimpleNamespace

import pytest
import small
import torch
from hypothesis import settings

import pargolf
from pargolf.cli import main
from pargolf.data.prepare import prepare
from pargolf.report.pages import write
from pargolf.ship import size
from pargolf.ship.size import count_code

settings.register_profile("shared", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "shared"))
torch.set_num_threads(1)


def pytest_collection_finish():
    """What was imported stays: the garbage collector need not go through it again."""
    gc.collect()
    gc.freeze()


_REAL = {
    "pargolf.ship.size.shipped": size.shipped,
    "pargolf.report.pages.write.page_of": write.page_of,
}
"""What fixtures below make quicker."""


@pytest.fixture(scope="session", autouse=True)
def scripts_are_written_here():
    """A run's script is written when it is counted: another process would load torch for each, beside busy tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pargolf.ship.size.begin", lambda *args: None)
        yield


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Thirty short texts that share nothing but their words."""
    folder = tmp_path_factory.mktemp("texts")
    words = "the state of our union is strong and its people are free to speak write read think".split()  # noqa: SIM905
    for i in range(30):
        picks = [words[int(b) % len(words)] for b in hashlib.sha256(str(i).encode()).digest() * 4]
        (folder / f"{i:02}.txt").write_text(" ".join(picks) + f"\nNumber {i}, café № {i * i}.\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def data(texts, tmp_path_factory):
    """The texts prepared."""
    out = tmp_path_factory.mktemp("data") / "prepared"
    for _ in prepare([texts], out, vocab=300):
        pass
    return out


@pytest.fixture(scope="session")
def run(data, tmp_path_factory):
    """A run of the small recipe as users get it, whatever the module that asks for it first has made quicker."""
    out = tmp_path_factory.mktemp("runs") / "a"
    with pytest.MonkeyPatch.context() as patched:
        for name, function in _REAL.items():
            patched.setattr(name, function)
        count_code.cache_clear()
        result = pargolf.train(small.RECIPE, data=data, out=out, seed=3).result()
    count_code.cache_clear()
    return out, result


@pytest.fixture(scope="module")
def quick_code():
    """Code of one size for all recipes of a module: writing a script takes seconds, and few tests prove its weight."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pargolf.ship.size.shipped", lambda recipe, **how: bytes(20_000))
        count_code.cache_clear()
        yield
    count_code.cache_clear()


@pytest.fixture
def quick_size(monkeypatch):
    """A readable program holds this size of the shipped one, which takes seconds to write."""
    monkeypatch.setattr("pargolf.ship.program.shipped", lambda recipe, **how: bytes(20_000))


@pytest.fixture(scope="module")
def quick_page():
    """A bare page for all runs of a module: drawing takes half of a small run's time, and few tests look at it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pargolf.report.pages.write.page_of", lambda *_, **__: "<!doctype html>")
        yield


@pytest.fixture
def cli(capsys, monkeypatch):
    """The command line in this process, its exit code and what it wrote; another process takes 5 s to load torch."""

    def called(*words):
        monkeypatch.setattr(sys, "argv", ["pargolf", *map(str, words)])
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as error:
            code = error.code or 0
        written = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=written.out, stderr=written.err)

    return called
