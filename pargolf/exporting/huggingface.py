"""A folder that `AutoModelForCausalLM` and `AutoTokenizer` of Hugging Face transformers load with trust_remote_code.

    config.json  generation_config.json  model.safetensors  modeling_pargolf.py  README.md (the model card)
    tokenizer_config.json  tokenizer.model  tokenization_pargolf.py        or, of a byte-level BPE, tokenizer.json

The weights are the artifact's, dequantized to float32, so the logits are those that were scored. The folder is created
completely or not at all. The Python files come from `ship/modeling.py`, through the caller.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save as dump_tensors
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.core.files import write_bytes, write_json, write_text
from pargolf.data.huggingface import HuggingFaceTokenizer
from pargolf.data.tokens import ByteExport, SentencePieceTokenizer, Tokenizer
from pargolf.exporting.source import Source

MODELING, TOKENIZATION = "modeling_pargolf", "tokenization_pargolf"


@contextmanager
def new_folder(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder, which is renamed to `out` when the block ends without an error.

    Raises `UserError` if `out` exists, unless `force` is set.
    """
    if out.exists() and not (force and out.is_dir()):
        raise UserError(f"{out} exists. Choose another --out" + ("." if out.is_file() else ", or add --force."))
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_folder(
    source: Source, out: str | Path, *, modeling: str, tokenization: str, card: str, force: bool = False
) -> Path:
    """Write the folder `out`; `modeling` and `tokenization` are Python source, `card` is Markdown.

    Raises `UserError` if the folder exists, unless `force` is set.
    """
    out = Path(out)
    with new_folder(out, force=force) as part:
        write_json(part / "config.json", _config(source))
        bos = source.tokenizer.bos
        write_json(part / "generation_config.json", {"bos_token_id": bos, "eos_token_id": bos, "pad_token_id": bos})
        weights = {f"model.{name}": value for name, value in weights_of(source).items()}
        write_bytes(part / "model.safetensors", dump_tensors(weights, metadata={"format": "pt"}))
        write_text(part / f"{MODELING}.py", modeling)
        write_text(part / "README.md", card)
        _write_tokenizer(source.tokenizer, source.length, part, tokenization)
    return out


def weights_of(source: Source) -> dict[str, Tensor]:
    """The dequantized weights by name, float32, on the CPU, without the heads that are only for training."""
    named = source.model.named_parameters()
    return {
        name: p.detach().float().cpu().contiguous().clone() for name, p in named if not name.startswith("head.ahead.")
    }


def _config(source: Source) -> dict[str, Any]:
    spec, bos = source.model.spec, source.tokenizer.bos
    attention = spec.blocks[0].attn
    return {
        "architectures": ["PargolfForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{MODELING}.PargolfConfig",
            "AutoModelForCausalLM": f"{MODELING}.PargolfForCausalLM",
        },
        "model_type": "pargolf",
        "vocab_size": spec.vocab,
        "hidden_size": spec.dim,
        "intermediate_size": spec.blocks[0].mlp.hidden,
        "num_hidden_layers": len(spec.blocks),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "max_position_embeddings": source.length,
        "tie_word_embeddings": False,  # the table is stored once, even if it is used twice
        "bos_token_id": bos,
        "eos_token_id": bos,
        "pad_token_id": bos,
        "dtype": "float32",
        "recipe": source.recipe,
        "recipe_digest": source.digest,
    }


def _write_tokenizer(tokenizer: Tokenizer, length: int, folder: Path, tokenization: str) -> None:
    """Write the tokenizer's files: its `tokenizer.json` if it has one, else its model file and the code for it."""
    facts: dict[str, Any] = {
        "model_max_length": length,
        "padding_side": "left",
        "split_special_tokens": True,  # the name of a special token in a text is ordinary text
        "clean_up_tokenization_spaces": False,
    }
    if isinstance(tokenizer, HuggingFaceTokenizer):
        opening = tokenizer.opening
        names = dict.fromkeys(("bos_token", "eos_token", "pad_token"), opening)
        write_text(folder / "tokenizer.json", json.dumps(_opened(json.loads(tokenizer.proto), opening, tokenizer.bos)))
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **facts, **names})
        return
    if isinstance(tokenizer, ByteExport):
        raise UserError("The official export of pure bytes has no form in transformers here. Use --vocab 257.")
    classes = {"tokenizer_class": "PargolfTokenizer"}
    auto = {"auto_map": {"AutoTokenizer": [f"{TOKENIZATION}.PargolfTokenizer", None]}}
    write_json(folder / "tokenizer_config.json", {**classes, **auto, **facts})
    write_text(folder / f"{TOKENIZATION}.py", tokenization)
    if isinstance(tokenizer, SentencePieceTokenizer):
        write_bytes(folder / "tokenizer.model", tokenizer.proto)


def _opened(facts: Mapping[str, Any], opening: str, bos: int) -> dict[str, Any]:
    """The content of a `tokenizer.json`, changed so that BOS is put before each text."""
    special = {"SpecialToken": {"id": opening, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    template = {
        "type": "TemplateProcessing",
        "single": [special, first],
        "pair": [special, first, special, second],
        "special_tokens": {opening: {"id": opening, "ids": [bos], "tokens": [opening]}},
    }
    return {**facts, "post_processor": template}
