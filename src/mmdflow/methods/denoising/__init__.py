"""Denoisers: DDPM (Ho et al. 2020) and flow matching (Lipman et al. 2023; Liu et al. 2023)."""

import lazy_loader

from mmdflow.methods.registry import Method

METHODS = (
    Method("ddpm", "DDPMRecipe", "Denoising", __name__),
    Method("flow-matching", "FlowMatchingRecipe", "Denoising", __name__),
)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
