"""Kill a run at random moments, go on, and compare with one that was never disturbed: bit for bit, or it is a failure.

    python benchmarks/reliability.py [--kills 50] [--seed 0]

Each trial trains in a fork that writes a checkpoint after every step, is killed with SIGKILL after a random time (also
in the middle of writing), and goes on in another fork, which may be killed again. At the end weights, optimizer state,
average, tokens and every loss are compared with those of the undisturbed run. The model is tiny and has every kind of
state: Muon, Adam, an EMA that a phase begins anew, fake quantization, shuffled batches.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from pargolf.core.budget import Clock
from pargolf.core.events import Step
from pargolf.core.spec import edit
from pargolf.data.shards import Shards
from pargolf.data.stream import Shuffled
from pargolf.model.attention import Attention
from pargolf.model.mlp import MLP
from pargolf.model.transformer import Block
from pargolf.quant.grid import Int
from pargolf.quant.plan import QAT
from pargolf.recipes.house import RECIPE as HOUSE
from pargolf.training.average import EMA
from pargolf.training.checkpoint import Checkpoints
from pargolf.training.loop import Training
from pargolf.training.phases import AtStep, Phase

STEPS = 40
RECIPE = edit(
    HOUSE,
    {
        "model.vocab": 64,
        "model.dim": 32,
        "model.blocks": (Block(Attention(heads=2, kv_heads=1), MLP(64)),) * 2,
        "train.batch_tokens": 256,
        "train.seq_len": 32,
        "train.steps": STEPS,
        "train.grad_clip": 1.0,
        "train.order": Shuffled(),
        "train.average": EMA(0.9),
        "train.phases": (Phase("qat", AtStep(25), QAT((("mlp.*", Int(4)), ("*", None))), reset_average=True),),
    },
)
TOKENS = np.random.default_rng(0).integers(1, 64, 20_000).astype(np.uint16)


def run(folder: Path) -> None:
    """Train from the newest checkpoint in `folder`, or from the start, to the end; losses go to a file of lines."""
    torch.set_num_threads(1)
    model = RECIPE.model.build(seed=1)
    training = Training(RECIPE.train, model, Shards([TOKENS]), seed=1, clock=Clock(), seconds=float("inf"))
    kept = Checkpoints(folder / "checkpoints", every=0)
    found = kept.newest()
    if found is not None:
        training.restore(found.tensors, found.facts)
    with (folder / "losses").open("a", buffering=1) as losses:
        for event in training.run():
            if isinstance(event, Step):
                losses.write(f"{event.step} {event.loss!r}\n")
                kept.write(*training.state())


def forked(folder: Path, kill_after: float | None = None) -> bool:
    """`run` in a fork; whether it came to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run(folder)
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"the run failed with {code}"
    return code == 0


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, object], dict[str, str]]:
    """Final state, facts without the time, and the last word on every step's loss."""
    found = Checkpoints(folder / "checkpoints").newest()
    assert found is not None
    lines = (line.split(" ", 1) for line in (folder / "losses").read_text().splitlines())
    losses = {row[0]: row[1] for row in lines if len(row) == 2}
    return found.tensors, {k: v for k, v in found.facts.items() if k != "seconds"}, losses


def same(a: Path, b: Path) -> bool:
    (x, facts_x, losses_x), (y, facts_y, losses_y) = outcome(a), outcome(b)
    tensors = x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
    return tensors and facts_x == facts_y and losses_x == losses_y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "whole").mkdir()
        began = time.perf_counter()
        assert forked(home / "whole")
        whole = time.perf_counter() - began
        kills, trials, wrong, refused, at = 0, 0, 0, 0, []
        while kills < options.kills:
            folder = home / f"trial-{trials}"
            folder.mkdir()
            while not forked(folder, chance.uniform(0, whole) if kills < options.kills else None):
                kills += 1
                files = Checkpoints(folder / "checkpoints").paths()
                refused += len(list((folder / "checkpoints").glob(".*.part"))) if files else 0
                at.append(int(files[0].stem.split("-")[1]) if files else 0)
            trials += 1
            wrong += not same(home / "whole", folder)
    row = {"kills": kills, "runs": trials, "not_identical": wrong, "killed_while_writing": refused}
    print(json.dumps({**row, "after_step": sorted(at)}))
    print(
        f"{kills} kills in {trials} runs of {STEPS} steps: {trials - wrong} ended bit for bit as the undisturbed one."
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
