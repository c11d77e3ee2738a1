"""Reference samples of the target, in place of means, for base kernels with no finite feature map (DMMD paper, eq. 10)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow import _checks
from mmdflow._tensors import normal_like
from mmdflow.divergences import MMD, Divergence, PotentialEnergy
from mmdflow.divergences.witness import KernelWitness
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.kernels import Kernel
from mmdflow.methods.dmmd.targets.base import FlowKind, LevelFlow, SingleParticle, check_classes
from mmdflow.noise import NoiseConditionalKernel, Schedule


@dataclass(frozen=True)
class LevelSamples:
    """A target known by the features of reference samples, for any base kernel (DMMD paper, eq. 10).

    Attributes:
        base: the kernel on features.
        clean: features of the clean references, [N, K].
        noisy: features of the noised references, [N, K].
        labels: their classes, [N], or None.
    """

    base: Kernel
    clean: Float[Tensor, "N K"]
    noisy: Float[Tensor, "N K"]
    labels: Int[Tensor, " N"] | None = None

    def field(self, flow: LevelFlow, shares: Float[Tensor, " C"] | None = None) -> Divergence:
        """Return the divergence on features whose flow is of that kind; `whitening` is of finite feature maps alone.

        With feedback w, EXACT is w times 1/2 MMD^2 to a mixture of the clean references, 1 / w of it, and the noised ones.
        """
        clean, noisy, weights = self._weighted(shares)
        w = flow.feedback
        if flow.kind is FlowKind.EXACT and w == 1:
            return MMD(clean, self.base, target_weights=weights)
        if flow.kind is FlowKind.EXACT:
            mixed = torch.cat([weights / w, weights * (1 - 1 / w)])
            return MMD(torch.cat([clean, noisy]), w * self.base, target_weights=mixed)
        if flow.kind is FlowKind.APPROXIMATE:
            return PotentialEnergy(KernelWitness(self.base, torch.cat([noisy, clean]), torch.cat([weights, -weights])))
        return PotentialEnergy(SingleParticle(self.base, KernelWitness(self.base, clean, weights)))

    def mismatch(self, phi: Float[Tensor, "n K"], shares: Float[Tensor, " C"] | None = None) -> tuple[float, float]:
        """Return the V-statistics MMD^2(phi, noisy) and MMD^2(noisy, clean)."""
        clean, noisy, weights = self._weighted(shares)
        to_noisy = MMD(noisy, self.base, target_weights=weights)
        return float(2 * to_noisy(phi)), float(2 * to_noisy(clean, weights))

    def _weighted(self, shares: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if shares is None:
            return self.clean, self.noisy, self.clean.new_full((len(self.clean),), 1 / len(self.clean))
        assert self.labels is not None
        weights = (shares.to(self.clean) / self.labels.bincount(minlength=len(shares)))[self.labels]
        used = weights > 0
        return self.clean[used], self.noisy[used], weights[used] / weights.sum()


@dataclass(frozen=True)
class TargetSamples:
    """N_c clean reference samples with one draw of noise each, which serves every level.

    Attributes:
        clean: [N, *event], in the model's units.
        noise: standard normal, [N, *event].
        schedule: the forward diffusion.
        t_min: lowest noise level of sampling.
        t_max: highest noise level of sampling.
        labels: classes 0, 1, ..., [N], or None.

    Example:
        >>> import torch
        >>> from mmdflow import LinearSchedule
        >>> clean = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
        >>> TargetSamples.draw(clean, LinearSchedule(), t_min=0.02).t_range
        (0.02, 1.0)
    """

    clean: Float[Tensor, "N *event"]
    noise: Float[Tensor, "N *event"]
    schedule: Schedule
    t_min: float = 0.0
    t_max: float = 1.0
    labels: Int[Tensor, " N"] | None = None
    file: ClassVar[str] = "target_samples.safetensors"

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        _checks.points("target samples", self.clean)
        _checks.points("noise of the target samples", self.noise, self.clean.shape[1:])
        _checks.interval("t_min", self.t_min, 0.0, 1.0, "[)")
        _checks.interval("t_max", self.t_max, self.t_min, 1.0, "(]")
        counts = [len(x) for x in (self.clean, self.noise, self.labels) if x is not None]
        if len({*counts}) > 1:
            raise InputError(f"target samples, their noise and labels are {counts} in number: must be one each")
        if self.labels is not None:
            check_classes(self.labels)

    @classmethod
    def draw(
        cls,
        clean: Float[Tensor, "N *event"],
        schedule: Schedule,
        *,
        t_min: float = 0.0,
        t_max: float = 1.0,
        labels: Int[Tensor, " N"] | None = None,
        generator: torch.Generator | None = None,
    ) -> TargetSamples:
        """Draw the noise of clean samples."""
        return cls(clean, normal_like(clean, generator), schedule, t_min, t_max, labels)

    @property
    def t_range(self) -> tuple[float, float]:
        """The lowest and the highest noise level."""
        return self.t_min, self.t_max

    @property
    def num_classes(self) -> int:
        """The classes, C; 0 where the samples have no labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    @property
    def class_shares(self) -> Float[Tensor, " C"]:
        """The share of every class among the samples; empty for no classes."""
        if self.labels is None:
            return self.clean.new_empty(0)
        return self.labels.bincount().to(self.clean) / len(self.labels)

    @property
    def whitenable(self) -> bool:
        """No: whitening is of finite feature maps."""
        return False

    def check(self, kernel: NoiseConditionalKernel) -> None:
        """Raise InputError for features of events of another shape."""
        features = kernel.features
        shape = list(self.clean.shape[1:])
        if isinstance(features, FeatureNetwork) and shape != list(features.event_shape):
            raise InputError(f"target samples have event shape {shape}: must be {list(features.event_shape)}")

    @torch.no_grad()
    def level(self, kernel: NoiseConditionalKernel, t: float, chunk_size: int | None = None) -> LevelSamples:
        """Return the features of the samples at level t, clean and noised, computed `chunk_size` samples at once."""
        slack = 1e-6
        _checks.interval("noise level t", t, self.t_min - slack, self.t_max + slack)
        noisy = self.schedule.add_noise(self.clean, self.noise, self.clean.new_full((len(self.clean),), t))
        size = chunk_size or len(self.clean)
        clean_phi, noisy_phi = (
            torch.cat([kernel.features(part, part.new_full((len(part),), t)) for part in x.split(size)])
            for x in (self.clean, noisy)
        )
        return LevelSamples(kernel.base_at(torch.as_tensor(t)), clean_phi, noisy_phi, self.labels)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that there are, by name."""
        values = {"clean": self.clean, "noise": self.noise, "t_range": torch.tensor(self.t_range, dtype=torch.float64)}
        return values if self.labels is None else {**values, "labels": self.labels}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], schedule: Schedule) -> TargetSamples:
        """Return the samples of `tensors` again."""
        rest = dict(tensors)
        t_min, t_max = rest.pop("t_range").tolist()
        return cls(**rest, schedule=schedule, t_min=t_min, t_max=t_max)

    def to(self, device: torch.device | str) -> TargetSamples:
        """Return the samples on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, clean=self.clean.to(device), noise=self.noise.to(device), labels=labels)
