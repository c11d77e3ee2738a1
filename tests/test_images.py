import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mmdflow import InputError
from mmdflow.data import ImageSet, datasets, images, load, tables

RECORD = 3073


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMDFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def write_pictures(folder, count, rng, *, shape=(12, 12), suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = rng.integers(0, 256, (count, *shape, 3), np.uint8)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i:03d}{suffix}")
    return arrays


def write_cifar(folder, rng, per_batch=4):
    folder.mkdir(parents=True)
    records = {}
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        records[name] = rng.integers(0, 256, (per_batch, RECORD), np.uint8)
        records[name][:, 0] %= 10
        records[name].tofile(folder / name)
    return records


def bytes_of(batch):
    return ((batch + 1) * 127.5).round().byte().numpy()


def as_events(arrays):
    return arrays.transpose(0, 3, 1, 2)


class TestImageSet:
    def test_indexes_like_a_tensor_of_images(self, rng):
        pixels = rng.integers(0, 256, (7, 3, 5, 4), np.uint8)
        found = ImageSet(pixels, torch.arange(7), source="test")
        index = torch.tensor([6, 0, 0, 3])
        assert torch.equal(found[index], torch.from_numpy(pixels[[6, 0, 0, 3]]).float() / 127.5 - 1)
        assert found[index].min() >= -1
        assert found[index].max() <= 1
        assert (len(found), found.event_shape) == (7, (3, 5, 4))
        assert torch.equal(torch.cat(list(found.batches(3))), found.tensor())
        assert found.second_moment == pytest.approx(float(found.tensor().double().square().mean()))

    def test_flip_appends_the_mirror_images(self, rng):
        pixels = rng.integers(0, 256, (5, 1, 4, 6), np.uint8)
        found = ImageSet(pixels, torch.arange(5), source="test", flip=True)
        assert len(found) == 10
        assert torch.equal(found[torch.tensor([2, 7])][1], found[torch.tensor([2])][0].flip(2))
        assert torch.equal(found.tensor()[5:], found.tensor()[:5].flip(3))
        assert found.labels.tolist() == [*range(5), *range(5)]

    @pytest.mark.parametrize("index", [torch.tensor([5]), torch.tensor([-1]), torch.tensor([[0]]), torch.tensor([0.5])])
    def test_refuses_an_index_that_is_none(self, index):
        with pytest.raises(InputError, match="index"):
            ImageSet(np.zeros((5, 1, 2, 2), np.uint8), source="test")[index]

    @pytest.mark.parametrize(
        ("pixels", "message"),
        [
            (np.ones((2, 3, 4, 4), np.float32), r"test: holds float32 in \[1, 1\]: must be uint8 in \[0, 255\]"),
            (np.ones((2, 4, 4, 4), np.uint8), r"test: holds an array \[2, 4, 4, 4\]: must be \[n, c, h, w\]"),
            (np.ones((0, 3, 4, 4), np.uint8), r"n >= 1"),
        ],
    )
    def test_refuses_other_arrays(self, pixels, message):
        with pytest.raises(InputError, match=message):
            ImageSet(pixels, source="test")

    def test_refuses_labels_of_another_length(self):
        with pytest.raises(InputError, match=r"2 images with \[3\] labels"):
            ImageSet(np.ones((2, 3, 4, 4), np.uint8), torch.arange(3), source="test")


