"""Dropout on the outputs of attention and MLP, in training only.

    x <- x + m A(x) / (1 - p),    m in {0, 1} per entry, 0 with probability p

Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout" (JMLR 2014). None of the published systems has it:
the track's ten minutes go by without seeing any text twice. It is for texts that a run goes through many times, which
small ones are. It can wait until then: `after` so many times through, only in a run that will come to `passes` of
them, since what begins late in a run costs more than it brings (docs/LOG.md). Scoring knows nothing of it.

Masks are drawn from the run's seed and the step (`training/loop.py`), so a resumed run repeats them; another split into
processes or micro-batches draws others.

p counts in 256ths, so that one drawn word serves eight entries: drawing is what dropout costs on a processor.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from pargolf.core.ranges import Rate, Within
from pargolf.model.residual import Lanes, Part, Residual, Serial
from pargolf.model.slots import Place


@dataclass(frozen=True)
class Dropout:
    """Residual slot: `join` joins what is left after `rate` of it went.

    It begins once the text was seen `after` times, in a run that goes through it `passes` times or more.
    """

    rate: Annotated[float, Within(0, 0.99)] = 0.1
    after: Rate = 0.0
    passes: Rate = 0.0
    join: Residual = Serial()

    @property
    def lanes(self) -> int:
        """As the join has them."""
        return self.join.lanes

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return DropoutModule(self, place)


class DropoutModule(nn.Module):
    """Lanes to lanes, as `join` does it; whole where no gradient is asked for."""

    def __init__(self, spec: Dropout, place: Place) -> None:
        super().__init__()
        self.rate, self.last_change, self.passes = spec.rate, spec.after, spec.passes
        self.begun = True
        self.join = spec.join.build(place)

    def follow_step(self, epoch: float, passes: float) -> None:
        """Begin once the text was seen often enough, where it will be."""
        self.begun = epoch >= self.last_change and passes >= self.passes

    def forward(self, lanes: Lanes, read_BTD: Tensor, attend: Part, feed: Part) -> Lanes:
        """Join attention and MLP, thinned in training."""
        if self.begun and self.training and torch.is_grad_enabled():
            attend, feed = self._thinned(attend), self._thinned(feed)
        out: Lanes = self.join(lanes, read_BTD, attend, feed)
        return out

    def _thinned(self, part: Part) -> Part:
        return lambda x_BTD: thinned(part(x_BTD), self.rate)


def thinned(x: Tensor, rate: float) -> Tensor:
    """Zero each entry with a probability of `rate`, rounded to 256ths, and scale the others so that the mean stays."""
    cut = round(256 * rate)
    words = torch.randint(-(2**63), 2**63 - 1, (x.numel() // 8 + 1,), device=x.device)
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= cut
    return x * (kept.to(x.dtype) * (256 / (256 - cut)))
