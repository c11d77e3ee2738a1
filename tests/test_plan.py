"""What `mmdflow flow --plan` says: how costs grow, what is refused, and that nothing is run."""

import re

import numpy as np
import pytest
import torch

from mmdflow.cli import main
from mmdflow.cli.flow import _duration, _size
from mmdflow.distributed import Ranks
from mmdflow.errors import InputError
from mmdflow.recipe import DivergenceSpec, FlowSpec
from mmdflow.runs import plan as plans
from mmdflow.runs.particles import run_flow
from mmdflow.runs.plan import Trial, plan_flow
from tests.test_cli import complaint

SMALL = ["--num_particles=300", "--num_targets=200", "--num_steps=10"]


@pytest.fixture
def timed(monkeypatch):
    """Trials whose times follow a known law: a constant part, and seconds a unit of work."""

    def set_law(way, constant, rate, nodes=0):
        def trial(spec, particles, target, several):
            n, m = len(particles), len(target)
            of = "pairs" if several and way == "tree" else way
            step = constant + rate * plans._work(of, n, m)
            return Trial(n, m, of, step, step / 2, nodes)

        monkeypatch.setattr(plans, "_trial", trial)

    return set_law


def rows(n, m, ranks, dim=2, **fields):
    spec = FlowSpec(num_particles=n, num_targets=m, **fields)
    return plan_flow(spec, ranks, dim=dim).rows


