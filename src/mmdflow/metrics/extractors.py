"""Features of images by any network: the standard Inception, timm's, or a module of one's own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._tensors import to_bytes
from mmdflow.errors import InputError

#: Where the weights of the standard Inception may lie; else torch-fidelity's own place is looked at.
INCEPTION_VARIABLE = "MMDFLOW_INCEPTION"
#: Kinds of networks by name; more may follow a colon.
NETWORKS = ("inception", "timm")
_INCEPTION_FILE, _INCEPTION_HASH = "weights-inception-2015-12-05-6726825d.pth", "6726825d"


@runtime_checkable
class FeatureExtractor(Protocol):
    """What scores are measured on."""

    @property
    def name(self) -> str:
        """What it is, with a hash of its weights: figures of the same name can be compared."""
        ...

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n K"]:
        """Return the features of images in [-1, 1]."""
        ...

    def probabilities(self, features: Float[Tensor, "n K"]) -> Float[Tensor, "n C"] | None:
        """Return class probabilities from features; None where there are no classes."""
        ...


@dataclass(frozen=True)
class ModuleExtractor:
    """Features by a module: images in [-1, 1] are brought to its channels, size and range first.

    Attributes:
        module: [n, c, h, w] -> [n, K], or [n, K, ...], whose mean over the rest is taken.
        label: its name; a hash of the weights is added.
        channels: 3 for grey images to be repeated, 1, or None to leave them as they are.
        size: side that images are resized to (bilinear, antialiased), or None to leave them.
        mean: of each channel, taken off images in [0, 1]; none for images in [-1, 1].
        std: of each channel.
        read_out: features -> logits, for probabilities.
        block: images at once.
    """

    module: nn.Module
    label: str
    channels: int | None = None
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    read_out: Callable[[Tensor], Tensor] | None = None
    block: int = 64

    @property
    def name(self) -> str:
        """The label, with a hash of the weights and what images are resized to."""
        digest = hashlib.sha256()
        for key, value in sorted(self.module.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        resized = "" if self.size is None else f", images resized to {self.size}"
        return f"{self.label} {digest.hexdigest()[:12]}{resized}"

    @torch.no_grad()
    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n K"]:
        """Return the features of images in [-1, 1], with the module in evaluation mode meanwhile.

        Raises:
            InputError: for images whose channels are not the module's.
        """
        device = next((p.device for p in self.module.parameters()), x.device)
        with _evaluation_mode(self.module):
            return torch.cat([self._block(rows.to(device)) for rows in x.split(self.block)])

    def probabilities(self, features: Float[Tensor, "n K"]) -> Float[Tensor, "n C"] | None:
        """Return class probabilities from features; None where there are no classes."""
        return None if self.read_out is None else self.read_out(features).softmax(1)

    def _block(self, x: Tensor) -> Tensor:
        if self.channels == 3 and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.channels is not None and x.shape[1] != self.channels:
            raise InputError(f"images have {x.shape[1]} channels: {self.label} needs {self.channels}")
        if self.size is not None and x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        if self.mean is not None and self.std is not None:
            mean, std = (x.new_tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
            x = ((x + 1) / 2 - mean) / std
        out: Tensor = self.module(x)
        return out.flatten(2).mean(2) if out.ndim > 2 else out


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module and its parts into evaluation mode, and each back into its own afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class _Inception(nn.Module):
    """The network of the reference implementation of FID, on bytes; torch-fidelity resizes as TensorFlow 1 did."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network(to_bytes(x))[0]
        return features


def inception(weights: str | Path | None = None) -> ModuleExtractor:
    """Return the standard Inception of FID and IS: the TensorFlow weights of 2015 in torch-fidelity's network, 2048 features.

    Args:
        weights: its file; by default what MMDFLOW_INCEPTION names, else torch-fidelity's place in torch's hub cache. Nothing is
            downloaded.

    Raises:
        ImportError: if torch-fidelity is not installed.
        InputError: if the weights are not there, or are others.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # type: ignore[import-not-found,unused-ignore]
            FeatureExtractorInceptionV3,
        )
    except ImportError as error:
        raise ImportError(
            "features = inception needs torch-fidelity: pip install torch-fidelity, or choose other features"
        ) from error
    default = Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION_FILE
    path = Path(weights or os.environ.get(INCEPTION_VARIABLE) or default)
    if not path.is_file():
        raise InputError(
            f"features = inception: no weights at {path}; put {_INCEPTION_FILE} (a release file of torch-fidelity) there, or "
            f"name its place by {INCEPTION_VARIABLE}"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(_INCEPTION_HASH):
        raise InputError(
            f"{path}: has SHA-256 {digest[:8]}...: must be {_INCEPTION_HASH}..., the weights that published FIDs are measured by"
        )
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    weight = network.fc.weight.detach().clone()
    return ModuleExtractor(
        _Inception(network),
        "Inception v3, 2015-12-05",
        channels=3,
        read_out=lambda features: features @ weight.to(features).T,
    )


def timm_extractor(model: str) -> ModuleExtractor:
    """Return the pooled features of a model of timm, with its own size and normalisation, such as DINOv2's.

    Raises:
        ImportError: if timm is not installed.
        InputError: if it has no such model.
    """
    try:
        import timm  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError(f"features = timm:{model} needs timm: pip install timm") from error
    try:
        network = timm.create_model(model, pretrained=True, num_classes=0)
    except RuntimeError as error:
        raise InputError(f"features = timm:{model}: no such model ({str(error).splitlines()[0]})") from error
    config = timm.data.resolve_data_config({}, model=network)
    return ModuleExtractor(
        network,
        f"timm {model}",
        channels=int(config["input_size"][0]),
        size=int(config["input_size"][1]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def feature_extractor(name: str, device: str = "cpu") -> FeatureExtractor:
    """Return the extractor of a name: "inception", "inception:FILE" or "timm:MODEL".

    Args:
        name: the name.
        device: where features are computed.

    Raises:
        ImportError: if a package that it needs is not installed.
        InputError: for another name.
    """
    kind, _, rest = name.partition(":")
    _checks.choice("features", kind, NETWORKS)
    if kind == "timm" and not rest:
        raise InputError("features = 'timm': must name a model, as timm:vit_small_patch14_dinov2.lvd142m")
    extractor = inception(rest or None) if kind == "inception" else timm_extractor(rest)
    extractor.module.to(device)
    return extractor
