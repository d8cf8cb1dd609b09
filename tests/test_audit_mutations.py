"""The auditor on edits of one clean submission: one of every kind here, all of them in `benchmarks/audit.py`."""

import ast

import mutations
import pytest
from mutations import NON_RECORD, clean, load, swap, write

from pargolf.audit.code.hidden.made_at_run_time import made_at_run_time
from pargolf.audit.code.program import Program
from pargolf.audit.judge import audit
from pargolf.audit.report import FAIL, HOLD, PASS, SUSPECT, UNVERIFIABLE
from pargolf.audit.rules.script.byte_tables import base_bytes, boundaries, leading_spaces
from pargolf.audit.rules.script.little_python import LittlePython, Unclear
from pargolf.audit.rules.window.small_windows import lets_later_in

# Of each kind the edit that is written least like the others of its kind.
CHOSEN = (
    *("adapts_in_a_class_of_a_module", "dictionary_of_counts_for_the_true_token", "where_picks_the_smaller_loss"),
    *(
        "factor_in_a_wrapper_around_the_scorer",
        "a_path_of_characters",
        "the_hub_of_torch",
        "a_loader_of_objects_in_a_helper",
    ),
    *("weights_that_nothing_in_the_script_names", "exec_by_getattr", "table_from_a_comprehension_with_markers"),
    *("final_lines_and_last_row_lowered", "one_trail_with_noise_on_top", "less_than_any_model_of_the_size"),
    *("elapsed_divided_in_a_method", "limit_in_a_default_argument", "the_log_prints_what_only_the_switch_prints"),
    *("the_log_counts_a_smaller_script", "attention_by_einsum_in_a_helper"),
    *("order: a dispatch over functions", "cache: a second expert for the true token alone", "val: one of two loaders"),
    *("val: map of chr", "bytes: counted by a class", "factor: an operator of the library", "factor: a nested lambda"),
    *("least: a gate by the sign", "least: a loop keeps the best of each batch", "pickle: registered as a hook"),
    *(
        "exec: globals update",
        "clock: a step's assumed time",
        "limit: a flag that is off",
        "mask: the order turned round",
    ),
    *("third cache: the longest match, paid only where right", "third least: a comprehension with an if"),
    *("third bytes: a bonus for one token", "third factor: sharper towards the truth", "third mask: padded behind"),
    *("third limit: only after fourteen thousand steps", "third clock: loading does not count"),
    *("third val: the text in the artifact", "third pickle: dill", "the_readme_turns_the_switch_on"),
    *("files: a picture of weights", "a_switch_of_argparse_that_the_readme_sets", "network: a service"),
)
SPARED = (
    "score_first_in_a_class",
    "rows_normalized_in_a_name_of_their_own",
    "a_log_of_a_larger_variant",
    "one_run_of_an_hour",
    "mixture: numpy, rows of a table",
    "mixture: torch, logaddexp of two log distributions",
    "score first: learns from the chunk before, first thing",
    "score first: a generator of losses",
    "words: a sliding window",
    "words: flex attention with a mask",
    "the_script_in_five_modules",
    "third words: sums by functions",
    "third words: experts chosen by each token",
    "score first: third: a class that grades and then learns",
    "a_list_of_trials_in_the_json",
)
BY_NAME = {mutation.name: mutation for mutation in load()}


def test_the_clean_submission_passes(tmp_path):
    report = audit(write(clean(), tmp_path))
    assert report.verdict == PASS, [(f.rule, f.summary) for f in report.findings if f.status != PASS]


def test_the_battery_has_every_kind_with_several_edits_and_innocent_ones():
    broken = [m for m in mutations.MUTATIONS if m.breaks]
    assert len(broken) >= 100 and len(mutations.MUTATIONS) - len(broken) >= 25
    assert {m.kind for m in broken} == {BY_NAME[name].kind for name in CHOSEN}
    assert len(BY_NAME) == len(mutations.MUTATIONS)


@pytest.mark.parametrize("name", CHOSEN)
def test_an_edit_that_breaks_a_rule_does_not_pass(tmp_path, name):
    mutation = BY_NAME[name]
    assert audit(write(mutation.files(), tmp_path, mutation.folder)).verdict != PASS


@pytest.mark.parametrize("name", SPARED)
def test_an_innocent_edit_is_not_accused(tmp_path, name):
    mutation = BY_NAME[name]
    report = audit(write(mutation.files(), tmp_path, mutation.folder))
    assert report.verdict not in (HOLD, SUSPECT, FAIL), [f.summary for f in report.findings if f.status != PASS]


def test_rules_that_fail_on_a_script_have_not_passed_it(tmp_path, monkeypatch):
    def broken(facts, missing):
        raise OverflowError("cannot convert float infinity to integer")

    monkeypatch.setattr("pargolf.audit.judge.judge_code", broken)
    report = audit(write(clean(), tmp_path))
    silent = {f.rule for f in report.findings if f.status == UNVERIFIABLE}
    assert report.verdict == UNVERIFIABLE and {"ttt_order", "causality", "val_in_training"} <= silent


def _reading(code: str) -> Program:
    return Program(ast.parse(code), {})


