"""What a newcomer does wrong is answered with one line that says what to do."""

import numpy as np
import pytest
from PIL import Image

from mmdflow import MMD, InputError, flow
from mmdflow.cli import main
from mmdflow.methods import load_pipeline
from mmdflow.recipe import DivergenceSpec
from tests.test_cli import complaint

QUICK = ["--num_steps=5", "--num_particles=20", "--num_targets=25"]


def warning(capsys, tmp_path, *arguments):
    assert main(["flow", *QUICK, f"--save={tmp_path / 'p.npy'}", "--overwrite", *arguments]) == 0
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("mmdflow: warning: ")]


def test_a_rising_value_is_told(capsys, tmp_path):
    (line,) = warning(capsys, tmp_path, "--step_size=1e9")
    assert "F rose from" in line
    assert "the step is too large; try --step_size=1e+08, a tenth" in line
    for kernel in ("riesz", "gaussian"):
        assert warning(capsys, tmp_path, f"--divergence.kernel={kernel}", "--num_steps=20") == []


def test_a_kernel_that_moves_nothing_is_told(capsys, tmp_path):
    (line,) = warning(capsys, tmp_path, "--divergence.kernel=gaussian", "--divergence.bandwidth=1e-5")
    assert "the particles hardly moved" in line
    assert "--divergence.kernel=riesz" in line


def test_a_field_of_another_kernel_says_which_has_it(unchecked):
    with pytest.raises(
        InputError, match="its fields are name, kernel, exponent; divergence.kernel = gaussian or laplace has"
    ):
        DivergenceSpec("mmd", bandwidth=2.0)
    with pytest.raises(InputError, match="divergence.kernel = riesz has exponent"):
        DivergenceSpec("mmd", kernel="gaussian", exponent=1.0)
    with pytest.raises(InputError, match="its fields are name, kernel, rule$"):
        DivergenceSpec("adaptive", regularization=1.0)


def test_a_file_of_settings_that_is_not_there_suggests_another(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow.yaml").write_text("num_steps: 2")
    message = complaint(capsys, ["flow", "--config=flw.yaml", "--save=p.npy"])
    assert message.endswith("flw.yaml: no such file; did you mean 'flow.yaml'?")
    (tmp_path / "flow.yaml").write_text("num_stps: 2")
    message = complaint(capsys, ["flow", "--config=flow.yaml", "--save=p.npy"])
    assert "flow.yaml: a field has the wrong name (num_stps); did you mean 'num_steps'?" in message


def test_a_model_that_is_none_says_what_there_is(capsys, tmp_path):
    assert "did you mean 'digits'" in complaint(capsys, ["sample", "digitz", "-o", str(tmp_path / "x.png")])
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("system: dmmd")
    for command in (["sample", str(run), "-o", str(tmp_path / "x.png")], ["evaluate", str(run)]):
        assert f"is an unfinished run; `mmdflow train --resume {run}` finishes it" in complaint(capsys, command)


def test_a_colour_picture_is_no_mask(capsys, tmp_path):
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[:4, :, 0] = 255
    Image.fromarray(colours).save(tmp_path / "red.png")
    Image.fromarray(colours[:, :, 0]).save(tmp_path / "grey.png")
    sample = ["sample", "digits", "-n", "2", f"--known={tmp_path / 'grey.png'}", f"--save={tmp_path / 's.npz'}"]
    message = complaint(capsys, [*sample, f"--mask={tmp_path / 'red.png'}"])
    assert "red.png': is a colour picture: must be black and white" in message
    assert main([*sample, f"--mask={tmp_path / 'grey.png'}"]) == 0
    assert (np.load(tmp_path / "s.npz")["samples"][:, 0, :4] == 1).all()


def test_a_folder_is_no_recipe(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pics").mkdir()
    message = complaint(capsys, ["train", "pics", "--output=r"])
    assert "it is a folder: `mmdflow train dmmd-images --data=pics` trains on its pictures" in message
    message = complaint(capsys, ["train", "dmmd-images", "--output=r"])
    assert "pictures: no such folder" in message
    assert message.endswith("a recipe's --data=FOLDER says where images are")


def test_a_seed_is_no_generator(unchecked):
    with pytest.raises(InputError, match="generator = 0: must be a torch.Generator"):
        flow(MMD(np.ones((6, 2))), np.zeros((5, 2)), num_steps=1, generator=0)
    with pytest.raises(InputError, match="generator = 0: must be a torch.Generator, such as torch.Generator"):
        load_pipeline("digits")(2, generator=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "dmmd-digits", "--loss.ridge=1"],
            "loss.ridge = 1 with loss.objective = 'mmd': is for the KL bounds",
        ),
        (
            ["train", "dmmd-digits", "--data.path=here"],
            "data.path = 'here' with data.name = 'digits': must be left out",
        ),
        (["train", "dmmd-checkerboard", "--data.path=here"], "data.path = 'here' with data.name = 'checkerboard'"),
        (["train", "dmmd-digits", "--training.betas=[0.9,1.5]"], "training.betas = 1.5: must be a number in [0, 1)"),
        (["train", "dmmd-digits", "--training.ema_decay=1"], "training.ema_decay = 1.0: must be a number in [0, 1)"),
        (["train", "drifting-digits", "--loss.classes=11"], "loss.classes = 11: must be at most 10"),
        (["train", "drifting-digits", "--spaces.hidden=false"], "spaces.hidden = False without spaces.model"),
        (["train", "drifting-digits", "--distillation.num_pairs=9"], "distillation.num_pairs = 9 without"),
        (["train", "drifting-digits", "--distillation.model=mnist"], "distillation.model: has events [1, 28, 28]"),
        (["evaluate", "digits", "-n=1"], "num_samples = 1: must be an integer >= 2"),
    ],
)
def test_what_has_no_effect_or_cannot_be_is_refused_before_any_folder_is_made(
    arguments, message, capsys, tmp_path, unchecked
):
    folder = tmp_path / "run"
    output = [] if arguments[0] == "evaluate" else [f"--output={folder}", "--training.max_steps=1"]
    assert message in complaint(capsys, [*arguments, *output])
    assert not folder.exists()
