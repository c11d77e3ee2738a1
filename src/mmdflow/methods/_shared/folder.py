"""The folder that a pipeline is saved in: safetensors and JSON, no pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmdflow import _checks, _run_folder
from mmdflow._files import new_folder, read_json, shipped_models
from mmdflow.errors import InputError, reason
from mmdflow.features import NETWORKS, FeatureNetwork

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


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
        if (Path(path) / _run_folder.RECIPE).is_file():
            raise InputError(
                f"model = {str(path)!r}: is an unfinished run; `mmdflow train --resume {path}` finishes it"
            )
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
    """Yield the config of a pipeline folder; an error that it causes inside the block becomes one line.

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
        InputError: if the folder is in use and `overwrite` is false, or cannot be written.

    Example:
        >>> import tempfile
        >>> from mmdflow.features import MLPFeatures
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_pipeline(f"{folder}/p", MLPFeatures((2,), num_features=1), {"system": "mine"})
        ...     with open_config(path, "mine") as config:
        ...         print(load_network(path, config).event_shape)
        (2,)
    """
    if isinstance(network, nn.ModuleDict):
        features = {name: _arguments(part) for name, part in network.items()}
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
    if (gradient := arguments.pop("gradient", "full")) != "full":  # a field of older folders
        raise InputError(
            f"{CONFIG}: features.gradient = {gradient!r}: is read no more; such a model is no gradient flow (with one feature it "
            "is flow matching: train a flow-matching recipe with loss.output=residual)"
        )
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
