"""JKO-Flow: a chain of transport maps, each one implicit step of a Wasserstein gradient flow (Fan et al. 2022)."""

import lazy_loader

from mmdflow.methods.registry import Method

METHODS = (Method("jko-flow", "JKOFlowRecipe", "JKOFlow", __name__, settings="JKOSettings"),)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
