"""The training of a density-ratio estimator on particles that it has moved itself (Heng et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._tensors import along, device_of, normal_like
from mmdflow.errors import DivergedError
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.gradients import slope_penalty
from mmdflow.methods._shared.networks import check_scalar
from mmdflow.methods._shared.pool import ParticlePool
from mmdflow.methods.density_ratio.bregman import BREGMAN, check_pair
from mmdflow.methods.density_ratio.flow import RatioFlow, estimate
from mmdflow.methods.density_ratio.prior import GaussianPrior

TRAJECTORIES = ("pool", "fresh")


@dataclass(frozen=True)
class RatioTerms:
    """The loss of a step and its parts.

    Attributes:
        total: the scalar to minimise.
        bregman: the estimator's loss.
        penalty: mean squared slope of d, unweighted.
        slope: mean slope.
        on_particles: mean of d over the particles that were trained on.
        on_target: mean of d over the target.
    """

    total: Float[Tensor, ""]
    bregman: Float[Tensor, ""]
    penalty: Float[Tensor, ""]
    slope: Float[Tensor, ""]
    on_particles: Float[Tensor, ""]
    on_target: Float[Tensor, ""]

    def scalars(self) -> dict[str, float]:
        """Return the parts; `gap`, d on particles less d on the target, goes to 0 as particles reach the target."""
        return {
            "loss": float(self.total.detach()),
            "bregman": float(self.bregman),
            "penalty": float(self.penalty),
            "slope": float(self.slope),
            "gap": float(self.on_particles - self.on_target),
        }

    def check_finite(self) -> None:
        """Raise `DivergedError` naming the part that is not finite."""
        if bool(torch.isfinite(self.total)):
            return
        for name in ("on_particles", "on_target", "bregman", "penalty"):
            if not bool(torch.isfinite(getattr(self, name))):
                raise DivergedError(
                    f"loss term {name} became non-finite: lower step_size of the flow, or raise penalty_weight"
                )
        raise DivergedError("the loss became non-finite although every term is finite")


class DensityRatioLoss(nn.Module):
    r"""E_q [loss of d(x)] + E_p [loss of d(y)] + lambda E |grad d(z)|^2, a Bregman loss of the ratio r = q / p.

    p is the target and q the law of particles that the current estimator, held fixed, has moved down `RatioFlow` from a
    Gaussian fitted to the target (Heng et al. 2023). With d the network:

    * ``"lr"``: E_q log(1 + e^-d) + E_p log(1 + e^d), logistic regression, d = log r.
    * ``"kl"``: E_p e^d - E_q d, d = log r.
    * ``"lsif"``: E_p d^2 / 2 - E_q d, least squares, d = r.

    Whose law q is:

    * ``"fresh"`` (the paper): the law of new particles after all K steps; K evaluations a training step.
    * ``"pool"`` (ours): the mean law over the steps k = 0, ..., K - 1, of as many kept particles as `pool_size`, each of which
      makes one step a training step and begins anew at the end; one evaluation a training step. The estimator so is trained
      wherever particles pass, not where they end alone.

    Args:
        network: d, a network of one feature.
        prior: the source of the particles.
        num_steps: K.
        step_size: eta.
        noise: nu.
        bregman: "lr", "kl" or "lsif".
        divergence: "kl", "js" or "logd"; "pearson" with lsif.
        penalty_weight: lambda, of the squared slope at points between particles and target. Ours, in the place of the
            paper's spectral normalisation, which also bounds the slope.
        target_noise: standard deviation of noise on the target's samples, 0.03 in the authors' code for images.
        trajectories: "pool" or "fresh".
        pool_size: particles that are kept.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        prior: GaussianPrior,
        *,
        num_steps: int = 100,
        step_size: float = 3.0,
        noise: float = 0.01,
        bregman: str = "lr",
        divergence: str = "kl",
        penalty_weight: float = 0.0,
        target_noise: float = 0.0,
        trajectories: str = "pool",
        pool_size: int = 128,
    ) -> None:
        super().__init__()
        self.network, self.prior = check_scalar(network), prior
        check_pair(bregman, divergence)
        self.flow, self.bregman = RatioFlow(num_steps, step_size, noise, divergence), bregman
        self.penalty_weight = _checks.non_negative("penalty_weight", penalty_weight)
        self.target_noise = _checks.non_negative("target_noise", target_noise)
        _checks.choice("trajectories", trajectories, TRAJECTORIES)
        like = next(network.parameters()).new_empty(0, *network.event_shape)
        self.pool = ParticlePool(pool_size, num_steps, like) if trajectories == "pool" else None

    def forward(self, target: Float[Tensor, "B *event"], generator: torch.Generator | None = None) -> RatioTerms:
        """Return the loss of a batch of target samples; `generator` draws the source, noise and interpolates."""
        learning = torch.is_grad_enabled()
        particles = self._draw(len(target), generator)
        target = target[torch.arange(len(particles), device=target.device) % len(target)]
        if self.target_noise:
            target = target + self.target_noise * normal_like(target, generator)
        of_particles, of_target = estimate(self.network, torch.cat([particles, target])).chunk(2)
        loss = BREGMAN[self.bregman]
        bregman = loss.on_particles(of_particles).mean() + loss.on_target(of_target).mean()
        penalties = slopes = torch.zeros_like(of_target)
        if self.penalty_weight:
            device = device_of(generator, target.device)
            weight = torch.rand(len(target), generator=generator, device=device, dtype=target.dtype).to(target.device)
            points = torch.lerp(particles, target, along(weight, target))
            penalties, slopes = slope_penalty(lambda z: estimate(self.network, z), points, 0.0, learning=learning)
        return RatioTerms(
            total=bregman + self.penalty_weight * penalties.mean(),
            bregman=bregman.detach(),
            penalty=penalties.detach().mean(),
            slope=slopes.detach().mean(),
            on_particles=of_particles.detach().mean(),
            on_target=of_target.detach().mean(),
        )

    def _draw(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Return particles to train on."""
        if self.pool is None:
            particles = self.prior.sample(count, generator)
            for moved in self.flow.steps(self.network, particles, generator):
                particles = moved
            return particles
        particles, index = self.pool.draw(self.prior.sample(len(self.pool.index), generator))
        self.pool.store(self.flow.step(self.network, particles, generator), index)
        return particles
