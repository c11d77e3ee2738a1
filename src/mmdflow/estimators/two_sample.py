"""The two-sample test as an estimator: a reference, and samples that are tested against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from mmdflow import _checks
from mmdflow.kernels import Kernel
from mmdflow.metrics import gaussian_scales, mmd_test


@dataclass(frozen=True)
class TestOutcome:
    """What a test says.

    Attributes:
        statistic: MMD^2, unbiased (of the method that was asked for).
        p_value: the share of resamplings with a statistic at least as large.
        rejected: whether the p-value is at most the level: the two samples have different laws.
    """

    statistic: float
    p_value: float
    rejected: bool


class KernelTwoSampleTest(BaseEstimator):
    """Test whether new samples have the law of a reference, by the MMD (Gretton et al. 2012; `mmdflow.metrics.mmd_test`).

    Args:
        kernel: a `Kernel`, or several to aggregate over; "scales", Gaussians of five bandwidths around the reference's median
            distance, aggregated (the default); or "median", one Gaussian with the median distance of both samples.
        method: "permutation", of exact level; "wild-bootstrap", which needs samples of equal size; "random-features" or
            "linear-time", of exact level, for large samples.
        num_permutations: resamplings.
        block_size: points of a block, for large samples; None for one block of all.
        tolerance: of sums in O(n log n) in place of Gram matrices, for large samples in up to three dimensions.
        num_features: frequencies of "random-features".
        level: of the test, in (0, 1).
        random_state: seed of the resamplings.

    Attributes:
        reference_: the reference, [n, d].
        n_features_in_: d.

    Example:
        >>> import numpy as np
        >>> from mmdflow import KernelTwoSampleTest
        >>> rng = np.random.default_rng(0)
        >>> test = KernelTwoSampleTest(random_state=0).fit(rng.normal(size=(100, 3)))
        >>> test.test(rng.normal(size=(80, 3))).rejected, test.test(rng.normal(size=(80, 3)) + 0.8).rejected
        (False, True)
    """

    def __init__(
        self,
        kernel: str | Kernel | Sequence[Kernel] = "scales",
        *,
        method: str = "permutation",
        num_permutations: int = 500,
        block_size: int | None = None,
        tolerance: float | None = None,
        num_features: int = 100,
        level: float = 0.05,
        random_state: Any = None,
    ) -> None:
        self.kernel = kernel
        self.method = method
        self.num_permutations = num_permutations
        self.block_size = block_size
        self.tolerance = tolerance
        self.num_features = num_features
        self.level = level
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> KernelTwoSampleTest:
        """Keep the reference X, [n, d], n >= 2; y is not used."""
        _checks.interval("level", self.level, 0.0, 1.0, "()")
        if isinstance(self.kernel, str):
            _checks.choice("kernel", self.kernel, ("scales", "median"))
        self.reference_ = validate_data(
            self, X, dtype=(np.float64, np.float32), order="C", ensure_min_samples=2, copy=True
        )
        return self

    def test(self, X: Any) -> TestOutcome:
        """Test a sample X, [m, d], m >= 2, against the reference."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), order="C", ensure_min_samples=2, reset=False)
        kernel: Any = self.kernel
        if isinstance(kernel, str):
            kernel = gaussian_scales(self.reference_) if kernel == "scales" else None
        generator = torch.Generator().manual_seed(int(check_random_state(self.random_state).randint(2**31 - 1)))
        statistic, p_value = mmd_test(
            X,
            self.reference_,
            kernel,
            method=self.method,
            num_permutations=self.num_permutations,
            block_size=self.block_size,
            tolerance=self.tolerance,
            num_features=self.num_features,
            generator=generator,
        )
        return TestOutcome(statistic, p_value, p_value <= self.level)
