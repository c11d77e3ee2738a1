"""The loss of a training step with its parts: what the losses of methods return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow.errors import DivergedError


@dataclass(frozen=True)
class StepTerms:
    """The loss of a training step; a method's own terms extend it by their parts.

    Attributes:
        parts: names of the fields that are looked at, in this order, when the loss is not finite.
        total: the scalar to minimise.

    Example:
        >>> terms = StepTerms(torch.tensor(0.5))
        >>> terms.scalars()
        {'loss': 0.5}
        >>> StepTerms(torch.tensor(float("nan"))).check_finite()
        Traceback (most recent call last):
        mmdflow.errors.DivergedError: the loss became non-finite although every term is finite
    """

    parts: ClassVar[tuple[str, ...]] = ()
    total: Float[Tensor, ""]

    def scalars(self) -> dict[str, float]:
        """Return the numbers to log, by name."""
        return {"loss": float(self.total.detach())}

    def check_finite(self) -> None:
        """Raise `DivergedError` if the loss is not finite; name the first part that is not."""
        if bool(torch.isfinite(self.total)):
            return
        for name in self.parts:
            if not bool(torch.isfinite(getattr(self, name)).all()):
                raise DivergedError(self.message(name))
        raise DivergedError("the loss became non-finite although every term is finite")

    def message(self, part: str) -> str:
        """Return the line that names a part that is not finite."""
        return f"loss term {part} became non-finite"
