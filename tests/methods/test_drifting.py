"""One-step generators: the loss against its formula, spaces, landmarks, classes, collapse, pipelines, recipes."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from mmdflow import DivergedError, DMMDPipeline, Drift, Gaussian, InputError, Laplace, VPSchedule
from mmdflow._files import shipped_models
from mmdflow.cli import main
from mmdflow.data import load
from mmdflow.divergences.drifts import NORMALIZATIONS, to_unit_rms
from mmdflow.features import FeatureNetwork, MLPFeatures
from mmdflow.functional import mmd2
from mmdflow.kernels import median_bandwidth
from mmdflow.methods import get_method, load_pipeline
from mmdflow.methods.drifting import (
    AlternatingLoss,
    BatchFields,
    Classes,
    DistillationLoss,
    DistillationSettings,
    DriftingLoss,
    DriftingLossSettings,
    DriftingPipeline,
    DriftingSettings,
    Generator,
    LandmarkFields,
    NoisedFeatures,
    Pixels,
    Space,
    SpacesSettings,
    class_shifts,
    cluster_centres,
    dmmd_spaces,
    start_at,
    untrained,
)
from mmdflow.methods.drifting.fields import Meeting, means_fields, one_by_one
from mmdflow.methods.drifting.loss import some_of
from mmdflow.methods.drifting.population import Group
from mmdflow.methods.drifting.recipe import DriftingRecipe
from mmdflow.recipe import BatchTrainingSpec, FeaturesSpec
from mmdflow.runs.read import read_recipe
from tests.methods.common import (
    change_config,
    check_draws_from_its_generator_alone,
    check_refused,
    check_saved,
    draw,
    read,
    seeded,
)

EXACT = {"rtol": 1e-10, "atol": 1e-12}


class Affine(FeatureNetwork):
    """The generator spread * z + shift (1 + level)."""

    def __init__(self, shift, spread=1.0):
        super().__init__(tuple(shift.shape), 1, "squared_residual")
        self.shift, self.spread = nn.Parameter(shift.clone()), spread

    def outputs(self, x, t):
        return (self.spread * x + self.shift * (1 + t.reshape(-1, *[1] * self.shift.ndim)))[:, None]


def cloud(n=40, d=3, seed=1, shift=1.0):
    return torch.randn(n, d, dtype=torch.float64, generator=seeded(seed)) + shift


def network(event=(3,), seed=0, width=16):
    torch.manual_seed(seed)
    return MLPFeatures(event, 1, width=width, depth=1).double()


def measured(*spaces, events=None):
    for space in spaces:
        space.measure(cloud() if events is None else events, seeded(3))
    return list(spaces)


def features(t=0.3, hidden=True, d=3):
    torch.manual_seed(5)
    phi = MLPFeatures((d,), 4, "squared_residual", width=8, depth=2).double()
    return NoisedFeatures(phi, VPSchedule(), t, hidden=hidden)


def gradient(loss, batch=None, seed=2):
    loss.zero_grad()
    terms = loss(cloud(12, seed=4) if batch is None else batch, seeded(seed))
    terms.total.backward()
    return terms, torch.cat([p.grad.flatten() for p in loss.generator.parameters() if p.grad is not None])


# ---- the loss


@pytest.mark.parametrize("field", NORMALIZATIONS)
def test_the_gradient_is_that_of_the_loss_of_the_paper(field):
    """mean |phi - sg(phi + V)|^2 in two maps, one linear, one the entries; bandwidths in units of the median distance."""
    torch.manual_seed(7)
    linear = nn.Linear(3, 5).double()
    settings = DriftingLossSettings(field=field, bandwidths=[0.3, 1.0], unit_rms=False)
    loss = DriftingLoss(Generator(network()), measured(Pixels(), Space(linear)), settings)
    batch = cloud(12, seed=4)
    terms, ours = gradient(loss, batch)
    loss.zero_grad()
    x, expected = loss.generator(torch.randn(12, 3, dtype=torch.float64, generator=seeded(2))), 0.0
    for phi in (lambda z: z, linear):
        unit = median_bandwidth(phi(cloud())) / math.sqrt(phi(x).shape[1])
        here, data = phi(x) / unit, (phi(batch) / unit).detach()
        root = math.sqrt(here.shape[1])
        drifts = [Drift(data, Laplace(w * root), normalization=field, num_iterations=10) for w in (0.3, 1.0)]
        velocity = sum(drift.velocity(here.detach()) for drift in drifts)
        expected = expected + (here - (here + velocity).detach()).square().mean()
    expected.backward()
    torch.testing.assert_close(terms.total, expected, **EXACT)
    theirs = torch.cat([p.grad.flatten() for p in loss.generator.parameters() if p.grad is not None])
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("second", [False, True])
def test_with_mmd_it_is_the_gradient_of_the_squared_mmd(second):
    settings = DriftingLossSettings(field="mmd", kernel="gaussian", bandwidths=[0.4], unit_rms=False, second=second)
    loss = DriftingLoss(Generator(network()), measured(Pixels()), settings)
    batch, unit = cloud(12, seed=4), median_bandwidth(cloud()) / math.sqrt(3)
    _, ours = gradient(loss, batch)
    loss.zero_grad()
    draws = seeded(2)
    x = loss.generator(torch.randn(12, 3, dtype=torch.float64, generator=draws)) / unit
    kernel = Gaussian(0.4 * math.sqrt(3))
    if second:  # k(x, x') in place of k(x, x) / 2
        other = loss.generator(torch.randn(12, 3, dtype=torch.float64, generator=draws)).detach() / unit
        value = 2 * kernel(x, other).mean() - 2 * kernel(x, batch / unit).mean()
    else:
        value = mmd2(x, batch / unit, kernel, unbiased=False)
    (value / 3).backward()  # the loss is a mean over entries
    theirs = torch.cat([p.grad.flatten() for p in loss.generator.parameters() if p.grad is not None])
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_the_linear_kernel_takes_means_to_means():
    """The gradient of the squared distance of means, with every event moved alike; in features, that of the DMMD's own MMD."""
    settings = DriftingLossSettings(field="mmd", kernel="linear", unit_rms=False)
    (space,) = measured(Space(nn.Linear(3, 2).double()))
    loss = DriftingLoss(Generator(network()), [space], settings)
    batch = cloud(9, seed=4)
    terms, ours = gradient(loss, batch)
    loss.zero_grad()
    x = loss.generator(torch.randn(9, 3, dtype=torch.float64, generator=seeded(2)))
    apart = space(x)[0].mean(0) - space(batch)[0].mean(0)
    apart.square().mean().backward()
    theirs = torch.cat([p.grad.flatten() for p in loss.generator.parameters() if p.grad is not None])
    torch.testing.assert_close(ours, theirs, **EXACT)
    torch.testing.assert_close(terms.total, apart.square().mean(), **EXACT)


