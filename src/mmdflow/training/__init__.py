"""Training around any module that returns a loss: Lightning, EMA, atomic checkpoints, exact resume.

* `settings`: the fields of the loop. It imports no torch.
* `batches`: which events a step sees.
* `module`: loss, optimiser and average as a Lightning module.
* `muon`: an optimiser of matrices.
* `callbacks`: checkpoints, a bar, pictures of samples.
* `run`: fits a module in a folder.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
