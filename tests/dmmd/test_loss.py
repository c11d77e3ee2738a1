import math

import pytest
import torch
from torch import nn

from mmdflow import (
    DivergedError,
    DMMDLoss,
    Gaussian,
    InputError,
    Kernel,
    Linear,
    LinearSchedule,
    NoiseConditionalKernel,
    VPSchedule,
)
from mmdflow.dmmd.loss import PAIRINGS
from mmdflow.features import MLPFeatures
from mmdflow.functional import mmd2
from mmdflow.noise import NoiseConditionalGaussian


class PairwiseLinear(Kernel):
    """The linear kernel without its feature map: takes the path of general kernels."""

    def forward(self, x, y):
        return Linear()(x, y)

    def diag(self, x):
        return Linear().diag(x)


def make(features=None, *, base=None, schedule=None, **settings):
    torch.manual_seed(0)
    features = MLPFeatures((3, 2), 5, "flat", width=16, depth=1).double() if features is None else features
    kernel = NoiseConditionalKernel(features, base)
    return DMMDLoss(kernel, schedule or LinearSchedule(), **{"second_moment": 1.0, "num_levels": 4} | settings)


def batch(n=48, seed=0):
    return torch.randn(n, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


POINTS = [("path", 1.0), ("noisy", 1.0), ("interpolate", 0.0)]


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize(("points", "displacement"), POINTS)
def test_fast_path_equals_pairwise_path(points, displacement, pairing):
    settings = {"penalty_points": points, "displacement_weight": displacement, "l2_weight": 0.1, "pairing": pairing}
    fast, slow = make(**settings), make(base=PairwiseLinear(), **settings)
    a, b = fast(batch(), seeded()), slow(batch(), seeded())
    for name in ("total", "mmd2", "unit", "displacement", "l2", "slope"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-11)
    a.total.backward()
    b.total.backward()
    for p, q in zip(fast.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-11)


def test_mmd_is_the_unbiased_one_of_disjoint_halves():
    """With phi(x, t) = x the noise and levels can be redrawn here, and the samples told apart."""
    loss = make(lambda x, t: x.flatten(1), normalize=False)
    clean = batch()
    terms = loss(clean, seeded())
    generator = seeded()
    t = loss._draw_levels(clean, generator)
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=generator)
    for level, (x, e) in enumerate(zip(clean.view(4, 12, 3, 2), noise.view(4, 12, 3, 2), strict=True)):
        noisy = LinearSchedule().add_noise(x[6:], e[6:], t[level].expand(6))
        torch.testing.assert_close(terms.mmd2[level], mmd2(noisy, x[:6], Linear()))


def test_normalisation_is_the_distance_walked():
    plain, scaled = make(normalize=False)(batch(), seeded()), make()(batch(), seeded())
    distance = math.sqrt(6) * LinearSchedule().displacement(plain.levels, 1.0)
    torch.testing.assert_close(scaled.mmd2 * distance, plain.mmd2)


def test_paired_mmd_is_the_mean_over_pairs_of_different_events():
    loss = make(lambda x, t: x.flatten(1), normalize=False, pairing="paired")
    clean = batch()
    terms = loss(clean, seeded())
    generator = seeded()
    t = loss._draw_levels(clean, generator)
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=generator)
    different = ~torch.eye(12, dtype=torch.bool)
    for level, (x, e) in enumerate(zip(clean.view(4, 12, 3, 2), noise.view(4, 12, 3, 2), strict=True)):
        noisy = LinearSchedule().add_noise(x, e, t[level].expand(12)).flatten(1)
        grams = [a @ b.T for a, b in ((noisy, noisy), (x.flatten(1), x.flatten(1)), (noisy, x.flatten(1)))]
        expected = grams[0][different].mean() + grams[1][different].mean() - 2 * grams[2][different].mean()
        torch.testing.assert_close(terms.mmd2[level], expected)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_mmd_has_expectation_zero_at_level_zero(pairing):
    loss = make(schedule=VPSchedule(), num_levels=1, t_min=0.0, t_max=1e-9, normalize=False, pairing=pairing)
    values = torch.stack([loss(batch(seed=s), seeded(s)).mmd2 for s in range(300)])
    assert values.mean().abs() <= 4 * values.std() / math.sqrt(300) + 1e-9  # paired: 0 itself


def test_penalties_vanish_for_the_right_witness():
    """phi(x, t) = c x has the constant witness gradient c^2 (mean noisy - mean clean): scaled to unit slope, no unit penalty."""
    clean = torch.zeros(16, 3, 2, dtype=torch.float64)
    clean[:, 0, 0] = 2.0
    loss = make(lambda x, t: x.flatten(1), num_levels=1, t_min=0.5, t_max=0.5 + 1e-9)
    terms = loss(clean, seeded())
    scale = terms.slope.item() ** -0.5
    unit = make(lambda x, t: scale * x.flatten(1), num_levels=1, t_min=0.5, t_max=0.5 + 1e-9)(clean, seeded())
    assert unit.unit.item() < 1e-20
    assert unit.slope.item() == pytest.approx(1.0)


