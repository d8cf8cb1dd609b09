"""Every run as a row that can be asked: columns, filters, the cache that proves itself fresh, SQL, and runs again."""

import json
import os
import shutil
from dataclasses import replace

import made_up
import pytest

import pargolf
from pargolf.core.errors import UserError
from pargolf.core.work import Work
from pargolf.study import ledger as ledgers
from pargolf.study.filters import read_filter
from pargolf.study.ledger import ALL, COLUMNS, Ledger, read_ledger


def read(*folders) -> Ledger:
    return Work(read_ledger(folders)).result()


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Fifteen made-up runs, one that never ended and one that is damaged; a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "runs"
    for entry in made_up.entries():
        path = folder / entry.path.removeprefix("runs/")
        path.mkdir(parents=True)
        (path / "recipe.json").write_text("{}")
        (path / "result.json").write_text(json.dumps(entry.result.to_json()))
    (folder / "begun").mkdir()
    (folder / "begun/recipe.json").write_text("{}")
    started = {"event": "Started", "recipe": "house", "digest": "d", "seed": 7, "parameters": 5}
    (folder / "begun/events.jsonl").write_text(json.dumps(started) + "\n")
    (folder / "broken").mkdir()
    (folder / "broken/recipe.json").write_text("{}")
    (folder / "broken/result.json").write_text('{"format": 2, "val_bpb": "low"}')
    return folder


def test_a_row_says_what_the_result_says(runs):
    rows = {row["run"]: row for row in read(runs).rows}
    assert len(rows) == 17
    row, result = rows[f"{runs}/house/seed-42"], made_up.entry("house", 42).result
    assert list(row) == list(ALL)
    assert (row["bpb"], row["legal"], row["total"]) == (result.val_bpb, result.legal, result.bytes.total)
    assert {name: row[name] for name in COLUMNS} == {name: value(result) for name, value in COLUMNS.items()}
    assert row["ended"].startswith("20")
    begun, broken = rows[f"{runs}/begun"], rows[f"{runs}/broken"]
    assert (begun["state"], begun["recipe"], begun["seed"], begun["bpb"]) == ("unfinished", "house", 7, None)
    assert broken["state"] == "damaged"
    assert "result.json" in broken["note"]
    assert len(read(runs).results()) == 15


@pytest.mark.parametrize(
    "words, keeps",
    [
        ("recipe = house", {"house"}),
        ("bpb < 1.3 and recipe = house", {"house"}),
        ("recipe = 'pr549' or recipe = pr910", {"pr549", "pr910"}),
        ("recipe = 'pr*' and not seed in (42, 314)", {"pr1009 repaired", "pr549", "pr910"}),
        ("1.2 < bpb < 1.3 and legal", {"house"}),
        ("recipe != house and state = finished and seed == 42 and 1.6 > bpb", {"pr1009 repaired", "pr549", "pr910"}),
        ("state = unfinished", {"house"}),
        ("bpb = none and state = damaged", {None}),
        ("(adaptation = none) and RECIPE = house", None),
    ],
)
def test_filters_keep_what_they_say(runs, words, keeps):
    if keeps is None:
        with pytest.raises(UserError, match=r"no column 'RECIPE'.*recipe"):
            read(runs).where(words)
    else:
        assert {row["recipe"] for row in read(runs).where(words).rows} == keeps


@pytest.mark.parametrize(
    "words",
    [
        "",
        "bpb <",
        "__import__('os').system('true')",
        "recipe = pr549-x",
        "bpb < true",
        "recipe.upper() = 'A'",
        "(" * 900,
        "bpb",  # a column alone is its truth, so this one is a filter
        "x" * 3000,
        "bpb < [1 for x in y]",
        "bpb is 3",
        "lambda: 1",
    ],
)
def test_nothing_else_is_a_filter(words):
    if words == "bpb":
        assert read_filter(words, ALL)({"bpb": 1.0})
        return
    with pytest.raises(UserError):
        read_filter(words, ALL)


def test_sorting_puts_rows_without_a_value_last(runs):
    up, down = read(runs).sorted("bpb").rows, read(runs).sorted("-bpb").rows
    assert [row["bpb"] for row in up[:15]] == sorted(row["bpb"] for row in up[:15])
    assert up[:15] == down[:15][::-1]
    assert up[15]["bpb"] is None is down[16]["bpb"]
    with pytest.raises(UserError, match="Did you mean bpb"):
        read(runs).sorted("bbp")


