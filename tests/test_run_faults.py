"""Runs that are shared, damaged, killed, or on a full disk: nothing lost, nothing silent."""

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmdflow import MMD, InputError, flow
from mmdflow._files import aside_of, litter, new_file, new_folder, write_json
from mmdflow._lock import check_held, locked
from mmdflow.flows import Record
from tests.test_training import RECIPE, assert_same, train, weights, with_training

pytest.importorskip("lightning")
from mmdflow.runs import train as run
from mmdflow.training.run import read_checkpoint

HOLD = """
import sys, time
from pathlib import Path
from mmdflow._lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_that_is_in_use_says_by_whom(tmp_path, holder):
    with (
        pytest.raises(InputError, match=rf"in use by process {holder.pid} of \S+ on \S+, for 0 minutes; wait"),
        locked(tmp_path),
    ):
        pass
    recipe = RECIPE
    with pytest.raises(InputError, match=f"in use by process {holder.pid} "):
        run.train(recipe, tmp_path, progress=False)


def test_a_run_is_not_overwritten_while_it_is_trained(tmp_path, holder):
    (tmp_path / "recipe.yaml").write_text("data: {name: digits}")
    with pytest.raises(InputError, match=f"in use by process {holder.pid} "):
        run.open_run(RECIPE, tmp_path, overwrite=True)
    assert (tmp_path / "recipe.yaml").read_text() == "data: {name: digits}"


def test_the_lock_of_a_killed_process_is_said_and_taken_over(tmp_path, holder, caplog):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".lock").exists()
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert f"left by process {holder.pid} of " in caplog.text
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_lock_file_with_any_content_is_no_obstacle(tmp_path, text):
    (tmp_path / ".lock").write_text(text)
    with locked(tmp_path), pytest.raises(InputError, match="in use by process"), locked(tmp_path):
        pass


def test_a_finished_run_leaves_no_lock_and_two_checkpoints(tmp_path):
    train(tmp_path / "run")
    assert not (tmp_path / "run" / ".lock").exists()
    assert {file.name for file in (tmp_path / "run" / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of 12 steps, and a copy of it without its pipeline, as it is before the end."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "whole")
    shutil.copytree(folder / "whole", folder / "cut")
    shutil.rmtree(folder / "cut" / "pipeline")
    return folder


def damage(path, place):
    """Change one bit of a part of the archive that torch alone does not check."""
    with zipfile.ZipFile(path) as archive:
        part = max(archive.infolist(), key=lambda part: part.file_size)
    data = bytearray(path.read_bytes())
    data[part.header_offset + 200 + int(place * (part.file_size - 200))] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_changed_bit_is_seen_and_the_checkpoint_before_goes_on_to_the_same_end(stopped, tmp_path, caplog, place):
    folder = tmp_path / "run"
    shutil.copytree(stopped / "cut", folder)
    damage(folder / "checkpoints" / "last.ckpt", place)
    with caplog.at_level(logging.WARNING):
        train(folder)
    assert "last.ckpt: damaged checkpoint (ValueError): going on from the checkpoint before it" in caplog.text
    assert_same(weights(folder), weights(stopped / "whole"))


def test_a_kill_between_the_two_renames_loses_nothing(stopped, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(stopped / "cut", folder)
    (folder / "checkpoints" / "last.ckpt").unlink()
    with caplog.at_level(logging.WARNING):
        assert read_checkpoint(folder)["global_step"] == 10
    assert "last.ckpt: missing; going on from the checkpoint before it" in caplog.text
    train(folder)
    assert_same(weights(folder), weights(stopped / "whole"))


def test_a_damaged_checkpoint_without_another_is_refused(stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped / "cut", folder)
    (folder / "checkpoints" / "previous.ckpt").unlink()
    damage(folder / "checkpoints" / "last.ckpt", 0.5)
    with pytest.raises(InputError, match="last.ckpt: damaged checkpoint .*; remove it to start again"):
        train(folder)


def test_what_is_checked_is_what_is_loaded(stopped, tmp_path, monkeypatch):
    """Another process that replaces the file after it was read changes nothing."""
    folder = tmp_path / "run"
    shutil.copytree(stopped / "cut", folder)
    (folder / "checkpoints" / "last.ckpt").unlink()  # so that there are steps to do
    from mmdflow.training import run as training

    read = training.read_checkpoint

    def and_replace(*args):
        found = read(*args)
        (folder / "checkpoints" / "previous.ckpt").write_bytes(b"another")
        return found

    monkeypatch.setattr(training, "read_checkpoint", and_replace)
    train(folder)
    assert_same(weights(folder), weights(stopped / "whole"))


LITTER = [".pipeline.k3_x9zab", ".pipeline.k3_x9zab.old", ".metrics.999999999.tmp.json", ".recipe.999999999.tmp.yaml"]


def leave_litter(folder):
    folder.mkdir(exist_ok=True)
    for name in LITTER:
        if "tmp" in name:
            (folder / name).write_text("half")
        else:
            (folder / name).mkdir()
            (folder / name / "model.safetensors").write_text("half")


def test_what_a_killed_run_left_is_told_apart(tmp_path):
    leave_litter(tmp_path)
    kept = [f".metrics.{os.getpid()}.tmp.json", ".mine", ".pipeline", ".other.k3_x9zab", ".git"]
    for name in kept:
        (tmp_path / name).write_text("")
    assert {path.name for path in litter(tmp_path, {"pipeline", "metrics.json", "recipe.yaml"})} == {*LITTER}


def test_a_resume_goes_on_over_the_litter_of_a_killed_run(stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped / "cut", folder)
    leave_litter(folder)
    train(folder)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_overwriting_takes_the_litter_along_and_nothing_else(stopped, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stopped / "cut", folder)
    leave_litter(folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"in use and holds 'notes\.txt'"):
        run.open_run(RECIPE, folder, overwrite=True)
    (folder / "notes.txt").unlink()
    run.open_run(RECIPE, folder, overwrite=True)
    assert {path.name for path in folder.iterdir()} == {"recipe.yaml", "provenance.json"}


def test_a_folder_of_litter_alone_is_a_new_one(tmp_path):
    leave_litter(tmp_path / "run")
    run.open_run(RECIPE, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"recipe.yaml", "provenance.json"}


@pytest.fixture
def full_disk():
    """No file of this process may grow beyond 20 kB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


