"""Speed of scoring, as ratios measured in one run: python benchmarks/score.py [--device cuda] [--json].

    sliding   time of a plain window loop / time of `score`, at sequence 512, stride 64 and equal numbers (goal 1.5)
    adapted   time of score-first SGD / time of its forward passes and training steps done bare     (goal at most 1.1)
    shares    time of one process / time of the slower of two, each with half of the windows        (goal 1.8)

The plain loop is what the published scripts do, less their batching: one window at a time, logits of all its positions,
the last `stride` kept. Every position but the first ones is computed 512 / 64 = 8 times by both sides: windows that
overlap share no work, since a position's state depends on where its window begins. What is left to save is calls and
logits: so the ratio rises with the share of the head (`--vocab`) and falls with depth, and on a GPU it rises with
everything that one window alone leaves idle. Seen on one CPU thread, 128 wide and 7 layers deep: 1.1 with 1,024 tokens
(the head is a sixth of the work), 2.0 with 8,192.
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

from pargolf.evaluate.adapt import mean_nats, score_adapted
from pargolf.evaluate.adapt_chunks import SGD
from pargolf.evaluate.score import final, merge, score, suits
from pargolf.evaluate.windows import Sliding
from pargolf.model.attention import Attention
from pargolf.model.graph import UNet, X0Mix
from pargolf.model.init import FanIn, Normal
from pargolf.model.mlp import MLP
from pargolf.model.transformer import Block, Model, Transformer

WINDOWS = Sliding(512, 64)
BOS = 1
LESSONS = SGD(lr=0.002, epochs=2, chunk=2048, batch=4)


def build(dim: int, layers: int, vocab: int) -> Transformer:
    block = Block(Attention(heads=dim // 32, kv_heads=dim // 64), MLP(2 * dim))
    init = (("embed.tokens", Normal(0.05)), ("*", FanIn()))
    return Model(vocab, dim, (block,) * layers, init=init, graph=(UNet(), X0Mix())).build().eval()


def stream(positions: int, vocab: int) -> tuple[np.ndarray, dict]:
    tokens = np.random.default_rng(0).integers(2, vocab, positions + 1).astype(np.uint16)
    return tokens, {"byte_counts": np.full(positions, 2), "vocab": vocab, "bos": BOS}


def plain_loop(model: Transformer, tokens: np.ndarray, device: str) -> float:
    """Nats of the stream, window by window."""
    ids, nats = torch.from_numpy(tokens.astype(np.int64)).to(device), 0.0
    with torch.no_grad():
        for window in WINDOWS.over(len(tokens) - 1):
            logits = model(ids[None, window.start : window.end]).float()
            each = cross_entropy(logits[0], ids[window.start + 1 : window.end + 1], reduction="none")
            nats += float(each[window.first - window.start :].double().sum())
    return nats


def bare_work(model: Transformer, tokens: np.ndarray, batch: int, device: str) -> None:
    """The forward passes and training steps of score-first SGD, with no ledger: same shapes, same number of each."""
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
                for at in range(0, len(same), batch):
                    rows = same[at : at + batch]
                    x = torch.stack([ids[w.start : w.end] for w in rows])
                    y = torch.stack([ids[w.first + 1 : w.end + 1] for w in rows])
                    cross_entropy(model(x, first=first).flatten(0, 1).float(), y.flatten())
        if chunk == chunks - 1:
            return
        piece = ids[chunk * LESSONS.chunk : (chunk + 1) * LESSONS.chunk + 1]
        x, y = (piece[by : by + LESSONS.chunk].view(-1, WINDOWS.length) for by in (0, 1))
        for _ in range(LESSONS.epochs):
            for at in range(0, len(x), LESSONS.batch):
                optimizer.zero_grad()
                mean_nats(model, x[at : at + LESSONS.batch], y[at : at + LESSONS.batch]).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), LESSONS.clip)
                optimizer.step()


def share(rank: int, world: int, positions: int, dim: int, layers: int, vocab: int) -> tuple[float, object]:
    torch.set_num_threads(1)
    tokens, options = stream(positions, vocab)
    model = build(dim, layers, vocab)
    final(score(model, tokens[:1025], WINDOWS, **options | {"byte_counts": np.ones(1024)}))
    began = time.perf_counter()
    found = final(score(model, tokens, WINDOWS, rank=rank, world=world, **options))
    return time.perf_counter() - began, found


def fastest(runs: list[Callable[[], object]], repeats: int, device: str) -> list[float]:
    """Least seconds of each, taken in turns so that a busy machine is unfair to all alike.

    On one CPU thread these are seconds of the processor, which other people's work does not lengthen.
    """
    now = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    best = [math.inf] * len(runs)
    for _ in range(repeats):
        for i, run in enumerate(runs):
            began = now()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            best[i] = min(best[i], now() - began)
    return best


def measure(args: argparse.Namespace) -> dict[str, float]:
    tokens, options = stream(args.positions, args.vocab)
    options |= {"device": args.device}
    model = build(args.dim, args.layers, args.vocab).to(args.device)
    ours = final(score(model, tokens, WINDOWS, **options))
    theirs = plain_loop(model, tokens, args.device)
    assert abs(ours.nats - theirs) <= 1e-6 * theirs, "the two sides must find one number"
    loop, scored = fastest(
        [lambda: plain_loop(model, tokens, args.device), lambda: final(score(model, tokens, WINDOWS, **options))],
        args.repeats,
        args.device,
    )

    def adapted() -> None:
        *_, _ = score_adapted(model, tokens, WINDOWS, LESSONS, without=ours, **options)

    spare = copy.deepcopy(model)
    bare, adapting = fastest(
        [lambda: bare_work(spare, tokens, suits(WINDOWS, args.device), args.device), adapted], args.repeats, args.device
    )
    out = {
        "loop_s": loop,
        "score_s": scored,
        "sliding": loop / scored,
        "bare_s": bare,
        "adapt_s": adapting,
        "adapted": adapting / bare,
    }
    return out | (shares(args) if args.shares else {})


def shares(args: argparse.Namespace) -> dict[str, float]:
    sizes = (args.positions, args.dim, args.layers, args.vocab)
    with ProcessPoolExecutor(1) as pool:
        alone, whole = pool.submit(share, 0, 1, *sizes).result()
    with ProcessPoolExecutor(2) as pool:
        halves = [job.result() for job in [pool.submit(share, rank, 2, *sizes) for rank in (0, 1)]]
    joined = merge([half for _, half in halves])
    assert abs(joined.nats - whole.nats) <= 1e-7 * whole.nats, "two processes must find what one finds"
    return {"shares": alone / max(seconds for seconds, _ in halves)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--positions", type=int, default=8192)
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shares", action="store_true", help="also with two processes; wants two free cores")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = measure(args)
    if args.json:
        print(json.dumps(found))
        return
    for name, goal in (("sliding", "1.5 or more"), ("adapted", "1.1 or less"), ("shares", "1.8 or more")):
        if name in found:
            print(f"{name:8} {found[name]:6.2f}   goal {goal}")
    print("seconds  " + ", ".join(f"{name[:-2]} {found[name]:.2f}" for name in found if name.endswith("_s")))


if __name__ == "__main__":
    main()
