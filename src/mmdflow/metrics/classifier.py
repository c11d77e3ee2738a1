"""Small classifiers of an image data set, trained once and cached: their features stand in for Inception's on small data."""

from __future__ import annotations

import hashlib
import logging
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmdflow import _arrays, _checks
from mmdflow._arrays import of_any_kind
from mmdflow._files import cache_folder, new_file
from mmdflow._tensors import digest_of
from mmdflow.errors import InputError
from mmdflow.types import ArrayLike

log = logging.getLogger(__name__)

#: Images of a step of the training.
_BATCH = 64
#: Trained classifiers that come with the package, by the hash of what they were trained on.
SHIPPED = Path(__file__).parent / "judges"


class Classifier(nn.Module, ABC):
    """A classifier whose `features` are the activations before its last layer, `logits`.

    A subclass says its architecture in `_hidden`, and its training in the class variables.

    Attributes:
        accuracy: on the test images, once it is trained.
        version: raised whenever the architecture or its training changes, so that no old weights are read.
        file_stem: how the names of its cached files begin.
        title: how its name begins, with the version.
        architecture: it in a few words.
        seed: of weights, batches and dropout.
        peak_rate: the largest learning rate.
        num_steps: of the training, by default.
        most_passes: over the training images; fewer steps are taken where there are so few images.
    """

    version: ClassVar[int]
    file_stem: ClassVar[str]
    title: ClassVar[str]
    architecture: ClassVar[str]
    seed: ClassVar[int] = 0
    peak_rate: ClassVar[float] = 4e-3
    num_steps: ClassVar[int] = 1500
    most_passes: ClassVar[int | None] = None

    def __init__(self, event_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.accuracy = 0.0

    #: The last layer.
    logits: nn.Linear

    @classmethod
    def steps_for(cls, num_images: int) -> int:
        """Return the steps of the training on so many images."""
        passes = cls.num_steps if cls.most_passes is None else cls.most_passes * math.ceil(num_images / _BATCH)
        return min(cls.num_steps, passes)

    @property
    def name(self) -> str:
        """How reports name it."""
        says = f"{self.architecture}, {self.logits.in_features} features, test accuracy {self.accuracy:.4f}"
        return f"mmdflow {self.title} {digest_of(self.state_dict().values())} ({says})"

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Return the logits."""
        return self.logits(F.dropout(self._hidden(x), 0.3, self.training))

    @abstractmethod
    def _hidden(self, x: Tensor) -> Tensor:
        """Return the activations before the last layer."""

    @of_any_kind
    @torch.no_grad()
    def features(self, x: Float[Tensor, "n c h w"], *, block: int = 2048) -> Float[Tensor, "n K"]:
        """Return the activations before the last layer."""
        return torch.cat([self._hidden(rows) for rows in x.to(self.logits.weight.dtype).split(block)])

    @of_any_kind
    @torch.no_grad()
    def probabilities(self, features: Float[Tensor, "n K"]) -> Float[Tensor, "n classes"]:
        """Return class probabilities from features."""
        return self.logits(features.to(self.logits.weight.dtype)).softmax(1)


class ConvolutionalClassifier(Classifier):
    """Three convolutions with max pooling and two linear layers, 64 features: the validation judge.

    Args:
        event_shape: (channels, height, width).
        num_classes: number of classes.
    """

    version = 2
    file_stem = f"v{version}"
    title = f"classifier v{version}"
    architecture = "3 convolutions"
    most_passes = 66

    def __init__(self, event_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(event_shape, num_classes)
        channels, height, width = event_shape
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2) if min(height, width) >= 16 else nn.Identity(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(3),
            nn.Flatten(),
        )
        self.hidden = nn.Linear(64 * 9, 64)
        self.logits = nn.Linear(64, num_classes)

    def _hidden(self, x: Tensor) -> Tensor:
        return F.relu(self.hidden(self.convolutions(x)))


class ResidualClassifier(Classifier):
    """Residual blocks with GELU and group norm, average pooling and a global mean, 128 features: a report judge.

    It shares no layer, activation or pooling with `ConvolutionalClassifier`, so that what games the one need not game the other.

    Args:
        event_shape: (channels, height, width).
        num_classes: number of classes.
    """

    version = 1
    file_stem = f"residual-v{version}"
    title = f"report classifier v{version}"
    architecture = "residual"
    seed = 1
    most_passes = 25

    def __init__(self, event_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(event_shape, num_classes)
        channels, height, width = event_shape
        stride = 2 if min(height, width) >= 16 else 1
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, 32, 5, stride=stride, padding=2),
            _Block(32),
            nn.AvgPool2d(2),
            nn.Conv2d(32, 64, 1),
            _Block(64),
            nn.Conv2d(64, 128, 1),
            nn.GELU(),
        )
        self.logits = nn.Linear(128, num_classes)

    def _hidden(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.trunk(x)
        return hidden.mean((2, 3))


class _Block(nn.Module):
    """x + convolution(GELU(norm(convolution(GELU(norm(x)))))), with groups of 8 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.GroupNorm(channels // 8, channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(channels // 8, channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.residual(x)
        return out


AnyClassifier = TypeVar("AnyClassifier", bound=Classifier)


def train_classifier(
    train: Float[Tensor, "n c h w"] | ArrayLike,
    labels: Int[Tensor, " n"] | ArrayLike,
    test: Float[Tensor, "m c h w"] | ArrayLike,
    test_labels: Int[Tensor, " m"] | ArrayLike,
    *,
    kind: type[AnyClassifier] = ConvolutionalClassifier,  # type: ignore[assignment]
    num_steps: int | None = None,
    cache: bool = True,
) -> AnyClassifier:
    """Return a classifier of the data set: shipped, from the cache, or trained now (Adam, random shifts by a pixel) and cached.

    Those of digits, MNIST and Fashion-MNIST come with the package, so that all machines judge alike. The name holds a hash of the
    trained weights: figures of the same name can be compared. Trained anew, another machine may round otherwise.

    Args:
        train: training images in [-1, 1].
        labels: their class indices.
        test: held-out images, on which the accuracy is measured.
        test_labels: their class indices.
        kind: the architecture.
        num_steps: of the training, 64 images each; those of `kind.steps_for` by default.
        cache: take the one that is shipped, or read it from `MMDFLOW_CACHE` and write it there; else it is trained now.

    Raises:
        InputError: if images and labels do not belong together.
    """
    train = _checks.points("train", train).float()
    test = _checks.points("test", test, train.shape[1:]).float()
    labels, test_labels = (
        _arrays.tensor(name, value, floating=False)
        for name, value in (("labels", labels), ("test_labels", test_labels))
    )
    if train.ndim != 4 or len(labels) != len(train) or len(test_labels) != len(test):
        raise InputError(f"train {list(train.shape)} with {len(labels)} labels: must be [n, c, h, w] with n labels")
    steps = kind.steps_for(len(train)) if num_steps is None else _checks.count("num_steps", num_steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(kind.seed)
        model = kind(tuple(train.shape[1:]), int(labels.max()) + 1)
    name = file_name(kind, train, labels, test, test_labels, steps)
    file = cache_folder() / "classifiers" / f"{name}-torch-{torch.__version__}.safetensors"
    if not (cache and (_restore(model, SHIPPED / f"{name}.safetensors") or _restore(model, file))):
        log.warning(
            "a %s of these %d images is trained, %d steps, which takes minutes on a CPU core%s",
            *(kind.__name__, len(train), steps, f"; it is kept in {file.parent}" if cache else ""),
        )
        _fit(model, train, labels, steps)
        model.accuracy = float((model.probabilities(model.features(test)).argmax(1) == test_labels).double().mean())
        if cache:
            try:
                save(model, file)
            except InputError as error:  # a read-only cache costs time, not the result
                log.warning("the classifier is not cached: %s", error)
    return model.requires_grad_(False)


def _fit(model: Classifier, train: Tensor, labels: Tensor, num_steps: int) -> None:
    generator, threads = torch.Generator().manual_seed(model.seed), torch.get_num_threads()
    torch.set_num_threads(1)  # the same weights whatever the number of threads
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)  # of the dropout
        optimiser = torch.optim.Adam(model.parameters(), model.peak_rate / 2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, model.peak_rate, num_steps)
        model.train()
        for _ in range(num_steps):
            rows = torch.randint(len(train), (_BATCH,), generator=generator)
            dy, dx = torch.randint(-1, 2, (2,), generator=generator).tolist()
            loss = F.cross_entropy(model(train[rows].roll((dy, dx), (2, 3))), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    torch.set_num_threads(threads)
    model.eval()


def _restore(model: Classifier, file: Path) -> bool:
    if not file.exists():
        return False
    try:
        model.load_state_dict(load_file(file))
        with safe_open(file, framework="pt") as opened:
            model.accuracy = float((opened.metadata() or {})["accuracy"])
    except Exception as error:  # of damage there are many kinds
        log.warning("the kept classifier %s is damaged (%s): trained again", file, type(error).__name__)
        return False
    model.eval()
    return True


def file_name(
    kind: type[Classifier], train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, num_steps: int
) -> str:
    """Return the name of a trained classifier's file: its kind and version, and a hash of what it was trained on."""
    digest = hashlib.sha256()
    for array in (train, labels, test, test_labels):
        digest.update(repr(tuple(array.shape)).encode())
        digest.update(array.contiguous().cpu().numpy().tobytes())
    digest.update(str(num_steps).encode())
    return f"{kind.file_stem}-{digest.hexdigest()[:12]}"


def save(model: Classifier, file: Path) -> None:
    """Write a trained classifier, with its accuracy.

    Raises:
        InputError: where it cannot be written.
    """
    with new_file(file) as aside:
        save_file(model.state_dict(), aside, metadata={"accuracy": repr(model.accuracy)})
