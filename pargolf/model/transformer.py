"""The transformer: an embedding, an explicit list of blocks, a residual graph between them, and a head.

    x0 = stream(norm(entry(E[ids] + embed(ids))));  x = graph of blocks over x0;  logits = head(norm(x))
    block:  x + a * attn(s norm(x)),  then  x + m * mlp(s norm(x))        a, m (D,) learned, s fixed by depth,
            or otherwise (residual.py, dropout.py)

Every technique is placed in a slot (slots.py); this file knows none of them. With `bos` set, documents are kept apart:
attention, smearing and hashes stop at every BOS. With None they are packed together, as in the published systems.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from pargolf.core.errors import UserError
from pargolf.core.ranges import Index, Size, Within
from pargolf.core.roles import Table, resolve
from pargolf.kernels.rms_norm import rms_norm
from pargolf.model.attention import Attention
from pargolf.model.graph import Graph, Wire
from pargolf.model.head import Head, HeadModule
from pargolf.model.init import Init, generator_for
from pargolf.model.linear import Lookup
from pargolf.model.residual import Lanes, Residual, Serial, as_lanes
from pargolf.model.slots import ByLayer, Context, FeedForward, Place, Slot, at_layer, build_all

_MOST = 1 << 32
"""The most weights a model may have; 16 MB give each of so many less than a thirtieth of a bit."""


@dataclass(frozen=True)
class Block:
    """Attention and MLP, joined to the stream by `residual`; `norm_scale` multiplies both norms' outputs."""

    attn: Attention
    mlp: FeedForward
    norm_scale: float | ByLayer = 1.0
    gate: Slot | None = None
    residual: Residual = Serial()


@dataclass(frozen=True)
class Model:
    """The whole model as data. `order` lists which block runs at each step (None: each once)."""

    vocab: Annotated[int, Within(1, 1 << 16)]
    dim: Size
    blocks: Annotated[tuple[Block, ...], Within(1, 1024)]
    init: Table[Init]
    embed: tuple[Slot, ...] = ()
    entry: tuple[Slot, ...] = ()
    stream: tuple[Slot, ...] = ()
    shared: tuple[Slot, ...] = ()
    graph: tuple[Wire, ...] = ()
    order: Annotated[tuple[Index, ...], Within(1, 4096)] | None = None
    head: Head = Head()
    bos: Index | None = None

    def check_fields(self) -> None:
        """Raise `UserError` when sizes, keys, the order or `bos` contradict each other."""
        for i, block in enumerate(self.blocks):
            _check_attention(block.attn, self.dim, f"blocks[{i}].attn")
        slots = {name: getattr(self, name) for name in ("embed", "entry", "stream", "shared")}
        slots |= {f"blocks[{i}].attn.values": block.attn.values for i, block in enumerate(self.blocks)}
        slots |= {f"blocks[{i}].attn.outputs": block.attn.outputs for i, block in enumerate(self.blocks)}
        for name, slot in slots.items():
            if len({part.key for part in slot}) < len(slot):
                raise UserError(f"{name} holds two techniques with one key.")
        if self.order is not None and max(self.order) >= len(self.blocks):
            raise UserError(f"order names block {max(self.order)}, and there are {len(self.blocks)}, from 0 on.")
        weights = self.dim * (self.vocab + sum(2 * (self.dim + block.mlp.hidden) for block in self.blocks))
        if weights > _MOST:
            raise UserError(f"dim and hidden make a model of some {weights:,} weights, and {_MOST:,} are the most.")
        if self.bos is not None and self.bos >= self.vocab:
            raise UserError(f"bos is {self.bos}, which is no token of a vocabulary of {self.vocab}.")

    def place(self, layer: int = -1) -> Place:
        """The sizes at a layer; outside the blocks (-1), those of the last block."""
        block = self.blocks[layer]
        return Place(
            vocab=self.vocab,
            dim=self.dim,
            layers=len(self.blocks),
            heads=block.attn.heads,
            kv_heads=block.attn.kv_heads,
            hidden=block.mlp.hidden,
            layer=layer,
            bos=self.bos,
        )

    def build(self, seed: int = 0) -> "Transformer":
        """Make the module with its initial values."""
        model = Transformer(self)
        matrices = {name: p for name, p in model.named_parameters() if p.ndim == 2 and not _own_start(name)}
        starts = resolve(self.init, matrices, what="init table")
        with torch.no_grad():
            for name, p in matrices.items():
                p.copy_(starts[name](p.shape, generator_for(name, seed), len(self.blocks)))
        return model


