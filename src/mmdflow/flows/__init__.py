"""The flow: particles that move along a velocity field, and all that a step may do besides.

* `loop`: `flow` itself; `state`: what it has at hand; `record` and `snapshots`: what it records, and where.
* `fitting`: `fit`, a network that is trained along a velocity field.
* `integrators`: how a step is taken; `moves`: what happens besides, in or after a step.
* `callbacks` and `constraints`: functions that watch, stop or project the particles after each step.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
