import math

import numpy as np
import pytest
import torch
from torch import nn

from mmdflow import (
    KALE,
    MMD,
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
from mmdflow.divergences.functional import mmd2
from mmdflow.features import MLPFeatures
from mmdflow.methods.dmmd import LossSettings, PenaltyPoints
from mmdflow.noise import NoiseConditionalGaussian, NoiseConditionalWitness


class PairwiseLinear(Kernel):
    """The linear kernel without its feature map: takes the path of general kernels."""

    def forward(self, x, y):
        return Linear()(x, y)

    def diag(self, x):
        return Linear().diag(x)


class At(PenaltyPoints):
    """x_0 + s (x_t - x_0), s the same for all events."""

    name = "at"
    holds_noisy = False

    def __init__(self, position):
        self.position = position

    def draw(self, batch, generator=None):
        return torch.lerp(batch.clean, batch.noisy, self.position).detach()


def make(features=None, points=None, *, base=None, schedule=None, **settings):
    torch.manual_seed(0)
    features = MLPFeatures((3, 2), 5, "flat", width=16, depth=1).double() if features is None else features
    kernel = NoiseConditionalKernel(features, base)
    second_moment = settings.pop("second_moment", 1.0)
    settings = LossSettings(**{"num_levels": 4} | settings)
    return DMMDLoss(
        kernel, schedule or LinearSchedule(), second_moment=second_moment, settings=settings, penalty_points=points
    )


def batch(n=48, seed=0):
    return torch.randn(n, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


POINTS = [("path", "path"), ("segment", "path"), ("segment", "penalty"), ("interpolate", "penalty")]


@pytest.mark.parametrize("pairing", ["disjoint", "paired"])
@pytest.mark.parametrize(("points", "form"), POINTS)
def test_fast_path_equals_pairwise_path(points, form, pairing):
    settings = {"penalty_points": points, "form": form, "l2_weight": 0.1, "pairing": pairing}
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
    t = loss.draw_levels(clean, generator)
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
    t = loss.draw_levels(clean, generator)
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=generator)
    different = ~torch.eye(12, dtype=torch.bool)
    for level, (x, e) in enumerate(zip(clean.view(4, 12, 3, 2), noise.view(4, 12, 3, 2), strict=True)):
        noisy = LinearSchedule().add_noise(x, e, t[level].expand(12)).flatten(1)
        grams = [a @ b.T for a, b in ((noisy, noisy), (x.flatten(1), x.flatten(1)), (noisy, x.flatten(1)))]
        expected = grams[0][different].mean() + grams[1][different].mean() - 2 * grams[2][different].mean()
        torch.testing.assert_close(terms.mmd2[level], expected)


@pytest.mark.parametrize("form", ["penalty", "path"])
@pytest.mark.parametrize("head", ["flat", "squared_residual", "mixed"])
def test_shared_features_give_the_loss_that_features_of_their_own_give(form, head):
    """Computed again with features evaluated apart: the noisy mean must not feel the gradient in the penalty's points."""
    features = MLPFeatures((3, 2), 5, head, width=16, depth=1).double()
    loss = make(features, pairing="shared", form=form, mmd_weight=0.3, l2_weight=0.1)
    terms = loss(batch(), seeded())
    terms.total.backward()
    found = [p.grad.clone() for p in features.parameters()]
    features.zero_grad()
    generator, clean = seeded(), batch()
    levels = loss.draw_levels(clean, generator)
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=generator)
    weight = torch.rand(48, generator=generator, dtype=clean.dtype)
    weight[::2] = 1
    total = 0.0
    for i, (x, e) in enumerate(zip(clean.split(12), noise.split(12), strict=True)):
        t = levels[i].expand(12)
        noisy = LinearSchedule().add_noise(x, e, t)
        z = torch.lerp(x, noisy, weight[12 * i : 12 * i + 12, None, None]).requires_grad_()
        a, b = features(noisy[::2], t[::2]), features(x[::2], t[::2])
        (gradient,) = torch.autograd.grad((features(z, t) @ (a.mean(0) - b.mean(0))).sum(), z, create_graph=True)
        gradient = gradient.flatten(1)
        distance = math.sqrt(6) * LinearSchedule().displacement(levels[i], 1.0)
        different = ~torch.eye(6, dtype=torch.bool)
        value = ((a @ a.T) + (b @ b.T) - (a @ b.T) - (b @ a.T))[different].mean() / distance
        torch.testing.assert_close(terms.mmd2[i], value.detach())
        unit = (gradient.norm(dim=1) - 1).square().mean()
        displacement = (gradient - (noisy - x).flatten(1) / distance).square().sum(1).mean()
        penalty = unit if form == "penalty" else displacement
        total = total + (-0.3 * value + penalty + 0.1 * torch.cat([a, b]).square().mean()) / 4
    torch.testing.assert_close(terms.total, total)
    total.backward()
    for p, expected in zip(features.parameters(), found, strict=True):
        torch.testing.assert_close(p.grad, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("pairing", ["disjoint", "paired", "shared"])
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


def test_path_form_compares_the_gradient_with_the_path():
    """A witness with gradient (x - x_0) / (sqrt(D) d_t) when all data is one point: phi = |x - x_0|^2, scaled."""
    point = torch.tensor([[1.0, -1.0], [0.5, 0.0], [0.0, 2.0]], dtype=torch.float64)
    second_moment = float(point.square().mean())

    class Residual(nn.Module):
        def forward(self, x, t):
            return (x - point).square().flatten(1).sum(1, keepdim=True) / 2

    loss = make(Residual(), At(1.0), num_levels=2, second_moment=second_moment, form="path")
    terms = loss(point.expand(32, 3, 2).clone(), seeded())
    # grad f = Delta (x - x_0), so at x_t it is parallel to n; its length is Delta sqrt(D) d_t times too long
    assert (terms.displacement > 0).all()
    generator = seeded()
    clean = point.expand(32, 3, 2)
    t = loss.draw_levels(clean, generator).repeat_interleave(16)
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=generator)
    noisy = LinearSchedule().add_noise(clean, noise, t)
    n = (noisy - clean).flatten(1) / (math.sqrt(6) * LinearSchedule().displacement(t, second_moment))[:, None]
    phi = Residual()(noisy, t).view(2, 16)
    gap = phi[:, 8:].mean(1).repeat_interleave(16)
    gradient = gap[:, None] * (noisy - clean).flatten(1)
    torch.testing.assert_close(terms.displacement, (gradient - n).square().sum(1).view(2, 16).mean(1))


