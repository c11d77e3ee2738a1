"""Where events are compared: as they are, or in features, of which a space may have several maps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._tensors import device_of, flat, normal_like
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.kernels import median_bandwidth
from mmdflow.methods.drifting.settings import SpacesSettings
from mmdflow.noise import Schedule

#: Detail below which strength is smooth in it.
_SMOOTH = 0.01


class Space(nn.Module):
    """Features of events: a subclass gives `maps`, one or several of [n, C]; for features of one's own, give it a module.

    Each map is divided by its scale, so that the median distance between events of the data becomes sqrt C (`measure`).

    Args:
        module: from events [n, *event] to features [n, ...]; None for a subclass.
        by_batch: whether the scales are those of the batch of every step, for a module that changes; else those of `measure`.

    Attributes:
        length: root mean square of what the space asks of the events, where pixels ask 1; None, the default, for what its
            velocities or the loss make it.

    Example:
        >>> space = Space(torch.nn.Linear(2, 3))
        >>> space.measure(torch.randn(50, 2))
        >>> [tuple(phi.shape) for phi in space(torch.zeros(5, 2))]
        [(5, 3)]
    """

    name = "features"

    def __init__(self, module: nn.Module | None = None, *, by_batch: bool = False) -> None:
        super().__init__()
        self.module, self.by_batch = module, by_batch
        self.scales: list[float] = []
        self.length: float | None = None
        self.means: list[Tensor] = []
        if module is not None:
            module.eval().requires_grad_(False)

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return what is drawn for events before they are mapped, a row an event; nothing by default."""
        return x.new_empty(len(x), 0)

    def maps(self, x: Float[Tensor, "n *event"], drawn: Float[Tensor, "n *any"]) -> list[Tensor]:
        """Return the maps, differentiable in x."""
        assert self.module is not None
        return [flat(self.module(x))]

    def forward(self, x: Tensor, drawn: Tensor | None = None, generator: torch.Generator | None = None) -> list[Tensor]:
        """Return the maps over their scales, [n, C] each."""
        maps = self.maps(x, self.draw(x, generator) if drawn is None else drawn)
        return [phi.to(x.dtype) / scale for phi, scale in zip(maps, self.scales, strict=True)]

    @torch.no_grad()
    def measure(self, events: Float[Tensor, "k *event"], generator: torch.Generator | None = None) -> None:
        """Set the scales by a sample of the data: median distance over sqrt C.

        Raises:
            InputError: for features in which all events are equal.
        """
        maps = self.maps(events, self.draw(events, generator))
        try:
            self.scales = [median_bandwidth(phi) / math.sqrt(phi.shape[1]) for phi in maps]
        except InputError as error:
            raise InputError(f"spaces: {self.name} have no scale ({error})") from None

    @torch.no_grad()
    def average(self, batches: Iterable[Tensor], generator: torch.Generator | None = None) -> None:
        """Keep the means of the data's maps, [1, C] each: all that a linear kernel sees of the data."""
        count, sums = 0, [torch.zeros(())] * len(self.scales)
        for events in batches:
            count += len(events)
            maps = self(events, generator=generator)
            sums = [total + phi.sum(0, keepdim=True) for total, phi in zip(sums, maps, strict=True)]
        self.means = [total / count for total in sums]


class Pixels(Space):
    """Events as they are."""

    name = "pixels"

    def maps(self, x: Tensor, drawn: Tensor) -> list[Tensor]:
        """Return the flat events."""
        return [flat(x)]


class Patches(Pixels):
    """A square of the images, at a place that is drawn every step, the same for all events: what is seen from near.

    Between whole images the nearest events are still far; between squares they are near, so that a drift tells textures apart.
    The square is divided by its scale sqrt(2) s, s the standard deviation of its entries, root mean square over them. What it
    asks of the events has `weight` as its root mean square over all pixels, where pixels ask 1; nothing, where nothing varies.

    Args:
        side: of the square, in pixels.
        weight: above 0.

    Raises:
        InputError: by `measure`, for events that are no images, or too small for the square.

    Example:
        >>> space = Patches(2)
        >>> space.measure(torch.randn(50, 3, 8, 8), torch.Generator().manual_seed(0))
        >>> [tuple(phi.shape) for phi in space(torch.zeros(5, 3, 8, 8))]
        [(5, 12)]
    """

    name = "patches"

    def __init__(self, side: int, weight: float = 1.0) -> None:
        super().__init__(by_batch=True)
        self.side, self.weight = _checks.count("side", side), _checks.positive("weight", weight)
        self.place, self.length = (0, 0), 0.0

    def maps(self, x: Tensor, drawn: Tensor) -> list[Tensor]:
        """Return the squares, flat."""
        i, j = self.place
        return [flat(x[..., i : i + self.side, j : j + self.side])]

    @torch.no_grad()
    def measure(self, events: Float[Tensor, "k c h w"], generator: torch.Generator | None = None) -> None:
        """Draw the place, and set scale and length there by a sample of the data."""
        _check_square("patches", self.side, events)
        device = device_of(generator)
        rows, columns = (
            int(torch.randint(size - self.side + 1, (), generator=generator, device=device))
            for size in events.shape[2:]
        )
        self.place = rows, columns
        deviation = float(self.maps(events, events)[0].var(0, correction=0).mean().sqrt())
        self.scales, self.length = [math.sqrt(2) * deviation or 1.0], self.weight if deviation else 0.0


