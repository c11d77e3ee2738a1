"""One-step generators along a velocity field: drifting (Deng et al. 2026), MMD, Sinkhorn; in pixels or a DMMD's features."""

import lazy_loader

from mmdflow.methods.registry import Method

METHODS = (Method("drifting", "DriftingRecipe", "Drifting", __name__),)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
