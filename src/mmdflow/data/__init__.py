"""Data sets: embedded digits, IDX files (MNIST, Fashion-MNIST), toy 2-D distributions."""

from mmdflow.data.datasets import DATASETS, DataSet, load
from mmdflow.data.idx import read_idx
from mmdflow.data.toy import TOYS, toy

__all__ = ["DATASETS", "TOYS", "DataSet", "load", "read_idx", "toy"]
