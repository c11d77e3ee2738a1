"""Closed forms and limits of KALE, DrMMD and the sliced MMD."""

import math

import pytest
import torch

from mmdflow import (
    KALE,
    MMD,
    DivergedError,
    DrMMD,
    Gaussian,
    InputError,
    InverseMultiquadric,
    Laplace,
    Linear,
    Matern,
    RationalQuadratic,
    Riesz,
    SlicedMMD,
    flow,
)
from mmdflow.divergences.directions import DIRECTIONS, draw_directions, riesz_scale

IN_THE_PLANE = [kind for kind in DIRECTIONS if kind not in ("patches", "structured")]


def normal(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def one_point_pair(c):
    """A particle and a target point in the plane with Gaussian kernel value c between them."""
    x = torch.tensor([[math.sqrt(-2 * math.log(c)), 0.0]], dtype=torch.float64)
    return x, torch.zeros_like(x)


@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("regularization", [0.1, 1.0, 10.0])
def test_kale_of_one_point_is_a_lambert_w(c, regularization):
    lambertw = pytest.importorskip("scipy.special").lambertw
    x, y = one_point_pair(c)
    a = regularization * lambertw(math.exp(c / regularization) / regularization).real
    value = (1 + regularization) * (1 + a * math.log(a) - a + (a * a - 2 * a * c + 1) / (2 * regularization))
    kale = KALE(y, Gaussian(1.0), regularization)
    assert kale.solve(x).weights.item() == pytest.approx(a, rel=1e-10)
    assert kale(x).item() == pytest.approx(value, rel=1e-9)


def test_kale_of_equal_measures():
    y = normal(20, 2)
    kale = KALE(y, Gaussian(1.0), 0.1)
    torch.testing.assert_close(kale.solve(y).weights, torch.full((20,), 1 / 20).double())
    assert kale(y).item() == pytest.approx(0, abs=1e-12)


def test_kale_tends_to_half_mmd_squared():
    x, y = normal(8, 2) + 1, normal(12, 2, 1)
    expected = MMD(y, Gaussian(1.0))(x).item()
    errors = [abs(KALE(y, Gaussian(1.0), r)(x).item() - expected) for r in (1e2, 1e4)]
    assert errors[1] < 1e-3 * expected
    assert errors[1] < errors[0] / 30


def test_kale_solves_to_its_optimality_condition_cold_and_warm():
    x, y = normal(30, 2) + 0.5, normal(40, 2, 1)
    kale = KALE(y, Gaussian(0.7), 1e-2)
    cold = kale.solve(x)
    h = kale.witness(x)(y) / (1 + 1e-2)
    torch.testing.assert_close(cold.weights, h.exp() / 40, rtol=1e-8, atol=1e-12)
    warm = kale.solve(x + 1e-3)
    assert warm.iterations < cold.iterations
    assert abs(cold.gap) < 1e-9


@pytest.mark.parametrize(
    ("dtype", "regularization"), [(torch.float64, 1e-3), (torch.float64, 1e4), (torch.float32, 1e-2)]
)
def test_kale_solves_the_published_settings_far_from_the_target(dtype, regularization):
    """Weights fall to exp(-|h|) with |h| of order 1 / lambda; the paper's settings are 1e-3 and 1e4."""
    y = normal(80, 2, 1).to(dtype)
    kale = KALE(y, Gaussian(0.5), regularization)
    for shift in (3.0, 1.0, 0.0):
        solution = kale.solve(normal(60, 2).to(dtype) * 0.3 + shift)
        assert torch.isfinite(solution.weights).all()
        assert solution.iterations < 60


def test_kale_that_does_not_converge_says_what_to_change():
    with pytest.raises(
        DivergedError, match="KALE did not converge in 1 Newton steps .duality gap .*raise regularization"
    ):
        KALE(normal(40, 2, 1), Gaussian(0.3), 1e-4, max_iterations=1)(normal(30, 2) + 3)


@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("regularization", [0.01, 1.0, 100.0])
def test_drmmd_of_one_point_in_closed_form(c, regularization):
    x, y = one_point_pair(c)
    value = (2 * (1 + regularization) * (1 - c) - (1 - c) ** 2) / regularization
    assert DrMMD(y, Gaussian(1.0), regularization)(x).item() == pytest.approx(value, rel=1e-10)


def test_drmmd_tends_to_mmd_squared():
    x, y = normal(8, 2) + 1, normal(12, 2, 1)
    assert DrMMD(y, Gaussian(1.0), 1e7)(x).item() == pytest.approx(2 * MMD(y, Gaussian(1.0))(x).item(), rel=1e-5)


def test_drmmd_tends_to_chi_squared_on_a_finite_support():
    support = normal(4, 2) * 3
    counts_y, counts_x = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 5, 5, 5])
    y, x = support.repeat_interleave(counts_y, 0), support.repeat_interleave(counts_x, 0)
    q, p = counts_y / counts_y.sum(), counts_x / counts_x.sum()
    chi2 = ((p - q) ** 2 / q).sum().item()
    assert DrMMD(y, Gaussian(1.0), 1e-8)(x).item() == pytest.approx(chi2, rel=1e-4)


