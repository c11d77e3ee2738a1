"""Directions: their lengths, their spread, the error of the gradient they leave, and structured projections."""

import math

import pytest
import torch

from mmdflow import MMD, Riesz, SlicedMMD
from mmdflow.divergences.directions import (
    SET,
    STRUCTURED_DIM,
    draw_directions,
    draw_signs,
    hadamard,
    riesz_scale,
    structured_directions,
    structured_scales,
)
from mmdflow.errors import InputError

IN_SPACE = ["orthogonal", "optimized", "random", "qmc"]


def error(kind: str, dim: int, count: int, draws: int = 4) -> float:
    """The relative root mean square error of the sliced gradient for a target that is moved by 2."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, dim, dtype=torch.float64, generator=generator)
    y = torch.randn(300, dim, dtype=torch.float64, generator=generator) + 2 / math.sqrt(dim)
    exact = MMD(y, Riesz()).velocity(x)
    sliced = SlicedMMD(y, count, directions=kind, generator=generator)
    return math.sqrt(sum(float((sliced.velocity(x) - exact).square().sum()) for _ in range(draws)) / draws) / float(
        exact.norm()
    )


@pytest.mark.parametrize("kind", IN_SPACE)
@pytest.mark.parametrize(("count", "dim"), [(1, 3), (5, 5), (7, 3), (40, 3), (70, 6), (9, 33)])
def test_unit_lengths_and_repeatable_draws(kind, count, dim):
    xi, again = (draw_directions(count, dim, kind, torch.Generator().manual_seed(3)) for _ in range(2))
    assert xi.shape == (count, dim)
    torch.testing.assert_close(xi.norm(dim=1), torch.ones(count).double())
    assert torch.equal(xi, again)


def test_optimized_directions_are_equispaced_in_the_plane_and_orthonormal_where_they_can_be(generator):
    xi = draw_directions(12, 2, "optimized", generator)
    angles = torch.atan2(xi[:, 1], xi[:, 0]).remainder(math.pi).sort().values
    torch.testing.assert_close(angles.diff(), torch.full((11,), math.pi / 12).double())
    xi = draw_directions(5, 7, "optimized", generator)
    torch.testing.assert_close(xi @ xi.T, torch.eye(5).double())


def test_six_optimized_directions_in_space_are_the_diagonals_of_an_icosahedron(generator):
    cosines = draw_directions(6, 3, "optimized", generator)
    cosines = (cosines @ cosines.T)[~torch.eye(6, dtype=torch.bool)]
    torch.testing.assert_close(cosines.abs(), torch.full((30,), 5**-0.5).double(), atol=1e-3, rtol=0)


def test_optimized_directions_of_several_sets_differ(generator):
    xi = draw_directions(2 * SET, 3, "optimized", generator)
    assert xi.shape == (2 * SET, 3)
    assert not torch.allclose(xi[:SET], xi[SET:])


@pytest.mark.parametrize("dim", [3, 300])
@pytest.mark.parametrize("kind", ["orthogonal", "optimized", "structured"])
def test_draws_are_unbiased(kind, dim, generator):
    if kind == "structured" and dim < STRUCTURED_DIM:
        with pytest.raises(InputError, match="directions = 'structured' in dimension 3: must be at least 64"):
            draw_directions(10, dim, kind)
        return
    z = torch.randn(dim, 1, dtype=torch.float64, generator=generator)
    sizes = torch.cat([(draw_directions(320, dim, kind, generator) @ z).abs() for _ in range(100)]) / z.norm()
    assert float(sizes.mean()) * riesz_scale(dim, 1.0) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("dim", "count", "saves"), [(3, 128, 20), (5, 128, 20), (10, 256, 20), (50, 128, 2)])
def test_optimized_directions_save_slices(dim, count, saves):
    assert saves * error("optimized", dim, count) ** 2 < error("random", dim, count) ** 2


def test_structured_directions_err_as_orthogonal_ones_do():
    assert error("structured", 256, 512) < 1.1 * error("orthogonal", 256, 512)
    assert error("structured", 256, 512) < 0.8 * error("random", 256, 512)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_optimized_directions_drawn_without_gradients_serve_with_them(mode, generator):
    with mode():
        draw_directions(23, 4, "optimized", generator)
    x = torch.randn(5, 4, requires_grad=True)
    (x.double() @ draw_directions(23, 4, "optimized", generator).T).sum().backward()
    assert x.grad is not None


def test_hadamard_transform():
    sylvester = hadamard(torch.eye(8))
    torch.testing.assert_close(sylvester @ sylvester, 8 * torch.eye(8))
    assert set(sylvester.flatten().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize(("dim", "count"), [(64, 64), (100, 300), (784, 1000)])
def test_structured_directions(dim, count, generator):
    signs = draw_signs(count, dim, generator)
    xi, scales = structured_directions(signs, count, dim), structured_scales(signs, count, dim)
    matrix = hadamard(torch.eye(signs.shape[2]).double())
    blocks = torch.cat([matrix @ torch.diag(t) @ matrix @ torch.diag(s) for s, t in signs])
    torch.testing.assert_close(xi, blocks[:count, :dim] * scales[:, None])
    torch.testing.assert_close(xi.norm(dim=1), torch.ones(count).double())
    again = draw_directions(count, dim, "structured", torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, xi)
