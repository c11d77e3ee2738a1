"""Threads of a training on the CPU: one for small networks, as many as are quickest for larger ones."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

#: Parameters times entries of an event below which a network is small: 4e5 on 8 x 8 pixels is, on 28 x 28 it is not.
SMALL = 5 * 10**7
#: Steps with one thread before any is measured, steps with each number of threads, and how many of these are not counted.
WARM, EACH, SKIPPED = 3, 4, 1
#: More threads are taken where they take at most this part of the time: a busy machine may take their share away later.
GAIN = 0.85


class Threads:
    """The number of threads of a training, chosen once and kept over resumes, so that these change no result.

    Small networks take one thread. Two threads of a busy machine wait for each other many times a step, and gain nothing on an
    idle one. Larger networks try 1, 2, 4, ... threads up to torch's number in their first steps, as the step's index says, and
    keep the smallest that no larger one beats clearly.

    Args:
        given: the number, or None to choose.
        clock: measures steps.

    Attributes:
        chosen: the number, 0 until it is chosen.
    """

    def __init__(self, given: int | None = None, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.chosen = given or 0
        self._clock = clock
        self._numbers: list[int] = []
        self._seconds: dict[int, list[float]] = {}
        self._trying = 0  # threads of the present step, if it is measured
        self._since = 0.0

    @contextmanager
    def training(self) -> Iterator[None]:
        """Choose among torch's number of threads and fewer inside the block; give torch its number back after it."""
        before = torch.get_num_threads()
        if not self._numbers:
            self._numbers = sorted({before, *(2**k for k in range(before.bit_length()))})
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def begin_step(self, step: int, learned: nn.Module, batch: Tensor) -> None:
        """Set the number of threads of a step, and measure it where that is due. Outside of `training` nothing is done."""
        self._trying = 0
        if not self._numbers or batch.device.type != "cpu":
            return
        if not self.chosen:
            work = sum(p.numel() for p in learned.parameters()) * batch[0].numel()
            if work < SMALL or len(self._numbers) == 1:
                self.chosen = 1
        tried = (step - WARM) // EACH
        if self.chosen or step < WARM:
            number = self.chosen or 1
        elif tried >= len(self._numbers):
            number = self.chosen = self._quickest()
        else:
            number = self._numbers[tried]
            self._trying = number if (step - WARM) % EACH >= SKIPPED else 0
        if number != torch.get_num_threads():
            torch.set_num_threads(number)
        self._since = self._clock()

    def end_step(self) -> None:
        """Note how long the step took."""
        if self._trying:
            self._seconds.setdefault(self._trying, []).append(self._clock() - self._since)

    def _quickest(self) -> int:
        """Return the least number of threads that no larger one beats clearly."""
        taken = {number: statistics.median(seconds) for number, seconds in self._seconds.items()}
        best = 1
        for number in sorted(taken):
            if taken[number] < GAIN * taken.get(best, float("inf")):
                best = number
        return best

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {"chosen": self.chosen, "numbers": self._numbers, "seconds": self._seconds}

    def load(self, state: dict[str, Any]) -> None:
        """Go on as a checkpoint left off. A number that was given now goes over one that was chosen then."""
        self.chosen = self.chosen or state["chosen"]
        self._numbers, self._seconds = state["numbers"], state["seconds"]
