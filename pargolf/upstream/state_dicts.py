"""Read a published script's state dict into our transformer: the same numbers under our names.

    model = load("pr1009", state_dict, heads=4, kv_heads=2, rope_dims=8, xsa=2, ve_layers=[3, 4])

A system's `names` map the script's tensors to ours (`{i}` is a number; a tuple is a stack with that many tensors per
layer). `SYSTEMS` has the facts of the script's code that its tensors do not show: activation, norm scale, rotation,
joins. Everything else follows from the shapes of the tensors.

Sources: the official baseline and pull requests 549, 910, 1009, 543, 295, 861 of openai/parameter-golf.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from pargolf.core.errors import UserError, near
from pargolf.model.activations import Affine, leaky_relu2, relu2
from pargolf.model.attention import Attention
from pargolf.model.bigram import BigramHash, BigramMix, TrigramHash
from pargolf.model.gates import DynamicTokenGate, GatedAttention
from pargolf.model.graph import Added, Backout, Gated, UNet, Wire, X0Mix
from pargolf.model.head import MTP, Head
from pargolf.model.init import Zeros
from pargolf.model.mlp import MLP
from pargolf.model.norm import depth_rsqrt
from pargolf.model.rope import Rope
from pargolf.model.slots import ByLayer, Slot
from pargolf.model.smear import SmearGate
from pargolf.model.transformer import Block, Model, Transformer
from pargolf.model.value_embed import AddValueEmbed, ValueEmbed, ValueResidual
from pargolf.model.xsa import XSA

Names = dict[str, str | tuple[str, ...]]

_CORE: Names = {
    "tok_emb.weight": "embed.tokens.weight",
    "lm_head.weight": "head.own.weight",
    "skip_weights": ("graph.skip.{target}.weight",),
    "blocks.{i}.resid_mix": "graph.mix.{i}.weight",
    "blocks.{i}.attn_scale": "blocks.{i}.attn_scale",
    "blocks.{i}.mlp_scale": "blocks.{i}.mlp_scale",
    "blocks.{i}.attn.q_gain": "blocks.{i}.attn.q_gain",
    "blocks.{i}.attn.c_q.weight": "blocks.{i}.attn.q.weight",
    "blocks.{i}.attn.c_k.weight": "blocks.{i}.attn.k.weight",
    "blocks.{i}.attn.c_v.weight": "blocks.{i}.attn.v.weight",
    "blocks.{i}.attn.proj.weight": "blocks.{i}.attn.out.weight",
}
_MLP: Names = {
    "blocks.{i}.mlp.fc.weight": "blocks.{i}.mlp.up.weight",
    "blocks.{i}.mlp.proj.weight": "blocks.{i}.mlp.down.weight",
}
_BANKS: Names = {
    "qo_bank": ("blocks.{i}.attn.q.weight", "blocks.{i}.attn.out.weight"),
    "kv_bank": ("blocks.{i}.attn.k.weight", "blocks.{i}.attn.v.weight"),
    "mlp_up_bank": ("blocks.{i}.mlp.up.weight",),
    "mlp_down_bank": ("blocks.{i}.mlp.down.weight",),
}
_SMEAR: Names = {"smear.gate": "stream.smear.gate"}
_BIGRAM: Names = {
    "bigram.embed.weight": "embed.bigram.table.weight",
    "bigram.proj.weight": "embed.bigram.proj.weight",
    "bigram.scale": "embed.bigram.scale",
}
_TRIGRAM: Names = {
    "trigram.embed.weight": "embed.trigram.table.weight",
    "trigram.proj.weight": "embed.trigram.proj.weight",
    "trigram.scale": "embed.trigram.scale",
}
_VALUES: Names = {
    "ve_shared.embed.weight": "shared.value_embed.table.weight",
    "ve_shared.proj.weight": "shared.value_embed.proj.weight",
    "ve_shared.scale": "shared.value_embed.scale",
    "ve_layer_scales.{i}": "blocks.{late}.attn.values.value_embed.scale",
}
_OFF_IN_549: Names = {
    "mtp_heads.{i}.weight": "head.ahead.{i}.weight",
    "blocks.{i}.dtg_gate.weight": "blocks.{i}.gate.score.weight",
    "blocks.{i}.dtg_gate.bias": "blocks.{i}.gate.bias",
    "blocks.{i}.attn.attn_gate.weight": "blocks.{i}.attn.outputs.gate.score.weight",
    "blocks.{i}.attn.attn_gate.bias": "blocks.{i}.attn.outputs.gate.bias",
    "blocks.{i}.attn.vr_lambda": "blocks.{i}.attn.values.value_residual.blend",
}
_ONLY_543: Names = {
    "smear_gate.gate_weight": "stream.smear.gate",
    "ve.embed.weight": "shared.value_embed.table.weight",
    "ve.proj.weight": "shared.value_embed.proj.weight",
    "ve_scales.{i}": "blocks.{i}.attn.values.value_embed.scale",
}
_ONLY_861: Names = {
    "smear_gate.gate": "stream.smear.gate",
    "bigram_emb.embed.weight": "embed.bigram.table.weight",
    "bigram_emb.proj.weight": "embed.bigram.proj.weight",
    "skip_gates": ("graph.skip.{target}.gate",),
    "blocks.{i}.mlp.up_proj.weight": "blocks.{i}.mlp.up.weight",
    "blocks.{i}.mlp.down_proj.weight": "blocks.{i}.mlp.down.weight",
    "blocks.{i}.mlp.scale": "blocks.{i}.mlp.act.scale",
    "blocks.{i}.mlp.bias": "blocks.{i}.mlp.act.bias",
}


@dataclass(frozen=True)
class System:
    """Facts about a script's code that its tensors do not show, and the names of its tensors.

    partial_rope, xsa: whether the script has these options at all
    ntk_from: the length above which the base of the rotation is rescaled; "training": the length of training
    """

    names: Names = field(hash=False)
    act: Callable[[Tensor], Tensor] | Affine = leaky_relu2
    norm_scale: float | ByLayer = depth_rsqrt
    partial_rope: bool = True
    xsa: bool = True
    ntk_from: int | str | None = None
    join: Added | Gated = Added()
    bigram: type[BigramHash] | type[BigramMix] = BigramHash
    values: ValueEmbed = ValueEmbed()
    layer_values: AddValueEmbed = AddValueEmbed()


_STACK = _BANKS | _CORE | _MLP | _SMEAR | _BIGRAM | _VALUES | _OFF_IN_549
SYSTEMS: dict[str, System] = {
    "baseline": System(_CORE | _MLP, act=relu2, norm_scale=1.0, partial_rope=False, xsa=False),
    "pr549": System(_STACK, ntk_from=1024),
    "pr910": System(_STACK, ntk_from=1024),
    "pr1009": System(_CORE | _MLP | _SMEAR | _BIGRAM | _TRIGRAM | _VALUES),
    "pr543": System(
        _CORE | _MLP | _ONLY_543,
        act=relu2,
        values=ValueEmbed(scale=None, project=True),
        layer_values=AddValueEmbed(0.1),
    ),
    "pr295": System(
        _CORE | _MLP | _SMEAR | _BIGRAM | {"backout_lambda": "graph.backout.{layers}.weight"},
        act=relu2,
        norm_scale=1.0,
        partial_rope=False,
        xsa=False,
        ntk_from="training",
    ),
    "pr861": System(_CORE | _VALUES | _ONLY_861, act=Affine(leaky_relu2), join=Gated(), bigram=BigramMix),
}


@dataclass(frozen=True)
class Origin:
    """The place of one of our tensors in a published state dict: the name, and the slice if it is a stack."""

    name: str
    index: int | None = None

    def read(self, state_dict: Mapping[str, Tensor]) -> Tensor:
        """The tensor, as published."""
        return state_dict[self.name] if self.index is None else state_dict[self.name][self.index]


def load(
    system: str,
    state_dict: Mapping[str, Tensor],
    *,
    heads: int,
    kv_heads: int,
    rope_dims: int = 0,
    xsa: int = 0,
    ve_layers: Sequence[int] = (),
    softcap: float | None = 30.0,
    tied: bool = True,
    train_seq_len: int = 2048,
    **unused: object,
) -> Transformer:
    """Build the system's model around a state dict under its script's own names; float32, on the CPU.

    `rope_dims`: rotated channels per head, 0 for all. `xsa`: how many last layers have it. `ve_layers`: the layers
    that add the value embedding, in the order of their scales. Knobs that the system's script does not have are
    accepted and ignored. Raises `UserError` on an unknown system and on missing, unexpected or ill-shaped tensors.
    """
    origins = find_origins(system, state_dict, ve_layers=ve_layers)
    shapes = {ours: tuple(origin.read(state_dict).shape) for ours, origin in origins.items()}
    knobs = SYSTEMS[system]
    ntk_from = train_seq_len if isinstance(knobs.ntk_from, str) else knobs.ntk_from
    rope = Rope((rope_dims if knobs.partial_rope else 0) or None, ntk_from=ntk_from)
    layers, dim = count_layers(shapes), _size(system, shapes, "embed.tokens.weight", 1)
    if heads < 1 or kv_heads < 1 or dim % heads or heads % kv_heads or dim // heads % 2:
        raise UserError(f"{heads} heads over {kv_heads} do not divide a width of {dim}. Pass heads= and kv_heads=.")
    if rope.dims is not None and (rope.dims % 2 or not 0 < rope.dims <= dim // heads):
        raise UserError(f"rope_dims={rope_dims} takes an even number up to {dim // heads}, or 0 for all.")
    spec = Model(
        vocab=_size(system, shapes, "embed.tokens.weight", 0),
        dim=dim,
        blocks=tuple(
            Block(
                Attention(
                    heads,
                    kv_heads,
                    rope,
                    values=_layer_values(knobs, shapes, late=layer in ve_layers),
                    outputs=_outputs(shapes, layer, xsa=knobs.xsa and layer >= layers - xsa),
                ),
                MLP(_size(system, shapes, f"blocks.{layer}.mlp.up.weight", 0), knobs.act),
                knobs.norm_scale,
                DynamicTokenGate() if _any(shapes, f"blocks.{layer}.gate.") else None,
            )
            for layer in range(layers)
        ),
        init=(("*", Zeros()),),
        embed=_hashes(system, shapes),
        stream=(SmearGate(),) if "stream.smear.gate" in knobs.names.values() else (),
        shared=_shared_values(system, shapes),
        graph=_graph(knobs),
        head=Head(tied, softcap, _ahead(shapes)),
    )
    return _filled(Transformer(spec), system, state_dict, origins)


def rename(system: str, state_dict: Mapping[str, Tensor], *, ve_layers: Sequence[int] = ()) -> dict[str, Tensor]:
    """The state dict under our names, with stacks split, in the published shapes. Raises as `find_origins` does."""
    origins = find_origins(system, state_dict, ve_layers=ve_layers)
    return {ours: origin.read(state_dict) for ours, origin in origins.items()}


def find_origins(system: str, state_dict: Mapping[str, Tensor], *, ve_layers: Sequence[int] = ()) -> dict[str, Origin]:
    """Find the place of each of our tensors in the state dict.

    Tensors that the script itself never reads (543's scales of other layers, 549's `vr_lambda` of layer 0) are left
    out. Raises `UserError` on an unknown system and on tensors that do not belong to it.
    """
    if system not in SYSTEMS:
        raise UserError(f"No published system is called '{system}'.{near(system, list(SYSTEMS))}")
    names, layers, origins = SYSTEMS[system].names, count_layers(state_dict), {}
    strange = [name for name in state_dict if _number_out(name)[0] not in names]
    if strange:
        raise UserError(f"{system} has no tensor called {_listed(strange)}. Is it another system's file?")
    for name, tensor in state_dict.items():
        pattern, i = _number_out(name)
        ours = names[pattern]
        if isinstance(ours, tuple):
            each = tensor.shape[0] // len(ours) if tensor.dim() else 0
            if not tensor.dim() or tensor.shape[0] != each * len(ours):
                raise UserError(f"{name} of {system} is a stack of {len(ours)} per layer, not {_shape(tensor)}.")
            for index in range(tensor.shape[0]):
                filled = ours[index // each].format(i=index % each, target=layers // 2 + index)
                origins[filled] = Origin(name, index)
        elif not _idle(pattern, i, ve_layers):
            if "{late}" in ours and i >= len(ve_layers):
                raise UserError(f"{name} is the scale of value-embedding layer number {i}. Name it in ve_layers=.")
            late = ve_layers[i] if "{late}" in ours else -1
            origins[ours.format(i=i, late=late, layers=layers)] = Origin(name)
    return origins


def _idle(pattern: str, i: int, ve_layers: Sequence[int]) -> bool:
    """Whether the script makes this tensor and never reads it."""
    return (pattern == "ve_scales.{i}" and i not in ve_layers) or (pattern.endswith("vr_lambda") and i == 0)


def _number_out(name: str) -> tuple[str, int]:
    """`blocks.3.attn_scale` as (`blocks.{i}.attn_scale`, 3); no name has two numbers."""
    number = re.search(r"\.(\d{1,4})(?=\.|$)", name)
    if number is None:
        return name, -1
    return f"{name[: number.start()]}.{{i}}{name[number.end() :]}", int(number[1])


def count_layers(names: Mapping[str, object]) -> int:
    """The depth, from the numbers of the blocks. Raises `UserError` if a number is missing."""
    numbers = {i for pattern, i in map(_number_out, names) if pattern.startswith("blocks.{i}.")}
    missing = next(i for i in range(len(numbers) + 1) if i not in numbers)
    if missing < len(numbers):
        raise UserError(f"There is a block {max(numbers)} and no block {missing}. Is the file complete?")
    return len(numbers)


def _size(system: str, shapes: Mapping[str, tuple[int, ...]], ours: str, axis: int) -> int:
    """One size of a matrix that must be there."""
    if ours not in shapes:
        raise UserError(f"The state dict of {system} lacks {_published(system, ours)}.")
    if len(shapes[ours]) != 2:
        raise UserError(f"{_published(system, ours)} of {system} must be a matrix, not {shapes[ours]}.")
    return shapes[ours][axis]


def _any(shapes: Mapping[str, tuple[int, ...]], start: str) -> bool:
    """Whether any tensor of a technique exists; `_filled` then requires all of them."""
    return any(name.startswith(start) for name in shapes)


def _layer_values(knobs: System, shapes: Mapping[str, tuple[int, ...]], *, late: bool) -> tuple[Slot, ...]:
    """The slots that change the values of a layer."""
    embed = (knobs.layer_values,) if late and _any(shapes, "shared.value_embed.") else ()
    residual = (ValueResidual(),) if any(".value_residual." in name for name in shapes) else ()
    return (*embed, *residual)


def _outputs(shapes: Mapping[str, tuple[int, ...]], layer: int, *, xsa: bool) -> tuple[Slot, ...]:
    gated = _any(shapes, f"blocks.{layer}.attn.outputs.gate.")
    return (*((XSA(),) if xsa else ()), *((GatedAttention(),) if gated else ()))


def _hashes(system: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Slot, ...]:
    slots: list[Slot] = []
    for key, technique in (("bigram", SYSTEMS[system].bigram), ("trigram", TrigramHash)):
        if _any(shapes, f"embed.{key}."):
            table = f"embed.{key}.table.weight"
            slots.append(technique(_size(system, shapes, table, 0), _size(system, shapes, table, 1)))
    return tuple(slots)


def _shared_values(system: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Slot, ...]:
    if not _any(shapes, "shared.value_embed."):
        return ()
    return (replace(SYSTEMS[system].values, dim=_size(system, shapes, "shared.value_embed.table.weight", 1)),)


def _graph(knobs: System) -> tuple[Wire, ...]:
    """The wires of the skips; in every published system they are added before the block mixes in the embedding."""
    backout = (Backout(),) if "backout_lambda" in knobs.names else ()
    return (UNet(knobs.join), X0Mix(), *backout)


def _ahead(shapes: Mapping[str, tuple[int, ...]]) -> MTP | None:
    heads = sum(name.startswith("head.ahead.") for name in shapes)
    return MTP(heads) if heads else None


def _filled(
    model: Transformer, system: str, state_dict: Mapping[str, Tensor], origins: Mapping[str, Origin]
) -> Transformer:
    """Copy every tensor to its place. Raises `UserError` unless they fit one to one."""
    wanted = dict(model.named_parameters())
    missing = list(dict.fromkeys(_published(system, ours) for ours in wanted if ours not in origins))
    if missing:
        raise UserError(f"The state dict of {system} lacks {_listed(missing)}.")
    extra = list(dict.fromkeys(origin.name for ours, origin in origins.items() if ours not in wanted))
    if extra:
        raise UserError(f"The state dict of {system} has {_listed(extra)}, for which these settings have no place.")
    filled = {}
    for ours, origin in origins.items():
        tensor, shape = origin.read(state_dict), wanted[ours].shape
        if [n for n in tensor.shape if n != 1] != [n for n in shape if n != 1]:
            raise UserError(
                f"{origin.name} of {system} is {_shape(tensor)} where {_shape(wanted[ours])} fits heads=, kv_heads= "
                "and the other tensors."
            )
        filled[ours] = tensor.reshape(shape).float()
    model.load_state_dict(filled)
    return model.eval()


def _published(system: str, ours: str) -> str:
    """The script's name of one of our tensors."""
    pattern, i = _number_out(ours)
    for name, templates in SYSTEMS[system].names.items():
        for template in (templates,) if isinstance(templates, str) else templates:
            if re.sub(r"\{\w+\}", "{i}", template) == pattern:
                return name.format(i=i if "{i}" in template else "*")
    return ours


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name[:80] for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
