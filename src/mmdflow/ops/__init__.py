"""Sums of kernels over weighted points, the one place where time is spent. `dispatch` picks how."""

from mmdflow.ops.dispatch import kernel_sum, kernel_sum_grad
from mmdflow.ops.reference import tangent_sum, tangent_sum_grad

__all__ = ["kernel_sum", "kernel_sum_grad", "tangent_sum", "tangent_sum_grad"]