WRITERS = {
    "bytes": lambda aside: aside.write_bytes(bytes(10**6)),
    "numpy": lambda aside: np.zeros(10**6).tofile(aside),
    "npz": lambda aside: np.savez(aside, x=np.zeros(10**6)),
    "torch": lambda aside: torch.save(torch.zeros(10**6), aside),
    "safetensors": lambda aside: save_file({"x": torch.zeros(10**6)}, aside),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path, full_disk, kind):
    file = tmp_path / "a.npz"
    file.write_text("before")
    with pytest.raises(InputError, match=r"a\.npz: cannot be written \(") as caught, new_file(file) as aside:
        WRITERS[kind](aside)
    assert "\n" not in str(caught.value)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "kept").write_text("before")
    with (
        pytest.raises(InputError, match=r"p: cannot be written \("),
        new_folder(tmp_path / "p", overwrite=True) as folder,
    ):
        WRITERS[kind](folder / "x.npz")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.npz", "kept", "p"]
    assert file.read_text() == "before"


def test_a_full_disk_keeps_the_checkpoint_that_there_is(stopped, tmp_path, full_disk):
    folder = tmp_path / "run"
    run.open_run(with_training(max_steps=12), folder)
    with pytest.raises(InputError, match=r"last\.ckpt: cannot be written \("):
        run.train(RECIPE, folder, progress=False)
    assert list((folder / "checkpoints").iterdir()) == []
    assert not (folder / ".lock").exists()


def test_errors_of_the_block_itself_pass(tmp_path):
    with pytest.raises(RuntimeError, match="^mine$"), new_file(tmp_path / "a"):
        raise RuntimeError("mine")
    with pytest.raises(InputError, match="^mine$"), new_folder(tmp_path / "b"):
        raise InputError("mine")
    write_json(tmp_path / "c.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_a_lock_whose_folder_was_replaced_is_not_taken_from_its_new_owner(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with locked(folder):
        check_held(folder)
        shutil.rmtree(folder)
        with pytest.raises(InputError, match="run: removed or replaced while it was in use; nothing more is written"):
            check_held(folder)
        folder.mkdir()
        with locked(folder):
            check_held(folder)
        (folder / ".lock").write_text("of another")
    assert (folder / ".lock").read_text() == "of another"
    check_held(folder)  # not held: another's business


def test_a_run_whose_folder_is_removed_ends_and_makes_no_new_one(tmp_path):
    folder = tmp_path / "run"
    recipe = with_training(max_steps=12)
    run.open_run(recipe, folder)
    removed = iter([False] * 4 + [True])

    def clock():
        if next(removed, False):
            shutil.rmtree(folder)
        return 0.0

    with pytest.raises(
        InputError, match=r"removed or replaced while|last\.ckpt: cannot be written \(No such file"
    ) as caught:
        run.train(recipe, folder, progress=False, clock=clock)
    assert "\n" not in str(caught.value)
    assert not folder.exists()


def test_what_a_killed_process_left_beside_a_file_goes_when_the_file_is_written(tmp_path, caplog):
    file = tmp_path / "a.json"
    mine = aside_of(file).name
    dead = mine.replace(str(os.getpid()), "999999999")
    kept = [mine.replace("a.", "b."), ".a.999999999-00000000.tmp.json", ".a.999999999.tmp.json", "a.json.bak"]
    for name in (dead, *kept):
        (tmp_path / name).write_text("half")
    with caplog.at_level(logging.WARNING):
        write_json(file, 1)
    assert f"{tmp_path / dead}: left by a process that was killed; removed" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", *kept}


def test_an_interrupt_between_the_renames_of_a_folder_puts_the_old_one_back(tmp_path, monkeypatch):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "x").write_text("before")
    replace, calls = os.replace, iter(range(9))

    def interrupted(*names):
        if next(calls) == 1:
            raise KeyboardInterrupt
        replace(*names)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "p", overwrite=True) as aside:
        (aside / "x").write_text("after")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert (tmp_path / "p" / "x").read_text() == "before"


def test_the_snapshots_of_a_killed_flow_are_named_and_stay(tmp_path, caplog):
    file = tmp_path / "moves.npy"
    left = tmp_path / aside_of(file).name.replace(str(os.getpid()), "999999999")
    np.save(left, np.zeros(3))
    with caplog.at_level(logging.WARNING):
        flow(MMD([[1.0]]), [[0.0]], num_steps=2, save_every=Record(1, snapshots=file))
    assert f"{left}: the snapshots of a flow that was killed; numpy reads it" in caplog.text
    assert left.exists()
    assert np.load(file).shape == (3, 1, 1)
