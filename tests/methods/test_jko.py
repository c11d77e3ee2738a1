"""JKO-Flow: variational forms, the closed form of Gaussian steps, turns, stages, and the pipeline."""

import math

import pytest
import torch
from torch import nn

from mmdflow import InputError
from mmdflow.errors import DivergedError
from mmdflow.features import ConvFeatures, FeatureNetwork, MLPFeatures, UNetFeatures
from mmdflow.methods.jko import (
    FORMS,
    JKOLoss,
    JKOLossSettings,
    JKOPipeline,
    JKOSettings,
    move,
    push,
    start_at_identity,
)
from mmdflow.methods.jko.chain import Clip
from mmdflow.runs.read import read_recipe
from tests.methods.common import (
    change_config,
    check_draws_from_its_generator_alone,
    check_refused,
    check_saved,
    draw,
    split,
)

# P and Q on five points, and their f-divergences by definition.
P = torch.tensor([0.1, 0.4, 0.2, 0.25, 0.05], dtype=torch.float64)
Q = torch.tensor([0.3, 0.1, 0.2, 0.1, 0.3], dtype=torch.float64)


def kl(p, q):
    return float((p * (p / q).log()).sum())


DIVERGENCES = {
    "kl": kl(P, Q),
    "kl-logistic": (kl(P, (P + Q) / 2) + kl(Q, (P + Q) / 2)) / 2,
    "reverse-kl": kl(Q, P),
    "jensen-shannon": (kl(P, (P + Q) / 2) + kl(Q, (P + Q) / 2)) / 2,
    "chi2": float(((P - Q).square() / Q).sum()),
    "hinge": float((P - Q).abs().sum()),
}


def bound(name, h):
    return (P * FORMS[name].on_particles(h)).sum() - (Q * FORMS[name].on_target(h)).sum()


def best(name):
    return (P - Q).sign() if name == "hinge" else (P / Q).log()


def test_every_form_is_tested():
    assert FORMS.keys() == DIVERGENCES.keys()


@pytest.mark.parametrize("name", FORMS)
def test_at_the_best_potential_the_bound_is_the_divergence(name):
    assert float(bound(name, best(name))) == pytest.approx(DIVERGENCES[name], abs=1e-12)


@pytest.mark.parametrize("name", FORMS)
def test_no_potential_goes_above_the_divergence(name, generator):
    for scale in (0.01, 0.3, 3.0):
        h = best(name) + scale * torch.randn(5, generator=generator, dtype=torch.float64)
        assert float(bound(name, h)) <= DIVERGENCES[name] + 1e-12


#: f'(r), whose gradient is that of the first variation of E_Q f(r).
SLOPES = {
    "kl": lambda r: r.log(),
    "kl-logistic": lambda r: r.log(),
    "reverse-kl": lambda r: -1 / r,
    "jensen-shannon": lambda r: (r / (1 + r)).log() / 2,
    "chi2": lambda r: 2 * r,
}


@pytest.mark.parametrize("name", SLOPES)
def test_the_map_descends_the_first_variation(name):
    r = (P / Q).requires_grad_()
    (expected,) = torch.autograd.grad(SLOPES[name](r).sum(), r)
    (slope,) = torch.autograd.grad(FORMS[name].descent(r.log()).sum(), r)
    torch.testing.assert_close(slope, expected)


class Affine(FeatureNetwork):
    """u(x) = shift + slope x on the line."""

    def __init__(self, shift=0.0, slope=0.0):
        super().__init__((1,), 1, "squared_residual")
        self.shift, self.slope = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (shift, slope))

    def outputs(self, x, t):
        return (self.shift + self.slope * x).unsqueeze(1)


class Quadratic(FeatureNetwork):
    """h(x) = a + b x + c x^2 on the line."""

    def __init__(self, a=0.0, b=0.0, c=0.0):
        super().__init__((1,), 1, "flat")
        self.a, self.b, self.c = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (a, b, c))

    def outputs(self, x, t):
        return self.a + self.b * x + self.c * x.square()


