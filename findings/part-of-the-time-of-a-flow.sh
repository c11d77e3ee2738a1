#!/usr/bin/env bash
# Meta's flow_matching: the solvers on manifolds and of tokens, asked for a part of the time, solve another part, or all of it.
#
# All three solvers take a step_size and a time_grid: the process "is solved in the interval" between its ends. To start at 0.5
# (editing an image, a warm start), or to stop there and go on later, are ordinary uses.
#
# Natural guess: sample(x, step_size=h, time_grid=[0.5, 1]) makes steps of h from 0.5 to 1, as ODESolver does. In two parts, from
# 0 to 0.5 and from there to 1, the result is that of one run.
# What happens: RiemannianODESolver makes its steps from 0, as many as fit the length of the interval, and one step from there to
# the end: on [0.5, 1] with h = 0.05 nine from 0 to 0.45, and one of 0.55. So it goes all the way from 0 to 1, half of it in one
# step. On a grid from 1 to 0.5, where ODESolver goes back, it goes forwards. With step_size=None a grid from 0.5 on is right.
# MixtureDiscreteEulerSolver takes its last step for the one that ends at 1, whatever the grid: at 0.5 half of the tokens have to
# be masked still, and none is.
#
# Seen with flow_matching 1.0.10, torch 2.13.0 (CPU), torchdiffeq 0.2.5, numpy 2.3.5, scipy 1.16.3, tqdm 4.70.1. Exits 1 if this
# changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check -q 'flow_matching==1.0.10' 'torch==2.13.0' \
    'torchdiffeq==0.2.5' 'numpy==2.3.5' 'scipy==1.16.3' 'tqdm==4.70.1'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
from flow_matching.path import MixtureDiscreteProbPath
from flow_matching.path.scheduler import PolynomialConvexScheduler
from flow_matching.solver import MixtureDiscreteEulerSolver, ODESolver, RiemannianODESolver
from flow_matching.utils import ModelWrapper
from flow_matching.utils.manifolds import Euclidean, FlatTorus


class Cubic(ModelWrapper):
    """dx/dt = 3 t^2: the way from s to t is t^3 - s^3."""

    def forward(self, x, t):
        return 3 * t**2 * torch.ones_like(x)


model, x, checks = Cubic(None), torch.full((1, 1), 0.5, dtype=torch.float64), []
solvers = {"ODESolver": ODESolver(model)}
solvers |= {f"Riemannian, {type(m).__name__}": RiemannianODESolver(m, model) for m in (Euclidean(), FlatTorus())}


def way(solver, grid, step):
    times = torch.tensor(grid, dtype=torch.float64)
    return (solver.sample(x, step_size=step, method="midpoint", time_grid=times) - x).item()


print("Way along dx/dt = 3 t^2, steps of 0.05 by the midpoint rule, and by a grid that has them all")
for grid in ([0, 1], [0, 0.5], [0.5, 1], [0.5, 0.75, 1], [1, 0.5]):
    exact, length = grid[-1] ** 3 - grid[0] ** 3, abs(grid[-1] - grid[0])
    dense = torch.linspace(grid[0], grid[-1], round(20 * length) + 1, dtype=torch.float64).tolist()
    ways = {name: (way(solver, grid, 0.05), way(solver, dense, None)) for name, solver in solvers.items()}
    print(f"  {grid!s:<14} exact {exact:>7.4f}; " + "; ".join(f"{name} {a:.4f}, {b:.4f}" for name, (a, b) in ways.items()))
    for name, (by_step, by_grid) in ways.items():
        right = name == "ODESolver" or grid[0] == 0
        checks += [abs(by_step - exact) < 0.002 if right else abs(by_step - exact) > 0.05]
        if grid[0] < 1:
            checks.append(abs(by_grid - exact) < 0.002)

MASK = 4


class Posterior(ModelWrapper):
    """Four tokens, equally frequent; what is unmasked stays."""

    def forward(self, x, t):
        known = torch.nn.functional.one_hot(x, MASK + 1).double()
        return torch.where((x == MASK)[..., None], torch.tensor([0.25] * MASK + [0]).double(), known)


path = MixtureDiscreteProbPath(scheduler=PolynomialConvexScheduler(n=1.0))
tokens = MixtureDiscreteEulerSolver(Posterior(None), path, MASK + 1)
torch.manual_seed(0)
masked = torch.full((4000, 1), MASK)
print("Share of tokens that are masked still: exact 1 - t; by steps of 0.01; by a grid that has them all; just before the end")
for end in (0.25, 0.5, 0.75):
    dense = torch.linspace(0, end, round(100 * end) + 1)
    shares = [(tokens.sample(masked, step_size=0.01, time_grid=torch.tensor([0, end])) == MASK).double().mean().item()]
    states = tokens.sample(masked, step_size=None, time_grid=dense, return_intermediates=True)
    shares += [(states[k] == MASK).double().mean().item() for k in (-1, -2)]
    print(f"  t = {end}: {1 - end:.3f}; {shares[0]:.3f}; {shares[1]:.3f}; {shares[2]:.3f}")
    checks += [shares[0] < 0.02, shares[1] < 0.02, abs(shares[2] - (1 - end)) < 0.05]
sys.exit(0 if all(checks) else 1)
PY
