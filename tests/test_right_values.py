"""Values that libraries of the field have got wrong on valid input, and what is right: closed forms, float64, loops."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from mmdflow import (
    MMD,
    DMMDLoss,
    Gaussian,
    InputError,
    InverseMultiquadric,
    Laplace,
    LinearSchedule,
    Matern,
    NoiseConditionalKernel,
    RationalQuadratic,
    Riesz,
    SlicedMMD,
    ops,
)
from mmdflow.evaluation.distance import DataJudge
from mmdflow.evaluation.protocols import open_images
from mmdflow.evaluation.samples import evaluate_samples
from mmdflow.features import DecoderFeatures
from mmdflow.functional import mmd2, mmd2_of_features
from mmdflow.kernels import Polynomial, median_bandwidth
from mmdflow.methods.dmmd import LossSettings
from mmdflow.metrics import gaussian_scales, mmd_test, two_sample
from mmdflow.metrics.extractors import ModuleExtractor
from mmdflow.recipe import FlowSpec
from mmdflow.runs.particles import run_flow

METHODS = ["permutation", "wild-bootstrap"]
both_methods = pytest.mark.parametrize("method", METHODS)


def normal(n, d=2, seed=0, dtype=torch.float64):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def close(found, expected, tolerance):
    return float((found.double() - expected).norm()) <= tolerance * float(expected.norm())


@pytest.mark.parametrize("place", [(5.0, 5.0), (-300.0, 40.0), (1e4, 0.0)])
@pytest.mark.parametrize(
    "kernel", [Gaussian(1e-3), Laplace(1e-3), Matern(2.5, 1e-3), InverseMultiquadric(1e-3), Riesz()]
)
def test_narrow_clouds_far_from_the_origin(kernel, place):
    """Of width 0.001, in float32: norms and products would cancel all digits of their distances."""
    x, y = (torch.tensor(place) + 1e-3 * normal(n, seed=n).float() for n in (60, 50))
    exact = MMD(y.double(), kernel)
    velocity = exact.velocity(x.double())
    for backend in ("reference", "compiled"):
        with ops.backend(backend):
            single = MMD(y, kernel)
            assert single(x).item() == pytest.approx(exact(x.double()).item(), rel=1e-4)
            assert close(single.velocity(x), velocity, 1e-5)
    for unbiased in (False, True):
        expected = mmd2(x.double(), y.double(), kernel, unbiased=unbiased).item()
        scale = abs(kernel(x.double(), x.double())).max().item()
        assert mmd2(x, y, kernel, unbiased=unbiased).item() == pytest.approx(expected, rel=1e-4, abs=1e-7 * scale)


@pytest.mark.parametrize("dim", [1, 2, 16, 17])
@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_points_that_almost_coincide_push_each_other(dim, backend):
    """x at 0 and 5e-5, y at 1 and 2: F = 3/2 - 2.5e-5 - 1/4 - 1.25e-5 and dF/dx = -1/4, -3/4."""
    x, y = torch.zeros(2, dim), torch.zeros(2, dim)
    x[1, 0], y[0, 0], y[1, 0] = 5e-5, 1.0, 2.0
    with ops.backend(backend):
        z = x.clone().requires_grad_()
        value = MMD(y, Riesz())(z)
        (slopes,) = torch.autograd.grad(value, z)
        velocity = MMD(y, Riesz()).velocity(x)
    assert value.item() == pytest.approx(1.2499625, abs=2e-7)
    expected = torch.zeros(2, dim)
    expected[:, 0] = torch.tensor([-0.25, -0.75])
    torch.testing.assert_close(slopes, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(velocity, -2 * expected, atol=2e-6, rtol=0)


SMOOTH = [Gaussian(1.0), Matern(2.5, 1.0), InverseMultiquadric(1.0), RationalQuadratic(0.7), Polynomial(3)]


@pytest.mark.parametrize("kernel", SMOOTH, ids=lambda kernel: type(kernel).__name__)
@pytest.mark.parametrize("rows", [20, 26, 30])
def test_second_derivatives_at_any_number_of_rows_and_where_points_coincide(kernel, rows):
    """torch.cdist has none below 26 rows; a distance has none at 0."""
    x, y = normal(rows, 2, seed=1), normal(rows, 2, seed=2)
    x[1] = x[0]
    x[2] = y[0]
    y[3] = y[4]

    def slope(z):
        (gradient,) = torch.autograd.grad(mmd2(z, y, kernel, unbiased=False), z, create_graph=True)
        return gradient

    direction, step = normal(rows, 2, seed=3), 1e-5
    z = x.clone().requires_grad_()
    (found,) = torch.autograd.grad((slope(z) * direction).sum(), z)
    ahead, behind = ((x + sign * step * direction).requires_grad_() for sign in (1, -1))
    expected = (slope(ahead) - slope(behind)).detach() / (2 * step)
    assert close(found, expected, 1e-6)


@pytest.mark.parametrize("dim", [1, 2, 17])
@pytest.mark.parametrize("backend", ["reference", "compiled"])
@pytest.mark.parametrize("cloud", ["spread", "ties", "far", "one point"])
def test_the_sliced_gradient_is_0_at_equal_clouds(dim, backend, cloud):
    y = normal(40, dim, dtype=torch.float32)
    y = {"spread": y, "ties": y.round(), "far": y + 1e3, "one point": y[:1].expand(40, dim).clone()}[cloud]
    x = y[torch.randperm(40, generator=seeded())].requires_grad_()
    with ops.backend(backend):
        divergence = SlicedMMD(y, 8, generator=seeded())
        value = divergence(x)
        (slopes,) = torch.autograd.grad(value, x)
    size = float(y.detach().abs().max())
    assert abs(value.item()) < 1e-6 * (1 + size)
    assert float(slopes.abs().max()) < 1e-6
    assert float(divergence.velocity(x.detach()).abs().max()) < 1e-5


@both_methods
@pytest.mark.parametrize("count", [9, 39, 199])
def test_the_smallest_p_value_is_one_of_all_resamplings(method, count):
    x = normal(40)
    assert mmd_test(x, normal(40, seed=1) + 3, method=method, num_permutations=count)[1] == 1 / (count + 1)


@both_methods
@pytest.mark.parametrize("kernel", [None, Riesz(), Laplace(0.5), [Gaussian(0.3), Gaussian(3.0)]], ids=str)
@pytest.mark.parametrize("draw", ["normal", "counts", "far"])
def test_a_sample_and_its_copy_have_the_p_value_1(method, kernel, draw):
    x = {"normal": normal(30), "counts": normal(30).round().abs(), "far": 1e4 + normal(30)}[draw]
    copied = x[torch.randperm(30, generator=seeded(1))]
    assert mmd_test(x, copied, kernel, method=method, num_permutations=99, generator=seeded(2))[1] == 1.0


@pytest.mark.parametrize(("n", "m"), [(30, 30), (25, 70), (1200, 40)])
def test_exchanging_the_samples_changes_nothing(n, m):
    """The bandwidth is that of both together."""
    x, y = 5 * normal(n), normal(m, seed=1)
    one, other = (mmd_test(*pair, num_permutations=9, generator=seeded())[0] for pair in ((x, y), (y, x)))
    assert one == pytest.approx(other, rel=1e-10)
    scales = gaussian_scales(torch.cat([x, y])), gaussian_scales(torch.cat([y, x]))
    assert [float(k.bandwidth) for k in scales[0]] == [float(k.bandwidth) for k in scales[1]]


def by_loops(x, y, k):
    """The U-statistic of the MMD, pair by pair."""
    n, m = len(x), len(y)
    within = sum(k(a, b) for a, b in itertools.permutations(x, 2)) / (n * (n - 1))
    within += sum(k(a, b) for a, b in itertools.permutations(y, 2)) / (m * (m - 1))
    return within - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


FORMULAS = {
    "gaussian": (Gaussian(0.7), lambda a, b: math.exp(-sum((a - b) ** 2) / (2 * 0.49))),
    "laplace": (Laplace(2.0), lambda a, b: math.exp(-math.dist(a, b) / 2)),
    "energy": (Riesz(), lambda a, b: -math.dist(a, b)),
    "inverse-multiquadric": (InverseMultiquadric(0.5), lambda a, b: (0.25 + sum((a - b) ** 2)) ** -0.5),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_statistic_of_each_kernel_to_six_decimals(name):
    kernel, formula = FORMULAS[name]
    x, y = normal(15, 3), normal(11, 3, seed=1) + 0.4
    expected = by_loops(x.numpy(), y.numpy(), formula)
    assert mmd_test(x, y, kernel, num_permutations=1)[0] == pytest.approx(expected, abs=1e-9)
    assert mmd_test(x.float(), y.float(), kernel, num_permutations=1)[0] == pytest.approx(expected, abs=1e-6)


def aggregated(x, y, widths, count, rng):
    """The p-value of the smallest p-value over kernels, by NumPy and labels of its own."""
    both, n = np.concatenate([x, y]), len(x)
    squared = ((both[:, None] - both[None]) ** 2).sum(-1)
    table = np.empty((len(widths), 1 + count))
    for j in range(1 + count):
        order = np.arange(len(both)) if j == 0 else rng.permutation(len(both))
        a, b = order[:n], order[n:]
        for i, width in enumerate(widths):
            k = np.exp(-squared / (2 * width**2))
            inside = [(k[np.ix_(s, s)].sum() - len(s)) / (len(s) * (len(s) - 1)) for s in (a, b)]
            table[i, j] = sum(inside) - 2 * k[np.ix_(a, b)].mean()
    p_values = (table[:, None, :] >= table[:, :, None]).mean(2)
    smallest = p_values.min(0)
    return (smallest <= smallest[0]).mean()


@pytest.mark.parametrize(("shift", "seed"), [(0.0, 0), (0.0, 1), (0.0, 2), (0.5, 3), (1.0, 4), (2.0, 5)])
def test_the_aggregated_test_decides_as_one_by_hand(shift, seed):
    x, y = normal(25, seed=seed), normal(20, seed=100 + seed) + shift
    widths = [0.3, 1.0, 3.0]
    found = mmd_test(x, y, [Gaussian(width) for width in widths], num_permutations=199, generator=seeded(seed))[1]
    expected = aggregated(x.numpy(), y.numpy(), widths, 199, np.random.default_rng(seed))
    error = 4 * (expected * (1 - expected) * 2 / 200) ** 0.5 + 0.01  # both draw 199 labellings
    assert abs(found - expected) <= error
    assert (found <= 0.05) == (expected <= 0.05)


@pytest.mark.parametrize("dim", [3, 16, 17, 40])
@pytest.mark.parametrize("kernel", [Gaussian(1.0), Laplace(1.0), Matern(1.5, 0.5), RationalQuadratic(1.0)], ids=str)
@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_velocities_of_two_clusters_far_apart(dim, kernel, backend):
    """1e6 widths: within a cluster norms and products cancel, and the points' own differences count."""
    x, y = (normal(40, dim, seed=seed, dtype=torch.float32) / dim**0.5 for seed in (0, 1))
    for cloud in (x, y):
        cloud[20:] += 1e6 / dim**0.5
    expected = MMD(y.double(), kernel).velocity(x.double())
    with ops.backend(backend):
        assert close(MMD(y, kernel).velocity(x), expected, 1e-4)