class TestFolders:
    def test_pictures_come_in_the_order_of_their_paths(self, tmp_path, rng):
        later = write_pictures(tmp_path / "set" / "b", 3, rng)
        first = write_pictures(tmp_path / "set" / "a", 300, rng)  # more than are decoded at once
        (tmp_path / "set" / "notes.txt").write_text("not a picture")
        (tmp_path / "set" / "._000.png").write_text("left by an archive")
        found = images(tmp_path / "set")
        assert np.array_equal(bytes_of(found.tensor()), as_events(np.concatenate([first, later])))
        assert isinstance(found.pixels, np.memmap)
        assert found.skipped == 0

    def test_larger_pictures_lose_their_margins_then_shrink(self, tmp_path, rng):
        write_pictures(tmp_path / "set", 2, rng, shape=(20, 30))
        with Image.open(tmp_path / "set" / "001.png") as picture:
            whole = picture.crop((5, 0, 25, 20)).resize((8, 8), Image.Resampling.BICUBIC)
            centre = picture.crop((9, 4, 21, 16)).resize((8, 8), Image.Resampling.BICUBIC)
        index = torch.tensor([1])
        assert np.array_equal(bytes_of(images(tmp_path / "set", size=8)[index]), as_events(np.asarray(whole)[None]))
        cropped = images(tmp_path / "set", size=8, crop=12)[index]
        assert np.array_equal(bytes_of(cropped), as_events(np.asarray(centre)[None]))
        assert images(tmp_path / "set", size=8, channels=1).event_shape == (1, 8, 8)

    def test_the_cache_serves_until_a_picture_changes(self, tmp_path, rng, cache):
        write_pictures(tmp_path / "set", 3, rng)
        before = images(tmp_path / "set").tensor()
        written = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
        assert torch.equal(images(tmp_path / "set").tensor(), before)
        assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == written
        Image.new("RGB", (12, 12), "red").save(tmp_path / "set" / "001.png")
        after = images(tmp_path / "set").tensor()
        assert torch.equal(after[[0, 2]], before[[0, 2]])
        assert after[1, :, 0, 0].tolist() == [1, -1, -1]

    def test_parts_are_folders(self, tmp_path, rng):
        write_pictures(tmp_path / "set" / "train", 4, rng)
        test = write_pictures(tmp_path / "set" / "val", 2, rng)
        assert len(images(tmp_path / "set", "train")) == 4
        assert np.array_equal(bytes_of(images(tmp_path / "set", "test").tensor()), as_events(test))

    def test_a_folder_without_parts_has_no_test_images(self, tmp_path, rng):
        write_pictures(tmp_path / "set", 2, rng)
        with pytest.raises(InputError, match="holds no folder test/"):
            images(tmp_path / "set", "test")

    def test_a_corrupt_picture_is_named_or_counted(self, tmp_path, rng, cache):
        arrays = write_pictures(tmp_path / "set", 12, rng)
        bad = tmp_path / "set" / "001.png"
        bad.write_bytes(bad.read_bytes()[:60])
        (tmp_path / "set" / "005.png").write_bytes(b"no picture")
        with pytest.raises(InputError, match="001.png: not a readable picture"):
            images(tmp_path / "set")
        assert not list(cache.iterdir())  # nothing half-written
        good = [i for i in range(12) if i not in (1, 5)]
        for _ in range(2):  # written, then from the cache
            found = images(tmp_path / "set", corrupt="skip")
            assert (len(found), found.skipped) == (10, 2)
            assert np.array_equal(bytes_of(found.tensor()), as_events(arrays[good]))
        for file in (tmp_path / "set").iterdir():
            file.write_bytes(b"no picture")
        with pytest.raises(InputError, match="none is a readable picture"):
            images(tmp_path / "set", corrupt="skip")

    def test_mixed_sizes_need_a_size(self, tmp_path, rng):
        write_pictures(tmp_path / "set" / "a", 1, rng)
        write_pictures(tmp_path / "set" / "b", 1, rng, shape=(12, 14))
        with pytest.raises(InputError, match=r"is \[3, 12, 14\], and the first picture \[3, 12, 12\]: must agree"):
            images(tmp_path / "set")
        assert images(tmp_path / "set", size=6).event_shape == (3, 6, 6)

    @pytest.mark.parametrize("damage", ["garbage", "short"])
    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_a_damaged_cache_is_said_and_made_again(self, tmp_path, rng, cache, caplog, damage, suffix):
        arrays = write_pictures(tmp_path / "set", 2, rng)
        images(tmp_path / "set")
        for file in cache.glob(f"*{suffix}"):
            file.write_bytes(b"damaged" if damage == "garbage" else file.read_bytes()[:-30])
        assert np.array_equal(bytes_of(images(tmp_path / "set").tensor()), as_events(arrays))
        assert "are damaged" in caplog.text
        caplog.clear()
        images(tmp_path / "set")
        assert not caplog.text

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"split": "dev"}, "split = 'dev': must be one of train, test"),
            ({"corrupt": "ignore"}, "corrupt = 'ignore': must be one of refuse, skip"),
            ({"channels": 4}, "channels = 4: must be 1 or 3"),
            ({"size": 0}, "size = 0: must be an integer >= 1"),
        ],
    )
    def test_impossible_options(self, tmp_path, options, message):
        with pytest.raises(InputError, match=message):
            images(tmp_path, **options)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(InputError, match="no such folder, .npy, .npz or .parquet file, nor one of cifar10"):
            images(tmp_path / "nowhere")
        with pytest.raises(InputError, match="holds no pictures"):
            images(tmp_path)