@pytest.mark.parametrize("way", ["pairs", "line", "grid", "tree", "slices", "embedding"])
def test_a_law_of_two_parts_is_carried_on_exactly(timed, way):
    timed(way, 1e-4, 1e-9)
    (row,) = rows(10_000_000, 5_000_000, [1])
    assert row.way == way
    assert row.step == pytest.approx(1e-4 + 1e-9 * plans._work(way, 10_000_000, 5_000_000), rel=1e-6)
    frames = 1 + -(-500 // 8)  # every eighth step, the last, and the start
    assert row.total == pytest.approx(500 * row.step + (1 + frames) * row.step / 2)


def test_pairs_are_shared_out_among_processes(timed):
    timed("pairs", 0.0, 1e-9)
    one, two, eight = rows(100_000, 50_000, [1, 2, 8])
    assert one.step == pytest.approx(1e-9 * 100_000 * 150_000, rel=1e-6)
    assert two.step == pytest.approx(one.step / 2)
    assert eight.step == pytest.approx(one.step / 8)
    assert (one.sent, two.sent, eight.sent) == (0, 150_000 * 3 * 4 / 2, 150_000 * 3 * 4 * 7 / 8)


def test_a_grid_does_not_shrink_with_the_processes(timed):
    timed("grid", 0.5, 1e-9, nodes=10**6)
    one, four = rows(10**6, 10**6, [1, 4])
    exchanged = 2 * 0.75 * 4 * 10**6 / plans.EXCHANGE
    assert four.step == pytest.approx(0.5 + (one.step - 0.5) / 4 + exchanged, rel=1e-4)


def test_trees_are_for_one_process(timed):
    timed("tree", 0.0, 1e-9)
    one, two = rows(10**6, 10**6, [1, 2])
    assert (one.way, two.way) == ("tree", "pairs")
    assert two.step > one.step


def test_sorting_on_the_line_is_not_shared_out(timed):
    timed("line", 0.0, 1e-9)
    one, many = rows(10**6, 10**6, [1, 64], dim=1)
    assert many.step > one.step / 2


def test_memory_counts_points_and_snapshots(timed):
    timed("pairs", 0.0, 1e-12)
    loaded = plans._loaded()
    few, many = (rows(10**8, 10, [1], frames=frames)[0].memory for frames in (1, 60))
    copies = 10**8 * 2 * 4
    assert (many - few) / copies == pytest.approx(2 * 64, abs=20)
    assert few - loaded > 10 * copies
    in_file = plan_flow(FlowSpec(num_particles=10**8, num_targets=10), [1], dim=2, snapshots=True).rows[0].memory
    assert in_file == pytest.approx(few - 2 * copies, rel=0.01)
    small, half = rows(10**8, 10**8, [1, 2], frames=1)
    assert half.memory < small.memory


@pytest.mark.parametrize(
    ("fields", "dim", "way"),
    [
        ({}, 5, "pairs"),
        ({"kernel": "laplace"}, 1, "line"),
        ({"kernel": "linear"}, 3, "embedding"),
        ({"name": "sliced"}, 3, "slices"),
        ({"kernel": "gaussian", "bandwidth": 1.0}, 1, "grid"),
    ],
)
def test_the_way_is_the_one_that_the_flow_takes(fields, dim, way, monkeypatch):
    monkeypatch.setattr(plans, "LONGEST", 1e3)  # a slow machine would try fewer points, which take another way
    spec = FlowSpec(num_particles=4000, num_targets=4000, num_steps=1, frames=1, divergence=DivergenceSpec(**fields))
    plan = plan_flow(spec, dim=dim)
    assert plan.rows[0].way == way
    assert plan.measured[:2] == (4000, 4000)
    assert plan.rows[0].beyond == 1
    target = torch.randn(4000, dim)
    prepared = plans.runs.Prepared(torch.Generator(), target / 3, target, None, None, None, None)
    sums = run_flow(spec, prepared=prepared).report["sums"]
    assert (sums["quick"] > 0) == (way in ("grid", "tree"))


@pytest.mark.parametrize(
    ("fields", "dim", "way"),
    [({"kernel": "gaussian", "bandwidth": 1.0}, 2, "grid"), ({}, 2, "pairs"), ({"name": "sliced"}, 3, "slices")],
)
def test_several_processes_are_timed_as_they_compute(fields, dim, way, monkeypatch):
    monkeypatch.setattr(plans, "LONGEST", 1e3)
    divergence = DivergenceSpec(**fields)
    spec = FlowSpec(num_particles=4000, num_targets=4000, num_steps=1, frames=1, divergence=divergence)
    (row,) = plan_flow(spec, [2], dim=dim).rows
    assert row.way == way
    assert row.step > 0


def test_the_command_prints_a_table_and_runs_nothing(tmp_path, capsys):
    save = tmp_path / "moved.npy"
    assert main(["flow", "--plan", "--ranks=[1,2]", f"--save={save}", *SMALL]) == 0
    out = capsys.readouterr().out
    assert not save.exists()
    assert "300 particles, 200 targets, 2 columns, 10 steps" in out
    assert "11 of 2.4 kB, 26.4 kB in all, in memory" in out
    table = re.findall(r"^([12]) +\S+ m?s +\S+ m?s +\S+ [MG]B +\S+ k?B$", out, re.MULTILINE)
    assert table == ["1", "2"]
    assert "measured here in" in out


def test_a_file_gives_its_numbers_of_rows(tmp_path, capsys):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(70, 3)))
    assert main(["flow", "--plan", f"--target={tmp_path / 'rows.npy'}", "--num_particles=40"]) == 0
    assert "40 particles, 70 targets, 3 columns, 500 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "--divergence=kale"], "divergence.name = 'kale' with plan: must be mmd or sliced"),
        (["--plan", "--ranks=0"], "ranks = 0: must be an integer >= 1"),
        (["--plan", "--ranks=[]"], "ranks = []: must hold at least one number"),
        (["--plan", "--ranks=two"], "ranks = 'two': must be int or a list"),
        (["--plan", "--dim=0"], "dim = 0: must be an integer >= 1"),
        (["--plan", "--dim=3", "--target=moons"], "dim = 3 with target = 'moons': must be one of them"),
        (["--plan", "--dim=3", "--source=moons"], "source = 'moons' with dim = 3: must be gaussian"),
        (["--plan", "--num_particles=0"], "num_particles = 0: must be an integer >= 1"),
        (["--plan", "--ranks=2", "--birth_death=1"], "birth_death = 1.0 on 2 processes: must be left out"),
        (["--plan", "--ranks=2", "--snapshots=a.npy"], "snapshots on 2 processes: must be left out"),
        (
            ["--plan", "--ranks=2", "--divergence=sliced", "--divergence.exponent=1.5"],
            "divergence.exponent = 1.5 on 2 processes: must be 1 with sliced",
        ),
        (["--ranks=2", "--save=a.npy"], "ranks = 2 without --plan"),
        (["--dim=2", "--save=a.npy"], "dim = 2 without --plan"),
    ],
)
def test_bad_input_gets_one_line(arguments, message, capsys):
    assert message in complaint(capsys, ["flow", *arguments])


def test_sizes_and_times_in_words():
    assert [_size(x) for x in (0, 999, 1000, 2.5e9, 1.2e15)] == ["0 B", "999 B", "1 kB", "2.5 GB", "1200 TB"]
    assert [_duration(x) for x in (1e-4, 3, 100, 600, 9000, 3e5)] == [
        "0.1 ms",
        "3 s",
        "100 s",
        "10 min",
        "2.5 h",
        "3.5 d",
    ]


def test_ranks_of_the_flow_refuse_what_the_plan_refuses():
    with pytest.raises(InputError, match=r"stop_level = 0\.05 on 3 processes"):
        plans.runs.check_ranks(FlowSpec(stop_level=0.05), Ranks(0, 3))
    with pytest.raises(InputError, match=r"stop_level = 0\.05 on 3 processes"):
        plan_flow(FlowSpec(stop_level=0.05), [3])
