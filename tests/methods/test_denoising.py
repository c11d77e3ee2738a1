"""Denoisers against closed forms: for data N(m, s^2 I) the best noise and velocity predictors are linear and known."""

import itertools
import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from mmdflow import DDPMSchedule, DivergedError, InputError, Linear, LinearSchedule, VPSchedule
from mmdflow.features import FeatureNetwork, MLPFeatures
from mmdflow.methods.denoising import (
    DDPMLossSettings,
    DDPMSettings,
    DenoisingLoss,
    DenoisingPipeline,
    FlowMatchingSettings,
    diffusion_scheduler,
    diffusion_states,
    ode_states,
)
from mmdflow.methods.denoising.loss import velocity_of_residual
from mmdflow.methods.dmmd import FlowKind, LevelField, LevelFlow, distance_steps
from mmdflow.methods.dmmd.targets.means import LevelMeans
from mmdflow.noise import schedule
from tests.methods.common import (
    MEAN,
    STD,
    change_config,
    check_draws_from_its_generator_alone,
    check_refused,
    check_saved,
    draw,
    seeded,
)

diffusers = pytest.importorskip("diffusers")

#: Mean square of the data's entries.
MOMENT = float(torch.as_tensor(MEAN, dtype=torch.float64).square().mean() + STD**2)


def last(states, predict):
    """The particles after the last step, and how often the predictor was evaluated."""
    calls = []

    def counted(x, t):
        calls.append(t)
        return predict(x, t)

    *_, x = states(counted)
    return x, len(calls)


def sample_diffusion(predict, path, source, *, num_levels, sampler="ancestral", **options):
    settings = DDPMSettings(num_levels, sampler)
    return last(lambda counted: diffusion_states(counted, path, source, settings, **options), predict)


def sample_ode(predict, source, *, num_levels, sampler="euler"):
    settings = FlowMatchingSettings(num_levels, sampler)
    return last(lambda counted: ode_states(counted, source, settings), predict)


def loss_of(network, path, prediction="noise", **settings):
    return DenoisingLoss(network, path, DDPMLossSettings(**settings), prediction=prediction, second_moment=MOMENT)


