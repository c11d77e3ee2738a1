"""Discriminator flow against closed forms: linear and quadratic discriminators, and its own trajectories."""

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmdflow import DivergedError, InputError
from mmdflow.features import FeatureNetwork, MLPFeatures
from mmdflow.methods._shared.gradients import gradient, slope_penalty
from mmdflow.methods._shared.pool import ParticlePool
from mmdflow.methods.discriminator_flow import (
    OBJECTIVES,
    DiscriminatorFlow,
    DiscriminatorFlowLoss,
    DiscriminatorFlowLossSettings,
    DiscriminatorFlowPipeline,
    discriminator_step,
)
from tests.methods.common import (
    BAD_FLOW_LOSSES,
    BAD_FLOWS,
    MEAN,
    GivenFunction,
    change_config,
    check_draws_from_its_generator_alone,
    check_flow_output,
    check_refused,
    check_saved,
    scalar_network,
    split,
    train,
    trajectory,
)


def linear(x, t):
    return x @ MEAN


def quadratic(x, t):
    """|x - MEAN|^2 / 2, whose gradient points from the mean."""
    return (x - MEAN).square().sum(1) / 2


run = partial(trajectory, discriminator_step)


@pytest.mark.parametrize("objective", ["ipm", "hinge"])
def test_linear_discriminators_drift_constantly(objective, generator):
    source = torch.randn(5, 3, generator=generator)
    ways = run(DiscriminatorFlow(8, 1.6, objective=objective), GivenFunction(linear), source)
    for i, x in enumerate(ways):
        torch.testing.assert_close(x, source - 0.2 * i * MEAN)


def test_vanilla_particles_move_by_the_share_that_the_discriminator_tells_apart(generator):
    source = torch.randn(5, 3, generator=generator)
    ways = run(DiscriminatorFlow(1, 0.7, objective="vanilla"), GivenFunction(linear), source)
    share = torch.sigmoid(source @ MEAN)[:, None]  # d/dd log(1 + e^d)
    torch.testing.assert_close(ways[-1], source - 0.7 * share * MEAN)


def test_a_quadratic_discriminator_contracts_to_its_minimum_with_ou_noise(generator):
    """x <- x - (eta / n) (x - m) + s n^(-1/2) xi: mean and variance of every step are known, and the last has no noise."""
    count, n, eta, noise = 40_000, 16, 3.0, 0.8
    source = torch.randn(count, 3, generator=generator)
    ways = run(DiscriminatorFlow(n, eta, noise), GivenFunction(quadratic), source, generator)
    mean, variance = torch.zeros(3), 1.0
    for i, x in enumerate(ways):
        torch.testing.assert_close(x.mean(0), mean, atol=5 / math.sqrt(count), rtol=0)
        assert float(x.var(0).mean()) == pytest.approx(variance, rel=0.03)
        mean = MEAN + (1 - eta / n) * (mean - MEAN)
        variance = (1 - eta / n) ** 2 * variance + (noise**2 / n if i < n - 1 else 0)


def test_time_runs_from_1_down_along_the_flow(generator):
    seen = []

    def watched(x, t):
        seen.append(t)
        return x.sum(1)

    run(DiscriminatorFlow(4, 1.0), GivenFunction(watched), torch.randn(2, 3, generator=generator))
    assert [t.tolist() for t in seen] == [[1.0, 1.0], [0.75, 0.75], [0.5, 0.5], [0.25, 0.25]]


def test_particles_stop_where_the_discriminator_is_flat(generator):
    source = torch.randn(5, 3, generator=generator)
    ways = run(DiscriminatorFlow(4, 10.0), GivenFunction(lambda x, t: 0 * x.sum(1) + t), source)
    assert torch.equal(ways[-1], source)


def test_gradients_are_taken_in_any_mode_and_reach_no_parameters():
    network, x = GivenFunction(quadratic), torch.zeros(2, 3)
    with torch.inference_mode():
        assert torch.equal(gradient(lambda z: network(z, z[:, 0])[:, 0], x), -MEAN.expand(2, 3))
    step = discriminator_step(DiscriminatorFlow(2, 1.0), network, x, torch.zeros(2, dtype=torch.long))
    assert not step.requires_grad
    assert network.scale.grad is None


