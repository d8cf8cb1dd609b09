"""A recipe: a whole system as data, from the model to the last scoring window.

    model -> train -> quantize -> codec -> windows, under a budget of bytes and seconds

`reported` is what the source says of itself, for the reader and for scaling; it changes nothing that runs. A recipe of
one's own is a `.py` file that defines `RECIPE`, most often as `edit(SOME_RECIPE, {...})`.
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
    """What a published system says of itself: bits per byte, artifact bytes, steps, seconds; None: it is silent."""

    bpb: Rate | None = None
    bytes: Count | None = None
    steps: Index | None = None
    seconds: Rate | None = None


@dataclass(frozen=True)
class Recipe:
    """One system. `plain` are the windows that quantization is judged by, `windows` those of the final number.

    `codec` None: the range coder, and per section whatever is smaller still. `adapt` learns from what is graded, score
    first, over `windows`; the final number is then the adapted one, and the one without stands beside it.
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
        """Raise `UserError` where a phase, the adapter or the packer needs what another part does not have."""
        if self.adapt is not None and self.adapt.by_document and not per_document(self.windows):
            raise UserError(f"adapt goes document by document, so windows must too: document:{self.windows.length},...")
        grids = [grid for _, grid in self.quant.table]
        if self.quant.fill and not any(hasattr(grid, "at_step") for grid in grids):
            raise UserError("quant.fill needs a grid of other steps: none of the table has at_step(step, widest).")
        if self.model.order is None:
            for i, phase in enumerate(self.train.phases):
                if phase.recur:
                    raise UserError(f"train.phases[{i}].recur needs a model.order: name the blocks it should run.")

    @property
    def digest(self) -> str:
        """Sixteen hex digits over everything that a run depends on."""
        return digest(replace(self, reported=Reported()))


def fit_to_data(recipe: Recipe, data: DataFolder) -> Recipe:
    """The recipe with the vocabulary, and BOS where it keeps documents apart, of the data's tokenizer."""
    bos = None if recipe.model.bos is None else data.bos
    return replace(recipe, model=replace(recipe.model, vocab=data.vocab, bos=bos))
