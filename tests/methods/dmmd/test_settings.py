"""One dataclass of the sampler and one of the loss: in the library, in recipes, in calls, on the command line."""

import json
import math
import subprocess
import sys
from dataclasses import asdict, fields

import pytest
import torch

from mmdflow import DMMDPipeline, InputError
from mmdflow._settings import fields_of
from mmdflow.cli.models import sampler_options
from mmdflow.methods.dmmd import NAMES, LossSettings, SamplerSettings
from mmdflow.methods.dmmd.recipe import DMMDRecipe, LossSpec, SamplingSpec
from mmdflow.methods.registry import all_methods


def test_recipes_extend_the_settings():
    recipe = DMMDRecipe()
    assert isinstance(recipe.loss, LossSettings)
    assert isinstance(recipe.sampling, SamplerSettings)
    assert recipe.sampling.settings() == SamplerSettings()
    assert SamplingSpec(num_levels=7, step_size=[0.1] * 7).settings().num_levels == 7
    assert [f.name for f in fields(LossSpec)] == [f.name for f in fields(LossSettings)]


@pytest.mark.parametrize(
    ("kind", "section", "change", "message"),
    [
        (SamplerSettings, "", {"num_levels": 0}, "num_levels = 0: must be"),
        (SamplingSpec, "sampling.", {"num_levels": 0}, "sampling.num_levels = 0: must be"),
        (SamplerSettings, "", {"feedback": 0.5}, "feedback = 0.5: must be a finite number >= 1"),
        (SamplingSpec, "sampling.", {"feedback": float("nan")}, "sampling.feedback = nan: must be"),
        (SamplingSpec, "sampling.", {"step_size": [0.1]}, "sampling.step_size has 1 entries"),
        (
            SamplingSpec,
            "sampling.",
            {"step_size": "distanc"},
            "sampling.step_size = 'distanc': must be one of distance",
        ),
        (SamplingSpec, "sampling.", {"t_min": 0.5, "t_max": 0.4}, "must not be above sampling.t_max = 0.4"),
        (SamplingSpec, "sampling.", {"final_sampler": "exac"}, "did you mean 'exact'"),
        (LossSettings, "", {"pairing": "nonsense"}, "pairing = 'nonsense': must be one of disjoint, paired, shared"),
        (LossSpec, "loss.", {"objective": "KL"}, "loss.objective = 'KL': must be one of mmd, kl, reverse-kl"),
        (LossSpec, "loss.", {"l2_weight": -1.0}, "loss.l2_weight = -1.0"),
    ],
)
def test_messages_name_the_section_of_a_recipe(kind, section, change, message, unchecked):
    with pytest.raises(InputError) as caught:
        kind(**change)
    assert message in str(caught.value)
    assert str(caught.value).startswith(section)


def test_changes_of_a_call():
    settings = SamplerSettings(max_slope=2.0, whitening=0.5, final_steps=5, final_sampler="approximate")
    assert settings.changed(max_slope=None, num_levels=None) == settings
    plain = settings.changed(max_slope=math.inf, whitening=math.inf)
    assert (plain.max_slope, plain.whitening) == (None, None)
    assert settings.changed(step_size=(0.1,) * 50).step_size == [0.1] * 50
    assert settings.changed(step_size=0.1).changed(step_size="distance").step_size == "distance"
    assert SamplerSettings(step_size=None).step_size == "distance"  # as older folders have it
    for name, (flow, final, steps) in NAMES.items():
        changed = settings.changed(sampler=name.upper())
        assert (changed.sampler, changed.final_sampler, changed.final_steps) == (flow, final, steps)
        assert settings.changed(sampler=name, final_steps=1).final_steps == 1
    with pytest.raises(InputError, match=r"num_level = 3: no such setting; did you mean 'num_levels'"):
        settings.changed(num_level=3)
    with pytest.raises(InputError, match=r"^source = tensor\(.{,75}: no such setting; there are num_levels"):
        settings.changed(source=torch.zeros(50, 8))


def test_a_pipeline_takes_every_setting_and_no_other():
    pipeline = DMMDPipeline.from_pretrained("digits")
    assert pipeline.settings is type(pipeline.defaults) is SamplerSettings
    same = asdict(pipeline.defaults)
    out = pipeline(2, **same)
    assert out.nfe == 52
    assert repr(out) == "DMMDOutput([2, 1, 8, 8] particles, nfe 52)"
    with pytest.raises(InputError, match=r"steps = 3: no such setting"):
        pipeline(2, steps=3)


def test_integrators_of_a_run_obey_its_step_sizes():
    pipeline = DMMDPipeline.from_pretrained("digits")
    for name in ("rk4", "adam", "adaptive"):
        with pytest.raises(InputError, match=f"integrator = '{name}': must be one of euler"):
            pipeline(2, integrator=name)


def test_options_of_the_command_line_are_the_settings_of_all_methods():
    options = sampler_options()
    own = {field.name: field.text for field in fields_of(SamplerSettings)}
    assert own.keys() <= options.keys()
    assert all(text.rstrip(".") in options[name].text for name, text in own.items())
    kinds = [method.settings_class() for method in all_methods().values()]
    assert SamplerSettings in kinds
    assert all(field.name in options for kind in kinds if kind is not None for field in fields_of(kind))


def test_options_need_no_torch():
    code = "import sys; from mmdflow.cli.models import model_parser; model_parser('sample', ''); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_folders_hold_the_settings_under_the_same_keys(tmp_path):
    """So that folders of the first release load."""
    pipeline = DMMDPipeline.from_pretrained("digits")
    pipeline.save_pretrained(tmp_path / "p")
    config = json.loads((tmp_path / "p" / "config.json").read_text())
    assert list(config["sampler"]) == [
        "num_levels",
        "steps_per_level",
        "step_size",
        "step_scale",
        "sampler",
        "final_steps",
        "final_sampler",
        "final_step_size",
        "final_level",
        "max_slope",
        "t_min",
        "t_max",
        "momentum",
        "integrator",
        "chunk_size",
        "whitening",
        "guidance",
        "by_class",
        "feedback",
    ]
