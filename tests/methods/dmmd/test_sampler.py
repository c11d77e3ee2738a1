from dataclasses import replace

import pytest
import torch

from mmdflow import DivergedError, Gaussian, InputError, LinearSchedule, NoiseConditionalKernel
from mmdflow.features import MLPFeatures
from mmdflow.methods.dmmd import (
    FixedEntries,
    SamplerSettings,
    TargetMeans,
    Walk,
    distance_steps,
    noise_levels,
    sample,
    target_means,
)
from tests.methods.dmmd.runs import walk_down

LEVELS = torch.linspace(0.1, 1.0, 10, dtype=torch.float64)
SCHEDULE = LinearSchedule()


def data(n=40, seed=0):
    return torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 1


def network(head="squared_residual"):
    torch.manual_seed(0)
    return NoiseConditionalKernel(MLPFeatures((3,), 4, head, width=16, depth=1).double().requires_grad_(False))


def run(kernel, means, particles, levels=(0.9, 0.5, 0.2), eta=0.1, **settings):
    return walk_down(kernel, means, particles, levels=levels, step_sizes=[eta] * len(levels), **settings)


def means_of(kernel, events=None, **settings):
    events = data() if events is None else events
    return target_means(kernel, SCHEDULE, [events], LEVELS, generator=torch.Generator().manual_seed(3), **settings)


def test_streamed_means_equal_the_whole_data_sets():
    kernel, events = network(), data()
    whole = means_of(kernel)
    streamed = target_means(kernel, SCHEDULE, events.split(7), LEVELS, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(whole.clean, streamed.clean, rtol=1e-12, atol=1e-12)
    expected = torch.stack([kernel.features(events, t.expand(len(events))).mean(0) for t in LEVELS])
    torch.testing.assert_close(whole.clean, expected, rtol=1e-12, atol=1e-12)


def test_noisy_means_converge_to_the_expectation():
    """phi = |x|^2: E|x_t|^2 = alpha^2 E|x_0|^2 + D sigma^2."""
    kernel = NoiseConditionalKernel(lambda x, t: x.square().sum(1, keepdim=True))
    events = data(2000)
    means = means_of(kernel, events, noise_repeats=20)
    expected = (1 - LEVELS) ** 2 * events.square().sum(1).mean() + 3 * LEVELS**2
    torch.testing.assert_close(means.noisy[:, 0], expected, rtol=0.02, atol=0.02)


def test_means_between_levels_are_interpolated_and_outside_refused():
    means = TargetMeans(torch.tensor([0.1, 0.3]), torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [4.0]]))
    clean, noisy = means.at(0.15)
    torch.testing.assert_close(clean, torch.tensor([0.25]))
    torch.testing.assert_close(noisy, torch.tensor([2.5]))
    assert means.at(0.1)[0].item() == 0.0
    assert means.at(0.3)[0].item() == pytest.approx(1.0)
    with pytest.raises(InputError, match="noise level t = 0.5"):
        means.at(0.5)


def test_identity_features_contract_the_mean_in_closed_form():
    """phi = x: every step moves all particles by -eta (mean(Z) - mean(X_0)); N_s steps a level."""
    kernel, events = NoiseConditionalKernel(lambda x, t: x), data()
    z = data(9, seed=5) + 4
    out, nfe = run(kernel, means_of(kernel, events), z, steps_per_level=2)
    gap = (z.mean(0) - events.mean(0)) * 0.9**6
    torch.testing.assert_close(out.mean(0) - events.mean(0), gap)
    torch.testing.assert_close(out - out.mean(0), z - z.mean(0))
    assert nfe == 6


def test_exact_sampler_is_algorithm_2_with_frozen_means():
    kernel = network()
    means, z = means_of(kernel), data(6, seed=5)
    out, _ = run(kernel, means, z, steps_per_level=2)
    for t in (0.9, 0.5, 0.2):
        level = torch.full((6,), t, dtype=torch.float64)
        for _ in range(2):
            frozen = kernel.features(z, level).mean(0)
            x = z.clone().requires_grad_()
            f = kernel.features(x, level) @ (frozen - means.at(t)[0])
            z = z - 0.1 * torch.autograd.grad(f.sum(), x)[0]
    torch.testing.assert_close(out, z, rtol=1e-10, atol=1e-12)


