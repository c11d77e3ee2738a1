"""Drifts against their closed forms, loops and symmetries (Deng et al. 2026 and the family around it)."""

import itertools
import math
import warnings

import pytest
import torch

from mmdflow import MMD, Drift, Gaussian, InputError, Laplace, Matern, RationalQuadratic, Riesz, flow, ops
from mmdflow.divergences.drifts import BATCH, NORMALIZATIONS
from mmdflow.divergences.transport import transport_dual
from mmdflow.ops import cpu

KERNELS = [
    Gaussian(0.7),
    Laplace(0.8),
    Matern(1.5, 0.9),
    RationalQuadratic(1.7, 0.8),
    Gaussian(0.5) + 0.3 * Laplace(1.1),
]


def clouds(n=7, m=9, d=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=torch.float64, generator=generator)
    return x, torch.randn(m, d, dtype=torch.float64, generator=generator) + 0.5


@pytest.mark.parametrize("kernel", KERNELS)
def test_companion_slope_is_the_kernel(kernel):
    x, y = clouds()
    weights = torch.ones(len(x), len(y), dtype=torch.float64)
    expected = (kernel(x, y)[:, :, None] * (y[None] - x[:, None])).sum(1)
    torch.testing.assert_close(kernel.companion().grad(x, y, weights), expected, rtol=1e-12, atol=1e-14)


