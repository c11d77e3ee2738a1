"""A trained MMD-GAN as one object and one folder: generator, critic, the data's features, sampler defaults, provenance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.kernels import Kernel, base_config, base_kernel
from mmdflow.methods._shared.folder import load_networks, load_tensors
from mmdflow.methods._shared.pretrained import SavedPipeline
from mmdflow.methods._shared.sampling import Steps
from mmdflow.methods.mmd_gan.critic import CriticMMD
from mmdflow.methods.mmd_gan.loss import check_networks, generate, player
from mmdflow.methods.mmd_gan.settings import MMDGANSettings

_REFERENCES = "references.safetensors"


@dataclass(frozen=True, repr=False)
class MMDGANPipeline(SavedPipeline):
    """A trained MMD-GAN with all that sampling needs.

    Attributes:
        generator: the network that makes events of noise.
        critic: the features that it was trained against.
        base: the kernel on features, one of `mmdflow.kernels.base_config`.
        references: features of training events, or their mean for a linear base, [N, K]; the flow's target.
        defaults: the sampler's settings.
        bounded: whether the generator's samples are kept in [-1, 1], through tanh.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        provenance: what made it: recipe, command, commit, seconds, versions.

    Example:
        >>> from mmdflow import Linear
        >>> from mmdflow.features import MLPFeatures
        >>> generator, critic = MLPFeatures((2,), num_features=1), MLPFeatures((2,), num_features=4, head="flat")
        >>> pipe = MMDGANPipeline(generator, critic, Linear(), references=torch.zeros(1, 4))
        >>> pipe(5).nfe, pipe(5, sampler="flow", num_steps=3).nfe
        (1, 3)
    """

    generator: FeatureNetwork
    critic: FeatureNetwork
    base: Kernel
    references: Float[Tensor, "N K"]
    defaults: MMDGANSettings = field(default_factory=MMDGANSettings)
    bounded: bool = False
    data_scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    systems: ClassVar[tuple[str, ...]] = ("mmd-gan",)
    settings: ClassVar[type] = MMDGANSettings

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        check_networks(self.generator, self.critic)
        _checks.points("references", self.references)
        if self.references.shape[1:] != (self.critic.num_features,):
            raise InputError(
                f"references has shape {list(self.references.shape)}: must be [N, {self.critic.num_features}], the critic's "
                "features"
            )
        _checks.positive("data_scale", self.data_scale)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return self.generator.event_shape

    @property
    def divergence(self) -> CriticMMD:
        """The converged critic's 1/2 MMD^2 to the data, down which the flow goes; in the model's units."""
        return CriticMMD(self.critic, self.base, self.references)

    def _network(self) -> FeatureNetwork:
        return self.generator

    def _settings(self, changes: dict[str, Any]) -> MMDGANSettings:
        settings: MMDGANSettings = super()._settings(changes)
        for name in ("num_steps", "step_size"):
            if changes.get(name) is not None and settings.sampler != "flow":
                raise InputError(f"{name} = {changes[name]!r} with sampler = 'generator': is for sampler = 'flow'")
        return settings

    def _steps(self, source: Tensor, settings: MMDGANSettings, generator: torch.Generator | None) -> Steps:
        if settings.sampler == "generator":
            return Steps(source, self._generate(source), count=1, nfe=1)
        return Steps(source, self._flow(source, settings), count=settings.num_steps, nfe=settings.num_steps)

    def _generate(self, source: Tensor) -> Iterator[Tensor]:
        with torch.no_grad():
            made = generate(self.generator, source, self.data_scale if self.bounded else None)
        yield made

    def _flow(self, x: Tensor, settings: MMDGANSettings) -> Iterator[Tensor]:
        with torch.inference_mode(False):  # which would keep the gradients from being taken
            divergence, x = self.divergence, x.clone()
        for _ in range(settings.num_steps):
            with torch.inference_mode(False):
                x = x + settings.step_size * divergence.velocity(x)
            yield x

    def _parts(self) -> tuple[nn.ModuleDict, dict[str, Any], dict[str, dict[str, Tensor]]]:
        config = {"base_kernel": base_config(self.base), "bounded": self.bounded}
        networks = nn.ModuleDict({"generator": self.generator, "critic": self.critic})
        tensors = {_REFERENCES: {"references": self.references}}
        return networks, config, tensors

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> MMDGANPipeline:
        networks = load_networks(folder, config)
        return cls(
            player(networks, "generator"),
            player(networks, "critic"),
            references=load_tensors(folder / _REFERENCES)["references"],
            base=base_kernel(config["base_kernel"]),
            bounded=config["bounded"],
            **cls._common(config),
        )
