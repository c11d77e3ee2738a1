"""What divergences have in common whose particles and target lie in parts on the ranks."""

from __future__ import annotations

from torch import Tensor

from mmdflow.distributed.ranks import Ranks
from mmdflow.divergences import MMD, Divergence, SlicedMMD
from mmdflow.divergences.base import dtype_of


class ShardedDivergence(Divergence):
    """A divergence whose particles and target lie in parts on the ranks.

    Args:
        local: the divergence to this rank's part of the target.
        ranks: the ranks.
    """

    def __init__(self, local: MMD | SlicedMMD, ranks: Ranks) -> None:
        super().__init__()
        self.local, self.ranks = local, ranks
        self.event_shape, self.dtype = local.event_shape, dtype_of(local)

    @property
    def target(self) -> Tensor:
        """This rank's samples of the target."""
        return self.local.target

    def check(self, x: Tensor, field: str = "particles") -> Tensor:
        """Return x as the rank's own divergence takes it."""
        return self.local.check(x, field)
