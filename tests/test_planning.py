"""The planner: what fits is planned, what cannot be is refused with the smallest that can, and words match figures."""

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import pargolf
from pargolf.cli import app
from pargolf.core.budget import Budget, Clock
from pargolf.core.errors import UserError
from pargolf.core.result import read_result
from pargolf.core.world import World
from pargolf.data.folder import open_data
from pargolf.data.learn import SMALLEST, TooManyPieces, train_bpe
from pargolf.evaluate.text import Text
from pargolf.model.transformer import Transformer
from pargolf.recipes import catalog
from pargolf.recipes.family import HEADS, Shape, member
from pargolf.recipes.house import RECIPE as HOUSE
from pargolf.run.pack import pack, unpack
from pargolf.run.pipeline import score_unpacked
from pargolf.study.planning import throughput
from pargolf.study.planning.law import effective, read_law
from pargolf.study.planning.sample import LEAST, TextFacts, read_text
from pargolf.study.planning.search import DROPOUT, Search, memorizing, regularized, stored_whole
from pargolf.study.planning.throughput import Throughput, features, fitted, measured
from pargolf.study.planning.words import make_plan, recipe_file

PACE = Throughput(0.02, 0.001, 0.004, True, "a made-up machine")
EMBEDDED = TextFacts("embedded", 9_735_929, 1_025_229, 1.0, True)
CELLS = [(cap, seconds) for cap in (64_000, 250_000, 1_000_000, 4_000_000) for seconds in (60.0, 300.0, 1800.0)]


def search(cap: int = 1_000_000, seconds: float = 300.0, text: TextFacts = EMBEDDED, pace: Throughput = PACE) -> Search:
    return Search(Budget(bytes=cap, train_seconds=seconds), text, pace, read_law(), 25_300)


# --- the family ---------------------------------------------------------------------------------------------------


def test_the_house_is_a_member_of_its_family() -> None:
    made = member(Shape())
    assert (made.model, made.train, made.quant, made.adapt) == (HOUSE.model, HOUSE.train, HOUSE.quant, HOUSE.adapt)


@pytest.mark.parametrize("dim", HEADS)
def test_a_shape_counts_its_weights(dim: int) -> None:
    shape = Shape(vocab=300, dim=dim, blocks=2, hidden=2 * dim)
    matrices = [p.numel() for p in member(shape).model.build(0).parameters() if p.ndim == 2]
    assert sum(matrices) == shape.weights


# --- the law ------------------------------------------------------------------------------------------------------


def test_text_that_repeats_is_worth_less_and_never_less_than_none() -> None:
    worth = [effective(passes * 1e6, 1e6, 4.0) for passes in (0.5, 1, 2, 4, 100, 10_000)]
    assert worth[:2] == [5e5, 1e6]
    assert worth == sorted(worth)
    assert worth[2] < 2e6
    assert worth[-1] == pytest.approx(5e6, rel=1e-6)


def test_more_of_anything_is_forecast_to_help() -> None:
    law, shape = read_law(), Shape()
    how = {"tokens": 2e6, "unique": 2e6, "bytes_per_token": 4.3}
    plain = law.constants.loss(shape, **how)
    assert law.constants.loss(shape, **how | {"tokens": 1.5e6}) > plain
    assert law.constants.loss(replace(shape, dim=128, hidden=256), **how) > plain
    assert law.constants.loss(shape, tokens=2e6, unique=2e5, bytes_per_token=4.3) > plain
    costs = [law.cost(bits, 2e6, Shape()) for bits in (2.5, 3.5, 4.5)]
    assert costs[0] > costs[1] > costs[2] > 0
    assert law.cost(2.5, 4e6, Shape()) > costs[0]  # what trained for longer loses more


def test_the_interval_widens_away_from_the_runs() -> None:
    constants = read_law().constants
    near = constants.deviation(Shape(), tokens=2e6, unique=2.2e6, bytes_per_token=4.3)
    far = constants.deviation(Shape(8192, 512, 11, 2048), tokens=4e9, unique=8e9, bytes_per_token=4.3)
    assert constants.spread < near < far


def test_the_law_is_as_near_to_its_runs_as_it_says() -> None:
    law = read_law()
    assert law.fitted == len(law.runs) >= 8
    errors = [
        math.log(
            law.constants.loss(
                run.shape, tokens=run.tokens, unique=run.unique_tokens, bytes_per_token=run.bytes_per_token
            )
            / run.bpb
        )
        for run in law.runs
    ]
    assert math.sqrt(sum(e * e for e in errors) / len(errors)) <= law.constants.spread
    packed = [(run, p) for run in law.runs for p in run.packed if p.bits > 2.4]
    costs = [(p.bpb - run.bpb, law.cost(p.bits, run.tokens, run.shape)) for run, p in packed]
    assert all(abs(cost - said) < max(0.6 * cost, 0.003) for cost, said in costs)


