"""Settings of one-step generators: of the field that trains them, the spaces it lives in, and the sampler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mmdflow import _checks, _settings
from mmdflow.errors import InputError

#: Bandwidths by default, in units of the median distance between events (Deng et al. 2026).
BANDWIDTHS = (0.02, 0.05, 0.2)
#: Pairs of a distillation by default.
_PAIRS = 4096
#: Noise levels of features by default.
_LEVELS = [0.05, 0.2, 0.4]
#: Kernels that have no bandwidth.
_WITHOUT_WIDTH = ("riesz", "linear")


@dataclass(frozen=True)
class DriftingLossSettings:
    """The field that generated events follow, and the population of a step.

    Attributes:
        field: the normalisation of a drift (batch, mean-shift, sharp, none, sinkhorn), or mmd: the flow of the MMD. batch counts
            an event of the data as one generated event, as published; balanced-batch gives all data of a step the weight of all
            generated events.
        kernel: of the field; riesz and linear are for mmd. linear compares means alone, which is for features.
        bandwidths: of the kernel, each a field of its own, in units of the median distance between events of the data in the
            space; 0.02, 0.05 and 0.2 by default. riesz and linear have none.
        unit_rms: divide the field of every bandwidth, and then that of every space, by its root mean square. All count alike
            then; the steps do not get shorter where the field does.
        population: generated events a step; as many as training.batch_size by default.
        chunk_size: generated events whose gradient is taken at once: less memory, the same gradient; all by default.
        second: let a second batch of generated events push in place of the first one's self terms.
        landmarks: of mmd: centres of clusters that stand for all of the data, in place of a batch.
        classes: classes drawn a step, which makes the generator class-conditional; unconditional by default.
        max_guidance: the generator learns guidance from 1 to this, 1 for none; needs classes.
    """

    section: ClassVar[str] = "loss."
    field: Literal["batch", "balanced-batch", "mean-shift", "sharp", "none", "sinkhorn", "mmd"] = "batch"
    kernel: Literal["laplace", "gaussian", "matern-3/2", "riesz", "linear"] = "laplace"
    bandwidths: list[float] | None = None
    unit_rms: bool = True
    population: int | None = None
    chunk_size: int | None = None
    second: bool = False
    landmarks: int | None = None
    classes: int | None = None
    max_guidance: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields, and that they belong together."""
        _settings.check(self, counts=["chunk_size", "landmarks", "classes"])
        if self.population is not None:
            _checks.count("loss.population", self.population, 2)
        if self.bandwidths == []:
            raise InputError("loss.bandwidths = []: must hold at least one number")
        for bandwidth in self.bandwidths or []:
            _checks.positive("loss.bandwidths", bandwidth)
        if self.kernel in _WITHOUT_WIDTH and self.field != "mmd":
            raise InputError(
                f"loss.kernel = {self.kernel!r} with loss.field = {self.field!r}: is for loss.field = 'mmd'"
            )
        if self.kernel in _WITHOUT_WIDTH and self.bandwidths is not None:
            raise InputError(f"loss.bandwidths = {self.bandwidths} with loss.kernel = {self.kernel!r}: it has none")
        if self.max_guidance < 1:
            raise InputError(f"loss.max_guidance = {self.max_guidance:g}: must be a finite number >= 1")
        if self.max_guidance > 1 and self.classes is None:
            raise InputError(f"loss.max_guidance = {self.max_guidance:g} without loss.classes: guides to classes")
        if self.landmarks is not None:
            if self.field != "mmd":
                raise InputError(f"loss.landmarks = {self.landmarks} with loss.field = {self.field!r}: is for 'mmd'")
            if self.classes is not None:
                raise InputError(
                    f"loss.landmarks = {self.landmarks} with loss.classes: stand for the data of all classes"
                )

    @property
    def widths(self) -> list[float]:
        """The bandwidths, or the default ones; none for kernels without."""
        return [] if self.kernel in _WITHOUT_WIDTH else list(self.bandwidths or BANDWIDTHS)