class TestArrays:
    @pytest.mark.parametrize("layout", ["nchw", "nhwc", "nhw"])
    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_layouts(self, tmp_path, rng, layout, suffix):
        channels = 1 if layout == "nhw" else 3
        pixels = rng.integers(0, 256, (6, channels, 9, 8), np.uint8)
        array = {"nchw": pixels, "nhwc": pixels.transpose(0, 2, 3, 1), "nhw": pixels[:, 0]}[layout]
        path = tmp_path / f"set{suffix}"
        if suffix == ".npy":
            np.save(path, array)
        else:
            np.savez(path, images=array, labels=np.arange(6))
        found = images(path, channels=channels)
        assert np.array_equal(bytes_of(found.tensor()), pixels)
        assert isinstance(found.pixels, np.memmap) == (suffix == ".npy")
        assert found.labels is None if suffix == ".npy" else found.labels.tolist() == list(range(6))

    @pytest.mark.parametrize(
        ("labels", "shown"),
        [([0.2, 0.9], "0.2"), ([1.0, math.nan], "nan"), (["a", "b"], "'a'"), ([0.0, math.inf], "inf")],
    )
    def test_labels_that_are_no_whole_numbers_are_refused(self, tmp_path, labels, shown):
        path = tmp_path / "set.npz"
        np.savez(path, images=np.zeros((2, 1, 8, 8), np.uint8), labels=np.array(labels))
        with pytest.raises(InputError, match=re.escape(f"set.npz: labels hold {shown}: must be whole numbers")):
            images(path, channels=1)
        np.savez(path, images=np.zeros((2, 1, 8, 8), np.uint8), labels=np.array([1.0, 3.0], np.float32))
        assert images(path, channels=1).labels.tolist() == [1, 3]

    def test_parts_are_files(self, tmp_path, rng):
        for name, count in (("train", 5), ("test", 2)):
            np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (count, 3, 8, 8), np.uint8))
        assert [len(images(tmp_path, split)) for split in ("train", "test")] == [5, 2]
        with pytest.raises(InputError, match="is one file, all training data; split = 'test'"):
            images(tmp_path / "train.npy", "test")

    def test_another_shape_or_range_is_told_with_what_is_wanted(self, tmp_path):
        np.save(tmp_path / "set.npy", np.zeros((2, 3, 28, 28), np.uint8))
        with pytest.raises(InputError, match=r"holds images \[3, 28, 28\]: must be \[3, 32, 32\]"):
            images(tmp_path / "set.npy", size=32)
        with pytest.raises(InputError, match=r"holds images \[3, 28, 28\]: must be \[1, 28, 28\]"):
            images(tmp_path / "set.npy", channels=1)
        np.save(tmp_path / "set.npy", np.full((2, 3, 28, 28), 0.5))
        with pytest.raises(InputError, match=r"holds float64 in \[0.5, 0.5\]: must be uint8 in \[0, 255\]"):
            images(tmp_path / "set.npy")

    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_damaged(self, tmp_path, suffix):
        (tmp_path / f"set{suffix}").write_bytes(b"PK\x03\x04 nothing more")
        with pytest.raises(InputError, match="not readable"):
            images(tmp_path / f"set{suffix}")


