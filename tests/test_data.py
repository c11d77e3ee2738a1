import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from mmdflow import InputError
from mmdflow.data import TOYS, load, read_idx, toy


def write_idx(path, array, *, compress=True):
    data = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if compress else data)


@pytest.fixture
def idx_folder(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part, n in (("train", 20), ("t10k", 7)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (n, 28, 28), np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte", rng.integers(0, 10, n, np.uint8), compress=False)
    return folder


def test_digits():
    digits = load("digits")
    assert digits.train.shape == (1438, 1, 8, 8)
    assert digits.test.shape == (359, 1, 8, 8)
    assert digits.train.min() == -1
    assert digits.train.max() == 1
    assert digits.test_labels.bincount().min() >= 35
    assert torch.equal(load("digits").test, digits.test)
    rows = {tuple(x.flatten().tolist()) for x in digits.test}
    assert not rows & {tuple(x.flatten().tolist()) for x in digits.train}


def test_digits_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.datasets")
    images = torch.tensor(sklearn.load_digits().images).float() / 8 - 1
    digits = load("digits")
    ours = torch.cat([digits.train, digits.test]).flatten(1)
    assert sorted(ours.tolist()) == sorted(images.flatten(1).tolist())


def test_idx_by_path_and_by_variable(idx_folder, monkeypatch):
    by_path = load("mnist", str(idx_folder))
    assert by_path.train.shape == (20, 1, 28, 28)
    assert by_path.test_labels.shape == (7,)
    assert by_path.train.min() >= -1
    assert by_path.train.max() <= 1
    monkeypatch.setenv("MMDFLOW_DATA", str(idx_folder.parent))
    assert torch.equal(load("mnist").train, by_path.train)


def test_missing_files_say_where_to_put_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MMDFLOW_DATA", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match="set MMDFLOW_DATA to the folder that holds mnist/"):
        load("mnist")
    with pytest.raises(InputError, match="no such folder"):
        load("mnist", str(tmp_path / "nowhere"))
    (tmp_path / "fashion-mnist").mkdir()
    with pytest.raises(InputError, match="holds no train-images-idx3-ubyte.gz"):
        load("fashion")


def test_without_files_they_come_from_the_hub(tmp_path, monkeypatch):
    hub = pytest.importorskip("datasets")
    monkeypatch.delenv("MMDFLOW_DATA", raising=False)
    monkeypatch.setenv("MMDFLOW_CACHE", str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 28, 28), np.uint8)
    kinds = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(10)})
    parts = {}
    for split, part in zip(("train", "test"), pixels, strict=True):
        rows = {"image": [Image.fromarray(x) for x in part], "label": [0, 1, 2, 3, 9]}
        parts[split] = hub.Dataset.from_dict(rows, features=kinds).to_iterable_dataset()
    monkeypatch.setattr(hub, "load_dataset", lambda name, config, streaming: parts)
    found = load("mnist")
    assert torch.equal(found.test, torch.from_numpy(pixels[1, :, None].astype(np.float32) / 127.5 - 1))
    assert found.train_labels.tolist() == [0, 1, 2, 3, 9]
    assert found.source == "Hugging Face hub: ylecun/mnist"


def damaged(how, path):
    array = np.zeros((3, 4, 4), np.uint8)
    write_idx(path, array, compress=how == "gzip")
    data = path.read_bytes()
    if how == "gzip":
        path.write_bytes(data[: len(data) // 2])
    elif how == "magic":
        path.write_bytes(b"\x00\x00\x0d\x03" + data[4:])
    elif how == "short":
        path.write_bytes(data[:-5])
    elif how == "header":
        path.write_bytes(data[:6])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "huge":
        path.write_bytes(struct.pack(">BBBB3I", 0, 0, 8, 3, 2**31, 2**31, 2**31))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("gzip", "corrupt gzip"),
        ("magic", "starts with 00000d03: must be an IDX file"),
        ("short", "holds 43 bytes of data: its header"),
        ("header", "truncated in its header"),
        ("empty", "starts with nothing"),
        ("huge", "holds 0 bytes of data"),
    ],
)
def test_damaged_idx(tmp_path, how, message):
    damaged(how, tmp_path / "file")
    with pytest.raises(InputError, match=message):
        read_idx(tmp_path / "file")


def test_mismatched_labels(idx_folder):
    write_idx(idx_folder / "train-labels-idx1-ubyte", np.zeros(19, np.uint8), compress=False)
    with pytest.raises(InputError, match="do not belong together"):
        load("mnist", str(idx_folder))


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_seeded_and_standardised(name, generator):
    x = toy(name, 20_000, generator)
    assert x.shape == (20_000, 2)
    assert torch.equal(x, toy(name, 20_000, torch.Generator().manual_seed(0)))
    assert x.mean(0).abs().max() < 0.1
    assert 0.7 < x.std() < 1.3


def test_checkerboard_fills_its_dark_squares_only(generator):
    square = (toy("checkerboard", 10_000, generator) / 1.7 + 1) * 2
    assert (square.floor().sum(1) % 2 == 0).all()


def test_unknown_names_suggest():
    with pytest.raises(InputError, match="did you mean 'mnist'"):
        load("mnits")
    with pytest.raises(InputError, match="did you mean 'rings'"):
        toy("ring", 5)
