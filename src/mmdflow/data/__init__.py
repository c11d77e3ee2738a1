"""Data sets: embedded digits, IDX files (MNIST, Fashion-MNIST), images, toy 2-D distributions, points from files and pictures."""

from mmdflow.data.datasets import DATASETS, DataSet, load
from mmdflow.data.idx import read_idx
from mmdflow.data.image_set import ImageSet
from mmdflow.data.image_sources import NAMED, images
from mmdflow.data.pictures import read_images, read_samples
from mmdflow.data.points import (
    POINT_FILES,
    READ_POINT_FILES,
    TABLES,
    check_points_file,
    density_points,
    is_points_file,
    read_points,
    save_points,
)
from mmdflow.data.rows import Rows, read_rows
from mmdflow.data.tables import HUB
from mmdflow.data.toy import TOYS, toy

__all__ = [
    "DATASETS",
    "HUB",
    "NAMED",
    "POINT_FILES",
    "READ_POINT_FILES",
    "TABLES",
    "TOYS",
    "DataSet",
    "ImageSet",
    "Rows",
    "check_points_file",
    "density_points",
    "images",
    "is_points_file",
    "load",
    "read_idx",
    "read_images",
    "read_points",
    "read_rows",
    "read_samples",
    "save_points",
    "toy",
]