def test_drmmd_refuses_kernels_that_are_not_positive_definite():
    with pytest.raises(InputError, match="kernel = Riesz: must be positive definite"):
        DrMMD(normal(20, 2), Riesz(), 1e-3)


def test_riesz_scale():
    expected = [1, math.pi / 2, 2, 3 * math.pi / 4, 8 / 3]
    assert [riesz_scale(d, 1.0) for d in range(1, 6)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_sliced_mmd_is_exact_in_one_dimension(exponent):
    x, y = normal(7, 1), torch.cat([normal(10, 1, 1), normal(7, 1)[:2]])  # with ties between x and y
    sliced, exact = SlicedMMD(y, 1, exponent), MMD(y, Riesz(exponent))
    torch.testing.assert_close(sliced(x), exact(x))
    torch.testing.assert_close(sliced.velocity(x), exact.velocity(x))
    torch.testing.assert_close(sliced.witness(x)(y), exact.witness(x)(y))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("directions", IN_THE_PLANE)
def test_sliced_mmd_tends_to_the_riesz_mmd(directions, exponent):
    x, y = normal(20, 2), normal(25, 2, 1) + 1
    sliced = SlicedMMD(y, 4000, exponent, directions, generator=torch.Generator().manual_seed(0))
    exact = MMD(y, Riesz(exponent))
    assert sliced(x).item() == pytest.approx(exact(x).item(), rel=0.03)
    error = (sliced.velocity(x) - exact.velocity(x)).norm() / exact.velocity(x).norm()
    assert error < (2e-2 if directions == "equispaced" else 0.04)


def test_error_of_random_directions_falls_as_the_square_root():
    """Theorem 4: log-log slope -1/2 in P."""
    x, y = normal(30, 5), normal(30, 5, 1) + 0.5
    exact = MMD(y, Riesz()).velocity(x)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for count in (20, 320):
        draws = [SlicedMMD(y, count, directions="random", generator=generator).velocity(x) for _ in range(30)]
        errors.append(torch.stack([(d - exact).square().sum() for d in draws]).mean().sqrt())
    assert math.log(errors[1] / errors[0]) / math.log(16) == pytest.approx(-0.5, abs=0.08)


def test_orthogonal_directions_beat_random_ones():
    x, y = normal(30, 8), normal(30, 8, 1) + 0.5
    exact = MMD(y, Riesz()).velocity(x)
    errors = {}
    for kind in ("random", "orthogonal"):
        generator = torch.Generator().manual_seed(0)
        draws = [SlicedMMD(y, 64, directions=kind, generator=generator).velocity(x) for _ in range(20)]
        errors[kind] = torch.stack([(d - exact).norm() for d in draws]).mean()
    assert errors["orthogonal"] < 0.8 * errors["random"]


def test_sliced_mmd_is_homogeneous_and_zero_at_the_target():
    x, y = normal(9, 3), normal(11, 3, 1)
    generator = torch.Generator().manual_seed(0)
    divergence = SlicedMMD(y, 50, 1.3, generator=generator, redraw=False)
    scaled = SlicedMMD(2 * y, 50, 1.3, generator=torch.Generator().manual_seed(0), redraw=False)
    torch.testing.assert_close(scaled(2 * x), 2**1.3 * divergence(x))
    torch.testing.assert_close(divergence(y), torch.zeros((), dtype=torch.float64), atol=1e-12, rtol=0)


def test_directions_are_redrawn_when_asked():
    x, y = normal(9, 3), normal(11, 3, 1)
    fresh = SlicedMMD(y, 5, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(fresh.velocity(x), fresh.velocity(x))
    fixed = SlicedMMD(y, 5, generator=torch.Generator().manual_seed(0), redraw=False)
    assert torch.equal(fixed.velocity(x), fixed.velocity(x))


def test_blocks_of_slices_do_not_change_the_value(monkeypatch):
    x, y = normal(9, 3), normal(11, 3, 1)
    divergence = SlicedMMD(y, 50, redraw=False)
    whole = divergence(x), divergence.velocity(x)
    monkeypatch.setattr("mmdflow.divergences.sliced_witness.BLOCK", 64)
    torch.testing.assert_close((divergence(x), divergence.velocity(x)), whole)


SLICEABLE = {
    "gaussian": Gaussian(0.8),
    "gaussian-normalized": Gaussian(0.8, normalized=True),
    "matern-3/2": Matern(1.5, 0.9),
    "matern-5/2": Matern(2.5, 0.9),
    "inverse-multiquadric": InverseMultiquadric(0.7),
    "rational-quadratic": RationalQuadratic(2.3, 0.8),
}


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("name", SLICEABLE)
def test_slices_of_other_radial_kernels_tend_to_their_mmd(name, dim):
    x, y = normal(20, dim), normal(25, dim, 1) + 1
    generator = torch.Generator().manual_seed(0)
    sliced = SlicedMMD(y, 40_000, kernel=SLICEABLE[name], generator=generator)
    exact = MMD(y, SLICEABLE[name])
    assert sliced(x).item() == pytest.approx(exact(x).item(), rel=0.05)
    error = (sliced.velocity(x) - exact.velocity(x)).norm() / exact.velocity(x).norm()
    assert error < 0.05


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_patches_give_the_mean_mmd_of_patches(exponent):
    """Locally connected projections: F is the mean over the patches' positions of 1/2 MMD^2 of that patch."""
    x, y = normal(9, 2 * 3 * 4).reshape(9, 2, 3, 4), normal(11, 2 * 3 * 4, 1).reshape(11, 2, 3, 4) + 0.5
    sliced = SlicedMMD(y, 6000, exponent, "patches", patch=2, generator=torch.Generator().manual_seed(0))
    parts = [
        MMD(y[:, :, i : i + 2, j : j + 2], Riesz(exponent))(x[:, :, i : i + 2, j : j + 2])
        for i in range(2)
        for j in range(3)
    ]
    assert sliced(x).item() == pytest.approx(torch.stack(parts).mean().item(), rel=0.03)
    assert torch.equal((sliced.xi != 0).sum(1), torch.full((6000,), 8))
    torch.testing.assert_close(sliced.xi.norm(dim=1), torch.ones(6000).double())
    whole = SlicedMMD(y[:, :, :3, :3], 50, exponent, "patches", patch=3, generator=torch.Generator().manual_seed(0))
    assert whole(x[:, :, :3, :3]).item() == pytest.approx(MMD(y[..., :3], Riesz(exponent))(x[..., :3]).item(), rel=0.2)


@pytest.mark.parametrize("settings", [{}, {"directions": "random"}, {"kernel": Gaussian(1.0)}])
def test_many_directions_are_drawn_in_blocks(settings, monkeypatch):
    x, y = normal(9, 3), normal(11, 3, 1)
    exact = MMD(y, settings.get("kernel", Riesz()))(x).item()
    monkeypatch.setattr("mmdflow.divergences.sliced.DRAWN", 30)
    generator = torch.Generator().manual_seed(0)
    assert SlicedMMD(y, 4001, generator=generator, **settings)(x).item() == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("offset", [1e2, 1e5])
@pytest.mark.parametrize("kernel", [None, Gaussian(1.0)])
def test_slices_keep_their_accuracy_far_from_the_origin(offset, kernel):
    """In float32: points on a grid of the coarser spacing there, so that the points themselves are the same."""
    spacing = 2.0**-5
    x, y = ((normal(50, 5, seed) / spacing).round().float() * spacing for seed in (0, 1))
    near, far = (
        SlicedMMD(points, 20, kernel=kernel, generator=torch.Generator().manual_seed(0), redraw=False)
        for points in (y, y + offset)
    )
    error = (far.velocity(x + offset) - near.velocity(x)).norm() / near.velocity(x).norm()
    assert error < 2e-3


@pytest.mark.parametrize("kind", IN_THE_PLANE)
def test_directions_have_unit_length(kind, generator):
    xi = draw_directions(7, 2, kind, generator)
    assert xi.shape == (7, 2)
    torch.testing.assert_close(xi.norm(dim=1), torch.ones(7).double())
    if kind == "orthogonal":
        blocks = draw_directions(9, 3, kind, generator).view(3, 3, 3)
        torch.testing.assert_close(blocks @ blocks.transpose(1, 2), torch.eye(3).double().expand(3, 3, 3))


@pytest.mark.parametrize("make", [lambda y: KALE(y, Gaussian(0.5), 1e-2), lambda y: DrMMD(y, Gaussian(0.5), 1e-2)])
def test_flows_decrease_and_approach(make):
    y = normal(60, 2)
    result = flow(make(y), y[:30] * 0.3 + 0.5, step_size=0.01, num_steps=150, save_every=50)
    assert (result.values.diff() < 0).all()
    assert result.values[-1] < 0.2 * result.values[0]


def test_sliced_flow_reaches_the_target_in_float32():
    y = normal(200, 3).float()
    divergence = SlicedMMD(y, 30, generator=torch.Generator().manual_seed(0))
    result = flow(divergence, 0.1 * normal(150, 3, 1).float() + 2, step_size=0.3, num_steps=200, momentum=0.8)
    assert MMD(y, Riesz())(result.particles) < 1e-3 * result.values[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda y: KALE(y, Gaussian(1.0), 0.0), "regularization = 0.0"),
        (lambda y: DrMMD(y, Gaussian(1.0), -1.0), "regularization = -1.0"),
        (lambda y: KALE(y, Riesz(), 0.1), "kernel = Riesz: must be positive definite"),
        (lambda y: KALE(y, Gaussian(1.0) + Riesz(), 0.1), "kernel = Mixture: must be positive definite"),
        (lambda y: MMD(y, "gaussian"), "kernel = 'gaussian': must be a Kernel"),
        (lambda y: MMD(y, Gaussian(1.0))(y, torch.ones(4).double()), r"weights has shape \[4\]: must be \[5\]"),
        (lambda y: SlicedMMD(y, 5, kernel=Gaussian(1.0) + Gaussian(2.0)), "must be one radial kernel"),
        (lambda y: SlicedMMD(torch.zeros(2, 30_000), 5, directions="qmc"), "must be at most 21201"),
        (lambda y: SlicedMMD(y, 0), "num_directions = 0"),
        (lambda y: SlicedMMD(y, 5, 2.0), "exponent = 2.0"),
        (lambda y: SlicedMMD(y, 5, directions="orthogonl"), "did you mean 'orthogonal'"),
        (lambda y: SlicedMMD(y, 5, directions="equispaced"), "in dimension 3: must be 2"),
        (lambda y: SlicedMMD(y, 5, ranks="fast"), "ranks = 'fast'"),
        (lambda y: SlicedMMD(y, 5, directions="patches"), "patch = None with directions = 'patches'"),
        (
            lambda y: SlicedMMD(y, 5, kernel=Riesz()),
            "kernel = Riesz: must be smooth and a scale mixture",
        ),
        (lambda y: SlicedMMD(y, 5, kernel=Laplace(1.0)), "kernel = Laplace: must be smooth and a scale mixture"),
        (lambda y: SlicedMMD(y, 5, kernel=Matern(0.5, 1.0)), "kernel = Matern: must be smooth and a scale mixture"),
        (lambda y: SlicedMMD(y, 5, kernel=Gaussian(1.0), exponent=0.5), "exponent = 0.5 with kernel = Gaussian"),
        (lambda y: SlicedMMD(y, 5, patch=2), "patch = 2 with directions = 'orthogonal'"),
        (lambda y: SlicedMMD(y, 5, directions="patches", patch=2), r"events of shape \[3\]: must be images"),
    ],
)
def test_bad_input(make, message, unchecked):
    with pytest.raises(InputError, match=message):
        make(normal(5, 3))