def jko_of_gaussian(mean, std, step):
    """The KL step of N(mean, std^2) towards N(0, 1): of all maps the affine one, s the root of (1 + a) s^2 - std s - a = 0."""
    after = (std + math.sqrt(std**2 + 4 * step * (1 + step))) / (2 * (1 + step))
    return mean / (1 + step), after


def log_ratio(mean, std):
    """The coefficients of log N(x; mean, std^2) / N(x; 0, 1)."""
    return -math.log(std) - mean**2 / (2 * std**2), mean / std**2, 0.5 - 1 / (2 * std**2)


def quantiles(count, mean=0.0, std=1.0):
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return (mean + std * torch.special.ndtri(u))[:, None]


def at_the_optimum(divergence, mean, std, step):
    """The loss at the closed form, entered."""
    after = jko_of_gaussian(mean, std, step)
    slope = after[1] / std
    loss = JKOLoss(
        [Affine(after[0] - slope * mean, slope - 1)],
        Quadratic(*log_ratio(*after)),
        JKOLossSettings(divergence=divergence, jko_step=step),
    )
    loss.enter(0, torch.Generator().manual_seed(0))
    return loss, after


def test_the_gaussian_step_minimises_transport_plus_kl():
    mean, std, step = 0.4, 0.3, 0.25
    m, s = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in jko_of_gaussian(mean, std, step))
    value = ((m - mean) ** 2 + (s - std) ** 2) / (2 * step) + (m**2 + s**2 - 1) / 2 - s.log()
    value.backward()
    assert abs(float(m.grad)) < 1e-14
    assert abs(float(s.grad)) < 1e-14


@pytest.mark.parametrize(("mean", "std", "step"), [(0.4, 0.3, 0.25), (-1.0, 0.2, 0.1), (0.0, 0.5, 0.3)])
def test_the_closed_form_of_a_gaussian_step_is_stationary(mean, std, step):
    loss, after = at_the_optimum("kl", mean, std, step)
    # What is averaged over P is quadratic in x, and two points are exact; over Q it is N(after) times a quadratic.
    two_points = mean + std * torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    terms = loss.terms(two_points, quantiles(400_000))
    terms.total.backward()
    assert all(abs(float(p.grad)) < 1e-6 for p in loss.parameters())
    assert float(terms.divergence) == pytest.approx(
        (after[0] ** 2 + after[1] ** 2 - 1) / 2 - math.log(after[1]), abs=1e-6
    )
    assert float(terms.transport) == pytest.approx(((mean - after[0]) ** 2 + (std - after[1]) ** 2) / (2 * step))


def test_the_logistic_form_has_the_same_stationary_point():
    mean, std, step, count = 0.4, 0.3, 0.25, 400_000
    loss, _ = at_the_optimum("kl-logistic", mean, std, step)
    loss.terms(quantiles(count, mean, std), quantiles(count)).total.backward()
    missed = 4 * math.log(count) / count  # about what quantiles miss of a Gaussian's second moment
    assert all(abs(float(p.grad)) < missed for p in loss.dual.parameters())
    assert all(
        abs(float(p.grad)) < 10 * missed for p in loss.maps.parameters()
    )  # over a, and of h, whose slope is above 1


