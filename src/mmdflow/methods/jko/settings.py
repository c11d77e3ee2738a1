"""Settings of JKO-Flow: of the chain and its loss, and of the sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmdflow import _settings
from mmdflow.methods._shared.settings import ChainSettings


@dataclass(frozen=True)
class JKOLossSettings:
    """The JKO steps, and how map and potential take turns.

    Attributes:
        num_stages: JKO steps: maps of the chain, each with an equal share of the training.
        divergence: F, what descends: one of `mmdflow.methods.jko.FORMS`; hinge is the authors' for images.
        jko_step: a, the length of a JKO step, in squared units of the data (|x|^2 a sum over entries).
        dual_steps: steps of the potential h for each of the map.
        penalty: weight of E |grad h|^2, over particles and target (Roth et al. 2017; Mescheder et al. 2018).
        clip: keep what maps give in [-1, 1], in the data's units; for images, whose black an unbounded map never quite meets.
        pool_size: particles of a stage.
        dual_factor: the potential's step size over the map's, training.step_size.
    """

    section: ClassVar[str] = "loss."
    num_stages: int = 4
    divergence: Literal["kl", "reverse-kl", "jensen-shannon", "chi2", "kl-logistic", "hinge"] = "kl-logistic"
    jko_step: float = 5.0
    dual_steps: int = 5
    penalty: float = 0.0
    clip: bool = True
    pool_size: int = 4096
    dual_factor: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        _settings.check(
            self,
            counts=["num_stages", "dual_steps", "pool_size"],
            positive=["jko_step", "dual_factor"],
            non_negative=["penalty"],
        )


@dataclass(frozen=True)
class JKOSettings(ChainSettings):
    """How a chain of maps samples."""
