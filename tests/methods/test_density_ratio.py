"""DGGF-KL against closed forms: true density ratios of finite sets and Gaussians, and the flows that they drive."""

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from mmdflow import DivergedError, InputError
from mmdflow.features import MLPFeatures
from mmdflow.methods.density_ratio import (
    BREGMAN,
    DIVERGENCES,
    DensityRatioLoss,
    DensityRatioLossSettings,
    DensityRatioPipeline,
    GaussianPrior,
    RatioFlow,
    ratio_step,
)
from mmdflow.noise import clamped_exp
from tests.methods.common import (
    BAD_FLOW_LOSSES,
    BAD_FLOWS,
    MEAN,
    STD,
    GivenFunction,
    change_config,
    check_draws_from_its_generator_alone,
    check_flow_output,
    check_refused,
    check_saved,
    draw,
    scalar_network,
    seeded,
    split,
    train,
    trajectory,
)

PAIRS = {"kl": "lr", "js": "lr", "logd": "kl", "pearson": "lsif"}


def log_ratio(x):
    """log q / p of q = N(0, I) and p = N(MEAN, STD^2 I)."""
    return (x - MEAN).square().sum(1) / (2 * STD**2) - x.square().sum(1) / 2 + 3 * math.log(STD)


def given(function):
    """A function of x as the network's d; what it has for noise levels is given 0."""

    def outputs(x, t):
        assert not t.any()
        return function(x)

    return GivenFunction(outputs)


def run(flow, function, source, generator=None):
    return trajectory(ratio_step, flow, given(function), source, generator)


@pytest.mark.parametrize("name", BREGMAN)
def test_every_loss_is_least_at_the_true_ratio_of_finite_sets(name, generator):
    """Its gradient is zero there, and it is convex in d."""
    q, p = torch.rand(2, 6, generator=generator, dtype=torch.float64).add(0.1).unbind()
    q, p = q / q.sum(), p / p.sum()
    loss, best = BREGMAN[name], BREGMAN[name].of_ratio(q / p).requires_grad_()

    def value(d):
        return q @ loss.on_particles(d) + p @ loss.on_target(d)

    value(best).backward()
    torch.testing.assert_close(best.grad, torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)
    for _ in range(20):
        other = best.detach() + 0.3 * torch.randn(6, generator=generator, dtype=torch.float64)
        assert value(other) > value(best)


@pytest.mark.parametrize("name", BREGMAN)
def test_every_loss_is_least_at_the_true_ratio_of_gaussians(name, generator):
    """q = N(0, 1), p = N(0.5, 1.2^2): the slopes of E_q l(d) + E_p l(d) at the true d vanish in expectation."""
    count, shift, std = 400_000, 0.5, 1.2
    x = torch.randn(count, generator=generator, dtype=torch.float64)
    y = shift + std * torch.randn(count, generator=generator, dtype=torch.float64)
    coefficients = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    loss = BREGMAN[name]

    def d(z):
        ratio = torch.exp(((z - shift) / std).square() / 2 - z.square() / 2 + math.log(std))
        return loss.of_ratio(ratio) + coefficients @ torch.stack([z.sin(), z.cos(), (2 * z).cos()])

    (loss.on_particles(d(x)).mean() + loss.on_target(d(y)).mean()).backward()
    assert coefficients.grad.abs().max() < 0.01


@pytest.mark.parametrize(
    ("name", "derivative"),
    [
        ("kl", lambda r: torch.log(r)),
        ("js", lambda r: torch.log(2 * r / (1 + r))),
        ("logd", lambda r: torch.log(1 + r) + 1),
        ("pearson", lambda r: 2 * (r - 1)),
    ],
)
def test_what_particles_descend_is_f_prime_up_to_a_constant(name, derivative):
    r = torch.linspace(0.1, 5, 20, dtype=torch.float64)
    difference = DIVERGENCES[name](BREGMAN[PAIRS[name]].of_ratio(r)) - derivative(r)
    torch.testing.assert_close(difference, difference[:1].expand(20))


