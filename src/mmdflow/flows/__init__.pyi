from . import callbacks as callbacks, constraints as constraints, integrators as integrators, moves as moves
from .callbacks import Callback as Callback
from .fitting import FitResult as FitResult, fit as fit
from .integrators import (
    Adam as Adam,
    AdamsBashforth as AdamsBashforth,
    Adaptive as Adaptive,
    Euler as Euler,
    Heun as Heun,
    Integrator as Integrator,
    Nesterov as Nesterov,
    Rest as Rest,
    named_integrators as named_integrators,
)
from .loop import FieldOrSchedule as FieldOrSchedule, flow as flow
from .moves import (
    BirthDeath as BirthDeath,
    DescentNoise as DescentNoise,
    Diffusion as Diffusion,
    Move as Move,
    NoiseInjection as NoiseInjection,
    Reweighting as Reweighting,
    jumps as jumps,
    reweighted as reweighted,
)
from .record import Record as Record
from .replay import Recording as Recording, Replay as Replay
from .snapshots import Snapshots as Snapshots
from .state import FlowState as FlowState
