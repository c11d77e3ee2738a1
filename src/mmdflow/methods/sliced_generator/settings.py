"""Settings of GS-MMD-RK: of the particle flow, of the chain that learns from it, and of the sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmdflow import _checks, _settings
from mmdflow.errors import InputError
from mmdflow.methods._shared.settings import ChainSettings


@dataclass(frozen=True)
class Simulation:
    r"""Steps x <- x - tau v, v <- grad f(x) + momentum v of the sliced MMD flow, F with the kernel -|x - y| (paper, section 3).

    The flow that network l = 0, 1, ... imitates has T_l steps: T_0 = `first_steps`, and
    T_{l+1} = min(T_l + min((growth - 1) T_l, max_added), max_steps), the published rule at growth 2. Directions are drawn anew
    at every step; the velocity v starts at 0 in each of the flows.

    Attributes:
        num_particles: N, particles that flow, and that a network is fitted to.
        num_targets: training events that they flow to; all by default.
        num_directions: P, slices a step.
        directions: see `mmdflow.SlicedMMD`; random ones are the paper's.
        ranks: exact, or binned, which is quicker for many particles.
        precision: full, or bfloat16 for the products with directions.
        step_size: tau. Velocities do not grow with the data: the paper's 1 is for data in [0, 1], so 2 for images in [-1, 1].
        momentum: in [0, 1).
        first_steps: T_0.
        growth: factor of the lengths while they are short, at least 1.
        max_added: bound on how much longer than the one before a flow is.
        max_steps: bound on T_l.
        patches: sides of square patches of images, at full resolution, on which directions live (locally connected
            projections); whole images by default.

    Example:
        >>> [Simulation(first_steps=10, max_steps=50).num_steps(stage) for stage in range(4)]
        [10, 20, 40, 50]
    """

    section: ClassVar[str] = "flow."
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
        counts = ("num_particles", "num_targets", "num_directions", "first_steps", "max_added", "max_steps")
        _settings.check(self, counts=counts, positive=["step_size"])
        _checks.interval("flow.momentum", self.momentum, 0.0, 1.0, "[)")
        if _checks.positive("flow.growth", self.growth) < 1:
            raise InputError(f"flow.growth = {self.growth:g}: must be a finite number >= 1")
        if self.patches == []:
            raise InputError("flow.patches = []: must hold at least one number")
        for side in self.patches or []:
            _checks.count("flow.patches", side)

    def num_steps(self, stage: int) -> int:
        """Return T_l for l = stage."""
        steps = float(self.first_steps)
        for _ in range(stage):
            steps += min((self.growth - 1) * steps, self.max_added)
        return min(int(steps), self.max_steps)


@dataclass(frozen=True)
class SlicedGeneratorLossSettings:
    """The chain of networks, and how each is fitted.

    Attributes:
        num_networks: networks, and stages of the training.
        source: uniform in the range of the data (the paper's), or normal.
        norm: of what a network misses: l2, or l1 (the paper's for CIFAR-10).
        fresh: let every stage begin with new particles from the source through the networks before it, instead of those that
            the network before was fitted to (the paper's). Ours: these are what sampling gives, where those are fitted to.
        warm_start: begin with the weights of the network before, where both are of the same size.
        pyramid: factors by which images are smaller in equal parts of the chain, as [4, 2, 1]; full size by default.
        noise: standard deviation of the noise that particles get where images become larger.
        bound: of the entries of particles after every network, in the data's units; none by default. Ours, for images.
    """

    section: ClassVar[str] = "loss."
    num_networks: int = 10
    source: Literal["uniform", "normal"] = "uniform"
    norm: Literal["l2", "l1"] = "l2"
    fresh: bool = False
    warm_start: bool = True
    pyramid: list[int] | None = None
    noise: float = 0.0
    bound: float | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        _settings.check(self, counts=["num_networks"], positive=["bound"], non_negative=["noise"])
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
class SlicedGeneratorSettings(ChainSettings):
    """How the chain samples.

    Attributes:
        chunk_size: particles that a network is given at once: less memory, the same samples; a million entries by default.
    """

    chunk_size: int | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        _settings.check(self, counts=["chunk_size"])
