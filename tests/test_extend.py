"""The page "Extend it" runs, and classes from outside the package work as the library's own do."""

import re
from pathlib import Path

import pytest
import torch

from mmdflow import MMD, DescentNoise, Divergence, Gaussian, InputError, Riesz, flow
from mmdflow.cli import main
from mmdflow.divergences.base import uniform
from mmdflow.flows import Adaptive, BirthDeath, Euler, Integrator, Move, NoiseInjection, integrators, named_integrators
from mmdflow.methods.dmmd import SamplerSettings, check_integrator

PAGE = Path(__file__).parents[1] / "docs/extend.md"


def sections(page):
    """The Python code of a page's sections; that of a method is files, which tests/methods/test_outside.py writes and runs."""
    parts = re.split(r"^## (.+)$", page.read_text(), flags=re.M)[1:]
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        if title != "A method":
            yield pytest.param("\n".join(re.findall(r"```python\n(.*?)```", text, re.S)), id=title)


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    """Forget the integrators that a test defines."""
    monkeypatch.setattr(integrators, "_NAMED", named_integrators())


@pytest.mark.parametrize("code", list(sections(PAGE)))
def test_page(code):
    exec(compile(code, str(PAGE), "exec"), {"__name__": "extend"})


def points(n=12, d=2, seed=1):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def define_half():
    class Half(Integrator):
        """Euler's steps of half the size."""

        name = "half"

        def step(self, gradient, x, step_size, k):
            return x - step_size / 2 * gradient(x), step_size / 2

    return Half


def test_an_integrator_of_ones_own_by_object_and_by_name():
    half, divergence = define_half(), MMD(points(), Riesz())
    settings = {"step_size": 0.4, "num_steps": 5}
    by_object = flow(divergence, points(seed=2), integrator=half(), **settings)
    assert torch.equal(flow(divergence, points(seed=2), integrator="half", **settings).particles, by_object.particles)
    plain = flow(divergence, points(seed=2), step_size=0.2, num_steps=5)
    torch.testing.assert_close(plain.particles, by_object.particles)
    assert by_object.times[-1] == pytest.approx(1.0)


def test_an_integrator_of_ones_own_on_the_command_line(tmp_path, capsys):
    save = tmp_path / "moved.npy"
    arguments = ["flow", "--num_particles=10", "--num_targets=10", "--num_steps=2", f"--save={save}"]
    assert main([*arguments, "--integrator=half"]) == 2
    message = capsys.readouterr().err
    assert "integrator = 'half': must be one of euler, nesterov, heun, adams_bashforth, adam, adaptive" in message
    define_half()
    assert main([*arguments, "--integrator=half"]) == 0
    assert save.exists()


def test_an_integrator_of_ones_own_in_dmmds_sampler():
    with pytest.raises(InputError, match="integrator = 'half': must be one of euler"):
        check_integrator(SamplerSettings(integrator="half"))
    half = define_half()
    check_integrator(SamplerSettings(integrator="half"))
    half.obeys_step_size = False
    with pytest.raises(InputError, match="integrator = 'half'"):
        check_integrator(SamplerSettings(integrator="half"))


def test_samplers_refuse_integrators_that_choose_their_own_steps():
    for name in ("adam", "adaptive"):
        with pytest.raises(InputError, match=f"integrator = '{name}': must be one of euler, nesterov, heun, adams_b"):
            check_integrator(SamplerSettings(integrator=name))


def test_an_integrator_object_is_reusable():
    divergence, x = MMD(points(), Gaussian(1.0)), points(seed=2)
    for integrator in (Euler(0.9), Adaptive(1e-2)):
        first, second = (flow(divergence, x, step_size=0.3, num_steps=4, integrator=integrator) for _ in range(2))
        assert torch.equal(first.particles, second.particles)
        assert "previous" not in vars(integrator)


def test_a_name_is_taken_once_but_may_be_defined_again():
    define_half()
    define_half()  # as a notebook's cell that runs twice does
    with pytest.raises(InputError, match=r"name = 'euler' of .*Mine: is the name of mmdflow.flows.integrators.Euler"):

        class Mine(Integrator):
            name = "euler"

            def step(self, gradient, x, step_size, k):
                return x, step_size


