"""Training speed on one GPU: baseline, pr549 and pr1009 at full size, in one call, without network.

    python benchmarks/gpu.py [--seconds 45] [--micro 262144]
    python benchmarks/gpu.py --kernels    # forward and backward of single kernels against torch's and the compiler's
    python benchmarks/gpu.py --check      # the same code on a CPU at mini scale, to see that it runs; no numbers

Each recipe trains with the loop's own steps (bfloat16 autocast, the whole model compiled in one graph, pinned batches),
in batches of 786,432 tokens by accumulation, after a visit to every phase. Prints tokens/s, ms/step, model FLOP
utilization and peak memory. Utilization is relative to the fastest large bfloat16 matrix product, measured on this GPU.
Model FLOPs per token: 6 per weight that multiplies, and 6 T D per layer for causal attention (half of 12 T D).
`--micro` is the number of tokens in one forward pass: more means fewer launches and more memory. The corpus is noise,
because speed does not depend on the content.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from pargolf.core.budget import Clock
from pargolf.core.events import PhaseBegan, Step
from pargolf.core.spec import edit
from pargolf.core.world import World
from pargolf.data.shards import Shards
from pargolf.kernels import relu2_mlp, softcap_ce
from pargolf.kernels.attention import attention, document_mask
from pargolf.recipes.published import baseline, pr549, pr1009
from pargolf.recipes.recipe import Recipe
from pargolf.recipes.scale import mini
from pargolf.training.loop import Training
from pargolf.training.phases import AtStep

BATCH = 786_432
RECIPES = {"baseline": baseline.RECIPE, "pr549": pr549.RECIPE, "pr1009": pr1009.RECIPE}


def product_rate(device: torch.device, *, seconds: float = 2.0) -> float:
    """Floating-point operations per second of the best of some large bfloat16 matrix products."""
    best = 0.0
    for size in (4096, 8192, 16384) if device.type == "cuda" else (256,):
        a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        for _ in range(3):
            a @ b
        count, began = 0, now(device)
        while (elapsed := now(device) - began) < seconds or count == 0:
            for _ in range(10):
                a @ b
            count += 10
        best = max(best, 2 * size**3 * count / elapsed) if elapsed else best
    return best


def now(device: torch.device) -> float:
    """The time after the device has finished everything sent to it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def flops_per_token(recipe: Recipe, training: Training) -> float:
    """Of a forward and a backward pass. Looked-up tables do not count, the tied output matrix counts once."""
    model = recipe.model
    weights = sum(p.numel() for name, p in training.params.items() if p.ndim == 2 and not name.endswith("table.weight"))
    blocks = len(model.order or model.blocks)
    return 6 * weights + 6 * blocks * training.stream.seq_len * model.dim


def timed(training: Training, device: torch.device, *, seconds: float) -> Iterator[tuple[str, float]]:
    """The phase and the seconds of every step, except the first two of each phase."""
    phase, steps, last, began = "", 0, now(device), now(device)
    for event in training.run():
        if isinstance(event, PhaseBegan):
            phase, steps = event.phase, 0
        if isinstance(event, Step):
            time = now(device)
            steps += 1
            if steps > 2:
                yield phase, time - last
            last = time
            if time - began > seconds and event.step > 8:
                training.stop = "interrupted"