def test_means_are_for_features_alone():
    spaces = measured(Pixels(), features())
    settings = DriftingLossSettings(bandwidths=[0.5], unit_rms=False)
    loss = DriftingLoss(Generator(network()), spaces, settings, feature_fields=means_fields(settings))
    x, y = cloud(6), cloud(7, seed=2)
    for index, phi in enumerate(spaces[1](x, generator=seeded(1))):
        data = spaces[1](y, generator=seeded(2))[index]
        (velocity,) = loss._velocities(1, index, phi, [Meeting(6, data)])
        torch.testing.assert_close(velocity, (data.mean(0) - phi.mean(0)).expand_as(phi), **EXACT)
    (pixels,) = loss._velocities(0, 0, x, [Meeting(6, y)])
    torch.testing.assert_close(
        pixels, Drift(y, Laplace(0.5 * math.sqrt(3)), normalization="batch").velocity(x), **EXACT
    )


def test_means_of_the_data_stand_for_them():
    """A step towards averaged data is one towards all of them, whatever its batch; not where classes have their own."""
    data = cloud(20, seed=8)
    settings = DriftingLossSettings(field="mmd", kernel="linear", unit_rms=False, population=12)

    def of(batch, averaged, **options):
        (space,) = measured(Space(nn.Linear(3, 2).double(), **options))
        with torch.no_grad():
            space.module.weight.copy_(torch.arange(6.0).reshape(2, 3))
        if averaged:
            space.average(data.split(7))
        return DriftingLoss(Generator(network()), [space], settings)

    whole = gradient(of(data, False), data)[1]
    torch.testing.assert_close(gradient(of(data, True), cloud(5, seed=9, shift=4.0))[1], whole, **EXACT)
    loss = of(data, True)
    (meetings,) = loss._meetings(loss.spaces[0], None, [Group(6, data[:4], label=1)], seeded())
    torch.testing.assert_close(meetings[0].data, loss.spaces[0](data[:4])[0], **EXACT)


def test_a_weight_is_the_length_of_what_a_map_asks_of_events():
    """Of pixels alone the direction stays; the part of features grows with the weight, whatever the slope of the map."""

    def of(weight, *spaces):
        settings = DriftingLossSettings(bandwidths=[0.3, 1.0])
        return gradient(DriftingLoss(Generator(network()), measured(*spaces), settings, feature_weight=weight))[1]

    weighted, plain = of(0.7, Pixels()), of(None, Pixels())
    torch.testing.assert_close(weighted / weighted.norm(), plain / plain.norm(), **EXACT)
    one, two, four = (of(weight, Pixels(), features()) for weight in (1.0, 2.0, 4.0))
    torch.testing.assert_close(four - two, 2 * (two - one), **EXACT)
    steep = nn.Linear(3, 5).double()
    slopes = [of(1.0, Space(steep))]
    with torch.no_grad():
        steep.weight.mul_(100)
    torch.testing.assert_close(of(1.0, Space(steep)), slopes[0], **EXACT)
    asked = torch.ones(12, 3, dtype=torch.float64).requires_grad_()
    loss = DriftingLoss(Generator(network()), measured(Pixels(), features()), feature_weight=0.5)
    for space, length in zip(loss.spaces, (1.0, 0.5), strict=True):
        maps = space(asked, generator=seeded(1))[:1]
        pull = loss._in_events(space, maps, asked, [torch.randn(maps[0].shape, generator=seeded(2)).double()])
        assert float(pull.square().mean().sqrt()) == pytest.approx(length * 2 / asked.numel())


@pytest.mark.parametrize("chunk_size", [1, 5, 12, 100])
@pytest.mark.parametrize("classes", [None, 2])
def test_chunks_change_nothing(chunk_size, classes):
    """Gradient caching, in features that draw noise: loss and gradient to rounding, with classes and guidance, too."""

    def of(size):
        data, labels = cloud(30, seed=8), torch.arange(30) % 3
        settings = DriftingLossSettings(
            bandwidths=[0.3], population=14, chunk_size=size, classes=classes, max_guidance=2.0 if classes else 1.0
        )
        by_class = Classes(data, labels, 2, 2.0) if classes else None
        shifts = torch.randn(3, 3, dtype=torch.float64, generator=seeded(6)) if classes else None
        spaces = measured(Pixels(), features())
        return gradient(DriftingLoss(Generator(network(), 2.0, shifts), spaces, settings, classes=by_class))

    whole, parts = of(None), of(chunk_size)
    torch.testing.assert_close(parts[0].total, whole[0].total, **EXACT)
    torch.testing.assert_close(parts[1], whole[1], **EXACT)


def test_landmarks_at_all_data_give_the_exact_attraction():
    data = cloud(20, seed=8)
    settings = DriftingLossSettings(field="mmd", bandwidths=[0.3, 1.0], landmarks=20, unit_rms=False, population=12)
    spaces = measured(Pixels(), Space(nn.Linear(3, 2).double()))

    def batches():
        return ([space(part) for space in spaces] for part in data.split(7))

    by_landmarks = DriftingLoss(Generator(network()), spaces, settings, fields=LandmarkFields(settings, batches))
    exact = DriftingLoss(Generator(network()), spaces, settings)
    ours, theirs = gradient(by_landmarks, data), gradient(exact, data)
    torch.testing.assert_close(ours[1], theirs[1], rtol=2e-4, atol=1e-9)  # up to the ridge of 1e-6
    torch.testing.assert_close(ours[0].total, theirs[0].total, rtol=2e-4, atol=1e-9)
    other = gradient(by_landmarks, cloud(20, seed=9, shift=5.0))  # whatever the batch
    torch.testing.assert_close(other[1], ours[1], **EXACT)


