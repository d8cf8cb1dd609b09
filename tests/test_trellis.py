"""Trellis grids: decoding needs codes alone, training sees what is stored, the path is the best one, and pays."""

import itertools
import math

import numpy as np
import pytest
import small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pargolf.core.budget import Clock
from pargolf.core.errors import UserError
from pargolf.core.events import Step
from pargolf.core.spec import dump, load
from pargolf.kernels import compiled
from pargolf.packing import coder
from pargolf.packing.artifact import ArtifactError, from_bytes, to_bytes
from pargolf.packing.tensors import CodesTensor
from pargolf.quant.clip import Amax, StdDev
from pargolf.quant.gptq import GPTQ, weighted_error
from pargolf.quant.grid import Codes, Int, Keep
from pargolf.quant.plan import QAT, Quantize
from pargolf.quant.trellis import MACHINES, Trellis, rows_of, sides, spread_scales, woven
from pargolf.training.loop import Training
from pargolf.training.phases import AtStep, Phase

shapes = st.one_of(
    st.tuples(st.integers(1, 40)),
    st.tuples(st.integers(1, 12), st.integers(1, 30)),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9)),
)


@settings(max_examples=60, deadline=None)
@given(
    shape=shapes,
    bits=st.integers(2, 8),
    states=st.sampled_from(sorted(MACHINES)),
    k=st.sampled_from([None, 2.0, 12.85]),
    per=st.sampled_from(["row", "tensor"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_training_sees_what_the_codes_decode_to_bit_for_bit(shape, bits, states, k, per, dtype, seed):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()
    grid = Trellis(Int(bits, clip=StdDev(k) if k else Amax(), per=per), states)
    codes = grid.encode(w)
    assert codes.codes.shape == w.shape and codes.codes.dtype == torch.int8
    assert int(codes.codes.max()) <= grid.base.high and int(codes.codes.min()) >= -grid.base.high - 1
    fake = grid.fake(w)
    assert torch.equal(fake.detach(), grid.decode(codes).to(dtype))
    fake.sum().backward()
    assert torch.equal(w.grad, torch.ones_like(w))


def test_decoding_walks_the_machine_that_the_docstring_describes():
    grid = Trellis(Int(5), 8)
    w = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    codes = grid.encode(w)
    for row, scale, values in zip(codes.codes.tolist(), codes.scales.float().tolist(), grid.decode(codes).tolist()):
        state = 0
        for k, value in zip(row, values):
            assert value == np.float32((2 * k + state % 2) * (scale / 2))
            state = (2 * state) % 8 | ((k & 1) ^ ((state & MACHINES[8]).bit_count() & 1))


@pytest.mark.parametrize("states", [4, 8])
def test_no_codes_at_all_are_nearer_than_the_path(states):
    grid = Trellis(Int(2), states)
    w = torch.randn(6, 5, generator=torch.Generator().manual_seed(states))
    found = grid.encode(w)
    error = (w - grid.decode(found)).square().sum(1)
    every = torch.tensor(list(itertools.product((-2, -1, 0, 1), repeat=5)), dtype=torch.int8)
    # -2 stands on the upper copy only: there it mirrors the largest code.
    legal = every[((every > -2) | (sides(every, states=states) == 1)).all(1)]
    for i in range(6):
        values = grid.decode(Codes(legal, found.scales[i].repeat(len(legal))))
        assert float(error[i]) == pytest.approx(float((w[i] - values).square().sum(1).min()), rel=1e-5)


def test_error_is_a_decibel_under_the_scalar_grid_of_the_same_bytes():
    """The gains that the docstring names, on Gaussian rows: .98 dB with 4 states, 1.08 with 8."""
    w = torch.randn(64, 512, generator=torch.Generator().manual_seed(1))
    base = Int(6, clip=StdDev(12.85))
    plain = base.encode(w)
    scalar = (w - base.decode(plain)).square().mean()
    size = len(coder.encode([plain.codes.numpy()]))
    for states, gain in ((4, 0.98), (8, 1.07), (16, 1.12)):
        grid = Trellis(base, states)
        codes = grid.encode(w)
        error = (w - grid.decode(codes)).square().mean()
        assert 10 * math.log10(scalar / error) > gain - 0.06
        assert len(stored(codes, grid)) < size + 400


def test_feedback_along_survivors_beats_gptq_on_the_scalar_grid():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(600, 96, generator=generator) @ torch.randn(96, 96, generator=generator)
    hessian, w = x.T @ x / 600, torch.randn(48, 96, generator=generator)
    base = Int(5, clip=StdDev(8.0))
    scalar = weighted_error(w - base.decode(GPTQ().encode(w, base, hessian)), hessian)
    grid = Trellis(base)
    error = weighted_error(w - grid.decode(GPTQ().encode(w, grid, hessian)), hessian)
    assert error < 0.9 * scalar


@pytest.mark.skipif(compiled._find(False) is None, reason="there is no C compiler")
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 100),
    bits=st.integers(2, 8),
    states=st.sampled_from(sorted(MACHINES)),
    fed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_walk_in_c_finds_the_path_that_torch_finds(rows, columns, bits, states, fed, seed):
    generator = torch.Generator().manual_seed(seed)
    grid, w = Trellis(Int(bits, clip=StdDev(4.0)), states), torch.randn(rows, columns, generator=generator)
    x = torch.randn(2 * columns, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    hessian = x.T @ x / len(x) if fed else None

    def encoded():
        return grid.encode(w) if hessian is None else GPTQ().encode(w, grid, hessian)

    slow = encoded()
    with compiled.compiled_kernels():
        assert isinstance(compiled.at_hand_to_pack(w), compiled.Compiled)
        fast = encoded()
    assert torch.equal(fast.scales, slow.scales)
    # Where two paths cost the same but for rounding, either will do.
    errors = [weighted_error(w - grid.decode(codes), hessian) for codes in (fast, slow)]
    assert errors[0] == pytest.approx(errors[1], rel=2e-3, abs=1e-6)
    assert fed or torch.equal(fast.codes, slow.codes)


def test_training_sees_a_trellis_and_packing_stores_what_it_saw():
    """From its phase on the loss is that of weights on the trellis, gradients pass, and the artifact's are the same."""
    grid = Trellis(Int(3))
    table = (("mlp.*", grid), ("attn.[qkv]", grid), ("*", None))

    def losses(*phases):
        model = small.model(dim=32).build(0)
        spec = small.train(steps=4, phases=phases)
        run = Training(spec, model, small.shards(), seed=0, clock=Clock(), seconds=math.inf)
        return model, [event.loss for event in run.run() if isinstance(event, Step)]

    _, plain = losses()
    model, seen = losses(Phase("qat", AtStep(2), weights=QAT(table)))
    assert plain[:2] == seen[:2] and plain[2] != seen[2] and plain[3] != seen[3]
    weights = dict(model.named_parameters())
    fakes = QAT(table).resolve(weights)(weights)
    quant = Quantize((("mlp.*", grid), ("attn.[qkv]", grid), ("*", Keep("float32"))))
    for name, (own, codes) in quant.encode(weights).items():
        if name in fakes:
            assert torch.equal(own.decode(codes), fakes[name]) and not torch.equal(fakes[name], weights[name])


@settings(max_examples=25, deadline=None)
@given(
    shape=shapes,
    bits=st.integers(2, 8),
    states=st.sampled_from(sorted(MACHINES)),
    ordered=st.booleans(),
    seed=st.integers(0, 99),
)
def test_artifacts_carry_trellis_codes_exactly(shape, bits, states, ordered, seed):
    generator = torch.Generator().manual_seed(seed)
    w, grid = torch.randn(shape, generator=generator), Trellis(Int(bits), states)
    codes, columns = grid.encode(w), rows_of(w).shape[1]
    if ordered:
        codes = Codes(codes.codes, codes.scales, torch.randint(16, (columns,), generator=generator, dtype=torch.int8))
    kept = from_bytes(stored(codes, grid)).tensors["a"]
    assert isinstance(kept, CodesTensor) and kept.states == states
    assert np.array_equal(kept.codes, codes.codes.numpy())
    assert np.array_equal(kept.order, codes.order.numpy()) if ordered else kept.order is None
    assert load(kept.grid, within=("pargolf.quant.",)) == grid


@given(classes=st.lists(st.integers(0, 15), min_size=1, max_size=40))
def test_the_order_of_a_walk_alternates_light_and_heavy_columns(classes):
    order = woven(torch.tensor(classes, dtype=torch.int8))
    assert sorted(order.tolist()) == list(range(len(classes)))
    light, heavy = [classes[i] for i in order[::2]], [classes[i] for i in order[1::2]]
    assert min(heavy, default=15) >= max(light[: len(heavy)]) if heavy else True
    assert heavy == sorted(heavy, reverse=True)


def test_light_columns_let_heavy_ones_choose_their_grid():
    """A tenth of the columns carry most of the input: the walk by classes halves the error of the one as they stand."""
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(800, 96, generator=generator)
    x[:, 40:50] *= 30
    hessian, w = x.T @ x / 800, torch.randn(48, 96, generator=generator)
    grid = Trellis(Int(5, clip=StdDev(8.0)))
    codes = GPTQ().encode(w, grid, hessian)
    assert codes.order is not None and set(codes.order[40:50].tolist()) == {15}
    walked = weighted_error(w - grid.decode(codes), hessian)
    scale_NC = spread_scales(codes.scales, w)
    as_they_stand = grid.follow(w, scale_NC=scale_NC, upper_CC=GPTQ().factor(hessian))
    assert walked < 0.5 * weighted_error(w - grid.decode(Codes(as_they_stand, codes.scales)), hessian)
    with pytest.raises(UserError, match="another number of columns"):
        stored(Codes(codes.codes, codes.scales, codes.order[:5]), grid)


def test_a_section_may_mix_tensors_with_and_without_a_trellis():
    w = torch.randn(24, 40, generator=torch.Generator().manual_seed(3))
    tensors = []
    for i, grid in enumerate((Int(6), Trellis(Int(6)), Int(4), Trellis(Int(4), 4))):
        codes = grid.encode(w)
        states = getattr(grid, "states", 0)
        tensors.append(CodesTensor(f"{i}", "r", codes.codes.numpy(), codes.scales.numpy(), dump(grid), states))
    back = from_bytes(to_bytes({}, tensors)).tensors
    assert all(np.array_equal(back[t.name].codes, t.codes) for t in tensors)


def test_the_state_is_worth_bits_to_the_coder():
    """Given the parities, what is left of a code is cheaper under the table of its own side than under one for all."""
    grid = Trellis(Int(4, clip=StdDev(5.0)))
    codes = grid.encode(torch.randn(256, 512, generator=torch.Generator().manual_seed(4))).codes
    side = (2 * (codes & 1) + sides(codes, states=8)).numpy().astype(np.uint8)
    halves = (codes >> 1).numpy()
    assert len(coder.encode([halves], [side])) < 0.99 * len(coder.encode([halves]))
    assert np.array_equal(coder.decode(coder.encode([halves], [side]), [halves.shape], [side])[0], halves)


def test_damaged_and_unknown_trellises_are_refused():
    w = torch.randn(8, 8, generator=torch.Generator().manual_seed(5))
    grid = Trellis(Int(4))
    codes = grid.encode(w)
    tensor = CodesTensor("a", "r", codes.codes.numpy(), codes.scales.numpy(), dump(grid), 7)
    with pytest.raises(ValueError, match="states"):
        to_bytes({}, [tensor])
    data = stored(codes, grid)
    for at in range(0, len(data), 7):
        with pytest.raises(ArtifactError):
            from_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    for wrong in (Int(6, extra_code=True), Int(8, multiple=4), Int(6, round_with="exact")):
        with pytest.raises(UserError, match="Trellis"):
            Trellis(wrong)
    with pytest.raises(UserError, match="4, 8, 16, 32"):
        Trellis(Int(6), 5)
    with pytest.raises(UserError, match="NaN"):
        grid.encode(torch.tensor([[1.0, float("nan")]]))


def stored(codes, grid):
    order = None if codes.order is None else codes.order.numpy()
    tensor = CodesTensor("a", "r", codes.codes.numpy(), codes.scales.numpy(), dump(grid), grid.states, order)
    return to_bytes({}, [tensor])
