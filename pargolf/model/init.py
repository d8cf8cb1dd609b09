"""Initial values of matrices, chosen by a table of role globs. Vectors get theirs from their technique.

    zeros                       all output projections of the published systems
    FanIn()                     torch's default for Linear: U(-1/sqrt(fan_in), 1/sqrt(fan_in))
    Normal(std)                 embeddings, std .005 or .01
    Orthogonal(depth_scaled)    rows or columns orthonormal, times 1/sqrt(2L) where muP-scaled
    Spectrum(std)               N(0, std) with its singular values replaced by s_1/sqrt(k) (pull request 295)

Each tensor has its own random generator, seeded by the run's seed and its name, so adding a technique does not change
the initial values of any other tensor.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pargolf.core.ranges import Rate


class Init(Protocol):
    """Makes one tensor's initial values."""

    def __call__(self, shape: torch.Size, generator: torch.Generator, layers: int) -> Tensor:
        """Values of that shape, float32."""
        ...


@dataclass(frozen=True)
class Zeros:
    """All zero: the block adds nothing at the start."""

    def __call__(self, shape: torch.Size, generator: torch.Generator, layers: int) -> Tensor:
        """Zeros."""
        return torch.zeros(shape)


@dataclass(frozen=True)
class FanIn:
    """Uniform within `1/sqrt(fan_in)`."""

    def __call__(self, shape: torch.Size, generator: torch.Generator, layers: int) -> Tensor:
        """Uniform values."""
        bound = 1.0 / math.sqrt(shape[-1])
        return torch.empty(shape).uniform_(-bound, bound, generator=generator)


@dataclass(frozen=True)
class Normal:
    """Gaussian with standard deviation `std`."""

    std: Rate

    def __call__(self, shape: torch.Size, generator: torch.Generator, layers: int) -> Tensor:
        """Gaussian values."""
        return torch.empty(shape).normal_(0.0, self.std, generator=generator)


@dataclass(frozen=True)
class Orthogonal:
    """Orthonormal rows (or columns, whichever are fewer); `depth_scaled` multiplies by 1/sqrt(2L)."""

    depth_scaled: bool = False

    def __call__(self, shape: torch.Size, generator: torch.Generator, layers: int) -> Tensor:
        """Orthogonal values."""
        rows, cols = shape
        tall = torch.empty(max(rows, cols), min(rows, cols)).normal_(generator=generator)
        q, r = torch.linalg.qr(tall)
        q = q * r.diagonal().sign() * (1.0 / math.sqrt(2 * layers) if self.depth_scaled else 1.0)
        out: Tensor = q if rows >= cols else q.T
        return out.contiguous()


@dataclass(frozen=True)
class Spectrum:
    """Gaussian directions with singular values `s_1 / sqrt(k)`."""

    std: Rate

    def __call__(self, shape: torch.Size, generator: torch.Generator, layers: int) -> Tensor:
        """Values with the power-law spectrum."""
        u, s, v = torch.linalg.svd(torch.empty(shape).normal_(0.0, self.std, generator=generator), full_matrices=False)
        out: Tensor = u @ torch.diag(s[0] / torch.arange(1, len(s) + 1).sqrt()) @ v
        return out


def generator_for(name: str, seed: int) -> torch.Generator:
    """The generator of the tensor `name` under `seed`."""
    mixed = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed[:8], "little") >> 1)
