"""The laws that every technique of the model keeps, whoever adds it.

The techniques are found by reflection: every dataclass of `pargolf/model` and every plain activation. Each goes into a
tiny model at the slot that its module's call names (`model/slots.py`), so that a new technique in a known slot is held
to the laws with no edit here, and one that fits no slot fails. The laws: causal, stopped at documents, live (also under
torch.compile), neutral at init where its docstring says so; and every fast path equals its reference.
"""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pargolf.model
from pargolf.core.errors import UserError
from pargolf.core.smaller import RunLength, Smaller, relengthened, shrunk
from pargolf.core.spec import dump, edit, load
from pargolf.evaluate.lookahead import LookAhead, moved
from pargolf.evaluate.paths import pieces_look, training_look
from pargolf.kernels import asymmetric_ce, softcap_ce
from pargolf.kernels import attention as attention_kernel
from pargolf.kernels.compiled import compiled_kernels
from pargolf.model.activations import relu2
from pargolf.model.asymmetric_cap import AsymmetricCap
from pargolf.model.attention import Attention
from pargolf.model.bigram import BigramHash
from pargolf.model.cache import Cache
from pargolf.model.gates import HeadGate
from pargolf.model.graph import Edge, Gated, UNet, X0Mix, ramp, ramp_down
from pargolf.model.head import MTP, Head
from pargolf.model.init import Init, Normal, Zeros, generator_for
from pargolf.model.mlp import MLP
from pargolf.model.residual import Serial
from pargolf.model.rope import Rope
from pargolf.model.slots import Context, Place
from pargolf.model.transformer import Block, Model, Transformer
from pargolf.model.value_embed import ValueEmbed
from pargolf.quant.grid import Int

VOCAB, DIM, LAYERS, BOS = 23, 32, 4, 0
PLACE = Place(vocab=VOCAB, dim=DIM, layers=LAYERS, heads=4, kv_heads=2, hidden=48, layer=1)


def gelu(z: Tensor) -> Tensor:
    """The tiny model's own activation: none of ours."""
    return F.gelu(z)


@dataclass(frozen=True)
class OneEdge:
    """A wire to try a join on."""

    join: Any

    def edges(self, order: tuple[int, ...]) -> Iterable[Edge]:
        return [Edge(0, 2, self.join)]


BARE = Model(
    vocab=VOCAB,
    dim=DIM,
    blocks=(Block(Attention(4, 2, Rope(dims=4, base=100.0)), MLP(48, gelu)),) * LAYERS,
    init=(("*", Normal(0.2)),),
)

# --- finding the techniques ---------------------------------------------------------------------------------------

# What a model is made of rather than a technique that some models have.
STRUCTURE = {"Place", "Context", "Further", "Model", "Block", "Attention", "MLP", "Edge"}
MODULES = [
    importlib.import_module(f"pargolf.model.{found.name}") for found in pkgutil.iter_modules(pargolf.model.__path__)
]


def own(kind: Callable[[Any], bool]) -> list[Any]:
    """Public things of that kind, each from the module that defines it."""
    things = [(name, thing, module) for module in MODULES for name, thing in vars(module).items()]
    return [t for name, t, m in things if kind(t) and t.__module__ == m.__name__ and not name.startswith("_")]


CLASSES = [c for c in own(inspect.isclass) if dataclasses.is_dataclass(c) and c.__name__ not in STRUCTURE]
ACTIVATIONS = [f for f in own(inspect.isfunction) if f.__module__.endswith(".activations")]
BY_LAYER = [f for f in own(inspect.isfunction) if list(inspect.signature(f).parameters) == ["layer", "layers"]]


def instance(kind: type) -> Any:
    """One with its defaults; sizes that have none are the tiny model's."""
    sizes = {"hidden": 40, "std": 0.1}
    needed = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
    return kind(**{name: sizes[name] for name in needed})


def parameters_of(call: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(call).parameters if name != "self")


SLOTS = {
    ("ctx",): "embed",
    ("x_BTD", "ctx"): "stream",
    ("v_BTKd", "ctx"): "value",
    ("y_BTHd", "v_BTKd", "u_BTD"): "output",
    ("x_BTD", "out_BTD"): "gate",
    ("x_BTD", "s_BTD"): "join",
    ("z",): "activation",
    ("u_BTD",): "mlp",
    ("x_BTD", "table_VD"): "head",
    ("z_NV",): "cap",
    ("lanes", "read_BTD", "attend", "feed"): "residual",
}


