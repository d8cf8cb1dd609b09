"""The board: which runs it finds, what is on the front, what the page says, and that nothing of anybody's is lost."""

import json
import random
import re
import shutil
from dataclasses import asdict, replace

import made_up
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import balanced

import pargolf
from pargolf.core.errors import UserError
from pargolf.core.result import Bytes
from pargolf.core.stats import compare_scores
from pargolf.report.entry import GOALS, Entry, front, grouped
from pargolf.report.pages.board import board_page
from pargolf.report.pages.gather import gather
from pargolf.report.plots import boards, drawing


@pytest.fixture(scope="module")
def page():
    return board_page(made_up.entries(), ablations=[made_up.ablation()], audits=made_up.audits())


@given(st.lists(st.tuples(*[st.integers(1, 6)] * 3), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats_in_everything(goals):
    runs = [made_up.entry(val_bpb=float(a), bytes=Bytes(b, 0, b, 9), train_seconds=float(c)) for a, b, c in goals]
    expected = set()
    for i, ours in enumerate(goals):
        better = [all(a <= b for a, b in zip(t, ours)) and any(a < b for a, b in zip(t, ours)) for t in goals]
        if not any(better):
            expected.add(i)
    assert front(runs) == expected and expected


def test_runs_of_one_digest_are_a_recipe_and_names_tell_them_apart():
    runs = [*made_up.entries(), made_up.entry("house", 7, digest="f" * 16)]
    groups = grouped(runs)
    assert sorted(run for group in groups for run in group.runs) == list(range(len(runs)))
    assert [group.mean for group in groups] == sorted(group.mean for group in groups)
    assert [group.name for group in groups if group.name.startswith("house")] == sorted(
        (f"house {digest[:6]}" for digest in (runs[0].result.digest, "f" * 16)),
        key=lambda name: next(group.mean for group in groups if group.name == name),
    )
    assert set(groups[-1].by_seed) == {42, 314, 999}
    other = made_up.entry("house", 8, val_bytes=1)
    assert len(grouped([runs[0], other])) == 2  # another text is another table


def test_the_page_nests_and_fetches_nothing(page):
    found = balanced(page)
    assert len(found.ids) == len(set(found.ids)) and "default-src 'none'" in page
    assert {link for link in found.fetched if not link.startswith("#")} == {"run.html"}  # links to pages, a click each


def test_the_page_says_who_is_best_and_how_surely(page):
    groups = grouped(made_up.entries())
    test = compare_scores(groups[0].by_seed, groups[1].by_seed, bar=0.0, nats=1.0)
    best = min(entry.bpb for entry in made_up.entries())
    assert f'<p class="number">{best:.4f}</p>' in page
    assert f"beats {groups[1].name} by {test.gain_bpb:.4f}, p\xa0=\xa0{test.p:.2g}" in page
    for words in ("value embeddings", "GPTQ</b> It would not fit", "records/track/B &lt;b&gt;", "two_pass", "+ XSA"):
        assert words in page


def test_an_unsound_run_is_not_the_best_and_different_texts_are_said(page):
    good, bad = (
        made_up.entry("house", 42),
        made_up.entry("pr549", 1, val_bpb=0.5, val_tokens=9, complete=False, val_bytes=7),
    )
    doubted = board_page([replace(entry, events=()) for entry in (good, bad)])
    assert f'<p class="number">{good.bpb:.4f}</p>' in doubted
    assert "only the first 9 of 234,472 validation tokens were scored" in doubted
    assert "Different texts" in doubted and "Different texts" not in page


def test_plots_are_the_same_bytes_and_carry_the_runs_they_show():
    runs = made_up.entries()
    groups = grouped(runs)
    curves = boards.all_curves(runs, groups)
    assert curves == boards.all_curves(runs, groups)
    assert all(f'data-runs="{run}"' in curves for run in range(len(runs)))
    assert 'data-runs="' in boards.forecasts(runs, groups)
    svg = boards.frontier(runs, groups, of="bytes", label="bytes")
    assert all(f'data-runs="{run}"' in svg for run in range(len(runs)))
    bare = [Entry("", runs[0].result)]
    assert boards.all_curves(bare, grouped(bare)) == boards.forecasts(bare, grouped(bare)) == ""


@pytest.mark.parametrize("span", [1.0, 5.0, 8.5, 9.9, 40.0, 3000.0])
@pytest.mark.parametrize("width", [drawing.WIDE / 2, drawing.NARROW])
def test_ticks_are_labelled_in_plain_numbers_over_every_span(span, width):
    runs = [
        made_up.entry("house", seed, train_seconds=20.0 * span**share) for seed, share in ((1, 0), (2, 0.6), (3, 1))
    ]
    groups = grouped(runs)
    svg = boards.frontier(runs, groups, of="seconds", label="seconds", width=width)
    shown = re.findall(r">([^<>]+)</text>", svg[: svg.index(">seconds<")])
    assert len(shown) >= 2 and all(re.fullmatch(r"\u2212?[\d.]+( [kM])?", text) for text in shown), shown
    pictures = svg + boards.all_curves(runs, groups, width=width) + boards.forecasts(runs, groups, width=width)
    assert "mathdefault" not in pictures and "$" not in pictures


def test_a_run_has_its_page_and_several_have_a_board(run, tmp_path):
    folder, result = run
    first = tmp_path / "a" / "seed-3"
    shutil.copytree(folder, first)
    (first / "report.html").unlink()
    assert pargolf.write_report([first]).result() == first / "report.html"
    assert f"{result.val_bpb:.4f}" in (first / "report.html").read_text()
    assert (first / "report.html").read_text() == (folder / "report.html").read_text()  # as the run wrote it
    second = tmp_path / "a" / "seed-4"
    shutil.copytree(first, second)
    (second / "result.json").write_text(json.dumps(replace(result, seed=4).to_json()))
    cut = tmp_path / "a" / "seed-5"
    shutil.copytree(first, cut)
    (cut / "result.json").unlink()
    assert gather([tmp_path]).unfinished == 1
    board = pargolf.write_report([tmp_path]).result()
    text = board.read_text()
    assert board == tmp_path / "board.html" and 'href="a/seed-3/report.html"' in text and "2 runs" in text
    assert ">PASS<" in text  # the auditor was asked
    board.write_text("my own notes")
    with pytest.raises(UserError, match="not a page of pargolf"):
        pargolf.write_report([tmp_path]).result()
    assert pargolf.write_report([tmp_path], force=True).result() == board and "2 runs" in board.read_text()


def test_what_an_ablation_ran_stands_aside(run, tmp_path):
    folder, _ = run
    for part in ("everything", "smear-gate"):
        shutil.copytree(folder, tmp_path / "parts" / part / "seed-3")
    (tmp_path / "parts" / "ablation.json").write_text(json.dumps(asdict(made_up.ablation())))
    # Where there is nothing else to show, the whole recipe's runs.
    assert gather([tmp_path]).runs == (tmp_path / "parts" / "everything" / "seed-3",)
    shutil.copytree(folder, tmp_path / "house")
    found = gather([tmp_path])
    assert found.runs == (tmp_path / "house",) and found.ablations == (tmp_path / "parts",)
    assert "value embeddings" in pargolf.write_report([tmp_path]).result().read_text()


def test_folders_without_runs_and_damaged_ones_are_one_line(run, tmp_path):
    with pytest.raises(UserError, match="No finished run"):
        gather([tmp_path])
    with pytest.raises(UserError, match="is not a folder"):
        gather([tmp_path / "absent"])
    for name in ("a", "b"):
        shutil.copytree(run[0], tmp_path / name)
    (tmp_path / "a" / "result.json").write_text(json.dumps({"recipe": "x"}))
    page = pargolf.write_report([tmp_path]).result().read_text()  # the other run is shown, the damaged one is named
    assert "a/result.json" in page and "b/report.html" in page
    (tmp_path / "a" / "result.json").write_text(json.dumps(run[1].to_json()))
    (tmp_path / "a" / "ablation.json").write_text("[]")
    page = pargolf.write_report([tmp_path], force=True).result().read_text()
    assert "a/ablation.json" in page and "b/report.html" in page


def test_of_very_many_runs_the_best_are_drawn_and_the_front_is(monkeypatch):
    monkeypatch.setattr("pargolf.report.pages.board._MOST_DOTS", 10)
    runs = [replace(entry, events=(), documents=()) for entry in made_up.entries()]
    text = board_page(runs)
    best = front(runs)
    drawn = {int(run) for run in re.findall(r'id="run-(\d+)"', text)} or {
        int(run) for run in re.findall(r'data-runs="(\d+)"', text)
    }
    assert len(drawn) < 15 and best <= drawn
    assert f"Of 15 runs the best {len(drawn)} by recipe are drawn." in text
    assert len(re.findall(r'data-run="', text)) == 15


def test_the_front_of_many_runs_is_what_no_other_run_beats():
    rng = random.Random(1)
    runs = []
    for seed in range(60):
        entry = made_up.entry("pr549", seed, train_seconds=float(rng.randrange(1, 8)), val_bpb=rng.randrange(1, 8) / 4)
        runs += [entry] * (1 + seed % 2)  # equal runs do not beat each other
    goals = [tuple(float(getattr(entry, goal)) for goal in GOALS) for entry in runs]
    beaten = {i for i, a in enumerate(goals) for b in goals if b != a and all(y <= x for x, y in zip(a, b))}
    assert front(runs) == set(range(len(runs))) - beaten and beaten
