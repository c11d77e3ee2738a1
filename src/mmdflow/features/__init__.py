"""Noise-conditional feature networks phi(x, t): [n, *event], [n] -> [n, K]. Nothing else builds networks."""

from mmdflow.features.base import HEADS, FeatureNetwork
from mmdflow.features.conv import ConvFeatures
from mmdflow.features.decoder import DecoderFeatures
from mmdflow.features.mlp import MLPFeatures
from mmdflow.features.unet import UNetFeatures

#: Networks by the name that recipes and saved pipelines use.
NETWORKS: dict[str, type[FeatureNetwork]] = {
    "mlp": MLPFeatures,
    "conv": ConvFeatures,
    "decoder": DecoderFeatures,
    "unet": UNetFeatures,
}

__all__ = ["HEADS", "NETWORKS", "ConvFeatures", "DecoderFeatures", "FeatureNetwork", "MLPFeatures", "UNetFeatures"]
