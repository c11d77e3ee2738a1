"""The regression of a denoiser: DDPM's simple loss (Ho et al. 2020) and flow matching (Lipman et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._tensors import normal_like
from mmdflow.errors import DivergedError, InputError
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.networks import check_event_map
from mmdflow.noise import LinearSchedule, Schedule, draw_levels

PREDICTIONS = ("noise", "velocity")


@dataclass(frozen=True)
class DenoisingTerms:
    """The loss of a step and its parts.

    Attributes:
        total: the scalar to minimise, the mean of `errors`.
        levels: the noise level t of every event, increasing, [B].
        errors: mean squared error over an event's entries, [B].
    """

    total: Float[Tensor, ""]
    levels: Float[Tensor, " B"]
    errors: Float[Tensor, " B"]

    def scalars(self) -> dict[str, float]:
        """Return the loss, and its means over the lower and the upper half of the noise levels."""
        low, high = self.errors.tensor_split(2)
        halves = {"low_noise": low, "high_noise": high} if len(low) and len(high) else {}
        return {"loss": float(self.total.detach()), **{name: float(half.mean()) for name, half in halves.items()}}

    def check_finite(self) -> None:
        """Raise `DivergedError` naming the first noise level at which the loss is not finite."""
        if bool(torch.isfinite(self.total)):
            return
        bad = ~torch.isfinite(self.errors)
        if bool(bad.any()):
            raise DivergedError(f"the loss became non-finite at noise level t = {self.levels[bad][0]:.4f}")
        raise DivergedError("the mean of the loss became non-finite although every term is finite")


class DenoisingLoss(nn.Module):
    r"""E_{t, x_0, eps} mean over entries of |prediction(x_t, t) - aim|^2, x_t = alpha_t x_0 + sigma_t eps.

    * ``prediction="noise"``: the aim is eps (Ho et al. 2020, eq. 14, L_simple), for any variance-preserving schedule.
    * ``prediction="velocity"``: the aim is dx_t/dt = eps - x_0 on the straight path x_t = (1 - t) x_0 + t eps (Lipman et al.
      2023, eq. 23, with sigma_min = 0; Liu et al. 2023, eq. 1). Both papers let time run from noise to data, which only turns
      the sign; here t = 0 is clean as everywhere in this library.

    The prediction is the event-shaped output `network.outputs(x, t)[:, 0]`, so that any feature network serves, with one
    read-out in place of DMMD's K. Every event of a batch has its own noise level, drawn one in each of as many equal strata.

    Args:
        network: a feature network with the squared-residual head and num_features = 1.
        schedule: the forward diffusion.
        prediction: "noise" or "velocity".
        t_min: lowest noise level.
        t_max: highest noise level.
        level_power: levels are t_min + (t_max - t_min) u^level_power with u uniform: below 1 favours high noise.

    Raises:
        InputError: for a network whose output is not one event, or a prediction that the schedule does not allow.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        schedule: Schedule,
        *,
        prediction: str = "noise",
        t_min: float = 0.001,
        t_max: float = 1.0,
        level_power: float = 1.0,
    ) -> None:
        super().__init__()
        self.network, self.schedule = check_event_map(network), schedule
        self.prediction = check_prediction(prediction, schedule)
        self.t_min = _checks.interval("t_min", t_min, 0.0, 1.0, "[)")
        self.t_max = _checks.interval("t_max", t_max, self.t_min, 1.0, "(]")
        self.level_power = _checks.positive("level_power", level_power)

    def forward(self, clean: Float[Tensor, "B *event"], generator: torch.Generator | None = None) -> DenoisingTerms:
        """Return the loss of a batch of clean events; `generator` draws levels and noise."""
        levels = draw_levels(
            len(clean), self.t_min, self.t_max, power=self.level_power, like=clean, generator=generator
        )
        noise = normal_like(clean, generator)
        noisy = self.schedule.add_noise(clean, noise, levels)
        aim = noise if self.prediction == "noise" else noise - clean
        errors = (self.network.outputs(noisy, levels)[:, 0] - aim).square().flatten(1).mean(1)
        return DenoisingTerms(errors.mean(), levels, errors.detach())


def check_prediction(prediction: str, schedule: Schedule) -> str:
    """Return the prediction if it fits the schedule: noise needs one that preserves variance, velocity the straight path."""
    straight = isinstance(schedule, LinearSchedule)
    if (_checks.choice("prediction", prediction, PREDICTIONS) == "velocity") != straight:
        needs = (
            "the linear schedule" if prediction == "velocity" else "a variance-preserving schedule (ddpm, vp, cosine)"
        )
        raise InputError(f"prediction = {prediction!r} with {type(schedule).__name__}: needs {needs}")
    return prediction
