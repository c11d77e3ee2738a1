"""A part of the campaign of damaged files, which `make faults` runs whole."""

import warnings

import pytest

from tests.faults.readers import READERS, campaign


@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_refused_in_one_line_or_read(kind, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = campaign(kind, 12 if kind in ("weights", "means") else 60, tmp_path)
    assert found["refused"] > 0