def test_training_converges_to_the_gaussian_steps():
    torch.manual_seed(0)
    start, step, batch = (0.0, 1.0), 0.5, 256
    to_mean = 2.0  # N(0, 1) towards N(2, 1): the mean's distance shrinks by 1 + a in each step, the variance stays
    settings = JKOLossSettings(divergence="kl-logistic", jko_step=step, dual_steps=2, pool_size=20_000)
    loss = JKOLoss([Affine(), Affine()], Quadratic(), settings)
    generator = torch.Generator().manual_seed(1)
    mean, std = start[0] - to_mean, start[1]
    for stage in range(2):
        loss.enter(stage, generator)
        optimiser = torch.optim.Adam(loss.parameters(), lr=0.02, betas=(0.5, 0.9))
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, 1500)
        for _ in range(1500):
            target = to_mean + torch.randn(batch, 1, generator=generator, dtype=torch.float64)
            optimiser.zero_grad()
            loss(target, generator).total.backward()
            optimiser.step()
            schedule.step()
        mean, std = jko_of_gaussian(mean, std, step)
        *_, moved = push(list(loss.maps.values())[: stage + 1], quantiles(20_000))
        assert float(moved.mean()) == pytest.approx(mean + to_mean, abs=0.06)
        assert float(moved.std()) == pytest.approx(std, abs=0.06)


def make_loss(num_maps=3, event=(1, 8, 8), **settings):
    torch.manual_seed(0)
    maps = [MLPFeatures(event, 1, width=8) for _ in range(num_maps)]
    settings, others = split(JKOLossSettings, {"pool_size": 20, **settings}, but=["clip"])
    return JKOLoss(maps, MLPFeatures(event, 1, "flat", width=8), settings, **others)


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_turns_leave_the_other_part_untouched(penalty, generator):
    loss = make_loss(dual_steps=3, penalty=penalty)
    loss.enter(1, generator)
    target = torch.rand(6, 1, 8, 8, generator=generator)
    for turn in range(1, 7):
        loss.zero_grad()
        loss(target, generator).total.backward()
        trained = {name for name, network in loss.maps.items() if any(p.grad is not None for p in network.parameters())}
        assert trained == ({"1"} if turn % 3 == 0 else set())
        assert all(p.grad is not None for n, p in loss.dual.named_parameters() if not n.startswith("embedding"))
        assert all(p.requires_grad for p in loss.parameters())


def test_neither_part_has_a_gradient_of_the_other_s_objective(generator):
    loss = make_loss(penalty=0.5)
    loss.enter(0, generator)
    x, target = loss.pool[:5], torch.rand(6, 1, 8, 8, generator=generator)
    loss.terms(x, target, moves=False).total.backward()
    alone = [p.grad.clone() for p in loss.dual.parameters()]
    loss.zero_grad()
    loss.terms(x, target).total.backward()
    for p, before in zip(loss.dual.parameters(), alone, strict=True):
        torch.testing.assert_close(p.grad, before)
    network = loss.maps["0"]
    with torch.enable_grad():
        moved = move(network, x)
        h = loss.dual(moved, moved.new_zeros(5))[:, 0]
        of_map = (x - moved).square().sum((1, 2, 3)).mean() / (2 * loss.settings.jko_step) + loss.form.descent(h).mean()
    expected = torch.autograd.grad(of_map, list(network.parameters()))
    for p, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_penalty_is_the_mean_squared_slope(generator):
    loss = JKOLoss([Affine()], Quadratic(0.3, 0.5, -0.2), JKOLossSettings(penalty=0.7, jko_step=1.0, divergence="kl"))
    loss.enter(0, generator)
    x, target = quantiles(10, 1.0, 0.5), quantiles(30)
    points = torch.cat([x, target])
    terms = loss.terms(x, target)
    torch.testing.assert_close(terms.penalty, (0.5 - 0.4 * points).square().mean())
    torch.testing.assert_close(terms.transport, torch.zeros((), dtype=torch.float64))
    without = JKOLoss([Affine()], loss.dual, JKOLossSettings(jko_step=1.0, divergence="kl"))
    without.enter(0, generator)
    torch.testing.assert_close(terms.total, without.terms(x, target).total + 0.7 * terms.penalty)
    with torch.no_grad():
        torch.testing.assert_close(loss.terms(x, target).penalty, terms.penalty)


