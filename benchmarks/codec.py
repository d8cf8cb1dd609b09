"""Bytes of quantized weights by codec, against order-0 entropy, and seconds to write and read a million weights.

    python benchmarks/codec.py            # synthetic matrices: Gaussian and heavy-tailed, with unequal rows and columns
    python benchmarks/codec.py --full     # an artifact of the frontier's size, 36 M weights, written and read
    python benchmarks/codec.py --walk     # GPTQ on the scalar grid and on the trellis, by torch and in C

Ratios are to the Shannon bound of each matrix's own value counts, which no table-per-tensor coder can pass.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from pargolf.kernels.compiled import compiled_kernels
from pargolf.packing import coder
from pargolf.packing.codecs import Brotli, Lzma, Zlib, Zstd
from pargolf.quant.clip import StdDev
from pargolf.quant.gptq import GPTQ, weighted_error
from pargolf.quant.grid import Int
from pargolf.quant.trellis import Trellis

Matrices = list[NDArray[np.int8]]


def matrices(
    *, bits: int, clip: float | None, rows: float, columns: float, tails: int | None = None, shape=(512, 1024)
) -> Matrices:
    """Two synthetic matrices.

    `rows` and `columns` are the spread of ln sigma; `clip` is in standard deviations (None: amax).
    """
    out = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        w = rng.standard_normal(shape) if tails is None else rng.standard_t(tails, size=shape)
        w *= np.exp(rows * rng.standard_normal((shape[0], 1))) * np.exp(columns * rng.standard_normal((1, shape[1])))
        high = 2 ** (bits - 1) - 1
        limit = clip * w.std(1, keepdims=True) if clip else np.abs(w).max(1, keepdims=True)
        out.append(np.clip(np.round(w * high / limit), -high, high).astype(np.int8))
    return out


def cases() -> Iterator[tuple[str, Matrices]]:
    yield "int6, 12.85 sd, Gaussian", matrices(bits=6, clip=12.85, rows=0.3, columns=0)
    yield "int6, 12.85 sd, columns .1", matrices(bits=6, clip=12.85, rows=0.3, columns=0.1)
    yield "int6, 12.85 sd, columns .3", matrices(bits=6, clip=12.85, rows=0.3, columns=0.3)
    yield "int6, amax, t5, columns .2", matrices(bits=6, clip=None, rows=0.3, columns=0.2, tails=5)
    yield "int4, 7 sd, columns .1", matrices(bits=4, clip=7, rows=0, columns=0.1)
    yield "int8, 20 sd, columns .2", matrices(bits=8, clip=20, rows=0.3, columns=0.2)
    yield "ternary, columns .2", matrices(bits=2, clip=1.5, rows=0, columns=0.2)
    yield "int6 small (48 x 64)", matrices(bits=6, clip=12.85, rows=0.3, columns=0.2, shape=(48, 64))


def coders() -> Iterator[tuple[str, Callable[[Matrices], bytes], Callable[[bytes, Matrices], object]]]:
    """The name, writer and reader of each codec."""
    for name, codec in (("zlib-9", Zlib()), ("zstd-22", Zstd()), ("xz-9e", Lzma()), ("brotli-11", Brotli())):
        yield (
            name,
            lambda codes, codec=codec: codec.encode(b"".join(m.tobytes() for m in codes)),
            lambda data, codes, codec=codec: codec.decode(data, size=sum(m.size for m in codes)),
        )
    yield "ours", coder.encode, lambda data, codes: coder.decode(data, [m.shape for m in codes])


def frontier() -> Iterator[tuple[str, Matrices]]:
    """Roles of pull request 1855's model, 36 M weights: int6 at 12.85 deviations, the embedding int7 at 14."""
    shapes = {
        "attn.qo": (22, 512, 512),
        "attn.kv": (22, 256, 512),
        "mlp.up": (11, 2048, 512),
        "mlp.down": (11, 512, 2048),
    }
    for name, (count, *shape) in shapes.items():
        pairs = [matrices(bits=6, clip=12.85, rows=0.3, columns=0.1, shape=shape) for _ in range(count // 2 + 1)]
        yield name, [m for pair in pairs for m in pair][:count]
    yield "embed", matrices(bits=7, clip=14.0, rows=0.3, columns=0.1, shape=(8192, 512))[:1]


def full() -> None:
    """Processor seconds, one thread, of writing and reading all codes of a model of that size."""
    total = np.zeros(4)
    print(f"{'role':10} {'weights':>11} {'bytes':>11} {'write, s':>9} {'read, s':>9}")
    for name, codes in frontier():
        begun = time.process_time()
        data = coder.encode(codes)
        middle = time.process_time()
        back = coder.decode(data, [m.shape for m in codes])
        row = [sum(m.size for m in codes), len(data), middle - begun, time.process_time() - middle]
        assert all(np.array_equal(a, b) for a, b in zip(codes, back))
        total += row
        print(f"{name:10} {row[0]:11,} {row[1]:11,} {row[2]:9.1f} {row[3]:9.1f}", flush=True)
    print(f"{'all':10} {int(total[0]):11,} {int(total[1]):11,} {total[2]:9.1f} {total[3]:9.1f}")


def walk() -> None:
    """Processor seconds, one thread, of GPTQ on some shapes, and its error relative to the scalar grid."""
    torch.set_num_threads(1)
    base = Int(6, clip=StdDev(12.85))
    total = np.zeros(4)
    print(f"{'rows':>6} {'columns':>8} {'scalar, s':>10} {'trellis, s':>11} {'in C, s':>8} {'error':>6}")
    for rows, columns in ((256, 128), (128, 256), (4096, 128), (1536, 384), (384, 1536), (512, 512)):
        generator = torch.Generator().manual_seed(rows)
        w = torch.randn(rows, columns, generator=generator)
        x = torch.randn(2 * columns, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
        hessian, seconds, errors = x.T @ x / len(x), [], []
        for grid, kernels in (
            (base, nullcontext()),
            (Trellis(base), nullcontext()),
            (Trellis(base), compiled_kernels()),
        ):
            with kernels:
                Trellis(base).encode(w[:1])  # compiled once
                begun = time.process_time()
                codes = GPTQ().encode(w, grid, hessian)
                seconds.append(time.process_time() - begun)
            errors.append(weighted_error(w - grid.decode(codes), hessian))
        total += [w.numel(), *seconds]
        print(
            f"{rows:6} {columns:8} {seconds[0]:10.2f} {seconds[1]:11.2f} {seconds[2]:8.2f} {errors[2] / errors[0]:6.2f}"
        )
    print(f"{int(total[0]):15,} {total[1]:10.2f} {total[2]:11.2f} {total[3]:8.2f}")


def main() -> None:
    if "--walk" in sys.argv[1:]:
        walk()
        return
    if "--full" in sys.argv[1:]:
        full()
        return
    names = [name for name, _, _ in coders()]
    print(f"{'codes':28} {'order-0':>9} " + " ".join(f"{name:>10}" for name in names) + "  ours/best")
    seconds = {name: [0.0, 0.0] for name in names}
    weights = 0
    for title, codes in cases():
        bound = sum(coder.order0_bytes(m) for m in codes)
        sizes = {}
        for name, write, read in coders():
            begun = time.perf_counter()
            data = write(codes)
            middle = time.perf_counter()
            read(data, codes)
            seconds[name][0] += middle - begun
            seconds[name][1] += time.perf_counter() - middle
            sizes[name] = len(data)
        weights += sum(m.size for m in codes)
        general = min(size for name, size in sizes.items() if name != "ours")
        ratios = " ".join(f"{size / bound:10.4f}" for size in sizes.values())
        print(f"{title:28} {bound:9.0f} {ratios} {sizes['ours'] / general:10.4f}")
    for i, action in enumerate(("write", "read")):
        print(
            f"{action + ', s per M weights':38} " + " ".join(f"{1e6 * t[i] / weights:10.3f}" for t in seconds.values())
        )


if __name__ == "__main__":
    main()
