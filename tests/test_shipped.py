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
from pargolf.data.byte_table import count_bytes
from pargolf.data.folder import open_data
from pargolf.data.prepare import prepare
from pargolf.recipes import catalog
from pargolf.run.score import open_text as run_text
from pargolf.ship import cache, program
from pargolf.ship.shrink.inline import inlined
from pargolf.ship.shrink.purity import Harmless
from pargolf.ship.shrink.specialize import specialized
from pargolf.ship.shrink.squeeze import minified
from pargolf.ship.size import begin_count, count_code, is_counted
from pargolf.submit import script

MADE = {"published capitals": cased, "marked": marked, "published bytes": byte_export}
KINDS = ["pieces", "bytes", "capitals", "published capitals", "hugging face", "marked", "published bytes"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_script_s_vocabulary_weighs_every_token_as_the_tokenizer_does(kind, data, tmp_path):
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
    whole, own = open_data(folder), script.open_vocabulary(folder, None)
    assert (own.size, own.bos) == (whole.vocab, whole.bos)
    assert own.tokenizer in ("bytes", whole.tokenizer.digest)
    ids = np.random.default_rng(0).integers(0, whole.vocab, 5_000)
    before, after = ids[:-1], ids[1:]
    assert (count_bytes(own.table, before, after) == count_bytes(whole.byte_table, before, after)).all()
    spelled = [len(whole.tokenizer.raw([i]).strip()) for i in after]
    # A token's own letters are its bytes, but for the space in front and the symbols of capitals.
    assert "capitals" in kind or (count_bytes(own.table, before, after) >= spelled).all()
    text, ours = run_text(whole), script.open_text(folder, own)
    assert (text.tokens[:] == ours.tokens[:]).all() and (text.byte_counts[:] == ours.byte_counts[:]).all()


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
    tree = specialized(ast.parse(ACTS), keep=["ANSWER"])
    space: dict = {}
    exec(minified(tree)[0], space)
    assert 3 in space.values()
    assert "told" not in ast.unparse(tree)


VALUES = """
import os
def size(name):
    return int(os.environ.get(name) or "1")
def both(a, b):
    return (a or 3, a and None, 0 or a, b and 0)
def chosen(a):
    return 1 if a or True else 2
def placed():
    return hasattr(os, "getcwd")
def told(a, *, note="", within=()):
    return a
ANSWER = (size("PARGOLF_NO_SUCH"), both([], 1), both([1], ()), chosen(0), placed(), told(4, note="x", within=(1,)))
"""


def test_what_a_choice_is_worth_is_kept_where_its_value_is_asked():
    whole: dict = {}
    exec(VALUES, whole)
    text = ast.unparse(specialized(ast.parse(VALUES), keep=["ANSWER"]))
    short: dict = {}
    exec(text, short)
    assert short["ANSWER"] == whole["ANSWER"]
    assert "environ" in text and "else 2" not in text and "note" not in text


def test_the_script_joins_the_processes_that_the_environment_names():
    text = program._shipped_text(program.Form.of(small.RECIPE))[0]
    assert "WORLD_SIZE" in text and "preadv" in text


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


def test_a_script_is_written_by_another_process_while_its_run_goes_on(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("pargolf.ship.size.begin", cache.begin)
    monkeypatch.setattr(program, "_write_shipped", lambda form: pytest.fail("written here as well"))
    program._shipped_text.cache_clear()
    count_code.cache_clear()
    begin_count(small.RECIPE)
    assert not is_counted(small.RECIPE)
    size = count_code(small.RECIPE)
    assert is_counted(small.RECIPE) and 10_000 < size < 30_000 and len(list(tmp_path.rglob("*.json"))) == 1
    begin_count(small.RECIPE)  # which finds it in the cache
    assert is_counted(small.RECIPE)
    program._shipped_text.cache_clear()
    count_code.cache_clear()


def test_a_script_takes_nothing_from_the_folders_that_its_cache_leaves_out():
    flat = program._flat(program.Form.of(small.RECIPE), True)
    folders = {module.split(".")[1] for module, _ in flat.definitions}
    assert not folders & set(cache._APART) and {"data", "packing", "evaluate", "run", "submit"} <= folders
