"""The program inside a submission's one file: train, pack and score a recipe, or score an artifact of it.

    python train_gpt.py --data DIR                              train, pack, unpack, score
    python train_gpt.py --evaluate model.pargolf --data DIR     score an artifact

`ship/program.py` puts this and everything it needs into one file, readable or squeezed; there `OWN_RECIPE` is the run's
recipe and `OWN_PARTS` the classes and functions that it names. The numbers are the run's, from the same code: the byte
table of `data`, `packing.reader`, `evaluate.grades`. Some work of a run is left out: proving the bytes, the ledger's
checks, validation during training, checkpoints.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from pargolf.core import spec
from pargolf.core.budget import Clock
from pargolf.core.errors import UserError
from pargolf.core.events import Step
from pargolf.core.world import World, join_world
from pargolf.data.byte_table import ByteCounts, Vocabulary, read_vocabulary
from pargolf.data.shards import open_split
from pargolf.data.sidecar import open_sidecar, sidecar_paths
from pargolf.data.tokenizer_files import find_tokenizer
from pargolf.evaluate.adapters.adapter import Unadapted
from pargolf.evaluate.grades import Grades
from pargolf.evaluate.score import suits
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import document_starts
from pargolf.model.transformer import Transformer
from pargolf.packing.codecs import CODECS, Codec
from pargolf.packing.layout import DIGEST, body_digest
from pargolf.packing.reader import read_header, read_tensors
from pargolf.quant.gptq import Hessians
from pargolf.quant.lqer import corrected
from pargolf.recipes.recipe import Recipe
from pargolf.run.pack import filled, fit, pack, values_of
from pargolf.run.training import collect_hessians
from pargolf.training.loop import Training

OWN_RECIPE: Recipe | None = None
OWN_PARTS: dict[str, Any] = {}
OWN_SIZE = 0
"""Bytes of the squeezed form, which the readable form counts too, like the run; 0 in the squeezed form itself."""
SOLVES = True
"""Whether the recipe has a solver, which needs Hessians."""
FITS = True
"""Whether packing solves grids for the cap, like the run."""
DATA = "data/datasets/fineweb10B_sp1024"


def main() -> None:
    """Train, pack and score; with `--evaluate`, only score."""
    words = argparse.ArgumentParser()
    defaults = {"evaluate": None, "data": DATA, "tokenizer": None, "out": "model.pargolf", "device": None}
    for word, default in (defaults | {"seed": 1337, "threads": 0}).items():
        words.add_argument("--" + word, default=default, type=str if default is None else type(default))
    options = words.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    world, folder = join_world(options.device), Path(options.data)
    try:
        vocabulary = open_vocabulary(folder, options.tokenizer)
        if vocabulary.size != read_recipe().model.vocab:
            raise SystemExit("train_gpt: this data has another vocabulary than the recipe.")
        if not options.evaluate:
            train(folder, vocabulary, options.out, options.seed, world)
        if world.main:
            evaluate(options.evaluate or options.out, folder, vocabulary, world)
    except (UserError, OSError) as error:
        raise SystemExit(f"train_gpt: {error}") from error


def open_vocabulary(folder: Path, tokenizer: str | None) -> Vocabulary:
    """The vocabulary of a data folder; `tokenizer` names the file if it is not near the shards."""
    record = folder / "meta.json"
    if record.is_file() and json.loads(record.read_text()).get("tokenizer") == "bytes":
        return read_vocabulary(None)
    return read_vocabulary(Path(tokenizer or find_tokenizer(folder)).read_bytes())


def train(folder: Path, vocabulary: Vocabulary, out: str, seed: int, world: World) -> None:
    """Train the recipe within its seconds, including packing, and write the artifact."""
    recipe = read_recipe()
    clock = Clock()
    torch.manual_seed(seed)
    model = recipe.model.build(seed).to(world.device)

    def packed(hessians: Hessians | None = None) -> bytes:
        weights = {name: p.detach().cpu() for name, p in model.named_parameters()}
        if FITS:
            cap = recipe.budget.bytes
            return fit(recipe, weights, tokenizer=vocabulary.tokenizer, cap=cap, hessians=hessians)[1]
        return pack(recipe, weights, tokenizer=vocabulary.tokenizer, hessians=hessians)

    packed()  # a rehearsal shows how long packing takes
    seconds = recipe.budget.train_seconds if recipe.train.seconds is None else recipe.train.seconds
    bounded = recipe.train.steps is None or recipe.train.seconds is not None
    limit = seconds - 2 * clock.seconds - 0.2 if bounded else float("inf")
    shards = open_split(folder, "train")
    training = Training(recipe.train, model, shards, seed=seed, clock=clock, seconds=limit, world=world)
    if bounded:
        training.warm_up()
    for event in training.run():
        if isinstance(event, Step) and world.main and (event.step < 11 or event.step % 50 == 0):
            time = f"train_time:{1000 * event.seconds:.0f}ms"
            print(f"step:{event.step} train_loss:{event.loss:.4f} {time}", flush=True)
    hessians = None
    if SOLVES:
        assert recipe.quant.solver is not None
        hessians = collect_hessians(recipe.quant.solver, training)
    if world.main:
        artifact = packed(hessians)
        Path(out).write_bytes(artifact)
        model_bytes, code = len(artifact), own_bytes(recipe)
        print(f"Serialized model pargolf: {model_bytes} bytes\nCode size: {code} bytes")
        print(f"Total submission size pargolf: {code + model_bytes} bytes", flush=True)


def evaluate(artifact: str, folder: Path, vocabulary: Vocabulary, world: World) -> None:
    """Unpack an artifact and score every validation token once; the last printed line has all digits."""
    recipe = read_recipe()
    model, tokenizer = unpacked(Path(artifact).read_bytes(), recipe)
    if vocabulary.tokenizer != tokenizer:
        raise SystemExit(f"train_gpt: {folder} has another tokenizer than {artifact} was trained with.")
    text = open_text(folder, vocabulary)
    grades = Grades(text)
    adapter = Unadapted() if recipe.adapt is None else recipe.adapt
    starts, rows = document_starts(text.tokens, text.bos), suits(recipe.windows, world.device)
    for _ in adapter.run(
        model.to(world.device), grades, recipe.windows, starts=starts, batch_windows=rows, device=world.device
    ):
        pass
    kind = "sliding_window" if getattr(recipe.windows, "word", "") == "sliding" else "roundtrip"
    tag = f"final_pargolf_{kind}" if recipe.adapt is None else "legal_ttt"
    print(f"{tag}_exact val_loss:{grades.loss:.8f} val_bpb:{grades.bpb:.8f}")
    print(f"val_loss:{grades.loss!r}\nval_bpb:{grades.bpb!r}", flush=True)


def open_text(folder: Path, vocabulary: Vocabulary) -> Text:
    """The validation text. Its bytes are counted from the byte files beside the shards, else from the byte table."""
    tokens, sidecars = open_split(folder, "val"), sidecar_paths(folder)
    byte_counts = open_sidecar(sidecars, tokens) if sidecars else ByteCounts(vocabulary.table, tokens)
    return Text(tokens, byte_counts, vocabulary.size, vocabulary.bos)


def unpacked(data: bytes, recipe: Recipe) -> tuple[Transformer, str]:
    """The model of an artifact of this recipe, and the SHA-256 of its tokenizer."""
    try:
        header, start = read_header(data)
        meta = header["meta"]
        if body_digest(data[:-DIGEST]) != data[-DIGEST:] or meta["model"] != spec.dump(recipe.model):
            raise SystemExit("train_gpt: The artifact is damaged, or another model's.")
        values = {tensor.name: values_of(tensor) for tensor in read_tensors(header, data, start, codec=recipe.codec)}
    except Exception as error:
        raise SystemExit(f"train_gpt: The artifact cannot be read: {error!r}") from error
    return filled(recipe.model, values if recipe.quant.correct is None else corrected(values)), meta["tokenizer"]


def codec_name(codec: Codec) -> str:
    """The name of the package's codec in an artifact; replaces `stored_as`."""
    return codec.name


