"""Weight averaging: pack an average of the weights over training instead of the last step's.

    EMA(decay)               e = d e + (1-d) w every step, from the initial weights, float32
    SWA(below, every)        mean of snapshots taken every `every` steps once the learning-rate multiplier is
                             under `below`; .5 in early records, .2 ("tight SWA") in later ones
    LAWA(latest, every)      mean of the `latest` snapshots, at any learning rate

An average has `update`, called after each step, and `weights`, called at the end (None when it has seen nothing). Its
state goes into checkpoints as named tensors, through `state` and `restore`.
`tables_bfloat16` reproduces a published fault: averaging in bfloat16 loses every step smaller than half an ulp
(pull requests 1009, 295).
Source: Izmailov et al. 2018 (arXiv:1803.05407); Kaddour 2022 (arXiv:2209.14981) for LAWA, whose defaults are those of
pull request 549; EMA .997 from pull request 374.
"""

from collections import deque
from dataclasses import dataclass, replace
from typing import Annotated, Protocol

import torch
from torch import Tensor

from pargolf.core.ranges import Count, Fraction, Positive, Within
from pargolf.core.smaller import RunLength, Smaller


class Average(Protocol):
    """A running average over named weights."""

    def update(self, weights: dict[str, Tensor], *, step: int, lr: float) -> None:
        """See the weights after a step; `lr` is the multiplier that the step used."""
        ...

    def weights(self) -> dict[str, Tensor] | None:
        """The average so far, or None."""
        ...

    def state(self) -> dict[str, Tensor]:
        """The state as named tensors."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned, on the device of its tensors."""
        ...


class AverageSpec(Protocol):
    """An average as data."""

    def begin(self, weights: dict[str, Tensor]) -> Average:
        """Start from the weights as they are."""
        ...


@dataclass(frozen=True)
class EMA:
    """Exponential moving average; `tables_bfloat16` keeps embedding tables in bfloat16, as published in 1009."""

    decay: Fraction = 0.997
    tables_bfloat16: bool = False

    def begin(self, weights: dict[str, Tensor]) -> Average:
        """Start from a copy."""
        return RunningEMA(self, weights)

    def at_length(self, run: RunLength) -> "EMA":
        """Average over the same share of the run."""
        return replace(self, decay=max(0.5, 1 - (1 - self.decay) / run.ratio))


class RunningEMA:
    """The average of an `EMA`."""

    def __init__(self, spec: EMA, weights: dict[str, Tensor]) -> None:
        self.decay = spec.decay
        low = {name for name in weights if spec.tables_bfloat16 and _is_table(name)}
        self._mean = {
            name: w.detach().to(torch.bfloat16 if name in low else w.dtype).clone() for name, w in weights.items()
        }

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor], *, step: int, lr: float) -> None:
        """Move towards `weights`."""
        means = list(self._mean.values())
        torch._foreach_mul_(means, self.decay)
        torch._foreach_add_(
            means, [w.to(m.dtype) for w, m in zip(weights.values(), means, strict=True)], alpha=1 - self.decay
        )

    def weights(self) -> dict[str, Tensor] | None:
        """The average."""
        return {name: mean.float() for name, mean in self._mean.items()}

    def state(self) -> dict[str, Tensor]:
        """The means by name."""
        return dict(self._mean)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore the means."""
        self._mean = {name: state[name].clone() for name in self._mean}


@dataclass(frozen=True)
class SWA:
    """Mean of snapshots; `tables_bfloat16` sums embedding tables in bfloat16, as published in 295."""

    below: Positive = 0.2
    every: Count = 50
    tables_bfloat16: bool = False

    def begin(self, weights: dict[str, Tensor]) -> Average:
        """Start empty."""
        return RunningSWA(self)

    def at_length(self, run: RunLength) -> "SWA":
        """Take the same number of snapshots."""
        return replace(self, every=max(1, round(self.every * run.ratio)))

    def at_scale(self, to: Smaller) -> "SWA":
        """Unchanged: snapshots depend only on the length of the run."""
        return self


class RunningSWA:
    """The average of an `SWA`."""

    def __init__(self, spec: SWA) -> None:
        self.spec = spec
        self.count = 0
        self._sum: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor], *, step: int, lr: float) -> None:
        """Take a snapshot when one is due."""
        if lr >= self.spec.below or step % self.spec.every:
            return
        self.count += 1
        for name, w in weights.items():
            kind = torch.bfloat16 if self.spec.tables_bfloat16 and _is_table(name) else torch.float32
            self._sum[name] = self._sum[name] + w.to(kind) if name in self._sum else w.detach().to(kind).clone()

    def weights(self) -> dict[str, Tensor] | None:
        """The mean, or None before the first snapshot."""
        return {name: s.float() / self.count for name, s in self._sum.items()} if self.count else None

    def state(self) -> dict[str, Tensor]:
        """The sums by name, and the number of snapshots."""
        return {"": torch.tensor(self.count), **self._sum}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore the sums."""
        self.count = int(state[""])
        self._sum = {name: s.clone() for name, s in state.items() if name}


@dataclass(frozen=True)
class LAWA:
    """Mean of the `latest` snapshots, one every `every` steps."""

    latest: Annotated[int, Within(1, 1024)] = 10
    every: Count = 100

    def begin(self, weights: dict[str, Tensor]) -> Average:
        """Start empty."""
        return RunningLAWA(self)

    def at_length(self, run: RunLength) -> "LAWA":
        """Take snapshots at the same shares of the run."""
        return replace(self, every=max(1, round(self.every * run.ratio)))

    def at_scale(self, to: Smaller) -> "LAWA":
        """Unchanged: snapshots depend only on the length of the run."""
        return self


class RunningLAWA:
    """The average of a `LAWA`."""

    def __init__(self, spec: LAWA) -> None:
        self.every = spec.every
        self._snapshots: deque[dict[str, Tensor]] = deque(maxlen=spec.latest)

    @torch.no_grad()
    def update(self, weights: dict[str, Tensor], *, step: int, lr: float) -> None:
        """Take a snapshot when one is due, and drop the oldest."""
        if step % self.every == 0:
            self._snapshots.append({name: w.detach().float().clone() for name, w in weights.items()})

    def weights(self) -> dict[str, Tensor] | None:
        """The mean, or None before the first snapshot."""
        if not self._snapshots:
            return None
        count = len(self._snapshots)
        return {name: torch.stack([s[name] for s in self._snapshots]).sum(0) / count for name in self._snapshots[0]}

    def state(self) -> dict[str, Tensor]:
        """The snapshots, oldest first."""
        return {f"{i}.{name}": w for i, snapshot in enumerate(self._snapshots) for name, w in snapshot.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore the snapshots."""
        self._snapshots.clear()
        rows: dict[int, dict[str, Tensor]] = {}
        for key, w in state.items():
            index, _, name = key.partition(".")
            rows.setdefault(int(index), {})[name] = w.clone()
        self._snapshots.extend(rows[i] for i in sorted(rows))


def _is_table(name: str) -> bool:
    """Whether this is an embedding table, which the published scripts keep in bfloat16."""
    return name.endswith((".table.weight", "embed.tokens.weight"))
