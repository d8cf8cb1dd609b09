"""Make a run folder of a published checkpoint, so that it can be inspected, scored, generated from and packed again.

    state dict -> heads and hidden units from the shapes -> the system's recipe, fitted -> weights + artifact

Facts that the tensors do not show (rotated channels, layers with XSA and with value embeddings) come from the caller,
or else from the system's recipe, counted from the last layer. Table rows for single layers are moved to the layers at
the same share of the depth, and rows for parts that the checkpoint does not have are left out. The artifact is packed
on the system's own grids, without regard to the cap: `pargolf pack RUN` packs under it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from pargolf.core.errors import UserError, near
from pargolf.core.files import write_bytes
from pargolf.core.roles import Table, layer_part, matches
from pargolf.data.folder import DataFolder
from pargolf.model.transformer import shapes
from pargolf.model.value_embed import AddValueEmbed
from pargolf.model.xsa import XSA
from pargolf.quant.plan import QAT, Quantize
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder
from pargolf.run.pack import pack
from pargolf.run.score import tokenizer_digest, tokenizer_file
from pargolf.ship.size import count_code
from pargolf.training.loop import Train
from pargolf.training.phases import Phase
from pargolf.upstream.checkpoints import read_checkpoint
from pargolf.upstream.frontier import FRONTIER, frontier_model
from pargolf.upstream.state_dicts import SYSTEMS, count_layers, load

T = TypeVar("T")


@dataclass(frozen=True)
class Unseen:
    """Facts that a checkpoint's tensors do not show, with the names of `upstream.load`; None: unknown."""

    heads: int | None = None
    kv_heads: int | None = None
    rope_dims: int | None = None
    xsa: int | None = None
    ve_layers: tuple[int, ...] | None = None
    softcap: float | None = None
    tied: bool | None = None
    train_seq_len: int | None = None

    def known(self) -> dict[str, Any]:
        """The known values, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}


@dataclass(frozen=True)
class Imported:
    """The result: parameters, layers, and bytes of the artifact on the system's own grids."""

    recipe: Recipe
    parameters: int
    model_bytes: int
    code_bytes: int


def import_checkpoint(
    path: str | Path,
    recipe: Recipe,
    out: str | Path,
    *,
    system: str,
    data: DataFolder | None = None,
    force: bool = False,
    unseen: Unseen | None = None,
) -> Imported:
    """Read the file, fit `recipe` (the system's own) to it, and write the run folder `out`.

    With `data`, its tokenizer is copied and named in the artifact, which is needed for scoring. Raises `UserError` on a
    file that is not this system's, on data with another vocabulary, and on a folder that holds a run.
    """
    if system not in SYSTEMS and system not in FRONTIER:
        raise UserError(f"No published system is called '{system}'.{near(system, [*SYSTEMS, *FRONTIER])}")
    state = read_checkpoint(path)
    fitted, weights = fit_recipe(recipe, state, system=system, unseen=unseen)
    if data is not None and data.vocab != fitted.model.vocab:
        raise UserError(f"{path} has {fitted.model.vocab} tokens and {data.path} {data.vocab}. Name its own data.")
    digest = "unknown" if data is None else tokenizer_digest(data)
    artifact = pack(fitted, weights, tokenizer=digest)
    folder = RunFolder.create(out, force=force)
    folder.write_recipe(fitted)
    folder.write_weights(weights)
    if data is not None:
        folder.keep_tokenizer(tokenizer_file(data))
    write_bytes(folder["model.pargolf"], artifact)
    count = sum(w.numel() for w in weights.values())
    return Imported(fitted, count, len(artifact), count_code(fitted))


def fit_recipe(
    recipe: Recipe, state: Mapping[str, Tensor], *, system: str, unseen: Unseen | None = None
) -> tuple[Recipe, dict[str, Tensor]]:
    """The system's recipe at the sizes of a state dict, and the weights under our names in float32.

    Values of `unseen` override the recipe's.
    """
    if (own := _own_weights(recipe, state)) is not None:
        return recipe, own
    unseen = unseen or Unseen()
    if system in FRONTIER:
        spec, weights = frontier_model(recipe.model, state, rope_dims=unseen.rope_dims)
    else:
        model = load(system, state, **{**_unseen(recipe, state), **unseen.known()})
        spec, weights = model.spec, {name: p.detach() for name, p in model.named_parameters()}
    fit = _Fit(len(recipe.model.blocks), len(spec.blocks), tuple(weights))
    spec = replace(spec, init=fit.rows(recipe.model.init))
    fitted = replace(recipe, model=spec, quant=_quant(recipe.quant, fit), train=_train(recipe.train, fit))
    return fitted, weights


