"""Runs: what the commands do, for Python.

* `read`: recipes by name or file, with fields changed.
* `train`: a recipe trained in a run folder, from its checkpoint on.
* `cache`: runs that are found again by their recipe.
* `particles`: particle flows by settings.
"""
