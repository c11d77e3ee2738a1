"""`mmdflow sample`: sources, known entries, classes, monitors, what is kept when a run diverges."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mmdflow import DMMDPipeline
from mmdflow.cli import main
from mmdflow.data import load, read_images, read_samples
from mmdflow.errors import InputError

QUICK = ["--num_levels=3", "--final_steps=0"]


def sample(*options):
    return main(["sample", "digits", "--overwrite", *options])


def complaint(capsys, *options, code=2):
    assert sample(*options) == code
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def pictures(tmp_path):
    """A folder of four digits as pictures, and the digits."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    digits = load("digits").test[:4]
    for i, digit in enumerate(digits):
        Image.fromarray(((digit[0] + 1) * 127.5).round().byte().numpy()).save(folder / f"{i}.png")
    return folder, digits


def read(path):
    return torch.from_numpy(np.load(path)["samples"])


def test_source_of_any_kind(pictures, tmp_path):
    folder, digits = pictures
    np.save(tmp_path / "s.npy", digits.double().numpy())
    torch.save(digits, tmp_path / "s.pt")
    saved = tmp_path / "out.npz"
    found = []
    for source in (folder, tmp_path / "s.npy", tmp_path / "s.pt"):
        assert sample(f"--source={source}", "--t_max=0.4", "--noise_source", f"--save={saved}", *QUICK) == 0
        found.append(read(saved))
    assert found[0].shape == (4, 1, 8, 8)
    torch.testing.assert_close(found[1], found[2])
    torch.testing.assert_close(found[0], found[1], atol=0.05, rtol=0)  # pictures have 8 bits
    generator = torch.Generator().manual_seed(0)
    pipe = DMMDPipeline.from_pretrained("digits")
    expected = pipe(particles=digits, t_max=0.4, noise_source=True, num_levels=3, final_steps=0, generator=generator)
    torch.testing.assert_close(found[1], expected.particles)
    assert sample(f"--source={folder}", "-n", "2", f"--save={saved}", *QUICK) == 0
    assert len(read(saved)) == 2


def test_known_part_of_a_picture(pictures, tmp_path):
    folder, _ = pictures
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.save(tmp_path / "mask.npy", (mask > 0)[None])
    known, saved = read_images(folder / "0.png", 1), tmp_path / "out.npz"
    for file in ("mask.png", "mask.npy"):
        options = [f"--known={folder / '0.png'}", f"--mask={tmp_path / file}", "-n", "5", f"--save={saved}"]
        assert sample(*options, "--sampler=a-dmmd-e", "--num_levels=3") == 0
        assert torch.equal(read(saved)[:, :, :4], known[:, :, :4].expand(5, 1, 4, 8))


def test_monitor_as_picture_and_json(tmp_path):
    for name in ("m.png", "m.json"):
        assert sample("-n", "4", f"--save={tmp_path / 's.npz'}", f"--monitor={tmp_path / name}", *QUICK) == 0
    assert Image.open(tmp_path / "m.png").size[0] > 500
    columns = json.loads((tmp_path / "m.json").read_text())
    assert [round(t, 2) for t in columns["levels"]] == [1.0, 0.51, 0.02]
    assert all(slope > 0 for slope in columns["slope"])


def test_what_is_kept_when_a_run_diverges(tmp_path, capsys):
    saved, picture = tmp_path / "s.npz", tmp_path / "g.gif"
    watched = tmp_path / "m.json"
    options = ("-n", "4", f"--save={saved}", "-o", str(picture), f"--monitor={watched}", "--step_size=1e38", *QUICK)
    text = complaint(capsys, *options, code=1)
    assert "noise level t = " in text
    assert f"The last finite particles: {saved}, {picture}; the monitor until then: {watched}" in text
    assert json.loads(watched.read_text())["levels"][0] == 1
    assert torch.isfinite(read(saved)).all()
    assert read(saved).shape == (4, 1, 8, 8)
    assert Image.open(picture).n_frames == 1


