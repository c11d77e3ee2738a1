"""The sliced MMD with Riesz kernels (Hertrich, Wald, Altekrueger, Hagemann 2024)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _bfloat16, _checks
from mmdflow._precision import widened
from mmdflow._tensors import flat
from mmdflow.divergences.base import Divergence, spread_of, uniform
from mmdflow.divergences.directions import (
    DIRECTIONS,
    draw_directions,
    draw_patches,
    draw_signs,
    riesz_scale,
    structured_directions,
    structured_scales,
)
from mmdflow.divergences.sliced_witness import Lines, SlicedWitness, centred, sliced_value
from mmdflow.errors import InputError
from mmdflow.kernels import Radial, Riesz
from mmdflow.kernels.distances import EXACT_DIM
from mmdflow.ops import slices
from mmdflow.types import ArrayLike, Particles, Points, Step, Weights

#: Projections of the target that are kept at most: 256 MB in float32.
KEPT = 2**26
#: Numbers of directions that are drawn at a time.
DRAWN = 2**22


class SlicedMMD(Divergence):
    r"""F = 1/2 MMD^2 with the Riesz kernel -|x - y|^r, or another radial one, as a mean over one-dimensional projections.

    F = c_d(r) mean_p 1/2 MMD_1^2(<xi_p, x>, <xi_p, y>), c_d(r) = sqrt(pi) Gamma((d+r)/2) / (Gamma(d/2) Gamma((r+1)/2)):
    the same value and scale as ``MMD(target, Riesz(r))``, exactly so in the mean over directions (their Theorem 1). For r = 1
    each slice costs a sort, O((n + m) log(n + m)); ties count half (mid-ranks), and projections that differ by no more than
    rounding are ties. Other exponents sum over all pairs of a slice.

    A smooth `kernel` that is a scale mixture of Gaussians (Gaussian, Matern 3/2 or 5/2, InverseMultiquadric, RationalQuadratic)
    is sliced through its spectral measure: each slice gets one random frequency and costs O(n + m) (random Fourier features,
    Rahimi and Recht 2007; with orthogonal directions Yu et al. 2016). F and its gradient are then unbiased for the kernel's.

    Args:
        target: samples y, [m, *event].
        num_directions: P, the slices. The error of the gradient falls as (d / P)^(1/2) for random directions (Theorem 4).
        exponent: r in (0, 2).
        directions: "orthogonal" (random orthonormal blocks); "optimized" (apart from each other, rotated at random: the least
            error up to some tens of dimensions; the first draw takes up to a second); "structured" (rows of a randomised
            Hadamard matrix, d >= 64: fast transforms project); "random"; "qmc" (scrambled Sobol points); "equispaced" (d = 2);
            or "patches": locally connected projections of images [c, h, w], random directions of a random square patch each
            (their section 5), where F is the mean over patches of 1/2 MMD^2 between patches, not the MMD of whole images.
        ranks: of velocities for r = 1. "exact", by sorting, or "binned", quicker: by interpolation in histograms of the
            projections, after which `rank_error` holds a bound on the error that this added. Slices in which a bin is too full
            (heavy tails, few points) are sorted.
        precision: "full", or "bfloat16" for the products with directions in velocities, where r = 1: several times quicker in
            many dimensions on machines that have such arithmetic; projections are then off by 2^-9 of their size.
        generator: of the directions, on the CPU.
        redraw: draw new directions at every velocity; with False the first ones stay. F and the witness always use the
            directions of the last draw.
        patch: the side of patches, in pixels; needed by "patches".
        kernel: a radial kernel to slice instead of the Riesz kernel; its parameters are taken as they are now.
        target_weights: of the target's samples, [m]; 1/m each by default.

    Raises:
        InputError: for exponents outside (0, 2), equispaced directions outside the plane, patches that do not fit, a kernel
            whose spectral measure is not known, a bad target.

    Example:
        >>> import torch
        >>> from mmdflow import SlicedMMD
        >>> SlicedMMD(torch.zeros(1, 1), 1)(torch.ones(1, 1))  # in one dimension the slice is all there is
        tensor(1.)
    """

    centre: Tensor
    centred: Tensor
    norms: Tensor
    target_weights: Tensor
    xi: Tensor
    given: Tensor

    def __init__(
        self,
        target: Float[Tensor, "m *event"] | ArrayLike,
        num_directions: int,
        exponent: float = 1.0,
        directions: str = "orthogonal",
        ranks: str = "exact",
        generator: torch.Generator | None = None,
        *,
        redraw: bool = True,
        precision: str = "full",
        patch: int | None = None,
        kernel: Radial | None = None,
        target_weights: Float[Tensor, " m"] | ArrayLike | None = None,
    ) -> None:
        super().__init__()
        target = _checks.points("target", target).detach()
        self._remember(target)
        target = widened(target)
        self.event_shape: tuple[int, ...] = tuple(target.shape[1:])
        self.num_directions = _checks.count("num_directions", num_directions)
        self.exponent = _checks.interval("exponent", exponent, 0.0, 2.0, "()")
        self.directions = _checks.choice("directions", directions, DIRECTIONS)
        self.ranks = _checks.choice("ranks", ranks, ("exact", "binned"))
        self.precision = _checks.choice("precision", precision, ("full", "bfloat16"))
        if self.precision == "bfloat16":
            _bfloat16.prepare("precision = 'bfloat16'", target.device)
        self.generator, self.redraw = generator, redraw
        self.register_buffer("centre", flat(target).mean(0))  # large offsets would cost projections their digits
        self.register_buffer("centred", centred(target, self.centre))
        self.register_buffer("norms", slices.norms(self.centred), persistent=False)
        self.register_load_state_dict_post_hook(_measure_again)
        self.register_buffer("target_weights", _checks.weights("target_weights", target_weights, target))
        dim = self.centred.shape[1]
        if directions == "equispaced" and dim != 2:
            raise InputError(f"directions = 'equispaced' in dimension {dim}: must be 2")
        if (directions == "patches") != (patch is not None):
            raise InputError(f"patch = {patch!r} with directions = {directions!r}: 'patches' and only they need it")
        self.patch = None if patch is None else _patch(patch, self.event_shape)
        self.kernel = kernel
        if (kernel is not None or self.exponent != 1) and (ranks, precision) != ("exact", "full"):
            raise InputError(
                f"ranks = {ranks!r}, precision = {precision!r} with exponent = {exponent!r}, kernel = {kernel!r}: must be "
                f"'exact' and 'full' but for the Riesz kernel of exponent 1"
            )
        sliced_dim = dim if self.patch is None else self.event_shape[0] * self.patch**2
        if kernel is None:
            self.line, self.scale = slices.riesz(self.exponent), riesz_scale(sliced_dim, self.exponent)
        else:
            if not isinstance(kernel, Radial):
                raise InputError(f"kernel = {kernel!r}: must be one radial kernel, such as Gaussian(1.0)")
            if exponent != 1:
                raise InputError(f"exponent = {exponent!r} with kernel = {type(kernel).__name__}: give one of them")
            self.line, self.scale = slices.cosine(), float(kernel.diag(target.new_zeros(1, sliced_dim)))
        self._structure: tuple[Tensor, int, tuple[Tensor, Tensor]] | None = None
        self.register_buffer("xi", self._draw())
        self._projected: tuple[tuple[Tensor, int, int], Tensor] | None = None
        self.rank_error = 0.0

    @property
    def target(self) -> Float[Tensor, "m *event"]:
        """The target's samples."""
        return (self.centred + self.centre).to(self.given.dtype).reshape(len(self.centred), *self.event_shape)

    def usual_step(self) -> Step | None:
        """Return the step of the MMD with the same kernel, half of it where the kernel is bounded."""
        return self.usual_step_at(spread_of(self.target) if self.kernel is None else 1.0)

    def usual_step_at(self, spread: float) -> Step | None:
        """Return the step for a target of another spread, such as the whole of which this one's is a part."""
        if self.kernel is None:
            return Riesz(self.exponent).usual_step(spread)
        step = self.kernel.usual_step(1.0)
        return None if step is None else Step(step.size / 2, step.momentum)

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return F with the directions of the last draw; differentiable once in x and the weights."""
        dtype, x = x.dtype, widened(x)
        return sliced_value(self._lines(), x, uniform(x, weights)).to(dtype)

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> SlicedWitness:
        """Return the witness, frozen at the particles x, with the directions of the last draw."""
        return SlicedWitness(self._lines(), x, uniform(widened(x), weights).detach())

    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return -grad f, with f frozen at x, evaluated at `at` (default x), with new directions if they are redrawn."""
        if self.redraw:
            self.draw()
        witness = self.witness(x, weights)
        velocity = witness.grad(x if at is None else at).neg_()
        self.rank_error = witness.rank_error
        return velocity

    def draw(self) -> None:
        """Draw new directions, which F and the witness take from now on."""
        self.xi = self._draw()

    def _lines(self) -> Lines:
        """Return the target and the lines of the last draw."""
        return Lines(
            centre=self.centre,
            centred=self.centred,
            weights=self.target_weights,
            norms=self.norms,
            xi=self.xi,
            line=self.line,
            scale=self.scale,
            binned=self.ranks == "binned",
            half=self.precision == "bfloat16",
            structure=self.structure(),
            projected=self.projected,
        )

    def projected(self) -> Tensor | None:
        """Return the target's projections [P, m], kept from the last call where directions stay and it pays, else None."""
        dim = self.centred.shape[1]
        if self.redraw or dim <= EXACT_DIM or self.num_directions * len(self.centred) > KEPT:
            return None
        key = self.xi, self.xi._version, self.centred._version
        if self._projected is None or self._projected[0][0] is not self.xi or self._projected[0][1:] != key[1:]:
            self._projected = key, slices.product(self.xi, self.centred.T, self.precision == "bfloat16")
        return self._projected[1]

    def structure(self) -> tuple[Tensor, Tensor] | None:
        """Return the signs and scales of structured directions, by which transforms take the place of products, else None."""
        if self._structure is None:
            return None
        xi, version, parts = self._structure
        return parts if xi is self.xi and version == xi._version else None

    def _draw(self) -> Tensor:
        """Draw the directions, [P, d], in blocks of whole orthogonal bases so that float64 is not held for all of them."""
        dim = self.centred.shape[1]
        if self.directions == "structured" and dim > 1 and self.kernel is None:
            signs = draw_signs(self.num_directions, dim, self.generator)
            scales = structured_scales(signs, self.num_directions, dim)
            xi = structured_directions(signs, self.num_directions, dim).to(self.centred)
            self._structure = xi, xi._version, (signs.to(xi.dtype), scales.to(xi.dtype))
            return xi
        whole = self.directions in ("qmc", "equispaced") or dim == 1  # one set of points
        rows = self.num_directions if whole else dim * max(1, DRAWN // dim**2)
        xi = self.centred.new_empty(self.num_directions, dim)
        for block in xi.split(rows):
            block.copy_(self._draw_block(len(block)))
        return xi

    def _draw_block(self, count: int) -> Tensor:
        dim = self.centred.shape[1]
        if self.patch is not None:
            xi = draw_patches(count, self.event_shape, self.patch, self.generator)
            dim = self.event_shape[0] * self.patch**2
        else:
            xi = draw_directions(count, dim, self.directions, self.generator)
        if self.kernel is not None:  # the frequencies of the kernel's spectral measure are normal, of random variances
            lengths = torch.randn(count, dim, dtype=torch.float64, generator=self.generator).norm(dim=1)
            xi = xi * (lengths * self.kernel.spectral_variances(count, self.generator).sqrt())[:, None]
        return xi


def _patch(patch: int, event_shape: tuple[int, ...]) -> int:
    _checks.count("patch", patch)
    if len(event_shape) != 3 or patch > min(event_shape[1:]):
        raise InputError(
            f"patch = {patch} on events of shape {list(event_shape)}: must be images [c, h, w] that a patch fits into"
        )
    return patch


def _measure_again(divergence: SlicedMMD, incompatible: Any) -> None:
    """Bring what the target decides up to date after it was loaded."""
    divergence.norms = slices.norms(divergence.centred)