def test_exact_sampler_is_permutation_equivariant():
    kernel = network()
    means, z = means_of(kernel), data(6, seed=5)
    order = torch.tensor([3, 1, 0, 5, 2, 4])
    torch.testing.assert_close(run(kernel, means, z[order])[0], run(kernel, means, z)[0][order])


def test_approximate_samples_do_not_depend_on_batch_mates():
    kernel = network()
    means, z = means_of(kernel), data(6, seed=5)
    together, _ = run(kernel, means, z, sampler="approximate")
    alone = torch.cat([run(kernel, means, p[None], sampler="approximate")[0] for p in z])
    torch.testing.assert_close(together, alone)
    exact_alone = torch.cat([run(kernel, means, p[None])[0] for p in z])
    assert (run(kernel, means, z)[0] - exact_alone).abs().max() > 1e-3


def test_exact_approaches_approximate_as_particles_grow():
    """With particles drawn from P_t the velocities differ by O(N^-1/2)."""
    kernel, events = network(), data(20_000)
    t = 0.5
    means = target_means(kernel, SCHEDULE, [events], torch.tensor([t]).double(), noise_repeats=20)
    level = torch.tensor(t, dtype=torch.float64)
    errors = []
    for n in (100, 1600):
        gaps = []
        for seed in range(30):
            generator = torch.Generator().manual_seed(seed)
            x = events[torch.randint(len(events), (n,), generator=generator)]
            z = SCHEDULE.add_noise(x, torch.randn(x.shape, dtype=x.dtype, generator=generator), level.expand(n))
            exact, approximate = (run(kernel, means, z, (t,), sampler=s)[0] for s in ("exact", "approximate"))
            gaps.append((exact - approximate).square().mean())
        errors.append(torch.stack(gaps).mean().sqrt())
    assert 2.5 < errors[0] / errors[1] < 6  # sqrt(16) = 4


def test_constant_features_do_not_move():
    kernel = NoiseConditionalKernel(lambda x, t: 0 * x[:, :2] + 7)
    z = data(4)
    torch.testing.assert_close(run(kernel, means_of(kernel), z)[0], z)


@pytest.mark.parametrize("sampler", ["exact", "approximate"])
@pytest.mark.parametrize("final", [None, "exact", "approximate"])
def test_final_steps(sampler, final):
    kernel = network()
    means, z = means_of(kernel), data(6, seed=5)
    settings = {
        "sampler": sampler,
        "final_steps": 2,
        "final_sampler": final,
        "final_step_size": 0.4,
        "final_level": 0.3,
    }
    out, nfe = run(kernel, means, z, **settings)
    assert nfe == 5
    x, level = run(kernel, means, z, sampler=sampler)[0], torch.full((6,), 0.3, dtype=torch.float64)
    clean, noisy = means.at(0.3)
    for _ in range(2):
        x = x.clone().requires_grad_()
        phi = kernel.features(x, level)
        if (final or sampler) == "approximate":
            direction = (noisy - clean).expand_as(phi)
        elif sampler == "exact":
            direction = (phi.mean(0) - clean).expand_as(phi)
        else:  # a-DMMD-e: the exact flow of each particle on its own
            direction = phi - clean
        x = (x - 0.4 * torch.autograd.grad(phi, x, direction.detach())[0]).detach()
    torch.testing.assert_close(out, x, rtol=1e-9, atol=1e-11)


def test_distance_steps_walk_the_path_once():
    levels = noise_levels(50, 0.02, 1.0)
    steps = distance_steps(SCHEDULE, levels, 0.7, 64)
    assert len(steps) == 50
    assert min(steps) > 0
    assert sum(steps) == pytest.approx(8 * SCHEDULE.displacement(torch.tensor(1.0), 0.7).item())
    assert distance_steps(SCHEDULE, levels, 0.7, 64, 2.0)[3] == pytest.approx(2 * steps[3])


