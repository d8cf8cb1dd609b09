import ast
import io
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import made_up
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pargolf.core.errors import UserError
from pargolf.core.events import (
    Event,
    Packed,
    PhaseBegan,
    Progress,
    Scored,
    Started,
    Step,
    Stopped,
    Validated,
    to_json,
)
from pargolf.core.result import Bytes, DocumentScore, Machine, Proof, Rests, Result, ScoreRow, TextOverlap
from pargolf.report.pages import template
from pargolf.report.pages.run import run_page
from pargolf.report.plots import drawing, runs
from pargolf.report.text import results
from pargolf.watch import live
from pargolf.watch.runlog import EventFile, LogFile, RunLog, log_lines, read_events

# The shapes that parsers of the published records look for.
F1 = re.compile(r"^step:(\d+)/(\d+) train_loss:([\d.]+) train_time:([\d.]+)ms")
F2 = re.compile(r"^step:(\d+)/(\d+) val_loss:([\d.]+) val_bpb:([\d.]+) train_time:([\d.]+)ms(?: step_avg:([\d.]+)ms)?")
F5 = re.compile(r"^stopping_early: wallclock_cap train_time:\s*([\d.]+)ms step:\s*(\d+)/(\d+)")
F7 = re.compile(r"^final_(\w*)roundtrip(_exact)? val_loss:([\d.]+) val_bpb:([\d.]+)")
F8 = re.compile(
    r"^final_\w*sliding_window\w* val_loss:([\d.]+) val_bpb:([\d.]+)(?: stride:(\d+))?(?: eval_time:([\d.]+)ms)?"
)
F9 = re.compile(
    r"^(legal_ttt\w*|final_\w*ttt\w*|ttt:done|ttt_sliding:done) val_loss[:=]([\d.]+) val_bpb[:=]([\d.]+)"
    r"(?:.*?(?:eval_time:([\d.]+)ms|elapsed=([\d.]+)s))?"
)
F10 = re.compile(r"^([\w \-]+?) val_loss:([\d.]+) val_bpb:([\d.]+) eval_time:([\d.]+)ms$")
S1 = re.compile(r"^Total submission size ([^:]+): ([\d,]+) bytes")
S2 = re.compile(r"^Code size: ([\d,]+) bytes")
S3 = re.compile(r"^Serialized model ([^:]+): ([\d,]+) bytes")

HOSTILE = "</title><script>alert(1)</script>\"' onload=x & [red]{now}$\\frac\nfinal_x_roundtrip val_loss:0 val_bpb:0"
ROLES = (
    "embed.tok",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.out",
    "mlp.up",
    "mlp.down",
    "embed.bigram",
    "gate.smear",
    "scalar",
)
RATIO = 0.5098  # bits per byte for one nat per token
MACHINE_FACTS = Machine("x86_64", 2, 1, "2.13.0", "3.12.0", "Linux", 1)
MACHINE = {"device": "cpu", "threads": 2, "world_size": 1, "torch": "2.13.0", "system": "Linux x86_64"}


def synthetic_events(*, steps: int = 290, seconds: float = 180.0, name: str = "demo") -> Iterator[Event]:
    """What a three-minute run on two cores looks like, from a seeded generator."""
    noise = np.random.default_rng(7)
    yield Started(name, "9f2c" * 4, 42, 937_884, 3_400_000, 362_481, None, seconds, dict(MACHINE))
    for step in range(1, steps + 1):
        done = step / steps
        now = 2.0 + (seconds - 14.0) * done
        if step == round(0.8 * steps):
            yield PhaseBegan(step, "qat int5", now)
        loss = 2.55 + 4.4 * math.exp(-14 * done) + 0.55 * (1 - done) ** 1.5 + 0.06 * noise.standard_normal()
        yield Step(step, loss, min(1.0, step / 10, 1.6 * (1 - done)), 4096 * step, now)
        if step % 40 == 0:
            val = 2.60 + 4.4 * math.exp(-14 * done) + 0.55 * (1 - done) ** 1.5
            yield Validated(step, val, val * RATIO, 16_384, now + 0.3)
    yield Stopped(steps, "seconds", seconds - 11.5)
    yield Packed(812_345, 18_201, 1_000_000, dict.fromkeys(ROLES, 1000), seconds - 3.2)
    for name, windows, loss in (
        ("pre_quant", "sliding:256,64", 2.5921),
        ("post_quant_plain", "plain:256", 2.6403),
        ("post_quant", "sliding:256,64", 2.60842913),
    ):
        for done in range(0, 362_481, 40_000):
            yield Progress(f"score {name}", done, 362_481, "tokens")
        yield Scored(name, windows, loss, loss * RATIO, 362_481, 1_025_229, 24.25)


