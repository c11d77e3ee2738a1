import math

import numpy as np
import pytest
import torch

from mmdflow import MMD, DescentNoise, DivergedError, Gaussian, InputError, PotentialEnergy, SlicedMMD, flow
from mmdflow.flows import Adam, AdamsBashforth, Adaptive, BirthDeath, Euler, Nesterov, Reweighting, jumps, reweighted


def target(n=30, d=2, seed=1):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Quadratic:
    """V(x) = |x|^2 / 2, whose gradient flow is x exp(-t)."""

    def __call__(self, z):
        return z.square().sum(1) / 2

    def grad(self, z):
        return z


def run(integrator, **settings):
    x = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    return x, flow(PotentialEnergy(Quadratic()), x, integrator=integrator, **settings)


def test_orders_of_convergence():
    for integrator, order in (("euler", 1), ("heun", 2), ("adams_bashforth", 2)):
        errors = []
        for steps in (20, 40):
            x, result = run(integrator, step_size=1 / steps, num_steps=steps)
            errors.append((result.particles - x * math.exp(-1)).norm().item())
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("integrator", ["euler", "nesterov", "heun", "adams_bashforth", Euler(0.5)])
@pytest.mark.parametrize("scale", [1e-24, 1e19, 1e20])
def test_steps_beyond_float32_move_particles_of_float32(integrator, scale):
    """In units of 1e-24 a step has the size 1e-48; in float64 all of it is in range."""
    y, x = target(), target(20, seed=2) - 1

    def values(dtype):
        to = [(scale * points).to(dtype) for points in (y, x)]
        return flow(MMD(to[0], Gaussian(scale)), to[1], num_steps=5, integrator=integrator).values.double()

    assert values(torch.float64)[-1] < 0.9 * values(torch.float64)[0]
    torch.testing.assert_close(values(torch.float32), values(torch.float64), rtol=1e-3, atol=0)


def test_heun_counts_two_evaluations_a_step():
    assert run("heun", step_size=0.1, num_steps=5)[1].nfe == 10


def test_adams_bashforth_is_exact_where_the_gradient_is_linear_in_time():
    """Once it has two gradients, at steps of any sizes; and it takes one evaluation a step."""
    sizes, time = [0.1, 0.3, 0.05, 0.2], 0.0
    stepper, x = AdamsBashforth(), torch.zeros(1, 1).double()
    for i, size in enumerate(sizes):
        x, elapsed = stepper.step(lambda z, t=time: torch.full_like(z, 2 * t + 1), x, size, i)
        time += elapsed
        if i == 0:
            rest = x + time**2 + time  # what Euler's step missed
    torch.testing.assert_close(x - rest, torch.full((1, 1), -(time**2 + time), dtype=torch.float64))
    assert run("adams_bashforth", step_size=0.1, num_steps=5)[1].nfe == 5


def test_adams_bashforth_takes_eulers_step_after_a_step_of_size_zero():
    x, result = run("adams_bashforth", step_size=lambda step: 0.1 * (step == 1), num_steps=2)
    torch.testing.assert_close(result.particles, 0.9 * x)


def test_nesterov_follows_its_recurrence():
    x, result = run("nesterov", step_size=0.3, num_steps=4, momentum=0.6)
    v = torch.zeros_like(x)
    for _ in range(4):
        v = (x - 0.3 * 0.6 * v) + 0.6 * v
        x = x - 0.3 * v
    torch.testing.assert_close(result.particles, x)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_adam_is_torchs(momentum):
    divergence, x = MMD(target(), Gaussian(1.0)), target(5, seed=2) + 1
    result = flow(divergence, x, step_size=0.05, num_steps=6, integrator="adam", momentum=momentum)
    z = x.clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05, betas=(momentum, 0.999))
    for _ in range(6):
        z.grad = -divergence.velocity(z.detach())
        optimizer.step()
    torch.testing.assert_close(result.particles, z.detach())