def named_codec(name: str) -> Codec:
    """The package's codec of this name; replaces `codec_of`."""
    return CODECS[name]


def read_recipe() -> Recipe:
    """The recipe of this file."""
    assert OWN_RECIPE is not None
    return OWN_RECIPE


def own_bytes(recipe: Recipe, *, fitted: bool = False) -> int:
    """Bytes of the code that count; replaces `ship.size.count_code`."""
    return OWN_SIZE or Path(__file__).stat().st_size


def load_part(value: Any, kind: Any = None, *, within: tuple[str, ...] = (), at: str = "") -> Any:
    """Load what `dump` wrote, with the parts that this recipe names, since others are missing; replaces `spec.load`."""
    if isinstance(value, list):
        return tuple(load_part(item) for item in value)
    if not isinstance(value, dict):
        return value
    address = value.get("is", value.get("fn"))
    if address not in OWN_PARTS:
        raise UserError(f"{address!r} is no part of this recipe. Was the artifact made by another one?")
    part = OWN_PARTS[address]
    return part if "fn" in value else part(**{key: load_part(x) for key, x in value.items() if key != "is"})


def part_address(thing: Any) -> str:
    """The name of a part, for `load_part`; replaces `spec._address`."""
    return next(address for address, part in OWN_PARTS.items() if part is thing)
