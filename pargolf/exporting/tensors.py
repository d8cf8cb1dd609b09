"""The plain weights in one `.safetensors` file, for your own reader.

Each tensor is float32, under its parameter's dotted name. The metadata hold `recipe`, `digest`, `length` (tokens of a
window), `model` (the structure as JSON, which `pargolf.core.spec.build` reads) and `roles` (JSON: the role of each
tensor, the name by which recipes speak of it; `blocks.0.mlp.up.weight` is of the role `mlp.up`).
"""

import json
from pathlib import Path

from safetensors.torch import save as dump_tensors

from pargolf.core import spec
from pargolf.core.files import write_bytes
from pargolf.core.roles import role
from pargolf.exporting.huggingface import weights_of
from pargolf.exporting.source import Source


def write_tensors(source: Source, out: Path) -> None:
    """Write the file `out`."""
    weights = weights_of(source)
    metadata = {
        "format": "pt",
        "recipe": source.recipe,
        "digest": source.digest,
        "length": str(source.length),
        "model": json.dumps(spec.dump(source.model.spec)),
        "roles": json.dumps({name: role(name) for name in weights}),
    }
    write_bytes(out, dump_tensors(weights, metadata=metadata))