def test_slopes_can_be_bounded():
    kernel = NoiseConditionalKernel(lambda x, t: x)
    means, z = means_of(kernel), data(4, seed=5) + 10
    out, _ = run(kernel, means, z, (0.5,), eta=0.1, max_slope=2.0)
    torch.testing.assert_close((out - z).norm(dim=1), torch.full((4,), 0.2).double())
    free = run(kernel, means, z, (0.5,), max_slope=1e6)[0]
    torch.testing.assert_close(free, run(kernel, means, z, (0.5,))[0])


def test_momentum_goes_on_from_level_to_level():
    """Heavy ball on features x, whose witness is the same at every level: v <- g + m v."""
    kernel, events = NoiseConditionalKernel(lambda x, t: x), data()
    z = data(9, seed=5) + 4
    out, nfe = run(kernel, means_of(kernel, events), z, momentum=0.5)
    gap, v = z.mean(0) - events.mean(0), 0
    for _ in range(3):
        v = gap + 0.5 * v
        gap = gap - 0.1 * v
    torch.testing.assert_close(out.mean(0) - events.mean(0), gap)
    assert nfe == 3


def test_nesterov_looks_ahead():
    kernel, events = NoiseConditionalKernel(lambda x, t: x), data()
    z = data(9, seed=5) + 4
    out, _ = run(kernel, means_of(kernel, events), z, momentum=0.5, integrator="nesterov")
    gap, v = z.mean(0) - events.mean(0), torch.zeros(3, dtype=torch.float64)
    for _ in range(3):
        v = gap - 0.1 * 0.5 * v + 0.5 * v
        gap = gap - 0.1 * v
    torch.testing.assert_close(out.mean(0) - events.mean(0), gap)


@pytest.mark.parametrize("sampler", ["exact", "approximate"])
def test_heun_evaluates_twice_at_the_level_of_its_step(sampler):
    kernel = network()
    means, z = means_of(kernel), data(6, seed=5)
    out, nfe = run(kernel, means, z, sampler=sampler, integrator="heun", final_steps=1, final_step_size=0.2)
    assert nfe == 2 * 3 + 1
    for t in (0.9, 0.5, 0.2):
        first = run(kernel, means, z, (t,), sampler=sampler)[0] - z
        second = run(kernel, means, z + first, (t,), sampler=sampler)[0] - (z + first)
        z = z + (first + second) / 2
    torch.testing.assert_close(out, run(kernel, means, z, (0.2,), eta=0.2, sampler=sampler)[0])


def test_adams_bashforth_is_of_second_order_across_levels():
    """phi = e^t x and noisy means t: the slope is t e^t wherever a particle is, and the walk from 1 to 0 is 1 long."""
    kernel = NoiseConditionalKernel(lambda x, t: t.exp()[:, None] * x)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    means = TargetMeans(ends, torch.zeros(2, 1, dtype=torch.float64), ends[:, None])
    errors: dict[str, list[float]] = {"euler": [], "adams_bashforth": []}
    for integrator, found in errors.items():
        for steps in (20, 40):
            levels = noise_levels(steps, 1 / steps, 1.0)
            z = torch.zeros(2, 1, dtype=torch.float64)
            settings = {"sampler": "approximate", "integrator": integrator}
            out, nfe = run(kernel, means, z, levels, 1 / steps, **settings)
            assert nfe == steps
            found.append((out + 1).abs().max().item())
    assert errors["euler"][0] / errors["euler"][1] == pytest.approx(2, rel=0.1)
    assert errors["adams_bashforth"][0] / errors["adams_bashforth"][1] == pytest.approx(4, rel=0.1)


