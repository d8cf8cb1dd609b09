"""The pipe from a watched script to its judge: numbers in frames, each checked where it enters.

A frame is one line of JSON and the raw arrays that it announces. Nothing of it is executed or unpickled, every number
is finite, and everything is bounded. The sender runs beside foreign code, which may write anything to the pipe. Bytes
that are no frame raise `Garbled`, and then nothing is proved.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Nats = npt.NDArray[np.float64]

MOST_BYTES = 256 << 20
MOST_FRAMES = 200_000
MOST_HEADER = 8_192
MOST_TEXT = 2_000


class Garbled(ValueError):
    """The bytes on the pipe are not our frames."""


@dataclass(frozen=True, eq=False)
class Scored:
    """Losses where they were computed: target token ids and nats, both (N,); `trained` if gradients were wanted."""

    targets: Ints
    nats: Nats
    trained: bool


@dataclass(frozen=True)
class Stepped:
    """An optimizer took a step; `model` if it holds parameters, not only the scorer's own tensors."""

    model: bool


@dataclass(frozen=True)
class Printed:
    """A line that the script printed."""

    text: str


@dataclass(frozen=True)
class Touched:
    """One access of a script. `kind` is read, write, socket, pickle, program or content; `name` says of what.

    The name of a content is the sketch of a file that was read (`contents`), and its path.
    """

    kind: str
    name: str


@dataclass(frozen=True)
class Ended:
    """The script has ended: the error, the processor seconds, and what was replaced."""

    error: str
    seconds: float
    replaced: tuple[str, ...]


Frame = Scored | Stepped | Printed | Touched | Ended
KINDS = ("read", "write", "socket", "pickle", "program", "content")


class Sender:
    """Writes frames to a file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def scored(self, targets: Ints, nats: Nats, *, trained: bool) -> None:
        """Send losses. A loss that is not finite is sent as -1, which no model has."""
        nats = np.where(np.isfinite(nats), nats, -1.0)
        self._send({"is": "scored", "n": len(targets), "trained": trained}, targets.tobytes() + nats.tobytes())

    def stepped(self, *, model: bool) -> None:
        """Send that an optimizer took a step."""
        self._send({"is": "stepped", "model": model})

    def printed(self, text: str) -> None:
        """Send one printed line."""
        self._send({"is": "printed", "text": text[:MOST_TEXT]})

    def touched(self, kind: str, name: str) -> None:
        """Send a file, a socket, a pickled class or a program."""
        self._send({"is": "touched", "kind": kind, "name": name[:MOST_TEXT]})

    def ended(self, error: str, seconds: float, replaced: list[str]) -> None:
        """Send the end."""
        ended = {"is": "ended", "error": error[:MOST_TEXT], "seconds": round(seconds, 2)}
        self._send({**ended, "replaced": replaced[:50]})

    def _send(self, header: dict[str, Any], arrays: bytes = b"") -> None:
        data = memoryview(json.dumps(header).encode() + b"\n" + arrays)
        while data:
            data = data[os.write(self.fd, data) :]


def frames(data: bytes) -> Iterator[Frame]:
    """The frames in all bytes received. A last frame that was cut off is left out. Raises `Garbled`."""
    if len(data) > MOST_BYTES:
        raise Garbled("more bytes than a small run can have")
    start = count = 0
    while start < len(data):
        end = data.find(b"\n", start, start + MOST_HEADER)
        count += 1
        if end < 0 and len(data) - start < MOST_HEADER:
            return
        if end < 0 or count > MOST_FRAMES:
            raise Garbled("a frame without an end")
        try:
            header = json.loads(data[start:end])
            size = _size(header)
            start = end + 1 + size
            if start > len(data):
                return
            yield _frame(header, data[start - size : start])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Garbled(f"frame {count}: {error}") from error


def _size(header: Any) -> int:
    """Bytes of the arrays after a header."""
    if not isinstance(header, dict):
        raise ValueError("no object")
    return 12 * _whole(header["n"], MOST_BYTES // 12) if header.get("is") == "scored" else 0


def _frame(header: dict[str, Any], arrays: bytes) -> Frame:
    match header.get("is"):
        case "scored":
            n = len(arrays) // 12
            targets = np.frombuffer(arrays, "<i4", n)
            nats = np.frombuffer(arrays, "<f8", n, 4 * n)
            if not np.isfinite(nats).all():
                raise ValueError("a loss that is no number")
            return Scored(targets, nats, bool(header["trained"]))
        case "stepped":
            return Stepped(bool(header["model"]))
        case "printed":
            return Printed(_text(header["text"]))
        case "touched":
            return Touched(KINDS[KINDS.index(header["kind"])], _text(header["name"]))
        case "ended":
            replaced = tuple(_text(x) for x in list(header["replaced"])[:50])
            return Ended(_text(header["error"]), float(header["seconds"]), replaced)
    raise ValueError("an unknown kind")


def _whole(value: Any, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError("no count")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        raise ValueError("no text")
    return value