def _own_weights(recipe: Recipe, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The weights if they have our own names, else None. Raises `UserError` for other sizes."""
    wanted = shapes(recipe.model)
    if "embed.tokens.weight" not in state:
        return None
    if state.keys() != wanted.keys() or any(state[name].shape != shape for name, shape in wanted.items()):
        raise UserError("These weights were saved by pargolf, but they do not have the sizes of this recipe.")
    return {name: tensor.float() for name, tensor in state.items()}


def _unseen(recipe: Recipe, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `load`: heads from shapes, the rest from the recipe, counted from the last layer."""
    gain, keys = state.get("blocks.0.attn.q_gain"), state.get("blocks.0.attn.c_k.weight")
    table = state.get("tok_emb.weight")
    if gain is None or table is None or table.dim() != 2:
        raise UserError(
            "The file lacks a table tok_emb.weight or blocks.0.attn.q_gain: it is no model of these systems."
        )
    bank = state.get("kv_bank")
    if keys is None and bank is None:
        raise UserError("The file has neither blocks.0.attn.c_k.weight nor kv_bank: it is no model of these systems.")
    sizes = keys.shape if keys is not None else bank.shape[1:] if bank is not None else ()
    if len(sizes) != 2:
        raise UserError(
            "blocks.0.attn.c_k.weight, or a slice of kv_bank, is no matrix: it is no model of these systems."
        )
    rows, heads, dim = sizes[0], gain.numel(), table.shape[1]
    head_dim = max(dim // max(heads, 1), 1)
    blocks = recipe.model.blocks
    layers = count_layers(state)
    valued = _last([any(isinstance(v, AddValueEmbed) for v in b.attn.values) for b in blocks], layers)
    share = blocks[-1].attn.rope.dims
    has_values = any(name.startswith(("ve_shared.", "ve.")) for name in state)
    return {
        "heads": heads,
        "kv_heads": max(rows // head_dim, 1),
        "rope_dims": 0 if share is None else min(share, head_dim),
        "xsa": len(_last([any(isinstance(o, XSA) for o in b.attn.outputs) for b in blocks], layers)),
        "ve_layers": valued if has_values else (),
        "softcap": recipe.model.head.softcap,
        "tied": "lm_head.weight" not in state,
        "train_seq_len": recipe.train.seq_len,
    }


def _last(has: Sequence[bool], layers: int) -> tuple[int, ...]:
    """The layers of a model with `layers` layers that are as far from the last one as those set in `has`."""
    return tuple(layer for layer in (i - len(has) + layers for i, there in enumerate(has) if there) if layer >= 0)


@dataclass(frozen=True)
class _Fit:
    """From a recipe of `old` layers to a model of `new` with these parameter `names`."""

    old: int
    new: int
    names: tuple[str, ...]

    def globs(self, glob: str) -> Iterable[str]:
        """The new globs for a glob: one for each layer if it names a single layer; none if nothing matches."""
        part = layer_part(glob)
        if part is None or self.old == self.new:
            moved = [glob]
        else:
            index = glob.split(".").index(part)
            there = [i for i in range(self.new) if fnmatchcase(str(self._origin(i)), part)]
            before, after = glob.split(".")[:index], glob.split(".")[index + 1 :]
            moved = [".".join([*before, str(i), *after]) for i in there]
        return [g for g in moved if any(matches(name, g) for name in self.names)]

    def _origin(self, layer: int) -> int:
        """The recipe's layer at the same share of the depth."""
        return round(layer * (self.old - 1) / max(self.new - 1, 1))

    def rows(self, table: Table[T]) -> tuple[tuple[str, T], ...]:
        """The table's rows for the new model, each of which matches something."""
        return tuple((moved, value) for glob, value in table for moved in self.globs(glob))


def _quant(quant: Quantize, fit: _Fit) -> Quantize:
    pruned = quant.pruned
    if pruned is not None:
        pruned = replace(pruned, roles=tuple(moved for glob in pruned.roles for moved in fit.globs(glob)))
    return replace(quant, table=fit.rows(quant.table), pruned=pruned)


def _train(train: Train, fit: _Fit) -> Train:
    """Fit the tables of the optimizer and of QAT, so that the recipe can also be trained."""
    phases = tuple(_phase(phase, fit) for phase in train.phases)
    return replace(train, optimizer=fit.rows(train.optimizer), phases=phases)


def _phase(phase: Phase, fit: _Fit) -> Phase:
    table = getattr(phase.weights, "table", None)
    return phase if table is None else replace(phase, weights=QAT(fit.rows(table)))
