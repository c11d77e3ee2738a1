"""The recipe of DGGF-KL."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.methods._shared.scalar_recipe import ScalarRecipe


@dataclass(frozen=True)
class DensityRatioLossSpec:
    """The source, the flow and the loss; see `mmdflow.methods.density_ratio.DensityRatioLoss`.

    Attributes:
        prior: the Gaussian that particles start from: full or diagonal (fitted to the data), or standard.
        num_steps: K, steps of the flow.
        step_size: eta, of a step.
        noise: standard deviation of a step's noise.
        bregman: loss of the ratio: lr, kl or lsif.
        divergence: what particles descend: kl, js or logd; pearson with lsif.
        penalty_weight: weight of the squared slope (ours, for the paper's spectral normalisation).
        target_noise: standard deviation of noise on the data while the ratio is learned.
        trajectories: pool (ours: kept particles, a step of the flow each training step) or fresh (the paper's).
    """

    prior: Literal["full", "diagonal", "standard"] = "full"
    num_steps: int = 100
    step_size: float = 3.0
    noise: float = 0.01
    bregman: Literal["lr", "kl", "lsif"] = "lr"
    divergence: Literal["kl", "js", "logd", "pearson"] = "kl"
    penalty_weight: float = 0.0
    target_noise: float = 0.0
    trajectories: Literal["pool", "fresh"] = "pool"

    def __post_init__(self) -> None:
        """Check the numbers, and that the loss gives what the divergence takes."""
        _checks.count("loss.num_steps", self.num_steps)
        _checks.positive("loss.step_size", self.step_size)
        for name in ("noise", "penalty_weight", "target_noise"):
            _checks.non_negative(f"loss.{name}", getattr(self, name))
        if (self.bregman == "lsif") != (self.divergence == "pearson"):
            needed = "pearson" if self.bregman == "lsif" else "kl, js or logd"
            raise InputError(
                f"loss.divergence = {self.divergence!r} with loss.bregman = {self.bregman!r}: must be {needed}"
            )


@dataclass(frozen=True)
class DensityRatioRecipe(ScalarRecipe):
    """All of a run of DGGF-KL.

    Attributes:
        description: what it is and what it costs, in a line.
        system: dggf-kl.
        data: the data set.
        features: the network; its one number is the log of the density ratio, or the ratio (lsif).
        training: the training loop.
        evaluation: the evaluation.
        loss: the source, the flow and the loss.
        sampling: the sampler.
    """

    system: Literal["dggf-kl"] = "dggf-kl"
    loss: DensityRatioLossSpec = field(default_factory=DensityRatioLossSpec)

    def smallest(self) -> DensityRatioRecipe:  # noqa: D102
        return replace(self, training=replace(self.training, batch_size=1), loss=replace(self.loss, num_steps=1))