def _check_attention(attn: Attention, dim: int, at: str) -> None:
    """Raise `UserError` when heads do not divide the width or each other, or the channels cannot be rotated."""
    if dim % attn.heads:
        raise UserError(f"{at}.heads is {attn.heads}, which does not divide a stream {dim} wide.")
    if attn.heads % attn.kv_heads:
        raise UserError(f"{at}.kv_heads is {attn.kv_heads}, which does not divide {attn.heads} heads.")
    wide = dim // attn.heads
    turned = attn.rope.dims or wide
    if turned % 2 or turned > wide:
        raise UserError(f"{at}.rope.dims takes an even number of the {wide} channels of a head, not {turned}.")
    if attn.rope.ntk_from is not None and turned == 2:
        raise UserError(f"{at}.rope.ntk_from needs more than 2 rotated channels.")


def _own_start(name: str) -> bool:
    """Whether a matrix gets its initial values from its technique: the two rows of a mix, and gates that start at 0."""
    return name.startswith("graph.") or name.endswith(".score.weight")


class BlockModule(nn.Module):
    """A block: (lanes, the first lane as it is read) -> lanes; each (B, T, D)."""

    def __init__(self, spec: Block, place: Place) -> None:
        super().__init__()
        self.norm_scale = at_layer(spec.norm_scale, place)
        self.attn = spec.attn.build(place)
        self.mlp = spec.mlp.build(place)
        self.attn_scale = nn.Parameter(torch.ones(place.dim))
        self.mlp_scale = nn.Parameter(torch.ones(place.dim))
        self.gate = None if spec.gate is None else spec.gate.build(place)
        self.residual = spec.residual.build(place)

    def forward(self, lanes: Lanes, read_BTD: Tensor, ctx: Context, first: int = 0) -> Lanes:
        """Add attention and MLP to the stream as `residual` says, for positions `first` and later."""
        whole_BTD = read_BTD
        if first:
            read_BTD, lanes = read_BTD[:, first:], tuple(x_BTD[:, first:] for x_BTD in lanes)

        def attend(x_BTD: Tensor) -> Tensor:
            out_BTD: Tensor = self.attn(self._normed(whole_BTD if first else x_BTD), ctx, first)
            return self.attn_scale.to(x_BTD.dtype) * out_BTD

        def feed(x_BTD: Tensor) -> Tensor:
            out_BTD: Tensor = self.mlp_scale.to(x_BTD.dtype) * self.mlp(self._normed(x_BTD))
            return out_BTD

        out: Lanes = self.residual(lanes, read_BTD, attend, feed)
        if self.gate is None:
            return out
        return tuple(self.gate(before, after) for before, after in zip((read_BTD, *lanes[1:]), out))

    def _normed(self, x_BTD: Tensor) -> Tensor:
        u_BTD = rms_norm(x_BTD)
        return u_BTD if self.norm_scale == 1.0 else u_BTD * self.norm_scale


class Embed(nn.Module):
    """The token embedding, and the embeddings that are added to it."""

    def __init__(self, spec: Model) -> None:
        super().__init__()
        self.tokens = Lookup(spec.vocab, spec.dim)
        for key, module in build_all(spec.embed, spec.place()).items():
            self.add_module(key, module)
        self.added = [slot.key for slot in spec.embed]

    def forward(self, ctx: Context) -> Tensor:
        """Sum of all embeddings, (B, T, D)."""
        e_BTD: Tensor = self.tokens(ctx.ids_BT)
        for key in self.added:
            e_BTD = e_BTD + self.get_submodule(key)(ctx)
        return e_BTD


