"""GPTQ: round a column, and let the columns to its right make up for the error on the data that will pass through.

    least  tr((W - Q) H (W - Q)^T),   H = E[x x^T] of the inputs x;   U^T U = (H + damp)^-1,  U upper
    e_j = (w_j - q_j) / U_jj;   w_{j+1:} -= e_j U_{j,j+1:}

Frantar et al., arXiv:2210.17323; columns by descending diag(H), damp 1 % of its mean, feedback inside blocks at once
and between blocks together. The field's records have it since pull request 1019, on the tied embedding since 1394 (H
of the final hidden state). `calibrate` also scales each H by half the mean squared gradient of the layer's outputs
(the Fisher information of the K-FAC papers, arXiv:1503.05671), so that the error is in nats per token and layers can
be weighed against each other; the solution does not depend on it. Rows are independent: where one comes out no better
than plain rounding, it is rounded. Which code is nearest, and what a code means, the grid alone says.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.model.linear import Linear, Lookup
from pargolf.model.transformer import Transformer
from pargolf.quant.grid import Codes, Grid, Int, Keep, check_finite
from pargolf.quant.trellis import Trellis, rows_of, spread_scales

Hessians = dict[str, Tensor]
"""Parameter name -> (columns, columns), in nats: tr(E H E^T) is the loss that an error E of the weights costs."""


@dataclass(frozen=True)
class GPTQ:
    """Error feedback with Hessians from `batches` training batches; `damp` is relative to the mean diagonal."""

    batches: int = 16
    damp: float = 0.01
    block: int = 128

    def __post_init__(self) -> None:
        if self.batches < 1 or self.block < 1 or not self.damp > 0:
            raise UserError("GPTQ(...) takes at least one batch, one column a block and a damp over 0.")

    def encode(self, w: Tensor, grid: Grid, hessian: Tensor) -> Codes:
        """`grid`'s codes of `w`, chosen for the least Hessian-weighted error. `Keep` has nothing to choose.

        Raises `UserError` on NaN, infinite or no weights.
        """
        if isinstance(grid, Keep):
            return grid.encode(w)
        assert isinstance(grid, Int | Trellis), f"no error feedback on {grid}"
        check_finite(w)
        w_NC = rows_of(w.detach()).float()
        hessian = hessian.to(w.device)
        assert hessian.shape == (w_NC.shape[1],) * 2, f"a Hessian of {tuple(hessian.shape)} for {tuple(w.shape)}"
        scales = grid.scales(w)
        scale_NC = spread_scales(scales, w_NC)
        if isinstance(grid, Trellis):
            # The decoder walks the columns as they stand, and so must the path.
            return Codes(self._follow(w_NC, grid, scale_NC, hessian).reshape(w.shape), scales)
        order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
        back = torch.argsort(order)
        upper_CC = self._factor(hessian[order][:, order])
        fed_NC = self._feed(w_NC[:, order], grid, scale_NC[:, order], upper_CC)[:, back]
        plain = grid.encode(w)
        better_N1 = _cost(w_NC - fed_NC * scale_NC, hessian) < _cost(w_NC - rows_of(grid.decode(plain)), hessian)
        codes = torch.where(better_N1[:, None], fed_NC.to(torch.int8), rows_of(plain.codes))
        return Codes(codes.reshape(w.shape), scales)

    def left_over(self, hessian: Tensor) -> float:
        """sum_j 1 / U_jj^2 in natural order: what errors of one unit in every column cost after feedback."""
        mean = hessian.diagonal().mean()
        order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
        return float(mean * self._factor(hessian[order][:, order]).diagonal().square().reciprocal().sum())

    def _feed(self, w_NC: Tensor, grid: Int, scale_NC: Tensor, upper_CC: Tensor) -> Tensor:
        """Codes as floats, column after column."""
        left_NC, codes_NC = w_NC.clone(), torch.empty_like(w_NC)
        for begin, end in self._blocks(w_NC.shape[1]):
            block_NB, error_NB = left_NC[:, begin:end], torch.empty_like(left_NC[:, begin:end])
            for j in range(end - begin):
                at, scale_N = begin + j, scale_NC[:, begin + j]
                code_N = grid.round(block_NB[:, j], scales=scale_N)
                error_N = (block_NB[:, j] - code_N * scale_N) / upper_CC[at, at]
                block_NB[:, j + 1 :].addr_(error_N, upper_CC[at, at + 1 : end], alpha=-1)
                codes_NC[:, at], error_NB[:, j] = code_N, error_N
            left_NC[:, end:] -= error_NB @ upper_CC[begin:end, end:]
        return codes_NC

    def _follow(self, w_NC: Tensor, grid: Trellis, scale_NC: Tensor, hessian: Tensor) -> Tensor:
        """Codes along a trellis, one block's path after the other."""
        upper_CC = self._factor(hessian)
        left_NC, codes = w_NC.clone(), []
        state_N = torch.zeros(len(w_NC), dtype=torch.long, device=w_NC.device)
        for begin, end in self._blocks(w_NC.shape[1]):
            inner = slice(begin, end)
            path = grid.follow(
                left_NC[:, inner], scale_NC=scale_NC[:, inner], state_N=state_N, upper_CC=upper_CC[inner, inner]
            )
            left_NC[:, end:] -= path.errors @ upper_CC[inner, end:]
            state_N = path.state
            codes.append(path.codes)
        return torch.cat(codes, 1)

    def _blocks(self, columns: int) -> Iterator[tuple[int, int]]:
        for begin in range(0, columns, self.block):
            yield begin, min(begin + self.block, columns)

    def _factor(self, hessian: Tensor) -> Tensor:
        """The upper Cholesky factor of the damped inverse; damped more where rounding left it indefinite."""
        eye, damp = torch.eye(len(hessian), device=hessian.device), self.damp
        mean = float(hessian.diagonal().mean())
        if not mean > 0:
            return eye
        while True:
            lower, failed = torch.linalg.cholesky_ex(hessian / mean + damp * eye)
            upper: Tensor
            upper, failed_too = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not int(failed) and not int(failed_too):
                return upper
            damp *= 10


