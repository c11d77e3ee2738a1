"""Every divergence at the edges: float32, one point, many dimensions, constant data, far away."""

import pytest
import torch

from mmdflow import KALE, MMD, DrMMD, Gaussian, InputError, Laplace, Riesz, SlicedMMD, SobolevDescent, flow
from tests.laws.strategies import DISTANCES, DIVERGENCES, divergence

every = pytest.mark.parametrize("name", DIVERGENCES)
#: Kernels of growing values, or of phi that grows: a relative tolerance of their size instead of 1.
GROWING = (
    "polynomial",
    "product",
    "deep",
    "linear",
    "noise-conditional",
    "mixture",
    "from-mean",
    "potential-embedding",
)


def normal(n, *event, seed=0):
    return torch.randn(n, *event, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@every
@pytest.mark.parametrize("dim", [1, 2, 40])
def test_float32_agrees_with_float64(name, dim):
    """To 2e-3 of the largest velocity: what single precision leaves after solves with lambda = 0.5."""
    if name in ("mmd-gaussian-tensor", "potential-embedding"):
        return  # they hold a float64 tensor by construction
    y, x = normal(30, dim), normal(20, dim, seed=1) + 0.3
    y, x = (points / dim**0.25 for points in (y, x))
    exact, single = divergence(name, y), divergence(name, y.float())
    expected, found = exact.velocity(x), single.velocity(x.float())
    assert found.dtype == torch.float32
    assert (found.double() - expected).abs().max() <= 2e-3 * expected.abs().max()
    assert single(x.float()).item() == pytest.approx(exact(x).item(), rel=5e-3, abs=2e-5 * (1 + exact(x).abs().item()))


@every
def test_ten_thousand_dimensions(name):
    y, x = normal(4, 10_000) / 50, normal(3, 10_000, seed=1) / 50 + 0.01
    if name == "mmd-gaussian-normalized":
        with pytest.raises(InputError, match="its factor bandwidth.-10000 leaves the range of torch.float64"):
            divergence(name, y)
        return
    case = divergence(name, y)
    velocity = case.velocity(x)
    assert velocity.shape == x.shape
    assert torch.isfinite(velocity).all()
    z = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(case(z), z)
    torch.testing.assert_close(-3 * grad, velocity, rtol=1e-5, atol=1e-15 + 1e-6 * velocity.abs().max().item())


@every
def test_constant_data(name):
    """All target points equal, all particles equal: finite, and all particles move alike."""
    y, x = normal(1, 2).expand(5, 2), normal(1, 2, seed=1).expand(4, 2)
    case = divergence(name, y.clone())
    velocity = case.velocity(x.clone())
    assert torch.isfinite(velocity).all()
    assert torch.isfinite(case(x.clone()))
    torch.testing.assert_close(velocity, velocity[:1].expand(4, 2), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in DISTANCES if not n.startswith(("mmd-sliced", "adaptive"))])
def test_one_particle_and_one_target_point(name):
    y, x = normal(1, 2), normal(1, 2, seed=1)
    case = divergence(name, y)
    assert case(x) > 0
    towards = (case.velocity(x) * (y - x)).sum()
    if not any(word in name for word in GROWING):
        assert towards > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [2, 40])
def test_half_precision_flows(dtype, dim):
    y, x = normal(20, dim).to(dtype), normal(10, dim, seed=1).to(dtype) + 1
    width = 2.0 * dim**0.5
    for make in (
        lambda p: MMD(p, Gaussian(width)),
        lambda p: MMD(p, Laplace(width)),
        lambda p: MMD(p, Riesz()),
        lambda p: SlicedMMD(p, 10, generator=torch.Generator().manual_seed(0), redraw=False),
    ):
        result = flow(make(y), x, step_size=0.1, num_steps=3)
        assert result.particles.dtype == dtype
        expected = make(y.double()).velocity(x.double())
        error = (make(y).velocity(x).double() - expected).norm() / expected.norm()
        assert error < (0.4 if dtype == torch.bfloat16 else 0.15), error


def test_divergences_that_solve_want_single_or_double_precision(unchecked):
    y = normal(5, 2).half()
    for make in (KALE, DrMMD, SobolevDescent):
        with pytest.raises(InputError, match="target has dtype torch.float16: must be torch.float32 or torch.float64"):
            make(y, Gaussian(1.0), 0.1)


@every
def test_views_and_expanded_tensors_are_as_good_as_their_copies(name):
    y, x = normal(3, 6).T, normal(2, 6, seed=1).T[:, :1].expand(6, 2)
    plain = divergence(name, normal(6, 2))
    strided = normal(6, 4)[:, ::2]
    torch.testing.assert_close(plain.velocity(strided), plain.velocity(strided.contiguous()))
    assert torch.isfinite(plain.velocity(x)).all()
    assert torch.isfinite(divergence(name, y).velocity(normal(2, 3))).all()
