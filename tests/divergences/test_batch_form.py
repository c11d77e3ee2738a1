"""Batch drifts of groups side by side are those of `Drift`, group by group."""

import math

import pytest
import torch

from mmdflow import Drift, Gaussian, Laplace, Linear, Matern
from mmdflow.divergences.batch_form import can_share, grouped
from mmdflow.divergences.drifts import BATCH
from mmdflow.kernels import squared_distances
from mmdflow.kernels.distances import squared_distances_by_group

KERNELS = [Laplace(0.3), Laplace(2.0), Gaussian(1.1), Matern(1.5, 0.8)]


def clouds(groups, n, m, d, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(groups, size, d, generator=generator, dtype=torch.float64) for size in (n, m))
    return x.to(dtype), (y + torch.arange(groups)[:, None, None]).to(dtype)


@pytest.mark.parametrize("normalization", BATCH)
@pytest.mark.parametrize(("n", "m"), [(6, 11), (9, 4), (1, 5)])
@pytest.mark.parametrize("d", [3, 40])
def test_groups_are_drifts_of_their_own(normalization, n, m, d):
    x, y = clouds(3, n, m, d)
    y[0, 0] = x[0, 0]  # a particle on a sample, whose distance is exactly 0
    kernels = [type(k)(k.bandwidth * math.sqrt(d)) if not isinstance(k, Matern) else k for k in KERNELS]
    found = grouped(x, y, kernels, balanced=normalization == "balanced-batch")
    for kernel, velocity in zip(kernels, found, strict=True):
        for group in range(3):
            alone = Drift(y[group], kernel, normalization=normalization).velocity(x[group])
            torch.testing.assert_close(velocity[group], alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("d", [2, 784])
def test_float32_keeps_its_digits_far_from_the_origin(d):
    """The images' case: narrow kernels in units of the median distance, a tenth of which lies between near points."""
    x, y = clouds(2, 20, 50, d)
    x[:, 1] = x[:, 0] + 1e-3
    for shift in (0.0, 100.0):
        (ours,) = grouped((x + shift).float(), (y + shift).float(), [Laplace(0.02 * math.sqrt(d))])
        (exact,) = grouped((x + shift).float().double(), (y + shift).float().double(), [Laplace(0.02 * math.sqrt(d))])
        assert float((ours - exact).norm() / exact.norm()) < 2e-3


@pytest.mark.parametrize("d", [2, 16, 17, 300])
def test_distances_by_group(d):
    x, y = clouds(3, 7, 9, d)
    y[1, 2], y[2, 3] = x[1, 4], x[2, 0] + 1e-7
    ours = squared_distances_by_group(x, y)
    assert ours[1, 4, 2] == 0
    for group in range(3):
        torch.testing.assert_close(ours[group], squared_distances(x[group], y[group]), rtol=1e-12, atol=1e-14)


def test_what_groups_do_not_take():
    """Kernels that are no function of the distance, and points whose squares leave float32, go by `Drift`."""
    x = torch.randn(4, 3)
    assert can_share([Laplace(1.0), Gaussian(2.0)], x)
    assert not can_share([Laplace(1.0), Linear()], x)
    assert not can_share([Laplace(1.0)], 1e20 * x)
    assert not can_share([Laplace(1.0)], x.half())
    assert not can_share([Laplace(1e-20)], x)
