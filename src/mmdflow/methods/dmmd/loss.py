"""The training loss of DMMD: the MMD per noise level against gradient penalties (DMMD paper, Algorithm 1), or its path form."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._tensors import normal_like
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.methods.dmmd.objectives import KLBound, MMDObjective, Objective, ReverseKLBound
from mmdflow.methods.dmmd.pairings import BatchFeatures, Disjoint, Paired, Pairing, Shared
from mmdflow.methods.dmmd.penalty_points import Interpolate, NoisedBatch, Path, PenaltyPoints, Segment
from mmdflow.methods.dmmd.settings import LossSettings
from mmdflow.methods.dmmd.terms import LossTerms, participation
from mmdflow.noise import NoiseConditionalKernel, Schedule, draw_levels

#: Features below which asking for diversity makes no sense.
_FEWEST = 16
_PAIRINGS: dict[str, type[Pairing]] = {kind.name: kind for kind in (Disjoint, Paired, Shared)}


class DMMDLoss(nn.Module):
    r"""The loss of DMMD: the MMD of learned features, maximised under gradient penalties (DMMD paper, eq. 8).

    | form | loss, a mean over noise levels t |
    |---|---|
    | penalty (the paper's) | -w_mmd MMD^2_u(P_t, P; t) / norm_t + w_unit E (\|grad f(z)\| - 1)^2 + w_l2 L_l2 |
    | path (ours) | -w_mmd MMD^2_u(P_t, P; t) / norm_t + E \|grad f(z) - n\|^2 + w_l2 L_l2 |

    n = (x_t - x_0) / norm_t and norm_t = sqrt(D) d_t, the MMD^2 that a witness of unit slope can reach; d_t is the root mean
    square of x_t - x_0, L_l2 the mean squared feature of clean and noised events. A batch of n * num_levels clean events gives
    every level its own n events. The witness is f(z) = mean_noisy k_t(., z) - mean_clean k_t(., z), with gradients through both
    means; see `MMDObjective`, and `KLBound` for the bounds of a Kullback-Leibler divergence.

    `diversity_weight` adds tr C^2 / (tr C)^2 to either form, C the covariance of the clean features within the step's levels: 1
    for features that vary in one direction, 1/K for those that vary alike in K. For one pair of distributions the best witness is
    one function, so that features which only maximise the MMD have no reason to differ.

    **The path form is MMD training.** Along the segment from x_0 to x_t, grad f integrates to f(x_t) - f(x_0), whose mean over
    pairs is the MMD^2. For z uniform on the segment ("segment" points) therefore

    E \|grad f(z) - n\|^2 = E \|n\|^2 + E \|grad f(z)\|^2 - 2 MMD^2(P_t, P; t) / norm_t:

    the MMD^2, maximised under a penalty on the squared slope that is centred at zero (a Sobolev-regularised MMD; Mroueh et al.
    2018). The left side has less variance: it regresses on pairs where the right one takes means. "path" points add regression
    at x_t, where particles are: as much, or more with `segment_every`. With "paired" pairing the MMD^2 is the biased one
    (V-statistic) of the step's pairs.

    With `by_class` all events of a level are of one class: P is the data of that class, and the features learn the witnesses of
    every class. Sampling then takes the class's means: `labels=` of `DMMDPipeline`.

    `settings` name an objective, a pairing and penalty points. An object of one's own may stand in the place of each:

    | argument | objects |
    |---|---|
    | `objective` | `MMDObjective()`, `KLBound(ridge)`, `ReverseKLBound(ridge)`, any `Objective` |
    | `pairing` | `Disjoint()`, `Paired()`, `Shared()`, any `Pairing` |
    | `penalty_points` | `Segment()`, `Path()`, `Interpolate()`, any `PenaltyPoints` |

    Args:
        kernel: the noise-conditional kernel whose parameters are learned; a `NoiseConditionalWitness` for the KL bounds.
        schedule: the forward diffusion.
        second_moment: mean square of the data's entries, for the distance d_t from clean to noisy.
        settings: weights, noise levels and the names of what follows.
        objective: what is maximised, in place of the settings' name.
        pairing: which events are clean and noised, in place of the settings' name.
        penalty_points: where the penalties hold, in place of the settings' name.

    Raises:
        InputError: for parts that do not go together; when called, for a batch that the levels do not divide into even parts of
            at least 4, or labels that are missing or mixed within a level.

    Example:
        >>> import torch
        >>> from mmdflow import DMMDLoss, LinearSchedule, NoiseConditionalKernel
        >>> from mmdflow.features import MLPFeatures
        >>> from mmdflow.methods.dmmd import LossSettings
        >>> kernel = NoiseConditionalKernel(MLPFeatures((2,), 4, width=16))
        >>> loss = DMMDLoss(kernel, LinearSchedule(), second_moment=1.0, settings=LossSettings(num_levels=2))
        >>> loss(torch.randn(16, 2)).levels.shape
        torch.Size([2])
    """

    def __init__(
        self,
        kernel: NoiseConditionalKernel,
        schedule: Schedule,
        *,
        second_moment: float,
        settings: LossSettings | None = None,
        objective: Objective | None = None,
        pairing: Pairing | None = None,
        penalty_points: PenaltyPoints | None = None,
    ) -> None:
        super().__init__()
        self.kernel, self.schedule = kernel, schedule
        self.second_moment = _checks.positive("second_moment", second_moment)
        self.settings = LossSettings() if settings is None else settings
        self.objective = objective or _objective(self.settings)
        self.pairing = pairing or _PAIRINGS[self.settings.pairing]()
        self.penalty_points = penalty_points or _points(self.settings)
        self.objective.check(kernel)
        self.pairing.check(self.penalty_points)
        width = kernel.features.num_features if isinstance(kernel.features, FeatureNetwork) else _FEWEST
        if self.settings.diversity_weight and width < _FEWEST:
            raise InputError(
                f"diversity_weight = {self.settings.diversity_weight:g} with num_features = {width}: needs at least {_FEWEST} "
                f"features"
            )
        if self.settings.form == "path" and not self.penalty_points.on_own_path:
            raise InputError(
                f"penalty_points = {self.penalty_points.name!r} with form = 'path': must be 'segment' or 'path'"
            )

    def forward(
        self,
        clean: Float[Tensor, "B *event"],
        generator: torch.Generator | None = None,
        labels: Int[Tensor, " B"] | None = None,
    ) -> LossTerms:
        """Return the loss of a batch of clean events.

        Args:
            clean: the events, those of a level in a row.
            generator: draws levels, noise and interpolates.
            labels: their classes, for settings.by_class: one class a level, or -1 for a level of all classes.
        """
        learning = torch.is_grad_enabled()
        with torch.enable_grad():  # the penalties need the gradient in x even where nothing is learned
            return self._terms(clean, generator, labels, learning)

    def _terms(
        self, clean: Tensor, generator: torch.Generator | None, labels: Tensor | None, learning: bool
    ) -> LossTerms:
        count = self.settings.num_levels
        if clean.shape[0] % (2 * count) or clean.shape[0] < 4 * count:
            raise InputError(
                f"batch size {clean.shape[0]}: must be an even multiple of num_levels = {count}, at least {4 * count}"
            )
        if self.settings.by_class:
            _check_one_class(labels, clean.shape[0], count)
        levels = self.draw_levels(clean, generator)
        t = levels.repeat_interleave(clean.shape[0] // count)
        noisy = self.schedule.add_noise(clean, normal_like(clean, generator), t)
        batch = self.pairing.batch(clean, noisy, levels)
        points = self.penalty_points.draw(batch, generator).requires_grad_()
        features = self.pairing.features(self.kernel, batch, points)
        with torch.autocast(clean.device.type, enabled=False):  # it is for the network alone
            return self._evaluate(batch, features, learning)

    def _evaluate(self, batch: NoisedBatch, features: BatchFeatures, learning: bool) -> LossTerms:
        settings, levels = self.settings, batch.levels
        count, n = len(levels), batch.events_per_level
        objective = self.objective(self.kernel, features, levels, self.pairing)
        (gradient,) = torch.autograd.grad(objective.values, features.points, objective.weights, create_graph=learning)
        gradient = gradient.flatten(1)
        slope = (gradient.square().sum(1) + 1e-12).sqrt()
        distance = math.sqrt(gradient.shape[1]) * self.schedule.displacement(levels, self.second_moment)
        direction = (batch.noisy - batch.clean).flatten(1) / distance.repeat_interleave(n)[:, None]
        unit = (slope - 1).square().view(count, n).mean(1)
        displacement = (gradient - direction).square().sum(1).view(count, n).mean(1)
        l2 = torch.cat([features.clean, features.noisy], 1).square().mean((1, 2))
        gain = objective.gain / distance if settings.normalize else objective.gain
        penalty = displacement if settings.form == "path" else settings.unit_weight * unit
        total = (penalty - settings.weight_of_mmd * gain + settings.l2_weight * l2).mean()
        varied = participation(features.clean)
        if settings.diversity_weight:
            total = total + settings.diversity_weight / varied.clamp_min(1)
        difference = (features.noisy.mean(1) - features.clean.mean(1)).detach().square().sum(1)
        return LossTerms(
            total=total if learning else total.detach(),
            levels=levels,
            mmd2=gain.detach(),
            unit=unit.detach(),
            displacement=displacement.detach(),
            l2=l2.detach(),
            slope=slope.detach().view(count, n).mean(1),
            contrast=difference / (l2.detach() * features.clean.shape[2]).clamp_min(torch.finfo(l2.dtype).tiny),
            participation=varied.detach(),
        )

    def draw_levels(self, like: Tensor, generator: torch.Generator | None = None) -> Float[Tensor, " L"]:
        """Draw the increasing noise levels of a step, of the type and device of `like`."""
        s = self.settings
        return draw_levels(s.num_levels, s.t_min, s.t_max, power=s.level_power, like=like, generator=generator)


def _check_one_class(labels: Tensor | None, num_events: int, num_levels: int) -> None:
    """Raise InputError for levels whose events are not of one class."""
    if labels is None or labels.shape != (num_events,):
        shown = "are missing" if labels is None else f"have shape {list(labels.shape)}"
        raise InputError(f"labels {shown}: must be [{num_events}], the class of every event, with by_class = True")
    by_level = labels.view(num_levels, -1)
    if mixed := [level for level in by_level.tolist() if len(set(level)) > 1]:
        raise InputError(
            f"labels of a level are {mixed[0]}: must be one class with by_class = True; StepBatches(same_class=) draws so"
        )


def _objective(settings: LossSettings) -> Objective:
    """Return the objective that settings name."""
    if settings.objective == "mmd":
        return MMDObjective()
    return (KLBound if settings.objective == "kl" else ReverseKLBound)(settings.ridge)


def _points(settings: LossSettings) -> PenaltyPoints:
    """Return the penalty points that settings name."""
    if settings.penalty_points == "path":
        return Path(settings.segment_every)
    return Segment() if settings.penalty_points == "segment" else Interpolate()
