"""The ground floor: specs, roles, files, budget, clock, events and the world of one."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pargolf.core import events, files, world
from pargolf.core.budget import Budget, Clock
from pargolf.core.errors import UserError, near
from pargolf.core.roles import matches, resolve, role
from pargolf.core.spec import _address, checked, diff, digest, dump, edit, load, overrides, parse_value, rows, show
from pargolf.core.world import World, join_world
from pargolf.model.activations import leaky_relu2
from pargolf.model.attention import Attention
from pargolf.model.init import FanIn, Zeros
from pargolf.model.mlp import MLP
from pargolf.model.norm import depth_rsqrt
from pargolf.model.rope import Rope
from pargolf.model.transformer import Block, Model

HERE = (__name__,)


def act_one(x: float) -> float:
    return x


def act_two(x: float) -> float:
    return x + 1


@dataclass(frozen=True)
class Twig:
    """A part that may be absent or of another class."""

    length: int = 3


@dataclass(frozen=True)
class Stub:
    """Another class for the same field."""

    length: int = 3
    thorn: bool = False


@dataclass(frozen=True)
class Leaf:
    """One field of each kind."""

    width: int = 4
    rate: float = 0.5
    name: str = "a"
    on: bool = True
    maybe: int | None = None
    act: Callable[[float], float] = act_one
    sizes: tuple[int, ...] = (1, 2)
    twig: Twig | Stub | None = None


@dataclass(frozen=True)
class Tree:
    """Nested, repeated and tabled."""

    inner: Leaf = Leaf()
    leaves: tuple[Leaf, ...] = (Leaf(),) * 5
    table: tuple[tuple[str, Leaf | float], ...] = (("mlp.*", Leaf()), ("*", 0.5))


texts = st.text(alphabet="abcdef.*", max_size=4)
whole = st.integers(-(1 << 63), (1 << 63) - 1)
floats = st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0)
twigs = st.none() | st.builds(Twig, whole) | st.builds(Stub, whole, st.booleans())
leaves = st.builds(
    Leaf,
    whole,
    floats,
    texts,
    st.booleans(),
    st.none() | whole,
    st.sampled_from([act_one, act_two]),
    st.lists(whole, max_size=3).map(tuple),
    twigs,
)
trees = st.builds(Tree, leaves, st.lists(leaves, min_size=5, max_size=5).map(tuple))
kinds = st.sampled_from([Leaf(), Leaf(width=9), Leaf(twig=Twig()), Leaf(twig=Stub(4))])
small_trees = st.builds(Tree, kinds, st.lists(kinds, min_size=5, max_size=5).map(tuple))

MODEL = Model(
    vocab=64, dim=32, blocks=(Block(Attention(4, 2), MLP(64), norm_scale=depth_rsqrt),) * 3, init=(("*", FanIn()),)
)


# --- specs --------------------------------------------------------------------------------------------------------

CHANGES: list[tuple[str, Any]] = [
    ("inner.width", 77),
    ("inner.rate", 77.5),
    ("inner.name", "zz"),
    ("inner.maybe", 123),
    ("inner.sizes", (9, 9, 9, 9)),
    ("leaves[0].width", 77),
    ("leaves[4].rate", 77.5),
    ("table[mlp.*]", 77.5),
]


@given(tree=trees, change=st.sampled_from(CHANGES))
def test_an_edit_changes_the_row_it_names_and_no_other(tree: Tree, change: tuple[str, Any]) -> None:
    path, value = change
    edited = edit(tree, {path: value})
    assert list(diff(tree, edited)) == [path]
    assert diff(tree, edited)[path][1] == show(value)
    assert rows(edited)[path] == show(value) if "[" not in path else True
    assert edit(edited, {path: value}) == edited


@given(tree=trees, begin=st.integers(-5, 5), end=st.integers(-5, 5))
def test_a_slice_edits_those_items_only(tree: Tree, begin: int, end: int) -> None:
    edited = edit(tree, {f"leaves[{begin}:{end}].width": 12345})
    chosen = range(5)[begin:end]
    for i, (before, after) in enumerate(zip(tree.leaves, edited.leaves, strict=True)):
        assert after == (replace(before, width=12345) if i in chosen else before)
    assert edited.inner == tree.inner and edited.table == tree.table


@given(a=small_trees, b=small_trees)
def test_diff_is_empty_exactly_for_equals_and_swaps_with_its_sides(a: Tree, b: Tree) -> None:
    assert (diff(a, b) == {}) == (a == b)
    assert diff(a, b) == {path: (x, y) for path, (y, x) in diff(b, a).items()}
    assert diff(a, a) == {}


@given(tree=small_trees)
def test_rows_fold_equal_neighbours_and_lose_nothing(tree: Tree) -> None:
    folded = {path: value for path, value in rows(tree).items() if path.startswith("leaves[") and "width" in path}
    unfolded = []
    for path, value in folded.items():
        span = path[len("leaves[") : path.index("]")].split(":")
        unfolded += [(i, value) for i in range(int(span[0]), int(span[-1]) + (len(span) == 1))]
    assert unfolded == [(i, show(leaf.width)) for i, leaf in enumerate(tree.leaves)]
    assert len(folded) == 1 + sum(a.width != b.width for a, b in zip(tree.leaves, tree.leaves[1:], strict=False))
    for path in folded:
        assert edit(tree, {path: 5}) != edit(tree, {path: 6})  # a row's name is a path


@settings(max_examples=50)
@given(tree=trees)
def test_what_is_stored_comes_back_equal(tree: Tree) -> None:
    stored = json.loads(json.dumps(dump(tree)))
    assert load(stored, within=HERE) == tree
    assert digest(load(stored, within=HERE)) == digest(tree)


@given(a=small_trees, b=small_trees)
def test_a_digest_names_one_spec(a: Tree, b: Tree) -> None:
    assert (digest(a) == digest(b)) == (a == b)
    assert digest(a) == digest(replace(a))
    assert len(digest(a)) == 16 and int(digest(a), 16) >= 0


def test_a_digest_is_the_same_in_every_process() -> None:
    canonical = f'{{"is":"{_address(Twig)}","length":3}}'
    assert digest(Twig()) == hashlib.sha256(canonical.encode()).hexdigest()[:16]
    assert _address(Rope) == "pargolf.model.rope:Rope"


def test_a_model_is_data() -> None:
    model = edit(MODEL, {"init": (("*", Zeros()),), "blocks[1].mlp.act": leaky_relu2})
    assert load(json.loads(json.dumps(dump(model)))) == model
    assert list(diff(MODEL, model)) == ["blocks[1].mlp.act", "init[*]"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("inner.widht", "width"),
        ("inner.qqq", "Known: width"),
        ("iner.width", "inner"),
        ("inner.width.more", "more"),
        ("leaves.width", "width"),
        ("leaves[7].width", "past the end"),
        ("leaves[-6].width", "past the end"),
        ("inner[0]", "no list"),
        ("leaves[a].width", "No row"),
        ("table[mlp]", r"mlp\.\*"),
        ("leaves[1:2:3:4]", "no index"),
        ("", "not a path"),
        ("inner..width", "not a path"),
        ("inner width", "not a path"),
        (".", "not a path"),
    ],
)
def test_an_unknown_path_says_what_to_write(path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        edit(Tree(), {path: 1})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("inner.width", "four"),
        ("inner.width", 4.5),
        ("inner.width", True),
        ("inner.width", None),
        ("inner.rate", "fast"),
        ("inner.rate", False),
        ("inner.name", 3),
        ("inner.on", 1),
        ("inner.maybe", "x"),
        ("inner.act", 3),
        ("inner.sizes", 3),
        ("inner.twig", Leaf()),
        ("inner", Twig()),
    ],
)
def test_a_value_of_another_kind_is_refused(path: str, value: Any) -> None:
    with pytest.raises(UserError, match="takes"):
        edit(Tree(), {path: value})


def test_whole_numbers_and_floats_meet_where_nothing_is_lost() -> None:
    edited = edit(Tree(), {"inner.rate": 2, "inner.width": 8.0})
    assert (edited.inner.rate, type(edited.inner.rate)) == (2.0, float)
    assert (edited.inner.width, type(edited.inner.width)) == (8, int)


@given(st.text(alphabet="abz019.[]:*- ", max_size=12))
def test_no_path_escapes_as_anything_but_a_user_error(path: str) -> None:
    try:
        edit(Tree(), {path: 1})
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "stored",
    [
        {"is": "os:system"},
        {"is": "builtins:eval"},
        {"fn": "os:system"},
        {"fn": "subprocess:run"},
        {"is": "pargolfing.core:Budget"},
        {"is": "pargolf.core.spec:load"},
        {"fn": "pargolf.core.budget:Budget"},
        {"is": "pargolf.core.budget:Clock"},
        {"is": "pargolf.core.errors:UserError"},
        {"is": "pargolf.core.budget:Budget.__init__"},
        {"fn": "pargolf.core.budget:Clock.pause"},
        {"is": "pargolf.core.budget:Nothing"},
        {"is": "pargolf.core.nothing:Budget"},
        {"is": "pargolf.core.budget:dataclass"},
        {"fn": "pargolf.core.budget:dataclass"},
        {"is": "pargolf.core.budget:time"},
        {"is": "pargolf.model.transformer:Attention"},  # defined elsewhere
        {"is": "pargolf.core.budget:__builtins__"},
        {"is": "pargolf.core.budget:Budget", "byte": 3},
        {"is": "pargolf.core.budget:Budget", "counts": "some"},
        {"is": "pargolf.model.mlp:MLP"},
        {"is": "pargolf..core:x"},
        {"is": "pargolf.:x"},
        {"is": None},
        {"is": ["pargolf.core.budget:Budget"]},
        {"no": 1},
        {},
    ],
    ids=str,
)
def test_a_stored_spec_names_nothing_but_our_parts(stored: dict) -> None:
    for nested in (stored, [1, stored], {"is": "pargolf.core.budget:Budget", "bytes": stored}):
        with pytest.raises(UserError):
            load(nested)


@given(st.text(alphabet="pargolf.core:budgetB_", max_size=25))
def test_no_address_escapes_as_anything_but_a_user_error(address: str) -> None:
    for key in ("is", "fn"):
        with pytest.raises(UserError):
            load({key: f"pargolf.{address}"})


def test_only_plain_data_and_named_functions_are_stored() -> None:
    for value in (Tree(inner=replace(Leaf(), act=lambda x: x)), object(), {"a": 1}, torch.zeros(1), act_one.__call__):
        with pytest.raises(UserError, match=r"cannot (hold|be stored)"):
            dump(value)


@given(
    st.none() | st.booleans() | st.integers() | floats | st.lists(st.integers() | st.booleans(), max_size=4).map(tuple)
)
def test_what_is_printed_can_be_written_on_the_command_line(value: Any) -> None:
    text = json.dumps(value)
    assert parse_value(text) == value and type(parse_value(text)) is type(value)
    assert overrides([f"a.b={text}"]) == {"a.b": value}


def test_words_that_are_no_overrides_say_so() -> None:
    assert overrides(["a=b=c", "x=True", "y=none", "z=hello"]) == {"a": "b=c", "x": True, "y": None, "z": "hello"}
    for word in ("train.seconds", "=3", ""):
        with pytest.raises(UserError, match="path=value"):
            overrides([word])


def test_printing_leaves_defaults_out() -> None:
    assert show(Leaf()) == "Leaf()"
    assert show(Leaf(rate=0.25, twig=Twig(1), act=act_two)) == "Leaf(rate=0.25, act=act_two, twig=Twig(length=1))"
    assert show((1,)) == "(1,)" and show("a") == "'a'"


# --- roles --------------------------------------------------------------------------------------------------------

ROLES = {
    "blocks.3.attn.q.weight": "attn.q",
    "embed.tokens.weight": "embed.tokens",
    "blocks.11.attn_scale": "attn_scale",
    "blocks.0.attn.values.value_embed.scale": "attn.values.value_embed.scale",
    "graph.skip.7.weight": "graph.skip",
    "graph.skip.7.gate": "graph.skip.gate",
    "head.ahead.0.weight": "head.ahead",
    "weight": "weight",
}


@pytest.mark.parametrize(("name", "expected"), ROLES.items())
def test_a_role_is_the_name_without_numbers(name: str, expected: str) -> None:
    assert role(name) == expected
    assert matches(name, expected) and matches(name, "*")
    assert not matches(name, expected + "x")


def test_a_glob_may_name_single_layers() -> None:
    names = [f"blocks.{i}.attn.k.weight" for i in range(12)] + [f"graph.mix.{i}.weight" for i in range(12)]
    assert [n for n in names if matches(n, "blocks.9.attn.k")] == ["blocks.9.attn.k.weight"]
    assert [n for n in names if matches(n, "blocks.*.attn.k")] == names[:12]
    assert [n for n in names if matches(n, "graph.mix.[5-6]")] == ["graph.mix.5.weight", "graph.mix.6.weight"]


@given(st.lists(st.sampled_from(["attn.q", "attn.*", "mlp.*", "*", "embed.tokens"]), unique=True), st.data())
def test_the_first_row_that_matches_wins_or_the_table_is_refused(globs: list[str], data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(ROLES)), unique=True))
    table = [(glob, i) for i, glob in enumerate(globs)]
    hits = {name: [i for glob, i in table if matches(name, glob)] for name in names}
    if all(hits.values()) and {i for found in hits.values() for i in found} == set(range(len(table))):
        assert resolve(table, names) == {name: found[0] for name, found in hits.items()}
    else:
        with pytest.raises(UserError):
            resolve(table, names)


def test_a_strict_table_names_what_is_wrong() -> None:
    names = ["blocks.0.attn.q.weight", "embed.tokens.weight"]
    with pytest.raises(UserError, match=r"optimizer speaks of 'embed\.tokens'.*embed\.tokns"):
        resolve([("attn.*", 1), ("embed.tokns", 2)], names, what="optimizer")
    with pytest.raises(UserError, match=r"'mlp\.\*' of the grid table matches no parameter"):
        resolve([("*", 1), ("mlp.*", 2)], names, what="grid table")


# --- files --------------------------------------------------------------------------------------------------------


@given(old=st.binary(max_size=50), new=st.binary(max_size=50), cut=st.integers(0, 50))
@settings(max_examples=20)
def test_a_failing_write_leaves_the_old_file_whole(
    tmp_path_factory: pytest.TempPathFactory, old: bytes, new: bytes, cut: int
) -> None:
    path = tmp_path_factory.mktemp("files") / "model"
    files.write_bytes(path, old)
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as file:
        file.write(new[:cut])
        raise KeyboardInterrupt
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]
    files.write_bytes(path, new)
    assert path.read_bytes() == new
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "result.json"
    files.write_json(path, {"a": 1})

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    files.write_text(path, "old")
    with files.replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_writing_into_a_missing_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        files.write_text(tmp_path / "missing" / "a.txt", "x")
    assert list(tmp_path.iterdir()) == []


def test_text_is_utf8(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"é": "—"})
    assert json.loads((tmp_path / "a.json").read_bytes().decode()) == {"é": "—"}


# --- budget, clock, events, world ---------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=6), st.floats(0, 100))
def test_a_clock_counts_what_was_not_paused(spans: list[tuple[float, float]], last: float) -> None:
    now = 1000.0
    clock = Clock(lambda: now)
    counted = 0.0
    for running, paused in spans:
        now += running
        counted += running
        clock.pause()
        now += paused
        assert clock.seconds == pytest.approx(counted, abs=1e-6)
        clock.resume()
    now += last
    assert clock.seconds == pytest.approx(counted + last, abs=1e-6)


def test_a_clock_is_paused_and_resumed_in_turn() -> None:
    clock = Clock()
    with pytest.raises(AssertionError):
        clock.resume()
    clock.pause()
    with pytest.raises(AssertionError):
        clock.pause()


def test_a_budget_counts_one_of_two_ways() -> None:
    assert Budget().bytes == 16_000_000 and Budget(counts="published").train_seconds == 600.0
    with pytest.raises(UserError, match=r"counts takes 'all' or 'published' or 'cpu', not 'warm-up'"):
        checked(Budget(counts="warm-up"))  # type: ignore[arg-type]


EVENTS = [
    events.Started("baseline", "00ff", 1, 2, 3, 4, None, 60.0, {"cpu": "x", "cores": 2}),
    events.Step(1, 2.5, 0.75, 4096, 1.5),
    events.Validated(1, 2.5, 1.25, 100, 3.0),
    events.Weighed(1, 500, 20, 1000, True, 3.5),
    events.PhaseBegan(3, "qat", 1.0),
    events.Resumed(3, "step-00000003.safetensors", ["one line"], 1.0),
    events.Narrowed("training sequences", 4, 1.5),
    events.Stopped(4, "seconds", 60.0),
    events.Packed(1, 2, 3, {"attn.q": 4}, 0.5),
    events.Unsaved(1, "No space left on device", 0.5),
    events.Proved("round trip", 1, 2, {"a_val_000000.bin": "ab"}, "bytes", "of"),
    events.Scored("post_quant", "plain:256 — é\n", 1.0, 2.0, 3, 4, 5.0),
    events.Progress("score", 3, 4, "half"),
]


def test_every_kind_of_event_is_tried() -> None:
    assert {type(event) for event in EVENTS} == set(events._KINDS.values())


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_an_event_is_one_line_and_comes_back(event: events.Event) -> None:
    line = events.to_json(event)
    assert "\n" not in line and json.loads(line)["event"] == type(event).__name__
    assert events.from_json(line) == event


counts, times = st.integers(0, 10**15), st.floats(0, 1e6)


@given(st.builds(events.Step, counts, times, times, counts, times))
def test_numbers_of_an_event_come_back_to_the_bit(event: events.Step) -> None:
    assert events.from_json(events.to_json(event)) == event


STEP = {"event": "Step", "step": 1, "loss": 1.0, "lr": 1.0, "tokens": 1, "seconds": 1.0}


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"event": "Nothing"}', "event"),
        ('{"event": 3}', "event"),
        ('{"step": 1}', "event"),
        ("[]", "event"),
        ('{"event": "Step", "steps": 1}', "steps"),
        (json.dumps(STEP | {"loss": "2"}), "loss"),
        (json.dumps(STEP | {"loss": float("nan")}), "loss"),
        (json.dumps(STEP | {"step": -1}), "step"),
        (json.dumps(STEP | {"tokens": 10**400}), "tokens"),
        (json.dumps(STEP | {"seconds": [1]}), "seconds"),
    ],
)
def test_a_line_of_another_shape_is_refused_by_field(line: str, field: str) -> None:
    with pytest.raises(UserError, match=f"^line 7.*{field}"):
        events.from_json(line, where="line 7")


def test_a_world_of_one_is_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = join_world("cpu")
    assert world == World() and world.main
    x = torch.tensor([1.0, 2.0])
    assert torch.equal(world.mean(x.clone()), x) and torch.equal(world.sum(x.clone()), x)
    assert world.max(3.5) == (3.5,)


def test_the_nearest_words_are_offered() -> None:
    assert near("baselin", ["baseline", "pr549"]) == " Did you mean baseline?"
    assert "Known: baseline, pr549" in near("zzz", ["baseline", "pr549"])
    assert near("zzz", []) == ""


def test_threads_are_given_up_only_where_they_lose(monkeypatch):
    for together, alone, kept in ((1.0, 2.0, 2), (1.0, 0.9, 2), (1.0, 0.5, 1)):
        times = iter((together, alone))
        monkeypatch.setattr(world, "_seconds_of_products", lambda times=times: next(times))
        torch.set_num_threads(2)
        assert world.settle_threads() == kept == torch.get_num_threads()
    torch.set_num_threads(1)
    assert world.settle_threads() == 1