def test_companion_of_laplace_is_matern():
    r = torch.linspace(0, 5, 50, dtype=torch.float64)[:, None]
    tau = 0.7
    expected = tau**2 * (1 + r / tau) * torch.exp(-r / tau)
    torch.testing.assert_close(Laplace(tau).companion()(r, torch.zeros_like(r[:1])), expected, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("self_terms", [False, True])
def test_without_normalization_it_is_the_mmd_flow_of_the_companion(kernel, self_terms):
    x, y = clouds()
    velocity = Drift(y, kernel, self_terms=self_terms).velocity(x)
    torch.testing.assert_close(velocity, MMD(y, kernel.companion()).velocity(x), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("normalization", ["none", "mean-shift", "sharp"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_is_antisymmetric_and_zero_at_equal_clouds(kernel, normalization):
    x, y = clouds()
    z = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    there = Drift(y, kernel, normalization=normalization).velocity(x, z)
    back = Drift(x, kernel, normalization=normalization).velocity(y, z)
    torch.testing.assert_close(there, -back, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_is_zero_at_equal_clouds_with_self_terms(normalization):
    x, _ = clouds()
    velocity = Drift(x, Laplace(0.8), normalization=normalization, self_terms=True).velocity(x)
    torch.testing.assert_close(velocity, torch.zeros_like(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_is_equivariant(normalization):
    x, y = clouds()
    drift = Drift(y, Gaussian(1.2), normalization=normalization)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(drift.velocity(x[order]), drift.velocity(x)[order], rtol=1e-10, atol=1e-12)
    moved = Drift(y + 3, Gaussian(1.2), normalization=normalization).velocity(x + 3)
    torch.testing.assert_close(moved, drift.velocity(x), rtol=1e-9, atol=1e-11)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
    turned = Drift(y @ turn, Gaussian(1.2), normalization=normalization).velocity(x @ turn)
    torch.testing.assert_close(turned, drift.velocity(x) @ turn, rtol=1e-9, atol=1e-11)


def test_gaussian_mean_shift_is_the_difference_of_scores():
    """V = s^2 grad (log p_s - log q_s), with p_s and q_s the mixtures of Gaussians of width s around the samples."""
    x, y = clouds()
    s, z = 0.7, torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()

    def log_density(points):
        return torch.logsumexp(-torch.cdist(z, points).square() / (2 * s**2), 1).sum()

    (expected,) = torch.autograd.grad(s**2 * (log_density(y) - log_density(x)), z)
    velocity = Drift(y, Gaussian(s), normalization="mean-shift").velocity(x, z.detach())
    torch.testing.assert_close(velocity, expected, rtol=1e-11, atol=1e-13)


def asymmetry(normalization):
    x, y = clouds(d=2)
    drift = Drift(y, Laplace(0.8), normalization=normalization)
    z, step = torch.tensor([[0.3, -0.2]], dtype=torch.float64), 1e-5
    columns = [
        (drift.velocity(x, z + step * e) - drift.velocity(x, z - step * e))[0] / (2 * step)
        for e in torch.eye(2).double()
    ]
    jacobian = torch.stack(columns, 1)
    return float((jacobian - jacobian.T).abs().max())


def test_sharp_is_a_gradient_and_mean_shift_is_not():
    assert asymmetry("sharp") < 1e-8
    assert asymmetry("none") < 1e-8
    assert asymmetry("mean-shift") > 1e-3


@pytest.mark.parametrize("d", [1, 3, 40])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("normalization", ["mean-shift", "sharp"])
def test_compiled_drifts_are_the_plain_ones(normalization, kernel, d):
    x, y = (points / math.sqrt(d) for points in clouds(d=d))
    drift = Drift(y, kernel, normalization=normalization)
    with ops.backend("reference"):
        expected = drift.velocity(x)
    with ops.backend("compiled"):
        torch.testing.assert_close(drift.velocity(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "passes"), [(Laplace(0.8), 2), (Gaussian(0.7), 2), (Matern(1.5, 0.9), 2), (Riesz(), 4)]
)
def test_a_pass_over_the_pairs_gives_the_sum_and_the_gradient_of_the_companion(monkeypatch, kernel, passes):
    """Of another kernel whose rate is not the density's, two passes do."""
    calls, add = [], cpu.add
    monkeypatch.setattr(cpu, "add", lambda *arguments: (calls.append(1), add(*arguments)))
    x, y = clouds(d=20)
    weights = torch.full((len(y),), 1 / len(y), dtype=torch.float64)
    companion = Laplace(0.3) if passes == 4 else kernel.companion()
    for _ in range(2):
        with ops.backend("compiled"):
            value, slope = ops.sum_and_grad(kernel, companion, x, y, weights)
    assert len(calls) == passes
    with ops.backend("reference"):
        torch.testing.assert_close(value, ops.kernel_sum(kernel, x, y, weights), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(slope, ops.kernel_sum_grad(companion, x, y, weights), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("d", "exact", "quick"), [(20, 2, 0), (2, 0, 2)])
@pytest.mark.parametrize("kernel", [Laplace(0.8), Gaussian(0.7)])
def test_a_tolerance_leaves_a_drift_its_two_passes(kernel, d, exact, quick):
    """One over the pairs with the data and one over the particles' own, exact or not, as `mmdflow flow` and estimators run."""
    x, y = clouds(2500, 2500, d)
    drift = Drift(y, kernel, normalization="mean-shift")
    with ops.within("auto") as report:
        velocity = drift.velocity(x)
    assert (report.exact, report.quick) == (exact, quick), report
    torch.testing.assert_close(velocity, drift.velocity(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("normalization", BATCH)
def test_batch_form_is_the_loop(normalization):
    x, y = clouds(4, 5, 2)
    tau = 0.8
    joined = torch.cat([x, y])
    logits = -torch.cdist(x, joined) / tau
    if normalization == "balanced-batch":
        logits = logits - torch.tensor([math.log(4)] * 4 + [math.log(5)] * 5, dtype=torch.float64)
    logits[range(4), range(4)] = -math.inf
    rows, columns = logits.exp() / logits.exp().sum(1, keepdim=True), logits.exp() / logits.exp().sum(0, keepdim=True)
    affinity = (rows * columns).sqrt()
    expected = torch.zeros_like(x)
    for i in range(4):
        for j in range(5):
            expected[i] += affinity[i, 4 + j] * affinity[i, :4].sum() * y[j]
        for j in range(4):
            expected[i] -= affinity[i, j] * affinity[i, 4:].sum() * x[j]
    drift = Drift(y, Laplace(tau), normalization=normalization)
    torch.testing.assert_close(drift.velocity(x), expected, rtol=1e-11, atol=1e-13)


def test_sinkhorn_tends_to_the_transport_map():
    """For a bandwidth towards 0 the map to the data is the cheapest assignment, and with self terms particles stay."""
    x, y = clouds(6, 6, 2)
    scipy_optimize = pytest.importorskip("scipy.optimize")
    rows, columns = scipy_optimize.linear_sum_assignment(torch.cdist(x, y).square().numpy())
    drift = Drift(y, Gaussian(0.03), normalization="sinkhorn", self_terms=True, num_iterations=3000)
    torch.testing.assert_close(drift.velocity(x), y[columns] - x[rows], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("width", [0.3, 0.1, 0.022])
def test_sinkhorn_of_a_moved_copy_is_its_move_at_any_width(width):
    """With the iterations there are by default; from g = 0 they left a half of it at the narrowest width."""
    x = torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drift = Drift(x + 1, Gaussian(width), normalization="sinkhorn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        velocity = drift.velocity(x)
    torch.testing.assert_close(velocity.mean(0), torch.ones(2, dtype=torch.float64), rtol=0, atol=0.01)
    assert drift.plan_error < 0.01


def test_a_plan_that_has_not_converged_is_said():
    x, y = clouds(20, 30, 2)
    drift = Drift(y + 5, Gaussian(0.01), normalization="sinkhorn", num_iterations=3)
    with pytest.warns(UserWarning, match="num_iterations = 3: Sinkhorn's algorithm has not converged"):
        drift.velocity(x)
    assert 0.01 < drift.plan_error <= 1
    scale = 1e25  # whose squares leave float32's range, so that float64 computes
    far = Drift((scale * (y + 5)).float(), Gaussian(0.01 * scale), normalization="sinkhorn", num_iterations=3)
    with pytest.warns(UserWarning, match="has not converged"):
        far.velocity((scale * x).float())
    assert far.plan_error == pytest.approx(drift.plan_error, rel=1e-3)


@pytest.mark.parametrize("width", [0.2, 0.5, 3.0])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_converged_plan_has_both_marginals(width, symmetric):
    x, y = clouds(12, 9, 2)
    y = x if symmetric else y
    a, b = (torch.rand(len(z), dtype=torch.float64, generator=torch.Generator().manual_seed(len(z))) for z in (x, y))
    a, b = a / a.sum(), b / b.sum()
    gram = Gaussian(width).log(x, y)
    g, error = transport_dual(gram, a, b, 20_000, symmetric=symmetric)
    f = a.log() - (gram + g).logsumexp(1)
    plan = (gram + g + f[:, None]).exp()
    torch.testing.assert_close(plan.sum(1), a)
    torch.testing.assert_close(plan.sum(0), b, rtol=1e-4, atol=1e-6)
    assert error < 1e-6


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_weights_count_samples_twice(normalization):
    x, y = clouds(5, 4, 2)
    weights = torch.tensor([2.0, 1, 1, 1], dtype=torch.float64)
    doubled = torch.cat([y, y[:1]])
    options = {"normalization": normalization, "num_iterations": 200}
    expected = Drift(doubled, Gaussian(1.0), **options).velocity(x)
    if normalization not in BATCH:  # whose columns compete one by one
        torch.testing.assert_close(Drift(y, Gaussian(1.0), target_weights=weights, **options).velocity(x), expected)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_one_particle_is_pulled_only(normalization):
    x, y = clouds(1, 4, 2)
    velocity = Drift(y, Gaussian(2.0), normalization=normalization).velocity(x)
    assert bool(torch.isfinite(velocity).all())
    if normalization in ("mean-shift", "sinkhorn"):
        pull = Drift(y, Gaussian(2.0), normalization=normalization, self_terms=True).velocity(x)
        torch.testing.assert_close(velocity, pull)


@pytest.mark.parametrize("normalization", ["mean-shift", "sharp", *BATCH, "sinkhorn"])
def test_a_narrow_start_does_not_collapse(normalization):
    """Particles spread by a hundredth of the data end with the data's spread."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(600, 2, generator=generator)
    x = 0.01 * torch.randn(300, 2, generator=generator)
    drift = Drift(y, Laplace(0.5), normalization=normalization)
    scale = 4.0 if normalization in BATCH else 1.0
    moved = flow(drift, x, step_size=0.3 * scale, num_steps=150).particles
    assert 0.8 < float(moved.std(0).mean() / y.std(0).mean()) < 1.2


@pytest.mark.parametrize("normalization", ["balanced-batch", "mean-shift"])
@pytest.mark.parametrize(("pushing", "pulling", "sign"), [(8, 8, 0), (8, 64, 1), (64, 8, -1)])
def test_unequal_numbers_move_particles_that_follow_the_data(normalization, pushing, pulling, sign, generator):
    outwards = outward_drifts(pushing, pulling, generator, normalization)
    mean, error = outwards.mean(), outwards.std() / len(outwards) ** 0.5
    assert abs(mean) < 4 * error if sign == 0 else sign * mean > 3 * error


@pytest.mark.parametrize(("pushing", "pulling"), [(8, 8), (8, 64), (64, 8)])
def test_the_batch_form_leaves_particles_that_follow_the_data_whatever_the_numbers(pushing, pulling, generator):
    outwards = outward_drifts(pushing, pulling, generator, "batch")
    assert abs(outwards.mean()) < 4 * outwards.std() / len(outwards) ** 0.5


def outward_drifts(pushing, pulling, generator, normalization):
    """How far a drift carries a point away from the mean, of clouds of one distribution; 400 times."""
    z = torch.tensor([[1.0, 0.5, -1.0]], dtype=torch.float64)
    outwards = []
    for _ in range(400):
        others, data = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (pushing, pulling))
        outwards.append(
            Drift(data, Laplace(0.3), second=others, normalization=normalization).velocity(z, z)[0] @ z[0] / z.norm()
        )
    return torch.stack(outwards)


def test_exchanging_data_and_particles_turns_the_batch_form_round():
    """So that its mean is 0 over all ways to divide one set of samples into the two."""
    z, samples = torch.tensor([[0.3, -0.2], [1.0, 0.4]], dtype=torch.float64), clouds(7, 1, 2)[0]
    total = torch.zeros_like(z)
    for chosen in itertools.combinations(range(7), 3):
        pushing = torch.tensor([i in chosen for i in range(7)])
        drift = Drift(samples[~pushing], Laplace(0.5), normalization="batch", second=samples[pushing])
        total += drift.velocity(z, z)
    torch.testing.assert_close(total, torch.zeros_like(z), rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalization", ["mean-shift", "sharp"])
def test_no_overlap_names_a_bandwidth_that_does(normalization):
    x, y = clouds()
    with pytest.raises(InputError, match=r"a bandwidth of [\d.]+ or more") as error:
        Drift(y.float(), Gaussian(0.01), normalization=normalization).velocity(x.float() + 100)
    enough = float(str(error.value).split("a bandwidth of ")[1].split()[0])
    assert bool(
        torch.isfinite(Drift(y.float(), Gaussian(enough), normalization=normalization).velocity(x.float() + 100)).all()
    )


def test_sinkhorn_without_self_terms_throws_an_outliers_neighbour():
    """Why the sinkhorn form keeps self terms: with them an outlier moves itself, and no other particle moves as far."""
    x, y = clouds()
    x[0] = 1000.0
    kept, left_out = (
        Drift(y, Laplace(0.5), normalization="sinkhorn", self_terms=self_terms).velocity(x).norm(dim=1)
        for self_terms in (None, False)
    )
    assert float(kept[1:].max()) < 10
    assert float(left_out[1:].max()) > 400


def test_a_changed_formula_does_not_keep_its_parents_companion():
    class Doubled(Gaussian):
        def profile(self, r2):
            return 2 * super().profile(r2)

    with pytest.raises(InputError, match="kernel = Doubled: has no companion"):
        Drift(clouds()[1], Doubled(1.0))


@pytest.mark.parametrize("kernel", [*KERNELS, Matern(2.5, 0.7)])
def test_log_of_a_kernel(kernel):
    x, y = clouds()
    torch.testing.assert_close(kernel.log(x, y), kernel(x, y).log(), rtol=1e-12, atol=1e-13)


def test_batch_and_sinkhorn_reach_any_distance():
    x, y = clouds()
    for normalization in (*BATCH, "sinkhorn"):
        velocity = Drift(y.float(), Gaussian(0.05), normalization=normalization).velocity(x.float() + 100)
        assert bool(torch.isfinite(velocity).all())


def test_bad_input():
    _, y = clouds()
    with pytest.raises(InputError, match="kernel = Riesz: has no companion"):
        Drift(y, Riesz())
    with pytest.raises(InputError, match="normalization = 'soft': must be one of none, mean-shift"):
        Drift(y, Gaussian(1.0), normalization="soft")
    with pytest.raises(InputError, match=r"particles has event shape \[2\]: must be \[3\]"):
        Drift(y, Gaussian(1.0)).check(torch.zeros(4, 2, dtype=torch.float64))
