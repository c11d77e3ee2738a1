import math

import pytest
import torch

from mmdflow import (
    CosineSchedule,
    DDPMSchedule,
    Gaussian,
    InputError,
    LinearSchedule,
    NoiseConditionalKernel,
    VPSchedule,
)
from mmdflow.noise import SCHEDULES, NoiseConditionalGaussian, schedule

T = torch.linspace(0, 1, 101, dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
def test_from_clean_to_noise(name):
    path = schedule(name)
    alpha, sigma = path.alpha(T), path.sigma(T)
    assert (alpha.diff() <= 0).all()
    assert (sigma.diff() >= 0).all()
    assert alpha[0] == 1
    assert sigma[0] == 0
    assert alpha[-1] < 0.01
    assert sigma[-1] > 0.99
    if name != "linear":
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(T))


def test_vp_formula():
    t = torch.tensor(0.3, dtype=torch.float64)
    integral = 0.1 * 0.3 + (20 - 0.1) * 0.3**2 / 2
    assert VPSchedule().alpha(t).item() == pytest.approx(math.exp(-integral / 2), rel=1e-12)
    assert VPSchedule().sigma(t).item() == pytest.approx(math.sqrt(1 - math.exp(-integral)), rel=1e-12)


def test_ddpm_equals_the_products_of_its_betas():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    expected = torch.cumprod(1 - betas, 0).sqrt()
    at = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(DDPMSchedule().alpha(at), expected, rtol=1e-9, atol=1e-12)


def test_ddpm_equals_diffusers():
    diffusers = pytest.importorskip("diffusers")
    cumulative = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear").alphas_cumprod.double()
    at = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(DDPMSchedule().alpha(at) ** 2, cumulative, rtol=1e-4, atol=1e-7)


def test_cosine_formula():
    f = [math.cos((t + 0.008) / 1.008 * math.pi / 2) for t in (0.0, 0.4)]
    assert CosineSchedule().alpha(torch.tensor(0.4, dtype=torch.float64)).item() == pytest.approx(
        f[1] / f[0], rel=1e-12
    )


def test_displacement_is_the_distance_walked(generator):
    x = torch.rand(4000, 5, dtype=torch.float64, generator=generator) * 2 - 1
    noise = torch.randn(4000, 5, dtype=torch.float64, generator=generator)
    for path in (VPSchedule(), LinearSchedule()):
        t = torch.tensor(0.4, dtype=torch.float64)
        rms = (path.add_noise(x, noise, t.expand(len(x))) - x).square().mean().sqrt()
        assert path.displacement(t, float(x.square().mean())).item() == pytest.approx(rms.item(), rel=0.02)


def test_noise_conditional_kernels(generator):
    x = torch.randn(4, 3, generator=generator)
    kernel = NoiseConditionalKernel(lambda x, t: x * (1 + t[:, None]))
    torch.testing.assert_close(kernel.at(0.5)(x, x), 2.25 * x @ x.T)
    width = NoiseConditionalGaussian(lambda t: 0.1 * (1 - t) + 0.5 * t)
    torch.testing.assert_close(width.at(0.5)(x, x), Gaussian(0.3)(x, x))
    with pytest.raises(InputError, match="t = 1.5"):
        kernel.at(1.5)


def test_unknown_schedule_suggests():
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        schedule("cosin")
