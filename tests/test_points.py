"""Points from files and pictures."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mmdflow import InputError
from mmdflow.data import (
    POINT_FILES,
    READ_POINT_FILES,
    density_points,
    is_points_file,
    point_tables,
    read_points,
    save_points,
)


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
        ("x.txt", b"1 2", "must end in .npy, .npz, .csv, .pt, .parquet, .h5ad"),
        ("x.npy", None, "no such file"),
        ("x.npy", b"not numpy", "not readable"),
        ("x.npz", b"PK\x03\x04", "not readable"),
        ("x.pt", b"\x80\x04", "not readable"),
        ("x.csv", b"x,y\n1,2\n3,abc\n", "not readable"),
        ("x.csv", b"1,\n2,3\n", "not readable"),
        ("x.csv", b"x,y\n", "holds no row of numbers"),
        ("x.csv", b"", "holds no row of numbers"),
        ("x.csv", b"1,nan\n", "holds 1 NaN"),
        ("x.parquet", None, "x.parquet: no such file"),
        ("x.h5ad#X_pca", None, "x.h5ad: no such file"),
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
    for name, cause in (("objects.npy", "no array of NumPy, or one of Python objects"), ("dict.pt", "holds a dict")):
        with pytest.raises(InputError, match=f"not readable .*{cause}"):
            read_points(tmp_path / name)


def test_a_file_of_another_kind_is_not_said_to_be_a_pickle(tmp_path):
    (tmp_path / "table.npy").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match="not readable .it is no array of NumPy, or one of Python objects"):
        read_points(tmp_path / "table.npy")


class TestParquet:
    @pytest.fixture
    def write(self, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")

        def write(columns):
            parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
            return tmp_path / "x.parquet"

        return write

    def test_columns_are_coordinates(self, write):
        points = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
        assert torch.equal(read_points(write({name: points[:, i].numpy() for i, name in enumerate("abc")})), points)
        integers = read_points(write({"a": [1, 2], "b": [True, False]}))
        assert integers.dtype == torch.float32
        assert integers.tolist() == [[1, 1], [2, 0]]

    def test_the_index_that_pandas_left_is_no_coordinate(self, tmp_path):
        pytest.importorskip("pyarrow")
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]})
        frame[frame.a > 1].to_parquet(tmp_path / "x.parquet")
        assert read_points(tmp_path / "x.parquet").tolist() == [[2, 5], [3, 6]]

    def test_pandas_serves_where_pyarrow_is_missing(self, tmp_path, monkeypatch):
        pandas = pytest.importorskip("pandas")
        (tmp_path / "x.parquet").write_bytes(b"")
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [3, 4]})
        monkeypatch.setattr(pandas, "read_parquet", lambda path: frame)  # as fastparquet would
        assert read_points(tmp_path / "x.parquet").tolist() == [[1, 3], [2, 4]]

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"a": [1.0], "who": ["x"], "when": [None]}, "columns who, when hold no plain numbers: all columns must"),
            ({"a": [[1.0, 2.0]]}, "columns a hold no plain numbers"),
            ({"a": [1.0, float("nan")]}, "holds 1 NaN"),
            ({"a": [1, None], "b": [1, 2]}, "holds 1 NaN"),
            ({}, "holds no column"),
        ],
    )
    def test_what_is_no_point_is_told(self, write, columns, message):
        with pytest.raises(InputError, match=f"x.parquet.*{message}") as error:
            read_points(write(columns))
        assert "\n" not in str(error.value)

    def test_damaged(self, tmp_path):
        pytest.importorskip("pyarrow")
        (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
        with pytest.raises(InputError, match="x.parquet: not readable"):
            read_points(tmp_path / "x.parquet")


class TestCells:
    @pytest.fixture
    def cells(self):
        pytest.importorskip("anndata")
        sparse = pytest.importorskip("scipy.sparse")
        return sparse.random(20, 7, 0.3, format="csr", dtype=np.float32, random_state=0)

    def save(self, path, counts, **obsm):
        import anndata

        anndata.AnnData(X=counts, obsm=obsm).write_h5ad(path)
        return path

    @pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
    def test_counts_become_dense(self, tmp_path, cells, layout):
        counts = cells.toarray() if layout == "dense" else cells.asformat(layout)
        assert torch.equal(read_points(self.save(tmp_path / "x.h5ad", counts)), torch.from_numpy(cells.toarray()))

    def test_an_embedding_is_read_by_its_name(self, tmp_path, cells):
        pca = np.random.default_rng(0).normal(size=(20, 3))
        file = self.save(tmp_path / "x.h5ad", cells, X_pca=pca, X_umap=pca[:, :2])
        assert torch.equal(read_points(f"{file}#X_pca"), torch.from_numpy(pca))
        with pytest.raises(InputError, match=r"x.h5ad#X_tsne: no such entry of obsm: must be one of X_pca, X_umap"):
            read_points(f"{file}#X_tsne")

    def test_what_is_too_large_when_dense_points_to_the_embeddings(self, tmp_path, cells, monkeypatch):
        file = self.save(tmp_path / "x.h5ad", cells, X_pca=np.ones((20, 3)))
        monkeypatch.setattr(point_tables, "MAX_BYTES", 20 * 7 * 4)
        assert read_points(file).shape == (20, 7)
        monkeypatch.setattr(point_tables, "MAX_BYTES", 20 * 7 * 4 - 1)
        with pytest.raises(InputError, match=r"X, \[20, 7\], takes .* as x.h5ad#NAME \(there are: X_pca\)"):
            read_points(file)
        assert read_points(f"{file}#X_pca").shape == (20, 3)

    def test_without_counts(self, tmp_path, cells):
        file = self.save(tmp_path / "x.h5ad", None, X_pca=np.ones((20, 3)))
        with pytest.raises(InputError, match=r"holds no X; take an entry of obsm"):
            read_points(file)

    def test_other_files(self, tmp_path, cells):
        (tmp_path / "bad.h5ad").write_bytes(b"no cells")
        with pytest.raises(InputError, match="bad.h5ad: not readable"):
            read_points(tmp_path / "bad.h5ad")
        with pytest.importorskip("h5py").File(tmp_path / "other.h5ad", "w") as file:
            file["weights"] = np.ones(3)
        with pytest.raises(InputError, match=r"other.h5ad: (holds no X|not readable)"):
            read_points(tmp_path / "other.h5ad")


@pytest.mark.parametrize(
    ("name", "packages", "extra"),
    [("x.parquet", ("pyarrow", "pandas"), "hub"), ("x.h5ad", ("anndata",), "single-cell")],
)
def test_without_the_package_it_says_how_to_get_it(name, packages, extra, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"")
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{name}: .* pip install 'mmdflow\[{extra}\]'"):
        read_points(tmp_path / name)


@pytest.mark.parametrize("ending", READ_POINT_FILES[len(POINT_FILES) :])
def test_tables_are_only_read(ending, tmp_path):
    with pytest.raises(InputError, match="must end in .npy, .npz, .csv, .pt$"):
        save_points(torch.ones(2, 2), tmp_path / f"x{ending}")
    assert is_points_file(f"x{ending.upper()}")


def test_only_cells_have_entries():
    assert is_points_file("x.h5ad#X_pca")
    assert not is_points_file("x.csv#a")
    assert is_points_file("a#b.csv")


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