class Texture(Pixels):
    """How strong the finest detail of images is, square by square: a drift in it keeps generated events from being smooth.

    phi_kp(x) = mean over the square p of sqrt((psi_k * x)^2 + 0.01^2), for the differences to the pixel on the right and below,
    and to the mean of 3 x 3 pixels around. Detail itself differs in sign from event to event, so that the mean of near events
    has less of it than they have; its strength does not. First-order scattering coefficients (Bruna and Mallat 2013), with
    differences in place of wavelets. Nothing is trained.

    Args:
        side: of the squares, in pixels; at the edges they may be smaller.
        weight: root mean square of what the space asks of the events, where pixels ask 1; above 0.

    Raises:
        InputError: by `measure`, for events that are no images, or too small for a square.

    Example:
        >>> space = Texture(4)
        >>> space.measure(torch.randn(50, 3, 8, 8))
        >>> [tuple(phi.shape) for phi in space(torch.zeros(5, 3, 8, 8))]
        [(5, 36)]
    """

    name = "texture"

    def __init__(self, side: int, weight: float = 1.0) -> None:
        super().__init__()
        self.side, self.length = _checks.count("side", side), _checks.positive("weight", weight)

    def maps(self, x: Tensor, drawn: Tensor) -> list[Tensor]:
        """Return the strengths, flat."""
        right = F.pad(x[..., 1:] - x[..., :-1], (0, 1))
        below = F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
        around = x - _around(x) / _around(torch.ones_like(x[:1]))
        strengths = [(detail.square() + _SMOOTH**2).sqrt() for detail in (right, below, around)]
        return [flat(torch.cat([F.avg_pool2d(strength, self.side, ceil_mode=True) for strength in strengths], 1))]

    @torch.no_grad()
    def measure(self, events: Float[Tensor, "k *event"], generator: torch.Generator | None = None) -> None:
        """Set the scale by a sample of the data."""
        _check_square("texture", self.side, events)
        super().measure(events, generator)


def _around(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Return sums over the 3 x 3 pixels around each, of those that there are; quicker than avg_pool2d."""
    padded = F.pad(x, (1, 1, 1, 1))
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    return rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]


def _check_square(name: str, side: int, events: Tensor) -> None:
    """Raise InputError unless events are images that hold a square."""
    shape = tuple(events.shape[1:])
    if len(shape) != 3 or side > min(shape[1:]):
        allowed = "must be for images" if len(shape) != 3 else f"must be at most {min(shape[1:])}"
        raise InputError(f"spaces.{name} = {side} with events {list(shape)}: {allowed}")


class NoisedFeatures(Space):
    """Features phi(x_t, t) of events that are noised to a level t, and the network's hidden states: those of a trained DMMD.

    Args:
        network: phi(x, t).
        schedule: of the noise.
        level: t in [0, 1].
        factor: from the units of the events to the network's.
        hidden: whether its hidden states are further maps.
        by_batch: as of `Space`.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        schedule: Schedule,
        level: float,
        *,
        factor: float = 1.0,
        hidden: bool = True,
        by_batch: bool = False,
    ) -> None:
        super().__init__(network, by_batch=by_batch)
        self.schedule, self.hidden = schedule, hidden
        self.level, self.factor = _checks.interval("level", level, 0.0, 1.0), _checks.positive("factor", factor)
        self.name = f"features at noise level {level:g}"

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the noise, shaped like x."""
        return normal_like(x, generator)

    def maps(self, x: Tensor, drawn: Tensor) -> list[Tensor]:
        """Return phi, and the hidden states."""
        t = x.new_full((len(x),), self.level)
        noised = self.schedule.add_noise(self.factor * x, drawn, t)
        network = self.module
        assert isinstance(network, FeatureNetwork)
        return network.activations(noised, t) if self.hidden else [network(noised, t)]


def dmmd_spaces(settings: SpacesSettings, event_shape: Sequence[int], data_scale: float = 1.0) -> list[Space]:
    """Return a space for every noise level of the trained DMMD that the settings name; none where they name none.

    Args:
        settings: the model and its levels.
        event_shape: of the data.
        data_scale: factor of the data while a generator is trained.

    Raises:
        InputError: for what is no DMMD, or one of other events.

    Example:
        >>> [space.name for space in dmmd_spaces(SpacesSettings(model="digits", levels=[0.1, 0.3]), (1, 8, 8))]
        ['features at noise level 0.1', 'features at noise level 0.3']
    """
    if settings.model is None:
        return []
    from mmdflow.methods import load_pipeline
    from mmdflow.methods.dmmd import DMMDPipeline

    pipeline = load_pipeline(settings.model)
    if not isinstance(pipeline, DMMDPipeline):
        raise InputError(f"spaces.model = {settings.model!r}: is a {type(pipeline).__name__}: must be a trained DMMD")
    if pipeline.event_shape != tuple(event_shape):
        raise InputError(
            f"spaces.model = {settings.model!r}: has events {list(pipeline.event_shape)}: must be {list(event_shape)}, the data's"
        )
    network, factor = pipeline.features, pipeline.data_scale / data_scale
    if settings.untrained:
        network = untrained(network)
    return [
        NoisedFeatures(network, pipeline.schedule, level, factor=factor, hidden=settings.hidden)
        for level in settings.levels
    ]


def untrained(network: FeatureNetwork, seed: int = 0) -> FeatureNetwork:
    """Return a network of the same shape with new weights: the control that tells what training has put into features.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> network = MLPFeatures((2,), 4, width=16)
        >>> untrained(network).config() == network.config()
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(network)(**network.config())
