"""A small classifier of an image data set, trained once and cached: its features stand in for Inception's on small data."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._files import cache_folder, new_file
from mmdflow.errors import InputError

log = logging.getLogger(__name__)

#: Raised whenever the architecture or its training changes, so that no old weights are read.
VERSION = 2


class Classifier(nn.Module):
    """Three convolutions and two linear layers; `features` are the 64 activations before the last one.

    Args:
        event_shape: (channels, height, width).
        num_classes: number of classes.
    """

    def __init__(self, event_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
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
        self.accuracy = 0.0

    @property
    def name(self) -> str:
        """How reports name it."""
        digest = hashlib.sha256(b"".join(v.cpu().numpy().tobytes() for v in self.state_dict().values())).hexdigest()[
            :12
        ]
        return (
            f"mmdflow classifier v{VERSION} {digest} (3 convolutions, 64 features, test accuracy {self.accuracy:.4f})"
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Return the logits."""
        return self.logits(F.dropout(self._hidden(x), 0.3, self.training))

    def _hidden(self, x: Tensor) -> Tensor:
        return F.relu(self.hidden(self.convolutions(x)))

    @torch.no_grad()
    def features(self, x: Float[Tensor, "n c h w"], *, block: int = 2048) -> Float[Tensor, "n 64"]:
        """Return the activations before the last layer."""
        return torch.cat([self._hidden(rows) for rows in x.split(block)])

    @torch.no_grad()
    def probabilities(self, features: Float[Tensor, "n 64"]) -> Float[Tensor, "n classes"]:
        """Return class probabilities from features."""
        return self.logits(features).softmax(1)


def train_classifier(
    train: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    test: Float[Tensor, "m c h w"],
    test_labels: Int[Tensor, " m"],
    *,
    num_steps: int = 1500,
    cache: bool = True,
) -> Classifier:
    """Return the data set's classifier: from the cache, or trained now (Adam, seed 0, random shifts by a pixel) and cached.

    The name holds a hash of the trained weights: figures of the same name can be compared. Other machines may round otherwise.

    Raises:
        InputError: if images and labels do not belong together.
    """
    _checks.points("train", train)
    _checks.points("test", test, train.shape[1:])
    if train.ndim != 4 or len(labels) != len(train) or len(test_labels) != len(test):
        raise InputError(f"train {list(train.shape)} with {len(labels)} labels: must be [n, c, h, w] with n labels")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(tuple(train.shape[1:]), int(labels.max()) + 1)
    key = _key(train, labels, test, test_labels, num_steps)
    file = cache_folder() / "classifiers" / f"v{VERSION}-{key}.safetensors"
    if not (cache and _restore(model, file)):
        _fit(model, train, labels, num_steps)
        model.accuracy = float((model.probabilities(model.features(test)).argmax(1) == test_labels).double().mean())
        if cache:
            try:
                with new_file(file) as aside:
                    save_file(model.state_dict(), aside, metadata={"accuracy": repr(model.accuracy)})
            except InputError as error:  # a read-only cache costs time, not the result
                log.warning("the classifier is not cached: %s", error)
    return model.requires_grad_(False)


def _fit(model: Classifier, train: Tensor, labels: Tensor, num_steps: int) -> None:
    generator, threads = torch.Generator().manual_seed(0), torch.get_num_threads()
    torch.set_num_threads(1)  # the same weights whatever the number of threads
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the dropout
        optimiser = torch.optim.Adam(model.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, num_steps)
        model.train()
        for _ in range(num_steps):
            rows = torch.randint(len(train), (64,), generator=generator)
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
    except (SafetensorError, RuntimeError, KeyError, OSError, ValueError) as error:
        log.warning("cached classifier %s is damaged (%s): trained again", file, type(error).__name__)
        return False
    model.eval()
    return True


def _key(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, num_steps: int) -> str:
    digest = hashlib.sha256()
    for array in (train, labels, test, test_labels):
        digest.update(repr(tuple(array.shape)).encode())
        digest.update(array.contiguous().cpu().numpy().tobytes())
    digest.update(f"{num_steps} {torch.__version__}".encode())
    return digest.hexdigest()[:12]