def test_the_exact_log_ratio_gives_the_closed_form_path(generator):
    """grad log(q/p) = (x - m) / s^2 - x is linear, so mean and spread of N(0, I) follow a known recursion, noise included."""
    count, steps, eta, noise = 40_000, 12, 0.1, 0.2
    source = torch.randn(count, 3, generator=generator)
    ways = run(RatioFlow(steps, eta, noise), log_ratio, source, generator)
    factor = 1 - eta * (1 / STD**2 - 1)
    mean, variance = torch.zeros(3), 1.0
    for x in ways:
        torch.testing.assert_close(x.mean(0), mean, atol=5 / math.sqrt(count), rtol=0)
        assert float(x.var(0).mean()) == pytest.approx(variance, rel=0.03)
        mean, variance = factor * mean + eta * MEAN / STD**2, factor**2 * variance + noise**2
    quiet = run(RatioFlow(steps, eta, 0.0), log_ratio, source[:5])
    fixed = MEAN / STD**2 / (1 / STD**2 - 1)
    torch.testing.assert_close(quiet[-1], fixed + factor**steps * (source[:5] - fixed), rtol=1e-4, atol=1e-4)


def test_the_score_of_the_target_alone_gives_langevin_s_ou_path(generator):
    """With d = -log p and nu = sqrt(2 eta) particles come to p itself, as an OU process does."""
    count, eta = 20_000, 0.02
    flow = RatioFlow(200, eta, math.sqrt(2 * eta))
    x = run(
        flow, lambda z: (z - MEAN).square().sum(1) / (2 * STD**2), torch.randn(count, 3, generator=generator), generator
    )
    torch.testing.assert_close(x[-1].mean(0), MEAN, atol=5 * STD / math.sqrt(count), rtol=0)
    stationary = STD**2 / (1 - eta / (2 * STD**2))  # of the Euler steps; STD^2 as eta goes to 0
    assert float(x[-1].var(0).mean()) == pytest.approx(stationary, rel=0.03)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_flows_stop_where_the_ratio_is_one(divergence, generator):
    source = torch.randn(5, 3, generator=generator)
    constant = 1.0 if divergence == "pearson" else 0.0
    ways = run(RatioFlow(4, 10.0, 0.0, divergence), lambda x: 0 * x.sum(1) + constant, source)
    assert torch.equal(ways[-1], source)


def events(generator, count=5000):
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [0.0, 0.3, 0.1]])
    return MEAN + torch.randn(count, 3, generator=generator) @ mixing.T


