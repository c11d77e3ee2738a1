"""A trained DMMD as one object and one folder: weights, schedule, target means, sampler defaults, provenance."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow import _checks
from mmdflow._pretrained import SampleOutput, find_folder, load_network, load_tensors, open_config, save_pipeline
from mmdflow.dmmd.means import TargetMeans
from mmdflow.dmmd.sampler import SAMPLERS, distance_steps, noise_levels, sample
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.flows import normal_like
from mmdflow.noise import SCHEDULES, NoiseConditionalKernel, Schedule, schedule

_MEANS = "target_means.safetensors"


@dataclass(frozen=True)
class SamplerDefaults:
    """How a pipeline samples when it is not told otherwise.

    Attributes:
        num_levels: noise levels T, uniform from t_max to t_min.
        steps_per_level: flow steps at each, N_s.
        step_size: a constant eta (the paper), or None for the distance schedule (ours): one walk back along the path.
        step_scale: multiplies the distance schedule.
        sampler: "exact" or "approximate".
        final_steps: denoising steps after the last level (DMMD paper, section 4, final denoising).
        final_sampler: "exact", "approximate" or None for the sampler's own.
        final_step_size: eta of the final steps, or None for the distance that their level stands for.
        final_level: noise level of the final steps, or None for t_min.
        max_slope: bound on a particle's |grad f|, or None. Squared-residual features grow off the path; one particle that
            runs away shifts the mean of all others in the exact flow.
    """

    num_levels: int = 50
    steps_per_level: int = 1
    step_size: float | None = None
    step_scale: float = 1.0
    sampler: str = "exact"
    final_steps: int = 0
    final_sampler: str | None = None
    final_step_size: float | None = None
    final_level: float | None = None
    max_slope: float | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        _checks.count("num_levels", self.num_levels)
        _checks.count("steps_per_level", self.steps_per_level)
        _checks.count("final_steps", self.final_steps, 0)
        _checks.positive("step_scale", self.step_scale)
        _checks.choice("sampler", self.sampler, SAMPLERS)
        if self.step_size is not None:
            _checks.positive("step_size", self.step_size)
        if self.final_step_size is not None:
            _checks.positive("final_step_size", self.final_step_size)
        if self.max_slope is not None:
            _checks.positive("max_slope", self.max_slope)
        if self.final_level is not None:
            _checks.interval("final_level", self.final_level, 0.0, 1.0)
        if self.final_sampler is not None:
            _checks.choice("final_sampler", self.final_sampler, SAMPLERS)


@dataclass(frozen=True)
class DMMDOutput(SampleOutput):
    """What a DMMD pipeline returns: `particles`, `nfe`, `trajectory`, `images`; NFE counts witness gradients."""


@dataclass(frozen=True)
class DMMDPipeline:
    """A trained noise-conditional kernel with all that sampling needs.

    Attributes:
        kernel: the kernel; its features are one of `mmdflow.features.NETWORKS`, its base is linear.
        schedule: the forward diffusion, with its name in `schedule_name`.
        schedule_name: one of vp, ddpm, cosine, linear.
        means: the target's mean embeddings by noise level.
        second_moment: mean square of the data's entries, scaled.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        defaults: how to sample when not told otherwise.
        provenance: what made it: recipe, command, commit, seconds, versions.

    Example:
        >>> import torch
        >>> from mmdflow import DMMDPipeline
        >>> pipe = DMMDPipeline.from_pretrained("digits")
        >>> out = pipe(num_particles=4, generator=torch.Generator().manual_seed(0))
        >>> out.particles.shape
        torch.Size([4, 1, 8, 8])
    """

    kernel: NoiseConditionalKernel
    schedule: Schedule
    schedule_name: str
    means: TargetMeans
    second_moment: float
    data_scale: float = 1.0
    defaults: SamplerDefaults = field(default_factory=SamplerDefaults)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        _checks.positive("second_moment", self.second_moment)
        _checks.positive("data_scale", self.data_scale)
        width = self.means.clean.shape[1]
        if (
            self.kernel.base.finite
            and isinstance(self.kernel.features, FeatureNetwork)
            and width != self.features.num_features
        ):
            raise InputError(
                f"target means have {width} features: must have {self.features.num_features}, the network's"
            )

    @property
    def features(self) -> FeatureNetwork:
        """The feature network phi(x, t)."""
        network = self.kernel.features
        assert isinstance(network, FeatureNetwork)
        return network

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return self.features.event_shape

    def to(self, device: torch.device | str) -> DMMDPipeline:
        """Return the pipeline on a device."""
        return replace(self, kernel=self.kernel.to(device), means=self.means.to(device))

    def __call__(
        self,
        num_particles: int = 64,
        num_levels: int | None = None,
        steps_per_level: int | None = None,
        step_size: float | None = None,
        sampler: str | None = None,
        final_steps: int | None = None,
        final_sampler: str | None = None,
        generator: torch.Generator | None = None,
        *,
        particles: Float[Tensor, "n *event"] | None = None,
        return_trajectory: bool = False,
        progress: bool = False,
    ) -> DMMDOutput:
        """Sample. What is None is taken from `defaults`.

        Args:
            num_particles: N_p; with the exact sampler the particles interact (the paper uses 200).
            num_levels: noise levels T.
            steps_per_level: flow steps a level N_s; T x N_s is the NFE.
            step_size: a constant eta.
            sampler: "exact" or "approximate".
            final_steps: denoising steps after the last level.
            final_sampler: the flow of the final steps.
            generator: of the initial noise.
            particles: the source instead of N(0, I), [n, *event]; then num_particles is not used.
            return_trajectory: keep the particles after every level.
            progress: show a bar over the noise levels.

        Raises:
            InputError: for impossible settings.
            DivergedError: when particles become non-finite.
        """
        asked: dict[str, Any] = {
            "num_levels": num_levels,
            "steps_per_level": steps_per_level,
            "step_size": step_size,
            "sampler": sampler,
            "final_steps": final_steps,
            "final_sampler": final_sampler,
        }
        how = replace(self.defaults, **{k: v for k, v in asked.items() if v is not None})
        source = self._source(num_particles, particles, generator)
        t_min, t_max = float(self.means.levels[0]), float(self.means.levels[-1])
        levels = noise_levels(how.num_levels, t_min, t_max)
        size = math.prod(self.event_shape)
        if how.step_size is None:
            walk = distance_steps(self.schedule, levels, self.second_moment, size, how.step_scale)
            steps = [eta / how.steps_per_level for eta in walk]
        else:
            steps = [how.step_size] * len(levels)
        last = levels[-1] if how.final_level is None else how.final_level
        final = how.final_step_size
        if final is None:
            final = distance_steps(self.schedule, [last], self.second_moment, size)[0]
        frames = [source]
        with tqdm(total=len(levels) + bool(how.final_steps), disable=not progress, desc="sample", unit="level") as bar:

            def after_level(done: int, x: Tensor) -> None:
                bar.update()
                if return_trajectory:
                    frames.append(x)

            x, nfe = sample(
                self.kernel,
                self.means,
                source,
                levels=levels,
                step_sizes=steps,
                steps_per_level=how.steps_per_level,
                sampler=how.sampler,
                final_steps=how.final_steps,
                final_sampler=how.final_sampler,
                final_step_size=final,
                final_level=last,
                max_slope=how.max_slope,
                callback=after_level,
            )
        x = x / self.data_scale
        if len(self.event_shape) == 3:
            x = x.clamp(-1, 1)
        return DMMDOutput(x, nfe, torch.stack(frames) / self.data_scale if return_trajectory else None)

    def _source(self, count: int, particles: Tensor | None, generator: torch.Generator | None) -> Tensor:
        if particles is not None:
            _checks.points("particles", particles, self.event_shape)
            _checks.alike("particles", particles, self.means.clean)
            return particles * self.data_scale
        _checks.count("num_particles", count)
        return normal_like(self.means.clean.new_empty(count, *self.event_shape), generator)

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the pipeline to a new folder of safetensors and JSON; it appears whole or not at all.

        Raises:
            InputError: if the folder is in use and overwrite was not asked for, or cannot be written.
        """
        config = {
            "system": "dmmd",
            "base_kernel": "linear",
            "schedule": self.schedule_name,
            "second_moment": self.second_moment,
            "data_scale": self.data_scale,
            "sampler": asdict(self.defaults),
            "provenance": self.provenance,
        }
        means = {"levels": self.means.levels, "clean": self.means.clean, "noisy": self.means.noisy}
        return save_pipeline(path, self.features, config, {_MEANS: means}, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, path: str | Path, device: torch.device | str = "cpu") -> DMMDPipeline:
        """Load a pipeline from a folder, a run folder that holds `pipeline/`, or a shipped model's name.

        Raises:
            InputError: if there is none, or a file is missing or corrupt.
        """
        folder = find_folder(path)
        with open_config(folder, "dmmd") as config:
            pipeline = cls(
                kernel=NoiseConditionalKernel(load_network(folder, config)),
                schedule=schedule(_checks.choice("schedule", config["schedule"], SCHEDULES)),
                schedule_name=config["schedule"],
                means=TargetMeans(**load_tensors(folder / _MEANS)),
                second_moment=config["second_moment"],
                data_scale=config["data_scale"],
                defaults=SamplerDefaults(**config["sampler"]),
                provenance=config["provenance"],
            )
        return pipeline.to(device)
