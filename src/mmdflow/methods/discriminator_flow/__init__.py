"""Discriminator flow: particles descend a time-conditioned discriminator that learns from their ways (Franceschi et al. 2023)."""

import lazy_loader

from mmdflow.methods.registry import Method

METHODS = (Method("discriminator-flow", "DiscriminatorFlowRecipe", "DiscriminatorFlowSystem", __name__),)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
