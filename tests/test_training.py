"""Training through Lightning: an interrupted run equals an uninterrupted one; nothing is lost."""

import contextlib
import dataclasses
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mmdflow import DivergedError, DMMDLoss, DMMDPipeline, InputError, data
from mmdflow.cli import main
from mmdflow.methods.dmmd.recipe import DMMDRecipe, LossSpec, SamplingSpec, TrainingSpec
from mmdflow.recipe import DataSpec, EvaluationSpec, FeaturesSpec
from mmdflow.training import StepBatches, step_generator

pytest.importorskip("lightning")
from mmdflow.methods.base import build_features
from mmdflow.runs import train as run
from mmdflow.training import LoopSpec, LossModule
from mmdflow.training.run import fit, read_checkpoint, read_log

RECIPE = DMMDRecipe(
    data=DataSpec("digits"),
    features=FeaturesSpec("mlp", width=16, depth=1, num_features=2),
    loss=LossSpec(form="path", num_levels=4),
    training=TrainingSpec(max_steps=12, checkpoint_every=5, sample_every=4, log_every=2, accelerator="cpu"),
    sampling=SamplingSpec(mean_levels=3, mean_noise_repeats=1, num_levels=3),
    evaluation=EvaluationSpec(num_samples=8),
)


def train(folder, recipe=RECIPE):
    if not (folder / "recipe.yaml").exists():
        run.open_run(recipe, folder)
    return run.train(recipe, folder, progress=False)


def with_training(**fields):
    return dataclasses.replace(RECIPE, training=dataclasses.replace(RECIPE.training, **fields))


def weights(folder):
    return read_checkpoint(folder)["state_dict"]


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run and its pipeline, to be read only."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train(folder)


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(whole[0], tmp_path / "finished")


def test_a_run_leaves_what_it_promises(whole):
    folder, pipeline = whole
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {"recipe.yaml", "checkpoints/last.ckpt", "logs/from-step-0/metrics.csv", "pipeline/config.json"} <= files
    assert {"samples/step-0000004.png", "samples/step-0000008.png"} <= files
    assert [f for f in files if f.startswith("tensorboard/from-step-0/events")]
    assert not [f for f in files if "tmp" in f]
    assert pipeline.provenance["steps"] == 12
    assert pipeline.provenance["train_seconds"] > 0
    header = (folder / "logs/from-step-0/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"loss", "mmd2", "unit", "displacement", "slope", "participation"} <= set(header)
    saved = DMMDPipeline.from_pretrained(folder)
    for a, b in zip(saved.features.parameters(), pipeline.features.parameters(), strict=True):
        assert torch.equal(a, b)


class Chain(nn.Module):
    """A loss of three stages that counts its steps, and knows what each stage was entered with."""

    num_stages = 3

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(2, 1) for _ in range(3))
        self.register_buffer("steps", torch.zeros(3))
        self.register_buffer("start", torch.zeros(3, 2))
        self.register_buffer("stage", torch.tensor(-1))
        self.entered = []

    def enter(self, stage, generator):
        self.stage.fill_(stage)
        self.entered.append(stage)
        self.start[stage] = torch.randn(2, generator=generator)

    def parameter_groups(self):
        return [(part, 0.5**i) for i, part in enumerate(self.parts)]

    def forward(self, batch, generator):
        self.steps[self.stage] += 1
        return Total(self.parts[self.stage](batch + self.start[self.stage]).square().mean())


@dataclasses.dataclass
class Total:
    total: torch.Tensor

    def scalars(self):
        return {"loss": float(self.total.detach())}

    def check_finite(self):
        pass