@dataclass(frozen=True)
class AtEntry:
    """A technique of the stream, before the embedding's norm instead of after it."""

    technique: Any


def slot_of(technique: Any) -> str:
    """Where a technique stands, by what its module is called with."""
    if isinstance(technique, AtEntry):
        return "entry"
    if inspect.isfunction(technique):
        return "activation" if technique in ACTIVATIONS else "by_layer"
    if isinstance(technique, Rope | MTP):
        return type(technique).__name__.lower()
    if hasattr(technique, "edges"):
        return "wire"
    if hasattr(technique, "build"):
        module = technique.build(PLACE)
        slot = SLOTS.get(parameters_of(module.forward), "nowhere")
        if slot != "embed":
            return slot
        width = module(Context(torch.zeros(1, 3, dtype=torch.long))).shape[-1]
        return "embed" if width == DIM else "shared"
    return "init" if parameters_of(type(technique).__call__) == ("shape", "generator", "layers") else "nowhere"


def keyed_alike(technique: Any, slot: str) -> tuple[Any, ...]:
    """The techniques of a slot that work with this one: those of its key."""
    return tuple(t for t in map(instance, CLASSES) if slot_of(t) == slot and t.key == technique.key)


def everywhere(model: Model, path: str, value: Any) -> Model:
    return edit(model, {f"blocks[:].{path}": value})


def add_values(model: Model, values: tuple[Any, ...], shared: tuple[Any, ...]) -> Model:
    model = everywhere(model, "attn.values", (*model.blocks[0].attn.values, *values))
    return edit(model, {"shared": (*model.shared, *shared)})


INSTALL: dict[str, Callable[[Model, Any], Model]] = {
    "embed": lambda model, t: edit(model, {"embed": (*model.embed, t)}),
    "entry": lambda model, t: edit(model, {"entry": (*model.entry, t.technique)}),
    "stream": lambda model, t: edit(model, {"stream": (*model.stream, t)}),
    "shared": lambda model, t: add_values(model, keyed_alike(t, "value"), (t,)),
    "value": lambda model, t: add_values(model, (t,), keyed_alike(t, "shared")),
    "output": lambda model, t: everywhere(model, "attn.outputs", (*model.blocks[0].attn.outputs, t)),
    "gate": lambda model, t: everywhere(model, "gate", t),
    "activation": lambda model, t: everywhere(model, "mlp.act", t),
    "mlp": lambda model, t: everywhere(model, "mlp", t),
    "head": lambda model, t: edit(model, {"head": t}),
    "mtp": lambda model, t: edit(model, {"head.mtp": t}),
    "residual": lambda model, t: everywhere(model, "residual", t),
    "cap": lambda model, t: edit(model, {"head.softcap": t}),
    "rope": lambda model, t: everywhere(model, "attn.rope", t),
    "wire": lambda model, t: edit(model, {"graph": (*model.graph, t)}),
    "join": lambda model, t: edit(model, {"graph": (*model.graph, OneEdge(t))}),
    "by_layer": lambda model, t: everywhere(model, "norm_scale", t),
}
ONE_AT_A_TIME = ({"activation", "mlp"}, {"head", "mtp", "cap"}, {"rope"}, {"gate"}, {"by_layer"}, {"residual"})


def with_techniques(*techniques: Any) -> Model:
    """The bare model with these in it."""
    model = BARE
    for technique in techniques:
        model = INSTALL[slot_of(technique)](model, technique)
    return model


FOUND = [*map(instance, CLASSES), *ACTIVATIONS, *BY_LAYER]
INITS = [t for t in FOUND if slot_of(t) == "init"]
VARIANTS = [
    *(AtEntry(t) for t in FOUND if slot_of(t) == "stream"),
    Rope(dims=2),
    Rope(dims=4, base=100.0, ntk_from=5),
    UNet(Gated()),
    X0Mix(ramp_down, ramp),
    Head(tied=False),
    Head(softcap=None),
    Head(bias=True),
    HeadGate(width=None, top=1.0),
    HeadGate(scale=0.5, top=1.0),
    Head(tied=False, softcap=AsymmetricCap(2.0), mtp=MTP(), bias=True),
    MTP(heads=2),
    BigramHash(64, DIM),
    ValueEmbed(16, scale=None, project=True),
]
SAME_AS_BARE = [Head(), Serial()]
TECHNIQUES = [t for t in [*FOUND, *VARIANTS] if t not in INITS and t not in SAME_AS_BARE]


