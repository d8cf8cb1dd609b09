"""The program inside a submission's one file: train, pack and score a recipe, or score an artifact of it.

    python train_gpt.py --data DIR                              train, pack, unpack, score
    python train_gpt.py --evaluate model.pargolf --data DIR     score what the artifact holds

`flatten` gathers this and what it needs; there `OWN_RECIPE` is the run's recipe and `OWN_PARTS` the classes and
functions that it names. What is printed has the shapes of the published logs; the last line has every digit.
The shipped form has `short.py` in the place of this module's `main`. What the bytes rest on was proved by the run that
this program ships with, and is not proved again.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pargolf.core.budget import Clock
from pargolf.core.errors import UserError
from pargolf.core.events import Event, Packed, Started
from pargolf.core.files import write_bytes
from pargolf.core.world import World, join_world
from pargolf.data.folder import DataFolder, open_data
from pargolf.evaluate.adapted import Adapted, score_adapted
from pargolf.evaluate.score import Score
from pargolf.evaluate.text import Text
from pargolf.packing.codecs import CODECS, Codec
from pargolf.quant.gptq import Hessians
from pargolf.recipes.recipe import Recipe, fit_to_data
from pargolf.run.pack import Unpacked, fit, pack, unpack
from pargolf.run.score import open_text, score_together, scored, tokenizer_digest
from pargolf.run.training import _hessians
from pargolf.training.loop import Training
from pargolf.watch.runlog import RunLog

OWN_RECIPE: Recipe | None = None
OWN_DIGEST = ""
OWN_SIZE = 0
OWN_PARTS: dict[str, Any] = {}
DATA = "data/datasets/fineweb10B_sp1024"


def main() -> None:
    """Read the words of the command line and do what they say."""
    words = argparse.ArgumentParser(description="Train, pack and score; or score an artifact.")
    words.add_argument("--evaluate", metavar="ARTIFACT", help="only score this artifact")
    words.add_argument("--data", default=DATA, help="folder of shards")
    words.add_argument("--tokenizer", help="the .model file, where it is not found near the shards")
    words.add_argument("--out", default="model.pargolf", help="where the artifact goes")
    words.add_argument("--seed", type=int, default=1337)
    words.add_argument("--threads", type=int, help="CPU threads")
    words.add_argument("--device", help="cpu or cuda")
    said = words.parse_args()
    if said.threads:
        torch.set_num_threads(said.threads)
    world = join_world(said.device)
    try:
        data = open_data(said.data, tokenizer=said.tokenizer)
        if not said.evaluate:
            for event in train_and_pack(data, said.out, seed=said.seed, world=world):
                print_event(event, world)
        if world.main:
            for graded in evaluate(said.evaluate or said.out, data, world):
                print_event(graded, world)
    except (UserError, OSError) as error:
        raise SystemExit(f"train_gpt: {error}") from error


def print_event(event: Event | Score, world: World) -> None:
    """Print an event as the published logs do, and a score with all its digits."""
    if isinstance(event, Score):
        print(f"val_loss:{event.loss!r}\nval_bpb:{event.bpb!r}", flush=True)
    elif world.main:
        for line in _log().lines(event):
            print(line, flush=True)


@cache
def _log() -> RunLog:
    """The log of this process."""
    return RunLog()


def train_and_pack(data: DataFolder, out: str, *, seed: int, world: World) -> Iterator[Event]:
    """Train the recipe inside its seconds, packing included, and write the artifact."""
    recipe = fit_to_data(read_recipe(), data)
    clock = Clock()
    torch.manual_seed(seed)
    model = recipe.model.build(seed).to(world.device)
    weights = dict(model.named_parameters())
    packed(recipe, {name: p.detach().cpu() for name, p in weights.items()}, tokenizer="rehearsal")
    seconds = recipe.budget.train_seconds if recipe.train.seconds is None else recipe.train.seconds
    bounded = recipe.train.steps is None or recipe.train.seconds is not None
    limit = seconds - 2 * clock.seconds - 0.2 if bounded else float("inf")
    training = Training(recipe.train, model, data.train, seed=seed, clock=clock, seconds=limit, world=world)
    if bounded:
        training.warm_up()
    yield started(recipe, data, seed, limit, world, sum(p.numel() for p in weights.values()))
    yield from training.run()
    trained = {name: p.detach().cpu() for name, p in model.named_parameters()}
    hessians = seen_by(recipe, training)
    if world.main:
        held = packed(recipe, trained, tokenizer=tokenizer_digest(data), hessians=hessians)
        write_bytes(out, held)
        yield Packed(len(held), own_bytes(recipe), recipe.budget.bytes, {}, clock.seconds)


def started(recipe: Recipe, data: DataFolder, seed: int, limit: float, world: World, count: int) -> Started:
    """The event that opens a log."""
    facts = {"world_size": world.size, "torch": torch.__version__}
    sizes = count, len(data.train), len(data.val) - 1
    return Started(recipe.name, recipe.digest, seed, *sizes, recipe.train.steps, limit, facts)


def seen_by(recipe: Recipe, training: Training) -> Hessians | None:
    """What a solver needs to know: nothing, where the recipe has none."""
    return None


def calibrated(recipe: Recipe, training: Training) -> Hessians | None:
    """The Hessians of the next training batches; stands in for `seen_by`."""
    assert recipe.quant.solver is not None
    return _hessians(recipe.quant.solver, training)


def packed(recipe: Recipe, weights: dict[str, Tensor], *, tokenizer: str, hessians: Hessians | None = None) -> bytes:
    """Pack by the recipe's own grids."""
    return pack(recipe, weights, tokenizer=tokenizer, hessians=hessians)