@pytest.mark.parametrize(
    ("mask", "open_"),
    [
        ("torch.tril(torch.ones(n, n, dtype=torch.bool))", False),
        ("torch.ones(n, n).tril().bool()", False),
        ("~torch.triu(torch.ones(n, n, dtype=torch.bool), diagonal=1)", False),
        ("torch.arange(n)[:, None] >= torch.arange(n)[None, :]", False),
        ("torch.arange(n).unsqueeze(1) >= torch.arange(n)", False),
        ("torch.full((n, n), float('-inf')).triu(1)", False),
        ("torch.zeros(n, n).masked_fill(torch.ones(n, n).triu(1) == 1, float('-inf'))", False),
        ("torch.arange(n)[:, None] <= torch.arange(n)[None, :]", True),
        ("torch.triu(torch.ones(n, n, dtype=torch.bool))", True),
        ("torch.ones(n, n, dtype=torch.bool).tril(1)", True),
        ("(torch.arange(n)[:, None] - torch.arange(n)).abs() < 8", True),
        ("torch.zeros(n, n)", True),
        ("torch.ones(n, n, dtype=torch.bool).tril().float()", True),  # numbers are added, and 0 keeps nothing out
        ("create_block_mask(lambda b, h, q, k: q >= k, None, None, n, n)", False),
        ("create_block_mask(lambda b, h, q, k: q <= k, None, None, n, n)", True),
        ("create_block_mask(lambda b, h, q, k: documents[q] == documents[k], None, None, n, n)", None),
        ("torch.compile(n)", None),
    ],
)
def test_a_mask_is_worked_out_on_a_small_window(mask, open_):
    program = _reading(f"import torch\n\ndef f(n, documents):\n    return {mask}\n\nf(8, [])\n")
    function = program.by_name["f"][0]
    assert lets_later_in(program, function.node.body[0].value, function) is open_


def test_a_longer_run_passes_outside_the_record_track_only(tmp_path):
    mutation = BY_NAME["limit_of_nine_hundred_seconds"]
    assert audit(write(mutation.files(), tmp_path / "a", NON_RECORD)).verdict == PASS
    assert audit(write(mutation.files(), tmp_path / "b")).verdict == SUSPECT


def test_a_switch_that_the_script_turns_on_is_judged_although_the_log_shows_it_off(tmp_path):
    files = BY_NAME["learns_first_by_a_function_of_the_loop"].files()
    assert "ttt_enabled:0" in str(files["train_seed42.log"])
    assert {f.rule for f in audit(write(files, tmp_path)).findings if f.status == SUSPECT} == {"ttt_order"}


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import math\nmath.log = lambda x: 1", True),
        ("import torch\ntorch.backends.cuda.matmul.allow_tf32 = True", False),
        ("import functools, torch\ntorch.load = functools.partial(torch.load, weights_only=True)", False),
        ("def f(): pass\nglobals()['g'] = f", True),
        ("import subprocess\nsubprocess.run(['nvidia-smi'])", False),
        ("import subprocess\nsubprocess.run(['python', 'more.py'])", True),
        ("model.eval()", False),
        ("import re\nre.compile('x')", False),
        ("vars(args).update(lr=1)", False),
        ("globals().update(f=lambda: 1)", True),
        ("import runpy\nrunpy.run_path('more.txt')", True),
        ("import sys\nsys.settrace(print)", True),
        ("def f(): return 1\ndef f(): return 2", True),
    ],
)
def test_code_that_is_made_or_replaced_is_named(code, told):
    assert bool([*made_at_run_time(ast.parse(code), "x.py")]) is told


def test_the_little_python_ends():
    function = ast.parse("def f(n):\n    for i in range(n):\n        for j in range(n):\n            x = i\n").body[0]
    with pytest.raises(Unclear):
        LittlePython({}, {}).call(function, {"n": 50_000})


@pytest.mark.parametrize("code", ["'a' * 10**9", "'%999999999d' % 1", "[0] * 10**9", "open('x')", "__import__('os')"])
def test_the_little_python_refuses(code):
    with pytest.raises(Unclear):
        LittlePython({}, {}).value(ast.parse(code, mode="eval").body, {})


def test_the_pieces_have_the_bytes_of_their_text():
    text = [b"" if bound else b"x" * base for base, bound in zip(base_bytes(), boundaries())]
    assert base_bytes()[6:12] == [3, 1, 2, 3, 3, 3] and leading_spaces()[5:7] == [True, True] and len(text) == 13


def test_a_table_that_cannot_be_followed_is_not_passed_where_no_log_proves_it(tmp_path):
    files = clean()
    swap(files, ('len(piece.encode("utf-8"))', "strange(piece)"))
    files = {"train_gpt.py": files["train_gpt.py"]}
    report = audit(write(files, tmp_path) / "train_gpt.py")
    assert any(f.rule == "byte_denominator" and f.summary.startswith("Not checked") for f in report.findings)


SHORT = """
import torch as t

def c(x):
    return x

def a(c, t):
    b = c
    c = a
    t.score = b
    return c

def d():
    e = lambda x: x
    def f():
        return e
    return f
"""


def test_a_name_means_something_where_it_is_bound():
    """A minified script uses its short names again; what replaces a function is told by scope."""
    assert [*made_at_run_time(ast.parse(SHORT), "s")] == []
    for line in (
        "c = lambda x: 0",
        "def g():\n    global c\n    c = lambda x: 0",
        "def g():\n    t.cross_entropy = c",
        "def g():\n    u = t.nn\n    u.cross_entropy = c",
        "def g():\n    def h(): ...\n    h = lambda: 0\n    return h",
        "def g():\n    def h(): ...\n    def i():\n        nonlocal h\n        h = c\n    return i",
    ):
        assert len([*made_at_run_time(ast.parse(f"{SHORT}\n{line}\n"), "s")]) == 1, line


@pytest.mark.parametrize(("argument", "count"), [("None", 0), ("'./evil.so'", 1), ("name", 1), ("", 1)])
def test_only_the_library_of_python_itself_is_no_code_of_a_script(argument, count):
    text = f"import ctypes\nctypes.CDLL({argument})"
    assert len([*made_at_run_time(ast.parse(text), "s")]) == count
