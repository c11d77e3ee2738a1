"""What reproductions measure rates with."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def log_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the least-squares slope of log y against log x: the exponent of a power law.

    Example:
        >>> round(log_slope([1.0, 10.0, 100.0], [3.0, 300.0, 30000.0]), 6)
        2.0
    """
    a, b = (torch.tensor(v, dtype=torch.float64).log() for v in (x, y))
    a = a - a.mean()
    return float((a @ b) / (a @ a))