class Exact(FeatureNetwork):
    """The best predictor for data N(MEAN, STD^2 I)."""

    def __init__(self, path, prediction):
        super().__init__((3,), 1, "squared_residual")
        self.path, self.prediction = path, prediction

    def outputs(self, x, t):
        alpha, sigma = self.path.alpha(t)[:, None], self.path.sigma(t)[:, None]
        whitened = (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        noise, clean = sigma * whitened, MEAN + alpha * STD**2 * whitened
        aim = noise if self.prediction == "noise" else noise - clean
        return (x - aim / math.sqrt(1 + MOMENT) if self.prediction == "residual" else aim)[:, None]


def exact(path, prediction):
    network = Exact(path, prediction)
    return lambda x, t: network.outputs(x, x.new_full((len(x),), t))[:, 0]


def data(count, generator):
    return MEAN + STD * torch.randn(count, 3, generator=generator)


def smallest(path, prediction, t):
    """The error that the best predictor keeps at level t: the variance of its aim given x_t."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    variance = alpha**2 * STD**2 + sigma**2
    return (alpha * STD) ** 2 / variance if prediction == "noise" else STD**2 / variance


@pytest.mark.parametrize(
    ("name", "prediction", "t_min", "power"),
    [
        ("ddpm", "noise", 0.001, 1.0),
        ("vp", "noise", 0.1, 0.7),
        ("linear", "velocity", 0.0, 1.0),
        ("linear", "residual", 0.0, 0.7),
    ],
)
def test_loss_of_the_best_predictor_is_its_known_minimum(name, prediction, t_min, power, generator):
    path = schedule(name)
    best = loss_of(Exact(path, prediction), path, prediction, t_min=t_min, level_power=power)
    count = 40_000
    terms = best(data(count, generator), generator)
    middle = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    expected = smallest(path, prediction, t_min + (1 - t_min) * middle**power).mean()
    spread = float(terms.errors.std()) / math.sqrt(count)
    assert abs(float(terms.total) - float(expected)) < 4 * spread
    worse = loss_of(Shifted(path, prediction), path, prediction, t_min=t_min, level_power=power)
    more = worse(data(count, generator), generator)
    excess = 0.01 * (1 + MOMENT if prediction == "residual" else 1)
    assert float(more.total) == pytest.approx(float(expected) + excess, abs=8 * spread)


class Shifted(Exact):
    """The best predictor, 0.1 off in every entry: its loss is the minimum plus 0.01."""

    def outputs(self, x, t):
        return super().outputs(x, t) + 0.1


def test_every_event_has_a_level_of_its_own_stratum(generator):
    loss = loss_of(Exact(LinearSchedule(), "velocity"), LinearSchedule(), "velocity", t_min=0.2)
    levels = loss(data(50, generator), generator).levels
    assert torch.equal(((levels - 0.2) / 0.8 * 50).floor(), torch.arange(50.0))


def test_terms_say_where_the_loss_is_not_finite(generator):
    loss = loss_of(Exact(LinearSchedule(), "velocity"), LinearSchedule(), "velocity", t_min=0.0)
    terms = loss(data(10, generator), generator)
    assert set(terms.scalars()) == {"loss", "low_noise", "high_noise"}
    assert terms.scalars()["loss"] == pytest.approx(float(terms.errors.mean()))
    terms.check_finite()
    errors = terms.errors.clone()
    errors[7] = math.inf
    with pytest.raises(DivergedError, match=rf"noise level t = {float(terms.levels[7]):.4f}"):
        replace(terms, total=errors.mean(), errors=errors).check_finite()


def test_loss_draws_from_its_generator_alone():
    torch.manual_seed(0)
    network = MLPFeatures((3,), 1, width=8)
    check_draws_from_its_generator_alone(partial(DenoisingLoss, network, DDPMSchedule()), data(6, seeded(1)))


def test_the_ddpm_schedule_is_that_of_diffusers():
    theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02).alphas_cumprod
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(DDPMSchedule().alpha(t).square().float(), theirs, atol=1e-6, rtol=0)
    ours = diffusion_scheduler(DDPMSchedule(), DDPMSettings(1000)).alphas_cumprod
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["ddpm", "vp", "cosine"])
def test_the_scheduler_follows_any_schedule_that_preserves_variance(name):
    made = diffusion_scheduler(schedule(name), DDPMSettings(100, "ddim"))
    t = torch.arange(1, 1000, dtype=torch.float64) / 1000
    torch.testing.assert_close(
        made.alphas_cumprod[:999].double(), schedule(name).alpha(t).square(), atol=2e-6, rtol=1e-3
    )
    assert made.timesteps[0] == 999
    assert len(made.timesteps) == 100


def test_ancestral_sampling_is_algorithm_2(generator):
    path, source = DDPMSchedule(), torch.randn(5, 3, generator=generator)
    x, nfe = sample_diffusion(
        exact(path, "noise"), path, source, num_levels=1000, generator=torch.Generator().manual_seed(3)
    )
    draws = torch.Generator().manual_seed(3)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])
    z = source.double()
    for i in range(1000, 0, -1):  # Ho et al. 2020, Algorithm 2, with the posterior's variance
        beta, bar, before = betas[i - 1], alpha_bar[i], alpha_bar[i - 1]
        noise = exact(path, "noise")(z, i / 1000)
        z = (z - beta / (1 - bar).sqrt() * noise) / (1 - beta).sqrt()
        if i > 1:
            z = z + ((1 - before) / (1 - bar) * beta).sqrt() * torch.randn(5, 3, generator=draws)
    assert nfe == 1000
    torch.testing.assert_close(x.double(), z, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("clip", [None, 1.5])
def test_ancestral_steps_are_those_of_diffusers(clip, generator):
    path, source = DDPMSchedule(), torch.randn(5, 3, generator=generator)
    x, _ = sample_diffusion(
        exact(path, "noise"),
        path,
        source,
        num_levels=50,
        clip=clip,
        generator=torch.Generator().manual_seed(3),
    )
    theirs = diffusers.DDPMScheduler(timestep_spacing="trailing", clip_sample=clip is not None, clip_sample_range=1.5)
    theirs.set_timesteps(50)
    draws, z = torch.Generator().manual_seed(3), source
    for step in theirs.timesteps:
        noise = exact(path, "noise")(z, (float(step) + 1) / 1000)
        z = theirs.step(noise, step, z, generator=draws).prev_sample
    torch.testing.assert_close(x, z, atol=1e-4, rtol=1e-4)
    assert clip is None or x.abs().max() <= clip


def moments_of_the_chain(path, num_levels):
    """Mean and standard deviation after ancestral steps from N(0, 1): each step is linear with Gaussian noise."""
    levels = torch.linspace(1, 0, num_levels + 1, dtype=torch.float64)
    mean, variance = torch.zeros(3, dtype=torch.float64), torch.ones((), dtype=torch.float64)
    for t, after in itertools.pairwise(levels):
        bar, before = path.alpha(t).square(), path.alpha(after).square()
        beta = 1 - bar / before
        of_clean, of_noisy = (
            before.sqrt() * beta / (1 - bar),
            (1 - beta).sqrt() * (1 - before) / (1 - bar),
        )  # Ho et al., eq. 7
        gain = bar.sqrt() * STD**2 / (bar * STD**2 + 1 - bar)  # E[x_0 | x_t] = m + gain (x_t - sqrt(bar) m)
        slope = of_clean * gain + of_noisy
        mean = slope * mean + of_clean * (1 - gain * bar.sqrt()) * MEAN
        variance = slope**2 * variance + (1 - before) / (1 - bar) * beta
    return mean, variance.sqrt()


@pytest.mark.parametrize("num_levels", [100, 1000])
@pytest.mark.parametrize("path", [DDPMSchedule(), VPSchedule()])
def test_ancestral_sampling_recovers_mean_and_variance(path, num_levels, generator):
    count = 20_000
    source = torch.randn(count, 3, generator=generator)
    x, nfe = sample_diffusion(exact(path, "noise"), path, source, num_levels=num_levels, generator=generator)
    mean, std = moments_of_the_chain(path, num_levels)
    assert nfe == num_levels
    assert (x.mean(0) - mean).abs().max() < 4 * STD / math.sqrt(count)
    assert (x.std(0) / std - 1).abs().max() < 4 / math.sqrt(2 * count)
    if num_levels == 1000:  # fewer steps leave the particles too close together
        assert (mean - MEAN).abs().max() < 0.02
        assert float(std) == pytest.approx(STD, rel=0.01)


@pytest.mark.parametrize("path", [DDPMSchedule(), VPSchedule()])
def test_ddim_carries_noise_to_data(path, generator):
    source = torch.randn(10, 3, generator=generator)
    end = torch.ones(())
    alpha, sigma = path.alpha(end), path.sigma(end)
    aim = MEAN + STD * (source - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2).sqrt()
    errors = []
    for count in (100, 1000):
        x, nfe = sample_diffusion(exact(path, "noise"), path, source, num_levels=count, sampler="ddim")
        assert nfe == count
        errors.append(float((x - aim).abs().max()))
    assert errors[1] < 0.02
    assert errors[0] > 5 * errors[1]  # first order


@pytest.mark.parametrize(
    ("sampler", "order", "evaluations"), [("euler", 1, 1), ("heun", 2, 2), ("adams_bashforth", 2, 1)]
)
def test_ode_samplers_carry_noise_to_data_with_their_order(sampler, order, evaluations, generator):
    source = torch.randn(10, 3, generator=generator, dtype=torch.float64)
    aim, path, errors = MEAN + STD * source, LinearSchedule(), []
    for count in (40, 80):
        x, nfe = sample_ode(exact(path, "velocity"), source, num_levels=count, sampler=sampler)
        assert nfe == count * evaluations
        errors.append(float((x - aim).abs().max()))
    assert errors[1] < 0.05**order
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


def make(prediction="noise", event=(1, 8, 8), **settings):
    torch.manual_seed(0)
    network = MLPFeatures(event, 1, width=16).eval().requires_grad_(False)
    name, defaults = {
        "noise": ("ddpm", DDPMSettings(10, "ancestral", clip=True)),
        "velocity": ("linear", FlowMatchingSettings(10, "heun")),
        "residual": ("linear", FlowMatchingSettings(10, "adams_bashforth")),
    }[prediction]
    return DenoisingPipeline(
        network, schedule(name), name, prediction, defaults, (0.001, 1.0), provenance={"steps": 3}, **settings
    )


@pytest.mark.parametrize(("prediction", "moment"), [("noise", 1.0), ("velocity", 1.0), ("residual", 0.3)])
def test_saved_and_loaded_samples_are_the_same(tmp_path, prediction, moment):
    loaded = check_saved(make(prediction, second_moment=moment), tmp_path / "p")
    assert (loaded.levels, loaded.prediction, loaded.second_moment) == ((0.001, 1.0), prediction, moment)


def test_folders_of_before_there_were_residuals(tmp_path):
    make("velocity").save_pretrained(tmp_path / "p")
    config = json.loads((tmp_path / "p" / "config.json").read_text())
    del config["prediction"], config["second_moment"]
    (tmp_path / "p" / "config.json").write_text(json.dumps(config))
    assert DenoisingPipeline.from_pretrained(tmp_path / "p").prediction == "velocity"


def test_dmmd_of_one_feature_with_a_semi_gradient_is_flow_matching():
    """phi = D^(1/4) / 2 mean (x - u)^2, u held fixed, and a witness of norm D^(1/4): the step and the regression are the same."""
    torch.manual_seed(0)
    network, moment, count = MLPFeatures((3, 2), 1, width=16).double(), 0.7, 20
    x = torch.randn(9, 3, 2, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([6**0.25], dtype=torch.float64)
    ones = torch.ones(9, dtype=torch.float64)

    def features(z):
        return scale / 2 * (z - network.outputs(z.detach(), ones)[:, 0]).square().flatten(1).mean(1, keepdim=True)

    level = LevelMeans(Linear(), torch.zeros_like(scale), scale)
    velocity = LevelField(features, level.field(LevelFlow(FlowKind.APPROXIMATE)), interacting=False).velocity(
        x.detach()
    )
    step = distance_steps(LinearSchedule(), [1.0, 1 - 1 / count], moment, 6)[0]
    by_mmd = x.detach() + step * velocity
    settings = FlowMatchingSettings(count)
    pipeline = DenoisingPipeline(network, LinearSchedule(), "linear", "residual", settings, second_moment=moment)
    by_flow_matching = next(ode_states(pipeline.predict, x.detach(), settings))
    torch.testing.assert_close(by_mmd, by_flow_matching, rtol=1e-12, atol=1e-12)

    clean = torch.randn(9, 3, 2, dtype=torch.float64)
    distance = math.sqrt(6) * LinearSchedule().displacement(ones, moment)[:, None, None]  # x_t = eps at t = 1
    (gradient,) = torch.autograd.grad((features(x) * scale).sum(), x)
    with torch.no_grad():
        by_mmd = (gradient - (x - clean) / distance).square().flatten(1).sum(1)
        aim = x - clean
        predicted = velocity_of_residual(x, network.outputs(x, ones)[:, 0], moment)
        by_flow_matching = (predicted - aim).square().flatten(1).mean(1) / (1 + moment)
    torch.testing.assert_close(by_mmd, by_flow_matching, rtol=1e-12, atol=1e-12)


def test_folders_of_before_clip_was_ddpm_s_alone(tmp_path):
    make("velocity").save_pretrained(tmp_path / "p")
    change_config(tmp_path / "p", sampler={"num_levels": 7, "sampler": "euler", "clip": False})
    assert DenoisingPipeline.from_pretrained(tmp_path / "p").defaults == FlowMatchingSettings(7, "euler")


@pytest.mark.parametrize(("prediction", "nfe"), [("noise", 10), ("velocity", 20)])
def test_output(prediction, nfe):
    pipeline = make(prediction)
    out = draw(pipeline, return_trajectory=True)
    assert out.particles.shape == (3, 1, 8, 8)
    assert out.particles.abs().max() <= 1
    assert out.nfe == nfe
    assert out.trajectory.shape == (11, 3, 1, 8, 8)
    assert [image.size for image in out.images] == [(8, 8)] * 3
    assert torch.equal(draw(pipeline).particles, out.particles)
    assert not torch.equal(draw(pipeline, seed=8).particles, out.particles)
    assert draw(pipeline, num_levels=5).nfe == nfe / 2
    source = torch.zeros(5, 1, 8, 8)
    assert pipeline(particles=source).particles.shape == (5, 1, 8, 8)


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_particles_come_in_the_units_of_the_data(prediction):
    pipeline = make(prediction, event=(2,))
    if prediction == "noise":
        pipeline = replace(pipeline, defaults=replace(pipeline.defaults, clip=False))
    scaled = replace(pipeline, data_scale=0.5)
    plain, half = draw(pipeline, return_trajectory=True), draw(scaled, return_trajectory=True)
    torch.testing.assert_close(half.trajectory, plain.trajectory * 2)


def test_clipping_is_at_the_edge_of_the_data():
    scaled = make(data_scale=0.5)
    free = replace(scaled, defaults=replace(scaled.defaults, clip=False))
    last = draw(scaled, return_trajectory=True).trajectory[-1]
    assert last.abs().max() <= 1
    assert draw(free, return_trajectory=True).trajectory[-1].abs().max() > 1


def test_the_network_is_asked_for_no_level_outside_its_training(generator):
    seen = []

    class Watched(Exact):
        def outputs(self, x, t):
            seen.extend(t.tolist())
            return super().outputs(x, t)

    path = LinearSchedule()
    defaults = FlowMatchingSettings(5, "heun")
    pipeline = DenoisingPipeline(Watched(path, "velocity"), path, "linear", "velocity", defaults, (0.125, 0.75))
    pipeline.predict(torch.zeros(1, 3), 0.5)
    assert seen == [0.5]
    sample_ode(pipeline.predict, torch.zeros(1, 3), num_levels=5, sampler="heun")
    assert (min(seen), max(seen)) == (0.125, 0.75)


def test_particles_that_are_not_finite_stop_at_their_level():
    def explode(x, t):
        return x.new_full(x.shape, math.inf)

    with pytest.raises(DivergedError, match=r"non-finite at noise level t = 0\.5"):
        sample_ode(explode, torch.zeros(1, 3), num_levels=2)
    with pytest.raises(DivergedError, match=r"non-finite at noise level t = 1\.0"):
        sample_diffusion(explode, DDPMSchedule(), torch.zeros(1, 3), num_levels=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_particles": 0}, "num_particles = 0"),
        ({"num_levels": 0}, "num_levels = 0"),
        ({"num_levels": 30}, "num_levels = 30: must divide 1000"),
        ({"sampler": "dim"}, "sampler = 'dim': must be one of ancestral, ddim; did you mean 'ddim'"),
        ({"sampler": "heun"}, "sampler = 'heun': must be one of ancestral, ddim"),
        ({"particles": torch.zeros(2, 1, 9, 9)}, r"particles has event shape \[1, 9, 9\]"),
    ],
)
def test_bad_settings(change, message, unchecked):
    check_refused(lambda: make()(**change), message)


@pytest.mark.parametrize(
    ("network", "path", "settings", "message"),
    [
        ({"num_features": 2}, "ddpm", {}, "num_features = 2: must be 'squared_residual' and 1"),
        ({"num_features": 1, "head": "flat"}, "ddpm", {}, "head = 'flat'"),
        ({"num_features": 1}, "linear", {}, "prediction = 'noise' with LinearSchedule: needs a variance-preserving"),
        (
            {"num_features": 1},
            "vp",
            {"prediction": "velocity"},
            "'velocity' with VPSchedule: needs the linear schedule",
        ),
        ({"num_features": 1}, "vp", {"prediction": "score"}, "prediction = 'score': must be one of noise, velocity"),
        ({"num_features": 1}, "vp", {"t_min": 1.0}, "t_min = 1.0"),
        ({"num_features": 1}, "vp", {"level_power": 0.0}, "level_power = 0.0"),
    ],
)
def test_bad_losses(network, path, settings, message, unchecked):
    with pytest.raises(InputError, match=message):
        loss_of(MLPFeatures((3,), width=8, **network), schedule(path), **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "holds format 9"),
        ({"system": "gan"}, "of 'gan': need 1 of 'ddpm' or 'flow-matching'"),
        ({"schedule": "linear"}, "prediction = 'noise' with LinearSchedule"),
        ({"levels": None}, "damaged or from another version"),
        ({"sampler": {"num_levels": 10, "sampler": "heun"}}, "sampler = 'heun'"),
    ],
)
def test_damaged_config(tmp_path, change, message, unchecked):
    make().save_pretrained(tmp_path / "p")
    change_config(tmp_path / "p", **change)
    check_refused(lambda: DenoisingPipeline.from_pretrained(tmp_path / "p"), message)


def test_weights_of_another_network(tmp_path):
    make().save_pretrained(tmp_path / "p")
    save_file(MLPFeatures((1, 8, 8), 1, width=8).state_dict(), tmp_path / "p" / "model.safetensors")
    with pytest.raises(InputError, match="model.safetensors: does not fit the network"):
        DenoisingPipeline.from_pretrained(tmp_path / "p")


def test_without_diffusers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"needs diffusers: pip install 'mmdflow\[images\]'"):
        draw(make())
    assert draw(make("velocity")).nfe == 20
