"""The seconds reserved for the end of a run, measured by a rehearsal and adjusted to the load on the machine.

    seconds = 2 needed load + .5,   load = recent / usual, between 1 and 4

`needed` is the time of a rehearsal on the initial weights: calibrate, pack, write. It shows before any training whether
the model can meet the cap at all. On a shared machine other jobs may start later and slow
down packing as they slow down the steps: `usual` is the median time of the first 16 steps, soon after the rehearsal,
`recent` that of the latest 16. The factor 2 allows for an even slower moment during packing.
"""

import json
import statistics
from collections import deque

import torch
from torch import Tensor

from pargolf.core.budget import Clock
from pargolf.core.devices import from_first, halving
from pargolf.core.world import World
from pargolf.kernels.compiled import compiled_kernels
from pargolf.model.transformer import Transformer
from pargolf.quant.calibrate import calibrate, own_text
from pargolf.quant.gptq import Hessians, OwnText
from pargolf.recipes.recipe import Recipe
from pargolf.run.pack import fit, on_cpu
from pargolf.run.resume import Checkpointer
from pargolf.ship.size import is_counted

_REHEARSED_CODE = 25_000
"""The bytes of code that a rehearsal of packing assumes, because the script may not be written yet."""
_FINER = 2.5
"""How many times larger than the recipe's own artifact the one with the finest steps can be, with a margin."""
_STEPS = 16
_HEAVIEST = 4.0


class Reserve:
    """The part of `total` seconds to keep for the end, which took `needed` seconds in rehearsal."""

    def __init__(self, total: float, needed: float) -> None:
        self.total, self.needed = total, needed
        self.load = 1.0
        self._first: list[float] = []
        self._latest: deque[float] = deque(maxlen=_STEPS)

    @property
    def seconds(self) -> float:
        """The seconds that are reserved."""
        return 2.0 * self.needed * self.load + 0.5

    @property
    def limit(self) -> float:
        """Seconds after which nothing else may begin."""
        return self.total - self.seconds

    def note_step(self, seconds: float, *, slower: float = 0.0) -> float:
        """Note the seconds of a step, of which `slower` are due to later phases; returns the new limit."""
        if len(self._first) < _STEPS:
            self._first.append(seconds)
        self._latest.append(max(seconds - slower, 0.0))
        if len(self._latest) == _STEPS:
            usual, recent = statistics.median(self._first), statistics.median(self._latest)
            self.load = min(max(recent / usual, 1.0), _HEAVIEST) if usual > 0 else 1.0
        return self.limit


def rehearse(
    recipe: Recipe, model: Transformer, world: World, checkpointer: Checkpointer | None, clock: Clock
) -> tuple[float, float]:
    """Seconds of (calibration and packing, writing the weights), measured on the first process and sent to all."""
    times = from_first(world, lambda: json.dumps(_times(recipe, model, world, checkpointer, clock)).encode())
    packing, writing = json.loads(times)
    return packing, writing


def _times(
    recipe: Recipe, model: Transformer, world: World, checkpointer: Checkpointer | None, clock: Clock
) -> tuple[float, float]:
    """Measure the times of `rehearse` on this process."""
    packing, start = 0.0, clock.seconds
    weights, hessians, solver = on_cpu(model), None, recipe.quant.solver
    if solver is not None:
        share = (recipe.train.batch_tokens // world.size // recipe.train.seq_len, recipe.train.seq_len)
        ids_BT = torch.randint(recipe.model.vocab, share).to(world.device)
        rows = max(recipe.train.micro_tokens // recipe.train.seq_len, 1)
        measured: list[Hessians] = []

        def measure(rows: int) -> None:
            with compiled_kernels(half=recipe.train.half is True):
                measured.append(calibrate(model, ((x, x) for x in torch.split(ids_BT, rows))))

        halving(rows, measure, world.device)
        hessians = measured[-1]
        packing = (solver.batches - 1) * (clock.seconds - start)
        if solver.calibration is not None:
            packing += solver.batches * _sampling_seconds(model, ids_BT, clock)
    # Zeros pack faster than what they will have become.
    busy = {name: w if bool(w.any()) else torch.randn_like(w) * 0.02 for name, w in weights.items()}
    began = clock.seconds
    with compiled_kernels():
        fitted, artifact = fit(
            recipe,
            busy,
            tokenizer="rehearsal",
            cap=recipe.budget.bytes,
            hessians=hessians,
            fill=False,
            code=None if is_counted(recipe) else _REHEARSED_CODE,
        )
    # Filling a cap takes two packings, sometimes three, but only one if the finest steps fit. If the recipe's own steps
    # do not fit, the rehearsal has already solved for others, like the final packing.
    fills = recipe.quant.fill and fitted.quant == recipe.quant and _FINER * len(artifact) > recipe.budget.bytes
    packing += began - start + (clock.seconds - began) * (2.5 if fills else 1.0)
    began = clock.seconds
    if checkpointer is not None:
        checkpointer.folder.write_weights(weights)
        checkpointer.folder["weights.safetensors"].unlink()
    return packing, clock.seconds - began


def _sampling_seconds(model: Transformer, ids_BT: Tensor, clock: Clock) -> float:
    """Estimate the seconds to sample a batch from the model, from its first tokens; later ones take longer."""
    began, few = clock.seconds, min(8, ids_BT.shape[1])
    own_text(model, (len(ids_BT), few), OwnText(), seed=0)
    return 2 * (clock.seconds - began) * ids_BT.shape[1] / few
