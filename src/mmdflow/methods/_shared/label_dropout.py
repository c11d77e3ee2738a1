"""Classes that are left out of training now and then, so that the network knows all data together, too."""

from __future__ import annotations

from mmdflow import _checks
from mmdflow.errors import InputError

#: Share of the classes that are left out, by default (Ho and Salimans 2022).
LABEL_DROPOUT = 0.1


def check_label_dropout(section: str, label_dropout: float, by_class: bool) -> None:
    """Raise InputError for a share that is none, or one that is asked for where no classes are told.

    Example:
        >>> check_label_dropout("loss.", 0.2, by_class=True)
    """
    _checks.interval(f"{section}label_dropout", label_dropout, 0.0, 1.0, "[)")
    if label_dropout != LABEL_DROPOUT and not by_class:
        raise InputError(f"{section}label_dropout = {label_dropout:g} without {section}by_class: leaves classes out")
