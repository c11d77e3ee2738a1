"""What pictures show: their range, orientation, transparency, palettes, and what lies beside them in a folder."""

import logging
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from mmdflow import InputError
from mmdflow.data import density_points, images, read_images

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMDFLOW_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


def shown(file, channels=1):
    """The bytes of a picture by both of the ways in, which agree."""
    alone = ((read_images(file, channels) + 1) * 127.5).round().byte()
    (decoded,) = images(file.parent, channels=channels).pixels
    assert torch.equal(alone[0], torch.from_numpy(np.array(decoded)))
    return alone[0].numpy()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_has_all_of_its_range(folder, suffix):
    numbers = np.array([[0, 257, 128 * 257, 65535], [1, 100, 30000, 40000]], np.uint16)
    Image.fromarray(numbers).save(folder / f"a{suffix}")
    assert np.array_equal(shown(folder / f"a{suffix}")[0], np.rint(numbers / 257))


def test_a_dark_16_bit_picture_stays_dark(folder):
    Image.fromarray(np.full((2, 2), 200, np.uint16)).save(folder / "a.png")
    assert shown(folder / "a.png").max() == 1  # 200 / 257


@pytest.mark.parametrize(
    ("top", "unit"), [(1.0, 1 / 255), (0.5, 1 / 255), (255.0, 1.0), (200.0, 1.0), (65535.0, 257.0), (300.0, 257.0)]
)
def test_floating_pictures_are_taken_by_their_range(folder, top, unit):
    numbers = np.linspace(0, top, 12, dtype=np.float32).reshape(3, 4)
    Image.fromarray(numbers).save(folder / "a.tif")
    assert np.array_equal(shown(folder / "a.tif")[0], np.rint(numbers.astype(np.float64) / unit))


def test_32_bit_integers_are_bytes_or_16_bits(folder):
    for numbers, unit in (
        (GREY.astype(np.int32), 1),
        (GREY.astype(np.int32) * 257, 257),
        (GREY.astype(np.int32) % 2, 1),
    ):
        Image.fromarray(numbers).save(folder / "a.tif")
        assert np.array_equal(shown(folder / "a.tif")[0], np.rint(numbers / unit))


@pytest.mark.parametrize("number", [-1.0, 70000.0, np.nan, np.inf])
def test_numbers_without_a_range_are_refused(folder, number):
    Image.fromarray(np.array([[0, number]], np.float32)).save(folder / "a.tif")
    for read in (lambda: read_images(folder / "a.tif", 1), lambda: images(folder, channels=1)):
        with pytest.raises(InputError, match=r"a\.tif: .*holds numbers in .*: must lie in \[0, 1\], \[0, 255\]"):
            read()


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["png", "16-bit", "tif", "webp"])
def test_pictures_are_turned_as_their_exif_says(folder, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = folder / {"16-bit": "a.png"}.get(kind, f"a.{kind}")
    stored = GREY.astype(np.uint16) * 257 if kind == "16-bit" else GREY
    Image.fromarray(stored).save(file, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    assert np.array_equal(shown(file)[0], TURNS[orientation](GREY))


def test_transparent_pixels_lie_on_white(folder):
    colours = np.zeros((1, 4, 4), np.uint8)
    colours[0, :, 0] = 200  # red beneath
    colours[0, :, 3] = [255, 0, 128, 51]
    Image.fromarray(colours).save(folder / "a.png")
    red, green = shown(folder / "a.png", 3)[:2, 0].astype(int)
    assert np.abs(red - [200, 255, 227, 244]).max() <= 1
    assert np.abs(green - [0, 255, 127, 204]).max() <= 1


def test_grey_with_alpha_and_palettes_with_a_transparent_colour(folder):
    both = np.dstack([np.array([[10, 10]], np.uint8), np.array([[255, 0]], np.uint8)])
    Image.fromarray(both, "LA").save(folder / "a.png")
    assert shown(folder / "a.png").tolist() == [[[10, 255]]]
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(folder / "a.png", transparency=1)
    assert shown(folder / "a.png", 3)[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]


def test_16_bit_grey_with_a_transparent_number(folder):
    numbers = np.array([[1000, 65535, 32896]], np.uint16)
    info = PngImagePlugin.PngInfo()
    Image.fromarray(numbers).save(folder / "a.png", pnginfo=info)
    data = (folder / "a.png").read_bytes()
    body = b"tRNS" + struct.pack(">H", 1000)
    chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    (folder / "a.png").write_bytes(data[:33] + chunk + data[33:])  # behind the header
    assert shown(folder / "a.png").tolist() == [[[255, 255, 128]]]


def test_palettes_and_two_tones_are_what_they_show(folder):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    picture.putpalette([0, 0, 0, 250, 250, 250])
    picture.save(folder / "a.png")
    assert shown(folder / "a.png").tolist() == [[[0, 250]]]
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(folder / "a.png")
    assert shown(folder / "a.png").tolist() == [[[0, 255]]]
    Image.new("CMYK", (2, 1), (0, 0, 0, 0)).save(folder / "b.tif")
    assert read_images(folder / "b.tif", 3).min() == 1


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_several_pictures_in_a_file_are_refused_or_skipped(folder, suffix):
    frames = [Image.fromarray(np.full((4, 4), v, np.uint8)) for v in (0, 100, 200)]
    frames[0].save(folder / f"b{suffix}", save_all=True, append_images=frames[1:])
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "a.png")
    with pytest.raises(InputError, match=r"holds 3 pictures: must be one"):
        images(folder, channels=1)
    with pytest.raises(InputError, match=r"holds 3 pictures: must be one"):
        read_images(folder / f"b{suffix}", 1)
    assert images(folder, channels=1, corrupt="skip").skipped == 1


def test_what_is_no_picture_of_the_set_is_passed_over_or_counted(folder, caplog):
    for place in (
        "a.png",
        "deep/b.PNG",
        ".thumbnails/a.png",
        "deep/.ipynb_checkpoints/b.png",
        "__MACOSX/c.png",
        "._a.png",
    ):
        (folder / place).parent.mkdir(exist_ok=True)
        Image.fromarray(GREY).save(folder / place)
    (folder / "album.png").mkdir()  # a folder by its kind
    with caplog.at_level(logging.WARNING):
        assert len(images(folder, channels=1)) == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: pictures beside its sub-folders (1): these are not taken for classes"
    ]
    for name in ("labels.csv", "c.heic", "d.gif", "e.gif", "README"):
        (folder / name).write_text("")
    with caplog.at_level(logging.WARNING):
        assert len(images(folder, channels=1)) == 2
    assert "5 files are no pictures that are read (2 .gif, 1 " in caplog.text


def test_points_are_drawn_where_a_16_bit_picture_is_dark(folder):
    numbers = np.full((8, 8), 65535, np.uint16)
    numbers[:, :4] = 20000
    Image.fromarray(numbers).save(folder / "a.png")
    points = density_points(folder / "a.png", 200, torch.Generator().manual_seed(0))
    assert points[:, 0].max() <= 0
