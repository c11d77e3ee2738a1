"""Samples in bulk: files of some runs each, which any number of processes make, and which a killed job goes on with.

A run, particles that flow together, is made whole by one process, from noise that its number alone decides. So the samples are
the same on any number of ranks, in whatever order, and after any interruption; to the last bit where as many threads compute.
They depend on `particles_per_run`. No process waits for another: one that ends takes the file it was making with it, no more.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow import _checks
from mmdflow._files import make_folder, new_file, read_json, reading, write_json
from mmdflow.distributed import Ranks
from mmdflow.distributed.ranks import check_others
from mmdflow.errors import InputError
from mmdflow.methods.base import Pipeline

#: The file that says what the others hold.
INDEX = "index.json"
#: Samples that a file holds, or the next multiple of a run's.
PER_FILE = 1000


@dataclass(frozen=True)
class Plan:
    """Which samples are drawn, and where they go.

    Attributes:
        num_samples: how many.
        particles_per_run: how many flow together.
        seed: of everything random.
    """

    num_samples: int
    particles_per_run: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checks.count("num_samples", self.num_samples)
        _checks.count("particles_per_run", self.particles_per_run)
        _checks.count("seed", self.seed, 0)

    @property
    def files(self) -> list[str]:
        """The names of the files."""
        return [f"samples-{i:06d}.npy" for i in range(-(-self.num_samples // self.per_file))]

    @property
    def per_file(self) -> int:
        """The samples of a file, but perhaps of the last: whole runs."""
        return self.particles_per_run * max(1, -(-PER_FILE // self.particles_per_run))

    def runs(self, file: int) -> list[tuple[int, int]]:
        """Return number and size of every run of a file."""
        end = min(self.num_samples, (file + 1) * self.per_file)
        starts = range(file * self.per_file, end, self.particles_per_run)
        return [(start // self.particles_per_run, min(self.particles_per_run, end - start)) for start in starts]

    def noise(self, run: int) -> torch.Generator:
        """Return the generator of a run: a function of the seed and the run's number."""
        digest = hashlib.sha256(f"{self.seed} {run}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def sample_shards(
    pipeline: Pipeline, plan: Plan, folder: Path, ranks: Ranks, *, progress: bool = False, **settings: Any
) -> None:
    """Make the files of a plan that are not there yet; called by every rank, of which each makes its share of them.

    Rank 0 returns when all files are there. `index.json` names them with the number of samples in each.

    Args:
        pipeline: a trained pipeline.
        plan: what to draw.
        folder: a new one, or one of the same plan, pipeline and settings.
        ranks: the ranks.
        progress: show one bar, of the samples of all ranks.
        settings: of the sampler.

    Raises:
        InputError: for a folder that holds something else.
        DivergedError: when particles become non-finite.
    """
    _open(folder, plan, pipeline, settings)
    missing = [i for i, name in enumerate(plan.files) if not (folder / name).exists()]
    with closing(_Bar(folder, plan, shown=progress and ranks.first)) as bar:
        for file in missing[ranks.rank :: ranks.size]:
            parts = []
            for run, size in plan.runs(file):
                parts.append(pipeline(size, generator=plan.noise(run), **settings).particles.cpu())
                bar.update()
            _check_there(folder)
            with new_file(folder / plan.files[file]) as aside:
                np.save(aside, torch.cat(parts).numpy())
        bar.update()
        while ranks.first and not bar.done:
            check_others()
            _check_there(folder)
            if ranks.size == 1:
                raise InputError(f"{folder}: files were removed while it was in use; the same command makes them again")
            time.sleep(0.5)
            bar.update()


def _check_there(folder: Path) -> None:
    if not is_shards(folder):
        raise InputError(f"{folder}: removed while it was in use; the same command makes it again")


def is_shards(path: str | Path) -> bool:
    """Whether a folder holds samples in files."""
    return (Path(path) / INDEX).is_file()


def read_shards(folder: str | Path) -> Float[Tensor, "n *event"]:
    """Return the samples of all files, in their order.

    Raises:
        InputError: for a file that is missing or damaged.
    """
    folder = Path(folder)
    index = read_json(folder / INDEX)
    parts = []
    for name, count in index["files"].items():
        with reading(folder / name, "not readable samples", missing="missing; the same command goes on and makes it"):
            samples = torch.from_numpy(np.load(folder / name, allow_pickle=False))
        if len(samples) != count:
            raise InputError(f"{folder / name}: holds {len(samples)} samples: must be {count}, as {INDEX} has it")
        parts.append(samples)
    return torch.cat(parts)


def _open(folder: Path, plan: Plan, pipeline: Pipeline, settings: dict[str, Any]) -> None:
    """Write the index into a new folder, or compare it with the one that is there."""
    counts = [sum(size for _, size in plan.runs(file)) for file in range(len(plan.files))]
    index = {
        **vars(plan),
        "settings": settings,
        "trained": pipeline.provenance,
        "files": dict(zip(plan.files, counts, strict=True)),
    }
    index = json.loads(json.dumps(index, default=str))
    file = folder / INDEX
    if not file.exists():
        strays = any(path.name.startswith("samples-") for path in make_folder(folder).iterdir())
        if strays and not file.exists():  # which another rank may have written by now
            raise InputError(f"{folder}: holds samples without {INDEX}; choose another folder")
        write_json(file, index)
        return
    there = read_json(file)
    for name, value in index.items():
        if there.get(name) != value:
            shown = f" = {value!r}, {there.get(name)!r} there" if name in vars(plan) else ""
            raise InputError(f"{folder}: holds samples of another {name}{shown}; choose another folder")


class _Bar:
    """One bar over the samples whose files are there, whoever made them."""

    def __init__(self, folder: Path, plan: Plan, *, shown: bool) -> None:
        self.folder, self.plan = folder, plan
        self.bar = tqdm(total=plan.num_samples, desc="sample", unit="sample", disable=not shown, initial=self._made())

    def _made(self) -> int:
        there = {path.name for path in self.folder.glob("samples-*.npy")}
        files = enumerate(self.plan.files)
        return sum(sum(size for _, size in self.plan.runs(i)) for i, name in files if name in there)

    @property
    def done(self) -> bool:
        """Whether all are there."""
        return self._made() == self.plan.num_samples

    def update(self) -> None:
        """Look again."""
        if not self.bar.disable:
            self.bar.update(self._made() - self.bar.n)

    def close(self) -> None:
        """Close it."""
        self.bar.close()
