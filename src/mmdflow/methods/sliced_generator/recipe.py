"""The recipe of GS-MMD-RK, generative sliced MMD flows with Riesz kernels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.recipe.specs import BatchTrainingSpec, FeaturesSpec, Recipe, check_event_map


@dataclass(frozen=True)
class ParticleFlowSpec:
    """The flow whose displacements networks learn; see `mmdflow.methods.sliced_generator.Simulation`.

    Attributes:
        num_particles: particles N that flow, and that a network is fitted to.
        num_targets: training events that they flow to; all when not given.
        num_directions: slices P a step.
        directions: orthogonal, optimized, structured, random (the paper's) or qmc.
        ranks: exact, or binned, which is quicker for many particles.
        precision: full, or bfloat16 for the products with directions.
        step_size: tau; the paper's 1 is for data in [0, 1], so 2 for images here, in [-1, 1].
        momentum: in [0, 1).
        first_steps: steps of the first network's flow.
        growth: factor from one network's flow to the next one's (the paper's: 2), at most max_added steps more.
        max_added: bound on how much longer than the one before a flow is.
        max_steps: bound on the length of a flow.
        patches: sides of patches on which directions live, at full resolution; whole images when not given.
    """

    num_particles: int = 2000
    num_targets: int | None = None
    num_directions: int = 64
    directions: Literal["orthogonal", "optimized", "structured", "random", "qmc"] = "orthogonal"
    ranks: Literal["exact", "binned"] = "exact"
    precision: Literal["full", "bfloat16"] = "full"
    step_size: float = 2.0
    momentum: float = 0.7
    first_steps: int = 32
    growth: float = 2.0
    max_added: int = 2048
    max_steps: int = 30_000
    patches: list[int] | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("num_particles", "num_directions", "first_steps", "max_added", "max_steps"):
            _checks.count(f"flow.{name}", getattr(self, name))
        if self.num_targets is not None:
            _checks.count("flow.num_targets", self.num_targets)
        _checks.positive("flow.step_size", self.step_size)
        _checks.interval("flow.momentum", self.momentum, 0.0, 1.0, "[)")
        if _checks.positive("flow.growth", self.growth) < 1:
            raise InputError(f"flow.growth = {self.growth:g}: must be a finite number >= 1")
        if self.patches == []:
            raise InputError("flow.patches = []: must hold at least one number")
        for side in self.patches or []:
            _checks.count("flow.patches", side)


@dataclass(frozen=True)
class SlicedGeneratorLossSpec:
    """The chain of networks; see `mmdflow.methods.sliced_generator.SlicedGeneratorLoss`.

    Attributes:
        num_networks: networks, and stages of the training.
        source: uniform in the range of the data (the paper's), or normal.
        norm: of what a network misses: l2, or l1 (the paper's for CIFAR-10).
        fresh: let every stage begin with new particles from the source, instead of those that networks were fitted to.
        warm_start: begin with the weights of the network before.
        pyramid: factors by which images are smaller in equal parts of the chain, as [4, 2, 1]; full size when not given.
        noise: standard deviation of the noise that particles get where images become larger.
        bound: of the entries of particles after every network, in the data's units; none when not given.
    """

    num_networks: int = 10
    source: Literal["uniform", "normal"] = "uniform"
    norm: Literal["l2", "l1"] = "l2"
    fresh: bool = False
    warm_start: bool = True
    pyramid: list[int] | None = None
    noise: float = 0.0
    bound: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.count("loss.num_networks", self.num_networks)
        if self.bound is not None:
            _checks.positive("loss.bound", self.bound)
        _checks.non_negative("loss.noise", self.noise)
        if self.pyramid is None:
            return
        for factor in self.pyramid:
            _checks.count("loss.pyramid", factor)
        if not self.pyramid or self.pyramid[-1] != 1 or self.pyramid != sorted(self.pyramid, reverse=True):
            raise InputError(f"loss.pyramid = {self.pyramid}: must fall to 1, as [4, 2, 1]")
        if len(self.pyramid) > self.num_networks:
            raise InputError(
                f"loss.pyramid = {self.pyramid} with loss.num_networks = {self.num_networks}: must have no more entries"
            )

    def factor(self, network: int) -> int:
        """Return the factor by which the images of a network are smaller."""
        pyramid = self.pyramid or [1]
        return pyramid[network * len(pyramid) // self.num_networks]


@dataclass(frozen=True)
class SlicedGeneratorSamplingSpec:
    """How the chain samples by default.

    Attributes:
        num_networks: networks that are applied, from the first; all when not given.
    """

    num_networks: int | None = None

    def __post_init__(self) -> None:
        """Check the number."""
        if self.num_networks is not None:
            _checks.count("sampling.num_networks", self.num_networks)


@dataclass(frozen=True)
class SlicedGeneratorRecipe(Recipe):
    """All of a GS-MMD-RK run.

    Attributes:
        description: what it is and what it costs, in a line.
        system: gs-mmd-rk.
        data: the data set.
        features: every network of the chain; its one event-shaped output is the displacement of a particle.
        training: the training loop; its steps or seconds are shared equally by the networks.
        evaluation: the evaluation.
        flow: the flow of the particles.
        loss: the chain and how it is fitted.
        sampling: the sampler.
    """

    system: Literal["gs-mmd-rk"] = "gs-mmd-rk"
    features: FeaturesSpec = field(default_factory=lambda: FeaturesSpec(num_features=1))
    training: BatchTrainingSpec = field(default_factory=lambda: BatchTrainingSpec(ema_decay=0.0))
    flow: ParticleFlowSpec = field(default_factory=ParticleFlowSpec)
    loss: SlicedGeneratorLossSpec = field(default_factory=SlicedGeneratorLossSpec)
    sampling: SlicedGeneratorSamplingSpec = field(default_factory=SlicedGeneratorSamplingSpec)

    def __post_init__(self) -> None:
        """Check that the network's output is one event, and that sampling applies the networks that were trained."""
        check_event_map(self.features, self.system)
        if self.training.ema_decay:
            raise InputError(
                f"training.ema_decay = {self.training.ema_decay:g}: must be 0 for {self.system}; each network learns from what "
                "those before it give, not from what their averages give"
            )
        if self.sampling.num_networks is not None and self.sampling.num_networks > self.loss.num_networks:
            raise InputError(
                f"sampling.num_networks = {self.sampling.num_networks}: must be at most loss.num_networks, "
                f"{self.loss.num_networks}"
            )

    @property
    def batch_size(self) -> int:  # noqa: D102
        return self.training.batch_size

    def smallest(self) -> SlicedGeneratorRecipe:  # noqa: D102
        pyramid = self.loss.pyramid or [1]
        return replace(
            self,
            flow=replace(self.flow, num_particles=2, num_targets=2, num_directions=1, first_steps=1),
            loss=replace(self.loss, num_networks=len(pyramid)),
            sampling=SlicedGeneratorSamplingSpec(),
        )
