import math

import pytest
import torch

from mmdflow import DMMDPipeline, InputError, LinearSchedule
from mmdflow.features import MLPFeatures
from mmdflow.methods.dmmd import TargetWitness
from mmdflow.noise import NoiseConditionalWitness, clamped_exp
from tests.methods.dmmd.runs import walk_down

LEVELS = torch.linspace(0.1, 1.0, 10, dtype=torch.float64)


def kernel():
    torch.manual_seed(0)
    witness = NoiseConditionalWitness(MLPFeatures((3,), 4, "flat", width=16, depth=1), 4).double()
    torch.nn.init.normal_(witness.read_out.weight)
    return witness.requires_grad_(False)


def particles(n=6):
    return torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_step_goes_down_the_learned_witness(reverse):
    k, x, t = kernel(), particles(), float(LEVELS[3])
    z = x.clone().requires_grad_()
    h = (k.features(z, z.new_full((6,), t)) * k.direction(LEVELS[3:4])).sum(1)
    (gradient,) = torch.autograd.grad((-clamped_exp(h) if reverse else h).sum(), z)
    moved, nfe = walk_down(
        k, TargetWitness.of(k, LEVELS, reverse), x, levels=[t], step_sizes=[0.1], sampler="approximate"
    )
    torch.testing.assert_close(moved, x - 0.1 * gradient)
    assert nfe == 1


def test_between_levels_the_direction_is_interpolated():
    target = TargetWitness.of(kernel(), LEVELS, False)
    assert target.t_range == pytest.approx((0.1, 1.0))
    middle = target.level(kernel(), 0.25).direction
    torch.testing.assert_close(middle, (target.direction[1] + target.direction[2]) / 2)
    torch.testing.assert_close(target.level(kernel(), 1.0).direction, target.direction[-1])
    with pytest.raises(InputError, match=r"noise level t = 0.05"):
        target.level(kernel(), 0.05)


def test_clamped_exp_and_its_slope_stay_finite():
    h = torch.tensor([-1.0, 14.0, 16.0, 1000.0], dtype=torch.float64, requires_grad=True)
    value = clamped_exp(h)
    (slope,) = torch.autograd.grad(value.sum(), h)
    top = math.exp(15)
    torch.testing.assert_close(value, torch.tensor([math.exp(-1), math.exp(14), 2 * top, 986 * top]).double())
    torch.testing.assert_close(slope, torch.tensor([math.exp(-1), math.exp(14), top, top]).double())


def test_the_exact_sampler_is_refused():
    k = kernel()
    with pytest.raises(InputError, match="sampler = 'exact': the witness of a KL bound does not see the particles"):
        walk_down(k, TargetWitness.of(k, LEVELS, False), particles(), levels=[0.5], step_sizes=[0.1], sampler="exact")


def test_a_pipeline_of_a_learned_witness_comes_back(tmp_path):
    k = kernel().float()
    target = TargetWitness.of(k, LEVELS, True)
    pipe = DMMDPipeline(k, LinearSchedule(), "linear", target, 1.0)
    twin = DMMDPipeline.from_pretrained(pipe.save_pretrained(tmp_path / "p"))
    assert isinstance(twin.target, TargetWitness)
    assert twin.target.reverse
    how = {"num_levels": 3, "sampler": "approximate"}
    a, b = (p(5, generator=torch.Generator().manual_seed(0), monitor=True, **how) for p in (pipe, twin))
    torch.testing.assert_close(a.particles, b.particles)
    assert a.nfe == 3


@pytest.mark.parametrize("levels", [[0.5], [0.9, 0.1]])
def test_a_grid_of_levels_must_increase(levels, unchecked):
    levels = torch.tensor(levels, dtype=torch.float64)
    with pytest.raises(InputError, match="must be at least 2 that increase"):
        TargetWitness(levels, torch.ones(len(levels), 4, dtype=torch.float64))