@pytest.mark.parametrize("bound", [{"max_steps": 12}, {"max_steps": 100, "max_seconds": 12.0}])
def test_stages_share_the_training_and_each_decays(tmp_path, monkeypatch, bound):
    loss, sizes = Chain(), []
    ticks = itertools.count()
    options = {
        "betas": (0.9, 0.99),
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "ema_decay": 0.0,
        "seed": 0,
        "log_every": 5,
        "accelerator": "cpu",
    }
    loop = LoopSpec(step_size=0.1, **options, **bound)
    lit = LossModule(loss, loss.parts, loop, clock=lambda: float(next(ticks)) / 4)  # some calls a step
    step = LossModule.training_step

    def watched(self, *args, **kwargs):
        total = step(self, *args, **kwargs)
        sizes.append([group["lr"] for group in self.optimizers().param_groups])
        return total

    monkeypatch.setattr(LossModule, "training_step", watched)
    before = [part.weight.clone() for part in loss.parts]
    fit(lit, torch.randn(8, 2), tmp_path, batch_size=4, progress=False)
    assert loss.entered == [0, 1, 2]
    assert [part.weight.equal(old) for part, old in zip(loss.parts, before, strict=True)] == [False] * 3
    if "max_seconds" not in bound:
        assert loss.steps.tolist() == [4, 4, 4]
        for factor, sizes_of_part in zip((1, 0.5, 0.25), zip(*sizes, strict=True), strict=True):
            assert sizes_of_part == pytest.approx([factor * size for size in (0.1, 0.075, 0.05, 0.025)] * 3)
    else:
        assert min(loss.steps.tolist()) >= 1


def test_a_resumed_run_is_in_the_stage_that_it_was_in(tmp_path):
    def new():
        torch.manual_seed(0)
        loss = Chain()
        options = {"betas": (0.9, 0.99), "weight_decay": 0.0, "warmup_steps": 0, "ema_decay": 0.5, "seed": 0}
        loop = LoopSpec(step_size=0.1, max_steps=12, log_every=5, accelerator="cpu", **options)
        return loss, LossModule(loss, loss.parts, loop)

    data_, fitting = torch.randn(8, 2), {"batch_size": 4, "progress": False}
    whole, lit = new()
    fit(lit, data_, tmp_path / "whole", **fitting)
    parts, lit = new()
    enter = parts.enter

    def interrupting(stage, generator):
        enter(stage, generator)
        if stage == 1:
            ctrl_c()

    parts.enter = interrupting
    with pytest.raises(KeyboardInterrupt):
        fit(lit, data_, tmp_path / "parts", **fitting)
    resumed, lit = new()
    fit(lit, data_, tmp_path / "parts", **fitting)
    assert resumed.entered == [2]
    assert_same(resumed.state_dict(), whole.state_dict())


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


def crash():
    raise OSError("the disk is gone")


@contextlib.contextmanager
def interrupted(monkeypatch, how):
    """Call `how` in the seventh step."""
    left, forward = itertools.count(-6), DMMDLoss.forward

    def interrupting(self, *args, **kwargs):
        if next(left) == 0:
            how()
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(DMMDLoss, "forward", interrupting)
        yield


@pytest.mark.parametrize(("how", "saved"), [(ctrl_c, 7), (sigterm, 7), (crash, 5)])
def test_interrupted_run_equals_uninterrupted_run_bit_for_bit(whole, tmp_path, monkeypatch, how, saved):
    folder, pipeline = whole
    with interrupted(monkeypatch, how), pytest.raises((KeyboardInterrupt, OSError)):
        train(tmp_path / "parts")
    assert read_checkpoint(tmp_path / "parts")["global_step"] == saved
    resumed = train(tmp_path / "parts")
    assert_same(weights(tmp_path / "parts"), weights(folder))
    whole_log, log = (
        {k: v for k, v in read_log(of).items() if "seconds" not in k} for of in (folder, tmp_path / "parts")
    )
    assert log == whole_log
    optimisers = [read_checkpoint(of)["optimizer_states"][0]["state"] for of in (folder, tmp_path / "parts")]
    for a, b in zip(*(o.values() for o in optimisers), strict=True):
        assert_same(a, b)
    generator = [torch.Generator().manual_seed(0) for _ in range(2)]
    a, b = (p(4, generator=g).particles for p, g in zip((pipeline, resumed), generator, strict=True))
    assert torch.equal(a, b)


def test_a_run_by_muon_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch):
    recipe = with_training(optimizer="muon")
    train(tmp_path / "whole", recipe)
    with interrupted(monkeypatch, crash), pytest.raises(OSError, match="disk"):
        train(tmp_path / "parts", recipe)
    train(tmp_path / "parts", recipe)
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    states = read_checkpoint(tmp_path / "parts")["optimizer_states"][0]["state"]
    assert {"step", "momentum"} in [set(state) for state in states.values()]


def test_a_finished_run_is_not_trained_again(whole, finished):
    before = weights(finished)
    again = train(finished)
    assert_same(weights(finished), before)
    assert again.provenance["train_seconds"] == pytest.approx(whole[1].provenance["train_seconds"], abs=0.5)


