"""`SavedPipeline`, which the pipelines of all methods extend by the steps of their samplers and the parts that they save."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, fields, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow._settings import changed
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.folder import find_folder, open_config, save_pipeline
from mmdflow.methods._shared.sampling import SampleOutput, Steps, collect, draw_source, given_back
from mmdflow.types import ArrayLike

if TYPE_CHECKING:
    from typing_extensions import Self


class SavedPipeline:
    """A trained model: it samples, stands on a device, and is written to and read from a folder of safetensors and JSON.

    A subclass is a frozen dataclass with the fields below. It says its sampler's steps (`_steps`), and where its particles start
    if that is not N(0, I) (`_start`); what is saved (`_parts`), and how it is made of that (`_of_folder`).

    Attributes:
        systems: names of the methods whose folders it reads.
        settings: the dataclass of its sampler's settings.
        defaults: the settings of a call that names none, an object of that class.
        data_scale: factor of the data inside the model; particles are given and returned in the data's own units.
        provenance: what made it: recipe, command, commit, seconds, versions.
    """

    systems: ClassVar[tuple[str, ...]]
    settings: ClassVar[type]
    defaults: Any
    data_scale: float
    provenance: dict[str, Any]
    _defaults_key: ClassVar[str] = "sampler"  # of the config

    def __call__(
        self,
        num_particles: int = 64,
        *,
        generator: torch.Generator | None = None,
        particles: Float[Tensor, "n *event"] | ArrayLike | None = None,
        return_trajectory: bool = False,
        progress: bool = False,
        **settings: Any,
    ) -> SampleOutput:
        """Sample.

        Args:
            num_particles: samples.
            generator: of everything that is drawn.
            particles: where to start instead of the source, [n, *event]; then num_particles is not used. The output is of
                the same kind of array.
            return_trajectory: keep the particles after every step.
            progress: show a bar over the steps.
            settings: fields of the sampler's settings, the class attribute `settings`; None, or a field that is left out, is
                taken from `defaults`.

        Raises:
            InputError: for impossible settings.
            DivergedError: when particles become non-finite; it holds the last finite ones.
        """
        chosen = self._settings(settings)
        source = self._start(num_particles, particles, generator, chosen)
        steps = self._steps(source, chosen, generator)
        output = collect(steps, scale=self.data_scale, return_trajectory=return_trajectory, progress=progress)
        return given_back(output, particles)

    def __repr__(self) -> str:
        """Return a few lines: the event, the weights, the settings of a call, and what made it."""
        return f"{type(self).__name__}(\n" + "".join(f"  {name}: {text}\n" for name, text in self._summary()) + ")"

    def _repr_html_(self) -> str:
        """Return the same as a table, for notebooks."""
        rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in self._summary())
        return f"<table><caption>{type(self).__name__}</caption>{rows}</table>"

    def _summary(self) -> list[tuple[str, str]]:
        """Return what a reader wants to know at first sight, a line each."""
        networks = [value for value in vars(self).values() if isinstance(value, nn.Module)]
        tensors = [tensor for network in networks for tensor in network.parameters()]
        changed_settings = {
            entry.name: getattr(self.defaults, entry.name)
            for entry in fields(self.defaults)
            if getattr(self.defaults, entry.name) is not None
        }
        made = self.provenance.get("command") or self.provenance.get("recipe", {})
        shape = getattr(self, "event_shape", ())
        lines = [
            ("event", str(list(shape))),
            ("weights", f"{sum(tensor.numel() for tensor in tensors):,} on {tensors[0].device}"),
            ("settings", ", ".join(f"{name}={value!r}" for name, value in changed_settings.items())[:300]),
        ]
        return [*lines, ("made by", str(made)[:200])] if made else lines

    def _settings(self, changes: dict[str, Any]) -> Any:
        """Return the settings of a run."""
        return changed(self.defaults, changes)

    def _start(
        self, num_particles: int, particles: ArrayLike | None, generator: torch.Generator | None, settings: Any
    ) -> Tensor:
        """Return the particles that a run starts from, in the model's units: the given ones, or draws from N(0, I)."""
        return draw_source(self._network(), num_particles, particles, generator, scale=self.data_scale)

    def _network(self) -> FeatureNetwork:
        """Return the network that the source is for: its event shape, type and device."""
        raise NotImplementedError

    def _steps(self, source: Tensor, settings: Any, generator: torch.Generator | None) -> Steps:
        """Return the steps of a run from the source."""
        raise NotImplementedError

    def _parts(self) -> tuple[FeatureNetwork | nn.ModuleDict, dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Return the networks, the entries of the config beside the common ones, and the tensors of further files."""
        raise NotImplementedError

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> Self:
        """Return the pipeline of an open folder."""
        raise NotImplementedError

    @classmethod
    def _common(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the fields that all pipelines have, of a config."""
        defaults = cls.settings(**config[cls._defaults_key])
        return {"defaults": defaults, "data_scale": config["data_scale"], "provenance": config["provenance"]}

    def to(self, device: torch.device | str) -> Self:
        """Return the pipeline on a device; this one stays where it is."""
        moved = {
            name: (deepcopy(value) if isinstance(value, nn.Module) else value).to(device)
            for name, value in vars(self).items()
            if isinstance(value, nn.Module | Tensor)
        }
        return replace(self, **moved)  # type: ignore[type-var]

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the pipeline to a new folder of safetensors and JSON; it appears whole or not at all.

        Raises:
            InputError: if the folder is in use and `overwrite` is false, or cannot be written.
        """
        network, config, tensors = self._parts()
        common = {
            "system": self.systems[0],
            "data_scale": self.data_scale,
            self._defaults_key: asdict(self.defaults),
            "provenance": self.provenance,
        }
        config = common | config
        return save_pipeline(path, network, config, tensors, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, path: str | Path, device: torch.device | str = "cpu") -> Self:
        """Load a pipeline from a folder, a run folder that holds `pipeline/`, or a shipped model's name.

        Raises:
            InputError: if there is none, or a file is missing or corrupt.
        """
        folder = find_folder(path)
        with open_config(folder, *cls.systems) as config:
            pipeline = cls._of_folder(folder, config)
        return pipeline.to(device)
