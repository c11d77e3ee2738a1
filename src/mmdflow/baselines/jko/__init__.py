"""JKO-Flow: a chain of transport maps, each one implicit step of a Wasserstein gradient flow (Fan et al. 2022)."""

from mmdflow.baselines.jko.chain import move, push, start_at_identity
from mmdflow.baselines.jko.forms import FORMS, VariationalForm
from mmdflow.baselines.jko.loss import JKOLoss, JKOTerms
from mmdflow.baselines.jko.pipeline import JKODefaults, JKOPipeline

__all__ = [
    "FORMS",
    "JKODefaults",
    "JKOLoss",
    "JKOPipeline",
    "JKOTerms",
    "VariationalForm",
    "move",
    "push",
    "start_at_identity",
]
