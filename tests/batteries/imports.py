"""Checkpoints of published scripts, altered at random: each must be imported or refused in one line, and soon."""

import io
import itertools
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from batteries.trial import Trial
from pargolf.recipes import catalog
from pargolf.upstream.checkpoints import read_checkpoint
from pargolf.upstream.importing import fit_recipe
from pargolf.upstream.state_dicts import SYSTEMS

GOLDEN = Path(__file__).parent.parent / "golden"


def state_of(system: str) -> dict[str, Any]:
    """A small state dict as the system's script saves it."""
    tensors = load_file(GOLDEN / f"{system}_v0.safetensors")
    return {name.removeprefix("state."): x for name, x in tensors.items() if name.startswith("state.")}


def packed(state: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The state dict as it is, or in one of the two containers of quantized artifacts."""
    kind = chance.randrange(3)
    matrices = {name: w for name, w in state.items() if w.dim() == 2}
    codes = {name: (w * 9).round().clamp(-127, 127).to(torch.int8) for name, w in matrices.items()}
    if kind == 0:
        return dict(state)
    if kind == 1:
        rest = {name: w for name, w in state.items() if name not in matrices}
        scales = {name: torch.ones(len(w)) for name, w in matrices.items()}
        dtypes = dict.fromkeys(matrices, "bfloat16")
        return {
            "quantized": codes,
            "scales": scales,
            "dtypes": dtypes,
            "passthrough": rest,
            "passthrough_orig_dtypes": {},
        }
    flat = {name: w for name, w in state.items() if name not in matrices}
    kinds: dict[str, Any] = dict.fromkeys(flat, "passthrough")
    for name, w in codes.items():
        flat[f"{name}.q"], flat[f"{name}.scale"], kinds[name] = w, torch.ones(len(w)), {"type": "int6"}
    return {"w": flat, "m": kinds}


def alter(held: dict[Any, Any], chance: random.Random) -> None:
    """Change, rename, remove or double one entry, somewhere inside."""
    target = held
    while (inner := [value for value in target.values() if isinstance(value, dict)]) and chance.random() < 0.8:
        target = chance.choice(inner)
    if not target:
        return
    key = chance.choice(list(target))
    kind = chance.randrange(4)
    if kind == 0:
        target[key] = strange_value(target[key], chance)
    elif kind == 1:
        target[strange_name(str(key), chance)] = target.pop(key)
    elif kind == 2:
        del target[key]
    else:
        target[strange_name(str(key), chance)] = target[key]


def strange_value(value: Any, chance: random.Random) -> Any:
    """Something else in a tensor's place."""
    tensors = [torch.tensor(3.0), torch.ones(0), torch.ones(2, 2, 2), torch.ones(1, 10**6), torch.empty(5, 0)]
    tensors += [torch.ones(3, dtype=torch.complex64), torch.ones(2, dtype=torch.bool), torch.tensor([[torch.nan]])]
    whole = value.long() if isinstance(value, torch.Tensor) else 1
    turned = value.T if isinstance(value, torch.Tensor) and value.dim() == 2 else 1
    return chance.choice([*tensors, whole, turned, None, "x", 5, [value], {"a": value}, -1, 10**400])


def strange_name(name: str, chance: random.Random) -> Any:
    """Another name, or no name at all."""
    numbers = [f"blocks.{n}.attn_scale" for n in ("9" * 5000, "9999", "", "x", "-1", "0.1")]
    return chance.choice(
        [*numbers, "blocks", "", f"{name}.x", name.replace("0", "7"), name * 3, "\ud800", 5, None, ("a",)]
    )


def hostile_file(chance: random.Random) -> tuple[str, bytes]:
    """A system's name, and the bytes of an altered checkpoint of it."""
    system = chance.choice(list(SYSTEMS))
    held = packed(state_of(system), chance)
    for _ in range(chance.choice((1, 1, 2))):
        alter(held, chance)
    buffer = io.BytesIO()
    torch.save(held, buffer)
    data = bytearray(buffer.getvalue())
    if chance.random() < 0.2:  # and some of them damaged in their bytes
        at = chance.randrange(len(data))
        data[at] ^= 1 << chance.randrange(8)
    return system, bytes(data)


def import_one(path: Path, chance: random.Random) -> None:
    """Write one such file to `path` and import it. Raises what the import raises."""
    system, data = hostile_file(chance)
    path.write_bytes(data)
    fit_recipe(catalog.find(system), read_checkpoint(path), system=system)


def trials(folder: Path, chance: random.Random) -> Iterator[Trial]:
    """Altered checkpoints, endlessly."""
    for number in itertools.count():
        one = random.Random(chance.random())
        yield Trial(f"checkpoint {number}", partial(import_one, folder / "a.pt", one))
