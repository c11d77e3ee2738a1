"""The steps of JKO-Flow: for every map of the chain a min-max over the map and a potential (Fan et al. 2022, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._tensors import device_of, normal_like
from mmdflow.errors import DivergedError, InputError
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.networks import check_event_map, frozen
from mmdflow.methods._shared.terms import StepTerms
from mmdflow.methods.jko.chain import move, push
from mmdflow.methods.jko.forms import FORMS
from mmdflow.methods.jko.settings import JKOLossSettings

_CHUNK = 512  # particles pushed through the chain at once


@dataclass(frozen=True)
class JKOTerms(StepTerms):
    """The loss of a step: of the map (in its turns) plus of the potential.

    Attributes:
        transport: E |x - T(x)|^2 / (2a), with a the JKO step.
        divergence: E A(h(T(x))) - E B(h(y)), a lower bound of F up to sampling.
        penalty: the penalty on the slope of h.
        on_particles: mean of h at the particles.
        on_target: mean of h at the target.
        stage: the map that is being trained.
    """

    parts = ("transport", "divergence", "penalty", "total")
    transport: Float[Tensor, ""]
    divergence: Float[Tensor, ""]
    penalty: Float[Tensor, ""]
    on_particles: Float[Tensor, ""]
    on_target: Float[Tensor, ""]
    stage: int

    def scalars(self) -> dict[str, float]:
        """Return the parts, and the stage; `objective` is that of the JKO step, transport + divergence."""
        parts = {
            "objective": self.transport + self.divergence,
            "transport": self.transport,
            "divergence": self.divergence,
            "penalty": self.penalty,
            "potential_on_particles": self.on_particles,
            "potential_on_target": self.on_target,
        }
        return {name: float(value) for name, value in parts.items()} | {"stage": float(self.stage)}

    def check_finite(self) -> None:
        """Raise `DivergedError` naming the stage and the first part that is not finite, also where the total does not hold it."""
        for name in self.parts:
            if not bool(torch.isfinite(getattr(self, name))):
                raise DivergedError(f"the {name} of the loss became non-finite at stage {self.stage}")


class JKOLoss(nn.Module):
    r"""The min-max of one JKO step after the other.

    Stage l takes P_l to P_{l+1} = argmin_P W_2^2(P_l, P) / (2a) + F(P) by

        min_T max_h E_{x ~ P_l} [|x - T(x)|^2 / (2a) + A(h(T(x)))] - E_{y ~ Q} B(h(y)),

    P_{l+1} = T # P_l, with F = sup_h E A(h) - E B(h) one of `FORMS` (Fan et al. 2022, Algorithm 1). P_l is a pool of particles,
    drawn anew from N(0, I) when the stage is entered, and pushed through the maps that are done. The potential h goes on from one
    stage to the next, where it fits, as a map starts at the identity. It learns in every step, the map in each `dual_steps`-th;
    neither has a gradient of the other's objective.

    Args:
        maps: the chain T_0, T_1, ...: networks with the squared-residual head and num_features = 1; identities at first (see
            `start_at_identity`).
        dual: h, a network with num_features = 1.
        settings: the steps and turns; the number of stages is that of the maps.
        clip: bound on the entries of T(x), in the model's units; none when None.

    Raises:
        InputError: for no maps, maps or a potential of another shape, or impossible settings.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> from mmdflow.methods.jko import JKOLossSettings
        >>> maps, dual = [MLPFeatures((2,), 1)], MLPFeatures((2,), 1, "flat")
        >>> loss = JKOLoss(maps, dual, JKOLossSettings(pool_size=100))
        >>> loss(torch.zeros(8, 2), torch.Generator().manual_seed(0)).scalars()["stage"]
        0.0
    """

    pool: Tensor
    stage: Tensor
    turn: Tensor

    def __init__(
        self,
        maps: Sequence[FeatureNetwork],
        dual: FeatureNetwork,
        settings: JKOLossSettings | None = None,
        *,
        clip: float | None = None,
    ) -> None:
        super().__init__()
        self.num_stages = _checks.count("number of maps", len(maps))
        if {network.event_shape for network in maps} != {dual.event_shape} or dual.num_features != 1:
            shapes = [list(network.event_shape) for network in (*maps, dual)]
            raise InputError(
                f"event shapes of maps and dual {shapes}, dual.num_features = {dual.num_features}: must be one shape, and 1"
            )
        self.maps = nn.ModuleDict({str(i): check_event_map(network) for i, network in enumerate(maps)})
        self.dual = dual
        self.settings = settings or JKOLossSettings()
        self.form = FORMS[self.settings.divergence]
        self.clip = None if clip is None else _checks.positive("clip", clip)
        like = next(dual.parameters())
        self.register_buffer("pool", like.new_zeros(self.settings.pool_size, *dual.event_shape))
        self.register_buffer("stage", torch.tensor(-1))  # before the first
        self.register_buffer("turn", torch.tensor(0))

    def parameter_groups(self) -> list[tuple[nn.Module, float]]:
        """Return the maps and the potential, each with the factor of its step size."""
        return [(self.maps, 1.0), (self.dual, self.settings.dual_factor)]

    @torch.no_grad()
    def enter(self, stage: int, generator: torch.Generator | None) -> None:
        """Go on to a stage: draw its pool, and push it through the maps that are done."""
        done = list(self.maps.values())[:stage]
        for part in self.pool.split(_CHUNK):
            x = normal_like(part, generator)
            for moved in push(done, x, self.clip):
                x = moved
            part.copy_(x)
        self.stage.fill_(stage)
        self.turn.zero_()

    def forward(self, target: Float[Tensor, "B *event"], generator: torch.Generator | None = None) -> JKOTerms:
        """Return the loss of a batch of the target; `generator` draws as many particles of the pool."""
        if int(self.stage) < 0:
            self.enter(0, generator)
        device = device_of(generator, self.pool.device)
        rows = torch.randint(len(self.pool), (len(target),), generator=generator, device=device)
        self.turn += 1
        return self.terms(
            self.pool[rows.to(self.pool.device)], target, moves=int(self.turn) % self.settings.dual_steps == 0
        )

    def terms(self, x: Float[Tensor, "n *event"], target: Float[Tensor, "B *event"], *, moves: bool = True) -> JKOTerms:
        """Return the loss at given particles of P_l and events of Q; `moves` says whether it is the map's turn, too."""
        network = self.maps[str(int(self.stage))]
        assert isinstance(network, FeatureNetwork)
        with torch.set_grad_enabled(moves and torch.is_grad_enabled()):
            moved = move(network, x, self.clip)
            transport = (x - moved).square().flatten(1).sum(1).mean() / (2 * self.settings.jko_step)
        points = torch.cat([moved.detach(), target])
        values, penalty = self._potential_and_penalty(points)
        at_particles, at_target = values.split([len(x), len(target)])
        divergence = self.form.on_particles(at_particles).mean() - self.form.on_target(at_target).mean()
        total = self.settings.penalty * penalty - divergence
        if moves:
            with frozen(self.dual):
                total = total + transport + self.form.descent(self._potential(moved)).mean()
        return JKOTerms(
            total,
            transport.detach(),
            divergence.detach(),
            penalty.detach(),
            at_particles.detach().mean(),
            at_target.detach().mean(),
            int(self.stage),
        )

    def _potential(self, x: Tensor) -> Tensor:
        values: Tensor = self.dual(x, x.new_zeros(len(x)))
        return values[:, 0]

    def _potential_and_penalty(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return h, and its mean squared slope; 0 where the slope is not penalised."""
        if not self.settings.penalty:
            return self._potential(points), points.new_zeros(())
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            points = points.requires_grad_()
            values = self._potential(points)
            (slope,) = torch.autograd.grad(values.sum(), points, create_graph=learning)
        return values, slope.square().flatten(1).sum(1).mean()