@pytest.mark.parametrize("kind", ["full", "diagonal", "standard"])
def test_the_prior_has_the_moments_of_the_target(kind, generator):
    x = events(generator)
    prior = GaussianPrior((3,), kind)
    prior.fit(x.split(700))
    drawn = prior.sample(100_000, generator)
    covariance = torch.cov(x.T, correction=0) + 1e-4 * torch.eye(3)
    expected = {"full": covariance, "diagonal": covariance.diagonal().diag(), "standard": torch.eye(3)}[kind]
    root = prior.factor if kind == "full" else prior.factor.diag()
    torch.testing.assert_close(root @ root.T, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(prior.mean, torch.zeros(3) if kind == "standard" else x.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cov(drawn.T), expected, atol=0.02, rtol=0.02)
    torch.testing.assert_close(drawn.mean(0), prior.mean, atol=0.02, rtol=0)


def test_priors_of_images_stay_in_range_and_take_constant_pixels(generator):
    images = torch.ones(40, 1, 4, 4)
    prior = GaussianPrior((1, 4, 4))
    prior.fit([images])
    x = prior.sample(500, generator)
    assert x.shape == (500, 1, 4, 4)
    assert x.max() == 1
    assert float(x.std()) < 0.01  # the ridge's alone
    with pytest.raises(InputError, match="at least one sample"):
        GaussianPrior((3,)).fit([])
    with pytest.raises(
        InputError, match="'full' with events of 12288 entries: must be diagonal or standard above 4096"
    ):
        GaussianPrior((3, 64, 64))


def make_loss(trajectories="pool", network=None, prior=None, **settings):
    network = scalar_network() if network is None else network
    prior = GaussianPrior((3,), "standard") if prior is None else prior
    settings = {"num_steps": 4, "step_size": 0.5, "noise": 0.0, "trajectories": trajectories, **settings}
    settings, others = split(DensityRatioLossSettings, settings)
    return DensityRatioLoss(network, prior, settings, **others)


@pytest.mark.parametrize("name", BREGMAN)
def test_the_loss_is_the_published_one(name, generator):
    """Written out as in the authors' code; the pool's first particles are the prior's."""
    divergence = "pearson" if name == "lsif" else "kl"
    loss = make_loss(network=given(log_ratio), bregman=name, divergence=divergence, penalty_weight=0.3, pool_size=9)
    y = torch.randn(9, 3, generator=generator)
    terms = loss(y, torch.Generator().manual_seed(4))
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(4))
    d, e = log_ratio(x), log_ratio(y)
    expected = {
        "lr": -F.logsigmoid(d) - F.logsigmoid(-e),
        "kl": clamped_exp(e) - d,
        "lsif": 0.5 * e**2 - d,
    }[name]
    torch.testing.assert_close(terms.bregman, expected.mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms.on_particles, d.mean())
    torch.testing.assert_close(terms.on_target, e.mean())
    torch.testing.assert_close(terms.total, terms.bregman + 0.3 * terms.penalty)
    low, high = sorted((float(terms.penalty), float(terms.slope) ** 2))
    assert 0 < low <= high  # the mean of squares is above the square of the mean
    assert float(terms.penalty) == high


def test_fresh_particles_are_bitwise_those_of_sampling():
    loss = make_loss("fresh", noise=0.3)
    drawn = loss._draw(7, torch.Generator().manual_seed(3))
    pipeline = DensityRatioPipeline(loss.network.requires_grad_(False), loss.prior, loss.flow)
    assert torch.equal(drawn, pipeline(7, generator=torch.Generator().manual_seed(3)).particles)


def test_kept_particles_are_bitwise_those_of_sampling():
    loss = make_loss(pool_size=6)
    loss.pool.index.zero_()  # all begin together
    draws = torch.Generator().manual_seed(3)
    drawn = [loss._draw(6, draws) for _ in range(4)]
    source = torch.randn(6, 3, generator=torch.Generator().manual_seed(3))
    ways = trajectory(ratio_step, loss.flow, loss.network, source)
    assert all(torch.equal(a, b) for a, b in zip([*drawn, loss.pool.particles], ways, strict=True))


def test_noise_on_the_target_is_of_the_given_size(generator):
    loss = make_loss(network=given(lambda x: x.square().sum(1)), target_noise=0.5, pool_size=40_000)
    terms = loss(torch.zeros(40_000, 3), generator)
    assert float(terms.on_target) == pytest.approx(0.75, rel=0.03)


@pytest.mark.parametrize("trajectories", ["pool", "fresh"])
def test_training_carries_the_prior_to_the_target(trajectories):
    network = MLPFeatures((3,), 1, "flat", width=32, depth=1)
    loss = make_loss(trajectories, network, num_steps=8, step_size=0.2, noise=0.01, penalty_weight=0.05, pool_size=128)
    terms, draws = train(loss, lambda count, draws: MEAN + STD * torch.randn(count, 3, generator=draws))
    x = DensityRatioPipeline(network.requires_grad_(False), loss.prior, loss.flow)(2000, generator=draws).particles
    assert (x.mean(0) - MEAN).norm() < 0.6  # from 2.3
    assert set(terms.scalars()) == {"loss", "bregman", "penalty", "slope", "gap"}