def test_adaptive_keeps_its_error_and_lengthens_its_steps():
    x, result = run(Adaptive(1e-5), step_size=1e-3, num_steps=40, save_every=1)
    torch.testing.assert_close(
        result.trajectory[:, :, 0], x[:, 0] * torch.exp(-result.times)[:, None], rtol=0, atol=40e-5
    )
    sizes = result.times.diff()
    assert sizes[0] == 1e-3
    assert sizes[20:].min() > 3e-3
    assert result.nfe >= 80


def test_adaptive_shortens_a_first_step_that_is_too_long():
    x, result = run("adaptive", step_size=50.0, num_steps=1)
    assert result.times[-1] < 0.2
    torch.testing.assert_close(result.particles, x * math.exp(-result.times[-1]), rtol=0, atol=2e-3)
    assert result.nfe > 2


def test_adaptive_says_when_the_gradient_does_not_repeat():
    divergence = SlicedMMD(target(), 1, generator=torch.Generator().manual_seed(0))
    with pytest.raises(DivergedError, match="redraw=False"):
        flow(divergence, target(seed=2), step_size=1.0, num_steps=50, integrator=Adaptive(1e-300))


def test_uniform_weights_change_nothing():
    divergence, x = MMD(target(), Gaussian(1.0)), target(5, seed=2) + 1
    plain = flow(divergence, x, step_size=0.5, num_steps=5)
    weighted = flow(divergence, x, step_size=0.5, num_steps=5, weights=torch.full((5,), 3.0))
    torch.testing.assert_close(weighted.particles, plain.particles)
    torch.testing.assert_close(weighted.values, plain.values)
    torch.testing.assert_close(weighted.weights, torch.full((5,), 0.2).double())
    assert plain.weights is None


def test_weights_stand_for_repeated_particles():
    divergence, x = MMD(target(), Gaussian(1.0)), target(2, seed=2) + 1
    weighted = flow(divergence, x, step_size=0.5, num_steps=5, weights=torch.tensor([2.0, 1.0]))
    repeated = flow(divergence, x[[0, 0, 1]], step_size=0.5, num_steps=5)
    torch.testing.assert_close(weighted.particles, repeated.particles[1:])


def test_reweighting_finds_the_targets_weights():
    """Particles that may not move, on the target's points: only the weights flow, to the target's."""
    y = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]]).double()
    q = torch.tensor([0.6, 0.3, 0.1]).double()
    divergence = MMD(y, Gaussian(1.0), target_weights=q)
    moves = [Reweighting(0.5)]
    result = flow(divergence, y, step_size=1.0, num_steps=400, moves=moves, callback=lambda s, x: y, save_every=50)
    torch.testing.assert_close(result.weights, q, rtol=1e-6, atol=1e-6)
    assert (result.values.diff() <= 1e-15).all()


def test_reweighted_is_mirror_descent():
    w, f = torch.tensor([0.2, 0.3, 0.5]).double(), torch.tensor([1.0, -1.0, 0.5]).double()
    expected = w * torch.exp(-0.3 * f)
    torch.testing.assert_close(reweighted(f, w, 0.3), expected / expected.sum())


def test_birth_death_moves_mass_between_modes_that_do_not_see_each_other():
    y = torch.cat([target(80) * 0.2, target(20, seed=3) * 0.2 + 20])
    source = torch.cat([target(20, seed=4) * 0.2, target(80, seed=5) * 0.2 + 20])
    shares = []
    for moves in ([], [BirthDeath(0.5)]):
        generator = torch.Generator().manual_seed(0)
        result = flow(MMD(y, Gaussian(0.5)), source, step_size=0.2, num_steps=600, moves=moves, generator=generator)
        shares.append((result.particles[:, 0] < 10).double().mean().item())
    assert shares[0] == 0.2
    assert shares[1] == pytest.approx(0.8, abs=0.05)


def test_jumps_kill_above_the_mean_and_duplicate_below():
    f = torch.tensor([5.0, 0.0, 0.0, -5.0])
    counts = torch.zeros(4)
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        index = jumps(f, 0.05, generator)
        assert index.shape == (4,)
        counts += torch.bincount(index, minlength=4) / 400
    p = -math.expm1(-0.25)
    assert counts[0].item() == pytest.approx(1 - p * (3 / 4) - p / 4 + p * p / 8, abs=0.08)
    assert counts[3] > 1.1
    assert jumps(f, 0.0, None).tolist() == [0, 1, 2, 3]


