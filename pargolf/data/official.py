"""The published validation splits: the tokens and bytes of each, and why two byte totals are in use.

All tokenizers of the published export encode the same 50,000 documents, 151,080,633 bytes when decoded. A published
script scores whole windows of 1,024 or 2,048 tokens and drops the rest at the end, so each tokenizer scores a slightly
smaller part of the text:

    sp1024            62,021,846 tokens, of which 62,021,632 are scored: 151,080,363 bytes, 270 less than the whole
    sp8192, CaseOps   scores 47,851,520 tokens: 151,074,309 bytes by its sidecar, 6,324 less than the whole

Both totals are right, each for its tokenizer. Neither is the size of the text, and other splits need not match them.
The first is the sum of the byte table (the logs of pull requests 295, 543, 549 and 861, loss / bpb = 1.6884581), the
second is the sum of the raw-text sidecar (pull request 1729; the ruling on 2138). A split that ends elsewhere, or is
scored to its last token as we do, has its own total. In the first days sp1024 was another export, with 63,779,840
scored tokens at 1.6928760 (155,769,746 bytes).

`shards_sha256` and `tokenizer_sha256` identify a split by its content (`Rests.PUBLISHED`). No hash of a published file
was available when this was written, so these fields are empty, and official shards are proved by a round trip like all
others. To fill them, take the hashes from two independent downloads.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

TEXT_BYTES = 151_080_633
"""Bytes of the 50,000 validation documents as sp1024 decodes them, to the last token."""
_WINDOW = 2048


@dataclass(frozen=True)
class Official:
    """One published validation split.

    scored, bytes: tokens in whole windows, and their bytes if known
    tokens: length of the shards if published, including the BOS of the first document
    """

    name: str
    vocab: int
    scored: int
    bytes: int | None = None
    tokens: int | None = None
    shards_sha256: tuple[str, ...] = ()
    tokenizer_sha256: str = ""

    def has_length(self, tokens: int) -> bool:
        """Whether shards of `tokens` tokens can be this split: the scored tokens plus at most one window."""
        return tokens == self.tokens if self.tokens is not None else 0 < tokens - self.scored <= _WINDOW


SP1024 = Official("sp1024", 1024, 62_021_632, 151_080_363, 62_021_846)
CASEOPS = Official("sp8192, CaseOps", 8192, 47_851_520, 151_074_309)
SPLITS = (
    SP1024,
    Official("sp1024 of the first days", 1024, 63_779_840, 155_769_746),
    Official("sp4096", 4096, 45_508_608),
    Official("sp8192", 8192, 40_540_160),
    CASEOPS,
)


def known_split(shards: Mapping[str, str], tokenizer: str) -> Official | None:
    """The published split with these shards (SHA-256 by name) and this tokenizer; None when there is none."""
    hashes = tuple(shards[name] for name in sorted(shards))
    for split in SPLITS:
        if split.shards_sha256 and (split.shards_sha256, split.tokenizer_sha256) == (hashes, tokenizer):
            return split
    return None


def doubt_of_length(folder: str, vocab: int, tokens: int) -> str:
    """Why a folder with a published name cannot be that split, by its length; empty when it can be."""
    splits = [split for split in SPLITS if split.vocab == vocab]
    claims = re.fullmatch(rf"fineweb10B_sp{vocab}(\D.*)?", folder)
    if not claims or not splits or any(split.has_length(tokens) for split in splits):
        return ""
    lengths = " or ".join(f"{split.scored:,}" for split in splits)
    return (
        f"{folder} is the name of a published split, which scores {lengths} tokens, and this one has {tokens:,}: "
        "its score does not compare with published ones"
    )
