"""Sums of kernels over weighted points, the one place where time is spent. `dispatch` picks how."""

from mmdflow.ops.dispatch import (
    backend,
    compiled,
    exactly,
    has_quick_sums,
    kernel_sum,
    kernel_sum_grad,
    ranks_compiled,
    sums,
    tangent_sum,
    tangent_sum_grad,
    tightened,
    within,
)
from mmdflow.ops.joint import sum_and_grad

__all__ = [
    "backend",
    "compiled",
    "exactly",
    "has_quick_sums",
    "kernel_sum",
    "kernel_sum_grad",
    "ranks_compiled",
    "sum_and_grad",
    "sums",
    "tangent_sum",
    "tangent_sum_grad",
    "tightened",
    "within",
]
