"""Stand-ins of the shipped form: the same numbers in fewer letters, without what only tells, checks or compares.

`program(recipe, shipped=True)` puts each in the place of the function whose arguments it has.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pargolf.core.events import Event, Packed, Step
from pargolf.core.world import World
from pargolf.data.folder import DataFolder
from pargolf.evaluate.score import Ledger, Score, suits
from pargolf.evaluate.windows import document_starts
from pargolf.run.pack import Unpacked, unpack
from pargolf.run.recipe import Recipe
from pargolf.run.score import Validation


def print_short(event: Event | Score | None, world: World) -> None:
    """The lines that others read: some steps, the sizes, the score with all its digits."""
    if isinstance(event, Score):
        sliding = event.windows.startswith("sliding")
        tag = "final_pargolf_sliding_window_exact" if sliding else "final_pargolf_roundtrip_exact"
        print(f"{tag} val_loss:{event.loss:.8f} val_bpb:{event.bpb:.8f}")
        print(f"val_loss:{event.loss!r}\nval_bpb:{event.bpb!r}", flush=True)
    if isinstance(event, Step) and world.main and (event.step < 11 or event.step % 50 == 0):
        time = f"train_time:{1000 * event.seconds:.0f}ms"
        print(f"step:{event.step} train_loss:{event.loss:.4f} {time}", flush=True)
    if isinstance(event, Packed):
        code, model = event.code_bytes, event.model_bytes
        print(f"Serialized model pargolf: {model} bytes\nCode size: {code} bytes")
        print(f"Total submission size pargolf: {code + model} bytes", flush=True)


def unproved(validation: Validation) -> None:
    """Nothing: the run proved the bytes of its data."""


def unchanged(recipe: Recipe, data: DataFolder) -> Recipe:
    """The recipe as it is; it was fitted to the data of its run."""
    if data.vocab != recipe.model.vocab:
        raise SystemExit("train_gpt: this data has another vocabulary than the recipe.")
    return recipe


def write_plain(path: str | Path, data: bytes) -> None:
    """Write the bytes."""
    Path(path).write_bytes(data)


def untold(*what: Any, **more: Any) -> None:
    """No event."""


def opened_whole(artifact: str) -> Unpacked:
    """The model of an artifact file; whatever is wrong with it is one thing."""
    try:
        return unpack(Path(artifact).read_bytes())
    except Exception as error:
        raise SystemExit(f"train_gpt: The artifact cannot be read: {error!r}") from error


def adapted_alone(unpacked: Unpacked, validation: Validation) -> Iterator[Event | Score]:
    """Grade with the artifact's adapter, and not once more without it."""
    adapter, tokens, windows = unpacked.adapt, validation.tokens, unpacked.windows
    assert adapter is not None
    starts = document_starts(tokens, validation.data.bos)
    ledger = Ledger(
        tokens,
        byte_counts=validation.byte_counts,
        vocab=unpacked.model.spec.vocab,
        documents=starts if adapter.by_document else (),
    )
    for _ in adapter.run(
        unpacked.model, ledger, windows, starts=starts, batch_windows=suits(windows, "cpu"), device="cpu"
    ):
        pass
    graded = ledger.score(windows, seconds=0.0)
    print(f"legal_ttt_exact val_loss:{graded.loss:.8f} val_bpb:{graded.bpb:.8f}")
    yield graded