def test_known_entries_walk_back_on_their_noise_and_arrive():
    kernel = network()
    means, z = means_of(kernel), data(6, seed=5)
    values, noise = data(6, seed=8), data(6, seed=9)
    mask = torch.tensor([True, False, False]).expand(6, 3)
    seen = []
    known = FixedEntries(values, mask, noise, SCHEDULE)
    settings = {"fixed": known, "final_steps": 2, "final_step_size": 0.4, "steps_per_level": 2}
    out, _ = run(kernel, means, z, callback=lambda done, x: seen.append(x), **settings)
    for x, t in zip(seen, (0.5, 0.2, 0.0, 0.0), strict=True):
        torch.testing.assert_close(x[:, 0], (1 - t) * values[:, 0] + t * noise[:, 0])
    assert torch.equal(out[:, 0], values[:, 0])
    free, _ = run(kernel, means, z, sampler="approximate", levels=(0.9,))
    start = torch.cat([(0.1 * values + 0.9 * noise)[:, :1], z[:, 1:]], 1)
    held, _ = run(kernel, means, z, sampler="approximate", levels=(0.9,), fixed=known)
    torch.testing.assert_close(held[:, 1:], run(kernel, means, start, sampler="approximate", levels=(0.9,))[0][:, 1:])
    assert (held[:, 1:] - free[:, 1:]).abs().max() > 1e-3


def test_noise_levels_go_down():
    assert noise_levels(3, 0.2, 1.0) == pytest.approx([1.0, 0.6, 0.2])
    assert noise_levels(1, 0.2, 1.0) == [1.0]


def test_explosion_names_the_level_and_keeps_the_last_finite_particles():
    kernel = NoiseConditionalKernel(lambda x, t: x)
    means, z = means_of(kernel), data(3) + 100
    with pytest.raises(DivergedError, match=r"noise level t = 0\.5000: particles became non-finite") as caught:
        walk_down(kernel, means, z, levels=[0.9, 0.5], step_sizes=[0.1, 1e308])
    assert torch.equal(caught.value.particles, run(kernel, means, z, (0.9,))[0])
    with pytest.raises(DivergedError, match=r"noise level t = 0\.3000") as caught:
        run(kernel, means, z, (0.9,), final_steps=2, final_step_size=1e308, final_level=0.3)
    assert torch.equal(caught.value.particles, run(kernel, means, z, (0.9,))[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "exacly"}, "did you mean 'exact'"),
        ({"steps_per_level": 0}, "steps_per_level = 0"),
        ({"final_steps": -1}, "final_steps = -1"),
        ({"final_steps": 1}, "final_step_size = nan"),
        ({"levels": (0.05,)}, "noise level t = 0.05"),
        ({"levels": ()}, "step_sizes has 0 entries"),
        ({"integrator": "rk4"}, "integrator = 'rk4'"),
        ({"momentum": 1.0}, "momentum = 1.0"),
    ],
)
def test_bad_input(change, message, unchecked):
    kernel = network()
    with pytest.raises(InputError, match=message):
        run(kernel, means_of(kernel), data(3), **change)


def test_means_need_a_finite_feature_map_and_data():
    with pytest.raises(InputError, match="need a linear base kernel"):
        means_of(NoiseConditionalKernel(base=Gaussian(1.0)))
    with pytest.raises(InputError, match="batches is empty"):
        target_means(network(), SCHEDULE, [], LEVELS)
    with pytest.raises(InputError, match="must increase"):
        target_means(network(), SCHEDULE, [data()], LEVELS.flip(0))


def test_steps_that_let_the_exact_flow_rise_are_told_once_with_one_that_does_not(caplog):
    """phi(x) = x: the mean of the particles is multiplied by 1 - eta at each step, so that F rises for eta > 2."""
    kernel = NoiseConditionalKernel(lambda x, t: x)
    zero = torch.zeros(2, 3, dtype=torch.float64)
    target, x = TargetMeans(torch.tensor([0.1, 0.9]).double(), zero, zero), torch.ones(4, 3, dtype=torch.float64)
    walk = Walk([0.9, 0.5], [3.0, 3.0])
    settings = SamplerSettings(num_levels=2, steps_per_level=3, step_size=3.0)
    _, nfe = sample(kernel, target, x, walk, settings)
    (record,) = caplog.records
    assert record.getMessage() == (
        "noise level t = 0.9000: 1/2 MMD^2 rose from 1.5 to 24 over steps of step_size = 3; with 1.5 it would not"
    )
    assert nfe == 6  # trials are not counted
    caplog.clear()
    for still in (replace(settings, sampler="approximate"), replace(settings, steps_per_level=1)):
        sample(kernel, target, x, walk, still)
    sample(kernel, target, x, Walk([0.9, 0.5], [1.5, 1.5]), settings)
    assert not caplog.records
