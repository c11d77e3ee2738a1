"""Damaged, hostile and absurd files: one line with the file and the cause, and no memory taken for what cannot be."""

import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch

from mmdflow import DMMDPipeline, InputError
from mmdflow._files import read_json, reading, sha256
from mmdflow.data import read_images, read_points
from mmdflow.data.idx import read_idx
from mmdflow.recipe.read import read_yaml


def npy(header, data=b""):
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def png(*chunks):
    made = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        made += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return made


def read_grey(path):
    return read_images(path, 1)


BAD = {
    "unclosed header": ("a.npy", npy("{'descr': '<f4', 'shape': (\n"), read_points),  # tokenize.TokenError
    "absurd shape": (
        "a.npy",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,)}\n"),
        read_points,
    ),
    "deep header": ("a.npy", npy("{'descr': " + "(" * 9000 + "}\n"), read_points),
    "objects": ("a.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", b"\x80\x04N."), read_points),
    "no zip": ("a.npz", b"PK\x03\x04" + bytes(40), read_points),
    "not a tensor": ("a.pt", b"PK\x03\x04" + bytes(40), read_points),
    "no numbers": ("a.csv", b"1,2\n3,x\n", read_points),
    "no text": ("a.csv", b"\xff\xfe\x00\x01", read_points),
    "deep json": ("a.json", b"[" * 100_000, read_json),
    "huge number": ("a.json", b"1" * 10_000, read_json),
    "deep yaml": ("a.yaml", b"a: " + b"[" * 5000, read_yaml),
    "tagged yaml": ("a.yaml", b"a: !!timestamp 2001-99-99", read_yaml),
    "gzip cut": ("a.gz", b"\x1f\x8b\x08\x00" + bytes(6) + b"\x07\xff", read_idx),
    "bomb": ("a.png", png((b"IHDR", struct.pack(">IIBBBBB", 2**16, 2**16, 8, 0, 0, 0, 0)), (b"IDAT", b"")), read_grey),
    "zlib": ("a.png", png((b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)), (b"IDAT", b"abc")), read_grey),
    "tiff loop": ("a.tif", b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00", read_grey),
    "empty": ("a.png", b"", read_grey),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_reader_raises_becomes_one_line_with_file_and_cause(name, tmp_path):
    file, data, read = BAD[name]
    (tmp_path / file).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read(tmp_path / file)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / file))
    assert "\n" not in message
    assert len(message) < len(str(tmp_path)) + 300


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError("deep"), IndexError("3"), KeyError("x"), zlib.error("z")]
)
def test_the_gate_takes_every_kind(error):
    with pytest.raises(InputError, match="^a file: not readable \\(") as caught, reading("a file"):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [InputError("mine"), ImportError("missing"), KeyboardInterrupt()])
def test_the_gate_lets_through_what_is_clear_already(error):
    with pytest.raises(type(error)) as caught, reading("a file"):
        raise error
    assert caught.value is error


@pytest.fixture
def folder(tmp_path):
    return DMMDPipeline.from_pretrained("digits").save_pretrained(tmp_path / "p")


def edit(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("file", ["model.safetensors", "target_means.safetensors"])
def test_one_changed_bit_in_weights_or_means_is_seen(folder, file):
    data = bytearray((folder / file).read_bytes())
    data[-3] ^= 1
    (folder / file).write_bytes(data)
    with pytest.raises(InputError, match=rf"{file}: damaged or another file: its SHA-256 is \w+\.\.\., and was \w+"):
        DMMDPipeline.from_pretrained(folder)


def test_hashes_stand_in_the_config_and_folders_without_them_load(folder):
    hashes = json.loads((folder / "config.json").read_text())["sha256"]
    assert hashes == {file: sha256(folder / file) for file in ("model.safetensors", "target_means.safetensors")}
    edit(folder, lambda config: config.pop("sha256"))
    pipelines = (DMMDPipeline.from_pretrained(name) for name in ("digits", folder))
    drawn = [pipe(4, num_levels=3, generator=torch.Generator().manual_seed(0)).particles for pipe in pipelines]
    assert torch.equal(*drawn)


def test_a_file_outside_the_folder_is_not_hashed(folder):
    edit(folder, lambda config: config["sha256"].update({"../../secret": "0"}))
    DMMDPipeline.from_pretrained(folder)  # no such file in the folder


@pytest.mark.parametrize("size", [10**6, 10**12])
def test_absurd_sizes_are_refused_before_memory_is_taken(folder, size):
    for change in (
        lambda config: config["features"].update(num_features=size),
        lambda config: config["features"].update(event_shape=[1, size, size]),
        lambda config: config["features"].update(channels=[size, size]),
    ):
        edit(folder, change)
        tracemalloc.start()
        with pytest.raises(InputError, match=r"p/(config\.json|model\.safetensors): "):
            DMMDPipeline.from_pretrained(folder)
        assert tracemalloc.get_traced_memory()[1] < 2**26
        tracemalloc.stop()


def test_another_size_is_refused_by_the_first_weight_that_does_not_fit(folder):
    edit(folder, lambda config: config["features"].update(num_features=config["features"]["num_features"] + 1))
    with pytest.raises(
        InputError, match=r"model.safetensors: does not fit the network in config.json \(\S+: \[.*\], needs \["
    ):
        DMMDPipeline.from_pretrained(folder)


def test_points_of_a_damaged_archive_are_never_another_array(tmp_path):
    array = np.random.default_rng(0).normal(size=(20, 2))
    np.savez_compressed(tmp_path / "a.npz", samples=array)
    data = (tmp_path / "a.npz").read_bytes()
    for i in range(0, len(data), 7):
        changed = bytearray(data)
        changed[i] ^= 0x10
        (tmp_path / "a.npz").write_bytes(changed)
        try:
            found = read_points(tmp_path / "a.npz").numpy()
        except InputError:
            continue
        assert np.array_equal(found, array)
