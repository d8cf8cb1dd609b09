"""Open a tokenizer file; its kind is recognized by its content, not by its name.

SentencePiece      `.model`, also `tokenizer.model.v1` and the like
Hugging Face       `tokenizer.json` of the tokenizers package (`huggingface.py`)
pure bytes         `fineweb_pure_byte_260.json`, the official export
tiktoken           ranks in base64, a token a line (`tiktoken_ranks.py`)
"""

import json
import re
from pathlib import Path

from pargolf.core.errors import UserError
from pargolf.core.files import reading
from pargolf.data.huggingface import hugging_face_tokenizer
from pargolf.data.tiktoken_ranks import is_tiktoken, tokenizer_json
from pargolf.data.tokens import MODEL_LIMIT, ByteExport, LearnedTokenizer, load_tokenizer

_PATTERNS = ("*.model", "*.model.v[0-9]*", "*_byte_*.json")


def open_tokenizer(path: str | Path) -> LearnedTokenizer:
    """Read a tokenizer of any of these kinds. Raises `UserError` that says why where it cannot be counted in bytes."""
    path = Path(path)
    with reading(path):
        if not path.is_file() or path.stat().st_size > MODEL_LIMIT:
            return load_tokenizer(path)
        data = path.read_bytes()
        if data[:1] == b"{":
            return _of_json(data)
        if is_tiktoken(data):
            return hugging_face_tokenizer(tokenizer_json(data))
        return load_tokenizer(path)


def _of_json(data: bytes) -> LearnedTokenizer:
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"This tokenizer file is no JSON ({error}). Is it whole?") from error
    if facts.get("tokenizer_type") == "pure_byte":
        return ByteExport(data, facts)
    if isinstance(facts.get("vocab"), list) and "config" in facts and "model" not in facts:
        count = len(facts["vocab"])
        raise UserError(
            f"This is a Tekken file of {count:,} tokens, and it is not read. Use a .model file or tokenizer.json."
        )
    return hugging_face_tokenizer(data)


def find_tokenizer(folder: Path) -> Path:
    """Find the one tokenizer of a folder of shards. Raises `UserError` for none, or several."""
    folder = folder.resolve()
    places = [folder, folder.parent, folder.parent / "tokenizers", folder.parent.parent / "tokenizers"]
    for place in places:
        models = sorted(path for pattern in _PATTERNS for path in place.glob(pattern))
        size = re.search(r"(?:sp|byte)(\d+)", folder.name)
        if len(models) > 1 and size:
            models = [model for model in models if re.search(rf"(?<!\d){size[1]}(?!\d)", model.name)] or models
        if len(models) == 1:
            return models[0]
        if not models and (place / "tokenizer.json").is_file():
            return place / "tokenizer.json"
        if models:
            raise UserError(f"{place} holds {len(models)} tokenizers; put the one of these shards into {folder}.")
    raise UserError(f"No tokenizer was found for {folder}; put its .model file or tokenizer.json into that folder.")
