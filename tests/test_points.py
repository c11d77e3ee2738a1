"""Points from files and pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmdflow import InputError
from mmdflow.data import POINT_FILES, density_points, read_points, save_points


@pytest.mark.parametrize("ending", POINT_FILES)
def test_points_survive_a_round_trip(ending, tmp_path):
    points = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    save_points(points, tmp_path / f"points{ending}")
    torch.testing.assert_close(read_points(tmp_path / f"points{ending}").float(), points)
    assert [file.name for file in tmp_path.iterdir()] == [f"points{ending}"]


@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt"])
def test_events_keep_their_shape_and_dtype(ending, tmp_path):
    images = torch.randn(4, 1, 5, 6, dtype=torch.float64)
    save_points(images, tmp_path / f"images{ending}")
    assert torch.equal(read_points(tmp_path / f"images{ending}"), images)


def test_csv_with_and_without_names(tmp_path):
    (tmp_path / "named.csv").write_text("x,y\n1,2\n3,4.5\n")
    (tmp_path / "bare.csv").write_text("1,2\n3,4.5\n")
    for name in ("named", "bare"):
        assert read_points(tmp_path / f"{name}.csv").tolist() == [[1, 2], [3, 4.5]]


def test_integers_become_floats_and_lines_columns(tmp_path):
    np.save(tmp_path / "line.npy", np.arange(4))
    points = read_points(tmp_path / "line.npy")
    assert points.shape == (4, 1)
    assert points.dtype == torch.float32


def test_npz_takes_samples_or_its_only_array(tmp_path):
    np.savez(tmp_path / "two.npz", other=np.zeros((1, 1)), samples=np.ones((2, 2)))
    assert read_points(tmp_path / "two.npz").tolist() == [[1, 1], [1, 1]]
    np.savez(tmp_path / "bad.npz", a=np.zeros((1, 1)), b=np.ones((2, 2)))
    with pytest.raises(InputError, match="holds a, b: must hold `samples`, or one array"):
        read_points(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"1 2", "must end in .npy, .npz, .csv, .pt"),
        ("x.npy", None, "no such file"),
        ("x.npy", b"not numpy", "not readable"),
        ("x.npz", b"PK\x03\x04", "not readable"),
        ("x.pt", b"\x80\x04", "not readable"),
        ("x.csv", b"x,y\n1,2\n3,abc\n", "not readable"),
        ("x.csv", b"1,\n2,3\n", "not readable"),
        ("x.csv", b"x,y\n", "holds no row of numbers"),
        ("x.csv", b"", "holds no row of numbers"),
        ("x.csv", b"1,nan\n", "holds 1 NaN"),
    ],
)
def test_bad_files_are_told_in_one_line(name, content, message, tmp_path, recwarn):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_points(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_name(tmp_path):
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf1,2\n3,4\n")
    assert read_points(tmp_path / "bom.csv").tolist() == [[1, 2], [3, 4]]


def test_arrays_of_other_numbers(tmp_path):
    np.save(tmp_path / "big.npy", np.arange(4.0).astype(">f8"))
    np.save(tmp_path / "long.npy", np.arange(4.0).astype(np.longdouble))
    for name in ("big", "long"):
        assert torch.equal(read_points(tmp_path / f"{name}.npy"), torch.arange(4.0, dtype=torch.float64)[:, None])
    torch.save(torch.nn.Parameter(torch.ones(2, 2)), tmp_path / "parameter.pt")
    assert not read_points(tmp_path / "parameter.pt").requires_grad
    np.save(tmp_path / "complex.npy", np.ones((2, 2), complex))
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    torch.save(torch.ones(2, 2).to_sparse(), tmp_path / "sparse.pt")
    torch.save(torch.ones(2, 2, dtype=torch.complex64), tmp_path / "complex.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    for name in ("complex.npy", "words.npy", "sparse.pt", "complex.pt", "module.pt"):
        with pytest.raises(InputError, match="not readable") as error:
            read_points(tmp_path / name)
        assert "\n" not in str(error.value)
        assert "weights_only" not in str(error.value)


def test_pickles_do_not_run(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    torch.save({"a": torch.ones(2)}, tmp_path / "dict.pt")
    for name in ("objects.npy", "dict.pt"):
        with pytest.raises(InputError, match="not readable"):
            read_points(tmp_path / name)


def test_density_points_follow_the_dark_pixels(tmp_path, generator):
    picture = np.full((20, 40), 255, np.uint8)
    picture[:5, 30:] = 0  # the upper right corner
    picture[15:, :10] = 127  # the lower left one, half as dark
    Image.fromarray(picture).save(tmp_path / "corners.png")
    points = density_points(tmp_path / "corners.png", 3000, generator)
    right = points[:, 0] > 0
    assert right.double().mean().item() == pytest.approx(2 / 3, abs=0.03)
    assert (points[right] >= torch.tensor([1.0, 0.5])).all()
    assert (points[~right] <= torch.tensor([-1.0, -0.5])).all()
    assert points[:, 0].abs().max() <= 2


def test_transparent_is_white_and_invert_takes_the_light(tmp_path, generator):
    picture = np.zeros((10, 10, 4), np.uint8)
    picture[:, :5, 3] = 255  # the left half is black, the right transparent
    Image.fromarray(picture).save(tmp_path / "half.png")
    assert (density_points(tmp_path / "half.png", 100, generator)[:, 0] <= 0).all()
    assert (density_points(tmp_path / "half.png", 100, generator, invert=True)[:, 0] >= 0).all()


def test_pictures_that_cannot_serve(tmp_path):
    Image.new("L", (4, 4), 255).save(tmp_path / "white.png")
    (tmp_path / "broken.png").write_bytes(b"no")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tiff")
    for name, message in (
        ("float.tiff", "holds floating numbers"),
        ("white.png", "holds no dark pixel"),
        ("broken.png", "not a readable picture"),
        ("none.png", "no such"),
    ):
        with pytest.raises(InputError, match=message):
            density_points(tmp_path / name, 5)
