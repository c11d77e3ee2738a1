"""Solvers on low-rank factors and sums against those that hold the matrix, in float64; what they must not depend on."""

import math

import pytest
import torch

from mmdflow import KALE, Deep, DivergedError, DrMMD, FDivergence, Gaussian, Laplace, Matern, SobolevDescent, ops
from mmdflow.divergences import gram
from mmdflow.divergences.gram import SummedGram
from mmdflow.divergences.low_rank import Woodbury, conjugate_gradients, pivoted_cholesky
from tests.laws.strategies import FAMILY, squares

family = pytest.mark.parametrize(("name", "alpha"), FAMILY)


def normal(n, d=2, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def by_sums(monkeypatch):
    """Hold no matrix, however small."""
    monkeypatch.setattr(gram, "DENSE_POINTS", 0)


def matrix(kernel, n=150, d=2):
    y = normal(n, d)
    return kernel(y, y)


# factors


@pytest.mark.parametrize("kernel", [Gaussian(0.7), Matern(2.5, 1.0), Laplace(1.0)])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-8])
def test_a_factor_leaves_a_small_positive_rest(kernel, tolerance):
    k = matrix(kernel)
    factor = pivoted_cholesky(lambda i, j: k[i][:, j], k.diagonal(), tolerance, 400)
    rest = k - factor.T @ factor
    assert float(rest.diagonal().max()) <= tolerance + 1e-14
    assert float(torch.linalg.eigvalsh(rest).min()) > -1e-13
    if isinstance(kernel, Gaussian) or (tolerance == 1e-2 and kernel.smooth):
        assert len(factor) < 150


def test_ranks_are_near_the_least():
    """The numerical rank of a Gaussian's matrix, by its eigenvalues, is a lower bound."""
    k = matrix(Gaussian(0.7), 400)
    factor = pivoted_cholesky(lambda i, j: k[i][:, j], k.diagonal(), 1e-6, 400)
    least = int((torch.linalg.eigvalsh(k) > 1e-6 * 400).sum())
    assert least <= len(factor) <= 3 * least


def test_repeated_points_and_caps_end_a_factor():
    y = normal(10).repeat(5, 1)
    k = Gaussian(1.0)(y, y)
    assert len(pivoted_cholesky(lambda i, j: k[i][:, j], k.diagonal(), 1e-13, 400)) <= 10
    assert len(pivoted_cholesky(lambda i, j: k[i][:, j], k.diagonal(), 1e-13, 4)) == 4
    nothing = pivoted_cholesky(lambda i, j: 0 * k[i][:, j], torch.zeros(50, dtype=torch.float64), 1e-13, 50)
    assert nothing.shape == (0, 50)


def test_woodbury_solves_the_shifted_system():
    k = matrix(Gaussian(0.7))
    factor = pivoted_cholesky(lambda i, j: k[i][:, j], k.diagonal(), 1e-6, 400)
    root, right = normal(150, 1).exp()[:, 0], normal(150, 1, 2)[:, 0]
    system = torch.eye(150).double() + root[:, None] * (factor.T @ factor) * root
    torch.testing.assert_close(
        Woodbury.of(factor, root)(right), torch.linalg.solve(system, right), rtol=1e-9, atol=1e-9
    )


def test_conjugate_gradients_end_at_their_tolerance_or_tell_the_residual():
    system = matrix(Laplace(1.0)) + torch.eye(150).double()
    right = normal(150, 1)[:, 0]
    for tolerance in (1e-3, 1e-10):
        solution, relative = conjugate_gradients(lambda v: system @ v, right, lambda v: v, tolerance, 500)
        assert relative <= tolerance
        assert float((system @ solution - right).norm() / right.norm()) == pytest.approx(relative, rel=1e-3, abs=1e-13)
    assert conjugate_gradients(lambda v: system @ v, right, lambda v: v, 1e-10, 2)[1] > 1e-10
    solution, relative = conjugate_gradients(lambda v: system @ v, 0 * right, lambda v: v, 1e-10, 5)
    assert (float(solution.abs().max()), relative) == (0.0, 0.0)


# KALE and its family


def both(make, monkeypatch):
    """The divergence by a held matrix and by sums."""
    held = make()
    monkeypatch.setattr(gram, "DENSE_POINTS", 0)
    summed = make()
    assert isinstance(summed.gram, SummedGram) != isinstance(held.gram, SummedGram)
    return held, summed


@family
@pytest.mark.parametrize("regularization", [1.0, 1e-2])
def test_sums_find_what_the_matrix_finds(name, alpha, regularization, monkeypatch):
    x, y, q = normal(80) * 0.8 + 0.5, normal(120, seed=1), torch.rand(120, generator=torch.Generator().manual_seed(2))
    held, summed = both(
        lambda: FDivergence(y, Gaussian(0.7), regularization, name, alpha=alpha, target_weights=q.double()), monkeypatch
    )
    torch.testing.assert_close(summed(x), held(x), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        summed.velocity(x), held.velocity(x), rtol=1e-8, atol=1e-8 * float(held.velocity(x).norm())
    )


