import math

import jaxtyping
import pytest
import torch

from mmdflow import (
    MMD,
    AdaptiveMMD,
    DivergedError,
    DMMDPipeline,
    Gaussian,
    InputError,
    Laplace,
    Linear,
    PotentialEnergy,
    Riesz,
    SlicedMMD,
    flow,
)
from mmdflow.divergences.witness import KernelWitness
from mmdflow.flows import Record


def target(n=30, d=2, seed=1):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_one_particle_one_target_gaussian_in_closed_form():
    """n = m = 1: the self term does not move, x <- x - eta x/b^2 exp(-x^2 / 2 b^2)."""
    result = flow(MMD(torch.zeros(1, 1), Gaussian(1.5)), torch.ones(1, 1), step_size=0.3, num_steps=20, save_every=1)
    x = 1.0
    for step in range(20):
        assert result.values[step] == pytest.approx(1 - math.exp(-(x**2) / 4.5), abs=1e-6)
        x -= 0.3 * x / 2.25 * math.exp(-(x**2) / 4.5)
        assert result.trajectory[step + 1].item() == pytest.approx(x, abs=1e-6)
    assert result.steps.tolist() == list(range(21))
    assert result.nfe == 20


def test_linear_kernel_contracts_the_mean_in_closed_form():
    """grad f = mean(x) - mean(y) everywhere: all particles move together, the gap shrinks by 1 - eta."""
    y, x = target(), target(10, seed=2) + 3
    result = flow(MMD(y, Linear()), x, step_size=0.1, num_steps=7)
    gap = x.mean(0) - y.mean(0)
    torch.testing.assert_close(result.particles.mean(0) - y.mean(0), gap * 0.9**7)
    torch.testing.assert_close(result.particles - result.particles.mean(0), x - x.mean(0))


def test_values_decrease_and_particles_reach_the_target():
    y = target(200)
    result = flow(MMD(y, Riesz()), y[:100] * 0.1 + 2, step_size=0.2, num_steps=500, save_every=100)
    assert (result.values.diff() < 0).all()
    assert result.values[-1] < 1e-2 * result.values[0]


def test_target_is_a_fixed_point():
    y = target()
    torch.testing.assert_close(flow(MMD(y, Gaussian(1.0)), y, step_size=1.0, num_steps=10).particles, y)


def test_momentum_follows_its_recurrence():
    divergence, x = MMD(target(), Gaussian(1.0)), target(5, seed=2) + 1
    result = flow(divergence, x, step_size=0.5, num_steps=4, momentum=0.7)
    v = torch.zeros_like(x)
    for _ in range(4):
        v = -divergence.velocity(x) + 0.7 * v
        x = x - 0.5 * v
    torch.testing.assert_close(result.particles, x)


def test_momentum_may_pause():
    divergence, x = MMD(target(), Gaussian(1.0)), target(5, seed=2) + 1
    rates = [0.9, 0.0, 0.5, 0.9]
    result = flow(divergence, x, step_size=0.5, num_steps=4, momentum=lambda step: rates[step])
    v = torch.zeros_like(x)
    for rate in rates:
        v = -divergence.velocity(x) + rate * v
        x = x - 0.5 * v
    torch.testing.assert_close(result.particles, x)


def test_noise_injection_evaluates_the_gradient_off_the_support():
    divergence, x = MMD(target(), Gaussian(1.0)), target(5, seed=2)
    result = flow(
        divergence, x, step_size=0.5, num_steps=1, noise_injection=0.3, generator=torch.Generator().manual_seed(5)
    )
    u = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(result.particles, x - 0.5 * divergence.witness(x).grad(x + 0.3 * u))


def test_diffusion_adds_noise_after_the_step():
    divergence, x = MMD(target(), Gaussian(1.0)), target(5, seed=2)
    result = flow(divergence, x, step_size=0.5, num_steps=1, diffusion=0.3, generator=torch.Generator().manual_seed(5))
    u = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(result.particles, x + 0.5 * divergence.velocity(x) + 0.3 * u)