def test_infinity_takes_a_bound_away(tmp_path):
    found = []
    for i, options in enumerate((["--max_slope=0.1"], ["--max_slope=0.1", "--max_slope=inf"], ["--max_slope=1e30"])):
        assert sample("-n", "4", f"--save={tmp_path / f'{i}.npz'}", *options, *QUICK) == 0
        found.append(read(tmp_path / f"{i}.npz"))
    assert torch.equal(found[1], found[2])
    assert not torch.equal(found[0], found[1])


def test_a_source_in_zero_to_one_is_noted(tmp_path, capsys):
    file = tmp_path / "s.npz"
    for low, noted in ((0, True), (-1, False)):
        np.savez(file, samples=np.linspace(low, 1, 128, dtype=np.float32).reshape(2, 1, 8, 8))
        assert sample(f"--source={file}", f"--save={tmp_path / 'out.npz'}", *QUICK) == 0
        assert ("its images lie in [0, 1]; models take [-1, 1]" in capsys.readouterr().err) is noted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source=nowhere.npz"], "nowhere.npz: no such file"),
        (["--source=nowhere"], "nowhere: no such file"),
        (["--source=few.npy", "-n", "9"], "num_samples = 9: the source holds 2"),
        (["--source=wrong.npy"], "particles have shape [2, 1, 4, 4], range [0, 0]: must be [n, 1, 8, 8]"),
        (["--source=bytes.npy"], "range [200, 200]"),
        (["--noise_source"], "noise_source = True without particles"),
        (["--known=few.npy"], "mask is missing: --known and --mask go together"),
        (["--known=wrong.npy", "--mask=few.npy"], "known has shape [2, 1, 4, 4]"),
        (["--labels=10"], "labels hold 10: must be classes 0 to 9"),
        (["--labels=-1"], "labels hold -1: must be classes 0 to 9"),
        (["--labels=three"], "labels = 'three': must be a class or a list of them"),
        (["--step_size=[0.1, 0.2]"], "step_size has 2 entries"),
        (["--sampler=a-dmmd-x"], "sampler = 'a-dmmd-x': must be one of exact, approximate, dmmd"),
        (["--monitor=m.gif"], "m.gif: a monitor is a picture (.png, ...) or .json"),
        (["--monitor=m.xyz"], "m.xyz: not the ending of a picture"),
        (["--chunk_size=0"], "chunk_size = 0"),
        (["--max_slope=-1"], "max_slope = -1.0: must be a finite number > 0"),
        (["--final_level=0.001"], "final_level = 0.001: must be in [0.02, 1]"),
        (["--whitening=10"], "needs target means with covariances, of a model trained with sampling.whitening"),
    ],
)
def test_bad_input(options, message, tmp_path, monkeypatch, capsys, unchecked):
    monkeypatch.chdir(tmp_path)
    np.save("few.npy", np.zeros((2, 1, 8, 8), np.float32))
    np.save("wrong.npy", np.zeros((2, 1, 4, 4), np.float32))
    np.save("bytes.npy", np.full((2, 1, 8, 8), 200, np.uint8))
    assert message in complaint(capsys, *options, "--save=x.npz")
    assert not (tmp_path / "x.npz").exists()


def test_pictures_of_a_folder_belong_together(pictures):
    folder, digits = pictures
    torch.testing.assert_close(read_samples(folder, 1), digits, atol=0.01, rtol=0)
    assert read_images(folder, 3).shape == (4, 3, 8, 8)
    Image.new("L", (8, 9)).save(folder / "z.png")
    with pytest.raises(InputError, match=r"z.png: is \[9, 8\] pixels: must be \[8, 8\], as 0.png is"):
        read_images(folder, 1)
    (folder / "z.png").write_text("none")
    with pytest.raises(InputError, match=r"z.png: not a readable picture"):
        read_images(folder, 1)
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(InputError, match="holds no picture"):
        read_images(folder, 1)
    with pytest.raises(InputError, match="channels = 2"):
        read_images(folder, 2)
