"""Points of size 1e-20 and 1e20 in float32, whose squares leave its range: right, or one clear line, never finite and wrong."""

import math

import pytest
import torch

from mmdflow import (
    KALE,
    MMD,
    AdaptiveMMD,
    DivergedError,
    Drift,
    DrMMD,
    FDivergence,
    Gaussian,
    InputError,
    InverseMultiquadric,
    Kernel,
    Laplace,
    Linear,
    Matern,
    PotentialEnergy,
    RationalQuadratic,
    Riesz,
    SlicedMMD,
    SobolevDescent,
    flow,
    ops,
)
from mmdflow.divergences.drifts import NORMALIZATIONS
from mmdflow.flows import Record
from mmdflow.functional import mmd2
from mmdflow.kernels import Polynomial, median_bandwidth, nearest_distance
from mmdflow.metrics import frechet_distance, mmd_test, nearest_distances, sliced_w2

SCALES = pytest.mark.parametrize("scale", [1e-20, 1e20])
KERNELS = {
    "gaussian": Gaussian,
    "laplace": Laplace,
    "matern-1/2": lambda s: Matern(0.5, s),
    "matern-3/2": lambda s: Matern(1.5, s),
    "matern-5/2": lambda s: Matern(2.5, s),
    "rational-quadratic": lambda s: RationalQuadratic(1.5, s),
    "riesz": lambda s: Riesz(),
    "riesz-1.5": lambda s: Riesz(1.5),
    "polynomial": lambda s: Polynomial(2, s**-2),
    "mixture": lambda s: Gaussian(s) + 0.5 * Laplace(2 * s),
    "product": lambda s: Gaussian(s) * Laplace(s),
}


def seeded():
    return torch.Generator().manual_seed(0)


FIELDS = {
    **{f"mmd-{name}": lambda y, s, make=make: MMD(y, make(s)) for name, make in KERNELS.items()},
    **{f"drift-{kind}": lambda y, s, kind=kind: Drift(y, Laplace(s), normalization=kind) for kind in NORMALIZATIONS},
    "sliced": lambda y, s: SlicedMMD(y, 16, generator=seeded(), redraw=False),
    "sliced-1.5": lambda y, s: SlicedMMD(y, 16, 1.5, generator=seeded(), redraw=False),
    "sliced-gaussian": lambda y, s: SlicedMMD(y, 16, kernel=Gaussian(s), generator=seeded(), redraw=False),
    "sliced-binned": lambda y, s: SlicedMMD(y, 16, ranks="binned", generator=seeded(), redraw=False),
    "kale": lambda y, s: KALE(y, Gaussian(s), 0.5),
    "drmmd": lambda y, s: DrMMD(y, Gaussian(s), 0.5),
    "chi2": lambda y, s: FDivergence(y, Gaussian(s), 0.5, "chi2"),
    "adaptive-optimal": lambda y, s: AdaptiveMMD(y, "optimal", kernel=Gaussian),
    "adaptive-median": lambda y, s: AdaptiveMMD(y, "median", kernel=Gaussian),
    "adaptive-gradient": lambda y, s: AdaptiveMMD(y, "gradient", kernel=Gaussian),
}


def clouds(scale, dim, n=20, m=30):
    """Points that float32 holds exactly, in float64: y, x."""
    y = torch.randn(m, dim, generator=torch.Generator().manual_seed(0)) * scale / dim**0.25
    x = (torch.randn(n, dim, generator=torch.Generator().manual_seed(1)) + 0.3) * scale / dim**0.25
    return y.double(), x.double()


def close(found, expected, tolerance=2e-6):
    return bool((found.double() - expected).norm() <= tolerance * expected.norm())


@SCALES
@pytest.mark.parametrize(("backend", "dim"), [("compiled", 3), ("auto", 20)])
@pytest.mark.parametrize("name", FIELDS)
def test_fields_are_right_at_every_scale(name, backend, dim, scale):
    y, x = clouds(scale, dim)
    with ops.backend(backend):
        single, exact = FIELDS[name](y.float(), scale), FIELDS[name](y, scale)
        assert close(single.velocity(x.float()), exact.velocity(x))
        assert close(single.velocity(x.float(), x[:4].float()), exact.velocity(x, x[:4]))
        if isinstance(single, torch.nn.Module):
            z, exact_z = x.float().requires_grad_(), x.clone().requires_grad_()
            value, expected = single(z), exact(exact_z)
            assert close(value, expected, 1e-5)  # a difference of means that are up to 70 times as large
            assert close(*(g for v, at in ((value, z), (expected, exact_z)) for g in torch.autograd.grad(v, at)))
            assert close(single.witness(x.float())(x.float()), exact.witness(x)(x), 5e-6)


