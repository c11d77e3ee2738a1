"""Projections by fast Walsh-Hadamard transforms against whole matrices."""

import pytest
import torch

from mmdflow.divergences.directions import hadamard
from mmdflow.ops.numba_hadamard import back, project


def some_signs(dim: int, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    size = 1 << (dim - 1).bit_length()
    signs = 1.0 - 2.0 * torch.randint(2, (-(-count // size), 2, size), generator=generator).double()
    return signs, torch.rand(count, dtype=torch.float64, generator=generator)


def rows(signs: torch.Tensor, scales: torch.Tensor, dim: int) -> torch.Tensor:
    """The rows that signs and scales stand for, by whole matrices."""
    matrix = hadamard(torch.eye(signs.shape[2], dtype=torch.float64))
    blocks = [matrix @ torch.diag(t) @ matrix @ torch.diag(s) for s, t in signs]
    return torch.cat(blocks)[: len(scales), :dim] * scales[:, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n", "dim", "count"), [(1, 2, 1), (7, 5, 3), (70, 12, 40), (300, 33, 64), (50, 300, 1100), (3, 1, 2)]
)
def test_structured_projections(n, dim, count, dtype, generator):
    signs, scales = some_signs(dim, count, generator)
    xi = rows(signs, scales, dim)
    x = torch.randn(dim, n, dtype=torch.float64, generator=generator).T  # strided
    slopes = torch.randn(n, count, dtype=torch.float64, generator=generator).T
    s, by = signs.to(dtype), scales.to(dtype)
    z, g = project(x.to(dtype), s, by), back(slopes.to(dtype), s, by, dim)
    close = 1e-13 if dtype == torch.float64 else 2e-6
    assert (z.double() - xi @ x.T).norm() < close * (xi @ x.T).norm()
    assert (g.double() - slopes.T @ xi).norm() < close * (slopes.T @ xi).norm()
    out = torch.zeros(count, n + 5, dtype=dtype)
    assert torch.equal(project(x.to(dtype), s, by, out=out, column=3), z)
    assert torch.equal(out, torch.nn.functional.pad(z, (3, 2)))
    out = torch.empty(n, dim, dtype=dtype)
    assert back(slopes.to(dtype), s, by, dim, out=out) is out
    assert torch.equal(out, g)
    more = torch.cat([slopes, slopes], 1).to(dtype)  # the slopes of the first n points are asked for
    assert torch.equal(back(more, s, by, dim, out=torch.empty_like(out)), g)


def test_structured_projections_on_threads(generator, monkeypatch):
    signs, scales = some_signs(200, 300, generator)
    x = torch.randn(5001, 200, dtype=torch.float64, generator=generator)
    z = project(x, signs, scales)
    g = back(z, signs, scales, 200)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(project(x, signs, scales), z)
    assert torch.equal(back(z, signs, scales, 200), g)
