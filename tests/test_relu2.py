"""The squared leaky ReLU and its twin: same values, same gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pargolf.kernels.relu2_mlp import reference, squared_leaky_relu


@given(slope=st.sampled_from([0.0, 0.5]), seed=st.integers(0, 99), shape=st.sampled_from([(7,), (2, 3, 8), (0, 4)]))
def test_squared_leaky_relu_is_its_reference_forward_and_backward(slope, seed, shape):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(shape, generator=generator).mul(3).requires_grad_()
    if z.numel():
        z.data.view(-1)[0] = 0.0  # the corner, where both take the gradient 0
    g = torch.randn(shape, generator=generator)
    found, wanted = squared_leaky_relu(z, slope), reference(z, slope)
    assert torch.equal(found, wanted)
    (dz,) = torch.autograd.grad(found, z, g)
    (expected,) = torch.autograd.grad(wanted, z, g)
    torch.testing.assert_close(dz, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_its_gradient_is_the_one_of_finite_differences(slope):
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).add(0.03).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: squared_leaky_relu(z, slope), z)


def test_it_keeps_one_tensor_for_the_backward_pass():
    kept = []
    z = torch.randn(5).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x.detach(), lambda x: x):
        squared_leaky_relu(z, 0.5)
    assert len(kept) == 1