def test_unit_rms_gives_every_map_the_same_say():
    settings = DriftingLossSettings(bandwidths=[0.1, 1.0])
    spaces = measured(Pixels(), features())
    terms, _ = gradient(DriftingLoss(Generator(network()), spaces, settings))
    assert float(terms.total.detach()) == pytest.approx(4.0)  # entries, phi, two hidden states
    assert terms.drift < 1
    assert terms.scalars().keys() == {"loss", "drift", "spread"}


def test_levels_of_a_step_are_drawn():
    spaces = measured(Pixels(), features(0.1), features(0.5), features(0.9))
    loss = DriftingLoss(Generator(network()), spaces, DriftingLossSettings(bandwidths=[0.3]), levels_per_step=1)
    seen = {tuple(i for i, _ in loss._chosen(seeded(seed))) for seed in range(30)}
    assert seen == {(0, 1), (0, 2), (0, 3)}


def test_loss_draws_from_its_generator_alone():
    spaces = measured(Pixels(), features())
    settings = DriftingLossSettings(second=True, unit_rms=False)  # else the loss is 1 for all velocities
    make = lambda: DriftingLoss(Generator(network()), spaces, settings)  # noqa: E731
    check_draws_from_its_generator_alone(make, cloud(8))


@pytest.mark.parametrize(("family", "num_steps"), [("drifting", 200), ("mmd-generator", 100), ("sinkhorn-drift", 100)])
def test_a_narrow_start_does_not_collapse(family, num_steps):
    """Digits from a generator whose outputs spread by 1 percent of the data's: the recipes' fields spread it again."""
    data = load("digits")
    made_by = narrow_network(data.train.flatten(1))
    (space,) = measured(Pixels(), events=data.train[:300])
    loss, draws = DriftingLoss(Generator(made_by, 1.0), [space], read(f"{family}-digits").loss), seeded()
    optimiser = torch.optim.Adam(made_by.parameters(), 5e-3)
    spreads = []
    for step in range(num_steps):
        optimiser.param_groups[0]["lr"] = 5e-3 * (1 - step / num_steps)
        rows = torch.randint(len(data.train), (96,), generator=draws)
        optimiser.zero_grad()
        terms = loss(data.train[rows], draws)
        terms.total.backward()
        optimiser.step()
        spreads.append(terms.spread)
    assert spreads[0] < 0.03
    assert 0.45 < spreads[-1] < 1.45
    with torch.no_grad():
        made = loss.generator(torch.randn(300, 1, 8, 8, generator=draws))
    kernel, mean = Gaussian(2.0), data.train.mean(0).expand(300, -1, -1, -1)
    assert mmd2(made, data.test, kernel) < 0.35 * mmd2(mean, data.test, kernel, unbiased=False)


def narrow_network(data):
    """A network whose outputs, through tanh, have the mean of the data and about 1 percent of their spread."""
    made_by = network((1, 8, 8), width=64).float()
    with torch.no_grad():
        made_by.read_out.weight.mul_(0.01 * float(data.std(0).mean()) / 0.2)
        made_by.read_out.bias.copy_(data.mean(0).clamp(-0.9, 0.9).atanh())
    return made_by


def published_batch_form(x, y, tau):
    """The batch form as published: own distances raised by 100 in place of a mask, affinities floored before the root."""
    joined = torch.cat([x, y])
    distances = torch.cdist(x, joined)
    logits = distances / distances.mean() + 100 * torch.eye(len(x), len(joined))
    affinity = (-logits / tau).softmax(0) * (-logits / tau).softmax(1)
    affinity = affinity.clamp_min(1e-6).sqrt()
    push, pull = affinity[:, : len(x)], affinity[:, len(x) :]
    pull, push = pull * push.sum(1, keepdim=True), push * pull.sum(1, keepdim=True)
    return pull @ y - push @ x - (pull.sum(1, keepdim=True) - push.sum(1, keepdim=True)) * x


def test_a_narrow_generator_stays_narrow_under_the_published_form_and_spreads_under_ours():
    """Digits from outputs of 1 percent of the data's spread, along fields of equal lengths; the floor is what holds it back."""
    data = load("digits").train.flatten(1)
    median, spreads = float(median_bandwidth(data[:300])), {}
    for name, field in (
        ("ours", lambda x, y, tau: Drift(y, Laplace(tau * median), normalization="batch").velocity(x)),
        ("published", published_batch_form),
    ):
        made_by, draws = narrow_network(data), seeded()
        optimiser = torch.optim.Adam(made_by.parameters(), 5e-3)
        for _ in range(60):
            y = data[torch.randint(len(data), (96,), generator=draws)]
            x = made_by.outputs(torch.randn(96, 1, 8, 8, generator=draws), torch.zeros(96)).tanh().flatten(1)
            velocity = to_unit_rms(sum(to_unit_rms(field(x.detach(), y, tau)) for tau in (0.02, 0.05, 0.2)))
            optimiser.zero_grad()
            (x - (x + velocity).detach()).square().mean().backward()
            optimiser.step()
        spreads[name] = float(x.detach().std(0).mean() / y.std(0).mean())
    assert spreads["published"] < 0.07
    assert spreads["ours"] > 0.2


@pytest.mark.parametrize("bound", [None, 1.0, 2.0])
@pytest.mark.parametrize("spread", [0.01, 0.8])
def test_a_start_has_the_mean_and_the_spread_that_are_asked_for(bound, spread):
    data = load("digits").train[:400].double()
    generator = Generator(network((1, 8, 8)), bound)
    start_at(generator, data, spread, seeded())
    made = generator(torch.randn(2000, 1, 8, 8, dtype=torch.float64, generator=seeded(1)))
    found, wanted = ((x - x.mean(0)).square().mean().sqrt() for x in (made, data))
    assert float((found / wanted).detach()) == pytest.approx(spread, rel=0.08)
    inside = data.mean(0).abs() < 0.9
    lowered = 0.0 if bound is None else 0.35  # tanh draws means inwards where the spread is large
    assert float((made.mean(0) - data.mean(0))[inside].detach().abs().max()) < 0.02 + (0.2 + lowered) * spread