def test_energy_distance_on_the_line_is_twice_the_integral_of_the_squared_difference_of_distribution_functions():
    """MMD^2 with -|x - y| is 2 int (F - G)^2 (Szekely and Rizzo 2013); the integrand is constant between points."""
    x, y = normal(7, 1), torch.cat([normal(10, 1, 1), normal(7, 1)[:2]])
    points = torch.cat([x, y])[:, 0].sort().values
    below = [(s[:, 0][:, None] <= points).double().mean(0) for s in (x, y)]
    integral = ((below[0] - below[1])[:-1].square() * points.diff()).sum()
    torch.testing.assert_close(2 * SlicedMMD(y, 1)(x), 2 * integral)


def test_a_witness_sees_particles_that_were_changed_in_place():
    x, y = normal(9, 3), normal(11, 3, 1)
    divergence = SlicedMMD(y, 20, redraw=False)
    witness = divergence.witness(x)
    before = witness.grad(x)
    frozen = x.clone()
    x.add_(0.5)
    torch.testing.assert_close(witness.grad(x), witness.grad(x.clone()))
    torch.testing.assert_close(witness.grad(frozen), before)
    torch.testing.assert_close(divergence.target, y)
    scalars = SlicedMMD(y[:, 0], 3)
    torch.testing.assert_close(scalars.velocity(frozen[:, 0]), MMD(y[:, 0], Riesz()).velocity(frozen[:, 0]))


