"""Stored specs changed at random, with every checksum made true.

A change is one of a kind that real damage and forgery have: a value of another type, out of range, of absurd size, no
number at all, nested deep, a part in the place of another, a field that is missing or new. It is refused in a line, or
it reads as what was written, or as another valid value of the field, which nothing in the file can tell.
"""

import copy
import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import brotli
import numpy as np
import small
import torch

from batteries.trial import Trial
from pargolf.core.spec import checked, dump, edit
from pargolf.evaluate.adapted import Adapted, score_adapted
from pargolf.evaluate.adapters.adamw import AdamW
from pargolf.evaluate.adapters.count_tilt import CountTilt
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import Sliding
from pargolf.model.bigram import BigramHash
from pargolf.model.residual import TwoLanes
from pargolf.model.rope import Rope
from pargolf.model.smear import SmearGate
from pargolf.model.value_embed import AddValueEmbed, ValueEmbed
from pargolf.model.xsa import XSA
from pargolf.quant.clip import StdDev
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import Quantize
from pargolf.quant.trellis import Trellis
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder
from pargolf.run.pack import UnpackedModel, pack, unpack
from pargolf.training.adam import Adam

_PREFIX, _DIGEST = 21, 16

RECIPE = edit(
    small.RECIPE,
    {
        "model.blocks[1].residual": TwoLanes(),
        "model.blocks[:].attn.rope": Rope(dims=4, ntk_from=8),
        "model.blocks[:].attn.outputs": (XSA(),),
        "model.blocks[1].attn.values": (AddValueEmbed(),),
        "model.shared": (ValueEmbed(8),),
        "model.embed": (BigramHash(16, 8),),
        "model.stream": (SmearGate(),),
        "model.order": (0, 1, 1),
        "train.optimizer": (("embed.bigram.*", Adam(0.02)), *small.OPTIMIZER),
        "quant": Quantize(
            (("mlp.*", Trellis(Int(5, clip=StdDev(8.0)))), ("embed.*", Int(8)), ("attn.[qkv]", Int(6)), ("*", Keep()))
        ),
        "windows": Sliding(16, 8),
        "adapt": CountTilt((1, 2), adapter=AdamW(lr=0.001, chunk=16, batch=1)),
    },
)
ADDRESSES = [
    *("os:system", "a:b", "pargolf.model.xsa:XSA", "pargolf.model.smear:SmearGate", "pargolf.model.mlp:SwiGLU"),
    *("pargolf.model.residual:Parallel", "pargolf.model.value_embed:ValueResidual", "pargolf.model.activations:relu2"),
    *(
        "pargolf.model.norm:depth_rsqrt",
        "pargolf.model.rope:Rope",
        "pargolf.model.init:Zeros",
        "pargolf.quant.grid:Keep",
    ),
    *("pargolf.quant.awq:FineGroup", "pargolf.evaluate.windows:Plain", "pargolf.evaluate.adapt_chunks:SGD"),
    "pargolf.core.budget:Budget",
]


def artifact() -> bytes:
    """A small artifact with every kind of tensor, and with parts in most slots."""
    model = RECIPE.model.build(seed=1)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.2, generator=torch.Generator().manual_seed(p.numel()))
    return pack(RECIPE, dict(model.named_parameters()), tokenizer="t")


def header_of(data: bytes) -> Any:
    """An artifact's header as JSON."""
    return json.loads(brotli.decompress(data[_PREFIX : _PREFIX + int.from_bytes(data[9:13], "little")]))


def with_header(data: bytes, text: str) -> bytes:
    """The artifact under another header, every checksum true."""
    stored = brotli.compress(text.encode(), quality=1)
    lengths = len(stored).to_bytes(4, "little") + len(text.encode()).to_bytes(4, "little")
    out = data[:9] + lengths + zlib.crc32(lengths + stored).to_bytes(4, "little") + stored
    out += data[_PREFIX + int.from_bytes(data[9:13], "little") : -_DIGEST]
    return out + blake2b(out, digest_size=_DIGEST).digest()


