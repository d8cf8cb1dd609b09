"""Open tokenizer files of any kind; the kind is recognized by the content, not by the file name.

SentencePiece      `.model`, also `tokenizer.model.v1` and the like
Hugging Face       `tokenizer.json` of the tokenizers package (`huggingface.py`)
pure bytes         `fineweb_pure_byte_260.json`, the official export
tiktoken           one token per line, base64 and rank (`tiktoken_ranks.py`)
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
    """Read a tokenizer of any kind. Raises `UserError` that says why it cannot be used."""
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
        raise UserError(f"This tokenizer file is not valid JSON ({error}). Is it complete?") from error
    if facts.get("tokenizer_type") == "pure_byte":
        return ByteExport(data, facts)
    if isinstance(facts.get("vocab"), list) and "config" in facts and "model" not in facts:
        count = len(facts["vocab"])
        raise UserError(
            f"This is a Tekken file of {count:,} tokens, which is not supported. Use a .model file or tokenizer.json."
        )
    return hugging_face_tokenizer(data)


def find_tokenizer(folder: Path) -> Path:
    """Find the tokenizer of a folder of shards. Raises `UserError` when there is none, or more than one."""
    folder = folder.resolve()
    folders = [folder, folder.parent, folder.parent / "tokenizers", folder.parent.parent / "tokenizers"]
    for near in folders:
        models = sorted(path for pattern in _PATTERNS for path in near.glob(pattern))
        size = re.search(r"(?:sp|byte)(\d+)", folder.name)
        if len(models) > 1 and size:
            models = [model for model in models if re.search(rf"(?<!\d){size[1]}(?!\d)", model.name)] or models
        if len(models) == 1:
            return models[0]
        if not models and (near / "tokenizer.json").is_file():
            return near / "tokenizer.json"
        if models:
            raise UserError(f"{near} holds {len(models)} tokenizers; put the one of these shards into {folder}.")
    raise UserError(f"No tokenizer was found for {folder}; put its .model file or tokenizer.json into that folder.")
