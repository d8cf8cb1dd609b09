"""Recognize files that are not text although their name says so, by their first bytes, and refuse them.

The bytes of a PDF or of UTF-16 text are often valid UTF-8, so such a file would be prepared without an error.
"""

from pargolf.core.errors import UserError
from pargolf.data.read.packed import packing_of

HEAD = 4096
"""How many bytes at the start are examined."""
_KINDS = {
    b"%PDF-": "a PDF. Take the text out of it, for instance with pdftotext",
    b"PK\x03\x04": "a ZIP archive or an office document. Unpack it, or export its text",
    b"{\\rtf": "RTF. Export its text",
    b"PAR1": "Parquet. Give its name the suffix .parquet",
    b"ARROW1": "Arrow (Feather). Write it as Parquet",
    b"SQLite format 3\0": "a database of SQLite. Export its texts as .jsonl or .csv",
    b"\x89PNG": "a picture. Name files of text",
    b"\xff\xd8\xff": "a picture. Name files of text",
    b"\xff\xfe": "UTF-16. Convert it: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16. Convert it: iconv -f UTF-16 -t UTF-8",
}
_MOST_NULS = 0.1


def refuse_foreign(head: bytes, where: str) -> None:
    """Raise `UserError`, which names the kind of file, if the first bytes are not those of text."""
    for magic, kind in _KINDS.items():
        if head.startswith(magic):
            raise UserError(f"{where} is not plain text but {kind}.")
    packing = packing_of(head)
    if packing:
        raise UserError(f"{where} is not plain text but packed: give its name the suffix {packing}.")
    nuls = head.count(0)
    if nuls > _MOST_NULS * len(head):
        raise UserError(
            f"{where} is not plain text: {nuls} of its first {len(head)} bytes are NUL. If it is UTF-16, convert it: "
            "iconv -f UTF-16LE -t UTF-8."
        )
