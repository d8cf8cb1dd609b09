"""Values held against annotations: what fits comes through as it is, the rest is refused with its path and range."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import pytest
import small
from batteries import specs, trial
from hypothesis import given
from hypothesis import strategies as st

import pargolf
from pargolf.core.errors import UserError
from pargolf.core.ranges import Count, Fraction, Positive, Rate, Share, Within
from pargolf.core.spec import build, checked, dump, edit, load
from pargolf.core.strict import DEPTH, parse_json
from pargolf.data.folder import open_data
from pargolf.evaluate.adapters.sgd import SGD
from pargolf.model.dropout import Dropout
from pargolf.quant.gptq import GPTQ
from pargolf.recipes import catalog
from pargolf.recipes.recipe import Recipe
from pargolf.recipes.scale import scaled
from pargolf.run.pack import unpack
from pargolf.run.pipeline import run_recipe
from pargolf.training.adam import Adam
from pargolf.training.average import EMA
from pargolf.training.muon import Muon
from pargolf.training.phases import AtFraction, Phase
from pargolf.training.schedule import Warmdown

HERE = (f"{__name__}",)


class Rule(Protocol):
    """A part that answers these."""

    @property
    def key(self) -> str: ...

    def apply(self, at: float, *, last: bool) -> float: ...


@dataclass(frozen=True)
class Good:
    """Answers `Rule`, and nobody listed it."""

    width: Count = 4
    key = "good"

    def apply(self, at: float, *, last: bool) -> float:
        return at * self.width


@dataclass(frozen=True)
class Keyless:
    def apply(self, at: float, *, last: bool) -> float:
        return at


@dataclass(frozen=True)
class Otherwise:
    key = "other"

    def apply(self, at: float, more: float) -> float:
        return at


class Mood(StrEnum):
    CALM = "calm"
    WILD = "wild"


def twice(x: float) -> float:
    return 2 * x


def both(x: float, y: float) -> float:
    return x + y


@dataclass(frozen=True)
class Part:
    heads: Count = 8
    lr: Rate = 0.1
    decay: Fraction = 0.9
    share: Share | None = None
    how: Literal["a", "b"] = "a"
    mood: Mood = Mood.CALM
    on: bool = False
    act: Callable[[float], float] = twice
    rule: Rule | None = None
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    sizes: Annotated[tuple[Count, ...], Within(0, 3)] = ()
    name: str = "part"
    limit: Annotated[float, Within(0, over=True, endless=True)] = 1.0
    any_number: float = 0.0

    def check_fields(self) -> None:
        if self.heads % 2:
            raise UserError("heads is odd.")


@dataclass(frozen=True)
class Whole:
    part: Part = Part()
    parts: tuple[Part, ...] = (Part(), Part())
    table: Sequence[tuple[str, Part | Good]] = (("mlp.*", Part()), ("*", Good()))


WRONG: list[tuple[str, Any, str]] = [
    ("heads", 0, "takes a whole number from 1 to 2,147,483,648, not 0"),
    ("heads", -2, "from 1"),
    ("heads", 10**400, "from 1"),
    ("heads", 2.5, "whole number"),
    ("heads", "8", "whole number"),
    ("heads", True, "whole number"),
    ("heads", None, "whole number"),
    ("heads", [8], "not a list of 1"),
    ("heads", {"is": f"{__name__}:Good"}, "whole number"),
    ("heads", 3, "odd"),
    ("lr", -1, "takes a number from 0 up, not -1"),
    ("lr", float("nan"), "not nan"),
    ("lr", float("inf"), "not inf"),
    ("lr", 10**400, "from 0 up"),
    ("decay", 1.0, "from 0 to below 1"),
    ("share", 1.5, "takes a number from 0 to 1 or none, not 1.5"),
    ("how", "c", "takes 'a' or 'b', not 'c'"),
    ("mood", "sad", "takes 'calm' or 'wild'"),
    ("on", 1, "true or false"),
    ("name", 3, "takes text"),
    ("name", "\ud800", "takes text"),
    ("betas", [0.9], "takes a list"),
    ("betas", [0.9, 2.0], r"\[1\] takes"),
    ("sizes", [1, 2, 3, 4], "not a list of 4"),
    ("sizes", [1, 0], r"\[1\] takes"),
    ("limit", 0, "over 0"),
    ("any_number", float("inf"), "takes a number, not inf"),
    ("any_number", float("-inf"), "takes a number"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_a_wrong_value_is_refused_with_its_path_and_range(name: str, value: Any, message: str) -> None:
    stored = dump(Whole())
    stored["parts"][1][name] = value
    with pytest.raises(UserError, match=rf"^parts\[1\]\.{name}.*{message}") as caught:
        load(stored, Whole, within=HERE)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 240
    plain = {"parts": [{}, {name: value}]}
    if "is" not in str(value):
        with pytest.raises(UserError, match=rf"^result.json: parts\[1\]\.{name}.*{message}"):
            build(Whole, plain, where="result.json")


def test_what_fits_comes_through_as_it_was() -> None:
    whole = Whole(Part(rule=Good(3), limit=float("inf"), share=1.0, sizes=(1, 2), lr=1))
    assert checked(whole) is whole
    assert load(json.loads(json.dumps(dump(whole))), Whole, within=HERE) == whole
    assert type(load(dump(whole), Whole, within=HERE).part.lr) is int  # so that no digest changes by being read
    assert checked(Whole(parts=[Part()])).parts == (Part(),)


@pytest.mark.parametrize("rule", [Keyless(), Otherwise(), Part(), twice, 3, "rule"])
def test_a_slot_takes_what_answers_its_protocol_and_nothing_else(rule: Any) -> None:
    assert checked(Part(rule=Good())).rule == Good()
    with pytest.raises(UserError, match="rule takes Rule or none, not"):
        checked(Part(rule=rule))


@pytest.mark.parametrize("act", [both, lambda x: x, 3, Good(), "twice"])
def test_a_function_is_one_that_can_be_called_so_and_named(act: Any) -> None:
    with pytest.raises(UserError, match="act takes a function of 1"):
        checked(Part(act=act))


def test_a_row_of_a_table_is_named_by_its_glob() -> None:
    with pytest.raises(UserError, match=r"^table\[mlp\.\*\]\.lr takes a number from 0 up, not -1\.$"):
        checked(Whole(table=(("mlp.*", Part(lr=-1)),)))
    with pytest.raises(UserError, match=r"^table\[\*\] takes Part or Good, not 3"):
        checked(Whole(table=(("*", 3),)))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^table\[mlp\.\*\]\.lr takes a number from 0 up, not -1\.$"):
        edit(Whole(), {"table[mlp.*].lr": -1})


def test_an_edit_is_held_against_the_same_annotations() -> None:
    for path, value in (("parts[1]", Good()), ("table[*]", 3), ("parts", (1,)), ("part.sizes", (0,))):
        with pytest.raises(UserError, match="takes"):
            edit(Whole(), {path: value})
    edited = edit(Whole(), {"part.sizes": [2.0, 3], "part.lr": 1})
    assert edited.part.sizes == (2, 3) and type(edited.part.lr) is float


def test_an_edit_may_pass_through_what_contradicts_itself() -> None:
    assert edit(Whole(), {"part.heads": 3, "part.lr": 0.5, "part": Part(4)}).part.heads == 4
    with pytest.raises(UserError, match=r"^part\.heads is odd\.$"):
        checked(edit(Whole(), {"part.heads": 3}))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("parts.lr", r"Did you mean parts\[:\]\.lr\?"),
        ("parts.rule.widht", r"Did you mean parts\[:\]\.rule\.width\?"),
        ("parts.heads", r"Did you mean parts\[:\]\.heads\?"),
        ("parts.haeds", r"Did you mean parts\[:\]\.heads\?"),
        ("table.lr", r"table\[mlp\.\*\]\.lr"),
    ],
)
def test_a_path_that_forgot_the_index_is_shown_with_it(path: str, message: str) -> None:
    whole = Whole(parts=(Part(rule=Good()),))
    with pytest.raises(UserError, match=message):
        edit(whole, {path: 1})


@dataclass(frozen=True)
class Plain:
    parts: dict[str, Part]
    counts: tuple[int, int]
    rest: Any = None
    names: list[str] = field(default_factory=list)


def test_plain_json_becomes_what_the_annotations_say() -> None:
    made = build(Plain, {"parts": {"a": {"heads": 2, "mood": "wild"}}, "counts": [1, 2], "rest": {"x": [1]}})
    assert made == Plain({"a": Part(2, mood=Mood.WILD)}, (1, 2), {"x": [1]})


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"counts": [1, 2]}, "parts is missing"),
        ({"parts": {}, "counts": [1, 2], "cuonts": 1}, "cuonts is unknown. Did you mean counts"),
        ({"parts": {"a": {"heads": "x"}}, "counts": [1, 2]}, r"parts\[a\]\.heads takes"),
        ({"parts": {}, "counts": [1]}, "counts takes"),
        ({"parts": {}, "counts": [1, 2], "names": [1]}, r"names\[0\] takes text"),
        ([], "it takes Plain, not a list of 0"),
        ("x", "it takes Plain"),
        (None, "it takes Plain"),
    ],
)
def test_plain_json_that_does_not_fit_names_file_and_field(plain: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^runs/a/result.json: {message}"):
        build(Plain, plain, where="runs/a/result.json")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[" * (DEPTH + 2) + "]" * (DEPTH + 2), "{", "", "9" * 5000]
)
def test_json_that_is_too_deep_or_too_long_or_none_is_one_line(text: str) -> None:
    for given_text in (text, text.encode()):
        with pytest.raises(UserError, match=r"^a\.json is no JSON") as caught:
            parse_json(given_text, "a.json")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is no JSON"):
        parse_json(b"\xff\xfe\xff", "a.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["is", "fn", "lr", "part"]), inner),
    max_leaves=8,
)


@given(JSON, st.sampled_from(["part", "parts", "table"]))
def test_whatever_stands_in_a_file_is_read_or_refused(value: Any, name: str) -> None:
    for read in (lambda x: load(x, within=HERE), lambda x: build(Whole, x)):
        try:
            read(value)
            read(dump(Whole()) | {name: value})
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("within", "words"),
    [
        (Within(1, 1024), "from 1 to 1,024"),
        (Within(0), "from 0 up"),
        (Within(0, over=True), "over 0"),
        (Within(0, 1, over=True), "over 0 and up to 1"),
        (Within(0.5, 1, under=True), "from 0.5 to below 1"),
    ],
)
def test_a_range_says_what_it_takes(within: Within, words: str) -> None:
    assert str(within) == words
    assert (0 in within) == (words == "from 0 up") and float("nan") not in within


def test_positive_is_over_zero() -> None:
    @dataclass(frozen=True)
    class One:
        rate: Positive

    assert build(One, {"rate": 1e-300}).rate == 1e-300
    with pytest.raises(UserError, match="over 0, not 0"):
        build(One, {"rate": 0})


# --- what is stored, changed at random ----------------------------------------------------------------------------


def test_no_change_to_a_stored_spec_is_a_traceback_or_a_hang(tmp_path: Path) -> None:
    row = trial.run("specs", specs.trials(tmp_path, random.Random(3)), count=300)
    assert row.sound, row.faults
    assert row.words["refused"] > 200 and row.words["same"] + row.words["other"] > 0


CHANGES: list[tuple[tuple[Any, ...], Any, str]] = [
    (("meta", "model", "blocks", 0), "block", r"model\.blocks\[0\] takes Block, not 'block'"),
    (("meta", "model", "dim"), -16, r"model\.dim takes a whole number from 1 to 1,048,576, not -16"),
    (("meta", "model", "vocab"), 10**12, r"model\.vocab takes a whole number from 1 to 65,536"),
    (("meta", "model", "vocab"), 60_000, "'embed.tokens.weight' does not fit its model"),
    (("meta", "model", "dim"), 1 << 12, "holds no|does not fit its model"),
    (("meta", "model", "dim"), 1 << 20, "make a model of some"),
    (("meta", "model", "blocks", 0, "attn", "heads"), 3, r"blocks\[0\]\.attn\.heads is 3, which does not divide"),
    (("meta", "model", "blocks", 0, "attn", "kv_heads"), 8, r"kv_heads is 8, which does not divide 2 heads"),
    (("meta", "model", "blocks", 0, "attn", "rope", "dims"), 10, r"rope\.dims takes an even number of the 8"),
    (("meta", "model", "blocks", 0, "attn", "rope", "dims"), 3, r"rope\.dims takes an even number"),
    (("meta", "model", "order"), [0, 7], "model.order names block 7"),
    (("meta", "model", "order"), [], "order takes a list of 1 to 4,096 or none"),
    (("meta", "model", "bos"), 32, "bos is 32, which is no token of a vocabulary of 32"),
    (("meta", "model", "stream", 0, "is"), "pargolf.model.smear:TokenSmear", "init is unknown. Known: width"),
    (("meta", "model", "stream", 0), {"is": "pargolf.model.smear:TokenSmear"}, "holds no"),
    (("meta", "model", "entry"), [{"is": "pargolf.model.xsa:XSA"}], "model does not run"),
    (("meta", "model", "shared"), [], "holds no|does not fit|does not run"),
    (("meta", "model", "blocks", 1, "mlp", "act"), {"fn": "pargolf.model.norm:depth_rsqrt"}, "a function of 1"),
    (("meta", "windows"), {"is": "pargolf.quant.grid:Keep"}, "windows takes"),
    (("meta", "digest"), 3, "digest takes text"),
    (("meta", "surprise"), 3, "surprise is unknown"),
    (("tensors", 0, "shape"), [1 << 40, 2], r"tensors\[0\]\.shape\[0\] takes a whole number from 0"),
    (("tensors", 0, "shape"), [1 << 30, 1 << 30], "more weights than so short a file can hold"),
    (("tensors", 0, "dtype"), "float64", r"tensors\[0\]\.dtype takes"),
    (("tensors", 0, "names"), [["a.*", [-1]]], r"names\[0\]"),
    (("grids", 0, "states"), 4, "walks another trellis|grid of"),
    (("grids", 0), {"is": "pargolf.model.xsa:XSA"}, "takes Grid, not XSA"),
    (("sections", 0, 1), -5, "takes a whole number from 0"),
]


@pytest.mark.parametrize(("path", "value", "message"), CHANGES, ids=str)
def test_an_artifact_that_cannot_be_is_refused_by_name(path: tuple[Any, ...], value: Any, message: str) -> None:
    data = specs.artifact()
    header = specs.header_of(data)
    specs.value_at(header, path[:-1])[path[-1]] = value
    with pytest.raises(UserError, match=message) as caught:
        unpack(specs.with_header(data, json.dumps(header)))
    assert "\n" not in str(caught.value)


# --- recipes about to run -----------------------------------------------------------------------------------------

REFUSED: list[tuple[str, Any, str]] = [
    (
        "train.optimizer[embed.tokens].lr",
        -1,
        r"train\.optimizer\[embed\.tokens\]\.lr takes a number from 0 up, not -1\.$",
    ),
    ("train.steps", -3, "train.steps takes a whole number from 0 to 2,147,483,648 or none, not -3"),
    ("train.seconds", 0, "train.seconds takes a number over 0 or none, not 0"),
    ("train.grad_clip", 0, "train.grad_clip takes a number over 0 or none, not 0"),
    ("train.batch_tokens", 0, "batch_tokens takes a whole number from 1"),
    ("train.seq_len", 10**9, "seq_len takes a whole number from 1 to 16,777,216"),
    ("train.micro_tokens", 0, "micro_tokens takes"),
    ("model.vocab", 10**9, "model.vocab takes a whole number from 1 to 65,536, not 1000000000"),
    ("model.dim", 0, "model.dim takes"),
    ("budget.bytes", -1, "budget.bytes takes a whole number from 1"),
    ("budget.counts", "warm-up", "'all' or 'published' or 'cpu'"),
    ("windows.stride", 0, "stride takes a whole number from 1"),
]
NO_ROWS: list[tuple[str, Any, str]] = [
    ("train.average", EMA(1.5), "train.average.decay takes a number from 0 to below 1, not 1.5"),
    ("train.schedule", Warmdown(2.0), "train.schedule.fraction takes a number from 0 to 1, not 2.0"),
    ("train.phases", (Phase("late", AtFraction(1.5)),), r"train\.phases\[0\]\.at\.fraction takes"),
    ("train.phases", (Phase("late", Warmdown()),), r"train\.phases\[0\]\.at takes Trigger, not"),
    ("train.optimizer[embed.tokens]", Adam(0.1, beta1=1.0), r"beta1 takes a number from 0 to below 1, not 1\.0"),
    ("train.optimizer[*]", Muon(0.1, weight_decay=-0.1), "weight_decay takes a number from 0 up"),
    ("train.optimizer[*]", Muon(0.1, momentum=1.0), "momentum takes"),
    ("model.blocks[0].residual", Dropout(1.0), r"model\.blocks\[0\]\.residual\.rate takes a number from 0 to 0\.99"),
    ("adapt", SGD(lr=-1.0), "adapt.lr takes a number over 0 or|adapt.lr takes a number over 0, not"),
    ("quant.solver", GPTQ(batches=0), "quant.solver.batches takes a whole number from 1 to 4,096"),
    ("quant.table", (("*", 3),), r"quant\.table\[\*\] takes"),
]


@pytest.mark.parametrize(("path", "value", "message"), REFUSED + NO_ROWS, ids=str)
def test_a_recipe_out_of_range_is_refused_with_the_range(path: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        edit(small.RECIPE, {path: value})
    assert "\n" not in str(caught.value)


def test_a_recipe_of_python_is_held_against_the_same_before_it_runs(data: Path, tmp_path: Path) -> None:
    wild = replace(small.RECIPE, train=small.train(steps=3, grad_clip=0))
    for run in (
        lambda: next(run_recipe(wild, open_data(data), tmp_path / "run")),
        lambda: pargolf.recipe(wild),
    ):
        with pytest.raises(UserError, match=r"train\.grad_clip takes a number over 0 or none, not 0"):
            run()
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"model\.dim and hidden make a model of some [\d,]+ weights"):
        pargolf.recipe(small.RECIPE, changes={"model.dim": 1 << 20})
    odd = replace(small.RECIPE, model=small.model(dim=15))
    with pytest.raises(
        UserError, match=r"model\.blocks\[0\]\.attn\.heads is 2, which does not divide a stream 15 wide"
    ):
        pargolf.recipe(odd)


@pytest.mark.parametrize("name", catalog.names())
def test_every_shipped_recipe_is_within_its_ranges(name: str) -> None:
    for scale in (None, "mini"):
        recipe = scaled(catalog.find(name), scale)
        assert checked(recipe) is recipe
        assert load(json.loads(json.dumps(dump(recipe))), Recipe) == recipe
    for changes in catalog.ablations(name).values():
        checked(edit(catalog.find(name), changes))


def test_a_path_over_blocks_shows_the_brackets() -> None:
    for path, near in (("model.blocks.mlp.act", "mlp.act"), ("model.blocks.mlp.akt", "mlp.act")):
        with pytest.raises(UserError, match=rf"Did you mean model\.blocks\[:\]\.{near}\?"):
            edit(small.RECIPE, {path: 1})
