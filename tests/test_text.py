"""Text as it lies: every kind of file gives the same documents; columns are named, near-copies kept on one side."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from backports import zstd
from hubs import serving
from typer.testing import CliRunner

from pargolf.cli import app
from pargolf.core.errors import UserError
from pargolf.data.check import check
from pargolf.data.folder import open_data
from pargolf.data.overlap import check_overlap
from pargolf.data.prepare import prepare
from pargolf.data.read import arrays
from pargolf.data.read.files import find_files, read_documents

CASES = Path(__file__).parent / "cases"
TEXTS = [json.loads(line)["text"] for line in (CASES / "text.jsonl").read_text().splitlines()][:12]
TEXTS[1] += '\nA second line, "quoted"; with a\ttab — and ☃.'
PACKINGS = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda raw: zstd.compress(raw[:50]) + zstd.compress(raw[50:]),
    ".bz2": bz2.compress,
}


def table(delimiter, column="text"):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(["n", column])
    writer.writerows([[number, text] for number, text in enumerate(TEXTS)])
    return out.getvalue().encode()


def parquet(column="text", texts=TEXTS, **more):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    rows = {"n": list(range(len(texts))), column: list(texts), **more}
    parquet.write_table(arrow.table(rows), out, row_group_size=5)
    return out.getvalue()


def records(column="text"):
    return [{"n": number, column: text} for number, text in enumerate(TEXTS)]


WRITTEN = {
    ".jsonl": lambda: "\n\n".join(map(json.dumps, records())).encode(),
    ".json": lambda: json.dumps(records(), indent=1, ensure_ascii=False).encode(),
    ".csv": lambda: table(","),
    ".tsv": lambda: b"\xef\xbb\xbf" + table("\t"),
    ".parquet": parquet,
}


def texts_of(*sources, **how):
    return [document.text for document in read_documents(find_files(sources), **how)]


def fill(sources, out, **options):
    for _ in prepare(sources, out, **options):
        pass
    return open_data(out)


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("packing", PACKINGS)
def test_every_kind_of_table_gives_the_same_documents(kind, packing, tmp_path):
    path = tmp_path / f"a{kind}{packing}"
    path.write_bytes(PACKINGS[packing](WRITTEN[kind]()))
    assert texts_of(path) == TEXTS
    found = find_files([tmp_path])
    assert len(list(read_documents(found))) == len(TEXTS)
    assert found.notes == ['The text is column "text" of 1 file.']


@pytest.mark.parametrize("kind", [".txt", ".md", ".rst"])
def test_plain_text_and_markup_is_one_document(kind, tmp_path):
    (tmp_path / f"a{kind}").write_text(TEXTS[1], encoding="utf-8")
    assert texts_of(tmp_path / f"a{kind}") == [TEXTS[1]] == texts_of(tmp_path) == texts_of(f"{tmp_path}/*{kind}")


def test_objects_one_after_another_and_bare_strings_are_json_too(tmp_path):
    (tmp_path / "a.json").write_text("\n".join(json.dumps(r, indent=2) for r in records()))
    (tmp_path / "b.json").write_text(json.dumps(TEXTS))
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, TEXTS)))
    (tmp_path / "d.json").write_text(" [ ] ")
    (tmp_path / "e.json").write_text(f"{json.dumps(records()[:1])}\n[]{json.dumps(TEXTS[1:])}\n")
    assert texts_of(*(tmp_path / name for name in ("a.json", "b.json", "c.jsonl", "d.json", "e.json"))) == TEXTS * 4


def test_an_array_is_read_in_time_that_grows_with_it_alone(tmp_path):
    """60,000 records after a large one take less than a second, and took six when each moved what was left."""
    (tmp_path / "a.json").write_text(json.dumps(["x" * 3_000_000, *(f"text {i}" for i in range(60_000))]))
    before = time.process_time()
    assert sum(1 for _ in read_documents(find_files([tmp_path / "a.json"]))) == 60_001
    assert time.process_time() - before < 3


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 20])
def test_an_array_is_read_alike_wherever_its_pieces_end(piece, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_PIECE", piece)
    (tmp_path / "a.json").write_text(json.dumps(records()))
    assert texts_of(tmp_path / "a.json") == TEXTS


def test_a_folder_of_tables_leaves_out_what_is_about_them(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(WRITTEN[".jsonl"]())
    (tmp_path / "README.md").write_text("# About the data")
    (tmp_path / "infos.json").write_text('{"rows": 12}')
    found = find_files([tmp_path])
    assert [document.text for document in read_documents(found)] == TEXTS
    assert found.notes[1] == "Left out beside tables: README.md, infos.json. Name such files to read them."


def test_what_a_folder_holds_and_is_not_read_is_said(tmp_path):
    (tmp_path / "texts" / ".git").mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").write_text("A text.")
    for name in ("b.html", ".git/c.bin", ".hidden"):
        (tmp_path / "texts" / name).write_text("no text")
    (tmp_path / "more").mkdir()
    (tmp_path / "texts" / "linked").symlink_to(tmp_path / "more")
    (tmp_path / "texts" / "loop").symlink_to(tmp_path / "texts")
    notes = find_files([tmp_path / "texts"]).notes
    assert notes == ["Left out: b.html, linked, loop (3 of no kind that is read, or links to folders)."]


def test_empty_lines_before_a_header_and_empty_texts_are_no_hindrance(tmp_path):
    (tmp_path / "a.csv").write_text("\n\nn,text\n" + "1,\n" * 200 + "2,A text.\n")
    assert [text for text in texts_of(tmp_path / "a.csv") if text] == ["A text."]


def test_globs_find_files_below_and_name_them_by_their_place(tmp_path):
    for name in ("x/1.txt", "x/y/2.txt", "z/3.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    ids = [document.id for document in read_documents(find_files([f"{tmp_path}/**/*.txt"]))]
    assert ids == ["x/1.txt", "x/y/2.txt", "z/3.txt"]
    with pytest.raises(UserError, match=r"No file is named by .*\*\.md"):
        find_files([f"{tmp_path}/*.md"])


@pytest.mark.parametrize(("columns", "taken"), [(["content"], "content"), (["Body"], "Body"), (["story"], "story")])
@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
def test_a_usual_name_or_the_only_column_of_strings_is_taken_and_said(columns, taken, kind, tmp_path):
    column = columns[0]
    written = {
        ".jsonl": lambda: "\n".join(map(json.dumps, records(column))).encode(),
        ".csv": lambda: table(";", column),
        ".parquet": lambda: parquet(column),
    }
    (tmp_path / f"a{kind}").write_bytes(written[kind]())
    found = find_files([tmp_path])
    assert [document.text for document in read_documents(found)] == TEXTS
    assert found.columns == {f"a{kind}": taken}


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
def test_of_two_candidates_none_is_guessed(kind, tmp_path):
    rows = [{"url": f"u{i}", "title": text} for i, text in enumerate(TEXTS)]
    path = tmp_path / f"a{kind}"
    if kind == ".parquet":
        path.write_bytes(parquet("title", url=[row["url"] for row in rows]))
    elif kind == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["url", "title"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r'"(url|title)" and "(url|title)" may each be the text.*--text-field'):
        texts_of(path)
    assert texts_of(path, text_field="title") == TEXTS
    with pytest.raises(UserError, match=r'"titel" is not there. Did you mean title'):
        texts_of(path, text_field="titel")


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("a.jsonl", b'{"n": 1}', r'has no "text" string, nor another one; it has "n"'),
        ("a.json", b'[{"text": "x"}, {"text": 1}]', r'record 2 has no "text" string'),
        ("a.json", b'[{"text": "x"}, {"tex', "is not JSON"),
        ("a.json", b'[{"text": x}]', "is not JSON"),
        ("a.json", b'["\xff"]', "is not UTF-8"),
        ("a.csv", b"text,n\nx,1,2\n", r"row 1 has 3 fields and the header 2"),
        ("a.csv", b'text\n"x', "is no table"),
        ("a.csv", b'text,n\n"left open,1\n"x",2\n', "is no table"),
        ("a.tsv", b'text\tn\n"Yes," he said\t1\n', "is no table"),
        ("a.csv", b"text,text\nx,y\n", r'has 2 columns "text"'),
        ("a.csv", b"text,n\n", "hold no text"),
        ("a.json", b'[{"text": "x"}] and more', "is not JSON"),
        ("a.txt", "A text.".encode("utf-16"), r"is not plain text but UTF-16.*iconv"),
        ("a.txt", "A text of ASCII.".encode("utf-16-be"), r"16 of its first 32 bytes are NUL"),
        ("a.jsonl", '{"text": "x"}'.encode("utf-32-le"), r"bytes are NUL"),
        ("a.txt", b"%PDF-1.4\nascii alone", "is not plain text but a PDF"),
        ("a.md", b"PK\x03\x04rest", "is not plain text but a ZIP archive"),
        ("a.csv", gzip.compress(b"text\nx\n", mtime=0), r"packed: give its name the suffix \.gz"),
        ("a.txt.gz", gzip.compress(b"ARROW1 and more", mtime=0), r"is not plain text but Arrow"),
        ("a.tsv", b"text\tn\n\xff\t1\n", "is not UTF-8"),
        ("a.parquet", b"PAR1 nonsense", "is no whole Parquet file"),
        ("a.csv", b"", 'has no "text" string'),
    ],
)
def test_tables_that_cannot_be_read_are_named(name, raw, said, tmp_path):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(UserError, match=said) as caught:
        fill([tmp_path / name], tmp_path / "out", vocab=257)
    assert "\n" not in str(caught.value)


def test_without_pyarrow_the_reader_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"pip install 'pargolf\[parquet\]'"):
        texts_of(tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", [*WRITTEN, ".txt"])
@pytest.mark.parametrize("packing", ["", ".zst"])
def test_standard_input_is_told_by_its_bytes(kind, packing, tmp_path, monkeypatch):
    if kind in (".csv", ".tsv"):
        pytest.skip("a table without a name is plain text")
    raw = WRITTEN[kind]() if kind in WRITTEN else b"[1] is no JSON\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PACKINGS[packing](raw))))
    found = find_files(["-"], spool=tmp_path)
    assert [document.text for document in read_documents(found)] == (TEXTS if kind in WRITTEN else [raw.decode()])
    assert all(document.id.startswith("-") for document in read_documents(found))
    with pytest.raises(UserError, match="named twice"):
        find_files(["-"], spool=tmp_path)


def test_a_share_is_the_same_documents_whatever_their_order(tmp_path):
    lines = [json.dumps({"id": f"d{i}", "text": f"text number {i} " * 9}) for i in range(80)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    random.Random(0).shuffle(lines)
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    taken = []
    for name, limit in (("a", 3000), ("b", 3000), ("a", 6000), ("a", None)):
        data = fill([tmp_path / f"{name}.jsonl"], tmp_path / f"{name}{limit}", vocab=257, max_bytes=limit)
        rows = data.rows("train") + data.rows("val")
        taken.append({row.id for row in rows})
        assert limit is None or 0.9 * limit < sum(row.bytes for row in rows) <= limit
    assert taken[0] == taken[1] < taken[2] < taken[3]
    with pytest.raises(UserError, match="--max-bytes"):
        fill([tmp_path / "a.jsonl"], tmp_path / "none", vocab=257, max_bytes=0)


# --- near-copies


def pages(copies=30, of=5):
    """Pages that share nothing but words, and copies of some with another beginning."""
    rng = random.Random(1)
    words = [f"w{i}" for i in range(300)]
    own = [" ".join(rng.choices(words, k=120)) for _ in range(60)]
    return own + [f"Copied on day {i}: {own[i % of]} Read {i} times." for i in range(copies)]


@pytest.fixture(scope="module")
def repetitive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"id": f"p{i}", "text": t}) for i, t in enumerate(pages())))
    return folder


def test_near_copies_train_together_and_the_check_finds_none(repetitive, tmp_path):
    data = fill([repetitive], tmp_path / "out", vocab=400, val_fraction=0.3)
    assert not check_overlap(data).found and all(found.ok for found in check(data.path))
    moved = data.meta["moved_to_training"]
    assert moved > 3 and f"{moved:,} near-copies of training text are moved" in data.meta["notes"][-1]
    assert len(data.rows("train")) + len(data.rows("val")) == 90
    copied = {f"p{i}" for i in [*range(5), *range(60, 90)]}
    families = [{row.id for row in data.rows(split)} & copied for split in ("train", "val")]
    for page in range(5):
        family = {f"p{page}", *(f"p{60 + i}" for i in range(30) if i % 5 == page)}
        assert family <= families[0] or family <= families[1]


def test_near_copies_are_dropped_where_that_is_asked_for(repetitive, tmp_path):
    data = fill([repetitive], tmp_path / "out", vocab=400, val_fraction=0.3, dedupe=True)
    rows = {row.id for split in ("train", "val") for row in data.rows(split)}
    assert rows == {f"p{i}" for i in range(60)}
    assert data.meta["dropped"]["near_copies"] == 30 and "30 near-copies of other documents are dropped." in str(
        data.meta["notes"]
    )
    assert not check_overlap(data).found


def test_where_all_of_validation_is_copied_it_is_left_and_said(tmp_path):
    text = " ".join(f"word{i}" for i in range(200))
    for i in range(10):
        (tmp_path / f"{i}.txt").write_text(f"Edition {i}. {text}")
    for name, how in (("together", {}), ("dropped", {"dedupe": True})):
        data = fill([f"{tmp_path}/*.txt"], tmp_path / name, vocab=400, val_fraction=0.4, **how)
        assert "All of validation is near-copies" in data.meta["notes"][-1]
        assert data.rows("val") and data.rows("train")


def test_sampled_hashes_agree_between_preparing_and_checking(repetitive, tmp_path, monkeypatch):
    monkeypatch.setattr("pargolf.data.overlap.COMPARED", 500)
    data = fill([repetitive], tmp_path / "out", vocab=400, val_fraction=0.3)
    assert data.meta["moved_to_training"] > 3 and not check_overlap(data).found


# --- the hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    pytest.importorskip("pyarrow")
    files = {
        "data/train-00000-of-00002.parquet": parquet(texts=TEXTS[:6]),
        "data/train-00001-of-00002.parquet": parquet(texts=TEXTS[6:]),
        "data/other.parquet": parquet(texts=["something else"]),
        "README.md": b"# About",
    }
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    faults, asked = {}, []
    with serving(files, faults, asked) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield files, faults, asked


def test_a_data_set_of_the_hub_is_fetched_once_and_prepared(hub, tmp_path):
    _, _, asked = hub
    address = "hf://datasets/some/where/data/train-*.parquet"
    one = fill([address], tmp_path / "one", vocab=257)
    rows = {row.id: row for split in ("train", "val") for row in one.rows(split)}
    assert len(rows) == len(TEXTS) and "data/train-00001-of-00002.parquet:1" in rows
    assert {path for path, _ in asked} == {f"data/train-0000{i}-of-00002.parquet" for i in (0, 1)}
    before = len(asked)
    two = fill(["hf://datasets/some/where"], tmp_path / "two", vocab=257)
    assert [path for path, _ in asked[before:]] == ["data/other.parquet"]
    assert len(two.rows("train")) + len(two.rows("val")) == len(TEXTS) + 1


def test_a_file_of_the_hub_that_was_cut_off_goes_on(hub, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 300)
    _, faults, asked = hub
    path = "data/train-00000-of-00002.parquet"
    faults[path] = "cut off"
    with pytest.raises(UserError, match="run the command again"):
        fill([f"hf://datasets/some/where/{path}"], tmp_path / "out", vocab=257)
    faults.clear()
    fill([f"hf://datasets/some/where/{path}"], tmp_path / "out", vocab=257)
    assert asked[-1][1] > 0


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("hf://some/where", "is no data set. Write hf://datasets/OWNER/NAME"),
        ("hf://datasets/some/where/nothing", r"no Parquet file under nothing.*@~parquet"),
    ],
)
def test_an_address_that_names_nothing_is_one_line(hub, address, said, tmp_path):
    with pytest.raises(UserError, match=said):
        fill([address], tmp_path / "out", vocab=257)


def test_the_command_says_what_it_took(tmp_path):
    (tmp_path / "a.csv").write_bytes(table(",", "content"))
    words = ["data", "prepare", str(tmp_path / "a.csv"), "--vocab", "257", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--max-bytes", "9000", "--text-field", "content"])
    assert done.exit_code == 0, done.output
    assert 'The text is column "content" of 1 file.' in done.output
    assert np.isclose(open_data(tmp_path / "out").meta["max_bytes"], 9000)
