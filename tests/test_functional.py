import math

import numpy as np
import pytest
import torch

from mmdflow import Deep, Gaussian, InputError, Laplace, Linear, Polynomial, RationalQuadratic, Riesz
from mmdflow._checks import all_finite
from mmdflow.functional import mmd2, mmd2_of_features


def brute(x, y, kernel, unbiased):
    n, m = len(x), len(y)
    kxx, kyy, kxy = kernel(x, x), kernel(y, y), kernel(x, y)
    if unbiased:
        kxx, kyy = kxx - kxx.diag().diag(), kyy - kyy.diag().diag()
        return kxx.sum() / (n * (n - 1)) + kyy.sum() / (m * (m - 1)) - 2 * kxy.mean()
    return kxx.mean() + kyy.mean() - 2 * kxy.mean()


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("kernel", [Gaussian(1.0), Riesz(), Linear(), Deep(Linear(), lambda x: x.flatten(1).sin())])
def test_equals_the_double_sum(kernel, unbiased, generator):
    x = torch.randn(7, 2, 3, dtype=torch.float64, generator=generator)
    y = torch.randn(5, 2, 3, dtype=torch.float64, generator=generator) + 1
    torch.testing.assert_close(
        mmd2(x, y, kernel, unbiased=unbiased), brute(x, y, kernel, unbiased), rtol=1e-10, atol=1e-10
    )


def test_unbiased_has_mean_zero_on_equal_distributions(generator):
    values = torch.stack(
        [mmd2(*torch.randn(2, 20, 2, dtype=torch.float64, generator=generator), Gaussian(1.0)) for _ in range(400)]
    )
    assert values.mean().abs() < 4 * values.std() / 20
    assert values.min() < 0


def test_energy_distance_in_one_dimension_is_the_integral_of_cdfs(generator):
    """MMD^2 with k = -|x - y| equals 2 * integral (F - G)^2."""
    x = torch.randn(50, 1, dtype=torch.float64, generator=generator)
    y = torch.randn(40, 1, dtype=torch.float64, generator=generator) + 0.5
    edges = torch.cat([x, y]).sort(0).values[:, 0]
    f = (x[:, 0][None] <= edges[:-1, None]).double().mean(1)
    g = (y[:, 0][None] <= edges[:-1, None]).double().mean(1)
    integral = ((f - g) ** 2 * edges.diff()).sum()
    torch.testing.assert_close(mmd2(x, y, Riesz(), unbiased=False), 2 * integral)


def test_gradients_reach_the_samples_and_the_kernel(generator):
    x, y = torch.randn(2, 6, 2, dtype=torch.float64, generator=generator)
    bandwidth = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    x.requires_grad_()
    value = mmd2(x, y, Gaussian(torch.nn.Parameter(bandwidth.detach())), unbiased=False)
    value.backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0


def test_blocks_of_rows_do_not_change_the_value(generator, monkeypatch):
    x, y = torch.randn(2, 50, 3, dtype=torch.float64, generator=generator)
    whole = mmd2(x, y, Gaussian(1.0))
    monkeypatch.setattr("mmdflow.ops.reference.BLOCK", 120)
    torch.testing.assert_close(mmd2(x, y, Gaussian(1.0)), whole, rtol=1e-12, atol=1e-14)


FAR = {
    "linear": Linear(),
    "polynomial-2": Polynomial(2),
    "polynomial-3": Polynomial(3, 0.1, 0.0),
    "sum": Linear() + Gaussian(1.0),
    "sum-polynomial": 0.5 * Polynomial(2) + Laplace(2.0),
    "product": Gaussian(2.0) * Polynomial(1),
    "deep": Deep(Linear(), lambda x: x + 1e3),
    "deep-sum": Deep(Linear() + 2.0 * Linear(), lambda x: 2 * x),
    "deep-gaussian": Deep(Gaussian(2.0), lambda x: x - 1),
}


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("offset", [1e3, 1e5])
@pytest.mark.parametrize("name", FAR)
def test_values_keep_their_digits_far_from_the_origin(name, offset, unbiased, generator):
    x, y = offset + torch.randn(2, 500, 8, generator=generator)
    exact = mmd2(x.double(), y.double(), FAR[name], unbiased=unbiased)
    value = mmd2(x, y, FAR[name], unbiased=unbiased)
    assert value.dtype == torch.float32
    if name not in ("polynomial-3",) or offset < 1e4:  # beyond, float64 has no digits either
        assert value.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-6)
    assert unbiased or value >= 0


def test_values_of_one_sample_far_away(generator):
    """V-statistic 0.1125, U-statistic 0.0807: got -6.0 and -5.0 by subtracting sums."""
    centred = torch.randn(2, 500, 8, dtype=torch.float64, generator=generator)
    x, y = (centred - centred.mean(1, keepdim=True)).unbind()
    y = y + (0.1125 / 8) ** 0.5
    for offset in (0.0, 1000.0):
        a, b = (x + offset).float(), (y + offset).float()
        assert mmd2(a, b, Linear(), unbiased=False).item() == pytest.approx(0.1125, rel=1e-3)
        assert mmd2(a, b, Linear()).item() == pytest.approx(brute(x, y, Linear(), True).item(), rel=1e-3)


@pytest.mark.parametrize(
    "kernel", [Gaussian(1.0), Riesz(), Laplace(0.1), RationalQuadratic(0.5), Linear(), Polynomial(2)]
)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_v_statistic_is_never_negative_and_0_at_equal_clouds(kernel, offset, generator):
    x = offset + torch.randn(300, 4, generator=generator)
    for y in (x, x[torch.randperm(300, generator=generator)], x + 1e-6):
        value = mmd2(x, y, kernel, unbiased=False)
        assert 0 <= value < 1e-6 * kernel(x, x).abs().max()


