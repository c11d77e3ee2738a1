"""Base kernels on features as plain settings, for a pipeline's config and for recipes."""

from __future__ import annotations

from typing import Any

from mmdflow import _checks
from mmdflow.errors import InputError
from mmdflow.kernels.base import Kernel, Mixture
from mmdflow.kernels.exponentials import Gaussian
from mmdflow.kernels.powers import RationalQuadratic
from mmdflow.kernels.products import Linear

#: Names of base kernels that are made of numbers alone; a "mixture" has `members`, settings like these, and `weights`.
BASES = ("linear", "gaussian", "rational-quadratic")


def base_config(kernel: Kernel) -> dict[str, Any]:
    """Return the settings of a base kernel, in plain types.

    Raises:
        InputError: for a kernel that has none.

    Example:
        >>> from mmdflow import Gaussian
        >>> base_config(Gaussian(2.0))
        {'name': 'gaussian', 'bandwidth': 2.0}
    """
    if isinstance(kernel, Linear):
        return {"name": "linear"}
    if isinstance(kernel, Gaussian) and not kernel.normalized:
        return {"name": "gaussian", "bandwidth": float(kernel.bandwidth)}
    if isinstance(kernel, RationalQuadratic):
        return {"name": "rational-quadratic", "alpha": float(kernel.alpha), "scale": float(kernel.scale)}
    if isinstance(kernel, Mixture):
        members = [base_config(member) for member in kernel.members()]
        return {"name": "mixture", "members": members, "weights": list(kernel.weights)}
    raise InputError(
        f"base kernel = {type(kernel).__name__}: cannot be stored; must be Linear, Gaussian, RationalQuadratic or a Mixture"
    )


def base_kernel(config: dict[str, Any]) -> Kernel:
    """Return the base kernel of settings as `base_config` makes them."""
    settings = dict(config)
    name = _checks.choice("base.name", settings.pop("name"), (*BASES, "mixture"))
    if name == "mixture":
        return Mixture([base_kernel(member) for member in settings["members"]], settings["weights"])
    kinds: dict[str, type[Kernel]] = {"linear": Linear, "gaussian": Gaussian, "rational-quadratic": RationalQuadratic}
    return kinds[name](**settings)
