"""The fields that recipes share, with their defaults; a method's room has its own in `recipe`.

Every number that shapes a run is a field of a recipe and stands nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from mmdflow import _checks, _settings
from mmdflow.errors import InputError
from mmdflow.training.settings import BatchTrainingSpec, LoopSpec

__all__ = [
    "IMAGE_SETS",
    "BaseSpec",
    "BatchRecipe",
    "BatchTrainingSpec",
    "DataSpec",
    "EvaluationSpec",
    "FeaturesSpec",
    "LoopSpec",
    "Recipe",
    "check_event_map",
]

#: Names of image sets that are not held in memory; "images" is any folder or file that `mmdflow.data.images` reads.
IMAGE_SETS = ("cifar10", "celeba64", "church64", "images")


@dataclass(frozen=True)
class DataSpec:
    """The data set.

    Attributes:
        name: digits, mnist, fashion, checkerboard, rings, moons, spirals, eight-gaussians or pinwheel; cifar10, celeba64,
            church64 or images (which needs a path), whose images are decoded by the batch. A folder or file of images, or
            hub:OWNER/NAME, stands for images with this path.
        path: folder of the IDX files, or what holds the images (hub:OWNER/NAME is on the Hugging Face hub); by default found
            through MMDFLOW_DATA or the hub.
        scale: factor of the data while it is trained on and flowed to; samples are given in the data's own units.
        size: side of the images, of image sets; the named ones have theirs, others keep what they have.
        channels: 1 for grey images, 3 for colour, of image sets; 3 by default.
        flip: whether to train on mirror images too, of image sets.
        held_out: share of the images that is not trained on but kept for `evaluate`, of image sets without a test part; always
            the same images, as large a share of every class.
    """

    name: str = "digits"
    path: str | None = None
    scale: float = 1.0
    size: int | None = None
    channels: int | None = None
    flip: bool = False
    held_out: float = 0.1

    def __post_init__(self) -> None:
        """Check the numbers, and that only image sets have the fields of image sets."""
        if _is_place(self.name):
            object.__setattr__(self, "path", self.name)
            object.__setattr__(self, "name", "images")
        _checks.positive("data.scale", self.scale)
        _checks.interval("data.held_out", self.held_out, 0.0, 1.0, "[)")
        if self.size is not None:
            _checks.count("data.size", self.size)
        if self.channels not in (None, 1, 3):
            raise InputError(f"data.channels = {self.channels!r}: must be 1 or 3")
        if self.name not in IMAGE_SETS:
            for name in ("size", "channels", "flip"):
                if value := getattr(self, name):
                    allowed = ", ".join(IMAGE_SETS)
                    raise InputError(f"data.{name} = {value!r} with data.name = {self.name!r}: is for {allowed}")
            return
        if self.scale != 1:
            raise InputError(f"data.scale = {self.scale:g} with data.name = {self.name!r}: must be 1")
        if self.name == "images" and self.path is None:
            raise InputError(
                "data.path is missing with data.name = 'images': give the folder or file of the images, or hub:OWNER/NAME"
            )


def _is_place(name: str) -> bool:
    """Whether the name of a data set is that of a folder or file, or of a data set of the hub."""
    if ":" not in name and not Path(name).exists():
        return False
    from mmdflow.data import DATASETS, HUB  # slow to load

    return name not in {*DATASETS, "images"} and (name.startswith(HUB) or Path(name).exists())


@dataclass(frozen=True)
class FeaturesSpec:
    """The feature network phi(x, t).

    Attributes:
        network: mlp, conv, decoder or unet.
        head: mixed or squared_residual (ours), or flat (the paper's).
        num_features: K.
        num_residuals: squared residuals among them (mixed); 4 by default.
        code: numbers of the code between event and event (decoder).
        width: units a layer (mlp, decoder).
        fourier: frequencies of sines of the entries beside the event (mlp).
        depth: hidden layers (mlp, decoder).
        channels: channels of each resolution, finest first (conv, decoder, unet).
        blocks: residual blocks a resolution (conv).
        patch: side of the squares of pixels that are one position of the finest maps (conv).
        attention: self-attention at each resolution (unet).
        layers: residual blocks a resolution (unet).
        groups: groups of the normalisation (unet).
    """

    section: ClassVar[str] = "features."
    #: A field of older recipes; "semi" is a parametrisation of flow matching, see its `loss.output`.
    RETIRED: ClassVar[dict[str, Any]] = {"gradient": None}
    network: Literal["mlp", "conv", "decoder", "unet"] = "mlp"
    head: Literal["squared_residual", "flat", "mixed"] = "squared_residual"
    num_features: int = 4
    num_residuals: int | None = None
    code: int | None = None
    width: int | None = None
    fourier: int | None = None
    depth: int | None = None
    channels: list[int] | None = None
    blocks: int | None = None
    patch: int | None = None
    attention: list[bool] | None = None
    layers: int | None = None
    groups: int | None = None

    def __post_init__(self) -> None:
        """Check choices and numbers."""
        sizes = ("code", "width", "depth", "blocks", "patch", "layers", "groups")
        _settings.check(self, counts=["num_features", "num_residuals", *sizes])
        for channels in self.channels or []:
            _checks.count("features.channels", channels)


def check_event_map(features: FeaturesSpec, system: str) -> None:
    """Raise InputError unless the network maps an event to an event."""
    for name, needed in (("num_features", 1), ("head", "squared_residual")):
        value = getattr(features, name)
        if value != needed:
            raise InputError(f"features.{name} = {value!r}: must be {needed!r} for {system}, whose output is an event")


@dataclass(frozen=True)
class BaseSpec:
    """The base kernel on features. Others than linear sample towards reference events instead of mean features.

    Attributes:
        name: linear (the paper's experiments), gaussian or rational-quadratic.
        bandwidths: of gaussian, one or a sum of several; 1 by default.
        alphas: of rational-quadratic, one or a sum of several; 1 by default.
        scale: of rational-quadratic; 1 by default.
        linear: weight of a linear kernel that is added to the others.
    """

    section: ClassVar[str] = "base."
    name: Literal["linear", "gaussian", "rational-quadratic"] = "linear"
    bandwidths: list[float] | None = None
    alphas: list[float] | None = None
    scale: float | None = None
    linear: float = 0.0

    def __post_init__(self) -> None:
        """Check the choice of kernel, and that its numbers belong to it."""
        _settings.check(self, non_negative=["linear"])
        used = {"gaussian": ("bandwidths",), "rational-quadratic": ("alphas", "scale")}.get(self.name, ())
        for name in ("bandwidths", "alphas", "scale"):
            value = getattr(self, name)
            if value is None:
                continue
            if name not in used:
                raise InputError(f"base.{name} = {value!r}: not a field of base.name = {self.name!r}")
            values = value if isinstance(value, list) else [value]
            if not values:
                raise InputError(f"base.{name} = []: must hold at least one number")
            for number in values:
                _checks.positive(f"base.{name}", number)
        if self.linear > 0 and self.name == "linear":
            raise InputError(f"base.linear = {self.linear!r}: is added to a base.name other than 'linear'")

    def config(self) -> dict[str, Any]:
        """Return the settings that `mmdflow.kernels.base_kernel` takes."""
        if self.name == "linear":
            return {"name": "linear"}
        if self.name == "gaussian":
            members: list[dict[str, Any]] = [{"name": self.name, "bandwidth": b} for b in self.bandwidths or [1.0]]
        else:
            members = [{"name": self.name, "alpha": a, "scale": self.scale or 1.0} for a in self.alphas or [1.0]]
        weights = [1.0] * len(members)
        if self.linear > 0:
            members, weights = [*members, {"name": "linear"}], [*weights, self.linear]
        return members[0] if len(members) == 1 else {"name": "mixture", "members": members, "weights": weights}


@dataclass(frozen=True)
class EvaluationSpec:
    """How samples are judged.

    Attributes:
        num_samples: samples drawn.
        particles_per_run: particles that flow together; the rest in further runs.
        seed: of the samples and the tests.
    """

    section: ClassVar[str] = "evaluation."
    num_samples: int = 1436
    particles_per_run: int = 359
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _settings.check(self, counts=["num_samples", "particles_per_run"])
        _checks.count("evaluation.seed", self.seed, 0)


@dataclass(frozen=True)
class Recipe:
    """The fields that the recipe of every method has; a method's own class adds schedule, loss and sampling.

    Attributes:
        description: what it is and what it costs, in a line.
        system: the method, one of `mmdflow.methods.all_methods()`.
        data: the data set.
        features: the network.
        training: the training loop.
        evaluation: the evaluation.
    """

    description: str = ""
    system: str = ""
    data: DataSpec = field(default_factory=DataSpec)
    features: FeaturesSpec = field(default_factory=FeaturesSpec)
    training: LoopSpec = field(default_factory=LoopSpec)
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)

    @property
    def batch_size(self) -> int:
        """Events a step."""
        raise NotImplementedError

    @property
    def smallest_batch(self) -> int:
        """Events with which the loss of `smallest` can be tried out."""
        return 1

    def smallest(self) -> Recipe:
        """Return the recipe of the least loss of the same kind, to try its settings out."""
        return self


@dataclass(frozen=True)
class BatchRecipe(Recipe):
    """A recipe whose training draws `training.batch_size` events a step."""

    training: BatchTrainingSpec = field(default_factory=BatchTrainingSpec)

    @property
    def batch_size(self) -> int:
        """Events a step."""
        return self.training.batch_size
