"""Kernels in C against their reference twins, forward and backward, and whole steps against torch's own."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pargolf.core.budget import Clock
from pargolf.core.events import Step
from pargolf.core.spec import edit
from pargolf.data.shards import Shards
from pargolf.kernels import attention, blend, compiled, product, relu2_mlp, rms_norm, softcap_ce
from pargolf.kernels.compiled import Compiled, compiled_kernels
from pargolf.recipes.house import RECIPE as HOUSE
from pargolf.training.loop import Training

some = settings(max_examples=20, deadline=None)
needs_a_compiler = pytest.mark.skipif(compiled._find(False) is None, reason="there is no C compiler")

tiles = (kernels := compiled._find(True)) is not None and kernels.starts(attention._TILES)
needs_tiles = pytest.mark.skipif(not tiles, reason="this processor, system or compiler has no AMX")


def both_ways(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The output, and the gradient of each input under one upstream gradient."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    out.backward(torch.empty(out.shape).normal_(generator=torch.Generator().manual_seed(9)))
    grads = [x.grad for x in leaves]
    assert all(g is not None for g in grads)
    return [out.detach(), *(g for g in grads if g is not None)]


def assert_twins(fast: Callable[..., Tensor], slow: Callable[..., Tensor], *inputs: Tensor) -> None:
    """The fast path is taken, and gives what its twin gives."""
    with compiled_kernels():
        made_by = fast(inputs[0].clone().requires_grad_(), *inputs[1:]).grad_fn
        assert made_by is not None and made_by.name().startswith("_"), "torch's own operations were used"
        ours = both_ways(fast, inputs)
    for a, b in zip(ours, both_ways(slow, inputs), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("documents", [0.0, 0.02, 0.3])
def test_flex_attention_keeps_documents_apart_like_the_mask(documents: float) -> None:
    random = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 150, heads, 16, generator=random) for heads in (4, 2, 2))
    begins = torch.rand(2, 150, generator=random) < documents
    since = torch.where(begins, torch.arange(150), 0).cummax(-1).values
    dense = attention.document_mask(since)
    assert isinstance(dense, Tensor)
    flexed = attention.attention(q, k, v, since, lambda: attention.block_mask(since))
    torch.testing.assert_close(flexed, attention.reference(q, k, v, dense), atol=1e-5, rtol=1e-4)


@needs_a_compiler
@some
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 110),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 3),
    width=st.integers(1, 40),
    documents=st.sampled_from([0.0, 0.02, 0.3]),
    seed=st.integers(0, 10**6),
)
def test_attention(batch: int, length: int, kv_heads: int, group: int, width: int, documents: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, length, kv_heads * group, width, generator=g)
    k, v = (torch.randn(batch, length, kv_heads, width, generator=g) for _ in range(2))
    doc = (torch.rand(batch, length, generator=g) < documents).cumsum(-1)
    since, mask = torch.searchsorted(doc, doc), (doc[:, :, None] == doc[:, None, :]).tril()[:, None]

    def fast(*qkv: Tensor) -> Tensor:
        return attention.attention(*qkv, since if documents else None)

    assert_twins(fast, lambda *qkv: attention.reference(*qkv, mask), q, k, v)


@needs_tiles
@some
@given(
    batch=st.integers(1, 3),
    blocks=st.integers(1, 4),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 3),
    documents=st.sampled_from([0.0, 0.02, 0.3]),
    seed=st.integers(0, 10**6),
)
def test_attention_by_tiles_is_attention_of_rounded_factors(
    batch: int, blocks: int, kv_heads: int, group: int, documents: float, seed: int
) -> None:
    g, length, width = torch.Generator().manual_seed(seed), 32 * blocks, 32
    q = torch.randn(batch, length, kv_heads * group, width, generator=g)
    k, v = (torch.randn(batch, length, kv_heads, width, generator=g) for _ in range(2))
    doc = (torch.rand(batch, length, generator=g) < documents).cumsum(-1)
    since, mask = torch.searchsorted(doc, doc), (doc[:, :, None] == doc[:, None, :]).tril()[:, None]
    with compiled_kernels(True):
        ours = both_ways(lambda *qkv: attention.attention(*qkv, since), (q, k, v))
        later = torch.arange(length)[:, None, None] > length // 2
        cut, *_ = both_ways(lambda *qkv: attention.attention(*qkv, since), (q, k + later, v - 2.0 * later))
    exact = both_ways(lambda *qkv: attention.reference(*qkv, mask), (q, k, v))
    assert torch.equal(cut[:, : length // 2 + 1], ours[0][:, : length // 2 + 1]), "it sees what comes later"
    for a, b in zip(ours, exact, strict=True):
        assert (a - b).norm() < 0.01 * b.norm() + 0.002 * b.numel() ** 0.5
        assert (a - b).norm() > 1e-5 * b.norm(), "the tiles were not used"


@needs_a_compiler
@pytest.mark.parametrize("half", [False, True])
def test_attention_and_products_do_not_depend_on_threads(half: bool) -> None:
    qkv = torch.randn(3, 64, 4, 32), torch.randn(3, 64, 2, 32), torch.randn(3, 64, 2, 32)
    factors = torch.randn(4, 80, 64), torch.randn(96, 64)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with compiled_kernels(half):
            found.append(both_ways(attention.attention, qkv) + both_ways(product.product, factors))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@needs_a_compiler
@some
@given(
    rows=st.integers(1, 40),
    vocab=st.integers(2, 70),
    cap=st.floats(0.5, 40.0),
    spread=st.floats(0.01, 90.0),
    seed=st.integers(0, 10**6),
)
def test_softcap_cross_entropy(rows: int, vocab: int, cap: float, spread: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    z, target = torch.randn(rows, vocab, generator=g) * spread, torch.randint(0, vocab, (rows,), generator=g)
    assert_twins(
        lambda z: softcap_ce.softcap_cross_entropy(z, target, cap), lambda z: softcap_ce.reference(z, target, cap), z
    )


@needs_a_compiler
@pytest.mark.skipif(not product.multiplies_half(), reason="bfloat16 products need AVX512-BF16 or AMX")
@some
@given(
    rows=st.integers(1, 40),
    vocab=st.integers(2, 70),
    cap=st.floats(0.5, 40.0),
    spread=st.floats(0.01, 30.0),
    biased=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_the_heads_loss_rounds_as_its_parts_do(
    rows: int, vocab: int, cap: float, spread: float, biased: bool, seed: int
) -> None:
    """Product, bias and cross-entropy in one against one after the other, but for what is at a rounding's edge."""
    g = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(*shape, generator=g) for shape in ((rows, 8), (vocab, 8), (vocab,))][: 2 + biased]
    target, found = torch.randint(0, vocab, (rows,), generator=g), []
    with compiled_kernels(True):
        for whole in (True, False):
            x, w, *b = (leaf.clone().mul_(spread).requires_grad_() for leaf in leaves)
            if whole:
                loss = softcap_ce.head_cross_entropy(x, w, b[0] if b else None, target, cap)
            else:
                z = product.product(x, w)
                loss = softcap_ce.softcap_cross_entropy(z + b[0] if b else z, target, cap)
            found.append((loss, *torch.autograd.grad(3 * loss, [x, w, *b])))
    torch.testing.assert_close(found[0][0], found[1][0])
    for ours, parts in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(ours, parts, rtol=2**-7, atol=2**-7 * float(parts.abs().max()))