def test_momentum_follows_the_particles_that_jump():
    divergence, x = MMD(target(), Gaussian(1.0)), target(6, seed=2) + 1
    settings = {"step_size": 0.5, "num_steps": 6, "momentum": 0.8}
    for integrator in ("euler", "nesterov", "adam"):
        generator = torch.Generator().manual_seed(0)
        result = flow(divergence, x, integrator=integrator, moves=BirthDeath(3.0), generator=generator, **settings)
        plain = flow(divergence, x, integrator=integrator, **settings)
        assert len(result.particles.unique(dim=0)) < 6 == len(plain.particles.unique(dim=0))


def test_what_a_duplicate_carries_on_is_its_models():
    """After a jump the copy has its model's momentum: both move alike."""
    for stepper in (Euler(0.9), Nesterov(0.9), AdamsBashforth(), Adam(0.9)):
        x = torch.tensor([[0.0], [10.0]]).double()
        x, _ = stepper.step(lambda z: torch.tensor([[1.0], [-3.0]]).double(), x, 0.1, 0)
        index = torch.tensor([1, 1])
        stepper.select(index)
        x, _ = stepper.step(lambda z: torch.zeros(2, 1).double(), x[index], 0.1, 1)
        assert x[0] == x[1]


def test_descent_noise_keeps_its_condition():
    noise = DescentNoise(2.0, constant=0.3)
    divergence = MMD(target(60), Gaussian(0.7))
    generator = torch.Generator().manual_seed(0)
    result = flow(
        divergence,
        target(40, seed=2) * 0.3 + 2,
        step_size=0.5,
        num_steps=80,
        noise_injection=noise,
        save_every=1,
        generator=generator,
    )
    report = result.report
    assert report["descent_held"] == 1.0
    assert all(d >= r for d, r in zip(report["decrease"], report["required"], strict=True))
    assert (result.values.diff() <= 0).all()
    torch.testing.assert_close(torch.tensor(report["decrease"]).double(), -result.values.diff())
    assert report["sum_beta_squared"] == pytest.approx(sum(b**2 for b in report["beta"]))
    assert max(report["beta"]) > 0
    assert result.nfe >= 80


def test_descent_monitor_only_watches():
    divergence, x = MMD(target(), Gaussian(0.5)), target(10, seed=2)
    settings = {"step_size": 0.5, "num_steps": 10}
    watched = flow(
        divergence,
        x,
        noise_injection=DescentNoise(3.0, adapt=False),
        generator=torch.Generator().manual_seed(0),
        **settings,
    )
    plain = flow(divergence, x, noise_injection=3.0, generator=torch.Generator().manual_seed(0), **settings)
    torch.testing.assert_close(watched.particles, plain.particles)
    assert watched.report["beta"] == [3.0] * 10
    assert watched.report["descent_held"] < 1


def test_steps_to_record_may_be_listed():
    _, result = run("euler", step_size=0.1, num_steps=20, save_every=[1, 2, 4, 8, 16])
    assert result.steps.tolist() == [0, 1, 2, 4, 8, 16, 20]
    torch.testing.assert_close(result.times, result.steps.double() / 10)


def test_descent_monitor_follows_its_schedule():
    levels = [0.0, 0.1, 0.4, 1.6, 0.2]
    noise = DescentNoise(lambda step: levels[step], adapt=False)
    divergence, x = MMD(target(), Gaussian(0.5)), target(10, seed=2)
    assert flow(divergence, x, step_size=0.5, num_steps=5, noise_injection=noise).report["beta"] == levels
    adaptive = DescentNoise(lambda step: levels[step])
    generator = torch.Generator().manual_seed(0)
    settings = {"noise_injection": adaptive, "generator": generator}
    report = flow(divergence, x + 1, step_size=0.1, num_steps=5, **settings).report
    assert all(b <= level for b, level in zip(report["beta"], levels, strict=True))
    assert report["beta"][1] == 0.1  # a step without noise does not hold the next ones back
    assert flow(divergence, x, step_size=0.5, num_steps=0, noise_injection=adaptive).report["beta"] == []


