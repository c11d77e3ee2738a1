"""The training loss of DMMD: unbiased MMD per noise level against gradient penalties (DMMD paper, Algorithm 1)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks, ops
from mmdflow._tensors import along, device_of, normal_like
from mmdflow.divergences.functional import mmd2
from mmdflow.errors import InputError
from mmdflow.methods.dmmd.terms import LossTerms, participation
from mmdflow.noise import NoiseConditionalKernel, NoiseConditionalWitness, Schedule, clamped_exp, draw_levels

PENALTY_POINTS = ("path", "interpolate", "noisy", "ends")
PAIRINGS = ("disjoint", "paired", "shared")
OBJECTIVES = ("mmd", "kl", "reverse-kl")


class DMMDLoss(nn.Module):
    r"""E_t [ -w_mmd MMD^2_u(P_t, P; t) / norm_t + w_unit L_unit + w_disp L_disp + w_l2 L_l2 ] (DMMD paper, eq. 8).

    A batch of n * num_levels clean events gives every level its own n events. With ``pairing="disjoint"`` half of them stay
    clean and the other half are noised, so the two samples of the MMD are independent. With ``"paired"`` each event is used
    clean and noised, and the cross term of the MMD leaves out the pairs of an event with itself, which keeps it unbiased; the
    mean difference has less noise. ``"shared"`` is paired over the half of the events whose penalty point is x_t itself, so that
    one evaluation of the features serves penalty and mean; it costs least. The witness of the penalties is
    f(z) = mean_noisy k_t(., z) - mean_clean k_t(., z), with gradients through both means. A kernel with a `witness_norm` has the
    witness scaled to that norm, whose weights on the features are then held fixed, and at least 0: features learn to grow with
    the noise. With one feature the weight is the norm, whatever the means.

    With ``objective="kl"`` the MMD gives way to the lower bound of a Kullback-Leibler divergence (DMMD paper, section D; Glaser,
    Arbel, Gretton 2021), of a learned witness h(., t):
    KL(P_t | P) >= (1 + lambda) (1 + E_{P_t} h - E_P e^h - lambda/2 |a_t|^2), along whose h the particles flow; with
    ``"reverse-kl"`` KL(P | P_t) >= (1 + lambda) (1 + E_P h - E_{P_t} e^h - lambda/2 |a_t|^2), along -e^h.

    Args:
        kernel: the noise-conditional kernel whose parameters are learned; a `NoiseConditionalWitness` for the KL bounds.
        schedule: the forward diffusion.
        second_moment: mean square of the data's entries, for the distance d_t from clean to noisy.
        objective: "mmd", "kl" or "reverse-kl", see above.
        ridge: lambda of the KL bounds.
        num_levels: noise levels a step, drawn one in each of as many equal strata of [t_min, t_max].
        mmd_weight: weight of the MMD, or of the KL bound.
        unit_weight: weight of mean (|grad f| - 1)^2, the paper's penalty.
        displacement_weight: weight of mean |grad f - n|^2, n = (x_t - x_0) / (sqrt(D) d_t). Ours: the witness gradient is told
            where to point, not only how long to be.
        l2_weight: weight of the mean squared feature on clean and noisy samples.
        penalty_points: where the penalties hold: "path" = x_t for half of the events, uniform on the segment from
            x_0 to its own x_t for the others; "interpolate" = uniform between a clean and an independent noisy sample (WGAN-GP);
            "noisy" = x_t (training on these alone explodes when sampled, unless the features' gradient is "semi"); "ends" = x_t,
            and x_0 itself for one event in 32, drawn anew each step, so that features are learned where clean means are taken:
            for events of many entries, whose x_0 does not look like a noised one.
        normalize: divide the MMD of each level by sqrt(D) d_t, the MMD^2 that a witness of unit slope can reach.
        pairing: "disjoint", "paired" or "shared", see above.
        t_min: lowest noise level.
        t_max: highest noise level.
        level_power: levels are t_min + (t_max - t_min) u^level_power with u uniform: below 1 favours high noise.

    Raises:
        InputError: for a batch that the levels do not divide into even parts of at least 4, or bad settings.
    """

    def __init__(
        self,
        kernel: NoiseConditionalKernel,
        schedule: Schedule,
        *,
        second_moment: float,
        objective: str = "mmd",
        ridge: float = 0.0,
        num_levels: int = 16,
        mmd_weight: float = 1.0,
        unit_weight: float = 1.0,
        displacement_weight: float = 0.0,
        l2_weight: float = 0.0,
        penalty_points: str = "path",
        normalize: bool = True,
        pairing: str = "disjoint",
        t_min: float = 0.02,
        t_max: float = 1.0,
        level_power: float = 1.0,
    ) -> None:
        super().__init__()
        self.kernel, self.schedule = kernel, schedule
        self.second_moment = _checks.positive("second_moment", second_moment)
        self.objective = _checks.choice("objective", objective, OBJECTIVES)
        if objective != "mmd" and not isinstance(kernel, NoiseConditionalWitness):
            raise InputError(
                f"objective = {objective!r} with kernel = {type(kernel).__name__}: needs a NoiseConditionalWitness"
            )
        self.ridge = _checks.non_negative("ridge", ridge)
        self.num_levels = _checks.count("num_levels", num_levels)
        self.mmd_weight = _checks.non_negative("mmd_weight", mmd_weight)
        self.unit_weight = _checks.non_negative("unit_weight", unit_weight)
        self.displacement_weight = _checks.non_negative("displacement_weight", displacement_weight)
        self.l2_weight = _checks.non_negative("l2_weight", l2_weight)
        self.penalty_points = _checks.choice("penalty_points", penalty_points, PENALTY_POINTS)
        if penalty_points == "interpolate" and displacement_weight > 0:
            raise InputError(
                "penalty_points = 'interpolate' with displacement_weight > 0: must be 'path', 'noisy' or 'ends'"
            )
        self.normalize = normalize
        self.pairing = _checks.choice("pairing", pairing, PAIRINGS)
        if (pairing, penalty_points) == ("shared", "interpolate"):
            raise InputError(
                "pairing = 'shared' with penalty_points = 'interpolate': must be 'path', 'noisy' or 'ends'"
            )
        self.t_min = _checks.interval("t_min", t_min, 0.0, 1.0, "[)")
        self.t_max = _checks.interval("t_max", t_max, self.t_min, 1.0, "(]")
        self.level_power = _checks.positive("level_power", level_power)

    def forward(self, clean: Float[Tensor, "B *event"], generator: torch.Generator | None = None) -> LossTerms:
        """Return the loss of a batch of clean events; `generator` draws levels, noise and interpolates."""
        learning = torch.is_grad_enabled()
        with torch.enable_grad():  # the penalties need the gradient in x even where nothing is learned
            return self._terms(clean, generator, learning)

    def _terms(self, clean: Tensor, generator: torch.Generator | None, learning: bool) -> LossTerms:
        count = self.num_levels
        if clean.shape[0] % (2 * count) or clean.shape[0] < 4 * count:
            raise InputError(
                f"batch size {clean.shape[0]}: must be an even multiple of num_levels = {count}, at least {4 * count}"
            )
        n = clean.shape[0] // count
        levels = self._draw_levels(clean, generator)
        t = levels.repeat_interleave(n)
        noisy = self.schedule.add_noise(clean, normal_like(clean, generator), t)
        points, phi_points, phi_clean, phi_noisy = self._features(clean, noisy, levels, generator)
        with torch.autocast(clean.device.type, enabled=False):  # it is for the network alone
            return self._judge(clean, noisy, levels, (points, phi_points, phi_clean, phi_noisy), learning)

    def _judge(
        self, clean: Tensor, noisy: Tensor, levels: Tensor, found: tuple[Tensor, Tensor, Tensor, Tensor], learning: bool
    ) -> LossTerms:
        points, phi_points, phi_clean, phi_noisy = found
        count, n = len(levels), len(clean) // len(levels)
        if self.objective == "mmd":
            gain, witness, slopes = self._mmd(phi_clean, phi_noisy, phi_points, levels)
        else:
            gain, witness, slopes = self._kl_bound(phi_clean, phi_noisy, phi_points, levels)
        (gradient,) = torch.autograd.grad(witness, points, slopes, create_graph=learning)
        gradient = gradient.flatten(1)
        slope = (gradient.square().sum(1) + 1e-12).sqrt()
        distance = math.sqrt(gradient.shape[1]) * self.schedule.displacement(levels, self.second_moment)
        direction = (noisy - clean).flatten(1) / distance.repeat_interleave(n)[:, None]
        unit = (slope - 1).square().view(count, n).mean(1)
        displacement = (gradient - direction).square().sum(1).view(count, n).mean(1)
        l2 = torch.cat([phi_clean, phi_noisy], 1).square().mean((1, 2))
        if self.normalize:
            gain = gain / distance
        total = (
            -self.mmd_weight * gain
            + self.unit_weight * unit
            + self.displacement_weight * displacement
            + self.l2_weight * l2
        ).mean()
        difference = (phi_noisy.mean(1) - phi_clean.mean(1)).detach().square().sum(1)
        return LossTerms(
            total=total if learning else total.detach(),
            levels=levels,
            mmd2=gain.detach(),
            unit=unit.detach(),
            displacement=displacement.detach(),
            l2=l2.detach(),
            slope=slope.detach().view(count, n).mean(1),
            contrast=difference / (l2.detach() * phi_clean.shape[2]).clamp_min(torch.finfo(l2.dtype).tiny),
            participation=participation(phi_clean.detach()),
        )

    def _features(
        self, clean: Tensor, noisy: Tensor, levels: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the penalty's points, [B, *event], and the features of points, clean and noisy samples, each [L, *, K]."""
        count, n = len(levels), len(clean) // len(levels)
        by_level = (count, n, *clean.shape[1:])
        t = levels.repeat_interleave(n)
        if self.pairing == "shared":
            points = self._points(clean, noisy, None, generator).requires_grad_()
            phi_points = self.kernel.features(points, t).view(count, n, -1)
            # Where one feature's weight is given, clean events are for the monitors alone: two or three a level suffice
            step = 2 if self._clean_learns or phi_points.shape[2] > 1 else n // 4 * 2
            some = clean.view(by_level)[:, ::step]
            with torch.set_grad_enabled(self._clean_learns):
                phi_clean = self.kernel.features(some.flatten(0, 1), levels.repeat_interleave(some.shape[1]))
            return points, phi_points, phi_clean.view(count, some.shape[1], -1), phi_points[:, ::step]
        split = n // 2 if self.pairing == "disjoint" else n  # clean events of a level in the MMD; as many noisy ones
        samples = torch.cat([clean.view(by_level)[:, :split], noisy.view(by_level)[:, n - split :]], 1)
        phi = self.kernel.features(samples.flatten(0, 1), levels.repeat_interleave(2 * split))
        phi_clean, phi_noisy = phi.view(count, 2 * split, -1).split(split, 1)
        points = self._points(clean, noisy, samples, generator).requires_grad_()
        return points, self.kernel.features(points, t).view(count, n, -1), phi_clean, phi_noisy

    def _draw_levels(self, clean: Tensor, generator: torch.Generator | None) -> Tensor:
        return draw_levels(
            self.num_levels, self.t_min, self.t_max, power=self.level_power, like=clean, generator=generator
        )

    def _points(
        self, clean: Tensor, noisy: Tensor, samples: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        """Return the penalty's points, one an event, with no gradient; x_t itself at every other event."""
        if self.penalty_points == "noisy":
            return noisy.detach().clone()
        device = device_of(generator, clean.device)
        weight = torch.rand(len(clean), generator=generator, device=device, dtype=clean.dtype).to(clean.device)
        if samples is not None and self.penalty_points == "interpolate":
            # Each level's clean samples paired with its noisy ones, twice over
            half, each = samples.shape[1] // 2, len(clean) // len(samples)
            start = torch.cat([samples[:, :half]] * 2, 1)[:, :each].reshape(clean.shape)
            end = torch.cat([samples[:, half:].flip(1)] * 2, 1)[:, :each].reshape(clean.shape)
        else:
            start, end = clean, noisy
            if self.penalty_points == "ends":
                weight[:] = 1
                odd = 2 * torch.randperm(len(clean) // 2, generator=generator, device=device) + 1
                weight[odd[: max(1, len(clean) // 32)].to(clean.device)] = 0
            weight[::2] = 1
        return torch.lerp(start, end, along(weight, clean)).detach()

    def _mmd(self, clean: Tensor, noisy: Tensor, points: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the unbiased MMD^2 of each level, [L], values at the points, and the weights that make them the witness.

        The weights are kept apart because they hold the noisy mean, whose samples may be among the points: the gradient in
        the points must not reach them.
        """
        psi = self._finite(torch.cat([clean, noisy, points], 1), levels)
        if psi is not None:
            n = clean.shape[1]
            clean, noisy, points = psi[:, :n], psi[:, n : 2 * n], psi[:, 2 * n :]
            difference = self._direction(noisy.mean(1) - clean.mean(1))
            cross = (clean.sum(1) * noisy.sum(1)).sum(1)
            if self.pairing != "disjoint":
                cross = (cross - (clean * noisy).sum((1, 2))) * n / (n - 1)
            return _within(clean) + _within(noisy) - 2 * cross / n**2, points, difference[:, None].expand_as(points)
        if self.pairing == "shared":
            raise InputError("pairing = 'shared': needs a base kernel with finite features (linear); use 'paired'")
        discrepancies, witnesses = [], []
        weights = torch.cat([noisy.new_full((noisy.shape[1],), 1.0), clean.new_full((clean.shape[1],), -1.0)])
        for c, x, z, t in zip(clean, noisy, points, levels, strict=True):
            base = self.kernel.base_at(t)
            value = mmd2(x, c, base)
            if self.pairing == "paired":  # the cross term of mmd2 holds the pairs of an event with itself
                gram = base(x, c)
                value = value + 2 * (gram.diagonal().mean() - gram.mean()) / (len(c) - 1)
            discrepancies.append(value)
            witnesses.append(ops.kernel_sum(base, z, torch.cat([x, c]), weights / len(c)))
        witness = torch.stack(witnesses)
        return torch.stack(discrepancies), witness, torch.ones_like(witness)

    def _direction(self, difference: Float[Tensor, "L K"]) -> Float[Tensor, "L K"]:
        """Return the weights of the features in the witness: their mean difference, or what a `witness_norm` makes of it."""
        if self.kernel.witness_norm is None:
            return difference
        weights = difference.detach().clamp_min(0)
        weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, torch.ones_like(weights))
        return self.kernel.witness_norm * weights / weights.norm(dim=1, keepdim=True)

    @property
    def _clean_learns(self) -> bool:
        """Whether anything is learned from the features of clean events."""
        return self.kernel.witness_norm is None or self.mmd_weight > 0 or self.l2_weight > 0

    def _kl_bound(self, clean: Tensor, noisy: Tensor, points: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `_mmd`, for the lower bound of KL(P_t | P) or KL(P | P_t)."""
        assert isinstance(self.kernel, NoiseConditionalWitness)
        direction = self.kernel.direction(levels)[:, None]
        upper, lower, at = ((phi * direction).sum(2) for phi in (noisy, clean, points))
        if self.objective == "reverse-kl":
            upper, lower = lower, upper
        ridge = self.ridge / 2 * direction.square().sum((1, 2))
        bound = (1 + self.ridge) * (1 + upper.mean(1) - clamped_exp(lower).mean(1) - ridge)
        witness = -clamped_exp(at) if self.objective == "reverse-kl" else at
        return bound, witness, torch.ones_like(at)

    def _finite(self, phi: Tensor, levels: Tensor) -> Tensor | None:
        """Return the base kernels' feature maps of phi, [L, *, K'], where they have finite ones."""
        bases = [self.kernel.base_at(t) for t in levels]
        if not all(base.finite for base in bases):
            return None
        return torch.stack([base.embed(level) for base, level in zip(bases, phi, strict=True)])


def _within(psi: Tensor) -> Tensor:
    """Return mean over pairs i != j of <psi_i, psi_j> in O(n) (SYSTEMS row 0): [L, n, K] -> [L]."""
    n = psi.shape[1]
    return (psi.sum(1).square().sum(1) - psi.square().sum((1, 2))) / (n * (n - 1))