@needs_a_compiler
@some
@given(rows=st.integers(1, 40), width=st.integers(1, 70), slope=st.floats(0.0, 1.0), seed=st.integers(0, 10**6))
def test_norm_activation_and_blend(rows: int, width: int, slope: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x, s = (torch.randn(rows, width, generator=g) for _ in range(2))
    keep, add = (torch.randn(width, generator=g) for _ in range(2))
    assert_twins(rms_norm.rms_norm, rms_norm.reference, x)
    assert_twins(lambda z: relu2_mlp.squared_leaky_relu(z, slope), lambda z: relu2_mlp.reference(z, slope), x)
    assert_twins(blend.blend, blend.reference, x, s, keep, add)
    assert_twins(lambda x, s, w: blend.blend(x, s, None, w), lambda x, s, w: blend.reference(x, s, None, w), x, s, add)


@needs_a_compiler
@some
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 40),
    heads=st.integers(1, 4),
    pairs=st.integers(1, 8),
    passed=st.integers(0, 9),
    gains=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_norm_and_turn(batch: int, length: int, heads: int, pairs: int, passed: int, gains: bool, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, length, heads, 2 * pairs + passed, generator=g)
    angle = torch.randn(length, 1, pairs, generator=g)
    gain = (torch.randn(heads, generator=g),) if gains else ()

    def slow(x: Tensor, gain: Tensor | None = None) -> Tensor:
        y = rms_norm.turned(rms_norm.reference(x), angle.cos(), angle.sin())
        return y if gain is None else y * gain[:, None]

    assert_twins(lambda x, *gain: rms_norm.norm_and_turn(x, angle.cos(), angle.sin(), *gain), slow, x, *gain)


