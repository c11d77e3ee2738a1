"""MMD-GAN (Li et al. 2017; Binkowski et al. 2018), and MMD-GAN-Flow, the flow down its critic (DMMD paper, section 7)."""

import lazy_loader

from mmdflow.methods.registry import Method

METHODS = (Method("mmd-gan", "MMDGANRecipe", "MMDGAN", __name__, settings="MMDGANSettings"),)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
