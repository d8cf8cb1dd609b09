"""Calibration: estimate from text what an error in each weight costs, in nats per token; Hessians for GPTQ and solver.

    H = E[x x^T] * mean_i E[g_i^2] / 2      x: a layer's inputs, g: gradients of the loss at its outputs

GPTQ itself needs only E[x x^T]. Half the mean squared gradient (the Fisher information, as in the K-FAC papers,
arXiv:1503.05671) puts the errors of all layers on one scale, nats per token, so that they can be compared. For an
embedding table H = E[g g^T] / 2, over the vectors that are looked up, divided by its number of rows. The tied embedding
is used as matrix and as table, and gets the sum of both.

The batches come from training data, after those of the last step; or from text that the model samples (`own_text`).
With its own text pull request 1019 lost .3 mBPB compared with validation text, but needed no data.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pargolf.core.world import abilities
from pargolf.model.cache import Cache
from pargolf.model.linear import Linear, Lookup
from pargolf.model.transformer import Transformer
from pargolf.quant.gptq import Hessians, OwnText


def calibrate(model: Transformer, batches: Iterable[tuple[Tensor, Tensor]]) -> Hessians:
    """Hessians of every `Linear` and `Lookup` from (ids, targets) batches of text, (B, T) each."""
    sums = _Sums()
    tied = model.spec.head.tied
    half = abilities(model.embed.tokens.weight.device).half
    training = model.training
    model.eval()  # as it will be scored, without dropout
    tables = [module.weight for module in model.modules() if isinstance(module, Lookup)]
    with _watching(model, sums):
        for ids_BT, targets_BT in batches:
            with torch.enable_grad(), torch.autocast(ids_BT.device.type, torch.bfloat16, enabled=half):
                h_BTD = model.hidden(ids_BT)
                z_BTV = model.head.scores(h_BTD, model.embed.tokens.weight)
                if tied:
                    sums.watch("embed.tokens.weight", h_BTD, z_BTV)
                # A sum, not a mean, so that the gradient of a token does not depend on the size of the batch.
                loss = model.head.loss_of_scores(z_BTV, targets_BT) * targets_BT.numel()
            # Asking only for the tables' gradients avoids computing those of the matrices.
            torch.autograd.grad(loss, tables, allow_unused=True)
    model.train(training)
    return sums.hessians()


def own_text(model: Transformer, shape: tuple[int, ...], how: OwnText, *, seed: int) -> Tensor:
    """Sample sequences from the model, (rows, length + 1), starting with BOS (id 1 if the model has none)."""
    rows, length = shape
    random = torch.Generator().manual_seed(seed)
    start = 1 if model.spec.bos is None else model.spec.bos
    device = model.embed.tokens.weight.device
    ids_BT = torch.full((rows, 1), start, dtype=torch.long, device=device)
    was_training = model.training
    model.eval()
    cache = Cache(model, length)
    while ids_BT.shape[1] <= length:
        last_BV = cache(ids_BT[:, -1:]).float().cpu()
        next_B1 = torch.multinomial((last_BV / how.temperature).softmax(-1), 1, generator=random)
        ids_BT = torch.cat([ids_BT, next_B1.to(device)], 1)
    model.train(was_training)
    return ids_BT


class _Sums:
    """Running sums by parameter: x x^T over tokens, and squared gradients over outputs; g g^T for tables."""

    def __init__(self) -> None:
        self.squares: dict[str, Tensor] = {}
        self.tables: dict[str, Tensor] = {}
        self.tokens: dict[str, int] = {}
        self.gradients: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def watch(self, name: str, x: Tensor, y: Tensor) -> None:
        """Add the inputs `x` of one call, and later the gradient at its outputs `y`."""
        x_NC = x.detach().reshape(-1, x.shape[-1]).float()
        with torch.autocast(x.device.type, enabled=False):  # autocast would round the sums
            self.squares[name] = self.squares.get(name, 0) + x_NC.T @ x_NC
        self.tokens[name] = self.tokens.get(name, 0) + len(x_NC)
        if y.requires_grad:
            y.register_hook(lambda g: self._gradient(name, g))  # type: ignore[no-untyped-call]

    def _gradient(self, name: str, g: Tensor) -> None:
        # Mean over outputs, sum over tokens; `hessians` divides by the number of tokens.
        self.gradients[name] = self.gradients.get(name, 0.0) + float(g.float().square().mean(-1).sum())

    def watch_table(self, name: str, y: Tensor, rows: int) -> None:
        """Add, later, the gradient at the vectors `y` that were looked up in a table of `rows` rows."""

        def see(g: Tensor) -> None:
            g_NC = g.reshape(-1, g.shape[-1]).float()
            self.tables[name] = self.tables.get(name, 0) + g_NC.T @ g_NC * (0.5 / len(g_NC) / rows)
            self.calls[name] = self.calls.get(name, 0) + 1

        if y.requires_grad:
            y.register_hook(see)  # type: ignore[no-untyped-call]

    def hessians(self) -> Hessians:
        """The Hessians by name: of matrices, of tables, or their sum; on the CPU."""
        out = {}
        for name, squares in self.squares.items():
            n = self.tokens[name]
            out[name] = (squares * (0.5 * self.gradients.get(name, 0.0) / n / n)).cpu()
        for name, table in self.tables.items():
            out[name] = out.get(name, 0) + (table / self.calls[name]).cpu()
        return out


@contextmanager
def _watching(model: Transformer, sums: _Sums) -> Iterator[None]:
    """Hook every `Linear` and `Lookup` while the block runs."""

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
