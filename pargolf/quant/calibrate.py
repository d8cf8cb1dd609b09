"""The cost of an error in each weight, in nats per token, measured on batches of text: the Hessians.

    H = E[x x^T] * mean_i E[g_i^2] / 2      x: a layer's inputs, g: gradients of the loss at its outputs

GPTQ's solution needs E[x x^T] alone; half the mean squared gradient (the Fisher information of the K-FAC papers,
arXiv:1503.05671) puts the error of all layers on one scale, nats per token, so that they can be weighed against each
other. A table's rows are inputs themselves: H = E[g g^T] / 2 of what is looked up, over its rows. The tied embedding
is a matrix and a table, and has the sum.
The batches are of training data, after the last step's; or of the model's own text (`own_text`), by which pull request
1019 lost .3 mBPB against validation text, and won the freedom not to touch any data.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
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
                capped = model.head.bounded(z_BTV.flatten(0, 1).float())
                # Summed, so that a token's gradient does not shrink with the batch.
                loss = F.cross_entropy(capped, targets_BT.flatten(), reduction="sum")
            # Matrices' own gradients are not needed; asking for those of tables spares them.
            torch.autograd.grad(loss, tables, allow_unused=True)
    model.train(training)
    return sums.hessians()


def own_text(model: Transformer, shape: tuple[int, ...], how: OwnText, *, seed: int) -> Tensor:
    """Sequences of the model's own, of `shape` (rows, length) and an id more each, from BOS on (piece 1 without it)."""
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
        """Count the inputs `x` of one call, and the gradient that will reach its outputs `y`."""
        x_NC = x.detach().reshape(-1, x.shape[-1]).float()
        with torch.autocast(x.device.type, enabled=False):  # which would round the sums
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
