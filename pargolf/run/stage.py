"""How far a run is after training: a small file beside its weights, so that a resumed run continues from there.

    checkpoints/stage.json     written after the weights, again after the artifact; deleted when the run has ended

It names weights and artifact by their SHA-256. If anything does not fit, it is ignored, and the run continues from its
newest checkpoint.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pargolf.core import spec
from pargolf.core.errors import UserError
from pargolf.core.files import read_json, write_json
from pargolf.data.meta import file_sha256
from pargolf.run.folder import RunFolder

NAME = "stage.json"


@dataclass(frozen=True)
class Packing:
    """A finished packing: the artifact's SHA-256, seconds of training and packing, whether grids were solved."""

    sha256: str
    seconds: float
    solved: bool


@dataclass(frozen=True)
class Stage:
    """A finished training: steps, tokens, seconds, begun phases, why it ended, and the SHA-256 of its weights.

    `begun_with` is JSON of the settings that a resumed run must have: its seed and its data.
    """

    step: int
    tokens: int
    seconds: float
    begun: tuple[int, ...]
    reason: str
    weights: str
    begun_with: str
    packing: Packing | None = None

    def write(self, folder: RunFolder) -> None:
        """Store it."""
        folder.checkpoints.mkdir(exist_ok=True)
        write_json(folder.checkpoints / NAME, spec.dump(self))


def read_stage(folder: RunFolder) -> Stage | None:
    """The stage of a run; None when it is still training, or the file does not fit the folder."""
    try:
        stage = spec.load(read_json(folder.checkpoints / NAME), Stage, within=("pargolf.run.stage",))
        sound = isinstance(json.loads(stage.begun_with), dict)
    except (UserError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    fits = sound and _digest(folder["weights.safetensors"]) == stage.weights
    return stage if fits else None


def packed_bytes(folder: RunFolder, stage: Stage) -> bytes | None:
    """The artifact that was already packed; None when there is none."""
    path = folder["model.pargolf"]
    data = path.read_bytes() if stage.packing is not None and path.is_file() else b""
    return data if stage.packing and hashlib.sha256(data).hexdigest() == stage.packing.sha256 else None


def _digest(path: Path) -> str:
    return file_sha256(path) if path.is_file() else ""