def test_generated_events_that_are_not_finite_are_told():
    loss = DriftingLoss(Generator(Affine(torch.full((3,), math.nan, dtype=torch.float64))), measured(Pixels()))
    with pytest.raises(DivergedError, match="generated events became non-finite"):
        loss(cloud(4), seeded())


def test_a_kernel_that_reaches_nothing_names_the_setting():
    settings = DriftingLossSettings(field="mean-shift", kernel="gaussian", bandwidths=[1e-4])
    loss = DriftingLoss(Generator(network()), measured(Pixels()), settings)
    with pytest.raises(
        InputError, match=r"loss.bandwidths = \[0.0001\] with loss.field = 'mean-shift': .* a bandwidth of"
    ):
        loss(cloud(8, shift=50.0), seeded())


# ---- spaces


def test_spaces_are_scaled_by_the_median_distance():
    for space in measured(Pixels(), Space(nn.Linear(3, 6).double()), features(0.4)):
        drawn = space.draw(cloud(), seeded(3))
        for phi in space(cloud(), drawn):
            assert median_bandwidth(phi) == pytest.approx(math.sqrt(phi.shape[1]), rel=1e-9)


def test_noised_features_are_the_network_s_at_its_level():
    space, x = features(0.4, hidden=False), cloud()
    space.factor = 2.0
    noise = torch.randn(x.shape, dtype=x.dtype, generator=seeded(9))
    t = torch.full((len(x),), 0.4, dtype=torch.float64)
    alpha, sigma = VPSchedule().alpha(t[0]), VPSchedule().sigma(t[0])
    (ours,) = space.maps(x, noise)
    torch.testing.assert_close(ours, space.module(alpha * 2 * x + sigma * noise, t), **EXACT)
    assert torch.equal(space.draw(x, seeded(9)), noise)
    assert not any(p.requires_grad for p in space.parameters())


def test_the_features_of_a_trained_dmmd():
    spaces = dmmd_spaces(SpacesSettings(model="digits", levels=[0.1, 0.6]), (1, 8, 8), data_scale=0.5)
    pipeline = DMMDPipeline.from_pretrained("digits")
    x = load("digits").train[:20]
    noise = torch.randn(x.shape, generator=seeded())
    for space, level in zip(spaces, (0.1, 0.6), strict=True):
        phi, *states = space.maps(0.5 * x, noise)  # in the units of a generator that is trained at half scale
        t = torch.full((20,), level)
        torch.testing.assert_close(phi, pipeline.features(pipeline.schedule.add_noise(x, noise, t), t))
        assert len(states) == 2


def test_a_generator_trains_in_the_features_of_a_dmmd():
    """Its samples noised to t, compared with noised data in phi(., t) and the hidden states: the shift is learned."""
    (space,) = measured(features(0.2))
    generator = Generator(Affine(torch.full((3,), -1.0, dtype=torch.float64)))
    loss, draws = DriftingLoss(generator, [space], DriftingLossSettings(bandwidths=[0.3, 1.0])), seeded()
    optimiser = torch.optim.Adam(loss.generator.parameters(), 0.05)
    for _ in range(100):
        optimiser.zero_grad()
        loss(cloud(64, seed=int(torch.randint(1000, (), generator=draws))), draws).total.backward()
        optimiser.step()
    assert float((generator.network.shift.detach() - 1).abs().max()) < 0.35  # from 2


def test_an_untrained_network_has_the_shape_of_the_trained_one():
    trained, control = (
        dmmd_spaces(SpacesSettings(model="digits", levels=[0.2], untrained=new), (1, 8, 8))[0].module
        for new in (False, True)
    )
    assert control.config() == trained.config()
    assert not torch.equal(control.read_out.weight, trained.read_out.weight)
    again = untrained(trained)
    assert torch.equal(again.read_out.weight, control.read_out.weight)


# ---- features that are trained beside, and distillation


def beside():
    dataset = load("digits")
    changes = {"spaces": {"recipe": "dmmd-digits", "levels": [0.2]}, "features": {"width": 16}}
    recipe = read_recipe("drifting-digits", changes)
    return get_method("drifting").make_system().loss(recipe, dataset), dataset.train[:256], recipe


def test_features_beside_learn_by_their_own_loss_alone_and_the_generator_by_its_own():
    loss, batch, recipe = beside()
    assert isinstance(loss, AlternatingLoss)
    terms = loss(batch, seeded())
    terms.total.backward(retain_graph=True)
    ours = {name: p.grad.clone() for name, p in loss.features.named_parameters()}
    loss.zero_grad()
    terms.features.total.backward()  # what the DMMD's loss alone gives: no generated event reaches the features
    assert all(torch.equal(p.grad, ours[name]) for name, p in loss.features.named_parameters())
    assert all(p.grad is None for p in loss.generator.parameters())
    assert all(p.grad is None for p in loss.averaged.parameters())
    groups = loss.parameter_groups()
    assert [part for part, _ in groups] == [loss.generator, loss.features]
    assert groups[1][1] * recipe.training.step_size == pytest.approx(read("dmmd-digits").training.step_size)
    assert {"spread", "features_loss", "features_slope"} <= terms.scalars().keys()


def test_the_averaged_features_follow_the_trained_ones():
    loss, batch, _ = beside()
    trained = loss.features.kernel.features
    before = loss.averaged.read_out.weight.clone()
    with torch.no_grad():
        trained.read_out.weight.add_(1.0)
    loss(batch, seeded())
    torch.testing.assert_close(loss.averaged.read_out.weight, before + 0.01)
    (space,) = (space for space in loss.drifting.spaces if space.by_batch)
    drawn = space.draw(batch[:64], seeded())
    assert all(0.5 < median_bandwidth(phi) / math.sqrt(phi.shape[1]) < 2 for phi in space(batch[:64], drawn))


def test_distillation_regresses_the_end_points_of_the_flow():
    teacher = pipeline((2,))
    loss = DistillationLoss(Generator(network((2,)).float()), teacher, 300, scale=0.5)
    loss.enter(0, seeded())
    torch.testing.assert_close(loss.ends, teacher(particles=loss.sources).particles)
    terms = loss(torch.zeros(64, 2), seeded(1))
    rows = torch.randint(300, (64,), generator=seeded(1))
    expected = (loss.generator(loss.sources[rows]) - 0.5 * loss.ends[rows]).square().mean()
    torch.testing.assert_close(terms.total, expected)
    optimiser = torch.optim.Adam(loss.generator.parameters(), 1e-2)
    for step in range(300):
        optimiser.zero_grad()
        loss(torch.zeros(128, 2), seeded(step)).total.backward()
        optimiser.step()
    assert float(loss(torch.zeros(300, 2), seeded()).total.detach()) < 0.05 * float(terms.total.detach())