def test_descent_noise_compares_values_on_the_same_slices():
    divergence = SlicedMMD(target(60, 20), 5, generator=torch.Generator().manual_seed(0))
    settings = {"noise_injection": DescentNoise(0.3), "generator": torch.Generator().manual_seed(1)}
    result = flow(divergence, target(40, 20, seed=2) + 1, step_size=0.5, num_steps=30, **settings)
    assert result.report["descent_held"] > 0.95


def test_callbacks_may_return_other_truths_and_dtypes():
    divergence, x = MMD(target(), Gaussian(1.0)), target(3, seed=2)
    assert flow(divergence, x, step_size=0.1, num_steps=9, callback=lambda s, x: np.bool_(s == 2)).nfe == 2
    single = flow(divergence, x, step_size=0.1, num_steps=2, callback=lambda s, x: x.float())
    assert single.particles.dtype == torch.float64


def test_a_flow_needs_a_field(unchecked):
    with pytest.raises(InputError, match="field = 'mmd': must be a Divergence"):
        flow("mmd", target(), step_size=0.1, num_steps=1)


def test_callbacks_run_in_turn_and_report():
    class Count:
        seen = 0

        def __call__(self, step, particles):
            self.seen = max(self.seen, particles.abs().max().item())

        def report(self):
            return {"largest": self.seen}

    result = flow(
        MMD(target() + 5, Gaussian(3.0)),
        torch.zeros(4, 2).double(),
        step_size=50.0,
        num_steps=5,
        callback=[lambda s, x: x.clamp(-1, 1), Count(), lambda s, x: s == 3],
    )
    assert result.report == {"largest": 1.0}
    assert result.steps[-1] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"integrator": "rk4"},
            "integrator = 'rk4': must be one of euler, nesterov, heun, adams_bashforth, adam, adaptive",
        ),
        ({"integrator": "heun", "momentum": 0.5}, "momentum = 0.5 with integrator = 'heun'"),
        ({"integrator": "nesterov"}, "momentum = 0 with integrator = 'nesterov'"),
        ({"weights": torch.ones(4)}, r"weights has shape \[4\]: must be a tensor \[3\]"),
        ({"weights": torch.tensor([1.0, float("nan"), 1.0])}, "weights holds nan"),
        ({"save_every": [1, -2]}, "save_every = -2"),
        ({"moves": BirthDeath(1.0), "weights": torch.ones(3)}, "BirthDeath with weights or Reweighting: must be alone"),
        ({"moves": [BirthDeath(1.0), Reweighting(1.0)]}, "BirthDeath with weights or Reweighting: must be alone"),
        ({"step_size": -0.1}, "step_size = -0.1: must be a finite number >= 0"),
        ({"step_size": 0.0, "integrator": "adaptive"}, "step_size = 0.0: must be a finite number > 0"),
        ({"step_size": lambda step: None}, r"step_size\(0\) = None"),
        ({"callback": 3}, "callback = 3: must be a function"),
        ({"callback": [3]}, "callback = 3: must be a function"),
        ({"callback": "show"}, "callback = 'show': must be a function"),
        ({"noise_injection": DescentNoise(1.0), "momentum": 0.5}, "with DescentNoise: must be 'euler' and 0"),
    ],
)
def test_bad_input(settings, message, unchecked):
    settings = {"step_size": 0.1, "num_steps": 2} | settings
    with pytest.raises(InputError, match=message):
        flow(MMD(torch.ones(4, 2), Gaussian(1.0)), torch.zeros(3, 2), **settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DescentNoise(-1.0), "beta = -1.0"),
        (lambda: DescentNoise(1.0, constant=1.0), "constant = 1.0"),
        (lambda: BirthDeath(-1.0), "rate = -1.0"),
        (lambda: Reweighting(-1.0), "rate = -1.0"),
        (lambda: Adaptive(0.0), "tolerance = 0.0"),
    ],
)
def test_bad_objects(make, message):
    with pytest.raises(InputError, match=message):
        make()
