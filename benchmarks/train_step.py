"""Compare the training step on a CPU with a plain one, as ratios: 6 layers x 256, pr1009's techniques, 8 x 512 tokens.

    OMP_NUM_THREADS=1 python benchmarks/train_step.py [--rounds 5]

The plain step is below, written to be read: one Newton-Schulz iteration per matrix, cross-entropy and activation by
autograd, Adam parameter by parameter. Ours is in float32, too, except for the row that says bfloat16. All steps take
turns, round after round, and the medians of processor time are compared, so that other work on the machine affects them
alike. Memory is the growth of a fork's peak over three steps, compared with the sum of weights, gradients, optimizer
state and the tensors kept for the backward pass. `house` steps in forks, in turns with the heap that keeps freed memory
and with the C library's own.
"""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pargolf.core.budget import Clock
from pargolf.core.roles import resolve
from pargolf.core.spec import edit
from pargolf.core.world import steady_heap
from pargolf.data.shards import Shards
from pargolf.kernels.compiled import compiled_kernels
from pargolf.model.bigram import BigramHash
from pargolf.model.transformer import Block, Transformer
from pargolf.model.value_embed import ValueEmbed
from pargolf.recipes.house import RECIPE as HOUSE
from pargolf.recipes.published.pr1009 import RECIPE as PR1009
from pargolf.recipes.recipe import Recipe
from pargolf.training.adam import Adam
from pargolf.training.average import EMA
from pargolf.training.loop import Training
from pargolf.training.muon import Muon


def recipe() -> Recipe:
    """pr1009 at 6 layers x 256."""

    def narrow(block: Block) -> Block:
        return replace(block, attn=replace(block.attn, heads=4, kv_heads=2), mlp=replace(block.mlp, hidden=768))

    blocks = [narrow(block) for block in PR1009.model.blocks]
    # Half-precision state is for GPUs; the plain step has none, either.
    rows = tuple(
        (g, replace(row, half_state=False) if isinstance(row, Muon) else row) for g, row in PR1009.train.optimizer
    )
    return edit(
        PR1009,
        {
            "model.dim": 256,
            "model.blocks": (*blocks[:3], *blocks[-3:]),
            "model.embed": (BigramHash(buckets=1024, dim=64),),
            "model.shared": (ValueEmbed(dim=64),),
            "train.batch_tokens": 8 * 512,
            "train.seq_len": 512,
            "train.optimizer": rows,
            "train.average": None,
            "train.phases": (),
            "train.steps": 10_000,
        },
    )


class PlainStep:
    """Forward, backward, clip, Muon matrix by matrix, Adam: nothing batched, nothing fused."""

    def __init__(self, recipe: Recipe, model: Transformer, stream: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        self.model, self.stream, self.clip = model, stream, recipe.train.grad_clip
        params = dict(model.named_parameters())
        rows = resolve(recipe.train.optimizer, params)
        self.muon = [(p, row, torch.zeros_like(p)) for name, p in params.items() if isinstance(row := rows[name], Muon)]
        adam = [(p, row) for name, p in params.items() if isinstance(row := rows[name], Adam)]
        self.adam = torch.optim.AdamW(
            [
                {"params": [p], "lr": r.lr, "betas": (r.beta1, r.beta2), "eps": r.eps, "weight_decay": r.weight_decay}
                for p, r in adam
            ],
            foreach=False,
        )

    def __call__(self, step: int) -> None:
        """One step."""
        ids_BT, targets_BT = self.stream(step)
        logits_BTV = self.model(ids_BT)
        loss = F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())
        loss.backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        with torch.no_grad():
            for p, row, buffer in self.muon:
                momentum = row.momentum_at(step, 0.0)
                buffer.mul_(momentum).add_(p.grad)
                update = newton_schulz(p.grad + momentum * buffer)
                p.mul_(1 - row.lr * row.weight_decay)
                p.add_(update, alpha=-row.lr * max(1, p.shape[0] / p.shape[1]) ** 0.5)
        self.adam.step()
        self.model.zero_grad()