@pytest.mark.parametrize("num_features", [1, 16, 128])
@pytest.mark.parametrize("head", ["flat", "squared_residual", "mixed"])
@pytest.mark.parametrize("path", [LinearSchedule(), VPSchedule()], ids=["linear", "vp"])
def test_path_form_is_the_mmd_under_a_squared_gradient_penalty(head, num_features, path):
    """E |grad f - n|^2 = E |n|^2 + E |grad f|^2 - 2 MMD^2 / norm, over points uniform on segments: here by quadrature."""
    if (head, num_features) == ("mixed", 1):
        num_features = 6
    torch.manual_seed(3)
    features = MLPFeatures((3, 2), num_features, head, width=16, depth=1).double()
    settings = {"form": "path", "pairing": "paired", "num_levels": 2, "second_moment": 0.7}
    nodes, node_weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(40))
    clean, generator = batch(16), seeded()
    levels = make(features, num_levels=2).draw_levels(clean, generator)
    noisy = path.add_noise(
        clean, torch.randn(clean.shape, dtype=clean.dtype, generator=generator), levels.repeat_interleave(8)
    )
    norm = math.sqrt(6) * path.displacement(levels, 0.7)
    regression, squared_slope = torch.zeros(2, 2, dtype=torch.float64)
    for node, weight in zip((nodes + 1) / 2, node_weights / 2, strict=True):
        terms = make(features, At(float(node)), schedule=path, **settings)(clean, seeded())
        torch.testing.assert_close(terms.total, terms.displacement.mean())
        regression += weight * terms.displacement
        for i in range(2):
            rows, t = slice(8 * i, 8 * i + 8), levels[i].expand(8)
            z = torch.lerp(clean[rows], noisy[rows], float(node)).requires_grad_()
            delta = features(noisy[rows], t).mean(0) - features(clean[rows], t).mean(0)
            (gradient,) = torch.autograd.grad((features(z, t) @ delta.detach()).sum(), z)
            squared_slope[i] += weight * gradient.square().sum() / 8
    for i in range(2):
        rows, t = slice(8 * i, 8 * i + 8), levels[i].expand(8)
        mmd2_biased = (features(noisy[rows], t).mean(0) - features(clean[rows], t).mean(0)).square().sum()
        squared_n = ((noisy - clean)[rows].square().sum() / 8 / norm[i] ** 2).item()
        expected = squared_n + squared_slope[i] - 2 * mmd2_biased / norm[i]
        torch.testing.assert_close(regression[i], expected, rtol=1e-10, atol=1e-10)