def label(technique: Any) -> str:
    return technique.__name__ if inspect.isfunction(technique) else repr(technique).split(" at 0x")[0]


def recurrent(model: Model) -> Model:
    """The same with its middle blocks run twice."""
    return edit(model, {"order": (0, 1, 2, 1, 2, 3)})


every_technique = pytest.mark.parametrize("technique", TECHNIQUES, ids=label)


@pytest.mark.parametrize("technique", FOUND, ids=label)
def test_every_technique_has_a_place(technique: Any) -> None:
    slot = slot_of(technique)
    assert slot in (*INSTALL, "init"), f"{technique} stands in no slot of model/slots.py"


def test_reflection_finds_techniques_of_every_slot() -> None:
    assert {slot_of(t) for t in [*FOUND, *VARIANTS]} == {*INSTALL, "init"}


# --- the tiny model, away from its start --------------------------------------------------------------------------


def awake(spec: Model) -> Transformer:
    """Built, and with every vector and every zero matrix moved away from its neutral start, by name."""
    model = spec.build(seed=5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.empty(p.shape).normal_(0.0, 0.3, generator=generator_for(name, 7))
            p.add_(noise * (p.ndim < 2 or name.startswith("graph.") or name.endswith("score.weight")))
    return model


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    """Random ids without BOS."""
    return torch.randint(1, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def changed_at_each(ids_T: Tensor, places: Iterable[int]) -> Tensor:
    """One row per place, with the token there replaced by another that is no BOS."""
    rows = []
    for t in places:
        row = ids_T.clone()
        row[t] = 1 + (row[t] + 6) % (VOCAB - 1)
        rows.append(row)
    return torch.stack(rows)


# --- the laws -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def assert_causal(model: Transformer) -> None:
    T = 10
    ids_T = tokens(1, T)[0]
    before_TV = model(ids_T[None])[0]
    after_TTV = model(changed_at_each(ids_T, range(T)))
    moved_TT = (after_TTV - before_TV).abs().amax(-1)
    for t in range(T):
        assert moved_TT[t, :t].max().item() < 1e-5 if t else True, f"token {t} changed the past"
        assert moved_TT[t, t] > 1e-4, f"token {t} does not reach its own logits"
        assert t == T - 1 or moved_TT[t, t + 1 :].max() > 1e-4, f"token {t} does not reach the future"


@every_technique
def test_causal(technique: Any) -> None:
    model = with_techniques(technique)
    assert_causal(awake(model))
    assert_causal(awake(recurrent(model)))


def look_on_every_path(model: Transformer) -> dict[str, LookAhead]:
    """How far ahead a model looks in its training loss, and in a text shown in pieces with keys and values kept."""
    text, rules = tokens(1, 13, 8)[0].numpy(), {"vocab": VOCAB, "bos": BOS}
    looks = {}
    for name, kernels in (("training", nullcontext), ("training, kernels in C", compiled_kernels)):
        with kernels():
            looks[name] = training_look(model.train().loss, text, device="cpu", **rules)
    return looks | {"pieces": pieces_look(model.eval(), text[:-1], **rules)}


@every_technique
def test_causal_on_every_path(technique: Any) -> None:
    """One ahead, two ahead and to the end of the window, in training and in scoring, documents apart or not."""
    spec = with_techniques(technique)
    for model in (awake(spec), awake(recurrent(edit(spec, {"bos": BOS})))):
        for path, look in look_on_every_path(model).items():
            assert look.probed, f"{path}: {look}"
        with torch.no_grad():
            assert not farthest(model, first=0) and not farthest(model, first=4)


def farthest(model: Transformer, *, first: int) -> int:
    """How far ahead scoring looks, of positions `first` and later: each token changed alone, and with all after it."""
    ids_T, T, look = tokens(1, 10)[0], 10, LookAhead()
    before_SV = model(ids_T[None], first=first)[0]
    singles_NT = changed_at_each(ids_T, range(first + 1, T))
    for rows_NT in (singles_NT, torch.where(torch.arange(T) >= torch.arange(first + 1, T)[:, None], 1, ids_T)):
        for place, after_SV in enumerate(model(rows_NT, first=first), first + 1):
            look = look.joined(moved(before_SV, after_SV, start=first, place=place))
    return look.ahead


@torch.no_grad()
@every_technique
def test_stopped_at_documents(technique: Any) -> None:
    model = awake(edit(with_techniques(technique), {"bos": BOS}))
    first, second, third = tokens(1, 4, 1)[0], tokens(1, 5, 2)[0], tokens(1, 3, 3)[0]
    bos = torch.tensor([BOS])
    ids_T = torch.cat([first, bos, second, bos, third])  # the window opens amid a document
    before_TV = model(ids_T[None])[0]
    for begin, end in ((0, 4), (4, 10), (10, len(ids_T))):
        inside = range(begin + (ids_T[begin] == BOS).item(), end)
        moved_NT = (model(changed_at_each(ids_T, inside)) - before_TV).abs().amax(-1)
        for t, moved_T in zip(inside, moved_NT, strict=True):
            assert (moved_T[end:] < 1e-6).all(), f"token {t} reaches the next document"
            assert (moved_T[:t] < 1e-6).all(), f"token {t} changed the past"
            assert moved_T[t] > 1e-4 and moved_T[t:end].min() > 0, f"token {t} does not reach its document"


@torch.no_grad()
@every_technique
def test_a_new_document_leaves_the_past_alone(technique: Any) -> None:
    model = awake(edit(with_techniques(technique), {"bos": BOS}))
    ids_T = tokens(1, 9, 6)[0]
    begun_TT = ids_T.repeat(9, 1).fill_diagonal_(BOS)
    moved_TT = (model(begun_TT) - model(ids_T[None])).abs().amax(-1)
    assert (moved_TT.tril(-1) < 1e-6).all()
    assert (moved_TT.diagonal() > 1e-4).all()


@torch.no_grad()
@every_technique
def test_a_document_reads_the_same_alone(technique: Any) -> None:
    if slot_of(technique) == "rope" and technique.ntk_from is not None:
        pytest.skip("this rotation depends on the window's length, by its definition")
    model = awake(edit(with_techniques(technique), {"bos": BOS}))
    bos = torch.tensor([BOS])
    document_T = torch.cat([bos, tokens(1, 6, 2)[0]])
    packed_T = torch.cat([tokens(1, 5, 1)[0], document_T, bos, tokens(1, 2, 3)[0]])
    torch.testing.assert_close(model(packed_T[None])[0, 5:12], model(document_T[None])[0], atol=2e-5, rtol=1e-4)


@torch.no_grad()
@every_technique
def test_shown_piece_by_piece_a_text_reads_the_same(technique: Any) -> None:
    """With keys and values kept, and whatever else looks back; and with outputs for the last positions alone."""
    for bos in (None, BOS):
        spec = edit(with_techniques(technique), {"bos": bos})
        for model in (awake(spec), awake(recurrent(spec))):
            ids_BT = tokens(2, 10, 3)
            ids_BT[0, 4] = BOS
            whole_BTV, cache, at = model(ids_BT), Cache(model, 10), 0
            for size in (3, 1, 2, 1, 1, 2):
                at += size
                torch.testing.assert_close(cache(ids_BT[:, at - size : at]), whole_BTV[:, at - 1], atol=1e-5, rtol=0)
            torch.testing.assert_close(model(ids_BT, first=6), whole_BTV[:, 6:], atol=1e-5, rtol=0)


def loss_and_gradients(model: Transformer, *, compiled: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    ids = tokens(2, 13, 4)
    torch.manual_seed(0)  # for dropout
    loss_of = torch.compile(model.loss, backend="eager", fullgraph=True) if compiled else model.loss
    loss = loss_of(ids[:, :-1], ids[:, 1:])
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_all_learn(model: Transformer, gradients: dict[str, Tensor]) -> None:
    dead = [name for name, _ in model.named_parameters() if name not in gradients or not gradients[name].any()]
    assert not dead, f"no gradient reaches {dead}"


@every_technique
def test_live(technique: Any) -> None:
    model = awake(with_techniques(technique))
    loss, gradients = loss_and_gradients(model)
    assert (loss - loss_and_gradients(awake(BARE))[0]).abs() > 1e-5, "turning it on changes nothing"
    assert_all_learn(model, gradients)


def fits(techniques: list[Any]) -> bool:
    """Whether one model holds them all: one per exclusive field, one per key."""
    slots = [slot_of(t) for t in techniques]
    if any(sum(slot in group for slot in slots) > 1 for group in ONE_AT_A_TIME):
        return False
    try:
        with_techniques(*techniques).build()
    except AssertionError:
        return False
    return True


def crowds() -> list[list[Any]]:
    """As few sets of techniques as hold each once; tracing a model is slow."""
    sets: list[list[Any]] = []
    for technique in TECHNIQUES:
        home = next((s for s in sets if fits([*s, technique])), None)
        if home is None:
            sets.append([technique])
        else:
            home.append(technique)
    return sets


@pytest.mark.parametrize("techniques", crowds(), ids=lambda ts: f"{len(ts)} techniques")
def test_live_when_compiled(techniques: list[Any]) -> None:
    model = awake(with_techniques(*techniques))
    loss, gradients = loss_and_gradients(model)
    torch._dynamo.reset()
    loss_compiled, gradients_compiled = loss_and_gradients(awake(model.spec), compiled=True)
    torch.testing.assert_close(loss_compiled, loss, atol=1e-6, rtol=0)
    assert_all_learn(model, gradients_compiled)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_compiled[name], gradient, atol=1e-6, rtol=1e-4)
    loss_of = torch.compile(model.loss, backend="eager", fullgraph=True)
    look = training_look(loss_of, tokens(1, 13, 8)[0].numpy(), vocab=VOCAB, bos=BOS, device="cpu")
    assert look.probed, look


def claims_neutrality(technique: Any) -> bool:
    return "neutral at init" in (technique.__doc__ or "").lower()


def without(technique: Any) -> Model:
    """The bare model; around a technique that wraps an activation, with that activation alone."""
    return everywhere(BARE, "mlp.act", technique.act) if hasattr(technique, "act") else BARE


@pytest.mark.parametrize("technique", [t for t in FOUND if claims_neutrality(t)], ids=label)
def test_neutral_at_init_where_claimed(technique: Any) -> None:
    ids = tokens(2, 9)
    on, off = with_techniques(technique).build(seed=1), without(technique).build(seed=1)
    torch.testing.assert_close(on(ids), off(ids), atol=1e-6, rtol=0)


def test_someone_claims_to_be_neutral() -> None:
    assert {type(t).__name__ for t in FOUND if claims_neutrality(t)} >= {"Affine", "X0Mix", "Mixed"}


# --- starts and storage -------------------------------------------------------------------------------------------


@every_technique
def test_adding_a_technique_moves_no_other_start(technique: Any) -> None:
    on = dict(with_techniques(technique).build(seed=2).named_parameters())
    off = dict(BARE.build(seed=2).named_parameters())
    shared = [name for name in on.keys() & off.keys() if on[name].shape == off[name].shape]
    assert "embed.tokens.weight" in shared
    for name in shared:
        assert torch.equal(on[name], off[name]), name


@every_technique
def test_the_init_table_reaches_every_matrix_without_a_start_of_its_own(technique: Any) -> None:
    model = with_techniques(technique)
    ones, zeros = (edit(model, {"init": (("*", init),)}).build() for init in (Normal(1.0), Zeros()))
    for (name, p), q in zip(ones.named_parameters(), zeros.parameters(), strict=True):
        reached = not torch.equal(p, q)
        assert reached == (p.ndim == 2 and not name.startswith("graph.") and not name.endswith("score.weight")), name


@every_technique
def test_a_technique_can_be_stored(technique: Any) -> None:
    if slot_of(technique) == "join":
        model: Any = technique
    else:
        model = edit(with_techniques(technique), {"blocks[:].mlp": MLP(48, relu2)})
    assert load(dump(model)) == model


@pytest.mark.parametrize("init", INITS, ids=label)
def test_inits_fill_the_shape_and_follow_their_generator(init: Init) -> None:
    for shape in ((6, 10), (10, 6), (8, 8)):
        first, again, other = (init(torch.Size(shape), generator_for(name, 3), 4) for name in ("a", "a", "b"))
        assert first.shape == shape and bool(first.isfinite().all())
        assert torch.equal(first, again)
        assert isinstance(init, Zeros) or not torch.equal(first, other)


@torch.no_grad()
def test_logits_from_a_position_on_are_the_tail_of_all() -> None:
    model, ids = awake(BARE), tokens(2, 9)
    for first in (0, 4, 8):
        torch.testing.assert_close(model(ids, first=first), model(ids)[:, first:])


def test_a_mix_may_depend_on_depth() -> None:
    model = edit(BARE, {"graph": (X0Mix(ramp_down, ramp),)}).build()
    rows = [model.get_parameter(f"graph.mix.{i}.weight")[1, 0].item() for i in range(LAYERS)]
    assert rows == pytest.approx([ramp(i, LAYERS) for i in range(LAYERS)])
    assert rows == sorted(rows) and rows[0] == pytest.approx(0.1824, abs=1e-4)


# --- fast paths and their twins -----------------------------------------------------------------------------------


def assert_twins(
    fast: Callable[..., Tensor], slow: Callable[..., Tensor], inputs: tuple[Tensor, ...], *rest: Any
) -> None:
    """The same outputs, and the same gradients under the same upstream gradient."""
    results = []
    for function in (fast, slow):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = function(*leaves, *rest)
        upstream = torch.empty(out.shape).normal_(generator=torch.Generator().manual_seed(9))
        out.backward(upstream)
        results.append((out.detach(), *(x.grad for x in leaves)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    half=st.integers(1, 4),
    documents=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_attention_equals_its_reference(
    batch: int, length: int, kv_heads: int, group: int, half: int, documents: bool, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, length, kv_heads * group, 2 * half, generator=g)
    k, v = (torch.randn(batch, length, kv_heads, 2 * half, generator=g) for _ in range(2))
    mask = None
    if documents:
        doc = (torch.rand(batch, length, generator=g) < 0.3).cumsum(-1)
        mask = (doc[:, :, None] == doc[:, None, :]).tril()[:, None]

    def fast(*qkv: Tensor) -> Tensor:
        return attention_kernel.attention(*qkv, mask=lambda: mask)

    def slow(*qkv: Tensor) -> Tensor:
        return attention_kernel.reference(*qkv, mask)

    assert_twins(fast, slow, (q, k, v))


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 12),
    vocab=st.integers(2, 40),
    cap=st.none() | st.floats(0.5, 50.0),
    spread=st.floats(0.01, 60.0),
    seed=st.integers(0, 10**6),
)
def test_softcap_cross_entropy_equals_its_reference(
    rows: int, vocab: int, cap: float | None, spread: float, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, vocab, generator=g) * spread
    target = torch.randint(0, vocab, (rows,), generator=g)
    assert_twins(softcap_ce.softcap_cross_entropy, softcap_ce.reference, (z,), target, cap)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 12),
    vocab=st.integers(2, 40),
    above=st.floats(0.5, 50.0),
    below=st.floats(0.5, 50.0),
    spread=st.floats(0.01, 60.0),
    seed=st.integers(0, 10**6),
)
def test_asymmetric_cross_entropy_equals_its_reference(
    rows: int, vocab: int, above: float, below: float, spread: float, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, vocab, generator=g) * spread
    target = torch.randint(0, vocab, (rows,), generator=g)
    caps = (torch.tensor([above]), torch.tensor([below]))
    assert_twins(asymmetric_ce.asymmetric_cross_entropy, asymmetric_ce.reference, (z, *caps), target)