def fitted(recipe: Recipe, weights: dict[str, Tensor], *, tokenizer: str, hessians: Hessians | None = None) -> bytes:
    """Pack under the cap, filling it or giving up bits as the run did; stands in for `packed`."""
    return fit(recipe, weights, tokenizer=tokenizer, cap=recipe.budget.bytes, hessians=hessians)[1]


def codec_name(codec: Codec) -> str:
    """What an artifact calls a codec of the package; stands in for `stored_as`."""
    return codec.name


def named_codec(name: str) -> Codec:
    """The codec of the package that has this name; stands in for `codec_of`."""
    return CODECS[name]


def evaluate(artifact: str, data: DataFolder, world: World) -> Iterator[Event | Score]:
    """Unpack an artifact and grade every validation token once."""
    unpacked = opened(artifact)
    if tokenizer_digest(data) != unpacked.tokenizer:
        raise SystemExit(f"train_gpt: {data.path} has another tokenizer than {artifact} was trained with.")
    text = open_text(data)
    unpacked.model.to(world.device)
    for event in graded_by(unpacked, text):
        if isinstance(event, Score):
            yield scored("post_quant", event)
        yield event


def opened(artifact: str) -> Unpacked:
    """The model of an artifact file."""
    return unpack(Path(artifact).read_bytes())


def graded_by(unpacked: Unpacked, text: Text) -> Iterator[Event | Score]:
    """The scoring of the final number; `program` chooses it by the recipe."""
    yield from final_score(unpacked, text)


def final_score(unpacked: Unpacked, text: Text) -> Iterator[Event | Score]:
    """Grade by the artifact's own windows."""
    world = World(device=next(unpacked.model.parameters()).device)
    yield from score_together(unpacked.model, text, unpacked.windows, world=world)


def adapted_score(unpacked: Unpacked, text: Text) -> Iterator[Event | Score]:
    """Grade with the artifact's adapter, which learns from what is graded; stands in for `final_score`."""
    graded: Score | None = None
    for event in final_score(unpacked, text):
        if isinstance(event, Score):
            graded = event
    assert graded is not None and unpacked.adapt is not None
    device = next(unpacked.model.parameters()).device
    for learned in score_adapted(unpacked.model, text, unpacked.windows, unpacked.adapt, without=graded, device=device):
        yield learned.score if isinstance(learned, Adapted) else learned


def read_recipe() -> Recipe:
    """The recipe that this file holds."""
    assert OWN_RECIPE is not None
    return OWN_RECIPE


def own_bytes(recipe: Recipe, *, fitted: bool = False) -> int:
    """The code that counts: the shipped form's bytes, which the readable one knows and the shipped one is."""
    return OWN_SIZE or Path(__file__).stat().st_size


def load_part(value: Any, kind: Any = None, *, within: tuple[str, ...] = (), at: str = "") -> Any:
    """What `dump` wrote, of the parts that this recipe names; only those are here."""
    if isinstance(value, list):
        return tuple(load_part(item) for item in value)
    if not isinstance(value, dict):
        return value
    address = value.get("is", value.get("fn"))
    if address not in OWN_PARTS:
        raise UserError(f"{address!r} is no part of this recipe. Was the artifact made by another one?")
    part = OWN_PARTS[address]
    return part if "fn" in value else part(**{key: load_part(x) for key, x in value.items() if key != "is"})


def plain_part(kind: Any, value: Any, *, where: str = "", within: tuple[str, ...] = ()) -> Any:
    """A record of files beside the data, as it stands there; a run checks their fields, the script reads them."""
    if within:
        return kind(**{key: load_part(x) for key, x in value.items()})
    return kind(**value) if isinstance(kind, type) and is_dataclass(kind) else value


def plain_json(text: bytes, what: str) -> Any:
    """Parsed JSON."""
    return json.loads(text)


def part_address(thing: Any) -> str:
    """The name of a part, as `load_part` takes it."""
    return next(address for address, part in OWN_PARTS.items() if part is thing)