class Transformer(nn.Module):
    """`ids (B, T) int64 -> logits (B, T, V)`, after the soft-cap."""

    def __init__(self, spec: Model) -> None:
        super().__init__()
        self.spec = spec
        order = spec.order or tuple(range(len(spec.blocks)))
        self.embed = Embed(spec)
        self.entry = build_all(spec.entry, spec.place())
        self.stream = build_all(spec.stream, spec.place())
        self.shared = build_all(spec.shared, spec.place())
        self.blocks = nn.ModuleList(BlockModule(block, spec.place(i)) for i, block in enumerate(spec.blocks))
        self.graph = Graph(spec.graph, spec.place(), order)
        self.head = HeadModule(spec.head, spec.place())

    def context(self, ids_BT: Tensor) -> Context:
        """The context of a batch, with document numbers only when documents are kept apart."""
        if self.spec.bos is None:
            return Context(ids_BT)
        begins_BT = ids_BT == self.spec.bos
        # In scoring, most windows hold a single document, and attention without a mask does half of the work.
        if not (torch.is_grad_enabled() or torch.compiler.is_compiling() or begins_BT[:, 1:].any()):
            return Context(ids_BT)
        position_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        return Context(ids_BT, begins_BT.cumsum(-1), torch.where(begins_BT, position_T, 0).cummax(-1).values)

    def hidden(self, ids_BT: Tensor, first: int = 0, ctx: Context | None = None) -> Tensor:
        """The normed stream that the head reads, for positions `first` and later, (B, T - first, D).

        For earlier positions the last block computes only keys and values.
        """
        ctx = ctx or self.context(ids_BT)
        x_BTD = self.embed(ctx)
        for slot in self.entry.values():
            x_BTD = slot(x_BTD, ctx)
        x_BTD = rms_norm(x_BTD)
        for slot in self.stream.values():
            x_BTD = slot(x_BTD, ctx)
        for key, slot in self.shared.items():
            ctx.shared[key] = slot(ctx)
        outputs, route = {-1: x_BTD}, self.graph.route
        lanes: Lanes = (x_BTD,)
        for step, number in enumerate(route.order):
            lanes = as_lanes(lanes, self.spec.blocks[number].residual.lanes)
            entered_BTD, read_BTD = self.graph.enter(step, lanes[0], outputs)
            last = step == len(route.order) - 1
            lanes = self.blocks[number]((entered_BTD, *lanes[1:]), read_BTD, ctx, first if last else 0)
            if step in route.kept:
                (outputs[step],) = as_lanes(lanes, 1)
        (x_BTD,) = as_lanes(lanes, 1)
        if first:
            outputs = {step: out_BTD[:, -x_BTD.shape[1] :] for step, out_BTD in outputs.items()}
        return rms_norm(self.graph.enter(len(route.order), x_BTD, outputs)[1])

    def forward(self, ids_BT: Tensor, first: int = 0, ctx: Context | None = None) -> Tensor:
        """Logits of positions `first` and later, (B, T - first, V)."""
        logits_BTV: Tensor = self.head(self.hidden(ids_BT, first, ctx), self.embed.tokens.weight)
        return logits_BTV

    def loss(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean nats per token, plus the extra losses of the head in training."""
        return self.head.loss(self.hidden(ids_BT), self.embed.tokens.weight, targets_BT)


def shapes(model: Model) -> dict[str, torch.Size]:
    """The shape of every parameter by name, without allocating memory."""
    with torch.device("meta"):
        return {name: p.shape for name, p in Transformer(model).named_parameters()}


def parameters(model: Model) -> int:
    """The number of parameters."""
    return sum(shape.numel() for shape in shapes(model).values())
