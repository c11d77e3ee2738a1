import math

import pytest
import torch

from mmdflow import Deep, Gaussian, InputError, Linear, Riesz
from mmdflow._checks import all_finite
from mmdflow.divergences.functional import mmd2


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
