"""Values held against annotations: what fits comes through as it is, the rest is refused with its path and range."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargolf.core.errors import UserError
from pargolf.core.ranges import Count, Fraction, Positive, Rate, Share, Within
from pargolf.core.spec import build, checked, dump, edit, load
from pargolf.core.strict import DEPTH, parse_json

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
