"""Inception score and kernel distance of features, and how sure a Frechet distance is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.metrics.frechet import frechet_distance
from mmdflow.metrics.moments import Moments
from mmdflow.types import ArrayLike


@dataclass(frozen=True)
class Estimate:
    """A score with its spread.

    Attributes:
        mean: over splits or subsets.
        std: standard deviation over them, with n; 0 where there is no spread: of one value, or of subsets that are the whole set.
    """

    mean: float
    std: float

    @property
    def plain(self) -> dict[str, float]:
        """As a report has it: the deviation is left out where there is no spread."""
        return {"mean": self.mean} | ({"std": self.std} if self.std > 0 else {})


def inception_score(probabilities: Float[Tensor, "n C"] | ArrayLike, *, splits: int = 10) -> Estimate:
    """Return exp E_x KL(p(y|x) || p(y)), mean and deviation over consecutive splits (Salimans et al. 2016), in float64.

    It is 1 where every prediction is the same, and C where predictions are certain and all classes equally frequent. The splits
    are of the samples as they come: shuffle them where their order means something.

    Raises:
        InputError: for rows that are not probabilities, or fewer samples than splits.

    Example:
        >>> import torch
        >>> round(inception_score(torch.eye(10).repeat(5, 1), splits=5).mean, 6)
        10.0
    """
    probabilities = _checks.points("probabilities", probabilities)
    if probabilities.ndim != 2 or bool((probabilities < 0).any()):
        raise InputError(f"probabilities has shape {list(probabilities.shape)}: must be [n, C], none negative")
    p = probabilities.double()
    off = float((p.sum(1) - 1).abs().max())
    if off > 1e-3:
        raise InputError(f"probabilities has a row whose sum is {1 + off:.4g}: must be 1")
    if len(p) < _checks.count("splits", splits):
        raise InputError(f"splits = {splits}: must be at most the number of samples, {len(p)}")
    scores = []
    for part in p.tensor_split(splits):
        marginal = part.mean(0, keepdim=True)
        divergence = torch.xlogy(part, part) - torch.xlogy(part, marginal)
        scores.append(divergence.sum(1).mean().exp())
    return _estimate(torch.stack(scores))


def kernel_distance(
    features: Float[Tensor, "n K"] | ArrayLike,
    reference: Float[Tensor, "m K"] | ArrayLike,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Return the unbiased MMD^2 of the kernel (<x, y> / K + 1)^3, over random subsets (KID, Binkowski et al. 2018), in float64.

    Its expectation is 0 for equal distributions, and a single value may be negative. There is no spread where the subsets are
    both whole sets.

    Args:
        features: of the samples.
        reference: of the data.
        num_subsets: pairs of subsets, each drawn without replacement.
        subset_size: of each; at most n and m.
        generator: draws them.

    Raises:
        InputError: for mismatched features, or subsets that are larger than the sets.
    """
    features, reference = _checks.samples("features", features, "reference", reference)
    _checks.count("num_subsets", num_subsets)
    size = _checks.count("subset_size", subset_size, 2)
    if size > min(len(features), len(reference)):
        raise InputError(
            f"subset_size = {size}: must be at most the numbers of features, {len(features)} and {len(reference)}"
        )
    values = []
    for _ in range(num_subsets):
        x, y = (
            z[torch.randperm(len(z), generator=generator)[:size].to(z.device)].double() for z in (features, reference)
        )
        within = (_off_diagonal(x) + _off_diagonal(y)) / (size * (size - 1))
        values.append(within - 2 * _cubic(x, y).mean())
    whole = size == len(features) == len(reference)  # every pair of subsets is the same but for its order
    return _estimate(torch.stack(values), spread=not whole)


def frechet_interval(
    features: Float[Tensor, "n K"] | ArrayLike,
    reference: Float[Tensor, "m K"] | Moments | ArrayLike,
    *,
    level: float = 0.95,
    repeats: int = 100,
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Return an interval of the Frechet distance over draws of as many samples, from resampled sets (the bootstrap).

    Resampling adds the bias of a finite set a second time; the quantiles are therefore moved so that the mean of the resampled
    distances is the estimate, and end at 0. What is left is the spread of the distance at this number of samples. The reference
    is held fixed.

    Args:
        features: of the samples.
        reference: of the data, or their moments.
        level: of confidence.
        repeats: resampled sets.
        generator: draws them.
    """
    _checks.interval("level", level, 0.0, 1.0, "()")
    features = _checks.points("features", features)
    against = reference if isinstance(reference, Moments) else Moments.of(reference)
    estimate, count = frechet_distance(features, against), len(features)
    resampled = torch.empty(_checks.count("repeats", repeats, 2), dtype=torch.float64)
    for i in range(repeats):
        times = torch.randint(count, (count,), generator=generator).bincount(minlength=count).to(features.device)
        resampled[i] = frechet_distance(Moments.of(features, times), against)
    low, high = torch.quantile(
        resampled, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    ).tolist()
    shift = estimate - float(resampled.mean())
    return max(low + shift, 0.0), max(high + shift, 0.0)


def frechet_at_infinity(
    features: Float[Tensor, "n K"] | ArrayLike,
    reference: Float[Tensor, "m K"] | Moments | ArrayLike,
    *,
    num_sizes: int = 15,
    generator: torch.Generator | None = None,
) -> float:
    """Return the Frechet distance extrapolated to infinitely many samples (Chong and Forsyth 2020, FID_infinity).

    The distance of n samples is biased by a term in 1 / n; a line is fitted to distances of subsets of n / 10 (at least 2 K,
    below which the covariances have no full rank and the bias is no such term) to n samples against 1 / n, and read off at 0. The
    reference is taken as it is.

    Args:
        features: of the samples.
        reference: of the data, or their moments.
        num_sizes: subsets.
        generator: draws them.

    Raises:
        InputError: for fewer than 4 K samples.
    """
    features = _checks.points("features", features)
    count, width = features.shape
    if count < 4 * width:
        raise InputError(f"features has {count} samples of {width}: must have at least {4 * width} to extrapolate")
    against = reference if isinstance(reference, Moments) else Moments.of(reference)
    sizes = torch.linspace(max(count / 10, 2 * width), count, _checks.count("num_sizes", num_sizes, 2)).long()
    values = []
    for size in sizes.tolist():
        taken = (torch.randperm(count, generator=generator) < size).long().to(features.device)
        values.append(frechet_distance(Moments.of(features, taken), against))
    design = torch.stack([torch.ones(len(sizes), dtype=torch.float64), 1 / sizes.double()], 1)
    line = torch.linalg.lstsq(design, torch.tensor(values, dtype=torch.float64)[:, None]).solution
    return float(line[0])


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _off_diagonal(x: Tensor) -> Tensor:
    gram = _cubic(x, x)
    return gram.sum() - gram.diagonal().sum()


def _estimate(values: Float[Tensor, " s"], *, spread: bool = True) -> Estimate:
    return Estimate(float(values.mean()), float(values.std(correction=0)) if spread else 0.0)
