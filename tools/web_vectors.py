"""Write the numbers that the live page must agree with: tests/web/vectors.json, from the library in float64.

`python tools/web_vectors.py` writes them anew. tests/test_web.py says when they are stale.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdflow import MMD, DMMDPipeline, Drift, Gaussian, InverseMultiquadric, Kernel, Laplace, Riesz, flow
from mmdflow.divergences.base import spread_of
from mmdflow.features.base import LevelEmbedding
from mmdflow.flows import Record
from mmdflow.kernels.bandwidth import default_bandwidth

PATH = Path(__file__).parents[1] / "tests" / "web" / "vectors.json"
WIDTH = 0.4
KERNELS: dict[str, Kernel] = {
    "riesz": Riesz(),
    "gaussian": Gaussian(WIDTH),
    "laplace": Laplace(WIDTH),
    "imq": InverseMultiquadric(WIDTH),
}
DRIFTS = ("gaussian", "laplace")
STEPS, STEP, MOMENTUM = 5, 0.1, 0.8


def vectors() -> dict[str, Any]:
    """Return the inputs and what the library makes of them."""
    generator = torch.Generator().manual_seed(0)
    return {"particles": _particles(generator), "digits": _digits(generator)}


def _particles(generator: torch.Generator) -> dict[str, Any]:
    """Two clouds, points off them, and for every kernel F, the witness and its gradient, drifts and a few steps."""
    x, y, z = (torch.randn(n, 2, dtype=torch.float64, generator=generator) for n in (19, 26, 7))
    cases = []
    for name, kernel in KERNELS.items():
        divergence = MMD(y, kernel)
        witness = divergence.witness(x)
        step = kernel.usual_step(spread_of(y))
        assert step is not None
        case = {
            "kernel": name,
            "width": WIDTH,
            "value": divergence(x),
            "witness": witness(z),
            "gradient": witness.grad(z),
            "moved": flow(
                divergence, x, step_size=STEP, momentum=MOMENTUM, num_steps=STEPS, save_every=Record(evaluate=False)
            ).particles,
            "usual_step": list(step),
        }
        if name in DRIFTS:
            drift = Drift(y, kernel, normalization="mean-shift")
            case |= {"drift": drift.velocity(x), "drift_at": drift.velocity(x, z)}
        cases.append(case)
    return _plain(
        {
            "x": x,
            "y": y,
            "z": z,
            "step": STEP,
            "momentum": MOMENTUM,
            "steps": STEPS,
            "default_width": default_bandwidth(y),
            "spread": spread_of(y),
            "kernels": cases,
        }
    )


def _digits(generator: torch.Generator) -> dict[str, Any]:
    """Features of the shipped model and their pullback, and whole samples of a few particles."""
    pipe = in_float64(DMMDPipeline.from_pretrained("digits"))
    x = torch.randn(5, 64, dtype=torch.float64, generator=generator)
    cotangent = torch.randn(5, pipe.features.num_features, dtype=torch.float64, generator=generator)
    t = 0.37
    events = x.view(-1, *pipe.event_shape).requires_grad_()
    phi = pipe.features(events, t)
    (pulled,) = torch.autograd.grad(phi, events, cotangent)
    runs: list[dict[str, Any]] = [
        {},
        {"sampler": "approximate", "levels": 20},
        {"labels": [3, 7, 3, 0, 7], "guidance": 0.5, "levels": 20},
    ]
    for run in runs:
        settings = {name: run[name] for name in ("sampler", "guidance") if name in run}
        labels = torch.tensor(run["labels"]) if "labels" in run else None
        out = pipe(particles=events.detach(), labels=labels, num_levels=run.get("levels"), **settings)
        run["sample"] = out.particles.flatten(1)
    return _plain({"noise": x, "t": t, "cotangent": cotangent, "phi": phi, "pulled": pulled.flatten(1), "runs": runs})


def in_float64(pipe: DMMDPipeline) -> DMMDPipeline:
    """Return a pipeline whose weights, means and frequencies are float64."""
    assert pipe.target is not None
    kernel = deepcopy(pipe.kernel).double()
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        kernel.features.embedding = LevelEmbedding(32)  # its frequencies are made, not saved
    finally:
        torch.set_default_dtype(before)
    tensors = {name: value.double() for name, value in pipe.target.tensors().items()}
    return replace(pipe, kernel=kernel, target=type(pipe.target).from_tensors(tensors, pipe.schedule))


def _plain(value: Any) -> Any:
    """Return numbers of twelve digits, and lists of them, for JSON."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


if __name__ == "__main__":
    PATH.write_text(json.dumps(vectors()) + "\n")
    print(f"written: {PATH}")
