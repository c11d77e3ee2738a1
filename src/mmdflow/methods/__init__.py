"""Methods: DMMD and the models it is compared with, each one room.

A room holds all of a method: `settings` (of loss and sampler), `loss` (trained), `pipeline` (the trained model, which samples),
`recipe` (all settings of a run), `system` (builds loss and pipeline for the commands) and `recipes` (YAML). `base` has the
classes that a method extends, `registry` the methods by name, `_shared` the code that several use.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmdflow.methods.registry import Method, all_methods, get_method, recipe_names, recipe_path, register

if TYPE_CHECKING:
    import torch

    from mmdflow.methods.base import Pipeline


def load_pipeline(path: str | Path, device: torch.device | str = "cpu") -> Pipeline:
    """Load the pipeline of any method from a folder, a run folder that holds `pipeline/`, or a shipped model's name.

    Raises:
        InputError: if there is none, or a file is missing or corrupt.
    """
    from mmdflow._files import read_json
    from mmdflow.methods._shared.folder import CONFIG, find_folder

    file = find_folder(path) / CONFIG
    config = read_json(file)
    name = str(config.get("system")) if isinstance(config, dict) else "none"
    return get_method(name, f"{file}: system").make_system().load(path, device)


__all__ = ["Method", "all_methods", "get_method", "load_pipeline", "recipe_names", "recipe_path", "register"]
