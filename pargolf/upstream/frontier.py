"""The state dicts of pull requests 1855 and 2135, under our names.

Their models are those of the recipes, at other sizes. The tensors show the vocabulary, width, heads and hidden units.
The order of the blocks, the two lanes and the gates do not follow from shapes; they are taken from the recipe, so the
depth must be the recipe's. Lane weights are in two stacks with a row for each block (`parallel_post_lambdas`: attention
and MLP to lanes a and b; `parallel_resid_lambdas`: the part of itself that each lane keeps); rows of blocks with one
lane are unused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.core.spec import edit
from pargolf.model.head import Head
from pargolf.model.init import Zeros
from pargolf.model.transformer import Model, shapes
from pargolf.upstream.state_dicts import count_layers

FRONTIER = ("pr1855", "pr2135")
_MATRICES = {"c_q": "q", "c_k": "k", "c_v": "v", "proj": "out"}
_BANKS = {
    "qo_bank": ("attn.q.weight", "attn.out.weight"),
    "kv_bank": ("attn.k.weight", "attn.v.weight"),
    "mlp_up_bank": ("mlp.up.weight",),
    "mlp_down_bank": ("mlp.down.weight",),
}
_WHOLE = {
    "tok_emb.weight": "embed.tokens.weight",
    "lm_head.weight": "head.own.weight",
    "smear_gate.weight": "entry.token_smear.score.weight",
    "smear_lambda": "entry.token_smear.amount",
    "softcap_pos": "head.cap.above",
    "softcap_neg": "head.cap.below",
}
_IN_BLOCK = {
    "attn_scale": "attn_scale",
    "mlp_scale": "mlp_scale",
    "attn.q_gain": "attn.q_gain",
    "attn.attn_gate_w": "attn.outputs.head_gate.score.weight",
    "mlp.fc.weight": "mlp.up.weight",
    "mlp.proj.weight": "mlp.down.weight",
} | {f"attn.{theirs}.weight": f"attn.{ours}.weight" for theirs, ours in _MATRICES.items()}


def frontier_model(
    recipe: Model, state: Mapping[str, Tensor], *, rope_dims: int | None = None
) -> tuple[Model, dict[str, Tensor]]:
    """The recipe's model at the sizes of a state dict, and the weights under our names in float32.

    `rope_dims`: rotated channels per head; None for the recipe's number, or all if heads have fewer.
    Raises `UserError` on tensors that are missing, unknown or of another shape, and on another depth.
    """
    layers = len(recipe.blocks)
    named = dict(_renamed(state, layers))
    for name in ("embed.tokens.weight", "blocks.0.attn.q_gain", "blocks.0.attn.k.weight", "blocks.0.mlp.up.weight"):
        if name not in named:
            raise UserError(f"The file has no {name} (by our name), so it is no model of pull requests 1855 to 2135.")
    if count_layers(named) != layers:
        raise UserError(f"The file has {count_layers(named)} layers, and this recipe's order is of {layers}.")
    model = _sized(recipe, named, rope_dims)
    wanted = shapes(model)
    lanes = {name for name in named if ".residual." in name}
    strange = sorted(named.keys() - wanted.keys() - lanes)
    missing = sorted(wanted.keys() - named.keys())
    if strange or missing:
        what = f"lacks {missing[0]}" if missing else f"has {strange[0]}, for which the recipe has no place"
        raise UserError(f"The file {what} (by our name). Is it another system's?")
    out = {}
    for name, shape in wanted.items():
        if named[name].numel() != shape.numel() or [n for n in named[name].shape if n != 1] != [
            n for n in shape if n != 1
        ]:
            raise UserError(f"{name} (by our name) is {tuple(named[name].shape)} where {tuple(shape)} fits the others.")
        out[name] = named[name].reshape(shape).float().clone()
    return model, out


def _sized(recipe: Model, named: Mapping[str, Tensor], rope_dims: int | None) -> Model:
    """The recipe's model with the widths of the tensors. Raises `UserError` if heads do not divide them."""
    (vocab, dim), heads = named["embed.tokens.weight"].shape, named["blocks.0.attn.q_gain"].numel()
    head_dim = dim // max(heads, 1)
    kv_heads, rest = divmod(len(named["blocks.0.attn.k.weight"]), max(head_dim, 1))
    if heads < 1 or dim % heads or rest or not kv_heads or heads % kv_heads or head_dim % 2:
        raise UserError(f"{heads} heads do not divide a width of {dim}, or its keys. Is the file whole?")
    rope = recipe.blocks[0].attn.rope.dims if rope_dims is None else rope_dims
    changes: dict[str, object] = {
        "vocab": vocab,
        "dim": dim,
        "blocks[:].attn.heads": heads,
        "blocks[:].attn.kv_heads": kv_heads,
        "blocks[:].mlp.hidden": len(named["blocks.0.mlp.up.weight"]),
        "blocks[:].attn.rope.dims": None if rope is None else min(rope, head_dim),
    }
    model: Model = edit(recipe, changes)
    if "head.own.weight" in named:
        model = replace(model, head=Head(False, model.head.softcap))
    return replace(model, init=(("*", Zeros()),))


def _renamed(state: Mapping[str, Tensor], layers: int) -> Iterator[tuple[str, Tensor]]:
    """Each of our names with its tensor. Raises `UserError` for an unknown name, or a stack of another size."""
    for name, tensor in state.items():
        block, _, inner = name.removeprefix("blocks.").partition(".")
        if name in _WHOLE:
            yield _WHOLE[name], tensor.reshape(1) if tensor.dim() == 0 else tensor
        elif name in _BANKS:
            parts = _BANKS[name]
            for i, part in enumerate(_rows(name, tensor, layers * len(parts))):
                yield f"blocks.{i % layers}.{parts[i // layers]}", part
        elif name in ("skip_weights", "skip_gates"):
            kind = "weight" if name == "skip_weights" else "gate"
            for i, row in enumerate(_rows(name, tensor, len(tensor) if tensor.dim() else 0)):
                yield f"graph.skip.{layers // 2 + i}.{kind}", row
        elif name == "parallel_resid_lambdas":
            for i, row in enumerate(_rows(name, tensor, layers)):
                yield f"blocks.{i}.residual.keep", row
        elif name == "parallel_post_lambdas":
            for i, row in enumerate(_rows(name, tensor, layers)):
                yield from ((f"blocks.{i}.residual.{part}", row[index]) for index, part in enumerate(("attn", "mlp")))
        elif name.startswith("blocks.") and inner == "resid_mix":
            yield f"graph.mix.{block}.weight", tensor
        elif name.startswith("blocks.") and block.isdigit() and inner in _IN_BLOCK:
            yield f"blocks.{block}.{_IN_BLOCK[inner]}", tensor
        else:
            raise UserError(f"These systems have no tensor called {name[:80]}. Is it another system's file?")


def _rows(name: str, tensor: Tensor, count: int) -> tuple[Tensor, ...]:
    if not tensor.dim() or len(tensor) != count or not count:
        raise UserError(f"{name} is a stack of {count}, one for each layer, not {tuple(tensor.shape)}.")
    return torch.unbind(tensor)