def test_a_flow_of_other_events_is_refused_before_its_pairs_are_made():
    with pytest.raises(InputError, match=r"distillation.model: has events \[1, 8, 8\]: must be \[2\], the generator's"):
        DistillationLoss(Generator(network((2,)).float()), load_pipeline("digits"), 10)


def test_bad_spaces(tmp_path, unchecked):
    pipeline().save_pretrained(tmp_path / "p")
    for settings, shape, message in (
        ({"model": str(tmp_path / "p")}, (1, 8, 8), "is a DriftingPipeline: must be a trained DMMD"),
        ({"model": "digits"}, (1, 28, 28), r"has events \[1, 8, 8\]: must be \[1, 28, 28\], the data's"),
        ({"model": "nothing"}, (1, 8, 8), "model = 'nothing': must be a pipeline folder"),
    ):
        with pytest.raises(InputError, match=message):
            dmmd_spaces(SpacesSettings(**settings), shape)
    with pytest.raises(InputError, match="spaces: pixels have no scale"):
        Pixels().measure(torch.zeros(5, 2))
    with pytest.raises(InputError, match="each must be measured"):
        DriftingLoss(Generator(network()), [Pixels()])


# ---- landmarks, classes, guidance


def test_clusters_are_at_the_means_of_their_events():
    x = torch.cat([cloud(30, shift=0.0), cloud(30, seed=2, shift=20.0), cloud(30, seed=3, shift=-20.0)])
    centres = cluster_centres(x, 3, seeded(1))
    nearest = torch.cdist(x, centres).argmin(1)
    for i, centre in enumerate(centres):
        torch.testing.assert_close(centre, x[nearest == i].mean(0), **EXACT)
    assert torch.equal(cluster_centres(x, 90), x)


def test_each_class_meets_its_own_data():
    data, labels = torch.arange(40.0)[:, None], torch.arange(40) % 4
    groups = Classes(data, labels, 3).groups(torch.zeros(20, 1), 12, seeded())
    assert [group.size for group in groups] == [4, 4, 4]
    assert len({group.label for group in groups}) == 3
    for group in groups:
        assert len(group.data) == 6
        assert set((group.data[:, 0] % 4).tolist()) == {float(group.label)}
        assert (group.guidance, group.negatives) == (1.0, None)
    guided = Classes(data, labels, 4, max_guidance=3.0).groups(torch.zeros(20, 1), 12, seeded())
    assert len(guided) == 4
    assert all(1 < group.guidance < 3 and len(group.negatives) == 20 for group in guided)
    assert Classes(data, labels, 3).shares.tolist() == [0.25] * 4


FIELDS = [*NORMALIZATIONS, "mmd"]


class Given(Classes):
    """Classes whose data are given, in place of draws."""

    def __init__(self, *groups):
        self.given = groups

    def groups(self, batch, population, generator):
        return self.given


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("field", FIELDS)
def test_one_class_is_no_class(field, second):
    """The conditional loss of a class that holds all data is the unconditional one, in value and gradient."""
    settings = DriftingLossSettings(field=field, bandwidths=[0.3, 1.0], second=second)
    spaces, batch = measured(Pixels(), features()), cloud(12, seed=4)
    plain = gradient(DriftingLoss(Generator(network()), spaces, settings), batch)
    no_shift = torch.zeros(1, 3, dtype=torch.float64)
    by_class = DriftingLoss(
        Generator(network(), None, no_shift),
        spaces,
        dataclasses.replace(settings, classes=1),
        classes=Given(Group(12, batch, label=0)),
    )
    terms, _ = gradient(by_class, batch)
    torch.testing.assert_close(terms.total, plain[0].total, **EXACT)
    ours = torch.cat([p.grad.flatten() for p in by_class.generator.network.parameters() if p.grad is not None])
    torch.testing.assert_close(ours, plain[1], **EXACT)


@pytest.mark.parametrize("field", FIELDS)
def test_classes_do_not_see_each_other(field):
    """What a class's events follow depends neither on other classes' events nor on their data."""
    settings = DriftingLossSettings(field=field, bandwidths=[0.5], unit_rms=False)
    loss = DriftingLoss(Generator(network()), measured(Pixels()), settings)
    x, y, others, far = cloud(6), cloud(7, seed=2), cloud(5, seed=3), cloud(8, seed=4, shift=2.0)
    (both,) = loss._velocities(0, 0, torch.cat([x, others]), [Meeting(6, y), Meeting(5, far)])
    (alone,) = loss._velocities(0, 0, x, [Meeting(6, y)])
    (beside,) = loss._velocities(0, 0, others, [Meeting(5, far)])
    torch.testing.assert_close(both, torch.cat([alone, beside]), **EXACT)


