"""A trained DMMD as one object and one folder: weights, schedule, target means, sampler defaults, provenance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow import _checks
from mmdflow._tensors import normal_like, out_of_memory
from mmdflow.errors import DivergedError, InputError
from mmdflow.features import FeatureNetwork
from mmdflow.kernels import base_config, base_kernel
from mmdflow.methods._shared.folder import load_network, load_tensors
from mmdflow.methods._shared.pretrained import SavedPipeline
from mmdflow.methods._shared.sampling import SampleOutput
from mmdflow.methods.dmmd.conditions import Known, check_known, check_labels, check_source
from mmdflow.methods.dmmd.monitor import Recorder
from mmdflow.methods.dmmd.sampler import sample
from mmdflow.methods.dmmd.settings import SamplerDefaults
from mmdflow.methods.dmmd.targets.means import TargetMeans
from mmdflow.methods.dmmd.targets.samples import TargetSamples
from mmdflow.methods.dmmd.targets.witness import TargetWitness
from mmdflow.noise import SCHEDULES, NoiseConditionalKernel, Schedule, schedule
from mmdflow.types import SamplingMonitor

_MEANS, _SAMPLES, _WITNESS = "target_means.safetensors", "target_samples.safetensors", "target_witness.safetensors"
_FILES: dict[type, str] = {TargetMeans: _MEANS, TargetSamples: _SAMPLES, TargetWitness: _WITNESS}


@dataclass(frozen=True)
class DMMDOutput(SampleOutput):
    """What a DMMD pipeline returns: `particles`, `nfe`, `trajectory`, `images`; NFE counts witness gradients.

    Attributes:
        monitor: what the run looked like at each noise level, when asked for.
    """

    monitor: SamplingMonitor | None = None


@dataclass(frozen=True)
class DMMDPipeline(SavedPipeline):
    """A trained noise-conditional kernel with all that sampling needs.

    Attributes:
        kernel: the kernel; its features are one of `mmdflow.features.NETWORKS`, its base is linear or one of
            `mmdflow.methods.dmmd.base_config`.
        schedule: the forward diffusion, with its name in `schedule_name`.
        schedule_name: one of vp, ddpm, cosine, linear.
        means: what is known of the target: its mean embeddings by noise level (linear base), or samples of it (any base).
            Without, nothing can be sampled.
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
    means: TargetMeans | TargetSamples | TargetWitness | None
    second_moment: float
    data_scale: float = 1.0
    defaults: SamplerDefaults = field(default_factory=SamplerDefaults)
    provenance: dict[str, Any] = field(default_factory=dict)
    systems: ClassVar[tuple[str, ...]] = ("dmmd",)
    settings: ClassVar[type] = SamplerDefaults

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        _checks.positive("second_moment", self.second_moment)
        _checks.positive("data_scale", self.data_scale)
        if self.means is None or not isinstance(self.kernel.features, FeatureNetwork):
            return
        if isinstance(self.means, TargetSamples):
            if tuple(self.means.clean.shape[1:]) != self.event_shape:
                raise InputError(
                    f"target samples have event shape {list(self.means.clean.shape[1:])}: must be {list(self.event_shape)}"
                )
            return
        if isinstance(self.means, TargetMeans) and not self.kernel.base.finite:
            raise InputError(
                f"target means with base kernel {type(self.kernel.base).__name__}: must be TargetSamples; it has no finite "
                f"feature map"
            )
        width = (self.means.direction if isinstance(self.means, TargetWitness) else self.means.clean).shape[1]
        if width != self.features.num_features:
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
        """Return the pipeline on a device; this one stays where it is."""
        means = None if self.means is None else self.means.to(device)
        return replace(self, kernel=deepcopy(self.kernel).to(device), means=means)

    def __call__(
        self,
        num_particles: int = 64,
        num_levels: int | None = None,
        steps_per_level: int | None = None,
        step_size: float | Sequence[float] | None = None,
        sampler: str | None = None,
        final_steps: int | None = None,
        final_sampler: str | None = None,
        generator: torch.Generator | None = None,
        *,
        t_min: float | None = None,
        t_max: float | None = None,
        momentum: float | None = None,
        integrator: str | None = None,
        chunk_size: int | None = None,
        whitening: float | None = None,
        step_scale: float | None = None,
        max_slope: float | None = None,
        final_step_size: float | None = None,
        final_level: float | None = None,
        particles: Float[Tensor, "n *event"] | None = None,
        noise_source: bool = False,
        labels: Int[Tensor, " n"] | int | None = None,
        guidance: float | None = None,
        known: Float[Tensor, "*any"] | None = None,
        mask: Bool[Tensor, "*part"] | None = None,
        monitor: bool = False,
        return_trajectory: bool = False,
        progress: bool = False,
    ) -> DMMDOutput:
        """Sample. What is None is taken from `defaults`.

        Args:
            num_particles: N_p; with the exact sampler the particles interact (the paper uses 200).
            num_levels: noise levels T.
            steps_per_level: flow steps a level N_s; T x N_s is the NFE.
            step_size: a constant eta, or one a level.
            sampler: "exact" or "approximate"; or a name of the paper, which sets the final steps too: "dmmd", "a-dmmd" (none),
                "a-dmmd-a", "a-dmmd-e", "dmmd-e" (2 unless given).
            final_steps: denoising steps after the last level.
            final_sampler: the flow of the final steps.
            generator: of the initial noise, and of a source's or known entries' noise.
            t_min: lowest noise level, in the trained range.
            t_max: highest noise level, at which the source is taken to be.
            momentum: of the flow.
            integrator: "euler", "nesterov", "heun" or "adams_bashforth".
            chunk_size: particles whose gradient is taken at once: bounds memory, changes nothing else.
            whitening: lambda of the regularised witness; infinity for the plain one.
            step_scale: factor of the distance schedule.
            max_slope: bound on a particle's |grad f|; infinity for none.
            final_step_size: eta of the final steps.
            final_level: noise level of the final steps, in the trained range.
            particles: the source instead of N(0, I), [n, *event]; then num_particles is not used.
            noise_source: noise the source forward to t_max first (SDEdit, Meng et al. 2022); images then lie in [-1, 1].
            labels: the class of every particle, [n], or of all; needs target means of classes.
            guidance: weight g of (1 + g) class flow - g unconditional flow.
            known: values of known entries, [*event] or [n, *event]; they come back as they are.
            mask: True where known; broadcasts to [n, *event].
            monitor: watch the run level by level; costs no evaluations.
            return_trajectory: keep the particles after every level.
            progress: show a bar over the noise levels.

        Raises:
            InputError: for impossible settings, a pipeline with no target means, or too little memory.
            DivergedError: when particles become non-finite; it holds the last finite ones, and the monitor until then.
        """
        target = self.means
        if target is None:
            raise InputError(
                "the pipeline holds no target means: sampling needs them; compute them with mmdflow.methods.dmmd.target_means "
                "and dataclasses.replace(pipeline, means=...), or delete the run's pipeline/ and `mmdflow train --resume RUN`"
            )
        how = self.defaults.asked(
            sampler,
            num_levels=num_levels,
            steps_per_level=steps_per_level,
            step_size=list(step_size) if isinstance(step_size, Sequence) else step_size,
            final_steps=final_steps,
            final_sampler=final_sampler,
            t_min=t_min,
            t_max=t_max,
            momentum=momentum,
            integrator=integrator,
            chunk_size=chunk_size,
            whitening=whitening,
            step_scale=step_scale,
            max_slope=max_slope,
            final_step_size=final_step_size,
            final_level=final_level,
            guidance=guidance,
        )
        plan = how.plan(target.t_range, self.schedule, self.second_moment, math.prod(self.event_shape))
        source = self._source(num_particles, particles, noise_source, plan.levels[0], generator)
        n = len(source)
        if guidance and labels is None:
            raise InputError(f"guidance = {guidance!r} without labels: must come with the classes that it guides to")
        classes = None if labels is None else check_labels(labels, n, target, source.device)
        given = check_known(known, mask, n, self.event_shape, source)
        fixed = None
        if given is not None:
            fixed = Known(given[0] * self.data_scale, given[1], normal_like(source, generator), self.schedule)
        recorder = Recorder() if monitor else None
        frames = [source if fixed is None else fixed.at(plan.levels[0], source)]
        total = len(plan.levels) + bool(how.final_steps)
        with tqdm(total=total, disable=not progress, desc="sample", unit="level") as bar, self._told(n, how, recorder):

            def after_level(done: int, x: Tensor) -> None:
                bar.update()
                if return_trajectory:
                    frames.append(x)

            x, nfe = sample(
                self.kernel,
                target,
                source,
                levels=plan.levels,
                step_sizes=plan.step_sizes,
                steps_per_level=how.steps_per_level,
                sampler=how.sampler,
                final_steps=how.final_steps,
                final_sampler=how.final_sampler,
                final_step_size=plan.final_step_size,
                final_level=plan.final_level,
                max_slope=how.max_slope,
                momentum=how.momentum,
                integrator=how.integrator,
                chunk_size=how.chunk_size,
                whitening=how.whitening,
                labels=classes,
                guidance=how.guidance,
                known=fixed,
                recorder=recorder,
                callback=after_level,
            )
        x = x / self.data_scale
        if len(self.event_shape) == 3:
            x = x.clamp(-1, 1)
        if given is not None:  # to the last bit
            x = torch.where(given[1], given[0], x)
        return DMMDOutput(
            x,
            nfe,
            torch.stack(frames) / self.data_scale if return_trajectory else None,
            None if recorder is None else recorder.result(),
        )

    def _source(
        self,
        count: int,
        particles: Tensor | None,
        noise_source: bool,
        t_max: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        like = next(self.features.parameters())
        if particles is None:
            if noise_source:
                raise InputError("noise_source = True without particles: give the source, particles=[n, *event]")
            _checks.count("num_particles", count)
            return normal_like(like.new_empty(count, *self.event_shape), generator)
        check_source(particles, self.event_shape, like, self.data_scale, clean=noise_source)
        x = particles.detach() * self.data_scale
        if not noise_source:
            return x
        return self.schedule.add_noise(x, normal_like(x, generator), x.new_full((len(x),), t_max))

    @contextmanager
    def _told(self, n: int, how: SamplerDefaults, recorder: Recorder | None) -> Iterator[None]:
        """Tell what to change where memory runs out; give particles that are kept in the data's own units, and the monitor."""
        try:
            yield
        except DivergedError as error:
            kept = None if error.particles is None else error.particles / self.data_scale
            raise DivergedError(str(error), kept, None if recorder is None else recorder.result()) from error
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            size = min(n, how.chunk_size or n)
            advice = f"chunk_size = {size // 2} halves it" if size > 1 else "no chunk_size is smaller"
            raise InputError(f"out of memory with {n} particles, {size} at once: {advice}") from error

    def _parts(self) -> tuple[FeatureNetwork, dict[str, Any], dict[str, dict[str, Tensor]]]:
        config = {
            "system": "dmmd",
            "base_kernel": base_config(self.kernel.base),
            "witness_norm": self.kernel.witness_norm,
            "schedule": self.schedule_name,
            "second_moment": self.second_moment,
            "data_scale": self.data_scale,
            "sampler": asdict(self.defaults),
            "provenance": self.provenance,
        }
        target = {}
        if self.means is not None:
            target[_FILES[type(self.means)]] = self.means.tensors()
        return self.features, config, target

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> DMMDPipeline:
        path_of_noise = schedule(_checks.choice("schedule", config["schedule"], SCHEDULES))
        base = config["base_kernel"]
        base = base_kernel({"name": base} if isinstance(base, str) else base)  # a name only, in older folders
        return cls(
            kernel=NoiseConditionalKernel(load_network(folder, config), base, witness_norm=config.get("witness_norm")),
            schedule=path_of_noise,
            schedule_name=config["schedule"],
            means=_load_target(folder, path_of_noise),
            second_moment=config["second_moment"],
            data_scale=config["data_scale"],
            defaults=SamplerDefaults(**config["sampler"]),
            provenance=config["provenance"],
        )


def _load_target(folder: Path, noise: Schedule) -> TargetMeans | TargetSamples | TargetWitness | None:
    if (folder / _WITNESS).is_file():
        return TargetWitness.from_tensors(load_tensors(folder / _WITNESS))
    if (folder / _SAMPLES).is_file():
        return TargetSamples.from_tensors(load_tensors(folder / _SAMPLES), noise)
    return TargetMeans(**load_tensors(folder / _MEANS)) if (folder / _MEANS).is_file() else None
