"""Whether samples are copies: their distances to the training set against those of images that were held out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.types import ArrayLike

#: Share of held-out images that count as close to the training set.
CLOSE = 0.05


@dataclass(frozen=True)
class Memorisation:
    """How near samples lie to a training set; see `memorisation`.

    Attributes:
        copying_z: Z_U; standard normal for a generator that draws as the data is drawn, far below 0 where it copies, far above
            where its samples lie off the data.
        close_share: share of the samples that are closer than 95 percent of the held-out images; 0.05 is expected.
    """

    copying_z: float
    close_share: float


def memorisation(distances: Float[Tensor, " n"] | ArrayLike, held_out: Float[Tensor, " m"] | ArrayLike) -> Memorisation:
    r"""Compare distances to the nearest training image: of samples, and of images that were held out of the training.

    copying_z is Z_U of Meehan, Chaudhuri and Dasgupta 2020 (their C_T with a single cell), the Mann-Whitney statistic
    U = #{(i, j): d_i > h_j} (ties count a half) less its mean n m / 2, over its deviation
    (n m (N + 1 - sum_g (t_g^3 - t_g) / (N (N - 1))) / 12)^(1/2), with N = n + m and t_g the sizes of the groups of ties.

    One Z_U can't show a generator that copies at times and misses the data otherwise; close_share can: the share of samples
    below the 5 percent quantile of the held-out distances. Its standard error where nothing is copied is about
    (0.05 * 0.95 (1/n + 1/m))^(1/2).

    Args:
        distances: of samples.
        held_out: of images of the same source as the training set.

    Raises:
        InputError: for entries that are not finite.

    Example:
        >>> import torch
        >>> held_out = torch.arange(1.0, 101.0)
        >>> memorisation(torch.zeros(50), held_out)
        Memorisation(copying_z=-10.15662444988524, close_share=1.0)
        >>> memorisation(held_out, held_out)
        Memorisation(copying_z=0.0, close_share=0.05)
    """
    distances, held_out = _checks.samples("distances", distances, "held_out", held_out, ())
    n, m = len(distances), len(held_out)
    of_samples, of_held_out = distances.double(), held_out.double()
    _, ties = torch.cat([of_samples, of_held_out]).unique(return_counts=True)
    ordered = of_held_out.sort().values
    below = torch.searchsorted(ordered, of_samples) + torch.searchsorted(ordered, of_samples, right=True)
    tied = float((ties.double() ** 3 - ties).sum()) / ((n + m) * (n + m - 1))
    deviation = math.sqrt(n * m * max(n + m + 1 - tied, 0.0) / 12)
    z = (float(below.double().sum()) / 2 - n * m / 2) / deviation if deviation > 0 else 0.0
    return Memorisation(z, float((of_samples < of_held_out.quantile(CLOSE)).double().mean()))