@pytest.mark.parametrize("ties", [0, 1, 8])
@pytest.mark.parametrize("repeats", [1, 2, 30])
def test_ranks_by_neighbours_equal_searched_ones(ties, repeats, monkeypatch):
    """Few ties, pairs, and more than are looked at one by one; with equal and other weights; at the particles and elsewhere."""
    x = (normal(20, 3).repeat(repeats, 1) * 4).round() / 4
    y = torch.cat([(normal(15, 3, 1).repeat(repeats, 1) * 4).round() / 4, x[:3]])
    weights = torch.linspace(1, 2, len(y), dtype=torch.float64)
    for settings in ({}, {"target_weights": weights}):
        divergence = SlicedMMD(y, 40, generator=torch.Generator().manual_seed(0), redraw=False, **settings)
        monkeypatch.setattr("mmdflow.ops.slices.TIES", ties)
        own, elsewhere = divergence.velocity(x), divergence.velocity(x, x + 0.25)
        by_copy = divergence.velocity(x, x.clone())
        monkeypatch.setattr("mmdflow.ops.slices.TIES", 0)
        torch.testing.assert_close(own, divergence.velocity(x, x.clone()))
        torch.testing.assert_close(by_copy, own)
        torch.testing.assert_close(elsewhere, divergence.velocity(x, x + 0.25))
        line = SlicedMMD(y[:, :1], 1, redraw=False, **settings)
        exact = MMD(y[:, :1], Riesz(), **settings)
        torch.testing.assert_close(line.velocity(x[:, :1]), exact.velocity(x[:, :1]))


