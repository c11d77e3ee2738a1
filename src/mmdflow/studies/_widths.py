"""Kernel widths that are learned: as a function of the noise level under DMMD's loss, and as one number in an MMD-GAN."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mmdflow import DMMDLoss, Gaussian, KernelWitness, VPSchedule
from mmdflow.divergences.functional import mmd2
from mmdflow.methods.dmmd import LossSettings
from mmdflow.noise import NoiseConditionalGaussian

#: Width that every learned width starts from: that of the noise.
FIRST_WIDTH = 1.0

#: (n, generator) -> n points of a distribution.
Draw: TypeAlias = Callable[[int, torch.Generator], Tensor]


class LearnedWidth(nn.Module):
    """sigma(t; theta) = FIRST_WIDTH exp(net(t, log t)): positive for t in (0, 1], and FIRST_WIDTH at every t to begin with."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        last = nn.Linear(width, 1)
        self.net = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, t: Tensor) -> Tensor:
        """Return the width at noise level t, a scalar each."""
        return FIRST_WIDTH * self.net(torch.stack([2 * t - 1, t.log() + 1])).exp().squeeze()


def learn_width(
    draw: Draw,
    *,
    normalize: bool,
    unit_weight: float,
    num_steps: int,
    num_levels: int,
    events_per_level: int,
    step_size: float,
    t_min: float,
    seed: int,
    progress: bool,
) -> LearnedWidth:
    """Learn sigma(t) on fresh draws of a distribution by DMMD's loss (DMMD paper, Algorithm 1) and Adam with linear decay."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = LearnedWidth()
    moment = float(draw(10_000, generator).square().mean())
    loss = DMMDLoss(
        NoiseConditionalGaussian(width),
        VPSchedule(),
        second_moment=moment,
        settings=LossSettings(num_levels=num_levels, unit_weight=unit_weight, normalize=normalize, t_min=t_min),
    )
    optimiser = torch.optim.Adam(width.parameters(), step_size)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / num_steps)
    label = "DMMD, normalised" if normalize else "DMMD"
    for _ in tqdm(range(num_steps), disable=not progress, desc=label, unit="step"):
        terms = loss(draw(num_levels * events_per_level, generator), generator)
        terms.check_finite()
        optimiser.zero_grad()
        terms.total.backward()
        optimiser.step()
        decay.step()
    return width.requires_grad_(False)


@dataclass(frozen=True)
class TrainedGAN:
    """An MMD-GAN after training: its generator, and the kernel's width after every step."""

    generator: nn.Module
    widths: list[float]

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n generated points."""
        with torch.no_grad():
            return self.generator(torch.randn(n, 2, generator=generator))


def train_mmd_gan(
    draw: Draw,
    *,
    unit_weight: float,
    num_steps: int,
    batch_size: int,
    step_size: float,
    width_step_size: float,
    seed: int,
    progress: bool,
) -> TrainedGAN:
    """Train a generator against the Gaussian kernel whose width maximises MMD^2_u less the gradient penalty (SYSTEMS row 14).

    Binkowski et al. 2018 with the identity for features: width and generator take turns, a step each. The penalty
    (|grad f| - 1)^2 holds at uniform interpolates of generated and target points.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Linear(2, 128), nn.SiLU()]
        for _ in range(2):
            layers += [nn.Linear(128, 128), nn.SiLU()]
        model = nn.Sequential(*layers, nn.Linear(128, 2))
    log_width = torch.tensor(math.log(FIRST_WIDTH), requires_grad=True)
    critic = torch.optim.Adam([log_width], width_step_size, betas=(0.5, 0.9))
    learner = torch.optim.Adam(model.parameters(), step_size, betas=(0.5, 0.9))
    weights = torch.cat([torch.ones(batch_size), -torch.ones(batch_size)]) / batch_size
    widths = []
    for _ in tqdm(range(num_steps), disable=not progress, desc="MMD-GAN", unit="step"):
        y = draw(batch_size, random)
        x = model(torch.randn(batch_size, 2, generator=random)).detach()
        kernel = Gaussian(log_width.exp())
        points = torch.lerp(x, y, torch.rand(batch_size, 1, generator=random)).requires_grad_()
        witness = KernelWitness(kernel, torch.cat([x, y]), weights)
        (gradient,) = torch.autograd.grad(witness(points).sum(), points, create_graph=True)
        slope = (gradient.square().sum(1) + 1e-12).sqrt()
        critic.zero_grad()
        (unit_weight * (slope - 1).square().mean() - mmd2(x, y, kernel)).backward()
        critic.step()
        widths.append(float(log_width.detach().exp()))

        x = model(torch.randn(batch_size, 2, generator=random))
        learner.zero_grad()
        mmd2(x, draw(batch_size, random), Gaussian(widths[-1])).backward()
        learner.step()
    return TrainedGAN(model, widths)
