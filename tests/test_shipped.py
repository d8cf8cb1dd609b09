"""The shipped form of the program: the same numbers by shorter ways, and nothing that acts left out."""

import ast
import json

import numpy as np
import pytest
import small
from test_caseops import WORDS
from test_huggingface import learned
from test_tokenizers import byte_export, cased, marked

from pargolf.core import files
from pargolf.core.spec import edit
from pargolf.data.folder import open_data
from pargolf.data.prepare import prepare
from pargolf.data.tokens import count_bytes
from pargolf.recipes import catalog
from pargolf.ship import cache, program
from pargolf.ship.shrink.inline import inlined
from pargolf.ship.shrink.purity import Harmless
from pargolf.ship.shrink.specialize import lean
from pargolf.ship.shrink.squeeze import minified
from pargolf.ship.size import count_code
from pargolf.submit.short_data import ShortData

MADE = {"published capitals": cased, "marked": marked, "published bytes": byte_export}
KINDS = ["pieces", "bytes", "capitals", "published capitals", "hugging face", "marked", "published bytes"]


@pytest.mark.parametrize("kind", KINDS)
def test_short_data_weighs_every_token_as_the_tokenizers_do(kind, data, tmp_path):
    folder = data
    if kind != "pieces":
        folder = tmp_path / "data"
        texts = tmp_path / "texts"
        texts.mkdir()
        for i in range(20):
            words = " ".join(np.random.default_rng(i).permutation(WORDS.split()[:80]))
            (texts / f"{i}.txt").write_text(f"{words}\nNumber {i} ▁ é", encoding="utf-8")
        how = {"vocab": 257}
        if kind == "hugging face":
            (tmp_path / "tokenizer.json").write_bytes(learned())
            how = {"tokenizer": tmp_path / "tokenizer.json"}
        elif kind in MADE:
            (tmp_path / "tokenizer").write_bytes(MADE[kind]())
            how = {"tokenizer": tmp_path / "tokenizer", "normalize": True}
        elif kind == "capitals":
            how = {"vocab": 300, "caseops": True}
        for _ in prepare([texts], folder, val_fraction=0.3, **how):
            pass
    whole, short = open_data(folder), ShortData(str(folder), None)
    assert (short.vocab, short.bos) == (whole.vocab, whole.bos)
    assert short.tokenizer in ("bytes", whole.tokenizer.digest)
    table = whole.byte_table
    ids = np.random.default_rng(0).integers(0, whole.vocab, 5_000)
    before, after = ids[:-1], ids[1:]
    counted = short.bytes_V[after].astype(np.int64) + (short.leading_V[after] & ~short.boundary_V[before])
    assert (counted == count_bytes(table, before, after)).all()
    tokens, counts = short.validation()
    assert (tokens == whole.val.take(0, len(whole.val))).all() and counts.sum() > 0


@pytest.mark.parametrize("name", ["baseline", "pr1009"])
def test_a_published_recipe_takes_less_than_20_000_bytes_of_code(name):
    assert count_code(catalog.find(name)) < 20_000


ACTS = """
class Box:
    def __init__(self):
        self.held = 1
    def turn(self):
        self.held += 1
        return self.held
    def shown(self):
        return self.held

def through(box):
    return box.turn()

def told(x):
    return [x]

def main():
    box = Box()
    a = box.turn()
    b = through(box)
    c = told(box.shown())
    d = box.shown()
    return d
ANSWER = main()
"""


def test_what_nobody_reads_goes_only_where_working_it_out_acts_on_nothing():
    harmless = Harmless(ast.parse(ACTS))
    assert {"turn", "through", "main"} <= harmless.acting and not harmless.acting & {"Box", "shown", "told"}
    tree = lean(ast.parse(ACTS), keep=["ANSWER"])
    space: dict = {}
    exec(minified(tree)[0], space)
    assert 3 in space.values()
    assert "told" not in ast.unparse(tree)


INLINED = """
def first(x, y=2):
    return x - y
def none(x):
    pass
def renamed(a, b):
    return first(a, b)
def taken(x):
    return [x + i for i in range(2)]
def twice(x):
    return x + x
def main(log):
    i = 5
    def note(x):
        log.append(x)
        return x
    return first(note(7), note(1)), none(3), renamed(y, 1) if (y := 4) else 0, taken(i), twice(note(2)), first(9)
"""


def test_a_function_of_one_expression_is_written_where_it_is_called():
    tree = ast.parse(INLINED)
    space, plain = {}, {}
    exec(INLINED, plain)
    said = ast.unparse(inlined(tree, keep=["main"], harmless=Harmless(tree)))
    exec(said, space)
    assert (space["main"](one := []), one) == (plain["main"](two := []), two)
    body = said[said.index("def main") :]
    assert "none(" not in body and "renamed(" not in body and "taken(i)" in body and "twice(note(2))" in body


def test_a_script_is_written_once(monkeypatch, tmp_path):
    monkeypatch.setattr(files.Path, "home", lambda: tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    written = []

    def write(form):
        written.append(form)
        return "OWN = 'OWN_RECIPE'", dict.fromkeys(form.parts, "a")

    monkeypatch.setattr(program, "_write_shipped", write)
    sizes = []
    for steps in (1, 1, 2):
        program._shipped_text.cache_clear()
        sizes.append(len(program.shipped(edit(small.RECIPE, {"train.steps": steps}))))
    assert len(written) == 1 and len(sizes) == 3
    (kept,) = (tmp_path / ".cache" / "pargolf" / "scripts").iterdir()
    held = json.loads(kept.read_text())
    kept.write_text(json.dumps(held | {"text": "another"}))
    program._shipped_text.cache_clear()
    program.shipped(small.RECIPE)
    assert len(written) == 2 and json.loads(kept.read_text())["text"] == held["text"]
    monkeypatch.setattr(cache, "_source", lambda: "another source")
    program._shipped_text.cache_clear()
    program.shipped(small.RECIPE)
    assert len(written) == 3
    program._shipped_text.cache_clear()
