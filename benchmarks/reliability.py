"""Kill a run at random moments, go on, and compare with one that was never disturbed: bit for bit, or it is a failure.

    python benchmarks/reliability.py [--kills 50] [--mutations 10000] [--specs 1500] [--seed 0]

Each trial trains in a fork that writes a checkpoint after every step, is killed with SIGKILL after a random time (also
in the middle of writing), and goes on in another fork, which may be killed again. At the end weights, optimizer state,
average, tokens and every loss are compared with those of the undisturbed run. The model is tiny and has every kind of
state: Muon, Adam, an EMA that a phase begins anew, fake quantization, shuffled batches.

Then an artifact of a trellis, scalar grids and whole numbers is changed at random, or cut, and read: each time a typed
error must name the section, with no crash and no hang. A sixth of them have their checksums made true again: those may
read as other weights, and must not crash. Stored specs are changed field by field, with true checksums
(`tests/mutations.py`).
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import mutations
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
from pargolf.packing.artifact import ArtifactError, CodesTensor, RawTensor, Section, from_bytes
from pargolf.quant.calibrate import calibrate
from pargolf.quant.clip import StdDev
from pargolf.quant.gptq import GPTQ
from pargolf.quant.grid import Int, Keep
from pargolf.quant.plan import QAT, Quantize
from pargolf.quant.trellis import Trellis
from pargolf.recipes.house import RECIPE as HOUSE
from pargolf.run.pack import pack
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


def artifact() -> bytes:
    """An artifact with every kind of section."""
    model = RECIPE.model.build(seed=1)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.2, generator=torch.Generator().manual_seed(p.numel()))
    ids_BT = torch.from_numpy(TOKENS[:512].astype(np.int64)).reshape(16, 32)
    hessians = calibrate(model, [(ids_BT, ids_BT)])
    trellis = Trellis(Int(5, clip=StdDev(8.0)))
    table = (("mlp.*", trellis), ("attn.[qkv]", trellis), ("embed.*", Int(6)), ("*", Keep()))
    plan = replace(RECIPE, quant=Quantize(table, solver=GPTQ()))
    return pack(plan, dict(model.named_parameters()), tokenizer="t", hessians=hessians)


def mutate(count: int, chance: random.Random) -> bool:
    """Change and read an artifact so many times; whether anything but a refusal, or the same, came out."""
    data, wrong, read, sections, slowest = artifact(), 0, 0, Counter[str](), 0.0
    whole = from_bytes(data)
    for _ in range(count):
        bad = bytearray(data)
        kind = chance.randrange(6)
        at, more = chance.randrange(len(bad)), chance.randrange(1, 64)
        if kind == 0:
            bad[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            bad[at : at + more] = chance.randbytes(len(bad[at : at + more]))
        elif kind == 2:
            del bad[at:]
        elif kind == 3:
            del bad[at : at + more]
        elif kind == 4:
            bad[at:at] = chance.randbytes(more)
        else:
            bad = forged(bad, chance.choice(whole.sections), chance)
        began = time.perf_counter()
        try:
            found = from_bytes(bytes(bad)).tensors
            same = found.keys() == whole.tensors.keys()
            same = same and all(np.array_equal(_numbers(a), _numbers(whole.tensors[n])) for n, a in found.items())
            wrong += not (same and bytes(bad) == data) and kind != 5
            read += kind == 5
        except ArtifactError as error:
            sections[error.section] += 1
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            wrong += 1
        slowest = max(slowest, time.perf_counter() - began)
    print(
        json.dumps(
            {
                "mutations": count,
                "bytes": len(data),
                "wrong": wrong,
                "slowest_seconds": round(slowest, 3),
                "named": sections,
            }
        )
    )
    print(f"{count} changed or cut artifacts: {sum(sections.values())} refused with the section named, {wrong} not;")
    print(f"{read} with forged checksums read as other weights, none crashed.")
    return wrong > 0


def forged(data: bytearray, section: Section, chance: random.Random) -> bytearray:
    """A bit of a section's payload changed, and every checksum made true again: it may read, and must not crash."""
    end = section.offset + section.size
    data[chance.randrange(section.offset, end)] ^= 1 << chance.randrange(8)
    if section.name == "the header":
        check = zlib.crc32(data[9:17] + data[section.offset : end])
        data[17:21] = check.to_bytes(4, "little")
    else:
        data[end : end + 4] = zlib.crc32(data[section.offset : end]).to_bytes(4, "little")
    data[-16:] = blake2b(data[:-16], digest_size=16).digest()
    return data


def _numbers(tensor: CodesTensor | RawTensor) -> np.ndarray:
    return tensor.codes if isinstance(tensor, CodesTensor) else tensor.data


def mutate_specs(count: int, seed: int) -> Counter[str]:
    """How `count` mutations each of an artifact's header and of a `recipe.json` end: see `tests/mutations.py`."""
    whole: Counter[str] = Counter()
    for found in mutations.mutate_specs(count, seed).values():
        whole.update({outcome: found[outcome] for outcome in mutations.OUTCOMES})
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--specs", type=int, default=1500, help="mutations of an artifact's header, and of a recipe")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    failed = mutate(options.mutations, chance)
    specs = mutate_specs(options.specs, options.seed)
    print(json.dumps({"specs": 2 * options.specs, **specs}))
    failed = failed or specs["crash"] + specs["slow"] > 0
    if not options.kills:
        sys.exit(failed)
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
    sys.exit(1 if wrong or failed else 0)


if __name__ == "__main__":
    main()