@pytest.mark.parametrize("kernel", [Laplace(0.7), Gaussian(0.4), Matern(1.5, 0.5) + 0.5 * Laplace(2.0)])
def test_all_samples_as_landmarks_give_the_exact_divergence(kernel):
    x, y = normal(8, 3) + 0.5, normal(20, 3, 1)
    nystrom, exact = MMD.from_landmarks(y, y, kernel, ridge=1e-14), MMD(y, kernel)
    torch.testing.assert_close(nystrom.velocity(x), exact.velocity(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(nystrom(x), exact(x), rtol=1e-10, atol=1e-10)


def test_landmarks_keep_the_mean_embedding_where_they_are():
    """The projection on their kernels agrees with E_mu k(., y) at every landmark; batches of the target add up."""
    y, kernel = normal(300, 2), Laplace(0.8)
    nystrom = MMD.from_landmarks(y[:30], y.split(70), kernel, ridge=1e-14)
    interpolated = kernel(y[:30], nystrom.target) @ nystrom.target_weights
    torch.testing.assert_close(interpolated, kernel(y[:30], y).mean(1), rtol=1e-10, atol=1e-10)
    x = normal(9, 2, 2)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(nystrom(x), x)
    torch.testing.assert_close(nystrom.velocity(x.detach()), -9 * slope, rtol=1e-10, atol=1e-12)  # the law


def test_landmarks_in_single_precision_and_of_finite_kernels():
    y = normal(50, 2)
    assert MMD.from_landmarks(y[:5].float(), y.float(), Gaussian(0.8))(y.float()).dtype == torch.float32
    linear = MMD.from_landmarks(y[:5], y, Linear())
    torch.testing.assert_close(linear.velocity(y), MMD(y, Linear()).velocity(y), rtol=1e-4, atol=1e-5)


def test_bad_landmarks(unchecked):
    y = normal(5, 2)
    for arguments, message in (
        ((y, normal(5, 3)), r"target has event shape \[3\]: must be \[2\]"),
        ((y, []), r"target = \[\]: must hold at least one sample"),
        ((y[:0], y), "landmarks"),
    ):
        with pytest.raises(InputError, match=message):
            MMD.from_landmarks(*arguments, Gaussian(1.0))
    with pytest.raises(InputError, match="ridge = 0"):
        MMD.from_landmarks(y, y, Gaussian(1.0), ridge=0.0)
