"""Flows down a learned density ratio: DGGF-KL (Heng, Ansari, Soh 2023), later named flow-guided density ratio learning."""

import lazy_loader

from mmdflow.methods.registry import Method

METHODS = (Method("dggf-kl", "DensityRatioRecipe", "DensityRatioSystem", __name__),)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
