"""Pictures: grids of samples, scatter plots, animations of a flow, the figure of a report.

* `figures`: figures of matplotlib, and pictures of them.
* `pictures`: of samples, and their files; `animations`: of a flow, and what notebooks show.
* `reports`: the figure of a report, curves of a sampling run and of a training.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
