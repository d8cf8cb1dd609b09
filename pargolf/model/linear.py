"""Linear layers without bias, `y = x W^T`, and embedding tables; weights stay in float32 and are cast at use.

`W` is (out, in), the layout of every published state dict, so a row is an output channel: quantization scales, Muon
and GPTQ all work on rows. Initial values come from the model's init table, never from the constructor.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pargolf.kernels.product import product


class Linear(nn.Module):
    """`x (..., in) -> (..., out)`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the transposed weight."""
        return product(x, self.weight)


class Lookup(nn.Module):
    """A table of `rows` vectors: `ids (...) -> (..., width)`."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up rows, in autocast's type if it is enabled, so that the whole stream has that type."""
        rows, device = F.embedding(ids, self.weight), ids.device.type
        return rows.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else rows
