"""Settings of DGGF-KL: of the flow that particles make, and of the loss of the ratio that drives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmdflow import _settings
from mmdflow.errors import InputError


@dataclass(frozen=True)
class _Flow:
    """The flow, in training and in sampling.

    Attributes:
        num_steps: K, steps of the flow.
        step_size: eta, of a step.
        noise: nu, standard deviation of a step's noise.
        divergence: what particles descend: kl (f' = log r), js or logd; pearson with lsif.
    """

    section: ClassVar[str] = ""
    num_steps: int = 100
    step_size: float = 3.0
    noise: float = 0.01
    divergence: Literal["kl", "js", "logd", "pearson"] = "kl"

    def __post_init__(self) -> None:
        """Check the fields."""
        _settings.check(self, counts=["num_steps"], positive=["step_size"], non_negative=["noise"])


@dataclass(frozen=True)
class RatioFlow(_Flow):
    r"""x_{k+1} = x_k - eta grad f'(r(x_k)) + nu xi_k, k = 0, ..., K - 1 (Heng et al. 2023, with the ratio held fixed).

    It is the Euler step of the Wasserstein gradient flow of the f-divergence from the target, entropy-regularised by the noise.

    Attributes:
        sampler: flow; there is one.
    """

    sampler: Literal["flow"] = "flow"


@dataclass(frozen=True)
class DensityRatioLossSettings(_Flow):
    """The source, the flow and the loss.

    Attributes:
        prior: the Gaussian that particles start from: full or diagonal (fitted to the data), or standard.
        bregman: loss of the ratio: lr, kl or lsif.
        penalty_weight: lambda, weight of the squared slope at points between particles and target. Ours, in the place of the
            paper's spectral normalisation, which also bounds the slope.
        target_noise: standard deviation of noise on the data while the ratio is learned, 0.03 in the authors' code for images.
        trajectories: pool (ours: kept particles, a step of the flow each training step) or fresh (the paper's).
    """

    section: ClassVar[str] = "loss."
    prior: Literal["full", "diagonal", "standard"] = "full"
    bregman: Literal["lr", "kl", "lsif"] = "lr"
    penalty_weight: float = 0.0
    target_noise: float = 0.0
    trajectories: Literal["pool", "fresh"] = "pool"

    def __post_init__(self) -> None:
        """Check the fields, and that the loss gives what the divergence takes: r for pearson, log r for the others."""
        super().__post_init__()
        _settings.check(self, non_negative=["penalty_weight", "target_noise"])
        if (self.bregman == "lsif") != (self.divergence == "pearson"):
            needed = "pearson" if self.bregman == "lsif" else "kl, js or logd"
            raise InputError(
                f"loss.divergence = {self.divergence!r} with loss.bregman = {self.bregman!r}: must be {needed}"
            )