@SCALES
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_right_at_every_scale(name, scale):
    kernel = KERNELS[name](scale)
    y, x = clouds(scale, 20)
    assert close(kernel(x.float(), y.float()), kernel(x, y))
    assert close(kernel.diag(x.float()), kernel.diag(x))
    for unbiased in (True, False):
        assert close(mmd2(x.float(), y.float(), kernel, unbiased=unbiased), mmd2(x, y, kernel, unbiased=unbiased), 1e-5)


@SCALES
def test_particles_alone_may_leave_the_range(scale):
    """Particles of another size than the target: the energy distance pulls with a force of about 1."""
    y, x = clouds(1.0, 3)[0], clouds(scale, 3)[1]
    for make in (lambda y: MMD(y, Riesz()), lambda y: SlicedMMD(y, 16, generator=seeded(), redraw=False)):
        assert close(make(y.float()).velocity(x.float()), make(y).velocity(x), 1e-5)


@SCALES
def test_bandwidths_tests_and_distances_are_right_at_every_scale(scale):
    y, x = clouds(scale, 3)
    for heuristic in (median_bandwidth, nearest_distance):
        assert heuristic(x.float()) == pytest.approx(heuristic(x), rel=1e-6)
    for test in (mmd_test, lambda x, y, generator: mmd_test(x, y, Laplace(scale), generator=generator)):
        assert test(x.float(), y.float(), generator=seeded()) == pytest.approx(test(x, y, generator=seeded()), rel=1e-5)
    assert close(nearest_distances(x.float(), y.float()), nearest_distances(x, y))
    assert frechet_distance(x.float(), y.float()) == pytest.approx(frechet_distance(x, y), rel=1e-6)
    single = sliced_w2(x.float(), y.float(), generator=seeded())
    assert single == pytest.approx(sliced_w2(x, y, generator=seeded()), rel=1e-6)


@SCALES
def test_bfloat16_reaches_as_far_as_float32(scale):
    y, x = (points.bfloat16() for points in clouds(scale, 3))
    for make in (lambda y: MMD(y, Riesz()), lambda y: MMD(y, Laplace(scale))):
        assert close(make(y).velocity(x), make(y.double()).velocity(x.double()), 0.01)


def test_what_no_float32_holds_is_infinite_not_a_number_that_is_wrong():
    y, x = clouds(1e20, 3)
    x = x + 1e21
    assert mmd2(x.float(), y.float(), Linear()) == math.inf
    assert MMD(y.float(), Linear())(x.float()) == math.inf
    y, x = clouds(1e-20, 3)  # gradients are of size 1e40
    with pytest.raises(DivergedError, match="particles became non-finite by step 1"):
        flow(MMD(y.float(), InverseMultiquadric(1e-20)), x.float(), step_size=0.1, num_steps=3, save_every=1)


@SCALES
def test_second_derivatives_that_leave_the_range_are_refused(scale):
    y, x = clouds(scale, 3)
    with pytest.raises(InputError, match="target has entries up to .*, in float32: .* use float64, or other units"):
        SobolevDescent(y.float(), Gaussian(scale), 0.5 / scale**2)
    assert torch.isfinite(SobolevDescent(y, Gaussian(scale), 0.5 / scale**2).velocity(x)).all()


class NanKernel(Kernel):
    """A kernel of one's own whose values are NaN where its gradient is not."""

    def forward(self, x, y):
        return (x @ y.T) * math.nan

    def grad(self, x, y, weights):
        return torch.zeros_like(x)


class NanPotential:
    def __call__(self, z):
        return z.new_full((len(z),), math.nan)

    def grad(self, z):
        return torch.ones_like(z)


def test_a_divergence_that_becomes_nan_stops_the_flow():
    y, x = clouds(1.0, 2)
    for field in (MMD(y, NanKernel()), PotentialEnergy(NanPotential())):
        with pytest.raises(DivergedError, match=f"F of {type(field).__name__} is NaN by step 0") as caught:
            flow(field, x, step_size=0.1, num_steps=2)
        assert torch.equal(caught.value.particles, x)
    with pytest.raises(DivergedError, match="singular"):
        flow(SobolevDescent(y, NanKernel(), 0.5), x, step_size=0.1, num_steps=2)
    assert (
        flow(
            PotentialEnergy(NanPotential()), x, step_size=0.1, num_steps=2, save_every=Record(evaluate=False)
        ).values.numel()
        == 0
    )
