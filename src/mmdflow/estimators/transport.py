"""Moving one sample onto another, and new points along the same flow."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from mmdflow import _arrays, _checks, ops
from mmdflow.divergences import Divergence, VelocityField
from mmdflow.errors import InputError
from mmdflow.flows import Adaptive, Integrator, Recording, flow
from mmdflow.flows.loop import usual_step
from mmdflow.kernels import Kernel
from mmdflow.recipe import DivergenceSpec
from mmdflow.recipe.divergences import DIVERGENCES, KERNELS, build_divergence

log = logging.getLogger(__name__)

_DTYPES = (np.float64, np.float32)
#: Points at least that a standard normal target has.
_NORMAL = 1000


class _Places:
    """Where each of some rows lies among them; equal rows are taken in turn."""

    def __init__(self, rows: np.ndarray[Any, np.dtype[Any]]) -> None:
        self.dtype = rows.dtype
        self._rows: dict[bytes, list[int]] = {}
        for i, row in enumerate(_keys(rows)):
            self._rows.setdefault(row, []).append(i)

    def exchanged(
        self, rows: np.ndarray[Any, np.dtype[Any]], values: np.ndarray[Any, np.dtype[Any]]
    ) -> tuple[np.ndarray[Any, np.dtype[Any]], np.ndarray[Any, np.dtype[Any]]]:
        """Return for rows that are known the values of the same place, and the numbers of the others."""
        out, new = np.empty(rows.shape, values.dtype), []
        seen: dict[bytes, int] = defaultdict(int)
        for i, row in enumerate(_keys(rows.astype(self.dtype, copy=False))):
            places = self._rows.get(row)
            if places is None:
                new.append(i)
            else:
                out[i] = values[places[min(seen[row], len(places) - 1)]]
                seen[row] += 1
        return out, np.array(new, int)


class MMDTransport(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Move the rows of X onto a target sample along the gradient flow of a divergence, and new rows along the same flow.

    `fit` runs the flow x <- x + eta v_t(x) and keeps its particles. `transform` gives a fitted row the place that it reached.
    A new row z follows the recorded velocities, momentum included: z <- z + eta v_t(z). It feels the fitted particles. New rows
    do not feel each other, so that each may come alone.

    Args:
        divergence: whose flow: "mmd", "sliced", "kale", "drmmd", "f-divergence", "sobolev" or "adaptive"; or a function that
            makes a velocity field of the target [m, d], a tensor, such as ``lambda y: Drift(y, Gaussian(1.0))``.
        kernel: a `Kernel`, or the name of one ("riesz", "gaussian", ...), whose bandwidth then follows the target. By default
            riesz for mmd and sliced, else gaussian.
        target: samples [m, d], if they do not come with `fit`; or "normal", draws from N(0, I), which makes a normaliser.
        num_steps: steps of the flow.
        step_size: eta; by default the one that suits the divergence (`usual_step`).
        momentum: in [0, 1); 0 by default, or the integrator's own. With momentum particles swing past each other, and new rows
            with them.
        integrator: the name of one of `mmdflow.flows`, or an object. "adaptive" is refused: its steps depend on all rows.
        tolerance: of every sum over pairs, relative. "auto" is 1e-4 where the kernel and the dimension have sums in O(n log n)
            and those are quicker, which a number demands of them (`mmdflow.ops.backend`); None sums exactly.
        random_state: seed of the normal target and of slices.

    Attributes:
        moved_: where the rows of X ended, [n, d].
        divergence_: the field that moved them.
        values_: F before and after, for a divergence that has F.
        sums_: what sums of `fit` were quick and which error was measured (`mmdflow.ops.fast.FastSums`); None with tolerance None.
            A log message at level INFO says so where some were.
        n_features_in_: d.

    Memory is that of num_steps copies of X (twice that for Heun's steps).

    Example:
        >>> import numpy as np
        >>> from mmdflow import MMDTransport
        >>> rng = np.random.default_rng(0)
        >>> source, target = rng.normal(size=(100, 2)), rng.normal(size=(200, 2)) + 3
        >>> transport = MMDTransport(num_steps=300).fit(source, target)
        >>> transport.transform(source).mean(0).round(0), transport.transform([[0.0, 0.0]]).round(0)
        (array([3., 3.]), array([[3., 3.]]))
    """

    def __init__(
        self,
        divergence: str | Callable[[torch.Tensor], VelocityField] = "mmd",
        kernel: str | Kernel | None = None,
        *,
        target: Any = "normal",
        num_steps: int = 200,
        step_size: float | None = None,
        momentum: float | None = None,
        integrator: str | Integrator = "euler",
        tolerance: float | str | None = "auto",
        random_state: Any = None,
    ) -> None:
        self.divergence = divergence
        self.kernel = kernel
        self.target = target
        self.num_steps = num_steps
        self.step_size = step_size
        self.momentum = momentum
        self.integrator = integrator
        self.tolerance = tolerance
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> MMDTransport:
        """Run the flow.

        Args:
            X: the rows to move, [n, d], an array or a data frame.
            y: the target, [m, d], with X's columns, where `target` is no array. Else it is left aside, as are vectors: labels
                that pipelines hand on.

        Raises:
            InputError: for a target of other columns, or impossible settings.
        """
        X = validate_data(self, X, dtype=_DTYPES, order="C")
        if isinstance(self.integrator, Adaptive) or self.integrator == "adaptive":
            raise InputError("integrator = 'adaptive': its steps depend on all rows; new rows could not follow alone")
        random = check_random_state(self.random_state)
        target = self._target(X, y, random)
        generator = torch.Generator().manual_seed(int(random.randint(2**31 - 1)))
        with ops.within(self.tolerance) as self.sums_:
            field = self._field(_arrays.tensor("target", target), generator)
            self._recording = Recording(field)
            self._step = self._settings(field)
            self.moved_ = flow(self._recording, X, **self._step).particles
            if isinstance(field, Divergence):
                self.values_ = np.array([float(field(X)), float(field(self.moved_))])
        self.divergence_ = field
        if self.sums_ is not None and self.sums_.quick:
            said = self.sums_.quick, self.sums_.error, self.sums_.exact
            log.info("sums: %d quick, largest error %.0e, %d exact; tolerance=None sums exactly", *said)
        self._places, self._ends = _Places(X), _Places(self.moved_)
        return self

    def transform(self, X: Any) -> Any:
        """Return where the rows of X go, [k, d]: fitted rows to where they ended, new ones along the recorded flow."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=_DTYPES, order="C", reset=False)
        moved, new = self._places.exchanged(X, self.moved_)
        if len(new):
            rows = np.ascontiguousarray(X[new], self.moved_.dtype)
            with ops.within(self.tolerance):
                moved[new] = flow(self._recording.replay(), rows, **self._step).particles
        return moved.astype(X.dtype, copy=False)

    def inverse_transform(self, X: Any) -> Any:
        """Return where rows came from, [k, d]: of `moved_` the fitted rows, of others what the recorded flow takes there.

        Each recorded step is undone by iteration, the last first (`Recording.rewind`). That needs steps that remember nothing:
        Euler without momentum, the default, or Heun. And the flow must be one to one where the rows lie: a smooth kernel, such
        as "gaussian", and a small step. A flow that has come to rest has drawn much together, and loses what told rows apart.

        Raises:
            InputError: for other integrators, or rows for which no start is found.

        Example:
            >>> import numpy as np
            >>> rng = np.random.default_rng(0)
            >>> source, target = rng.normal(size=(100, 2)), rng.normal(size=(200, 2)) + 3
            >>> transport = MMDTransport(kernel="gaussian", num_steps=40).fit(source, target)
            >>> new = np.array([[0.5, -0.5]])
            >>> bool(np.abs(transport.inverse_transform(transport.transform(new)) - new).max() < 1e-6)
            True
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=_DTYPES, order="C", reset=False)
        starts = np.asarray(self._recording.frozen[0].particles.cpu())
        found, new = self._ends.exchanged(X, starts)
        if len(new):
            if self._step["momentum"]:
                raise InputError(
                    f"momentum = {self._step['momentum']!r} with inverse_transform of new rows: must be 0; they do not know with "
                    f"which velocity they arrived"
                )
            steps = {name: self._step[name] for name in ("step_size", "num_steps", "integrator")}
            ends = torch.from_numpy(np.ascontiguousarray(X[new], self.moved_.dtype))
            rows, good = self._recording.rewind(ends, **steps)
            if not bool(good.all()):
                bad = int(new[int((~good).nonzero()[0])])
                raise InputError(
                    f"X: no start is found for {int((~good).sum())} of {len(X)} rows, row {bad} the first: the flow is not one "
                    f"to one there, or its steps are too large; a smooth kernel ('gaussian'), a smaller step_size or fewer steps "
                    f"help"
                )
            found[new] = rows.numpy()
        return found.astype(X.dtype, copy=False)

    def _target(self, X: Any, y: Any, random: np.random.RandomState) -> Any:
        if isinstance(self.target, str) and y is not None and np.asarray(y).ndim == 2:
            return self._like(X, y, "y")
        if isinstance(self.target, str):
            _checks.choice("target", self.target, ("normal",))
            return random.standard_normal((max(_NORMAL, len(X)), X.shape[1])).astype(X.dtype)
        return self._like(X, self.target, "target")

    def _like(self, X: Any, rows: Any, name: str) -> Any:
        """Return rows as an array with X's columns and dtype."""
        rows = check_array(rows, dtype=X.dtype, order="C", input_name=name)
        if rows.shape[1] != X.shape[1]:
            raise InputError(f"{name} has {rows.shape[1]} columns: must be {X.shape[1]}, as X has")
        return rows

    def _field(self, target: torch.Tensor, generator: torch.Generator) -> VelocityField:
        if not isinstance(self.divergence, str):
            if not callable(self.divergence) or self.kernel is not None:
                raise InputError(
                    f"divergence = {_checks.shown(self.divergence)}, kernel = {_checks.shown(self.kernel)}: must be a name, or a "
                    f"function of the target, which then comes without kernel"
                )
            return self.divergence(target)
        _checks.choice("divergence", self.divergence, DIVERGENCES)
        if isinstance(self.kernel, Kernel):
            field = build_divergence(DivergenceSpec(self.divergence), target, generator, kernel=self.kernel)[0]
        else:
            if self.kernel is not None:
                _checks.choice("kernel", self.kernel, KERNELS)
            field = build_divergence(DivergenceSpec(self.divergence, self.kernel), target, generator)[0]
        assert isinstance(field, VelocityField)  # a bandwidth that falls needs one to fall to
        return field

    def _settings(self, field: VelocityField) -> dict[str, Any]:
        """Return what the flow is called with."""
        size: Any = self.step_size
        momentum: Any = self.momentum
        if size is None:
            plain = momentum is None and self.integrator == "euler"
            size, momentum = usual_step(field, self.integrator, 0.0 if plain else momentum)
        steps = {"num_steps": _checks.count("num_steps", self.num_steps), "integrator": self.integrator}
        return {"step_size": size, "momentum": momentum, **steps}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _keys(rows: np.ndarray[Any, np.dtype[Any]]) -> list[bytes]:
    """Return the bytes of each row; those of 0 and -0 agree."""
    return [row.tobytes() for row in np.ascontiguousarray(rows + 0.0)]
