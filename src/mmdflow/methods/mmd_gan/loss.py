"""The game of MMD-GAN, a turn at a time (Li et al. 2017; Binkowski et al. 2018; Arbel et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks, ops
from mmdflow._tensors import normal_like
from mmdflow.divergences.functional import mmd2_by_sums
from mmdflow.errors import DivergedError, InputError
from mmdflow.features import FeatureNetwork
from mmdflow.kernels import Kernel
from mmdflow.methods._shared.gradients import segment_points
from mmdflow.methods._shared.networks import check_event_map, frozen, generate as generate
from mmdflow.methods._shared.terms import StepTerms
from mmdflow.methods.mmd_gan.critic import features_of
from mmdflow.methods.mmd_gan.settings import MMDGANLossSettings


@dataclass(frozen=True)
class MMDGANTerms(StepTerms):
    """The loss of a turn, which its player minimises; in the generator's turn, penalty, slope and l2 are of the critic's latest.

    Attributes:
        critic: whether it is the critic's turn.
        mmd2: the unbiased MMD^2 between generated and clean events.
        penalty: mean (|grad f| - 1)^2 on the segments.
        slope: mean |grad f| there; near 1 when the critic is healthy.
        l2: mean squared feature.
    """

    critic: bool
    mmd2: float
    penalty: float
    slope: float
    l2: float

    def scalars(self) -> dict[str, float]:
        """Return the parts, which mean the same in the turns of both."""
        return {"mmd2": self.mmd2, "penalty": self.penalty, "slope": self.slope, "l2": self.l2}

    def check_finite(self) -> None:
        """Raise `DivergedError` naming the player whose loss is not finite."""
        if not bool(torch.isfinite(self.total)):
            raise DivergedError(f"the {_name(self.critic)}'s loss became non-finite")


class MMDGANLoss(nn.Module):
    r"""The game for the MMD^2 of k(x, y) = base(phi(x), phi(y)) between generated and clean events, which phi raises.

    * The critic's turn: -MMD^2_u + penalty_weight E (|grad f(x~)| - 1)^2 + l2_weight E phi^2, with the witness
      f(z) = mean k(z, generated) - mean k(z, clean), the gradient reaching both means, and x~ uniform on the segment from a
      clean to a generated event (Binkowski et al. 2018; DMMD paper, section 2, for the l2 term).
    * The generator's turn: MMD^2_u. It maps z ~ N(0, I) of the event's shape to an event.

    Every call that learns is one turn: `critic_steps` of the critic, then one of the generator. The other player is left out
    of the graph, so that an optimiser which skips parameters without gradients leaves it as it is.

    Args:
        generator: a feature network whose output is one event (squared-residual head, num_features = 1).
        critic: phi.
        base: the kernel on features.
        settings: the turns, and the weights of the penalties.
        bound: of the entries that are generated, through tanh; None for none.

    Raises:
        InputError: for networks that do not fit each other.

    Example:
        >>> from mmdflow import Linear
        >>> from mmdflow.features import MLPFeatures
        >>> loss = MMDGANLoss(MLPFeatures((2,), 1), MLPFeatures((2,), 4, "flat"), Linear())
        >>> loss(torch.zeros(8, 2), torch.Generator().manual_seed(0)).critic
        True
    """

    turn: Tensor
    latest: Tensor

    def __init__(
        self,
        generator: FeatureNetwork,
        critic: FeatureNetwork,
        base: Kernel,
        settings: MMDGANLossSettings | None = None,
        *,
        bound: float | None = None,
    ) -> None:
        super().__init__()
        check_networks(generator, critic)
        self.networks, self.base = nn.ModuleDict({"generator": generator, "critic": critic}), base
        self.settings = settings or MMDGANLossSettings()
        self.bound = None if bound is None else _checks.positive("bound", bound)
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))
        self.register_buffer("latest", torch.zeros(3))  # penalty, slope and l2 of the critic's latest turn

    @property
    def generator(self) -> FeatureNetwork:
        """The network that makes events of noise."""
        return player(self.networks, "generator")

    @property
    def critic(self) -> FeatureNetwork:
        """The network that gives the features."""
        return player(self.networks, "critic")

    def parameter_groups(self) -> Sequence[tuple[nn.Module, float]]:
        """Return both networks with the factors of their step sizes."""
        return [(self.generator, 1.0), (self.critic, self.settings.critic_step_factor)]

    def forward(self, clean: Float[Tensor, "B *event"], generator: torch.Generator | None = None) -> MMDGANTerms:
        """Return the loss of the next turn on a batch of at least 2 clean events; `generator` draws noise and segments."""
        learning = torch.is_grad_enabled()
        noise = normal_like(clean, generator)
        turns = self.settings.critic_steps
        critics = int(self.turn) % (turns + 1) < turns
        with torch.enable_grad():  # the penalty needs the gradient in x even where nothing is learned
            terms = self._critic_turn(clean, noise, generator) if critics else self._generator_turn(clean, noise)
        if learning:
            self.turn += 1
        return terms

    def _critic_turn(self, clean: Tensor, noise: Tensor, generator: torch.Generator | None) -> MMDGANTerms:
        with torch.no_grad():
            made = generate(self.generator, noise, self.bound)
        points = segment_points(clean, made, generator).requires_grad_()
        phi, phi_points = self._features(torch.cat([made, clean])), self._features(points)
        with torch.autocast(clean.device.type, enabled=False):  # it is for the networks alone
            gain = self._mmd2(phi)
            weights = torch.cat([clean.new_full((len(clean),), sign / len(clean)) for sign in (1.0, -1.0)])
            witness = ops.kernel_sum(self.base, phi_points, phi, weights)
            (gradient,) = torch.autograd.grad(witness.sum(), points, create_graph=True)
            slope = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
            penalty = (slope - 1).square().mean()
            l2 = phi.square().mean()
            total = -gain + self.settings.penalty_weight * penalty + self.settings.l2_weight * l2
        self.latest = torch.stack([penalty, slope.mean(), l2]).detach().to(self.latest)
        return self._terms(total, gain, critic=True)

    def _generator_turn(self, clean: Tensor, noise: Tensor) -> MMDGANTerms:
        with frozen(self.critic):
            phi = self._features(torch.cat([generate(self.generator, noise, self.bound), clean]))
        with torch.autocast(clean.device.type, enabled=False):
            gain = self._mmd2(phi)
        return self._terms(gain, gain, critic=False)

    def _features(self, x: Tensor) -> Tensor:
        phi = features_of(self.critic, x)
        if not _checks.all_finite(phi):
            raise DivergedError("the critic's features became non-finite")
        return phi

    def _mmd2(self, phi: Tensor) -> Tensor:
        """Return the unbiased MMD^2 between the features of generated events and of clean ones, which are the second half."""
        made, clean = phi.chunk(2)
        return mmd2_by_sums(made, clean, self.base)

    def _terms(self, total: Tensor, gain: Tensor, *, critic: bool) -> MMDGANTerms:
        penalty, slope, l2 = self.latest.tolist()
        return MMDGANTerms(total, critic, float(gain.detach()), penalty, slope, l2)


def check_networks(generator: FeatureNetwork, critic: FeatureNetwork) -> None:
    """Raise InputError unless the generator's output is one event, and the critic takes such events with a true gradient."""
    check_event_map(generator, "generator")
    if critic.event_shape != generator.event_shape:
        raise InputError(
            f"critic has event_shape = {list(critic.event_shape)}: must be {list(generator.event_shape)}, the generator's"
        )


def player(networks: nn.ModuleDict, name: str) -> FeatureNetwork:
    """Return the generator or the critic."""
    network = networks[name]
    assert isinstance(network, FeatureNetwork)
    return network


def _name(critic: bool) -> str:
    return "critic" if critic else "generator"