def places(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything inside a JSON value."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield (*at, key)
        yield from places(value, (*at, key))


def value_at(node: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        node = node[key]
    return node


def deep(levels: int) -> Any:
    """A list in a list in a list."""
    node: Any = []
    for _ in range(levels):
        node = [node]
    return node


def mutated(tree: Any, chance: random.Random) -> tuple[str, str]:
    """The JSON text of `tree` with one thing changed, and where."""
    tree, paths = copy.deepcopy(tree), list(places(tree))
    path = chance.choice(paths)
    holder, key, old = value_at(tree, path[:-1]), path[-1], value_at(tree, path)
    new: list[Any] = [
        *(
            None,
            True,
            False,
            0,
            1,
            -1,
            2,
            3,
            7,
            1 << 31,
            1 << 40,
            10**12,
            10**18,
            10**400,
            -(10**400),
            0.5,
            -0.5,
            1e308,
        ),
        *(float("nan"), float("inf"), "", "x", "\ud800", "a\nb", [], {}, [1], {"is": 3}, deep(60), deep(800)),
        *(chance.choice(ADDRESSES), {"is": chance.choice(ADDRESSES)}, {"fn": chance.choice(ADDRESSES)}),
        *(copy.deepcopy(value_at(tree, chance.choice(paths))) for _ in range(8)),
    ]
    if isinstance(old, int | float) and not isinstance(old, bool):
        new += [old + 1, old - 1, -old, old * 2, old * 1000, float(old), str(old)] * 2
    if isinstance(old, str):
        new += [chance.choice(ADDRESSES), old.upper(), old + "x", *chance.choices(ADDRESSES, k=3)] * 2
    if isinstance(holder, dict) and chance.random() < 0.15:
        if chance.random() < 0.5:
            del holder[key]
        else:
            holder["surprise"] = old
    elif isinstance(holder, list) and chance.random() < 0.1:
        holder.insert(key, copy.deepcopy(old))
    else:
        holder[key] = chance.choice(new)
    return json.dumps(tree), ".".join(map(str, path))


TOKENS = np.random.default_rng(0).integers(2, 32, 40).astype(np.uint16)


def use(found: UnpackedModel) -> None:
    """Score a few tokens by an artifact, as it says, and adapted."""
    assert found.adapt is not None
    vocab, tokens = found.model.spec.vocab, np.minimum(TOKENS, found.model.spec.vocab - 1)
    tokens[::9] = 1
    text = Text(tokens, np.ones(len(tokens) - 1, dtype=np.int64), vocab, 1)
    for event in score_adapted(found.model, text, found.windows, found.adapt, probe=False):
        if isinstance(event, Adapted):
            assert event.score.tokens > 0


def reads_artifact(data: bytes) -> Callable[[str], bool]:
    """Whether an artifact under a header of this text reads as the artifact `data`."""
    whole = unpack(data)
    state = {name: p.clone() for name, p in whole.model.named_parameters()}

    def read(text: str) -> bool:
        found = unpack(with_header(data, text))
        named = dict(found.model.named_parameters())
        same = named.keys() == state.keys() and all(torch.equal(p, state[name]) for name, p in named.items())
        what = ("windows", "plain", "adapt", "recipe", "digest", "tokenizer")
        same = same and found.model.spec == whole.model.spec
        same = same and all(getattr(found, name) == getattr(whole, name) for name in what)
        if not same and found.adapt is not None:
            use(found)
        return same

    return read


def reads_recipe(folder: Path) -> Callable[[str], bool]:
    """Whether a `recipe.json` of this text reads as `RECIPE`."""

    def read(text: str) -> bool:
        (folder / "recipe.json").write_text(text)
        found = RunFolder.open(folder).read_recipe()
        assert isinstance(found, Recipe) and checked(found) is found
        return found == RECIPE

    return read


def changes(tree: Any, read: Callable[[str], bool], chance: random.Random) -> Iterator[Trial]:
    """Mutations of a JSON value, endlessly, each read by `read`."""

    def act(text: str) -> str:
        return "same" if read(text) else "other"

    while True:
        text, place = mutated(tree, chance)
        yield Trial(place, partial(act, text), seconds=5)


def trials(folder: Path, chance: random.Random) -> Iterator[Trial]:
    """Mutations of an artifact's header and of a `recipe.json`, in turn."""
    data = artifact()
    headers = changes(header_of(data), reads_artifact(data), chance)
    recipes = changes(dump(RECIPE), reads_recipe(folder), chance)
    for header, recipe in zip(headers, recipes):
        yield replace(header, name=f"artifact header, {header.name}")
        yield replace(recipe, name=f"recipe.json, {recipe.name}")
