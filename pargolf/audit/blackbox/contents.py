"""Whether a file contains the validation text, under any name: sketches of contents, compared outside.

A sketch is the smallest hashes of all runs of sixteen tokens in a file. If the file contains the text, then every hash
of the text that is no larger than the sketch's largest must be in the sketch, wherever the text is in the file. So
eighty numbers detect a copy, a link and a joined file alike, and no content crosses the pipe.
"""

import numpy as np
import numpy.typing as npt

SKETCH, RUN = 80, 16
MOST_BYTES = 8_000_000
_LEAST, _MOST_MISSING = 3, 0.2
_FACTOR, _MIX = np.uint64(6364136223846793005), np.uint64(0xFF51AFD7ED558CCD)
_SHIFT = np.uint64(29)


def sketch(data: bytes) -> list[int]:
    """The smallest hashes of a file's runs of tokens, two bytes each, in order; empty if the file is too short."""
    return [int(value) for value in _hashes(data)[:SKETCH]]


def written(hashes: list[int]) -> str:
    """A sketch as one word."""
    return ",".join(f"{value:x}" for value in hashes)


def read(word: str) -> list[int]:
    """A sketch from its word. Raises `ValueError` if it is none."""
    return [int(part, 16) for part in word.split(",") if part][:SKETCH]


def holds(hashes: list[int], tokens: npt.NDArray[np.uint16]) -> bool:
    """Whether a file with that sketch contains a text, (N,) token ids, or most of it."""
    text_hashes = _hashes(tokens.astype("<u2").tobytes())
    near = {int(value) for value in text_hashes if hashes and value <= max(hashes)}
    missing = len(near - set(hashes))
    return len(near) >= _LEAST and missing <= _MOST_MISSING * len(near)


def _hashes(data: bytes) -> npt.NDArray[np.uint64]:
    """Hashes of all runs, sorted, each once."""
    tokens = np.frombuffer(data, "<u2", len(data) // 2).astype(np.uint64)
    count = len(tokens) - RUN + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    hashes = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for i in range(RUN):
            hashes = hashes * _FACTOR + tokens[i : i + count] + np.uint64(1)
        hashes = (hashes ^ (hashes >> _SHIFT)) * _MIX
    return np.unique(hashes ^ (hashes >> _SHIFT))
