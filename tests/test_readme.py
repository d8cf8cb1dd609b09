"""What the README prints runs: its ten commands in their order, with a small recipe on small texts, and its calls."""

import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pargolf
from pargolf.cli import app
from pargolf.core.result import read_result
from pargolf.recipes import catalog

README = Path(__file__).parent.parent / "README.md"
RECIPE = """
from small import RECIPE as SMALL
from pargolf.core.spec import edit
RECIPE = edit(SMALL, {"name": "small", "train.steps": 2, "budget.bytes": 400_000})
"""


def blocks(heading: str) -> list[str]:
    """The code blocks under a heading."""
    part = README.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```\w*\n(.*?)^```", part, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    (folder / "mine.py").write_text(RECIPE)
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def test_the_ten_commands_run_in_their_order(place, texts, quick_code, monkeypatch):
    """`audit` ends with 2 where something could not be checked, as in any submission of one seed.

    The script is a stand-in, as writing one takes seconds: `test_submit.py` has the real one.
    """
    monkeypatch.setattr("pargolf.submit.bundle.program", lambda *_, **__: "print('a script')\n")
    monkeypatch.setattr("pargolf.submit.bundle.shipped", lambda *_, **__: bytes(20_000))
    lines = [line.split(" #")[0] for line in blocks("Ten commands")[0].splitlines()]
    assert len(lines) == 10
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] != "describe":
            words = ["mine.py" if word == "house" else word for word in words]
        words = [word for one in words for word in ([str(texts), "--vocab", "300"] if one == "embedded" else [one])]
        done = CliRunner().invoke(app, words)
        allowed = (0, 2) if words[0] == "audit" else (0,)
        assert done.exit_code in allowed and isinstance(done.exception, SystemExit | None), (line, done.output)
    for name in ("report.html", "board.html"):
        assert list(place.rglob(name)), name
    first, second = (read_result(place / "runs" / name / "result.json") for name in "ab")
    assert first.digest != second.digest and "train.grad_clip=0.5" in second.command
    assert (place / "records" / "track" / "mine" / "train_gpt.py").is_file()


def test_the_recipe_of_your_own_is_one(place):
    (place / "own.py").write_text(blocks("Ten commands")[1])
    assert catalog.find("own.py").name == "house with XSA"


def test_a_model_is_used_elsewhere_as_printed(run, tmp_path, monkeypatch):
    """Every line of the block, as Python or as a command; the server takes a free port, and ends."""
    for library in ("onnx", "onnxscript", "onnxruntime", "uvicorn"):
        pytest.importorskip(library)
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: None)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run[0], "runs/a")
    lines = [line.split(" #")[0] for line in blocks("Use it elsewhere")[0].splitlines()]
    commands = [line for line in lines if line.startswith("pargolf ")]
    made: dict[str, Any] = {"pargolf": pargolf}
    exec("\n".join(line for line in lines if line not in commands), made)
    assert not made["model"].training and made["tokenizer"].encode("the state").size and made["losses"].bpb > 0
    printed = []
    for line in commands:
        words = [*shlex.split(line)[1:], *(["--port", "0"] if " serve " in line else [])]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (line, done.output)
        printed.append(done.output)
    assert Path("mine/config.json").is_file() and Path("mine.onnx").stat().st_size > 10_000
    assert re.match(r"http://127\.0\.0\.1:\d+  the page", printed[-1])


def test_it_is_short_and_shows_what_is_there():
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) < 900
    for link in re.findall(r"\]\((?!https?:)([^)#: ]+)", text):
        assert (README.parent / link).exists(), link
    assert text.count("![") == 1


@pytest.mark.parametrize("page", sorted((README.parent / "docs").glob("*.md")), ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)#: ]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