class TestNamed:
    def test_cifar10_from_its_binary_batches(self, tmp_path, rng, monkeypatch):
        records = write_cifar(tmp_path / "cifar10" / "cifar-10-batches-bin", rng)
        monkeypatch.setenv("MMDFLOW_DATA", str(tmp_path))
        train, test = images("cifar10"), images("cifar10", "test")
        assert (len(train), len(test)) == (20, 4)
        expected = records["data_batch_2.bin"]
        assert np.array_equal(bytes_of(train[torch.tensor([5])]), expected[1, 1:].reshape(1, 3, 32, 32))
        assert train.labels[4:8].tolist() == expected[:, 0].tolist()
        whole = load("cifar10")
        assert torch.equal(whole.train, train.tensor())
        assert torch.equal(whole.test_labels, test.labels)
        assert whole.second_moment == pytest.approx(train.second_moment)

    @pytest.mark.parametrize("damage", ["missing", "short", "label", "pickled"])
    def test_damaged_cifar10(self, tmp_path, rng, damage):
        folder = tmp_path / "cifar"
        records = write_cifar(folder, rng)
        file = folder / "data_batch_3.bin"
        if damage in ("missing", "pickled"):
            file.unlink()
        if damage == "pickled":
            (folder / "data_batch_3").write_bytes(b"")
        elif damage == "short":
            file.write_bytes(file.read_bytes()[:-7])
        elif damage == "label":
            records["data_batch_3.bin"][2, 0] = 10
            records["data_batch_3.bin"].tofile(file)
        message = {"missing": "missing", "pickled": "take the binary one"}.get(damage, "must be records of 3073")
        with pytest.raises(InputError, match=f"data_batch_3.bin: .*{message}"):
            images(folder)

    def test_celeba_is_split_by_its_table_and_cropped(self, tmp_path, rng, monkeypatch):
        arrays = write_pictures(tmp_path / "celeba64" / "img_align_celeba", 5, rng, shape=(218, 178))
        rows = [f"{i:03d}.png {part}" for i, part in enumerate([0, 0, 1, 2, 0])]
        (tmp_path / "celeba64" / "list_eval_partition.txt").write_text("\n".join(rows) + "\n")
        monkeypatch.setenv("MMDFLOW_DATA", str(tmp_path))
        train, test = images("celeba64"), images("celeba64", "test")
        assert (len(train), len(test), train.event_shape) == (3, 1, (3, 64, 64))
        centre = Image.fromarray(arrays[3][39:179, 19:159]).resize((64, 64), Image.Resampling.BICUBIC)
        assert np.array_equal(bytes_of(test.tensor()), as_events(np.asarray(centre)[None]))

    def test_missing_says_what_to_put_where(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MMDFLOW_DATA", str(tmp_path))
        with pytest.raises(InputError, match=f"no folder {tmp_path}/church64; put there folders train/ and test/"):
            images("church64")
        monkeypatch.delenv("MMDFLOW_DATA")
        with pytest.raises(
            InputError, match=r"MMDFLOW_DATA is not set.*; put there the binary version's data_batch_1.bin"
        ):
            load("cifar10")

    def test_what_does_not_fit_into_memory_is_left_on_disk(self, tmp_path, rng, monkeypatch):
        write_cifar(tmp_path / "cifar10", rng)
        monkeypatch.setattr(datasets, "MAX_BYTES", 10_000)
        with pytest.raises(InputError, match=r"mmdflow.data.images\('cifar10'\) leaves it on disk"):
            load("cifar10", str(tmp_path / "cifar10"))


class TestTables:
    @pytest.fixture
    def table(self, tmp_path, rng):
        datasets = pytest.importorskip("datasets")
        arrays = write_pictures(tmp_path / "png", 5, rng)
        files = [str(file) for file in sorted((tmp_path / "png").iterdir())]
        columns = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=5)})
        table = datasets.Dataset.from_dict({"image": files, "label": [4, 3, 2, 1, 0]}, features=columns)
        return arrays, table

    def test_parquet_files_by_split(self, tmp_path, table):
        arrays, table = table
        (tmp_path / "set" / "data").mkdir(parents=True)
        table.select([0, 1, 2]).to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
        table.select([3, 4]).to_parquet(tmp_path / "set" / "data" / "validation-00000-of-00001.parquet")
        train, test = images(tmp_path / "set"), images(tmp_path / "set", "test")
        assert np.array_equal(bytes_of(train.tensor()), as_events(arrays[:3]))
        assert np.array_equal(bytes_of(test.tensor()), as_events(arrays[3:]))
        assert (train.labels.tolist(), test.labels.tolist()) == ([4, 3, 2], [1, 0])
        one = images(tmp_path / "set" / "data" / "train-00000-of-00001.parquet", size=6)
        assert one.event_shape == (3, 6, 6)
        with pytest.raises(InputError, match="has the parts train: must have one of test"):
            images(tmp_path / "set" / "data" / "train-00000-of-00001.parquet", "test")

    def test_saved_data_sets(self, tmp_path, table):
        import datasets

        arrays, table = table
        datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "both"))
        table.save_to_disk(str(tmp_path / "one"))
        for name in ("both", "one"):
            found = images(tmp_path / name)
            assert np.array_equal(bytes_of(found.tensor()), as_events(arrays))
            assert found.labels.tolist() == [4, 3, 2, 1, 0]
        with pytest.raises(InputError, match="has the parts train: must have one of test, .* as split = 'test'"):
            images(tmp_path / "both", "test")

    def test_corrupt_rows_are_named_and_skipped_with_their_labels(self, tmp_path, table):
        _, table = table
        (tmp_path / "png" / "002.png").write_bytes(b"no picture")
        table.to_parquet(tmp_path / "set.parquet")
        with pytest.raises(InputError, match="set.parquet, row 2: not a readable picture"):
            images(tmp_path / "set.parquet")
        assert images(tmp_path / "set.parquet", corrupt="skip").labels.tolist() == [4, 3, 1, 0]

    def test_a_table_without_pictures(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "set.parquet")
        with pytest.raises(InputError, match="has none of its columns text for images: must have one"):
            images(tmp_path / "set.parquet")
        (tmp_path / "bad.parquet").write_bytes(b"PAR1")
        with pytest.raises(InputError, match="bad.parquet: not a readable data set"):
            images(tmp_path / "bad.parquet")

    def test_without_the_package_it_says_how_to_get_it(self, tmp_path, monkeypatch):
        (tmp_path / "set.parquet").write_bytes(b"PAR1")
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(ImportError, match=r"pip install 'mmdflow\[hub\]'"):
            images(tmp_path / "set.parquet")