def test_zero_noise_is_the_plain_flow():
    divergence, x = MMD(target(), Laplace(1.0)), target(5, seed=2)
    plain = flow(divergence, x, step_size=0.1, num_steps=5)
    for extra in ({"noise_injection": 0.0}, {"diffusion": 0.0}, {"momentum": 0.0}):
        torch.testing.assert_close(flow(divergence, x, step_size=0.1, num_steps=5, **extra).particles, plain.particles)


def test_schedules_may_be_functions_of_the_step():
    divergence, x = MMD(target(), Gaussian(1.0)), target(5, seed=2)
    result = flow(divergence, x, step_size=lambda step: 0.5 / (step + 1), num_steps=2)
    one = x + 0.5 * divergence.velocity(x)
    torch.testing.assert_close(result.particles, one + 0.25 * divergence.velocity(one))


@pytest.mark.parametrize("kernel", [Gaussian(1.0), Riesz(), Laplace(0.7)])
def test_equivariance_under_isometries(kernel):
    y, x = target(20, 3), target(8, 3, seed=2) + 1
    rotation, _ = torch.linalg.qr(target(3, 3, seed=4))
    shift = torch.tensor([5.0, -2.0, 1.0], dtype=torch.float64)
    moved = flow(MMD(y @ rotation + shift, kernel), x @ rotation + shift, step_size=0.3, num_steps=10).particles
    plain = flow(MMD(y, kernel), x, step_size=0.3, num_steps=10).particles
    torch.testing.assert_close(moved, plain @ rotation + shift, rtol=1e-9, atol=1e-9)


def test_event_shapes_and_dtypes():
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        y, x = target(20, 12).to(dtype), target(8, 12, seed=2).to(dtype)
        flat = flow(MMD(y, Gaussian(2.0)), x, step_size=0.3, num_steps=5).particles
        images = flow(MMD(y.view(-1, 3, 2, 2), Gaussian(2.0)), x.view(-1, 3, 2, 2), step_size=0.3, num_steps=5)
        assert images.particles.shape == (8, 3, 2, 2)
        assert images.particles.dtype == dtype
        torch.testing.assert_close(images.particles.flatten(1), flat, rtol=tolerance, atol=tolerance)


def test_inputs_are_not_modified_and_grad_modes_do_not_matter():
    y, x = target(), target(5, seed=2)
    before = x.clone()
    plain = flow(MMD(y, Gaussian(1.0)), x, step_size=0.3, num_steps=3).particles
    with torch.inference_mode():
        inside = flow(MMD(y.clone(), Gaussian(1.0)), x.clone(), step_size=0.3, num_steps=3).particles
    torch.testing.assert_close(inside, plain)
    assert torch.equal(x, before)
    assert not plain.requires_grad


def test_callback_can_project_and_stop():
    seen = []

    def clamp(step, particles):
        seen.append(step)
        return particles.clamp(-0.5, 0.5)

    divergence = MMD(target() + 3, Gaussian(2.0))
    result = flow(divergence, torch.zeros(4, 2).double(), step_size=5.0, num_steps=10, callback=clamp)
    assert seen == list(range(1, 11))
    assert result.particles.abs().max() <= 0.5
    stopped = flow(divergence, torch.zeros(4, 2).double(), step_size=0.1, num_steps=10, callback=lambda s, x: s == 3)
    assert stopped.nfe == 3
    assert stopped.steps.tolist() == [0, 3]


def test_values_can_be_left_out():
    result = flow(
        MMD(target(), Gaussian(1.0)), target(5, seed=2), step_size=0.1, num_steps=2, save_every=Record(evaluate=False)
    )
    assert result.values.numel() == 0