def synthetic_result(**changes: object) -> Result:
    loss = 2.60842913
    scores = {
        "pre_quant": ScoreRow(2.5921, 2.5921 * RATIO, "sliding:256,64", 24.2),
        "post_quant_plain": ScoreRow(2.6403, 2.6403 * RATIO, "plain:256", 6.1),
        "post_quant": ScoreRow(loss, loss * RATIO, "sliding:256,64", 24.3),
    }
    given = {
        "recipe": "demo",
        "digest": "9f2c" * 4,
        "seed": 42,
        "val_loss": loss,
        "val_bpb": loss * RATIO,
        "val_tokens": 362_481,
        "val_bytes": 1_025_229,
        "val_split_tokens": 362_481,
        "scores": scores,
        "bytes": Bytes(812_345, 18_201, 830_546, 1_000_000),
        "train_seconds": 168.5,
        "eval_seconds": 54.6,
        "steps": 290,
        "train_tokens": 1_187_840,
        "parameters": 937_884,
    }
    return made_up.entry(**{**given, **changes}).result


def synthetic_roles() -> list[dict[str, object]]:
    weights = (131_072, 114_688, 57_344, 57_344, 114_688, 229_376, 229_376, 65_536, 128, 1_332)
    bits = (6.9, 5.8, 5.7, 5.9, 5.6, 5.1, 5.2, 4.4, 16.0, 15.2)
    return [
        {"role": role, "tensors": 7, "weights": count, "bytes": round(count * each / 8), "bits_per_weight": each}
        for role, count, each in zip(ROLES, weights, bits, strict=True)
    ]


