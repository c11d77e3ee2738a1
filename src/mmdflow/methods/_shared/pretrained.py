"""What every pipeline shares: the folder it is saved in (safetensors and JSON, no pickle), and what sampling returns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmdflow import _checks, _run_folder
from mmdflow._files import new_folder, read_json, shipped_models
from mmdflow._tensors import to_bytes
from mmdflow.errors import InputError, reason
from mmdflow.features import NETWORKS, FeatureNetwork

if TYPE_CHECKING:
    from PIL import Image
    from typing_extensions import Self

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class SampleOutput:
    """What a pipeline returns.

    Attributes:
        particles: [n, *event]; images lie in [-1, 1].
        nfe: evaluations of the network per particle that were made.
        trajectory: the particles at the start and after every noise level, [S, n, *event], when asked for.
    """

    particles: Float[Tensor, "n *event"]
    nfe: int
    trajectory: Float[Tensor, "S n *event"] | None = None

    @property
    def images(self) -> list[Image.Image]:
        """The particles as PIL images (events [1 or 3, height, width])."""
        from PIL import Image

        if self.particles.ndim != 4 or self.particles.shape[1] not in (1, 3):
            raise InputError(f"particles have event shape {list(self.particles.shape[1:])}: images are [1 or 3, h, w]")
        pixels = to_bytes(self.particles).permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(p[:, :, 0] if p.shape[2] == 1 else p) for p in pixels]


class SavedPipeline:
    """What every pipeline has: a place on a device, and a folder of safetensors and JSON that it is written to and read from.

    Subclasses are frozen dataclasses; they say what is saved by `_parts`, and make themselves of that by `_of_folder`.
    """

    #: The names of the systems whose folders it reads.
    systems: ClassVar[tuple[str, ...]]

    def _parts(self) -> tuple[FeatureNetwork | nn.ModuleDict, dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Return the networks, the config with its `system`, and the tensors of further files."""
        raise NotImplementedError

    @classmethod
    def _of_folder(cls, folder: Path, config: dict[str, Any]) -> Self:
        """Return the pipeline of an open folder."""
        raise NotImplementedError

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
            InputError: if the folder is in use and overwrite was not asked for, or cannot be written.
        """
        network, config, tensors = self._parts()
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


def is_pipeline(path: str | Path) -> bool:
    """Whether a path or name stands for a pipeline folder, a run folder that holds one, or a shipped model."""
    return _folder_of(path) is not None


def find_folder(path: str | Path) -> Path:
    """Return the pipeline folder that a path or a shipped model's name stands for.

    Raises:
        InputError: if there is none.
    """
    folder = _folder_of(path)
    if folder is None:
        names = shipped_models()
        raise InputError(
            f"model = {str(path)!r}: must be a pipeline folder, a run folder with a finished pipeline, or one of "
            f"{', '.join(names)}{_checks.near(str(path), names)}"
        )
    return folder


def _folder_of(path: str | Path) -> Path | None:
    candidates = [Path(path), Path(path) / _run_folder.PIPELINE]
    if (shipped := shipped_models().get(str(path))) is not None:
        candidates.append(shipped)
    return next((folder for folder in candidates if (folder / CONFIG).is_file()), None)


@contextmanager
def open_config(folder: Path, *systems: str) -> Iterator[dict[str, Any]]:
    """Yield the config of a pipeline folder; what goes wrong with it inside the block becomes one line.

    Raises:
        InputError: if it is missing, damaged, or of another format or system than `systems`.
    """
    config = read_json(folder / CONFIG)
    try:
        if config["format"] != FORMAT or config["system"] not in systems:
            needed = " or ".join(map(repr, systems))
            raise InputError(
                f"{folder / CONFIG}: holds format {config['format']!r} of {config['system']!r}: need {FORMAT} of {needed}"
            )
        yield config
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / CONFIG}: damaged or from another version ({error})") from error


def save_pipeline(
    path: str | Path,
    network: FeatureNetwork | nn.ModuleDict,
    config: dict[str, Any],
    tensors: Mapping[str, dict[str, Tensor]] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a network (or several, by name), the config and further files of tensors to a new folder, whole or not at all.

    Raises:
        InputError: if the folder is in use and overwrite was not asked for, or cannot be written.
    """
    if isinstance(network, nn.ModuleDict):
        features = {name: _arguments(one) for name, one in network.items()}
    else:
        features = _arguments(network)
    config = {"format": FORMAT, "system": config["system"], "features": features} | config
    with new_folder(path, overwrite=overwrite) as folder:
        for file, values in {WEIGHTS: network.state_dict(), **(tensors or {})}.items():
            save_file({k: v.contiguous() for k, v in values.items()}, folder / file)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return Path(path)


def load_network(folder: Path, config: dict[str, Any]) -> FeatureNetwork:
    """Return the network of a pipeline folder, frozen."""
    network = _new_network(config["features"])
    _load_weights(folder, network)
    return network


def load_networks(folder: Path, config: dict[str, Any]) -> nn.ModuleDict:
    """Return the networks by name of a pipeline folder that has several, frozen."""
    networks = nn.ModuleDict({name: _new_network(arguments) for name, arguments in config["features"].items()})
    _load_weights(folder, networks)
    return networks


def _arguments(network: nn.Module) -> dict[str, Any]:
    assert isinstance(network, FeatureNetwork)
    name = next(n for n, cls in NETWORKS.items() if type(network) is cls)
    return {"network": name, **network.config()}


def _new_network(arguments: dict[str, Any]) -> FeatureNetwork:
    arguments = dict(arguments)
    return NETWORKS[_checks.choice("network", arguments.pop("network"), NETWORKS)](**arguments)


def _load_weights(folder: Path, network: nn.Module) -> None:
    path = folder / WEIGHTS
    try:
        network.load_state_dict(load_tensors(path))
    except RuntimeError as error:
        raise InputError(f"{path}: does not fit the network in {CONFIG} ({reason(error, 200)})") from error
    if not all(map(_checks.all_finite, network.parameters())):
        raise InputError(f"{path}: holds NaN or infinite weights")
    network.eval().requires_grad_(False)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        InputError: if it is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: missing; the folder is not a whole pipeline") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error
