#!/usr/bin/env bash
# A kernel researcher: a kernel of one's own, checked, flowed, compared and drawn. Two commands, no data.
#   bash examples/journeys/own_flow.sh
set -eu

cat > own_flow.py <<'END'
import numpy as np
from mmdflow import MMD, Kernel, Riesz, flow
from mmdflow.data import toy
from mmdflow.flows import Nesterov
from mmdflow.kernels import check_kernel
from mmdflow.metrics import mmd_test


class Cauchy(Kernel):
    """k(x, y) = 1 / (1 + |x - y|^2 / scale^2): all that is needed is the Gram matrix."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x, y):
        return 1 / (1 + (x[:, None] - y[None]).flatten(2).square().sum(2) / self.scale**2)


target, held_out = toy("moons", 400).double(), toy("moons", 400).double()
start = np.random.default_rng(0).normal(size=(300, 2)) * 0.1
check_kernel(Cauchy(0.5), target[:40])
for name, kernel, step_size in (("own kernel", Cauchy(0.5), 0.3), ("energy distance", Riesz(), 0.3)):
    result = flow(MMD(target, kernel), start, step_size=step_size, num_steps=300, integrator=Nesterov(0.9), save_every=10)
    print(name, result, "p =", mmd_test(result.particles, held_out)[1])
    result.plot(target).save(name.replace(" ", "_") + ".png")
END
python own_flow.py
