"""Functions of two samples: the public face of `mmdflow.divergences.functional`."""

from mmdflow.divergences.functional import mmd2, mmd2_of_features

__all__ = ["mmd2", "mmd2_of_features"]
