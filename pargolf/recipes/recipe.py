"""A recipe: a whole system as data, from the model to the last scoring window.

    model -> train -> quantize -> codec -> windows, under a budget of bytes and seconds

`reported` holds the source's own numbers, for the reader and for scaling; it does not change a run. A user's recipe is
a `.py` file that defines `RECIPE`, usually as `edit(SOME_RECIPE, {...})`.
"""

from dataclasses import dataclass, replace

from pargolf.core.budget import Budget
from pargolf.core.errors import UserError
from pargolf.core.ranges import Count, Index, Rate
from pargolf.core.spec import digest
from pargolf.data.folder import DataFolder
from pargolf.evaluate.adapters.adapter import Adapter
from pargolf.evaluate.windows import Plain, Windows, per_document
from pargolf.model.transformer import Model
from pargolf.packing.codecs import Codec
from pargolf.quant.plan import Quantize
from pargolf.training.loop import Train


@dataclass(frozen=True)
class Reported:
    """The numbers a published system reports: bits per byte, artifact bytes, steps, seconds; None: not reported."""

    bpb: Rate | None = None
    bytes: Count | None = None
    steps: Index | None = None
    seconds: Rate | None = None


@dataclass(frozen=True)
class Recipe:
    """One system as data.

    plain: the windows for scores before and after quantization
    windows: the windows of the final score
    codec: compression of the artifact; None means the range coder, or for each section a smaller general codec
    adapt: score-first adaptation over `windows`; the final score is then the adapted one, beside the one without
    """

    name: str
    source: str
    model: Model
    train: Train
    quant: Quantize
    codec: Codec | None = None
    plain: Windows = Plain(1024)
    windows: Windows = Plain(1024)
    adapt: Adapter | None = None
    budget: Budget = Budget()
    reported: Reported = Reported()

    def check_fields(self) -> None:
        """Raise `UserError` when a phase, the adapter or the packer needs something that another part does not have."""
        if self.adapt is not None and self.adapt.by_document and not per_document(self.windows):
            raise UserError(f"adapt goes document by document, so windows must too: document:{self.windows.length},...")
        grids = [grid for _, grid in self.quant.table]
        if self.quant.fill and not any(hasattr(grid, "at_step") for grid in grids):
            raise UserError("quant.fill needs a grid with a variable step, which has at_step(step, widest).")
        if self.model.order is None:
            for i, phase in enumerate(self.train.phases):
                if phase.recur:
                    raise UserError(f"train.phases[{i}].recur needs a model.order: name the blocks it should run.")

    @property
    def digest(self) -> str:
        """Sixteen hex digits of a hash over everything that a run depends on."""
        return digest(replace(self, reported=Reported()))


def fit_to_data(recipe: Recipe, data: DataFolder) -> Recipe:
    """The recipe with the vocabulary of the data's tokenizer, and its BOS if the recipe keeps documents apart."""
    bos = None if recipe.model.bos is None else data.bos
    return replace(recipe, model=replace(recipe.model, vocab=data.vocab, bos=bos))