def test_the_penalty_is_that_of_the_slope_and_can_be_learned_from(generator):
    network, points = GivenFunction(quadratic), torch.randn(6, 3, generator=generator)
    penalty, slopes = slope_penalty(lambda z: network(z, z[:, 0])[:, 0], points, 1.0)
    distances = (points - MEAN).norm(dim=1)
    torch.testing.assert_close(slopes, distances)
    torch.testing.assert_close(penalty, (distances - 1).square())
    penalty.mean().backward()  # d/ds (s |x - m| - 1)^2 at s = 1
    torch.testing.assert_close(network.scale.grad, (2 * (distances - 1) * distances).mean())
    quiet, _ = slope_penalty(lambda z: network(z, z[:, 0])[:, 0], points, 1.0, learning=False)
    assert not quiet.requires_grad


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_is_the_published_one(objective, generator):
    """With the sign turned (their D is high on the target but for ipm), against the formulas written out."""
    network = GivenFunction(lambda x, t: linear(x, t) * (1 + t))
    settings = {"num_steps": 5, "step_size": 0.5, "penalty_weight": 0.3, "penalty_slope": 1.0, "pool_size": 20}
    loss = make_loss("pool", network, objective=objective, **settings)
    target = torch.randn(20, 3, generator=generator) + MEAN
    terms = loss(target, torch.Generator().manual_seed(4))
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(4))  # the first particles are the source's
    t = 1 - torch.arange(20) // 4 / 5
    d, e = linear(x, t) * (1 + t), linear(target, t) * (1 + t)
    if objective == "ipm":
        expected = e - d
    elif objective == "vanilla":
        expected = -F.logsigmoid(d) - F.logsigmoid(-e)
    else:
        expected = (1 - d).clamp_min(0) + (1 + e).clamp_min(0)
    penalty = (MEAN.norm() * (1 + t) - 1).square()
    torch.testing.assert_close(terms.levels, t)
    torch.testing.assert_close(terms.gaps, d - e)
    torch.testing.assert_close(terms.penalties, penalty, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms.total, (expected + 0.3 * penalty).mean(), rtol=1e-4, atol=1e-4)


def test_the_best_linear_ipm_discriminator_points_from_the_target_to_the_particles(generator):
    """max_a a.(m_x - m_y) - lambda |a|^2 is at a = (m_x - m_y) / (2 lambda); a flow step of size 2 lambda joins the means."""

    class Slope(FeatureNetwork):
        def __init__(self):
            super().__init__((3,), 1, "flat")
            self.a = nn.Parameter(torch.zeros(3))

        def outputs(self, x, t):
            return (x @ self.a)[:, None]

    network, weight = Slope(), 0.25
    loss = make_loss("pool", network, num_steps=1, step_size=2 * weight, penalty_weight=weight, pool_size=4000)
    target = torch.randn(4000, 3, generator=generator) + MEAN
    source = torch.randn(4000, 3, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        network.a.copy_((source.mean(0) - target.mean(0)) / (2 * weight))
    loss(target, torch.Generator().manual_seed(7)).total.backward()
    assert network.a.grad.abs().max() < 1e-5
    moved = run(loss.flow, network, source)[-1]
    torch.testing.assert_close(moved.mean(0), target.mean(0), atol=1e-5, rtol=0)


def make_loss(trajectories, network=None, **settings):
    network = scalar_network() if network is None else network
    settings = {"num_steps": 4, "step_size": 4.0, "trajectories": trajectories, **settings}
    settings, others = split(DiscriminatorFlowLossSettings, settings)
    return DiscriminatorFlowLoss(network, settings, **others)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_kept_particles_are_those_that_sampling_gives(noise):
    """While the network stays, a pool's particles are bitwise the states of trajectories of the same source and noise."""
    loss = make_loss("pool", pool_size=6, noise=noise)
    loss.pool.particles.zero_()
    loss.pool.index.zero_()  # all begin together
    target, drawn = torch.zeros(6, 3), []
    draws = torch.Generator().manual_seed(3)
    for _ in range(4):
        particles, index = loss._draw(target, draws)
        drawn.append(particles)
        assert index.tolist() == [len(drawn) - 1] * 6
    again = torch.Generator().manual_seed(3)
    source = torch.randn(6, 3, generator=again)
    x, expected = source, [source]
    for i in range(3):
        x = discriminator_step(loss.flow, loss.network, x, torch.full((6,), i), again)
        torch.randn(6, 3, generator=again)  # the source of particles that begin
        expected.append(x)
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))
    if not noise:
        ways = run(loss.flow, loss.network, source)
        assert all(torch.equal(a, b) for a, b in zip(drawn, ways[:-1], strict=True))
        assert torch.equal(loss.pool.particles, ways[-1])