def test_displacement_penalty_vanishes_when_the_gradient_points_along_the_path():
    """A witness with gradient (x - x_0) / (sqrt(D) d_t) when all data is one point: phi = |x - x_0|^2, scaled."""
    point = torch.tensor([[1.0, -1.0], [0.5, 0.0], [0.0, 2.0]], dtype=torch.float64)
    second_moment = float(point.square().mean())

    class Residual(nn.Module):
        def forward(self, x, t):
            return (x - point).square().flatten(1).sum(1, keepdim=True) / 2

    loss = make(Residual(), num_levels=2, second_moment=second_moment, displacement_weight=1.0, penalty_points="noisy")
    terms = loss(point.expand(32, 3, 2).clone(), seeded())
    # grad f = Delta (x - x_0), so at x_t it is parallel to n; its length is Delta sqrt(D) d_t times too long
    assert (terms.displacement > 0).all()
    generator = seeded()
    clean = point.expand(32, 3, 2)
    t = loss._draw_levels(clean, generator).repeat_interleave(16)
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=generator)
    noisy = LinearSchedule().add_noise(clean, noise, t)
    n = (noisy - clean).flatten(1) / (math.sqrt(6) * LinearSchedule().displacement(t, second_moment))[:, None]
    phi = Residual()(noisy, t).view(2, 16)
    gap = phi[:, 8:].mean(1).repeat_interleave(16)
    gradient = gap[:, None] * (noisy - clean).flatten(1)
    torch.testing.assert_close(terms.displacement, (gradient - n).square().sum(1).view(2, 16).mean(1))


def test_invariant_under_orthogonal_maps_of_the_features():
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=seeded()))
    features = MLPFeatures((3, 2), 5, "flat", width=16, depth=1).double()
    plain = make(features, l2_weight=0.2)(batch(), seeded())
    turned = make(lambda x, t: features(x, t) @ rotation, l2_weight=0.2)(batch(), seeded())
    torch.testing.assert_close(plain.total, turned.total, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("head", ["flat", "squared_residual"])
def test_parameter_gradient_equals_finite_differences(head):
    torch.manual_seed(1)
    features = MLPFeatures((3, 2), 2, head, width=8, depth=1).double()
    loss = make(features, displacement_weight=0.7, l2_weight=0.1, num_levels=2)
    loss(batch(16), seeded()).total.backward()
    for parameter in features.parameters():
        index = tuple(0 for _ in parameter.shape)
        analytic = parameter.grad[index].item()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[index] += sign * 1e-6
                values.append(loss(batch(16), seeded()).total.item())
                parameter[index] -= sign * 1e-6
        assert analytic == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-7)


def test_learned_gaussian_width_gets_a_gradient():
    width = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    loss = DMMDLoss(
        NoiseConditionalGaussian(lambda t: width * (1 + t)), LinearSchedule(), second_moment=1.0, num_levels=4
    )
    loss(batch(), seeded()).total.backward()
    assert torch.isfinite(width.grad)
    assert width.grad != 0


def test_general_base_kernel_on_features():
    terms = make(base=Gaussian(1.0))(batch(), seeded())
    terms.total.backward()
    assert torch.isfinite(terms.total)


def test_levels_are_stratified_within_their_range():
    loss = make(num_levels=10, t_min=0.1, t_max=0.6)
    levels = loss._draw_levels(batch(), seeded())
    assert ((levels - 0.1) / 0.05).floor().tolist() == list(range(10))


def test_participation_ratio_tells_collapse():
    collapsed = make(lambda x, t: x.flatten(1)[:, :1].expand(-1, 4))(batch(), seeded())
    full = make(lambda x, t: x.flatten(1))(batch(480), seeded())
    assert collapsed.participation.item() == pytest.approx(1.0)
    assert full.participation.item() > 5


def test_non_finite_term_is_named_with_its_level():
    def bad(x, t):
        return x.flatten(1) / (t > 0.5).to(x)[:, None]

    terms = make(bad)(batch(), seeded())
    with pytest.raises(DivergedError, match=r"loss term mmd2 became non-finite at noise level t = 0\.\d+"):
        terms.check_finite()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_levels": 5}, "batch size 48: must be an even multiple of num_levels = 5"),
        ({"mmd_weight": -1.0}, "mmd_weight = -1.0"),
        ({"penalty_points": "paths"}, "did you mean 'path'"),
        ({"penalty_points": "interpolate", "displacement_weight": 1.0}, "must be 'path' or 'noisy'"),
        ({"t_min": 0.5, "t_max": 0.4}, "t_max = 0.4"),
        ({"second_moment": 0.0}, "second_moment = 0.0"),
    ],
)
def test_bad_input(change, message, unchecked):
    with pytest.raises(InputError, match=message):
        make(**change)(batch(), seeded())
