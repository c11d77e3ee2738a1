"""How a flow takes a step along minus the gradient: objects, which may also be chosen by name."""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from mmdflow import _checks
from mmdflow.errors import DivergedError, InputError
from mmdflow.types import ScalarOrSchedule

#: x -> grad f(x), with the noise of this step; each call is one evaluation (NFE).
Gradient: TypeAlias = Callable[[Tensor], Tensor]

#: Name -> integrator. Every class that has a name enters itself.
_NAMED: dict[str, type[Integrator]] = {}


def moved(x: Tensor, gradient: Tensor, step_size: float) -> Tensor:
    """Return x - step_size * gradient: in float64 where the step size is beyond the type of x, as in units of 1e-24."""
    limits = torch.finfo(x.dtype)
    if step_size == 0 or limits.tiny <= abs(step_size) <= limits.max:
        return x - step_size * gradient
    return (x.double() - step_size * gradient.double()).to(x)


class Integrator(ABC):
    """A rule for one step. One's own is a subclass with `step`.

    `flow` works on a copy of the object, so that one object serves any number of flows. The copy is shallow: keep what a step
    leaves for the next one in attributes that `step` sets anew.

    Attributes:
        name: the short form: `flow(integrator=name)`. A class that has one can be chosen by it as soon as it is defined, also in
            recipes and on the command line.
        takes_momentum: whether the constructor's first argument is a momentum, which `flow(momentum=...)` sets. Its default is
            the one that `mmdflow flow` takes.
        obeys_step_size: whether a step of size eta covers the flow time eta (up to momentum's 1 / (1 - momentum)). Samplers that
            walk down noise levels need that. Adam and Adaptive choose their own.
        by_particle: whether it moves a particle by its own gradients alone, as integrators of sharded flows must.
        per_particle: names of attributes that hold one row a particle, or None; they follow birth-death jumps.

    Example:
        >>> import torch
        >>> from mmdflow import MMD, Gaussian, flow
        >>> class Midpoint(Integrator):
        ...     def step(self, gradient, x, step_size, k):
        ...         return x - step_size * gradient(x - step_size / 2 * gradient(x)), step_size
        >>> result = flow(MMD(torch.zeros(4, 1), Gaussian(1.0)), torch.ones(3, 1), step_size=0.5, num_steps=10,
        ...               integrator=Midpoint())
        >>> result.nfe
        20
    """

    name: ClassVar[str] = ""
    takes_momentum: ClassVar[bool] = False
    obeys_step_size: ClassVar[bool] = True
    by_particle: ClassVar[bool] = True
    per_particle: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Enter a class that has a name of its own."""
        super().__init_subclass__()
        name = cls.__dict__.get("name", "")
        if not name:
            return
        before = _NAMED.get(name)
        if before is not None and (before.__module__, before.__qualname__) != (cls.__module__, cls.__qualname__):
            raise InputError(
                f"name = {name!r} of {cls.__qualname__}: is the name of {before.__module__}.{before.__qualname__}"
            )
        _NAMED[name] = cls

    @abstractmethod
    def step(self, gradient: Gradient, x: Tensor, step_size: float, k: int) -> tuple[Tensor, float]:
        """Return the particles after step k = 0, 1, ..., and the flow time that passed."""

    @classmethod
    def usual_momentum(cls) -> float:
        """Return the momentum of an object that is given none; 0 where the class has none."""
        if not cls.takes_momentum:
            return 0.0
        default = next(iter(inspect.signature(cls).parameters.values())).default
        return 0.0 if callable(default) else float(default)  # Parameter.empty is callable, too

    def select(self, index: Tensor) -> None:
        """Follow a birth-death step in which particle i was replaced by particle index[i]."""
        for name in self.per_particle:
            rows = getattr(self, name)
            if rows is not None:
                setattr(self, name, rows[index])

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Euler(Integrator):
    """v <- grad f(x) + momentum v, x <- x - eta v (heavy ball; Hertrich et al. 2024 for MMD flows).

    Args:
        momentum: in [0, 1), a number or a function of the step. It multiplies the effective step size by 1 / (1 - momentum).
    """

    name = "euler"
    takes_momentum = True
    per_particle = ("previous",)
    previous: Tensor | None = None

    def __init__(self, momentum: ScalarOrSchedule = 0.0) -> None:
        self.momentum = momentum
        self.momentum_at = _momentum_schedule("momentum", momentum)

    def step(self, gradient: Gradient, x: Tensor, step_size: float, k: int) -> tuple[Tensor, float]:
        """Return the particles after one step, and its size; one evaluation."""
        momentum = self.momentum_at(k)
        return self._with_momentum(gradient(x), momentum, x, step_size)

    def _with_momentum(self, v: Tensor, momentum: float, x: Tensor, step_size: float) -> tuple[Tensor, float]:
        v = v if self.previous is None else v + momentum * self.previous
        self.previous = v
        return moved(x, v, step_size), step_size

    def __repr__(self) -> str:
        return f"{type(self).__name__}(momentum={self.momentum!r})"


class Nesterov(Euler):
    """The gradient is taken where momentum alone would carry the particles: v <- grad f(x - eta momentum v) + momentum v.

    Args:
        momentum: in (0, 1), or a function of the step.
    """

    name = "nesterov"

    def __init__(self, momentum: ScalarOrSchedule = 0.9) -> None:
        super().__init__(momentum)
        if not callable(momentum) and momentum == 0:
            raise InputError("momentum = 0 with integrator = 'nesterov': must be in (0, 1), or a function of the step")

    def step(self, gradient: Gradient, x: Tensor, step_size: float, k: int) -> tuple[Tensor, float]:
        """Return the particles after one step, and its size; one evaluation."""
        momentum = self.momentum_at(k)
        ahead = x if self.previous is None else moved(x, momentum * self.previous, step_size)
        return self._with_momentum(gradient(ahead), momentum, x, step_size)


class Heun(Integrator):
    """The mean of the gradients before and after an Euler step: second order, two evaluations."""

    name = "heun"

    def step(self, gradient: Gradient, x: Tensor, step_size: float, k: int) -> tuple[Tensor, float]:
        """Return the particles after one step, and its size; two evaluations."""
        first = gradient(x)
        return moved(x, first + gradient(moved(x, first, step_size)), step_size / 2), step_size


class AdamsBashforth(Integrator):
    """The second order of Adams and Bashforth, for one evaluation a step.

    The gradient is carried on in a straight line from that of the step before: x <- x - eta (g + r/2 (g - g')), with g' the
    gradient of the step before and r the step size over the one before. The first step is Euler's.
    """

    name = "adams_bashforth"
    per_particle = ("previous",)
    previous: Tensor | None = None
    previous_size = 0.0

    def step(self, gradient: Gradient, x: Tensor, step_size: float, k: int) -> tuple[Tensor, float]:
        """Return the particles after one step, and its size; one evaluation."""
        g = ahead = gradient(x)
        if self.previous is not None and self.previous_size > 0:
            ahead = g + step_size / (2 * self.previous_size) * (g - self.previous)
        self.previous, self.previous_size = g, step_size
        return moved(x, ahead, step_size), step_size


class Adam(Integrator):
    """Adam (Kingma and Ba 2015) entry by entry, with bias correction.

    Args:
        beta: beta_1, the momentum: in [0, 1), a number or a function of the step. beta_2 is 0.999.
    """

    name = "adam"
    takes_momentum = True
    obeys_step_size = False
    per_particle = ("first", "second")
    first: Tensor | None = None
    second: Tensor | None = None
    count = 0
    decay, epsilon = 0.999, 1e-8
    #: The product of the betas so far: what is left of the zero that the first moment began with.
    remainder = 1.0

    def __init__(self, beta: ScalarOrSchedule = 0.9) -> None:
        self.beta = beta
        self.beta_at = _momentum_schedule("beta", beta)

    def step(self, gradient: Gradient, x: Tensor, step_size: float, k: int) -> tuple[Tensor, float]:
        """Return the particles after one step, and its size; one evaluation."""
        g, beta = gradient(x), self.beta_at(k)
        self.first = torch.zeros_like(g) if self.first is None else self.first
        self.second = torch.zeros_like(g) if self.second is None else self.second
        self.first = beta * self.first + (1 - beta) * g
        self.second = self.decay * self.second + (1 - self.decay) * g.square()
        self.count += 1
        self.remainder *= beta
        scale = (self.second / (1 - self.decay**self.count)).sqrt() + self.epsilon
        return moved(x, self.first / (1 - self.remainder) / scale, step_size), step_size

    def __repr__(self) -> str:
        return f"Adam(beta={self.beta!r})"


class Adaptive(Integrator):
    """Heun's steps, as long as their difference from Euler's allows.

    The step size of the flow is that of the first step. A step whose error exceeds the tolerance is made again, shorter. The
    gradient must be the same when it is evaluated again: use `SlicedMMD` with redraw=False.

    Args:
        tolerance: root mean square error of a step at most, in the particles' units.
    """

    name = "adaptive"
    obeys_step_size = False
    by_particle = False
    size: float | None = None

    def __init__(self, tolerance: float = 1e-3) -> None:
        self.tolerance = _checks.positive("tolerance", tolerance)

    def step(self, gradient: Gradient, x: Tensor, step_size: float, k: int) -> tuple[Tensor, float]:
        """Return the particles after one step, and the size that it took; at least two evaluations.

        Raises:
            DivergedError: when no step is short enough.
        """
        size = _checks.positive("step_size", step_size) if self.size is None else self.size
        first = gradient(x)
        for _ in range(50):
            change = (gradient(moved(x, first, size)) - first) / 2
            error = size * float(change.square().mean().sqrt()) / self.tolerance
            factor = 0.9 / math.sqrt(error) if error > 0 else 5.0
            taken, size = size, size * (min(5.0, max(0.2, factor)) if math.isfinite(error) else 0.2)
            if error <= 1:
                self.size = size
                return moved(x, first + change, taken), taken
        raise DivergedError(
            f"the adaptive step size fell to {size:.1e} at an error of {error:.1e} tolerances: raise tolerance "
            f"({self.tolerance:g}), or make the gradient repeatable (SlicedMMD with redraw=False)"
        )

    def __repr__(self) -> str:
        return f"Adaptive(tolerance={self.tolerance!r})"


class Rest(Integrator):
    """The particles stay where they are while time passes: for flows of the weights alone, by `Reweighting`.

    Example:
        >>> from mmdflow import MMD, Gaussian, flow
        >>> from mmdflow.flows import Reweighting
        >>> result = flow(MMD([[0.0], [1.0], [1.0]], Gaussian(0.1)), [[0.0], [1.0]], step_size=1.0, num_steps=100,
        ...               integrator=Rest(), moves=Reweighting(1.0))
        >>> result.particles.tolist(), result.weights.round(2)
        ([[0.0], [1.0]], array([0.33, 0.67]))
    """

    name = "rest"

    def step(self, gradient: Gradient, x: Tensor, step_size: float, k: int) -> tuple[Tensor, float]:
        """Return the particles as they are, and the size of the step; no evaluation."""
        return x, step_size


def named_integrators() -> dict[str, type[Integrator]]:
    """Return the integrators that can be chosen by name: the library's, and those of every module that is imported."""
    return dict(_NAMED)


def make_integrator(integrator: str | Integrator, momentum: ScalarOrSchedule = 0.0) -> Integrator:
    """Return an integrator that has made no step: a copy of an object, or the one that a name and a momentum stand for.

    Raises:
        InputError: for an unknown name, or a momentum that the integrator does not take.
    """
    has_momentum = callable(momentum) or momentum != 0
    if isinstance(integrator, Integrator):
        if has_momentum:
            raise InputError(
                f"momentum = {momentum!r} with integrator = {integrator!r}: give it to the object, or a name"
            )
        return copy.copy(integrator)
    if not isinstance(integrator, str):
        raise InputError(f"integrator = {integrator!r}: must be an Integrator, such as Heun(), or the name of one")
    kind: Callable[..., Integrator] = _NAMED[_checks.choice("integrator", integrator, _NAMED)]
    if _NAMED[integrator].takes_momentum:
        _momentum_schedule("momentum", momentum)
        return kind(momentum)
    if has_momentum:
        takers = ", ".join(name for name, named in _NAMED.items() if named.takes_momentum)
        raise InputError(f"momentum = {momentum!r} with integrator = {integrator!r}: only {takers} have momentum")
    return kind()


def _momentum_schedule(field: str, momentum: ScalarOrSchedule) -> Callable[[int], float]:
    return _checks.schedule(field, momentum, lambda name, value: _checks.interval(name, value, 0.0, 1.0, "[)"))