def synthetic_documents(count: int = 26) -> list[DocumentScore]:
    draw = np.random.default_rng(3)
    rows: list[DocumentScore] = []
    for year in range(count):
        size = int(draw.integers(6_000, 160_000))
        bpb = float(1.33 + 0.09 * draw.standard_normal())
        rows.append(DocumentScore(f"sotu-{1790 + 9 * year}", size, size * 10 // 28, bpb / RATIO, bpb))
    return rows


def synthetic_page(**changes: object) -> str:
    described = (
        "name = demo\nmodel.dim = 128\nmodel.blocks[0:3].mlp.hidden = 512\nquant.grids  (mlp.*, Int(5))\nseconds = 180"
    )
    given: dict[str, object] = {
        "by_role": synthetic_roles(),
        "documents": synthetic_documents(),
        "describe": described,
        "title": "Demo on the State of the Union",
    }
    result = synthetic_result(**changes.pop("result", {}))  # type: ignore[arg-type]
    return run_page(result, list(synthetic_events()), **{**given, **changes})  # type: ignore[arg-type]


def logged(events: list[Event], *, every: int = 50) -> list[str]:
    log = RunLog(every=every)
    return [line for event in events for line in log.lines(event)]


# The log


def test_every_line_of_a_run_has_a_published_shape():
    header = re.compile(
        r"^(recipe:\S.* digest:\S+|seed:\d+|world_size:\d+|model_params:\d+|train_tokens:\d+|val_tokens:\d+"
        r"|(iterations:\d+ )?max_wallclock_seconds:[\d.]+|machine: .*|phase:\S.* step:\d+/\d+ train_time:\d+ms)$"
    )
    shapes = (F1, F2, F5, F7, F8, F10, S1, S2, S3, header)
    lines = logged(list(synthetic_events()))
    assert [line for line in lines if not any(shape.match(line) for shape in shapes)] == []
    for shape in shapes:
        assert any(shape.match(line) for line in lines), shape.pattern


def test_the_last_published_score_in_the_log_is_the_final_one_to_eight_decimals():
    lines = logged(list(synthetic_events()))
    last = [line for line in lines if F7.match(line) or F8.match(line)][-1]
    found = F8.match(last)
    assert found and float(found[1]) == 2.60842913
    assert float(found[2]) == round(2.60842913 * RATIO, 8)
    timed = [found for line in lines if (found := F8.match(line)) and found[3]]
    assert [(found[3], found[4]) for found in timed] == [("64", "24250")]


def test_a_plain_score_is_a_round_trip_and_an_unpacked_model_never_looks_like_one():
    plain = log_lines(Scored("post_quant", "plain:256", 2.5, 1.25, 10, 20, 0.5))
    assert [bool(F7.match(line)) for line in plain] == [True, True]
    assert plain[0].endswith("eval_time:500ms")
    before = log_lines(Scored("pre_quant", "plain:256", 2.5, 1.25, 10, 20, 0.5))
    assert not any(shape.match(line) for line in before for shape in (F7, F8, F9))
    assert all(F10.match(line) for line in before)
    adapted = log_lines(Scored("adapted", "sliding:256,64", 2.5, 1.25, 10, 20, 0.5))
    assert all(F9.match(line) for line in adapted)


@given(st.integers(0, 10**9), st.integers(0, 10**6))
def test_logged_sizes_add_up(model: int, code: int):
    lines = log_lines(Packed(model, code, 16_000_000, {}, 1.0))
    found = {shape: match for shape in (S1, S2, S3) for line in lines if (match := shape.match(line))}
    assert int(found[S3][2]) == model
    assert int(found[S2][1]) + int(found[S3][2]) == int(found[S1][2])
    assert found[S1][1] == found[S3][1]


@given(st.integers(1, 400), st.integers(1, 90))
@settings(max_examples=30, deadline=None)
def test_steps_logged_are_the_first_ten_every_nth_and_the_last(steps: int, every: int):
    lines = logged(list(synthetic_events(steps=steps)), every=every)
    shown = [int(found[1]) for line in lines if (found := F1.match(line))]
    assert shown == [step for step in range(1, steps + 1) if step <= 10 or step % every == 0 or step == steps]


def test_the_count_after_the_slash_is_the_limit_or_else_the_step_itself():
    step = Step(130, 2.5, 1.0, 1000, 65.0)
    bound = Started("demo", "ab", 1, 1, 1, 1, 200, 60.0, {})
    assert logged([bound, step, Stopped(130, "seconds", 65.0)])[-2] == (
        "step:130/200 train_loss:2.5000 train_time:65000ms step_avg:500.00ms"
    )
    found = F1.match(logged([step, Stopped(130, "seconds", 65.0)])[0])
    assert found and found[1] == found[2] == "130"


def test_a_name_cannot_forge_a_line_or_be_taken_for_source():
    lines = logged([Started(HOSTILE, "ab", 1, 1, 1, 1, None, 60.0, {"cpu": HOSTILE}), PhaseBegan(3, HOSTILE, 1.0)])
    assert all("\n" not in line and "{" not in line for line in lines)
    assert not any(F7.match(line) for line in lines)


def test_only_a_stop_by_the_clock_is_logged_as_one():
    assert F5.match(log_lines(Stopped(9, "seconds", 1.0))[0])
    assert not any(F5.match(log_lines(Stopped(9, reason, 1.0))[0]) for reason in ("steps", "interrupted"))


# The event file


def test_events_come_back_as_written_without_progress(tmp_path):
    events = list(synthetic_events())
    with EventFile(tmp_path / "events.jsonl") as file:
        for event in events:
            file.write(event)
    assert read_events(tmp_path / "events.jsonl") == [event for event in events if not isinstance(event, Progress)]


def test_events_are_readable_while_the_run_goes_on(tmp_path):
    file = EventFile(tmp_path / "events.jsonl")
    file.write(Step(1, 2.5, 1.0, 10, 0.1))
    assert read_events(file.path) == [Step(1, 2.5, 1.0, 10, 0.1)]
    file.close()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_file_cut_anywhere_gives_its_whole_lines_and_goes_on(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "events.jsonl"
    events: list[Event] = [PhaseBegan(number, "längere Sätze", 1.5) for number in range(3)]
    lines = [(to_json(event) + "\n").encode() for event in events]
    at = data.draw(st.integers(0, sum(map(len, lines))))
    path.write_bytes(b"".join(lines)[:at])
    whole = next(count for count in range(3, -1, -1) if sum(map(len, lines[:count])) <= at)
    # A line that lacks only its newline is complete for a reader; a writer starts it afresh.
    lacks_newline = whole < 3 and at == sum(map(len, lines[: whole + 1])) - 1
    assert read_events(path) == events[: whole + lacks_newline]
    more = Stopped(3, "steps", 2.0)
    with EventFile(path) as file:
        file.write(more)
    assert read_events(path) == [*events[:whole], more]


@pytest.mark.parametrize("bad", ["{}", "[1]", "3", "nonsense", '{"event": "Step", "x": 1}', '{"event": "Other"}'])
def test_a_bad_line_inside_is_named(tmp_path, bad):
    path = tmp_path / "events.jsonl"
    path.write_text(f"{to_json(Stopped(1, 'steps', 1.0))}\n{bad}\n{to_json(Stopped(2, 'steps', 1.0))}\n")
    with pytest.raises(UserError, match="line 2"):
        read_events(path)


def test_a_missing_event_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"events\.jsonl"):
        read_events(tmp_path / "events.jsonl")


def test_the_log_file_holds_what_the_log_says(tmp_path):
    events = list(synthetic_events())
    with LogFile(tmp_path / "train.log", every=20) as file:
        for event in events:
            file.write(event)
    assert (tmp_path / "train.log").read_text().splitlines() == logged(events, every=20)


# The terminal


def drawn(what: object, *, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_result_table_shows_the_graded_number_and_where_it_stands(width):
    text = drawn(results.result_table(synthetic_result()), width=width)
    words = " ".join(text.split())
    for fact in ("1.3298", "2.6084", "362,481", "1,025,229", "830,546", "1,000,000", "83.1%", "plain:256", "168.5 s"):
        assert fact in words, fact
    assert max(map(len, text.splitlines())) <= width


def test_a_result_over_its_cap_says_so_in_the_terminal_and_on_the_page():
    over = {"bytes": Bytes(990_000, 18_201, 1_008_201, 1_000_000)}
    assert "OVER THE CAP" in drawn(results.result_table(synthetic_result(**over)))
    assert "8,201 bytes over the cap" in synthetic_page(result=over)
    assert "OVER THE CAP" not in drawn(results.result_table(synthetic_result()))
    assert "over the cap" not in synthetic_page()


REASONS = [
    ({"val_tokens": 2048, "val_split_tokens": 2866, "complete": False}, "Only the first 2,048 of 2,866 validation"),
    ({"interrupted": True}, "training was interrupted"),
    ({"steps": 0}, "no step was trained"),
    ({"proof": Proof(Rests.TABLE, {}, "")}, "its bytes are unproved"),
    ({"proof": None}, "what its bytes rest on was not recorded"),
    ({"in_turn": False}, "not scored in turn"),
    ({"probed": False}, "scores changed when later tokens were flipped"),
    ({"overlap": TextOverlap(True, 3, 0.1)}, "3 validation documents stand in the training text"),
]


@pytest.mark.parametrize(("fields", "words"), REASONS)
def test_what_speaks_against_a_number_stands_on_the_first_line(fields, words):
    result = synthetic_result(**fields)
    assert not result.legal and result.why_not and words in result.sentence
    first = drawn(results.result_table(result), width=200).strip().splitlines()[0]
    assert words in first and "Every one" not in first.split(words)[0]
    body = re.sub(r"<header>.*?</header>", "", synthetic_page(result=fields).partition("<main>")[2], flags=re.S)
    assert words in re.sub(r"<[^>]*>", "", body).strip().splitlines()[0]
    assert result.complete or "Every one" not in result.sentence


def test_a_sound_number_is_legal_and_says_what_its_bytes_rest_on():
    result = synthetic_result()
    assert result.legal and result.why_not == []
    for rests in (Rests.DOCUMENTS, Rests.ROUND_TRIP, Rests.PUBLISHED):
        sound = synthetic_result(proof=Proof(rests, {}, ""))
        assert sound.legal and sound.sentence.startswith("Every one of 362,481") and rests.words in sound.sentence


def test_markup_in_names_is_shown_and_not_obeyed():
    text = drawn(
        results.result_table(synthetic_result(recipe="[red]x[/]", machine=replace(MACHINE_FACTS, processor="[/bold]")))
    )
    assert "[red]x[/]" in text and "[/bold]" in text
    assert "[/x]" in drawn(results.roles_table([{**synthetic_roles()[0], "role": "[/x]"}]))


def test_the_roles_table_is_sorted_and_sums_up():
    rows = synthetic_roles()
    lines = drawn(results.roles_table(rows)).splitlines()
    shown = [line.split()[0] for line in lines if line.split() and line.split()[0] in ROLES]
    assert shown == [row["role"] for row in sorted(rows, key=lambda row: -row["bytes"])]
    assert f"{sum(row['bytes'] for row in rows):,}" in lines[-1]
    assert "all" in drawn(results.roles_table([]))


@pytest.mark.parametrize("terminal", [True, False])
def test_showing_a_run_changes_none_of_its_events(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=90)
    events = list(synthetic_events())
    assert list(live.draw(iter(events), console, plain_seconds=0.0)) == events
    assert isinstance(console.file, io.StringIO)
    assert "bits per byte" in console.file.getvalue()


def test_off_a_terminal_lines_are_plain_and_few():
    def lines(every: float) -> list[str]:
        console = Console(file=io.StringIO(), width=60)
        for _ in live.draw(synthetic_events(), console, plain_seconds=every):
            pass
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().splitlines()

    quiet, chatty = lines(3600.0), lines(0.0)
    assert "\x1b" not in "".join(chatty)
    assert len(quiet) == sum(live.milestone(event) is not None for event in synthetic_events())
    assert any("tokens/s" in line and "loss" in line and "left" in line for line in chatty)


def test_a_long_wait_is_one_line():
    console = Console(file=io.StringIO(), width=60)
    waits = [Progress("runs", 0, 2, "a"), Progress("runs", 0, 2, "a"), Progress("runs", 1, 2, "b")]
    assert list(live.draw(iter(waits), console, plain_seconds=0.0)) == waits
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == ["runs 0% a", "runs 50% b"]


def test_the_fraction_done_follows_whichever_bound_is_nearer():
    status = live.Status()
    status.take(Started("x", "d", 1, 1, 1, 1, 40, 100.0, {}))
    assert status.fraction == 0.0 and status.seconds_left == math.inf
    status.take(Step(10, 2.0, 1.0, 100, 10.0))
    assert (status.fraction, status.seconds_left) == (0.25, 30.0)
    status.take(Step(11, 2.0, 1.0, 110, 60.0))
    assert (status.fraction, status.seconds_left) == (0.6, 40.0)
    assert status.tokens_per_second == pytest.approx(0.2)


def test_a_run_bound_by_steps_alone_is_shown():
    status = live.Status()
    status.take(Started("x", "d", 1, 1, 1, 1, 4, math.inf, {}))
    status.take(Step(1, 2.0, 1.0, 100, 10.0))
    assert status.fraction == 0.25
    assert "25%" in drawn(status)


# Plots and the page


def all_plots(width: float) -> list[str]:
    return [
        runs.curves(list(synthetic_events()), width=width),
        runs.roles(synthetic_roles(), width=width),
        runs.documents(synthetic_documents(), width=width),
    ]


def test_plots_are_the_same_bytes_every_time_and_take_the_pages_ink():
    first, second = all_plots(drawing.WIDE), all_plots(drawing.WIDE)
    assert first == second
    for svg in first:
        assert "currentColor" in svg and "#010203" not in svg
        assert "#000000" not in svg and "#ffffff" not in svg
        assert svg.replace("http://www.w3.org/2000/svg", "").count("http") == 0
        balanced(svg)


def test_plots_hold_nothing_for_a_run_that_has_nothing():
    assert runs.curves([]) == runs.roles([]) == runs.documents([]) == ""


def test_curves_survive_runs_without_scores_or_with_a_loss_that_is_no_number():
    one = [Step(1, math.nan, 0.0, 1, 0.0)]
    assert "nats per token" in runs.curves(one)
    assert runs.curves([Step(step, math.nan if step > 5 else 3.0, 1.0, 1, float(step)) for step in range(1, 9)])


def test_every_document_has_a_tooltip_and_thousands_become_one_curve():
    svg = runs.documents(synthetic_documents())
    assert all(f"<title>{row.id}: " in svg for row in synthetic_documents())
    assert len(runs.documents(synthetic_documents(5000))) < 100_000


class Balance(HTMLParser):
    """Checks that tags nest; collects ids and what a browser would fetch."""

    void = {"meta", "link", "br", "hr", "img", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.note(tag, attrs)
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.note(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def note(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            assert not key.startswith("on"), key
            if key == "id":
                self.ids.append(value)
            if key in ("src", "href", "xlink:href", "action", "srcset", "data", "poster"):
                self.fetched.append(value)


def balanced(text: str) -> Balance:
    parser = Balance()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_nests_and_fetches_nothing():
    text = synthetic_page()
    found = balanced(text)
    assert all(value.startswith("#") for value in found.fetched)
    assert len(found.ids) == len(set(found.ids))
    assert {value[1:] for value in found.fetched} <= set(found.ids)
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/2000/svg)", text)
    assert "default-src 'none'" in text


def test_the_page_says_the_number_and_what_it_stands_on():
    text = re.sub(r"\s+", " ", synthetic_page())
    for fact in (
        ">1.3298<",
        "362,481 validation tokens was scored once",
        "1,025,229 bytes",
        "unpacked from 812,345 bytes",
        "a" * 64,
    ):
        assert fact in text, fact
    assert "model.blocks[0:3].mlp.hidden</td><td>512" in text
    assert "pargolf train demo --data DATA --out RUN --seed 42" in text


def test_the_page_shows_the_hashes_of_what_was_scored():
    proof = Proof(Rests.PUBLISHED, {"val_000000.bin": "1" * 64, "val_000001.bin": "2" * 64}, "3" * 64)
    text = synthetic_page(result={"proof": proof})
    for word in ("val_000000.bin", "1" * 64, "2" * 64, "3" * 64, "published"):
        assert word in text


def test_the_page_escapes_every_text_from_outside():
    text = synthetic_page(
        title=HOSTILE,
        describe=f"{HOSTILE} = {HOSTILE}",
        by_role=[{**synthetic_roles()[0], "role": HOSTILE}],
        documents=[replace(row, id=HOSTILE) for row in synthetic_documents(3)],
        result={
            "recipe": HOSTILE,
            "machine": replace(MACHINE_FACTS, processor=HOSTILE),
            "digest": HOSTILE,
            "command": HOSTILE,
        },
    )
    found = balanced(text)
    assert found.tags.count("script") == 1
    assert found.tags.count("title") == 1 + 2 * 1 + 2 * 3  # the page, one role, three documents; two widths
    assert "<script>alert" not in text


def test_the_page_of_a_run_with_little_to_show_still_stands():
    bare = synthetic_result()
    text = run_page(bare, [], by_role=[], documents=[], describe="", title="bare")
    balanced(text)
    assert "<svg" not in text and "bits per byte" in text


def test_html_style_and_script_stand_in_files_of_their_own():
    """No tag in the Python of the pages; every template and asset is used, and part of the package's data."""
    pages = Path(str(template.__file__)).parent
    code = "".join(path.read_text() for path in pages.glob("*.py"))
    texts = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert not [text for text in texts if isinstance(text, str) and re.search(r"</\w|<[a-z]+[ >]", text)]
    templates = {path.name: path.read_text() for path in (pages / "templates").iterdir()}
    everything = code + "".join(templates.values())
    for path in [*(pages / "templates").iterdir(), *(pages / "assets").iterdir()]:
        assert f'"{path.name}"' in everything, path.name
    assert all("|safe" not in text for text in templates.values())
    packaged = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert '"report/pages/templates/*"' in packaged and '"report/pages/assets/*"' in packaged
