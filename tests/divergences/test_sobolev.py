"""Sobolev descent: closed form, identities, its two solutions against each other."""

import pytest
import torch

from mmdflow import MMD, Deep, DivergedError, Gaussian, InputError, Laplace, Linear, Matern, Riesz, SobolevDescent, flow
from tests.laws.strategies import squares


def normal(n, d=2, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_linear_kernel_in_closed_form():
    """grad k(x, .) is the same everywhere: L = I, h = <gap, .> / (1 + lambda)."""
    x, y = normal(5) + 1, normal(7, seed=1)
    gap = x.mean(0) - y.mean(0)
    divergence = SobolevDescent(y, Linear(), 0.3)
    torch.testing.assert_close(divergence(x), gap.square().sum() / 2.6)
    torch.testing.assert_close(divergence.velocity(x), (-gap / 1.3).expand(5, 2))


class Pairwise(Deep):
    """A kernel of features that hides that they are finitely many."""

    finite = False


@pytest.mark.parametrize("regularization", [1e-3, 1.0])
def test_gram_solve_equals_feature_solve(regularization):
    x, y = normal(6) + 0.5, normal(8, seed=1)
    weights = torch.arange(1.0, 7).double() / 21
    through_features = SobolevDescent(y, Deep(Linear(), squares), regularization)
    through_gram = SobolevDescent(y, Pairwise(Linear(), squares), regularization)
    z = normal(4, seed=3)
    expected, found = through_features.witness(x, weights), through_gram.witness(x, weights)
    torch.testing.assert_close(found(z), expected(z), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.grad(z), expected.grad(z), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kernel", [Gaussian(0.8), Matern(1.5, 1.0)])
def test_conjugate_gradients_equal_the_direct_solution(kernel, monkeypatch):
    x, y = normal(10, 3) + 0.5, normal(12, 3, seed=1)
    direct = SobolevDescent(y, kernel, 0.05).velocity(x)
    monkeypatch.setattr("mmdflow.divergences.sobolev.DENSE_UNKNOWNS", 0)
    iterative = SobolevDescent(y, kernel, 0.05, tolerance=1e-12).velocity(x)
    torch.testing.assert_close(iterative, direct, rtol=1e-9, atol=1e-9)
    with pytest.raises(DivergedError, match="did not converge in 2 steps .relative residual .*raise regularization"):
        SobolevDescent(y, kernel, 1e-6, max_iterations=2).velocity(x)


@pytest.mark.parametrize("kernel", [Gaussian(0.8), Matern(2.5, 1.0), Deep(Linear(), squares)])
def test_the_witness_has_the_norm_that_its_value_says(kernel):
    """2 F = <delta, h> = E |grad h|^2 + lambda |h|^2."""
    x, y, regularization = normal(8) + 0.5, normal(9, seed=1), 0.2
    divergence = SobolevDescent(y, kernel, regularization)
    h = divergence.witness(x)
    torch.testing.assert_close(2 * divergence(x), h(x).mean() - h(y).mean())
    energy = h.grad(x).square().sum(1).mean()
    smaller = SobolevDescent(y, kernel, regularization * (1 + 1e-6))(x)
    norm = -2 * (smaller - divergence(x)) / (1e-6 * regularization)  # dF/dlambda = -1/2 |h|^2
    torch.testing.assert_close(energy + regularization * norm, 2 * divergence(x), rtol=1e-5, atol=1e-9)


def test_large_regularization_gives_the_mmd_flow():
    x, y = normal(8) + 0.5, normal(9, seed=1)
    expected = MMD(y, Gaussian(1.0)).velocity(x)
    torch.testing.assert_close(1e7 * SobolevDescent(y, Gaussian(1.0), 1e7).velocity(x), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("regularization", [1e-4, 1e-1])
def test_the_mmd_falls_along_it(regularization):
    x, y = normal(12) * 0.5 + 1, normal(15, seed=1)
    mmd, sobolev = MMD(y, Gaussian(0.8)), SobolevDescent(y, Gaussian(0.8), regularization)
    assert (mmd.velocity(x) * sobolev.velocity(x)).sum() > 0
    result = flow(sobolev, x, step_size=0.02, num_steps=50, save_every=10)
    values = torch.stack([mmd(p) for p in result.trajectory])
    assert (values.diff() < 0).all()


@pytest.mark.parametrize("kernel", [Laplace(1.0), Matern(0.5, 1.0), Gaussian(1.0) + Laplace(1.0)])
def test_kernels_without_mixed_derivative_are_refused(kernel):
    with pytest.raises(InputError, match="must have a mixed second derivative at coinciding points"):
        SobolevDescent(normal(3), kernel, 1.0)


def test_riesz_is_refused():
    with pytest.raises(InputError, match="kernel = Riesz: must be positive definite"):
        SobolevDescent(normal(3), Riesz(), 1.0)


def test_singular_systems_are_told():
    x = normal(1).repeat(4, 1)
    with pytest.raises(DivergedError, match="system of 8 unknowns is singular .*raise regularization .1e-30."):
        SobolevDescent(normal(3, seed=1), Gaussian(1.0), 1e-30).velocity(x)


def test_bad_regularization(unchecked):
    with pytest.raises(InputError, match="regularization = -1"):
        SobolevDescent(normal(3), Gaussian(1.0), -1)
