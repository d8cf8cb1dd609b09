"""Convert tiktoken files (one token per line: its bytes in base64, and its rank) to a byte-level `tokenizer.json`.

The rank of a token is its id and also the order in which it was learned. So the two parts it was merged from are found
by encoding its bytes with the tokens of lower rank. The file does not say how text is split into words, nor what opens
a document: words are split as in GPT-2 (the rule of r50k and p50k), and `<|endoftext|>` gets the first free id.
"""

import base64
import binascii
import json
from itertools import pairwise

from pargolf.core.errors import UserError
from pargolf.data.huggingface import BYTE_CHARACTERS

_OPENS = "<|endoftext|>"


def is_tiktoken(data: bytes) -> bool:
    """Whether a file's first line is base64 and a number."""
    words = data[:4096].split(b"\n", 1)[0].split()
    return len(words) == 2 and words[1].isdigit() and _decoded(words[0]) is not None


def tokenizer_json(data: bytes) -> bytes:
    """The file as a `tokenizer.json`. Raises `UserError` when it is not a list of ranks, or has too many tokens."""
    ranks = _ranks(data)
    shown = {token: "".join(BYTE_CHARACTERS[byte] for byte in token) for token in ranks}
    learned = [token for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1]
    merges = [[shown[part] for part in _parts(token, ranks)] for token in learned]
    taken = set(ranks.values())
    opens = next(i for i in range(len(ranks) + 1) if i not in taken)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    facts = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": opens, "content": _OPENS, **flags}],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {shown[token]: rank for token, rank in ranks.items()} | {_OPENS: opens},
            "merges": merges,
        },
    }
    return json.dumps(facts, ensure_ascii=False).encode()


def _ranks(data: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        token = _decoded(words[0]) if len(words) == 2 and words[1].isdigit() else None
        if not token or token in ranks:
            raise UserError(f"Line {number} of the tiktoken file is not a token in base64 and its rank. Is it whole?")
        ranks[token] = int(words[1])
    if len(ranks) >= 1 << 16:
        raise UserError(f"These are {len(ranks):,} tiktoken tokens, and shards hold 16 bits: 65,536 at most.")
    missing = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
    if missing is not None or len(set(ranks.values())) < len(ranks) or max(ranks.values()) >= 1 << 17:
        raise UserError(f"The tiktoken file lacks the byte {missing}, or ranks stand twice. Is it whole?")
    return ranks


def _parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens that were merged into this one."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        joined = [ranks.get(a + b, 1 << 30) for a, b in pairwise(parts)]
        first = min(range(len(joined)), key=joined.__getitem__)
        if joined[first] >= ranks[token]:
            raise UserError(f"The tiktoken token {token!r} is not made of two that come before it: this is no BPE.")
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts


def _decoded(word: bytes) -> bytes | None:
    try:
        return base64.b64decode(word, validate=True)
    except binascii.Error:
        return None
