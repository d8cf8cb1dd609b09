"""Seeds as evidence: the same numbers as scipy's, and comparisons that refuse what cannot be compared."""

import json
import math
import sys
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import special, stats
from test_report import synthetic_result

import pargolf
from pargolf import cli
from pargolf.core.errors import UserError
from pargolf.core.stats import (
    bar_in_bpb,
    compare_scores,
    incomplete_beta,
    spread,
    student_quantile,
    student_tail,
)

FREEDOM = st.floats(1.0, 400.0)
SCORES = st.lists(st.floats(0.8, 1.6), min_size=2, max_size=9)


@given(st.floats(0.0, 1.0), st.floats(0.5, 200.0), st.floats(0.5, 200.0))
def test_the_incomplete_beta_function_is_scipy_s(x, a, b):
    # Near x = 1 scipy's own digits go (I of 1 - 2^-53 is off by 3e-9 at a = b = .5, where the arcsine law knows it).
    reference = special.betainc(a, b, x) if x <= 0.5 else 1.0 - special.betainc(b, a, 1.0 - x)
    assert math.isclose(incomplete_beta(x, a, b), reference, rel_tol=1e-10, abs_tol=1e-13)


@given(st.floats(0.0, 1.0))
@example(1.0 - 2.0**-53)
def test_the_incomplete_beta_function_of_two_halves_is_the_arcsine_law(x):
    low = 2.0 / math.pi * math.asin(math.sqrt(min(x, 1.0 - x)))
    assert math.isclose(incomplete_beta(x, 0.5, 0.5), low if x <= 0.5 else 1.0 - low, rel_tol=1e-10, abs_tol=1e-13)


@given(st.floats(-60.0, 60.0), FREEDOM)
@example(0.0, 2.0)
@example(1e-9, 1.0)
def test_the_tail_of_student_s_t_is_scipy_s(t, freedom):
    # Near t = 0 scipy says .5 where the tail is .5 - t / pi (one degree of freedom).
    near = 1e-8 if abs(t) < 1e-6 else 1e-14
    assert math.isclose(student_tail(t, freedom), stats.t.sf(t, freedom), rel_tol=1e-9, abs_tol=near)


@given(st.floats(0.5, 0.9999), FREEDOM)
def test_the_quantile_of_student_s_t_is_scipy_s(p, freedom):
    assert math.isclose(student_quantile(p, freedom), stats.t.ppf(p, freedom), rel_tol=1e-7, abs_tol=1e-9)


@given(SCORES, st.floats(0.5, 0.999))
def test_the_interval_of_a_mean_is_scipy_s(values, confidence):
    found = spread(values, confidence=confidence)
    error = stats.sem(values)
    if error > 1e-9:
        low, high = stats.t.interval(confidence, len(values) - 1, loc=found.mean, scale=error)
        assert math.isclose(found.low, low, rel_tol=1e-7) and math.isclose(found.high, high, rel_tol=1e-7)
    assert math.isclose(found.sd, stats.tstd(values), rel_tol=1e-9, abs_tol=1e-12)


@given(SCORES, SCORES, st.floats(0.0, 0.01))
def test_welch_s_test_is_scipy_s(new, old, bar):
    found = compare_scores(new, old, bar=bar, nats=1.7)
    if stats.tstd(new) + stats.tstd(old) < 1e-6:
        return
    theirs = stats.ttest_ind([v - bar for v in old], new, equal_var=False, alternative="greater")
    if min(stats.tstd(new), stats.tstd(old)) > 1e-9:
        assert math.isclose(found.welch.freedom, theirs.df, rel_tol=1e-6)
        assert math.isclose(found.p, theirs.pvalue, rel_tol=1e-5, abs_tol=1e-9)
    assert found.paired is None and math.isclose(found.gain_nats, 1.7 * found.gain_bpb)


@given(st.lists(st.tuples(st.floats(0.8, 1.6), st.floats(0.8, 1.6)), min_size=2, max_size=9))
def test_the_paired_test_is_scipy_s_and_decides_where_seeds_are_shared(pairs):
    new, old = {i: a for i, (a, _) in enumerate(pairs)}, {i: b for i, (_, b) in enumerate(pairs)}
    found = compare_scores(new, dict(reversed(old.items())), bar=0.003, nats=1.7)
    if stats.tstd([b - a for a, b in pairs]) < 1e-6:
        return
    theirs = stats.ttest_rel([b - 0.003 for _, b in pairs], [a for a, _ in pairs], alternative="greater")
    assert math.isclose(found.paired.p, theirs.pvalue, rel_tol=1e-5, abs_tol=1e-9)
    assert found.p == found.paired.p
    low, high = stats.ttest_rel(list(old.values()), list(new.values())).confidence_interval(0.95)
    assert math.isclose(found.low, low, rel_tol=1e-6, abs_tol=1e-9)
    assert math.isclose(found.high, high, rel_tol=1e-6, abs_tol=1e-9)


