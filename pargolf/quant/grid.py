"""Quantization grids: one object for fake quantization, rounding and packing, so training sees what is packed.

    codes = clamp(round(w / scale), low, high)      scale = clip(row) / (2^(bits-1) - 1), stored in 16 bits
    decode(encode(w)) = codes * scale               fake(w) = that, bit for bit, with the gradient of the identity

Pull request 910 trained on `amax / 7` and shipped a grid whose scale had a floor of 1/7: its int4 rows collapsed to
three values, which cost .069 bits per byte. Here `Int(4).fake(w)` in training and `Int(4).encode(w)` at the end are the
same computation, so the two cannot differ. Rounding is half to even; the straight-through gradient is from Bengio et
al., arXiv:1308.3432. Published grids, faults included, are values of `Int` (`quant/published.py`). GPTQ and the trellis
use a grid's `scales` and `round`, and choose the codes.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.quant.clip import Amax, Clip, StdDev

Dtype = Literal["float16", "bfloat16", "float32"]
_DTYPES: dict[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Codes:
    """A tensor on a grid: `codes` in the tensor's shape, and `scales`, one for each group of equally many codes.

    Integer grids have int8 codes and scales of shape (rows,), (rows, groups) or (1,). Floating-point codes are the
    weights themselves and are stored without scales and without a grid. For a trellis, `states` is its number of states
    and `order` (int8) the weight class of each column, which determines the order of its walk; None: left to right.
    """

    codes: Tensor
    scales: Tensor
    order: Tensor | None = None
    states: int = 0

    @property
    def whole(self) -> bool:
        """Whether the codes are the weights themselves."""
        return self.codes.is_floating_point()


class Grid(Protocol):
    """The allowed values of a tensor. These three methods are all that a grid needs.

    Optional members enable more:

    `Rounds`                 GPTQ can apply error feedback
    `follow_feedback(w, hessian, solver)`   the grid finds its codes under feedback by itself, as a trellis does
    `at_step(step, widest)`  the grid with another step, in standard deviations, that still reaches the weight `widest`,
                             so that its bytes can be solved for
    `stand_in`               a grid with codes of the same size that are found faster, for size forecasts
    `Uniform`                some columns may get finer steps

    A grid without them is rounded plainly, keeps its step, and is forecast by its own codes.
    """

    def encode(self, w: Tensor) -> Codes:
        """Put a finite tensor on the grid. Raises `UserError` when a value is NaN or infinite."""
        ...

    def decode(self, codes: Codes) -> Tensor:
        """Return the float32 values that `codes` stand for."""
        ...

    def fake(self, w: Tensor) -> Tensor:
        """`decode(encode(w))` in the dtype of `w`, with the gradient of the identity; unchecked, for training."""
        ...


class Rounds(Grid, Protocol):
    """A grid that rounds any column under given scales, so that GPTQ can pass errors on.

    If the scales do not divide a row evenly, the grid also has `spread(scales, w_NC)`, the scale of every weight, (N,
    C).
    """

    def scales(self, w: Tensor, hessian: Tensor | None = None) -> Tensor:
        """The scales as stored: one per tensor, per row, or per group of a row's columns."""
        ...

    def round(self, w: Tensor, *, scales: Tensor) -> Tensor:
        """The nearest codes, as floats, to `w` under scales that broadcast against it."""
        ...

    def values(self, codes: Tensor, *, scales: Tensor) -> Tensor:
        """The values of codes that are given as floats."""
        ...


class Uniform(Rounds, Protocol):
    """A grid whose values are whole numbers times the scale, up to `high`."""

    @property
    def bits(self) -> int:
        """Bits of a code."""
        ...

    @property
    def high(self) -> int:
        """The largest code."""
        ...

    @property
    def uniform(self) -> bool:
        """Whether every code in the range is used, and codes are rounded with the stored scale."""
        ...