@pytest.mark.parametrize("moves", [True, False])
def test_terms_are_logged_and_say_what_is_not_finite(moves, generator):
    loss = make_loss()
    loss.enter(1, generator)
    terms = loss.terms(loss.pool[:4], torch.zeros(4, 1, 8, 8), moves=moves)
    scalars = terms.scalars()
    assert scalars["stage"] == 1
    assert scalars["objective"] == pytest.approx(scalars["transport"] + scalars["divergence"])
    terms.check_finite()
    with pytest.raises(DivergedError, match="the transport of the loss became non-finite at stage 1"):
        loss.terms(loss.pool[:4] + math.inf, torch.zeros(4, 1, 8, 8), moves=moves).check_finite()


@pytest.mark.parametrize(
    "network",
    [
        lambda: MLPFeatures((1, 8, 8), 1, width=8),
        lambda: ConvFeatures((1, 8, 8), 1, channels=[8, 8]),
        lambda: UNetFeatures((1, 8, 8), 1, channels=[8, 8], groups=4),
    ],
)
def test_maps_start_at_the_identity(network, generator):
    pytest.importorskip("diffusers")
    x = torch.randn(3, 1, 8, 8, generator=generator)
    made = network()
    assert not torch.equal(move(made, x), x)
    assert torch.equal(move(start_at_identity(made), x), x)


def test_a_clipped_entry_has_a_gradient_where_descent_leads_back():
    x = torch.tensor([-2.0, -2.0, 0.5, 2.0, 2.0], requires_grad=True)
    y = Clip.apply(x, 1.0)
    assert y.tolist() == [-1.0, -1.0, 0.5, 1.0, 1.0]
    y.backward(torch.tensor([3.0, -3.0, 3.0, 3.0, -3.0]))
    assert x.grad.tolist() == [0.0, -3.0, 3.0, 3.0, 0.0]


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_stage_starts_where_the_sampler_leaves_its_particles(clip):
    loss = make_loss(event=(64,), pool_size=700, clip=clip)  # more than are pushed at once
    pipeline = JKOPipeline(loss.maps, JKOSettings(3), clip)
    pools = {}
    for stage in range(3):
        loss.enter(stage, torch.Generator().manual_seed(5))
        assert int(loss.stage) == stage
        assert int(loss.turn) == 0
        pools[stage] = loss.pool.clone()
    source = pools[0]
    assert abs(float(source.std()) - 1) < 0.05
    for stage in (1, 2):
        out = pipeline(num_networks=stage, particles=source)
        torch.testing.assert_close(out.particles, pools[stage])
        assert clip is None or out.particles.abs().max() <= clip
    loss.enter(0, torch.Generator().manual_seed(6))
    assert not torch.equal(loss.pool, source)


def test_loss_draws_from_its_generator_alone():
    target, loss = torch.zeros(6, 1, 8, 8), make_loss()
    check_draws_from_its_generator_alone(make_loss, target)
    loss(target)
    assert int(loss.stage) == 0  # entered by itself


def test_a_checkpoint_holds_the_stage_its_pool_and_the_turn(generator):
    loss, target = make_loss(dual_steps=2), torch.rand(5, 1, 8, 8, generator=generator)
    loss.enter(2, generator)
    loss(target, generator)
    again = make_loss(dual_steps=2)
    again.load_state_dict(loss.state_dict())
    a, b = (one(target, torch.Generator().manual_seed(9)) for one in (loss, again))
    assert torch.equal(a.total, b.total)
    assert torch.equal(a.transport, b.transport)
    assert (int(again.stage), int(again.turn)) == (2, 2)


def make_pipeline(event=(1, 8, 8), **settings):
    maps = make_loss(event=event).maps.eval().requires_grad_(False)
    return JKOPipeline(maps, JKOSettings(3), provenance={"steps": 3}, **settings)


