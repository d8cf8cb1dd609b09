"""The corpus that ships with the package: U.S. State of the Union addresses, 1790 to 2021.

233 documents, 10,761,158 bytes of UTF-8, U.S. public domain (the collection: PDDL-1.0 / CC0), packed by xz into
2,482,348 bytes of JSON lines. 26 documents of 1,025,229 bytes are validation (`documents.validates`), 207 training.
The packed file's SHA-256 is checked on every read, so scores on this corpus are comparable across machines.
"""

import hashlib
import json
import lzma
from pathlib import Path

from pargolf.core.errors import UserError
from pargolf.data.documents import Document

PACKED_SHA256 = "82dcec29a26daaceb699daac697be5a05cd72ba14ead176818c505127dfa8fbc"


def embedded() -> list[Document]:
    """Read the corpus, in order of time. Raises `UserError` if the packed file is missing or damaged."""
    path = Path(__file__).with_name("sotu.jsonl.xz")
    packed = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(packed).hexdigest() != PACKED_SHA256:
        raise UserError(f"The embedded corpus {path} is missing or damaged; install pargolf again.")
    return [Document(**json.loads(line)) for line in lzma.decompress(packed).splitlines()]
