"""A trained denoiser as one object and one folder: weights, schedule, sampler defaults, provenance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow import _checks
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.networks import check_event_map
from mmdflow.methods._shared.pretrained import SampleOutput, SavedPipeline, load_network
from mmdflow.methods._shared.sampling import draw_source
from mmdflow.methods.denoising.loss import check_prediction
from mmdflow.methods.denoising.samplers import DIFFUSION_SAMPLERS, ODE_SAMPLERS, sample_diffusion, sample_ode
from mmdflow.noise import SCHEDULES, Schedule, schedule

#: What a system predicts, by the name that recipes and saved pipelines use.
SYSTEMS = {"ddpm": "noise", "flow-matching": "velocity"}
_SAMPLERS = {"noise": DIFFUSION_SAMPLERS, "velocity": ODE_SAMPLERS}


@dataclass(frozen=True)
class DenoisingDefaults:
    """How a pipeline samples when it is not told otherwise.

    Attributes:
        num_levels: steps from noise to data.
        sampler: "ancestral" or "ddim" (noise), "euler" or "heun" (velocity).
        clip: keep the predicted clean sample in [-1, 1] (noise; for images), as Ho et al. do.
    """

    num_levels: int
    sampler: str
    clip: bool = False

    def __post_init__(self) -> None:
        """Check the number."""
        _checks.count("num_levels", self.num_levels)


@dataclass(frozen=True)
class DenoisingPipeline(SavedPipeline):
    """A trained denoiser with all that sampling needs.

    Attributes:
        network: the network whose event-shaped output is the prediction.
        schedule: the forward diffusion, with its name in `schedule_name`.
        schedule_name: one of vp, ddpm, cosine (noise) or linear (velocity).
        prediction: "noise" (DDPM) or "velocity" (flow matching).
        defaults: how to sample when not told otherwise.
        levels: the lowest and highest noise level that the network was trained at; it is asked for none outside.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        provenance: what made it: recipe, command, commit, seconds, versions.
    """

    network: FeatureNetwork
    schedule: Schedule
    schedule_name: str
    prediction: str
    defaults: DenoisingDefaults
    levels: tuple[float, float] = (0.0, 1.0)
    data_scale: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    systems: ClassVar[tuple[str, ...]] = tuple(SYSTEMS)

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        check_event_map(self.network)
        check_prediction(self.prediction, self.schedule)
        _checks.choice("sampler", self.defaults.sampler, _SAMPLERS[self.prediction])
        _checks.positive("data_scale", self.data_scale)

    @property
    def system(self) -> str:
        """The system's name: ddpm or flow-matching."""
        return next(name for name, prediction in SYSTEMS.items() if prediction == self.prediction)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return self.network.event_shape

    def predict(self, x: Float[Tensor, "n *event"], t: float) -> Float[Tensor, "n *event"]:
        """Return the noise in particles of level t, or their velocity; in the model's units."""
        level = min(max(t, self.levels[0]), self.levels[1])
        return self.network.outputs(x, x.new_full((len(x),), level))[:, 0]

    def __call__(
        self,
        num_particles: int = 64,
        num_levels: int | None = None,
        sampler: str | None = None,
        generator: torch.Generator | None = None,
        *,
        particles: Float[Tensor, "n *event"] | None = None,
        return_trajectory: bool = False,
        progress: bool = False,
    ) -> SampleOutput:
        """Sample. What is None is taken from `defaults`.

        Args:
            num_particles: samples; they do not interact.
            num_levels: steps from noise to data; for a noise predictor a divisor of 1000, such as 100 or 1000.
            sampler: "ancestral" or "ddim" (noise), "euler" or "heun" (velocity; two evaluations a step).
            generator: of the initial noise, and of the ancestral sampler's.
            particles: the source instead of N(0, I), [n, *event]; then num_particles is not used.
            return_trajectory: keep the particles after every step.
            progress: show a bar over the steps.

        Raises:
            InputError: for impossible settings.
            DivergedError: when particles become non-finite.
        """
        count = _checks.count("num_levels", self.defaults.num_levels if num_levels is None else num_levels)
        how = _checks.choice("sampler", sampler or self.defaults.sampler, _SAMPLERS[self.prediction])
        source = draw_source(self.network, num_particles, particles, generator, scale=self.data_scale)
        frames = [source]
        with tqdm(total=count, disable=not progress, desc="sample", unit="level") as bar:

            def after_level(done: int, x: Tensor) -> None:
                bar.update()
                if return_trajectory:
                    frames.append(x)

            x, nfe = self._run(source, count, how, generator, after_level)
        x = x / self.data_scale
        if len(self.event_shape) == 3:
            x = x.clamp(-1, 1)
        return SampleOutput(x, nfe, torch.stack(frames) / self.data_scale if return_trajectory else None)

    def _run(
        self,
        source: Tensor,
        count: int,
        sampler: str,
        generator: torch.Generator | None,
        callback: Callable[[int, Tensor], None],
    ) -> tuple[Tensor, int]:
        if self.prediction == "velocity":
            return sample_ode(self.predict, source, num_levels=count, sampler=sampler, callback=callback)
        return sample_diffusion(
            self.predict,
            self.schedule,
            source,
            num_levels=count,
            sampler=sampler,
            clip=self.data_scale if self.defaults.clip else None,
            generator=generator,
            callback=callback,
        )

    def _parts(self) -> tuple[FeatureNetwork, dict[str, Any], dict[str, dict[str, Tensor]]]:
        config = {
            "system": self.system,
            "schedule": self.schedule_name,
            "levels": list(self.levels),
            "data_scale": self.data_scale,
            "sampler": asdict(self.defaults),
            "provenance": self.provenance,
        }
        return self.network, config, {}

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> DenoisingPipeline:
        low, high = config["levels"]
        return cls(
            network=load_network(folder, config),
            schedule=schedule(_checks.choice("schedule", config["schedule"], SCHEDULES)),
            schedule_name=config["schedule"],
            prediction=SYSTEMS[config["system"]],
            defaults=DenoisingDefaults(**config["sampler"]),
            levels=(float(low), float(high)),
            data_scale=config["data_scale"],
            provenance=config["provenance"],
        )