@pytest.mark.parametrize("kernel", [Laplace(0.5), Matern(1.5, 0.5), Deep(Gaussian(1.0), squares)])
@pytest.mark.parametrize("name", ["kl", "chi2"])
@pytest.mark.parametrize("rank", [0, 10])
def test_no_rank_is_too_low(kernel, name, rank, monkeypatch):
    """The factor guides conjugate gradients and leaves no error, even where there is none."""
    monkeypatch.setattr(gram, "MOST_RANK", rank)
    x, y = normal(60) * 0.8 + 0.5, normal(90, seed=1)
    held, summed = both(lambda: FDivergence(y, kernel, 0.05, name), monkeypatch)
    assert len(summed.gram.model.factor) == rank
    torch.testing.assert_close(summed(x), held(x), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(summed.velocity(x), held.velocity(x), rtol=1e-7, atol=1e-8)


@family
def test_the_gap_is_that_of_the_true_problem(name, alpha, by_sums):
    """Primal and dual by their definitions, with the whole matrix."""
    x, y, regularization = normal(40) * 0.8 + 0.5, normal(60, seed=1), 0.1
    divergence = FDivergence(y, Matern(1.5, 0.5), regularization, name, alpha=alpha)
    a, f, kernel = divergence.solve(x).weights, divergence.entropy, divergence.kernel
    h = divergence.witness(x)(y)
    towards, k, self_term = kernel(y, x).mean(1), kernel(y, y), kernel(x, x).mean()
    primal = f.value(60 * a).mean() + (self_term - 2 * a @ towards + a @ k @ a) / (2 * regularization)
    norm = (self_term - 2 * a @ towards + a @ k @ a) / regularization**2
    dual = divergence.witness(x)(x).mean() - f.conjugate(h).mean() - regularization / 2 * norm
    assert divergence(x).item() == pytest.approx(primal.item(), rel=1e-10)
    assert abs(primal - dual) < 1e-10
    assert abs(divergence.solve(x).gap) < 1e-10


@family
@pytest.mark.parametrize("summed", [False, True])
def test_numbers_do_not_tell_what_was_solved_before(name, alpha, summed, monkeypatch):
    if summed:
        monkeypatch.setattr(gram, "DENSE_POINTS", 0)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
        x, y = (normal(60) * 0.7 + 0.5).to(dtype), normal(80, seed=1).to(dtype)
        fresh, used = (FDivergence(y, Gaussian(0.7), 1e-2, name, alpha=alpha) for _ in range(2))
        for shift in (2.0, -1.0):
            used.velocity(x + shift)
        expected = fresh.velocity(x)
        assert float((used.velocity(x) - expected).norm() / expected.norm()) <= tolerance
        assert used(x).item() == pytest.approx(fresh(x).item(), rel=tolerance)


def test_lbfgs_does_not_tell_it_either():
    x, y = normal(30) * 0.7 + 0.5, normal(40, seed=1)
    fresh, used = (FDivergence(y, Gaussian(1.0), 0.1, solver="lbfgs") for _ in range(2))
    used.velocity(x + 1)
    assert torch.equal(used.velocity(x), fresh.velocity(x))


def test_single_precision_is_that_of_the_points_alone():
    x, y = (normal(60) * 0.7 + 0.5).float(), normal(80, seed=1).float()
    single, double = KALE(y, Gaussian(0.7), 1e-3), KALE(y.double(), Gaussian(0.7), 1e-3)
    assert single(x).item() == pytest.approx(double(x.double()).item(), rel=1e-6)
    assert single.solve(x).weights.dtype == torch.float32
    torch.testing.assert_close(single.solve(x).weights, double.solve(x.double()).weights.float(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("make", [KALE, lambda *args: DrMMD(*args, num_landmarks=2500)])
def test_quick_sums_serve_the_solver(make, monkeypatch):
    """With a rough tolerance around it, its own sums are taken to 1e-11."""
    x, y = normal(2000) * 0.8 + 0.5, normal(2500, seed=1)
    expected = make(y, Gaussian(0.5), 0.05)
    value, velocity = expected(x), expected.velocity(x)
    monkeypatch.setattr(ops.fast, "LEAST", 0)
    with ops.backend("fast", tolerance=1e-3) as report:
        quick = make(y, Gaussian(0.5), 0.05)
        assert quick(x).item() == pytest.approx(value.item(), rel=1e-8)
        assert report.grids > 0
        assert 0 < report.error < 1e-11
        assert float((quick.velocity(x) - velocity).norm() / velocity.norm()) < 1e-3


def test_a_target_that_moves_takes_its_matrix_along(by_sums):
    x, y, z = normal(30) * 0.8 + 0.5, normal(40, seed=1), normal(40, seed=2)
    divergence, other = KALE(y.float(), Gaussian(0.7), 0.1), KALE(z, Gaussian(0.7), 0.1)
    divergence.velocity(x.float())
    divergence.double()
    torch.testing.assert_close(divergence.velocity(x), KALE(y.float().double(), Gaussian(0.7), 0.1).velocity(x))
    divergence.load_state_dict(other.state_dict())
    torch.testing.assert_close(divergence.velocity(x), other.velocity(x))


# DrMMD


@pytest.mark.parametrize("kernel", [Gaussian(0.7), Laplace(0.5), Deep(Gaussian(1.0), squares)])
@pytest.mark.parametrize("regularization", [1.0, 1e-3])
def test_drmmd_by_sums_is_drmmd_by_its_matrix(kernel, regularization, monkeypatch):
    x, y = normal(80) * 0.8 + 0.5, normal(120, seed=1)
    q = torch.rand(120, generator=torch.Generator().manual_seed(2)).double()
    held = DrMMD(y, kernel, regularization, target_weights=q)
    monkeypatch.setattr(gram, "DENSE_POINTS", 0)
    summed = DrMMD(y, kernel, regularization, target_weights=q)
    assert summed.by_sums
    assert not held.by_sums
    for lam in (regularization, regularization / 3, 10 * regularization):
        held.regularization = summed.regularization = lam
        z, w = x.clone().requires_grad_(), torch.full((80,), 1 / 80, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(summed(x), held(x), rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(summed.velocity(x), held.velocity(x), rtol=1e-7, atol=1e-8)
        found, expected = (torch.autograd.grad(f(z, w), (z, w)) for f in (summed, held))
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_drmmd_by_sums_has_second_derivatives(by_sums):
    y = normal(12, seed=1)
    divergence = DrMMD(y, Gaussian(1.0), 0.3)
    assert torch.autograd.gradgradcheck(divergence, normal(4).requires_grad_())


def test_conjugate_gradients_that_do_not_converge_say_what_to_change(by_sums, monkeypatch):
    monkeypatch.setattr(gram, "MOST_RANK", 0)
    divergence = DrMMD(normal(60, seed=1), Laplace(0.3), 1e-6)
    monkeypatch.setattr(gram, "MAX_STEPS", 3)
    with pytest.raises(
        DivergedError, match="did not converge in 3 steps .relative residual .*raise regularization .1e-06."
    ):
        divergence(normal(30))
    assert math.isfinite(divergence.target_self)


# Sobolev descent


@pytest.fixture
def steps(monkeypatch):
    """Factorise no system of Sobolev descent, and count the products of its solver."""
    monkeypatch.setattr("mmdflow.divergences.sobolev.DENSE_UNKNOWNS", 0)
    made, product = [], ops.tangent_sum_grad
    monkeypatch.setattr(ops, "tangent_sum_grad", lambda *arguments: made.append(1) or product(*arguments))
    return made


def sobolev(kernel, dtype=torch.float64, **settings):
    return SobolevDescent(normal(150, seed=1).to(dtype), kernel, 1e-2, **settings)


@pytest.mark.parametrize("kernel", [Gaussian(1.0), Matern(2.5, 1.0) + 0.5 * Gaussian(1.0)])
def test_sobolev_descent_by_a_factor_is_that_by_the_matrix(kernel, request):
    x, weights = normal(200) * 0.8 + 0.5, torch.rand(200, generator=torch.Generator().manual_seed(2)).double()
    weights /= weights.sum()
    expected, value = (getattr(sobolev(kernel), name)(x, weights=weights) for name in ("velocity", "forward"))
    steps = request.getfixturevalue("steps")
    divergence = sobolev(kernel, tolerance=1e-12)
    torch.testing.assert_close(divergence.velocity(x, weights=weights), expected, rtol=1e-8, atol=1e-9)
    assert len(steps) <= (4 if isinstance(kernel, Gaussian) else 30)
    torch.testing.assert_close(divergence(x, weights), value, rtol=1e-9, atol=1e-12)


def test_a_factor_spares_steps(steps, monkeypatch):
    x = normal(200) * 0.8 + 0.5
    sobolev(Gaussian(1.0)).velocity(x)
    few = len(steps)
    monkeypatch.setattr("mmdflow.divergences.sobolev.MOST_RANK", 0)
    sobolev(Gaussian(1.0)).velocity(x)
    assert few < 0.2 * (len(steps) - few)


def test_sobolev_descent_solves_in_float64(request):
    x = normal(200) * 0.8 + 0.5
    expected = sobolev(Gaussian(1.0)).velocity(x)
    request.getfixturevalue("steps")
    found = sobolev(Gaussian(1.0), torch.float32, tolerance=1e-10).velocity(x.float())
    assert float((found.double() - expected).norm() / expected.norm()) < 1e-5