def test_the_cache_is_used_and_proves_itself_fresh(runs, monkeypatch):
    first = read(runs)
    calls = []
    fresh = ledgers.read_result
    monkeypatch.setattr(ledgers, "read_result", lambda path: calls.append(path) or fresh(path))
    assert read(runs) == first
    assert calls == []
    path = runs / "house/seed-42/result.json"
    changed = replace(made_up.entry("house", 42).result, seed=43)
    path.write_text(json.dumps(changed.to_json()))  # of the same length
    assert [row["seed"] for row in read(runs).where("run = '*house/seed-42'").rows] == [43]
    assert calls == [path]
    shutil.rmtree(runs / "house/seed-42")
    assert len(read(runs).rows) == 16
    for file in (runs.parent / "cache/pargolf/ledger").iterdir():
        file.write_text('{"key": 3, "runs": [')
    assert len(read(runs).rows) == 16


def test_a_file_of_the_same_size_and_time_in_another_s_place_is_read(runs):
    read(runs)
    path = runs / "house/seed-42/result.json"
    about = path.stat()
    other = path.with_name("other")
    other.write_text(json.dumps(replace(made_up.entry("house", 42).result, seed=43).to_json()))
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    other.replace(path)
    assert [row["seed"] for row in read(runs).where("run = '*house/seed-42'").rows] == [43]


def test_sql_sees_the_table_alone(runs, tmp_path):
    pytest.importorskip("duckdb")
    best = pargolf.query_runs("select recipe, min(bpb) best from runs group by 1 order by 2", runs).result()
    assert best[0]["recipe"] == "house"
    assert best[0]["best"] == min(row["bpb"] for row in read(runs).rows if row["recipe"] == "house" and row["bpb"])
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for query in (f"select * from '{secret}'", f"copy runs to '{tmp_path}/x.csv'", "select nothing from runs", "x"):
        with pytest.raises(UserError, match="DuckDB refuses"):
            pargolf.query_runs(query, runs).result()
    assert not (tmp_path / "x.csv").exists()


def test_rows_are_a_frame_of_pandas(runs):
    pandas = pytest.importorskip("pandas")
    frame = pargolf.list_runs(runs, where="recipe = house", columns=["run", "bpb"]).result().frame()
    assert isinstance(frame, pandas.DataFrame) and list(frame.columns) == ["run", "bpb"]
    assert frame.bpb.min() == min(made_up.entry("house", s).result.val_bpb for s in (42, 314, 999))
    assert list(Ledger([]).frame().columns) == list(ALL)


def test_the_command_line_lists_them(runs, capsys):
    from typer.testing import CliRunner

    from pargolf.cli import app

    def answer(*words):
        done = CliRunner().invoke(app, ["runs", str(runs), *words], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    rows = json.loads(answer("--where", "recipe = house and bpb != none", "--sort", "bpb", "--json"))
    assert [row["bpb"] for row in rows] == sorted(made_up.entry("house", s).result.val_bpb for s in (42, 314, 999))
    assert (
        answer("--columns", "recipe,seed", "--csv", "--sort", "-seed", "--limit", "2").splitlines()[0] == "recipe,seed"
    )
    assert "17 runs, 3 shown" in answer("--limit", "3")


def test_a_run_is_repeated_from_its_folder(run, tmp_path):
    out, result = run
    again = pargolf.rerun(out, out=tmp_path / "again").result()
    assert again.same_bytes
    assert again.apart == []
    assert again.second.val_bpb == result.val_bpb
    assert again.second.version.startswith(pargolf.__version__)
    with pytest.raises(UserError, match="the run itself"):
        pargolf.rerun(out, out=out, force=True).result()


def test_a_run_is_not_repeated_on_other_text(run, data, tmp_path):
    out, _ = run
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    shard = next(copy.glob("*val*.bin"))
    raw = bytearray(shard.read_bytes())
    raw[1024:1026], raw[1026:1028] = raw[1026:1028], raw[1024:1026]
    shard.write_bytes(raw)
    with pytest.raises(UserError):
        pargolf.rerun(out, out=tmp_path / "again", data=copy).result()
    with pytest.raises(UserError, match="--data"):
        pargolf.rerun(out, out=tmp_path / "again", data=tmp_path / "gone").result()
