"""The processes of a run, and how they exchange tensors."""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from mmdflow import _arrays, _checks
from mmdflow._tensors import normal_like
from mmdflow.distributed.watch import Watch, connections
from mmdflow.errors import InputError, RankLostError, reason
from mmdflow.types import ArrayLike

#: Seconds that stand for no limit.
_NEVER = 1e8
#: Looks after the other ranks, where there are any.
_watch: Watch | None = None

#: Rows of noise that are drawn at a time: a multiple of 16, in which torch draws normal numbers on the CPU.
DRAWN = 2**16


@dataclass(frozen=True)
class Ranks:
    """The processes that share a computation; one process alone is the case size = 1, in which nothing is exchanged.

    Attributes:
        rank: the number of this process, 0, 1, ...
        size: how many there are.

    Every method is called by all ranks, in the same order. Where a process has ended, it raises RankLostError in all others.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0

    def part(self, length: int) -> slice:
        """Return this rank's rows of `length` rows, in the order of the ranks; their numbers differ by at most one."""
        return slice(self.rank * length // self.size, (self.rank + 1) * length // self.size)

    def total(self, x: Tensor) -> Tensor:
        """Return the sum of x over the ranks: the same on each."""
        return self._reduced(x, dist.ReduceOp.SUM)

    def least(self, x: Tensor) -> Tensor:
        """Return the entry-wise minimum over the ranks."""
        return self._reduced(x, dist.ReduceOp.MIN)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return bool(self.total(self._number(int(flag))))

    def counts(self, count: int) -> list[int]:
        """Return the number that each rank gives."""
        given = self._number(0).new_zeros(self.size)
        given[self.rank] = count
        return [int(number) for number in self.total(given)]

    def from_first(self, x: Tensor) -> Tensor:
        """Return the x of rank 0; of the same shape on all."""
        if self.size == 1:
            return x
        sent = x.detach().clone()
        with _explained():
            dist.broadcast(sent, 0)
        return sent

    def gather(self, x: Tensor) -> Tensor:
        """Return the rows of all ranks, in their order."""
        if self.size == 1:
            return x
        counts = self.counts(len(x))
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[: len(x)] = x
        every = [torch.empty_like(padded) for _ in counts]
        with _explained():
            dist.all_gather(every, padded)
        return torch.cat([rows[:count] for rows, count in zip(every, counts, strict=True)])

    def exchange(self, parts: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Give every rank one part, parts[r] to rank r; return what each gave to this one, of these shapes."""
        if self.size == 1:
            return list(parts)
        sizes = [int(torch.Size(shape).numel()) for shape in shapes]
        sent = torch.cat([part.reshape(-1) for part in parts])
        received = sent.new_empty(sum(sizes))
        with _explained():
            dist.all_to_all_single(received, sent, sizes, [part.numel() for part in parts])
        return [flat.reshape(shape) for flat, shape in zip(received.split(sizes), shapes, strict=True)]

    def ring(self, *block: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield the blocks of all ranks, this rank's first. Each is passed on while the ranks compute on it.

        A block is tensors of as many rows. A rank holds two at a time, so that memory does not grow with the number of ranks.
        """
        counts = self.counts(len(block[0]))
        block = tuple(part.contiguous() for part in block)
        for hop in range(1, self.size + 1):
            coming: tuple[Tensor, ...] = ()
            works: list[dist.Work] = []
            if hop < self.size:
                count = counts[(self.rank - hop) % self.size]
                coming = tuple(part.new_empty(count, *part.shape[1:]) for part in block)
                with _explained():
                    works = dist.batch_isend_irecv(
                        [dist.P2POp(dist.isend, part, (self.rank + 1) % self.size) for part in block]
                        + [dist.P2POp(dist.irecv, part, (self.rank - 1) % self.size) for part in coming]
                    )
            yield block
            with _explained():
                for work in works:
                    work.wait()
            block = coming

    def wait(self) -> None:
        """Wait for all."""
        self.total(self._number(0))

    def common(self, generator: torch.Generator | None) -> torch.Generator | None:
        """Return a generator that draws the same on every rank: the given one, or one that rank 0 seeds.

        Raises:
            InputError: for generators that are not in the same state.
        """
        if self.size == 1:
            return generator
        if generator is None:
            return torch.Generator().manual_seed(int(self.from_first(torch.randint(2**62, ()))))
        state = generator.get_state()
        if self.any(not torch.equal(state, self.from_first(state))):
            raise InputError("generator: differs between ranks; seed it with the same number on each")
        return generator

    def _reduced(self, x: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return x
        total = x.detach().clone()
        with _explained():
            dist.all_reduce(total, operation)
        return total

    @staticmethod
    def _number(value: int) -> Tensor:
        return torch.tensor(value)


@dataclass(frozen=True)
class Rows:
    """Where this rank's rows lie among those of all ranks.

    Attributes:
        ranks: the ranks.
        start: the rows of the ranks before.
        count: this rank's rows.
        total: the rows of all.
    """

    ranks: Ranks
    start: int
    count: int
    total: int

    @classmethod
    def of(cls, ranks: Ranks, count: int) -> Rows:
        """Return the place of this rank's rows."""
        counts = ranks.counts(count)
        return cls(ranks, sum(counts[: ranks.rank]), count, sum(counts))

    def normal(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw standard normal noise for the rows of all ranks, and return this rank's: the noise of a run on one rank.

        On the CPU it is drawn in blocks, so that memory stays that of a block.
        """
        if self.ranks.size == 1:
            return normal_like(like, generator)
        size = like[:1].numel()
        first, last = self.start * size, (self.start + self.count) * size
        own = like.new_empty(self.count * size)
        place = 0
        for length in _blocks(self.total * size, whole=generator is not None and generator.device.type != "cpu"):
            block = normal_like(own.new_empty(length), generator)
            low, high = max(place, first), min(place + length, last)
            if low < high:
                own[low - first : high - first] = block[low - place : high - place]
            place += length
        return own.reshape(like.shape)

    def weights(self, given: ArrayLike, x: Tensor) -> Tensor:
        """Return weights of the rows x, checked, and scaled to the sum 1 over all ranks."""
        own = _checks.weights("weights", given, x)
        if self.ranks.size == 1:
            return own
        given = _arrays.tensor("weights", given).to(x.device, torch.float64)
        mass = (given / -self.ranks.least(-given.max())).sum()  # in units of the largest of all, so that it is in range
        return own * (mass / self.ranks.total(mass)).to(own)


def current() -> Ranks:
    """Return the ranks that this process is connected to; itself alone where it is not."""
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size())


def connect(timeout: float | None = None, silence: float | None = None) -> Ranks:
    """Connect the processes that torchrun, or another launcher with its variables, has started; return the ranks.

    A script that calls it runs on one process as well, where nothing happens. NCCL exchanges what lies on GPUs, where every
    process has one of its own, and gloo all else.

    A process that ends is noticed at once. For one that hangs, or a machine that is cut off, every rank gives signs of life
    through a thread, and with them how much it has computed, read and written. Where a rank gives none, or none has done anything
    for `silence` seconds, the exchanges of the others fail by RankLostError. So a step may take as long as it needs. A rank that
    waits for a GPU spins, which looks like work.

    Args:
        timeout: seconds after which an exchange that others do not join fails, also where these compute on, as in an endless
            loop. By default the variable MMDFLOW_RANK_TIMEOUT, or 600.
        silence: seconds without a sign, or in which no rank has done anything, after which the run is given up; `math.inf` for
            never, as for a debugger. By default the variable MMDFLOW_RANK_SILENCE, or 45.

    Example:
        >>> from mmdflow import distributed
        >>> distributed.connect()
        Ranks(rank=0, size=1)
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        timeout = min(_seconds("timeout", timeout, "MMDFLOW_RANK_TIMEOUT", 600.0), _NEVER)
        silence = _seconds("silence", silence, "MMDFLOW_RANK_SILENCE", 45.0)
        local = int(os.environ.get("LOCAL_RANK", "0"))
        gpus = torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if gpus:
            torch.cuda.set_device(local)
        with _explained():
            store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
            join("cpu:gloo,cuda:nccl" if gpus else "gloo", store, rank, size, timeout=timeout, silence=silence)
    return current()


def join(backend: str, store: Store, rank: int, size: int, *, timeout: float, silence: float) -> None:
    """Connect this process by a store that all ranks share, and look after the others; the limits are those of `connect`."""
    global _watch
    before = connections().items()
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))
    if silence < _NEVER:
        _watch = Watch(rank, size, store, dict(connections().items() - before), silence)
        atexit.register(_watch.stop)


def check_others() -> None:
    """Raise RankLostError where the run was given up; for loops that wait without an exchange."""
    if _watch is not None and _watch.found:
        raise RankLostError(f"another process of this run ended, or hangs ({_watch.found})")


def _seconds(field: str, given: float | None, variable: str, default: float) -> float:
    """Return a limit: the given one, else that of a variable of the environment, else the default."""
    name, value = (variable, os.environ.get(variable, default)) if given is None else (field, given)
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise InputError(f"{name} = {value!r}: must be seconds > 0, or inf")
    return seconds


def _blocks(length: int, whole: bool) -> Iterator[int]:
    """Yield lengths of blocks that sum to a length; the last has at least 16 numbers, so that they are drawn as in one block."""
    step = length if whole else DRAWN
    while length > step + 16:
        yield step
        length -= step
    yield length


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process has ended, or does not answer."""
    return isinstance(error, RankLostError | dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL"))


def loss_reason(error: BaseException) -> str:
    """Return what is known of a rank that was lost: what the watch found, or what the exchange said."""
    return (_watch is not None and _watch.found) or reason(error)


@contextmanager
def _explained() -> Iterator[None]:
    """Say in one line that another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if not is_loss(error):
            raise
        raise RankLostError(f"another process of this run ended, or hangs ({loss_reason(error)})") from error
