"""A trained MMD-GAN as one object and one folder: generator, critic, the data's features, sampler defaults, provenance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.kernels import Kernel, base_config, base_kernel
from mmdflow.methods._shared.pretrained import SampleOutput, SavedPipeline, load_networks, load_tensors
from mmdflow.methods._shared.sampling import collect, draw_source
from mmdflow.methods.mmd_gan.critic import CriticMMD
from mmdflow.methods.mmd_gan.loss import check_networks, generate, player

SAMPLERS = ("generator", "flow")
_REFERENCES = "references.safetensors"


@dataclass(frozen=True)
class MMDGANDefaults:
    """How a pipeline samples when it is not told otherwise.

    Attributes:
        sampler: "generator", or "flow" (MMD-GAN-Flow).
        num_steps: steps of the flow.
        step_size: eta of the flow.
    """

    sampler: str = "generator"
    num_steps: int = 100
    step_size: float = 0.1

    def __post_init__(self) -> None:
        """Check the settings."""
        _checks.choice("sampler", self.sampler, SAMPLERS)
        _checks.count("num_steps", self.num_steps)
        _checks.positive("step_size", self.step_size)


@dataclass(frozen=True)
class MMDGANPipeline(SavedPipeline):
    """A trained MMD-GAN with all that sampling needs.

    Attributes:
        generator: the network that makes events of noise.
        critic: the features that it was trained against.
        base: the kernel on features, one of `mmdflow.kernels.base_config`.
        references: features of training events, or their mean for a linear base, [N, K]; the flow's target.
        defaults: how to sample when not told otherwise.
        bounded: whether the generator's samples are kept in [-1, 1], through tanh.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        provenance: what made it: recipe, command, commit, seconds, versions.
    """

    generator: FeatureNetwork
    critic: FeatureNetwork
    base: Kernel
    references: Float[Tensor, "N K"]
    defaults: MMDGANDefaults = field(default_factory=MMDGANDefaults)
    bounded: bool = False
    data_scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    systems: ClassVar[tuple[str, ...]] = ("mmd-gan",)

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

    def __call__(
        self,
        num_particles: int = 64,
        sampler: str | None = None,
        num_steps: int | None = None,
        step_size: float | None = None,
        generator: torch.Generator | None = None,
        *,
        particles: Float[Tensor, "n *event"] | None = None,
        return_trajectory: bool = False,
        progress: bool = False,
    ) -> SampleOutput:
        """Sample. What is None is taken from `defaults`.

        Args:
            num_particles: samples; in the flow they interact.
            sampler: "generator": one evaluation of it; or "flow", MMD-GAN-Flow: x <- x - eta grad f(x) from noise, f the
                converged critic's witness between particles and data.
            num_steps: steps of the flow.
            step_size: eta of the flow.
            generator: of the noise.
            particles: the source instead of N(0, I), [n, *event]; then num_particles is not used.
            return_trajectory: keep the particles after every step.
            progress: show a bar over the steps.

        Raises:
            InputError: for impossible settings.
            DivergedError: when particles become non-finite; it holds the last finite ones.
        """
        how = MMDGANDefaults(
            sampler=self.defaults.sampler if sampler is None else sampler,
            num_steps=self.defaults.num_steps if num_steps is None else num_steps,
            step_size=self.defaults.step_size if step_size is None else step_size,
        )
        flows = how.sampler == "flow"
        for name, value in (("num_steps", num_steps), ("step_size", step_size)):
            if value is not None and not flows:
                raise InputError(f"{name} = {value!r} with sampler = 'generator': is for sampler = 'flow'")
        source = draw_source(self.generator, num_particles, particles, generator, scale=self.data_scale)
        count = how.num_steps if flows else 1
        return collect(
            source,
            self._flow(source, how) if flows else self._generate(source),
            count,
            nfe=count,
            scale=self.data_scale,
            return_trajectory=return_trajectory,
            progress=progress,
        )

    def _generate(self, source: Tensor) -> Iterator[Tensor]:
        with torch.no_grad():
            made = generate(self.generator, source, self.data_scale if self.bounded else None)
        yield made

    def _flow(self, x: Tensor, how: MMDGANDefaults) -> Iterator[Tensor]:
        with torch.inference_mode(False):  # which would keep the gradients from being taken
            divergence, x = self.divergence, x.clone()
        for _ in range(how.num_steps):
            with torch.inference_mode(False):
                x = x + how.step_size * divergence.velocity(x)
            yield x

    def _parts(self) -> tuple[nn.ModuleDict, dict[str, Any], dict[str, dict[str, Tensor]]]:
        config = {
            "system": "mmd-gan",
            "base_kernel": base_config(self.base),
            "bounded": self.bounded,
            "data_scale": self.data_scale,
            "sampler": asdict(self.defaults),
            "provenance": self.provenance,
        }
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
            defaults=MMDGANDefaults(**config["sampler"]),
            bounded=config["bounded"],
            data_scale=config["data_scale"],
            provenance=config["provenance"],
        )
