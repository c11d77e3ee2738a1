"""Threads of a training: one for small networks, the quickest number for larger ones, the same after a resume."""

import pytest
import torch
from torch import nn

from mmdflow import InputError
from mmdflow.training import LoopSpec, LossModule, fit, threads
from mmdflow.training.threads import EACH, WARM, Threads


class Clock:
    """A clock by which a step with a number of threads takes a stated time."""

    def __init__(self, **seconds):
        self.seconds, self.now = {int(name[1:]): value for name, value in seconds.items()}, 0.0

    def __call__(self):
        self.now += self.seconds[torch.get_num_threads()]
        return self.now


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def trained(choice, steps=30, parameters=10, start=0):
    """Return the numbers of threads of the steps."""
    network, batch, seen = nn.Linear(parameters, 1), torch.zeros(2, 1), []
    with choice.training():
        for step in range(start, steps):
            choice.begin_step(step, network, batch)
            seen.append(torch.get_num_threads())
            choice.end_step()
    return seen


def test_small_networks_take_one(four_threads):
    assert trained(Threads()) == [1] * 30
    assert torch.get_num_threads() == 4


def test_a_number_that_is_given_is_taken(four_threads, monkeypatch):
    monkeypatch.setattr(threads, "SMALL", 0)
    assert trained(Threads(3)) == [3] * 30


@pytest.mark.parametrize(
    ("clock", "chosen"),
    [
        (Clock(t1=4, t2=2, t4=1), 4),
        (Clock(t1=4, t2=2, t4=1.9), 2),  # not clearly quicker
        (Clock(t1=1, t2=0.9, t4=9), 1),  # a busy machine
        (Clock(t1=4, t2=5, t4=2), 4),
    ],
)
def test_larger_networks_keep_the_quickest(clock, chosen, four_threads, monkeypatch):
    monkeypatch.setattr(threads, "SMALL", 0)
    choice = Threads(clock=clock)
    seen = trained(choice)
    tried = [1] * (WARM + EACH) + [2] * EACH + [4] * EACH
    assert seen == tried + [chosen] * (30 - len(tried))
    assert choice.chosen == chosen


def test_one_thread_of_torch_is_not_measured(four_threads, monkeypatch):
    monkeypatch.setattr(threads, "SMALL", 0)
    torch.set_num_threads(1)
    choice = Threads()
    assert trained(choice) == [1] * 30
    assert choice.state()["seconds"] == {}


@pytest.mark.parametrize("stopped", [1, WARM + 2, WARM + EACH + 1, WARM + 3 * EACH, 25])
def test_a_resume_takes_the_same_numbers(stopped, four_threads, monkeypatch):
    monkeypatch.setattr(threads, "SMALL", 0)
    whole = trained(Threads(clock=Clock(t1=3, t2=1, t4=2)))
    first = Threads(clock=Clock(t1=3, t2=1, t4=2))
    seen = trained(first, stopped)
    later = Clock(t1=1, t2=9, t4=9) if first.chosen else Clock(t1=3, t2=1, t4=2)  # the machine may be busy by then
    second = Threads(clock=later)
    second.load(first.state())
    assert seen + trained(second, start=stopped) == whole


def test_a_checkpoint_keeps_the_choice(four_threads, tmp_path, monkeypatch):
    """The number that a run chose is that of its resume, whatever would be quicker then."""
    monkeypatch.setattr(threads, "SMALL", 0)
    torch.set_num_threads(2)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.seen = nn.Linear(2, 1), []

        def forward(self, batch, generator):
            self.seen.append(torch.get_num_threads())
            self.total = self.network(batch).square().mean()
            return self

        def scalars(self):
            return {}

        def check_finite(self):
            pass

    def run(steps, clock):
        loss = Loss()
        lit = LossModule(loss, loss.network, LoopSpec(max_steps=steps, accelerator="cpu", log_every=100))
        lit.threads = Threads(clock=clock)
        fit(lit, torch.randn(8, 2), tmp_path / "run", batch_size=4, progress=False)
        return loss.seen, lit.threads.chosen

    tried = [1] * (WARM + EACH) + [2] * EACH
    assert run(13, Clock(t1=3, t2=1)) == ([*tried, 2, 2], 2)
    assert run(16, Clock(t1=1, t2=3)) == ([2, 2, 2], 2)
    assert torch.get_num_threads() == 2


def test_bad_numbers(unchecked):
    with pytest.raises(InputError, match="training.threads = 0: must be an integer >= 1"):
        LoopSpec(threads=0)
