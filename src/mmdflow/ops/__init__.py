"""Sums of kernels over weighted points, the one place where time is spent. `dispatch` picks the backend."""

from mmdflow.ops.dispatch import BACKENDS, kernel_sum, kernel_sum_grad

__all__ = ["BACKENDS", "kernel_sum", "kernel_sum_grad"]
