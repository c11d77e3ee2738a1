"""One computation on several processes (`torch.distributed`): the same numbers on any number of them.

* `ranks`: the processes, and the few ways in which they exchange tensors. Nothing else calls `torch.distributed`.
* `fields`: a divergence whose target, like the particles, lies in parts on the ranks; `grids` and `sliced` hold its quick sums.
* `networks`: a network that shares the rows of its batches out in training.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