@pytest.mark.parametrize("field", ["batch", "balanced-batch"])
@pytest.mark.parametrize("sizes", [(6, 6, 6), (6, 5, 6)])
def test_groups_side_by_side_are_those_one_by_one(field, sizes):
    """Equal groups go together, others one after the other."""
    fields = BatchFields(DriftingLossSettings(field=field, bandwidths=[0.1, 0.5]))
    phi, meetings = cloud(sum(sizes)), [Meeting(n, cloud(8, seed=k + 2)) for k, n in enumerate(sizes)]
    together = fields.velocities(0, 0, phi, meetings)
    for ours, alone in zip(together, one_by_one(fields, 0, 0, phi, meetings), strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("field", FIELDS)
def test_guidance_of_weight_zero_is_none(field):
    x, y, everything = cloud(6), cloud(8, seed=2), cloud(9, seed=3)
    fields = BatchFields(DriftingLossSettings(field=field, bandwidths=[0.5]))
    (ours,) = fields.of_map(0, 0, Meeting(6, y, everything, 0.0))
    (plain,) = fields.of_map(0, 0, Meeting(6, y))
    torch.testing.assert_close(ours.velocity(x), plain.velocity(x), **EXACT)


@pytest.mark.parametrize("field", ["mean-shift", "mmd"])
def test_guidance_pushes_off_the_data_of_all_classes(field):
    x, y, everything = cloud(6), cloud(8, seed=2), cloud(9, seed=3)
    settings = DriftingLossSettings(field=field, bandwidths=[0.5])
    (ours,) = BatchFields(settings).of_map(0, 0, Meeting(6, y, everything, 2.0))
    kernel = Laplace(0.5 * math.sqrt(3))
    velocity = ours.velocity(x)
    if field == "mean-shift":
        more = torch.full((9,), 2 / 9, dtype=torch.float64)
        drift = Drift(y, kernel, normalization=field, negatives=everything, negative_weights=more)
        torch.testing.assert_close(velocity, drift.velocity(x), **EXACT)
    else:  # -grad of the witness between (q + 2 p_all) / 3 and p
        z = x.clone().requires_grad_()
        pushing = (kernel(z, x).mean(1) + 2 * kernel(z, everything).mean(1)) / 3
        (expected,) = torch.autograd.grad((kernel(z, y).mean(1) - pushing).sum(), z)
        torch.testing.assert_close(velocity, expected, **EXACT)


def test_a_class_conditional_generator_learns_its_classes():
    means = torch.tensor([[3.0, 0.0], [-3.0, 0.0]])
    labels = torch.arange(200) % 2
    data = means[labels] + 0.3 * torch.randn(200, 2, generator=seeded())
    torch.manual_seed(0)
    generator = Generator(MLPFeatures((2,), 1, width=32, depth=1), None, class_shifts(2, (2,), seeded(1)))
    settings = DriftingLossSettings(bandwidths=[0.1, 0.5], classes=2, max_guidance=2.0)
    (space,) = measured(Pixels(), events=data)
    loss = DriftingLoss(generator, [space], settings, classes=Classes(data, labels, 2, 2.0))
    optimiser, draws = torch.optim.Adam(generator.parameters(), 0.01), seeded()
    for step in range(120):
        optimiser.param_groups[0]["lr"] = 0.01 * (1 - step / 120)
        optimiser.zero_grad()
        loss(data[torch.randint(200, (64,), generator=draws)], draws).total.backward()
        optimiser.step()
    shares = torch.tensor([0.7, 0.3])
    pipe = DriftingPipeline(generator.network, generator.classes.detach(), shares, max_guidance=2.0)
    for label in range(2):
        made = pipe(200, labels=label, generator=seeded()).particles.detach()
        assert ((made - means[label]).norm(dim=1) < 2).float().mean() > 0.9
    mixed = pipe(500, generator=seeded()).particles
    assert float((mixed[:, 0] > 0).float().mean()) == pytest.approx(0.7, abs=0.08)
    guided = pipe(200, labels=0, guidance=2.0, generator=seeded()).particles
    assert guided[:, 0].mean() > pipe(200, labels=0, generator=seeded()).particles[:, 0].mean()  # away from the other


def test_a_class_of_digits_is_learned_and_sampled_from_the_command_line(tmp_path, capsys):
    """A classifier, the nearest training image, knows the classes that were asked for; bad labels get a line each."""
    pytest.importorskip("lightning")
    digits = load("digits")

    def classes_of(images):
        return digits.train_labels[torch.cdist(images.flatten(1), digits.train.flatten(1)).argmin(1)]

    assert (classes_of(digits.test) == digits.test_labels).float().mean() > 0.97
    run, saved = str(tmp_path / "run"), tmp_path / "samples.npz"
    small = ["--features.width=128", "--features.depth=1", "--loss.bandwidths=[0.1,0.3]", "--training.batch_size=200"]
    loop = ["--training.max_steps=50", "--training.step_size=0.005", "--training.sample_every=0", "--start=0.8"]
    classes = ["--loss.classes=10", "--loss.max_guidance=2"]
    assert main(["train", "drifting-digits", f"--output={run}", *small, *loop, *classes]) == 0
    labels = [i % 10 for i in range(200)]
    for options in (["--labels=3"], [f"--labels={labels}"], ["--labels=3", "--guidance=2"]):
        command = ["sample", run, "-n", "200", *options, f"--save={saved}", "--overwrite"]
        assert main(command) == 0
        samples = torch.from_numpy(np.load(saved)["samples"])
        wanted = torch.tensor(labels if "[" in options[0] else [3] * 200)
        assert (classes_of(samples) == wanted).float().mean() > 0.85
        assert samples.std(0).mean() > 0.2 * digits.train.std(0).mean()  # not one image
    for options, message in (
        ([run, "--labels=10"], "labels hold 10: must be classes 0 to 9"),
        ([run, "--labels=[1,2]"], "labels have shape [2]"),
        ([run, "--labels=3", "--guidance=2.5"], "guidance = 2.5: must be in [1, 2], what this generator learned"),
        (["digits-onestep", "--labels=3"], "labels: the generator knows no classes"),
    ):
        capsys.readouterr()
        assert main(["sample", *options, "-n", "3", f"--save={tmp_path / 'no.npz'}"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1
    few = ["--loss.classes=10", "--training.batch_size=9"]
    assert main(["train", "drifting-digits", f"--output={tmp_path / 'few'}", *few]) == 2
    assert "training.batch_size = 9: must be at least 20, two events a class, of 10" in capsys.readouterr().err


def test_bad_classes(unchecked):
    with pytest.raises(InputError, match="loss.classes = 2: the data have no labels"):
        Classes(torch.zeros(4, 1), None, 2)
    with pytest.raises(InputError, match="loss.classes = 3: must be at most 2, the classes of the data"):
        Classes(torch.zeros(4, 1), torch.tensor([0, 1, 0, 1]), 3)
    with pytest.raises(InputError, match="class 1 of the data has no events"):
        Classes(torch.zeros(4, 1), torch.tensor([0, 2, 0, 2]), 2)


# ---- the pipeline


def pipeline(event=(1, 8, 8), classes=False, **settings):
    torch.manual_seed(0)
    made_by = MLPFeatures(event, 1, width=16).eval().requires_grad_(False)
    if classes:
        settings |= {"classes": torch.randn(3, *event, generator=seeded(1)), "shares": torch.tensor([0.5, 0.3, 0.2])}
    return DriftingPipeline(made_by, provenance={"steps": 3}, **settings)


@pytest.mark.parametrize("classes", [False, True])
def test_saved_and_loaded_samples_are_the_same(tmp_path, classes):
    files = ["classes.safetensors"] if classes else []
    draws = [{}, {"labels": 2, "guidance": 1.5}] if classes else [{}]
    made = pipeline(classes=classes, bounded=True, max_guidance=2.0 if classes else 1.0)
    loaded = check_saved(made, tmp_path / "p", files=files, draws=draws)
    assert (loaded.bounded, loaded.max_guidance) == (True, made.max_guidance)


def test_output():
    pipe = pipeline()
    out = draw(pipe, return_trajectory=True)
    assert (out.particles.shape, out.nfe, out.trajectory.shape) == ((3, 1, 8, 8), 1, (2, 3, 1, 8, 8))
    assert out.particles.abs().max() <= 1
    assert torch.equal(draw(pipe).particles, out.particles)
    torch.testing.assert_close(draw(pipe, chunk_size=2).particles, out.particles)
    assert not torch.equal(draw(pipe, seed=8).particles, out.particles)
    assert pipe(particles=torch.zeros(5, 1, 8, 8)).particles.shape == (5, 1, 8, 8)


def test_classes_and_guidance_change_samples():
    pipe = pipeline((2,), classes=True, max_guidance=3.0)
    noise = torch.zeros(3, 2)
    labels = torch.tensor([0, 1, 2])
    made = pipe(particles=noise, labels=labels).particles
    torch.testing.assert_close(pipe(particles=noise[:1], labels=1).particles[0], made[1])
    assert not torch.equal(pipe(particles=noise, labels=labels, guidance=3.0).particles, made)
    direct = Generator(pipe.network, None, pipe.classes)(noise, labels, torch.full((3,), 1.0))
    torch.testing.assert_close(made, direct)
    drawn = pipe(2000, generator=seeded()).particles
    assert torch.equal(drawn, pipe(2000, generator=seeded()).particles)


def test_particles_come_in_the_units_of_the_data_and_within_them():
    plain = pipeline((2,))
    scaled = dataclasses.replace(plain, data_scale=0.5)
    a, b = (draw(p, return_trajectory=True).trajectory for p in (plain, scaled))
    torch.testing.assert_close(b, a * 2)
    shift = torch.tensor([-2.0, 0.0, 30.0])
    bounded = DriftingPipeline(Affine(shift), bounded=True, data_scale=0.5)
    source = torch.randn(4, 3, generator=seeded())
    torch.testing.assert_close(bounded(particles=source).particles, (0.5 * source + shift).tanh())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_particles": 0}, "num_particles = 0"),
        ({"sampler": "flow"}, "sampler = 'flow': must be one of generator"),
        ({"chunk_size": 0}, "chunk_size = 0"),
        ({"guidance": 2.5}, r"guidance = 2.5: must be in \[1, 2\], what this generator learned"),
        ({"guidance": 0.5}, "guidance = 0.5"),
        ({"labels": 3}, r"labels hold 3: must be classes 0 to 2"),
        ({"labels": torch.tensor([0, 1]), "num_particles": 3}, r"labels have shape \[2\]"),
        ({"labels": 0.5}, "labels have dtype torch.float64: must be integers"),
        ({"labels": True}, "labels have dtype torch.bool: must be integers"),
        ({"labels": torch.tensor([2, -1, 0]), "num_particles": 3}, "labels hold -1: must be classes 0 to 2"),
        ({"particles": torch.zeros(2, 1, 9, 9)}, r"particles has event shape \[1, 9, 9\]"),
    ],
)
def test_bad_settings(change, message, unchecked):
    check_refused(lambda: pipeline(classes=True, max_guidance=2.0)(**change), message)


def test_bad_parts(tmp_path, unchecked):
    check_refused(lambda: pipeline()(3, labels=1), "labels: the generator knows no classes")
    check_refused(lambda: pipeline()(3, guidance=1.5), r"guidance = 1.5: must be in \[1, 1\]")
    of_classes = pipeline(classes=True)
    check_refused(lambda: dataclasses.replace(of_classes, shares=torch.ones(2)), "shares: must hold 3 numbers")
    check_refused(lambda: Generator(MLPFeatures((2,), 3)), "num_features = 3: must be 'squared_residual' and 1")
    for i, (change, message) in enumerate(
        (
            ({"format": 9}, "holds format 9"),
            ({"sampler": {"sampler": "exact"}}, "sampler = 'exact'"),
            ({"features": {}}, "damaged or from another version|does not fit"),
        )
    ):
        folder = pipeline().save_pretrained(tmp_path / str(i))
        change_config(folder, **change)
        with pytest.raises(InputError, match=message):
            DriftingPipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", [name for name in shipped_models() if name.endswith("-onestep")])
def test_shipped_one_step_models_sample_in_one_evaluation(name):
    folder, pipe = shipped_models()[name], load_pipeline(name)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4e6
    out = pipe(4, generator=seeded())
    assert (out.nfe, out.particles.shape[0]) == (1, 4)
    assert torch.equal(out.particles, pipe(4, generator=seeded()).particles)
    data = load("digits").train if name.startswith("digits") else None
    spread = float(pipe(200, generator=seeded()).particles.std(0).mean())
    assert 0.2 < spread < 1.0
    if data is not None:
        assert 0.7 < spread / float(data.std(0).mean()) < 1.3
    assert pipe.provenance["command"].startswith("mmdflow train ")


# ---- recipes


@pytest.mark.parametrize("data", ["digits", "mnist", "fashion", "checkerboard", "cifar10"])
def test_recipes_are_on_equal_terms(data):
    ddpm = read(f"ddpm-{data}")
    images = data in ("mnist", "fashion")
    batch = "balanced-batch" if images else "batch"
    fields = {"drifting": batch, "mmd-generator": "mmd", "sinkhorn-drift": "sinkhorn"}
    for family, field in fields.items():
        recipe = read(f"{family}-{data}")
        assert (recipe.system, recipe.loss.field) == ("drifting", field)
        assert recipe.features == (read(f"drifting-{data}") if images else ddpm).features
        assert (recipe.data, recipe.spaces, recipe.start) == (ddpm.data, SpacesSettings(), 0.8 if images else None)
        assert recipe.evaluation.num_samples == ddpm.evaluation.num_samples
        assert recipe.bounded == (data != "checkerboard")


@pytest.mark.parametrize("data", ["digits", "mnist", "fashion"])
def test_the_one_step_dmmd_is_drifting_in_the_features_of_the_shipped_model(data):
    recipe, plain = read(f"dmmd-onestep-{data}"), read(f"drifting-{data}")
    assert (recipe.spaces.model, recipe.spaces.field, recipe.spaces.hidden) == (data, "means", False)
    changed = {"description": "", "spaces": SpacesSettings()}
    assert dataclasses.replace(recipe, **changed) == dataclasses.replace(plain, **changed)


@pytest.mark.parametrize(
    ("spec", "fields", "message"),
    [
        (
            DriftingLossSettings,
            {"field": "gan"},
            "loss.field = 'gan': must be one of batch, balanced-batch, mean-shift",
        ),
        (DriftingLossSettings, {"bandwidths": []}, r"loss.bandwidths = \[\]"),
        (DriftingLossSettings, {"bandwidths": [0.1, -1.0]}, "loss.bandwidths = -1.0"),
        (DriftingLossSettings, {"kernel": "riesz"}, "loss.kernel = 'riesz' with loss.field = 'batch'"),
        (DriftingLossSettings, {"field": "mmd", "kernel": "riesz", "bandwidths": [1.0]}, "it has none"),
        (DriftingLossSettings, {"kernel": "linear"}, "loss.kernel = 'linear' with loss.field = 'batch'"),
        (SpacesSettings, {"field": "sums"}, "spaces.field = 'sums': must be one of loss, means"),
        (SpacesSettings, {"weight": 0.0}, "spaces.weight = 0"),
        (SpacesSettings, {"weight": 0.5}, "spaces.weight = 0.5 without spaces.model"),
        (SpacesSettings, {"field": "means"}, "spaces.field = 'means' without spaces.model"),
        (DriftingLossSettings, {"population": 1}, "loss.population = 1"),
        (DriftingLossSettings, {"chunk_size": 0}, "loss.chunk_size = 0"),
        (DriftingLossSettings, {"landmarks": 5}, "loss.landmarks = 5 with loss.field = 'batch'"),
        (DriftingLossSettings, {"field": "mmd", "landmarks": 5, "classes": 2}, "loss.landmarks = 5 with loss.classes"),
        (DriftingLossSettings, {"max_guidance": 0.5, "classes": 2}, "loss.max_guidance = 0.5"),
        (DriftingLossSettings, {"max_guidance": 2.0}, "loss.max_guidance = 2 without loss.classes"),
        (
            SpacesSettings,
            {"pixels": False},
            "spaces.pixels = False without spaces.patches, spaces.texture, spaces.model",
        ),
        (SpacesSettings, {"levels": [0.1]}, r"spaces.levels = \[0.1\] without spaces.model or spaces.recipe"),
        (SpacesSettings, {"levels_per_step": 1}, "spaces.levels_per_step = 1 without spaces.model"),
        (SpacesSettings, {"hidden": False}, "spaces.hidden = False without spaces.model"),
        (DistillationSettings, {"num_pairs": 16}, "distillation.num_pairs = 16 without distillation.model"),
        (
            SpacesSettings,
            {"model": "digits", "recipe": "dmmd-digits"},
            "spaces.recipe = 'dmmd-digits' with spaces.model",
        ),
        (SpacesSettings, {"untrained": True}, "spaces.untrained = True without spaces.model"),
        (DistillationSettings, {"num_pairs": 0}, "distillation.num_pairs = 0"),
        (DriftingRecipe, {"start": 0.0}, "start = 0"),
        (
            DriftingRecipe,
            {"spaces": SpacesSettings(recipe="dmmd-digits"), "training": BatchTrainingSpec(batch_size=64)},
            "training.batch_size = 64 with spaces.recipe = 'dmmd-digits': must be at least 128",
        ),
        (DriftingRecipe, {"spaces": SpacesSettings(recipe="ddpm-digits")}, "spaces.recipe = 'ddpm-digits'"),
        (
            DriftingRecipe,
            {
                "spaces": SpacesSettings(recipe="dmmd-digits"),
                "loss": DriftingLossSettings(field="mmd", landmarks=5),
            },
            "loss.landmarks = 5 with spaces.recipe",
        ),
        (
            DriftingRecipe,
            {"distillation": DistillationSettings(model="digits"), "loss": DriftingLossSettings(classes=2)},
            "loss.classes = 2 with distillation.model",
        ),
        (SpacesSettings, {"levels": []}, r"spaces.levels = \[\]"),
        (SpacesSettings, {"model": "digits", "levels": [1.5]}, r"spaces.levels = 1.5: must be a number in \[0, 1\]"),
        (
            SpacesSettings,
            {"model": "digits", "levels": [0.5], "levels_per_step": 2},
            "spaces.levels_per_step = 2: must be at most 1",
        ),
        (DriftingSettings, {"guidance": 0.0}, "sampling.guidance = 0"),
        (DriftingRecipe, {"features": FeaturesSpec()}, "features.num_features = 4: must be 1 for drifting"),
        (DriftingRecipe, {"sampling": DriftingSettings(guidance=2.0)}, r"sampling.guidance = 2: must be in \[1, 1\]"),
        (
            DriftingRecipe,
            {"loss": DriftingLossSettings(classes=100)},
            "training.batch_size = 128: must be at least 200, two events a class, of 100 drawn by loss.classes",
        ),
    ],
)
def test_recipes_check_their_fields(spec, fields, message, unchecked):
    with pytest.raises(InputError, match=message):
        spec(**fields)


def test_a_space_is_measured_on_events_of_every_class():
    """Groups come class by class, and a few events are measured."""
    groups = [Group(8, torch.full((40, 2), float(label)), label) for label in range(5)]
    found, counts = some_of(groups)[:, 0].unique(return_counts=True)
    assert found.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert counts.min() > 10
    (alone,) = [group._replace(data=torch.arange(200.0)[:, None]) for group in groups[:1]]
    assert torch.equal(some_of([alone])[:, 0], torch.arange(64.0))
