"""The generator: a network from noise to events, that may know a class and a guidance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.networks import check_event_map, generate

#: Generated events by which a start is measured.
_MEASURED = 256
#: Means are kept this far inside a bound, where tanh still has a slope.
_EDGE = 0.97


def class_shifts(
    count: int, event_shape: Sequence[int], generator: torch.Generator | None = None
) -> Float[Tensor, "C *event"]:
    """Return random m_c, [count, *event], so far apart that noise around one is not taken for another's: |m_c| is 8 or more.

    Example:
        >>> class_shifts(3, (1, 8, 8)).shape
        torch.Size([3, 1, 8, 8])
    """
    scale = max(1.0, 8 / math.sqrt(math.prod(event_shape)))
    return scale * torch.randn(count, *event_shape, generator=generator)


class Generator(nn.Module):
    """x = G(e), e ~ N(0, I) of an event's shape; of a class c it is G(e + m_c), with a learned m_c.

    Guidance alpha is given to the network as the noise level 1 - 1 / alpha, for which a generator has no other use: it is the
    share of the samples of all classes among what pushes its own off.

    Args:
        network: a feature network whose output is one event (squared-residual head, num_features = 1).
        bound: of the entries that are generated, through tanh; None for none.
        classes: m, [C, *event]; None for a generator that knows no class.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> generator = Generator(MLPFeatures((2,), num_features=1), bound=1.0)
        >>> generator(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, network: FeatureNetwork, bound: float | None = None, classes: Float[Tensor, "C *event"] | None = None
    ) -> None:
        super().__init__()
        self.network = check_event_map(network)
        self.bound = None if bound is None else _checks.positive("bound", bound)
        self.classes = None if classes is None else nn.Parameter(classes)

    def forward(
        self,
        noise: Float[Tensor, "n *event"],
        labels: Int[Tensor, " n"] | None = None,
        guidance: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n *event"]:
        """Return the events that the noise becomes; guidance is 1 by default."""
        if labels is not None:
            assert self.classes is not None
            noise = noise + self.classes[labels]
        return generate(self.network, noise, self.bound, None if guidance is None else 1 - 1 / guidance)


def start_at(
    generator: Generator,
    events: Float[Tensor, "k *event"],
    spread: float,
    draws: torch.Generator | None = None,
) -> None:
    """Let what is generated begin around the mean of events, with `spread` times their standard deviation about it.

    Args:
        generator: whose network is changed.
        events: of the data.
        spread: above 0.
        draws: of the noise that it is measured by.

    Raises:
        InputError: for a network without a bias for every entry.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> events = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) + 3
        >>> generator = Generator(MLPFeatures((2,), num_features=1, width=16))
        >>> start_at(generator, events, 0.01, torch.Generator().manual_seed(1))
        >>> generator(torch.randn(500, 2)).mean(0).sub(events.mean(0)).abs().max() < 0.01
        tensor(True)
    """
    bound, mean = generator.bound, events.mean(0)
    wanted = _checks.positive("spread", spread) * float((events - mean).square().mean().sqrt())
    noise = torch.randn(_MEASURED, *events.shape[1:], generator=draws, dtype=events.dtype)
    with torch.no_grad():
        if generator.classes is not None:
            noise = noise + generator.classes[torch.arange(_MEASURED) % len(generator.classes)]
        made = generate(generator.network, noise)
    outputs, centre = made - made.mean(0), mean
    if bound is not None:  # tanh of the mean is the mean where the spread is small
        centre = bound * (mean / bound).clamp(-_EDGE, _EDGE).atanh()
    low, high = -20.0, 20.0  # logarithms of the factor, which the spread grows with
    for _ in range(40):
        factor = math.exp((low + high) / 2)
        start = factor * outputs + centre
        start = start if bound is None else bound * (start / bound).tanh()
        found = float((start - start.mean(0)).square().mean().sqrt())
        low, high = ((low + high) / 2, high) if found < wanted else (low, (low + high) / 2)
    unit = 1.0 if bound is None else bound
    generator.network.rescale_outputs(factor / unit, (centre - factor * made.mean(0)) / unit)
