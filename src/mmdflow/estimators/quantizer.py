"""A few weighted points in place of a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import Tensor

from mmdflow import _arrays, _checks
from mmdflow.divergences import MMD
from mmdflow.errors import InputError
from mmdflow.flows import Record, flow
from mmdflow.flows.loop import usual_step
from mmdflow.kernels import Kernel
from mmdflow.types import ArrayLike

#: How often points and weights take turns.
_ROUNDS = 3


class MMDQuantizer(BaseEstimator):
    r"""A few weighted points in place of a sample: the MMD of sum_j w_j delta(p_j) to 1/n sum_i delta(x_i) is minimised.

    The points follow the flow of 1/2 MMD^2 (Arbel et al. 2019), under their weights. The weights are the best ones on the simplex
    for the points (`optimal_weights`). The two take turns. With ``move=False`` the points stay: pure reweighting.

    Args:
        n_points: how many points; at most n, unless `init` brings them.
        kernel: a `Kernel`; Riesz() by default, the energy distance.
        init: "sample", rows of X drawn at random; or points [n_points, d].
        move: whether the points move.
        weighted: whether the points have weights of their own; 1/n_points each without.
        num_steps: steps of the flow in all.
        step_size: eta at the start, which falls to 0 in a straight line; by default the one that suits the kernel, with its
            momentum (`usual_step`).
        random_state: seed of the draw.

    Attributes:
        points_: [n_points, d].
        weights_: [n_points], at least 0, with sum 1.
        value_: 1/2 MMD^2 of points and weights to X.

    Example:
        >>> import numpy as np
        >>> from mmdflow import Gaussian, MMDQuantizer
        >>> x = np.array([[0.0]] * 30 + [[5.0]] * 10)
        >>> few = MMDQuantizer(2, Gaussian(2.0), init=[[1.0], [4.0]]).fit(x)
        >>> abs(few.points_).round(1).tolist(), few.weights_.round(2)
        ([[0.0], [5.0]], array([0.75, 0.25]))
    """

    def __init__(
        self,
        n_points: int = 50,
        kernel: Kernel | None = None,
        *,
        init: Any = "sample",
        move: bool = True,
        weighted: bool = True,
        num_steps: int = 300,
        step_size: float | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_points = n_points
        self.kernel = kernel
        self.init = init
        self.move = move
        self.weighted = weighted
        self.num_steps = num_steps
        self.step_size = step_size
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> MMDQuantizer:
        """Choose points and weights for the rows of X, [n, d]; y is not used.

        Raises:
            InputError: for more points than rows, points of other columns, or settings that leave nothing to choose.
        """
        X = validate_data(self, X, dtype=(np.float64, np.float32), order="C")
        if not (self.move or self.weighted):
            raise InputError("move = False and weighted = False: one must be true, or nothing is chosen")
        divergence = MMD(X, self.kernel)
        points = _arrays.tensor("init", self._start(X))
        weights = points.new_full((len(points),), 1 / len(points))
        rounds = _ROUNDS if self.move and self.weighted else 1
        size, momentum = self._step(divergence) if self.move else (1.0, 0.0)
        for done in range(rounds):
            if self.move:
                steps = -(-_checks.count("num_steps", self.num_steps) // rounds)
                step_size = [
                    size * (1 - (done + k / steps) / rounds) for k in range(steps)
                ]  # falls to 0: points settle
                moved = flow(
                    divergence,
                    points,
                    num_steps=steps,
                    step_size=step_size.__getitem__,
                    momentum=momentum,
                    weights=weights,
                    save_every=Record(evaluate=False),
                )
                points = moved.particles
            if self.weighted:
                weights = optimal_weights(divergence, points)
        self.points_, self.weights_ = points.numpy(), weights.numpy()
        self.value_ = float(divergence(points, weights))
        return self

    def _step(self, divergence: MMD) -> tuple[float, Any]:
        if self.step_size is None:
            return usual_step(divergence, "euler")
        return _checks.positive("step_size", self.step_size), 0.0

    def _start(self, X: Any) -> Any:
        count = _checks.count("n_points", self.n_points)
        if not isinstance(self.init, str):
            points = validate_data(self, self.init, dtype=X.dtype, order="C", reset=False, copy=True)
            if len(points) != count:
                raise InputError(f"init has {len(points)} points: must have n_points = {count}")
            return points
        _checks.choice("init", self.init, ("sample",))
        if count > len(X):
            raise InputError(f"n_points = {count}: must be at most n_samples = {len(X)}, the rows of X")
        return X[check_random_state(self.random_state).permutation(len(X))[:count]]


def optimal_weights(divergence: MMD, points: Float[Tensor, "n *event"] | ArrayLike) -> Float[Tensor, " n"] | ArrayLike:
    r"""Return the weights w >= 0 with sum 1 of given points that minimise the MMD to a target, exactly.

    MMD^2 = w' G w with the centred Gram matrix G_ij = <k(p_i, .) - m, k(p_j, .) - m>, m the target's mean embedding. With
    G = Z' Z, the least norm of Z w on the simplex is a problem of non-negative least squares, min |Z u|^2 + (sum u - 1)^2, whose
    solution is w but for its scale (Lawson and Hanson 1974, chapter 23). O(n^3), and n m sums of the kernel.

    Args:
        divergence: the MMD to the target.
        points: [n, *event].

    Example:
        >>> from mmdflow import MMD, Gaussian
        >>> optimal_weights(MMD([[0.0], [1.0], [1.0], [1.0]], Gaussian(1.0)), [[0.0], [1.0]]).round(6)
        array([0.25, 0.75])
    """
    from scipy.optimize import nnls

    give_back, x = _arrays.back(points), divergence.check(points)
    with torch.no_grad():
        gram = _centred_gram(divergence, x.double() if divergence.kernel.any_dtype else x).double().cpu().numpy()
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    scale = max(float(values[-1]), np.finfo(float).tiny)
    root = np.sqrt(np.clip(values / scale, 0, None))[:, None] * vectors.T
    system = np.vstack([root, np.ones(len(root))])
    solution, _ = nnls(system, np.append(np.zeros(len(root)), 1.0))
    return give_back(torch.from_numpy(solution / solution.sum()).to(x))


def _centred_gram(divergence: MMD, x: Tensor) -> Tensor:
    """Return <k(x_i, .) - m, k(x_j, .) - m>, [n, n]."""
    kernel = divergence.kernel
    if divergence.target_mean is not None:
        centred = kernel.embed(x) - divergence.target_mean.to(x.dtype)
        return centred @ centred.T
    weights = divergence.target_weights.to(x.dtype)
    y = divergence.target.to(x.dtype)
    pull = torch.cat([kernel(rows, y) @ weights for rows in x.split(256)])
    mean = torch.cat([kernel(rows, y) @ weights for rows in y.split(256)]) @ weights
    return kernel(x, x) - pull[:, None] - pull + mean
