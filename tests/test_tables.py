"""Tables move row by row: all rows, in their order, with header, ids and all that stands beside the numbers."""

import csv
import sys

import numpy as np
import pytest
import torch

from mmdflow import MMD, InputError, flow
from mmdflow.cli import main
from mmdflow.data import read_points, read_rows
from tests.test_cli import complaint

RNG = np.random.default_rng(0)


def write(path, rows, names=None, delimiter=","):
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        if names:
            writer.writerow(names)
        writer.writerows(rows)
    return path


def read(path, delimiter=","):
    with path.open(newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


@pytest.fixture
def tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["sample_id", "age", "note", "weight"]
    source = [[f"{7 * i % 31}", *RNG.normal(size=1), f"a, {i}", *RNG.normal(size=1)] for i in range(31)]
    target = [[f"x{i}", *RNG.normal(size=1) + 4, "", *RNG.normal(size=1) - 4] for i in range(40)]
    write(tmp_path / "A.csv", source, names)
    write(tmp_path / "B.csv", target, names)
    return tmp_path


def run(*arguments, steps=30):
    return main(["flow", *arguments, f"--num_steps={steps}"])


def numbers(rows):
    return np.array([[float(row[1]), float(row[3])] for row in rows[1:]])


def test_all_rows_come_back_in_their_order_with_all_else(tables, capsys):
    assert run("--source=A.csv", "--target=B.csv", "--save=moved.csv") == 0
    out = capsys.readouterr().out
    assert "moves    2 columns (age, weight) of 31 rows" in out
    assert "keeps    2 columns (sample_id, note)" in out
    assert "no test: all 40 rows of the target are used" in out
    before, after = read(tables / "A.csv"), read(tables / "moved.csv")
    assert after[0] == before[0]
    assert [[row[0], row[2]] for row in after] == [[row[0], row[2]] for row in before]
    expected = flow(MMD(numbers(read(tables / "B.csv"))), numbers(before), num_steps=30).particles
    np.testing.assert_allclose(numbers(after), expected, rtol=0, atol=1e-6)


def test_a_wide_table_comes_back_row_for_row(tables):
    """The journey of the practitioner: 50 columns and ids that tell a row wherever it stands."""
    names = ["id", *[f"g{j}" for j in range(50)]]
    ids = RNG.permutation(400)
    values = np.round(RNG.normal(size=(400, 50)), 6)
    write(tables / "wide.csv", [[i, *row] for i, row in zip(ids, values, strict=True)], names)
    write(tables / "goal.csv", [[i, *row] for i, row in enumerate(np.round(RNG.normal(size=(400, 50)) + 2, 6))], names)
    assert run("--source=wide.csv", "--target=goal.csv", "--save=moved.csv", steps=1) == 0
    after = read(tables / "moved.csv")
    assert [int(row[0]) for row in after[1:]] == ids.tolist()
    moved = np.array([[float(entry) for entry in row[1:]] for row in after[1:]])
    cost = ((moved[:, None] - values[None]) ** 2).sum(-1)
    assert (cost.argmin(1) == np.arange(400)).all()  # after a short step each row is nearest to itself
    assert np.abs(moved - values).max(1).min() > 1e-3


def test_columns_and_ids_are_chosen(tables):
    assert run("--source=A.csv", "--target=B.csv", "--save=moved.csv", "--columns=weight", steps=5) == 0
    before, after = read(tables / "A.csv"), read(tables / "moved.csv")
    assert [row[:3] for row in after] == [row[:3] for row in before]
    assert [row[3] for row in after[1:]] != [row[3] for row in before[1:]]
    assert run("--source=A.csv", "--target=B.csv", "--save=moved.csv", "--id=age,note", "--overwrite", steps=5) == 0
    assert [row[:3] for row in read(tables / "moved.csv")] == [row[:3] for row in before]
    (tables / "flow.yaml").write_text("source: A.csv\ntarget: B.csv\ncolumns: [age, weight]\nnum_steps: 2\n")
    assert main(["flow", "--config=flow.yaml", "--save=config.csv"]) == 0


def test_the_targets_columns_are_found_by_name(tables):
    shuffled = [[row[3], row[1], "1"] for row in read(tables / "B.csv")[1:]]
    write(tables / "C.csv", shuffled, ["weight", "age", "more"])
    assert run("--source=A.csv", "--target=B.csv", "--save=b.csv", "--seed=1") == 0
    assert run("--source=A.csv", "--target=C.csv", "--save=c.csv", "--seed=1") == 0
    assert (tables / "b.csv").read_text() == (tables / "c.csv").read_text()


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_delimiters_are_found_and_kept(tables, delimiter):
    rows = read(tables / "A.csv")
    write(tables / "d.csv", rows[1:], rows[0], delimiter)
    assert run("--source=d.csv", "--target=B.csv", "--save=moved.csv") == 0
    assert run("--source=A.csv", "--target=B.csv", "--save=comma.csv") == 0
    assert read(tables / "moved.csv", delimiter) == read(tables / "comma.csv")
    assert run("--source=d.csv", "--target=B.csv", "--save=moved.tsv") == 0
    assert read(tables / "moved.tsv", "\t") == read(tables / "comma.csv")
    assert read_rows(tables / "d.csv").points.shape == (31, 2)


def test_decimal_commas_are_read_and_written(tables):
    (tables / "de.csv").write_text("id;x;y\n1;0,5;1\n2;1,5;-2e-1\n")
    assert torch.equal(
        read_rows(tables / "de.csv").points, torch.tensor([[0.5, 1.0], [1.5, -0.2]], dtype=torch.float64)
    )
    assert run("--source=de.csv", "--target=de.csv", "--save=moved.csv", steps=1) == 0
    assert "." not in (tables / "moved.csv").read_text()
    assert read_rows(tables / "moved.csv").points.shape == (2, 2)
    assert read_points(tables / "de.csv").tolist() == [[1, 0.5, 1], [2, 1.5, -0.2]]


def test_comments_before_the_header_stay(tables):
    (tables / "c.csv").write_text("# made by hand\nid,x\n1,0.5\n2,1.5\n")
    assert run("--source=c.csv", "--target=c.csv", "--save=moved.csv", steps=1) == 0
    assert (tables / "moved.csv").read_text().startswith("# made by hand\nid,x\n1,")


def test_further_rows_follow_the_same_flow(tables, capsys):
    rows = read(tables / "A.csv")
    write(tables / "new.csv", [*rows[5:8], ["99", "0.1", "not there before", "0.2"]], rows[0])
    settings = ["--source=A.csv", "--target=B.csv", "--divergence.kernel=gaussian"]
    assert run(*settings, "--save=moved.csv", "--apply=new.csv") == 0
    assert "written: moved.csv, moved-new.csv" in capsys.readouterr().out
    moved, new = read(tables / "moved.csv"), read(tables / "moved-new.csv")
    assert [row[2] for row in new[1:]] == ["a, 4", "a, 5", "a, 6", "not there before"]
    np.testing.assert_allclose(numbers(new)[:3], numbers(moved)[4:7], rtol=0, atol=1e-6)
    assert run(*settings, "--save=plain.csv") == 0
    assert (tables / "plain.csv").read_text() == (tables / "moved.csv").read_text()


def test_a_subset_of_rows_is_taken_on_demand_only(tables, capsys):
    assert run("--source=A.csv", "--target=B.csv", "--save=m.csv", "--num_particles=10", "--num_targets=25") == 0
    assert "MMD test p = " in capsys.readouterr().out
    order = [row[0] for row in read(tables / "A.csv")]
    taken = [row[0] for row in read(tables / "m.csv")]
    assert len(taken) == 11
    assert taken == [name for name in order if name in taken]


def test_a_file_that_holds_points_alone_says_what_it_leaves_out(tables, capsys):
    assert run("--source=A.csv", "--target=B.csv", "--save=m.npy", steps=2) == 0
    assert (
        "leaves   2 columns (sample_id, note) out of m.npy: .csv, .tsv, .parquet keep them" in capsys.readouterr().out
    )
    assert read_points(tables / "m.npy").shape == (31, 2)


def test_an_entry_of_an_archive_comes_back_among_the_others(tables):
    np.savez(tables / "s.npz", X=RNG.normal(size=(20, 3)), y=np.arange(20), names=np.array(list("ab")))
    np.savez(tables / "t.npz", X=RNG.normal(size=(30, 3)) + 2, samples=np.zeros((4, 3)))
    assert run("--source=s.npz#X", "--target=t.npz#X", "--save=moved.npz") == 0
    before, after = np.load(tables / "s.npz"), np.load(tables / "moved.npz")
    assert after.files == before.files
    assert (after["y"] == before["y"]).all()
    assert after["X"].mean() > 1
    assert read_points(f"{tables / 'moved.npz'}#X").shape == (20, 3)
    with pytest.raises(InputError, match="no array Z: must be one of X, y, names"):
        read_points(f"{tables / 's.npz'}#Z")


def test_parquet_keeps_its_columns(tables):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    values = RNG.normal(size=(20, 2)).astype("f4")
    names = [f"c{i}" for i in range(20)]
    held = pyarrow.table({"cell_id": names, "a": values[:, 0], "when": names, "b": values[:, 1], "n": [1] * 20})
    parquet.write_table(held, tables / "s.parquet")
    with pytest.raises(InputError, match="has no column 'a'"):
        read_rows(tables / "A.csv", like=read_rows(tables / "s.parquet"))
    assert run("--source=s.parquet", "--target=s.parquet", "--save=moved.parquet", "--id=n", steps=2) == 0
    after = parquet.read_table(tables / "moved.parquet")
    assert after.column_names == held.column_names
    assert after.column("a").type == pyarrow.float32()
    for name in ("cell_id", "when", "n"):
        assert after.column(name) == held.column(name)
    assert run("--source=s.parquet", "--target=s.parquet", "--save=moved.csv", "--id=n", steps=2) == 0
    assert read(tables / "moved.csv")[1][0] == "c0"
    assert run("--source=A.csv", "--target=B.csv", "--save=text.parquet", steps=2) == 0
    assert parquet.read_table(tables / "text.parquet").column("sample_id").to_pylist()[1] == 7


def test_parquet_without_pyarrow_is_told(tables, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tables / "s.parquet").write_bytes(b"")
    arguments = ["flow", "--source=s.parquet", "--target=B.csv", "--save=m.csv"]
    assert "s.parquet: parquet files need pyarrow" in complaint(capsys, arguments, code=1)


def test_nothing_is_replaced_unasked(tables, capsys):
    (tables / "moved.csv").write_text("mine")
    arguments = ["--source=A.csv", "--target=B.csv", "--save=moved.csv"]
    assert "moved.csv: is there already; --overwrite replaces it" in complaint(capsys, ["flow", *arguments])
    assert (tables / "moved.csv").read_text() == "mine"
    assert run(*arguments, "--overwrite", steps=1) == 0
    (tables / "moved-A.csv").write_text("mine, too")
    (tables / "moved.csv").unlink()
    capsys.readouterr()
    assert "moved-A.csv: is there already" in complaint(capsys, ["flow", *arguments, "--apply=A.csv"])
    (tables / "f.npy").write_text("mine")
    assert "f.npy: is there already" in complaint(capsys, ["flow", "--save=f.npy"])


def test_an_interrupted_table_is_saved_as_a_table(tables, monkeypatch):
    def interrupted(divergence, x, *, callback, **settings):
        callback[0](7, x + 1)
        raise KeyboardInterrupt

    monkeypatch.setattr("mmdflow.runs.particles.flow", interrupted)
    assert main(["flow", "--source=A.csv", "--target=B.csv", "--save=moved.csv"]) == 130
    before, after = read(tables / "A.csv"), read(tables / "moved.csv")
    assert [row[0] for row in after] == [row[0] for row in before]
    np.testing.assert_allclose(numbers(after), numbers(before) + 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n3\n", "bad.csv: line 3 has 1 entries between ',': must have 2, as the first"),
        ("a;b\n1;2\n3;4;5\n", "bad.csv: line 3 has 3 entries between ';': must have 2, as the first"),
        ("age,weight\n1,2\n3,\n", "column 'weight' has 1 entries that are no finite numbers, such as '': fill them"),
        ("age,weight\n1,2\nnan,3\n", "column 'age' has 1 entries that are no finite numbers, such as 'nan'"),
        ("a,a\n1,2\n", "has two columns 'a': names must differ"),
        ("name\nx\n", "has no column of numbers to move; there are name"),
        ("age,other\n1,2\n", "B.csv: has no column 'other'"),
        ("", "holds no row of numbers"),
    ],
)
def test_bad_tables_are_one_line(tables, content, message, capsys):
    (tables / "bad.csv").write_text(content)
    assert message in complaint(capsys, ["flow", "--source=bad.csv", "--target=B.csv", "--save=m.csv"])
    assert not (tables / "m.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns=aeg"], "A.csv: has no column 'aeg', which columns names; did you mean 'age'"),
        (["--id=nots"], "A.csv: has no column 'nots', which id names; did you mean 'note'"),
        (["--columns=age", "--id=age"], "A.csv: columns and id both name 'age'"),
        (["--apply=A.csv", "--birth_death=1"], "must be left out; further rows follow"),
        (["--apply=none.csv"], "none.csv: no such file"),
        (["--save=m.xlsx"], "must end in .npy, .npz, .csv, .pt, .tsv, .parquet"),
        (["--source=gaussian", "--apply=A.csv"], "is for a source that is a file of points"),
    ],
)
def test_bad_choices_are_one_line(tables, arguments, message, capsys):
    given = ["flow", "--source=A.csv", "--target=B.csv", "--save=m.csv", *arguments]
    assert message in complaint(capsys, given)
    assert not (tables / "m.csv").exists()