def test_fresh_particles_are_those_that_sampling_gives():
    loss = make_loss("fresh", network=GivenFunction(lambda x, t: quadratic(x, t) * (1 + t)))
    particles, index = loss._draw(torch.zeros(200, 3), torch.Generator().manual_seed(3))
    source = torch.randn(200, 3, generator=torch.Generator().manual_seed(3))
    ways = run(loss.flow, loss.network, source)
    assert torch.equal(particles, ways[index, torch.arange(200)])
    assert index.bincount(minlength=4).min() > 25  # uniform: 50 each


def test_kept_particles_begin_anew_after_their_last_step():
    pool = ParticlePool(5, 3, torch.empty(0, 2))
    first, index = pool.draw(torch.ones(5, 2))
    assert torch.equal(first, torch.ones(5, 2))
    assert index.tolist() == [0, 0, 1, 1, 2]  # spread over the stages
    pool.store(first * 2, index)
    second, index = pool.draw(torch.full((5, 2), 7.0))
    assert index.tolist() == [1, 1, 2, 2, 0]
    assert second[:, 0].tolist() == [2, 2, 2, 2, 7]


@pytest.mark.parametrize("trajectories", ["pool", "fresh"])
def test_training_carries_a_gaussian_to_a_gaussian(trajectories):
    loss = make_loss(
        trajectories,
        MLPFeatures((3,), 1, "flat", width=32, depth=1),
        num_steps=8,
        step_size=2.0,
        penalty_weight=0.2,
        pool_size=128,
    )
    terms, draws = train(loss, lambda count, draws: MEAN + 0.5 * torch.randn(count, 3, generator=draws))
    pipeline = DiscriminatorFlowPipeline(loss.network.requires_grad_(False), loss.flow)
    x = pipeline(2000, generator=draws).particles
    assert (x.mean(0) - MEAN).norm() < 0.4  # from 2.3
    assert (x.std(0) - 0.5).abs().max() < 0.2  # from 0.5
    assert abs(terms.scalars()["gap_late"]) < abs(terms.scalars()["gap_early"])


@pytest.mark.parametrize("trajectories", ["pool", "fresh"])
def test_losses_draw_from_their_generator_alone(trajectories):
    check_draws_from_its_generator_alone(partial(make_loss, trajectories, noise=0.3), torch.ones(6, 3))


def test_terms_say_where_the_loss_is_not_finite(generator):
    terms = make_loss("fresh")(torch.ones(9, 3), generator)
    terms.check_finite()
    assert {"loss", "penalty", "slope"} <= set(terms.scalars())
    bad = terms.penalties.clone()
    bad[3] = math.nan
    with pytest.raises(DivergedError, match=rf"penalties became non-finite at noise level t = {terms.levels[3]:.4f}"):
        replace(terms, total=bad.mean(), penalties=bad).check_finite()


def make(event=(1, 8, 8), **settings):
    network = scalar_network(event).eval().requires_grad_(False)
    return DiscriminatorFlowPipeline(network, DiscriminatorFlow(6, 3.0, 0.1), provenance={"steps": 3}, **settings)


def test_saved_and_loaded_samples_are_the_same(tmp_path, unchecked):
    check_saved(make(data_scale=0.5), tmp_path / "p")
    flow = json.loads((tmp_path / "p" / "config.json").read_text())["flow"]
    change_config(tmp_path / "p", flow={**flow, "objective": "wasserstein"})
    with pytest.raises(InputError, match="objective = 'wasserstein': must be one of ipm, vanilla, hinge"):
        DiscriminatorFlowPipeline.from_pretrained(tmp_path / "p")


def test_output():
    check_flow_output(make())


def test_particles_that_are_not_finite_stop_at_their_step():
    network = GivenFunction(lambda x, t: 1e30 * x.square().sum(1)).requires_grad_(False)
    pipeline = DiscriminatorFlowPipeline(network, DiscriminatorFlow(4, 1e9))
    with pytest.raises(DivergedError, match="non-finite at step 1 of 4") as caught:
        pipeline(2)
    assert torch.isfinite(caught.value.particles).all()


@pytest.mark.parametrize(("change", "message"), BAD_FLOWS)
def test_bad_settings_of_sampling(change, message, unchecked):
    check_refused(lambda: make()(**change), message)


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        *BAD_FLOW_LOSSES,
        ({}, {"objective": "hing"}, "did you mean 'hinge'"),
        ({}, {"penalty_slope": -1.0}, "penalty_slope = -1.0"),
    ],
)
def test_bad_losses(network, settings, message, unchecked):
    network = {"num_features": 1, "head": "flat", **network}
    with pytest.raises(InputError, match=message):
        make_loss(**{"trajectories": "pool", "network": MLPFeatures((3,), width=8, **network), **settings})
