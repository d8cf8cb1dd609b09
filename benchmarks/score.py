"""Speed of scoring, as ratios measured in one run: python benchmarks/score.py [--shares] [--device cuda] [--json].

    sliding   time of a plain window loop / time of `score`, at sequence 512, stride 64 and equal numbers (goal 1.5)
    adapted   time of score-first SGD / time of its forward passes and training steps done bare     (goal at most 1.1)
    written   time of sampling tokens by whole windows / time of the same tokens with keys and values cached
    shares    time of one process / time of the slower of two, each with half of the windows        (goal 1.8)
              and the same in processor seconds, which other processes do not lengthen

The models are recipes at mini scale, `house` and the published baseline. The plain loop does what the published scripts
do, without their batching: one window at a time, logits of all positions, the last `stride` kept. Overlapping windows
share no work, because a position's state depends on where its window begins. So both sides compute all blocks but the
last for each window.

`score` saves calls, the logits that are not scored, and the part of the last block that only these need: one block and
the head. That is most of the cost of a shallow model with many tokens, and little of a deep one with few. With L equal
blocks and a head that costs h of them, arithmetic alone allows (L + h) / (L - 7/8 (1 - k) - 7/8 h), where k is the
share of the last block's keys and values.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from pargolf.evaluate.adapted import score_adapted
from pargolf.evaluate.adapters.adapter import mean_nats
from pargolf.evaluate.adapters.sgd import SGD
from pargolf.evaluate.generate import generate
from pargolf.evaluate.probes import stir
from pargolf.evaluate.score import final, merge, score, suits
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import Sliding
from pargolf.model.transformer import Transformer
from pargolf.recipes import catalog
from pargolf.recipes.scale import scaled

WINDOWS = Sliding(512, 64)
BOS = 1
LESSONS = SGD(lr=0.002, epochs=2, chunk=2048, batch=4)
GOALS = {
    "sliding": "goal 1.5 or more",
    "adapted": "goal 1.1 or less",
    "written": "",
    "shares": "goal 1.8 or more",
    "in cpu": "",
}


def build(recipe: str) -> Transformer:
    model = scaled(catalog.find(recipe), "mini").model.build().eval()
    stir(model)
    return model


def stream(positions: int, vocab: int) -> Text:
    """Random tokens in documents of a thousand on average."""
    random = np.random.default_rng(0)
    tokens = random.integers(2, vocab, positions + 1).astype(np.uint16)
    tokens[random.random(positions + 1) < 0.001] = BOS
    return Text(tokens, np.full(positions, 2), vocab, BOS)


def plain_loop(model: Transformer, tokens: np.ndarray, device: str) -> float:
    """Total nats of the stream, window by window."""
    ids, nats = torch.from_numpy(tokens.astype(np.int64)).to(device), 0.0
    with torch.no_grad():
        for window in WINDOWS.over(len(tokens) - 1):
            logits = model(ids[None, window.start : window.end]).float()
            each = cross_entropy(logits[0], ids[window.start + 1 : window.end + 1], reduction="none")
            nats += float(each[window.first - window.start :].double().sum())
    return nats


def bare_work(model: Transformer, tokens: np.ndarray, batch: int, device: str) -> None:
    """The forward passes and training steps of score-first SGD, without a ledger: same shapes, same numbers."""
    ids, windows = torch.from_numpy(tokens.astype(np.int64)).to(device), list(WINDOWS.over(len(tokens) - 1))
    chunks = math.ceil((len(tokens) - 1) / LESSONS.chunk)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=LESSONS.momentum)
    for chunk in range(chunks):
        mine = [w for w in windows if w.first // LESSONS.chunk == chunk]
        by_shape: dict = {}
        for w in mine:
            by_shape.setdefault((w.end - w.start, w.first - w.start), []).append(w)
        with torch.no_grad():
            for (_, first), same in by_shape.items():
                for start in range(0, len(same), batch):
                    rows = same[start : start + batch]
                    x = torch.stack([ids[w.start : w.end] for w in rows])
                    y = torch.stack([ids[w.first + 1 : w.end + 1] for w in rows])
                    cross_entropy(model(x, first=first).flatten(0, 1).float(), y.flatten())
        if chunk == chunks - 1:
            return
        piece = ids[chunk * LESSONS.chunk : (chunk + 1) * LESSONS.chunk + 1]
        x, y = (piece[by : by + LESSONS.chunk].view(-1, WINDOWS.length) for by in (0, 1))
        for _ in range(LESSONS.epochs):
            for start in range(0, len(x), LESSONS.batch):
                optimizer.zero_grad()
                mean_nats(model, x[start : start + LESSONS.batch], y[start : start + LESSONS.batch]).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), LESSONS.clip)
                optimizer.step()


def write(model: Transformer, device: str, *, kept: bool) -> list[int]:
    """Sample the same tokens, with cached keys and values or by whole windows."""
    predictor = model if kept else lambda ids, *, first: model(ids, first=first)
    return list(generate(predictor, [BOS], tokens=WINDOWS.length - 1, length=WINDOWS.length, device=device))


def share(rank: int, world: int, positions: int, recipe: str) -> tuple[float, float, object]:
    torch.set_num_threads(1)
    model = build(recipe)
    text = stream(positions, model.spec.vocab)
    final(score(model, stream(1024, model.spec.vocab), WINDOWS))
    began, used = time.perf_counter(), time.process_time()
    result = final(score(model, text, WINDOWS, rank=rank, world=world))
    return time.perf_counter() - began, time.process_time() - used, result


def fastest(runs: list[Callable[[], object]], repeats: int, device: str) -> list[float]:
    """The least seconds of each function, measured in turns, so that a busy machine slows all of them alike.

    On one CPU thread these are processor seconds, which other processes do not lengthen.
    """
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    best = [math.inf] * len(runs)
    for _ in range(repeats):
        for i, run in enumerate(runs):
            began = clock()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            best[i] = min(best[i], clock() - began)
    return best


def measure(recipe: str, args: argparse.Namespace) -> dict[str, float]:
    model = build(recipe).to(args.device)
    text = stream(args.positions, model.spec.vocab)
    tokens = text.tokens
    ours = final(score(model, text, WINDOWS, device=args.device))
    theirs = plain_loop(model, tokens, args.device)
    assert abs(ours.nats - theirs) <= 1e-6 * theirs, "both sides must give the same number"
    assert write(model, args.device, kept=True) == write(model, args.device, kept=False), "and one text"

    def adapted() -> None:
        *_, _ = score_adapted(model, text, WINDOWS, LESSONS, without=ours, device=args.device)

    spare = copy.deepcopy(model)
    runs = {
        "loop": lambda: plain_loop(model, tokens, args.device),
        "score": lambda: final(score(model, text, WINDOWS, device=args.device)),
        "bare": lambda: bare_work(spare, tokens, suits(WINDOWS, args.device), args.device),
        "adapt": adapted,
        "whole": lambda: write(model, args.device, kept=False),
        "kept": lambda: write(model, args.device, kept=True),
    }
    seconds = dict(zip(runs, fastest(list(runs.values()), args.repeats, args.device)))
    out = {
        "sliding": seconds["loop"] / seconds["score"],
        "adapted": seconds["adapt"] / seconds["bare"],
        "written": seconds["whole"] / seconds["kept"],
    }
    out |= shares(recipe, args.positions) if args.shares else {}
    return out | {f"{name}_s": value for name, value in seconds.items()}


def shares(recipe: str, positions: int) -> dict[str, float]:
    with ProcessPoolExecutor(1) as pool:
        alone, busy, whole = pool.submit(share, 0, 1, positions, recipe).result()
    with ProcessPoolExecutor(2) as pool:
        halves = [job.result() for job in [pool.submit(share, rank, 2, positions, recipe) for rank in (0, 1)]]
    joined = merge([half for *_, half in halves])
    assert abs(joined.nats - whole.nats) <= 1e-7 * whole.nats, "two processes must give the number of one"
    return {"shares": alone / max(half[0] for half in halves), "in cpu": busy / max(half[1] for half in halves)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--recipes", nargs="+", default=["house", "baseline"])
    parser.add_argument("--positions", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shares", action="store_true", help="also with two processes; wants two free cores")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ratios = {recipe: measure(recipe, args) for recipe in args.recipes}
    if args.json:
        print(json.dumps(ratios))
        return
    print("".join(f"{name:>12}" for name in ("", *ratios)))
    for name, goal in GOALS.items():
        if all(name in row for row in ratios.values()):
            print(f"{name:>12}" + "".join(f"{row[name]:12.2f}" for row in ratios.values()) + f"   {goal}")
    for recipe, row in ratios.items():
        print(f"{recipe} seconds  " + ", ".join(f"{n[:-2]} {row[n]:.2f}" for n in row if n.endswith("_s")))


if __name__ == "__main__":
    main()