def newton_schulz(g: Tensor) -> Tensor:
    """Five quintic steps, as the first publication of Muon writes them."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm() + 1e-7)
    if g.shape[0] > g.shape[1]:
        x = x.T
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def plain_activation(z: Tensor) -> Tensor:
    """Squared leaky ReLU, left to autograd."""
    return F.leaky_relu(z, 0.5).square()


def training(system: Recipe) -> Training:
    rng = np.random.default_rng(0)
    shards = Shards([rng.integers(1, system.model.vocab, 400_000).astype(np.uint16)])
    model = system.model.build(1)
    return Training(system.train, model, shards, seed=1, clock=Clock(), seconds=float("inf"), kernels=compiled_kernels)


def ours(system: Recipe) -> Callable[[int], None]:
    events = training(system).run()

    def step(_: int) -> None:
        while type(next(events)).__name__ != "Step":
            pass

    return step


def memory(system: Recipe) -> dict[str, float]:
    """MiB at the peak of three steps in a fork, and the sum of weights, gradients, state and kept tensors."""
    reader, write = os.pipe()
    if os.fork() == 0:  # while this process has no freed memory to reuse
        events = training(system).run()
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        for _ in range(3):
            next(events)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        os.write(write, str(grown).encode())
        os._exit(0)
    os.wait()
    grown = int(os.read(reader, 64))
    run = training(system)
    saved: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x.detach()  # the tensor itself would keep alive the graph that keeps it

    with compiled_kernels(), torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        run.loss(*run.stream.batch(0))
    weights = sum(p.numel() for p in run.params.values())
    parameters = {p.untyped_storage().data_ptr() for p in run.params.values()}
    activations = sum(size for address, size in saved.items() if address not in parameters)
    muon = sum(p.numel() for stack in run.optimizer.shared for p in stack.params)
    counted = 4 * (2 * weights + muon + 2 * (weights - muon)) + activations
    return {"peak": (grown + 4 * weights) / 2**20, "counted": counted / 2**20}


def heap(rounds: int) -> float:
    """Seconds of a step of house if freed memory goes back to the system, over those if it is kept."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for kept in [False, True] * rounds:
        reader, write = os.pipe()
        if os.fork() == 0:
            if kept:
                steady_heap()
            step, times = ours(edit(HOUSE, {"train.steps": 100})), []
            for number in range(20):
                began = time.process_time()
                step(number)
                times.append(time.process_time() - began)
            os.write(write, str(statistics.median(times)).encode())
            os._exit(0)
        os.wait()
        seconds[kept].append(float(os.read(reader, 64)))
    return statistics.median(seconds[False]) / statistics.median(seconds[True])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    freed = heap(rounds)
    steady_heap()  # as in a run
    system = recipe()
    late = replace(PR1009.train.phases[0], at=type("Now", (), {"__call__": lambda self, at, lr: True})())
    usage = memory(system)
    plain = edit(system, {"model.blocks[:].mlp.act": plain_activation})
    loader = training(system)
    steps: dict[str, Callable[[int], object]] = {
        "plain": PlainStep(system, plain.model.build(1), loader.stream.batch),
        "ours": ours(system),
        "ours, bfloat16": ours(edit(system, {"train.half": True})),
        "with QAT": ours(replace(system, train=replace(system.train, phases=(replace(late, reset_average=False),)))),
        "with EMA": ours(edit(system, {"train.average": EMA(0.997)})),
        "a batch": loader.stream.batch,
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            began = time.process_time()
            step(number)
            if number:  # the first of each pays for its allocations
                seconds[name].append(time.process_time() - began)
    ms = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    ratios = {
        "plain / ours": (ms["plain"] / ms["ours"], "1.3 or more"),
        "plain / ours, bfloat16": (ms["plain"] / ms["ours, bfloat16"], "where the processor has it, else as above"),
        "with QAT / ours": (ms["with QAT"] / ms["ours"], "1.10 at most"),
        "with EMA / ours": (ms["with EMA"] / ms["ours"], "1.02 at most"),
        "a batch / ours": (ms["a batch"] / ms["ours"], ".01 at most"),
        "peak memory / counted": (usage["peak"] / usage["counted"], "1.2 at most"),
        "house, heap freed / kept": (freed, "how much slower"),
    }
    count = sum(p.numel() for p in system.model.build(1).parameters())
    print(f"{count:,} parameters, 8 x 512 tokens, {torch.get_num_threads()} threads, median of {rounds} rounds")
    for name, value in ms.items():
        print(f"  {name:24}{value:10.1f} ms")
    print(f"  {'peak memory':24}{usage['peak']:10.1f} MiB of {usage['counted']:.1f} counted")
    for name, (value, goal) in ratios.items():
        print(f"  {name:24}{value:10.3f}    ({goal})")


if __name__ == "__main__":
    main()