@given(SCORES, st.floats(0.8, 1.6))
def test_one_published_number_is_the_one_sample_test(new, old):
    found = compare_scores(new, [old], bar=0.003, nats=1.7)
    if stats.tstd(new) < 1e-6:
        return
    theirs = stats.ttest_1samp(new, old - 0.003, alternative="less")
    assert math.isclose(found.p, theirs.pvalue, rel_tol=1e-5, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("tokens", "size", "bpb"),
    # The standard validation text is 151,082,... bytes; sizes as the published logs give them.
    [(62_021_846, 151_080_633, 0.00296), (40_540_160, 151_080_633, 0.00194), (47_851_520, 151_074_309, 0.00228)],
)
def test_the_bar_follows_the_tokenizer(tokens, size, bpb):
    assert round(bar_in_bpb(tokens, size), 5) == bpb
    assert math.isclose(bar_in_bpb(tokens, size) * math.log(2) * size / tokens, 0.005)


def test_too_few_runs_or_no_spread_never_meet_the_rule():
    for new, old in (([1.0], [1.2, 1.3]), ([1.0], [1.2]), ([1.0, 1.0], [1.2, 1.2])):
        found = compare_scores(new, old, bar=0.003, nats=1.7)
        assert found.p is None and not found.met and "cannot be tested" in found.words
    with pytest.raises(UserError):
        compare_scores([], [1.0], bar=0.003, nats=1.7)


def test_the_words_say_what_the_numbers_say():
    sure = compare_scores([1.10, 1.101, 1.102], [1.12, 1.121, 1.122], bar=0.003, nats=1.7)
    assert sure.met and "is met: p = " in sure.words
    small = compare_scores([1.119, 1.120, 1.121], [1.12, 1.121, 1.122], bar=0.003, nats=1.7)
    assert not small.met and "mean gain is" in small.words
    noisy = compare_scores([1.05, 1.15, 1.10], [1.12, 1.13, 1.14], bar=0.003, nats=1.7)
    assert not noisy.met and "More seeds" in noisy.words


def fake_run(folder, *, seed, bpb, size=1000, tokens=400, **more):
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text("{}")
    facts = {"seed": seed, "val_bpb": bpb, "val_tokens": tokens, "val_bytes": size, "val_split_tokens": tokens, **more}
    (folder / "result.json").write_text(json.dumps(replace(synthetic_result(), **facts).to_json()))
    return folder


@pytest.fixture
def sides(tmp_path):
    for seed, (a, b) in enumerate([(1.10, 1.13), (1.11, 1.15), (1.12, 1.14)]):
        fake_run(tmp_path / "new" / f"seed-{seed}", seed=seed, bpb=a)
        fake_run(tmp_path / "old" / f"seed-{seed}", seed=seed, bpb=b)
    return tmp_path


def test_folders_of_runs_stand_for_their_runs(sides):
    test, rows = pargolf.compare([sides / "new"], against=[sides / "old"])
    singly, _ = pargolf.compare(sorted((sides / "new").iterdir()), against=sorted((sides / "old").iterdir()))
    assert test == singly and len(rows["new"]) == len(rows["old"]) == 3
    assert test.paired is not None and math.isclose(rows["bar_nats"], 0.005)


def test_runs_that_cannot_be_compared_are_refused(sides):
    other = fake_run(sides / "other", seed=1, bpb=1.0, size=999)
    unfinished = sides / "cut"
    unfinished.mkdir()
    (unfinished / "recipe.json").write_text("{}")
    partial = fake_run(sides / "partial", seed=1, bpb=1.0, complete=False, val_split_tokens=500)
    new = [sides / "new"]
    for against, line in (
        ([other], "different text"),
        ([unfinished], "has not ended"),
        ([partial], "Only the first 400 of 500"),
        ([sides / "nowhere"], "no run folder"),
        ([sides / "old", "1.12"], "not both"),
        ([], "both sides"),
    ):
        with pytest.raises(UserError, match=line):
            pargolf.compare(new, against=against)


def test_the_command_line_takes_runs_on_both_sides(sides, monkeypatch, capsys):
    def compare(*words):
        monkeypatch.setattr(sys, "argv", ["pargolf", "compare", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr()

    code, said = compare(*sorted((sides / "new").iterdir()), "--against", *sorted((sides / "old").iterdir()), "--json")
    assert not code, said.err
    rows = json.loads(said.out)
    assert len(rows["old"]) == 3 and rows["p"] == rows["paired"]["p"] and isinstance(rows["met"], bool)
    code, said = compare(sides / "new", "--against", "1.2")
    assert not code and "The rule of 0.005 nats" in " ".join(said.out.split())
    code, said = compare(sides / "new")
    assert code == 2 and said.err.count("\n") == 1
