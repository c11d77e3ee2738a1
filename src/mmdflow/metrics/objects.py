"""Metrics as objects of torchmetrics: samples come by the batch, on one machine or several, and the value at the end.

They are for training loops, Lightning's among them: `self.log("mmd2", self.mmd2)` in `on_validation_epoch_end`, after
`self.mmd2.update(x, real=...)` in the steps. A value is that of the function of the same name on all samples together.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.functional import mmd2
from mmdflow.kernels import Kernel, Riesz
from mmdflow.metrics.frechet import frechet_distance
from mmdflow.metrics.moments import Moments
from mmdflow.metrics.scores import kernel_distance

try:
    from torchmetrics import Metric
except ImportError:
    raise ImportError("metric objects need torchmetrics: pip install 'mmdflow[train]'") from None


class _OfSamples(Metric):
    """A metric that keeps all samples, as they were given, until it is computed.

    Machines' samples are gathered; their order, and how they were cut into batches, change nothing but rounding.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name in ("real", "generated"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, samples: Float[Tensor, "n *event"], real: bool) -> None:
        """Take in a batch of samples.

        Args:
            samples: one of them a row.
            real: whether they are of the data, or of the model.

        Raises:
            InputError: for entries that are not finite, or another event shape than before.
        """
        kept = [*self._list("real"), *self._list("generated")]
        points = _checks.points("samples", samples, kept[0].shape[1:] if kept else None)
        self._list("real" if real else "generated").append(points.detach())

    def _list(self, name: str) -> list[Tensor]:
        """Return the batches of a side: after a synchronisation they are one tensor."""
        held = getattr(self, name)
        return held if isinstance(held, list) else [held]

    def _both(self) -> tuple[Tensor, Tensor]:
        """Return all samples of the model and of the data."""
        sides = []
        for name, real in (("generated", False), ("real", True)):
            batches = self._list(name)
            if not batches:
                raise InputError(f"no {name} samples: give them by update(samples, real={real}) before compute()")
            sides.append(torch.cat(batches))
        return sides[0], sides[1]


class MMDMetric(_OfSamples):
    """MMD^2 between a model's samples and the data, as `mmdflow.functional.mmd2`, in float64 where the kernel can.

    Args:
        kernel: of the samples.
        unbiased: the U-statistic, which may be negative, or the V-statistic.
        settings: of `torchmetrics.Metric`, such as `sync_on_compute`.

    Example:
        >>> import torch
        >>> from mmdflow import Gaussian
        >>> metric = MMDMetric(Gaussian(1.0), unbiased=False)
        >>> for batch in torch.arange(6.0)[:, None].split(2):
        ...     metric.update(batch, real=True)
        ...     metric.update(batch, real=False)
        >>> round(float(metric.compute()), 9)
        0.0
    """

    def __init__(self, kernel: Kernel, *, unbiased: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.kernel, self.unbiased = kernel, unbiased

    def compute(self) -> Tensor:
        """Return MMD^2.

        Raises:
            InputError: if a side has no samples, or one alone and `unbiased` is True.
        """
        x, y = self._both()
        if self.kernel.any_dtype:
            x, y = x.double(), y.double()
        with torch.no_grad():
            value = mmd2(x, y, self.kernel, unbiased=self.unbiased)
        assert isinstance(value, Tensor)
        return value


class EnergyDistance(MMDMetric):
    """The energy distance 2 E|x - y| - E|x - x'| - E|y - y'| (Szekely and Rizzo 2004), unbiased, in float64.

    Args:
        settings: of `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = EnergyDistance()
        >>> metric.update(torch.tensor([[0.0], [2.0]]), real=True)
        >>> metric.update(torch.tensor([[3.0], [5.0]]), real=False)
        >>> float(metric.compute())  # 2 * 3 - 2 - 2
        2.0
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(Riesz(), **settings)


class KernelDistance(_OfSamples):
    """The kernel distance of features (KID), as `mmdflow.metrics.kernel_distance`: its mean over subsets.

    Args:
        num_subsets: pairs of subsets.
        subset_size: of each.
        seed: draws them: equal features have an equal value.
        settings: of `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = KernelDistance(subset_size=50)
        >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
        >>> metric.update(x, real=True)
        >>> metric.update(x + 1, real=False)
        >>> bool(metric.compute() > 1)
        True
    """

    def __init__(self, *, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self.num_subsets = _checks.count("num_subsets", num_subsets)
        self.subset_size = _checks.count("subset_size", subset_size, 2)
        self.seed = _checks.count("seed", seed, 0)

    def compute(self) -> Tensor:
        """Return the mean over subsets.

        Raises:
            InputError: if a side has no samples, or fewer than `subset_size`.
        """
        x, y = self._both()
        generator = torch.Generator().manual_seed(self.seed)
        found = kernel_distance(x, y, num_subsets=self.num_subsets, subset_size=self.subset_size, generator=generator)
        return torch.tensor(found.mean, dtype=torch.float64, device=x.device)


def _merged(states: Float[Tensor, "parts L"]) -> Float[Tensor, " L"]:
    """Return the moments of several parts together, as one state."""
    total: Moments | None = None
    for state in states:
        part = _moments(state)
        if part.count:
            total = part if total is None else total.merged(part)
    return states[0] if total is None else _state(total)


def _state(moments: Moments) -> Tensor:
    count = moments.mean.new_tensor([float(moments.count)])
    return torch.cat([count, moments.mean, moments.scatter.flatten()])


def _moments(state: Tensor) -> Moments:
    size = (math.isqrt(4 * len(state) - 3) - 1) // 2  # 1 + K + K^2 numbers
    return Moments(int(state[0]), state[1 : 1 + size], state[1 + size :].reshape(size, size))


class FrechetDistance(Metric):
    """The Frechet distance of features (FID, with Inception's), as `mmdflow.metrics.frechet_distance`.

    No features are kept: their moments are merged in float64, about their mean, so that nothing cancels however far from 0 the
    features lie.

    Args:
        num_features: of a sample, K.
        settings: of `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = FrechetDistance(1)
        >>> for batch in torch.tensor([[-1.0], [1.0], [-1.0], [1.0]]).split(2):
        ...     metric.update(batch, real=True)
        ...     metric.update(batch + 3, real=False)
        >>> round(float(metric.compute()), 6)
        9.0
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    real: Tensor
    generated: Tensor

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.num_features = size = _checks.count("num_features", num_features)
        for name in ("real", "generated"):
            self.add_state(name, torch.zeros(1 + size + size**2, dtype=torch.float64), dist_reduce_fx=_merged)

    def update(self, features: Float[Tensor, "n K"], real: bool) -> None:
        """Take in a batch of features.

        Args:
            features: a sample a row.
            real: whether they are of the data, or of the model.

        Raises:
            InputError: for entries that are not finite, or another number of features.
        """
        points = _checks.points("features", features, (self.num_features,))
        name = "real" if real else "generated"
        batch = _state(Moments.of(points.detach()))
        setattr(self, name, _merged(torch.stack([getattr(self, name), batch.to(getattr(self, name).device)])))

    def compute(self) -> Tensor:
        """Return the distance.

        Raises:
            InputError: if a side has fewer than 2 samples.
        """
        value = frechet_distance(_moments(self.generated), _moments(self.real))
        return torch.tensor(value, dtype=torch.float64, device=self.real.device)
