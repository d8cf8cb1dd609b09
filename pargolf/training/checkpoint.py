"""Checkpoints: the whole state of a run in one file that is either intact or refused; a folder keeps the newest two.

    checkpoints/step-00000120.safetensors     named tensors; the header has the facts (JSON) and a SHA-256

A checkpoint is written to a temporary file and renamed, so a kill leaves the previous one. The digest covers facts,
names, types, shapes and bytes; a truncated or altered file does not match it, is reported, and the previous checkpoint
is used. The format is plain safetensors: reading it runs no code, and any safetensors reader opens it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.core.files import write_bytes

KEPT = 2
COST = 0.02
"""The share of a run's time that checkpoints may take."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file, and why newer files in its folder were refused."""

    path: Path
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    refused: tuple[str, ...] = ()


@dataclass
class Checkpoints:
    """A folder of checkpoints; one is due every `every` seconds (0: after every step), less often when writing is slow.

    last: when the last one was written, in seconds of the run; cost: how many seconds that took
    """

    folder: Path
    every: float = 60.0
    last: float = 0.0
    cost: float = 0.0

    def due(self, seconds: float) -> bool:
        """Whether a checkpoint is due, `seconds` into the run."""
        return self.every == 0 or seconds - self.last >= max(self.every, self.cost / COST)

    def write(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
        """Write the state after `facts["step"]` steps, and delete all but the newest two files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in self.folder.glob(".*.part"):
            stale.unlink()
        path = self.folder / f"step-{facts['step']:08}.safetensors"
        on_cpu = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
        text = json.dumps(facts)
        write_bytes(path, to_safetensors(on_cpu, metadata={"facts": text, "sha256": _digest(on_cpu, text)}))
        for old in self.paths()[KEPT:]:
            old.unlink()
        return path

    def paths(self) -> list[Path]:
        """The checkpoint files, newest first."""
        return sorted(self.folder.glob("step-*.safetensors"), reverse=True)

    def newest(self) -> Checkpoint | None:
        """The newest intact checkpoint; None when there are no files. Raises `UserError` when all are damaged."""
        refused: list[str] = []
        for path in self.paths():
            try:
                tensors, facts = open_checkpoint(path)
            except UserError as error:
                refused.append(str(error))
            else:
                return Checkpoint(path, tensors, facts, tuple(refused))
        if refused:
            raise UserError(" ".join([*refused, "No other is left: train again with --force."]))
        return None


def open_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of one file. Raises `UserError` that names the file when it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        facts = json.loads(header["facts"])
        sound = header["sha256"] == _digest(tensors, header["facts"])
    except (SafetensorError, OSError, KeyError, ValueError):
        sound = False
    if not sound:
        raise UserError(f"The checkpoint {path} is damaged: it was cut short or altered.")
    return tensors, facts


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """SHA-256 over the facts and every tensor."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        x = tensors[name]
        sha.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        sha.update(x.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
