"""DMMD: Deep MMD gradient flow without adversarial training (Galashov, de Bortoli, Gretton, ICLR 2025)."""

import lazy_loader

from mmdflow.methods.registry import Method

METHODS = (Method("dmmd", "DMMDRecipe", "DMMD", __name__, settings="SamplerSettings"),)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
