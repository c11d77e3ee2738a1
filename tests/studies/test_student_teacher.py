import pytest
import torch
from matplotlib.figure import Figure

import mmdflow
from mmdflow import MMD, Deep, Linear
from mmdflow.studies import student_teacher
from mmdflow.studies.student_teacher import NetworkFeatures, record_steps, sphere

TINY = {
    "dim": 4,
    "hidden": 2,
    "num_particles": 8,
    "num_teachers": 2,
    "num_inputs": 10,
    "num_steps": 30,
    "step_size": 0.5,
    "noise": 0.5,
    "regularization": 0.1,
    "sobolev": 1e-3,
    "sobolev_steps": 0,
}


def network(z, inputs, hidden):
    """One network at a time, as the paper writes it."""
    d = inputs.shape[1]
    first, second = z[: hidden * d].reshape(hidden, d), z[hidden * d :]
    return torch.stack([torch.exp(-((second @ (first @ x).relu()) ** 2) / 4) for x in inputs])


@pytest.fixture
def networks(generator):
    x = torch.randn(7, 3 * 6, dtype=torch.float64, generator=generator)
    return x, torch.randn(2, 3 * 6, dtype=torch.float64, generator=generator), sphere(9, 5, generator)


def test_mmd2_is_the_mean_squared_difference_of_the_networks(networks):
    students, teachers, inputs = networks
    f, g = (torch.stack([network(z, inputs, 3) for z in zs]).mean(0) for zs in (students, teachers))
    divergence = MMD(teachers, Deep(Linear(), NetworkFeatures(inputs, 3)))
    assert 2 * float(divergence(students)) == pytest.approx(float((f - g).square().mean()))


def test_the_velocity_is_the_networks_gradient(networks):
    students, teachers, inputs = networks
    z = students.clone().requires_grad_()
    f, g = (torch.stack([network(w, inputs, 3) for w in ws]).mean(0) for ws in (z, teachers))
    expected = -len(z) * torch.autograd.grad((f - g).square().mean() / 2, z)[0]
    divergence = MMD(teachers, Deep(Linear(), NetworkFeatures(inputs, 3)))
    torch.testing.assert_close(divergence.velocity(students), expected)


def test_kernel_is_the_mean_product_of_networks(networks):
    students, teachers, inputs = networks
    gram = Deep(Linear(), NetworkFeatures(inputs, 3))(students, teachers)
    assert float(gram[2, 1]) == pytest.approx(
        float((network(students[2], inputs, 3) * network(teachers[1], inputs, 3)).mean())
    )


def test_curves_fall_and_are_drawn(outcome):
    curves = outcome.figures["mean_squared_error"]
    assert set(curves) == {"MMD", "MMD, noise injection", "KALE", "DrMMD"}
    assert len({curve["validation"][0] for curve in curves.values()}) == 1
    for name in ("MMD", "KALE", "DrMMD"):
        assert curves[name]["training"] == sorted(curves[name]["training"], reverse=True)
    assert all(len(curve["steps"]) == len(curve["training"]) == len(curve["validation"]) for curve in curves.values())
    outcome.draw(figure := Figure())
    assert len(figure.axes) == 2


def test_the_same_seed_gives_the_same_figures(outcome):
    assert student_teacher.run(**TINY, seed=0, progress=False).figures == outcome.figures


@pytest.mark.skipif("SobolevDescent" not in mmdflow.__all__, reason="no Sobolev descent here")
def test_sobolev_descent_falls():
    outcome = student_teacher.run(**TINY | {"sobolev_steps": 20}, seed=0, progress=False)
    curve = outcome.figures["mean_squared_error"]["Sobolev descent"]
    assert curve["training"][-1] < 0.5 * curve["training"][0]


def test_inputs_lie_on_the_sphere_and_recorded_steps_reach_both_ends(generator):
    assert sphere(5, 3, generator).norm(dim=1).tolist() == pytest.approx([1.0] * 5)
    assert record_steps(7) == list(range(8))
    assert record_steps(1000)[0] == 0
    assert record_steps(1000)[-1] == 1000