@pytest.mark.parametrize("offset", [0.0, 1000.0, -3e4])
@pytest.mark.parametrize("count", [(500, 500), (40, 300)])
@pytest.mark.parametrize("unbiased", [False, True])
def test_features_far_from_the_origin_are_compared_by_their_differences(offset, count, unbiased):
    """What losses of DMMD and MMD-GAN take: their V-statistic cannot be negative."""
    x, y = (offset + normal(n, 8, seed=n + k).float() for k, n in enumerate(count))
    z, exact_z = x.clone().requires_grad_(), x.double().requires_grad_()
    value, exact = (mmd2_of_features(*pair, unbiased=unbiased) for pair in ((z, y), (exact_z, y.double())))
    assert value.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-6)
    assert unbiased or value >= 0
    (found,), (expected,) = torch.autograd.grad(value, z), torch.autograd.grad(exact, exact_z)
    assert close(found, expected, 1e-3)


@both_methods
@pytest.mark.parametrize("kernel", [None, Riesz(), [Gaussian(1.0), Laplace(1.0)]], ids=str)
def test_large_samples_are_refused_before_memory_is_taken(method, kernel, monkeypatch):
    monkeypatch.setattr(two_sample, "memory_left", lambda device: 32 * 2**30)
    x = torch.zeros(60_000, 1)
    x[::2] = 1
    with pytest.raises(InputError, match=r"their Gram matrix takes \d+ GiB of 32 GiB"):
        mmd_test(x, x, kernel, method=method)