@dataclass(frozen=True)
class SpacesSettings:
    """Where generated events are compared with data: as they are, and in the features of a trained DMMD.

    Attributes:
        pixels: the entries themselves.
        patches: side of a square of the image that is compared, too, at a place that a step draws; none by default.
        patch_weight: root mean square of what a patch asks of the events, over what pixels ask.
        texture: side of squares of the image, over each of which the strength of the finest detail is compared, too; none by
            default.
        texture_weight: root mean square of what that asks of the events, over what pixels ask.
        model: a trained DMMD: a shipped model's name, a run folder or a pipeline folder. Events are noised to a level t, and
            compared in its features phi(., t).
        untrained: give the model's network new weights: a control.
        recipe: of a DMMD, in place of a model: new features, trained in the same steps as the generator, by the DMMD's own loss
            on data and noised data alone.
        levels: noise levels of the model's features, in [0, 1].
        levels_per_step: how many of them a step uses, drawn at random; all by default.
        hidden: the hidden states of the model's network beside phi, each a space of its own.
        field: of the features: loss, that of the loss; means, the flow of the MMD of the DMMD's own kernel, linear in phi. The
            means of generated features go to those of the data: of 2000 events. Of a class, and of features that are trained
            beside, they are of the batch.
        weight: root mean square of what a map of features asks of the events, over what pixels ask; 1 for as much. By default
            velocities are made alike in every map, and what that asks of the events is the map's own matter.
    """

    section: ClassVar[str] = "spaces."
    pixels: bool = True
    patches: int | None = None
    patch_weight: float = 1.0
    texture: int | None = None
    texture_weight: float = 1.0
    model: str | None = None
    untrained: bool = False
    recipe: str | None = None
    levels: list[float] = field(default_factory=lambda: [*_LEVELS])
    levels_per_step: int | None = None
    hidden: bool = True
    field: Literal["loss", "means"] = "loss"
    weight: float | None = None

    def __post_init__(self) -> None:
        """Check the fields, and that there is a space."""
        counts, weights = ["levels_per_step", "patches", "texture"], ["weight", "patch_weight", "texture_weight"]
        _settings.check(self, counts=counts, positive=weights)
        if self.model is not None and self.recipe is not None:
            raise InputError(f"spaces.recipe = {self.recipe!r} with spaces.model: give one of them")
        if self.untrained and self.model is None:
            raise InputError("spaces.untrained = True without spaces.model: is for the network of a model")
        others = self.patches, self.texture, self.model, self.recipe
        if not self.pixels and all(other is None for other in others):
            raise InputError(
                "spaces.pixels = False without spaces.patches, spaces.texture, spaces.model or spaces.recipe: one of them must "
                "be there"
            )
        for space, name in (("patches", "patch_weight"), ("texture", "texture_weight")):
            if getattr(self, space) is None and (weight := getattr(self, name)) != 1.0:
                raise InputError(f"spaces.{name} = {weight:g} without spaces.{space}: is for {space}")
        if self.model is None and self.recipe is None:
            usual = {"field": "loss", "weight": None, "levels": _LEVELS, "levels_per_step": None, "hidden": True}
            for name, default in usual.items():
                if (value := getattr(self, name)) != default:
                    raise InputError(
                        f"spaces.{name} = {value!r} without spaces.model or spaces.recipe: is for features"
                    )
        if not self.levels:
            raise InputError("spaces.levels = []: must hold at least one noise level")
        for level in self.levels:
            _checks.interval("spaces.levels", level, 0.0, 1.0)
        if self.levels_per_step is not None and self.levels_per_step > len(self.levels):
            raise InputError(
                f"spaces.levels_per_step = {self.levels_per_step}: must be at most {len(self.levels)}, as many as levels"
            )


@dataclass(frozen=True)
class DistillationSettings:
    """A flow whose end points the generator regresses, in place of a field.

    Attributes:
        model: a trained model: a shipped model's name, a run folder or a pipeline folder.
        num_pairs: pairs of noise and end point, made when training begins.
    """

    section: ClassVar[str] = "distillation."
    model: str | None = None
    num_pairs: int = _PAIRS

    def __post_init__(self) -> None:
        """Check the number."""
        _settings.check(self, counts=["num_pairs"])
        if self.model is None and self.num_pairs != _PAIRS:
            raise InputError(f"distillation.num_pairs = {self.num_pairs} without distillation.model: is for its flow")


@dataclass(frozen=True)
class DriftingSettings:
    """How a one-step generator samples.

    Attributes:
        sampler: generator; there is one, an evaluation of the network.
        guidance: alpha of class-conditional generators that learned it, from 1 to their max_guidance.
        chunk_size: events that the network makes at once; a million entries by default.
    """

    section: ClassVar[str] = "sampling."
    sampler: Literal["generator"] = "generator"
    guidance: float = 1.0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        _settings.check(self, counts=["chunk_size"], positive=["guidance"])
