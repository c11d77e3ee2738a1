"""The training of a density-ratio estimator on particles that it has moved itself (Heng et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow._settings import part
from mmdflow._tensors import normal_like
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.gradient_flow import flow_states
from mmdflow.methods._shared.gradients import segment_points, slope_penalty
from mmdflow.methods._shared.networks import check_scalar
from mmdflow.methods._shared.pool import ParticlePool
from mmdflow.methods._shared.terms import StepTerms
from mmdflow.methods.density_ratio.bregman import BREGMAN
from mmdflow.methods.density_ratio.flow import estimate, ratio_step
from mmdflow.methods.density_ratio.prior import GaussianPrior
from mmdflow.methods.density_ratio.settings import DensityRatioLossSettings, RatioFlow


@dataclass(frozen=True)
class RatioTerms(StepTerms):
    """The loss of a step and its parts.

    Attributes:
        bregman: the estimator's loss.
        penalty: mean squared slope of d, unweighted.
        slope: mean slope.
        on_particles: mean of d over the particles that were trained on.
        on_target: mean of d over the target.
    """

    parts = ("on_particles", "on_target", "bregman", "penalty")
    bregman: Float[Tensor, ""]
    penalty: Float[Tensor, ""]
    slope: Float[Tensor, ""]
    on_particles: Float[Tensor, ""]
    on_target: Float[Tensor, ""]

    def scalars(self) -> dict[str, float]:
        """Return the parts; `gap`, d on particles less d on the target, goes to 0 as particles reach the target."""
        means = {name: float(getattr(self, name)) for name in ("bregman", "penalty", "slope")}
        return super().scalars() | means | {"gap": float(self.on_particles - self.on_target)}

    def message(self, part: str) -> str:
        """Return which part is not finite, and what helps."""
        return f"{super().message(part)}: lower step_size of the flow, or raise penalty_weight"


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
        settings: the flow and the loss; its prior is that of the argument.
        pool_size: particles that are kept.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> loss = DensityRatioLoss(MLPFeatures((2,), 1, "flat"), GaussianPrior((2,), "standard"))
        >>> sorted(loss(torch.zeros(8, 2), torch.Generator().manual_seed(0)).scalars())
        ['bregman', 'gap', 'loss', 'penalty', 'slope']
    """

    def __init__(
        self,
        network: FeatureNetwork,
        prior: GaussianPrior,
        settings: DensityRatioLossSettings | None = None,
        *,
        pool_size: int = 128,
    ) -> None:
        super().__init__()
        self.network, self.prior = check_scalar(network), prior
        self.settings = settings = settings or DensityRatioLossSettings()
        self.flow = part(RatioFlow, settings)
        like = next(network.parameters()).new_empty(0, *network.event_shape)
        self.pool = ParticlePool(pool_size, settings.num_steps, like) if settings.trajectories == "pool" else None

    def forward(self, target: Float[Tensor, "B *event"], generator: torch.Generator | None = None) -> RatioTerms:
        """Return the loss of a batch of target samples; `generator` draws the source, noise and interpolates."""
        learning = torch.is_grad_enabled()
        particles = self._draw(len(target), generator)
        target = target[torch.arange(len(particles), device=target.device) % len(target)]
        if self.settings.target_noise:
            target = target + self.settings.target_noise * normal_like(target, generator)
        of_particles, of_target = estimate(self.network, torch.cat([particles, target])).chunk(2)
        loss = BREGMAN[self.settings.bregman]
        bregman = loss.on_particles(of_particles).mean() + loss.on_target(of_target).mean()
        penalties = slopes = torch.zeros_like(of_target)
        if self.settings.penalty_weight:
            points = segment_points(particles, target, generator)
            penalties, slopes = slope_penalty(lambda z: estimate(self.network, z), points, 0.0, learning=learning)
        return RatioTerms(
            total=bregman + self.settings.penalty_weight * penalties.mean(),
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
            for moved in flow_states(ratio_step, self.flow, self.network, particles, generator):
                particles = moved
            return particles
        particles, index = self.pool.draw(self.prior.sample(len(self.pool.index), generator))
        self.pool.store(ratio_step(self.flow, self.network, particles, index, generator), index)
        return particles
