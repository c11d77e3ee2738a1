"""The systems that recipes name: how each one's loss and pipeline are built, and how a saved pipeline is opened.

A new system is a module here, an entry of `SYSTEMS`, and its recipe's fields in `mmdflow.recipes.RECIPES`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mmdflow import _checks
from mmdflow._files import read_json
from mmdflow._pretrained import CONFIG, find_folder
from mmdflow.recipes.systems.base import Pipeline, System, build_features
from mmdflow.recipes.systems.denoising import Denoising
from mmdflow.recipes.systems.density_ratio import DensityRatioSystem
from mmdflow.recipes.systems.discriminator_flow import DiscriminatorFlowSystem
from mmdflow.recipes.systems.dmmd import DMMD
from mmdflow.recipes.systems.jko import JKOFlow
from mmdflow.recipes.systems.mmd_gan import MMDGAN
from mmdflow.recipes.systems.sliced_generator import SlicedGenerator

SYSTEMS: dict[str, System] = {
    "dmmd": DMMD(),
    "ddpm": Denoising(),
    "flow-matching": Denoising(),
    "mmd-gan": MMDGAN(),
    "gs-mmd-rk": SlicedGenerator(),
    "jko-flow": JKOFlow(),
    "discriminator-flow": DiscriminatorFlowSystem(),
    "dggf-kl": DensityRatioSystem(),
}


def load_pipeline(path: str | Path, device: torch.device | str = "cpu") -> Pipeline:
    """Load the pipeline of any system from a folder, a run folder that holds `pipeline/`, or a shipped model's name.

    Raises:
        InputError: if there is none, or a file is missing or corrupt.
    """
    file = find_folder(path) / CONFIG
    config = read_json(file)
    name = str(config.get("system")) if isinstance(config, dict) else "none"
    return SYSTEMS[_checks.choice(f"{file}: system", name, SYSTEMS)].load(path, device)


__all__ = ["SYSTEMS", "Pipeline", "System", "build_features", "load_pipeline"]