@dataclass(frozen=True)
class Int:
    """Integers of `bits` bits (2 to 8) times a scale. `Int(2)` is ternary; `Int(8)` is -127 to 127.

    clip        the rule at which magnitude a row is clipped (`quant/clip.py`)
    per         what shares a scale: a "row" (a vector is one row), the whole "tensor", or a number of columns in a row
    floor       the smallest scale; 0 means none (a row whose scale would be 0 gets scale 1 and codes 0)
    scale       dtype in which the scale is stored: "float16", "bfloat16" or "float32"
    extra_code  also use the extra negative code of two's complement, -2^(bits-1)
    round_with  "stored": codes are rounded with the scale as stored. "exact": w is clipped, then divided by the scale
                before its rounding for storage (the official baseline; slightly more error)
    multiple    keep only codes that are multiples of this (and both ends): pull request 543's substitute for 6 bits

    A tensor of any shape is treated as rows of its first dimension; bfloat16 is quantized in float32.
    """

    bits: int
    clip: Clip = Amax()
    per: Literal["row", "tensor"] | int = "row"
    floor: float = 0.0
    scale: Dtype = "float16"
    extra_code: bool = False
    round_with: Literal["stored", "exact"] = "stored"
    multiple: int = 1

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise UserError(f"Int(bits=...) takes 2 to 8, not {self.bits}.")
        if self.per not in ("row", "tensor") and not (isinstance(self.per, int) and self.per > 0):
            raise UserError(f"Int(per=...) takes 'row', 'tensor' or a number of columns, not {self.per!r}.")
        if self.scale not in _DTYPES:
            raise UserError(f"Int(scale=...) takes one of {', '.join(_DTYPES)}, not {self.scale!r}.")
        if self.round_with not in ("stored", "exact"):
            raise UserError(f"Int(round_with=...) takes 'stored' or 'exact', not {self.round_with!r}.")
        if hasattr(self.clip, "limit_seen") and self.per != "row":
            raise UserError(f"{type(self.clip).__name__} needs rows. Use Int(per='row').")
        if not self.floor >= 0 or not 1 <= self.multiple <= self.high:
            raise UserError(f"Int(floor=...) is at least 0 and multiple from 1 to {self.high}.")

    @property
    def high(self) -> int:
        """The largest code."""
        return (1 << (self.bits - 1)) - 1

    @property
    def uniform(self) -> bool:
        """Whether it rounds to every code, with the stored scale."""
        return self.round_with == "stored" and self.multiple == 1

    @property
    def low(self) -> int:
        """The smallest code."""
        return -self.high - int(self.extra_code)

    def encode(self, w: Tensor) -> Codes:
        """Quantize a tensor to int8 codes of its shape. Raises `UserError` on NaN, infinite or no weights."""
        check_finite(w)
        codes_NC, stored_N1 = self._quantize(w.detach())
        return Codes(codes_NC.to(torch.int8).reshape(w.shape), self._shaped(stored_N1, w))

    def decode(self, codes: Codes) -> Tensor:
        """Float32 values of `codes`, in their shape."""
        scale_N1 = codes.scales.reshape(-1, 1).float()
        values_NC = codes.codes.reshape(len(scale_N1), -1).float() * scale_N1
        return values_NC.reshape(codes.codes.shape)

    def fake(self, w: Tensor) -> Tensor:
        """`decode(encode(w))` in the dtype of `w`, differentiated as if it were `w`; NaN is not checked.

        Compiled for CUDA, inductor's division may differ in the last bit unless
        `torch._inductor.config.eager_numerics.division_rounding` is set; then a weight halfway between two codes may
        take the other one.
        """
        with torch.no_grad():
            codes_NC, stored_N1 = self._quantize(w.detach())
            # round() can give -0.0, which int8 cannot represent; adding zero turns it into 0.0 without an extra pass.
            values_NC = torch.addcmul(codes_NC.new_zeros(()), codes_NC, stored_N1)
            values = values_NC.reshape(w.shape).to(w.dtype)
        return straight_through(w, values)

    def scales(self, w: Tensor, hessian: Tensor | None = None) -> Tensor:
        """The stored scales that `encode` would give `w`: (rows,), (rows, groups) or (1,).

        The Hessian is used only by a clip rule that has `limit_seen`.
        """
        w_NC = self._rows(w.detach())
        if hessian is not None and hasattr(self.clip, "limit_seen"):
            limit_N1: Tensor = self.clip.limit_seen(w_NC, hessian)
        else:
            limit_N1 = self._limit(w_NC)
        return self._shaped(self._scale(limit_N1)[0], w)

    def round(self, w: Tensor, *, scales: Tensor) -> Tensor:
        """The nearest codes, as floats, to `w` under given scales that broadcast against it."""
        codes = torch.round(w / scales.float()).clamp(self.low, self.high)
        if self.multiple > 1:
            codes = (torch.round(codes / self.multiple) * self.multiple).clamp(self.low, self.high)
        return codes

    def values(self, codes: Tensor, *, scales: Tensor) -> Tensor:
        """Codes times scales."""
        return codes * scales

    def at_step(self, step: float, widest: float) -> "Int":
        """The grid with a step of `step` standard deviations of the row, and the fewest bits that reach `widest`."""
        bits = next((b for b in range(2, 9) if step * (2 ** (b - 1) - 1) >= widest), 8)
        # Five digits keep headers short, and change the step by less than a ten-thousandth.
        k = float(f"{step * (2 ** (bits - 1) - 1):.5g}")
        clip: Clip = self.clip.at(k) if hasattr(self.clip, "at") else StdDev(k)
        return replace(
            self, bits=bits, clip=clip, floor=0.0, extra_code=False, round_with="stored", multiple=1, scale="float16"
        )

    def _quantize(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Codes as floats, (N, C), and the stored scales in float32, (N, 1)."""
        w_NC = self._rows(w)
        limit_N1 = self._limit(w_NC)
        stored_N1, divisor_N1 = self._scale(limit_N1)
        return self.round(self._clipped(w_NC, limit_N1), scales=divisor_N1), stored_N1

    def _limit(self, w_NC: Tensor) -> Tensor:
        """The limit of the clip rule; a search measures errors before `multiple` is applied, as published (543)."""

        def squared_error(limit_N1: Tensor) -> Tensor:
            divisor_N1 = self._scale(limit_N1)[1]
            codes_NC = torch.round(self._clipped(w_NC, limit_N1) / divisor_N1).clamp(self.low, self.high)
            return (w_NC - codes_NC * divisor_N1).square()

        return self.clip.limit(w_NC, squared_error)

    def _scale(self, limit_N1: Tensor) -> tuple[Tensor, Tensor]:
        """The stored scale, and the scale that weights are divided by, both in float32."""
        exact_N1 = (limit_N1 / self.high).clamp(self.floor, torch.finfo(_DTYPES[self.scale]).max)
        stored_N1 = as_stored(exact_N1, self.scale)
        vanished = stored_N1 == 0
        stored_N1 = stored_N1.masked_fill(vanished, 1.0)
        return stored_N1, stored_N1 if self.round_with == "stored" else exact_N1.masked_fill(vanished, 1.0)

    def _clipped(self, w_NC: Tensor, limit_N1: Tensor) -> Tensor:
        """Clip for `exact`: with a floor, a weight past the limit may still be inside the code range."""
        return torch.clamp(w_NC, -limit_N1, limit_N1) if self.round_with == "exact" else w_NC

    def _rows(self, w: Tensor) -> Tensor:
        """`w` in float32 with one row per scale."""
        if self.per == "tensor" or w.dim() < 2:
            rows = w.reshape(1, -1)
        else:
            rows = w.reshape(w.shape[0], -1)
        if isinstance(self.per, int):
            if rows.shape[1] % self.per:
                raise UserError(f"Groups of {self.per} columns do not divide {rows.shape[1]}. Choose a divisor.")
            rows = rows.reshape(-1, self.per)
        return rows.float()

    def _shaped(self, scale_N1: Tensor, w: Tensor) -> Tensor:
        """Scales in their dtype: (rows, groups) with groups, else one dimension."""
        scale_N1 = scale_N1.to(_DTYPES[self.scale])
        if isinstance(self.per, int):
            return scale_N1.reshape(w.shape[0] if w.dim() > 1 else 1, -1)
        return scale_N1.reshape(-1)


@dataclass(frozen=True)
class Keep:
    """No quantization: every number is stored as `dtype`, "float16", "bfloat16" or "float32"."""

    dtype: Dtype = "float16"

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise UserError(f"Keep(dtype=...) takes one of {', '.join(_DTYPES)}, not {self.dtype!r}.")

    def encode(self, w: Tensor) -> Codes:
        """Cast. Raises `UserError` on NaN or infinite weights, and on weights past the dtype's range."""
        check_finite(w)
        codes = w.detach().to(_DTYPES[self.dtype])
        if not bool(torch.isfinite(codes).all()):
            raise UserError(f"Weights up to {float(w.abs().max()):.3g} do not fit {self.dtype}. Keep them in float32.")
        return Codes(codes, codes.new_empty(0))

    def decode(self, codes: Codes) -> Tensor:
        """Float32 values of `codes`."""
        return codes.codes.float()

    def fake(self, w: Tensor) -> Tensor:
        """`w` rounded to the dtype, differentiated as if it were `w`."""
        return straight_through(w, as_stored(w.detach().float(), self.dtype).to(w.dtype))


def as_stored(x: Tensor, dtype: str) -> Tensor:
    """Round float32 numbers to "float16" or "bfloat16" precision, half to even, and leave them in float32.

    The same as `x.to(dtype).float()`. But a compiled graph may remove that cast (torch's inductor keeps the wider
    number), and training would then see other scales than the artifact has. Integer arithmetic on the bits cannot be
    removed: add half of the dropped part (13 bits for float16, 16 for bfloat16), then clear it. Below the normal
    numbers of float16 the step is 2^-24.
    """
    if dtype == "float32":
        return x
    cut = 13 if dtype == "float16" else 16
    bits = x.view(torch.int32)
    bits = (bits + (1 << (cut - 1)) - 1 + ((bits >> cut) & 1)) & -(1 << cut)
    rounded = bits.view(torch.float32)
    if dtype == "float16":
        rounded = torch.where(x.abs() < 2.0**-14, torch.round(x * 2.0**24) * 2.0**-24, rounded)
        rounded = torch.where(rounded.abs() > torch.finfo(torch.float16).max, rounded * torch.inf, rounded)
    return rounded


def straight_through(w: Tensor, values: Tensor) -> Tensor:
    """`values`, with the gradient of `w`.

    `w.detach() - w` is an exact +0.0, so the result is `values` to the bit, the sign of zero included; the usual
    `w + (values - w)` rounds twice.
    """
    return values - (w.detach() - w)


def check_finite(w: Tensor) -> None:
    """Raise `UserError` when `w` is empty or has a NaN or an infinity."""
    if w.numel() == 0:
        raise UserError(f"A tensor of shape {tuple(w.shape)} has no weights to quantize. Leave it out of the state.")
    bad = int((~torch.isfinite(w)).sum())
    if bad:
        raise UserError(
            f"{bad} of {w.numel()} weights are NaN or infinite. Training diverged: go back to a checkpoint before."
        )