def weighted_error(error: Tensor, hessian: Tensor | None) -> float:
    """tr(E H E^T); the plain sum of squares without a Hessian."""
    error_NC = rows_of(error).float()
    return float(error_NC.square().sum() if hessian is None else _cost(error_NC, hessian).sum())


def calibrate(model: Transformer, batches: Iterable[tuple[Tensor, Tensor]]) -> Hessians:
    """Hessians of every `Linear` and `Lookup` from (ids, targets) batches of training data, (B, T) each.

    Of a matrix: E[x x^T] times half the mean squared gradient of an output, both per token. Of a table: half E[g g^T]
    of what is looked up, over its rows; the tied embedding is both, and has the sum.
    """
    sums = _Sums()
    tied = model.spec.head.tied
    half = model.embed.tokens.weight.device.type == "cuda"
    tables = [module.weight for module in model.modules() if isinstance(module, Lookup)]
    with _watching(model, sums):
        for ids_BT, targets_BT in batches:
            with torch.enable_grad(), torch.autocast(ids_BT.device.type, torch.bfloat16, enabled=half):
                h_BTD = model.hidden(ids_BT)
                z_BTV = model.head.scores(h_BTD, model.embed.tokens.weight)
                if tied:
                    sums.watch("embed.tokens.weight", h_BTD, z_BTV)
                capped = model.head.bounded(z_BTV.flatten(0, 1).float())
                # Summed, so that a token's gradient does not shrink with the batch.
                loss = F.cross_entropy(capped, targets_BT.flatten(), reduction="sum")
            # Matrices' own gradients are not needed; asking for those of tables spares them.
            torch.autograd.grad(loss, tables, allow_unused=True)
    return sums.hessians()


class _Sums:
    """Running sums by parameter: x x^T over tokens, and squared gradients over outputs; g g^T for tables."""

    def __init__(self) -> None:
        self.squares: dict[str, Tensor] = {}
        self.tables: dict[str, Tensor] = {}
        self.tokens: dict[str, int] = {}
        self.gradients: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def watch(self, name: str, x: Tensor, y: Tensor) -> None:
        """Count the inputs `x` of one call, and the gradient that will reach its outputs `y`."""
        x_NC = x.detach().reshape(-1, x.shape[-1]).float()
        self.squares[name] = self.squares.get(name, 0) + x_NC.T @ x_NC
        self.tokens[name] = self.tokens.get(name, 0) + len(x_NC)
        if y.requires_grad:
            y.register_hook(lambda g: self._gradient(name, g))  # type: ignore[no-untyped-call]

    def _gradient(self, name: str, g: Tensor) -> None:
        # Means over outputs; tokens are divided out at the end.
        self.gradients[name] = self.gradients.get(name, 0.0) + float(g.float().square().mean(-1).sum())

    def watch_table(self, name: str, y: Tensor, rows: int) -> None:
        """Count the gradient that will reach the rows `y` that were looked up in a table of `rows`."""

        def see(g: Tensor) -> None:
            g_NC = g.reshape(-1, g.shape[-1]).float()
            self.tables[name] = self.tables.get(name, 0) + g_NC.T @ g_NC * (0.5 / len(g_NC) / rows)
            self.calls[name] = self.calls.get(name, 0) + 1

        if y.requires_grad:
            y.register_hook(see)  # type: ignore[no-untyped-call]

    def hessians(self) -> Hessians:
        """Half the mean squared gradient times the mean of x x^T, and what was seen of tables; on the CPU."""
        out = {}
        for name, squares in self.squares.items():
            n = self.tokens[name]
            out[name] = (squares * (0.5 * self.gradients.get(name, 0.0) / n / n)).cpu()
        for name, table in self.tables.items():
            out[name] = out.get(name, 0) + (table / self.calls[name]).cpu()
        return out


@contextmanager
def _watching(model: Transformer, sums: _Sums) -> Iterator[None]:
    """Hooks on every `Linear` and `Lookup` while it lasts."""

    def hook(name: str) -> Any:
        def see(module: Linear | Lookup, args: Any, out: Tensor) -> None:
            if isinstance(module, Linear):
                sums.watch(name, args[0], out)
            else:
                sums.watch_table(name, out, len(module.weight))

        return see

    watched = {f"{n}.weight": m for n, m in model.named_modules() if isinstance(m, Linear | Lookup)}
    handles = [m.register_forward_hook(hook(name)) for name, m in watched.items()]
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()


def _cost(error_NC: Tensor, hessian: Tensor) -> Tensor:
    """Hessian-weighted error of each row."""
    return ((error_NC @ hessian) * error_NC).sum(1)