def test_equal_caps_are_the_symmetric_cap() -> None:
    z, target = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)) * 40, torch.arange(5)
    caps = (torch.tensor([7.0]), torch.tensor([7.0]))
    torch.testing.assert_close(asymmetric_ce.reference(z, *caps, target), softcap_ce.reference(z, target, 7.0))


def test_softcap_cross_entropy_keeps_the_gradients_type() -> None:
    z = torch.randn(4, 7).bfloat16().requires_grad_()
    softcap_ce.softcap_cross_entropy(z, torch.arange(4), 30.0).backward()
    assert z.grad is not None and z.grad.dtype == torch.bfloat16


def test_no_kernel_is_without_a_twin() -> None:
    import pargolf.kernels

    for found in pkgutil.iter_modules(pargolf.kernels.__path__):
        if found.name != "compiled":  # it builds kernels and is none
            module = importlib.import_module(f"pargolf.kernels.{found.name}")
            assert callable(module.reference), f"{found.name} has no reference"


def test_modules_of_the_model_hold_their_parameters_once() -> None:
    for technique in TECHNIQUES:
        model = nn.ModuleList([with_techniques(technique).build()])
        assert len(list(model.named_parameters())) == len(list(model.named_parameters(remove_duplicate=False)))


# --- what a technique becomes in a smaller system -----------------------------------------------------------------

