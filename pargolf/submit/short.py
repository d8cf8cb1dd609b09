"""The program of the shipped form: what `script.py` does and prints, in fewer letters.

Left out is what only tells, checks or compares, for the run that the program ships with has passed it. `short_data`,
`short_grades` and `short_artifact` are the parts below it; the numbers are the same to the last bit.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from pargolf.core.budget import Clock
from pargolf.core.events import Step
from pargolf.core.world import World, join_world
from pargolf.recipes.recipe import Recipe
from pargolf.submit.script import DATA, packed, read_recipe, seen_by
from pargolf.submit.short_artifact import unpack_own
from pargolf.submit.short_data import ShortData
from pargolf.submit.short_grades import grade_alone
from pargolf.training.loop import Training


def shipped_main() -> None:
    """Train, pack and score; with `--evaluate`, only score."""
    words = argparse.ArgumentParser()
    given = {"evaluate": None, "data": DATA, "tokenizer": None, "out": "model.pargolf", "device": None}
    for word, default in (given | {"seed": 1337, "threads": 0}).items():
        words.add_argument("--" + word, default=default, type=str if default is None else type(default))
    said = words.parse_args()
    if said.threads:
        torch.set_num_threads(said.threads)
    world = join_world(said.device)
    try:
        data = ShortData(said.data, said.tokenizer)
        if data.vocab != read_recipe().model.vocab:
            raise SystemExit("train_gpt: this data has another vocabulary than the recipe.")
        if not said.evaluate:
            _train(data, said.out, said.seed, world)
        if world.main:
            _evaluate(said.evaluate or said.out, data, world)
    except OSError as error:
        raise SystemExit(f"train_gpt: {error}") from error


def _train(data: ShortData, out: str, seed: int, world: World) -> None:
    """Train the recipe inside its seconds, packing included, and write the artifact."""
    recipe = read_recipe()
    clock = Clock()
    torch.manual_seed(seed)
    model = recipe.model.build(seed).to(world.device)

    def held(**more: Any) -> bytes:
        weights = {name: p.detach().cpu() for name, p in model.named_parameters()}
        return packed(recipe, weights, tokenizer=data.tokenizer, **more)

    held()  # a rehearsal tells what packing takes
    seconds = recipe.budget.train_seconds if recipe.train.seconds is None else recipe.train.seconds
    bounded = recipe.train.steps is None or recipe.train.seconds is not None
    limit = seconds - 2 * clock.seconds - 0.2 if bounded else float("inf")
    training = Training(recipe.train, model, data.train, seed=seed, clock=clock, seconds=limit, world=world)
    if bounded:
        training.warm_up()
    for event in training.run():
        if isinstance(event, Step) and world.main and (event.step < 11 or event.step % 50 == 0):
            time = f"train_time:{1000 * event.seconds:.0f}ms"
            print(f"step:{event.step} train_loss:{event.loss:.4f} {time}", flush=True)
    hessians = seen_by(recipe, training)
    if world.main:
        artifact = held(hessians=hessians)
        Path(out).write_bytes(artifact)
        model_bytes, code = len(artifact), own_size(recipe)
        print(f"Serialized model pargolf: {model_bytes} bytes\nCode size: {code} bytes")
        print(f"Total submission size pargolf: {code + model_bytes} bytes", flush=True)


def _evaluate(artifact: str, data: ShortData, world: World) -> None:
    """Unpack an artifact and grade every validation token once; the last line has every digit."""
    held = Path(artifact).read_bytes()
    try:
        model, tokenizer = unpack_own(held)
    except Exception as error:
        raise SystemExit(f"train_gpt: The artifact cannot be read: {error!r}") from error
    if data.tokenizer != tokenizer:
        raise SystemExit(f"train_gpt: {data.path} has another tokenizer than {artifact} was trained with.")
    graded = grade_alone(model.to(world.device), data)
    print(f"{graded.tag} val_loss:{graded.loss:.8f} val_bpb:{graded.bpb:.8f}")
    print(f"val_loss:{graded.loss!r}\nval_bpb:{graded.bpb!r}", flush=True)


def own_size(recipe: Recipe, *, fitted: bool = False) -> int:
    """The code that counts: this file's bytes."""
    return Path(__file__).stat().st_size
