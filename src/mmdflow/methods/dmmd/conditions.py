"""What a sampling run takes beside noise: known entries (inpainting), classes, a source of the user's."""

from __future__ import annotations

import logging

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmdflow import _arrays
from mmdflow.errors import InputError
from mmdflow.methods._shared.classes import check_labels, draw_labels
from mmdflow.methods.dmmd.targets.base import Target
from mmdflow.noise import Schedule
from mmdflow.types import ArrayLike

log = logging.getLogger(__name__)
#: Noise has no entry beyond this many standard deviations; a source that has is in other units.
_FAR = 10.0


class FixedEntries:
    """Entries that are given: at noise level t they are set to their values noised to t (Song et al. 2021, appendix I).

    One draw of noise serves all levels, so that the given part walks straight back; at t = 0 it is exact.

    Args:
        values: the known values, [n, *event].
        mask: True where known, [n, *event].
        noise: standard normal, [n, *event].
        schedule: the forward diffusion.
    """

    def __init__(
        self,
        values: Float[Tensor, "n *event"],
        mask: Bool[Tensor, "n *event"],
        noise: Float[Tensor, "n *event"],
        schedule: Schedule,
    ) -> None:
        self.values, self.mask, self.noise, self.schedule = values, mask, noise, schedule

    def at(self, t: float, particles: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return the particles with the known entries as they are at level t."""
        if t == 0:
            return torch.where(self.mask, self.values, particles)
        level = particles.new_full((len(particles),), t)
        return torch.where(self.mask, self.schedule.add_noise(self.values, self.noise, level), particles)


def check_source(
    particles: ArrayLike, event_shape: tuple[int, ...], like: Tensor, data_scale: float, *, clean: bool
) -> Tensor:
    """Return particles, in the model's dtype, if they can start a run: of its event shape, and finite.

    Images lie in [-1, 1] if clean, else not far off.
    """
    expected = ["n", *event_shape]
    shown = f"[{', '.join(map(str, expected))}]"
    given, particles = particles, _arrays.tensor("particles", particles)
    if not particles.is_floating_point():
        raise InputError(f"particles have dtype {particles.dtype}: must be a floating dtype")
    if particles.device != like.device and given is particles:
        raise InputError(f"particles are on {particles.device}: must be on {like.device}, as the model")
    particles = particles.to(like)
    images = len(event_shape) == 3
    limit = 1.0 if clean else max(1.0, _FAR / data_scale)
    allowed = f"must be {shown}" + (f", in [-{limit:g}, {limit:g}]" if images else " and finite")
    if 0 in particles.shape:
        raise InputError(f"particles have shape {list(particles.shape)}: {allowed} with n >= 1")
    low, high = float(particles.min()), float(particles.max())
    inside = max(-low, high) <= limit + 1e-6 if images else torch.isfinite(particles).all()
    if tuple(particles.shape[1:]) != event_shape or particles.ndim == 0 or not inside:  # NaN is never inside
        raise InputError(f"particles have shape {list(particles.shape)}, range [{low:g}, {high:g}]: {allowed}")
    return particles


def with_classes(target: Target, reason: str) -> Target:
    """Return a target that knows classes apart; `reason` is what asks for them."""
    if target.num_classes == 0:
        raise InputError(
            f"{reason}: the model holds no target means of classes; train with --sampling.class_means=true, or give "
            "target_means(..., labels=...)"
        )
    return target


def classes_of(
    labels: Int[Tensor, " n"] | int | ArrayLike | None,
    particles: Float[Tensor, "n *event"],
    target: Target,
    by_class: bool,
    generator: torch.Generator | None,
    *,
    shown: str | None = None,
) -> Int[Tensor, " n"] | None:
    """Return the class of every particle: that of its label, or one in proportion to the data with by_class; else None.

    It warns where classes are drawn for particles that something of a class shows already; `shown` says what.
    """
    if labels is not None:
        return check_labels(labels, len(particles), with_classes(target, "labels").num_classes, particles.device)
    if not by_class:
        return None
    shares = with_classes(target, "by_class = True").class_shares
    if shown is not None:
        log.warning(
            "by_class = True without labels: every particle is of a class drawn by chance, whatever its %s; labels say which, "
            "and by_class = False takes the flow of all classes",
            shown,
        )
    return draw_labels(len(particles), shares, generator).to(particles.device)


def check_known(
    known: ArrayLike | None, mask: ArrayLike | None, n: int, event_shape: tuple[int, ...], like: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return known values and their mask, both [n, *event]; None where neither is given."""
    if known is None and mask is None:
        return None
    if known is None or mask is None:
        missing = "known" if known is None else "mask"
        raise InputError(f"{missing} is missing: known values and their mask (True = known) go together")
    whole = (n, *event_shape)
    known, mask = _arrays.tensor("known", known), _arrays.tensor("mask", mask, floating=False)
    if mask.dtype != torch.bool:
        raise InputError(f"mask has dtype {mask.dtype}: must be torch.bool, True where known")
    if tuple(known.shape) not in (whole, event_shape, (1, *event_shape)):
        raise InputError(f"known has shape {list(known.shape)}: must be {list(event_shape)} or {list(whole)}")
    try:
        mask = mask.to(like.device).expand(whole)
    except RuntimeError:
        raise InputError(f"mask has shape {list(mask.shape)}: must broadcast to {list(whole)}") from None
    known = known.to(like).expand(whole)
    bad = ~torch.isfinite(known) if len(event_shape) != 3 else ~(known.abs() <= 1)
    if bool((bad & mask).any()):
        allowed = "in [-1, 1]" if len(event_shape) == 3 else "finite"
        raise InputError(f"known holds {float(known[bad & mask][0]):g}: must be {allowed} where mask is True")
    return torch.where(mask, known, torch.zeros_like(known)), mask
