"""A sampling run whose walk and settings are given by name."""

from mmdflow.methods.dmmd import SamplerSettings, Walk, sample

OBJECTS = ("labels", "fixed", "recorder", "callback")


def walk_down(kernel, target, particles, *, levels, step_sizes, final_level=None, final_step_size=None, **settings):
    objects = {name: settings.pop(name) for name in OBJECTS if name in settings}
    walk = Walk(levels, step_sizes, final_level, final_step_size)
    return sample(kernel, target, particles, walk, SamplerSettings(**settings), **objects)
