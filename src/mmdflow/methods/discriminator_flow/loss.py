"""The training of a discriminator on the trajectories of its own flow (Franceschi et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmdflow._settings import part
from mmdflow._tensors import device_of, normal_like
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.gradients import segment_points, slope_penalty
from mmdflow.methods._shared.networks import check_scalar
from mmdflow.methods._shared.pool import ParticlePool
from mmdflow.methods._shared.terms import StepTerms
from mmdflow.methods.discriminator_flow.flow import OBJECTIVES, discriminator_step, levels
from mmdflow.methods.discriminator_flow.settings import DiscriminatorFlow, DiscriminatorFlowLossSettings


@dataclass(frozen=True)
class DiscriminatorTerms(StepTerms):
    """The loss of a step and its parts.

    Attributes:
        levels: the noise level t of every particle, [B].
        gaps: D of the particle less D of its sample of the target, [B].
        penalties: the gradient penalty, unweighted, [B].
        slopes: |grad D| at the points of the penalty, [B].
    """

    parts = ("gaps", "penalties")
    levels: Float[Tensor, " B"]
    gaps: Float[Tensor, " B"]
    penalties: Float[Tensor, " B"]
    slopes: Float[Tensor, " B"]

    def scalars(self) -> dict[str, float]:
        """Return the loss, penalty and slope, and the mean gap of the early (t > 1/2) and the late half of the flow.

        The late gap goes to 0 as the flow reaches the target; where it does not, particles do not arrive.
        """
        early = self.levels > 0.5
        halves = {"gap_early": self.gaps[early], "gap_late": self.gaps[~early]}
        means = {"penalty": self.penalties, "slope": self.slopes} | {k: half for k, half in halves.items() if len(half)}
        return super().scalars() | {name: float(values.mean()) for name, values in means.items()}

    def message(self, part: str) -> str:
        """Return the first noise level at which a part is not finite, and what helps."""
        level = self.levels[~torch.isfinite(getattr(self, part))][0]
        advice = "lower step_size of the flow, or raise penalty_weight"
        return f"{super().message(part)} at noise level t = {level:.4f}: {advice}"


class DiscriminatorFlowLoss(nn.Module):
    r"""E_i [ loss of D(x_i, t_i) on particles + loss of D(y, t_i) on the target + lambda (|grad D(z, t_i)| - s)^2 ].

    x_i is a particle that the current discriminator has moved for i steps of `DiscriminatorFlow`, i uniform in 0, ..., n - 1,
    with no gradient through its way; z is uniform between x_i and y (Franceschi et al. 2023, discriminator flow; Gulrajani et
    al. 2017 for the penalty). D is high on particles and low on the target, the sign of a witness:

    * ``"ipm"``: loss d(y) - d(x); particles descend d.
    * ``"vanilla"``: log(1 + e^-d(x)) + log(1 + e^d(y)), -d being the logit of the target; particles descend log(1 + e^d).
    * ``"hinge"``: max(0, 1 - d(x)) + max(0, 1 + d(y)); particles descend d.

    Where the particles come from:

    * ``"fresh"`` (the paper): every training step flows new ones from N(0, I), n/2 evaluations on average.
    * ``"pool"`` (ours): as many particles as `pool_size` are kept, at all stages of the flow; each makes one step a training
      step and begins anew at the end. One evaluation a training step, and at every i the particles are new ones; a particle
      at i was moved by the discriminators of the last i training steps instead of the current one.

    Args:
        network: D, a network of one feature.
        settings: the flow and the loss.
        pool_size: particles that are kept.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> loss = DiscriminatorFlowLoss(MLPFeatures((2,), 1, "flat"))
        >>> sorted(loss(torch.zeros(8, 2), torch.Generator().manual_seed(0)).scalars())
        ['gap_early', 'gap_late', 'loss', 'penalty', 'slope']
    """

    def __init__(
        self,
        network: FeatureNetwork,
        settings: DiscriminatorFlowLossSettings | None = None,
        *,
        pool_size: int = 128,
    ) -> None:
        super().__init__()
        self.network = check_scalar(network)
        self.settings = settings = settings or DiscriminatorFlowLossSettings()
        self.flow = part(DiscriminatorFlow, settings)
        like = next(network.parameters()).new_empty(0, *network.event_shape)
        self.pool = ParticlePool(pool_size, settings.num_steps, like) if settings.trajectories == "pool" else None

    def forward(
        self, target: Float[Tensor, "B *event"], generator: torch.Generator | None = None
    ) -> DiscriminatorTerms:
        """Return the loss of a batch of target samples; `generator` draws particles, steps, noise and interpolates."""
        learning = torch.is_grad_enabled()
        particles, index = self._draw(target, generator)
        target = target[torch.arange(len(particles), device=target.device) % len(target)]
        t, objective = levels(self.flow, index, target), OBJECTIVES[self.flow.objective]
        of_particles, of_target = self.network(torch.cat([particles, target]), t.repeat(2))[:, 0].chunk(2)
        losses = objective.on_particles(of_particles) + objective.on_data(of_target)
        penalties, slopes = torch.zeros_like(t), torch.zeros_like(t)
        if self.settings.penalty_weight:
            points = segment_points(particles, target, generator)
            penalties, slopes = slope_penalty(
                lambda z: self.network(z, t)[:, 0], points, self.settings.penalty_slope, learning=learning
            )
        total = (losses + self.settings.penalty_weight * penalties).mean()
        gaps = (of_particles - of_target).detach()
        return DiscriminatorTerms(total, t, gaps, penalties.detach(), slopes)

    def _draw(self, target: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Int[Tensor, " n"]]:
        """Return particles of the flow and how many steps each has made."""
        if self.pool is None:
            return self._fresh(target, generator)
        particles, index = self.pool.draw(normal_like(self.pool.particles, generator))
        self.pool.store(discriminator_step(self.flow, self.network, particles, index, generator), index)
        return particles, index

    def _fresh(self, target: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Int[Tensor, " n"]]:
        particles, device = normal_like(target, generator), device_of(generator, target.device)
        index = torch.randint(self.flow.num_steps, (len(target),), generator=generator, device=device).to(target.device)
        index = index.sort(descending=True).values  # those that still move come first
        for i in range(int(index[0])):
            moving = int((index > i).sum())
            x, now = particles[:moving], index.new_full((moving,), i)
            particles = torch.cat([discriminator_step(self.flow, self.network, x, now, generator), particles[moving:]])
        return particles, index