def test_invariant_under_orthogonal_maps_of_the_features():
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=seeded()))
    features = MLPFeatures((3, 2), 5, "flat", width=16, depth=1).double()
    plain = make(features, l2_weight=0.2)(batch(), seeded())
    turned = make(lambda x, t: features(x, t) @ rotation, l2_weight=0.2)(batch(), seeded())
    torch.testing.assert_close(plain.total, turned.total, rtol=1e-10, atol=1e-12)


def kl_loss(objective, ridge, features, count, **settings):
    kernel = NoiseConditionalWitness(features, count).double()
    return DMMDLoss(
        kernel,
        LinearSchedule(),
        second_moment=1.0,
        settings=LossSettings(
            num_levels=1,
            objective=objective,
            ridge=ridge,
            unit_weight=0.0,
            normalize=False,
            pairing="paired",
            t_min=0.5,
            t_max=0.5 + 1e-12,
            **settings,
        ),
    )


def fitted(objective, ridge, steps=60):
    """The bound of one batch after its read-out is fitted, with the batch's noisy and clean features."""
    features = MLPFeatures((3, 2), 4, "flat", width=16, depth=1).double().requires_grad_(False)
    loss = kl_loss(objective, ridge, features, 4)
    optimiser = torch.optim.LBFGS(loss.kernel.read_out.parameters(), line_search_fn="strong_wolfe", max_iter=steps)

    def closure():
        optimiser.zero_grad()
        total = loss(batch(), seeded()).total
        total.backward()
        return total

    for _ in range(5):
        optimiser.step(closure)
    generator = seeded()
    levels = loss.draw_levels(batch(), generator)
    noisy = LinearSchedule().add_noise(
        batch(), torch.randn(batch().shape, dtype=torch.float64, generator=generator), levels.expand(48)
    )
    t = levels.expand(48)
    return -loss(batch(), seeded()).total.detach(), features(noisy, t), features(batch(), t)


@pytest.mark.parametrize("objective", ["kl", "reverse-kl"])
@pytest.mark.parametrize("ridge", [0.1, 3.0])
def test_kl_bound_of_fixed_features_with_a_ridge_is_kale(objective, ridge):
    bound, noisy, clean = fitted(objective, ridge)
    upper, lower = (noisy, clean) if objective == "kl" else (clean, noisy)
    torch.testing.assert_close(bound, KALE(lower, Linear(), ridge)(upper), rtol=1e-5, atol=1e-7)


def test_kl_bound_tends_to_half_mmd_as_the_ridge_grows():
    bound, noisy, clean = fitted("kl", 1e5)
    torch.testing.assert_close(bound, MMD(clean, Linear())(noisy), rtol=1e-3, atol=1e-6)


def test_kl_bound_does_not_overflow():
    features = MLPFeatures((3, 2), 4, "flat", width=16, depth=1).double()
    loss = kl_loss("reverse-kl", 0.0, lambda x, t: 1e4 * features(x, t), 4)
    terms = loss(batch(), seeded())
    terms.total.backward()
    terms.check_finite()
    assert all(torch.isfinite(p.grad).all() for p in features.parameters())


@pytest.mark.parametrize("form", ["penalty", "path"])
@pytest.mark.parametrize("head", ["flat", "squared_residual", "mixed"])
def test_parameter_gradient_equals_finite_differences(head, form):
    torch.manual_seed(1)
    features = MLPFeatures((3, 2), 6, head, width=8, depth=1).double()
    loss = make(features, form=form, l2_weight=0.1, num_levels=2)
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
        NoiseConditionalGaussian(lambda t: width * (1 + t)),
        LinearSchedule(),
        second_moment=1.0,
        settings=LossSettings(num_levels=4),
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
    levels = loss.draw_levels(batch(), seeded())
    assert ((levels - 0.1) / 0.05).floor().tolist() == list(range(10))


