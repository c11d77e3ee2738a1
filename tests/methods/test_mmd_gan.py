"""MMD-GAN against closed forms: features that scale, generators that shift."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from mmdflow import MMD, Deep, DivergedError, InputError, Linear, RationalQuadratic
from mmdflow.features import FeatureNetwork, MLPFeatures
from mmdflow.kernels import base_kernel
from mmdflow.methods.mmd_gan import (
    CriticMMD,
    MMDGANLoss,
    MMDGANLossSettings,
    MMDGANPipeline,
    MMDGANSamplingSettings,
    MMDGANSettings,
    features_of,
    generate,
    references_of,
)
from mmdflow.methods.mmd_gan.recipe import MMDGANRecipe
from mmdflow.recipe import FeaturesSpec
from tests.methods.common import (
    MEAN,
    change_config,
    check_draws_from_its_generator_alone,
    check_refused,
    check_saved,
    draw,
    read,
    seeded,
    split,
)

MIXTURE = base_kernel(
    {
        "name": "mixture",
        "members": [
            *({"name": "rational-quadratic", "alpha": a, "scale": 1.0} for a in (0.1, 1.0, 10.0)),
            {"name": "linear"},
        ],
        "weights": [1.0] * 4,
    }
)


class Shift(FeatureNetwork):
    """The generator spread * z + shift."""

    def __init__(self, shift, spread=1.0):
        super().__init__((len(shift),), 1, "squared_residual")
        self.shift, self.spread = nn.Parameter(shift.clone()), spread

    def outputs(self, x, t):
        return (self.spread * x + self.shift)[:, None]


class Scale(FeatureNetwork):
    """The critic phi(x) = scale * x."""

    def __init__(self, scale=1.0, dim=3):
        super().__init__((dim,), dim, "flat")
        self.scale = nn.Parameter(torch.tensor(scale))

    def outputs(self, x, t):
        return self.scale * x


def generators_turn(loss):
    loss.turn.fill_(loss.settings.critic_steps)
    return loss


@pytest.mark.parametrize("base", [Linear(), MIXTURE], ids=["linear", "mixture"])
def test_the_mmd_of_equal_distributions_has_mean_zero(base, generator):
    loss = MMDGANLoss(Shift(MEAN), Scale(), base)
    with torch.no_grad():
        draws = torch.tensor([loss(MEAN + torch.randn(4, 3, generator=generator), generator).mmd2 for _ in range(300)])
    assert abs(float(draws.mean())) < 4 * float(draws.std()) / math.sqrt(len(draws))
    assert draws.min() < 0 < draws.max()


def test_the_mmd_is_that_of_all_pairs(generator):
    torch.manual_seed(0)
    critic = MLPFeatures((3,), 5, "flat", width=8)
    clean = torch.randn(7, 3, generator=generator)
    off = ~torch.eye(7, dtype=torch.bool)
    for base in (Linear(), MIXTURE):
        loss = generators_turn(MMDGANLoss(Shift(MEAN), critic, base))
        terms = loss(clean, seeded())
        made = generate(loss.generator, torch.randn(7, 3, generator=seeded()))
        k = Deep(base, lambda x: features_of(critic, x))
        pairs = k(made, made)[off].mean() + k(clean, clean)[off].mean() - 2 * k(made, clean).mean()
        torch.testing.assert_close(terms.total, pairs, atol=1e-5, rtol=1e-4)
        assert not terms.critic


def test_the_critic_s_turn_in_closed_form():
    """Everything made is MEAN, everything clean is 0: f(z) = a^2 <z, MEAN>, so |grad f| = a^2 |MEAN| everywhere."""
    length, clean = float(MEAN.norm()), torch.zeros(6, 3)
    for scale in (0.5, length**-0.5, 1.5):
        critic = Scale(scale)
        settings = MMDGANLossSettings(penalty_weight=3.0, l2_weight=0.7)
        loss = MMDGANLoss(Shift(MEAN, spread=0.0), critic, Linear(), settings)
        terms = loss(clean, seeded())
        slope = scale**2 * length
        l2 = scale**2 * length**2 / 6  # half of the events, over 3 entries
        assert terms.critic
        assert terms.mmd2 == pytest.approx((scale * length) ** 2, rel=1e-5)
        assert terms.slope == pytest.approx(slope, rel=1e-5)
        assert terms.penalty == pytest.approx((slope - 1) ** 2, rel=1e-5, abs=1e-6)
        assert terms.l2 == pytest.approx(l2, rel=1e-5)
        expected = -((scale * length) ** 2) + 3 * (slope - 1) ** 2 + 0.7 * l2
        assert float(terms.total.detach()) == pytest.approx(expected, rel=1e-5)
        terms.total.backward()
        by_hand = -2 * scale * length**2 + 3 * 2 * (slope - 1) * 2 * scale * length + 0.7 * scale * length**2 / 3
        assert float(critic.scale.grad) == pytest.approx(by_hand, rel=1e-4)  # through the penalty's own gradient
    assert MMDGANLoss(Shift(MEAN, 0.0), Scale(length**-0.5), Linear())(clean, seeded()).penalty < 1e-9


def test_a_shift_is_learned_by_its_closed_form(generator):
    """phi(x) = x: MMD^2_u has the gradient 2 (mean made - mean clean) in the shift, whatever the draws."""
    made_by = Shift(torch.zeros(3))
    loss = generators_turn(MMDGANLoss(made_by, Scale(), Linear()))
    clean = MEAN + torch.randn(9, 3, generator=generator)
    loss(clean, seeded()).total.backward()
    made = torch.randn(9, 3, generator=seeded())
    torch.testing.assert_close(made_by.shift.grad, 2 * (made.mean(0) - clean.mean(0)))


def test_an_mmd_gan_learns_a_shift(generator):
    torch.manual_seed(0)
    made_by = Shift(torch.zeros(3))
    loss = MMDGANLoss(made_by, MLPFeatures((3,), 4, "flat", width=16, depth=1), Linear())
    optimiser = torch.optim.AdamW(loss.parameters(), lr=0.02, betas=(0.5, 0.9), weight_decay=0.0)
    for step in range(400):
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * (1 - step / 400)
        optimiser.zero_grad()
        loss(MEAN + torch.randn(64, 3, generator=generator), generator).total.backward()
        optimiser.step()
    assert (made_by.shift - MEAN).norm() < 0.3  # |MEAN| = 2.3


def test_each_turn_leaves_the_other_player_as_it_is(generator):
    torch.manual_seed(0)
    settings = MMDGANLossSettings(critic_steps=2, l2_weight=0.1)
    loss = MMDGANLoss(MLPFeatures((3,), 1, width=8), MLPFeatures((3,), 4, "flat", width=8), Linear(), settings)
    (made_by, plain), (critic, factor) = loss.parameter_groups()
    assert (made_by, critic, plain, factor) == (loss.generator, loss.critic, 1.0, 1.0)
    optimiser = torch.optim.AdamW(loss.parameters(), lr=0.1, weight_decay=0.1)
    turns = []
    for _ in range(6):
        before = copy.deepcopy(loss.networks)
        optimiser.zero_grad()
        terms = loss(torch.randn(8, 3, generator=generator), generator)
        terms.total.backward()
        optimiser.step()
        turns.append(terms.critic)
        for name, moved in (("critic", terms.critic), ("generator", not terms.critic)):
            same = [
                torch.equal(a, b)
                for a, b in zip(before[name].parameters(), loss.networks[name].parameters(), strict=True)
            ]
            assert all(same) != moved, name
        assert all(p.requires_grad for p in loss.parameters())
    assert turns == [True, True, False] * 2


def test_turns_go_on_where_a_saved_loss_stood(generator):
    def new():
        torch.manual_seed(0)
        return MMDGANLoss(Shift(MEAN), Scale(), Linear(), MMDGANLossSettings(critic_steps=2))

    loss, clean = new(), torch.randn(4, 3, generator=generator)
    with torch.no_grad():  # judges; no turn is taken
        assert [loss(clean, seeded()).critic for _ in range(3)] == [True] * 3
    first = [loss(clean, seeded(i)) for i in range(2)]
    resumed = new()
    resumed.load_state_dict(loss.state_dict())
    rest, again = ([one(clean, seeded(i)).critic for i in range(4)] for one in (loss, resumed))
    assert rest == again == [False, True, True, False]
    generators = generators_turn(loss)(clean, seeded())
    assert generators.scalars().keys() == first[0].scalars().keys()  # every logged step shows all


def test_losses_that_are_not_finite_name_the_player():
    loss = MMDGANLoss(Shift(MEAN), Scale(), Linear())
    terms = loss(torch.zeros(4, 3), seeded())
    terms.check_finite()
    for critic, name in ((True, "critic"), (False, "generator")):
        broken = dataclasses.replace(terms, total=torch.tensor(math.inf), critic=critic)
        with pytest.raises(DivergedError, match=f"the {name}'s loss"):
            broken.check_finite()
    with pytest.raises(DivergedError, match="features became non-finite"):
        MMDGANLoss(Shift(MEAN), Scale(math.nan), Linear())(torch.zeros(4, 3), seeded())


def test_loss_draws_from_its_generator_alone():
    torch.manual_seed(0)
    critic = MLPFeatures((3,), 4, "flat", width=8)
    x = torch.randn(6, 3, generator=seeded(1))
    check_draws_from_its_generator_alone(lambda: MMDGANLoss(Shift(MEAN), critic, Linear()), x)


@pytest.mark.parametrize("base", [Linear(), RationalQuadratic(1.0), MIXTURE], ids=["linear", "rq", "mixture"])
def test_the_critic_s_divergence_is_the_deep_mmd(base, generator):
    torch.manual_seed(0)
    critic = MLPFeatures((2,), 4, "flat", width=8).double().requires_grad_(False)
    target, x, at = (torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in (9, 5, 3))
    ours = CriticMMD(critic, base, references_of(critic, base, target.split(4)))
    deep = MMD(target, Deep(base, lambda z: features_of(critic, z)))
    z = x.clone().requires_grad_()
    value = ours(z)
    (slope,) = torch.autograd.grad(value, z)
    torch.testing.assert_close(value, deep(x))
    torch.testing.assert_close(ours.velocity(x), deep.velocity(x))
    torch.testing.assert_close(ours.velocity(x), -len(x) * slope)  # the law: n dF/dx_i = grad f(x_i)
    torch.testing.assert_close(ours.velocity(x, at), deep.velocity(x, at))
    torch.testing.assert_close(ours.witness(x)(at), deep.witness(x)(at))


def test_the_flow_moves_the_mean_in_closed_form(generator):
    """phi(x) = x: f(z) = <z, mean(Z) - MEAN>; the mean closes (1 - eta) of its distance a step, the shape stays."""
    pipeline = MMDGANPipeline(Shift(MEAN), Scale().requires_grad_(False), Linear(), MEAN[None])
    source = torch.randn(50, 3, generator=generator)
    out = pipeline(particles=source, sampler="flow", num_steps=7, step_size=0.2, return_trajectory=True)
    assert out.nfe == 7
    start = source.mean(0)
    for k, x in enumerate(out.trajectory):
        torch.testing.assert_close(x.mean(0), MEAN + 0.8**k * (start - MEAN), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(x - x.mean(0), source - start, atol=1e-5, rtol=1e-5)


def make(base=None, event=(1, 8, 8), **settings):
    torch.manual_seed(0)
    made_by = MLPFeatures(event, 1, width=16).eval().requires_grad_(False)
    critic = MLPFeatures(event, 4, "flat", width=16).eval().requires_grad_(False)
    base = base or Linear()
    references = references_of(critic, base, [torch.randn(10, *event, generator=seeded(1))])
    return MMDGANPipeline(
        made_by, critic, base, references, MMDGANSettings("generator", 5, 0.1), provenance={"steps": 3}, **settings
    )


@pytest.mark.parametrize("base", [Linear(), MIXTURE], ids=["linear", "mixture"])
def test_saved_and_loaded_samples_are_the_same(tmp_path, base):
    pipeline = make(base, bounded=True)
    samplers = [{"sampler": "generator"}, {"sampler": "flow"}]
    loaded = check_saved(pipeline, tmp_path / "p", files=["references.safetensors"], draws=samplers)
    assert len(loaded.references) == (1 if base.finite else 10)


def test_output():
    pipeline = make()
    out = draw(pipeline, return_trajectory=True)
    assert (out.particles.shape, out.nfe, out.trajectory.shape) == ((3, 1, 8, 8), 1, (2, 3, 1, 8, 8))
    assert out.particles.abs().max() <= 1
    assert torch.equal(draw(pipeline).particles, out.particles)
    assert not torch.equal(draw(pipeline, seed=8).particles, out.particles)
    flowed = draw(pipeline, sampler="flow", num_steps=2, return_trajectory=True)
    assert (flowed.nfe, flowed.trajectory.shape) == (2, (3, 3, 1, 8, 8))
    assert pipeline(particles=torch.zeros(5, 1, 8, 8)).particles.shape == (5, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(draw(pipeline, sampler="flow", num_steps=2).particles, flowed.particles)


def test_a_bounded_generator_stays_within_the_data(generator):
    shift = torch.tensor([-2.0, 0.0, 30.0])
    made = generate(Shift(shift, spread=0.0), torch.zeros(2, 3), 0.5)
    torch.testing.assert_close(made, 0.5 * shift.tanh().expand(2, 3))
    loss = generators_turn(MMDGANLoss(Shift(shift, spread=0.0), Scale(), Linear(), bound=0.5))
    assert loss(torch.zeros(2, 3), seeded()).mmd2 == pytest.approx(float((0.5 * shift.tanh()).square().sum()))
    pipeline = MMDGANPipeline(Shift(shift), Scale(), Linear(), MEAN[None], bounded=True, data_scale=0.5)
    source = torch.randn(4, 3, generator=generator)
    torch.testing.assert_close(pipeline(particles=source).particles, (0.5 * source + shift).tanh())


@pytest.mark.parametrize("sampler", ["generator", "flow"])
def test_particles_come_in_the_units_of_the_data(sampler):
    plain = make(event=(2,))
    scaled = dataclasses.replace(plain, data_scale=0.5)
    a, b = (draw(p, sampler=sampler, return_trajectory=True).trajectory for p in (plain, scaled))
    torch.testing.assert_close(b, a * 2)


def test_a_flow_that_diverges_keeps_its_last_particles():
    with pytest.raises(DivergedError, match=r"non-finite at step \d+ of 200") as caught:
        draw(make(event=(2,)), sampler="flow", num_steps=200, step_size=1e30)
    assert torch.isfinite(caught.value.particles).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_particles": 0}, "num_particles = 0"),
        ({"sampler": "exact"}, "sampler = 'exact': must be one of generator, flow"),
        ({"sampler": "flow", "num_steps": 0}, "num_steps = 0"),
        ({"sampler": "flow", "step_size": 0.0}, "step_size = 0.0"),
        ({"num_steps": 3}, "num_steps = 3 with sampler = 'generator': is for sampler = 'flow'"),
        ({"step_size": 3.0}, "step_size = 3.0 with sampler = 'generator'"),
        ({"particles": torch.zeros(2, 1, 9, 9)}, r"particles has event shape \[1, 9, 9\]"),
    ],
)
def test_bad_settings(change, message, unchecked):
    check_refused(lambda: make()(**change), message)


def network(features=4, head="flat", event=(3,), **settings):
    return MLPFeatures(event, features, head, width=8, **settings)


MADE_BY = {"features": 1, "head": "squared_residual"}


@pytest.mark.parametrize(
    ("made_by", "critic", "settings", "message"),
    [
        ({}, {}, {}, "generator has head = 'flat' and num_features = 4"),
        (MADE_BY, {"event": (2,)}, {}, r"critic has event_shape = \[2\]: must be \[3\]"),
        (MADE_BY, {}, {"critic_steps": 0}, "critic_steps = 0"),
        (MADE_BY, {}, {"penalty_weight": -1.0}, "penalty_weight = -1.0"),
        (MADE_BY, {}, {"l2_weight": math.nan}, "l2_weight = nan"),
        (MADE_BY, {}, {"critic_step_factor": 0.0}, "critic_step_factor = 0.0"),
        (MADE_BY, {}, {"bound": 0.0}, "bound = 0.0"),
    ],
)
def test_bad_losses(made_by, critic, settings, message, unchecked):
    def call():
        game, others = split(MMDGANLossSettings, settings)
        MMDGANLoss(network(**made_by), network(**critic), Linear(), game, **others)

    check_refused(call, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "holds format 9"),
        ({"base_kernel": {"name": "riesz"}}, "base.name = 'riesz'"),
        ({"base_kernel": None}, "damaged or from another version"),
        ({"sampler": {"sampler": "exact"}}, "sampler = 'exact'"),
        ({"features": {}}, "damaged or from another version|does not fit"),
    ],
)
def test_damaged_config(tmp_path, change, message, unchecked):
    make().save_pretrained(tmp_path / "p")
    change_config(tmp_path / "p", **change)
    check_refused(lambda: MMDGANPipeline.from_pretrained(tmp_path / "p"), message)


def test_references_of_another_critic(tmp_path, unchecked):
    with pytest.raises(InputError, match=r"references has shape \[1, 3\]: must be \[N, 4\]"):
        dataclasses.replace(make(), references=torch.zeros(1, 3))
    make().save_pretrained(tmp_path / "p")
    (tmp_path / "p" / "references.safetensors").unlink()
    with pytest.raises(InputError, match=r"references.safetensors: missing"):
        MMDGANPipeline.from_pretrained(tmp_path / "p")


@pytest.mark.parametrize("data", ["digits", "mnist", "fashion", "checkerboard"])
def test_recipes_are_on_equal_terms(data):
    ours, ddpm, gan = read(f"dmmd-{data}"), read(f"ddpm-{data}"), read(f"mmd-gan-{data}")
    assert gan.features == ddpm.features
    backbone = {"head": ddpm.features.head, "num_features": 1, "num_residuals": None}
    assert dataclasses.replace(gan.critic, **backbone) == ddpm.features
    assert (gan.data, gan.evaluation, gan.batch_size) == (ours.data, ours.evaluation, ddpm.batch_size)
    assert (gan.training.precision, gan.training.gradient_clip) == (
        ours.training.precision,
        ours.training.gradient_clip,
    )


@pytest.mark.parametrize(
    ("spec", "fields", "message"),
    [
        (MMDGANLossSettings, {"critic_steps": 0}, "loss.critic_steps = 0"),
        (MMDGANLossSettings, {"penalty_weight": -1.0}, "loss.penalty_weight = -1.0"),
        (MMDGANLossSettings, {"l2_weight": -1.0}, "loss.l2_weight = -1.0"),
        (MMDGANLossSettings, {"critic_step_factor": 0.0}, "loss.critic_step_factor = 0.0"),
        (MMDGANSamplingSettings, {"num_steps": 0}, "sampling.num_steps = 0"),
        (MMDGANSamplingSettings, {"step_size": 0.0}, "sampling.step_size = 0.0"),
        (MMDGANSamplingSettings, {"num_references": 0}, "sampling.num_references = 0"),
        (MMDGANRecipe, {"features": FeaturesSpec()}, "features.num_features = 4: must be 1 for mmd-gan"),
    ],
)
def test_recipes_check_their_fields(spec, fields, message, unchecked):
    with pytest.raises(InputError, match=message):
        spec(**fields)


def test_training_settings_that_an_mmd_gan_cannot_have(unchecked):
    training = MMDGANRecipe().training
    for change, message in (
        ({"compile": True}, "training.compile = True"),
        ({"batch_size": 1}, "training.batch_size = 1"),
    ):
        with pytest.raises(InputError, match=message):
            MMDGANRecipe(training=dataclasses.replace(training, **change))
