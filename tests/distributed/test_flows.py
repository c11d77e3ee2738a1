"""A sharded flow is the flow of one process, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdflow import KALE, MMD, Divergence, Gaussian, InputError, Linear, Polynomial, SlicedMMD, flow, ops
from mmdflow.distributed import Ranks, current, shard
from mmdflow.distributed.ranks import DRAWN, Rows
from mmdflow.flows import Adaptive, BirthDeath, Heun
from mmdflow.ops import fast
from tests.distributed.ranks import on_ranks

DRAW = torch.Generator().manual_seed(0)
TARGET = torch.randn(103, 3, generator=DRAW)
SOURCE = torch.randn(71, 3, generator=DRAW) + 1
WEIGHTS = torch.rand(71, generator=DRAW) + 0.1
LARGE = DRAWN + 1000


def _seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


FIELDS: dict[str, Callable[[Tensor], Divergence]] = {
    "gaussian": lambda y: MMD(y, Gaussian(1.0)),
    "riesz": MMD,
    "mixture": lambda y: MMD(y, Gaussian(1.0) + Gaussian(0.3)),
    "finite": lambda y: MMD(y, Linear()),
    "grows": lambda y: MMD(y, Polynomial(2)),
    "float64": lambda y: MMD(y.double(), Gaussian(1.0)),
    "sliced": lambda y: SlicedMMD(y, 7, generator=_seeded()),
    "sliced, fewer lines than ranks": lambda y: SlicedMMD(y, 1, generator=_seeded(), redraw=False),
    "sliced, smooth": lambda y: SlicedMMD(y, 3, generator=_seeded(), kernel=Gaussian(1.0)),
    "sliced, binned": lambda y: SlicedMMD(y, 9, generator=_seeded(), ranks="binned"),
}


def _flows(particles: slice, targets: slice, sharded: bool) -> dict[str, Any]:
    """Every field's flow, with noise, momentum and weights among them."""
    settings: dict[str, Any] = {"num_steps": 4, "sharded": sharded, "save_every": 1, "noise_injection": 0.1}
    results = {}
    for name, build in FIELDS.items():
        size = {"grows": 0.01, "finite": 0.1}.get(name)
        x, field = SOURCE[particles], build(TARGET[targets])
        results[name] = flow(field, x, step_size=size, diffusion=0.01, generator=_seeded(), **settings)
    x, field = SOURCE[particles], MMD(TARGET[targets])
    results["weighted"] = flow(field, x, weights=WEIGHTS[particles], generator=_seeded(), **settings)
    results["heun"] = flow(field, x, step_size=0.1, integrator=Heun(), generator=_seeded(), **settings)
    scheduled = flow(lambda step: field, x, step_size=lambda step: 0.1 / (step + 1), generator=_seeded(), **settings)
    return {name: (r.particles, r.values) for name, r in {**results, "scheduled": scheduled}.items()}


def _refusals() -> dict[str, str]:
    """What a sharded flow cannot have, with what it says."""
    y, x = TARGET[current().part(103)], SOURCE[current().part(71)]
    noise = torch.Generator().manual_seed(current().rank)
    cases: dict[str, Callable[[], Any]] = {
        "field": lambda: flow(KALE(y, Gaussian(1.0), 0.1), x, num_steps=1, step_size=0.1, sharded=True),
        "integrator": lambda: flow(MMD(y), x, num_steps=1, step_size=0.1, integrator=Adaptive(), sharded=True),
        "move": lambda: flow(MMD(y), x, num_steps=1, step_size=0.1, moves=BirthDeath(1.0), sharded=True),
        "generator": lambda: flow(MMD(y), x, num_steps=1, step_size=0.1, generator=noise, sharded=True),
        "exponent": lambda: flow(SlicedMMD(y, 2, 1.5), x, num_steps=1, step_size=0.1, sharded=True),
        "weights": lambda: flow(MMD(y, target_weights=torch.rand(len(y)) + 0.1), x, num_steps=1, sharded=True),
    }
    said = {}
    for name, case in cases.items():
        with pytest.raises(InputError) as error:
            case()
        said[name] = str(error.value)
    return said


def _stops() -> list[int]:
    """A callback that ends the flow on one rank ends it on all."""
    ranks = current()

    def stop(step: int, x: Tensor) -> bool:
        return ranks.rank == 1 and step == 2

    y, x = TARGET[ranks.part(103)], SOURCE[ranks.part(71)]
    return flow(MMD(y), x, num_steps=9, callback=stop, sharded=True).steps.tolist()