def test_participation_ratio_tells_collapse():
    collapsed = make(lambda x, t: x.flatten(1)[:, :1].expand(-1, 4))(batch(), seeded())
    full = make(lambda x, t: x.flatten(1))(batch(480), seeded())
    assert collapsed.participation.item() == pytest.approx(1.0)
    assert full.participation.item() > 5


@pytest.mark.parametrize("form", ["penalty", "path"])
def test_diversity_is_the_participation_ratio_s_reciprocal(form):
    plain, asked = (make(wide(), form=form, diversity_weight=w)(batch(), seeded()) for w in (0.0, 0.5))
    covariance = sum(torch.cov(part.T, correction=0) for part in clean_features(wide()))
    reciprocal = covariance.square().sum() / covariance.trace().square()
    torch.testing.assert_close(plain.participation, 1 / reciprocal)
    torch.testing.assert_close(asked.total - plain.total.detach(), 0.5 * reciprocal)
    asked.total.backward()  # it reaches the weights


def test_features_that_do_not_vary_keep_the_loss_finite():
    constant = make(lambda x, t: 0 * x.flatten(1) + 1, diversity_weight=0.5)(batch(), seeded())
    assert constant.participation == 0
    torch.testing.assert_close(constant.total, make(lambda x, t: 0 * x.flatten(1) + 1)(batch(), seeded()).total + 0.5)


def wide():
    torch.manual_seed(5)
    return MLPFeatures((3, 2), 20, "mixed", width=16, depth=1).double()


def clean_features(features):
    """Those of the clean half of the events of each of four levels, which `make` draws."""
    levels = make(features).draw_levels(batch(), seeded())
    return [features(x[:6], t.expand(6)).detach() for x, t in zip(batch().view(4, 12, 3, 2), levels, strict=True)]


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
        (
            {"penalty_points": "interpolate", "form": "path"},
            "penalty_points = 'interpolate' with form = 'path': must be",
        ),
        ({"segment_every": 3}, "segment_every = 3: must be even"),
        ({"segment_every": 0}, "segment_every = 0"),
        (
            {"segment_every": 4, "penalty_points": "segment"},
            "segment_every = 4 with penalty_points = 'segment': is for",
        ),
        ({"unit_weight": 3.0, "form": "path"}, "unit_weight = 3.0 with form = 'path': must be left out"),
        ({"diversity_weight": 0.3}, "diversity_weight = 0.3 with num_features = 5: needs at least 16 features"),
        ({"objective": "kl", "form": "path"}, "objective = 'kl' with form = 'path': must be left out"),
        ({"t_min": 0.5, "t_max": 0.4}, "t_max = 0.4"),
        ({"second_moment": 0.0}, "second_moment = 0.0"),
        ({"objective": "kl"}, "needs a NoiseConditionalWitness"),
        ({"pairing": "shared", "penalty_points": "interpolate"}, "must be 'path'"),
        ({"pairing": "shared", "base": Gaussian(1.0)}, "use 'paired'"),
    ],
)
def test_bad_input(change, message, unchecked):
    with pytest.raises(InputError, match=message):
        make(**change)(batch(), seeded())


@pytest.mark.parametrize("settings", [{}, {"form": "path", "pairing": "shared"}])
def test_by_class_is_the_loss_of_levels_that_have_one_class(settings, generator):
    x = torch.randn(16, 3, 2, dtype=torch.float64, generator=generator)
    labels = torch.tensor([2, 0, -1, 1]).repeat_interleave(4)  # -1: a level of all classes
    plain, by_class = make(**settings), make(by_class=True, **settings)
    terms = by_class(x, torch.Generator().manual_seed(1), labels)
    assert torch.equal(terms.total, plain(x, torch.Generator().manual_seed(1)).total)
    for wrong, message in (
        (None, r"labels are missing: must be \[16\], the class of every event, with by_class = True"),
        (labels.roll(1), r"labels of a level are \[1, 2, 2, 2\]: must be one class with by_class = True"),
    ):
        with pytest.raises(InputError, match=message):
            by_class(x, generator, wrong)
    with pytest.raises(InputError, match="label_dropout = 0.3 without by_class: leaves classes out"):
        LossSettings(label_dropout=0.3)
    with pytest.raises(InputError, match="by_class = True with objective = 'kl': is for the MMD"):
        LossSettings(by_class=True, objective="kl")