def test_seeds_decide(whole, tmp_path):
    train(tmp_path / "b")
    train(tmp_path / "c", with_training(seed=1))
    assert_same(weights(whole[0]), weights(tmp_path / "b"))
    assert not torch.equal(
        weights(whole[0])["ema.module.features.stem.weight"],
        weights(tmp_path / "c")["ema.module.features.stem.weight"],
    )


def test_kill_at_any_moment_leaves_a_checkpoint_that_resumes(tmp_path):
    """A process that stands still has left on disk what one killed at that moment leaves; the last moment is a kill."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "mmdflow", "train"]
    options = ["dmmd-digits", f"--output={folder}", "--training.max_steps=4000", "--training.checkpoint_every=1"]
    options += ["--features.width=16", "--training.sample_every=0", "--loss.num_levels=4", "--training.accelerator=cpu"]
    options += ["--sampling.mean_levels=3", "--sampling.final_steps=0"]
    process = subprocess.Popen([*command, *options], env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while (
        not (folder / "checkpoints" / "last.ckpt").exists() and process.poll() is None and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    moments = [folder]
    for moment in range(2):
        time.sleep(0.05 + 0.2 * moment)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        moments.append(shutil.copytree(folder, tmp_path / f"moment-{moment}"))
        process.send_signal(signal.SIGCONT)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    for left in moments:
        steps = read_checkpoint(left)["global_step"]
        assert steps >= 0
        # the resume command that the documentation gives, cut short: a recipe on disk is what a resume follows
        recipe = left / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace("max_steps: 4000", f"max_steps: {steps + 2}"))
        assert main(["train", "--resume", str(left)]) == 0
        pipeline = DMMDPipeline.from_pretrained(left)
        assert pipeline.provenance["steps"] == steps + 2
        assert pipeline(2).particles.shape == (2, 1, 8, 8)


def test_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    forward = DMMDLoss.forward
    calls = itertools.count()

    def poisoned(self, *args, **kwargs):
        terms = forward(self, *args, **kwargs)
        if next(calls) == 8:
            return dataclasses.replace(
                terms, total=terms.total * float("nan"), displacement=terms.displacement * float("nan")
            )
        return terms

    monkeypatch.setattr(DMMDLoss, "forward", poisoned)
    with pytest.raises(
        DivergedError, match=r"step 8: loss term displacement became non-finite at noise level t = 0\.\d+; lower"
    ):
        train(tmp_path / "run")
    saved = read_checkpoint(tmp_path / "run")
    assert saved["global_step"] == 5
    assert all(torch.isfinite(v).all() for v in saved["state_dict"].values())


def test_damaged_checkpoint_is_told(finished):
    shutil.rmtree(finished / "pipeline")
    for path in (finished / "checkpoints").iterdir():  # the last one, and the one before it
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="last.ckpt: damaged checkpoint"):
        train(finished)


def test_checkpoint_of_another_network_is_told(finished):
    shutil.rmtree(finished / "pipeline")
    other = dataclasses.replace(RECIPE, features=dataclasses.replace(RECIPE.features, width=8))
    with pytest.raises(InputError, match="does not fit this recipe's network"):
        train(finished, other)


def test_two_resumes_from_one_step_keep_both_logs(tmp_path, monkeypatch):
    monkeypatch.setattr(DMMDLoss, "forward", lambda *a, **k: crash())
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            train(tmp_path / "run")
    assert {p.name for p in (tmp_path / "run" / "logs").iterdir()} == {"from-step-0", "from-step-0-1"}


def test_a_picture_that_fails_does_not_stop_training(tmp_path, monkeypatch, caplog):
    def broken(*args):
        raise ImportError("no matplotlib")

    monkeypatch.setattr(run.plots, "save_samples", broken)
    train(tmp_path / "run")
    assert "no picture of step 4: no matplotlib" in caplog.text


def test_the_log_is_what_was_measured_and_survives_a_cut_line(finished):
    log = read_log(finished)
    assert list(log["loss"]) == [1, 3, 5, 7, 9, 11]
    assert len(set(log["loss"].values())) == 6
    with (finished / "logs/from-step-0/metrics.csv").open("a") as file:
        file.write("0.5,")
    assert read_log(finished) == log


def test_the_clock_stands_still_before_training_and_in_pauses():
    now = [0.0]
    loss = nn.Linear(1, 1)
    settings = {"step_size": 1.0, "betas": (0.9, 0.99), "weight_decay": 0.0, "warmup_steps": 0, "max_steps": 5}
    loop = LoopSpec(**settings, max_seconds=10.0, ema_decay=0.9, seed=0, log_every=1)
    watched = LossModule(loss, loss, loop, clock=lambda: now[0])
    now[0] = 100.0
    assert watched.elapsed == 0.0
    watched.on_train_start()
    now[0] = 104.0
    with watched.pause():
        now[0] = 150.0
        assert watched.elapsed == 4.0
    now[0] = 155.0
    saved = {"global_step": 3}
    watched.on_save_checkpoint(saved)
    assert saved["mmdflow_seconds"] == watched.elapsed == 9.0
    assert not watched.finished
    now[0] = 156.0
    assert watched.finished


def test_a_run_on_a_cpu_is_timed_by_the_cpu(tmp_path):
    from mmdflow.runs.cache import run_clock

    assert run_clock(RECIPE) is time.process_time
    ticks = itertools.count()
    run.open_run(RECIPE, tmp_path / "run")
    pipeline = run.train(RECIPE, tmp_path / "run", progress=False, clock=lambda: float(next(ticks)))
    assert pipeline.provenance["train_seconds"] == pytest.approx(round(pipeline.provenance["train_seconds"]))


def test_out_of_memory_in_training_says_what_halves_it(tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    monkeypatch.setattr(DMMDLoss, "forward", full)
    size = RECIPE.training.events_per_level
    message = (
        f"out of memory with training.events_per_level = {size}: training.events_per_level = {size // 2} halves it"
    )
    for start in (lambda: run.build_check(RECIPE), lambda: train(tmp_path / "a")):
        with pytest.raises(InputError, match=f"{message}, training.checkpointing=true"):
            start()
    monkeypatch.setattr(DMMDLoss, "forward", lambda *_: [][0])
    with pytest.raises(IndexError):
        run.build_check(RECIPE)


def test_data_with_nan_is_refused(tmp_path, monkeypatch):
    real = data.load

    def poisoned(*args):
        dataset = real(*args)
        dataset.train[3, 0, 2, 2] = float("nan")
        return dataset

    monkeypatch.setattr(data, "load", poisoned)
    with pytest.raises(InputError, match="data holds 1 NaN or infinite entries"):
        train(tmp_path / "run")


def test_output_folders_are_not_lost(tmp_path):
    run.open_run(RECIPE, tmp_path / "run")
    with pytest.raises(InputError, match="already holds a run; go on with `mmdflow train --resume"):
        run.open_run(RECIPE, tmp_path / "run")
    run.open_run(RECIPE, tmp_path / "run", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for recipe_too in (False, True):
        if recipe_too:
            (tmp_path / "mine" / "recipe.yaml").write_text("")
        with pytest.raises(InputError, match="in use and holds 'thesis.tex'"):
            run.open_run(RECIPE, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_batches_are_functions_of_seed_and_step():
    data = torch.arange(10.0)[:, None]
    stream = list(itertools.islice(iter(StepBatches(data, 4, seed=3)), 12))
    for start in (1, 2, 5, 7):
        later = list(itertools.islice(iter(StepBatches(data, 4, seed=3, start=start)), 4))
        assert all(torch.equal(a, b) for a, b in zip(later, stream[start:], strict=False))
    epochs = torch.cat(stream)[:20].flatten()
    assert sorted(epochs[:10].tolist()) == sorted(epochs[10:].tolist()) == list(range(10))
    big = next(iter(StepBatches(data, 25)))
    assert big.shape == (25, 1)


def test_the_order_is_that_of_the_first_version():
    """Checkpoints of earlier versions go on with the same batches."""
    orders = [torch.randperm(10, generator=step_generator(3, epoch, stream=1 << 20)) for epoch in range(5)]
    stream = torch.cat(orders)
    for step, batch in enumerate(itertools.islice(StepBatches(torch.arange(10.0)[:, None], 4, seed=3), 12)):
        assert batch.flatten().long().tolist() == stream[4 * step : 4 * step + 4].tolist()


@pytest.mark.parametrize("batch_size", [12, 48])  # also of more than an epoch
def test_ranks_share_every_batch(batch_size):
    data = torch.arange(20.0)[:, None]

    def steps(start, count, world_size):
        """What the ranks see together, step by step."""
        ranks = [
            itertools.islice(StepBatches(data, batch_size, 5, start, rank=rank, world_size=world_size), count)
            for rank in range(world_size)
        ]
        shares = [[share.flatten().tolist() for share in step] for step in zip(*ranks, strict=True)]
        assert {len(share) for step in shares for share in step} == {batch_size // world_size}
        return [sorted(itertools.chain(*step)) for step in shares]

    alone = steps(0, 10, 1)
    for world_size in (2, 3, 4):
        assert steps(0, 10, world_size) == alone
    # three steps on 2 ranks, which end within an epoch, then 4 ranks, then one
    assert steps(0, 3, 2) + steps(3, 4, 4) + steps(7, 3, 1) == alone


def test_ranks_have_different_events():
    data = torch.arange(24.0)[:, None]
    first, second = (next(iter(StepBatches(data, 12, rank=rank, world_size=2))) for rank in (0, 1))
    assert not set(first.flatten().tolist()) & set(second.flatten().tolist())


def test_rows_of_a_class_stand_together():
    labels = torch.tensor([0] * 11 + [1] * 8 + [3] * 5)[torch.randperm(24, generator=step_generator(0, 0))]
    data = torch.arange(24.0)[:, None]

    def batches(start):
        return StepBatches(data, 8, seed=2, start=start, labels=labels, same_class=4)

    stream = list(itertools.islice(batches(0), 40))
    for events, of in stream:
        assert torch.equal(labels[events[:, 0].long()], of)
        assert bool((of.view(2, 4) == of.view(2, 4)[:, :1]).all())
    epochs = torch.cat([events for events, _ in stream]).long().view(-1, 20)  # 8 of 11, 8, and 4 of 5
    assert all(len(epoch.unique()) == 20 for epoch in epochs)
    assert len(epochs.unique()) == 24  # what one epoch leaves out is in another
    for (events, _), (again, _) in zip(batches(13), stream[13:], strict=False):
        assert torch.equal(events, again)
    with pytest.raises(InputError, match="same_class = 8: class 3 has 5 events; must not be more than a class has"):
        StepBatches(data, 8, labels=labels, same_class=8)


def test_a_share_of_the_rows_is_of_all_classes():
    labels = (torch.arange(4000) % 4)[torch.randperm(4000, generator=step_generator(0, 0))]
    data = torch.arange(4000.0)[:, None]

    def epochs(start, count, **options):
        batches = StepBatches(data, 400, seed=2, start=start, labels=labels, same_class=8, **options)
        parts = [torch.cat(part) for part in zip(*itertools.islice(batches, count), strict=True)]
        return parts[0][:, 0].long().view(-1, 8), parts[1].view(-1, 8)

    rows, told = epochs(0, 20, label_dropout=0.2)
    mixed = (told == -1).all(1)
    assert mixed.view(2, -1).sum(1).tolist() == [100, 100]  # of the 500 of an epoch
    assert torch.equal(labels[rows[~mixed]], told[~mixed])
    assert bool((told == told[:, :1]).all())
    assert all(len(epoch.unique()) == 4000 for epoch in rows.view(2, -1))
    pairs = labels[rows[mixed]].view(-1, 2)  # of one class in a quarter of all cases
    assert float((pairs[:, 0] == pairs[:, 1]).double().mean()) == pytest.approx(1 / 4, abs=5 * (3 / 16 / 800) ** 0.5)
    assert torch.equal(epochs(7, 5, label_dropout=0.2)[0], rows.view(20, -1, 8)[7:12].flatten(0, 1))  # a resume
    few = StepBatches(data[:40], 40, labels=labels[:40], same_class=4, label_dropout=0.01)
    assert int((next(iter(few))[1] == -1).sum()) == 8  # two rows at least: one would be of one class
    assert -1 not in epochs(0, 10)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"same_class": 2}, "same_class = 2 with no labels: must be 1"),
        ({"label_dropout": 0.1}, "label_dropout = 0.1 with same_class = 1: must be 0"),
        (
            {"label_dropout": 1.0, "labels": torch.zeros(5).long(), "same_class": 2},
            r"label_dropout = 1.0: must be a number in \[0, 1\)",
        ),
        ({"same_class": 3, "labels": torch.zeros(5).long()}, "batch_size = 4: must be a multiple of same_class = 3"),
        (
            {"same_class": 2, "labels": torch.zeros(5).long(), "world_size": 2},
            "same_class = 2 with ranks: must be 1",
        ),
        ({"batch_size": 10, "world_size": 4}, "batch_size = 10: must be a multiple of world_size = 4"),
        ({"rank": 2, "world_size": 2}, "rank = 2: must be < world_size = 2"),
        ({"rank": -1}, "rank = -1: must be an integer >= 0"),
        ({"world_size": 0}, "world_size = 0: must be an integer >= 1"),
    ],
)
def test_ranks_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        StepBatches(torch.ones(5, 1), **{"batch_size": 4, **options})


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_neither_repeat_nor_reorder_batches(workers):
    pixels = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1).repeat(4, 2).repeat(4, 3)
    batches = StepBatches(data.ImageSet(pixels, source="stand-ins"), 4, seed=3, start=2, rank=1, world_size=2)
    alone = list(itertools.islice(batches, 11))
    loaded = list(itertools.islice(DataLoader(batches, batch_size=None, num_workers=workers), 11))
    assert all(torch.equal(a, b) for a, b in zip(loaded, alone, strict=True))


def test_step_generators_differ():
    draws = {torch.rand(1, generator=step_generator(*key)).item() for key in [(0, 0), (0, 1), (1, 0), (7, 7)]}
    assert len(draws) == 4


@pytest.mark.parametrize(
    ("spec", "fields", "message"),
    [
        (TrainingSpec, {"max_steps": 0}, "training.max_steps = 0"),
        (TrainingSpec, {"events_per_level": 7}, "training.events_per_level = 7: must be even"),
        (TrainingSpec, {"step_size": -1.0}, "training.step_size = -1.0"),
        (LossSpec, {"t_min": 1.2}, "loss.t_min = 1.2"),
        (FeaturesSpec, {"width": -3}, "features.width = -3"),
        (SamplingSpec, {"num_levels": 0}, "sampling.num_levels = 0"),
        (EvaluationSpec, {"num_samples": -2}, "evaluation.num_samples = -2"),
    ],
)
def test_recipes_check_their_numbers(spec, fields, message, unchecked):
    with pytest.raises(InputError, match=message):
        spec(**fields)


def test_fields_of_another_network_are_refused():
    with pytest.raises(InputError, match="features.blocks = 2: not a field of the mlp network"):
        build_features(FeaturesSpec("mlp", blocks=2), (1, 8, 8))


def with_few_events(recipe):
    """Return a recipe whose step takes four events, or four a level, and whose simulation takes two steps."""
    per = "events_per_level" if hasattr(recipe.training, "events_per_level") else "batch_size"
    recipe = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, **{per: 4}))
    if hasattr(recipe, "flow"):
        recipe = dataclasses.replace(recipe, flow=dataclasses.replace(recipe.flow, first_steps=2))
    return recipe


def test_every_recipe_builds(monkeypatch):
    from mmdflow import data
    from mmdflow.cli.train import recipe_from
    from mmdflow.methods import get_method, recipe_names, recipe_path
    from mmdflow.recipe.specs import IMAGE_SETS

    def stand_in(name, path=None):
        shape = (1, 28, 28) if name in ("mnist", "fashion") else ((1, 8, 8) if name == "digits" else (2,))
        x = torch.randn(256, *shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
        labels = torch.arange(256) // 4 % 10 if len(shape) == 3 else None  # four events of a class in a row
        return data.DataSet(name, x, x[:64], labels, None if labels is None else labels[:64], "stand-in")

    monkeypatch.setattr(data, "load", stand_in)
    names = recipe_names()
    assert {"dmmd-digits", "dmmd-mnist", "dmmd-fashion", "dmmd-checkerboard"} <= set(names)
    for name in names:
        recipe = recipe_from(recipe_path(name))
        if recipe.data.name in IMAGE_SETS:  # tests/test_image_recipes.py trains them, shrunk
            continue
        few = with_few_events(recipe)
        dataset = data.load(recipe.data.name)
        labels = get_method(recipe.system).make_system().labels(few, dataset)
        told = [] if labels is None else [None, labels[: few.batch_size]]
        run.build_loss(few, dataset)(dataset.train[: few.batch_size], *told).total.backward()
        assert recipe.description, name
        assert Path(recipe_path(name)).stem == name
