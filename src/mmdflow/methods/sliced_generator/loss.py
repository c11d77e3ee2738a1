"""Training of the chain of networks: each learns the displacement of particles in a sliced MMD flow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._tensors import device_of
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.networks import check_event_map
from mmdflow.methods._shared.terms import StepTerms
from mmdflow.methods.sliced_generator.chain import Source, advance, displacement, enlarge
from mmdflow.methods.sliced_generator.settings import Simulation, SlicedGeneratorLossSettings
from mmdflow.methods.sliced_generator.simulation import simulate, sliced_divergence

#: The last network is left out if it was fitted for less than this share of the steps of the one before: time was up.
LEAST_FIT = 0.25


@dataclass(frozen=True)
class SlicedGeneratorTerms(StepTerms):
    """The loss of a step, the mean of `errors` in units of that of Phi = 0.

    Attributes:
        errors: mean of |Phi(x) - displacement|^2, or of its absolute value, over an event's entries, [B].
        stage: the network that is fitted, l.
        displacement: root mean square of the displacements' entries.
        start: F at the particles that the chain gives this network.
        end: F at the particles after their flow, which a perfect network would reach.
    """

    parts = ("total",)
    errors: Float[Tensor, " B"]
    stage: int
    displacement: float
    start: float
    end: float

    def scalars(self) -> dict[str, float]:
        """Return the loss, the network's number, how far its particles moved, and F where the move starts and ends."""
        return super().scalars() | {
            "network": float(self.stage),
            "displacement": self.displacement,
            "mmd_start": self.start,
            "mmd_end": self.end,
        }

    def message(self, part: str) -> str:
        """Return the network whose loss is not finite."""
        return f"the loss of network {self.stage} became non-finite"


