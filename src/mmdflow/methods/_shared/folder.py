"""The folder that a pipeline is saved in: safetensors and JSON, no pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmdflow import _checks, _run_folder
from mmdflow._files import new_folder, read_json, reading, sha256, shipped_models
from mmdflow.errors import InputError, reason
from mmdflow.features import NETWORKS, FeatureNetwork

Module = TypeVar("Module", bound=nn.Module)

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def is_model(path: str | Path) -> bool:
    """Whether a path or name stands for a pipeline folder, a run folder, finished or not, or a shipped model."""
    return _folder_of(path) is not None or (Path(path) / _run_folder.RECIPE).is_file()


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


def _check_digest(path: Path, digest: str) -> None:
    """Raise InputError where a file, if it is there, is not the one that was saved."""
    with reading(path):
        found = sha256(path) if path.exists() else digest
    if found != digest:
        raise InputError(
            f"{path}: damaged or another file: its SHA-256 is {found[:12]}..., and was {digest[:12]}... when {CONFIG} was written"
        )


@contextmanager
def open_config(folder: Path, *systems: str) -> Iterator[dict[str, Any]]:
    """Yield the config of a pipeline folder; an error that it causes inside the block becomes one line.

    Raises:
        InputError: if it is missing, damaged, or of another format or system than `systems`.
    """
    config = read_json(folder / CONFIG)
    with reading(folder / CONFIG, "damaged or from another version"):
        if config["format"] != FORMAT or config["system"] not in systems:
            needed = " or ".join(map(repr, systems))
            raise InputError(
                f"{folder / CONFIG}: holds format {config['format']!r} of {config['system']!r}: need {FORMAT} of {needed} "
                "(mmdflow.methods.load_pipeline reads models of every method)"
            )
        yield config
        for file, digest in config.get("sha256", {}).items():  # older folders have none
            _check_digest(folder / Path(file).name, digest)


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
    digests: dict[str, str] = {}
    with new_folder(path, overwrite=overwrite) as folder:
        for file, values in {WEIGHTS: network.state_dict(), **(tensors or {})}.items():
            save_file({k: v.contiguous() for k, v in values.items()}, folder / file)
            digests[file] = sha256(folder / file)
        (folder / CONFIG).write_text(json.dumps(config | {"sha256": digests}, indent=2) + "\n")
    return Path(path)


def load_network(folder: Path, config: dict[str, Any]) -> FeatureNetwork:
    """Return the network of a pipeline folder, frozen."""
    network = _fitting(folder, config["features"], lambda: _new_network(config["features"]))
    _load_weights(folder, network)
    return network


def load_networks(folder: Path, config: dict[str, Any]) -> nn.ModuleDict:
    """Return the networks by name of a pipeline folder that has several, frozen."""
    parts = config["features"].items()
    networks = _fitting(folder, parts, lambda: nn.ModuleDict({name: _new_network(part) for name, part in parts}))
    _load_weights(folder, networks)
    return networks


def _fitting(folder: Path, arguments: object, make: Callable[[], Module]) -> Module:
    """Return a network whose weights are as those of the folder: shapes are compared before any memory is taken.

    Raises:
        InputError: where they are not, as with a config that asks for absurd sizes.
    """
    path = folder / WEIGHTS
    with _reading_tensors(path), safe_open(path, framework="pt") as file:
        held = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    total, largest = sum(map(math.prod, held.values())), max(_integers(arguments), default=0)
    if largest > total:
        raise InputError(f"{folder / CONFIG}: a network of size {largest}: {WEIGHTS} holds {total} weights in all")
    with torch.device("meta"):
        needed = {name: list(value.shape) for name, value in make().state_dict().items()}
    for name in sorted(held.keys() | needed.keys()):
        if held.get(name) != needed.get(name):
            shapes = f"{name}: {held.get(name, 'nothing')}, needs {needed.get(name, 'nothing')}"
            raise InputError(f"{path}: does not fit the network in {CONFIG} ({shapes})")
    return make()


def _integers(value: object) -> Iterator[int]:
    """Yield all whole numbers in nested containers."""
    if isinstance(value, Mapping):
        value = value.values()
    if isinstance(value, Iterable) and not isinstance(value, str):
        for part in value:
            yield from _integers(part)
    elif isinstance(value, int):
        yield value


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
    with _reading_tensors(path):
        return load_file(path)


def _reading_tensors(path: Path) -> AbstractContextManager[None]:
    return reading(path, "not a readable safetensors file", missing="missing; the folder is not a whole pipeline")