def test_saved_and_loaded_samples_are_the_same(tmp_path):
    loaded = check_saved(make_pipeline(data_scale=0.5, clip=0.7), tmp_path / "p")
    assert (loaded.defaults, loaded.clip, loaded.data_scale) == (JKOSettings(3), 0.7, 0.5)


def test_output():
    pipeline = make_pipeline(event=(2,))
    out = draw(pipeline, return_trajectory=True)
    assert out.particles.shape == (3, 2)
    assert out.nfe == 3
    assert out.trajectory.shape == (4, 3, 2)
    first = pipeline(num_networks=1, particles=out.trajectory[0])
    assert first.nfe == 1
    torch.testing.assert_close(first.particles, out.trajectory[1])
    half = make_pipeline(event=(2,), data_scale=0.5)(particles=2 * out.trajectory[0])
    torch.testing.assert_close(half.particles, 2 * out.particles)
    images = make_pipeline()(4, generator=torch.Generator().manual_seed(7))
    assert images.particles.abs().max() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_particles": 0}, "num_particles = 0"),
        ({"num_networks": 0}, "num_networks = 0"),
        ({"num_networks": 4}, "num_networks = 4: must be at most 3, the maps of the chain"),
        ({"particles": torch.zeros(2, 1, 9, 9)}, r"particles has event shape \[1, 9, 9\]"),
    ],
)
def test_bad_samplers(change, message, unchecked):
    check_refused(lambda: make_pipeline()(**change), message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"divergence": "js"}, "divergence = 'js': must be one of kl, reverse-kl"),
        ({"jko_step": 0.0}, "jko_step = 0.0"),
        ({"dual_steps": 0}, "dual_steps = 0"),
        ({"penalty": -1.0}, "penalty = -1.0"),
        ({"pool_size": 0}, "pool_size = 0"),
        ({"dual_factor": 0.0}, "dual_factor = 0.0"),
        ({"clip": 0.0}, "clip = 0.0"),
        ({"num_maps": 0}, "number of maps = 0"),
    ],
)
def test_bad_losses(settings, message, unchecked):
    check_refused(lambda: make_loss(**settings), message)


def test_networks_that_do_not_fit(unchecked):
    one, two = MLPFeatures((2,), 1, width=8), MLPFeatures((3,), 1, width=8)
    with pytest.raises(InputError, match="must be one shape, and 1"):
        JKOLoss([one], two)
    with pytest.raises(InputError, match="num_features = 2"):
        JKOLoss([one], MLPFeatures((2,), 2, "flat", width=8))
    with pytest.raises(InputError, match="head = 'flat'"):
        JKOLoss([MLPFeatures((2,), 1, "flat", width=8)], one)
    with pytest.raises(InputError, match="event shapes of maps"):
        JKOPipeline(nn.ModuleDict({"0": one, "1": two}), JKOSettings(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system": "gan"}, "of 'gan': need 1 of 'jko-flow'"),
        ({"sampler": {"num_networks": 9, "sampler": "chain"}}, "num_networks = 9: must be at most 3"),
        ({"sampler": {"num_networks": 2, "sampler": "euler"}}, "sampler = 'euler'"),
        ({"features": None}, "damaged or from another version"),
    ],
)
def test_damaged_config(tmp_path, change, message, unchecked):
    make_pipeline().save_pretrained(tmp_path / "p")
    change_config(tmp_path / "p", **change)
    check_refused(lambda: JKOPipeline.from_pretrained(tmp_path / "p"), message)


@pytest.mark.parametrize("data", ["digits", "mnist", "fashion", "checkerboard"])
def test_recipes_are_on_equal_terms(data):
    ours, theirs = read_recipe(f"jko-flow-{data}"), read_recipe(f"ddpm-{data}")
    assert (ours.data, ours.evaluation) == (theirs.data, theirs.evaluation)
    assert ours.training.gradient_clip == theirs.training.gradient_clip
    assert ours.training.precision == theirs.training.precision
    assert ours.training.weight_decay == ours.training.ema_decay == 0