def test_the_gradient_outlives_a_value_that_rounds_to_0(generator):
    x = torch.randn(100, 3, generator=generator)
    y = x + 1e-4
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mmd2(z, y, Gaussian(1.0), unbiased=False), z)
    expected = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(mmd2(expected, y.double(), Gaussian(1.0), unbiased=False), expected)
    assert (gradient - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel", [Gaussian(1.0), Linear(), Riesz(), Polynomial(2)])
def test_half_precision_points_are_summed_in_single(dtype, kernel, generator):
    x, y = torch.randn(2, 200, 4, dtype=torch.float64, generator=generator).to(dtype)
    y = y + 1
    for unbiased in (True, False):
        exact = mmd2(x.double(), y.double(), kernel, unbiased=unbiased)
        value = mmd2(x, y, kernel, unbiased=unbiased)
        assert value.dtype == dtype
        assert value.item() == pytest.approx(exact.item(), rel=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("unbiased", [True, False])
def test_features_are_compared_like_points_by_the_linear_kernel(unbiased, generator):
    phi_x, phi_y = (torch.randn(n, 5, dtype=torch.float64, generator=generator) for n in (7, 9))
    value = mmd2_of_features(phi_x, phi_y, unbiased=unbiased)
    torch.testing.assert_close(value, brute(phi_x, phi_y, Linear(), unbiased))
    leaves = [phi.clone().requires_grad_() for phi in (phi_x, phi_y)]
    gradients = torch.autograd.grad(mmd2_of_features(*leaves, unbiased=unbiased), leaves)
    again = [phi.clone().requires_grad_() for phi in (phi_x, phi_y)]
    for got, expected in zip(gradients, torch.autograd.grad(brute(*again, Linear(), unbiased), again), strict=True):
        torch.testing.assert_close(got, expected)


def test_bad_input(unchecked):
    with pytest.raises(InputError, match="each needs at least 2"):
        mmd2(torch.zeros(1, 2), torch.zeros(4, 2), Linear())
    with pytest.raises(InputError, match="x has event shape"):
        mmd2(torch.zeros(3, 2), torch.zeros(4, 3), Linear())


def test_finite_entries_are_told_from_others_even_where_their_sum_overflows():
    high = torch.finfo(torch.float32).max
    for good in ([1.0, -2.0], [high, high], [high, high, -high, -high]):
        assert all_finite(torch.tensor(good))
    for bad in ([math.nan, 1.0], [math.inf, 1.0], [math.inf, -math.inf], [high, high, math.nan], [-math.inf, high]):
        assert not all_finite(torch.tensor(bad))


KERNELS_OF_BATCHES = [
    Gaussian(0.7),
    Laplace(1.0),
    Riesz(),
    RationalQuadratic(1.0),
    Gaussian(1.0) + Laplace(2.0),
    Linear(),
    Polynomial(2),
    Deep(Gaussian(1.0), lambda x: x.flatten(1).sin()),
]


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("kernel", KERNELS_OF_BATCHES, ids=lambda kernel: type(kernel).__name__)
def test_a_batch_is_its_problems_one_by_one(kernel, unbiased, generator):
    x = torch.randn(4, 6, 3, dtype=torch.float64, generator=generator).requires_grad_()
    y = torch.randn(4, 9, 3, dtype=torch.float64, generator=generator) + 1
    y[1, :2] = x.detach()[1, :2]  # coincident points
    together = mmd2(x, y, kernel, unbiased=unbiased, batched=True)
    one_by_one = torch.stack([mmd2(a, b, kernel, unbiased=unbiased) for a, b in zip(x, y, strict=True)])
    assert together.shape == (4,)
    torch.testing.assert_close(together, one_by_one, rtol=1e-12, atol=1e-12)
    weights = torch.arange(1.0, 5.0, dtype=torch.float64)
    grads = [torch.autograd.grad(values @ weights, x)[0] for values in (together, one_by_one)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


def test_batches_of_events_and_of_many_entries(generator):
    x, y = (torch.randn(3, n, 2, 20, generator=generator) for n in (5, 4))
    for kernel in (Gaussian(3.0), Riesz()):
        together = mmd2(x, y, kernel, batched=True)
        torch.testing.assert_close(together, torch.stack([mmd2(a, b, kernel) for a, b in zip(x, y, strict=True)]))
        assert together.dtype == torch.float32
    features = mmd2_of_features(x.flatten(2), y.flatten(2), batched=True)
    torch.testing.assert_close(features, mmd2(x, y, Linear(), batched=True))
    assert isinstance(mmd2(x.numpy(), y.numpy(), Gaussian(3.0), batched=True), np.ndarray)


def test_a_batch_that_is_none(unchecked):
    x = torch.zeros(3, 4, 2)
    with pytest.raises(InputError, match=r"x and y have shapes \[3, 4, 2\] and \[2, 4, 2\]: must be \[B, n, \*event\]"):
        mmd2(x, x[:2], Gaussian(1.0), batched=True)
    with pytest.raises(InputError, match="y has event shape|x has event shape"):
        mmd2(x, torch.zeros(3, 4, 5), Gaussian(1.0), batched=True)
    with pytest.raises(InputError, match="samples of 4 and 1 points"):
        mmd2_of_features(x, x[:, :1], batched=True)