# --- the search ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cap", "seconds"), CELLS)
def test_something_trains_in_every_cell(cap: int, seconds: float) -> None:
    plan = make_plan(search(cap, seconds))
    choice, shape = plan.choice, plan.choice.shape
    room = cap - plan.code - stored_whole(shape)
    assert choice.bits * shape.weights / 8 <= room
    assert choice.bytes <= cap
    assert choice.steps * PACE.step(shape) < seconds
    assert choice.low < choice.bpb < choice.high
    assert choice.bpb < choice.packed
    assert [other.bpb for other in plan.others] == sorted(other.bpb for other in plan.others)
    assert choice.bpb <= plan.others[0].bpb
    assert 1 <= len(plan.others) <= 3
    assert all(reason.why for reason in plan.reasons)
    assert plan.recipe.budget == Budget(bytes=cap, train_seconds=seconds)


def test_more_bytes_and_more_seconds_never_make_it_worse() -> None:
    found = {cell: make_plan(search(*cell)).choice.bpb for cell in CELLS}
    for cap, seconds in CELLS:
        assert all(found[cap, seconds] >= bpb - 1e-3 for (c, s), bpb in found.items() if c >= cap and s >= seconds)


@pytest.mark.parametrize(("steps", "share", "dropout"), [(900, 10.3, 0), (1400, 37, DROPOUT), (8650, 8.7, DROPOUT)])
def test_dropout_follows_the_measured_pairs(steps: int, share: float, dropout: float) -> None:
    shape = Shape(4096, 192, 4, 576)
    unique = (steps * shape.batch_tokens * shape.weights / share) ** 0.5
    assert memorizing(shape, steps=steps, unique=unique) == pytest.approx(share)
    assert regularized(shape, steps=steps, unique=unique).dropout == dropout


def test_a_small_text_is_gone_through_often_and_more_of_it_would_help() -> None:
    text = TextFacts("small", 400_000, 40_000, 1.0, False)
    plan = make_plan(search(text=text))
    assert plan.choice.passes >= 5
    assert "dropout: 0.2 from pass 2" in [f"{reason.row}: {reason.choice}" for reason in plan.reasons]
    assert plan.more_text > make_plan(search(seconds=1800.0)).more_text > 0
    assert make_plan(search(seconds=40.0)).more_text == 0.0  # a run that sees part of its text gains nothing by more
    assert "dropout: none" in [f"{reason.row}: {reason.choice}" for reason in make_plan(search(seconds=40.0)).reasons]


@pytest.mark.parametrize(("most", "vocab"), [(5000, 4096), (3000, 2048), (600, 512), (300, 300), (261, 257)])
def test_a_vocabulary_is_no_larger_than_the_text_has_pieces(most: int, vocab: int) -> None:
    plan = make_plan(search(cap=4_000_000, text=replace(EMBEDDED, most=most)))
    assert plan.choice.shape.vocab == vocab
    assert all(other.shape.vocab <= most for other in plan.others)
    reason = next(reason for reason in plan.reasons if reason.row == "vocabulary")
    assert f"the text holds {most:,} different pieces at most" in reason.why


def test_a_harder_text_is_forecast_higher_and_wider() -> None:
    easy, hard = (make_plan(search(text=replace(EMBEDDED, hardness=h, known=h == 1.0))).choice for h in (1.0, 1.5))
    assert hard.bpb > 1.3 * easy.bpb
    assert math.log(hard.high / hard.low) > math.log(easy.high / easy.low)


def test_a_text_that_a_model_would_learn_by_heart_gets_a_small_one() -> None:
    plan = make_plan(search(text=TextFacts("a page", 19_000, 2_000, 1.0, False)))
    assert plan.choice.shape.weights < 150_000
    (epochs,) = (reason.why for reason in plan.reasons if reason.row == "epochs")
    assert "no run of the law went through a text more than 7 times" in epochs
    (epochs,) = (reason.why for reason in make_plan(search()).reasons if reason.row == "epochs")
    assert "no run" not in epochs


@pytest.mark.parametrize(("cap", "packings"), [(70_000, 10.5), (120_000, 6.0), (1_000_000, 3.0)])
def test_packing_takes_longest_where_steps_are_solved_for(cap: int, packings: float) -> None:
    assert search(cap)._packings(Shape(vocab=512, dim=64, blocks=2, hidden=128)) == packings


