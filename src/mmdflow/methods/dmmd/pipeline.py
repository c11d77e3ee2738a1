"""A trained DMMD as one object and one folder: weights, schedule, target means, sampler defaults, provenance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
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
from mmdflow.methods._shared.folder import CONFIG, load_network, load_tensors
from mmdflow.methods._shared.pretrained import SavedPipeline
from mmdflow.methods._shared.sampling import SampleOutput, given_back
from mmdflow.methods.dmmd.conditions import FixedEntries, check_known, check_source, classes_of
from mmdflow.methods.dmmd.monitor import Recorder
from mmdflow.methods.dmmd.sampler import sample
from mmdflow.methods.dmmd.settings import SamplerSettings
from mmdflow.methods.dmmd.targets.base import Target
from mmdflow.methods.dmmd.targets.means import TargetMeans
from mmdflow.methods.dmmd.targets.samples import TargetSamples
from mmdflow.methods.dmmd.targets.witness import TargetWitness
from mmdflow.methods.dmmd.walk import Walk
from mmdflow.noise import SCHEDULES, NoiseConditionalKernel, Schedule, schedule
from mmdflow.types import ArrayLike, SamplingMonitor

#: What a folder may hold of its target.
TARGETS: tuple[type[Target], ...] = (TargetMeans, TargetSamples, TargetWitness)


@dataclass(frozen=True, repr=False)
class DMMDOutput(SampleOutput):
    """What a DMMD pipeline returns: `particles`, `nfe`, `trajectory`, `images`; NFE counts witness gradients.

    Attributes:
        monitor: what the run looked like at each noise level, with `monitor=True`.
    """

    monitor: SamplingMonitor | None = None


@dataclass(frozen=True, repr=False)
class DMMDPipeline(SavedPipeline):
    """A trained noise-conditional kernel with all that sampling needs.

    Attributes:
        kernel: the kernel; its features are one of `mmdflow.features.NETWORKS`, its base is linear or one of
            `mmdflow.kernels.base_config`.
        schedule: the forward diffusion, with its name in `schedule_name`.
        schedule_name: one of vp, ddpm, cosine, linear.
        target: what is known of the data: mean embeddings by noise level (linear base), samples (any base), or a learned
            witness. Without, nothing can be sampled.
        second_moment: mean square of the data's entries, scaled.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        defaults: the settings of a call that gives none.
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
    target: Target | None
    second_moment: float
    data_scale: float = 1.0
    defaults: SamplerSettings = field(default_factory=SamplerSettings)
    provenance: dict[str, Any] = field(default_factory=dict)
    systems: ClassVar[tuple[str, ...]] = ("dmmd",)
    settings: ClassVar[type[SamplerSettings]] = SamplerSettings

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        _checks.positive("second_moment", self.second_moment)
        _checks.positive("data_scale", self.data_scale)
        if self.target is not None and isinstance(self.kernel.features, FeatureNetwork):
            self.target.check(self.kernel)

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
        target = None if self.target is None else self.target.to(device)
        return replace(self, kernel=deepcopy(self.kernel).to(device), target=target)

    def __call__(
        self,
        num_particles: int = 64,
        *,
        generator: torch.Generator | None = None,
        particles: Float[Tensor, "n *event"] | ArrayLike | None = None,
        labels: Int[Tensor, " n"] | int | ArrayLike | None = None,
        known: Float[Tensor, "*any"] | ArrayLike | None = None,
        mask: Bool[Tensor, "*part"] | ArrayLike | None = None,
        noise_source: bool = False,
        monitor: bool = False,
        return_trajectory: bool = False,
        progress: bool = False,
        **settings: Any,
    ) -> DMMDOutput:
        """Sample.

        Args:
            num_particles: N_p; with the exact sampler the particles interact (the paper uses 200).
            generator: of the initial noise, and of a source's or known entries' noise.
            particles: the source instead of N(0, I), [n, *event]; then num_particles is not used. This and what
                follows may be arrays of any kind; the output is of the kind of the first that is given.
            labels: the class of every particle, [n], or of all; needs target means of classes. `by_class` draws them.
            known: values of known entries, [*event] or [n, *event]; they come back as they are.
            mask: True where known; broadcasts to [n, *event].
            noise_source: noise the source forward to t_max first (SDEdit, Meng et al. 2022); images then lie in [-1, 1].
            monitor: watch the run level by level; costs no evaluations.
            return_trajectory: keep the particles after every level.
            progress: show a bar over the noise levels.
            **settings: fields of `SamplerSettings`, in place of those in `defaults`; see `SamplerSettings.changed`.

        Raises:
            InputError: for impossible settings, a pipeline with no target, or too little memory.
            DivergedError: when particles become non-finite; it holds the last finite ones, and the monitor until then.
        """
        target = self._checked_target()
        sampler = self.defaults.changed(**settings)
        walk = Walk.of(
            sampler,
            t_range=target.t_range,
            schedule=self.schedule,
            second_moment=self.second_moment,
            event_size=math.prod(self.event_shape),
        )
        source = self._source(num_particles, particles, noise_source, walk.levels[0], generator)
        n = len(source)
        if settings.get("guidance") and labels is None and not sampler.by_class:
            raise InputError(
                f"guidance = {sampler.guidance!r} without labels or by_class: must come with the classes that it guides to"
            )
        inpainting = check_known(known, mask, n, self.event_shape, source)
        shown = "known entries show" if inpainting is not None else "source shows" if noise_source else None
        classes = classes_of(labels, source, target, sampler.by_class, generator, shown=shown)
        fixed = None
        if inpainting is not None:
            values, where = inpainting
            fixed = FixedEntries(values * self.data_scale, where, normal_like(source, generator), self.schedule)
        recorder = Recorder() if monitor else None
        frames = [source if fixed is None else fixed.at(walk.levels[0], source)]
        total = len(walk.levels) + bool(sampler.final_steps)
        with (
            tqdm(total=total, disable=not progress, desc="sample", unit="level") as bar,
            self._explain_errors(n, sampler, recorder),
        ):

            def after_level(done: int, x: Tensor) -> None:
                bar.update()
                if return_trajectory:
                    frames.append(x)

            x, nfe = sample(
                self.kernel,
                target,
                source,
                walk,
                sampler,
                labels=classes,
                fixed=fixed,
                recorder=recorder,
                callback=after_level,
            )
        x = x / self.data_scale
        if len(self.event_shape) == 3:
            x = x.clamp(-1, 1)
        if inpainting is not None:  # to the last bit
            x = torch.where(where, values, x)
        trajectory = torch.stack(frames) / self.data_scale if return_trajectory else None
        output = DMMDOutput(x, nfe, trajectory, None if recorder is None else recorder.result())
        return given_back(output, particles, known, mask)

    def _checked_target(self) -> Target:
        if self.target is None:
            raise InputError(
                "the pipeline holds no target means: sampling needs them; compute them with mmdflow.methods.dmmd.target_means "
                "and dataclasses.replace(pipeline, target=...), or delete the run's pipeline/ and `mmdflow train --resume RUN`"
            )
        return self.target

    def _source(
        self,
        count: int,
        particles: ArrayLike | None,
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
        given = check_source(particles, self.event_shape, like, self.data_scale, clean=noise_source)
        x = given.detach() * self.data_scale
        if not noise_source:
            return x
        return self.schedule.add_noise(x, normal_like(x, generator), x.new_full((len(x),), t_max))

    @contextmanager
    def _explain_errors(self, n: int, settings: SamplerSettings, recorder: Recorder | None) -> Iterator[None]:
        """Say what to change where memory runs out; scale kept particles back to the data's units, and add the monitor."""
        try:
            yield
        except DivergedError as error:
            finite = None if error.particles is None else error.particles / self.data_scale
            raise DivergedError(str(error), finite, None if recorder is None else recorder.result()) from error
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            size = min(n, settings.chunk_size or n)
            advice = f"chunk_size = {size // 2} halves it" if size > 1 else "no chunk_size is smaller"
            raise InputError(f"out of memory with {n} particles, {size} at once: {advice}") from error

    def _parts(self) -> tuple[FeatureNetwork, dict[str, Any], dict[str, dict[str, Tensor]]]:
        config = {
            "base_kernel": base_config(self.kernel.base),
            "schedule": self.schedule_name,
            "second_moment": self.second_moment,
        }
        files = {} if self.target is None else {self.target.file: self.target.tensors()}
        return self.features, config, files

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> DMMDPipeline:
        path_of_noise = schedule(_checks.choice("schedule", config["schedule"], SCHEDULES))
        if config.get("witness_norm") is not None:  # of older folders
            raise InputError(
                f"{folder / CONFIG}: witness_norm = {config['witness_norm']!r}: is read no more; models of version 0.1 with one "
                "feature and a witness norm are flow matching, and are trained by a flow-matching recipe with "
                "loss.output=residual"
            )
        base = config["base_kernel"]
        base = base_kernel({"name": base} if isinstance(base, str) else base)  # a name only, in older folders
        return cls(
            kernel=NoiseConditionalKernel(load_network(folder, config), base),
            schedule=path_of_noise,
            schedule_name=config["schedule"],
            target=_load_target(folder, path_of_noise),
            second_moment=config["second_moment"],
            **cls._common(config),
        )


def _load_target(folder: Path, noise: Schedule) -> Target | None:
    """Return the target whose file the folder holds."""
    for kind in TARGETS:
        if (folder / kind.file).is_file():
            return kind.from_tensors(load_tensors(folder / kind.file), noise)
    return None
