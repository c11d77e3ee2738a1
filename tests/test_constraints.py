import pytest
import torch

from mmdflow import MMD, Gaussian, InputError, flow
from mmdflow.flows.constraints import box, simplex, sphere


def normal(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("project", [box(-0.5, 1.0), simplex(), simplex(2.5), sphere(), sphere(3.0)])
def test_projections_are_idempotent_and_nearest(project):
    x = 3 * normal(40, 4)
    projected = project(1, x)
    torch.testing.assert_close(project(1, projected), projected)
    others = project(1, 3 * normal(500, 4, 1))  # no other point of the set is nearer
    assert ((x - projected).norm(dim=1) <= torch.cdist(x, others).min(1).values + 1e-12).all()


def test_simplex_is_a_simplex():
    projected = simplex(2.0)(1, normal(30, 2, 3).reshape(5, 3, 4))
    assert projected.shape == (5, 3, 4)
    assert (projected >= 0).all()
    torch.testing.assert_close(projected.flatten(1).sum(1), torch.full((5,), 2.0).double())


def test_sphere_takes_the_origin_too():
    assert sphere(2.0)(1, torch.zeros(1, 3)).tolist() == [[2.0, 0.0, 0.0]]


def test_large_and_small_entries():
    huge = torch.tensor([[1e9, 0.0], [-1e30, 1e30]])
    torch.testing.assert_close(simplex()(1, huge), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tiny = torch.full((1, 2), 1e-30)
    torch.testing.assert_close(sphere()(1, tiny), torch.full((1, 2), 0.5**0.5))
    torch.testing.assert_close(sphere()(1, tiny * 1e-10 * 0 + 1e30), torch.full((1, 2), 0.5**0.5))


def test_box_may_have_a_bound_for_every_entry():
    low, high = torch.tensor([0.0, -1.0]), torch.tensor([1.0, 5.0])
    assert box(low, high)(1, torch.tensor([[-3.0, 9.0]])).tolist() == [[0.0, 5.0]]


def test_flow_stays_on_the_sphere():
    y = sphere()(0, normal(100, 3) + 2)
    source = sphere()(0, normal(50, 3, 1))
    result = flow(MMD(y, Gaussian(0.7)), source, step_size=1.0, num_steps=50, callback=sphere())
    torch.testing.assert_close(result.particles.norm(dim=1), torch.ones(50).double())
    assert result.values[-1] < 0.1 * result.values[0]


def test_bounds_of_another_shape():
    with pytest.raises(InputError, match=r"low has shape \[3\]: must be \[2\]"):
        box(torch.zeros(3), torch.ones(3))(1, torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: box(1.0, 0.0), "low must not exceed high"),
        (lambda: sphere(0.0), "radius = 0.0"),
        (lambda: simplex(-1.0), "total = -1.0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make()
