"""Settings of discriminator flow: of the flow that particles make, and of the loss of the discriminator that drives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmdflow import _settings


@dataclass(frozen=True)
class _Flow:
    """The flow, in training and in sampling.

    Attributes:
        num_steps: n, steps of the flow.
        step_size: eta, of the whole flow, of which a step is eta / n.
        noise: s, the standard deviation that the noise of the whole flow adds up to.
        objective: ipm, vanilla or hinge: whose l particles descend.
    """

    section: ClassVar[str] = ""
    num_steps: int = 64
    step_size: float = 2.0
    noise: float = 0.0
    objective: Literal["ipm", "vanilla", "hinge"] = "ipm"

    def __post_init__(self) -> None:
        """Check the fields."""
        _settings.check(self, counts=["num_steps"], positive=["step_size"], non_negative=["noise"])


@dataclass(frozen=True)
class DiscriminatorFlow(_Flow):
    r"""x_{i+1} = x_i - (eta / n) grad_x l(D(x_i, t_i)) + s n^{-1/2} xi_i, i = 0, ..., n - 1, t_i = 1 - i / n.

    The last step has no noise.

    Attributes:
        sampler: flow; there is one.
    """

    sampler: Literal["flow"] = "flow"


@dataclass(frozen=True)
class DiscriminatorFlowLossSettings(_Flow):
    """The flow and the loss.

    Attributes:
        penalty_weight: lambda, weight of the gradient penalty.
        penalty_slope: s, the slope |grad D| at which the penalty is 0; 0 in the published settings of MNIST.
        trajectories: pool (ours: kept particles, a step of the flow each training step) or fresh (the paper's).
    """

    section: ClassVar[str] = "loss."
    penalty_weight: float = 0.04
    penalty_slope: float = 0.0
    trajectories: Literal["pool", "fresh"] = "pool"

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        _settings.check(self, non_negative=["penalty_weight", "penalty_slope"])
