"""The mean-shift drift, Laplace kernel, against the published batch form in plain torch, which holds all pairs.

Every method has a process of its own, for its memory. Seconds are those of the process, which other programs do not lengthen.
"""

from argparse import Namespace
from typing import Any

import fresh
import torch
from measure import Table, provenance, relative_error, spread
from torch import Tensor

from mmdflow import Drift, Laplace

METHODS = ("mean-shift, mmdflow", "mean-shift, torch", "batch form, torch", "two products, torch")
DIM, BANDWIDTH = 64, 4.0
#: Rows and columns of the blocks of the bare products.
BLOCK = 512, 1024
#: Particles and samples of full and small scale, and of the errors.
SIZES = {"full": (10_000, 50_000), "small": (500, 2500)}
CHECKED = (500, 2500)


def report(options: Namespace) -> dict[str, Any]:
    n, m = SIZES[options.scale]
    print(f"drift of {n} particles to {m} samples, d = {DIM}, {options.threads} thread(s)", flush=True)
    table = Table(method=20, s=8, ratio=8, MB=8, error=8)
    rows: dict[str, dict[str, float]] = {}
    for method in METHODS:
        row = fresh.run("drift", method, n, m, min(options.repeats, 3))
        first = rows.get(METHODS[0], row)
        rows[method] = row | {"ratio": row["seconds"] / first["seconds"]}
        if method != METHODS[3]:
            rows[method]["error"] = error(method)
        shown = rows[method]
        of_error = f"{shown['error']:.1e}" if "error" in shown else ""
        table.row(method, f"{shown['seconds']:.2f}", f"{shown['ratio']:.2f}", f"{shown['mb']:.0f}", of_error)
    return {**provenance(), "n": n, "m": m, "d": DIM, "bandwidth": BANDWIDTH, "checked": CHECKED, "methods": rows}


def clouds(n: int, m: int) -> tuple[Tensor, Tensor]:
    """Return particles around 0 and samples around 1/2."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, DIM, generator=generator)
    return x, torch.randn(m, DIM, generator=generator) + 0.5


def velocity(method: str, x: Tensor, y: Tensor) -> Tensor:
    """Return the velocity by a method."""
    if method == METHODS[0]:
        return Drift(y, Laplace(BANDWIDTH), normalization="mean-shift").velocity(x)
    return {METHODS[1]: mean_shift, METHODS[2]: batch_form, METHODS[3]: two_products}[method](x, y)


def mean_shift(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean-shift drift from two matrices of weights."""
    pull = torch.cdist(x, y).div_(-BANDWIDTH).softmax(1) @ y
    push = torch.cdist(x, x).div_(-BANDWIDTH)
    push.fill_diagonal_(-torch.inf)
    return pull - push.softmax(1) @ x


def batch_form(x: Tensor, y: Tensor) -> Tensor:
    """Return the batch form of Deng et al. (2026) without a floor, from one matrix over all pairs, in place where that can be."""
    logits = torch.cdist(x, torch.cat([x, y])).div_(-BANDWIDTH)
    logits.fill_diagonal_(-torch.inf)
    affinity = logits.log_softmax(1).add_(logits.log_softmax(0)).div_(2).exp_().nan_to_num_(0.0)
    del logits
    push, pull = affinity.split([len(x), len(y)], 1)
    of_push, of_pull = push.sum(1, keepdim=True), pull.sum(1, keepdim=True)
    return of_push * (pull @ y) - of_pull * (push @ x)


def two_products(x: Tensor, y: Tensor) -> Tensor:
    """Take the two matrix products over all pairs that any form by products has, and nothing else: no velocity."""
    total, joined, block = torch.zeros_like(x), torch.cat([x, y]), torch.empty(BLOCK)
    for points in joined.split(BLOCK[1]):
        for rows, of_rows in zip(x.split(BLOCK[0]), total.split(BLOCK[0]), strict=True):
            products = block.view(-1)[: len(rows) * len(points)].view(len(rows), len(points))
            torch.mm(rows, points.T, out=products)
            of_rows.addmm_(products, points)
    return total


def error(method: str) -> float:
    """Return the relative error in float32 against the same formula in float64, in plain torch, on smaller clouds."""
    x, y = clouds(*CHECKED)
    formula = METHODS[1] if method == METHODS[0] else method
    rows = spread(len(x), len(x))
    return relative_error(velocity(method, x, y)[rows], velocity(formula, x.double(), y.double())[rows])