def test_potential_energy_moves_particles_independently():
    potential = KernelWitness(Gaussian(1.0), target(), torch.full((30,), -1 / 30).double())
    x = target(6, seed=2)
    together = flow(PotentialEnergy(potential, (2,)), x, step_size=0.3, num_steps=5).particles
    alone = torch.cat(
        [flow(PotentialEnergy(potential, (2,)), p[None], step_size=0.3, num_steps=5).particles for p in x]
    )
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"particles": torch.full((3, 2), float("nan"))}, "particles holds 6 NaN or infinite entries"),
        ({"particles": torch.zeros(3, 5)}, r"particles has event shape \[5\]: must be \[2\]"),
        ({"particles": torch.zeros(0, 2)}, r"particles has shape \[0, 2\]"),
        ({"particles": torch.zeros(3, 2, dtype=torch.long)}, "floating dtype"),
        ({"particles": [["a", "b"]]}, "particles: must be a torch tensor, .* got a list of text"),
        ({"num_steps": -1}, "num_steps = -1: must be an integer >= 0"),
        ({"step_size": float("inf")}, "step_size = inf"),
        ({"step_size": "0.1"}, "step_size = '0.1': must be a finite number >= 0"),
        ({"step_size": lambda step: float("nan")}, r"step_size\(0\) = nan"),
        ({"momentum": 1.0}, r"momentum = 1.0: must be a number in \[0, 1\)"),
        ({"momentum": lambda step: 2.0}, r"momentum\(0\) = 2.0: must be a number in"),
        ({"save_every": 0}, "save_every = 0"),
        ({"diffusion": 0.1, "generator": 0}, "generator = 0: must be a torch.Generator"),
        ({"callback": lambda s, x: x[:1]}, r"callback returned shape \[1, 2\]"),
    ],
)
def test_bad_input(change, message, unchecked):
    settings = {"particles": torch.zeros(3, 2), "step_size": 0.1, "num_steps": 2} | change
    with pytest.raises(InputError, match=message):
        flow(MMD(torch.ones(4, 2), Gaussian(1.0)), settings.pop("particles"), **settings)


@pytest.mark.parametrize(
    "bad", [torch.zeros(0, 2), torch.tensor([[float("inf"), 0.0]]), torch.zeros(2, 2, dtype=torch.int)]
)
def test_bad_target(bad, unchecked):
    with pytest.raises(InputError, match="target"):
        MMD(bad, Gaussian(1.0))


def test_explosion_is_told():
    with pytest.raises(DivergedError, match="lower step_size"):
        flow(MMD(torch.zeros(2, 1), Linear()), torch.ones(2, 1), step_size=1e30, num_steps=10)


def test_a_result_is_shown_on_one_line():
    result = flow(MMD(torch.zeros(2, 1), Linear()), torch.ones(3, 1), step_size=1.0, num_steps=4)
    assert repr(result) == "FlowResult([3, 1] particles, 4 steps, nfe 4, F 0.5 -> 0)"
    bare = flow(
        MMD(torch.zeros(2, 1), Linear()),
        torch.ones(3, 1),
        step_size=1.0,
        num_steps=4,
        save_every=Record(evaluate=False),
    )
    assert repr(bare) == "FlowResult([3, 1] particles, 4 steps, nfe 4)"


@pytest.mark.parametrize("case", ["mmd", "sliced", "binned", "adaptive", "dmmd"])
def test_a_step_defines_no_function(monkeypatch, generator, case):
    """The type checks decorate what is defined, which takes longer than a step: as much for two steps as for six."""
    dim = 64 if case == "binned" else 8
    y, x = target(40, dim).float(), target(20, dim, seed=2).float()
    divergence = {
        "mmd": lambda: MMD(y, Gaussian(1.0)),
        "sliced": lambda: SlicedMMD(y, 10, generator=generator),
        "binned": lambda: SlicedMMD(y, 10, directions="structured", ranks="binned", generator=generator),
        "adaptive": lambda: AdaptiveMMD(y, "gradient", kernel=Gaussian),
    }
    pipeline = DMMDPipeline.from_pretrained("digits") if case == "dmmd" else None
    defined, decorate = [], jaxtyping.jaxtyped

    def counted(*args, **kwargs):
        defined[-1] += 1
        return decorate(*args, **kwargs)

    monkeypatch.setattr(jaxtyping, "jaxtyped", counted)
    for steps in (1, 2, 6):  # the first one imports what loads late
        defined.append(0)
        if pipeline is None:
            flow(divergence[case](), x, step_size=0.1, num_steps=steps)
        else:
            pipeline(3, num_levels=steps, generator=generator)
    assert defined[1] == defined[2]