SMALLER = Smaller(4, context=64, seq_len=256, layers=(0, 2), head_dim=32, head_dim_before=64.0)
FLOORS = ("data", "model", "quant", "training", "evaluate")
NO_PART = {"LedgerGrader", "ForeignGrader", "FineGroup"}  # none of a recipe: a grid that is chosen at the end, probes


def all_techniques() -> list[type]:
    """Frozen dataclasses of the floors that a recipe is made of."""
    found = []
    for floor in FLOORS:
        package = importlib.import_module(f"pargolf.{floor}")
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(info.name)
            things = [t for name, t in vars(module).items() if inspect.isclass(t) and not name.startswith("_")]
            found += [t for t in things if t.__module__ == module.__name__ and dataclasses.is_dataclass(t)]
    return [t for t in found if t.__dataclass_params__.frozen and set(vars(t)) & {"build", "run", "over", "encode",
            "begin", "resolve", "apply", "choose", "factors", "__call__", "edges", "starts", "limit"}]  # fmt: skip


def large(kind: type) -> Any:
    """One with its defaults, and 4,096 for each whole number that has none."""
    hints = get_type_hints(kind)
    wholes = {f.name: 4096 for f in dataclasses.fields(kind) if hints[f.name] is int}
    others = {"base": Int(4), "table": (), "k": 3.0, "p": 0.5, "fraction": 0.5, "lr": 0.1, "bits": 6, "std": 1.0}
    asked = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING}
    return kind(**{name: others[name] if name in others else wholes[name] for name in asked})


