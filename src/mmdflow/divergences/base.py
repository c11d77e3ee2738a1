"""What moves particles: a velocity field, and the divergences, whose velocity is minus the gradient of their witness."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _arrays, _checks
from mmdflow._precision import decorate, full_precision, leaves_range, precise, widened
from mmdflow.divergences.witness import ValueWitness, Witness
from mmdflow.errors import InputError
from mmdflow.kernels import Kernel
from mmdflow.types import ArrayLike, Particles, Points, Step, Weights

#: Methods that compute inside autocast as outside, whatever class defines them.
METHODS = frozenset({"__init__", "forward", "witness", "velocity", "solve", "at"})
#: Those that take particles of any kind of array.
TAKING_ARRAYS = frozenset({"witness", "velocity", "solve", "at"})
#: Their parameters that are arrays, and what messages call them.
_ARRAYS = {"x": "particles", "at": "points", "weights": "weights"}
_Method = TypeVar("_Method", bound=Callable[..., Any])


def takes_arrays(method: _Method) -> _Method:
    """Let a method of a field take particles, points and weights of any kind, and return its tensors in their kind.

    What is no tensor is taken as the field's `check` makes it: in the target's dtype, on its device.
    """
    names = list(inspect.signature(method).parameters)[1:]

    @functools.wraps(method)
    def taken(self: Any, *args: Any, **named: Any) -> Any:
        if not any(map(_arrays.foreign, args)) and not any(map(_arrays.foreign, named.values())):
            return method(self, *args, **named)
        given = {**dict(zip(names, args, strict=False)), **named}
        arrays = {name: value for name, value in given.items() if name in _ARRAYS and value is not None}
        made = {name: self.check(value, _ARRAYS[name]) for name, value in arrays.items() if name != "weights"}
        if "weights" in arrays:
            weights = _arrays.tensor("weights", arrays["weights"])
            made["weights"] = weights.to(made["x"]) if "x" in made else weights
        return _arrays.result_as(_arrays.back(*arrays.values()), method(self, **{**given, **made}))

    return cast(_Method, taken)


@runtime_checkable
class VelocityField(Protocol):
    """A velocity at every point, given where all particles are: all that `flow` needs.

    Every `Divergence` is one. One's own is a class with `velocity`; it needs no F and no witness.

    Example:
        >>> import torch
        >>> from mmdflow import VelocityField, flow
        >>> class ToTheMean:
        ...     def velocity(self, x, at=None, weights=None):
        ...         return x.mean(0) - (x if at is None else at)
        >>> isinstance(ToTheMean(), VelocityField)
        True
        >>> flow(ToTheMean(), torch.tensor([[0.0], [4.0]]), step_size=0.5, num_steps=1).particles
        tensor([[1.],
                [3.]])
    """

    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return the velocity at `at` (default: at x) of particles x with these weights (default: 1/n each)."""
        ...


class Divergence(nn.Module):
    """F(nu) = D(nu, mu) of particles nu to a target mu, which is given to the constructor and precomputed there.

    Particles may carry weights w >= 0 with sum 1 (1/n each by default). The laws that every divergence obeys and is tested
    against, with the witness f = first variation of F at the particles: dF/dx_i = w_i grad f(x_i), and dF/dw_i = f(x_i) up to
    a constant.

    One's own divergence is a subclass with `forward`, whose F depends on the particles and on their weights. The witness and the
    velocity then come by automatic differentiation. A subclass that knows them in closed form gives `witness`, too.

    Particles, points and weights may be arrays of any kind, and velocities, F and f are then of their kind.

    Inside `torch.autocast` a divergence computes as outside, the networks of its kernel included. Particles and targets in half
    precision are summed in float32; F, f and velocities are then rounded once.

    Example:
        >>> import torch
        >>> from mmdflow import Divergence, flow
        >>> class SecondMoment(Divergence):
        ...     def forward(self, x, weights=None):
        ...         return uniform(x, weights) @ x.square().flatten(1).sum(1) / 2
        >>> flow(SecondMoment(), torch.tensor([[1.0], [-2.0]]), step_size=0.5, num_steps=1).particles
        tensor([[ 0.5000],
                [-1.0000]])
    """

    #: The shape of an event of the target, or None where any shape will do.
    event_shape: tuple[int, ...] | None = None

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        decorate(cls, METHODS, full_precision)
        decorate(cls, TAKING_ARRAYS, takes_arrays)

    def __call__(self, x: Float[Tensor, "n *event"] | ArrayLike, *rest: Any, **named: Any) -> Any:
        """Return F as `forward` does, of particles of any kind and dtype, as a number of their kind.

        Example:
            >>> from mmdflow import MMD
            >>> MMD([[0.0]])([[3.0]])
            np.float64(3.0)
        """
        dtype, others = dtype_of(self), [*rest, *named.values()]
        if isinstance(x, Tensor) and dtype in (None, x.dtype) and not any(map(_arrays.foreign, others)):
            return super().__call__(x, *rest, **named)
        give_back, wide = _arrays.back(x, *filter(_arrays.foreign, others)), _arrays.tensor("particles", x)
        made = self.check(x if _arrays.foreign(x) else wide)
        given = {name: _placed(name, value, made) for name, value in named.items()}
        value = super().__call__(made, *(_placed("weights", value, made) for value in rest), **given)
        return give_back(value.to(torch.promote_types(value.dtype, wide.dtype)))

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return F at the particles x (V-statistic), differentiable in x and in the weights."""
        raise InputError(
            f"{type(self).__name__} has no F: it needs forward(x, weights), or is no Divergence but a VelocityField"
        )

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Witness:
        """Return the first variation f of F at the particles x; from `forward`, unless a subclass gives it."""
        return ValueWitness(self, x, weights)

    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return -grad f, with f frozen at the particles x, evaluated at `at` (default: at x)."""
        witness = self.witness(x, weights)
        if at is None and isinstance(witness, ValueWitness):
            return -witness.grad_at_particles()
        return -witness.grad(x if at is None else at)

    def usual_step(self) -> Step | None:
        """Return the step that `flow` takes where none is given; None where no rule is known."""
        return None

    def check(self, x: Float[Tensor, "n *event"] | ArrayLike, field: str = "particles") -> Tensor:
        """Return x in the target's dtype if it is finite, floating, of its event shape and device; else raise InputError."""
        made = _checks.points(field, x, self.event_shape)
        buffers = dict(self.named_buffers(recurse=False))
        for target in [buffers["given"]] if "given" in buffers else buffers.values():
            made = _checks.alike(field, made if isinstance(x, Tensor) else made.to(target.device), target)
        return made

    def _apply(self, fn: Any, recurse: bool = True) -> Divergence:
        """Convert it, as `nn.Module` does; in half precision the target alone, not the sums."""
        sums = {name: buffer for name, buffer in self._buffers.items() if name not in ("given", "target")}
        super()._apply(fn, recurse)
        for name, before in sums.items() if "given" in self._buffers else ():
            after = self._buffers[name]
            if before is not None and after is not None and after.dtype != widened(after).dtype:
                self._buffers[name] = before.to(after.device)
        return self

    def _remember(self, target: Tensor) -> None:
        """Keep the dtype and the device that particles must have, where sums are kept in another dtype."""
        self.register_buffer("given", target.new_empty(0), persistent=False)