class Fails(nn.Module):
    def forward(self, x):
        raise RuntimeError("no features")


def test_modules_are_given_back_as_they_were():
    """Their modes, running statistics and parameters, also where the module fails."""
    x = torch.rand(6, 1, 8, 8)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())
    module[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    ModuleExtractor(module, "own", channels=1).features(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert [part.training for part in module.modules()] == [True] * 4
    assert [p.requires_grad for p in module.parameters()] == [False, True, True, True]
    failing = nn.Sequential(nn.Dropout(0.5), Fails())
    with pytest.raises(RuntimeError, match="no features"):
        ModuleExtractor(failing, "fails", channels=1).features(x)
    assert all(part.training for part in failing.modules())
    quiet = module.eval()
    ModuleExtractor(quiet, "quiet", channels=1).features(x)
    assert not any(part.training for part in quiet.modules())


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.0, 0.5), (0.2, 0.9), (0.0, 255.0), (-1.0, 1.2), (-128.0, 127.0)]
)
def test_floats_in_another_range_are_refused(tmp_path, low, high):
    x = torch.linspace(low, high, 4 * 64).reshape(4, 1, 8, 8).numpy()
    np.savez(tmp_path / "a.npz", samples=x)
    with pytest.raises(InputError, match=r"a\.npz.*: must be in \[-1, 1\]"):
        open_images(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("order", ["sorted", "classes", "reversed"])
def test_the_test_of_a_flow_looks_at_particles_from_everywhere(order, tmp_path, monkeypatch):
    """Particles lie in the order of their table: the first ones of it are no sample of all."""
    monkeypatch.setattr("mmdflow.runs.particles._MAX_TESTED", 60)
    x, y = normal(300, 2).numpy(), normal(300, 2, seed=1).numpy()
    key = {"sorted": x[:, 0], "classes": np.sign(x[:, 1]), "reversed": -x[:, 0]}[order]
    np.save(tmp_path / "x.npy", x[np.argsort(key)])
    np.save(tmp_path / "y.npy", y)
    still = FlowSpec(
        str(tmp_path / "y.npy"), source=str(tmp_path / "x.npy"), num_targets=200, num_steps=1, step_size=1e-9
    )
    assert run_flow(still).report["p_value"] > 0.05


def test_held_out_events_are_drawn_from_all_of_an_ordered_set(monkeypatch):
    monkeypatch.setattr("mmdflow.evaluation.samples._MOST", 20)
    near, far = torch.zeros(30, 2), torch.full((70, 2), 3.0)
    train = 1e-3 * normal(50, dtype=torch.float32)
    report = evaluate_samples(normal(40, dtype=torch.float32), train, torch.cat([near, far]))
    assert report["nearest_distance_reference"] > 4

    class Mean(DataJudge):
        def __init__(self):
            self._test = torch.arange(100.0)

        def __call__(self, samples):
            return float(samples.mean())

    assert 35 < Mean().held_out(30) < 65
    assert Mean().held_out(100) == 49.5


@pytest.mark.parametrize("bandwidth", [1e3, 1e5])
def test_wide_gaussians_compare_means(bandwidth):
    """b^2 MMD^2 tends to |difference of the means|^2: a kernel whose exponent is kept above a bound sees none."""
    x, y = normal(30), normal(40, seed=1) + 0.3
    value = bandwidth**2 * float(mmd2(x, y, Gaussian(bandwidth), unbiased=False))
    assert value == pytest.approx(float((x.mean(0) - y.mean(0)).square().sum()), rel=1e-3)


@pytest.mark.parametrize("far", [1e2, 1e6])
def test_the_median_distance_does_not_follow_one_wild_event(far):
    """It is a median over pairs: a mean over events of what is near them would grow with `far`."""
    x = normal(500)
    pairs = torch.pdist(x).median()
    assert median_bandwidth(x) == pytest.approx(float(pairs), rel=0.1)
    x[0] = far
    assert median_bandwidth(x) == pytest.approx(float(pairs), rel=0.1)


@pytest.mark.parametrize(("points", "form"), [("path", "path"), ("interpolate", "penalty")])
@pytest.mark.parametrize("head", ["flat", "squared_residual"])
def test_the_loss_of_a_dmmd_is_differentiated_through_layer_norms(head, points, form):
    """Its slope is a derivative already. Backward through forward-mode products LayerNorm takes mean and spread as constants."""
    torch.manual_seed(0)
    features = DecoderFeatures((1, 4, 4), 4, head, code=3, width=8, channels=[4]).double()
    assert any(isinstance(module, nn.LayerNorm) for module in features.modules())
    loss = DMMDLoss(
        NoiseConditionalKernel(features),
        LinearSchedule(),
        second_moment=1.0,
        settings=LossSettings(num_levels=2, form=form, penalty_points=points),
    )
    data, direction = torch.randn(24, 1, 4, 4, dtype=torch.float64), torch.randn_like(features.stem.weight)

    def at(step):
        with torch.no_grad():
            features.stem.weight += step * direction
        return loss(data, seeded()).total

    (gradient,) = torch.autograd.grad(at(0.0), features.stem.weight)
    quotient = (at(1e-5).item() - at(-2e-5).item()) / 2e-5
    assert float((gradient * direction).sum()) == pytest.approx(quotient, rel=1e-5)
