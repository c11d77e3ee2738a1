"""The regression of a denoiser: DDPM's simple loss (Ho et al. 2020) and flow matching (Lipman et al. 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._tensors import device_of, normal_like
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.networks import check_event_map
from mmdflow.methods._shared.terms import StepTerms
from mmdflow.methods.denoising.settings import PREDICTIONS, DDPMLossSettings
from mmdflow.noise import LinearSchedule, Schedule, draw_levels


@dataclass(frozen=True)
class DenoisingTerms(StepTerms):
    """The loss of a step, the mean of `errors`.

    Attributes:
        levels: the noise level t of every event, increasing, [B].
        errors: mean squared error over an event's entries, [B].
    """

    parts = ("errors",)
    levels: Float[Tensor, " B"]
    errors: Float[Tensor, " B"]

    def scalars(self) -> dict[str, float]:
        """Return the loss, and its means over the lower and the upper half of the noise levels."""
        low, high = self.errors.tensor_split(2)
        halves = {"low_noise": low, "high_noise": high} if len(low) and len(high) else {}
        return super().scalars() | {name: float(half.mean()) for name, half in halves.items()}

    def message(self, part: str) -> str:
        """Return the first noise level at which the loss is not finite."""
        level = self.levels[~torch.isfinite(self.errors)][0]
        return f"the loss became non-finite at noise level t = {level:.4f}"


class DenoisingLoss(nn.Module):
    r"""E_{t, x_0, eps} mean over entries of |prediction(x_t, t) - aim|^2, x_t = alpha_t x_0 + sigma_t eps.

    * ``prediction="noise"``: the aim is eps (Ho et al. 2020, eq. 14, L_simple), for any variance-preserving schedule.
    * ``prediction="velocity"``: the aim is dx_t/dt = eps - x_0 on the straight path x_t = (1 - t) x_0 + t eps (Lipman et al.
      2023, eq. 23, with sigma_min = 0; Liu et al. 2023, eq. 1). Both papers let time run from noise to data, which only turns
      the sign; here t = 0 is clean as everywhere in this library.
    * ``prediction="residual"``: the same aim, of the output u as sqrt(m + 1) (x_t - u), m the mean square of the data's entries.
      sqrt(m + 1) is the root mean square of eps - x_0. DMMD's displacement penalty at x_t, with one feature whose gradient holds
      u fixed, is this regression.

    The output is the event-shaped `network.outputs(x, t)[:, 0]`, so that any feature network serves, with one
    read-out in place of DMMD's K. Every event of a batch has its own noise level, drawn one in each of as many equal strata.

    A network that knows classes is told those of a batch, but for a share `settings.label_dropout` of the events.

    Args:
        network: a feature network with the squared-residual head and num_features = 1.
        schedule: the forward diffusion.
        settings: which noise levels are drawn.
        prediction: "noise", "velocity" or "residual".
        second_moment: m, of "residual".

    Raises:
        InputError: for a network whose output is not one event, or a prediction that the schedule does not allow.

    Example:
        >>> from mmdflow import DDPMSchedule
        >>> from mmdflow.features import MLPFeatures
        >>> loss = DenoisingLoss(MLPFeatures((2,), num_features=1), DDPMSchedule())
        >>> sorted(loss(torch.zeros(8, 2), torch.Generator().manual_seed(0)).scalars())
        ['high_noise', 'loss', 'low_noise']
    """

    def __init__(
        self,
        network: FeatureNetwork,
        schedule: Schedule,
        settings: DDPMLossSettings | None = None,
        *,
        prediction: str = "noise",
        second_moment: float = 1.0,
    ) -> None:
        super().__init__()
        self.second_moment = _checks.positive("second_moment", second_moment)
        self.network, self.schedule = check_event_map(network), schedule
        self.settings = settings or DDPMLossSettings()
        self.prediction = check_prediction(prediction, schedule)

    def forward(
        self,
        clean: Float[Tensor, "B *event"],
        generator: torch.Generator | None = None,
        labels: Int[Tensor, " B"] | None = None,
    ) -> DenoisingTerms:
        """Return the loss of a batch of clean events.

        Args:
            clean: the events.
            generator: draws levels, noise, and whose class is left out.
            labels: classes of the events, of a network that knows classes.
        """
        low, high, power = self.settings.t_min, self.settings.t_max, self.settings.level_power
        levels = draw_levels(len(clean), low, high, power=power, like=clean, generator=generator)
        noise = normal_like(clean, generator)
        noisy = self.schedule.add_noise(clean, noise, levels)
        aim = noise if self.prediction == "noise" else noise - clean
        told = [] if labels is None else [self._left_out(labels, generator)]
        predicted = self.network.outputs(noisy, levels, *told)[:, 0]
        if self.prediction == "residual":
            predicted = velocity_of_residual(noisy, predicted, self.second_moment)
        errors = (predicted - aim).square().flatten(1).mean(1)
        return DenoisingTerms(errors.mean(), levels, errors.detach())

    def _left_out(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return labels of which a share stands for no class."""
        draws = torch.rand(len(labels), generator=generator, device=device_of(generator, labels.device)).to(
            labels.device
        )
        return torch.where(draws < self.settings.label_dropout, self.network.num_classes, labels)


def velocity_of_residual(
    x: Float[Tensor, "n *event"], output: Float[Tensor, "n *event"], second_moment: float
) -> Float[Tensor, "n *event"]:
    """Return sqrt(m + 1) (x - u), the velocity that an output u stands for; m is the mean square of the data's entries."""
    return math.sqrt(second_moment + 1) * (x - output)


def check_prediction(prediction: str, schedule: Schedule) -> str:
    """Return the prediction if it fits the schedule: noise needs one that preserves variance, others the straight path."""
    straight = isinstance(schedule, LinearSchedule)
    if (_checks.choice("prediction", prediction, PREDICTIONS) != "noise") != straight:
        needs = "a variance-preserving schedule (ddpm, vp, cosine)" if prediction == "noise" else "the linear schedule"
        raise InputError(f"prediction = {prediction!r} with {type(schedule).__name__}: needs {needs}")
    return prediction