decorate(Divergence, METHODS - {"__init__"}, full_precision)
decorate(Divergence, TAKING_ARRAYS, takes_arrays)


def _placed(name: str, value: Any, like: Tensor) -> Any:
    """Return an array as a tensor like another; what is none as it is."""
    return _arrays.tensor(name, value).to(like) if _arrays.foreign(value) else value


def dtype_of(field: object) -> torch.dtype | None:
    """Return the dtype of a field's target, or its own `dtype`, in which it is evaluated; None where it has neither."""
    own, given = getattr(field, "dtype", None), getattr(field, "given", None)
    if isinstance(own, torch.dtype):
        return own
    if isinstance(given, Tensor):
        return given.dtype
    held = field.buffers(recurse=False) if isinstance(field, nn.Module) else [getattr(field, "target", None)]
    return next((t.dtype for t in held if isinstance(t, Tensor) and t.is_floating_point()), None)


def spread_of(target: Float[Tensor, "m *event"]) -> float:
    """Return the root mean square of the entries about their means; 1 where all points are equal."""
    target = precise(target) if leaves_range(target) else widened(target)
    return float((target - target.mean(0)).square().mean().sqrt()) or 1.0


def check_particles(field: VelocityField, x: Tensor | ArrayLike, name: str = "particles") -> Tensor:
    """Return x as the field takes it, if it is finite: by the field's own `check`, where it has one; else raise InputError."""
    check: Callable[[Tensor | ArrayLike, str], Tensor] | None = getattr(field, "check", None)
    return _checks.points(name, x) if check is None else check(x, name)


def uniform(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the weights, 1/n each by default, [n]."""
    if weights is None:
        return x.new_full((len(x),), 1 / len(x))
    if tuple(weights.shape) != (len(x),):
        raise InputError(f"weights has shape {list(weights.shape)}: must be [{len(x)}], one weight a particle")
    return weights


def check_solvable(target: Tensor) -> Tensor:
    """Return the target if linear systems can be solved in its dtype; else raise InputError."""
    if target.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"target has dtype {target.dtype}: must be torch.float32 or torch.float64, for the systems to solve"
        )
    return target


def require_kernel(kernel: object, *, positive: bool = False, smooth: bool = False) -> Kernel:
    """Return the kernel if it is one, and has the properties that a divergence needs; else raise InputError."""
    if isinstance(kernel, type) and issubclass(kernel, Kernel):
        raise InputError(
            f"kernel = {kernel.__name__}, the class: must be an object of it, such as {kernel.__name__}(...)"
        )
    if not isinstance(kernel, Kernel):
        raise InputError(f"kernel = {_checks.shown(kernel)}: must be a Kernel, such as Gaussian(1.0)")
    if positive and not kernel.positive:
        raise InputError(f"kernel = {type(kernel).__name__}: must be positive definite; Riesz and what holds it is not")
    if smooth and not kernel.smooth:
        raise InputError(
            f"kernel = {type(kernel).__name__}: must have a mixed second derivative at coinciding points; Laplace, Matern 1/2 "
            f"and Riesz have none (take Gaussian, Matern 3/2 or 5/2, InverseMultiquadric, ...)"
        )
    return kernel
