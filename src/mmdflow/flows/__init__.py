"""The flow: particles that move along a velocity field, and all that a step may do besides.

* `loop`: `flow` itself.
* `fitting`: `fit`, a network that is trained along a velocity field.
* `integrators`: how a step is taken.
* `constraints`: callbacks that keep particles in a set.
"""

from mmdflow.flows.fitting import FitResult, fit
from mmdflow.flows.loop import Callback, FieldOrSchedule, flow, jumps, reweighted

__all__ = ["Callback", "FieldOrSchedule", "FitResult", "fit", "flow", "jumps", "reweighted"]
