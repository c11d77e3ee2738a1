"""Train the classifiers that come with the package: python tools/train_judges.py [DATA ...]

They judge the data sets digits, MNIST and Fashion-MNIST, and lie in src/mmdflow/metrics/judges. Other weights are another judge,
whose figures do not compare with those before: a file that is there is kept, and said to be the same or another. One thread.
"""

import sys

from mmdflow.evaluation.data_judges import REPORT, VALIDATION
from mmdflow.metrics import train_classifier
from mmdflow.metrics.classifier import SHIPPED, file_name, save
from mmdflow.recipe import DataSpec
from mmdflow.recipe.data import judged_data


def main(names: list[str]) -> None:
    """Train the judges of the named data sets."""
    for name in names:
        data = judged_data(DataSpec(name))
        parts = data.train, data.train_labels, data.test, data.test_labels
        for kind in (VALIDATION.architecture, REPORT.architecture):
            fresh = train_classifier(*parts, kind=kind, cache=False)
            file = SHIPPED / f"{file_name(kind, *parts, kind.steps_for(len(data.train)))}.safetensors"
            if file.exists():
                kept = train_classifier(*parts, kind=kind)
                found = "the same as" if kept.name == fresh.name else f"another than {kept.name} of"
            else:
                save(fresh, file)
                found = "written to"
            print(f"{name}: {fresh.name}, {found} {file.name}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["digits", "mnist", "fashion"])