def test_half_products_are_products_of_rounded_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "at_hand", lambda *x: Compiled.__new__(Compiled))
    monkeypatch.setattr(Compiled, "half", True, raising=False)
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, 5, 16, generator=g), torch.randn(8, 16, generator=g)
    y, dx, dw = both_ways(product.product, (x, w))
    assert torch.equal(y, (x.bfloat16() @ w.bfloat16().T).float()) and y.dtype == dx.dtype == dw.dtype == torch.float32
    for ours, exact in zip((y, dx, dw), both_ways(product.reference, (x, w)), strict=True):
        assert ours.shape == exact.shape and (ours - exact).norm() < 0.01 * exact.norm()


@needs_tiles
@some
@given(
    rows=st.integers(1, 5),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    wide=st.booleans(),
    seed=st.integers(0, 99),
)
def test_products_by_tiles_are_sums_over_rounded_factors(
    rows: int, inputs: int, outputs: int, wide: bool, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 32 if wide else 8, 32 * inputs, generator=g)
    w, taken = torch.randn(32 * outputs, 32 * inputs, generator=g), []

    def tiled(x: Tensor, w: Tensor) -> Tensor:
        y = product.product(x, w)
        taken.append(y.grad_fn.name() if y.grad_fn else "")
        return y.bfloat16().float()  # so that the gradient that comes in is rounded already

    with compiled_kernels(True):
        ours = both_ways(tiled, (x, w))
    exact = both_ways(
        lambda *xw: product.reference(*xw).bfloat16().float(), (x.bfloat16().float(), w.bfloat16().float())
    )
    assert taken == ["_TiledProductBackward" if wide or rows % 4 == 0 else "_HalfProductBackward"]
    for a, b in zip(ours[1:], exact[1:], strict=True):
        assert (a - b).norm() < (1e-5 if "Tiled" in taken[0] else 0.01) * b.norm()
    assert (ours[0] - exact[0]).norm() < 0.01 * exact[0].norm()


def trained(kernels: Callable[[bool], AbstractContextManager[Any]] | None) -> dict[str, Tensor]:
    """The demo's weights, small and with every kernel's work in it, after four steps."""
    system = edit(HOUSE, {"model.vocab": 64, "train.batch_tokens": 128, "train.seq_len": 64, "train.steps": 4})
    tokens = np.random.default_rng(0).integers(1, 64, 5000).astype(np.uint16)
    model = system.model.build(1)
    train = replace(system.train, half=False)
    run = Training(train, model, Shards([tokens]), seed=1, clock=Clock(), seconds=float("inf"), kernels=kernels)
    assert sum(isinstance(event, Step) for event in run.run()) == 4
    return {name: p.detach() for name, p in model.named_parameters()}


@needs_a_compiler
def test_steps_agree_with_torch() -> None:
    plain, ours = trained(None), trained(compiled_kernels)
    assert any(not torch.equal(plain[name], ours[name]) for name in plain), "the kernels were not used"
    for name in plain:
        torch.testing.assert_close(ours[name], plain[name], atol=2e-3, rtol=1e-3, msg=name)
    again = trained(compiled_kernels)
    assert all(torch.equal(again[name], ours[name]) for name in ours)


@needs_a_compiler
def test_a_kernel_does_not_depend_on_threads() -> None:
    x, s, w = torch.randn(300, 24), torch.randn(300, 24), torch.randn(24)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with compiled_kernels():
            found.append(both_ways(blend.blend, (x, s, w, w)))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@needs_a_compiler
@pytest.mark.parametrize("half", [False, True])
def test_not_a_number_stays_one(half: bool) -> None:
    z = torch.zeros(3, 20)
    z[1, 4] = float("nan")
    q = torch.randn(1, 64, 1, 32)
    q[0, 7] = float("nan")
    with compiled_kernels(half):
        loss = softcap_ce.softcap_cross_entropy(z.requires_grad_(), torch.tensor([1, 2, 3]), 30.0)
        y = attention.attention(q.requires_grad_(), torch.randn(1, 64, 1, 32), torch.randn(1, 64, 1, 32))
    assert loss.isnan() and y[0, 7].isnan().all() and not y[0, 8:].isnan().any()


def test_only_training_on_a_cpu_comes_here() -> None:
    leaf = torch.zeros(2, 4, requires_grad=True)
    assert compiled.at_hand(leaf) is None
    with compiled_kernels() as found:
        assert (compiled.at_hand(leaf) is not None) == found
        assert compiled.at_hand(leaf.detach()) is None and compiled.at_hand(leaf.double()) is None
        with torch.no_grad():
            assert compiled.at_hand(leaf) is None


@pytest.mark.parametrize("compiler", ["", "false"])
def test_without_a_working_compiler_torch_does_it(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: compiler or None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled._find.cache_clear()
    try:
        with compiled_kernels() as found:
            assert not found and compiled.at_hand(torch.zeros(2, requires_grad=True)) is None
    finally:
        compiled._find.cache_clear()