class TestHub:
    """A local folder in the place of the hub, as `datasets.load_dataset` takes either."""

    @pytest.fixture
    def repository(self, tmp_path, rng, monkeypatch):
        datasets = pytest.importorskip("datasets")
        arrays = {}
        for split, count in (("train", 300), ("validation", 4)):
            rows = []
            arrays[split] = write_pictures(tmp_path / "png" / split, count, rng)
            for i in range(count):
                rows.append({"img": {"bytes": (tmp_path / "png" / split / f"{i:03d}.png").read_bytes(), "path": None}})
                rows[-1] |= {"label": i % 3, "caption": "a"}
            kinds = {"img": datasets.Image(), "label": datasets.ClassLabel(3), "caption": datasets.Value("string")}
            table = datasets.Dataset.from_list(rows, features=datasets.Features(kinds))
            (tmp_path / "owner" / "name").mkdir(parents=True, exist_ok=True)
            table.to_parquet(tmp_path / "owner" / "name" / f"{split}-00000-of-00001.parquet")
        monkeypatch.chdir(tmp_path)
        return arrays

    @pytest.fixture
    def asked(self, repository, monkeypatch, tmp_path):
        """The hub: what load_dataset_builder is asked for, answered from the folder, at a revision like the hub's."""
        import datasets

        load, calls = datasets.load_dataset_builder, []
        (tmp_path / "owner" / "name").rename(tmp_path / "served")

        def answer(*arguments, revision):
            calls.append((*arguments, revision))
            builder = load(str(tmp_path / "served"))
            builder.hash = revision or "0123abcd"
            return builder

        monkeypatch.setattr(datasets, "load_dataset_builder", answer)
        return calls

    def test_parts_and_labels_are_those_of_the_folder(self, repository):
        train, test = images("hub:owner/name"), images("hub:owner/name", "test", 6)
        assert np.array_equal(bytes_of(train.tensor()), as_events(repository["train"]))
        assert train.labels.tolist() == [i % 3 for i in range(300)]
        assert isinstance(train.pixels, np.memmap)
        assert (len(test), test.event_shape, test.source) == (4, (3, 6, 6), "hub:owner/name (test)")

    def test_a_folder_is_decoded_again_when_it_changes(self, repository, tmp_path):
        before = len(images("hub:owner/name", "test"))
        served = tmp_path / "owner" / "name"
        (served / "validation-00000-of-00001.parquet").write_bytes(
            (served / "train-00000-of-00001.parquet").read_bytes()
        )
        assert (before, len(images("hub:owner/name", "test"))) == (4, 300)

    def test_the_hub_is_streamed_once(self, asked, repository):
        for _ in range(2):
            found = images("hub:owner/name", channels=1)
            assert (len(found), found.event_shape) == (300, (1, 12, 12))
            assert found.source == "hub:owner/name at 0123abcd (train)"
        assert asked == [("owner/name", None, None)]
        images("hub:owner/name@small", "test")
        assert asked[1:] == [("owner/name", "small", None)]

    @pytest.mark.parametrize("config", [None, "small"])
    def test_a_revision_may_be_asked_for(self, asked, repository, config):
        name = "hub:owner/name" + ("" if config is None else f"@{config}") + "#v1.0"
        assert images(name, "test").source == f"{name} at v1.0 (test)"
        assert asked == [("owner/name", config, "v1.0")]

    def test_pictures_cached_without_their_revision_are_kept(self, asked, repository, cache):
        images("hub:owner/name", "test")
        (rows,) = cache.glob("*.rows.npz")
        with np.load(rows) as held:
            np.savez(rows, labels=held["labels"], skipped=held["skipped"])
        assert images("hub:owner/name", "test").source == "hub:owner/name (test)"
        assert len(asked) == 1

    def test_pictures_in_files_of_their_own(self, tmp_path, rng):
        pytest.importorskip("datasets")
        for split in ("train", "test"):
            arrays = [write_pictures(tmp_path / "set" / split / kind, 3, rng) for kind in "ab"]
            (tmp_path / "set" / split / "a" / "001.png").write_bytes(b"no picture")
            found = images(f"hub:{tmp_path / 'set'}", split, corrupt="skip")
            assert np.array_equal(bytes_of(found.tensor()), as_events(np.concatenate(arrays)[[0, 2, 3, 4, 5]]))
            assert (found.labels.tolist(), found.skipped) == ([0, 0, 1, 1, 1], 1)

    def test_a_row_may_be_an_address(self, tmp_path, rng):
        fsspec = pytest.importorskip("fsspec")
        write_pictures(tmp_path / "png", 1, rng)
        with fsspec.open("memory://there.png", "wb") as file:
            file.write((tmp_path / "png" / "000.png").read_bytes())
        read = tables._picture_bytes({"bytes": None, "path": "memory://there.png"})
        assert read == (tmp_path / "png" / "000.png").read_bytes()
        with pytest.raises(InputError, match="memory://nowhere.png: cannot be read"):
            tables._picture_bytes({"bytes": None, "path": "memory://nowhere.png"})

    def test_a_stream_that_breaks_off_leaves_nothing(self, asked, monkeypatch, cache):
        import datasets

        whole = datasets.IterableDataset.__iter__

        def broken(self):
            for i, row in enumerate(whole(self)):
                if i == 280:
                    raise ConnectionError("gone\naway")
                yield row

        monkeypatch.setattr(datasets.IterableDataset, "__iter__", broken)
        for corrupt in ("refuse", "skip"):  # the network is no corrupt picture
            with pytest.raises(InputError, match="hub:owner/name: broke off while it was read .gone away"):
                images("hub:owner/name", corrupt=corrupt)
        assert not list(cache.iterdir())

    def test_what_the_hub_has_not(self, repository, tmp_path):
        import datasets

        (tmp_path / "owner" / "name" / "validation-00000-of-00001.parquet").unlink()
        with pytest.raises(InputError, match="hub:owner/name: has the parts train: must have one of test"):
            images("hub:owner/name", "test")
        (tmp_path / "texts").mkdir()
        datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "texts" / "train.parquet")
        with pytest.raises(InputError, match="hub:texts: has none of its columns text for images: must have one"):
            images("hub:texts")

    def test_offline_it_says_so_at_once(self, tmp_path):
        pytest.importorskip("datasets")
        call = "from mmdflow.data import images; images('hub:owner/nowhere')"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", call], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert "InputError: hub:owner/nowhere: cannot be opened (Couldn't reach 'owner/nowhere'" in done.stderr

    @pytest.mark.parametrize("name", ["hub:", "hub:a/b/c", "hub:a b", "hub:/nowhere/at/all", "hub:a/b@"])
    def test_names_that_are_none(self, name):
        with pytest.raises(InputError, match="must be hub:OWNER/NAME, with @CONFIG and #REVISION"):
            images(name)

    def test_without_the_package_it_says_how_to_get_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(ImportError, match=r"hub:owner/name: .* pip install 'mmdflow\[hub\]'"):
            images("hub:owner/name")
