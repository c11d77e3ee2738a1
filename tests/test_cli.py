"""The command line as a stranger uses it: exit codes, one clear line, files whole or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmdflow import __version__
from mmdflow.cli import COMMANDS, main
from mmdflow.methods import load_pipeline
from mmdflow.runs.read import read_recipe

pytest.importorskip("lightning")
QUICK = [
    "--training.max_steps=6",
    "--features.width=16",
    "--loss.num_levels=4",
    "--training.accelerator=cpu",
    "--sampling.mean_levels=3",
    "--sampling.num_levels=3",
    "--evaluation.num_samples=40",
    "--evaluation.particles_per_run=20",
]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "dmmd-digits", f"--output={folder}", *QUICK]) == 0
    return folder


def complaint(capsys, arguments, code=2):
    assert main(arguments) == code
    err = capsys.readouterr().err.strip()
    assert err.startswith("mmdflow: error: ")
    assert "\n" not in err
    return err


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    assert "train RECIPE" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert main([]) == 2
    for command in ("train", "sample", "evaluate", "recipes"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert f"mmdflow {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    lines = [
        "import sys",
        "from mmdflow.cli import main",
        f"try: main({arguments})",
        "except SystemExit: pass",
        "assert 'torch' not in sys.modules",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", ["ddpm-digits", "jko-flow-digits"])
def test_help_shows_the_values_of_the_recipe(name, capsys):
    with pytest.raises(SystemExit):
        main(["train", name, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    training = read_recipe(name).training
    for field, value in (("step_size X", training.step_size), ("batch_size N", training.batch_size)):
        assert f"(default: {value})" in shown.split(f"--training.{field}")[1].split("--")[0]


def test_recipes_lists_them(capsys):
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    for name in ("dmmd-digits", "dmmd-mnist", "dmmd-fashion", "dmmd-checkerboard"):
        assert name in out


def test_sample_writes_picture_animation_and_arrays(run_folder, tmp_path, capsys):
    picture, arrays = tmp_path / "grid.png", tmp_path / "s.npz"
    assert main(["sample", str(run_folder), "-n", "5", "-o", str(picture), "--save", str(arrays)]) == 0
    samples = np.load(arrays)["samples"]
    assert samples.shape == (5, 1, 8, 8)
    assert np.abs(samples).max() <= 1
    assert Image.open(picture).size[0] > 100
    animation = tmp_path / "flow.gif"
    options = ["--sampler=approximate", "--num_levels=4", "--final_steps=0"]
    assert main(["sample", str(run_folder), "-n", "4", "-o", str(animation), *options]) == 0
    assert "NFE 4" in capsys.readouterr().out
    assert Image.open(animation).n_frames == 5
    first = np.load(arrays)["samples"]
    again = ["sample", str(run_folder), "-n", "5", "--save", str(arrays)]
    capsys.readouterr()
    assert "s.npz: is there already; --overwrite replaces it" in complaint(capsys, again)
    assert main([*again, "--overwrite"]) == 0
    np.testing.assert_array_equal(np.load(arrays)["samples"], first)
    assert not [p for p in tmp_path.iterdir() if "tmp" in p.name]


def test_evaluate_writes_a_report(run_folder, capsys):
    assert main(["evaluate", str(run_folder)]) == 0
    assert "frechet_distance" in capsys.readouterr().out
    report = json.loads((run_folder / "metrics.json").read_text())
    needed = {
        "frechet_distance",
        "frechet_distance_reference",
        "class_histogram",
        "mmd_p_value",
        "train_seconds",
        "nfe",
    }
    assert needed <= report.keys()
    assert report["num_samples"] == 40
    assert len(report["class_histogram"]) == 10
    assert (run_folder / "report.png").exists()


def test_resume_a_finished_run(run_folder, capsys):
    assert main(["train", "--resume", str(run_folder)]) == 0
    assert "trained:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "command = 'trian'"),
        (["train"], "recipe is missing"),
        (["train", "dmmd-digit", "--output=x"], "did you mean 'dmmd-digits'"),
        (["train", "dmmd-digits"], "output is missing"),
        (["train", "dmmd-digits", "--output=x", "--trainin.max_steps=3"], "did you mean 'training.max_steps'"),
        (
            ["train", "dmmd-digits", "--output=x", "--training.max_steps=many"],
            "training.max_steps = 'many': must be int",
        ),
        (["train", "dmmd-digits", "--output=x", "--training.max_steps=-5"], "training.max_steps = -5"),
        (
            ["train", "dmmd-digits", "--output=x", "--features.network=mpl"],
            "features.network = 'mpl': must be one of 'mlp'",
        ),
        (["train", "dmmd-digits", "--output=x", "--features.blocks=2"], "features.blocks = 2: not a field of the mlp"),
        (["train", "dmmd-digits", "--output=x", "--data.name=mnits"], "did you mean 'mnist'"),
        (["train", "--resume", "nowhere"], "resume = nowhere: holds no run"),
        (
            ["train", "--resume", "nowhere", "--training.step_size=.1"],
            "--training.step_size: must be left out with --resume, which takes --training.max_steps alone",
        ),
        (["train", "dmmd-digits", "--output=x", "--training.step_size=nan"], "'nan': must be a finite number"),
        (["train", "dmmd-digits", "--resume", "nowhere"], "dmmd-digits"),
        (
            ["train", "dmmd-digits", "--output=x", "--training.seed=99999999999999999999"],
            "training.seed = 99999999999999999999",
        ),
        (["train", "dmmd-digits", "--output=x", "--sampling.final_level=0.001"], "sampling.final_level = 0.001"),
        (["train", "dmmd-digits", "--output=x", "--training.accelerator=gpu"], "training.accelerator = 'gpu'"),
        (["sample", "digits", "-o", "x.png", "--device=cuda"], "device = 'cuda': not usable here"),
        (["sample", "digits", "-o", "x.psd"], "not the ending of a picture"),
        (["sample", "digits", "-o", "x.png", "--seed=-1"], "seed = -1"),
        (["sample", "nowhere", "-o", "x.png"], "model = 'nowhere'"),
        (["sample", "digitz", "-o", "x.png"], "did you mean 'digits'"),
        (["train", "dmmd-digits", "dmmd-mnist", "--output=x"], "recipe = 'dmmd-mnist': a second one"),
        (["sample", "nowhere"], "output is missing"),
        (["sample", "nowhere", "-n", "-3", "-o", "x.png"], "num_samples = -3"),
        (["sample", "nowhere", "--save", "x.npy"], "must end in .npz"),
        (["evaluate", "nowhere"], "model = 'nowhere'"),
        (["evaluate"], "model"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch, unchecked):
    monkeypatch.chdir(tmp_path)
    assert message in complaint(capsys, arguments)
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_file_is_in_use(tmp_path, capsys):
    file = tmp_path / "run"
    file.write_text("mine")
    message = complaint(capsys, ["train", "dmmd-digits", f"--output={file}"])
    assert f"output = {file}: in use and holds 'run'; choose another folder" in message
    assert file.read_text() == "mine"


def test_unknown_keys_of_a_yaml_file(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("training: {max_step: 5}\n")
    message = complaint(capsys, ["train", str(file), f"--output={tmp_path / 'run'}"])
    assert f"{file}: a field has the wrong name (training.max_step); did you mean 'training.max_steps'" in message
    file.write_text("training: [unclosed\n")
    complaint(capsys, ["train", str(file), f"--output={tmp_path / 'run'}"])
    file.write_bytes(b"\xff\xfe\x00")
    complaint(capsys, ["train", str(file), f"--output={tmp_path / 'run'}"])
    for text in ("data: 3", "training: null", "- 1"):
        file.write_text(text)
        complaint(capsys, ["train", str(file), f"--output={tmp_path / 'run'}"])
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]


def test_recipe_may_stand_anywhere_or_be_a_config(tmp_path):
    assert main(["train", f"--output={tmp_path / 'a'}", "dmmd-digits", *QUICK]) == 0
    assert main(["train", f"--config={tmp_path / 'a' / 'recipe.yaml'}", "--output", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / "pipeline").is_dir()


def test_what_no_one_foresaw_is_one_line(capsys, monkeypatch):
    def surprise(arguments):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setitem(COMMANDS, "recipes", surprise)
    assert "RuntimeError: out of memory" in complaint(capsys, ["recipes"], code=1)
    monkeypatch.setenv("MMDFLOW_DEBUG", "1")
    with pytest.raises(RuntimeError):
        main(["recipes"])


def test_output_in_use(run_folder, capsys):
    text = complaint(capsys, ["train", "dmmd-digits", f"--output={run_folder}", *QUICK])
    assert f"mmdflow train --resume {run_folder}" in text


def test_bad_sampler_settings(run_folder, tmp_path, capsys, unchecked):
    output = ["-o", str(tmp_path / "x.png")]
    assert "did you mean 'exact'" in complaint(capsys, ["sample", str(run_folder), *output, "--sampler=exat"])
    assert "not the ending of a picture" in complaint(
        capsys, ["sample", str(run_folder), "-n", "2", "-o", str(tmp_path / "x.xyz")]
    )
    assert not list(tmp_path.iterdir())


def test_missing_data_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MMDFLOW_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    text = complaint(capsys, ["train", "dmmd-mnist", f"--output={tmp_path / 'run'}"])
    assert "MMDFLOW_DATA" in text
    assert not (tmp_path / "run").exists()


@pytest.fixture
def nobody():
    """Be a user without special rights while the test runs."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def closed_folder():
    """A folder that everyone may read and only its owner, who may not write either, has."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_no_permission(closed_folder, nobody, capsys):
    assert "no permission to write" in complaint(
        capsys, ["sample", "digits", "-n", "2", "-o", str(closed_folder / "x.png")]
    )
    text = complaint(capsys, ["train", "dmmd-digits", f"--output={closed_folder / 'run'}", *QUICK])
    assert "cannot be made" in text
    assert not list(closed_folder.iterdir())


def test_unwritable_places(run_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    complaint(capsys, ["sample", str(run_folder), "-n", "2", "-o", str(tmp_path / "file" / "x.png")])
    complaint(capsys, ["train", "dmmd-digits", f"--output={tmp_path / 'file' / 'run'}", *QUICK])


@pytest.mark.parametrize(
    ("number", "code", "begins"),
    [(signal.SIGINT, 130, "mmdflow: interrupted. "), (signal.SIGTERM, 143, "mmdflow: stopped by SIGTERM. ")],
)
def test_a_signal_says_what_was_saved_and_how_to_go_on(tmp_path, capsys, monkeypatch, number, code, begins):
    from mmdflow import DMMDLoss

    forward = DMMDLoss.forward
    calls = iter(range(100))

    def interrupting(self, *args, **kwargs):
        if next(calls) == 4:  # the first call checks the recipe
            os.kill(os.getpid(), number)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(DMMDLoss, "forward", interrupting)
    folder, handler = tmp_path / "run", signal.getsignal(number)
    assert main(["train", "dmmd-digits", f"--output={folder}", *QUICK]) == code
    assert signal.getsignal(number) is handler
    said = f"{begins}Saved in {folder}/checkpoints/last.ckpt; go on with: mmdflow train --resume {folder}\n"
    assert capsys.readouterr().err.endswith(said)
    monkeypatch.setattr(DMMDLoss, "forward", forward)
    assert main(["train", "--resume", str(folder)]) == 0


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "mmdflow: interrupted."), (signal.SIGTERM, 143, "mmdflow: stopped by SIGTERM.")],
)
def test_a_signal_that_a_library_took_for_an_error_of_its_own_is_answered(capsys, monkeypatch, number, code, said):
    """As libraries in C do, which lose the exception of a handler and report a file that cannot be read."""
    import mmdflow.cli

    def lost(arguments):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        raise InputError("model.safetensors: not a readable safetensors file")

    monkeypatch.setitem(mmdflow.cli.COMMANDS, "recipes", lost)
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)  # in the background SIGINT is ignored
    try:
        assert main(["recipes"]) == code
        assert signal.getsignal(number) is usual
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err.strip().endswith(said)


def test_divergence_exits_with_1(tmp_path, capsys, monkeypatch):
    from mmdflow import DivergedError
    from mmdflow.runs import train

    def explode(*args, **kwargs):
        raise DivergedError("step 3: loss term unit became non-finite at noise level t = 0.1000")

    monkeypatch.setattr(train, "train", explode)
    assert "noise level" in complaint(capsys, ["train", "dmmd-digits", f"--output={tmp_path / 'run'}"], code=1)
    assert torch.get_num_threads() >= 1


@pytest.mark.parametrize("objective", ["kl", "reverse-kl"])
def test_a_kl_bound_trains_and_samples(objective, tmp_path, capsys):
    run = tmp_path / "run"
    bound = [f"--loss.objective={objective}", "--sampling.sampler=approximate", "--loss.form=penalty"]
    assert main(["train", "dmmd-digits", f"--output={run}", *QUICK, *bound]) == 0
    assert main(["sample", str(run), "-n", "3", "--save", str(tmp_path / "s.npz")]) == 0
    assert np.load(tmp_path / "s.npz")["samples"].shape == (3, 1, 8, 8)
    assert (run / "curves.png").stat().st_size > 10_000
    capsys.readouterr()
    refused = ["train", "dmmd-digits", f"--output={tmp_path / 'other'}", *QUICK, bound[0], bound[2]]
    assert "sampling.sampler = 'exact' with loss.objective" in complaint(capsys, refused)
    whitened = [*refused, bound[1], "--sampling.whitening=1"]
    assert "sampling.whitening = 1.0 with loss.objective" in complaint(capsys, whitened)
    refused = [*refused, bound[1], "--base.name=gaussian"]
    assert "base.name = 'gaussian' with loss.objective" in complaint(capsys, refused)


def test_memory_and_precision_options_train(tmp_path):
    run = tmp_path / "run"
    options = ["--training.precision=bfloat16", "--training.checkpointing=true", "--training.channels_last=true"]
    assert main(["train", "dmmd-digits", f"--output={run}", *QUICK, *options]) == 0
    assert main(["sample", str(run), "-n", "3", "--save", str(tmp_path / "s.npz")]) == 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_trains_the_same(tmp_path):
    """In a process of its own: the tests' run-time checks cannot be compiled."""
    quick = ["--training.max_steps=3", "--training.batch_size=8", "--features.width=16", "--evaluation.num_samples=2"]
    train = ["train", "flow-matching-digits", *quick, "-o"]
    eager, compiled = str(tmp_path / "eager"), str(tmp_path / "compiled")
    assert main([*train, eager]) == 0
    apart = [sys.executable, "-m", "mmdflow", *train, compiled, "--training.compile=true"]
    subprocess.run(apart, check=True, capture_output=True)
    samples = [
        load_pipeline(run)(3, num_levels=2, generator=torch.Generator().manual_seed(0)).particles
        for run in (eager, compiled)
    ]
    torch.testing.assert_close(*samples, atol=1e-3, rtol=0)


def test_training_by_time_ends_in_time_and_resumes_as_finished(tmp_path):
    run = tmp_path / "run"
    options = ["--training.max_steps=100000", "--training.max_seconds=1"]
    assert main(["train", "dmmd-digits", f"--output={run}", *QUICK[1:], *options]) == 0
    made = json.loads((run / "pipeline" / "config.json").read_text())["provenance"]
    assert 1 <= made["train_seconds"] < 20
    assert 0 < made["steps"] < 100_000
    shutil.rmtree(run / "pipeline")
    assert main(["train", "--resume", str(run)]) == 0
    assert json.loads((run / "pipeline" / "config.json").read_text())["provenance"]["steps"] == made["steps"]