def _exchanges() -> dict[str, Any]:
    ranks = current()
    own = torch.arange(11.0)[ranks.part(11)]
    drawn = Rows.of(ranks, ranks.part(LARGE).stop - ranks.part(LARGE).start)
    noise = drawn.normal(torch.empty(drawn.count, 3), _seeded())
    return {
        "gather": ranks.gather(own),
        "ring": torch.cat([block for (block,) in ranks.ring(own)]).sort().values,
        "noise": ranks.gather(noise),
        "unseeded": ranks.gather(Rows.of(ranks, 1).normal(torch.empty(1, 2), ranks.common(None))),
    }


def _clouds() -> tuple[Tensor, Tensor]:
    draw = _seeded()
    return torch.randn(2003, 2, generator=draw), torch.randn(3001, 2, generator=draw) + 0.5


def _quick(ranks: Ranks) -> dict[str, Any]:
    """Velocities and F within a tolerance, with the record of what was done."""
    x, y = (points[ranks.part(len(points))] for points in _clouds())
    made: dict[Any, Any] = {}
    fast.LEAST = 0  # in this process, which ends soon
    for tolerance in (1e-3, 1e-5):
        field = shard(MMD(y, Gaussian(0.5) + Gaussian(0.2)), ranks)
        assert isinstance(field, Divergence)
        with ops.backend("fast", tolerance=tolerance) as report:
            made[tolerance] = field.velocity(x), field(x), report
    own = shard(MMD(y, Gaussian(0.5), tolerance=1e-3), ranks)
    return {**made, "own": own.velocity(x)}


def _task() -> dict[str, Any]:
    ranks = current()
    flows = _flows(ranks.part(71), ranks.part(103), sharded=True)
    return {
        "quick": _quick(ranks),
        "flows": flows,
        "refusals": _refusals(),
        "stops": _stops(),
        "exchanges": _exchanges(),
    }


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def results(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What every rank found."""
    return on_ranks(request.param, _task)


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[Tensor, Tensor]]:
    return _flows(slice(None), slice(None), sharded=False)


@pytest.mark.parametrize("name", [*FIELDS, "weighted", "heun", "scheduled"])
def test_equal_to_one_process(results, alone, name):
    particles, values = alone[name]
    for result in results:
        torch.testing.assert_close(result["flows"][name][1], values, rtol=1e-6, atol=1e-6)
    together = torch.cat([result["flows"][name][0] for result in results])
    torch.testing.assert_close(together, particles, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("field", "field KALE: must be MMD or SlicedMMD"),
        ("integrator", "with Adaptive: looks at all particles"),
        ("move", "with BirthDeath: looks at all particles"),
        ("generator", "generator: differs between ranks"),
        ("exponent", "exponent = 1.5 with sharded = True: must be 1"),
        ("weights", "target_weights with sharded = True: must be left out"),
    ],
)
def test_what_cannot_be_sharded(results, case, message):
    assert all(message in result["refusals"][case] for result in results)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_reduced_grids_keep_the_tolerance(results, tolerance):
    x, y = (points.double() for points in _clouds())
    exact = MMD(y, Gaussian(0.5) + Gaussian(0.2))
    velocity, value = exact.velocity(x), exact(x)
    made = [result["quick"][tolerance] for result in results]
    error = torch.cat([part for part, _, _ in made]) - velocity
    assert float(error.square().mean().sqrt() / velocity.square().mean().sqrt()) < tolerance
    for _, quick, report in made:
        assert quick == made[0][1]
        assert abs(float(quick - value)) < 2 * tolerance
        assert report.grids > 0
        assert report.error <= tolerance / 2


def test_a_divergence_brings_its_tolerance(results):
    x, y = _clouds()
    exact = MMD(y, Gaussian(0.5)).velocity(x)
    error = torch.cat([result["quick"]["own"] for result in results]) - exact
    assert float(error.abs().max()) > 0
    assert float(error.square().mean().sqrt() / exact.square().mean().sqrt()) < 1e-3


def test_one_rank_stops_all(results):
    assert all(result["stops"] == [0, 2] for result in results)


def test_exchanges(results):
    noise = torch.randn(LARGE, 3, generator=_seeded())
    for result in results:
        made = result["exchanges"]
        assert torch.equal(made["gather"], torch.arange(11.0))
        assert torch.equal(made["ring"], torch.arange(11.0))
        assert torch.equal(made["noise"], noise)
        assert made["unseeded"].unique().numel() == made["unseeded"].numel()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [0, 1, 5, 14])
def test_parts_cover_all_rows(size, length):
    parts = [Ranks(rank, size).part(length) for rank in range(size)]
    assert [i for part in parts for i in range(length)[part]] == list(range(length))
    assert max(len(range(length)[part]) for part in parts) - min(len(range(length)[part]) for part in parts) <= 1


def test_sharded_alone_is_the_plain_flow():
    plain, sharded = (
        flow(MMD(TARGET), SOURCE, num_steps=3, sharded=sharded, integrator=Adaptive()) for sharded in (False, True)
    )
    assert torch.equal(plain.particles, sharded.particles)
