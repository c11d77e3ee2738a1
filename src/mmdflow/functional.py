"""Functions of two samples: the public face of `mmdflow.divergences.functional`."""

from mmdflow.divergences.functional import mmd2

__all__ = ["mmd2"]
