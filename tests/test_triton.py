"""Triton kernels against their reference twins, by its interpreter where there is no GPU; skipped without Triton."""

import os

import pytest
import torch
import torch.nn.functional as F

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")
from pargolf.kernels import fused, relu2_mlp, softcap_ce

pytestmark = pytest.mark.triton
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(("rows", "vocab", "cap"), [(1, 2, 30.0), (5, 37, 30.0), (33, 64, 4.0)])
def test_cross_entropy_of_rows(rows, vocab, cap):
    g = torch.Generator().manual_seed(rows)
    z = (torch.randn(rows, vocab, generator=g) * 20).to(DEVICE)
    target = torch.randint(0, vocab, (rows,), generator=g).to(DEVICE)
    ours, twin = z.clone().requires_grad_(), z.clone().requires_grad_()
    loss = fused.CrossEntropyOfRows.apply(ours, target, cap).mean()
    slow = softcap_ce.reference(twin, target, cap)
    loss.backward()
    slow.backward()
    torch.testing.assert_close(loss, slow, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.grad, twin.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("rows", "deep", "units"), [(1, 8, 4), (70, 40, 90), (64, 32, 64)])
@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_square_of_product(rows, deep, units, slope):
    g = torch.Generator().manual_seed(rows)
    inputs = [torch.randn(*shape, generator=g).to(DEVICE) for shape in ((rows, deep), (units, deep))]
    upstream = torch.randn(rows, units, generator=g).to(DEVICE)
    results = []
    for function in (fused.SquareOfProduct.apply, fused.reference):
        x, w = (t.clone().requires_grad_() for t in inputs)
        y = function(x, w, slope)
        y.backward(upstream)
        results.append((y, x.grad, w.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-3)
    assert torch.equal(fused.reference(*inputs, slope), relu2_mlp.reference(F.linear(*inputs), slope))


def test_a_compiled_graph_takes_them_whole():
    z, target = torch.randn(6, 20, device=DEVICE), torch.arange(6, device=DEVICE)
    graph = torch.compile(
        lambda z: fused.CrossEntropyOfRows.apply(z, target, 30.0).sum(), backend="aot_eager", fullgraph=True
    )
    grads = []
    for function in (graph, lambda z: 6 * softcap_ce.reference(z, target, 30.0)):
        leaf = z.clone().requires_grad_()
        function(leaf).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-4)


def test_not_chosen_on_a_cpu():
    x = torch.randn(3, 4, requires_grad=True)
    assert relu2_mlp.squared_up(x, torch.randn(5, 4), 0.5) is None
