"""Estimators with scikit-learn's interface: `fit`, `transform`, `set_output`, pipelines. They need scikit-learn.

* `MMDTransport` moves a sample onto a target, and new points along the same flow.
* `MMDQuantizer` stands a few weighted points for a sample.
* `KernelTwoSampleTest` tests new samples against a reference.
"""

try:
    import sklearn.utils.validation

    sklearn.utils.validation.validate_data  # noqa: B018
except (ImportError, AttributeError):
    raise ImportError("mmdflow's estimators need scikit-learn 1.6: pip install 'mmdflow[estimators]'") from None

from mmdflow.estimators.quantizer import MMDQuantizer, optimal_weights
from mmdflow.estimators.transport import MMDTransport
from mmdflow.estimators.two_sample import KernelTwoSampleTest, TestOutcome

__all__ = ["KernelTwoSampleTest", "MMDQuantizer", "MMDTransport", "TestOutcome", "optimal_weights"]
