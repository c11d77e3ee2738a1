"""Snapshots in a file: the same flow, one copy in memory, whole at every moment."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from mmdflow import MMD, DivergedError, Gaussian, InputError, flow
from mmdflow.distributed import Ranks
from mmdflow.flows import Record, Snapshots


def cloud(n=30, d=2, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def moved(snapshots=None, dtype=torch.float32, every=2, **settings):
    field = MMD(cloud(dtype=dtype), Gaussian(1.0))
    settings = {"step_size": 0.5, "num_steps": 6} | settings
    return flow(field, cloud(20, seed=1, dtype=dtype) + 1, save_every=Record(every, snapshots=snapshots), **settings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_file_holds_what_memory_would(dtype, tmp_path):
    file = tmp_path / "deep" / "moves.npy"
    kept, written = moved(dtype=dtype), moved(file, dtype=dtype)
    assert torch.equal(kept.trajectory, written.trajectory)
    assert torch.equal(kept.values, written.values)
    np.testing.assert_array_equal(np.load(file), kept.trajectory.numpy())
    assert [path.name for path in file.parent.iterdir()] == ["moves.npy"]


def test_the_trajectory_is_a_map_of_the_file_and_keeps_its_kind(tmp_path):
    file = tmp_path / "moves.npy"
    result = flow(MMD(cloud().numpy()), cloud(9, seed=1).numpy(), num_steps=2, save_every=Record(snapshots=file))
    assert isinstance(result.trajectory, np.ndarray)
    before = file.read_bytes()
    result.trajectory[:] = 0  # reaches no file
    assert file.read_bytes() == before
    mapped = np.load(file, mmap_mode="r")
    np.testing.assert_array_equal(mapped[-1], result.particles)


def test_events_of_any_shape_and_single_particles(tmp_path):
    x = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))
    result = flow(MMD(x + 1), x, num_steps=3, save_every=Record(1, snapshots=tmp_path / "a.npy"))
    assert result.trajectory.shape == (4, 1, 3, 4)


def test_a_flow_that_ends_early_keeps_what_it_made(tmp_path):
    file = tmp_path / "moves.npy"

    def interrupt(step, x):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        moved(file, callback=interrupt)
    np.testing.assert_array_equal(np.load(file), moved().trajectory[:3].numpy())
    with pytest.raises(DivergedError):
        moved(Snapshots(file, overwrite=True), callback=lambda step, x: x / 0 if step == 3 else None)
    assert np.load(file).shape == (2, 20, 2)


def test_a_full_disk_keeps_whole_snapshots(tmp_path, monkeypatch):
    file, heads = tmp_path / "moves.npy", []
    from mmdflow.flows import snapshots

    head = snapshots._head

    def failing(array, count):
        heads.append(count)
        if len(heads) == 5:  # of the third snapshot
            raise OSError(28, "No space left on device")
        return head(array, count)

    monkeypatch.setattr(snapshots, "_head", failing)
    with pytest.raises(InputError, match=r"moves.npy: cannot be written \(No space left on device\)"):
        moved(file)
    assert np.load(file).shape == (2, 20, 2)


def test_a_killed_flow_leaves_a_file_that_numpy_reads(tmp_path):
    code = (
        "import torch, time\nfrom mmdflow import MMD, flow\nfrom mmdflow.flows import Record\n"
        "x = torch.zeros(50, 2)\n"
        f"record = Record(1, snapshots={str(tmp_path / 'moves.npy')!r})\n"
        "flow(MMD(x + 1), x, step_size=1e-4, num_steps=10**6, save_every=record,\n"
        "     callback=lambda step, x: time.sleep(0.005))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        deadline = time.monotonic() + 60
        files = []
        while time.monotonic() < deadline and not (files and files[0].stat().st_size > 5000):
            time.sleep(0.05)
            files = list(tmp_path.glob(".moves.*.tmp.npy"))
        process.send_signal(signal.SIGKILL)
        process.wait()
    made = np.load(files[0])
    assert made.shape[0] > 5
    assert made.shape[1:] == (50, 2)
    assert (np.diff(made[:, 0, 0]) > 0).all()
    assert not (tmp_path / "moves.npy").exists()


def test_files_are_not_lost(tmp_path, unchecked):
    file = tmp_path / "moves.npy"
    file.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        moved(file)
    assert file.read_text() == "mine"
    with pytest.raises(InputError, match="must end in .npy"):
        moved(tmp_path / "moves.npz")
    with pytest.raises(InputError, match="NumPy has no such type"):
        moved(tmp_path / "b.npy", dtype=torch.bfloat16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moves.npy"]
    moved(Snapshots(file, overwrite=True))
    assert np.load(file).shape == (4, 20, 2)


def test_a_record_is_checked_before_the_flow(tmp_path, unchecked):
    with pytest.raises(InputError, match="every = 0"):
        Record(0)
    with pytest.raises(InputError, match="every = 1.5"):
        Record([1, 1.5])
    record = Record(1, snapshots=tmp_path / "moves.npy")
    with pytest.raises(InputError, match="snapshots with sharded = True on 2 processes: must be None"):
        record.begin(Ranks(0, 2))
