"""Generative sliced MMD flows with Riesz kernels, GS-MMD-RK (Hertrich, Wald, Altekrueger, Hagemann 2024)."""

import lazy_loader

from mmdflow.methods.registry import Method

METHODS = (Method("gs-mmd-rk", "SlicedGeneratorRecipe", "SlicedGenerator", __name__),)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
