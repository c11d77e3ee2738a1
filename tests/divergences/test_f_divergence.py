"""The MMD-regularised f-divergences: limits, relatives, solvers."""

import math

import pytest
import torch

from mmdflow import KALE, MMD, DivergedError, DrMMD, FDivergence, Gaussian, InputError, flow
from mmdflow.divergences.entropy import entropy
from tests.laws.strategies import FAMILY

family = pytest.mark.parametrize(("name", "alpha"), FAMILY)


def normal(n, d=2, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@family
def test_entropies_agree_with_their_derivatives_and_conjugates(name, alpha):
    f = entropy(name, alpha)
    r = torch.tensor([0.01, 0.3, 1.0, 2.5, 40.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(f.value(r).sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    torch.testing.assert_close(f.slope(r), slope)
    torch.testing.assert_close(f.curvature(r), curvature)
    assert f.value(torch.ones(1)).item() == 0
    torch.testing.assert_close(f.density(f.slope(r)), r)
    torch.testing.assert_close(f.conjugate(f.slope(r)), f.slope(r) * r - f.value(r))


def test_conjugates_outside_their_domain():
    h = torch.tensor([-5.0, 1.0, 2.0], dtype=torch.float64)
    assert entropy("reverse-kl").conjugate(h)[1:].tolist() == [math.inf, math.inf]
    assert entropy("tsallis", 0.5).conjugate(h)[1:].tolist() == [math.inf, math.inf]
    assert entropy("chi2").density(h)[0] == 0
    assert entropy("chi2").conjugate(h)[0] == -1  # -f(0)
    assert torch.isfinite(entropy("jeffreys").conjugate(torch.tensor([-700.0, 700.0]).double())).all()


def test_alpha_one_is_kale():
    x, y = normal(20) + 0.5, normal(30, seed=1)
    kale = KALE(y, Gaussian(0.8), 0.3)(x).item() / 1.3
    assert FDivergence(y, Gaussian(0.8), 0.3, "tsallis", alpha=1.0)(x).item() == pytest.approx(kale, rel=1e-9)
    assert FDivergence(y, Gaussian(0.8), 0.3)(x).item() == pytest.approx(kale, rel=1e-9)


@pytest.mark.parametrize("regularization", [0.05, 1.0])
def test_chi2_is_drmmd_while_densities_stay_positive(regularization):
    """min |u|^2 + 1/(2 lambda) |delta - S u|^2 = <delta, (Sigma + 2 lambda)^-1 delta>."""
    x, y = normal(200) * 0.9 + 0.05, normal(200, seed=1)
    divergence = FDivergence(y, Gaussian(1.5), regularization, "chi2")
    assert (divergence.solve(x).weights > 0).all()
    drmmd = DrMMD(y, Gaussian(1.5), 2 * regularization)
    assert divergence(x).item() == pytest.approx(drmmd(x).item() / (1 + 2 * regularization), rel=1e-8)
    expected = drmmd.velocity(x) / (1 + 2 * regularization)
    torch.testing.assert_close(divergence.velocity(x), expected, rtol=1e-6, atol=1e-9)


@family
def test_regularization_to_infinity_gives_half_mmd_squared(name, alpha):
    x, y = normal(8) + 1, normal(12, seed=1)
    expected = MMD(y, Gaussian(1.0))(x).item()
    value = 1e6 * FDivergence(y, Gaussian(1.0), 1e6, name, alpha=alpha, tolerance=1e-12)(x).item()
    assert value == pytest.approx(expected, rel=1e-4)


@family
def test_regularization_to_zero_gives_the_f_divergence_on_a_finite_support(name, alpha):
    support = normal(4) * 3
    q, p = torch.tensor([1.0, 2, 3, 4]).double() / 10, torch.full((4,), 0.25).double()
    f = entropy(name, alpha)
    expected = (q @ f.value(p / q)).item()
    value = FDivergence(support, Gaussian(1.0), 1e-7, name, alpha=alpha, target_weights=q)(support)
    assert value.item() == pytest.approx(expected, rel=1e-4)


@family
def test_solvers_agree_and_reach_optimality(name, alpha):
    x, y = normal(15) * 0.7 + 0.8, normal(20, seed=1)
    newton = FDivergence(y, Gaussian(0.7), 0.2, name, alpha=alpha)
    assert FDivergence(y, Gaussian(0.7), 0.2, name, alpha=alpha, solver="lbfgs")(x).item() == pytest.approx(
        newton(x).item(), rel=1e-5
    )
    lbfgs = FDivergence(y, Gaussian(0.7), 0.2, name, alpha=alpha, solver="lbfgs", tolerance=1e-9)
    assert lbfgs(x).item() == pytest.approx(newton(x).item(), rel=1e-8)
    torch.testing.assert_close(lbfgs.velocity(x), newton.velocity(x), rtol=1e-3, atol=1e-4)
    h = newton.witness(x)(y)
    torch.testing.assert_close(newton.solve(x).weights, newton.entropy.density(h) / 20, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["chi2", "tsallis"])
def test_densities_may_vanish(name):
    x, y = normal(20) * 0.1 + 2, normal(60, seed=1)
    divergence = FDivergence(y, Gaussian(0.5), 1e-2, name, alpha=3.0 if name == "tsallis" else None)
    weights = divergence.solve(x).weights
    assert (weights == 0).any()
    assert (weights >= 0).all()


def test_target_points_of_weight_zero_are_left_out():
    x, y = normal(5), normal(6, seed=1)
    weights = torch.tensor([1.0, 1, 1, 1, 0, 0])
    expected = KALE(y[:4], Gaussian(1.0), 0.1)(x)
    torch.testing.assert_close(KALE(y, Gaussian(1.0), 0.1, target_weights=weights)(x), expected)


@family
def test_finite_differences_confirm_the_envelope_gradient(name, alpha):
    x, y, epsilon = normal(6) + 0.3, normal(9, seed=1), 1e-5
    divergence = FDivergence(y, Gaussian(1.0), 0.3, name, alpha=alpha, tolerance=1e-13)
    direction = normal(6, seed=2)
    slope = (divergence(x + epsilon * direction) - divergence(x - epsilon * direction)).item() / (2 * epsilon)
    expected = -(divergence.velocity(x) * direction).sum().item() / 6
    assert slope == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("regularization", [1e-6, 1e-7, 1e-9, 1e-11])
@pytest.mark.parametrize(("name", "alpha"), [("chi2", None), ("tsallis", 1.5), ("kl", None)])
def test_the_gap_is_that_of_the_weights_that_are_returned(name, alpha, regularization):
    """Single precision far below what it resolves: a solution is certified, or the solver says that it is none."""
    y, x = normal(60, seed=1).float(), (normal(50) * 0.3 + 0.5).float()
    divergence = FDivergence(y, Gaussian(0.3), regularization, name, alpha=alpha)
    for _ in range(3):
        try:
            solution = divergence.solve(x)
        except DivergedError:
            continue
        assert math.isfinite(solution.gap)
        value = divergence(x).item()
        assert math.isfinite(value)
        best = FDivergence(y.double(), Gaussian(0.3), regularization, name, alpha=alpha, tolerance=1e-3)
        rounding = 1e-4 * (1 + abs(value)) + 8 * torch.finfo(torch.float32).eps / regularization
        assert abs(value - best(x.double()).item()) <= 4 * rounding


@family
@pytest.mark.parametrize("regularization", [0.1, 0.01])
def test_lbfgs_converges_by_its_defaults(name, alpha, regularization):
    x, y = normal(30) * 0.7 + 0.5, normal(40, seed=1)
    newton, lbfgs = (
        FDivergence(y, Gaussian(1.0), regularization, name, alpha=alpha, solver=s)(x) for s in ("newton", "lbfgs")
    )
    assert lbfgs.item() == pytest.approx(newton.item(), rel=1e-5)


@family
def test_a_warm_start_is_no_worse_than_a_cold_one(name, alpha):
    """Clouds that have nothing to do with each other, in turn, in single precision."""
    y = normal(50, seed=1).float()
    warm = FDivergence(y, Gaussian(0.5), 1e-2, name, alpha=alpha)
    for seed in range(6):
        x = (normal(30, seed=seed) * 0.5 + seed - 3).float()
        cold = FDivergence(y, Gaussian(0.5), 1e-2, name, alpha=alpha)(x)
        torch.testing.assert_close(warm(x), cold, rtol=2e-3, atol=2e-3)


@family
def test_flows_decrease(name, alpha):
    y = normal(40)
    divergence = FDivergence(y, Gaussian(0.7), 0.1, name, alpha=alpha)
    result = flow(divergence, y[:20] * 0.5 + 0.5, step_size=0.02, num_steps=60, save_every=20)
    assert (result.values.diff() < 0).all()


@pytest.mark.parametrize("name", ["kl", "chi2"])
def test_solver_that_does_not_converge_says_what_to_change(name):
    divergence = FDivergence(normal(40, seed=1), Gaussian(0.3), 1e-5, name, solver="lbfgs", max_iterations=25)
    with pytest.raises(DivergedError, match="FDivergence did not converge in 25 L-BFGS steps .duality gap .*raise reg"):
        divergence(normal(30) + 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"divergence": "kll"}, "divergence = 'kll': must be one of kl, .*did you mean 'kl'"),
        ({"divergence": "tsallis"}, "alpha = None: must be a finite number > 0"),
        ({"divergence": "tsallis", "alpha": -1.0}, "alpha = -1.0"),
        ({"divergence": "kl", "alpha": 2.0}, "alpha = 2.0 with divergence = 'kl'"),
        ({"regularization": 0.0}, "regularization = 0.0"),
        ({"solver": "sgd"}, "solver = 'sgd': must be one of newton, lbfgs"),
        ({"target_weights": torch.tensor([1.0, -1.0])}, "target_weights holds -1.0"),
        ({"target_weights": torch.zeros(2)}, "with a positive sum"),
        ({"target_weights": torch.ones(3)}, r"target_weights has shape \[3\]: must be a tensor \[2\]"),
    ],
)
def test_bad_input(settings, message, unchecked):
    settings = {"regularization": 1.0} | settings
    with pytest.raises(InputError, match=message):
        FDivergence(normal(2), Gaussian(1.0), **settings)