@pytest.mark.parametrize("trajectories", ["pool", "fresh"])
def test_losses_draw_from_their_generator_alone(trajectories):
    check_draws_from_its_generator_alone(partial(make_loss, trajectories, noise=0.3), torch.ones(6, 3))


def test_terms_say_which_part_is_not_finite(generator):
    terms = make_loss("fresh")(torch.ones(9, 3), generator)
    terms.check_finite()
    nan = torch.tensor(math.nan)
    with pytest.raises(DivergedError, match="on_target became non-finite: lower step_size"):
        replace(terms, total=nan, on_target=nan).check_finite()


def make(event=(1, 8, 8), **settings):
    network = scalar_network(event).eval().requires_grad_(False)
    prior = GaussianPrior(event)
    prior.fit([torch.rand(100, *event, generator=seeded())])
    return DensityRatioPipeline(network, prior, RatioFlow(6, 0.5, 0.1), provenance={"steps": 3}, **settings)


def test_saved_and_loaded_samples_are_the_same(tmp_path):
    check_saved(make(data_scale=0.5), tmp_path / "p", files=["prior.safetensors"])


def test_damaged_folders(tmp_path, unchecked):
    make().save_pretrained(tmp_path / "p")
    config = json.loads((tmp_path / "p" / "config.json").read_text())
    for change, message in (
        ({"prior": "flat"}, "prior = 'flat': must be one of full, diagonal, standard"),
        ({"flow": {**config["flow"], "divergence": "tv"}}, "divergence = 'tv'"),
        ({"flow": None}, "damaged or from another version"),
    ):
        change_config(tmp_path / "p", **config | change)
        with pytest.raises(InputError, match=message):
            DensityRatioPipeline.from_pretrained(tmp_path / "p")
    change_config(tmp_path / "p", **config)
    tensors = GaussianPrior((1, 8, 8)).state_dict()
    for broken, message in (
        ({"mean": tensors["mean"]}, "does not fit the network"),
        ({**tensors, "mean": tensors["mean"] * math.nan}, "holds NaN or infinite numbers"),
    ):
        save_file(broken, tmp_path / "p" / "prior.safetensors")
        with pytest.raises(InputError, match=rf"prior.safetensors: {message}"):
            DensityRatioPipeline.from_pretrained(tmp_path / "p")


def test_output():
    check_flow_output(make())


def test_another_divergence_of_the_same_ratio_can_be_descended(unchecked):
    assert draw(make(), divergence="js").nfe == 6
    check_refused(
        lambda: make()(3, divergence="pearson"), "divergence = 'pearson': must be kl, js or logd; the network has"
    )


def test_particles_that_are_not_finite_stop_at_their_step():
    network = given(lambda x: 1e30 * x.square().sum(1)).requires_grad_(False)
    pipeline = DensityRatioPipeline(network, GaussianPrior((3,), "standard"), RatioFlow(4, 1e9, 0.0))
    with pytest.raises(DivergedError, match="non-finite at step 1 of 4"):
        pipeline(2)


@pytest.mark.parametrize(("change", "message"), BAD_FLOWS)
def test_bad_settings_of_sampling(change, message, unchecked):
    check_refused(lambda: make()(**change), message)


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        *BAD_FLOW_LOSSES,
        ({}, {"bregman": "lif"}, "did you mean 'lsif'"),
        ({}, {"divergence": "pearson"}, "divergence = 'pearson' with loss.bregman = 'lr': must be kl, js or logd"),
        ({}, {"bregman": "lsif"}, "divergence = 'kl' with loss.bregman = 'lsif': must be pearson"),
        ({}, {"target_noise": -1.0}, "target_noise = -1.0"),
    ],
)
def test_bad_losses(network, settings, message, unchecked):
    network = {"num_features": 1, "head": "flat", **network}
    with pytest.raises(InputError, match=message):
        make_loss(network=MLPFeatures((3,), width=8, **network), prior=GaussianPrior((3,)), **settings)