def test_a_subclass_without_a_name_of_its_own_is_not_entered():
    class Slower(Euler):
        pass

    assert named_integrators()["euler"] is Euler
    assert Slower(0.5).momentum == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"integrator": Euler(0.5), "momentum": 0.5},
            r"momentum = 0.5 with integrator = Euler\(momentum=0.5\): give it",
        ),
        ({"integrator": Euler}, "must be an Integrator, such as Heun"),
        ({"moves": [3]}, "moves = 3: must be Move objects"),
        ({"moves": [DescentNoise(1.0), NoiseInjection(0.1)]}, "NoiseInjection with DescentNoise: must be left out"),
        ({"noise_injection": "much"}, "noise_injection = 'much': must be a finite number"),
        ({"diffusion": lambda step: float("inf")}, r"diffusion\(0\) = inf"),
    ],
)
def test_bad_input(settings, message, unchecked):
    with pytest.raises(InputError, match=message):
        flow(MMD(points(), Gaussian(1.0)), points(), step_size=0.1, num_steps=2, **settings)


class Recentre(Move):
    """Keeps the mean, and counts."""

    def start(self, state):
        self.mean, self.steps = state.particles.mean(0), []

    def after(self, state):
        state.particles = state.particles - state.particles.mean(0) + self.mean
        self.steps.append(state.step)

    def report(self):
        return {"steps": self.steps}


def test_a_move_of_ones_own():
    x = points(seed=2)
    result = flow(MMD(points() + 5, Riesz()), x, step_size=0.5, num_steps=4, moves=Recentre())
    torch.testing.assert_close(result.particles.mean(0), x.mean(0))
    assert result.report == {"steps": [0, 1, 2, 3]}


def test_moves_act_in_their_order():
    order = []

    class Note(Move):
        def __init__(self, name):
            self.name = name

        def before(self, state):
            order.append(f"{self.name} before")

        def after(self, state):
            order.append(f"{self.name} after")

    callback = lambda step, x: order.append("callback")  # noqa: E731
    flow(MMD(points(), Riesz()), points(), step_size=0.1, num_steps=1, moves=[Note("a"), Note("b")], callback=callback)
    assert order == ["a before", "b before", "a after", "b after", "callback"]


class Pull:
    """A velocity field that becomes one without a witness."""

    def velocity(self, x, at=None, weights=None):
        return -(x if at is None else at)


def test_a_later_field_without_a_witness_is_one_line():
    divergence = MMD(points(), Gaussian(1.0))
    with pytest.raises(InputError, match="BirthDeath with field Pull: the field must have a witness"):
        flow(lambda step: Pull() if step else divergence, points(), step_size=0.1, num_steps=3, moves=BirthDeath(1.0))


def test_a_divergence_of_ones_own():
    class Spring(Divergence):
        """F = E |x|^2 / 2."""

        def forward(self, x, weights=None):
            return uniform(x, weights) @ x.square().sum(1) / 2

    x = points()
    for settings in ({}, {"weights": torch.rand(12, generator=torch.Generator().manual_seed(0))}):
        result = flow(Spring(), x, step_size=0.5, num_steps=3, moves=Recentre(), **settings)
        torch.testing.assert_close(result.particles, (x - x.mean(0)) / 8 + x.mean(0))
    jumped = flow(
        Spring(), x, step_size=0.1, num_steps=20, moves=BirthDeath(5.0), generator=torch.Generator().manual_seed(0)
    )
    assert len(jumped.particles.unique(dim=0)) < 12


class Bare(Integrator):
    """Forgets the flow time."""

    def step(self, gradient, x, step_size, k):
        return x - step_size * gradient(x)


class Fewer(Integrator):
    """Loses particles."""

    def step(self, gradient, x, step_size, k):
        return x[1:], step_size


class Drop(Move):
    """Loses particles."""

    def after(self, state):
        state.particles = state.particles[1:]


class Look(Move):
    """Does not say that it needs a witness."""

    def after(self, state):
        state.witness_values()


class Vector(Divergence):
    """Returns no number."""

    def forward(self, x, weights=None):
        return x.mean(0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"integrator": Bare()}, r"integrator = Bare: step must return \(particles, flow time that passed\)"),
        ({"integrator": Fewer()}, r"integrator = Fewer: step returned particles of shape \[\d+, 2\]: must be"),
        ({"moves": Drop()}, r"moves: Drop set particles of shape \[\d+, 2\]: must be"),
        ({"moves": Look()}, "field Pull: it has no witness; a move that needs one sets needs_witness = True"),
        ({"field": Vector()}, r"Vector: forward returned shape \[2\]: must return F, a tensor of shape \[\]"),
    ],
)
def test_mistakes_in_parts_of_ones_own_are_one_line(settings, message, unchecked):
    settings = {"field": Pull(), "particles": points(), "step_size": 0.1, "num_steps": 2} | settings
    with pytest.raises(InputError, match=message):
        flow(**settings)
