"""The page `docs/bring.md`: each of its commands runs, on small files of the names that it uses."""

import csv
import hashlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from test_import import golden
from test_tokenizers import piece_model
from typer.testing import CliRunner

from pargolf.cli import app

PAGE = (Path(__file__).parent.parent / "docs" / "bring.md").read_text(encoding="utf-8")
ELSEWHERE = re.compile(r"# .*(needs|takes minutes)|<")
LINES = [
    line.split(" #")[0].strip()
    for block in re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("pargolf ") and not ELSEWHERE.search(line)
]


def drawn(name, count):
    """Bytes that are always the same for a name."""
    return b"".join(hashlib.sha256(f"{name} {i}".encode()).digest() for i in range(count // 32 + 1))[:count]


POOL = ["".join("etaoinshrdlcumwf"[byte % 16] for byte in drawn(i, 3 + i % 6)) for i in range(256)]


def passage(number, words=60):
    """Some text of its own."""
    return " ".join(POOL[byte] for byte in drawn(number, words)) + f", number {number}."


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    library = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("bring")
    (folder / "my_texts").mkdir()
    for number in range(120):
        (folder / "my_texts" / f"{number}.txt").write_text(passage(number, 200))
    parquet.write_table(arrow.table({"content": [passage(n, 200) for n in range(200, 320)]}), folder / "news.parquet")
    for name, columns in (("more.csv", ["text"]), ("two.csv", ["title", "story"])):
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([passage(n)] * len(columns) for n in range(400, 430))
    (folder / "notes.md").write_text("# Notes\n\n" + passage(500))
    copies = [{"text": f"{n}: {passage(n % 20)}"} for n in range(40)]
    (folder / "repeats.jsonl").write_text("\n".join(map(json.dumps, copies)))
    (folder / "tokenizer.model").write_bytes(piece_model(vocab_size=300))
    bpe = library.Tokenizer(library.models.BPE())
    bpe.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>"], initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator([passage(n) for n in range(9)], trainer)
    bpe.save(str(folder / "tokenizer.json"))
    out = io.BytesIO()
    torch.save(golden("baseline"), out)
    (folder / "final_model.pt").write_bytes(out.getvalue())
    return folder


def test_there_are_commands_to_run():
    assert len(LINES) > 9


@pytest.mark.usefixtures("quick_code")
@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_page_runs(line, place, monkeypatch):
    monkeypatch.chdir(place)
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert done.exit_code == 0, f"{done.output}\n{done.exception}"
