"""GS-MMD-RK: perfect networks reproduce the particle flow, training and sampling give the same particles."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from mmdflow import InputError, SlicedMMD, flow
from mmdflow.features import ConvFeatures, FeatureNetwork, MLPFeatures
from mmdflow.methods.sliced_generator import (
    PatchScales,
    Simulation,
    SlicedGeneratorLoss,
    SlicedGeneratorLossSettings,
    SlicedGeneratorPipeline,
    SlicedGeneratorSettings,
    Source,
    advance,
    enlarge,
    sliced_divergence,
)
from mmdflow.methods.sliced_generator.recipe import SlicedGeneratorRecipe
from mmdflow.recipe import BatchTrainingSpec, DataSpec, FeaturesSpec
from tests.methods.common import change_config, check_refused, check_saved, seeded, split

QUICK = Simulation(num_particles=12, num_directions=4, first_steps=3, growth=2.0, max_steps=20, step_size=0.1)

UNIFORM = Source()


def chain(count, event=(2,)):
    torch.manual_seed(0)
    return nn.ModuleDict({str(i): MLPFeatures(event, 1, width=8, depth=1) for i in range(count)})


def pyramid(*sides):
    torch.manual_seed(0)
    sizes = {"channels": (4,), "blocks": 1}
    return nn.ModuleDict({str(i): ConvFeatures((1, side, side), 1, **sizes) for i, side in enumerate(sides)})


def make(networks=None, target=None, simulation=QUICK, source=UNIFORM, **settings):
    target = torch.randn(20, 2, generator=seeded(9)) if target is None else target
    networks = chain(3) if networks is None else networks
    settings, others = split(SlicedGeneratorLossSettings, settings)
    return SlicedGeneratorLoss(networks, target, simulation, source, settings, **others)


def pipeline_of(loss, **settings):
    shape = tuple(loss.target.shape[1:])
    return SlicedGeneratorPipeline(
        loss.networks, shape, loss.source, noise=loss.settings.noise, bound=loss.bound, **settings
    )


def fit(loss, count, seed=0, step_size=0.01):
    optimiser = torch.optim.Adam(loss.parameters(), lr=step_size)
    for step in range(count):
        terms = loss(torch.empty(32, 2), seeded(1000 * seed + step))
        optimiser.zero_grad()
        terms.total.backward()
        optimiser.step()
    return terms


class Memory(FeatureNetwork):
    """A perfect network: gives every particle that it has seen the displacement that it had."""

    def __init__(self, event_shape):
        super().__init__(event_shape, 1, "squared_residual")
        self.particles = self.displacements = None

    def outputs(self, x, t):
        nearest = torch.cdist(x.flatten(1), self.particles.flatten(1)).argmin(1)
        return self.displacements[nearest][:, None]


@pytest.mark.parametrize("fresh", [False, True])
def test_perfect_networks_reproduce_the_particle_flow(fresh):
    target = torch.randn(15, 1, dtype=torch.float64, generator=seeded())
    networks = nn.ModuleDict({str(i): Memory((1,)) for i in range(4)})
    simulation = replace(QUICK, momentum=0.0, num_directions=1)
    loss = make(networks, target, simulation, Source("normal"), fresh=fresh, warm_start=False)
    for stage in range(4):
        loss.enter(stage, seeded(5))  # draws the same source in every stage if it is fresh
        networks[str(stage)].particles, networks[str(stage)].displacements = loss.particles, loss.displacements
    x = loss.source.draw(12, (1,), target, seeded(5))
    total = sum(simulation.num_steps(stage) for stage in range(4))
    whole = flow(SlicedMMD(target, 1), x, step_size=0.1, num_steps=total)  # on a line there are no directions to draw
    ours = x
    for network in loss.chain:
        ours = advance(network, ours)
    torch.testing.assert_close(ours, whole.particles)
    assert float(loss.summary[3]) == pytest.approx(float(whole.values[-1]))
    torch.testing.assert_close(loss.particles + loss.displacements, whole.particles)


class Grid(Source):
    """Particles (i + 1/2) / n."""

    def draw(self, count, event_shape, like, generator):
        return ((torch.arange(count) + 0.5) / count)[:, None].to(like)


class Slope(FeatureNetwork):
    """Phi(x) = slope x."""

    def __init__(self, slope):
        super().__init__((1,), 1, "squared_residual")
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def outputs(self, x, t):
        return self.slope * x[:, None]


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_displacements_have_their_closed_form_on_a_line(momentum):
    """Left of all targets, the particle of rank i moves at 1 + (2 i + 1 - n) / n, which is 2 x_i on the first grid."""
    eta, lengths = 0.05, (3, 6)
    times = [eta * sum((1 - momentum**k) / (1 - momentum) for k in range(1, steps + 1)) for steps in lengths]
    first, second = 2 * times[0], 2 * times[1] / (1 + 2 * times[0])
    networks = nn.ModuleDict({"0": Slope(first), "1": Slope(second)})
    simulation = replace(QUICK, step_size=eta, momentum=momentum)
    target = torch.full((5, 1), 10.0, dtype=torch.float64)
    loss = make(networks, target, simulation, Grid(), warm_start=False)
    for stage, slope in enumerate((first, second)):
        loss.enter(stage, seeded())
        torch.testing.assert_close(loss.displacements, slope * loss.particles)
        assert loss(torch.empty(50, 1), seeded()).total.item() == pytest.approx(0.0, abs=1e-12)
    with torch.no_grad():
        networks["1"].slope.zero_()
    assert loss(torch.empty(50, 1), seeded()).total.item() == pytest.approx(1.0, rel=0.5)  # in units of Phi = 0


def test_published_lengths_of_the_flows():
    lengths = [Simulation().num_steps(stage) for stage in range(24)]
    assert lengths[:10] == [32, 64, 128, 256, 512, 1024, 2048, 4096, 6144, 8192]
    assert lengths[-3:] == [30000, 30000, 30000]
    gentle = replace(Simulation(), first_steps=10, growth=1.5, max_added=20, max_steps=70)
    assert [gentle.num_steps(stage) for stage in range(7)] == [10, 15, 22, 33, 50, 70, 70]
    assert replace(gentle, growth=1.0).num_steps(9) == 10


@pytest.mark.parametrize("bound", [None, 0.25])
@pytest.mark.parametrize("event", [(2,), (1, 4, 4)])
def test_sampling_gives_the_particles_that_training_went_through(event, bound):
    target = torch.randn(20, *event, generator=seeded(9)) / 10
    loss = make(chain(3, event), target, bound=bound)
    loss.enter(0, seeded(3))
    for stage in (1, 2):
        fit(loss, 5)
        loss.enter(stage, seeded(stage))
        sampled = pipeline_of(loss)(12, num_networks=stage, generator=seeded(3)).particles
        of_images = 1.0 if len(event) == 3 else torch.inf
        assert torch.equal(loss.particles.clamp(-of_images, of_images), sampled)
        assert (float(loss.particles.abs().max()) <= 0.25) == (bound is not None)
        assert loss.stage == stage


def test_a_pyramid_is_climbed_alike_in_training_and_sampling():
    target = torch.rand(6, 1, 8, 8, generator=seeded()) * 0.2
    loss = make(pyramid(2, 2, 4, 8), target, fresh=True, noise=0.1)
    for stage, side in enumerate((2, 2, 4, 8)):
        loss.enter(stage, seeded(stage))
        assert loss.particles.shape == (12, 1, side, side)
    pipeline = pipeline_of(loss)
    out = pipeline(12, num_networks=3, generator=seeded(3), return_trajectory=True)
    assert out.trajectory.shape == (4, 12, 1, 8, 8)
    state = seeded(3)
    x = loss.source.draw(12, (1, 2, 2), target, state)
    torch.testing.assert_close(out.trajectory[0], enlarge(x, (1, 8, 8)))
    for done, after in itertools.pairwise(loss.chain):
        x = enlarge(advance(done, x), after.event_shape, 0.1, state)
    assert torch.equal(x, loss.particles)
    quiet = SlicedGeneratorPipeline(loss.networks, (1, 8, 8), loss.source)
    coarse = quiet(5, num_networks=2, generator=seeded()).particles
    assert torch.equal(coarse, coarse[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_coarse_stages_flow_to_the_averaged_target():
    target = torch.randn(6, 1, 8, 8, generator=seeded())
    loss = make(pyramid(2, 8), target, replace(QUICK, first_steps=400, num_particles=6, step_size=0.2, momentum=0.5))
    loss.enter(0, seeded())
    coarse = target.reshape(6, 1, 2, 4, 2, 4).mean((3, 5))
    far, near = (torch.cdist(x.flatten(1), coarse.flatten(1)).min(0).values.mean() for x in moves(loss))
    assert near < 0.3 * far


def moves(loss):
    return loss.particles, loss.particles + loss.displacements


def test_fresh_particles_are_new_and_others_stay():
    for fresh in (False, True):
        loss = make(fresh=fresh)
        loss.enter(0, seeded(0))
        before = advance(loss.chain[0], loss.particles)
        loss.enter(1, seeded(1))
        assert torch.equal(loss.particles, before) != fresh


def test_a_network_starts_from_the_one_before():
    for warm in (True, False):
        loss = make(warm_start=warm)
        loss.enter(0, seeded())
        fit(loss, 3)
        loss.enter(1, seeded())
        same = [torch.equal(a, b) for a, b in zip(loss.chain[0].parameters(), loss.chain[1].parameters(), strict=True)]
        assert all(same) == warm
    mixed = make(pyramid(4, 8), torch.randn(5, 1, 8, 8))
    mixed.enter(0, seeded())
    mixed.enter(1, seeded())
    assert not torch.equal(mixed.chain[0].stem.weight, mixed.chain[1].stem.weight)


def test_a_stage_is_taken_up_in_its_middle():
    whole = make(noise=0.0)
    whole.enter(0, seeded(0))
    fit(whole, 4)
    whole.enter(1, seeded(1))
    fit(whole, 4)
    other = make(networks=chain(3))
    other.load_state_dict(whole.state_dict())
    assert int(other.stage) == 1
    assert other.fitted.tolist() == [4, 4, 0]
    a, b = (loss(torch.empty(8, 2), seeded(4)) for loss in (whole, other))
    assert torch.equal(a.total, b.total)
    for loss in (whole, other):
        loss.enter(2, seeded(2))
    assert torch.equal(whole.displacements, other.displacements)


def test_the_chain_carries_the_source_to_the_target():
    target = torch.randn(200, 2, generator=seeded()) * torch.tensor([0.5, 0.1]) + torch.tensor([2.0, 0.0])
    simulation = Simulation(num_particles=300, num_directions=16, step_size=0.3, first_steps=10, max_steps=40)
    torch.manual_seed(0)
    networks = nn.ModuleDict({str(i): MLPFeatures((2,), 1, width=32, depth=1) for i in range(4)})
    loss = make(networks, target, simulation)
    starts = []
    for stage in range(4):
        loss.enter(stage, seeded(stage))
        terms = fit(loss, 150, stage)
        starts.append(terms.start)
        assert terms.end < terms.start
    x = pipeline_of(loss)(1000, generator=seeded(8)).particles
    torch.testing.assert_close(x.mean(0), target.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(x.std(0), target.std(0), atol=0.1, rtol=0)
    assert float(SlicedMMD(target, 64, generator=seeded())(x)) < 0.02 * starts[0]


def test_the_l1_norm_is_that_of_the_entries():
    loss = make(norm="l1")
    terms = loss(torch.empty(4000, 2), seeded())
    missed = loss.chain[0].outputs(loss.particles, torch.zeros(12))[:, 0] - loss.displacements
    expected = missed.abs().mean() / loss.displacements.abs().mean()
    assert terms.total.item() == pytest.approx(expected.item(), rel=0.05)
    assert set(terms.scalars()) == {"loss", "network", "displacement", "mmd_start", "mmd_end"}
    assert terms.scalars()["displacement"] == pytest.approx(float(loss.displacements.square().mean().sqrt()))


def test_networks_that_came_too_late_are_left_out():
    loss = make()
    assert loss.num_fitted == 0
    for stage, steps, counted in ((0, 8, 1), (1, 1, 1), (1, 1, 2), (2, 1, 3)):
        if int(loss.stage) != stage:
            loss.enter(stage, seeded())
        fit(loss, steps)
        assert loss.num_fitted == counted


def test_patches_of_several_sizes_obey_the_law(generator):
    target, x = torch.randn(2, 5, 1, 6, 6, dtype=torch.float64, generator=generator)
    parts = [SlicedMMD(target, 9, directions="patches", patch=side, generator=seeded(side)) for side in (2, 4)]
    divergence = PatchScales(parts)
    assert float(divergence(x)) == pytest.approx(sum(float(part(x)) for part in parts))
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(divergence(z), z)
    torch.testing.assert_close(5 * gradient, divergence.witness(x).grad(x))
    value = sum(part.witness(x)(x) for part in parts)
    torch.testing.assert_close(divergence.witness(x)(x), value)
    velocity = divergence.velocity(x)
    torch.testing.assert_close(velocity, -divergence.witness(x).grad(x))  # of the directions that it has drawn
    assert torch.equal(divergence.target, parts[0].target)


def test_patches_are_used_at_full_resolution_alone():
    target = torch.randn(5, 1, 8, 8, generator=seeded())
    loss = make(pyramid(4, 8), target, replace(QUICK, patches=[2, 8]))
    kinds = [type(sliced_divergence(loss.simulation, target, seeded(), patches=p)) for p in (False, True)]
    assert kinds == [SlicedMMD, PatchScales]
    loss.enter(0, seeded())
    loss.enter(1, seeded())
    assert loss.displacements.square().sum() > 0


def test_saved_and_loaded_samples_are_the_same(tmp_path):
    loss = make(pyramid(4, 8), torch.randn(5, 1, 8, 8), noise=0.05, bound=0.4)
    pipeline = pipeline_of(loss, defaults=SlicedGeneratorSettings(2), provenance={"steps": 3})
    loaded = check_saved(pipeline, tmp_path / "p")
    assert (loaded.source, loaded.noise, loaded.defaults) == (pipeline.source, 0.05, pipeline.defaults)
    assert loaded.bound == 0.4
    assert (loaded.event_shape, loaded.provenance) == ((1, 8, 8), {"steps": 3})
    change_config(tmp_path / "p", source={"name": "gaussian"})
    with pytest.raises(InputError, match="source = 'gaussian': must be one of uniform, normal"):
        SlicedGeneratorPipeline.from_pretrained(tmp_path / "p")


def test_output():
    pipeline = pipeline_of(make())
    out = pipeline(4, generator=seeded(), return_trajectory=True)
    assert (out.nfe, out.trajectory.shape) == (3, (4, 4, 2))
    for count in (1, 2):  # the first networks of the chain
        torch.testing.assert_close(pipeline(4, num_networks=count, generator=seeded()).particles, out.trajectory[count])
    torch.testing.assert_close(pipeline(4, chunk_size=1, generator=seeded()).particles, out.particles)
    source = out.trajectory[0]
    assert torch.equal(pipeline(particles=source).particles, out.particles)
    assert 0 <= source.min() <= source.max() <= 1
    scaled = replace(pipeline, data_scale=0.5)
    torch.testing.assert_close(scaled(particles=2 * source).particles, 2 * out.particles)
    one = replace(pipeline, defaults=SlicedGeneratorSettings(1))
    assert one(4).nfe == 1
    assert one(4, num_networks=3).nfe == 3


def test_sources():
    like = torch.zeros(1, dtype=torch.float64)
    uniform = Source("uniform", -2.0, 3.0).draw(5000, (3,), like, seeded())
    assert uniform.dtype == torch.float64
    assert -2 <= uniform.min() < -1.9
    assert 2.9 < uniform.max() <= 3
    normal = Source("normal").draw(5000, (3,), like, seeded())
    torch.testing.assert_close(normal.std(), like[0] + 1, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_particles": 0}, "num_particles = 0"),
        ({"num_networks": 0}, "num_networks = 0"),
        ({"num_networks": 4}, "num_networks = 4: must be at most 3, the length of the chain"),
        ({"sampler": "ddim"}, "sampler = 'ddim': must be one of chain"),
        ({"chunk_size": 0}, "chunk_size = 0"),
        ({"particles": torch.zeros(2, 3)}, r"particles has event shape \[3\]"),
    ],
)
def test_bad_settings(change, message, unchecked):
    check_refused(lambda: pipeline_of(make())(**change), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"networks": nn.ModuleDict()}, "number of networks = 0"),
        ({"networks": nn.ModuleDict({"0": MLPFeatures((2,), 2)})}, "network 0 has .*num_features = 2: must be"),
        ({"networks": nn.ModuleDict({"0": MLPFeatures((2,), 1, "flat")})}, "network 0 has head = 'flat'"),
        ({"networks": chain(2, (3,))}, r"network 1 has event_shape = \[3\]: must be \[2\]"),
        ({"networks": pyramid(8, 4), "target": torch.zeros(2, 1, 8, 8)}, r"network 0 has event_shape = \[1, 8, 8\]"),
        ({"networks": pyramid(4), "target": torch.zeros(2, 1, 6, 6)}, r"network 0 has event_shape = \[1, 4, 4\]"),
        ({"norm": "l3"}, "norm = 'l3': must be one of l2, l1"),
        ({"noise": -1.0}, "noise = -1.0"),
        ({"bound": 0.0}, "bound = 0.0"),
        ({"simulation": replace(QUICK, patches=[2])}, r"flow.patches holds 2: must fit into images, events are \[2\]"),
    ],
)
def test_bad_losses(change, message, unchecked):
    check_refused(lambda: make(**change), message)


@pytest.mark.parametrize(
    ("spec", "fields", "message"),
    [
        (Simulation, {"growth": 0.5}, "flow.growth = 0.5: must be a finite number >= 1"),
        (Simulation, {"momentum": 1.0}, "flow.momentum = 1.0"),
        (Simulation, {"num_targets": 0}, "flow.num_targets = 0"),
        (Simulation, {"patches": []}, r"flow.patches = \[\]"),
        (Simulation, {"step_size": 0.0}, "flow.step_size = 0.0"),
        (Simulation, {"patches": [0]}, "flow.patches = 0"),
        (SlicedGeneratorLossSettings, {"num_networks": 0}, "loss.num_networks = 0"),
        (SlicedGeneratorLossSettings, {"bound": -1.0}, "loss.bound = -1.0"),
        (SlicedGeneratorLossSettings, {"pyramid": [1, 2]}, r"loss.pyramid = \[1, 2\]: must fall to 1"),
        (SlicedGeneratorLossSettings, {"pyramid": [4, 2, 1], "num_networks": 2}, "with loss.num_networks = 2"),
        (SlicedGeneratorSettings, {"num_networks": 0}, "sampling.num_networks = 0"),
        (SlicedGeneratorRecipe, {"training": BatchTrainingSpec()}, "training.ema_decay = 0.999: must be 0"),
        (SlicedGeneratorRecipe, {"features": FeaturesSpec()}, "features.num_features = 4: must be 1"),
        (
            SlicedGeneratorRecipe,
            {"sampling": SlicedGeneratorSettings(11)},
            "sampling.num_networks = 11: must be at most loss.num_networks, 10",
        ),
        (Source, {"name": "cube"}, "source = 'cube'"),
        (Source, {"low": 2.0}, "low = 2: must be at most high = 1"),
        (SlicedGeneratorSettings, {"sampler": "flow"}, "sampler = 'flow'"),
    ],
)
def test_settings_are_checked(spec, fields, message, unchecked):
    with pytest.raises(InputError, match=message):
        spec(**fields)


def test_factors_of_a_pyramid_are_shared_by_the_networks():
    spec = SlicedGeneratorLossSettings(num_networks=7, pyramid=[4, 2, 1])
    assert [spec.factor(i) for i in range(7)] == [4, 4, 4, 2, 2, 1, 1]
    assert [SlicedGeneratorLossSettings(num_networks=2).factor(i) for i in range(2)] == [1, 1]


def test_a_pyramid_must_divide_the_images(unchecked):
    from mmdflow.runs.train import build_check

    features = FeaturesSpec("mlp", width=8, depth=1, num_features=1)
    for data, loss, message in (
        (DataSpec("digits"), {"pyramid": [3, 1]}, r"loss.pyramid holds 3: must divide .* \[1, 8, 8\]"),
        (DataSpec("checkerboard"), {"pyramid": [2, 1]}, r"loss.pyramid holds 2: must divide .* \[2\]"),
    ):
        recipe = SlicedGeneratorRecipe(data=data, features=features, loss=SlicedGeneratorLossSettings(**loss))
        with pytest.raises(InputError, match=message):
            build_check(recipe)
    flow_spec = Simulation(patches=[9])
    recipe = SlicedGeneratorRecipe(data=DataSpec("digits"), features=features, flow=flow_spec)
    with pytest.raises(InputError, match="flow.patches holds 9"):
        build_check(recipe)