def measure(name: str, recipe: Recipe, world: World, *, seconds: float, micro: int, check: bool) -> None:
    """Train one recipe for a while and print its row."""
    device = world.device
    recipe = mini(recipe) if check else edit(recipe, {"train.batch_tokens": BATCH, "train.micro_tokens": micro})
    # Late phases begin after a few steps here, so that each is timed.
    phases = tuple(replace(phase, at=AtStep(5)) for phase in recipe.train.phases)
    spec = replace(recipe.train, phases=phases, steps=10 if check else 10_000, seconds=None, compile=True)
    tokens = np.random.default_rng(0).integers(1, recipe.model.vocab, max(4 * spec.batch_tokens, 1 << 20))
    model = recipe.model.build(1).to(device)
    shards = Shards([tokens.astype(np.uint16)])
    training = Training(spec, model, shards, seed=1, clock=Clock(), seconds=float("inf"), world=world)
    began = now(device)
    training.warm_up()
    compiled = now(device) - began
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    steps: dict[str, list[float]] = {}
    for phase, duration in timed(training, device, seconds=seconds):
        steps.setdefault(phase or "plain", []).append(duration)
    rate = product_rate(device)
    for phase, times in steps.items():
        step = statistics.median(times)
        speed = spec.batch_tokens / step
        row = {
            "recipe": name,
            "phase": phase,
            "ms_per_step": round(1000 * step, 2),
            "tokens_per_s": round(speed),
            "mfu": None if check else round(speed * flops_per_token(recipe, training) / rate, 4),
            "product_tflops": None if check else round(rate / 1e12, 1),
            "peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None,
            "compile_s": round(compiled, 1),
            "steps": len(times),
        }
        print(json.dumps(row), flush=True)


def kernels(device: torch.device) -> None:
    """Milliseconds of forward and backward, bfloat16, at pr549's sizes and 65,536 tokens."""
    torch.set_default_device(device)
    rows, kind = 65_536, torch.bfloat16
    target, slope = torch.randint(0, 1024, (rows,)), 0.5
    z = torch.randn(rows, 1024, dtype=kind, requires_grad=True)
    x = torch.randn(rows, 512, dtype=kind, requires_grad=True)
    w = torch.randn(1536, 512, dtype=kind, requires_grad=True)
    q, k, v = (torch.randn(32, 2048, heads, 64, dtype=kind, requires_grad=True) for heads in (8, 4, 4))
    begins = torch.rand(32, 2048) < 1 / 700
    since = torch.where(begins, torch.arange(2048), 0).cummax(-1).values
    entropy = softcap_ce.reference
    for name, forms in {
        "soft-capped cross-entropy": {
            "torch": lambda: entropy(z, target, 30.0),
            "compiled": torch.compile(lambda: entropy(z, target, 30.0)),
        },
        "product and squared leaky ReLU": {
            "torch": lambda: relu2_mlp.reference(F.linear(x, w), slope),
            "compiled": torch.compile(lambda: relu2_mlp.reference(F.linear(x, w), slope)),
        },
        "attention within documents of 700 tokens": {
            "torch, causal alone": lambda: attention(q, k, v),
            "torch, dense mask": lambda: attention(q, k, v, since, lambda: document_mask(since)),
            "compiled, FlexAttention": torch.compile(lambda: attention(q, k, v, since, lambda: document_mask(since))),
        },
    }.items():
        for form, function in forms.items():
            try:
                row = {"kernel": name, "form": form, "ms": round(_milliseconds(function, device), 3)}
            except Exception as error:
                row = {"kernel": name, "form": form, "failed": str(error)[:300]}
            print(json.dumps(row), flush=True)


def _milliseconds(function: Callable[[], torch.Tensor], device: torch.device, *, times: int = 20) -> float:
    """The mean of forward and backward, after three runs that do not count."""
    grad = torch.ones_like(function())
    for i in range(3 + times):
        if i == 3:
            began = now(device)
        function().backward(grad)
    return 1000 * (now(device) - began) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=45.0, help="timed seconds per recipe")
    parser.add_argument("--micro", type=int, default=262_144, help="tokens in one forward pass")
    parser.add_argument("--kernels", action="store_true", help="time single kernels instead")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--check", action="store_true", help="run at mini scale on the CPU, without a compiler")
    options = parser.parse_args()
    if not options.check and not torch.cuda.is_available():
        raise SystemExit("No CUDA device. `--check` runs the same code on the CPU.")
    world = World(device=torch.device("cpu" if options.check else "cuda"))
    if options.check:
        real = torch.compile
        torch.compile = lambda f, **said: real(f, **said, backend="eager")
    else:
        print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__}))
    if options.kernels:
        kernels(world.device)
        return
    for name in options.recipes.split(","):
        torch._dynamo.reset()
        measure(name, RECIPES[name], world, seconds=options.seconds, micro=options.micro, check=options.check)


if __name__ == "__main__":
    main()
