"""The KL approximate lower bound estimator, KALE (Glaser, Arbel, Gretton 2021)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mmdflow.divergences.f_divergence import FDivergence
from mmdflow.kernels import Kernel
from mmdflow.types import ArrayLike, Step


class KALE(FDivergence):
    r"""F = (1 + lambda) max_h { 1 + E_nu h - E_mu e^h - lambda/2 |h|^2 }: KL as lambda -> 0, 1/2 MMD^2 as lambda -> inf.

    It is (1 + lambda) times the MMD-regularised KL divergence, `FDivergence` with "kl", and solved as such: in the dual,
    min over a > 0 of sum a_i log(a_i / q_i) - sum a_i + 1/(2 lambda) |sum a_i k(y_i, .) - mean_j k(x_j, .)|^2, warm-started
    from the last call, with h = (1/lambda) [ mean_j k(., x_j) - sum a_i k(., y_i) ] and witness (1 + lambda) h.

    Args:
        target: samples y, [m, *event].
        kernel: the kernel k.
        regularization: lambda, positive.
        target_weights: q of the target's samples, [m]; 1/m each by default.
        solver: "newton" (damped and multiplicative, O(m^3) a step) or "lbfgs" (O(m^2) a step).
        tolerance: of the duality gap of F / (1 + lambda), relative to 1 + its value; by default 1e-10 for Newton and 1e-6 for
            L-BFGS in float64, 1e-4 in float32.
        max_iterations: steps at most; by default 100 for Newton, 5000 for L-BFGS.

    Raises:
        InputError: for a bad target or settings.
        DivergedError: when the gap stays above the tolerance; says the gap and what to change.

    Example:
        >>> import torch
        >>> from mmdflow import KALE, MMD, Gaussian
        >>> y, x = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.5]]).double()
        >>> near_the_mmd = KALE(y, Gaussian(1.0), 1e4)
        >>> bool((near_the_mmd(x) - MMD(y, Gaussian(1.0))(x)).abs() < 1e-4)
        True
    """

    def __init__(
        self,
        target: Float[Tensor, "m *event"] | ArrayLike,
        kernel: Kernel,
        regularization: float,
        *,
        target_weights: Float[Tensor, " m"] | ArrayLike | None = None,
        solver: str = "newton",
        tolerance: float | None = None,
        max_iterations: int | None = None,
    ) -> None:
        super().__init__(
            target,
            kernel,
            regularization,
            target_weights=target_weights,
            solver=solver,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )

    @property
    def scale(self) -> float:
        """1 + lambda."""
        return 1 + self.regularization

    def usual_step(self) -> Step | None:
        """Return width^2 / k(0) lambda / (1 + lambda)."""
        flatness, ridge = self.kernel.flatness, self.regularization
        return None if flatness is None else Step(flatness * ridge / (1 + ridge))