class SlicedGeneratorLoss(nn.Module):
    r"""Fit network l to the displacement of particles under T_l steps of the sliced MMD flow, one network after the other.

    In stage l (paper, section 4 and algorithm 2, with the sign of the displacement turned round):

    1. x^l = x^{l-1} + Phi_{l-1}(x^{l-1}): the networks' output, not the flow's; x^0 is the source.
    2. z = x^l after T_l steps of the flow towards the target.
    3. Phi_l = argmin E |Phi(x^l) - (z - x^l)|^2, from the weights of Phi_{l-1}.

    It is `Staged` (`mmdflow.training.module`): `enter` is lines 1 and 2, and `forward` a minibatch of line 3. What a stage
    holds lies in buffers, so that a checkpoint inside it suffices. Networks may be of coarser images than the target
    (pyramid): the target is then averaged, and particles are enlarged, with noise, where the next network is finer.

    Args:
        networks: "0", "1", ...: feature networks with the squared-residual head and num_features = 1.
        target: samples y, [m, *event].
        simulation: the flow.
        source: x^0.
        settings: how a network is fitted; the number of networks and their sizes are those of `networks`.
        data_scale: factor of the data inside the model, of which `settings.bound` is in the data's units.

    Raises:
        InputError: for networks whose output is not one event, or whose events the target cannot be averaged to.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> from mmdflow.methods.sliced_generator import Simulation, Source
        >>> networks = nn.ModuleDict({"0": MLPFeatures((2,), num_features=1)})
        >>> simulation = Simulation(num_particles=20, num_directions=4, first_steps=3)
        >>> loss = SlicedGeneratorLoss(networks, torch.rand(30, 2), simulation, Source())
        >>> loss(torch.zeros(8, 2), torch.Generator().manual_seed(0)).stage
        0
    """

    target: Tensor
    particles: Tensor
    displacements: Tensor
    summary: Tensor
    stage: Tensor
    fitted: Tensor

    def __init__(
        self,
        networks: nn.ModuleDict,
        target: Float[Tensor, "m *event"],
        simulation: Simulation,
        source: Source,
        settings: SlicedGeneratorLossSettings | None = None,
        *,
        data_scale: float = 1.0,
    ) -> None:
        super().__init__()
        target = _checks.points("target", target)
        self.networks, self.simulation, self.source = networks, simulation, source
        self.chain = check_chain(networks, tuple(target.shape[1:]))
        self.settings = settings = settings or SlicedGeneratorLossSettings()
        self.bound = None if settings.bound is None else settings.bound * _checks.positive("data_scale", data_scale)
        for side in simulation.patches or []:
            if target.ndim != 4 or side > min(target.shape[2:]):
                raise InputError(
                    f"flow.patches holds {side}: must fit into images, events are {list(target.shape[1:])}"
                )
        self.register_buffer("target", target, persistent=False)
        self.register_buffer("particles", target.new_empty(0))
        self.register_buffer("displacements", target.new_empty(0))
        self.register_buffer("summary", target.new_zeros(4))  # displacements: scale, root mean square; F at both ends
        self.register_buffer("stage", torch.tensor(-1))
        self.register_buffer("fitted", torch.zeros(len(networks), dtype=torch.long))
        self.register_load_state_dict_pre_hook(_make_room)

    @property
    def num_stages(self) -> int:
        """The number of networks."""
        return len(self.chain)

    @property
    def num_fitted(self) -> int:
        """The number of networks that are of use: those that were entered, less the last one where it came too late."""
        count = int(self.stage) + 1
        late = count > 1 and float(self.fitted[count - 1]) < LEAST_FIT * float(self.fitted[count - 2])
        return count - late

    def enter(self, stage: int, generator: torch.Generator | None = None) -> None:
        """Move the particles through the network that is done, then let them flow: lines 1 and 2."""
        network = self.chain[stage]
        if stage and self.settings.warm_start and network.config() == self.chain[stage - 1].config():
            network.load_state_dict(self.chain[stage - 1].state_dict())
        x = self._particles(stage, generator)
        target = self.target
        if target.shape[1:] != x.shape[1:]:
            target = F.avg_pool2d(target, target.shape[2] // x.shape[2])
        seed = torch.randint(2**62, (), generator=generator, device=device_of(generator))
        draws = torch.Generator().manual_seed(int(seed))
        divergence = sliced_divergence(self.simulation, target, draws, patches=target is self.target)
        with torch.no_grad():
            moved = simulate(self.simulation, divergence, x, stage)
            self.particles, self.displacements = x, moved - x
            error = _errors(self.displacements, self.settings.norm).mean()
            size = self.displacements.square().mean().sqrt()
            self.summary = torch.stack([error, size, divergence(x), divergence(moved)])
        self.stage.fill_(stage)

    def forward(
        self, batch: Float[Tensor, "B *event"], generator: torch.Generator | None = None
    ) -> SlicedGeneratorTerms:
        """Return the loss of as many particles as the batch has events; stage 0 begins by itself if no stage was entered."""
        if self.stage < 0:
            self.enter(0, generator)
        stage = int(self.stage)
        where = device_of(generator, self.particles.device)
        rows = torch.randint(len(self.particles), (len(batch),), generator=generator, device=where)
        rows = rows.to(self.particles.device)
        predicted = displacement(self.chain[stage], self.particles[rows])
        errors = _errors(predicted - self.displacements[rows], self.settings.norm)
        self.fitted[stage] += 1
        scale, size, start, end = self.summary.tolist()
        total = errors.mean() / max(scale, torch.finfo(errors.dtype).tiny)
        return SlicedGeneratorTerms(total, errors.detach(), stage, size, start, end)

    def _particles(self, stage: int, generator: torch.Generator | None) -> Tensor:
        """Return x^l, and pass every particle through no network twice unless new ones are drawn."""
        if stage and not self.settings.fresh:
            x, done = self.particles, stage - 1
        else:
            x, done = self._draw(generator), 0
        for network, after in itertools.pairwise(self.chain[done : stage + 1]):
            x = enlarge(advance(network, x, bound=self.bound), after.event_shape, self.settings.noise, generator)
        return x

    def _draw(self, generator: torch.Generator | None) -> Tensor:
        return self.source.draw(self.simulation.num_particles, self.chain[0].event_shape, self.target, generator)


def check_chain(networks: nn.ModuleDict, event_shape: Sequence[int]) -> list[FeatureNetwork]:
    """Return the networks in turn if each gives one event, of the target's shape or, before those, of coarser images."""
    _checks.count("number of networks", len(networks))
    chain: list[Any] = [networks[str(i)] for i in range(len(networks))]
    for i, network in enumerate(chain):
        check_event_map(network, f"network {i}")
    shapes = [*(tuple(network.event_shape) for network in chain), tuple(event_shape)]
    for i, (coarse, fine) in enumerate(itertools.pairwise(shapes)):
        if not _refines(coarse, fine):
            raise InputError(
                f"network {i} has event_shape = {list(coarse)}: must be {list(fine)}, which comes after it, or, of images, "
                "the same with height and width divided by one number"
            )
    return chain


def _refines(coarse: tuple[int, ...], fine: tuple[int, ...]) -> bool:
    """Whether events of one shape can be enlarged to the other."""
    if coarse == fine:
        return True
    if len(coarse) != 3 or len(fine) != 3 or coarse[0] != fine[0]:
        return False
    factor, rest = divmod(fine[1], coarse[1])
    return rest == 0 and factor * coarse[2] == fine[2]


def _errors(difference: Tensor, norm: str) -> Tensor:
    """Return the mean over entries of squares or absolute values, [n]."""
    return (difference.square() if norm == "l2" else difference.abs()).flatten(1).mean(1)


def _make_room(loss: SlicedGeneratorLoss, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
    """Shape the buffers of particles, whose size the stage decides, as those that are loaded."""
    for name in ("particles", "displacements"):
        if prefix + name in state:
            setattr(loss, name, getattr(loss, name).new_empty(state[prefix + name].shape))