@pytest.mark.parametrize(
    "kind", [t for t in all_techniques() if t.__name__ not in STRUCTURE | NO_PART], ids=lambda t: t.__name__
)
def test_a_technique_is_smaller_at_a_smaller_scale_or_has_no_size(kind: type) -> None:
    before = large(kind)
    after = shrunk(relengthened(before, RunLength(6000, 470.0)), SMALLER)
    sizes = [f.name for f in dataclasses.fields(kind) if type(getattr(before, f.name)) is int]
    grown = [name for name in sizes if getattr(after, name, 0) > getattr(before, name)]
    big = [name for name in sizes if getattr(before, name) >= 32 and name != "seed"]
    assert not grown and (not big or after != before or hasattr(kind, "at_scale"))


def test_nothing_outside_a_technique_s_file_asks_for_its_class() -> None:
    homes = {kind.__name__: kind.__module__ for kind in all_techniques()}
    root = Path(pargolf.model.__path__[0]).parent
    asked = []
    for path in root.rglob("*.py"):
        module = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        # A recipe names its own techniques, and `upstream` those of the published scripts.
        for node in ast.walk(ast.parse(path.read_text())) if path.parts[-2] not in ("recipes", "upstream") else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
                names = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                asked += [f"{module}: {ast.unparse(node)}" for n in names & homes.keys() if homes[n] != module]
    assert not asked


@dataclass(frozen=True)
class Reach:
    """Somebody's part that says nothing of scale."""

    reach: int = 512
    chunk: int = 1024
    few: int = 3


def test_a_size_of_which_nothing_is_known_is_refused_and_usual_names_shrink() -> None:
    with pytest.raises(UserError, match=r"Reach has reach=512.*at_scale"):
        shrunk(Reach(), SMALLER)
    assert shrunk((Reach(8),), SMALLER) == (Reach(8, 256, 3),)
    assert shrunk(dump, SMALLER) is dump and shrunk(None, SMALLER) is None