def test_scoring_that_would_take_too_long_goes_without_adaptation() -> None:
    one = search()
    slow = replace(one, text=replace(EMBEDDED, val_bytes=10**9, train_bytes=10**10))
    assert make_plan(slow).choice.shape.adapt is None
    assert make_plan(one).choice.shape.adapt is not None


@pytest.mark.parametrize(
    ("cap", "seconds", "words"),
    [
        (20_000, 300.0, "A cap of 20 kB is under the code alone"),
        (30_000, 300.0, "too small for any member"),
        (1_000_000, 2.0, "2 s are too few to train anything under 1 MB"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_smallest_that_can(cap: int, seconds: float, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        make_plan(search(cap, seconds))
    line = str(refused.value)
    assert "\n" not in line
    if "--cap" in line:
        assert make_plan(search(1000 * int(line.rpartition("--cap ")[2].removesuffix("kB.")), seconds))
    else:
        assert make_plan(search(cap, float(line.rpartition("--seconds ")[2].removesuffix("."))))


def test_larger_batches_are_for_machines_that_they_cost_little() -> None:
    flat = Throughput(0.05, 1e-6, 1e-6, True, "cuda, 1 threads")
    much = replace(EMBEDDED, train_bytes=10**9)
    plan = make_plan(search(pace=flat, text=much))
    assert plan.choice.shape.batch_tokens > 2048
    assert plan.recipe.train.micro_tokens >= plan.recipe.train.batch_tokens
    assert make_plan(search(pace=replace(flat, machine="cpu"), text=much)).choice.shape.batch_tokens == 2048


def test_the_recipe_file_is_the_plan(tmp_path) -> None:
    plan = make_plan(search(250_000, 60.0))
    (tmp_path / "mine.py").write_text(recipe_file(plan, "pargolf plan"))
    assert catalog.find(str(tmp_path / "mine.py")) == plan.recipe


# --- what a machine and a text are like ---------------------------------------------------------------------------


def test_throughput_is_what_the_steps_took() -> None:
    shapes = [throughput.SMALL, throughput.MIDDLE, throughput.WIDE]
    found = fitted([(shape, PACE.step(shape)) for shape in shapes], half=True, machine="m")
    assert (found.fixed, found.arithmetic, found.traffic) == pytest.approx((0.02, 0.001, 0.004))
    one = [(shape, 3e-3 * features(shape)[2]) for shape in shapes]
    assert fitted(one, half=True, machine="m").step(Shape()) == pytest.approx(3e-3 * features(Shape())[2])


@pytest.mark.parametrize("slower", [0.5, 2.0])
def test_half_precision_is_chosen_by_measuring(slower: float, monkeypatch, tmp_path) -> None:
    def steps(shape: Shape, device: str | None, now: object):
        while True:
            yield PACE.step(shape) * (slower if shape.half else 1.0)

    monkeypatch.setattr(throughput, "_steps", steps)
    monkeypatch.setattr(throughput, "time_scoring", lambda *_: (1e-4, 4e-4))
    monkeypatch.setattr(throughput, "cache_folder", lambda: tmp_path)
    found = _ended(measured())
    assert found.half == (slower < 1)
    assert found.fresh
    again = _ended(measured())
    assert not again.fresh
    assert replace(again, fresh=True, seconds=found.seconds) == found
    assert _ended(measured(again=True)).fresh
    next(tmp_path.glob("*.json")).write_text('{"fixed": "fast"}')
    assert _ended(measured()).fresh


@pytest.mark.parametrize(("busy", "believed"), [(1.1, True), (0.9, True), (3.0, False), (0.3, False)])
def test_a_pace_of_a_busy_hour_is_not_believed(busy: float, believed: bool, monkeypatch, tmp_path) -> None:
    """A machine that was measured while others used it is faster now, and the other way about."""
    rate = [1.0]

    def steps(shape: Shape, device: str | None, now: object):
        while True:
            yield PACE.step(shape) * rate[0]

    monkeypatch.setattr(throughput, "_steps", steps)
    monkeypatch.setattr(throughput, "time_scoring", lambda *_: (1e-4, 4e-4))
    monkeypatch.setattr(throughput, "cache_folder", lambda: tmp_path)
    before = _ended(measured())
    rate[0] = busy
    now = _ended(measured())
    assert now.fresh == (not believed)
    assert now.step(Shape()) == pytest.approx(before.step(Shape()) * (1 if believed else busy))
    assert not _ended(measured()).fresh


def test_the_real_step_is_measured(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(throughput, "cache_folder", lambda: tmp_path)
    tiny = Shape(vocab=64, dim=32, blocks=1, hidden=32, batch_tokens=512)
    for name in ("SMALL", "MIDDLE", "WIDE"):
        monkeypatch.setattr(throughput, name, tiny)
    began = time.perf_counter()
    found = _ended(measured(count=1))
    assert 0 < found.step(tiny) < time.perf_counter() - began
    assert found.seconds > 0
    assert 0 < found.score(replace(tiny, adapt=None), 1e3) < found.score(tiny, 1e3)


def test_scoring_takes_what_the_plan_says(monkeypatch) -> None:
    """Of another shape than those that were timed, on a clock that counts forward passes: tokens times weights."""
    seconds, forward = [0.0], Transformer.forward

    def counting(self, x_BT, *how, **options):
        seconds[0] += 1e-9 * x_BT.numel() * sum(p.numel() for p in self.parameters())
        return forward(self, x_BT, *how, **options)

    monkeypatch.setattr(Transformer, "forward", counting)
    world, clock = World(), Clock(lambda: seconds[0])
    timed = [Shape(vocab=v, dim=d, blocks=b, hidden=2 * d) for v, d, b in ((512, 32, 1), (1024, 64, 3), (2048, 96, 2))]
    shape = Shape(vocab=1024, dim=96, blocks=2, hidden=192)
    recipe = member(shape)
    artifact = unpack(pack(recipe, dict(recipe.model.build(0).named_parameters()), tokenizer="none"))
    tokens = np.random.default_rng(0).zipf(1.3, 4001) % 1000 + 2
    text = Text(tokens.astype(np.uint16), np.ones(4000, np.uint8), 1024, 1)
    cost = throughput._scoring(timed, world, clock)
    began = clock.seconds
    _ended(score_unpacked(recipe, text, artifact, seconds=math.inf, world=world))
    assert 0.8 < cost.run(shape, 4000) / (clock.seconds - began) < 1.2


def _ended(work):
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def test_facts_of_a_text(tmp_path) -> None:
    text = "".join(f"Number {i} follows {i - 1} and is the {i}th of them all. " for i in range(2000))
    (tmp_path / "a.txt").write_text(text[: len(text) // 2])
    (tmp_path / "b.txt").write_text(text[len(text) // 2 :])
    (tmp_path / "c.txt").write_text(text[len(text) // 2 :])
    facts = _ended(read_text([tmp_path], read_law()))
    assert facts.train_bytes + facts.val_bytes == len(text)
    assert facts.hardness < 0.8
    assert not facts.known


def test_facts_of_a_prepared_folder(data) -> None:
    with pytest.raises(UserError, match=f"too few to train on. Give {LEAST // 1000} kB"):
        _ended(read_text([data], read_law()))


def test_the_embedded_text_is_as_hard_as_itself() -> None:
    facts = _ended(read_text(["embedded"], read_law()))
    assert (facts.known, facts.hardness) == (True, 1.0)
    assert facts.train_bytes + facts.val_bytes == 10_761_158


# --- the commands -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Sixty kB of text to train on in seconds."""
    folder = tmp_path_factory.mktemp("words")
    for i in range(12):
        lines = (
            f"In {j * (i + 3) % 97} of {j} cases the state of the union was {j % 7} times as strong." for j in range(80)
        )
        (folder / f"{i}.txt").write_text("\n".join(lines))
    return folder


def _known(pace: Throughput):
    """A machine that was measured before."""

    def measured(**_: object):
        yield from ()
        return replace(pace, fresh=False)

    return measured


@pytest.mark.usefixtures("quick_code", "quick_page")
def test_golf_makes_a_model_of_a_text(words, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("pargolf.run.training.rehearse", lambda *_: (0.3, 0.0))
    monkeypatch.setattr(throughput, "measured", _known(Throughput(0.02, 0.0, 0.0, True, "a made-up machine")))
    # Seconds of the processor: those of the wall are few on a machine that others use.
    monkeypatch.setattr(Budget, "clock", lambda self, already=0.0: Clock(time.process_time, already=already))
    out = tmp_path / "run"
    options = ["golf", str(words), "--cap", "60kB", "--seconds", "5s", "--threads", "1", "--out", str(out)]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    result, held = read_result(out / "result.json"), json.loads((out / "plan.json").read_text())
    assert result.legal
    assert result.bytes.total <= 60_000
    assert result.steps > 0
    assert result.scores.keys() >= {"pre_quant", "post_quant", "adapted"}
    assert result.command.startswith(f"pargolf golf {words} --cap 60kB --seconds 5s --out {out}")
    assert open_data(out / "data").vocab == held["choice"]["vocab"]
    assert "forecast and outcome" in done.output
    assert f"{held['choice']['bpb']:.4f}" in done.output
    assert f"{result.val_bpb:.4f}" in done.output
    again = CliRunner().invoke(app, options)
    assert "--force" in str(again.exception)


@pytest.mark.usefixtures("quick_code")
def test_golf_plans_again_where_the_text_holds_fewer_pieces(words, tmp_path, monkeypatch) -> None:
    asked = []

    def prepare(sources, out, *, vocab, force):
        asked.append(vocab)
        yield from ()
        raise TooManyPieces(vocab, 300) if len(asked) < 2 else UserError("that will do")

    monkeypatch.setattr("pargolf.data.prepare.prepare", prepare)
    with pytest.raises(UserError, match="that will do"):
        pargolf.golf([words], cap=64_000, seconds=60.0, out=tmp_path / "run", throughput=PACE).result()
    assert asked == [512, 300]


def test_too_many_pieces_says_how_many_there_are() -> None:
    with pytest.raises(TooManyPieces, match="it supports at most") as refused:
        train_bpe(["to and fro and to and fro " * 400], vocab=512)
    assert refused.value.most is not None and SMALLEST - 5 < refused.value.most < 512
    assert train_bpe(["to and fro and to and fro " * 400], vocab=refused.value.most).vocab == refused.value.most


@pytest.mark.usefixtures("quick_code")
def test_plan_prints_its_reasons_and_what_to_type_next(words, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(throughput, "measured", _known(PACE))
    options = ["plan", "--data", str(words), "--cap", "64kB", "--minutes", "1", "--threads", "1"]
    done = CliRunner().invoke(app, [*options, "--write", str(tmp_path / "mine.py")])
    assert done.exit_code == 0, done.output
    assert "Twice the text would bring" in done.output
    assert f"--vocab {catalog.find(str(tmp_path / 'mine.py')).model.vocab}" in done.output
    row = json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)
    assert (row["cap"], row["seconds"]) == (64_000, 60.0)
    assert row["choice"]["low"] < row["choice"]["bpb"] < row["choice"]["high"]


@pytest.mark.usefixtures("quick_code")
def test_plan_writes_a_recipe_and_knows_the_text(words, tmp_path) -> None:
    plan = pargolf.plan(data=[words], cap=64_000, seconds=60.0, throughput=PACE, write=tmp_path / "mine.py").result()
    assert catalog.find(str(tmp_path / "mine.py")).budget.bytes == 64_000
    assert json.loads(json.dumps(plan.row()))["reasons"]["vocabulary"]["choice"].endswith("pieces")


@pytest.mark.usefixtures("quick_code")
def test_measuring_counts_in_the_budget(words) -> None:
    slow = replace(PACE, seconds=50.0)
    fresh = pargolf.plan(data=[words], cap=64_000, seconds=110.0, throughput=slow).result()
    known = pargolf.plan(data=[words], cap=64_000, seconds=110.0, throughput=replace(slow, seconds=0.0)).result()
    assert fresh.budget.train_seconds == 60.0
    assert known.budget.train_seconds == 110.0
    with pytest.raises(UserError, match="Measuring this machine took 50"):
        pargolf.plan(data=[words], cap=64_000, seconds=40.0, throughput=slow).result()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--cap", "1M"], "'1M' may be 1MB, 1,000,000 bytes, or 1MiB, 1,048,576. Write one."),
        (["--cap", "much"], "'much' is no size."),
        (["--seconds", "soon"], "'soon' is no time."),
        (["--minutes", "-1"], "'-1.0m' is no time."),
        (["--seconds", "60", "--minutes", "1"], "Say --seconds or --minutes, not both."),
        (["--device", "cuda:7"], "There is no device 'cuda:7' here"),
        (["--data", "-"], "A plan reads the text twice, and standard input once."),
        (["--data", "LINE"], "too few to train on. Give 20 kB or more."),
    ],
)
def test_bad_input_is_one_line(options, line, tmp_path) -> None:
    (tmp_path / "line.txt").write_text("One line of text.\n")
    options = [str(tmp_path / "line.txt") if word == "LINE" else word for word in options]
    options += [] if "--data" in options else ["--data", "embedded"]
    done = CliRunner().invoke(app, ["plan", "--threads", "1", *options])
    assert isinstance(done.exception, UserError), done.output
    assert line in str(done.exception)
    assert "\n" not in str(done.exception)
