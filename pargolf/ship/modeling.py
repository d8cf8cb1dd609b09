"""A model as one readable file for Hugging Face transformers, made by the tree-shaking that makes a submission.

    modeling_pargolf.py       exporting/modeling.py and the parts of the model that it uses, with their docstrings
    tokenization_pargolf.py   exporting/tokenization.py and the tokenizer under it

Neither file imports this package. What only training needs is left out: C kernels, initial values, extra heads.
"""

from dataclasses import replace

from pargolf.core import own, spec
from pargolf.core.errors import UserError
from pargolf.model.slots import Builds
from pargolf.model.transformer import Model
from pargolf.ship.cache import ROOT
from pargolf.ship.program import addresses, expression, readable
from pargolf.ship.shrink.flatten import flatten
from pargolf.ship.shrink.modules import Unfit

_MODELING = "pargolf.exporting.modeling"
_TOKENIZATION = "pargolf.exporting.tokenization:PargolfTokenizer"
_PLAIN = "pargolf.exporting.plain"
_INSTEAD = {
    "pargolf.kernels.compiled:at_hand": f"{_PLAIN}:no_kernels",
    "pargolf.kernels.attention:document_mask": f"{_PLAIN}:plain_document_mask",
    "pargolf.kernels.attention:attention": f"{_PLAIN}:plain_attention",
    "pargolf.kernels.rms_norm:norm_and_turn": f"{_PLAIN}:plain_norm_and_turn",
    "pargolf.kernels.rms_norm:rms_norm": "pargolf.kernels.rms_norm:reference",
    "pargolf.kernels.product:product": "pargolf.kernels.product:reference",
    "pargolf.kernels.relu2_mlp:squared_leaky_relu": "pargolf.kernels.relu2_mlp:reference",
}
_WITHOUT = (
    *("Model.build", "Model.check_fields", "Transformer.loss", "HeadModule.loss", "HeadModule._cross_entropy"),
    *("AsymmetricCapModule.loss", "Graph.recur"),
)
_HEAD = '''"""{title}

Written by pargolf from the model of the recipe {name!r}. {note}
"""

from __future__ import annotations

'''


def to_run(model: Model) -> Model:
    """The model without what only training needs: initial values and multi-token heads."""
    return replace(model, init=(), head=replace(model.head, mtp=None))


def modeling_file(model: Model, name: str) -> str:
    """The text of `modeling_pargolf.py`. Raises `UserError` when a user's technique cannot be put into one file."""
    plain = to_run(model)
    parts = sorted(addresses(spec.dump(plain)))
    whole = [f"{_MODELING}:PargolfConfig", f"{_MODELING}:PargolfForCausalLM"]
    roots, user_files = [*whole, *map(spec.home, parts)], own.texts(parts)
    if isinstance(plain.head.softcap, Builds):
        roots.append("pargolf.model.slots:Builds")  # the head uses it, but no class has it as a base
    try:
        flat = flatten(ROOT, roots, instead=_INSTEAD, without=_WITHOUT, user_files=user_files, whole=whole)
    except Unfit as error:
        raise UserError(str(error)) from None
    written = expression(plain, lambda part: flat.name(spec.home(part)))
    head = _HEAD.format(
        title="A byte-budget language model for Hugging Face transformers.",
        name=name,
        note="It needs torch and transformers.\n`MODEL`, at the end, is the whole structure as data.",
    )
    return f"{head}{readable(flat, ('MODEL',))}\nMODEL = {written}\n"


def tokenization_file(name: str) -> str:
    """The text of `tokenization_pargolf.py`."""
    flat = flatten(ROOT, [_TOKENIZATION], whole=[_TOKENIZATION])
    head = _HEAD.format(
        title="The tokenizer of a byte-budget language model for Hugging Face transformers.",
        name=name,
        note="It needs sentencepiece.",
    )
    return head + readable(flat, ())
